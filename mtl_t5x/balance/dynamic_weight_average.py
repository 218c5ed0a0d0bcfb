"""Dynamic weight average (Liu, Johns and Davison 2019, arXiv 1803.10704, equation 7)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mtl_t5x.balance.method import Measured, State, Weights, check_setting


@dataclasses.dataclass(frozen=True)
class DynamicWeightAverage:
    """w = K softmax(r / temperature), r_k the ratio of task k's last two losses, each a mean over
    `window` steps: the original's are over epochs, which tasks here don't share.

    Attributes:
      temperature: high ones make the weights alike.
      window: steps that a loss is averaged over.
    """

    temperature: float = 2.0
    window: int = 50

    NEEDS = "losses"

    def __post_init__(self):
        check_setting(self, "temperature", above=True)
        check_setting(self, "window", least=1.0)

    def init(self, tasks: int) -> State:
        """The means of the last two whole windows (0: none yet), the sum of this one, its steps."""
        return {
            "last": jnp.zeros((2, tasks)),
            "sum": jnp.zeros(tasks),
            "steps": jnp.int32(0),
        }

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        total, steps = state["sum"] + measured.losses, state["steps"] + 1
        is_whole = steps == self.window
        last = jnp.stack([total / self.window, state["last"][0]])
        last = jnp.where(is_whole, last, state["last"])
        known = jnp.all(last[1] > 0)
        ratio = jnp.where(known, last[0] / jnp.where(known, last[1], 1.0), 1.0)
        state = {
            "last": last,
            "sum": jnp.where(is_whole, 0.0, total),
            "steps": jnp.where(is_whole, 0, steps),
        }
        return len(ratio) * jax.nn.softmax(ratio / self.temperature), state
