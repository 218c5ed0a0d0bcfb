"""UPGrad: each gradient is projected where it opposes none (Quinton and Rey 2024, arXiv
2406.16232)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mtl_t5x.balance import solvers
from mtl_t5x.balance.method import Measured, State, Weights, check_setting, remember_nothing


@dataclasses.dataclass(frozen=True)
class UPGrad:
    """w = sum_i argmin over v >= e_i/K of v^T G v: the mean of the gradients' projections on the
    cone of the directions that lower every task's loss.

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
        bounds = jnp.eye(len(gram)) / len(gram)
        projected = jax.vmap(lambda bound: solvers.above(gram, bound))(bounds)
        return jnp.sum(projected, axis=0), state
