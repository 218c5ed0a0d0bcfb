"""The architectures that are compared, on one shared encoder and input embedding.

Each maps a batch of every task, `[task, batch, length]` under SeqIO's names for encoder-decoder
models, to a loss per task.
"""

from __future__ import annotations

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtl_t5x import losses
from mtl_t5x.models import layers, t5

PAD_ID = 0
Batch = Mapping[str, Array]


class TextToText(nn.Module):
    """One encoder and one decoder for all tasks: a task is told by its text alone."""

    config: t5.T5Config
    z_loss: float = 0.0

    def setup(self):
        self.token_embedder = layers.TokenEmbedder(
            self.config.vocab_size, self.config.emb_dim, jnp.dtype(self.config.dtype)
        )
        self.encoder = t5.Encoder(self.config)
        self.decoder = t5.Decoder(self.config)

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Float[Array, " task"]:
        """The mean token cross-entropy of each task."""
        logits = self.logits(
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            deterministic=deterministic,
        )
        return losses.token_cross_entropy(
            logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"], self.z_loss
        )

    def encode(
        self, inputs: Int[Array, "*batch length"], *, deterministic: bool = True
    ) -> Float[Array, "*batch length embed"]:
        embedded = self.token_embedder(inputs)
        return self.encoder(embedded, inputs != PAD_ID, deterministic=deterministic)

    def logits(
        self,
        inputs: Int[Array, "*batch length"],
        decoder_inputs: Int[Array, "*batch targets_length"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "*batch targets_length vocab"]:
        """Logits of every next token under teacher forcing."""
        encoded = self.encode(inputs, deterministic=deterministic)
        return self.decoder(
            self.token_embedder(decoder_inputs),
            encoded,
            inputs != PAD_ID,
            deterministic=deterministic,
        )

    def decode_step(
        self,
        tokens: Int[Array, "*batch 1"],
        encoded: Float[Array, "*batch length embed"],
        inputs: Int[Array, "*batch length"],
        position: Int[Array, ""],
        max_decode_length: int,
    ) -> Float[Array, "*batch 1 vocab"]:
        """Logits after one more token; keys and values are kept in the collection `cache`."""
        return self.decoder(
            self.token_embedder(tokens),
            encoded,
            inputs != PAD_ID,
            position=position,
            max_decode_length=max_decode_length,
        )
