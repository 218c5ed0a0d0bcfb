"""The linear outputs of the canonical architecture's heads, and the losses of what they compute."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_t5x.data import heads
from mtl_t5x.models import layers, losses


class Outputs(nn.Module):
    """The linear outputs of one head, in float32."""

    head: heads.Head
    uniform: bool

    @nn.compact
    def __call__(
        self, encoded: Float[Array, "batch length embed"], mask: Bool[Array, "batch length"]
    ) -> dict[str, Array]:
        encoded = encoded.astype(jnp.float32)
        weights = mask[..., None].astype(jnp.float32)
        mean = jnp.sum(encoded * weights, axis=1) / jnp.sum(weights, axis=1)
        if isinstance(self.head, heads.Classification):
            return {"logits": self._linear(self.head.num_classes, "logits", mean)}
        if isinstance(self.head, heads.Regression):
            return {"score": self._linear(1, "score", mean)[:, 0]}
        pointers = self._linear(2, "span", encoded)
        start, end = jnp.where(weights > 0, pointers, layers.MASKED).transpose(2, 0, 1)
        outputs = {"start": start, "end": end}
        if self.head.no_answer is not None:
            outputs["answerable"] = self._linear(2, "answerable", mean)
        return outputs

    def _linear(self, features: int, name: str, x: Float[Array, "*batch embed"]) -> Array:
        kernel_init, bias_init = layers.fan_in_normal(), nn.initializers.zeros_init()
        if self.uniform:
            kernel_init = bias_init = functools.partial(_uniform, bound=x.shape[-1] ** -0.5)
        kernel_init = nn.with_logical_partitioning(kernel_init, ("embed", "head"))
        return nn.Dense(features, kernel_init=kernel_init, bias_init=bias_init, name=name)(x)


def _uniform(key: Array, shape: tuple[int, ...], dtype: Any, *, bound: float) -> Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def loss(
    head: heads.Head,
    outputs: Mapping[str, Array],
    targets: Float[Array, "batch 3"],
    span_weights: Float[Array, " batch"],
    counts: losses.Counts,
) -> Float[Array, ""]:
    """Of one task, from its head's outputs and targets; see `losses`."""
    label, positions = targets[:, 0], targets[:, 1:].astype(jnp.int32)
    if isinstance(head, heads.Classification):
        return losses.classification(outputs["logits"], label.astype(jnp.int32), counts)
    if isinstance(head, heads.Regression):
        return losses.regression(outputs["score"], label, counts)
    if head.no_answer is None:
        return losses.span(outputs["start"], outputs["end"], positions, counts)
    return losses.optional_span(
        outputs["start"],
        outputs["end"],
        outputs["answerable"],
        positions,
        label.astype(jnp.int32),
        span_weights,
        counts,
    )
