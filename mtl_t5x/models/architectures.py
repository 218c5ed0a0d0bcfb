"""The architectures that are compared, on one shared encoder and input embedding.

Each maps a batch of every task, `[task, batch, length]` under SeqIO's names for encoder-decoder
models, to a loss per task. `for_task` gives the model and the parameters that answer one task.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtl_t5x.data import heads, rates
from mtl_t5x.gradients import probes
from mtl_t5x.models import losses, outputs, t5
from mtl_t5x.settings import checks

PAD_ID = 0
SPAN_WEIGHTS = "span_weights"
TASK_WEIGHTS = "task_weights"
Batch = Mapping[str, Array]
Params = Mapping[str, Any]
Answers = Float[Array, "*batch targets_length embed"] | Int[Array, "*batch targets_length"]


class Shared(nn.Module):
    """What all architectures share: the input embedding and the encoder.

    `shares_decoder` says whether every task is answered by the same parameters.

    Attributes:
      config: of the T5. Where its output is tied to the embedding, that of a decoder per task is
        tied to the decoder's own table, or without one is a layer of its own.
      z_loss: see `losses.token_cross_entropy`.
      own_embeddings: decoders embed their inputs by tables of their own, `decoder/token_embedder`,
        which start as the encoder's where weights are pretrained; else the encoder's serves both.
    """

    shares_decoder = False

    config: t5.T5Config
    z_loss: float = 0.0
    own_embeddings: bool = False

    # Whether the same program, given some of the tasks only, computes their losses.
    runs_on_task_subset = True

    def __post_init__(self):
        name = f"architectures.{type(self).__name__}"
        checks.check(
            checks.a(f"{name}.config", self.config, t5.T5Config, "@t5.T5Config()"),
            checks.number(f"{name}.z_loss", self.z_loss),
            checks.flag(f"{name}.own_embeddings", self.own_embeddings),
        )
        super().__post_init__()

    def setup(self):
        self.token_embedder = t5.embedder(self.config)
        self.encoder = t5.Encoder(self.config)

    def encode(
        self, inputs: Int[Array, "*batch length"], *, deterministic: bool = True
    ) -> Float[Array, "*batch length embed"]:
        """The encoding of inputs whose answers aren't embedded."""
        embedded = self.token_embedder(inputs)
        return self.encoder(embedded, inputs != PAD_ID, deterministic=deterministic)

    def encode_with_answers(
        self,
        inputs: Int[Array, "*batch length"],
        decoder_inputs: Int[Array, "*batch targets_length"],
        *,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "*batch length embed"], Answers]:
        """(encoding, what the decoder takes: its inputs, embedded unless it does that itself).

        The embedded ones are of one lookup: of two, the gradients of the table would be two tables
        that are added.
        """
        if self.own_embeddings:
            return self.encode(inputs, deterministic=deterministic), decoder_inputs
        length = inputs.shape[-1]
        both = self.token_embedder(jnp.concatenate([inputs, decoder_inputs], axis=-1))
        embedded, answers = both[..., :length, :], both[..., length:, :]
        return self.encoder(embedded, inputs != PAD_ID, deterministic=deterministic), answers

    def text_to_text(self) -> TextToText:
        """The model of one task's own decoder."""
        return TextToText(self._own_config, self.z_loss, self.own_embeddings, parent=None)

    @property
    def _own_config(self) -> t5.T5Config:
        """Of a decoder that is one task's own: what only tasks share is no part of it."""
        tied = self.config.logits_via_embedding and self.own_embeddings
        return dataclasses.replace(self.config, logits_via_embedding=tied)

    @property
    def in_loops(self) -> str:
        """A regular expression of the names of the parameters that are used in a loop over layers,
        a layer's at a time."""
        return r"(encoder|decoder)/layers_\d+/.*" if self.config.scan_layers else ""

    def loss_weights(self, batch: Batch) -> Float[Array, " task"]:
        """What each task's loss is a mean over, counted: its target tokens.

        The loss over all of a task's examples is the mean of the losses over parts of them by these
        weights, if the parts are of what `before_splitting` gives.
        """
        return jnp.sum(batch["decoder_loss_weights"], axis=(1, 2)).astype(jnp.float32)

    def before_splitting(self, batch: Batch) -> Batch:
        """The batch, with what the losses over parts of its examples must know of all of them."""
        return batch

    def weighted(self, batch: Batch, weights: Float[Array, " task"]) -> Batch:
        """The batch, with what multiplies each task's gradient of the shared parameters: no loss,
        and no gradient of a parameter that is the task's own, changes."""
        shape = batch["encoder_input_tokens"].shape[:2]
        return {**batch, TASK_WEIGHTS: jnp.broadcast_to(weights[:, None], shape)}

    def shared_parameters(self) -> str:
        """A regular expression of the names of the parameters that every task uses."""
        return ".*" if self.shares_decoder else "(encoder|token_embedder)/.*"


