"""A loss per task from what an architecture predicts."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Num

# 1 of rows that count, 0 of those that fill a batch up; None: all count.
Counts = Float[Array, " batch"] | None


def token_cross_entropy(
    logits: Float[Array, "task batch length vocab"],
    targets: Int[Array, "task batch length"],
    weights: Num[Array, "task batch length"],
    z_loss: float = 0.0,
) -> Float[Array, " task"]:
    """Mean cross-entropy in nats over each task's own target tokens.

    `weights` is 1 on target tokens, 0 on padding; a task without any token has loss 0. `z_loss`
    times the squared log of the softmax's normaliser is added for every token (PaLM, arXiv
    2204.02311, section 5; T5X uses 1e-4).
    """
    entropy = _cross_entropy(logits, targets, z_loss)
    total = jnp.sum(weights, axis=(1, 2))
    return jnp.sum(entropy * weights, axis=(1, 2)) / jnp.where(total == 0, 1, total)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _cross_entropy(
    logits: Float[Array, "*batch vocab"], targets: Int[Array, "*batch"], z_loss: float
) -> Float[Array, "*batch"]:
    """Of every token, in float32; in the backward pass no float32 copy of the logits is made, and
    the targets are compared with every id, where autodiff would scatter them."""
    return _cross_entropy_forward(logits, targets, z_loss)[0]


def _cross_entropy_forward(logits, targets, z_loss):
    normalizer = jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    entropy = normalizer - picked.astype(jnp.float32) + z_loss * normalizer**2
    return entropy, (logits, targets, normalizer)


def _cross_entropy_backward(z_loss, residuals, cotangent):
    logits, targets, normalizer = residuals
    probabilities = jnp.exp(logits.astype(jnp.float32) - normalizer[..., None])
    is_target = jnp.arange(logits.shape[-1]) == targets[..., None]
    by_logit = probabilities * (1 + 2 * z_loss * normalizer[..., None]) - is_target
    return (by_logit * cotangent[..., None]).astype(logits.dtype), None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def classification(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], counts: Counts = None
) -> Float[Array, ""]:
    """Mean cross-entropy in nats."""
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return _mean(entropy, counts)


def _mean(values: Float[Array, " batch"], counts: Counts) -> Float[Array, ""]:
    """Over the rows that count; 0 where none does."""
    if counts is None:
        return jnp.mean(values)
    return jnp.sum(values * counts) / jnp.maximum(jnp.sum(counts), 1)


def regression(
    scores: Float[Array, " batch"], labels: Float[Array, " batch"], counts: Counts = None
) -> Float[Array, ""]:
    """Mean squared error."""
    return _mean((scores - labels) ** 2, counts)


def span(
    start: Float[Array, "batch length"],
    end: Float[Array, "batch length"],
    positions: Int[Array, "batch 2"],
    counts: Counts = None,
) -> Float[Array, ""]:
    """Cross-entropy of the first and the last token, averaged over both and over the batch.

    `positions` is -1 where there is no span: such a row counts as 0 in the mean over the batch.
    """
    return _mean(_span_entropy(start, end, positions), counts)


def _span_entropy(start, end, positions) -> Float[Array, " batch"]:
    """Of each row, the mean of first and last token; 0 where there is no span."""
    entropy = optax.softmax_cross_entropy_with_integer_labels(
        jnp.stack([start, end]), jnp.maximum(positions.T, 0)
    )
    return jnp.where(positions[:, 0] >= 0, jnp.mean(entropy, axis=0), 0.0)


def span_weights(
    first: Num[Array, "*tasks batch"], counts: Float[Array, "*tasks batch"] | None = None
) -> Float[Array, "*tasks batch"]:
    """Rows / rows with a span for rows with one (`first` token >= 0), 0 for the others.

    With these the mean over the batch is the mean over the rows with a span; over a part of the
    batch, it is the part's share of that. Only rows that count are counted, if not all do.
    """
    known = (first >= 0).astype(jnp.float32)
    if counts is None:
        share = jnp.mean(known, axis=-1, keepdims=True)
    else:
        known = known * counts
        rows = jnp.sum(counts, axis=-1, keepdims=True)
        share = jnp.sum(known, axis=-1, keepdims=True) / jnp.maximum(rows, 1)
    return known / jnp.where(share == 0, 1, share)


def optional_span(
    start: Float[Array, "batch length"],
    end: Float[Array, "batch length"],
    answerable: Float[Array, "batch 2"],
    positions: Int[Array, "batch 2"],
    labels: Int[Array, " batch"],
    weights: Float[Array, " batch"],
    counts: Counts = None,
) -> Float[Array, ""]:
    """Cross-entropies of first token, last token and whether there is an answer, divided by 3.

    The first two are averaged over the rows that have a span, by `weights` as `span_weights` gives
    them for the whole batch; the last over all rows.
    """
    spans = _mean(weights * _span_entropy(start, end, positions), counts)
    return (2 * spans + classification(answerable, labels, counts)) / 3
