"""Per-task gradients and Gram matrices: a toy's closed form, a T5 against K jax.grad calls."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mtl_t5x.gradients import one_pass, probes
from mtl_t5x.models import architectures
from tests import random_t5

TASKS = 3
CONFIG = dataclasses.replace(random_t5.CONFIG, num_encoder_layers=2, num_decoder_layers=2)
MODEL = architectures.TextToText(CONFIG)


# A toy: loss_k = 1/2 ||A_k w + c - b_k||^2, so g_k = A_k^T r_k for w and sum(r_k) for c.


def toy(seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(TASKS, 6, 4)), rng.normal(size=(TASKS, 6, 2))
    w, c = rng.normal(size=(4, 2)), rng.normal(size=(2,))
    residuals = a @ w + c - b
    expected = {
        "layer/w": np.einsum("kni,kno->kio", a, residuals),
        "layer/c": residuals.sum(axis=1),
    }
    a, b, w, c = (jnp.asarray(x, jnp.float32) for x in (a, b, w, c))

    def loss_fn(params, given):
        given = given.get("layer", {})
        y = probes.dot(a, params["layer"]["w"], given.get("w"))
        shift = probes.spread(params["layer"]["c"], given.get("c"))
        y = y + (shift[:, None] if shift.ndim == 2 else shift)
        return 0.5 * jnp.sum((y - b) ** 2, axis=(1, 2)), "aux"

    losses = 0.5 * np.sum(residuals**2, axis=(1, 2))
    return loss_fn, {"layer": {"w": w, "c": c}}, losses, expected


def gram(rows):
    rows = np.asarray(rows, np.float64).reshape(len(rows), -1)
    return rows @ rows.T


def test_toy_in_closed_form():
    loss_fn, params, losses, expected = toy()
    groups = {"w": ".*/w", "c": "layer/c", "both": "layer/.*", "again": "layer/(w|c)"}
    (actual_losses, aux), grads, grams = one_pass.gradient_and_grams(loss_fn, params, TASKS, groups)
    assert aux == "aux"
    np.testing.assert_allclose(actual_losses, losses, rtol=1e-5)
    for name, gradient in flatten_dict(grads, sep="/").items():
        np.testing.assert_allclose(gradient, expected[name].sum(axis=0), rtol=1e-5)
    by_group = {"w": gram(expected["layer/w"]), "c": gram(expected["layer/c"])}
    by_group["both"] = by_group["again"] = by_group["w"] + by_group["c"]
    assert set(grams) == set(groups)
    for group, matrix in by_group.items():
        np.testing.assert_allclose(grams[group], matrix, rtol=1e-5, err_msg=group)


def test_toy_task_gradients():
    loss_fn, params, losses, expected = toy()
    (actual_losses, _), grads, by_name = one_pass.per_task_gradients(
        loss_fn, params, TASKS, "layer/.*"
    )
    np.testing.assert_allclose(actual_losses, losses, rtol=1e-5)
    assert set(by_name) == set(expected)
    for name, rows in expected.items():
        np.testing.assert_allclose(by_name[name], rows, rtol=1e-5, err_msg=name)
    for name, gradient in flatten_dict(grads, sep="/").items():
        np.testing.assert_allclose(gradient, expected[name].sum(axis=0), rtol=1e-5)


def test_toy_without_measuring():
    loss_fn, params, losses, expected = toy()
    (actual_losses, aux), grads = one_pass.gradient(loss_fn, params)
    assert aux == "aux"
    np.testing.assert_allclose(actual_losses, losses, rtol=1e-5)
    for name, gradient in flatten_dict(grads, sep="/").items():
        np.testing.assert_allclose(gradient, expected[name].sum(axis=0), rtol=1e-5)


# Choosing parameters


def test_group_that_matches_nothing():
    loss_fn, params, _, _ = toy()
    with pytest.raises(ValueError) as error:
        one_pass.gradient_and_grams(loss_fn, params, TASKS, {"good": "layer/w", "heads": "head/.*"})
    assert str(error.value) == (
        "conflict groups, 'heads': the expression 'head/.*' matches no parameter. Names look like "
        "layer/c, layer/w; model-info.txt lists them all."
    )


def test_encoder_group_leaves_out_norms_and_embedding():
    """An expression must match the whole name: `encoder/…` is not `decoder/encoder_decoder_…`."""
    chosen = one_pass.select(random_t5.params(CONFIG), {"encoder": one_pass.ENCODER})["encoder"]
    expected = {"encoder/relpos_bias/rel_embedding"}
    for i in range(2):
        for name in ("query", "key", "value", "out"):
            expected.add(f"encoder/layers_{i}/attention/{name}/kernel")
        for name in ("wi_0", "wi_1", "wo"):
            expected.add(f"encoder/layers_{i}/mlp/{name}/kernel")
    assert set(chosen) == expected


# The model


def separate_gradients(params, batch, config=CONFIG):
    """K jax.grad calls, each on one task's examples alone, by autodiff of plain operations."""

    def dot(x, weight, probe=None):
        assert probe is None
        return x @ weight.astype(x.dtype)

    def spread(weight, probe):
        assert probe is None
        return weight

    model = architectures.TextToText(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "dot", dot)
        patch.setattr(probes, "spread", spread)
        one = jax.jit(jax.grad(lambda p, batch: model.apply({"params": p}, batch)[0]))
        by_task = [
            flatten_dict(one(params, {n: a[k : k + 1] for n, a in batch.items()}), sep="/")
            for k in range(TASKS)
        ]
    return {name: np.stack([grads[name] for grads in by_task]) for name in by_task[0]}


