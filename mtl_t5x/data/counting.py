"""How many examples a split has, and how many are cut: every row is parsed before training."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from mtl_t5x.data import features

logger = logging.getLogger(__name__)


@functools.cache
def _token_lengths(task: seqio.Task, split: str) -> Mapping[str, np.ndarray]:
    dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False)
    features = tuple(task.output_features)
    dataset = dataset.map(
        lambda example: tf.stack([tf.shape(example[name])[0] for name in features]),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    # Batches, as Python takes longer for an element than TensorFlow.
    batches = [np.zeros((0, len(features)), np.int64), *dataset.batch(1024).as_numpy_iterator()]
    return dict(zip(features, np.concatenate(batches).T, strict=True))


def count(task: seqio.Task, split: str, lengths: features.FeatureLengths) -> dict[str, int]:
    """Reads a split once, untrimmed: every row is parsed before a step is spent on it.

    Returns:
      `examples`; of each feature how many are longer than its length, `<feature>_cut`, and the
      longest in tokens, `<feature>_longest`; `rows_dropped` where the source leaves out any.
      Nothing for a task whose preprocessors can't do without a sequence length.
    """
    for preprocessor in task.preprocessors:
        length = inspect.signature(preprocessor).parameters.get("sequence_length")
        if length is not None and length.default is inspect.Parameter.empty:
            logger.warning("%s: cut examples can't be counted", task.name)
            return {}
    tokens = _token_lengths(task, split)
    counts = {"examples": len(next(iter(tokens.values())))}
    for name, n in tokens.items():
        counts[f"{name}_cut"] = int((n > lengths[name]).sum())
        counts[f"{name}_longest"] = int(n.max(initial=0))
    dropped = getattr(task.source, "dropped", None)
    if dropped is not None and (rows := sum(dropped(split).values())):
        counts["rows_dropped"] = rows
    return counts


def check(
    tasks: Mapping[str, seqio.Task],
    split: str,
    feature_lengths: features.FeatureLengths,
    batch_size: int = 1,
) -> dict[str, dict[str, int]]:
    """Counts of the split by the tasks' short names; says which tasks are cut.

    Raises:
      ValueError: a feature without a length, an empty split, or a task with fewer examples than a
        batch.
    """
    counts = {}
    for name, task in tasks.items():
        lengths = features.lengths_of(name, feature_lengths)
        missing = sorted(set(task.output_features) - set(lengths))
        if missing:
            raise ValueError(
                f"TASK_FEATURE_LENGTHS has no length for {', '.join(missing)} of task {task.name}; "
                f"it is {dict(feature_lengths)}"
            )
        # A source that says that it has none may not be read; others are found out by counting.
        empty = task.num_input_examples(split) == 0
        counts[name] = {} if empty else count(task, split, lengths)
        examples = counts[name].get("examples", batch_size)
        if empty or not examples:
            raise ValueError(
                f"the {split} split of {task.name} has no examples: look at where its data is read "
                "from (DATA, for the tasks that come with mtl_t5x), or leave the task out"
            )
        if examples < batch_size:
            raise ValueError(
                f"BATCH_SIZE = {batch_size}, but the {split} split of {task.name} has "
                f"{examples} examples: set BATCH_SIZE to {examples} at most, or leave the task out"
            )
        for feature, length in lengths.items():
            if cut := counts[name].get(f"{feature}_cut"):
                logger.warning(
                    "%s: %d of %d %s examples have their %s cut to %d tokens (the longest has %d); "
                    "raise TASK_FEATURE_LENGTHS[%r]",
                    task.name, cut, examples, split, feature, length,
                    counts[name][f"{feature}_longest"], feature,
                )  # fmt: skip
    return counts
