"""GradNorm: tasks that train slowly get longer gradients (Chen et al. 2018, arXiv 1711.02257)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from mtl_t5x.balance.method import Measured, State, Weights, check_setting


@dataclasses.dataclass(frozen=True)
class GradNorm:
    """The weights go down the slope of sum_k |w_k n_k - m r_k^alpha|, with m the mean of the w_k
    n_k and r_k the share of its first loss that task k still has, over the mean of these; m and r
    are held fixed. Then they are scaled to sum to K.

    Norms count in units of their mean, so that the learning rate has none.

    Attributes:
      alpha: how strongly slow tasks are favoured; 0: all w_k n_k alike.
      learning_rate: of the weights.
      least: no weight gets smaller, before they are scaled.
    """

    alpha: float = 1.5
    learning_rate: float = 0.025
    least: float = 1e-3

    NEEDS = "gram"

    def __post_init__(self):
        check_setting(self, "learning_rate", above=True)
        check_setting(self, "least", above=True)

    def init(self, tasks: int) -> State:
        """The weights, and the first losses once they are known."""
        return {"weights": jnp.ones(tasks), "first": jnp.zeros(tasks)}

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        weights, first = state["weights"], state["first"]
        first = jnp.where(first > 0, first, measured.losses)
        norms = jnp.sqrt(jnp.diagonal(measured.gram))
        norms = norms / jnp.mean(norms)
        left = measured.losses / first
        wanted = jnp.mean(weights * norms) * (left / jnp.mean(left)) ** self.alpha
        slope = jnp.sign(weights * norms - wanted) * norms
        weights = jnp.maximum(weights - self.learning_rate * slope, self.least)
        weights = weights * len(weights) / jnp.sum(weights)
        return weights, {"weights": weights, "first": first}