def loss_fn(params, given, batch, model=MODEL):
    return model.apply({"params": params, "probes": given}, batch), None


@pytest.fixture(scope="module")
def measured():
    """Parameters, batch and the K separate gradients of every parameter."""
    params, batch = random_t5.params(CONFIG), random_t5.batch(0, TASKS)
    return params, batch, separate_gradients(params, batch)


def assert_rows_close(actual, expected, name):
    """Each task's gradient of one parameter, relative to its own norm."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, name
    axes = tuple(range(1, actual.ndim))
    error = np.sqrt(np.sum((actual - expected) ** 2, axis=axes))
    norm = np.sqrt(np.sum(expected**2, axis=axes))
    assert np.all(norm > 0), name
    assert np.all(error <= 1e-5 * norm), (name, error / norm)


def assert_gram_close(actual, expected, name):
    """Each entry, relative to the product of its two norms: a cosine's absolute error."""
    norms = np.sqrt(np.diagonal(expected))
    error = np.abs(np.asarray(actual, np.float64) - expected) / np.outer(norms, norms)
    assert np.all(error <= 1e-5), (name, error.max())


def test_task_gradients_of_every_parameter(measured):
    params, batch, expected = measured
    _, grads, by_name = jax.jit(
        lambda params, batch: one_pass.per_task_gradients(
            lambda p, given: loss_fn(p, given, batch), params, TASKS, ".*"
        )
    )(params, batch)
    assert set(by_name) == set(expected) == set(flatten_dict(params, sep="/"))
    for name, rows in expected.items():
        assert_rows_close(by_name[name], rows, name)
    for name, gradient in flatten_dict(grads, sep="/").items():
        assert_rows_close(gradient[None], expected[name].sum(axis=0)[None], name)


def test_gram_matrices_of_every_parameter_and_group(measured):
    params, batch, expected = measured
    groups = {name: re.escape(name) for name in expected}
    groups |= {"encoder": one_pass.ENCODER, "decoder": "decoder/.*", "all": ".*"}
    (losses, _), grads, grams = jax.jit(
        lambda params, batch: one_pass.gradient_and_grams(
            lambda p, given: loss_fn(p, given, batch), params, TASKS, groups
        )
    )(params, batch)
    by_name = {name: gram(rows) for name, rows in expected.items()}
    for name, matrix in by_name.items():
        assert_gram_close(grams[name], matrix, name)
    for group, names in one_pass.select(params, groups).items():
        assert_gram_close(grams[group], sum(by_name[name] for name in names), group)
    for name, gradient in flatten_dict(grads, sep="/").items():
        assert_rows_close(gradient[None], expected[name].sum(axis=0)[None], name)
    without = jax.jit(lambda params: MODEL.apply({"params": params}, batch))(params)
    np.testing.assert_allclose(losses, without, rtol=1e-6)


def test_plain_gradient_of_every_parameter(measured):
    params, batch, expected = measured
    _, grads = jax.jit(
        lambda params, batch: one_pass.gradient(functools.partial(loss_fn, batch=batch), params)
    )(params, batch)
    for name, gradient in flatten_dict(grads, sep="/").items():
        assert_rows_close(gradient[None], expected[name].sum(axis=0)[None], name)


def test_bfloat16_gram_is_that_of_its_own_gradients(measured):
    """Lower precision changes the gradients, not how they are multiplied."""
    params, batch, expected = measured
    half = architectures.TextToText(dataclasses.replace(CONFIG, dtype="bfloat16"))

    @jax.jit
    def both(params, batch):
        def fn(p, given):
            return loss_fn(p, given, batch, half)

        pattern = "encoder/layers_0/.*kernel"
        _, _, by_name = one_pass.per_task_gradients(fn, params, TASKS, pattern)
        _, _, grams = one_pass.gradient_and_grams(fn, params, TASKS, {"layer": pattern})
        return by_name, grams["layer"]

    by_name, matrix = both(params, batch)
    assert matrix.dtype == jnp.float32
    assert_gram_close(matrix, sum(gram(rows) for rows in by_name.values()), "layer")
    exact = sum(gram(expected[name]) for name in by_name)
    norms = np.sqrt(np.diagonal(exact))
    assert np.abs(matrix - exact).max() < 0.05 * np.outer(norms, norms).max()
