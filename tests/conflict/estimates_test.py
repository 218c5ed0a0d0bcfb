"""Estimates against what they estimate: drawn gradients of known means and covariances."""

import jax.numpy as jnp
import numpy as np
import pytest

from mtl_t5x.conflict import estimates
from mtl_t5x.conflict import metrics as conflict_metrics
from mtl_t5x.gradients import probes

TASKS, SIZE = 4, 30


def population(seed=0, noise=1.0):
    """(means [task, size], per-example noise scales [task])."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(TASKS, SIZE)) + 0.7
    return means, noise * np.linspace(0.5, 2.0, TASKS) * np.sqrt(SIZE)


def draw_halves(rng, steps, examples, noise=1.0):
    """Gram matrices of halves, `[step, 2 task, 2 task]`: each a share of its batch's mean."""
    means, scales = population(noise=noise)
    shape = (steps, TASKS, 2, SIZE)
    spread = scales[:, None, None] / np.sqrt(SIZE) * np.sqrt(2 / examples)
    # Noise with heavy tails, of variance 1.
    own = means[:, None] + spread * rng.laplace(size=shape) / np.sqrt(2)
    rows = own.reshape(steps, 2 * TASKS, SIZE) / 2
    return rows @ rows.transpose(0, 2, 1)


def unbiased(halves):
    return np.array([conflict_metrics.unbiased(jnp.asarray(h)) for h in halves], np.float64)


def truth(number):
    means, _ = population()
    return float(number(means @ means.T))


def test_halves_add_up_to_the_tasks():
    rows = np.random.default_rng(0).normal(size=(TASKS, 2, SIZE))
    parts, whole = rows.reshape(-1, SIZE), rows.sum(1)
    halves = jnp.asarray(parts @ parts.T)
    np.testing.assert_allclose(
        conflict_metrics.add_halves(halves), whole @ whole.T, rtol=1e-4, atol=1e-4
    )
    gram = np.asarray(conflict_metrics.unbiased(halves))
    off = ~np.eye(TASKS, dtype=bool)
    np.testing.assert_allclose(gram[off], (whole @ whole.T)[off], rtol=1e-4, atol=1e-4)
    across = 4 * np.sum(rows[:, 0] * rows[:, 1], axis=1)
    np.testing.assert_allclose(np.diagonal(gram), across, rtol=1e-4, atol=1e-4)


def test_numbers_are_those_of_the_conflict_module():
    means, _ = population()
    gram = means @ means.T
    expected = conflict_metrics.all_metrics(jnp.asarray(gram))
    for name, number in estimates.METRICS.items():
        np.testing.assert_allclose(number(gram), expected[name], rtol=1e-4)
        np.testing.assert_allclose(number(np.stack([gram, 2 * gram]))[0], number(gram))


def test_pooled_gram_matrix_approaches_the_true_one():
    means, _ = population()
    gram = unbiased(draw_halves(np.random.default_rng(0), 4000, 8))
    expected = means @ means.T
    pooled = estimates.pooled(gram, np.ones((4000, TASKS)))
    error = gram.std(axis=0) / np.sqrt(4000)
    assert np.all(np.abs(pooled - expected) < 4.5 * error)


def test_tokens_weigh_alike_in_long_and_short_batches():
    """Steps whose losses are means over unequally many tokens, correlated with the gradient."""
    tokens = np.array([[1.0, 1.0], [3.0, 1.0]])
    sums = np.array([[[1.0], [2.0]], [[9.0], [2.0]]])  # summed gradient of each step and task
    rows = sums / tokens[:, :, None]
    grams = rows @ rows.transpose(0, 2, 1)
    pooled = estimates.pooled(grams, tokens)
    # Of different tasks: mean of products of sums, over the product of the mean tokens.
    assert pooled[0, 1] == pytest.approx((1 * 2 + 9 * 2) / 2 / (2 * 1))


def test_jackknife_of_a_square_is_its_unbiased_estimate():
    values = np.random.default_rng(0).normal(size=50)
    grams = values[:, None, None]
    estimate = estimates.jackknife(lambda g: g[..., 0, 0] ** 2, grams, np.ones((50, 1)))
    pairs = np.outer(values, values)
    np.fill_diagonal(pairs, 0)
    assert estimate.value == pytest.approx(pairs.sum() / (50 * 49))
    mean = estimates.jackknife(lambda g: g[..., 0, 0], grams, np.ones((50, 1)))
    assert mean.value == pytest.approx(values.mean())
    assert mean.standard_error == pytest.approx(values.std(ddof=1) / np.sqrt(50))
    low, high = mean.interval()
    assert high - low == pytest.approx(2 * 2.009575 * mean.standard_error)


