"""GLUE's metrics on a scale of 0 to 100, and the count of answers that could not be parsed.

Classes are indices, -1 an answer outside the label set, which is wrong; STS-B's scores are floats,
-1.0 an answer that is no score, which is correlated as that number, as T5 does.
"""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.stats
import sklearn.metrics

Metrics = dict[str, float]

UNPARSED = -1


def unparsed(targets: Sequence[Any], predictions: Sequence[Any]) -> Metrics:
    """Counts the predictions that are -1, or -1.0: answers outside the label set."""
    del targets
    return {
        "unparsed": sum(isinstance(one, numbers.Number) and one == UNPARSED for one in predictions)
    }


def accuracy(targets: Sequence[int], predictions: Sequence[int]) -> Metrics:
    """Share of equal indices, in %. An unparsed answer is wrong."""
    return {"accuracy": 100 * float(sklearn.metrics.accuracy_score(targets, predictions))}


def f1(targets: Sequence[int], predictions: Sequence[int]) -> Metrics:
    """F1 of class 1 in a binary task, in %.

    An unparsed answer counts as the opposite of its target, as in T5's f1_score_with_invalid.
    Without any positive, predicted or true, F1 is 0.
    """
    targets, predictions = np.asarray(targets), np.asarray(predictions)
    predictions = np.where(predictions == UNPARSED, 1 - targets, predictions)
    return {"f1": 100 * float(sklearn.metrics.f1_score(targets, predictions, zero_division=0))}


def matthews_corrcoef(targets: Sequence[int], predictions: Sequence[int]) -> Metrics:
    """Matthews' correlation, times 100; unparsed answers are a class of their own.

    0 where the targets or the predictions are all one class.
    """
    with warnings.catch_warnings():
        # One class alone: scikit-learn warns and returns the 0 that is documented here.
        warnings.filterwarnings("ignore", message=".*single label.*", category=UserWarning)
        value = sklearn.metrics.matthews_corrcoef(targets, predictions)
    return {"matthews_corrcoef": 100 * float(value)}


def pearson_corrcoef(targets: Sequence[float], predictions: Sequence[float]) -> Metrics:
    """Pearson's correlation, times 100; an unparsed score is the number -1.

    So a wrong form is never left out, and costs least where the gold score is low; `unparsed`
    counts them. Constant targets or predictions, as those of a model that answers nothing, give 0.
    """
    return {"pearson_corrcoef": _correlation(scipy.stats.pearsonr, targets, predictions)}


def spearman_corrcoef(targets: Sequence[float], predictions: Sequence[float]) -> Metrics:
    """Spearman's rank correlation, times 100; unparsed and constant scores as in Pearson's."""
    return {"spearman_corrcoef": _correlation(scipy.stats.spearmanr, targets, predictions)}


def _correlation(
    correlation: Callable, targets: Sequence[float], predictions: Sequence[float]
) -> float:
    x, y = np.asarray(targets, float), np.asarray(predictions, float)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return 100 * float(correlation(x, y)[0])
