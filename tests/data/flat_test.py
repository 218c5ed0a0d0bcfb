import itertools

import numpy as np
import pytest

from mtl_t5x.data import flat
from mtl_t5x.settings.checks import SettingsError


def batches(start_step, tasks=2, examples=4, length=3):
    for step in itertools.count(start_step):
        first = 1000 * step + np.arange(tasks * examples * length)
        yield {"a": first.reshape(tasks, examples, length), "b": np.full((tasks, examples), step)}


def test_rows_are_the_tasks_one_after_the_other():
    batch = next(batches(3))
    rows = flat.flatten(batch)
    assert rows["a"].shape == (8, 3) and rows["b"].shape == (8,)
    np.testing.assert_array_equal(rows["a"][4], batch["a"][1, 0])
    again = flat.regroup(rows, 2)
    for name, value in batch.items():
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize(
    ("rows", "tasks", "advice"), [(20, 8, "16 or 24"), (5, 8, "write 8"), (0, 3, "write 3")]
)
def test_rows_that_the_tasks_cannot_share(rows, tasks, advice):
    with pytest.raises(SettingsError, match=f"ROWS = {rows} is .* all {tasks} tasks.*{advice}"):
        flat.examples_per_task(rows, tasks, "ROWS")


def test_rows_that_they_can():
    assert flat.examples_per_task(24, 8) == 3
    assert flat.examples_per_task(7, 1) == 7


@pytest.mark.parametrize("shards", [1, 4])
def test_hosts_read_what_one_would(shards):
    spec = next(batches(0))
    read = [flat.RowIterator(batches, spec, 5, shard, shards) for shard in range(shards)]
    for step in (5, 6):
        parts = [next(iterator) for iterator in read]
        whole = flat.flatten(next(batches(step)))
        for name, value in whole.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), value)
    for iterator, part in zip(read, parts):
        for name, value in part.items():
            assert iterator.element_spec[name].shape == value.shape
            assert iterator.element_spec[name].dtype == value.dtype


def test_it_starts_again():
    iterator = flat.RowIterator(batches, next(batches(0)), 7)
    first = next(iterator)
    assert (next(iterator)["b"] == 8).all()
    iterator.reset()
    np.testing.assert_array_equal(next(iterator)["a"], first["a"])
