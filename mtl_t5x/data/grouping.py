"""Batches that are not balanced: examples of any tasks, sorted into `[task, batch, …]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def group_by_task(
    batch: Mapping[str, np.ndarray], task_ids: Sequence[int], num_tasks: int, capacity: int
) -> dict[str, np.ndarray]:
    """A flat batch sorted by task, each task filled up to `capacity` examples of zeros.

    The zeros count nothing in losses over tokens, whose weights (`decoder_loss_weights`) they are
    too: each task's loss is the mean over the tokens it has, so are its gradient and the Gram
    matrix. A task without an example has loss and gradient 0, and so no direction.

    Args:
      batch: features `[example, …]`, `decoder_loss_weights` among them.
      task_ids: the task of each example, from 0 on.
      num_tasks: K.
      capacity: examples per task that there is room for.

    Raises:
      ValueError: a task with more examples than there is room for, ids that are no tasks, or
        targets of heads, whose losses have no weights.
    """
    if "decoder_loss_weights" not in batch or "head_targets" in batch:
        raise ValueError(
            "only losses over tokens can leave examples out: the batch needs decoder_loss_weights, "
            "and no head_targets (use text_to_text or text_to_text_id)"
        )
    ids = np.asarray(task_ids)
    if ids.size and not 0 <= ids.min() <= ids.max() < num_tasks:
        raise ValueError(f"task ids are 0 to {num_tasks - 1}, not {ids.min()} to {ids.max()}")
    counts = np.bincount(ids, minlength=num_tasks)
    if counts.max() > capacity:
        task = int(counts.argmax())
        raise ValueError(
            f"task {task} has {counts[task]} examples in the batch, but capacity = {capacity}"
        )
    order = np.argsort(ids, kind="stable")
    places = np.empty_like(ids)
    places[order] = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts)
    grouped = {}
    for name, values in batch.items():
        grouped[name] = np.zeros((num_tasks, capacity, *values.shape[1:]), values.dtype)
        grouped[name][ids, places] = values
    return grouped
