"""Predictions scored as a task says, by seqio.Evaluator, which also writes them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import seqio
import tensorflow as tf
from etils import epath

from mtl_t5x.data import building, features, fingerprint, lookup
from mtl_t5x.storage import files

logger = logging.getLogger(__name__)


def score(
    task: seqio.Task,
    stored: building.Examples | None,
    split: str,
    lengths: features.FeatureLengths,
    predict_dataset: Callable[[tf.data.Dataset], list[tuple[int, list[int]]]],
    step: int,
    loggers: Mapping[str, Any],
) -> dict[str, float]:
    """The task's own metrics, by SeqIO, which also writes them and the predictions.

    It reads what is stored of the task, if it is.
    """
    if loggers:
        # What an earlier evaluation of the step has left, whole or cut off, goes.
        earlier = epath.Path(loggers["log_dir"]) / f"{task.name}-metrics.jsonl"
        files.keep_steps(earlier, lambda at_step: at_step != step)
    if stored is None:
        converter, evaluator_cls = features.model_features(), seqio.Evaluator
    else:
        task = stored.as_task(task, split)
        converter = features.StoredInputs(stored.inputs(lengths["inputs"]))
        evaluator_cls = functools.partial(_Evaluator, stored)
    with lookup.registered_as(task):
        evaluator = evaluator_cls(
            task.name, converter, eval_split=split, sequence_length=lengths, **loggers
        )
    metrics, _ = evaluator.evaluate(compute_metrics=True, step=step, predict_fn=predict_dataset)
    scores = metrics.result()[task.name]
    evaluator.close()
    return {key: float(value) for key, value in scores.items()}


class _Evaluator(seqio.Evaluator):
    """Goes through a task's examples in memory: SeqIO does so for the targets, the predictions and
    what it writes, and TensorFlow takes about half a millisecond for each example every time."""

    def __init__(self, stored: building.Examples, *args: Any, **options: Any):
        super().__init__(*args, **options)
        (task,) = self.eval_tasks
        in_memory = [
            {name: tf.constant(value) for name, value in example.items()} for example in stored
        ]
        self._in_memory = {task.name: in_memory}

    @property
    def cached_task_datasets(self) -> Mapping[str, list[dict[str, tf.Tensor]]]:
        """By task name, its examples, as `tfds.as_numpy` takes them."""
        return self._in_memory


def fingerprint_of(task: seqio.Task, split: str, lengths: features.FeatureLengths) -> str | None:
    """Of what the task's scores depend on besides the model; None: that can't be told."""
    code = [task.postprocessor, *task.metric_fns]
    try:
        return fingerprint.of_split(task, split, lengths, code)
    except fingerprint.UntellableError as error:
        logger.info(
            "%s %s: its scores aren't kept where an evaluation is broken off: %s",
            task.name, split, error,
        )  # fmt: skip
        return None


def loggers_of(folder: epath.Path) -> dict[str, Any]:
    """What the first process writes with; nothing in the others."""
    if jax.process_index() != 0:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    return {"logger_cls": [seqio.JSONLogger, seqio.TensorBoardLogger], "log_dir": str(folder)}


def with_metrics(task: seqio.Task, known: Mapping[str, float]) -> seqio.Task:
    """The task, its metrics of predictions as one, and behind them what is known already: a task's
    first metric is its headline in reports.

    SeqIO decodes and postprocesses every prediction again for each metric function.
    """
    of_predictions = task.predict_metric_fns

    def metrics(targets, predictions):
        found: dict[str, float] = {}
        for function in of_predictions:
            scores = function(targets, predictions)
            if twice := (found | known).keys() & scores.keys():
                raise ValueError(f"two of the metric functions of {task.name} give {twice}")
            found |= scores
        return found | known

    others = [function for function in task.metric_fns if function not in of_predictions]
    return task.replace(metric_fns=[metrics, *others])
