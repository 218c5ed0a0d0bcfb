"""T5, 1.0 and 1.1: encoder and decoder (Raffel et al. 2020, arXiv 1910.10683)."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtl_t5x.models import layers
from mtl_t5x.settings import checks


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of a T5; the field names are T5X's.

    T5 1.1, and with it Flan-T5, mT5 and ByT5, has the `mlp_activations` ("gelu", "linear") and an
    output layer of its own. T5 1.0 has ("relu",), and its output is tied to the embedding and
    scaled, `logits_via_embedding`. `dtype` is that of the computation: parameters are always
    float32. `remat` computes each layer's activations again in the backward pass instead of keeping
    them: less memory, a third more time.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    num_encoder_layers: int
    num_decoder_layers: int
    head_dim: int
    mlp_dim: int
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    mlp_activations: tuple[str, ...] = layers.GATED_GELU
    logits_via_embedding: bool = False
    dropout_rate: float = 0.0
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        sizes = (
            "vocab_size", "emb_dim", "num_heads", "num_encoder_layers", "num_decoder_layers",
            "head_dim", "mlp_dim", "relpos_buckets", "relpos_max_distance",
        )  # fmt: skip
        checks.check(
            *(checks.whole(f"t5.T5Config.{name}", getattr(self, name), 1) for name in sizes),
            checks.choice(
                "t5.T5Config.mlp_activations",
                self.mlp_activations,
                (layers.GATED_GELU, layers.RELU),
            ),
            checks.flag("t5.T5Config.logits_via_embedding", self.logits_via_embedding),
            checks.number("DROPOUT_RATE", self.dropout_rate, 0, below=1),
            checks.choice("t5.T5Config.dtype", self.dtype, ("float32", "bfloat16", "float16")),
            checks.flag("t5.T5Config.remat", self.remat),
        )


def embedder(config: T5Config, name: str | None = None) -> layers.TokenEmbedder:
    """A table of the vocabulary's vectors."""
    dtype = jnp.dtype(config.dtype)
    return layers.TokenEmbedder(config.vocab_size, config.emb_dim, dtype, name=name)


def _mlp(config: T5Config) -> layers.MLP:
    return layers.MLP(config.mlp_dim, config.mlp_activations, config.dropout_rate, name="mlp")


def _residual_dropout(config: T5Config) -> nn.Dropout:
    return nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))


def _attention(config: T5Config, name: str, **kwargs) -> layers.Attention:
    return layers.Attention(
        config.num_heads, config.head_dim, config.dropout_rate, name=name, **kwargs
    )


def _relative_bias(config: T5Config, bidirectional: bool) -> layers.RelativePositionBias:
    return layers.RelativePositionBias(
        config.num_heads,
        bidirectional,
        config.relpos_buckets,
        config.relpos_max_distance,
        name="relpos_bias",
    )


class EncoderLayer(nn.Module):
    config: T5Config

    @nn.compact
    def __call__(self, x, mask, bias, deterministic: bool):
        dropout = _residual_dropout(self.config)
        y = layers.RMSNorm(name="pre_attention_layer_norm")(x)
        y = _attention(self.config, "attention")(y, y, mask, bias, deterministic=deterministic)
        x = x + dropout(y, deterministic=deterministic)
        y = layers.RMSNorm(name="pre_mlp_layer_norm")(x)
        y = _mlp(self.config)(y, deterministic=deterministic)
        return x + dropout(y, deterministic=deterministic)


