"""The small convex problems: their optimality conditions, in float64, on hard matrices too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_t5x.balance import solvers


def hard_gram(tasks, seed, rank=None, spread=3.0):
    """Of gradients whose norms differ a thousandfold; with `rank`, of so many dimensions."""
    rng = np.random.default_rng(seed)
    columns = rank or 3 * tasks
    gradients = rng.normal(size=(tasks, columns)) + rng.normal(size=columns)
    gradients *= np.exp(spread * rng.uniform(-1, 1, size=(tasks, 1)))
    return np.float32(gradients @ gradients.T)


nonnegative = jax.jit(solvers.nonnegative)
CASES = [(2, None), (8, None), (8, 5), (40, None)]


@pytest.mark.parametrize("tasks, rank", CASES)
def test_nonnegative(tasks, rank):
    """z >= 0, slope >= 0, and one of the two is 0: in units of the gradients' norms."""
    rng = np.random.default_rng(tasks)
    for seed in range(5):
        matrix = hard_gram(tasks, seed, rank)
        norms = np.sqrt(np.diag(matrix)).astype(np.float64)
        # What lies in the range of the matrix: the minimum exists, whatever its rank.
        linear = np.float32(matrix @ (rng.normal(size=tasks) / norms))
        z = np.float64(nonnegative(matrix, linear)) * norms
        slope = (np.float64(matrix) @ (z / norms) + linear) / norms
        scale = np.abs(linear / norms).max()
        assert z.min() >= 0
        assert slope.min() > -1e-4 * scale, (seed, slope.min() / scale)
        assert np.abs(slope[z > 0]).max(initial=0) < 1e-4 * scale


def test_bounds_and_least_norm():
    matrix = hard_gram(8, 0, spread=1.0)
    bounds = np.linspace(0.1, 1, 8, dtype=np.float32)
    v = np.float64(jax.jit(solvers.above)(matrix, bounds))
    slope = matrix @ v
    assert (v >= bounds).all() and slope.min() > -1e-4 * np.abs(matrix).max()
    np.testing.assert_allclose(slope * (v - bounds), 0, atol=1e-4 * np.abs(matrix).max())
    w = np.float64(jax.jit(solvers.least_norm)(matrix))
    assert w.min() >= 0 and w.sum() == pytest.approx(1, abs=1e-6)
    along = matrix @ w  # <g_i, the nearest point> is the least where w is not 0
    np.testing.assert_allclose(along[w > 0], w @ matrix @ w, rtol=1e-3)
    assert along.min() > (1 - 1e-3) * (w @ matrix @ w)


def test_onto_the_simplex():
    project = jax.jit(solvers.onto_simplex)
    inside = jnp.array([0.2, 0.5, 0.3])
    np.testing.assert_allclose(project(inside), inside, atol=1e-7)
    np.testing.assert_allclose(project(jnp.array([5.0, 1.0, -2.0])), [1, 0, 0], atol=1e-7)
    np.testing.assert_allclose(project(jnp.array([1.0, 0.8, -9.0])), [0.6, 0.4, 0], atol=1e-6)


@pytest.mark.parametrize("power", [0.25, 1.0, 4.0])
def test_proportional(power):
    solve = jax.jit(solvers.proportional, static_argnums=1)
    for seed in range(5):
        gram = hard_gram(8, seed, spread=1.5)
        w = np.float64(solve(gram, power))
        assert w.min() > 0
        np.testing.assert_allclose(gram @ w, w**-power, rtol=1e-3)
