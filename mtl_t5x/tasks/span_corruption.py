"""Span corruption over text files: a model can be made where no weights are.

Raffel et al. (2020, arXiv 1910.10683, section 3.1.4; `span_corruption` of t5.data): 15 % of a
text's tokens are noise, in spans of 3 tokens on average. In the inputs each span is one sentinel,
an extra id of the vocabulary, counted down from the last; the targets are the sentinels with what
they stand for. Other than there, documents aren't joined: a long one gives several examples, a
short one a short one; and as a text's last span needn't be its end, which of a short one would be
all that is ever asked, the targets may close with a sentinel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
from etils import epath

from mtl_t5x.tasks import registry, sources, vocabularies
from mtl_t5x.tasks.glue import glue

NAME = "span_corruption"
NOISE_DENSITY = 0.15
MEAN_SPAN = 3.0

Files = Mapping[str, str | Sequence[str]]


def register(
    files: str | Files = "mini", vocabulary_path: str = "mini_100extra", name: str = NAME
) -> None:
    """Registers a task of this name in place of the one before; its data are read later.

    Noise is drawn anew in each epoch of the split train; in others it stays as it is.

    Args:
      files: from a split, "train" at least, to a pattern of text files, or several, in UTF-8 with a
        document in each line; "mini": the texts of the embedded GLUE tasks' splits.
      vocabulary_path: the setting VOCABULARY_PATH, of a vocabulary with extra ids.
      name: of the task; it may be given a second time with other files.

    Raises:
      ValueError: a vocabulary without extra ids; files that aren't there.
    """
    vocabulary = vocabularies.load(vocabulary_path)
    if not vocabulary.extra_ids:
        raise ValueError(
            f"VOCABULARY_PATH = {vocabulary_path!r} has no extra ids for the sentinels of "
            "span_corruption: write 'mini_100extra', or the path of a SentencePiece model"
        )
    settings = (files, vocabulary_path)
    if registry.is_current(name, settings):
        return
    feature = seqio.Feature(vocabulary, add_eos=True)
    arguments = {
        "source": _source(files),
        "preprocessors": [
            _as_text,
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            _pieces,
            _corrupt,
            seqio.preprocessors.append_eos_after_trim,
        ],
        "output_features": {"inputs": feature, "targets": feature},
    }
    registry.replace(name, settings, {name: arguments}, {})


class _Lines(seqio.TextLineDataSource):
    """Lines with the name of their split, which SeqIO doesn't tell preprocessors."""

    def get_dataset(self, split: str, *args: Any, **kwargs: Any) -> tf.data.Dataset:
        lines = super().get_dataset(split, *args, **kwargs)
        return lines.map(lambda line: {"text": line, "split": tf.constant(split)})


def _source(files: str | Files) -> seqio.DataSource:
    if files == "mini":
        return sources.rows_source(mini_texts, ("train", "validation"))
    example = 'write {"train": "texts/train*.txt", "validation": "texts/dev.txt"} or "mini"'
    if not isinstance(files, Mapping) or "train" not in files:
        raise ValueError(f"span_corruption.register.files = {files!r}: {example}")
    for split, patterns in files.items():
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            folder = epath.Path(pattern).parent
            if not any(folder.glob(epath.Path(pattern).name)):
                raise ValueError(
                    f"span_corruption.register.files: no file {pattern!r} for {split}: {example}"
                )
    return _Lines(dict(files))


def mini_texts(split: str) -> list[sources.Row]:
    """The texts of the embedded GLUE tasks, a row's one after the other, without any label."""
    return [
        {"text": " ".join(row[field] for field in task.columns)}
        for name, task in glue.TASKS.items()
        if split in task.splits
        for row in glue.rows("mini", name, split)
    ]


