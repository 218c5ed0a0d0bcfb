"""From names of SeqIO tasks and mixtures to one batch that holds every task.

Knows SeqIO and nothing of any benchmark. There is one iterator per task, stacked to
`[task, batch, length]`, so every step sees every task and no task-id feature is needed.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import inspect
import logging
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

logger = logging.getLogger(__name__)

FeatureLengths = Mapping[str, int]


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
        if name not in seqio.TaskRegistry.names() and name not in seqio.MixtureRegistry.names():
            raise ValueError(_unknown(name))
        for task in seqio.get_subtasks(seqio.get_mixture_or_task(name)):
            tasks[task.name] = task
    if not tasks:
        raise ValueError("MIXTURE_OR_TASK_NAME is empty: give a mixture, a task or a list of tasks")
    return tuple(tasks.values())


def _unknown(name: str) -> str:
    known = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
    message = f"MIXTURE_OR_TASK_NAME: no SeqIO task or mixture is registered as {name!r}."
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"{message} Did you mean {' or '.join(map(repr, near))}?"
    hint = "Import the module that registers it in the gin file, or set MIXTURE_OR_TASK_MODULE."
    return f"{message} Registered are: {', '.join(known) or 'none'}. {hint}"


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


@dataclasses.dataclass(frozen=True)
class SplitCounts:
    """Examples of a split, how many are cut to the feature lengths, and the longest in tokens."""

    examples: int
    cut: Mapping[str, int]
    longest: Mapping[str, int]


@functools.lru_cache(maxsize=None)
def _token_lengths(task: seqio.Task, split: str) -> Mapping[str, np.ndarray]:
    dataset = task.get_dataset(sequence_length=None, split=split, shuffle=False)
    features = tuple(task.output_features)
    dataset = dataset.map(
        lambda example: tuple(tf.shape(example[name])[0] for name in features),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    lengths = np.array(list(dataset.as_numpy_iterator()), np.int64).reshape(-1, len(features))
    return dict(zip(features, lengths.T, strict=True))


def count(task: seqio.Task, split: str, feature_lengths: FeatureLengths) -> SplitCounts | None:
    """Reads a split once, untrimmed: every row is parsed before a step is spent on it.

    Returns None for a task whose preprocessors can't do without a sequence length.
    """
    for preprocessor in task.preprocessors:
        length = inspect.signature(preprocessor).parameters.get("sequence_length")
        if length is not None and length.default is inspect.Parameter.empty:
            logger.warning("%s: cut examples can't be counted", task.name)
            return None
    lengths = _token_lengths(task, split)
    return SplitCounts(
        examples=len(next(iter(lengths.values()))),
        cut={name: int((n > feature_lengths[name]).sum()) for name, n in lengths.items()},
        longest={name: int(n.max(initial=0)) for name, n in lengths.items()},
    )


def check(
    tasks: Sequence[seqio.Task], split: str, feature_lengths: FeatureLengths, batch_size: int = 1
) -> dict[str, SplitCounts]:
    """Counts of the split by short task name; says which tasks are cut.

    Raises:
      ValueError: a feature without a length, or a task with fewer examples than a batch.
    """
    counts = {}
    for name, task in zip(short_names(tasks), tasks, strict=True):
        missing = sorted(set(task.output_features) - set(feature_lengths))
        if missing:
            raise ValueError(
                f"TASK_FEATURE_LENGTHS has no length for {', '.join(missing)} of task {task.name}; "
                f"it is {dict(feature_lengths)}"
            )
        counts[name] = count(task, split, feature_lengths)
        if counts[name] is None:
            continue
        examples = counts[name].examples
        if examples < batch_size:
            raise ValueError(
                f"BATCH_SIZE = {batch_size}, but the {split} split of {task.name} has "
                f"{examples} examples: set BATCH_SIZE to {examples} at most, or leave the task out"
            )
        for feature, cut in counts[name].cut.items():
            if cut:
                logger.warning(
                    "%s: %d of %d %s examples have their %s cut to %d tokens (the longest has %d); "
                    "raise TASK_FEATURE_LENGTHS[%r]",
                    task.name, cut, examples, split, feature, feature_lengths[feature],
                    counts[name].longest[feature], feature,
                )  # fmt: skip
    return counts


def train_batches(
    tasks: Sequence[seqio.Task],
    feature_lengths: FeatureLengths,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of every task, `[task, batch, length]`, under SeqIO's encoder-decoder names.

    A task's stream depends on the seed and the task's name alone, so a run that starts again at
    `start_step` sees what it would have seen, and a single-task run sees what its task sees among
    others.
    """
    converter = seqio.EncDecFeatureConverter(pack=False)
    streams = []
    for task in tasks:
        task_seed = zlib.crc32(f"{seed}:{task.name}".encode()) & 0x7FFFFFFF
        dataset = task.get_dataset(
            sequence_length=feature_lengths,
            split="train",
            shuffle=True,
            seed=task_seed,
            num_epochs=None,
        )
        dataset = dataset.skip(start_step * batch_size)
        dataset = converter(dataset, task_feature_lengths=feature_lengths)
        streams.append(dataset.batch(batch_size, drop_remainder=True))

    def stack(*batches):
        return {name: tf.stack([batch[name] for batch in batches]) for name in batches[0]}

    dataset = tf.data.Dataset.zip(tuple(streams)).map(stack).prefetch(2)
    return dataset.as_numpy_iterator()


def empty_batch(num_tasks: int, feature_lengths: FeatureLengths) -> dict[str, np.ndarray]:
    """A batch of zeros, one example per task: its shapes are all that initialising a model needs."""
    inputs = (num_tasks, 1, feature_lengths["inputs"])
    targets = (num_tasks, 1, feature_lengths["targets"])
    return {
        "encoder_input_tokens": np.zeros(inputs, np.int32),
        "decoder_input_tokens": np.zeros(targets, np.int32),
        "decoder_target_tokens": np.zeros(targets, np.int32),
        "decoder_loss_weights": np.zeros(targets, np.int32),
    }
