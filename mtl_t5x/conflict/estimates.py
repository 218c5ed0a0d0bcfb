"""Conflict as large batches would show it, from small ones; NumPy's arrays in and out.

Noise in a batch lengthens its gradient, so the norms of small batches are too large and their
cosines too close to 0. Inner products of *independent* batches have no such bias. With the examples
of each task in two halves, whose gradients a and b add up to the task's, E<g_i, g_j> = <G_i, G_j>
for i != j and E 4<a_k, b_k> = ||G_k||^2 (`metrics.unbiased`). Averages of these over steps have
the large batch's values, and the metrics made of the averages approach the large batch's.

A number that is no linear function of the averages still has a bias of order 1/steps. The jackknife
over the steps removes it and gives the standard error: with f the number from all T steps and f_t
the one without step t,

    estimate = T f - (T - 1) mean(f_t),    standard error^2 = (T - 1)/T sum_t (f_t - mean(f_t))^2

(Miller, "The jackknife: a review", Biometrika 61, 1974, sections 2 and 3; its error is the delta
method's without derivatives). An interval is estimate +- Student's t with T - 1 degrees of freedom
times the standard error. Steps must be independent draws, at parameters that hardly change.

The magnitude conflict is a mean of squared_norms of d_k = ||g_k||^2 - ||sum_j g_j||^2. With C the
covariance of the averages of the d_k (from the d_k's jackknife), E d^2 = D^2 + C_kk, and for normal
averages Var sum_k d_k^2 = 4 D'CD + 2 tr(C C): the estimate is mean(d^2) - tr(C)/K, and both terms
are in its error. The second, which the first-order methods lack, is all there is where D is near 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from mtl_t5x.conflict import metrics

Grams = Float[np.ndarray, "*steps task task"]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its standard error over `steps` independent steps."""

    value: float
    standard_error: float
    steps: int

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Lower and upper end; NaN for fewer than two steps."""
        if self.steps < 2:
            return float("nan"), float("nan")
        width = stats.t.ppf(0.5 + confidence / 2, self.steps - 1) * self.standard_error
        return self.value - width, self.value + width


def pooled(
    grams: Float[np.ndarray, "steps task task"], weights: Float[np.ndarray, "steps task"]
) -> Float[np.ndarray, "task task"]:
    """The Gram matrix of the large batch from the unbiased ones of many steps.

    A loss that is a mean over a batch's tokens weighs tokens of short batches more. So gradients
    are turned back into sums over tokens by `weights`, the tokens (or examples) that each step's
    task losses are means over, averaged, and divided by the average weights: the mean over all
    tokens.
    """
    products, weights = _sums(grams, weights)
    average = weights.mean(axis=0)
    return products.mean(axis=0) / np.outer(average, average)


def jackknife(
    statistic: Callable[[Grams], Float[np.ndarray, "*steps"]],
    grams: Float[np.ndarray, "steps task task"],
    weights: Float[np.ndarray, "steps task"],
) -> Estimate:
    """A statistic of the pooled Gram matrix without its bias of order 1/steps.

    Args:
      statistic: of Gram matrices; leading axes are kept.
      grams: unbiased Gram matrix of each step.
      weights: as for `pooled`.
    """
    steps = len(grams)
    whole, left_out = _pooled_with_and_without(grams, weights)
    whole = float(statistic(whole))
    if steps < 2:
        return Estimate(whole, float("nan"), steps)
    values = statistic(left_out)
    mean = values.mean()
    error = np.sqrt((steps - 1) / steps * np.sum((values - mean) ** 2))
    return Estimate(float(steps * whole - (steps - 1) * mean), float(error), steps)


def estimate_magnitude(
    grams: Float[np.ndarray, "steps task task"], weights: Float[np.ndarray, "steps task"]
) -> Estimate:
    """The magnitude conflict without the bias of a square; see above."""
    steps = len(grams)
    whole, left_out = _pooled_with_and_without(grams, weights)
    d = metrics.differences(whole)
    if steps < 2:
        return Estimate(float(np.mean(d**2)), float("nan"), steps)
    parts = steps * d - (steps - 1) * metrics.differences(left_out)
    covariance = np.atleast_2d(np.cov(parts, rowvar=False)) / steps
    tasks = len(d)
    variance = 4 * d @ covariance @ d + 2 * np.sum(covariance**2)
    value = (np.sum(d**2) - np.trace(covariance)) / tasks
    return Estimate(float(value), float(np.sqrt(variance)) / tasks, steps)


def _pooled_with_and_without(grams, weights) -> tuple[np.ndarray, np.ndarray]:
    """The pooled Gram matrix of all steps, and those that each leave one step out."""
    steps = len(grams)
    whole = pooled(grams, weights)
    products, weights = _sums(grams, weights)
    left_out = (products.sum(axis=0) - products) / max(steps - 1, 1)
    averages = (weights.sum(axis=0) - weights) / max(steps - 1, 1)
    scale = np.where(averages > 0, averages, 1)
    return whole, left_out / (scale[:, :, None] * scale[:, None, :])


def _sums(grams, weights) -> tuple[np.ndarray, np.ndarray]:
    """Gram matrices of summed, not averaged, losses; weights near 1 keep their size."""
    weights = np.asarray(weights, np.float64)
    weights = weights / weights.mean(axis=0)
    return np.asarray(grams, np.float64) * weights[:, :, None] * weights[:, None, :], weights


METRICS = {
    "directional": metrics.directional,
    "magnitude": metrics.magnitude,
    "mean_cosine": metrics.mean_cosine,
}


def estimate_metrics(
    grams: Float[np.ndarray, "steps task task"], weights: Float[np.ndarray, "steps task"]
) -> dict[str, Estimate]:
    """Every number of `METRICS` with its standard error."""
    return {
        "directional": jackknife(metrics.directional, grams, weights),
        "magnitude": estimate_magnitude(grams, weights),
        "mean_cosine": jackknife(metrics.mean_cosine, grams, weights),
    }


Examples = int | Int[np.ndarray, " task"]  # of every task, or of each


@dataclasses.dataclass(frozen=True)
class Noise:
    """Per task: |G|^2, the trace of the examples' gradient covariance S, and S / |G|^2.

    The last is the noise scale, in examples: batches far smaller are mostly noise (McCandlish et
    al. 2018, arXiv 1812.06162, equation 2.9).
    """

    squared_norm: Float[np.ndarray, " task"]
    trace: Float[np.ndarray, " task"]
    scale: Float[np.ndarray, " task"]


def noise(
    squared_norms: Float[np.ndarray, " task"],
    small_squared_norms: Float[np.ndarray, " task"],
    examples: Examples,
    small_examples: Examples,
) -> Noise:
    """From the squared norms at two batch sizes, both averages over independent batches.

    |G|^2 = (B n_B - b n_b)/(B - b), S = (n_b - n_B)/(1/b - 1/B): McCandlish et al. 2018, appendix
    A. |G|^2 is unbiased and can be negative; the scale then means nothing and is NaN. So is all of
    a task for which the two sizes are one.
    """
    large, small = np.asarray(squared_norms, float), np.asarray(small_squared_norms, float)
    more = np.where(np.asarray(examples) > small_examples, examples, np.nan)
    norm = (more * large - small_examples * small) / (more - small_examples)
    trace = (small - large) / (1 / small_examples - 1 / more)
    return Noise(norm, trace, np.where(norm > 0, trace / np.where(norm > 0, norm, 1), np.nan))


def noise_of_halves(halves: Float[np.ndarray, "parts parts"], examples: Examples) -> Noise:
    """The same from the Gram matrix of the halves of one batch of `examples`, of each task.

    As a half's gradient is scaled to its share of the task's loss, its own batch's has about four
    times its squared norm (exactly, where the halves hold equally many tokens).
    """
    halves = np.asarray(halves, np.float64)
    tasks = len(halves) // 2
    blocks = halves.reshape(tasks, 2, tasks, 2)
    own = blocks[np.arange(tasks), :, np.arange(tasks), :]
    small = 2 * (own[:, 0, 0] + own[:, 1, 1])
    return noise(own.sum((1, 2)), small, examples, examples // 2)


@dataclasses.dataclass(frozen=True)
class Null:
    """What cosines between tasks are to be compared with.

    `split_half`: cos(a_k, b_k) of each task's own halves: how alike gradients of *one* task look at
    half this batch size. `shuffled`: quantiles (2.5, 50 and 97.5 %) of the directional conflict
    between groups of halves that were put together without regard to their task: what it is when
    being of one task means nothing.
    """

    split_half: Float[np.ndarray, " task"]
    shuffled: Float[np.ndarray, 3]


def null(halves: Float[np.ndarray, "parts parts"], shuffles: int = 200, seed: int = 0) -> Null:
    """Both comparisons from the Gram matrix of the halves (row 2k + h: half h of task k)."""
    halves = np.asarray(halves, np.float64)
    parts = len(halves)
    lengths = np.sqrt(np.diagonal(halves))
    cosines = halves / np.outer(lengths, lengths)
    rng = np.random.default_rng(seed)
    conflicts = []
    for _ in range(shuffles):
        order = rng.permutation(parts)
        shuffled = halves[np.ix_(order, order)].reshape(parts // 2, 2, parts // 2, 2)
        conflicts.append(metrics.directional(shuffled.sum((1, 3))))
    return Null(
        np.diagonal(cosines, offset=1)[::2],
        np.quantile(conflicts, [0.025, 0.5, 0.975]),
    )


def sketch_error(
    sketches: Float[np.ndarray, "task width"],
) -> Float[np.ndarray, "task task"]:
    """Standard error of each cosine that is computed from count sketches.

    The error of an inner product is the sum over the buckets of what chance put together there; the
    buckets are alike, so their spread tells it. Of the cosine to first order (delta method), with
    unit sketches s and t: sum over the buckets of s t - cos (s^2 + t^2)/2.
    """
    units = sketches / np.linalg.norm(sketches, axis=1, keepdims=True)
    cosine = units @ units.T
    error = np.zeros_like(cosine)
    for i, j in zip(*np.triu_indices(len(units), 1), strict=True):
        parts = units[i] * units[j] - cosine[i, j] * (units[i] ** 2 + units[j] ** 2) / 2
        error[i, j] = error[j, i] = np.sqrt(np.sum(parts**2))
    return error
