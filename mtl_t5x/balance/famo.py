"""FAMO: all losses are to fall at the same rate (Liu et al. 2023, arXiv 2306.03792, algorithm
1)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from mtl_t5x.balance.method import Measured, State, Weights, check_setting


@dataclasses.dataclass(frozen=True)
class FAMO:
    """w_k proportional to z_k / L_k, sum w = 1, with z = softmax(s): s moves against how fast each
    log loss fell, by Adam. The fall is from one step's batch to the next one's, where the original
    computes the losses of the same batch again after its update.

    Attributes:
      learning_rate: of s.
      decay: of s, added to its slope.
    """

    learning_rate: float = 0.025
    decay: float = 1e-3

    NEEDS = "losses"

    def __post_init__(self):
        check_setting(self, "learning_rate", above=True)
        check_setting(self, "decay")

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.chain(optax.add_decayed_weights(self.decay), optax.adam(self.learning_rate))

    def init(self, tasks: int) -> State:
        """s, Adam's moments, and the losses of the step before; 0: there was none."""
        logits = jnp.zeros(tasks)
        moments = self._optimizer.init(logits)
        return {"logits": logits, "moments": moments, "losses": jnp.zeros(tasks)}

    def __call__(self, state: State, measured: Measured) -> tuple[Weights, State]:
        losses, before = measured.losses, state["losses"]
        logits, moments = state["logits"], state["moments"]
        is_first = ~jnp.all(before > 0)
        fall = jnp.log(jnp.where(is_first, losses, before)) - jnp.log(losses)
        _, pull = jax.vjp(jax.nn.softmax, logits)
        updates, moved = self._optimizer.update(*pull(fall), moments, logits)
        moved = optax.apply_updates(logits, updates), moved
        logits, moments = jax.tree.map(
            lambda old, new: jnp.where(is_first, old, new), (logits, moments), moved
        )
        share = jax.nn.softmax(logits) / losses
        state = {"logits": logits, "moments": moments, "losses": losses}
        return share / jnp.sum(share), state
