"""Attention's own backward pass against autodiff of the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_t5x.models import layers

TASKS, BATCH, QUERIES, KEYS, HEADS, DEPTH = 2, 3, 5, 7, 2, 4


def by_formula(query, key, value, bias, mask):
    scores = jnp.einsum("tbqhd,tbkhd->tbhqk", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[..., None, :, :], scores + bias, layers.MASKED)
    return jnp.einsum("tbhqk,tbkhd->tbqhd", jax.nn.softmax(scores, axis=-1), value)


def draw(bias_shape, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 6)
    query, key, value = (
        2 * jax.random.normal(k, (TASKS, BATCH, n, HEADS, DEPTH), dtype)
        for k, n in zip(keys, (QUERIES, KEYS, KEYS))
    )
    bias = jax.random.normal(keys[3], bias_shape)
    mask = jax.random.bernoulli(keys[4], 0.7, (TASKS, BATCH, 1, KEYS))
    mask = mask.at[0, 0].set(False)  # an example of nothing but padding
    cotangent = jax.random.normal(keys[5], query.shape, dtype)
    return (query, key, value, bias), mask, cotangent


@pytest.mark.parametrize(
    "bias_shape",
    [
        (HEADS, QUERIES, KEYS),
        (TASKS, 1, HEADS, QUERIES, KEYS),
        (TASKS, BATCH, HEADS, QUERIES, KEYS),
        (HEADS, 1, 1),
    ],
)
def test_attention_is_the_formulas(bias_shape):
    arrays, mask, cotangent = draw(bias_shape)
    found, backward = jax.vjp(lambda *arrays: layers.attend(*arrays, mask), *arrays)
    expected, backward_by_formula = jax.vjp(lambda *arrays: by_formula(*arrays, mask), *arrays)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    for gradient, other in zip(backward(cotangent), backward_by_formula(cotangent), strict=True):
        # A bias that is the same for every key changes nothing.
        largest = jnp.abs(other).max() if bias_shape != (HEADS, 1, 1) else 1.0
        assert largest > 0.1
        np.testing.assert_allclose(gradient, other, rtol=0, atol=1e-5 * largest)


def test_bfloat16_is_close():
    arrays, mask, cotangent = draw((HEADS, QUERIES, KEYS), jnp.bfloat16)
    exact = tuple(array.astype(jnp.float32) for array in arrays)
    _, backward = jax.vjp(lambda *arrays: layers.attend(*arrays, mask), *arrays)
    _, backward_by_formula = jax.vjp(lambda *arrays: by_formula(*arrays, mask), *exact)
    found, expected = backward(cotangent), backward_by_formula(cotangent.astype(jnp.float32))
    for array, gradient, other in zip(arrays, found, expected, strict=True):
        assert gradient.dtype == array.dtype
        error = jnp.linalg.norm(gradient.astype(jnp.float32) - other) / jnp.linalg.norm(other)
        assert error < 0.02  # a rounding is 2^-9


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_norms_gradients_are_those_of_its_formula(dtype):
    """However the platform sums what the rows say of the scale."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (TASKS, BATCH, 7, 24), dtype)
    scale = 1 + jax.random.normal(keys[1], (24,))
    cotangent = jax.random.normal(keys[2], x.shape, dtype)

    def formula(params, x):
        wide = x.astype(jnp.float32)
        norm = jnp.sqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + 1e-6)
        return (wide / norm * params["scale"]).astype(x.dtype)

    def ours(params, x):
        return layers.RMSNorm().apply({"params": params}, x)

    gradients = [jax.vjp(f, {"scale": scale}, x)[1](cotangent) for f in (formula, ours)]
    tolerance = 1e-6 if dtype == jnp.float32 else 2**-7
    for expected, found in zip(*map(jax.tree.leaves, gradients)):
        expected, found = (np.asarray(x, np.float32) for x in (expected, found))
        assert np.linalg.norm(found - expected) < tolerance * np.linalg.norm(expected)
