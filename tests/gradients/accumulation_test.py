"""Microbatches: a task that has nothing in one, or in all, and what a step makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from mtl_t5x import step
from mtl_t5x.data import grouping
from mtl_t5x.models import architectures
from tests import random_t5

MODEL = architectures.TextToText(random_t5.CONFIG)
GROUPS = (("all", ".*"),)
TASK_IDS = [2, 0, 2, 2, 0, 2]  # task 1 has no example; of task 0's four places two are empty


def take(microbatches, groups):
    flat = {name: np.asarray(value[0]) for name, value in random_t5.batch(0, 1, 6).items()}
    batch = jax.tree.map(jnp.asarray, grouping.group_by_task(flat, TASK_IDS, 3, 4))
    state = TrainState.create(apply_fn=MODEL.apply, params=random_t5.params(), tx=optax.sgd(0.1))
    state = state.replace(step=jnp.int32(0))
    return step.train_step(
        state, batch, jax.random.key(0), groups=groups, microbatches=microbatches
    )


@pytest.mark.parametrize(
    "groups",
    [pytest.param((), marks=pytest.mark.slow), GROUPS],
    ids=["plain", "measuring"],
)
def test_a_task_without_examples_has_loss_and_gradient_zero(groups):
    whole, expected = take(1, groups)
    state, metrics = take(4, groups)
    assert metrics["loss"][1] == 0
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(whole.params)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    if groups:
        norms = metrics["conflict"]["all"]["norms"]
        assert norms[1] == 0 and np.all(np.isfinite(norms))
        np.testing.assert_allclose(norms, expected["conflict"]["all"]["norms"], rtol=1e-4)
