"""IMTL-G: an update with equal projections on all gradients (Liu et al., ICLR 2021)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mtl_t5x.balance import solvers
from mtl_t5x.balance.method import Measured, State, Weights, remember_nothing


@dataclasses.dataclass(frozen=True)
class IMTLG:
    """w proportional to G^+ n, n the gradients' norms, sum w = 1: <g_i, d> / ||g_i|| is the same
    for all tasks. Weights may be negative."""

    NEEDS = "gram"
    init = remember_nothing

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        norms, cosines = solvers.scaled(measured.gram)
        ones = jnp.ones(len(norms))
        weights = solvers.solve_free(cosines, ones, ones > 0) / norms
        return weights / jnp.sum(weights), state
