"""What SeqIO gives for a split, as columns: each row is read and tokenized once.

What can't be stored, as its examples are drawn at random or never end, is found out here.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import seqio
import tensorflow as tf
import tqdm

from mtl_t5x.data import columns, heads

logger = logging.getLogger(__name__)

COMPARED = 16  # examples that must be the same when they are computed again
SHOWN_AFTER = 10.0  # seconds
RANDOM = re.compile(
    "Random|Multinomial|TruncatedNormal|StatefulUniform|StatefulStandardNormal|ShuffleDataset"
    "|ShuffleAndRepeat|SampleDistortedBoundingBox"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """A split's examples under each of `variants` prompts: example i of variant v is number
    `v * len(self) + i` of the columns.

    Attributes:
      features: of every example.
      untrimmed: by output feature, each example's length in tokens before it is cut; nothing where
        the task's preprocessors can't do without a length.
      variants: how many prompts the task draws from.
      rows_dropped: how many rows the source left out.
    """

    features: columns.Columns
    untrimmed: Mapping[str, np.ndarray]
    variants: int
    rows_dropped: int

    def __len__(self) -> int:
        return len(next(iter(self.features.values()))) // self.variants

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> dict[str, Any]:
        """As `Task.get_dataset(…).as_numpy_iterator()` gives it."""
        return {
            name: column[number] for name, column in self.features.items() if name != heads.FEATURE
        }

    def inputs(self, length: int) -> np.ndarray:
        """The inputs' tokens of every example, [example, length]."""
        return self.features["inputs"].padded(np.arange(len(self)), length)

    def as_task(self, task: seqio.Task, split: str) -> seqio.Task:
        """The task, with nothing left to compute: its split holds these examples' tokens."""
        features = {name: self.features[name] for name in task.output_features}
        dataset = columns.dataset(features).take(len(self))
        return task.replace(source=_source(dataset, split), preprocessors=[])

    def head_targets(
        self, task: seqio.Task, numbers: np.ndarray, inputs_length: int | None
    ) -> np.ndarray:
        """Targets [example, 3] of the task's head, as `heads.with_targets` adds them.

        Raises:
          ValueError: the examples lack what the head learns from.
        """
        if heads.FEATURE in self.features:
            targets = self.features[heads.FEATURE].values.reshape(-1, heads.NUM_TARGETS)
            return heads.cut(targets[numbers], inputs_length)
        heads.check_learnable(self.features, task)
        return np.full((len(numbers), heads.NUM_TARGETS), -1, np.float32)


_NONE = columns.Column(np.zeros(0, np.int32), np.zeros(0, np.int64))


def variants_of(task: seqio.Task, split: str) -> list[seqio.Task]:
    """The task with each of the prompts that it draws from; in other splits than train the first.

    A preprocessor that draws tells by an attribute `variants` what it does in each case.
    """
    drawn = [getattr(step, "variants", None) for step in task.preprocessors]
    number = next((len(variants) for variants in drawn if variants), 1)
    return [
        task.replace(
            preprocessors=[
                variants[i] if variants else step
                for step, variants in zip(task.preprocessors, drawn, strict=True)
            ]
        )
        for i in range(number if split == "train" else 1)
    ]


def build(
    task: seqio.Task, split: str, lengths: Mapping[str, int], progress: bool
) -> Examples | None:
    """A split's examples under each prompt; None, with a line in the log, where they are streamed.

    Args:
      task, split, lengths: as for `tokens.examples`.
      progress: whether it is shown how far this is, where it takes over ten seconds.
    """
    if task.num_input_examples(split) == 0:  # such a source may not be read
        names = {*task.output_features}
        return Examples({n: _NONE for n in names}, {n: _NONE.values for n in names}, 1, 0)
    parts = []
    for variant in variants_of(task, split):
        part = _build_variant(variant, split, lengths, progress)
        if part is None:
            return None
        parts.append(part)
    if len({len(part) for part in parts}) > 1:
        return _streamed(task, split, "its prompts have different numbers of examples")
    dropped = getattr(task.source, "dropped", None)
    return Examples(
        columns.join([part.features for part in parts]),
        {
            name: np.concatenate([part.untrimmed[name] for part in parts])
            for name in parts[0].untrimmed
        },
        len(parts),
        0 if dropped is None else sum(dropped(split).values()),
    )


