"""What hangs is named: each stage of a run, in a process of its own."""

import pathlib
import signal
import subprocess
import sys

import pytest

from mtl_t5x.runtime import exit_codes

ROOT = pathlib.Path(__file__).resolve().parents[2]
ALONE = """
import time
from mtl_t5x.runtime import watchdog

def this_hangs():
    time.sleep(600)

limits = watchdog.Limits(data=0.5, step=0.1)
with limits.stage("data"):
    time.sleep(0.001)
with watchdog.Limits(step=0).stage("step"):
    time.sleep(0.2)
print("so far so good", flush=True)
with limits.stage("step"):
    this_hangs()
"""
HOLDING_THE_LOCK = """
import ctypes
from mtl_t5x.runtime import watchdog

def this_hangs():
    ctypes.PyDLL(None).sleep(600)  # as any C code that doesn't let go of the interpreter

watchdog.GRACE = 0.5
with watchdog.Limits(data=0.1).stage("data"):
    this_hangs()
"""
# In the run itself: the module, the function of it that hangs, and after how many good calls, or
# for an iterator after how many of its values.
HANGS = {
    "start": ("data.counting", "check", 0),
    "restore": ("storage.checkpoints", "restore_latest", 0),
    "data": ("data.batching", "train_batches", 2),
    "compile": ("step", "train_step", 0),
    "step": ("step", "train_step", 2),
    "save": ("storage.checkpoints", "save", 0),
    "measurement": ("measure", "measure_tasks", 0),
    "evaluation": ("evaluate", "evaluate", 0),
}
IN_A_RUN = """
import importlib, sys, time
from mtl_t5x import main

module, name, good, *bindings = sys.argv[1:]
module = importlib.import_module(f"mtl_t5x.{module}")
real, calls = getattr(module, name), 0

def this_hangs():
    time.sleep(600)

def function(*args, **kwargs):
    global calls
    if calls == int(good):
        this_hangs()
    calls += 1
    return real(*args, **kwargs)

def iterator(*args, **kwargs):
    for number, value in enumerate(real(*args, **kwargs)):
        if number == int(good):
            this_hangs()
        yield value

setattr(module, name, iterator if name == "train_batches" else function)
main.run(["gin/examples/mini_cola_text_to_text.gin"], bindings)
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def assert_found(ended: subprocess.CompletedProcess, stage: str) -> None:
    assert ended.returncode == exit_codes.HANGS, ended.stderr
    assert f"process 0 of 1 hangs: stage '{stage}'" in ended.stderr
    message, _, stacks = ended.stderr.partition("The stacks of all threads:")
    assert f"watchdog.Limits.{stage}" in message and "in this_hangs" in stacks


def test_what_takes_too_long_is_named_and_the_process_leaves():
    ended = run(ALONE)
    assert ended.stdout == "so far so good\n"
    assert_found(ended, "step")


def test_a_hang_that_holds_the_interpreter():
    ended = run(HOLDING_THE_LOCK)
    assert ended.returncode == -signal.SIGALRM and "in this_hangs" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stage", HANGS)
def test_a_hang_in_each_stage_of_a_run(stage, tmp_path):
    bindings = {
        "MODEL_DIR": str(tmp_path),
        "TRAIN_STEPS": 4,
        "BATCH_SIZE": 2,
        "TASK_FEATURE_LENGTHS": {"inputs": 16, "targets": 4},
        "CONFLICT_PERIOD": 0,
        "step.adamw.warmup_steps": 1,
        f"watchdog.Limits.{stage}": 10,  # enough for what comes before the hang
    }
    settings = [f"{name}={value!r}" for name, value in bindings.items()]
    if stage == "measurement":
        settings += [
            "measure.InTraining.fixed_point=@measure.Settings()",
            "measure.Settings.period=2",
        ]
    module, name, good = HANGS[stage]
    assert_found(run(IN_A_RUN, module, name, str(good), *settings), stage)


IN_A_MODE = """
import sys, time
from mtl_t5x import evaluate, main, measure

mode, *bindings = sys.argv[1:]
settings = ["gin/examples/mini_cola_text_to_text.gin"], bindings
main.run(*settings)

def this_hangs(*args, **kwargs):
    time.sleep(600)

measure.measure_tasks = evaluate.evaluate = this_hangs
main.run(["gin/examples/mini_cola_text_to_text.gin"], [*bindings, LIMIT], mode)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode, stage", [("eval", "evaluation"), ("measure", "measurement")])
def test_a_hang_in_another_mode(mode, stage, tmp_path):
    bindings = {
        "MODEL_DIR": str(tmp_path),
        "TRAIN_STEPS": 2,
        "BATCH_SIZE": 2,
        "TASK_FEATURE_LENGTHS": {"inputs": 16, "targets": 4},
        "step.adamw.warmup_steps": 1,
    }
    settings = [f"{name}={value!r}" for name, value in bindings.items()]
    code = IN_A_MODE.replace("LIMIT", f"'watchdog.Limits.{stage}=5'")
    assert_found(run(code, mode, *settings), stage)
