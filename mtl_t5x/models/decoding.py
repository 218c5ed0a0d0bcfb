"""From inputs to predictions: greedy and beam search with a cache of keys and values."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import seqio
from jaxtyping import Array, Float, Int

from mtl_t5x.settings import checks

PAD_ID = 0
EOS_ID = 1
# Advances every row by one token: cache, its last tokens [batch, 1] and the position of the next
# one -> logits [batch, vocab] and the new cache.
Advance = Callable[[Any, Array, Array], tuple[Array, Any]]


@dataclasses.dataclass(frozen=True)
class Search:
    """How predictions are searched for: greedily, or with several beams.

    `restrict`: only the answers of the task's label set can come out, where it has one (its
    postprocessor says so by an attribute `answers`).
    """

    beams: int = 1
    length_penalty: float = 0.6
    restrict: bool = False

    def __post_init__(self):
        checks.check(
            checks.whole("decoding.Search.beams", self.beams, 1, "1 is greedy"),
            checks.number("decoding.Search.length_penalty", self.length_penalty),
            checks.flag("decoding.Search.restrict", self.restrict),
        )

    @property
    def title(self) -> str:
        """What files call it: `greedy`, `beams4`, `beams4_penalty1`, `greedy_restricted`."""
        parts = ["greedy" if self.beams == 1 else f"beams{self.beams}"]
        if self.beams > 1 and self.length_penalty != Search.length_penalty:
            parts.append(f"penalty{self.length_penalty:g}")
        return "_".join([*parts, "restricted"] if self.restrict else parts)


def decode(
    params: Any,
    inputs: Int[np.ndarray, "batch length"],
    *,
    answers: Int[np.ndarray, "answers tokens"] | None,
    model: nn.Module,
    max_length: int,
    search: Search,
) -> Int[Array, "batch max_length"]:
    """Token ids of the predictions, by the search asked for; of answers that are longer than
    `max_length`, their beginnings."""
    answers = None if answers is None else answers[:, :max_length]
    arrays = jax.tree.map(jnp.asarray, (inputs, answers))
    if search.beams == 1:
        return greedy(params, *arrays, model=model, max_length=max_length)
    return beam_search(
        params,
        *arrays,
        model=model,
        max_length=max_length,
        beams=search.beams,
        length_penalty=search.length_penalty,
    )


def permitted_answers(
    task: seqio.Task, max_length: int
) -> Int[np.ndarray, "answers max_length"] | None:
    """The table of the task's label set; None for a task without one."""
    answers = getattr(task.postprocessor, "answers", None)
    if answers is None:
        return None
    return answer_table(answers, task.output_features["targets"].vocabulary, max_length)


def answer_table(
    answers: Sequence[str], vocabulary: seqio.Vocabulary, max_length: int
) -> Int[np.ndarray, "answers max_length"]:
    """The token ids of every permitted answer, each with its end, for restricted decoding.

    Raises:
      ValueError: an answer that is longer than `max_length`.
    """
    table = np.full((len(answers), max_length), PAD_ID, np.int32)
    for row, answer in zip(table, answers, strict=True):
        tokens = [*vocabulary.encode(answer), EOS_ID]
        if len(tokens) > max_length:
            raise ValueError(
                f"the answer {answer!r} has {len(tokens)} tokens with its end, but the targets' "
                f"length is {max_length}: raise TASK_FEATURE_LENGTHS['targets']"
            )
        row[: len(tokens)] = tokens
    return table


@functools.partial(jax.jit, static_argnames=("model", "max_length"))
def greedy(
    params: Any,
    inputs: Int[Array, "batch length"],
    answers: Int[Array, "answers max_length"] | None = None,
    *,
    model: nn.Module,
    max_length: int,
) -> Int[Array, "batch max_length"]:
    """The most likely token at every position, up to and including the end of sequence, then 0.

    Decoding stops once every row has ended or `max_length` is reached. With `answers`, as
    `answer_table` makes them, only those can come out.
    """
    decoded = jnp.full((inputs.shape[0], max_length), PAD_ID, inputs.dtype)
    advance = _advance(model, params, inputs, max_length)

    def choose(logits, decoded, position):
        scores = _permit(logits, answers, decoded, position)
        ended = jnp.any(decoded == EOS_ID, axis=-1)
        chosen = jnp.where(ended, PAD_ID, jnp.argmax(scores, axis=-1)).astype(decoded.dtype)
        return jax.lax.dynamic_update_slice_in_dim(decoded, chosen[:, None], position, axis=1)

    # The first step, from the start token 0, also caches the encoding's keys and values.
    logits, cache = advance({}, jnp.zeros_like(inputs[:, :1]), jnp.int32(0))
    decoded = choose(logits, decoded, jnp.int32(0))

    def unfinished(carry):
        _, decoded, position = carry
        return (position < max_length) & ~jnp.all(jnp.any(decoded == EOS_ID, axis=-1))

    def body(carry):
        cache, decoded, position = carry
        last = jax.lax.dynamic_slice_in_dim(decoded, position - 1, 1, axis=1)
        logits, cache = advance(cache, last, position)
        return cache, choose(logits, decoded, position), position + 1

    return jax.lax.while_loop(unfinished, body, (cache, decoded, jnp.int32(1)))[1]


