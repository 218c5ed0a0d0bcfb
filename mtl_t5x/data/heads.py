"""How a task is answered where it isn't by the shared decoder: the kinds of heads, as data.

A task says its kind by an attribute `head` of its SeqIO postprocessor; a task that says nothing is
answered in text by a decoder of its own. What a head learns from is read off the task's examples,
and what it predicts is turned into text again, so prompts, postprocessors and metrics are the same
for every architecture. This module knows no JAX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

# What `with_targets` adds to every example: a class, score or answerability; first and last token
# of the span. -1 where there is none.
FEATURE = "head_targets"
NUM_TARGETS = 3


@dataclasses.dataclass(frozen=True)
class Decoder:
    """A decoder of the task's own."""


@dataclasses.dataclass(frozen=True)
class Classification:
    """A class by its index, from the example's `label`; answered by the class's word."""

    num_classes: int


@dataclasses.dataclass(frozen=True)
class Regression:
    """A number, from the example's `label`; answers are kept within [low, high]."""

    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Span:
    """A span of the input, from `answer_start`, an offset in `inputs_pretokenized`.

    Attributes:
      no_answer: the answer's text where there is no span; None where there always is one.
      strict: the span is rather where the answer's own tokens first stand in those of the text's
        first `searched` characters, a field of the example; an example whose span isn't there or is
        cut is left out of its split where a head answers, see `without_lost_spans`.
    """

    no_answer: str | None = None
    strict: bool = False


Head = Decoder | Classification | Regression | Span


def head_of_task(task: seqio.Task) -> Head:
    """The kind of head that a task asks for."""
    return getattr(task.postprocessor, "head", Decoder())


def token_offsets(vocabulary: seqio.Vocabulary, text: str) -> list[tuple[int, int]]:
    """(begin, end) in characters of `text` for each of its tokens.

    Raises:
      ValueError: a kind of vocabulary that doesn't tell where its tokens come from.
    """
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        pieces = vocabulary.tokenizer.encode(text, return_type="proto").pieces
        # SentencePiece counts bytes. Of a character that is spelled in byte pieces, the last has
        # all of its width and the others none: they all stand for that character.
        characters = [i for i, character in enumerate(text) for _ in character.encode()]
        characters.append(len(text))
        offsets, following = [], 0
        for piece in reversed(pieces):
            following = piece.end if piece.end > piece.begin else following
            offsets.append((characters[piece.begin], characters[following]))
        return offsets[::-1]
    if isinstance(vocabulary, seqio.ByteVocabulary):
        return [(i, i + 1) for i, character in enumerate(text) for _ in character.encode()]
    raise ValueError(
        f"spans can't be found on tokens of a {type(vocabulary).__name__}: use a SentencePiece "
        "or byte vocabulary for tasks that are answered by a span"
    )


def find_span(
    offsets: Sequence[tuple[int, int]], start: int, length: int
) -> tuple[int, int] | None:
    """First and last of the tokens that overlap the `length` characters from `start` on."""
    inside = [i for i, (begin, end) in enumerate(offsets) if end > start and begin < start + length]
    return (inside[0], inside[-1]) if inside and length else None


def first_tokens(tokens: Sequence[int], answer: Sequence[int]) -> tuple[int, int] | None:
    """First and last place of an answer where it first stands in other tokens; None: nowhere."""
    for first in range(len(tokens) - len(answer) + 1 if answer else 0):
        if tokens[first : first + len(answer)] == answer:
            return first, first + len(answer) - 1
    return None


