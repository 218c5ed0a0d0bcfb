"""Parameters that aren't trained: bit-equal, without optimizer state, not in what is measured."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from mtl_t5x import step
from mtl_t5x.balance import balance, weighing
from mtl_t5x.balance.state import State
from mtl_t5x.gradients import freezing, one_pass
from mtl_t5x.models import architectures
from mtl_t5x.settings.checks import SettingsError
from tests import random_t5

CONFIG = dataclasses.replace(random_t5.CONFIG, num_decoder_layers=1)
MODEL = architectures.TextToText(CONFIG)
BATCH = random_t5.batch(0, 3)
KEY = jax.random.key(0)
ENCODER = (("encoder", one_pass.ENCODER),)
ATTENTION = "encoder/.*attention/.*|decoder/.*"
# eps as the paper preset has it.
ADAMW = step.adamw(1e-2, 1, 50, eps=1e-6, eps_before_correction=True)
SGD = optax.sgd(0.1)


def new_state(trainable, optimizer=ADAMW, chosen=step.SUM):
    return State.create(
        apply_fn=MODEL.apply,
        params=random_t5.params(CONFIG),
        tx=freezing.optimizer(optimizer, trainable),
        balance=weighing.init(chosen, tasks=3),
    ).replace(step=jnp.int32(0))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def by_name(params):
    return {name: np.asarray(value) for name, value in flatten_dict(params, sep="/").items()}


def test_frozen_parameters_stay_and_have_no_state():
    state = new_state("decoder/.*")
    before = by_name(state.params)
    still = freezing.frozen(state.params, "decoder/.*")
    trained = sum(value.size for name, value in before.items() if name not in still)
    assert 0 < trained < count(before)
    for moment in ("mu", "nu"):
        assert count(optax.tree.get(state.opt_state, moment)) == trained
    lowered = step.train_step.lower(state, BATCH, KEY, trainable="decoder/.*")
    compiled = lowered.compile()
    held = compiled.memory_analysis().argument_size_in_bytes
    of_batch = sum(value.nbytes for value in BATCH.values())
    assert held == pytest.approx(4 * (count(before) + 2 * trained) + of_batch, abs=200)
    of_all = step.train_step.lower(new_state(None), BATCH, KEY).cost_analysis()
    assert lowered.cost_analysis()["flops"] < 0.8 * of_all["flops"]  # the encoder's way back
    for _ in range(20):
        state, _ = compiled(state, BATCH, KEY)
    for name, value in by_name(state.params).items():
        assert np.array_equal(before[name], value) == (name in still), name


@pytest.mark.parametrize("microbatches", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_others_are_updated_and_measured_as_ever(microbatches):
    """By the gradients that they have where all are trained."""
    start = by_name(random_t5.params(CONFIG))
    measured = (("encoder", "encoder/.*attention/.*kernel"),)
    whole, of_whole = step.train_step(new_state(None, SGD), BATCH, KEY, groups=measured)
    parts, of_parts = step.train_step(
        new_state(ATTENTION, SGD), BATCH, KEY,
        groups=ENCODER, microbatches=microbatches, trainable=ATTENTION,
    )  # fmt: skip
    still, whole = freezing.frozen(parts.params, ATTENTION), by_name(whole.params)
    moved = []
    for name, value in by_name(parts.params).items():
        expected = start[name] if name in still else whole[name]
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5, err_msg=name)
        moved.append(np.sum(np.square(expected - start[name])))
    np.testing.assert_allclose(of_parts["grad_norm"], np.sqrt(sum(moved)) / 0.1, rtol=1e-3)
    for name, value in of_whole["conflict"]["encoder"].items():
        np.testing.assert_allclose(
            of_parts["conflict"]["encoder"][name], value, rtol=1e-4, atol=1e-6, err_msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"applied": "exact"}, {"applied": "exact", "keep_gradients": True}],
    ids=["lagged", "exact", "kept"],
)
def test_methods_act_by_what_is_trained(options):
    chosen = balance.Balance(balance.MGDA(), **options)
    state = new_state("encoder/.*attention/.*", chosen=chosen)
    state, metrics = step.train_step(
        state, BATCH, KEY, balance=chosen, trainable="encoder/.*attention/.*"
    )
    alone = balance.Balance(balance.MGDA(), parameters="encoder/.*attention/.*kernel", **options)
    _, expected = step.train_step(new_state(None, chosen=alone), BATCH, KEY, balance=alone)
    for name in ("weights", "angle"):
        np.testing.assert_allclose(
            metrics["balance"][name], expected["balance"][name], rtol=1e-3, err_msg=name
        )
    before = by_name(random_t5.params(CONFIG)["decoder"])
    for name, value in by_name(state.params["decoder"]).items():
        np.testing.assert_array_equal(before[name], value)


def test_equal_expressions_share_a_compilation():
    assert freezing.optimizer(ADAMW, "a") is freezing.optimizer(ADAMW, "a")
    assert freezing.optimizer(ADAMW, None) is ADAMW


def test_what_is_refused():
    params = random_t5.params(CONFIG)
    with pytest.raises(SettingsError, match=r"TRAINABLE = 'decodr/\.\*' matches no.* decoder/"):
        freezing.frozen(params, "decodr/.*")
    with pytest.raises(SettingsError, match=r"groups, 'encoder': nothing .*TRAINABLE = 'decoder"):
        freezing.select(params, dict(ENCODER), "measure.InTraining.groups", "decoder/.*")
    with pytest.raises(ValueError, match="'none': the expression 'nothing' matches no parameter"):
        freezing.select(params, {"none": "nothing"}, trainable="decoder/.*")


def test_a_group_for_each_trained_layer():
    groups = {r"\1": r"(decoder/layers_\d+)/.*kernel", "all": ".*kernel"}
    found = freezing.select(random_t5.params(), groups, trainable="decoder/layers_1/.*")
    assert set(found) == {"decoder/layers_1", "all"}
    assert all(name.startswith("decoder/layers_1/") for name in found["all"])
