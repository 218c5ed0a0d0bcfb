"""From names of SeqIO tasks and mixtures to one batch that holds every task.

Knows SeqIO and nothing of any benchmark. There is one iterator per task, stacked to
`[task, batch, length]`, so every step sees every task and no task-id feature is needed.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from mtl_t5x.data import heads, lookup

logger = logging.getLogger(__name__)

FeatureLengths = Mapping[str, int]
Share = tuple[slice, slice]  # of a batch's tasks, and of each one's examples
WHOLE: Share = (slice(None), slice(None))


def find_tasks(
    mixture_or_task_name: str | Sequence[str],
    module: str | None = None,
    register: Callable[[], None] | None = None,
) -> tuple[seqio.Task, ...]:
    """The tasks of a mixture, a task, or a list of either; each once, in the order given.

    Args:
      mixture_or_task_name: names in SeqIO's registries.
      module: imported first, to register tasks.
      register: called first, to register tasks that depend on settings, such as where the data is.

    Raises:
      ValueError: a name that isn't registered; the nearest ones are suggested.
    """
    if register is not None:
        register()
    if module is not None:
        importlib.import_module(module)
    names = (
        [mixture_or_task_name] if isinstance(mixture_or_task_name, str) else mixture_or_task_name
    )
    tasks = {}
    for name in names:
        try:
            found = lookup.find(name)
        except ValueError as error:
            raise ValueError(
                f"MIXTURE_OR_TASK_NAME: {error} A module of your own that registers it must be "
                "imported in the gin file, or named as MIXTURE_OR_TASK_MODULE."
            ) from error
        for task in seqio.get_subtasks(found):
            tasks[task.name] = task
    if not tasks:
        raise ValueError("MIXTURE_OR_TASK_NAME is empty: give a mixture, a task or a list of tasks")
    return tuple(tasks.values())


def short_names(tasks: Sequence[seqio.Task]) -> tuple[str, ...]:
    """What metrics and reports call the tasks.

    `<benchmark>_<task>.<prompt>.<labels>` is called `<task>`; any other name stays as it is, and so
    do names that would otherwise be the same.
    """
    short = []
    for task in tasks:
        first, *variant = task.name.split(".")
        short.append(first.split("_", 1)[-1] if variant else task.name)
    if len(set(short)) < len(short):
        return tuple(task.name for task in tasks)
    return tuple(short)


def with_split(tasks: Sequence[seqio.Task], split: str) -> tuple[seqio.Task, ...]:
    """Those of the tasks that have the split: MNLI mismatched, for one, has a test split only."""
    return tuple(task for task in tasks if split in task.splits)


def heads_of(tasks: Sequence[seqio.Task]) -> tuple[heads.Head, ...]:
    """What each of the trained tasks asks to be answered by, in their order."""
    return tuple(heads.of(task) for task in with_split(tasks, "train"))


def lengths_of(name: str, feature_lengths: FeatureLengths) -> dict[str, int]:
    """Token limits of the task called `name`: `<name>/<feature>` stands before `<feature>`.

    {"inputs": 256, "targets": 16, "iwslt/targets": 128} leaves 128 target tokens to `iwslt` alone.
    """
    features = [feature for feature in feature_lengths if "/" not in feature]
    return {
        feature: feature_lengths.get(f"{name}/{feature}", feature_lengths[feature])
        for feature in features
    }


def batch_lengths(names: Sequence[str], feature_lengths: FeatureLengths) -> dict[str, int]:
    """The lengths that hold every one of the tasks."""
    lengths = [lengths_of(name, feature_lengths) for name in names]
    return {feature: max(length[feature] for length in lengths) for feature in lengths[0]}


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


def count(task: seqio.Task, split: str, lengths: FeatureLengths) -> dict[str, int]:
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
    tasks: Sequence[seqio.Task],
    names: Sequence[str],
    split: str,
    feature_lengths: FeatureLengths,
    batch_size: int = 1,
) -> dict[str, dict[str, int]]:
    """Counts of the split by task name; says which tasks are cut.

    Raises:
      ValueError: a feature without a length, or a task with fewer examples than a batch.
    """
    counts = {}
    for name, task in zip(names, tasks, strict=True):
        lengths = lengths_of(name, feature_lengths)
        missing = sorted(set(task.output_features) - set(lengths))
        if missing:
            raise ValueError(
                f"TASK_FEATURE_LENGTHS has no length for {', '.join(missing)} of task {task.name}; "
                f"it is {dict(feature_lengths)}"
            )
        counts[name] = count(task, split, lengths)
        examples = counts[name].get("examples", batch_size)
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


def train_batches(
    tasks: Sequence[seqio.Task],
    feature_lengths: FeatureLengths,
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
    others. `with_heads` adds `head_targets`, `[task, batch, 3]`, for architectures with heads.
    `share` says which of the tasks, and which examples of a task's batch, are read: what several
    processes read makes up what one would.
    """
    names = short_names(tasks)
    padded = batch_lengths(names, feature_lengths)
    converter = model_features(with_heads)
    read_tasks, read_examples = share
    streams = []
    for name, task in zip(names[read_tasks], tasks[read_tasks], strict=True):
        task_seed = zlib.crc32(f"{seed}:{task.name}".encode()) & 0x7FFFFFFF
        own = lengths_of(name, feature_lengths)
        dataset = task.get_dataset(
            sequence_length=own, split="train", shuffle=True, seed=task_seed, num_epochs=None
        )
        dataset = dataset.skip(start_step * batch_size)
        if with_heads:
            dataset = heads.with_targets(dataset, task, own["inputs"])
            padded[heads.FEATURE] = heads.NUM_TARGETS
        dataset = converter(dataset, task_feature_lengths=padded)
        streams.append(dataset.batch(batch_size, drop_remainder=True))

    def stack(*batches):
        return {
            name: tf.stack([batch[name][read_examples] for batch in batches]) for name in batches[0]
        }

    dataset = tf.data.Dataset.zip(tuple(streams)).map(stack).prefetch(2)
    return dataset.as_numpy_iterator()


def model_features(with_heads: bool = False) -> seqio.FeatureConverter:
    """SeqIO's converter from task features to those of an encoder-decoder model."""
    extra = {heads.FEATURE: seqio.FeatureConverter.FeatureSpec(dtype=tf.float32)}
    return seqio.EncDecFeatureConverter(
        pack=False, passthrough_features=extra if with_heads else None
    )


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