@seqio.map_over_dataset
def _as_text(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {"targets": row["text"], "split": row["split"]}


def noise(length: tf.Tensor | int) -> tuple[Any, Any]:
    """(tokens of noise, spans of noise) in a text of so many tokens, two at least."""
    length = tf.cast(length, tf.float32)
    tokens = tf.clip_by_value(tf.round(length * NOISE_DENSITY), 1, length - 1)
    spans = tf.clip_by_value(tf.round(tokens / MEAN_SPAN), 1, length - tokens)
    return tf.cast(tokens, tf.int32), tf.cast(spans, tf.int32)


def longest(lengths: Mapping[str, int], extra_ids: int) -> int:
    """The most tokens of a text whose inputs and targets, with sentinels and EOS, fit the lengths.

    Raises:
      ValueError: not even two do.
    """
    most = sum(lengths[name] for name in ("inputs", "targets"))
    tokens, spans = (value.numpy() for value in noise(tf.range(2, max(most, 2) + 1)))
    kept = range(2, max(most, 2) + 1) - tokens
    fits = (kept + spans < lengths["inputs"]) & (tokens + spans + 1 < lengths["targets"])
    fits &= spans < extra_ids
    if not fits.any():
        raise ValueError(
            f"TASK_FEATURE_LENGTHS = {dict(lengths)} hold no text with a corrupted span: write 3 "
            "inputs and 4 targets at least"
        )
    return int(fits.nonzero()[0][-1]) + 2


def _pieces(
    dataset: tf.data.Dataset,
    output_features: Mapping[str, seqio.Feature],
    sequence_length: Mapping[str, int] | None = None,
) -> tf.data.Dataset:
    """Texts in pieces that fit, where lengths are given; those of a single token are left out."""
    if sequence_length is not None:
        with tf.init_scope():
            most = longest(sequence_length, output_features["targets"].vocabulary.extra_ids)

        def cut(example: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
            pieces = tf.data.Dataset.from_tensor_slices(example["targets"]).batch(most)
            return pieces.map(lambda piece: {"targets": piece, "split": example["split"]})

        dataset = dataset.flat_map(cut)
    return dataset.filter(lambda example: tf.size(example["targets"]) > 1)


@seqio.utils.map_over_dataset(num_seeds=1)
def _corrupt(
    example: Mapping[str, tf.Tensor], output_features: Mapping[str, seqio.Feature], seed: Any
) -> dict[str, tf.Tensor]:
    tokens, seed = example["targets"], tf.convert_to_tensor(seed)
    # Of a split that is evaluated the noise is the text's own.
    of_text = tf.strings.to_hash_bucket_fast(tf.strings.reduce_join(tf.as_string(tokens)), 2**31)
    fixed = tf.stack([tf.cast(of_text, seed.dtype), tf.zeros([], seed.dtype)])
    mask = noise_mask(tf.size(tokens), tf.where(example["split"] == "train", seed, fixed))
    last = output_features["targets"].vocabulary.vocab_size - 1
    return {
        "inputs": with_sentinels(tokens, mask, last),
        "targets": with_sentinels(tokens, ~mask, last),
    }


def noise_mask(length: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Which tokens are noise, [length] bool: not the first one, spans of both kinds in turn."""
    tokens, spans = noise(length)
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    kept = _cut(
        length - tokens + 1, spans + 1, seeds[0]
    )  # after the last span one less, maybe none
    pairs = tf.stack([kept[:-1], _cut(tokens, spans, seeds[1])], 1)
    mask = tf.repeat(tf.tile([False, True], [spans]), tf.reshape(pairs, [-1]))
    return tf.concat([mask, tf.zeros([kept[-1] - 1], tf.bool)], 0)


def _cut(total: tf.Tensor, parts: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Lengths [parts] of 1 at least that add up to the total, each such list as likely."""
    places = tf.random.experimental.stateless_shuffle(tf.range(1, total), seed)
    bounds = tf.concat([[0], tf.sort(places[: parts - 1]), [total]], 0)
    return bounds[1:] - bounds[:-1]


def with_sentinels(tokens: tf.Tensor, mask: tf.Tensor, last: int) -> tf.Tensor:
    """The tokens with a sentinel for each run of those in the mask: `last`, `last` - 1, …"""
    first = mask & ~tf.concat([[False], mask[:-1]], 0)
    sentinels = last + 1 - tf.cumsum(tf.cast(first, tokens.dtype))
    return tf.boolean_mask(tf.where(first, sentinels, tokens), first | ~mask)
