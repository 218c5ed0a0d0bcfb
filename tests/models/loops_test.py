"""Layers computed in a loop, against layers one after the other."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_t5x import measure
from mtl_t5x.gradients import one_pass
from mtl_t5x.models import architectures, t5
from tests import random_t5

CONFIG = random_t5.CONFIG
DEEPER = dataclasses.replace(CONFIG, num_encoder_layers=2, num_decoder_layers=3)


def test_a_loop_computes_what_layers_in_turn_do():
    """Losses, gradient and Gram matrices, one of a group of the second layer alone."""
    params, batch = random_t5.params(DEEPER), random_t5.batch(0)
    groups = {"encoder": one_pass.ENCODER, "all": ".*", "second": "encoder/layers_1/.*kernel"}

    def found(config):
        model = architectures.TextToText(config)
        measured = jax.jit(
            lambda params: one_pass.gradient_and_grams(
                lambda params, probes: (
                    model.apply({"params": params, "probes": probes}, batch), None
                ),
                params, 3, groups,
            )
        )  # fmt: skip
        return measured(params)

    loop = dataclasses.replace(DEEPER, scan_layers=True, remat=True)
    for one, other in zip(*map(jax.tree.leaves, map(found, (DEEPER, loop))), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max())


class Drops(nn.Module):
    config: t5.T5Config

    @nn.compact
    def __call__(self, x, deterministic):
        return nn.Dropout(0.5)(x, deterministic=deterministic)


class Stack(nn.Module):
    config: t5.T5Config

    @nn.compact
    def __call__(self, x):
        return t5._in_turn(self, Drops, 6, x, (), deterministic=False)


@pytest.mark.parametrize("loop", [False, True], ids=["", "loop"])
def test_each_layer_drops_by_itself(loop):
    """One in 2^6 numbers comes through six layers; were their masks equal, one in two did."""
    stack = Stack(dataclasses.replace(CONFIG, scan_layers=loop))
    left = stack.apply({}, jnp.ones((1, 80, 80)), rngs={"dropout": jax.random.key(0)})
    assert 50 < np.count_nonzero(left) < 150


def test_sketches_are_of_layers_in_turn():
    """Each layer's have signs of its own, which a loop can't give them."""
    config = dataclasses.replace(CONFIG, scan_layers=True)
    params, model = random_t5.params(CONFIG), architectures.TextToText(config)
    kernels = one_pass.select(params, {"encoder": one_pass.ENCODER})

    def loss_fn(params, probes):
        return model.apply({"params": params, "probes": probes}, random_t5.batch(0)), None

    with pytest.raises(ValueError, match="can't be sketched: T5Config.scan_layers = False"):
        one_pass.gradient_and_sketches(loss_fn, params, 3, kernels, width=8)
    settings = measure.Settings(
        examples=8, microbatch_size=4, groups={"all": ".*query/kernel"}, sketch_width=256
    )
    drawn = random_t5.drawn([random_t5.batch(0), random_t5.batch(1)])

    def found(config):
        model = architectures.TextToText(config)
        measured = measure.measure_batches(
            params, drawn, model=model, tasks=("a", "b", "c"), settings=settings
        )
        return measured["groups"]["all"]

    assert found(config) == found(CONFIG)
