"""From a task's inputs to its answers as token ids: by its head, or by its decoder's search."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import seqio
import tensorflow as tf
import tqdm
from jax.experimental import multihost_utils
from jaxtyping import Int

from mtl_t5x.data import heads, padding
from mtl_t5x.models import decoding


@dataclasses.dataclass(frozen=True)
class Predictor:
    """What predicts for a task.

    Attributes:
      predict: from inputs `[batch, length]` and how many tokens a prediction has at most to the
        predictions' token ids, `[batch, longest prediction]`.
      lengths: how many that is at first, and in further goes for those that haven't ended; what
        has ended would not be another with more.
    """

    predict: Callable[[np.ndarray, int], np.ndarray]
    lengths: Sequence[int]


def predictor(
    params: Any,
    task: seqio.Task,
    position: int,
    *,
    model: nn.Module,
    max_length: int,
    search: decoding.Search,
) -> Predictor:
    """What predicts for a task: its head, or the search with its decoder."""
    head = model.head(position)
    if isinstance(head, heads.Decoder):
        single, params = model.for_task(params, position)
        answers = decoding.permitted_answers(task, max_length) if search.restrict else None
        decode = functools.partial(
            decoding.decode, params, answers=answers, model=single, search=search
        )
        greedy = search.beams == 1  # beams that have not ended compete with those that have
        lengths = padding.lengths("decoder_target_tokens", max_length) if greedy else [max_length]
        return Predictor(lambda inputs, most: decode(inputs, max_length=most), lengths)

    def predict(inputs: np.ndarray, most: int) -> np.ndarray:
        outputs = jax.device_get(_head_outputs(params, inputs, model=model, task=position))
        inputs = np.asarray(inputs)
        rows = [
            heads.predicted_tokens(
                head, {name: x[i] for name, x in outputs.items()}, inputs[i], task, most
            )
            for i in range(len(inputs))
        ]
        ends = [[*row, decoding.EOS_ID] for row in rows]
        width = max(most, *map(len, ends))
        return np.array([row + [decoding.PAD_ID] * (width - len(row)) for row in ends])

    return Predictor(predict, [max_length])


def of_dataset(
    predictor: Predictor,
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
    indices, inputs = [], []
    for index, batch in dataset.batch(batch_size).as_numpy_iterator():
        indices.extend(index.tolist())
        inputs.extend(batch["encoder_input_tokens"])
    predicted = _by_length(predictor, np.array(inputs), batch_size, place, shown) if inputs else []
    # Arrays of one shape: the longest share and prediction, the rows that lack numbered -1.
    size = (len(predicted), max(map(len, predicted), default=0))
    rows, width = np.max(multihost_utils.process_allgather(np.array(size)), axis=0)
    table = np.full((rows, 1 + width), decoding.PAD_ID)
    table[:, 0] = -1
    for row, index, ids in zip(table, indices, predicted, strict=False):
        row[0], row[1 : 1 + len(ids)] = index, ids
    gathered = multihost_utils.process_allgather(table, tiled=True)
    return [(index, ids) for index, *ids in gathered.tolist() if index >= 0]


def _by_length(
    predictor: Predictor,
    inputs: Int[np.ndarray, "example length"],
    batch_size: int,
    place: Callable[[np.ndarray], Any],
    shown: tqdm.tqdm,
) -> list[np.ndarray]:
    """The predictions' token ids in the inputs' order, computed in batches of alike length."""
    predicted: list[Any] = [None] * len(inputs)

    def compute(numbers, filled, most):
        rows = padding.trimmed({"encoder_input_tokens": inputs[filled]})["encoder_input_tokens"]
        found = np.asarray(predictor.predict(place(rows), most))[: len(numbers)]
        for number, ids in zip(numbers, found, strict=True):
            predicted[number] = ids
        return np.any(found == decoding.EOS_ID, axis=1)

    def done(number):
        shown.update(number * jax.process_count())

    order = padding.longest_first({"encoder_input_tokens": inputs})
    padding.until_ended(order, batch_size, predictor.lengths, compute, done)
    return predicted


@functools.partial(jax.jit, static_argnames=("model", "task"))
def _head_outputs(params: Any, inputs: jax.Array, *, model: nn.Module, task: int) -> dict:
    return model.apply({"params": params}, inputs, task, method="predict")
