"""The ways of a weighted step, on gradients that are given: lagged, exact, and static."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_t5x.balance import acting, balance, weighing
from mtl_t5x.balance.method import Measured

LOSSES = jnp.array([0.5, 1.0, 2.0])
GRADIENTS = jnp.asarray(np.random.default_rng(0).normal(size=(3, 8)), jnp.float32)
GRAM = GRADIENTS @ GRADIENTS.T
KEY = jax.random.key(0)
GROUPS = {"encoder": ".*"}


def gradients_of(rows=GRADIENTS):
    """As a step gives them, with all rows' parameters shared; what was asked for is in `asked`."""
    asked = []

    def weighted(weights, groups):
        asked.append((weights, dict(groups)))
        scaled = rows if weights is None else weights[:, None] * rows
        return LOSSES, scaled.sum(axis=0), {group: scaled @ scaled.T for group in groups}

    def measured(groups):
        asked.append(("measured", dict(groups)))
        return LOSSES, {group: rows @ rows.T for group in groups}, lambda w: w @ rows

    return acting.Gradients(weighted, measured), asked


def act(chosen, remembered=None, task_weights=None, groups=GROUPS):
    gradients, asked = gradients_of()
    if remembered is None:
        remembered = weighing.init(chosen, 3)

    @jax.jit
    def run(remembered, task_weights):
        return acting.act(chosen, remembered, task_weights, gradients, groups, KEY)

    return run(remembered, task_weights), asked


def test_nothing_is_asked_for_without_weights():
    acted, asked = act(balance.Balance())
    assert asked == [(None, GROUPS)] and acted.metrics == {} and acted.remembered is None


def test_static_weights():
    weights = jnp.array([2.0, 1.0, 0.5])
    acted, _ = act(balance.Balance(), task_weights=weights)
    np.testing.assert_allclose(acted.gradient, weights @ GRADIENTS, rtol=1e-6)
    np.testing.assert_allclose(acted.grams["encoder"], GRAM, rtol=1e-5)
    assert set(acted.grams) == {"encoder"}
    ours, plain = weights @ GRADIENTS, GRADIENTS.sum(axis=0)
    lengths = np.linalg.norm(ours), np.linalg.norm(plain)
    np.testing.assert_allclose(acted.metrics["norm"], lengths[0], rtol=1e-5)
    np.testing.assert_allclose(acted.metrics["sum_norm"], lengths[1], rtol=1e-5)
    angle = np.degrees(np.arccos(ours @ plain / np.prod(lengths)))
    np.testing.assert_allclose(acted.metrics["angle"], angle, rtol=1e-4)
    unmeasured, _ = act(balance.Balance(), task_weights=weights, groups={})
    assert set(unmeasured.metrics) == {"weights"}


def test_a_task_of_weight_0_has_no_figures():
    acted, _ = act(balance.Balance(), task_weights=jnp.array([1.0, 0.0, 1.0]))
    gram = np.asarray(acted.grams["encoder"])
    assert np.isnan(gram[1]).all() and np.isfinite(gram[[0, 0, 2], [0, 2, 2]]).all()
    np.testing.assert_allclose(acted.metrics["norm"], acted.metrics["sum_norm"], rtol=1e-5)


def test_exact():
    """This step's gradients are weighted by this step's weights."""
    chosen = balance.Balance(balance.MGDA(), applied="exact")
    acted, asked = act(chosen)
    expected = balance.MGDA()((), Measured(LOSSES, GRAM, None, KEY))[0]
    np.testing.assert_allclose(acted.metrics["weights"], expected, rtol=1e-6)
    np.testing.assert_allclose(acted.gradient, expected @ GRADIENTS, rtol=1e-5)
    np.testing.assert_allclose(acted.grams["encoder"], GRAM, rtol=1e-6)
    assert asked == [("measured", {**GROUPS, acting.GROUP: chosen.parameters})]


def test_lagged():
    """The first step sums; the next is weighted by what the first measured, and measures the same,
    whatever it was weighted by."""
    chosen = balance.Balance(balance.MGDA())
    first, asked = act(chosen)
    np.testing.assert_allclose(first.gradient, GRADIENTS.sum(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(first.metrics["weights"], jnp.ones(3))
    assert asked[0][1] == {**GROUPS, acting.GROUP: chosen.parameters} and len(asked) == 1
    second, _ = act(chosen, first.remembered)
    weights = second.metrics["weights"]
    np.testing.assert_allclose(second.gradient, weights @ GRADIENTS, rtol=1e-5)
    np.testing.assert_allclose(second.grams["encoder"], GRAM, rtol=1e-4)
    np.testing.assert_allclose(second.remembered["weights"], weights, rtol=1e-4)


def test_a_lagged_weight_stays_above_the_floor():
    chosen = balance.Balance(balance.Krum(outliers=0), floor=0.01)
    acted, _ = act(chosen)
    weights = np.sort(acted.remembered["weights"])
    np.testing.assert_allclose(weights, [0.01 / 3, 0.01 / 3, 1], rtol=1e-5)
    np.testing.assert_allclose(weighing.lifted(jnp.array([-2.0, 0.001]), 0.1), [-2, 0.10005])


def test_a_method_of_losses_measures_nothing_more():
    acted, asked = act(balance.Balance(balance.GeometricMean()), groups={})
    assert asked[0][1] == {} and set(acted.metrics) == {"weights", "unusable"}


def test_halves_of_the_tasks():
    """Two rows a task: the method sees both, and the weights count for both."""
    halves = jnp.repeat(GRADIENTS / 2, 2, axis=0)

    def weighted(weights, groups):
        scaled = jnp.repeat(weights, 2)[:, None] * halves
        return LOSSES, scaled.sum(axis=0), {group: scaled @ scaled.T for group in groups}

    chosen = balance.Balance(balance.MoDo(learning_rate=0.1))
    remembered = {"weights": jnp.array([1.0, 2.0, 0.5]), "method": jnp.full(3, 1 / 3)}
    gradients = acting.Gradients(weighted, functools.partial(pytest.fail, "not exact"))
    acted = jax.jit(lambda it: acting.act(chosen, it, None, gradients, {}, KEY))(remembered)
    given = Measured(LOSSES, GRAM, None, KEY)._replace(halves=halves @ halves.T)
    expected = chosen.method(remembered["method"], given)[0]
    np.testing.assert_allclose(
        acted.remembered["weights"], weighing.lifted(expected, 1e-3), rtol=1e-4
    )