@functools.partial(jax.jit, static_argnames=("model", "max_length", "beams", "length_penalty"))
def beam_search(
    params: Any,
    inputs: Int[Array, "batch length"],
    answers: Int[Array, "answers max_length"] | None = None,
    *,
    model: nn.Module,
    max_length: int,
    beams: int = 4,
    length_penalty: float = 0.6,
) -> Int[Array, "batch max_length"]:
    """The best of `beams` hypotheses per row by log probability over ((5 + length) / 6)^penalty.

    Source of the penalty: Wu et al. 2016, arXiv 1609.08144, equation 14. A hypothesis that has
    ended keeps its place as long as its score is among the best. One beam is greedy decoding.
    """
    batch = inputs.shape[0]
    advance = _advance(model, params, inputs, max_length, beams)
    decoded = jnp.full((batch, beams, max_length), PAD_ID, inputs.dtype)
    # All beams start equal: only the first counts, or every beam would hold the same hypothesis.
    totals = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf) * jnp.ones((batch, 1))

    def choose(logits, cache, decoded, totals, position):
        scores = jax.nn.log_softmax(logits.reshape(batch, beams, -1))
        vocab = scores.shape[-1]
        scores = _permit(scores, answers, decoded, position)
        ended = jnp.any(decoded == EOS_ID, axis=-1)
        # What has ended goes on with padding, at no cost.
        padding = jnp.where(jnp.arange(vocab) == PAD_ID, 0.0, -jnp.inf)
        candidates = totals[..., None] + jnp.where(ended[..., None], padding, scores)
        length = jnp.where(ended, jnp.sum(decoded != PAD_ID, axis=-1), position + 1)
        penalty = ((5.0 + length) / 6.0) ** length_penalty
        _, best = jax.lax.top_k((candidates / penalty[..., None]).reshape(batch, -1), beams)
        parent, token = best // vocab, (best % vocab).astype(decoded.dtype)
        totals = jnp.take_along_axis(candidates.reshape(batch, -1), best, axis=1)
        decoded = jnp.take_along_axis(decoded, parent[..., None], axis=1)
        decoded = jax.lax.dynamic_update_slice_in_dim(decoded, token[..., None], position, axis=2)
        rows = (parent + beams * jnp.arange(batch)[:, None]).reshape(-1)
        # All beams of a row have the same inputs: what is cached of them stays where it is.
        reordered = jax.tree.map(lambda x: x[rows], cache["self_cache"])
        return {**cache, "self_cache": reordered}, decoded, totals

    start = jnp.zeros((batch * beams, 1), inputs.dtype)
    logits, cache = advance({}, start, jnp.int32(0))
    carry = (*choose(logits, cache, decoded, totals, jnp.int32(0)), jnp.int32(1))

    def unfinished(carry):
        _, decoded, _, position = carry
        return (position < max_length) & ~jnp.all(jnp.any(decoded == EOS_ID, axis=-1))

    def body(carry):
        cache, decoded, totals, position = carry
        last = jax.lax.dynamic_slice_in_dim(decoded, position - 1, 1, axis=2)
        logits, cache = advance(cache, last.reshape(-1, 1), position)
        return (*choose(logits, cache, decoded, totals, position), position + 1)

    # top_k sorts, so the best hypothesis stands first.
    return jax.lax.while_loop(unfinished, body, carry)[1][:, 0]


def _advance(
    model: nn.Module, params: Any, inputs: Int[Array, "batch length"], max_length: int, beams=1
) -> Advance:
    """Encodes the inputs once, each `beams` times, and returns what decodes one more token."""
    variables = {"params": params}
    encoded = jnp.repeat(model.apply(variables, inputs, method="encode"), beams, axis=0)
    inputs = jnp.repeat(inputs, beams, axis=0)

    def advance(cache, last, position):
        logits, cache = model.apply(
            {**variables, **cache},
            last,
            encoded,
            inputs,
            position,
            max_length,
            method="decode_step",
            mutable=["self_cache", "cross_cache"],
        )
        return logits[:, 0].astype(jnp.float32), cache

    return advance


def _permit(
    scores: Float[Array, "*batch vocab"],
    answers: Int[Array, "answers max_length"] | None,
    decoded: Int[Array, "*batch max_length"],
    position: Int[Array, ""],
) -> Float[Array, "*batch vocab"]:
    """-inf for tokens that continue none of the permitted answers."""
    if answers is None:
        return scores
    so_far = decoded[..., None, :] == answers
    alive = jnp.all(so_far | (jnp.arange(answers.shape[1]) >= position), axis=-1)
    following = jax.lax.dynamic_index_in_dim(answers, position, axis=1, keepdims=False)
    permitted = jnp.zeros(scores.shape, bool).at[..., following].max(alive)
    return jnp.where(permitted, scores, -jnp.inf)