def with_targets(
    dataset: tf.data.Dataset, task: seqio.Task, inputs_length: int | None
) -> tf.data.Dataset:
    """Adds `head_targets`, [3] float32, to every example of a task.

    A span that isn't in the text, or that the cut to `inputs_length` tokens (None: no cut) leaves
    incomplete, is (-1, -1): the head learns nothing from such an example.

    Raises:
      ValueError: the examples lack what the head learns from.
    """
    check_learnable(dataset.element_spec, task)
    head = head_of_task(task)
    if isinstance(head, Classification | Regression):

        def targets(example):
            label = tf.cast(example["label"], tf.float32)
            return tf.stack([label, -1.0, -1.0])

    elif isinstance(head, Span):
        vocabulary = task.output_features["inputs"].vocabulary

        def targets(example):
            return _span_targets(example, head, vocabulary, inputs_length)

    else:

        def targets(example):
            return -tf.ones([NUM_TARGETS])

    return dataset.map(
        lambda example: {**example, FEATURE: tf.ensure_shape(targets(example), [NUM_TARGETS])},
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def _span_targets(
    example: Mapping[str, tf.Tensor],
    head: Span,
    vocabulary: seqio.Vocabulary,
    inputs_length: int | None,
) -> tf.Tensor:
    def locate(inputs: bytes, answer: bytes, place: int) -> np.ndarray:
        inputs, answer = inputs.decode(), answer.decode()
        answerable = answer != head.no_answer
        found = None
        if answerable and head.strict:
            found = first_tokens(vocabulary.encode(inputs[:place]), vocabulary.encode(answer))
        elif answerable and place >= 0:
            found = find_span(token_offsets(vocabulary, inputs), place, len(answer))
        return cut(np.array([answerable, *(found or (-1, -1))], np.float32), inputs_length)

    names = ("inputs_pretokenized", "targets_pretokenized", _place(head))
    targets = tf.numpy_function(locate, [example[name] for name in names], tf.float32)
    return tf.ensure_shape(targets, [NUM_TARGETS])


def _place(head: Span) -> str:
    return "searched" if head.strict else "answer_start"


@dataclasses.dataclass(frozen=True)
class _FoundSpans:
    """The preprocessor that leaves out examples whose span is lost.

    SeqIO sets `sequence_length`.
    """

    head: Span
    vocabulary: seqio.Vocabulary
    sequence_length: Mapping[str, int] | None = None

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        length = None if self.sequence_length is None else self.sequence_length["inputs"]

        def is_found(example):
            targets = _span_targets(example, self.head, self.vocabulary, length)
            return (targets[0] == 0) | (targets[1] >= 0)

        return dataset.filter(is_found)


def without_lost_spans(task: seqio.Task) -> seqio.Task:
    """A task of a strict span head without the examples that have a span which isn't found, or is
    cut at the inputs' length; any other task as it is."""
    head = head_of_task(task)
    if not isinstance(head, Span) or not head.strict:
        return task
    found = _FoundSpans(head, task.output_features["inputs"].vocabulary)
    if found in task.preprocessors:
        return task
    return task.replace(preprocessors=[*task.preprocessors, found])


def cut(targets: np.ndarray, inputs_length: int | None) -> np.ndarray:
    """Targets [..., 3] of inputs that are cut to so many tokens; None: that aren't."""
    if inputs_length is None:
        return targets
    # The last token that is kept is the end of the sequence.
    lost = targets[..., 2:] >= inputs_length - 1
    return np.where(lost & [False, True, True], np.float32(-1), targets)


def check_learnable(features: Mapping[str, Any], task: seqio.Task) -> None:
    """Raises ValueError where a task's examples, of these features, lack what its head learns from.

    Besides where a span is asked for of a vocabulary that doesn't tell where its tokens come from.
    """
    head = head_of_task(task)
    needed = []
    if isinstance(head, Classification | Regression):
        needed = ["label"]
    elif isinstance(head, Span):
        needed = [_place(head), "inputs_pretokenized", "targets_pretokenized"]
    for feature in needed:
        if feature not in features:
            raise ValueError(
                f"{task.name} asks for a {type(head).__name__} head, which learns from "
                f"{feature!r}, but its examples only have {sorted(features)}: let its "
                "preprocessors pass that field on"
            )
    if isinstance(head, Span):
        token_offsets(task.output_features["inputs"].vocabulary, "")


def lost_spans(targets: np.ndarray, inputs_length: int) -> dict[str, int]:
    """Of uncut targets [examples, 3] of spans: `spans_unreachable`, not in the input's text, and
    `spans_cut`, beyond the length."""

    def lost(targets: np.ndarray) -> int:
        return int(((targets[:, 0] != 0) & (targets[:, 1] < 0)).sum())

    unreachable = lost(targets)
    return {
        "spans_unreachable": unreachable,
        "spans_cut": lost(cut(targets, inputs_length)) - unreachable,
    }


def predicted_tokens(
    head: Head,
    prediction: Mapping[str, np.ndarray],
    inputs: np.ndarray,
    task: seqio.Task,
    max_span: int,
) -> list[int]:
    """Token ids of the answer to one example, as a decoder would have given them.

    Args:
      head: the task's.
      prediction: what the head computed: `logits` [classes]; `score` []; `start` and `end`
        [inputs_length] with `answerable` [2].
      inputs: the example's token ids, [inputs_length].
      task: whose words and vocabulary are used.
      max_span: the longest span in tokens.
    """
    vocabulary = task.output_features["targets"].vocabulary
    if isinstance(head, Classification):
        word = task.postprocessor.class_words[int(np.argmax(prediction["logits"]))]
        return vocabulary.encode(word)
    if isinstance(head, Regression):
        return vocabulary.encode(f"{np.clip(prediction['score'], head.low, head.high):.4f}")
    if head.no_answer is not None and np.argmax(prediction["answerable"]) == 0:
        return vocabulary.encode(head.no_answer)
    start, end = best_span(prediction["start"], prediction["end"], max_span)
    return [int(token) for token in inputs[start : end + 1]]


def best_span(start: np.ndarray, end: np.ndarray, max_span: int) -> tuple[int, int]:
    """The pair start <= end < start + max_span with the highest sum of scores."""
    scores = start[:, None] + end[None, :]
    allowed = np.triu(np.ones_like(scores, bool)) & np.tril(
        np.ones_like(scores, bool), max_span - 1
    )
    best = np.argmax(np.where(allowed, scores, -np.inf))
    first, last = np.unravel_index(best, scores.shape)
    return int(first), int(last)
