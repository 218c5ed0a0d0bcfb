"""Uncertainty weighting (Kendall, Gal and Cipolla 2018, arXiv 1705.07115)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mtl_t5x.balance.method import Measured, State, Weights, check_setting


@dataclasses.dataclass(frozen=True)
class Uncertainty:
    """w_k = exp(-s_k), where s_k goes down sum_k L_k exp(-s_k) + s_k: towards 1/L_k.

    Attributes:
      learning_rate: of s.
    """

    learning_rate: float = 0.025

    NEEDS = "losses"

    def __post_init__(self):
        check_setting(self, "learning_rate", above=True)

    def init(self, tasks: int) -> State:
        """s, the tasks' log variances."""
        return jnp.zeros(tasks)

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        state = state - self.learning_rate * (1 - measured.losses * jnp.exp(-state))
        return jnp.exp(-state), state
