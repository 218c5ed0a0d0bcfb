"""A folder has one holder at a time, and none that is dead for long: on a disk and as gs://."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from mtl_t5x.storage import lock
from tests.storage import fake_gcs

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Holds a folder until its input ends.
HOLD = """
import sys
from mtl_t5x.storage import lock
lock.BEAT = 0.2
with lock.hold(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    with fake_gcs.serve(tmp_path_factory.mktemp("certificate")) as storage:
        yield storage
    assert not storage.unanswered


@pytest.fixture(params=["disk", "gs"])
def place(request, tmp_path, monkeypatch):
    """A folder, and the environment of a process that holds it."""
    monkeypatch.setattr(lock, "BEAT", 0.2)
    monkeypatch.setattr(lock, "DEAD_AFTER", 1.5)
    monkeypatch.setattr(lock, "_LOOKS_AFAR", 0.1)
    if request.param == "disk":
        return str(tmp_path), {}
    storage = request.getfixturevalue("storage")
    for name, value in storage.environment.items():
        monkeypatch.setenv(name, value)
    return f"gs://bucket/{tmp_path.name}", storage.environment


def held(folder: str, environment: dict, code: str = HOLD) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", code, folder],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_live_process_is_named_and_its_end_frees_the_folder(place):
    folder, environment = place
    with held(folder, environment) as process:
        words = rf"is taken: process {process.pid} on \S+ has been at work in it since 20\d\d-"
        with pytest.raises(lock.TakenError, match=words), lock.hold(folder):
            pass
        process.stdin.close()
        process.wait()
    with lock.hold(folder), lock.hold(folder):  # once more within is nothing
        pass


def test_a_killed_process_is_seen_at_once(place):
    folder, environment = place
    with held(folder, environment) as process:
        process.send_signal(signal.SIGKILL)
    begun = time.monotonic()
    with lock.hold(folder):
        assert time.monotonic() - begun < 1


def elsewhere(monkeypatch):
    """As seen from another host, that can't look at the holder's processes."""
    monkeypatch.setattr(lock, "_machine", lambda: "another start of another host")


def test_another_hosts_lock_is_taken_over_when_it_says_nothing_more(place, monkeypatch):
    folder, environment = place
    elsewhere(monkeypatch)
    with held(folder, environment) as process:
        with pytest.raises(lock.TakenError), lock.hold(folder):
            pass
        process.send_signal(signal.SIGKILL)
    begun = time.monotonic()
    with lock.hold(folder):
        assert lock.DEAD_AFTER <= time.monotonic() - begun < lock.DEAD_AFTER + 5


def test_who_was_taken_for_dead_leaves(place, monkeypatch):
    """It was stopped for so long; when it goes on, the folder is another's."""
    folder, environment = place
    elsewhere(monkeypatch)
    with held(folder, environment) as process:
        process.send_signal(signal.SIGSTOP)
        with lock.hold(folder):
            process.send_signal(signal.SIGCONT)
            assert process.wait(20) == 1


def test_it_is_waited_for(place):
    folder, environment = place
    with held(folder, environment) as process:
        threading.Timer(1.0, process.stdin.close).start()
        with lock.hold(folder, wait=30.0):
            assert process.wait(5) == 0


def test_one_of_many_gets_it(tmp_path, monkeypatch):
    """All find a dead holder's lock, and none takes away what another has just taken."""
    monkeypatch.setattr(lock, "_looks", 0.0, raising=False)
    dead = dataclasses.replace(lock.Holder.this(), process=2**22 + 1, token="dead")
    (tmp_path / lock.FILE).write_bytes(dead.text())
    locks = [lock._Lock(str(tmp_path)) for _ in range(16)]
    got = []

    def take(one):
        try:
            one.take(0.0)
            got.append(one)
        except lock.TakenError:
            pass

    threads = [threading.Thread(target=take, args=(one,)) for one in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    there = json.loads((tmp_path / lock.FILE).read_bytes())
    assert there["token"] == got[0]._mine.token
    got[0].release()
    assert not (tmp_path / lock.FILE).exists()
