"""Leaves out padding.

Batches of a training run all have the lengths that its longest example asks for. Where examples are
only scored or measured, and their order is free, those of alike length are computed together. The
lengths that are left are few then, or the batch's own: each is a program that is compiled. But for
rounding, nothing that a model computes of an example depends on the padding behind it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

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


def lengths(name: str, most: int) -> list[int]:
    """All that a feature is trimmed to, the shortest first."""
    shortest, factor = STEPS[name]
    steps = itertools.takewhile(
        lambda n: n < most, (shortest * factor**i for i in itertools.count())
    )
    return [*steps, most]


def trimmed(batch: Features, *, targets: int = 0) -> dict[str, np.ndarray]:
    """The batch `[…, length]` as far as the longest of its examples goes.

    Args:
      batch: under a batch's names, with or without targets.
      targets: places that these keep at least.
    """
    cut = dict(batch)
    for names, least in ((INPUTS, 0), (TARGETS, targets)):
        if names[0] in batch:
            (length,) = _lengths(batch[names[0]][None], names[0])
            cut |= {name: batch[name][..., : max(length, least)] for name in names}
    return cut


def longest_first(rows: Features) -> Int[np.ndarray, " row"]:
    """Numbers of the rows `[row, …, length]`, in an order whose neighbours can be trimmed together.

    It goes by what is left of their targets, where these are there, then by their inputs.
    """
    keys = [_counts(rows[INPUTS[0]])]
    if TARGETS[0] in rows:
        keys.append(_lengths(rows[TARGETS[0]], TARGETS[0]))
    return np.lexsort([-key for key in keys])


def in_batches(
    order: Int[np.ndarray, " row"], size: int
) -> Iterator[tuple[Int[np.ndarray, " some"], Int[np.ndarray, " size"]]]:
    """(numbers of a batch, the same filled up to `size` with its last), batch by batch: that the
    last batch isn't full takes no program of its own."""
    for numbers in np.split(order, np.arange(size, len(order), size)):
        yield numbers, np.pad(numbers, (0, size - len(numbers)), mode="edge")


def until_ended(
    order: Int[np.ndarray, " row"],
    size: int,
    lengths: Sequence[int],
    compute: Callable[[Int[np.ndarray, " some"], Int[np.ndarray, " size"], int], Any],
    done: Callable[[int], None],
) -> None:
    """Computes answers of the first of the lengths, and those that haven't ended by then again, of
    the next one: most are far shorter than they may be, and a batch takes as long as its longest.

    Args:
      order: numbers of the rows.
      size: of a batch.
      lengths: see there.
      compute: keeps what it makes of a batch, as `in_batches` has it, with answers of a length, and
        returns `[some]`, whether they have ended.
      done: is told of how many rows nothing more is computed.
    """
    for length in lengths:
        unended = []
        for numbers, filled in in_batches(order, size) if len(order) else ():
            ended = compute(numbers, filled, length) | (length == lengths[-1])
            unended.append(numbers[~ended])
            done(int(np.sum(ended)))
        order = np.concatenate([order[:0], *unended])


def _lengths(tokens: Int[np.ndarray, "row *batch length"], name: str) -> Int[np.ndarray, " row"]:
    """What each row's tokens are trimmed to."""
    possible = np.array(lengths(name, tokens.shape[-1]))
    return possible[np.searchsorted(possible, _counts(tokens))]


def _counts(tokens: Int[np.ndarray, "row *batch length"]) -> Int[np.ndarray, " row"]:
    """How many places each row has up to the last with a token."""
    filled = np.any(tokens != 0, axis=tuple(range(1, tokens.ndim - 1)))
    behind = np.argmax(filled[:, ::-1], axis=1)
    return np.where(np.any(filled, axis=1), tokens.shape[-1] - behind, 0)
