"""SDMGrad: MoDo, held near the mean gradient (Xiao, Ban and Ji 2023, arXiv 2305.18409, algorithm
1)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mtl_t5x.balance import solvers
from mtl_t5x.balance.method import Measured, State, Weights, check_setting


@dataclasses.dataclass(frozen=True)
class SDMGrad:
    """On the simplex w goes down A (w + preference/K), with A_ij = <g_i, g'_j> of the batch's
    halves in units of the mean squared norm; the weights are (w + preference/K) / (1 + preference).

    Attributes:
      preference: how strongly the update is held near the mean gradient.
      iterations, learning_rate, momentum: of the descent that each step makes.
    """

    preference: float = 0.3
    iterations: int = 20
    learning_rate: float = 5.0
    momentum: float = 0.5

    NEEDS = "halves"

    def __post_init__(self):
        check_setting(self, "preference")
        check_setting(self, "iterations", least=1.0)
        check_setting(self, "learning_rate", above=True)
        check_setting(self, "momentum", most=1.0)

    def init(self, tasks: int) -> State:
        """w."""
        return jnp.full(tasks, 1 / tasks)

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        inner = solvers.across(measured.halves)
        norm = jnp.mean(jnp.sqrt(jnp.maximum(jnp.diagonal(inner), 0.0)))
        inner = inner / (norm**2 + 1e-8)
        pull = self.preference * jnp.mean(inner, axis=1)

        def descend(_, carry):
            weights, velocity = carry
            velocity = self.momentum * velocity + inner @ weights + pull
            return solvers.onto_simplex(weights - self.learning_rate * velocity), velocity

        begin = (state, jnp.zeros_like(state))
        weights, _ = jax.lax.fori_loop(0, self.iterations, descend, begin)
        return (weights + self.preference / len(weights)) / (1 + self.preference), weights
