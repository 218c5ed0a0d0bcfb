"""PCGrad: every gradient loses what opposes another (Yu et al. 2020, arXiv 2001.06782, algorithm
1)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mtl_t5x.balance.method import Measured, State, Weights, remember_nothing
from mtl_t5x.balance.orders import orders


@dataclasses.dataclass(frozen=True)
class PCGrad:
    """From each g_i, for the other tasks j in a random order, its part along g_j is taken away
    where the two oppose each other; the update is the sum of what is left.

    More than two tasks' weights depend on the order, which is drawn anew each step, for every i.
    """

    NEEDS = "gram"
    init = remember_nothing

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        gram = measured.gram
        tasks = jnp.arange(len(gram))
        squares = jnp.diagonal(gram)

        def project(coefficients, others):
            """`coefficients` [i, task] of every g_i so far; `others` [i]: j, for each i."""
            inner = jnp.sum(coefficients * gram[others], axis=1)
            opposed = (inner < 0) & (others != tasks)
            less = jnp.where(opposed, inner / squares[others], 0.0)
            return coefficients.at[tasks, others].add(-less), None

        coefficients, _ = jax.lax.scan(project, jnp.eye(len(gram)), orders(measured.key, len(gram)))
        return jnp.sum(coefficients, axis=0), state
