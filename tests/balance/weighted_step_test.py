"""A train step whose tasks are weighted: which parameters, which compilations, which state."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from mtl_t5x import step
from mtl_t5x.balance import balance
from mtl_t5x.models import architectures
from tests import random_t5

pytestmark = pytest.mark.slow  # all compile T5s

TASKS = 3
CONFIG = dataclasses.replace(random_t5.CONFIG, num_encoder_layers=1, num_decoder_layers=1)
MODELS = {
    "text_to_text": architectures.TextToText(CONFIG),
    "text_to_text_id": architectures.TextToTextID(CONFIG),
}
KEY = jax.random.key(0)
SGD = optax.sgd(1.0)
BATCH = random_t5.batch(0, TASKS)
GROUPS = (("encoder", "encoder/.*kernel"),)
weights_of = functools.partial(jnp.asarray, dtype=jnp.float32)


def take(model, weights=None, steps=1, chosen=step.SUM, **options):
    """(update of the parameters by name, metrics of the last step)."""
    state = step.init_state(KEY, BATCH, model=model, optimizer=SGD, balance=chosen)
    before = flatten_dict(jax.tree.map(jnp.copy, state.params), sep="/")
    for _ in range(steps):
        state, metrics = step.train_step(state, BATCH, KEY, weights, balance=chosen, **options)
    after = flatten_dict(state.params, sep="/")
    return {name: after[name] - before[name] for name in after}, metrics


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_unit_weights_are_the_plain_step(model):
    """Bit for bit, and other weights take no other program."""
    plain, _ = take(model)
    unit, metrics = take(model, weights_of([1, 1, 1]))
    for name, update in plain.items():
        np.testing.assert_array_equal(unit[name], update, err_msg=name)
    np.testing.assert_array_equal(metrics["balance"]["weights"], np.ones(3))
    compiled = step.train_step._cache_size()
    alone = [take(model, weights_of(row))[0] for row in np.eye(3)]
    mixed, _ = take(model, weights_of([2, 0, 0.5]))
    assert step.train_step._cache_size() == compiled
    shared = model.shared_parameters()
    for name, update in mixed.items():
        if name.startswith("decoder") and shared != ".*":  # a decoder of each task's own
            np.testing.assert_array_equal(update, plain[name], err_msg=name)
        else:
            expected = 2 * alone[0][name] + 0.5 * alone[2][name]
            np.testing.assert_allclose(update, expected, rtol=1e-3, atol=1e-5, err_msg=name)


def test_both_exact_ways():
    """An exact step is the same by both its ways, and as one with these weights given."""
    model, method = MODELS["text_to_text_id"], balance.MGDA()
    exact = balance.Balance(method, applied="exact")
    twice, metrics = take(model, chosen=exact, groups=GROUPS)
    kept, of_kept = take(model, chosen=dataclasses.replace(exact, keep_gradients=True))
    for name, update in twice.items():
        np.testing.assert_allclose(kept[name], update, rtol=1e-3, atol=1e-5, err_msg=name)
    weights = metrics["balance"]["weights"]
    np.testing.assert_allclose(of_kept["balance"]["weights"], weights, rtol=1e-4)
    static, of_static = take(model, weights)
    for name, update in twice.items():
        np.testing.assert_allclose(static[name], update, rtol=1e-3, atol=1e-5, err_msg=name)
    assert 0 < metrics["balance"]["angle"] < 90
    assert set(metrics["conflict"]) == {"encoder"} and set(of_static["balance"]) == {"weights"}


def test_microbatches_give_the_same_weights():
    model = MODELS["text_to_text"]
    chosen = balance.Balance(balance.MoDo(learning_rate=1e-4))
    state = step.init_state(KEY, BATCH, model=model, optimizer=SGD, balance=chosen)
    whole, parts = (
        step.train_step(jax.tree.map(jnp.copy, state), BATCH, KEY, balance=chosen, **options)[0]
        for options in ({}, {"microbatches": 2})
    )
    assert float(jnp.ptp(whole.balance["weights"])) > 0
    np.testing.assert_allclose(whole.balance["weights"], parts.balance["weights"], rtol=1e-5)
