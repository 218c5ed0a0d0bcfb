"""From a task's inputs to its answers as token ids: by its head, or by its decoder's search."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import seqio
import tensorflow as tf
import tqdm
from jax.experimental import multihost_utils

from mtl_t5x.data import heads
from mtl_t5x.models import decoding

# From inputs [batch, length] to the predictions' token ids, [batch, longest prediction].
Predict = Callable[[np.ndarray], np.ndarray]


def predict_function(
    params: Any,
    task: seqio.Task,
    position: int,
    *,
    model: nn.Module,
    max_length: int,
    search: decoding.Search,
) -> Predict:
    """What predicts for a task: its head, or the search with its decoder."""
    head = model.head(position)
    if isinstance(head, heads.Decoder):
        single, params = model.for_task(params, position)
        return functools.partial(
            decoding.decode,
            params,
            answers=decoding.permitted_answers(task, max_length) if search.restrict else None,
            model=single,
            max_length=max_length,
            search=search,
        )

    def predict(inputs: np.ndarray) -> np.ndarray:
        outputs = jax.device_get(_head_outputs(params, inputs, model=model, task=position))
        inputs = np.asarray(inputs)
        rows = [
            heads.predicted_tokens(
                head, {name: x[i] for name, x in outputs.items()}, inputs[i], task, max_length
            )
            for i in range(len(inputs))
        ]
        ends = [[*row, decoding.EOS_ID] for row in rows]
        width = max(max_length, *map(len, ends))
        return np.array([row + [decoding.PAD_ID] * (width - len(row)) for row in ends])

    return predict


def of_dataset(
    predict: Predict,
    batch_size: int,
    place: Callable[[np.ndarray], Any],
    shown: tqdm.tqdm,
    dataset: tf.data.Dataset,
) -> list[tuple[int, list[int]]]:
    """(index, token ids) of every example of an enumerated dataset of model features.

    Each process predicts for its share of the examples, and gets what the others predicted; `shown`
    is told of every one that is done.
    """
    dataset = dataset.shard(jax.process_count(), jax.process_index())
    indices, predicted = [], []
    for index, batch in dataset.batch(batch_size).as_numpy_iterator():
        inputs = batch["encoder_input_tokens"]
        rows = len(inputs)
        # The last batch is filled up, so that one compiled program takes every batch.
        inputs = np.pad(inputs, ((0, batch_size - rows), (0, 0)), mode="edge")
        indices.extend(index.tolist())
        predicted.extend(np.asarray(predict(place(inputs)))[:rows])
        shown.update(rows * jax.process_count())
    # Arrays of one shape: the longest share and prediction, the rows that lack numbered -1.
    size = (len(predicted), max(map(len, predicted), default=0))
    rows, width = np.max(multihost_utils.process_allgather(np.array(size)), axis=0)
    table = np.full((rows, 1 + width), decoding.PAD_ID)
    table[:, 0] = -1
    for row, index, ids in zip(table, indices, predicted, strict=False):
        row[0], row[1 : 1 + len(ids)] = index, ids
    gathered = multihost_utils.process_allgather(table, tiled=True)
    return [(index, ids) for index, *ids in gathered.tolist() if index >= 0]


@functools.partial(jax.jit, static_argnames=("model", "task"))
def _head_outputs(params: Any, inputs: jax.Array, *, model: nn.Module, task: int) -> dict:
    return model.apply({"params": params}, inputs, task, method="predict")
