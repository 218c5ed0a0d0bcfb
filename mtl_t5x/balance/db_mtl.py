"""DB-MTL: log losses, and gradients as long as the longest (Lin et al. 2023, arXiv 2308.12029)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mtl_t5x.balance.method import Measured, State, Weights, remember_nothing


@dataclasses.dataclass(frozen=True)
class DBMTL:
    """With n'_k the norm of the gradient of log L_k, w_k = (max n') / (n'_k L_k). The original's
    moving average of the gradients is left out: it isn't made of the Gram matrix."""

    NEEDS = "gram"
    init = remember_nothing

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        norms = jnp.sqrt(jnp.diagonal(measured.gram)) / measured.losses
        return jnp.max(norms) / norms / measured.losses, state
