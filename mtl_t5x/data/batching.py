"""One batch that holds every task.

Knows SeqIO and nothing of any benchmark. There is one stream per task, stacked to
`[task, batch, length]`, so every step sees every task and no task-id feature is needed. What a
batch holds is in `features`.

Batch t of a task is a function of the seed, the task's name and t: the examples come from the token
cache (`tokens`) by their numbers, which are shuffled anew in each epoch, so any step is as near as
the first; grain reads ahead. (The permutation is NumPy's: grain's own shuffle takes 30 µs for an
example of a small task, more than all else.) A task whose examples are drawn at random, or never
end, is streamed by SeqIO instead: what comes before the first batch is read and dropped.
"""

from __future__ import annotations

import functools
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import grain
import numpy as np
import seqio
import tensorflow as tf

from mtl_t5x.data import building, features, heads, lookup, padding, rates, tokens

Share = tuple[slice, slice]  # of a batch's tasks, and of each one's examples
WHOLE: Share = (slice(None), slice(None))
Batch = dict[str, np.ndarray]
# By the number of a first example, how many to read, and which of these, in the order of rows.
Read = Callable[[int, int, np.ndarray], Batch]
READ_AHEAD = 2  # batches that are ready before they are asked for


def train_batches(
    tasks: Sequence[seqio.Task],
    feature_lengths: features.FeatureLengths,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    with_heads: bool = False,
    share: Share = WHOLE,
    plan: rates.Plan | None = None,
    cache: tokens.Cache = tokens.IN_MEMORY,
) -> Iterator[Batch]:
    """Endless batches of every task, `[task, batch, length]`, under SeqIO's encoder-decoder names.

    A task's stream depends on the seed and the task's name alone, so a run that starts again at
    `start_step` sees what it would have seen, and a single-task run sees what its task sees among
    others. `with_heads` adds the heads' targets. `share` says which of the tasks, and which
    examples of a task's batch, are read: what several processes read makes up what one would.
    With a `plan` tasks give different numbers of examples, and `rates.EXAMPLE_WEIGHTS` tells those
    from what fills the batch up. `cache` keeps the tokens. All batches have the same lengths, those
    of `padded_lengths`, in every process.

    Raises:
      ValueError: a task without examples, or whose examples lack what its head learns from.
    """
    read_tasks, read_examples = share
    models = _models(tasks, feature_lengths, with_heads, cache)
    readers = []
    for number, to_model in list(enumerate(models))[read_tasks]:
        stored = tokens.examples(tasks[number], "train", to_model.lengths, cache)
        if stored is None:
            first = start_step * batch_size if plan is None else plan.taken(number, start_step)[0]
            at_once = batch_size if plan is None else plan.numbers[number]
            read = _streamed(to_model, seed, first, at_once)
        else:
            read = _Stored(stored, to_model, seed).read
        take = functools.partial(_taken, number, batch_size=batch_size, plan=plan)
        readers.append(functools.partial(_read, read, take, read_examples))
    steps = grain.MapDataset.range(start_step, sys.maxsize)
    batches = steps.map(lambda step: _stack(read(step) for read in readers))
    # One thread reads ahead, in order: a stream of SeqIO's can only go on.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=READ_AHEAD)
    return iter(batches.to_iter_dataset(options))


def padded_lengths(
    tasks: Sequence[seqio.Task],
    feature_lengths: features.FeatureLengths,
    cache: tokens.Cache = tokens.IN_MEMORY,
) -> dict[str, int]:
    """What batches of these tasks are padded to: as the longest example of their train splits asks
    for, at most the feature's own length; that length where any task is streamed."""
    names = lookup.short_names(tasks)
    lengths = features.batch_lengths(names, feature_lengths)
    stored = [
        tokens.examples(task, "train", features.lengths_of(name, feature_lengths), cache)
        for name, task in zip(names, tasks, strict=True)
    ]
    if None in stored:
        return lengths
    return {
        name: padding.rounded(max(one.features[name].longest() for one in stored), length)
        for name, length in lengths.items()
    }


class _Taken(NamedTuple):
    """Of a task by a step: the number of its first example, how many there are, which of these
    stands in each row of the batch, and which rows count; None: all."""

    first: int
    number: int
    places: np.ndarray
    counts: np.ndarray | None


