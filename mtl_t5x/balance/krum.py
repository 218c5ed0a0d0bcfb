"""Krum: the gradients that stand nearest to their neighbours (Blanchard et al., NeurIPS 2017)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mtl_t5x.balance.method import Measured, State, Weights, check_setting


@dataclasses.dataclass(frozen=True)
class Krum:
    """The mean of the `selected` gradients whose distances to their K - outliers - 2 nearest others
    sum to the least; the other tasks get weight 0.

    Attributes:
      outliers: how many tasks may have gradients far from all others'.
      selected: how many gradients are averaged.
    """

    outliers: int = 1
    selected: int = 1

    NEEDS = "gram"

    def __post_init__(self):
        check_setting(self, "outliers")
        check_setting(self, "selected", least=1.0)

    def init(self, tasks: int) -> State:
        least = max(self.outliers + 3, self.selected)
        if tasks < least:
            raise ValueError(
                f"balance.Krum(outliers={self.outliers}, selected={self.selected}) needs {least} "
                f"tasks or more, and there are {tasks}"
            )
        return ()

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        squares = jnp.diagonal(measured.gram)
        squared = squares[:, None] + squares - 2 * measured.gram
        tasks = len(squares)
        squared = jnp.where(jnp.eye(tasks, dtype=bool), 0.0, jnp.maximum(squared, 0.0))
        nearest = jnp.sort(jnp.sqrt(squared), axis=1)[:, 1 : tasks - self.outliers - 1]
        chosen = jnp.argsort(jnp.sum(nearest, axis=1))[: self.selected]
        return jnp.zeros(tasks).at[chosen].set(1 / self.selected), state
