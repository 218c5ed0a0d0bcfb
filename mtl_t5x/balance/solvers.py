"""Small convex problems over the tasks' weights, within jit and without a host call."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Vector = Float[Array, " task"]
Matrix = Float[Array, "task task"]

# A diagonal this large beside 1 lets float32 factor a singular matrix; what it changes in the
# solution of a regular one is taken back by refinement.
RIDGE = 1e-6
PIVOTS_PER_TASK = 10  # at most; random problems of 40 tasks take about ten in all


def scaled(gram: Matrix) -> tuple[Vector, Matrix]:
    """(norms d, cosines C) of a Gram matrix D C D: well scaled, however the norms differ."""
    norms = jnp.sqrt(jnp.diagonal(gram))
    return norms, gram / (norms[:, None] * norms)


def solve_free(matrix: Matrix, right: Vector, free: Bool[Array, " task"]) -> Vector:
    """x with x = 0 where not `free`, and (matrix x - right) = 0 where free.

    Args:
      matrix: symmetric, positive semidefinite, with a diagonal of ones.
      right: the right side.
      free: which rows and columns count.
    """
    identity = jnp.eye(len(right))
    kept = jnp.where(free[:, None] & free, matrix, identity)
    right = jnp.where(free, right, 0.0)
    factor = jax.scipy.linalg.cho_factor(kept + RIDGE * identity)

    def refine(_, x):
        return x + jax.scipy.linalg.cho_solve(factor, right - _dot(kept, x))

    return jax.lax.fori_loop(0, 3, refine, jnp.zeros_like(right))


def _dot(matrix: Matrix, vector: Vector) -> Vector:
    return jnp.dot(matrix, vector, precision=jax.lax.Precision.HIGHEST)


def nonnegative(matrix: Matrix, linear: Vector) -> Vector:
    """argmin over z >= 0 of z^T M z / 2 + q^T z, exactly: by block principal pivoting.

    Which z are 0 is guessed, the others are solved for, and all that turn out wrong change sides;
    where that doesn't bring their number down three times, only the last one does (Júdice and Pires
    1994; Kim and Park, SIAM J. Sci. Comput. 2011, algorithm 1).

    Args:
      matrix: M, symmetric, positive semidefinite, with a positive diagonal.
      linear: q.
    """
    norms, cosines = scaled(matrix)
    linear = linear / norms  # of norms * z
    tasks = len(linear)
    tolerance = 1e-6 * jnp.max(jnp.abs(linear))

    def solution(free):
        return solve_free(cosines, -linear, free)

    def wrong(carry):
        free, z = carry
        slope = _dot(cosines, z) + linear
        return jnp.where(free, z < -tolerance, slope < -tolerance)

    def going_on(carry):
        pivots, free, z, _, _ = carry
        return jnp.any(wrong((free, z))) & (pivots < PIVOTS_PER_TASK * tasks)

    def pivot(carry):
        pivots, free, z, fewest, patience = carry
        infeasible = wrong((free, z))
        count = jnp.sum(infeasible)
        better = count < fewest
        patience = jnp.where(better, 3, patience - 1)
        last = jnp.arange(tasks) == jnp.max(jnp.where(infeasible, jnp.arange(tasks), -1))
        free = free ^ jnp.where(patience >= 0, infeasible, last)
        return pivots + 1, free, solution(free), jnp.minimum(fewest, count), patience

    free = linear < 0
    begin = (jnp.int32(0), free, solution(free), jnp.int32(tasks + 1), jnp.int32(3))
    _, _, z, _, _ = jax.lax.while_loop(going_on, pivot, begin)
    return jnp.maximum(z, 0.0) / norms


def regular(gram: Matrix, ridge: float) -> Matrix:
    """G over its trace, with so much on its diagonal that it has an inverse."""
    return gram / jnp.trace(gram) + ridge * jnp.eye(len(gram))


def above(matrix: Matrix, bounds: Vector) -> Vector:
    """argmin over v >= bounds of v^T M v."""
    return bounds + nonnegative(matrix, _dot(matrix, bounds))


def least_norm(gram: Matrix) -> Vector:
    """argmin over the simplex of w^T G w, the nearest point to 0 of the gradients' hull.

    Its multiple with G w >= 1 where w is 0 and G w = 1 elsewhere is the solution over w >= 0 of
    w^T G w / 2 - sum w.
    """
    multiple = nonnegative(gram, -jnp.ones(len(gram)))
    return multiple / jnp.sum(multiple)


def onto_simplex(vector: Vector) -> Vector:
    """The nearest point of {w >= 0, sum w = 1} (Held, Wolfe and Crowder 1974; by sorting)."""
    descending = jnp.sort(vector)[::-1]
    excess = (jnp.cumsum(descending) - 1) / jnp.arange(1, len(vector) + 1)
    last = jnp.sum(descending > excess) - 1
    return jnp.maximum(vector - excess[last], 0.0)


def proportional(gram: Matrix, power: float) -> Vector:
    """w > 0 with G w = w^(-power): the minimum of w^T G w / 2 - sum of w^(1 - power) / (1 - power).

    In units of the gradients' norms, u = d w, it is C u = d^(power - 1) u^(-power). Newton's method
    on that convex function, by the best of step lengths 1, 1/2, 1/4, …

    Args:
      gram: G; without a positive w of G w <= 0, else there is no solution.
      power: above 0.
    """
    norms, cosines = scaled(gram)
    share = (norms / jnp.mean(norms)) ** (power - 1)

    def objective(u):
        gained = jnp.log(u) if power == 1 else u ** (1 - power) / (1 - power)
        return _dot(cosines, u) @ u / 2 - jnp.sum(share * gained)

    lengths = 0.5 ** jnp.arange(16)

    def newton(_, u):
        slope = _dot(cosines, u) - share * u**-power
        curvature = cosines + jnp.diag(power * share * u ** (-power - 1))
        scale = jnp.sqrt(jnp.diagonal(curvature))
        factor = jax.scipy.linalg.cho_factor(curvature / (scale[:, None] * scale))
        step = -jax.scipy.linalg.cho_solve(factor, slope / scale) / scale
        tried = u + lengths[:, None] * step
        values = jax.vmap(lambda one: objective(jnp.where(one > 0, one, jnp.nan)))(tried)
        best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
        # Near the minimum the objective's rounding hides a gain: then Newton's own step is best.
        small = jnp.max(jnp.abs(step) / u) < 1e-2
        return jnp.where(small, tried[0], tried[best])

    u = jax.lax.fori_loop(0, 30, newton, share ** (1 / (1 + power)))
    return u / norms * jnp.mean(norms) ** ((power - 1) / (power + 1))


def across(halves: Float[Array, "part part"]) -> Matrix:
    """A_ij = <g_i, g'_j> of the mean gradients of the first and the second halves, which together
    have twice the length of what they are in `halves`."""
    return 4 * halves[::2, 1::2]
