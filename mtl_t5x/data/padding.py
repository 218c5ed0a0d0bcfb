"""Leaves out padding.

Batches of a training run all have the lengths that its longest example asks for. Where examples are
only scored or measured, and their order is free, those of alike length are computed together. The
lengths that are left are few then, or the batch's own: each is a program that is compiled. But for
rounding, nothing that a model computes of an example depends on the padding behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Int

# Tokens: the shortest length, and how much longer each next one is. Answers are short, mostly.
STEPS = {"encoder_input_tokens": (64, 2), "decoder_target_tokens": (16, 4)}
MULTIPLE = 16  # tokens, a tile of bfloat16 on a TPU
INPUTS = ("encoder_input_tokens",)
TARGETS = ("decoder_target_tokens", "decoder_input_tokens", "decoder_loss_weights")
Features = Mapping[str, np.ndarray]


def rounded(longest: int, most: int) -> int:
    """The length of batches whose longest example has so many tokens: a multiple, or `most`."""
    return min(-(-max(longest, 1) // MULTIPLE) * MULTIPLE, most)


def trimmed(batch: Features, *, targets: bool = True) -> dict[str, np.ndarray]:
    """The batch `[…, length]` as far as the longest of its examples goes.

    Args:
      batch: under a batch's names, with or without targets.
      targets: whether they are trimmed, too.
    """
    cut = dict(batch)
    for names in (INPUTS, TARGETS) if targets else (INPUTS,):
        if names[0] in batch:
            (length,) = _lengths(batch[names[0]][None], names[0])
            cut |= {name: batch[name][..., :length] for name in names}
    return cut


def longest_first(rows: Features, *, targets: bool = True) -> Int[np.ndarray, " row"]:
    """Numbers of the rows `[row, …, length]`, in an order whose neighbours can be trimmed together.

    It goes by what is left of their targets, where these are there and are trimmed, then by their
    inputs.
    """
    keys = [_counts(rows[INPUTS[0]])]
    if targets and TARGETS[0] in rows:
        keys.append(_lengths(rows[TARGETS[0]], TARGETS[0]))
    return np.lexsort([-key for key in keys])


def in_batches(
    order: Int[np.ndarray, " row"], size: int
) -> Iterator[tuple[Int[np.ndarray, " some"], Int[np.ndarray, " size"]]]:
    """(numbers of a batch, the same filled up to `size` with its last), batch by batch: that the
    last batch isn't full takes no program of its own."""
    for numbers in np.split(order, np.arange(size, len(order), size)):
        yield numbers, np.pad(numbers, (0, size - len(numbers)), mode="edge")


def _lengths(tokens: Int[np.ndarray, "row *batch length"], name: str) -> Int[np.ndarray, " row"]:
    """What each row's tokens are trimmed to."""
    shortest, factor = STEPS[name]
    steps = np.ceil(np.log2(np.maximum(_counts(tokens), shortest) / shortest) / np.log2(factor))
    return np.minimum(shortest * factor ** steps.astype(int), tokens.shape[-1])


def _counts(tokens: Int[np.ndarray, "row *batch length"]) -> Int[np.ndarray, " row"]:
    """How many places each row has up to the last with a token."""
    filled = np.any(tokens != 0, axis=tuple(range(1, tokens.ndim - 1)))
    behind = np.argmax(filled[:, ::-1], axis=1)
    return np.where(np.any(filled, axis=1), tokens.shape[-1] - behind, 0)
