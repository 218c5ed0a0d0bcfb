"""IMTL-L: losses scaled to be alike (Liu et al., ICLR 2021)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mtl_t5x.balance.method import Measured, State, Weights, check_setting


@dataclasses.dataclass(frozen=True)
class IMTLL:
    """w_k = exp(s_k), where s_k goes down sum_k L_k exp(s_k) - s_k: towards 1/L_k.

    Attributes:
      learning_rate: of s.
    """

    learning_rate: float = 0.025

    NEEDS = "losses"

    def __post_init__(self):
        check_setting(self, "learning_rate", above=True)

    def init(self, tasks: int) -> State:
        """s, the logarithms of the scales."""
        return jnp.zeros(tasks)

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        state = state - self.learning_rate * (measured.losses * jnp.exp(state) - 1)
        return jnp.exp(state), state
