"""Random loss weighting (Lin et al. 2021, arXiv 2111.10603)."""

from __future__ import annotations

import dataclasses

import jax

from mtl_t5x.balance.method import Measured, State, Weights, remember_nothing


@dataclasses.dataclass(frozen=True)
class RandomWeights:
    """w = K softmax(z), z standard normal and drawn anew each step: what a method must be better
    than."""

    NEEDS = "losses"
    init = remember_nothing

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        tasks = len(measured.losses)
        return tasks * jax.nn.softmax(jax.random.normal(measured.key, (tasks,))), state
