"""Nash-MTL: the tasks bargain for the update (Navon et al. 2022, arXiv 2202.01017, equation 3)."""

from __future__ import annotations

import dataclasses

from mtl_t5x.balance import solvers
from mtl_t5x.balance.method import Measured, State, Weights, remember_nothing


@dataclasses.dataclass(frozen=True)
class NashMTL:
    """w > 0 with G w = 1/w: the update of the largest product of the tasks' gains <g_i, d>.

    Solved exactly each step, where the original approximates it by a sequence of convex problems.
    """

    NEEDS = "gram"
    init = remember_nothing

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        return solvers.proportional(measured.gram, 1.0), state