def _build_variant(
    task: seqio.Task, split: str, lengths: Mapping[str, int], progress: bool
) -> Examples | None:
    again = task.get_dataset(lengths, split, shuffle=False, try_in_mem_cache=False)
    reason = _must_stream(again)
    if reason is None:
        rows = task.num_input_examples(split)
        show = functools.partial(_shown, f"{task.name} {split}", rows, progress)
        untrimmed, trimmed = _once_tokenized(task, split, lengths)
        counted = {} if untrimmed is None else _token_lengths(task, untrimmed, show)
        if _has_learnable_head(task, trimmed):
            trimmed = heads.with_targets(trimmed, task, None)
        flat = columns.flat_batches(trimmed)
        built = Examples(columns.collect(show(flat), trimmed.element_spec), counted, 1, 0)
        first = again.take(COMPARED).as_numpy_iterator()
        if all(_same(one, built[i]) for i, one in enumerate(first)):
            return built
        reason = "its examples are others each time"
    return _streamed(task, split, reason)


def _streamed(task: seqio.Task, split: str, reason: str) -> None:
    logger.info("%s %s: streamed by SeqIO, not cached: %s", task.name, split, reason)


def _has_learnable_head(task: seqio.Task, dataset: tf.data.Dataset) -> bool:
    try:
        heads.check_learnable(dataset.element_spec, task)
    except ValueError:  # is raised where a head is to learn from it
        return False
    return not isinstance(heads.head_of_task(task), heads.Decoder)


def _once_tokenized(
    task: seqio.Task, split: str, lengths: Mapping[str, int]
) -> tuple[tf.data.Dataset | None, tf.data.Dataset]:
    """(untrimmed, trimmed) datasets that share what comes before any length is needed.

    The first is None where a preprocessor can't do without a length.
    """
    steps = [
        one for one in task.preprocessors if not isinstance(one, seqio.CacheDatasetPlaceholder)
    ]
    asked = [inspect.signature(step).parameters.get("sequence_length") for step in steps]
    cut = next((i for i, parameter in enumerate(asked) if parameter is not None), len(steps))
    rows = task.source.get_dataset(split, shuffle=False)
    before = task.replace(
        source=_source(rows, split),  # the task's own may forbid what follows
        preprocessors=[*steps[:cut], seqio.CacheDatasetPlaceholder()],
    )
    shared = before.preprocess_precache(rows, seed=0).cache()
    rest = task.replace(
        source=_source(shared, split),
        preprocessors=steps[cut:],
    )

    def dataset(sequence_length: Mapping[str, int] | None) -> tf.data.Dataset:
        return rest.get_dataset(sequence_length, split, shuffle=False)

    needed = any(one is not None and one.default is inspect.Parameter.empty for one in asked)
    return None if needed else dataset(None), dataset(lengths)


def _source(dataset: tf.data.Dataset, split: str) -> seqio.DataSource:
    def give(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        del split, shuffle_files, seed
        return dataset

    return seqio.FunctionDataSource(give, splits=[split])


def _token_lengths(
    task: seqio.Task, dataset: tf.data.Dataset, show: Callable[[Iterable], Iterable]
) -> dict[str, np.ndarray]:
    names = [name for name in task.output_features if name in dataset.element_spec]
    dataset = dataset.map(
        lambda example: tf.stack([tf.shape(example[name])[0] for name in names]),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).batch(columns.AT_ONCE)
    batches = [np.zeros((0, len(names)), np.int32), *(batch.numpy() for batch in show(dataset))]
    return dict(zip(names, np.concatenate(batches).T.copy(), strict=True))


def _shown(what: str, rows: int | None, progress: bool, batches: Iterable[Any]) -> Iterator[Any]:
    """The batches; on a terminal or in a log, how far they are once that has taken a while."""
    total = None if rows is None else -(-rows // columns.AT_ONCE)
    yield from tqdm.tqdm(
        batches,
        f"tokens of {what}",
        total,
        disable=not progress,
        delay=SHOWN_AFTER,
        mininterval=5,
        unit="batch",
    )


def _must_stream(dataset: tf.data.Dataset) -> str | None:
    """Why a dataset can't be stored; None: it can."""
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        return "it has no end"
    if not columns.storable(dataset):
        return "it has features that aren't arrays of numbers or texts"
    variant = tf.data.experimental.to_variant(dataset)
    try:
        graph = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=1)
    except tf.errors.OpError as error:  # the comparison of a few examples must do
        logger.debug("a dataset that can't be looked into: %s", error)
        return None
    graph = tf.compat.v1.GraphDef.FromString(graph.numpy())
    nodes = [*graph.node, *(node for one in graph.library.function for node in one.node_def)]
    found = sorted({node.op for node in nodes if RANDOM.search(node.op)})
    return f"it draws at random ({', '.join(found)})" if found else None


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name], equal_nan=_is_float(one[name])) for name in one
    )


def _is_float(value: Any) -> bool:
    return np.asarray(value).dtype.kind == "f"
