"""Two-layer quadratic tasks: the analysis returns the conflict and the gap that are known."""

import numpy as np
import pytest

from mtl_t5x.report import analysis, findings, folders
from tests.report import quadratic

APART, TOGETHER = ("left", "right"), ("other", "friend")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quadratic")
    quadratic.write(folder)
    return analysis.analyse(folders.load_study(folder), resamples=2000)


@pytest.fixture(scope="module")
def path():
    whole = quadratic.trajectory([0, 1, 2, 3], np.zeros(80))
    return whole[10:]  # the learning rate is highest there


def whole(found, group):
    (matrix,) = [m for m in found.cosines if m.whole and m.group == group]
    return {(pair.first, pair.second): pair for pair in matrix.pairs}


def test_who_pulls_against_whom(found, path):
    products, reliability = quadratic.of_batches("encoder", path)
    truth = products / np.sqrt(np.outer(reliability, reliability))
    pairs = whole(found, "encoder")
    assert len(pairs) == 6
    for (first, second), pair in pairs.items():
        place = quadratic.TASKS.index(first), quadratic.TASKS.index(second)
        true = truth[place]
        assert pair.cosine.value == pytest.approx(true, abs=0.06)
        expected = {APART: findings.LOSS, TOGETHER: findings.GAIN}
        assert pair.verdict.word == expected.get((first, second), findings.UNDECIDED)
        # Noise shortens the cosine of batches.
        assert pair.batch.value == pytest.approx(products[place], abs=0.05)
        assert abs(pair.batch.value) < 0.9 * abs(true) or true == 0
        assert pair.cosine.excludes_zero == pair.batch.excludes_zero
    assert truth[0, 1] < -0.5 and truth[2, 3] > 0.8


def test_layers_are_told_apart(found):
    assert found.groups == ("encoder", "encoder/layers_0", "encoder/layers_1")
    for group, (pair, word) in {
        "encoder/layers_0": (APART, findings.LOSS),
        "encoder/layers_1": (TOGETHER, findings.GAIN),
    }.items():
        assert whole(found, group)[pair].verdict.word == word


def test_the_mean_cosine_is_followed_over_training(found):
    (conflict,) = [c for c in found.conflicts if c.group == "encoder"]
    assert conflict.source == findings.UNBIASED and conflict.tasks == quadratic.TASKS
    whole_path = quadratic.trajectory([0, 1, 2, 3], np.zeros(80))
    inside = 0
    for at, estimate in zip(conflict.mean_cosine.steps, conflict.mean_cosine.points, strict=True):
        near = whole_path[max(0, int(at) - 20) : int(at) + 21]
        products, reliability = quadratic.of_batches("encoder", near)
        true = products[np.triu_indices(4, 1)].mean() / reliability.mean()
        inside += estimate.low <= true <= estimate.high
    assert inside >= len(conflict.mean_cosine.steps) - 1 == 4
    for split, batch in zip(conflict.split_half.points, conflict.batch_cosine.points, strict=True):
        assert split.value > batch.value  # one task's halves are more alike than two tasks


def test_the_gap_at_matched_training_loss(found):
    gaps = {gap.task: gap for gap in found.gaps}
    assert tuple(gaps) == quadratic.TASKS
    for k, task in enumerate(quadratic.TASKS):
        true = quadratic.true_gap(k)
        gap = gaps[task]
        assert gap.mean.value == pytest.approx(true, abs=0.03)
        assert gap.verdict.word == (findings.LOSS if task == "left" else findings.UNDECIDED)
        assert list(gap.difference.steps) == sorted(gap.difference.steps, reverse=True)
    assert quadratic.true_gap(0) > 0.2 and abs(quadratic.true_gap(2)) < 1e-9


def test_slower_where_tasks_pull_apart_and_faster_where_they_pull_together(found):
    words = {slowdown.task: slowdown.verdict.word for slowdown in found.slowdowns}
    assert words["left"] == words["right"] == findings.LOSS
    assert words["other"] == words["friend"] == findings.GAIN
    for slowdown in found.slowdowns:
        k = quadratic.TASKS.index(slowdown.task)
        paths = [quadratic.trajectory(t, np.zeros(80)) for t in ([0, 1, 2, 3], [k])]
        values = [
            np.mean([quadratic.losses(p, quadratic.centres())[k] for p in whole[10:]])
            for whole in paths
        ]
        assert slowdown.mean.value == pytest.approx(values[0] - values[1], abs=0.02)


def test_shares_of_the_update_add_up(found):
    encoder = [share for share in found.shares if share.name == "encoder"]
    assert [share.task for share in encoder] == list(quadratic.TASKS)
    for points in zip(*(share.curve.points for share in encoder), strict=True):
        assert sum(point.value for point in points) == pytest.approx(1)


def test_the_noise_scale_is_the_gradients_noise_over_its_squared_length(found):
    first = {s.task: s.curve.points[0].value for s in found.noise_scales if s.name == "encoder"}
    start = quadratic.gradients(quadratic.trajectory([0, 1, 2, 3], np.zeros(80))[10])
    for k, task in enumerate(quadratic.TASKS):
        true = 80 * quadratic.NOISE**2 / (start[k] ** 2).sum()
        assert first[task] == pytest.approx(true, rel=0.5)


def test_conflict_goes_with_the_slowdown(found):
    kinds = {a.outcome: a for a in found.associations if a.group == "encoder"}
    slowdown = kinds["slowdown"]
    assert slowdown.correlation.value < -0.5 and len(slowdown.points) == 12
    assert -1 <= slowdown.correlation.low < 0 < slowdown.correlation.high <= 1
    assert slowdown.p > 0.05  # 4 tasks can be ordered in 24 ways: no order is rare enough
    assert "gap" in kinds and "transfer" not in kinds
