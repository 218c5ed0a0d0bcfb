"""The layers of T5: normalisation, products, embedding, relative bias, attention, MLP.

Parameter names and logical axis names are T5X's, so that its checkpoints fit. Arrays may carry any
number of leading axes; in training they are `[task, batch, length, …]` (see
`mtl_t5x.gradients.probes`).
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mtl_t5x.gradients import probes

Initializer = Callable[..., Array]
MASKED = -1e10  # added to the attention scores of positions that may not be seen


def fan_in_normal(scale: float = 1.0) -> Initializer:
    """Truncated normal with variance scale / inputs, T5X's initializer of every kernel."""
    return nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")


def _probe(module: nn.Module, name: str) -> probes.Probe:
    """The probe that belongs to the parameter `name`, or None where it isn't measured."""
    return module.get_variable("probes", name)


class Dense(nn.Module):
    """A product without bias; `axes` are the logical names of the kernel's two axes."""

    features: int
    axes: tuple[str, str]
    kernel_init: Initializer = fan_in_normal()

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        return probes.dot(x, *self.weight(x.shape[-1]))

    @nn.compact
    def weight(self, inputs: int) -> tuple[Float[Array, "inputs outputs"], probes.Probe]:
        """The kernel and its probe."""
        init = nn.with_logical_partitioning(self.kernel_init, self.axes)
        kernel = self.param("kernel", init, (inputs, self.features), jnp.float32)
        return kernel, _probe(self, "kernel")


def products(
    x: Float[Array, "*batch inputs"], *denses: Dense
) -> tuple[Float[Array, "*batch outputs"], ...]:
    """What each of several layers makes of one x; see `probes.dots`."""
    weights, given = zip(*(dense.weight(x.shape[-1]) for dense in denses), strict=True)
    return probes.dots(x, weights, given)


class RMSNorm(nn.Module):
    """T5's layer norm: no mean, no bias, computed in float32."""

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Float[Array, "*batch embed"]) -> Float[Array, "*batch embed"]:
        init = nn.with_logical_partitioning(nn.initializers.ones_init(), ("embed",))
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32)
        scale = probes.spread(scale, _probe(self, "scale"))
        mean_square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
        normalized = x * jax.lax.rsqrt(mean_square + self.epsilon)
        if scale.ndim > 1:  # [task, embed] against [task, batch, length, embed]
            scaled = normalized * probes.for_examples(scale, *x.shape[:2])[:, :, None]
        else:
            scaled = _times_scale(normalized, scale)
        return scaled.astype(x.dtype)


@jax.custom_vjp
def _times_scale(
    x: Float[Array, "*batch embed"], scale: Float[Array, " embed"]
) -> Float[Array, "*batch embed"]:
    """x · scale, whose gradient for the scale is summed over rows as suits the platform."""
    return x * scale


def _times_scale_forward(x, scale):
    return x * scale, (x, scale)


def _times_scale_backward(saved, cotangent):
    x, scale = saved
    rows = (x * cotangent).reshape(-1, scale.size)
    of_scale = jax.lax.platform_dependent(rows, cpu=_sum_of_rows, default=_sum)
    return cotangent * scale, of_scale


_times_scale.defvjp(_times_scale_forward, _times_scale_backward)


def _sum(rows: Float[Array, "rows embed"]) -> Float[Array, " embed"]:
    return jnp.sum(rows, axis=0)


def _sum_of_rows(rows: Float[Array, "rows embed"]) -> Float[Array, " embed"]:
    """As a product with ones, two rows of them, since one would be no matrix: XLA's CPU backend
    fuses a sum with what it sums and walks down each column, a fifth of a small model's step."""
    return jnp.matmul(jnp.ones((2, rows.shape[0]), rows.dtype), rows, precision="highest")[0]


class TokenEmbedder(nn.Module):
    """Ids to vectors; the one table serves the encoder and the decoder."""

    vocab_size: int
    features: int
    dtype: jnp.dtype

    def setup(self):
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("vocab", "embed"))
        table = self.param("embedding", init, (self.vocab_size, self.features), jnp.float32)
        self.table = probes.spread(table, _probe(self, "embedding"))

    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch embed"]:
        """The vectors that are looked up are rounded, not the table: that is far larger."""
        if self.table.ndim == 3:  # one copy per task
            each = jax.vmap(lambda rows, index: rows[index])
            found = each(self.table, ids.reshape(self.table.shape[0], -1))
            return found.reshape(*ids.shape, -1).astype(self.dtype)
        return self.table[ids].astype(self.dtype)

    def logits(self, x: Float[Array, "*batch embed"]) -> Float[Array, "*batch vocab"]:
        """T5 1.0's output: products with the table's vectors, scaled by 1/sqrt(embed)."""
        x = x * self.features**-0.5
        if self.table.ndim == 3:
            each = x.reshape(self.table.shape[0], -1, self.features)
            products = jnp.einsum("kne,kve->knv", each, self.table.astype(x.dtype))
            return products.reshape(*x.shape[:-1], self.vocab_size)
        return probes.dot(x, self.table.T)


