"""MGDA: the update of least norm (Désidéri 2012; Sener and Koltun 2018, arXiv 1810.04650)."""

from __future__ import annotations

import dataclasses

from mtl_t5x.balance import solvers
from mtl_t5x.balance.method import Measured, State, Weights, remember_nothing


@dataclasses.dataclass(frozen=True)
class MGDA:
    """w = argmin over the simplex of w^T G w: no task's loss rises, and a task of small gradients
    rules the update."""

    NEEDS = "gram"
    init = remember_nothing

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        return solvers.least_norm(measured.gram), state
