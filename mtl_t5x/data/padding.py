"""Leaves out padding where examples are only scored or measured, and their order is free.

The lengths that are left are powers of two from 64 on, or the batch's own: each is a program that
is compiled, so there are few. But for rounding, nothing that a model computes of an example depends
on the padding behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Int

SHORTEST = 64  # tokens
INPUTS = ("encoder_input_tokens",)
TARGETS = ("decoder_target_tokens", "decoder_input_tokens", "decoder_loss_weights")
Features = Mapping[str, np.ndarray]


def trimmed(batch: Features, *, targets: bool = True) -> dict[str, np.ndarray]:
    """The batch `[…, length]` as far as the longest of its examples goes.

    Args:
      batch: under a batch's names, with or without targets.
      targets: whether they are trimmed, too.
    """
    cut = dict(batch)
    for names in (INPUTS, TARGETS) if targets else (INPUTS,):
        if names[0] in batch:
            (length,) = _lengths(batch[names[0]][None])
            cut |= {name: batch[name][..., :length] for name in names}
    return cut


def longest_first(rows: Features, *, targets: bool = True) -> Int[np.ndarray, " row"]:
    """Numbers of the rows `[row, …, length]`, in an order whose neighbours can be trimmed together.

    It goes by what is left of their targets, where these are there and are trimmed, then by their
    inputs.
    """
    keys = [_counts(rows[INPUTS[0]])]
    if targets and TARGETS[0] in rows:
        keys.append(_lengths(rows[TARGETS[0]]))
    return np.lexsort([-key for key in keys])


def in_batches(
    order: Int[np.ndarray, " row"], size: int
) -> Iterator[tuple[Int[np.ndarray, " some"], Int[np.ndarray, " size"]]]:
    """(numbers of a batch, the same filled up to `size` with its last), batch by batch: that the
    last batch isn't full takes no program of its own."""
    for numbers in np.split(order, np.arange(size, len(order), size)):
        yield numbers, np.pad(numbers, (0, size - len(numbers)), mode="edge")


def _lengths(tokens: Int[np.ndarray, "row *batch length"]) -> Int[np.ndarray, " row"]:
    """What each row's tokens are trimmed to."""
    powers = 2 ** np.ceil(np.log2(np.maximum(_counts(tokens), SHORTEST))).astype(int)
    return np.minimum(powers, tokens.shape[-1])


def _counts(tokens: Int[np.ndarray, "row *batch length"]) -> Int[np.ndarray, " row"]:
    """How many places each row has up to the last with a token."""
    filled = np.any(tokens != 0, axis=tuple(range(1, tokens.ndim - 1)))
    behind = np.argmax(filled[:, ::-1], axis=1)
    return np.where(np.any(filled, axis=1), tokens.shape[-1] - behind, 0)
