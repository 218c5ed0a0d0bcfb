import json
import math
import time

import numpy as np
import pytest

from mtl_t5x.runtime import run_log


def metrics(losses, grad_norm=1.0, conflict=None):
    return {
        "loss": np.array(losses, np.float32),
        "grad_norm": np.float32(grad_norm),
        "learning_rate": np.float32(0.5),
        "conflict": conflict or {},
    }


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_per_logged_step(tmp_path):
    conflict = {
        "norms": np.array([3.0, 4.0]),
        "cosine": np.array([[1.0, 0.5], [0.5, 1.0]]),
        "directional": np.float32(0.25),
        "magnitude": np.float32(np.nan),
    }
    with run_log.RunLog(str(tmp_path), ["a", "b"], 8, 0, 3) as log:
        log.add(0, metrics([1.0, 2.0], conflict={"encoder": conflict}), write=True)
        log.add(1, metrics([1.0, 2.0]), write=False)
        log.add(2, metrics([0.5, 0.25]), write=True)
    first, second = lines(tmp_path)
    assert first["step"] == 0 and second["step"] == 2
    assert first["loss"] == 3.0 and second["loss/b"] == 0.25
    assert first["grad_norm/encoder/b"] == 4.0
    assert first["conflict/encoder/cosine"] == [[1.0, 0.5], [0.5, 1.0]]
    assert first["conflict/encoder/directional"] == 0.25
    assert first["conflict/encoder/magnitude"] is None, "JSON has no NaN"
    assert "examples_per_second" not in first and second["examples_per_second"] > 0
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_going_on_drops_the_lines_of_steps_to_come(tmp_path):
    with run_log.RunLog(str(tmp_path), ["a"], 1, 0, 9) as log:
        for step in range(6):
            log.add(step, metrics([float(step)]), write=True)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # cut off by a crash
    with run_log.RunLog(str(tmp_path), ["a"], 1, 4, 9) as log:
        log.add(4, metrics([40.0]), write=True)
    assert [line["loss/a"] for line in lines(tmp_path)] == [0.0, 1.0, 2.0, 3.0, 40.0]


def test_the_first_bad_task_and_step_are_named(tmp_path):
    with run_log.RunLog(str(tmp_path), ["a", "b"], 1, 0, 9) as log:
        log.add(0, metrics([1.0, 1.0]), write=False)
        log.add(1, metrics([1.0, math.inf]), write=False)
        with pytest.raises(run_log.TrainingDivergedError, match="step 1: the loss of b is not"):
            log.add(2, metrics([math.nan, math.nan]), write=True)
    assert lines(tmp_path) == []


def test_a_gradient_or_parameters_that_are_not_finite(tmp_path):
    with run_log.RunLog(str(tmp_path), ["a"], 1, 0, 9) as log:
        log.add(0, metrics([1.0], grad_norm=math.nan), write=False)
        with pytest.raises(run_log.TrainingDivergedError, match="step 0.*gradient is not"):
            log.check()
    with run_log.RunLog(str(tmp_path), ["a"], 1, 0, 9) as log:
        params = {"encoder": {"good": np.ones(2), "bad": np.array([1.0, np.inf])}}
        with pytest.raises(run_log.TrainingDivergedError, match="encoder/bad not finite"):
            log.check(params)


def test_the_rate_is_that_of_the_steps(tmp_path):
    """Evaluations and saves take time in which no step is taken."""
    with run_log.RunLog(str(tmp_path), ["a"], 1, 0, 9) as log:
        log.add(0, metrics([1.0]), write=True)
        with log.paused():
            time.sleep(1.0)
        log.add(1, metrics([1.0]), write=True)
    assert lines(tmp_path)[1]["examples_per_second"] > 2
