"""CAGrad: near the mean gradient, what helps the worst task most (Liu et al. 2021, arXiv
2110.14048)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mtl_t5x.balance import solvers
from mtl_t5x.balance.method import Measured, State, Weights, check_setting, remember_nothing

HALVINGS = 32  # of the range of the worst task's gain: float32 has 24 bits


@dataclasses.dataclass(frozen=True)
class CAGrad:
    """The update d with ||d - g_0|| <= c ||g_0|| whose least <g_i, d> is the largest, g_0 being the
    mean gradient.

    Solved from the side of that least gain t: d - g_0 is the shortest sum_k y_k g_k, y >= 0, with
    <g_i, d> >= t for all i, and the largest t at which it isn't longer than c ||g_0|| is found by
    halving. The weights are 1/K + y.

    Attributes:
      c: 0 is the mean gradient, below 1 a step that lowers the mean loss.
    """

    c: float = 0.5

    NEEDS = "gram"
    init = remember_nothing

    def __post_init__(self):
        check_setting(self, "c")

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        gram = measured.gram / jnp.mean(jnp.diagonal(measured.gram))
        gains = jnp.mean(gram, axis=1)  # <g_i, g_0>
        radius = self.c * jnp.sqrt(jnp.maximum(jnp.mean(gram), 0.0))
        length = jnp.sqrt(jnp.maximum(jnp.mean(gram), 0.0)) + radius

        def correction(least):
            return solvers.nonnegative(gram, gains - least)

        def halve(_, bounds):
            low, high = bounds
            middle = (low + high) / 2
            y = correction(middle)
            fits = y @ gram @ y <= radius**2
            return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

        bounds = jnp.min(gains), jnp.min(jnp.sqrt(jnp.diagonal(gram))) * length
        low, _ = jax.lax.fori_loop(0, HALVINGS, halve, bounds)
        return 1 / len(gram) + correction(low), state
