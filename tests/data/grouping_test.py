import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_t5x.data import grouping
from mtl_t5x.gradients import one_pass
from mtl_t5x.models import architectures
from tests import random_t5

TASK_IDS = [2, 0, 2, 3, 2, 0]  # task 1 has no example


def flat_batch():
    batch = random_t5.batch(0, tasks=1, examples=len(TASK_IDS))
    return {name: np.asarray(value[0]) for name, value in batch.items()}


def test_order_and_padding():
    batch = flat_batch()
    grouped = grouping.group_by_task(batch, TASK_IDS, 4, 5)
    for name, values in batch.items():
        assert grouped[name].shape == (4, 5, *values.shape[1:])
        np.testing.assert_array_equal(grouped[name][2, :3], values[[0, 2, 4]])
        np.testing.assert_array_equal(grouped[name][0, :2], values[[1, 5]])
        np.testing.assert_array_equal(grouped[name][3, 0], values[3])
        assert not grouped[name][1].any() and not grouped[name][2, 3:].any()


@pytest.mark.slow
def test_gram_matrix_is_that_of_each_tasks_own_examples():
    model, params = architectures.TextToText(random_t5.CONFIG), random_t5.params()
    batch = flat_batch()
    grouped = jax.tree.map(jnp.asarray, grouping.group_by_task(batch, TASK_IDS, 4, 5))

    def loss_fn(params, given):
        return model.apply({"params": params, "probes": given}, grouped), None

    (losses, _), _, grams = jax.jit(
        lambda params: one_pass.gradient_and_grams(loss_fn, params, 4, {"all": ".*"})
    )(params)
    assert losses[1] == 0
    one = jax.jit(jax.value_and_grad(lambda p, batch: model.apply({"params": p}, batch)[0]))
    rows = []
    for task in (0, 2, 3):
        own = {name: values[np.array(TASK_IDS) == task][None] for name, values in batch.items()}
        loss, gradient = one(params, own)
        np.testing.assert_allclose(losses[task], loss, rtol=1e-5)
        rows.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)]))
    expected = np.zeros((4, 4))
    expected[np.ix_((0, 2, 3), (0, 2, 3))] = np.float64(rows) @ np.float64(rows).T
    np.testing.assert_allclose(grams["all"], expected, rtol=0, atol=1e-5 * expected.max())


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="task 2 has 3 examples in the batch, but capacity = 2"):
        grouping.group_by_task(flat_batch(), TASK_IDS, 4, 2)
    with pytest.raises(ValueError, match="task ids are 0 to 2, not 0 to 3"):
        grouping.group_by_task(flat_batch(), TASK_IDS, 3, 4)
    with pytest.raises(ValueError, match="no head_targets"):
        grouping.group_by_task({**flat_batch(), "head_targets": np.zeros(6)}, TASK_IDS, 4, 5)
