"""The tasks' metrics as functions of how often each test example was drawn.

A resample of a test split is scored from sufficient statistics: of most metrics these are sums over
the examples, so that ten thousand resamples are one matrix product. With every example drawn once,
each gives what `tasks.metrics` and `tasks.decanlp.metrics` do.
"""

import importlib
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mtl_t5x.report.statistics import Counts, Draws, Scored

Sums = Float[np.ndarray, "resample statistic"]
Statistics = Float[np.ndarray, "example statistic"]
# How a metric is resampled: statistics of targets and predictions, and the metric of their sums.
Scoring = tuple[Callable[[Sequence[Any], Sequence[Any]], Statistics], Callable[[Sums], Draws]]

_UNPARSED = -1  # as `tasks.metrics` has it, which takes a second to import


def units_of(targets: Sequence[Any]) -> Int[np.ndarray, " example"]:
    """What is drawn: the examples, or where they are turns of dialogues, the dialogues."""
    if isinstance(targets[0], dict) and "dialogue" in targets[0]:
        dialogues = [target["dialogue"] for target in targets]
        return np.unique(dialogues, return_inverse=True)[1]
    return np.arange(len(targets))


def resampled(metric: str, targets: Sequence[Any], predictions: Sequence[Any]) -> Scored | None:
    """A metric of these answers, by its name in results.json; None of one that isn't known here."""
    numbers_only = isinstance(targets[0], numbers.Number)
    if numbers_only:
        targets, predictions = np.asarray(targets), np.asarray(predictions)
    if metric == "spearman_corrcoef":
        return Scored(None, _spearman(targets.astype(float), predictions.astype(float)))
    scoring = (_OF_NUMBERS if numbers_only else _of_texts()).get(metric)
    if scoring is None:
        return None
    statistics, value = scoring
    columns = statistics(targets, predictions)
    if not numbers_only:
        units = units_of(targets)
        columns = np.stack([np.bincount(units, column) for column in columns.T], axis=1)
    return Scored(columns, value)


def _of_texts() -> Mapping[str, Scoring]:
    return importlib.import_module("mtl_t5x.report.text_scores").TABLE


def quotient(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """0 where there is nothing to divide by, as the metrics have it."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), 0.0)


# Statistics by metric: the columns of a table of the examples, and the metric from their sums.


def _hits(targets, predictions) -> Statistics:
    return np.stack([100.0 * (targets == predictions), np.ones(len(targets))], axis=1)


def mean(sums: Sums) -> Draws:
    return sums[:, 0] / sums[:, 1]


def _f1_counts(targets, predictions) -> Statistics:
    """True positives; predicted and true positives together."""
    predictions = np.where(predictions == _UNPARSED, 1 - targets, predictions)
    both = (targets == 1) & (predictions == 1)
    return np.stack([both, 1.0 * (targets == 1) + (predictions == 1)], axis=1)


def _f1(sums: Sums) -> Draws:
    return 200 * quotient(sums[:, 0], sums[:, 1])


def _confusion(targets, predictions) -> Statistics:
    """Indicators of the target's and of the prediction's class, and whether they agree."""
    classes = np.union1d(targets, predictions)
    agree = (targets == predictions)[:, None]
    marks = [targets[:, None] == classes, predictions[:, None] == classes, agree]
    return np.concatenate(marks, axis=1).astype(float)


def _matthews(sums: Sums) -> Draws:
    """Gorodkin's R_K, of class counts alone: Comput. Biol. Chem. 28 (2004), equation 8."""
    classes = sums.shape[1] // 2
    true, found, right = sums[:, :classes], sums[:, classes : 2 * classes], sums[:, -1]
    total = true.sum(1)
    covariance = right * total - (true * found).sum(1)
    spread = (total**2 - (true**2).sum(1)) * (total**2 - (found**2).sum(1))
    return 100 * quotient(covariance, np.sqrt(np.maximum(spread, 0)))


def _moments(targets, predictions) -> Statistics:
    x, y = targets.astype(float), predictions.astype(float)
    x, y = x - x.mean(), y - y.mean()  # small sums: nothing cancels
    return np.stack([x, y, x * x, y * y, x * y, np.ones(len(x))], axis=1)


def _pearson(sums: Sums) -> Draws:
    x, y, xx, yy, xy, n = sums.T
    return 100 * _correlation(xx / n - (x / n) ** 2, yy / n - (y / n) ** 2, xy / n - x * y / n**2)


def _correlation(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """0 where one side is constant."""
    tiny = 1e-12 * np.maximum(max(xx.max(), yy.max()), 1)
    constant = (xx <= tiny) | (yy <= tiny)
    return np.where(constant, 0.0, xy / np.sqrt(np.where(constant, 1.0, xx * yy)))


def _spearman(
    targets: Float[np.ndarray, " example"], predictions: Float[np.ndarray, " example"]
) -> Callable[[Counts], Draws]:
    """Ranks are of the resample, ties at their middle."""
    sides = []
    for side in (targets, predictions):
        order = np.argsort(side, kind="stable")
        starts = np.flatnonzero(np.diff(side[order], prepend=-np.inf))
        place = np.searchsorted(side[order][starts], side)
        sides.append((order, starts, place))

    def values(counts: Counts) -> Draws:
        n = counts.sum(1, keepdims=True)
        ranks = []
        for order, starts, place in sides:
            ties = np.add.reduceat(counts[:, order], starts, axis=1)
            # In the middle of the ties, from the middle of all ranks.
            ranks.append((np.cumsum(ties, axis=1) - ties / 2 - n / 2)[:, place] / n)
        x, y = ranks
        return 100 * _correlation(
            *(np.einsum("ij,ij,ij->i", counts, a, b) / n[:, 0] for a, b in ((x, x), (y, y), (x, y)))
        )

    return values


_OF_NUMBERS: dict[str, Scoring] = {
    "accuracy": (_hits, mean),
    "f1": (_f1_counts, _f1),
    "matthews_corrcoef": (_confusion, _matthews),
    "pearson_corrcoef": (_moments, _pearson),
}