class Encoder(nn.Module):
    """Embedded inputs to their encoding; padding (`mask` False) is seen by no position."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        embedded: Float[Array, "*batch length embed"],
        mask: Bool[Array, "*batch length"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "*batch length embed"]:
        dropout = _residual_dropout(self.config)
        length = embedded.shape[-2]
        bias = _relative_bias(self.config, bidirectional=True)(length, length)
        x = dropout(embedded, deterministic=deterministic)
        # Static arguments are counted with self: `deterministic` decides what is traced.
        remat = self.config.remat
        layer_class = nn.remat(EncoderLayer, static_argnums=(4,)) if remat else EncoderLayer
        for i in range(self.config.num_encoder_layers):
            layer = layer_class(self.config, name=f"layers_{i}")
            x = layer(x, mask[..., None, :], bias, deterministic)
        x = layers.RMSNorm(name="encoder_norm")(x)
        return dropout(x, deterministic=deterministic)


class DecoderLayer(nn.Module):
    config: T5Config
    max_decode_length: int | None  # None: teacher forcing, no cache

    @nn.compact
    def __call__(self, x, encoded, self_mask, encoded_mask, bias, position, deterministic: bool):
        dropout = _residual_dropout(self.config)
        self_cache, cross_cache = {}, {}
        if self.max_decode_length is not None:
            self_cache = {"cache": "self", "max_decode_length": self.max_decode_length}
            cross_cache = {"cache": "cross"}
        y = layers.RMSNorm(name="pre_self_attention_layer_norm")(x)
        y = _attention(self.config, "self_attention", **self_cache)(
            y, y, self_mask, bias, position=position, deterministic=deterministic
        )
        x = x + dropout(y, deterministic=deterministic)
        y = layers.RMSNorm(name="pre_cross_attention_layer_norm")(x)
        y = _attention(self.config, "encoder_decoder_attention", **cross_cache)(
            y, encoded, encoded_mask, deterministic=deterministic
        )
        x = x + dropout(y, deterministic=deterministic)
        y = layers.RMSNorm(name="pre_mlp_layer_norm")(x)
        y = _mlp(self.config)(y, deterministic=deterministic)
        return x + dropout(y, deterministic=deterministic)


class Decoder(nn.Module):
    """Embedded decoder inputs and the encoding to next-token logits, in the computation's type.

    With `own_embedding` it takes the inputs' ids, and has a table of its own for them. Where the
    output is tied to the embedding, the logits are that table's, or without one of its own the
    caller's to compute, from what this returns in their place.

    With `max_decode_length` set, one position a call, given by `position`; keys and values are kept
    in the variable collection `cache`, which the first call makes.
    """

    config: T5Config
    own_embedding: bool = False

    @nn.compact
    def __call__(
        self,
        inputs: Float[Array, "*batch length embed"] | Int[Array, "*batch length"],
        encoded: Float[Array, "*batch inputs_length embed"],
        encoded_mask: Bool[Array, "*batch inputs_length"],
        *,
        position: Int[Array, ""] | None = None,
        max_decode_length: int | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "*batch length vocab"]:
        dropout = _residual_dropout(self.config)
        relative_bias = _relative_bias(self.config, bidirectional=False)
        table = embedder(self.config, name="token_embedder") if self.own_embedding else None
        embedded = inputs if table is None else table(inputs)
        if max_decode_length is None:
            length = embedded.shape[-2]
            bias = relative_bias(length, length)
            seen = jnp.tril(jnp.ones((length, length), bool))
        else:
            length = max_decode_length
            bias = relative_bias(length, length)[..., position, :][..., None, :]
            seen = (jnp.arange(length) <= position)[None, :]
        self_mask = jnp.broadcast_to(seen, (*embedded.shape[:-2], *seen.shape))
        x = dropout(embedded, deterministic=deterministic)
        # Decoding has no backward pass, and its cache doesn't go through remat.
        remat = self.config.remat and max_decode_length is None
        layer_class = nn.remat(DecoderLayer, static_argnums=(7,)) if remat else DecoderLayer
        for i in range(self.config.num_decoder_layers):
            layer = layer_class(self.config, max_decode_length, name=f"layers_{i}")
            x = layer(
                x, encoded, self_mask, encoded_mask[..., None, :], bias, position, deterministic
            )
        x = layers.RMSNorm(name="decoder_norm")(x)
        x = dropout(x, deterministic=deterministic)
        if self.config.logits_via_embedding:
            return x if table is None else table.logits(x)
        return layers.Dense(self.config.vocab_size, ("embed", "vocab"), name="logits_dense")(x)
