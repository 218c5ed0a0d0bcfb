"""Conflict from each of its sources; halves' are tested on quadratic tasks (quadratic_test)."""

import numpy as np
import pytest

from mtl_t5x.report import conflicts, findings, folders
from tests.report import simulated

TASKS = ("a", "b", "c")
TRUE = np.array([[1.0, -0.4, 0.3], [-0.4, 1.0, 0.0], [0.3, 0.0, 1.0]])


def study_of(runs):
    """`runs`: the lines of metrics.jsonl of each multi-task run."""
    records = [
        folders.Record(str(i), *simulated.VARIANT, TASKS, i, "multi_task", None, tuple(lines), "")
        for i, lines in enumerate(runs)
    ]
    return folders.Study("s", {}, tuple(records), ())


def noisy(rng, noise, shorter=1.0):
    upper = np.triu(noise * rng.standard_normal((3, 3)), 1)
    return shorter * (TRUE - np.eye(3)) + np.eye(3) + upper + upper.T


def lines_of(seed, steps, key, noise, shorter=1.0, order=TASKS):
    rng = np.random.default_rng(seed)
    place = [TASKS.index(task) for task in order]
    return [
        {"step": step, "learning_rate": 1.0}
        | {f"loss/{task}": 1.0 for task in order}
        | {key: noisy(rng, noise, shorter)[np.ix_(place, place)].tolist()}
        for step in steps
    ]


FIXED, BATCH = "conflict/fixed_point/encoder/cosine", "conflict/encoder/cosine"


def pairs(matrix):
    return {(pair.first, pair.second): pair for pair in matrix.pairs}


def test_batches_without_halves_show_their_own_cosines_and_say_so():
    runs = [lines_of(seed, range(0, 400, 10), BATCH, 0.1, shorter=0.25) for seed in range(2)]
    conflict, matrices = conflicts.conflict(study_of(runs), simulated.VARIANT, "encoder", 2000)
    assert conflict.source == findings.BATCH and len(matrices) == 9
    whole = pairs(matrices[-1])
    for (first, second), pair in whole.items():
        true = 0.25 * TRUE[TASKS.index(first), TASKS.index(second)]
        assert pair.cosine == pair.batch and pair.batch.low < true < pair.batch.high
    assert whole["a", "b"].verdict.word == findings.LOSS
    assert whole["a", "c"].verdict.word == findings.GAIN
    assert whole["b", "c"].verdict.word == findings.UNDECIDED
    assert conflict.split_half == conflict.shuffled == findings.Curve((), ())


def test_fixed_points_stand_before_batches_and_take_the_runs_as_the_sample():
    runs = []
    for seed in range(3):
        lines = lines_of(seed, range(0, 400, 10), BATCH, 0.1, shorter=0.25)
        at_points = lines_of(seed, (0, 200, 390), FIXED, 0.02)
        kept = {line["step"]: line for line in lines}
        for line in at_points:
            kept[line["step"]] |= {FIXED: line[FIXED]}
        runs.append(list(kept.values()))
    conflict, matrices = conflicts.conflict(study_of(runs), simulated.VARIANT, "encoder", 2000)
    assert conflict.source == findings.FIXED_POINT
    assert [(m.first_step, m.last_step) for m in matrices[:-1]] == [(0, 0), (200, 200), (390, 390)]
    for matrix in matrices:
        found = pairs(matrix)
        assert found["a", "b"].cosine.value == pytest.approx(-0.4, abs=0.05)
        assert found["a", "b"].verdict.word == findings.LOSS
        assert found["b", "c"].verdict.word == findings.UNDECIDED
    mean = np.mean([-0.4, 0.3, 0.0])
    for point in conflict.mean_cosine.points:
        assert point.low < mean < point.high
    for one, other in zip(conflict.directional.points, conflict.mean_cosine.points, strict=True):
        assert one.value == pytest.approx(2 / 3 * other.value)


def test_one_run_at_fixed_points_has_no_interval():
    runs = [lines_of(0, (0, 100), FIXED, 0.02)]
    _, (first, _, _) = conflicts.conflict(study_of(runs), simulated.VARIANT, "encoder", 500)
    for pair in first.pairs:
        assert pair.cosine.value is not None and pair.cosine.low is None
        assert pair.verdict == findings.Verdict(None, None, findings.UNDECIDED)


def test_runs_are_put_in_one_order_of_the_tasks():
    runs = [
        lines_of(0, range(0, 200, 10), BATCH, 0.01),
        lines_of(1, range(0, 200, 10), BATCH, 0.01, order=("c", "a", "b")),
    ]
    conflict, matrices = conflicts.conflict(study_of(runs), simulated.VARIANT, "encoder", 500)
    assert conflict.tasks == TASKS
    assert pairs(matrices[-1])["a", "b"].cosine.value == pytest.approx(-0.4, abs=0.02)


def test_nothing_measured_is_nothing():
    runs = [[{"step": 0, "loss/a": 1.0, "loss/b": 1.0, "loss/c": 1.0}]]
    assert conflicts.conflict(study_of(runs), simulated.VARIANT, "encoder", 100) is None
    assert conflicts.shares(study_of(runs), simulated.VARIANT, "encoder", 100) == ()
    assert conflicts.noise_scales(study_of(runs), simulated.VARIANT, "encoder", 100) == ()