def relative_position_bucket(
    relative_position: np.ndarray, bidirectional: bool, num_buckets: int, max_distance: int
) -> np.ndarray:
    """Buckets of key position minus query position: exact when near, logarithmic when far.

    Source: T5 (Raffel et al. 2020, arXiv 1910.10683), section 2.1, with the bucket boundaries of
    its released code.
    """
    distance = -relative_position
    offset = np.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        offset = (distance < 0).astype(np.int32) * num_buckets
        distance = np.abs(distance)
    else:
        distance = np.maximum(distance, 0)
    exact = num_buckets // 2
    fraction = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / np.log(
        max_distance / exact
    )
    far = exact + (fraction * (num_buckets - exact)).astype(np.int32)
    return offset + np.where(distance < exact, distance, np.minimum(far, num_buckets - 1))


class RelativePositionBias(nn.Module):
    """A learned number per head and distance bucket, added to the scores of every layer."""

    num_heads: int
    bidirectional: bool
    num_buckets: int
    max_distance: int

    @nn.compact
    def __call__(
        self, query_length: int, key_length: int
    ) -> Float[Array, "*task heads query_length key_length"]:
        init = nn.with_logical_partitioning(
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            ("heads", "relpos_buckets"),
        )
        table = self.param("rel_embedding", init, (self.num_heads, self.num_buckets), jnp.float32)
        table = probes.spread(table, _probe(self, "rel_embedding"))
        positions = np.arange(key_length)[None, :] - np.arange(query_length)[:, None]
        buckets = relative_position_bucket(
            positions, self.bidirectional, self.num_buckets, self.max_distance
        )
        return table[..., buckets]


@jax.custom_vjp
def attend(
    query: Float[Array, "*batch queries heads depth"],
    key: Float[Array, "*batch keys heads depth"],
    value: Float[Array, "*batch keys heads depth"],
    bias: Float[Array, "*#batch heads #queries #keys"],
    mask: Bool[Array, "*#batch #queries keys"],
) -> Float[Array, "*batch queries heads depth"]:
    """The values' means under softmax(query key^T + bias) over the keys that the mask lets see.

    The softmax's statistics are float32. Its numerators are kept for the backward pass in the
    precision of the query, and the denominator divides the mean, not the weights: nothing else of
    the size of the scores is written (as in FlashAttention, Dao et al. 2022, arXiv 2205.14135,
    section 3, whose blocks are left out).
    """
    return _attend_forward(query, key, value, bias, mask)[0]


def _attend_forward(query, key, value, bias, mask):
    scores = jnp.einsum("...qhd,...khd->...hqk", query, key).astype(jnp.float32) + bias
    scores = jnp.where(mask[..., None, :, :], scores, MASKED)
    numerators = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True)).astype(query.dtype)
    # The denominators, [*batch, queries, heads, 1], are one more column of the product.
    with_ones = jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1)
    sums = jnp.einsum(
        "...hqk,...khd->...qhd", numerators, with_ones, preferred_element_type=jnp.float32
    )
    sums, denominator = sums[..., :-1], sums[..., -1:]
    means = (sums / denominator).astype(query.dtype)
    return means, (query, key, value, bias, mask, numerators, denominator, means)


def _attend_backward(residuals, cotangent):
    query, key, value, bias, mask, numerators, denominator, means = residuals
    scaled = cotangent.astype(jnp.float32) / denominator
    along = jnp.sum(scaled * means.astype(jnp.float32), axis=-1)  # of each query's weights
    scaled = scaled.astype(query.dtype)
    of_weights = jnp.einsum("...qhd,...khd->...hqk", scaled, value).astype(jnp.float32)
    of_scores = numerators * (of_weights - jnp.swapaxes(along, -1, -2)[..., None])
    of_scores = jnp.where(mask[..., None, :, :], of_scores, 0).astype(query.dtype)
    (of_bias,) = jax.vjp(lambda bias: jnp.broadcast_to(bias, of_scores.shape), bias)[1](
        of_scores.astype(bias.dtype)
    )
    return (
        jnp.einsum("...hqk,...khd->...qhd", of_scores, key),
        jnp.einsum("...hqk,...qhd->...khd", of_scores, query),
        jnp.einsum("...hqk,...qhd->...khd", numerators, scaled),
        of_bias,
        None,
    )


attend.defvjp(_attend_forward, _attend_backward)


