"""Several processes that train together, started as a user does, over loopback on the CPU."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from mtl_t5x.runtime import exit_codes
from mtl_t5x.storage import checkpoints, unfinished
from tests.faults import kill_and_resume as faults
from tests.storage import checkpoints_test

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).resolve().parents[2]

STEPS = 16
BOTH = (0, 1)
TWO_DEVICES = "--xla_force_host_platform_device_count=2"
# How one that is lost is named; JAX's coordination service numbers the processes as we do.
NAMES = {
    0: "process 0 of 2, the coordinator, has not answered|the leader task was preempted/died",
    1: r"heartbeats\):\s1\b|Task 1 heartbeat timeout",
}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_two(
    folder: pathlib.Path, *flags: str, of_second: tuple[str, ...] = ()
) -> list[subprocess.Popen]:
    """Two processes with the same flags; the second one may have more."""
    address = f"--coordinator_address=127.0.0.1:{free_port()}"
    flags = (address, "--num_processes=2", *flags)
    own = (("--process_id=0",), ("--process_id=1", *of_second))
    return [faults.start(folder, STEPS, *flags, *own[i], messages=f"output_{i}.txt") for i in BOTH]


def output(folder: pathlib.Path, process: int) -> str:
    return (folder / f"output_{process}.txt").read_text()


def run_two(folder: pathlib.Path, *flags: str) -> None:
    codes = [process.wait(900) for process in start_two(folder, *flags)]
    assert codes == [0, 0], [output(folder, i)[-3000:] for i in BOTH]


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> pathlib.Path:
    """The folder of a run of two processes with a device each, that nothing disturbed."""
    folder = tmp_path_factory.mktemp("together")
    run_two(folder)
    return folder


def assert_equal_to_rounding(one: pathlib.Path, two: pathlib.Path) -> None:
    """Whole runs: examples, predictions and results alike, numbers within 1e-5."""
    ends = zip(*(faults.end_state(folder, STEPS) for folder in (one, two)), strict=True)
    arrays, metrics, examples, results = ends
    assert examples[0] == examples[1]
    assert results[0] == results[1]
    assert len(metrics[0]) == len(metrics[1]) == STEPS
    for a, b in zip(*metrics, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            # What is not a number, as a running norm still lost in noise, is logged as null.
            x, y = (np.asarray(line[name], float) for line in (a, b))
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7, err_msg=name)
    assert arrays[0].keys() == arrays[1].keys()
    for name in arrays[0]:
        a, b = (np.frombuffer(part[name], np.float32) for part in arrays)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7, err_msg=name)
    predictions = sorted(path.relative_to(one) for path in one.glob("inference_eval/**/*.jsonl"))
    assert len(predictions) >= 4
    for path in predictions:
        assert (one / path).read_text() == (two / path).read_text()


def test_two_processes_are_equal_to_one(together, tmp_path):
    """Each of the two has a task. The one process has two devices, which exchange the same."""
    assert faults.start(tmp_path, STEPS, XLA_FLAGS=TWO_DEVICES).wait(900) == 0
    assert_equal_to_rounding(tmp_path, together)
    assert len(list(together.glob("events.out.tfevents*"))) == 1, "the first process writes"


def test_any_number_of_processes_evaluates_a_run_again(together, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(together, folder)
    before = json.loads((folder / "results.json").read_text())
    run_two(folder, "--run_mode=eval")
    assert json.loads((folder / "results.json").read_text()) == before
    assert faults.start(folder, STEPS, "--run_mode=eval").wait(900) == 0
    assert json.loads((folder / "results.json").read_text()) == before


def test_an_evaluation_of_two_processes_that_is_killed_goes_on(together, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(together, folder)
    record = folder / f"inference_eval_{STEPS}_greedy" / unfinished.FILE
    killed = start_two(folder, "--run_mode=eval")
    while not record.exists() and killed[0].poll() is None:
        time.sleep(0.01)
    for process in killed:
        process.kill()
        process.wait()
    assert record.exists() and not (folder / f"results_{STEPS}_greedy.json").exists()
    run_two(folder, "--run_mode=eval")
    for process in BOTH:
        assert "scored on validation before this was broken off: cola" in output(folder, process)
    found = json.loads((folder / f"results_{STEPS}_greedy.json").read_text())
    before = json.loads((folder / "results.json").read_text())
    assert {key: found[key] for key in ("dev", "test")} == {
        key: before[key] for key in ("dev", "test")
    }
    assert not record.exists()


def test_two_processes_that_share_a_tasks_examples_and_the_parameters(tmp_path):
    names = ["glue_cola", "glue_rte", "glue_stsb"]  # three can't be shared by two
    flags = (
        f"--gin.MIXTURE_OR_TASK_NAME={[f'{name}.default.semantic' for name in names]}",
        "--gin.sharding.Mesh.fsdp=True",
        "--gin.measure.InTraining.fixed_point=@measure.Settings()",
        "--gin.measure.Settings.period=8",
        "--gin.measure.Settings.examples=32",
        "--gin.EVAL_PERIOD=8",
    )
    one, two = tmp_path / "one", tmp_path / "two"
    assert faults.start(one, STEPS, *flags, XLA_FLAGS=TWO_DEVICES).wait(900) == 0
    run_two(two, *flags)
    assert_equal_to_rounding(one, two)
    assert (one / "conflict_8.json").exists() and (two / "conflict_8.json").exists()


def test_slurm_tells_each_process_which_it_is(tmp_path):
    environment = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS": "2",
        "JAX_COORDINATOR_PORT": str(free_port()),
    }
    processes = [
        faults.start(
            tmp_path, 4, messages=f"output_{i}.txt",
            SLURM_PROCID=str(i), SLURM_LOCALID=str(i), **environment,
        )
        for i in BOTH
    ]  # fmt: skip
    assert [process.wait(900) for process in processes] == [0, 0], output(tmp_path, 0)[-3000:]
    assert all(f"process {i} of 2" in output(tmp_path, i) for i in BOTH)


def test_sigterm_to_one_stops_both_after_the_same_step(together, tmp_path):
    processes = start_two(tmp_path)
    assert faults.wait_for_steps(processes[0], tmp_path, 4), output(tmp_path, 0)[-3000:]
    processes[1].terminate()
    assert [process.wait(300) for process in processes] == [exit_codes.TOLD_TO_STOP] * 2
    saved = faults.newest_checkpoint(tmp_path)
    assert all(f"told to stop: saved after step {saved}" in output(tmp_path, i) for i in BOTH)
    run_two(tmp_path)
    assert faults.end_state(together, STEPS) == faults.end_state(tmp_path, STEPS)


def test_an_error_in_one_process_ends_both(tmp_path):
    processes = start_two(tmp_path, of_second=("--gin.MICROBATCHES=3",))
    assert all(process.wait(600) != 0 for process in processes)
    assert "MICROBATCHES = 3 doesn't divide" in output(tmp_path, 1)
    # Of the loss of its peer the other hears first from JAX, which dumps the stacks and aborts, or
    # from the exchange that it waits in, or that is not even set up: settings are refused at once.
    assert re.search(r"most recent call first|Gloo [\w ]+ failed", output(tmp_path, 0))


@pytest.mark.parametrize("lost", BOTH)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_lost_process_is_named_and_the_restart_is_bit_equal(together, lost, how, tmp_path):
    processes = start_two(tmp_path)
    assert faults.wait_for_steps(processes[0], tmp_path, 12), output(tmp_path, 0)[-3000:]
    processes[lost].send_signal(how)
    begun = time.monotonic()
    left = 1 - lost
    try:
        assert processes[left].wait(60) != 0
        print(f"{how.name} of process {lost}: left after {time.monotonic() - begun:.1f} s")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    said = output(tmp_path, left)
    assert re.search(NAMES[lost], said)
    assert "most recent call first" in said, "the stacks"
    run_two(tmp_path)
    assert faults.end_state(together, STEPS) == faults.end_state(tmp_path, STEPS)


STALE_VIEW = """
import sys
from mtl_t5x.parallel import distributed
from mtl_t5x.storage import checkpoints, unfinished
from tests.storage import checkpoints_test

address, process, folder = sys.argv[1:]
distributed.start(address, 2, int(process))
with checkpoints.manager(folder) as manager:
    state = checkpoints.restore_latest(manager, checkpoints_test.a_state(0.0))
print("restored", int(state.step))
"""


def test_processes_that_see_different_checkpoints_restore_the_same(tmp_path):
    """To the second one the newest looks damaged: they used to wait for each other for ever."""
    one, two = tmp_path / "0", tmp_path / "1"
    with checkpoints.manager(str(one)) as manager:
        for step in (5, 10):
            checkpoints.save(manager, checkpoints_test.a_state(float(step), step))
    shutil.copytree(one, two)
    (two / "checkpoint_10" / "manifest.json").write_text("{}")
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", STALE_VIEW, address, str(i), str(tmp_path / str(i))],
            cwd=ROOT, env={**os.environ, "JAX_PLATFORMS": "cpu"}, text=True,
            stdout=subprocess.PIPE,
        )
        for i in BOTH
    ]  # fmt: skip
    printed = [process.communicate(timeout=900)[0].splitlines()[-1] for process in processes]
    assert printed == ["restored 10"] * 2
    assert (two / "checkpoint_10").exists()
