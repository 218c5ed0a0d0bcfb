"""Batches for programs that read rows of examples, `[task * batch, …]`: one task, then the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from clu.data import dataset_iterator
from jaxtyping import Array, Shaped

from mtl_t5x.settings.checks import SettingsError

Rows = dict[str, np.ndarray]


def flatten(
    batch: Mapping[str, Shaped[Array | np.ndarray, "task batch *_"]],
) -> dict[str, Shaped[Array | np.ndarray, "rows *_"]]:
    """The examples of all tasks as rows."""
    return {name: value.reshape(-1, *value.shape[2:]) for name, value in batch.items()}


def regroup(
    rows: Mapping[str, Shaped[Array | np.ndarray, "rows *_"]], tasks: int
) -> dict[str, Shaped[Array | np.ndarray, "task batch *_"]]:
    """What `flatten` was given, of so many tasks."""
    return {name: value.reshape(tasks, -1, *value.shape[1:]) for name, value in rows.items()}


def examples_per_task(rows: int, tasks: int, setting: str = "BATCH_SIZE") -> int:
    """Of a batch of so many rows.

    Raises:
      SettingsError: the tasks can't have equally many; `setting` is what the user calls the rows.
    """
    if rows > 0 and rows % tasks == 0:
        return rows // tasks
    lower = rows // tasks * tasks
    near = f"{lower} or {lower + tasks}" if lower else str(tasks)
    raise SettingsError(
        f"{setting} = {rows} is the examples of all {tasks} tasks together, and no multiple of "
        f"{tasks}: write {near}"
    )


class RowIterator(dataset_iterator.DatasetIterator):
    """Endless rows, from a step on; a share of them, where several hosts read.

    Which rows a step reads follows from its number, so there is nothing to be saved.
    """

    def __init__(
        self,
        read: Callable[[int], Iterator[Mapping[str, np.ndarray]]],
        spec: Mapping[str, np.ndarray],
        start_step: int = 0,
        shard: int = 0,
        shards: int = 1,
    ):
        """Reads lazily.

        Args:
          read: the batches `[task, batch, …]` from a step on.
          spec: an array like each of a batch's.
          start_step: of the first rows.
          shard, shards: which of how many equal parts of the rows are read.
        """
        self._read, self._start_step = read, start_step
        rows = flatten(spec)
        size = len(next(iter(rows.values()))) // shards
        self._share = slice(shard * size, (shard + 1) * size)
        self._spec = {
            name: dataset_iterator.ArraySpec(value.dtype, (size, *value.shape[1:]))
            for name, value in rows.items()
        }
        self._batches: Iterator[Mapping[str, np.ndarray]] | None = None

    def __next__(self) -> Rows:
        if self._batches is None:
            self._batches = self._read(self._start_step)
        rows = flatten(next(self._batches))
        return {name: value[self._share] for name, value in rows.items()}

    @property
    def element_spec(self) -> dict[str, dataset_iterator.ArraySpec]:
        return self._spec

    def reset(self) -> None:
        self._batches = None

    def save(self, filename) -> None:
        """Nothing."""

    def restore(self, filename) -> None:
        """Nothing."""
