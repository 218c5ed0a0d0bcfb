"""T5, 1.0 and 1.1: encoder and decoder (Raffel et al. 2020, arXiv 1910.10683)."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Bool, Float, Int

from mtl_t5x.gradients import probes, slices
from mtl_t5x.models import layers
from mtl_t5x.settings import checks


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of a T5; the field names are T5X's.

    T5 1.1, and with it Flan-T5, mT5 and ByT5, has the `mlp_activations` ("gelu", "linear") and an
    output layer of its own. T5 1.0 has ("relu",), and its output is tied to the embedding and
    scaled, `logits_via_embedding`. `dtype` is that of the computation: parameters are always
    float32. `remat` computes each layer's activations again in the backward pass instead of keeping
    them: less memory, a third more time. `scan_layers` computes the layers in a loop, whose body is
    compiled once: large models compile in minutes, and with FSDP no device ever holds more than one
    layer's weights. It is a matter of the program alone, parameters are named and saved as without
    it; dropout draws other masks, and decoding, where it would save no memory, has no loop.
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
    scan_layers: bool = False

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
            checks.flag("t5.T5Config.scan_layers", self.scan_layers),
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


def _in_turn(
    stack: nn.Module,
    layer: type[nn.Module],
    number: int,
    x: Float[Array, "*batch length embed"],
    arguments: tuple[Any, ...],
    deterministic: bool,
    *options: Any,
    decodes: bool = False,
) -> Float[Array, "*batch length embed"]:
    """Through the stack's layers `layers_0`, `layers_1`, …, which are made with the same options
    and take the same arguments."""
    config = stack.config
    # Decoding has no backward pass, and its cache goes through neither a loop nor remat.
    if config.scan_layers and not decodes and not stack.is_initializing():
        return _in_a_loop(stack, layer, number, x, arguments, deterministic, *options)
    if config.remat and not decodes:
        # Static arguments are counted with self: `deterministic` decides what is traced.
        layer = nn.remat(layer, static_argnums=(2 + len(arguments),))
    for i in range(number):
        x = layer(config, *options, name=f"layers_{i}")(x, *arguments, deterministic)
    return x


def _in_a_loop(stack, layer, number, x, arguments, deterministic, *options):
    """The layers' parameters and probes are stacked for it: that takes a copy of them, or of the
    slices of them that this device holds."""
    key = stack.make_rng("dropout") if stack.has_rng("dropout") else None

    def one(x, of_layer):
        i, variables = of_layer
        rngs = {} if key is None else {"dropout": jax.random.fold_in(key, i)}
        module = layer(stack.config, *options, parent=None)
        whole = slices.gathered(variables)
        return module.apply(whole, x, *arguments, deterministic, rngs=rngs), None

    if stack.config.remat:
        one = jax.checkpoint(one, prevent_cse=False)
    return jax.lax.scan(one, x, (jnp.arange(number), _stacked(stack.variables, number)))[0]


def _stacked(variables: slices.Variables, number: int) -> slices.Variables:
    """Of `layers_0`, `layers_1`, … one tree, whose leaves have the layer as their first axis.

    A loop asks the same of every layer: what only some are asked is asked of all.

    Raises:
      ValueError: sketches are asked for, whose signs each layer has of its own.
    """
    stacked = {}
    for collection in ("params", "probes"):
        of_layers = [
            flatten_dict(variables.get(collection, {}).get(f"layers_{i}", {}), sep="/")
            for i in range(number)
        ]
        asked = {name: probe for layer in of_layers for name, probe in layer.items()}
        if any(isinstance(probe, probes.Sketch) for probe in asked.values()):
            raise ValueError("layers in a loop can't be sketched: T5Config.scan_layers = False")
        blank = jax.tree.map(jnp.zeros_like, asked)
        of_layers = [blank | layer for layer in of_layers]
        stacked[collection] = unflatten_dict(
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_layers), sep="/"
        )
    return stacked


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
        number, arguments = self.config.num_encoder_layers, (mask[..., None, :], bias)
        x = _in_turn(self, EncoderLayer, number, x, arguments, deterministic)
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
    in the variable collections `self_cache` and `cross_cache`, which the first call makes.
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
        arguments = (encoded, self_mask, encoded_mask[..., None, :], bias, position)
        x = _in_turn(
            self, DecoderLayer, self.config.num_decoder_layers, x, arguments, deterministic,
            max_decode_length, decodes=max_decode_length is not None,
        )  # fmt: skip
        x = layers.RMSNorm(name="decoder_norm")(x)
        x = dropout(x, deterministic=deterministic)
        if self.config.logits_via_embedding:
            return x if table is None else table.logits(x)
        return layers.Dense(self.config.vocab_size, ("embed", "vocab"), name="logits_dense")(x)
