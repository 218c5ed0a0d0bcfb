"""From a task's inputs to its answers as token ids: by its head, or by its decoder's search."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import seqio

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


@functools.partial(jax.jit, static_argnames=("model", "task"))
def _head_outputs(params: Any, inputs: jax.Array, *, model: nn.Module, task: int) -> dict:
    return model.apply({"params": params}, inputs, task, method="predict")