def attend_to_cache(
    query: Float[Array, "*batch queries heads depth"],
    key: Float[Array, "*batch heads keys depth"],
    value: Float[Array, "*batch heads keys depth"],
    bias: Float[Array, "*#batch heads #queries #keys"],
    mask: Bool[Array, "*#batch #queries keys"],
) -> Float[Array, "*batch queries heads depth"]:
    """`attend` without a backward pass, to keys and values as a cache has them.

    A decoding step reads the whole cache for one query: each head's part lies together, since XLA's
    CPU backend would lay another order out anew at every step, at three times the step's cost.
    """
    scores = jnp.einsum("...qhd,...hkd->...hqk", query, key).astype(jnp.float32) + bias
    weights = nn.softmax(jnp.where(mask[..., None, :, :], scores, MASKED))
    return jnp.einsum("...hqk,...hkd->...qhd", weights.astype(query.dtype), value)


class Attention(nn.Module):
    """Multi-head attention without score scaling (T5 folds it into the query's initializer).

    `cache` is None, or "self" or "cross" while decoding: keys and values then live in the variable
    collection `self_cache`, of what was decoded, or `cross_cache`, of the inputs alone. Self
    attention appends one position a call at `position`; cross attention projects the encoding in
    the first call only. The mask is over the keys or the whole cache.
    """

    num_heads: int
    head_dim: int
    dropout_rate: float
    cache: str | None = None
    max_decode_length: int = 0

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "*batch query_length embed"],
        keys: Float[Array, "*batch key_length embed"],
        mask: Bool[Array, "*#batch #query_length seen_length"],
        bias: Float[Array, "..."] | None = None,
        *,
        position: Int[Array, ""] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "*batch query_length embed"]:
        joined = self.num_heads * self.head_dim

        def project(x: Array, *names: str) -> list[Array]:
            inits = {"query": fan_in_normal(1.0 / self.head_dim)}
            denses = (
                Dense(joined, ("embed", "joined_kv"), inits.get(name, fan_in_normal()), name=name)
                for name in names
            )
            return [
                heads.reshape(*heads.shape[:-1], self.num_heads, self.head_dim)
                for heads in products(x, *denses)
            ]

        if bias is None:
            bias = jnp.zeros((self.num_heads, 1, 1))
        elif bias.ndim == 4:  # [task, heads, query, key]
            bias = probes.for_examples(bias, *queries.shape[:2])
        if self.cache is None:
            if keys is queries:
                query, key, value = project(queries, "query", "key", "value")
            else:
                (query,), (key, value) = project(queries, "query"), project(keys, "key", "value")
            # Dropped keys are dropped for every query, so their values are dropped.
            kept = jnp.ones((*value.shape[:-3], self.num_heads, 1, value.shape[-3]), value.dtype)
            kept = nn.Dropout(self.dropout_rate)(kept, deterministic=deterministic)
            mixed = attend(query, key, value * jnp.moveaxis(kept, -1, -3), bias, mask)
        else:
            (query,) = project(queries, "query")
            key = self._cached("cached_key", lambda: project(keys, "key")[0], position)
            value = self._cached("cached_value", lambda: project(keys, "value")[0], position)
            mixed = attend_to_cache(query, key, value, bias, mask)
        mixed = mixed.reshape(*mixed.shape[:-2], joined)
        return Dense(queries.shape[-1], ("joined_kv", "embed"), name="out")(mixed)

    def _cached(
        self,
        name: str,
        project: Callable[[], Float[Array, "*batch length heads depth"]],
        position: Int[Array, ""] | None,
    ) -> Float[Array, "*batch heads cached_length depth"]:
        """The keys or the values so far, with this call's."""

        def by_head() -> Float[Array, "*batch heads length depth"]:
            return jnp.swapaxes(project(), -3, -2)

        collection = f"{self.cache}_cache"
        if self.cache == "cross":
            return self.variable(collection, name, by_head).value
        new = by_head()
        shape = (*new.shape[:-2], self.max_decode_length, new.shape[-1])
        cached = self.variable(collection, name, jnp.zeros, shape, new.dtype)
        cached.value = jax.lax.dynamic_update_slice_in_dim(cached.value, new, position, axis=-2)
        return cached.value


GATED_GELU, RELU = ("gelu", "linear"), ("relu",)


class MLP(nn.Module):
    """T5 1.1's gated GELU, `(gelu(x wi_0) * x wi_1) wo`, or T5 1.0's `relu(x wi) wo`."""

    hidden: int
    activations: tuple[str, ...]
    dropout_rate: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch embed"], *, deterministic: bool = True
    ) -> Float[Array, "*batch embed"]:
        if self.activations == RELU:
            hidden = nn.relu(Dense(self.hidden, ("embed", "mlp"), name="wi")(x))
        else:
            wi_0, wi_1 = (Dense(self.hidden, ("embed", "mlp"), name=f"wi_{i}") for i in range(2))
            gate, linear = products(x, wi_0, wi_1)
            hidden = nn.gelu(gate, approximate=True) * linear
        hidden = nn.Dropout(self.dropout_rate, broadcast_dims=(-2,))(
            hidden, deterministic=deterministic
        )
        return Dense(x.shape[-1], ("mlp", "embed"), name="wo")(hidden)
