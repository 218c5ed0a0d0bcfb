"""A study that is told to stop, and one whose own process is killed: the workers save and leave."""

import os
import pathlib
import signal
import subprocess
import time

import pytest

from mtl_t5x.jobs import pool
from mtl_t5x.runtime import exit_codes
from tests import study_test
from tests.jobs import fake_runs

SEEDS = f"--config.seeds=({fake_runs.WAITS},)"
TASKS = "--config.tasks=('cola', 'rte')"


@pytest.fixture
def study(tmp_path):
    """Two workers of a study, each at a run that lasts until it is told to stop."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two workers need two cores")
    process = begin(tmp_path, start_new_session=True)
    until(lambda: len(fake_runs.notes(tmp_path, "waits")) == 2, process)
    yield process
    process.kill()
    process.communicate()


def begin(workdir: pathlib.Path, seeds: str = SEEDS, **settings) -> subprocess.Popen:
    """As from a terminal: nohup would leave its processes deaf to the terminal's end."""

    def hear():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    flags = (f"--workdir={workdir}", TASKS, seeds, "--jobs=2")
    return study_test.start(*flags, preexec_fn=hear, **settings)


def until(holds, process: subprocess.Popen | None = None) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def gone(process: int) -> bool:
    """Whether it has ended; who should wait for an orphan may not."""
    stat = pathlib.Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def saved(workdir: pathlib.Path) -> int:
    return len(list(workdir.glob("runs/*/saved")))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["the parent", "all"])
def test_all_save_when_the_study_is_told_to_stop(send, number, study, tmp_path):
    send(study.pid, number)
    out, err = study.communicate(timeout=60)
    assert study.returncode == exit_codes.TOLD_TO_STOP, err
    assert "Traceback" not in err and "told to stop" in out
    assert saved(tmp_path) == 2 and len(fake_runs.notes(tmp_path, "begun")) == 2
    assert not list(tmp_path.glob("runs/*/error.txt"))
    assert all(gone(note["process"]) for note in fake_runs.notes(tmp_path, "begun"))


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    """Though the runs still save."""
    seeds = f"--config.seeds=({fake_runs.SAVES_LONG},)"
    process = begin(tmp_path, seeds, start_new_session=True)
    until(lambda: fake_runs.notes(tmp_path, "waits"), process)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(1.5)
    out, err = process.communicate(timeout=30)
    assert process.returncode == exit_codes.INTERRUPTED, err
    assert "Traceback" not in err and "waiting until these have saved" in out
    assert all(gone(note["process"]) for note in fake_runs.notes(tmp_path, "begun"))


def test_one_worker_told_to_stop_stops_all(study, tmp_path):
    os.kill(fake_runs.notes(tmp_path, "waits")[0]["process"], signal.SIGTERM)
    assert study.wait(60) == exit_codes.TOLD_TO_STOP
    assert saved(tmp_path) == 2 and len(fake_runs.notes(tmp_path, "begun")) == 2


@pytest.mark.parametrize(
    ("send", "number"),
    [(os.kill, signal.SIGKILL), (os.killpg, signal.SIGHUP)],
    ids=["killed", "closed terminal"],
)
def test_workers_save_and_leave_when_their_parent_is_gone(send, number, study, tmp_path):
    send(study.pid, number)
    study.wait(60)
    workers = [note["process"] for note in fake_runs.notes(tmp_path, "waits")]
    until(lambda: all(map(gone, workers)))
    assert saved(tmp_path) == 2


def test_a_study_started_again_waits_for_orphans(study, tmp_path):
    """One takes long to save: who ran beside it would find nothing saved, and begin anew."""
    orphan = fake_runs.notes(tmp_path, "waits")[0]
    os.kill(orphan["process"], signal.SIGSTOP)
    study.kill()
    study.wait()
    process = begin(tmp_path)
    log = tmp_path / "runs" / orphan["run"] / pool.LOG
    until(lambda: "waiting until it leaves" in log.read_text(), process)
    os.kill(orphan["process"], signal.SIGCONT)
    # The first two go on from what is saved and finish; the third one waits.
    until(lambda: len(fake_runs.notes(tmp_path, "waits")) == 3, process)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == exit_codes.TOLD_TO_STOP
    process = begin(tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == 0
    finished = [note["run"] for note in fake_runs.notes(tmp_path, "finished")]
    assert len(finished) == len(set(finished)) == 3, "nothing finished is run again"