def _taken(task: int, step: int, batch_size: int, plan: rates.Plan | None) -> _Taken:
    if plan is None:
        return _Taken(step * batch_size, batch_size, np.arange(batch_size), None)
    first, number = plan.taken(task, step)
    return _Taken(first, number, *rates.places(number, plan.rows, plan.blocks))


def _read(read: Read, take: Callable[[int], _Taken], read_examples: slice, step: int) -> Batch:
    """A task's part of a step's batch; rows that don't count have no target tokens."""
    taken = take(step)
    batch = read(taken.first, taken.number, taken.places[read_examples])
    if taken.counts is None:
        return batch
    counts = taken.counts[read_examples]
    targets = batch["decoder_loss_weights"] * counts[:, None]
    weights = counts.astype(np.float32)
    return {**batch, "decoder_loss_weights": targets, rates.EXAMPLE_WEIGHTS: weights}


class Drawn(NamedTuple):
    """Examples in rows, each of one task.

    Attributes:
      batch: `[row, batch, …]`.
      tasks: `[row]`, the number of each row's task; the number of tasks where the row only fills
        the batch up.
    """

    batch: Batch
    tasks: np.ndarray


def draw(
    tasks: Sequence[seqio.Task],
    feature_lengths: features.FeatureLengths,
    batch_size: int,
    examples: int,
    *,
    seed: int,
    with_heads: bool = False,
    any_order: bool = False,
    cache: tokens.Cache = tokens.IN_MEMORY,
) -> list[Drawn]:
    """Batches of as many rows as there are tasks, no example twice.

    A task that has fewer than `examples` gives as many whole rows as it can. As for
    `train_batches`, a task's draw depends on the seed and its name alone.

    Args:
      tasks, feature_lengths, with_heads, cache: as for `train_batches`.
      batch_size: examples of a row.
      examples: of each task.
      seed: which ones.
      any_order: whether a row may be of any task: then rows of alike length are together and
        trimmed, none but the last batch's are filled up. Else each task has its own row.

    Raises:
      ValueError: a task with fewer examples than a batch.
    """
    drawn = []
    for to_model in _models(tasks, feature_lengths, with_heads, cache):
        task = to_model.task
        stored = tokens.examples(task, "train", to_model.lengths, cache)
        if stored is None:
            batches = to_model.dataset(_seed(seed, task), 1).batch(batch_size, drop_remainder=True)
            drawn.append(list(batches.take(examples // batch_size).as_numpy_iterator()))
        else:
            of_task = _Stored(stored, to_model, seed)
            whole = min(examples, len(stored)) // batch_size
            within = np.arange(batch_size)
            drawn.append([of_task.read(i * batch_size, batch_size, within) for i in range(whole)])
        if not drawn[-1]:
            raise ValueError(
                f"the train split of {task.name} has fewer examples than the {batch_size} that are "
                "computed at once: set measure.Settings.microbatch_size to as many as it has"
            )
    return _pooled(drawn) if any_order else _by_task(drawn)


def _by_task(drawn: Sequence[Sequence[Batch]]) -> list[Drawn]:
    """Row k is of task k; when it has no more, one that it had fills its place."""
    counts = np.array([len(rows) for rows in drawn])
    return [
        Drawn(
            padding.trimmed(_stack(rows[i % len(rows)] for rows in drawn)),
            np.where(i < counts, np.arange(len(drawn)), len(drawn)),
        )
        for i in range(max(counts))
    ]


def _pooled(drawn: Sequence[Sequence[Batch]]) -> list[Drawn]:
    rows = _stack(row for of_task in drawn for row in of_task)
    tasks = np.repeat(np.arange(len(drawn)), [len(of_task) for of_task in drawn])
    batches = []
    for numbers, filled in padding.in_batches(padding.longest_first(rows), len(drawn)):
        batch = padding.trimmed({name: value[filled] for name, value in rows.items()})
        counts = np.arange(len(filled)) < len(numbers)
        batches.append(Drawn(batch, np.where(counts, tasks[filled], len(drawn))))
    return batches


def whole_split(
    name: str,
    task: seqio.Task,
    split: str,
    feature_lengths: features.FeatureLengths,
    *,
    with_heads: bool = False,
    cache: tokens.Cache = tokens.IN_MEMORY,
) -> Batch:
    """All examples of the task called `name`, in their order, as a batch holds them but for its
    first axis: `[example, length]`.

    Raises:
      ValueError: examples that lack what the task's head learns from.
    """
    lengths = features.lengths_of(name, feature_lengths)
    to_model = _Model(task, lengths, lengths, with_heads)
    stored = tokens.examples(task, split, lengths, cache)
    if stored is not None:
        return to_model.batch(stored, np.arange(len(stored)))
    examples = list(to_model.dataset(None, 1, split).as_numpy_iterator())
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def _seed(seed: int, task: seqio.Task) -> int:
    return zlib.crc32(f"{seed}:{task.name}".encode()) & 0x7FFFFFFF


def _stack(batches: Iterable[Batch]) -> Batch:
    batches = list(batches)
    return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}


class _Stored:
    """A task's stored examples in the order in which a seed shows them, epoch after epoch."""

    def __init__(self, stored: building.Examples, to_model: _Model, seed: int):
        self._stored, self._to_model = stored, to_model
        self._seed = _seed(seed, to_model.task)
        # A batch lies in one epoch or two, unless it is larger than that.
        self._of_epoch = functools.lru_cache(maxsize=2)(self._shuffled)

    def read(self, first: int, number: int, places: np.ndarray) -> Batch:
        """The examples at these places after the first one, counted from the first epoch's."""
        del number
        size = len(self._stored)
        places = first + places
        epochs, within = np.divmod(places, size)
        numbers = np.empty_like(places)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            numbers[inside] = self._of_epoch(int(epoch))[within[inside]]
        return self._to_model.batch(self._stored, numbers)

    def _shuffled(self, epoch: int) -> np.ndarray:
        """Numbers of all examples, each under a prompt that is drawn anew."""
        size, variants = len(self._stored), self._stored.variants
        generator = np.random.Generator(np.random.PCG64([self._seed, epoch]))
        return generator.permutation(size) + size * generator.integers(variants, size=size)


def _streamed(to_model: _Model, seed: int, first: int, number: int) -> Read:
    """Reads the examples from the `first` one on, `number` at a time, one after the other."""
    dataset = to_model.dataset(_seed(seed, to_model.task), None).skip(first)
    batches = dataset.batch(number, drop_remainder=True).prefetch(READ_AHEAD)
    iterator = batches.as_numpy_iterator()
    newest, is_used = next(iterator), False

    def read(first: int, number: int, places: np.ndarray) -> Batch:
        nonlocal newest, is_used
        del first  # the next ones
        if number and is_used:
            newest = next(iterator)
        is_used = is_used or number > 0
        return {name: values[places] for name, values in newest.items()}

    return read


def _models(
    tasks: Sequence[seqio.Task],
    feature_lengths: features.FeatureLengths,
    with_heads: bool,
    cache: tokens.Cache,
) -> list[_Model]:
    """Each task's examples, padded to what holds every task's."""
    padded = padded_lengths(tasks, feature_lengths, cache)
    names = lookup.short_names(tasks)
    own = (features.lengths_of(name, feature_lengths) for name in names)
    return [
        _Model(task, lengths, padded, with_heads) for task, lengths in zip(tasks, own, strict=True)
    ]


class _Model:
    """A task's examples as the model takes them, of at most `lengths` and padded to `padded`."""

    def __init__(
        self,
        task: seqio.Task,
        lengths: features.FeatureLengths,
        padded: features.FeatureLengths,
        with_heads: bool,
    ):
        self.task, self.lengths = task, lengths
        self._padded, self._with_heads = padded, with_heads

    def batch(self, stored: building.Examples, examples: np.ndarray) -> Batch:
        """Of stored examples by their numbers."""
        inputs, targets = (
            stored.features[name].padded(examples, self._padded[name])
            for name in ("inputs", "targets")
        )
        batch = features.of_model(inputs, targets)
        if self._with_heads:
            batch[heads.FEATURE] = stored.head_targets(self.task, examples, self.lengths["inputs"])
        return batch

    def dataset(
        self, seed: int | None, num_epochs: int | None, split: str = "train"
    ) -> tf.data.Dataset:
        """Streamed by SeqIO; without a seed in its own order."""
        dataset = self.task.get_dataset(
            self.lengths,
            split,
            shuffle=seed is not None,
            seed=seed,
            num_epochs=num_epochs,
            try_in_mem_cache=num_epochs is None,  # of one epoch nearly all would stay unread
        )
        padded = dict(self._padded)
        if self._with_heads:
            dataset = heads.with_targets(dataset, self.task, self.lengths["inputs"])
            padded[heads.FEATURE] = heads.NUM_TARGETS
        return features.model_features(self._with_heads)(dataset, task_feature_lengths=padded)
