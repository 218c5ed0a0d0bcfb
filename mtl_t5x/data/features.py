"""What a batch holds: its features, how long they are, and an empty one.

A batch maps these names to arrays `[task, batch, …]`, of every trained task in its order:

* `encoder_input_tokens` [task, batch, inputs] int32: the prompted text; 0 is padding.
* `decoder_target_tokens` [task, batch, targets] int32: the answer with its end, 1; 0 is padding.
* `decoder_input_tokens` [task, batch, targets] int32: the same, one place later, after a 0.
* `decoder_loss_weights` [task, batch, targets] int32: 1 on target tokens, 0 on padding.
* `head_targets` [task, batch, 3] float32, for architectures with heads alone: a class, score or
  answerability, then the first and the last token of a span; -1 where there is none (`heads`).

The first four are those of SeqIO's encoder-decoder models. A task's own examples, before that, have
the features `inputs` and `targets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from mtl_t5x.data import heads, lookup
from mtl_t5x.settings import checks

FeatureLengths = Mapping[str, int]


def lengths_of(name: str, feature_lengths: FeatureLengths) -> dict[str, int]:
    """Token limits of the task called `name`: `<name>/<feature>` stands before `<feature>`.

    {"inputs": 256, "targets": 16, "iwslt/targets": 128} leaves 128 target tokens to `iwslt` alone.
    """
    features = [feature for feature in feature_lengths if "/" not in feature]
    return {
        feature: feature_lengths.get(f"{name}/{feature}", feature_lengths[feature])
        for feature in features
    }


def check_names(tasks: Sequence[seqio.Task], feature_lengths: FeatureLengths) -> list[checks.Fault]:
    """Faults of TASK_FEATURE_LENGTHS: a feature without a length, or a length without a feature."""
    wanted = {"inputs": None, "targets": None}
    wanted |= {feature: None for task in tasks for feature in task.output_features}
    own = {f"{short}/{feature}" for short in lookup.short_names(tasks) for feature in wanted}
    faults = []
    for key in feature_lengths:
        if key not in wanted and key not in own:
            near = checks.nearest(str(key), [*wanted, *own])
            hint = f"did you mean {near!r}?" if near else f"known are {', '.join(wanted)}"
            faults.append(f"TASK_FEATURE_LENGTHS has {key!r}, which no task has: {hint}")
    absent = [repr(feature) for feature in wanted if feature not in feature_lengths]
    if absent and not faults:
        shown = dict(feature_lengths)
        faults = [f"TASK_FEATURE_LENGTHS = {shown} has no length for {', '.join(absent)}: add it"]
    return faults


def batch_lengths(names: Sequence[str], feature_lengths: FeatureLengths) -> dict[str, int]:
    """The lengths that hold every one of the tasks."""
    lengths = [lengths_of(name, feature_lengths) for name in names]
    return {feature: max(length[feature] for length in lengths) for feature in lengths[0]}


def of_model(inputs: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """A model's features of padded token ids `[…, inputs]` and `[…, targets]`, as SeqIO's
    `EncDecFeatureConverter` makes them without packing."""
    inputs, targets = (np.asarray(tokens, np.int32) for tokens in (inputs, targets))
    decoded = np.zeros_like(targets)
    decoded[..., 1:] = targets[..., :-1]
    return {
        "encoder_input_tokens": inputs,
        "decoder_target_tokens": targets,
        "decoder_input_tokens": decoded,
        "decoder_loss_weights": (targets != 0).astype(np.int32),
    }


def model_features(with_heads: bool = False) -> seqio.FeatureConverter:
    """SeqIO's converter from task features to those of an encoder-decoder model."""
    extra = {heads.FEATURE: seqio.FeatureConverter.FeatureSpec(dtype=tf.float32)}
    return seqio.EncDecFeatureConverter(
        pack=False, passthrough_features=extra if with_heads else None
    )


class StoredInputs(seqio.EncDecFeatureConverter):
    """Gives inputs `[example, length]` that are padded already, whatever dataset they are of."""

    def __init__(self, inputs: np.ndarray):
        super().__init__(pack=False)
        self._inputs = inputs

    def __call__(
        self, ds: tf.data.Dataset, task_feature_lengths: FeatureLengths
    ) -> tf.data.Dataset:
        del ds, task_feature_lengths
        return tf.data.Dataset.from_tensor_slices({"encoder_input_tokens": self._inputs})


def empty_batch(names: Sequence[str], feature_lengths: FeatureLengths) -> dict[str, np.ndarray]:
    """Zeros, one example per task: the shapes are all that initialising a model needs."""
    lengths = batch_lengths(names, feature_lengths)
    inputs, targets = ((len(names), 1, lengths[feature]) for feature in ("inputs", "targets"))
    return {
        "encoder_input_tokens": np.zeros(inputs, np.int32),
        "decoder_input_tokens": np.zeros(targets, np.int32),
        "decoder_target_tokens": np.zeros(targets, np.int32),
        "decoder_loss_weights": np.zeros(targets, np.int32),
        heads.FEATURE: np.zeros((len(names), 1, heads.NUM_TARGETS), np.float32),
    }
