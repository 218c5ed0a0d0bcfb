"""Which examples each step saw: `examples.jsonl`, to compare the data order of two runs."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jaxtyping import Array

from mtl_t5x.data import rates
from mtl_t5x.runtime import run_log

FILE = "examples.jsonl"


class ExampleLog:
    """Appends a line per step, `{"step": …, "examples": {task: [id, …]}}`.

    An id is the CRC-32 of the example's tokens; rows that only fill a batch up have none. As in
    `metrics.jsonl`, lines of an earlier attempt from `start_step` on are dropped. Of several
    processes the first one writes.
    """

    def __init__(self, model_dir: str, task_names: Sequence[str], start_step: int):
        self._names = tuple(task_names)
        path = epath.Path(model_dir) / FILE
        if jax.process_index() == 0:
            run_log.drop_lines_from(path, start_step)
        self._lines = run_log.Lines(path if jax.process_index() == 0 else None)

    def __enter__(self) -> ExampleLog:
        return self

    def __exit__(self, *exception) -> None:
        self._lines.close()

    def add(self, step: int, batch: Mapping[str, Array]) -> None:
        """Takes a step's batch, `[task, batch, length]`, in every process."""
        features = [batch["encoder_input_tokens"], batch["decoder_target_tokens"]]
        if rates.EXAMPLE_WEIGHTS in batch:
            features.append(batch[rates.EXAMPLE_WEIGHTS])
        inputs, targets, *weights = multihost_utils.process_allgather(features, tiled=True)
        tokens = np.concatenate([inputs, targets], axis=-1)
        (weights,) = weights or [np.ones(tokens.shape[:2])]
        ids = {
            name: [zlib.crc32(one.tobytes()) for one in examples[counts > 0]]
            for name, examples, counts in zip(self._names, tokens, weights, strict=True)
        }
        self._lines.add({"step": step, "examples": ids})

    def flush(self) -> None:
        """As `RunLog.flush`."""
        self._lines.flush()
