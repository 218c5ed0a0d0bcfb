"""From inputs to answers: decoding with a cache of keys and values."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

PAD_ID = 0
EOS_ID = 1


@functools.partial(jax.jit, static_argnames=("model", "max_length"))
def greedy(
    params: Any, inputs: Int[Array, "batch length"], *, model: nn.Module, max_length: int
) -> Int[Array, "batch max_length"]:
    """The most likely token at every position, up to and including the end of sequence, then 0.

    Decoding stops once every row has ended or `max_length` is reached.
    """
    variables = {"params": params}
    encoded = model.apply(variables, inputs, method="encode")

    def next_tokens(cache, tokens, position, ended):
        logits, cache = model.apply(
            {**variables, **cache},
            tokens,
            encoded,
            inputs,
            position,
            max_length,
            method="decode_step",
            mutable=["cache"],
        )
        chosen = jnp.argmax(logits[..., 0, :], axis=-1).astype(inputs.dtype)
        chosen = jnp.where(ended, PAD_ID, chosen)
        return cache, chosen, ended | (chosen == EOS_ID)

    # The first step, from the start token 0, also fills the cache of the encoding's keys and values.
    start = jnp.zeros((*inputs.shape[:-1], 1), inputs.dtype)
    ended = jnp.zeros(inputs.shape[:-1], bool)
    cache, chosen, ended = next_tokens({}, start, jnp.int32(0), ended)
    decoded = jnp.full((*inputs.shape[:-1], max_length), PAD_ID, inputs.dtype)
    decoded = decoded.at[..., 0].set(chosen)

    def unfinished(carry):
        _, _, position, ended = carry
        return (position < max_length) & ~jnp.all(ended)

    def body(carry):
        cache, decoded, position, ended = carry
        tokens = jax.lax.dynamic_slice_in_dim(decoded, position - 1, 1, axis=-1)
        cache, chosen, ended = next_tokens(cache, tokens, position, ended)
        decoded = jax.lax.dynamic_update_slice_in_dim(decoded, chosen[..., None], position, axis=-1)
        return cache, decoded, position + 1, ended

    _, decoded, _, _ = jax.lax.while_loop(unfinished, body, (cache, decoded, jnp.int32(1), ended))
    return decoded
