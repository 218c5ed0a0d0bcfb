"""Smooth Tchebycheff scalarization (Lin et al. 2024, arXiv 2402.19078, equation 10)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mtl_t5x.balance.method import Measured, State, Weights, check_setting


@dataclasses.dataclass(frozen=True)
class SmoothTchebycheff:
    """The gradient of K mu log sum_k exp(l_k / mu), l_k = log(L_k / reference_k): w_k = K softmax(l
    / mu)_k / L_k. The references are the mean losses of the first `warmup_steps`, in which the sum
    of the log losses is trained.

    Attributes:
      mu: 0 is the worst task alone, large ones make the tasks alike.
      warmup_steps: that the references are taken from.
    """

    mu: float = 0.5
    warmup_steps: int = 100

    NEEDS = "losses"

    def __post_init__(self):
        check_setting(self, "mu", above=True)
        check_setting(self, "warmup_steps", least=1.0)

    def init(self, tasks: int) -> State:
        """The sum of the losses of the first steps, and how many these are."""
        return {"sum": jnp.zeros(tasks), "steps": jnp.int32(0)}

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        losses = measured.losses
        warming = state["steps"] < self.warmup_steps
        total = jnp.where(warming, state["sum"] + losses, state["sum"])
        reference = total / self.warmup_steps
        share = jax.nn.softmax(jnp.log(losses / reference) / self.mu)
        share = jnp.where(warming, 1.0, len(losses) * share)
        return share / losses, {"sum": total, "steps": state["steps"] + warming}
