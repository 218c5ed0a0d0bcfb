"""FairGrad: alpha-fair gains (Ban and Ji 2024, arXiv 2402.15638, equation 6)."""

from __future__ import annotations

import dataclasses

from mtl_t5x.balance import solvers
from mtl_t5x.balance.method import Measured, State, Weights, check_setting, remember_nothing


@dataclasses.dataclass(frozen=True)
class FairGrad:
    """w > 0 with G w = w^(-1/alpha): the update of the largest sum of <g_i, d>^(1 - alpha)/(1 -
    alpha).

    Attributes:
      alpha: near 0 the sum of the gains counts, at 1 their product (Nash-MTL), far above the least.
    """

    alpha: float = 1.0

    NEEDS = "gram"
    init = remember_nothing

    def __post_init__(self):
        check_setting(self, "alpha", above=True)

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        return solvers.proportional(measured.gram, 1 / self.alpha), state
