"""Which weightings a sweep spans, and the runs that it makes of them."""

import ml_collections
import numpy as np
import pytest

from mtl_t5x.jobs import sweep

TASKS = ("cola", "rte", "stsb")


def a_config(**fields) -> ml_collections.ConfigDict:
    values = {
        "benchmark": "glue",
        "data": "mini",
        "tasks": TASKS,
        "architectures": ("text_to_text",),
        "prompts": ("default",),
        "labels": ("semantic",),
        "seeds": (0, 1),
        "train_steps": 10,
        "single_task_steps": 10,
        "conflict_period": 5,
        "gin_files": {"text_to_text": "example.gin"},
        "corners": True,
        "sobol": 5,
        "temperatures": (2.0,),
        "methods": ("UPGrad", "CAGrad c=0.4 applied=exact"),
        **fields,
    }
    return ml_collections.ConfigDict(values)


def test_points_on_the_simplex():
    points = sweep.on_simplex(4, 100)
    assert points.shape == (100, 4) and points.min() >= 0
    np.testing.assert_allclose(points.sum(axis=1), 1)
    np.testing.assert_allclose(points.mean(axis=0), 0.25, atol=0.02)
    np.testing.assert_array_equal(points[:12], sweep.on_simplex(4, 12))
    assert sweep.on_simplex(4, 0).shape == (0, 4)


def test_runs():
    runs = list(sweep.sweep(a_config()))
    weighted = [run for run in runs if run.kind == "weighted"]
    assert len(weighted) == 2 * (3 + 5 + 1 + 2)
    assert len({run.name for run in runs}) == len(runs)
    (unit, other) = [run for run in runs if run.kind == "multi_task"]
    assert unit.weighting == sweep.UNIT and (unit.seed, other.seed) == (0, 1)
    assert "TASK_WEIGHTS={'cola': 1.0, 'rte': 1.0, 'stsb': 1.0}" in unit.gin_bindings
    by_name = {run.name: run for run in runs}
    corner = by_name["text_to_text.default.semantic.corner_rte.seed1"]
    assert "TASK_WEIGHTS={'cola': 0.0, 'rte': 3.0, 'stsb': 0.0}" in corner.gin_bindings
    exact = by_name["text_to_text.default.semantic.CAGrad_c_0.4_applied_exact.seed0"]
    assert exact.gin_bindings[-3:] == (
        "BALANCE=@balance.CAGrad()",
        "balance.CAGrad.c=0.4",
        'balance.Balance.applied="exact"',
    )
    mixed = by_name["text_to_text.default.semantic.temperature_2.seed0"]
    assert mixed.gin_bindings[-2:] == ('RATES="examples"', "rates.Rates.temperature=2.0")
    alone = [run for run in runs if run.kind == "single_task"]
    assert len(alone) == 6 and all("TASK_WEIGHTS" not in " ".join(r.gin_bindings) for r in alone)
    assert "weighting" not in alone[0].record() and unit.record()["weighting"] == "unit"


@pytest.mark.parametrize(
    "methods, message",
    [
        (("UPGrad", "UPGrad"), r"named twice: UPGrad"),
        (("CAGrad 0.4",), r"'CAGrad 0.4' can't be read"),
    ],
)
def test_methods_that_cannot_be_read(methods, message):
    with pytest.raises(ValueError, match=message):
        list(sweep.sweep(a_config(methods=methods)))
