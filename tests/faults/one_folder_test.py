"""One folder, two processes of the program, as users start it: one trains, one says why not."""

import signal
import time

import pytest

from tests.faults import kill_and_resume as faults

pytestmark = pytest.mark.slow

STEPS = 12


def test_of_two_at_once_one_trains_as_undisturbed(tmp_path):
    both = [faults.start(tmp_path / "run", STEPS, messages=f"output_{i}.txt") for i in (0, 1)]
    codes = [process.wait(900) for process in both]
    said = [(tmp_path / "run" / f"output_{i}.txt").read_text() for i in (0, 1)]
    assert sorted(codes) == [0, 1], said
    trained, refused = both[codes.index(0)], said[codes.index(1)]
    last = refused.strip().splitlines()[-1]
    assert "mtl_t5x.main stopped: " in last and f"is taken: process {trained.pid} on " in last
    assert "Traceback" not in refused
    assert faults.start(tmp_path / "alone", STEPS).wait(900) == 0
    ends = [faults.end_state(tmp_path / name, STEPS) for name in ("run", "alone")]
    assert ends[0] == ends[1]
    assert not (tmp_path / "run" / ".lock").exists()


def test_after_a_kill_the_folder_opens_again(tmp_path):
    process = faults.start(tmp_path / "run", 10_000)
    assert faults.wait_for_steps(process, tmp_path / "run", 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "run" / ".lock").exists()
    again = faults.start(tmp_path / "run", 10_000, messages="again.txt")
    begun = time.monotonic()
    # It has the folder when the lock is its own, which it is before anything is read.
    while str(again.pid) not in (tmp_path / "run" / ".lock").read_text():
        assert again.poll() is None and time.monotonic() - begun < 60
        time.sleep(0.1)
    output = (tmp_path / "run" / "again.txt").read_text()
    assert "whether it lives" not in output, "of this very host's process that is seen at once"
    again.kill()
    again.wait()
