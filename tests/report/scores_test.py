"""Metrics on resamples against the tasks' own metrics on the examples drawn."""

import numpy as np
import pytest

from mtl_t5x.report import scores
from mtl_t5x.tasks import metrics
from mtl_t5x.tasks.decanlp import metrics as decanlp_metrics

RNG = np.random.default_rng(0)
WORDS = ("The", "dog", "dogs,", "ran!", "quick-fox", "It's", "unanswerable", "and", "3.5")


def texts(count, least=1):
    return [" ".join(RNG.choice(WORDS, RNG.integers(least, 8))) for _ in range(count)]


def some(values, others, share=0.6):
    """Predictions: the target in a share of the places."""
    return [a if RNG.random() < share else b for a, b in zip(values, others, strict=True)]


def classes(count):
    targets = RNG.integers(0, 3, 60).clip(0, count - 1).tolist()
    return targets, some(targets, RNG.integers(-1, count, 60).tolist())


def numbers():
    targets = (RNG.integers(0, 26, 60) / 5).tolist()
    return targets, some(targets, (RNG.integers(-1, 26, 60) / 5).tolist(), 0.4)


def answers():
    first, second = texts(40), texts(40)
    return [list(pair) for pair in zip(first, second, strict=True)], some(first, ["", *texts(39)])


def relations():
    first = some(["unanswerable"] * 40, texts(40), 0.4)
    return [[text] for text in first], some(first, ["unanswerable", *texts(39)], 0.5)


def translations():
    targets = texts(30, 4)
    return targets, some(targets, texts(30, 4), 0.5)


def queries():
    targets = [
        {"sel": int(RNG.integers(3)), "agg": 0, "conds": [[0, 1, "a"], [1, 0, "b"]]}
        for _ in range(30)
    ]
    other = [{**query, "conds": query["conds"][::-1]} for query in targets]
    return targets, some(some(targets, other, 0.5), [None] * 30, 0.8)


def turns():
    targets = [
        {
            "inform": {"food": str(RNG.integers(3))},
            "request": ["area", "food"][turn % 2 :],
            "dialogue": turn // 3,
            "turn": turn % 3,
        }
        for turn in range(30)
    ]
    said = [{"inform": t["inform"], "request": t["request"]} for t in targets]
    return targets, some(said, [None, *said[:-1]], 0.7)


CASES = {
    "accuracy": (metrics.accuracy, classes(3)),
    "f1": (metrics.f1, classes(2)),
    "matthews_corrcoef": (metrics.matthews_corrcoef, classes(3)),
    "pearson_corrcoef": (metrics.pearson_corrcoef, numbers()),
    "spearman_corrcoef": (metrics.spearman_corrcoef, numbers()),
}
for _name in ("f1", "exact_match", "reference_f1", "reference_exact_match"):
    CASES[f"{_name} of texts"] = (getattr(decanlp_metrics, _name), answers())
for _name in ("corpus_f1",):
    CASES[_name] = (getattr(decanlp_metrics, _name), relations())
for _name in ("bleu", "reference_bleu", "rouge", "reference_rouge"):
    CASES[_name] = (getattr(decanlp_metrics, _name), translations())
for _name in ("logical_form_em", "reference_logical_form_em"):
    CASES[_name] = (getattr(decanlp_metrics, _name), queries())
for _name in ("joint_goal_em", "turn_request_em"):
    CASES[_name] = (getattr(decanlp_metrics, _name), turns())


@pytest.mark.parametrize("case", CASES)
def test_resamples_are_scored_as_the_task_scores_them(case):
    metric, (targets, predictions) = CASES[case]
    units = scores.units_of(targets)
    count = units.max() + 1
    drawn = np.concatenate([np.arange(count)[None], RNG.integers(0, count, (5, count))])
    counts = np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(float)
    for name in metric(targets, predictions):
        found = scores.resampled(name, targets, predictions).of(counts)
        for row, value in zip(drawn, found, strict=True):
            # A dialogue that is drawn twice is two dialogues.
            places = [
                (i, copy) for copy, unit in enumerate(row) for i in np.where(units == unit)[0]
            ]
            ours = [targets[i] for i, _ in places]
            if "dialogue" in str(ours[0]):
                ours = [{**targets[i], "dialogue": copy} for i, copy in places]
            expected = metric(ours, [predictions[i] for i, _ in places])[name]
            assert value == pytest.approx(expected, abs=1e-9)
    assert 5 < metric(targets, predictions)[name] < 95


def test_constant_answers_correlate_with_nothing():
    targets, _ = numbers()
    for name in ("pearson_corrcoef", "spearman_corrcoef"):
        assert scores.resampled(name, targets, [0.3] * 60).of(np.ones((1, 60))) == 0
    assert scores.resampled("matthews_corrcoef", [0, 1] * 30, [1] * 60).of(np.ones((1, 60))) == 0


def test_a_metric_of_another_library_is_not_known():
    assert scores.resampled("chrf", [0, 1], [1, 1]) is None
    assert scores.resampled("chrf", ["a", "b"], ["a", "c"]) is None
