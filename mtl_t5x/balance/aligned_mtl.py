"""Aligned-MTL: gradients made orthogonal and equally long (Senushkin et al. 2023, arXiv 2305.19000,
algorithm 1)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mtl_t5x.balance.method import Measured, State, Weights, remember_nothing


@dataclasses.dataclass(frozen=True)
class AlignedMTL:
    """w = sqrt(l) V L^(-1/2) V^T 1/K, with the eigenvectors V and the eigenvalues L of G above
    rounding, the least of which is l."""

    NEEDS = "gram"
    init = remember_nothing

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        gram = measured.gram
        values, vectors = jnp.linalg.eigh(gram)
        rounding = jnp.max(values) * len(gram) * jnp.finfo(gram.dtype).eps
        kept = values > rounding
        least = jnp.min(jnp.where(kept, values, jnp.inf))
        stretched = jnp.where(kept, jnp.sqrt(least / jnp.where(kept, values, 1.0)), 0.0)
        return vectors @ (stretched * jnp.mean(vectors, axis=0)), state
