"""A run of a study in this process: never two at a time in one folder."""

import pathlib
import subprocess
import sys
import threading

import pytest

from mtl_t5x.jobs import job as one_run
from mtl_t5x.storage import lock

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOLD = """
import sys
from mtl_t5x.storage import lock
with lock.hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
RESULTS = '{"step": 3, "test": {}}'


@pytest.fixture
def item(tmp_path):
    (tmp_path / "a").mkdir()
    return one_run.Job("a", str(tmp_path / "a"), (), (), 3, 1)


@pytest.fixture
def other(item):
    """Another process, that is at work in the run's folder."""
    command = [sys.executable, "-c", HOLD, item.folder]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process


def runs(item, begun):
    def run(gin_files, gin_bindings):
        begun.append(item.name)
        with open(f"{item.folder}/results.json", "w") as file:
            file.write(RESULTS)

    return run


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_waits_for_the_process_in_its_folder(finished, item, other, caplog):
    begun, answers = [], []

    def carry_out():
        answers.append(one_run.carry_out(item, runs(item, begun)))

    thread = threading.Thread(target=carry_out)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive() and not begun
    if finished:
        with open(f"{item.folder}/results.json", "w") as file:
            file.write(RESULTS)
    other.stdin.close()
    thread.join(30)
    assert answers == [None]
    assert begun == ([] if finished else ["a"]), "what the other has finished isn't run again"
    assert "waiting until it leaves" in caplog.text


def test_a_process_that_stays_is_told(item, other, monkeypatch):
    monkeypatch.setattr(one_run, "PATIENCE", 0.2)
    begun = []
    why = one_run.carry_out(item, runs(item, begun))
    assert f"{item.folder} is taken: process {other.pid} on " in why and not begun


def test_the_folder_is_free_again(item):
    begun = []
    assert one_run.carry_out(item, runs(item, begun)) is None
    with lock.hold(item.folder):
        assert begun == ["a"]


def test_which_folders_are_object_storages():
    assert one_run.is_remote("gs://bucket/study") and not one_run.is_remote("/tmp/gs:/study")