@pytest.mark.parametrize("name", ["directional", "magnitude"])
def test_intervals_hold_the_large_batchs_figure(name):
    """At least 90 of 100, where the naive mean of the batches' figures never does."""
    number = estimates.METRICS[name]
    expected, held, naive_held = truth(number), 0, 0
    for seed in range(100):
        halves = draw_halves(np.random.default_rng(seed), 60, 8)
        across = halves.reshape(60, TASKS, 2, TASKS, 2)
        whole = across.sum((2, 4))
        gram = whole.copy()
        k = np.arange(TASKS)
        gram[:, k, k] = 4 * across[:, k, 0, k, 1]
        low, high = estimates.estimate_metrics(gram, np.ones((60, TASKS)))[name].interval()
        held += low <= expected <= high
        values = number(whole)
        error = 2 * values.std(ddof=1) / np.sqrt(60)
        naive_held += abs(values.mean() - expected) <= error
    assert held >= 90
    assert naive_held <= 10


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_magnitude_where_there_is_none(mean):
    """d_k = ||g_k||^2 - ||sum g||^2 around 0, where a first-order error would be near 0 too."""
    held = 0
    for seed in range(200):
        values = mean + 3 * np.random.default_rng(seed).normal(size=(80, TASKS))
        grams = np.zeros((80, TASKS, TASKS))
        k = np.arange(TASKS)
        grams[:, k, k] = values
        # One off-diagonal entry takes the sum away again: d_k is the k-th diagonal entry.
        grams[:, 0, 1] = -values.sum(axis=1)
        estimate = estimates.estimate_magnitude(grams, np.ones((80, TASKS)))
        low, high = estimate.interval()
        held += low <= mean**2 <= high
    assert held >= 180


def test_one_step_has_no_standard_error():
    means, _ = population()
    found = estimates.estimate_metrics((means @ means.T)[None], np.ones((1, TASKS)))
    assert found["directional"].value == pytest.approx(truth(conflict_metrics.directional))
    assert np.isnan(found["directional"].standard_error)
    assert np.all(np.isnan(found["directional"].interval()))


def test_negative_squared_norms_give_no_direction():
    gram = np.array([[-0.1, 0.2], [0.2, 1.0]])
    assert np.isnan(conflict_metrics.directional(gram))
    assert np.isfinite(conflict_metrics.magnitude(gram))


def test_noise_scale():
    """|G|^2, trace and scale from the averages over many steps, for B and for its halves."""
    means, scales = population()
    halves = draw_halves(np.random.default_rng(0), 6000, 8).mean(axis=0)
    noise = estimates.noise_of_halves(halves, 8)
    squares, trace = np.sum(means**2, axis=1), scales**2
    np.testing.assert_allclose(noise.squared_norm, squares, rtol=0.05)
    np.testing.assert_allclose(noise.trace, trace, rtol=0.05)
    np.testing.assert_allclose(noise.scale, trace / squares, rtol=0.08)
    direct = estimates.noise(squares + trace / 32, squares + trace / 8, 32, 8)
    np.testing.assert_allclose(direct.squared_norm, squares)
    np.testing.assert_allclose(direct.trace, trace)
    negative = estimates.noise(np.array([1.0]), np.array([9.0]), 2, 1)
    assert negative.squared_norm < 0 and np.isnan(negative.scale[0])


def test_null_of_tasks_that_are_one():
    """Where every task has the same gradient, the conflict lies within the shuffled band."""
    rng = np.random.default_rng(0)
    rows = 1 + rng.normal(size=(2 * TASKS, SIZE))
    halves = rows @ rows.T
    null = estimates.null(halves)
    low, median, high = null.shuffled
    assert low < median < high
    assert (
        low
        < float(conflict_metrics.directional(conflict_metrics.add_halves(jnp.asarray(halves))))
        < high
    )
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(null.split_half, np.sum(units[::2] * units[1::2], axis=1))


def test_conflict_of_different_tasks_lies_below_the_shuffled_band():
    rng = np.random.default_rng(0)
    means = 3 * np.linalg.qr(rng.normal(size=(SIZE, TASKS)))[0].T
    rows = np.repeat(means, 2, axis=0) + 0.1 * rng.normal(size=(2 * TASKS, SIZE))
    halves = rows @ rows.T
    observed = float(conflict_metrics.directional(conflict_metrics.add_halves(jnp.asarray(halves))))
    assert observed < estimates.null(halves).shuffled[0]


@pytest.mark.slow
def test_sketch_error_is_the_spread_over_seeds():
    rows = np.random.default_rng(0).normal(size=(3, 2000)) + np.array([[0.5], [0.5], [0.0]])
    true = rows @ rows.T
    lengths = np.sqrt(np.diagonal(true))
    true = true / np.outer(lengths, lengths)
    cosines, errors = [], []
    for seed in range(24):
        sketch = np.asarray(probes.sketch(jnp.asarray(rows, jnp.float32), 128, seed), np.float64)
        gram = sketch @ sketch.T
        lengths = np.sqrt(np.diagonal(gram))
        cosines.append(gram / np.outer(lengths, lengths))
        errors.append(estimates.sketch_error(sketch))
    off = np.triu_indices(3, 1)
    spread = np.std(cosines, axis=0)[off]
    np.testing.assert_allclose(np.mean(errors, axis=0)[off], spread, rtol=0.5)
    bias = (np.mean(cosines, axis=0) - true)[off]
    assert np.all(np.abs(bias) < 4 * spread / np.sqrt(24))
