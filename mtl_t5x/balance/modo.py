"""MoDo: MGDA by double sampling (Chen et al. 2023, arXiv 2305.20057, algorithm 1)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mtl_t5x.balance import solvers
from mtl_t5x.balance.method import Measured, State, Weights, check_setting


@dataclasses.dataclass(frozen=True)
class MoDo:
    """w goes down w^T G w / 2 on the simplex by an unbiased slope: A w with A_ij = <g_i, g'_j>, the
    gradients of the batch's two halves. w <- projection of w - learning_rate (A w + decay w).

    Attributes:
      learning_rate: of the weights, over a squared gradient norm.
      decay: draws the weights towards each other.
    """

    learning_rate: float = 1e-3
    decay: float = 0.1

    NEEDS = "halves"

    def __post_init__(self):
        check_setting(self, "learning_rate", above=True)
        check_setting(self, "decay")

    def init(self, tasks: int) -> State:
        """The weights."""
        return jnp.full(tasks, 1 / tasks)

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        slope = solvers.across(measured.halves) @ state + self.decay * state
        weights = solvers.onto_simplex(state - self.learning_rate * slope)
        return weights, weights
