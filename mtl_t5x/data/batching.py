"""One batch that holds every task.

Knows SeqIO and nothing of any benchmark. There is one iterator per task, stacked to
`[task, batch, length]`, so every step sees every task and no task-id feature is needed. What a
batch holds is in `features`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import seqio
import tensorflow as tf

from mtl_t5x.data import features, heads, lookup

Share = tuple[slice, slice]  # of a batch's tasks, and of each one's examples
WHOLE: Share = (slice(None), slice(None))


def train_batches(
    tasks: Sequence[seqio.Task],
    feature_lengths: features.FeatureLengths,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    with_heads: bool = False,
    share: Share = WHOLE,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of every task, `[task, batch, length]`, under SeqIO's encoder-decoder names.

    A task's stream depends on the seed and the task's name alone, so a run that starts again at
    `start_step` sees what it would have seen, and a single-task run sees what its task sees among
    others. `with_heads` adds the heads' targets. `share` says which of the tasks, and which
    examples of a task's batch, are read: what several processes read makes up what one would.
    """
    read_tasks, read_examples = share
    names = lookup.short_names(tasks)
    streams = []
    for name, task in zip(names[read_tasks], tasks[read_tasks], strict=True):
        dataset = task.get_dataset(
            sequence_length=features.lengths_of(name, feature_lengths),
            split="train",
            shuffle=True,
            seed=_seed(seed, task),
            num_epochs=None,
        ).skip(start_step * batch_size)
        dataset = _to_model(dataset, name, task, names, feature_lengths, with_heads)
        streams.append(dataset.batch(batch_size, drop_remainder=True))

    def stack(*batches):
        return {
            name: tf.stack([batch[name][read_examples] for batch in batches]) for name in batches[0]
        }

    dataset = tf.data.Dataset.zip(tuple(streams)).map(stack).prefetch(2)
    return dataset.as_numpy_iterator()


def draw(
    tasks: Sequence[seqio.Task],
    feature_lengths: features.FeatureLengths,
    batch_size: int,
    examples: int,
    *,
    seed: int,
    with_heads: bool = False,
) -> tuple[list[dict[str, np.ndarray]], list[int]]:
    """(batches `[task, batch, length]`, how many of them count for each task), no example twice.

    A task that has fewer than `examples` gives as many whole batches as it can. What stands in its
    place in the further ones is filled up and doesn't count. As for `train_batches`, a task's draw
    depends on the seed and its name alone.

    Raises:
      ValueError: a task with fewer examples than a batch.
    """
    names = lookup.short_names(tasks)
    drawn = []
    for name, task in zip(names, tasks, strict=True):
        dataset = task.get_dataset(
            sequence_length=features.lengths_of(name, feature_lengths),
            split="train",
            shuffle=True,
            seed=_seed(seed, task),
            num_epochs=1,
            try_in_mem_cache=False,  # nearly all of it would stay unread
        )
        dataset = _to_model(dataset, name, task, names, feature_lengths, with_heads)
        batches = dataset.batch(batch_size, drop_remainder=True).take(examples // batch_size)
        drawn.append(list(batches.as_numpy_iterator()))
        if not drawn[-1]:
            raise ValueError(
                f"the train split of {task.name} has fewer examples than the {batch_size} that are "
                "computed at once: set measure.Settings.microbatch_size to as many as it has"
            )
    counts = [len(batches) for batches in drawn]
    filled = [
        {
            name: np.stack([batches[i % len(batches)][name] for batches in drawn])
            for name in drawn[0][0]
        }
        for i in range(max(counts))
    ]
    return filled, counts


def _seed(seed: int, task: seqio.Task) -> int:
    return zlib.crc32(f"{seed}:{task.name}".encode()) & 0x7FFFFFFF


def _to_model(
    dataset: tf.data.Dataset,
    name: str,
    task: seqio.Task,
    names: Sequence[str],
    feature_lengths: features.FeatureLengths,
    with_heads: bool,
) -> tf.data.Dataset:
    """A task's examples as the model takes them, padded to what holds every task."""
    padded = features.batch_lengths(names, feature_lengths)
    if with_heads:
        inputs = features.lengths_of(name, feature_lengths)["inputs"]
        dataset = heads.with_targets(dataset, task, inputs)
        padded[heads.FEATURE] = heads.NUM_TARGETS
    return features.model_features(with_heads)(dataset, task_feature_lengths=padded)
