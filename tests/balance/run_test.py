"""Whole runs with weighted tasks, as a user starts them: what is logged, resumed and refused."""

import json
import logging
import pathlib

import numpy as np
import pytest

from mtl_t5x import main
from mtl_t5x.runtime import run_log
from mtl_t5x.storage import checkpoints

EXAMPLE = "gin/examples/mini_glue_text_to_text.gin"
TASKS = ["glue_cola.default.semantic", "glue_rte.default.semantic"]
# A state of its own, and the weights of the step before.
METHOD = ("BALANCE=@balance.GradNorm()", "balance.GradNorm.learning_rate=0.2")


def bindings(folder: pathlib.Path, **macros) -> list[str]:
    values = {
        "MODEL_DIR": str(folder),
        "MIXTURE_OR_TASK_NAME": TASKS,
        "TASK_FEATURE_LENGTHS": {"inputs": 16, "targets": 4},
        "TRAIN_STEPS": 6,
        "BATCH_SIZE": 4,
        "CONFLICT_PERIOD": 0,
        "LOG_PERIOD": 1,
        "CHECKPOINT_PERIOD": 3,
        **macros,
    }
    return ["step.adamw.warmup_steps=2", *(f"{name}={value!r}" for name, value in values.items())]


def lines(folder: pathlib.Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("run")
    main.run([EXAMPLE], [*bindings(folder), *METHOD])
    return folder


@pytest.mark.slow
def test_weights_are_logged(folder):
    logged = lines(folder)
    weights = np.array([[line[f"balance/weight/{t}"] for t in ("cola", "rte")] for line in logged])
    np.testing.assert_array_equal(weights[0], 1)
    assert len(np.unique(weights[1:], axis=0)) > 2
    np.testing.assert_allclose(weights.sum(axis=1), 2, rtol=1e-5)
    for line in logged:
        assert line["balance/norm"] > 0 and 0 <= line["balance/angle"] < 90
    assert not any(key.startswith("conflict/") for key in logged[0]), "it wasn't asked for"


@pytest.mark.slow
def test_a_run_that_is_started_again_ends_bit_equal(folder, tmp_path, monkeypatch):
    class StoppedError(Exception):
        pass

    add = run_log.RunLog.add

    def interrupt(self, at_step, *args, **kwargs):
        add(self, at_step, *args, **kwargs)
        if at_step == 4:
            raise StoppedError

    monkeypatch.setattr(run_log.RunLog, "add", interrupt)
    with pytest.raises(StoppedError):
        main.run([EXAMPLE], [*bindings(tmp_path), *METHOD])
    monkeypatch.setattr(run_log.RunLog, "add", add)
    main.run([EXAMPLE], [*bindings(tmp_path), *METHOD])
    whole, again = (
        [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines(run)]
        for run in (folder, tmp_path)
    )
    assert whole == again
    once, twice = (json.loads((run / "results.json").read_text()) for run in (folder, tmp_path))
    assert once == twice


@pytest.mark.slow
def test_the_state_is_in_the_checkpoint(folder):
    stored = checkpoints._stored(checkpoints.files.absolute(folder / "checkpoint_6"))
    assert set(stored["balance"]) == {"weights", "method"}
    assert set(stored["balance"]["method"]) == {"weights", "first"}


@pytest.mark.slow
def test_a_checkpoint_without_it(folder, tmp_path):
    """Without a method the same folder goes on; with another it says what differs."""
    (tmp_path / "checkpoint_3").symlink_to(folder / "checkpoint_3")
    with pytest.raises(ValueError, match=r"another model, balance or optimizer.*balance/method"):
        main.run([EXAMPLE], [*bindings(tmp_path), "BALANCE=@balance.FAMO()"])
    main.run([EXAMPLE], bindings(tmp_path, TRAIN_STEPS=4))
    assert "balance/norm" not in lines(tmp_path)[-1]


MIXTURE = {"RATES": {"cola": 3, "rte": 1}}


@pytest.mark.parametrize(
    "macros, more, message",
    [
        ({"TASK_WEIGHTS": {"colla": 1}}, (), r"TASK_WEIGHTS names the task 'colla'"),
        ({"TASK_WEIGHTS": {"cola": -1.0}}, (), r"TASK_WEIGHTS\['cola'\] = -1.0"),
        ({"TASK_WEIGHTS": {"cola": 1}}, METHOD, r"TASK_WEIGHTS and BALANCE = @balance.GradNorm"),
        ({"MIXTURE_OR_TASK_NAME": TASKS[0]}, METHOD, r"GradNorm\(\).*cola is the only one"),
        ({}, ("BALANCE=@balance.Krum()",), r"balance.Krum\(outliers=1.*needs 4 tasks"),
        ({"BATCH_SIZE": 3}, ("BALANCE=@balance.MoDo()",), r"MoDo\(\) acts by halves: BATCH_SIZE"),
        ({"RATES": {"cola": 1, "rte": 0}}, (), r"the rate of rte is 0"),
        (MIXTURE, (*METHOD, "rates.Rates.used_as='draws'"), r"RATES that are used as draws"),
        (
            {**MIXTURE, "CONFLICT_PERIOD": 2},
            ("rates.Rates.used_as='draws'",),
            r"one task has no conflict to measure.*CONFLICT_PERIOD = 0",
        ),
    ],
)
def test_what_is_refused(tmp_path, macros, more, message):
    with pytest.raises(ValueError, match=message):
        main.run([EXAMPLE], [*bindings(tmp_path, **macros), *more])
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_task_without_direction_is_named_once(tmp_path, caplog):
    metrics = {
        "loss": np.ones(2),
        "grad_norm": np.float32(1),
        "balance": {"unusable": np.array([False, True])},
    }
    with run_log.RunLog(str(tmp_path), ("cola", "rte"), 8, 0, 3) as log:
        for step in range(3):
            log.add(step, metrics, write=False)
        with caplog.at_level(logging.WARNING, logger="mtl_t5x"):
            log.check()
    assert caplog.text.count("the gradient of rte is zero or no number") == 1
    assert "step 0" in caplog.text


@pytest.mark.slow
def test_nine_to_one(tmp_path):
    """What the log of examples holds; and rates change no figure of a first step's conflict but by
    its noise: they are of the tasks' mean losses."""
    settings = bindings(
        tmp_path, RATES={"cola": 9, "rte": 1}, BATCH_SIZE=20, TRAIN_STEPS=3, CONFLICT_PERIOD=1
    )
    main.run([EXAMPLE], [*settings, "train.train.log_examples=True"])
    seen = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    counts = {name: sum(len(line["examples"][name]) for line in seen) for name in ("cola", "rte")}
    assert counts == {"cola": 3 * 36, "rte": 3 * 4}
    logged = lines(tmp_path)
    assert logged[0]["balance/weight/cola"] == pytest.approx(1.8)
    assert all(np.isfinite(line["conflict/encoder/running_directional"]) for line in logged)
