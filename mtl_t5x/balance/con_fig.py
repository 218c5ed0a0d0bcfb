"""ConFIG: equal projections, and the length that the gradients give (Liu et al. 2024, arXiv
2408.11104, equation 2)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mtl_t5x.balance import solvers
from mtl_t5x.balance.method import Measured, State, Weights, remember_nothing


@dataclasses.dataclass(frozen=True)
class ConFIG:
    """a = D^-1 C^+ 1, the direction of equal cosines with all gradients (C their cosines, D their
    norms), and w = a (1^T G a) / (a^T G a): as long as the projections on it add up to."""

    NEEDS = "gram"
    init = remember_nothing

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        norms, cosines = solvers.scaled(measured.gram)
        ones = jnp.ones(len(norms))
        units = solvers.solve_free(cosines, ones, ones > 0)  # of the unit gradients
        along = cosines @ units
        return units / norms * (norms @ along) / (units @ along), state
