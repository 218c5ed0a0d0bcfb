"""Losses against closed forms and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from mtl_t5x.models import losses

TASKS, EXAMPLES, LENGTH, VOCAB = 3, 4, 5, 7


def draw(seed=0):
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(TASKS, EXAMPLES, LENGTH, VOCAB))
    targets = rng.integers(0, VOCAB, (TASKS, EXAMPLES, LENGTH))
    weights = rng.integers(0, 2, (TASKS, EXAMPLES, LENGTH))
    weights[:, 0, 0] = 1
    return jnp.float32(logits), jnp.int32(targets), jnp.float32(weights)


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_mean_over_each_tasks_own_tokens(z_loss):
    logits, targets, weights = draw()
    actual = losses.token_cross_entropy(logits, targets, weights, z_loss)
    log_softmax = scipy.special.log_softmax(np.float64(logits), axis=-1)
    normaliser = scipy.special.logsumexp(np.float64(logits), axis=-1)
    for k in range(TASKS):
        tokens = [
            -log_softmax[k, b, t, targets[k, b, t]] + z_loss * normaliser[k, b, t] ** 2
            for b in range(EXAMPLES)
            for t in range(LENGTH)
            if weights[k, b, t]
        ]
        np.testing.assert_allclose(actual[k], np.mean(tokens), rtol=1e-6)


def test_equal_logits_cost_the_log_of_the_vocabulary():
    _, targets, weights = draw()
    logits = jnp.full((TASKS, EXAMPLES, LENGTH, VOCAB), 2.5)
    np.testing.assert_allclose(
        losses.token_cross_entropy(logits, targets, weights), np.log(VOCAB), rtol=1e-6
    )
    np.testing.assert_allclose(
        losses.token_cross_entropy(logits, targets, weights, 0.5),
        np.log(VOCAB) + 0.5 * (2.5 + np.log(VOCAB)) ** 2,
        rtol=1e-6,
    )


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_gradient_is_that_of_autodiff(z_loss):
    """Its own backward pass, against autodiff's of optax's loss."""
    logits, targets, weights = draw()

    def by_autodiff(logits):
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        entropy += z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
        return jnp.sum(jnp.sum(entropy * weights, (1, 2)) / jnp.sum(weights, (1, 2)))

    def ours(logits):
        return jnp.sum(losses.token_cross_entropy(logits, targets, weights, z_loss))

    expected = jax.grad(by_autodiff)(logits)
    np.testing.assert_allclose(jax.grad(ours)(logits), expected, rtol=0, atol=1e-6)
    rounded = jax.grad(ours)(logits.astype(jnp.bfloat16))
    assert rounded.dtype == jnp.bfloat16
    error = jnp.linalg.norm(rounded.astype(jnp.float32) - expected) / jnp.linalg.norm(expected)
    assert error < 2e-2


def test_padding_is_not_read():
    logits, targets, weights = draw()
    off = weights == 0
    changed = losses.token_cross_entropy(
        jnp.where(off[..., None], -50.0, logits), jnp.where(off, 0, targets), weights
    )
    np.testing.assert_array_equal(changed, losses.token_cross_entropy(logits, targets, weights))


def test_gradient_is_softmax_minus_target():
    logits, targets, weights = draw()
    gradient = jax.grad(lambda x: losses.token_cross_entropy(x, targets, weights).sum())(logits)
    softmax = scipy.special.softmax(np.float64(logits), axis=-1)
    counts = np.asarray(weights).sum(axis=(1, 2))[:, None, None, None]
    expected = (softmax - np.eye(VOCAB)[targets]) * np.asarray(weights)[..., None] / counts
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6)


def test_large_logits_stay_finite():
    logits = jnp.zeros((1, 1, 1, VOCAB)).at[..., 0].set(1e4)
    targets, weights = jnp.ones((1, 1, 1), jnp.int32), jnp.ones((1, 1, 1))
    np.testing.assert_allclose(losses.token_cross_entropy(logits, targets, weights), [1e4])
