"""A loss per task from what an architecture predicts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Num


def token_cross_entropy(
    logits: Float[Array, "task batch length vocab"],
    targets: Int[Array, "task batch length"],
    weights: Num[Array, "task batch length"],
    z_loss: float = 0.0,
) -> Float[Array, " task"]:
    """Mean cross-entropy in nats over each task's own target tokens.

    `weights` is 1 on target tokens, 0 on padding. `z_loss` times the squared log of the softmax's
    normaliser is added for every token (PaLM, arXiv 2204.02311, section 5; T5X uses 1e-4).
    """
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if z_loss:
        entropy = entropy + z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
    return jnp.sum(entropy * weights, axis=(1, 2)) / jnp.sum(weights, axis=(1, 2))
