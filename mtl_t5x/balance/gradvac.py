"""Gradient Vaccine: gradients are turned until they agree as usual (Wang et al. 2020, arXiv
2010.05874, algorithm 1)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mtl_t5x.balance.method import Measured, State, Weights, check_setting
from mtl_t5x.balance.orders import orders


@dataclasses.dataclass(frozen=True)
class GradVac:
    """To each g_i, for the other tasks j in a random order, as much of g_j is added as makes their
    cosine what it was on average, where it is lower; the update is the sum of what that makes.

    Attributes:
      decay: how much the running cosines move at each step.
    """

    decay: float = 0.5

    NEEDS = "gram"

    def __post_init__(self):
        check_setting(self, "decay", most=1.0)

    def init(self, tasks: int) -> State:
        """The cosine that each pair (i, j) is brought up to."""
        return jnp.zeros((tasks, tasks))

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        gram = measured.gram
        tasks = jnp.arange(len(gram))
        norms = jnp.sqrt(jnp.diagonal(gram))

        def turn(carry, others):
            """`coefficients` [i, task] of every g_i so far; `others` [i]: j, for each i."""
            coefficients, usual = carry
            inner = jnp.sum(coefficients * gram[others], axis=1)
            norm = jnp.sqrt(jnp.maximum(jnp.sum(coefficients @ gram * coefficients, axis=1), 0.0))
            cosine = jnp.clip(inner / (norm * norms[others]), -1.0, 1.0)
            wanted = usual[tasks, others]
            sine, wanted_sine = jnp.sqrt(1 - cosine**2), jnp.sqrt(1 - wanted**2)
            more = norm * (wanted * sine - cosine * wanted_sine) / (norms[others] * wanted_sine)
            is_other = others != tasks
            more = jnp.where(is_other & (cosine < wanted), more, 0.0)
            moved = (1 - self.decay) * wanted + self.decay * cosine
            usual = usual.at[tasks, others].set(jnp.where(is_other, moved, wanted))
            return (coefficients.at[tasks, others].add(more), usual), None

        begin = (jnp.eye(len(gram)), state)
        (coefficients, usual), _ = jax.lax.scan(turn, begin, orders(measured.key, len(gram)))
        return jnp.sum(coefficients, axis=0), usual
