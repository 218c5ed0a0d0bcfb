"""The geometric mean of the losses (Chennupati et al. 2019, arXiv 1904.08492)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mtl_t5x.balance.method import Measured, State, Weights, remember_nothing


@dataclasses.dataclass(frozen=True)
class GeometricMean:
    """The gradient of (prod L_k)^(1/K): w_k = (prod L)^(1/K) / (K L_k)."""

    NEEDS = "losses"
    init = remember_nothing

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        losses = measured.losses
        mean = jnp.exp(jnp.mean(jnp.log(losses)))
        return mean / (len(losses) * losses), state
