"""What a model makes of examples whose answers it is given: its loss, and its guess at every token.

The original scores its text tasks by such guesses: every one follows the gold answer up to there,
so the scores are above those of decoding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Int, Shaped

from mtl_t5x.data import padding
from mtl_t5x.models import decoding

Examples = Mapping[str, Shaped[np.ndarray, "example *_"]]


def over_examples(
    params: Any,
    examples: Examples,
    *,
    model: nn.Module,
    batch_size: int,
    place: Callable[[np.ndarray], Any],
    guess: bool,
    shown: tqdm.tqdm,
) -> tuple[float, Int[np.ndarray, "example targets"] | None]:
    """(loss over all the examples, the likeliest token at every position of their answers).

    The loss is the mean that the model trains on, over the tokens or the examples of all batches
    together. Several processes share the examples, and each gets what the others found.

    Tokens are guessed behind an answer's end, too, until one is the end of sequence; behind that
    0 may stand in their place, since it is as far as answers are read.

    Args:
      params: of the model.
      examples: of one task, under the names of a batch.
      model: what answers this task alone, as an architecture's `for_task` gives it.
      batch_size: examples that a process computes at once.
      place: brings rows `[row, …]` to where they are computed.
      guess: whether the tokens are asked for; None is returned in their place else. It takes a
        model with a decoder.
      shown: is told of every example that is done.
    """
    batch = {name: jnp.asarray(value)[None] for name, value in examples.items()}
    batch = model.apply({}, batch, method="before_splitting")
    rows = {name: np.asarray(value[0]) for name, value in batch.items()}
    size, processes = len(rows["encoder_input_tokens"]), jax.process_count()
    # All processes have as many: the last ones have the last example once more.
    numbers = np.minimum(np.arange(-(-size // processes) * processes), size - 1)
    shares = padding.longest_first(rows)[numbers].reshape(-1, processes).T
    mine = {name: value[shares[jax.process_index()]] for name, value in rows.items()}

    def done(number):
        shown.update(min(number * processes, size - shown.n))

    found = _of_share(
        params, mine, model=model, batch_size=batch_size, place=place, guess=guess, done=done
    )
    gathered = multihost_utils.process_allgather(found, tiled=True)
    _, first = np.unique(shares, return_index=True)  # where each example stands in what is gathered
    losses, weights, tokens = jax.tree.map(lambda of_rows: of_rows[first], gathered)
    losses, weights = np.float64(losses), np.float64(weights)
    loss = float(np.sum(losses * weights) / np.sum(weights)) if np.any(weights) else float("nan")
    return loss, tokens


def _of_share(
    params: Any,
    share: Examples,
    *,
    model: nn.Module,
    batch_size: int,
    place: Callable[[np.ndarray], Any],
    guess: bool,
    done: Callable[[int], None],
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """What `_of_rows` finds of a process's share of the examples, in their order, batch by batch:
    with targets as long as the answers, and where no guess ends one by then, longer ones again."""
    size = len(share["encoder_input_tokens"])
    losses, weights = np.zeros((2, size), np.float32)
    lengths, tokens = [0], None
    if guess:
        tokens = np.zeros_like(share["decoder_target_tokens"])
        lengths = padding.lengths("decoder_target_tokens", tokens.shape[1])

    def compute(numbers, filled, length):
        block = {name: value[filled] for name, value in share.items()}
        block = jax.tree.map(place, padding.trimmed(block, targets=length))
        found = jax.device_get(_of_rows(params, block, model=model, guess=guess))
        loss, weight, guessed = jax.tree.map(lambda of_rows: of_rows[: len(numbers)], found)
        losses[numbers], weights[numbers] = loss, weight
        if guessed is None:
            return np.ones(len(numbers), bool)
        tokens[numbers, : guessed.shape[1]] = guessed
        # A batch of the longest answers had the full length at once.
        whole = guessed.shape[1] == tokens.shape[1]
        return np.any(guessed == decoding.EOS_ID, axis=1) | whole

    padding.until_ended(np.arange(size), batch_size, lengths, compute, done)
    return losses, weights, tokens


@functools.partial(jax.jit, static_argnames=("model", "guess"))
def _of_rows(
    params: Any, rows: Mapping[str, Shaped[Array, "row *_"]], *, model: nn.Module, guess: bool
) -> tuple[Float[Array, " row"], Float[Array, " row"], Int[Array, "row targets"] | None]:
    """(loss, how much it counts, likeliest tokens) of each row, as if it were a batch."""

    def one(row):
        batch = {name: value[None, None] for name, value in row.items()}
        loss = model.apply({"params": params}, batch)[0]
        weight = model.apply({}, batch, method="loss_weights")[0]
        if not guess:
            return loss, weight, None
        given = (batch["encoder_input_tokens"], batch["decoder_input_tokens"])
        # The compiler finds that this is what the loss is made of.
        logits = model.apply({"params": params}, *given, method="logits")
        return loss, weight, jnp.argmax(logits[0, 0], axis=-1)

    return jax.vmap(one)(rows)
