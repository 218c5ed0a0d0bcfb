"""Methods that act by the losses alone: against the losses that they stand for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_t5x.balance import balance
from mtl_t5x.balance.method import Measured

LOSSES = jnp.array([0.5, 1.0, 4.0])
KEY = jax.random.key(0)


@functools.partial(jax.jit, static_argnums=0)
def step(method, state, losses=LOSSES, key=KEY):
    return method(state, Measured(losses, key=key))


@pytest.mark.parametrize("method", [balance.Uncertainty(0.1), balance.IMTLL(0.02)], ids=str)
def test_learned_scales(method):
    """One step down the loss that they minimise, and at its end 1/L."""
    total = {
        balance.Uncertainty: lambda s: jnp.sum(LOSSES * jnp.exp(-s) + s),
        balance.IMTLL: lambda s: jnp.sum(LOSSES * jnp.exp(s) - s),
    }[type(method)]
    state = jnp.array([0.1, -0.2, 0.3])
    expected = state - method.learning_rate * jax.grad(total)(state)
    np.testing.assert_allclose(step(method, state)[1], expected, rtol=1e-5)
    state = jax.lax.fori_loop(0, 3000, lambda _, s: step(method, s)[1], method.init(3))
    np.testing.assert_allclose(step(method, state)[0], 1 / LOSSES, rtol=1e-3)


def test_dynamic_weight_average():
    """Windows of two steps: means 2, then 1 of the first task, which halved; the other's stayed."""
    method = balance.DynamicWeightAverage(temperature=0.5, window=2)
    state = method.init(2)
    for losses in ([3.0, 1.0], [1.0, 3.0], [0.5, 2.5]):
        weights, state = step(method, state, jnp.array(losses))
        np.testing.assert_array_equal(weights, [1, 1])
    weights, state = step(method, state, jnp.array([1.5, 1.5]))
    ratios = np.array([1 / 2, 2 / 2])
    expected = 2 * np.exp(ratios / 0.5) / np.exp(ratios / 0.5).sum()
    np.testing.assert_allclose(weights, expected, rtol=1e-5)
    again, _ = step(method, state, jnp.array([9.0, 9.0]))
    np.testing.assert_array_equal(again, weights, err_msg="until the next window is whole")


def test_random_weights():
    draw = jax.vmap(lambda key: step(balance.RandomWeights(), (), key=key)[0])
    weights = draw(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(weights.sum(axis=1), 3, rtol=1e-5)
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.05)
    assert weights.min() > 0


def test_geometric_mean():
    mean = jax.grad(lambda losses: jnp.prod(losses) ** (1 / 3))(LOSSES)
    np.testing.assert_allclose(step(balance.GeometricMean(), ())[0], mean, rtol=1e-5)


def test_smooth_tchebycheff():
    """After two steps of warm-up, with the sum of log losses, whose means are the references."""
    method = balance.SmoothTchebycheff(mu=0.5, warmup_steps=2)
    state = method.init(3)
    for losses in (LOSSES, 3 * LOSSES):
        weights, state = step(method, state, losses)
        np.testing.assert_allclose(weights, 1 / losses, rtol=1e-5)
    now = jnp.array([0.3, 2.5, 4.0])

    def scalarized(losses):
        return 3 * 0.5 * jax.nn.logsumexp(jnp.log(losses / (2 * LOSSES)) / 0.5)

    weights, after = step(method, state, now)
    np.testing.assert_allclose(weights, jax.grad(scalarized)(now), rtol=1e-5)
    np.testing.assert_array_equal(after["sum"], state["sum"])


def famo_by_hand(all_losses, rate=0.025, decay=1e-3):
    """Algorithm 1 with Adam, in NumPy: weights after each step's losses."""
    logits, first, second, before = np.zeros(3), np.zeros(3), np.zeros(3), None
    for t, losses in enumerate(all_losses):
        if before is not None:
            share = np.exp(logits) / np.exp(logits).sum()
            fall = np.log(before) - np.log(losses)
            slope = share * (fall - share @ fall) + decay * logits
            first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
            size = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
            logits = logits - rate * size
        weights = np.exp(logits) / losses
        before = losses
        yield weights / weights.sum()


def test_famo():
    rng = np.random.default_rng(0)
    all_losses = np.exp(rng.normal(size=(6, 3)))
    method = balance.FAMO()
    state = method.init(3)
    for losses, expected in zip(all_losses, famo_by_hand(all_losses)):
        weights, state = step(method, state, jnp.asarray(losses, jnp.float32))
        np.testing.assert_allclose(weights, expected, rtol=1e-4)
