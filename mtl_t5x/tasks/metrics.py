"""GLUE's metrics on a scale of 0 to 100, and the count of answers that could not be parsed.

Classes are indices, -1 an answer outside the label set; STS-B's scores are floats, -1.0 an answer
that is no score. An unparsed answer never helps a metric.
"""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.stats
import sklearn.metrics

from mtl_t5x.tasks.postprocessors import UNPARSED

Metrics = dict[str, float]


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
    """Pearson's correlation of the parsed scores, times 100, times the share that is parsed.

    So an unparsed score counts as uncorrelated, and a model that answers nothing has 0. Constant
    targets or predictions give 0. Where every score is parsed, this is the plain correlation.
    """
    return {"pearson_corrcoef": _parsed_correlation(scipy.stats.pearsonr, targets, predictions)}


def spearman_corrcoef(targets: Sequence[float], predictions: Sequence[float]) -> Metrics:
    """Spearman's rank correlation, times 100; unparsed and constant scores as in Pearson's."""
    return {"spearman_corrcoef": _parsed_correlation(scipy.stats.spearmanr, targets, predictions)}


def _parsed_correlation(
    correlation: Callable, targets: Sequence[float], predictions: Sequence[float]
) -> float:
    targets, predictions = np.asarray(targets, float), np.asarray(predictions, float)
    parsed = predictions != UNPARSED
    x, y = targets[parsed], predictions[parsed]
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return 100 * float(correlation(x, y)[0]) * float(np.mean(parsed))
