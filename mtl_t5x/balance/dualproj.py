"""DualProj: the mean gradient is projected where it opposes none (Lopez-Paz and Ranzato 2017, arXiv
1706.08840, equation 11)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mtl_t5x.balance import solvers
from mtl_t5x.balance.method import Measured, State, Weights, check_setting, remember_nothing


@dataclasses.dataclass(frozen=True)
class DualProj:
    """w = argmin over v >= 1/K of v^T G v: the mean gradient's projection on the cone of the
    directions that lower every task's loss.

    Attributes:
      ridge: of G's trace, added to its diagonal, as in TorchJD (its `reg_eps`).
    """

    ridge: float = 1e-4

    NEEDS = "gram"
    init = remember_nothing

    def __post_init__(self):
        check_setting(self, "ridge")

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        gram = solvers.regular(measured.gram, self.ridge)
        return solvers.above(gram, jnp.full(len(gram), 1 / len(gram))), state
