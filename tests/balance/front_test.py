"""A sweep from its config to its report, and how often a step is compiled for it."""

import dataclasses
import pathlib

import pytest

from mtl_t5x import main, step, study

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_embedded_front(tmp_path):
    """The static points share a step's two programs, plain and measuring; a method has its own two,
    and a task alone one."""
    runs = study.load_runs(ROOT / "configs" / "mini_glue_front.py")
    config = runs.__globals__["get_config"]()
    with config.unlocked():
        config.tasks, config.seeds, config.methods = ("cola", "rte"), (0,), ("MGDA",)
        config.corners, config.sobol, config.temperatures = True, 0, ()
        config.train_steps, config.conflict_period = 4, 2
    spanned = [
        dataclasses.replace(one, gin_bindings=(*one.gin_bindings, "step.adamw.warmup_steps=1"))
        for one in runs(config)
    ]
    before = step.train_step._cache_size()
    failed = study.run_study(tmp_path, "front", config, spanned, run=main.run)
    assert not failed
    assert step.train_step._cache_size() - before == 5
    lines = (tmp_path / "report" / "front.csv").read_text().splitlines()
    assert {line.split(",")[3] for line in lines[1:]} == {
        "unit", "corner_cola", "corner_rte", "MGDA",
    }  # fmt: skip
