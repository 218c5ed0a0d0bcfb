"""Predictions of every task's split, scored by seqio.Evaluator."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import seqio
import tensorflow as tf
from etils import epath
from jax.experimental import multihost_utils

from mtl_t5x import step as step_lib
from mtl_t5x.data import batching as data
from mtl_t5x.data import heads
from mtl_t5x.models import decoding
from mtl_t5x.storage import checkpoints

logger = logging.getLogger(__name__)

RESULTS = "results.json"
PREDICTIONS = "inference_eval"
Metrics = dict[str, dict[str, float]]
# From inputs [batch, length] to the answers' token ids, [batch, longest answer].
Answer = Callable[[np.ndarray], np.ndarray]


def positions(
    tasks: Sequence[seqio.Task], evaluated_as: Mapping[str, str], *, all_alike: bool
) -> dict[str, int]:
    """By task name, which of the trained tasks' heads or decoders answers it.

    Args:
      tasks: trained ones and ones that are only evaluated.
      evaluated_as: from the name of a task that is only evaluated to that of a trained one.
      all_alike: whether every task is answered alike, so that it doesn't matter.

    Raises:
      ValueError: a task that is only evaluated, and nothing says by whose head.
    """
    trained = data.short_names(data.with_split(tasks, "train"))
    answered_by = {}
    for name in data.short_names(tasks):
        answered_as = name if name in trained else evaluated_as.get(name)
        if answered_as not in trained and not all_alike:
            raise ValueError(
                f"{name} isn't trained, so it has no head or decoder of its own: say whose answers "
                f'it, EVALUATED_AS = {{"{name}": "{trained[0]}"}}, or leave it out'
            )
        answered_by[name] = trained.index(answered_as) if answered_as in trained else 0
    return answered_by


def answer_function(
    params: Any,
    task: seqio.Task,
    position: int,
    *,
    model: nn.Module,
    max_length: int,
    search: decoding.Search,
) -> Answer:
    """What answers a task: its head, or the search with its decoder."""
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

    def answer(inputs: np.ndarray) -> np.ndarray:
        predicted = jax.device_get(_predict(params, inputs, model=model, task=position))
        rows = [
            heads.answer(
                head, {name: x[i] for name, x in predicted.items()}, inputs[i], task, max_length
            )
            for i in range(len(inputs))
        ]
        ends = [[*row, decoding.EOS_ID] for row in rows]
        width = max(max_length, *map(len, ends))
        return np.array([row + [decoding.PAD_ID] * (width - len(row)) for row in ends])

    return answer


@functools.partial(jax.jit, static_argnames=("model", "task"))
def _predict(params: Any, inputs: jax.Array, *, model: nn.Module, task: int) -> dict:
    return model.apply({"params": params}, inputs, task, method="predict")


def predictions(
    answer: Answer, batch_size: int, dataset: tf.data.Dataset
) -> list[tuple[int, list[int]]]:
    """(index, token ids) of every example of an enumerated dataset of model features.

    Each process answers its share of the examples, and gets what the others answered.
    """
    dataset = dataset.shard(jax.process_count(), jax.process_index())
    indices, answers = [], []
    for numbers, batch in dataset.batch(batch_size).as_numpy_iterator():
        inputs = batch["encoder_input_tokens"]
        rows = len(inputs)
        # The last batch is filled up, so that one compiled program answers every batch.
        inputs = np.pad(inputs, ((0, batch_size - rows), (0, 0)), mode="edge")
        indices.extend(numbers.tolist())
        answers.extend(np.asarray(answer(inputs))[:rows])
    # Arrays of one shape: the longest share and the longest answer, the rows that lack numbered -1.
    size = (len(answers), max(map(len, answers), default=0))
    rows, width = np.max(multihost_utils.process_allgather(np.array(size)), axis=0)
    table = np.full((rows, 1 + width), decoding.PAD_ID)
    table[:, 0] = -1
    for row, index, answer_ids in zip(table, indices, answers, strict=False):
        row[0], row[1 : 1 + len(answer_ids)] = index, answer_ids
    gathered = multihost_utils.process_allgather(table, tiled=True)
    return [(index, ids) for index, *ids in gathered.tolist() if index >= 0]


def evaluate(
    params: Any,
    tasks: Sequence[seqio.Task],
    *,
    model: nn.Module,
    split: str,
    feature_lengths: data.FeatureLengths,
    batch_size: int,
    output_dir: epath.Path,
    step: int,
    answered_by: Mapping[str, int],
    search: decoding.Search,
) -> Metrics:
    """The metrics of every task that has the split, by short task name.

    Beside the task's own metrics stand the counts of `data.count`. Writes `<task>-metrics.jsonl`,
    `<task>-<step>.jsonl` with every prediction, and TensorBoard event files to `output_dir`, for
    splits other than test to a folder of the split's name in it. `answered_by` is of `positions`.
    Several processes share the examples; each has `params` whole, and the first one writes.
    """
    if split != "test":
        output_dir = output_dir / split
    loggers = {}
    if jax.process_index() == 0:
        output_dir.mkdir(parents=True, exist_ok=True)
        loggers = {
            "logger_cls": [seqio.JSONLogger, seqio.TensorBoardLogger],
            "log_dir": str(output_dir),
        }
    having = [
        (name, task)
        for name, task in zip(data.short_names(tasks), tasks, strict=True)
        if split in task.splits
    ]
    names = [name for name, _ in having]
    counts = data.check([task for _, task in having], names, split, feature_lengths)
    results = {}
    for name, task in having:
        if not task.metric_fns:
            logger.warning("%s has no metric functions: it isn't evaluated", task.name)
            continue
        lengths = data.lengths_of(name, feature_lengths)
        evaluator = seqio.Evaluator(
            task.name,
            data.model_features(),
            eval_split=split,
            sequence_length=lengths,
            **loggers,
        )
        answer = answer_function(
            params,
            task,
            answered_by[name],
            model=model,
            max_length=lengths["targets"],
            search=search,
        )
        metrics, _ = evaluator.evaluate(
            compute_metrics=True,
            step=step,
            predict_fn=functools.partial(predictions, answer, batch_size),
        )
        scores = metrics.result()[task.name]
        evaluator.close()
        results[name] = {key: float(value) for key, value in scores.items()} | counts[name]
    return results


def evaluate_run(
    *,
    model_dir: str,
    model: nn.Module,
    tasks: Sequence[seqio.Task],
    task_feature_lengths: data.FeatureLengths,
    eval_batch_size: int,
    evaluated_as: Mapping[str, str],
    search: decoding.Search,
) -> dict[str, Any]:
    """Evaluates a run's newest checkpoint on dev and test, anew in its `results.json`.

    What that says of the train split stays.
    """
    names = data.short_names(data.with_split(tasks, "train"))
    example = data.empty_batch(names, task_feature_lengths)
    state = step_lib.state_shapes(example, model=model, optimizer=optax.identity())
    params, done = checkpoints.restore_params(model_dir, state.params)
    evaluate_split = functools.partial(
        evaluate,
        params,
        tasks,
        model=model,
        feature_lengths=task_feature_lengths,
        batch_size=eval_batch_size,
        output_dir=epath.Path(model_dir) / PREDICTIONS,
        step=done,
        answered_by=positions(tasks, evaluated_as, all_alike=model.all_alike),
        search=search,
    )
    earlier = epath.Path(model_dir) / RESULTS
    kept = json.loads(earlier.read_text()) if earlier.exists() else {}
    new = {
        "step": done,
        "tasks": names,
        "dev": evaluate_split(split="validation"),
        "test": evaluate_split(split="test"),
    }
    return write_results(model_dir, **kept | new)


def write_results(model_dir: str, **results: Any) -> dict[str, Any]:
    """Writes `results.json`, whole or not at all: it is what marks a run as finished."""
    if jax.process_index() == 0:
        path = epath.Path(model_dir) / RESULTS
        new = path.with_name(f"{RESULTS}.new")
        new.write_text(json.dumps(results, indent=2))
        new.replace(path)
    multihost_utils.sync_global_devices("the results are written")
    return results
