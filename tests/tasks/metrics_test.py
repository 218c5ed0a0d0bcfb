"""GLUE's metrics against formulas in numpy."""

import numpy as np
import pytest

from mtl_t5x.tasks import metrics

CLASS_METRICS = [metrics.accuracy, metrics.f1, metrics.matthews_corrcoef]
SCORE_METRICS = [metrics.pearson_corrcoef, metrics.spearman_corrcoef]


def value(metric, targets, predictions):
    (number,) = metric(targets=targets, predictions=predictions).values()
    return number


def draw(seed, classes=2, count=200):
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, classes, count)
    predictions = np.where(
        generator.random(count) < 0.7, targets, generator.integers(-1, classes, count)
    )
    return targets, predictions


def rank(values):
    """Ranks with ties averaged, by counting."""
    return np.array([np.mean(values < v) + np.mean(values == v) / 2 for v in values])


def matthews(targets, predictions):
    """Gorodkin's R_K as a correlation of indicator vectors."""
    classes = np.union1d(targets, predictions)
    x = (targets[:, None] == classes).astype(float)
    y = (predictions[:, None] == classes).astype(float)

    def covariance(a, b):
        return np.mean(np.sum((a - a.mean(0)) * (b - b.mean(0)), 1))

    return covariance(x, y) / np.sqrt(covariance(x, x) * covariance(y, y))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 3])
def test_accuracy_and_matthews(seed, classes):
    targets, predictions = draw(seed, classes)
    assert -1 in predictions
    assert value(metrics.accuracy, targets, predictions) == pytest.approx(
        100 * np.mean(targets == predictions)
    )
    assert value(metrics.matthews_corrcoef, targets, predictions) == pytest.approx(
        100 * matthews(targets, predictions)
    )


@pytest.mark.parametrize("seed", range(5))
def test_f1(seed):
    targets, predictions = draw(seed)
    # An unparsed answer to a positive is a miss, to a negative a false alarm.
    true_positive = np.sum((targets == 1) & (predictions == 1))
    wrong = np.sum(targets != predictions)
    assert value(metrics.f1, targets, predictions) == pytest.approx(
        100 * 2 * true_positive / (2 * true_positive + wrong)
    )


@pytest.mark.parametrize("seed", range(5))
def test_correlations(seed):
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, 26, 100) / 5
    predictions = np.clip(targets + generator.normal(size=100), 0, 5).round(1)
    assert value(metrics.pearson_corrcoef, targets, predictions) == pytest.approx(
        100 * np.corrcoef(targets, predictions)[0, 1]
    )
    assert value(metrics.spearman_corrcoef, targets, predictions) == pytest.approx(
        100 * np.corrcoef(rank(targets), rank(predictions))[0, 1]
    )


def test_an_unparsed_score_is_correlated_as_minus_one():
    # By hand: targets 0, 1, 2 and predictions 0, 1, -1 have the sums of products -1, 2 and 2.
    for metric in SCORE_METRICS:
        assert value(metric, [0.0, 1.0, 2.0], [0.0, 1.0, -1.0]) == pytest.approx(-50)
    targets = np.arange(26) / 5
    assert value(metrics.pearson_corrcoef, targets, targets) == pytest.approx(100)
    for place in (0, 12, 25):
        predictions = targets.copy()
        predictions[place] = -1.0
        assert value(metrics.pearson_corrcoef, targets, predictions) == pytest.approx(
            100 * np.corrcoef(targets, predictions)[0, 1]
        )
        assert value(metrics.spearman_corrcoef, targets, predictions) == pytest.approx(
            100 * np.corrcoef(rank(targets), rank(predictions))[0, 1]
        )


@pytest.mark.parametrize("metric", CLASS_METRICS)
def test_unparsed_classes_never_help(metric):
    targets, predictions = draw(0)
    right = np.flatnonzero(targets == predictions)
    for place in right[:20]:
        worse = predictions.copy()
        worse[place] = -1
        assert value(metric, targets, worse) < value(metric, targets, predictions)


@pytest.mark.parametrize("metric", CLASS_METRICS)
def test_all_right_and_all_unparsed_classes(metric):
    targets = [0, 1, 1, 0, 1]
    assert value(metric, targets, targets) == 100
    assert value(metric, targets, [-1] * 5) == 0


@pytest.mark.parametrize("metric", SCORE_METRICS)
def test_constant_or_unparsed_scores_are_zero(metric):
    targets = [0.0, 2.5, 5.0]
    for predictions in ([-1.0] * 3, [2.0] * 3):
        assert value(metric, targets, predictions) == 0
    assert value(metric, [2.0] * 3, targets) == 0


def test_matthews_of_one_class_is_zero():
    assert value(metrics.matthews_corrcoef, [0, 1, 1], [1, 1, 1]) == 0
    assert value(metrics.matthews_corrcoef, [1, 1], [1, 1]) == 0


def test_f1_without_positives_is_zero():
    assert value(metrics.f1, [0, 0], [0, 0]) == 0


def test_unparsed_is_counted():
    assert metrics.unparsed([0, 1, 1], [-1, 1, -1]) == {"unparsed": 2}
    assert metrics.unparsed([0.0, 1.0], [-1.0, 1.0]) == {"unparsed": 1}
    assert metrics.unparsed(["a", "b"], ["-1", -1]) == {"unparsed": 1}
