"""SIGTERM and SIGKILL, against the program as a user starts it."""

import gc
import json
import signal
import subprocess
import sys
import time

import pytest

from mtl_t5x.runtime import exit_codes, interruption
from tests.faults import kill_and_resume as faults


def test_a_signal_is_kept_until_it_is_asked_for():
    before = signal.getsignal(signal.SIGTERM)
    with interruption.Watch() as watch:
        assert not watch.requested(1)
        signal.raise_signal(signal.SIGTERM)
        assert watch.requested(2)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_breaks_off_what_is_done_again():
    with interruption.Watch() as watch:
        with pytest.raises(interruption.Terminated), watch.breaking_off():
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("it went on")
        with pytest.raises(interruption.Terminated), watch.breaking_off():
            raise AssertionError("it was told before, and began")
        assert watch.requested(1)
        signal.raise_signal(signal.SIGTERM)  # which only breaks off what it comes in


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_comes_where_exceptions_are_dropped(monkeypatch):
    """What is raised while the garbage collector calls back, as it does JAX, is only printed."""
    monkeypatch.setattr(interruption, "AGAIN", 0.1)
    told = []

    def call_back(phase, info):
        if not told:
            told.append(phase)
            signal.raise_signal(signal.SIGTERM)

    with interruption.Watch() as watch:
        with pytest.raises(interruption.Terminated), watch.breaking_off():
            gc.callbacks.append(call_back)
            try:
                gc.collect()
            finally:
                gc.callbacks.remove(call_back)
            assert told, "and nothing was raised here"
            time.sleep(10)
            raise AssertionError("it went on")
        time.sleep(0.3)  # what was broken off isn't told again


@pytest.mark.slow
def test_sigterm_saves_and_exits_with_its_own_code(tmp_path):
    """Between two periodic saves; started again the run goes on from there and ends."""
    steps = 16
    process = faults.start(tmp_path, steps)
    assert faults.wait_for_steps(process, tmp_path, 12)
    process.terminate()
    assert process.wait(300) == exit_codes.TOLD_TO_STOP
    saved = faults.newest_checkpoint(tmp_path)
    assert saved == faults.logged_steps(tmp_path) >= 12
    assert not (tmp_path / "results.json").exists()
    output = (tmp_path / "output.txt").read_text()
    assert f"told to stop: saved after step {saved}" in output
    assert faults.start(tmp_path, steps).wait() == 0
    assert f"going on from step {saved}" in (tmp_path / "output.txt").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["step"] == steps


@pytest.mark.slow
def test_killed_runs_end_as_undisturbed_ones(tmp_path):
    command = [sys.executable, faults.__file__, "--kills=3", f"--folder={tmp_path}"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    last = json.loads(ended.stdout.splitlines()[-1])
    assert last["kills"] == last["restarts"] == 3 and last["bit_equal"]
    assert last["lost_steps_max"] <= last["save_period"] and last["damaged"] == 0


WATCHED = """
import hashlib, threading, time
from mtl_t5x.runtime import interruption
with interruption.Watch() as watch:
    # Told from beside what may call no handler, once that has begun.
    threading.Timer(0.5, print, ["watching"], {{"flush": True}}).start()
    while not watch.requested(1):
        {work}
    print("saved", flush=True)
raise interruption.Terminated
"""


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_saves_and_a_second_one_leaves_at_once(times):
    """The second is heard also where no handler is called, as in a compiler."""
    work = "time.sleep(0.05)" if times == 1 else "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"
    command = [sys.executable, "-c", WATCHED.format(work=work)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"watching\n"
        for _ in range(times):
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
        code = process.wait(60)
        said, told = process.stdout.read(), process.stderr.read()
    if times == 1:
        assert code == exit_codes.TOLD_TO_STOP and said == b"saved\n"
    else:
        assert code == exit_codes.INTERRUPTED and not said
    assert b"Ctrl-C again leaves at once" in told and b"Traceback" not in told