class TextToText(Shared):
    """One encoder and one decoder for all tasks: a task is told by its text alone."""

    shares_decoder = True

    def setup(self):
        super().setup()
        self.decoder = t5.Decoder(self.config, self.own_embeddings)

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Float[Array, " task"]:
        """The mean token cross-entropy of each task."""
        logits = self.logits(
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            deterministic=deterministic,
        )
        entropy = losses.token_cross_entropy(
            logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"], self.z_loss
        )
        if TASK_WEIGHTS in batch:  # every parameter is shared
            entropy = probes.weigh(entropy, batch[TASK_WEIGHTS][:, 0])
        return entropy

    def logits(
        self,
        inputs: Int[Array, "*batch length"],
        decoder_inputs: Int[Array, "*batch targets_length"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "*batch targets_length vocab"]:
        """Logits of every next token under teacher forcing."""
        encoded, answers = self.encode_with_answers(
            inputs, decoder_inputs, deterministic=deterministic
        )
        decoded = self.decoder(answers, encoded, inputs != PAD_ID, deterministic=deterministic)
        return self._logits(decoded)

    def _logits(self, decoded: Float[Array, "*batch outputs"]) -> Float[Array, "*batch vocab"]:
        """What the decoder gives, unless the shared embedding is its output layer."""
        tied = self.config.logits_via_embedding and not self.own_embeddings
        return self.token_embedder.logits(decoded) if tied else decoded

    def decode_step(
        self,
        tokens: Int[Array, "*batch 1"],
        encoded: Float[Array, "*batch length embed"],
        inputs: Int[Array, "*batch length"],
        position: Int[Array, ""],
        max_decode_length: int,
    ) -> Float[Array, "*batch 1 vocab"]:
        """Logits after one more token; keys and values are kept, see `layers.Attention`."""
        decoded = self.decoder(
            tokens if self.own_embeddings else self.token_embedder(tokens),
            encoded,
            inputs != PAD_ID,
            position=position,
            max_decode_length=max_decode_length,
        )
        return self._logits(decoded)

    def for_task(self, params: Params, task: int) -> tuple[TextToText, Params]:
        """The same model answers every task."""
        del task
        return self, params

    def head(self, task: int) -> heads.Head:
        """What answers the task."""
        del task
        return heads.Decoder()


class TextToTextID(Shared):
    """A decoder per task, told by the task's number: the parameters are `[task, …]`.

    All decoders start equal, from the pretrained one where there is one.
    """

    def setup(self):
        super().setup()
        self.decoder = t5.Decoder(self._own_config, self.own_embeddings)

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Float[Array, " task"]:
        """The mean token cross-entropy of each task under its own decoder."""
        inputs = batch["encoder_input_tokens"]
        encoded, answers = self.encode_with_answers(
            inputs, batch["decoder_input_tokens"], deterministic=deterministic
        )
        encoded, answers = _weigh((encoded, answers), batch)
        logits = _decode_each(self.decoder, answers, encoded, inputs != PAD_ID, deterministic)
        return losses.token_cross_entropy(
            logits, batch["decoder_target_tokens"], batch["decoder_loss_weights"], self.z_loss
        )

    def for_task(self, params: Params, task: int) -> tuple[TextToText, Params]:
        """A text-to-text model with the task's decoder."""
        decoder = jax.tree.map(lambda weight: weight[task], params["decoder"])
        return self.text_to_text(), {**params, "decoder": decoder}

    def head(self, task: int) -> heads.Head:
        """What answers the task."""
        del task
        return heads.Decoder()


class Canonical(Shared):
    """A head per task on the encoding, as `heads` says in the order of the tasks.

    Classification and regression are linear on the mean of the encoding, spans are linear pointers
    over its positions; tasks that are answered in text have a decoder of their own each.

    Attributes:
      heads: of each task.
      uniform_heads: the linear outputs, biases too, start uniform within ±1/sqrt(inputs), as
        PyTorch's nn.Linear does; else their kernels start as T5's, and the biases at 0.
    """

    heads: tuple[heads.Head, ...] = ()
    uniform_heads: bool = False

    runs_on_task_subset = False

    def setup(self):
        super().setup()
        self.outputs = [
            None
            if isinstance(head, heads.Decoder)
            else outputs.Outputs(head, self.uniform_heads, name=f"head_{i}")
            for i, head in enumerate(self.heads)
        ]
        if self._decoded:
            self.decoder = t5.Decoder(self._own_config, self.own_embeddings)

    @property
    def _decoded(self) -> tuple[int, ...]:
        """The tasks with a decoder, in the order of the decoders."""
        return tuple(i for i, head in enumerate(self.heads) if isinstance(head, heads.Decoder))

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Float[Array, " task"]:
        """Each task's loss: cross-entropy, squared error, or token cross-entropy."""
        inputs = batch["encoder_input_tokens"]
        if inputs.shape[0] != len(self.heads):
            raise ValueError(f"{inputs.shape[0]} tasks, but Canonical.heads has {len(self.heads)}")
        if SPAN_WEIGHTS not in batch:
            batch = self.before_splitting(batch)
        counts = batch.get(rates.EXAMPLE_WEIGHTS)
        if self._decoded:
            encoded, answers = self.encode_with_answers(
                inputs, batch["decoder_input_tokens"], deterministic=deterministic
            )
            encoded, answers = _weigh((encoded, answers), batch)
        else:
            (encoded,) = _weigh((self.encode(inputs, deterministic=deterministic),), batch)
        by_task = {
            i: outputs.loss(
                head,
                self.outputs[i](encoded[i], inputs[i] != PAD_ID),
                batch[heads.FEATURE][i],
                batch[SPAN_WEIGHTS][i],
                None if counts is None else counts[i],
            )
            for i, head in enumerate(self.heads)
            if not isinstance(head, heads.Decoder)
        }
        if self._decoded:
            rows = jnp.array(self._decoded)
            logits = _decode_each(
                self.decoder,
                answers[rows],
                encoded[rows],
                inputs[rows] != PAD_ID,
                deterministic,
            )
            decoded = losses.token_cross_entropy(
                logits,
                batch["decoder_target_tokens"][rows],
                batch["decoder_loss_weights"][rows],
                self.z_loss,
            )
            by_task |= dict(zip(self._decoded, decoded, strict=True))
        return jnp.stack([by_task[i] for i in range(len(self.heads))])

    def loss_weights(self, batch: Batch) -> Float[Array, " task"]:
        """Target tokens for tasks with a decoder, examples for the others.

        Parts of a batch add up exactly. From one step to the next an optional span has no one
        weight: its share over the answerable rows counts as much in a batch with few of them, while
        these weights count all rows. What is pooled over steps by them holds for it to first order.
        """
        tokens = super().loss_weights(batch)
        decoded = jnp.isin(jnp.arange(len(self.heads)), jnp.array(self._decoded, jnp.int32))
        examples = batch["encoder_input_tokens"].shape[1]
        if rates.EXAMPLE_WEIGHTS in batch:
            examples = jnp.sum(batch[rates.EXAMPLE_WEIGHTS], axis=1)
        return jnp.where(decoded, tokens, examples)

    def before_splitting(self, batch: Batch) -> Batch:
        """Adds `span_weights` [task, batch], where there are heads: see `losses.span_weights`."""
        if heads.FEATURE not in batch:
            return batch
        counts = batch.get(rates.EXAMPLE_WEIGHTS)
        return {**batch, SPAN_WEIGHTS: losses.span_weights(batch[heads.FEATURE][..., 1], counts)}

    def predict(self, inputs: Int[Array, "batch length"], task: int) -> dict[str, Array]:
        """What the head of a task computes, by name, as `heads.predicted_tokens` takes it."""
        return self.outputs[task](self.encode(inputs), inputs != PAD_ID)

    def for_task(self, params: Params, task: int) -> tuple[Shared, Params]:
        """A text-to-text model with the task's decoder, or a canonical one with its head alone."""
        if task not in self._decoded:
            own_params = {name: params[name] for name in ("token_embedder", "encoder")}
            own_params["head_0"] = params[f"head_{task}"]
            return self.clone(heads=(self.heads[task],)), own_params
        place = self._decoded.index(task)
        decoder = jax.tree.map(lambda weight: weight[place], params["decoder"])
        return self.text_to_text(), {**params, "decoder": decoder}

    def head(self, task: int) -> heads.Head:
        """What answers the task."""
        return self.heads[task]


def _weigh(embedded: tuple[Array, ...], batch: Batch) -> tuple[Array, ...]:
    """What the shared parameters give to the tasks' own; ids, for tables of their own, stay."""
    if TASK_WEIGHTS not in batch:
        return embedded
    return tuple(
        probes.weigh(x, batch[TASK_WEIGHTS]) if jnp.issubdtype(x.dtype, jnp.floating) else x
        for x in embedded
    )


def _decode_each(
    decoder: t5.Decoder,
    answers: Answers,
    encoded: Float[Array, "task batch inputs_length embed"],
    mask: Bool[Array, "task batch inputs_length"],
    deterministic: bool,
) -> Float[Array, "task batch length vocab"]:
    """Logits of each task under its own copy of the decoder; the copies start equal."""

    def one(decoder, answers, encoded, mask):
        return decoder(answers, encoded, mask, deterministic=deterministic)

    each = nn.vmap(
        one,
        variable_axes={"params": 0, "probes": 0},
        split_rngs={"params": False, "dropout": True},
        metadata_params={nn.PARTITION_NAME: "task"},
    )
    return each(decoder, answers, encoded, mask)
