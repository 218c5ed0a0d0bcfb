"""Predictions of every task's split, scored by seqio.Evaluator."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import seqio
import tensorflow as tf
import tqdm
from etils import epath
from jax.experimental import multihost_utils

from mtl_t5x.data import batching, building, counting, features, heads, lookup, tokens
from mtl_t5x.experiment import Experiment
from mtl_t5x.models import decoding, predicting, teacher_forcing
from mtl_t5x.parallel import sharding
from mtl_t5x.runtime import progress, watchdog
from mtl_t5x.storage import checkpoints, files

logger = logging.getLogger(__name__)

RESULTS = "results.json"
PREDICTIONS = "inference_eval"
SPLITS = ("validation", "test")
Metrics = dict[str, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """When a model is evaluated while it trains, and how it predicts.

    Attributes:
      period: steps between evaluations of the dev split; 0: at the end only.
      batch_size: examples decoded at once.
      evaluated_as: whose head or decoder predicts for a task that is only evaluated, by task name.
      search: how predictions are decoded.
      teacher_forced: also scores, of tasks that a decoder answers, the likeliest token at each
        position after the gold answer up to there, as the original does: `teacher_forced_<metric>`.
    """

    period: int = 0
    batch_size: int = 64
    evaluated_as: Mapping[str, str] = dataclasses.field(default_factory=dict)
    search: decoding.Search = dataclasses.field(default_factory=decoding.Search)
    teacher_forced: bool = False

    def positions(self, experiment: Experiment) -> dict[str, int]:
        """By task name, which of the trained tasks' heads or decoders predicts for it.

        Raises:
          ValueError: a task that is only evaluated, and nothing says by whose head.
        """
        trained, found = experiment.names, {}
        for name in lookup.short_names(experiment.tasks):
            as_task = name if name in trained else self.evaluated_as.get(name)
            if as_task not in trained and not experiment.model.shares_decoder:
                raise ValueError(
                    f"{name} isn't trained, so it has no head or decoder of its own: say whose "
                    f'predicts for it, EVALUATED_AS = {{"{name}": "{trained[0]}"}}, or leave it out'
                )
            found[name] = trained.index(as_task) if as_task in trained else 0
        return found


def scored_tasks(experiment: Experiment, split: str) -> dict[str, seqio.Task]:
    """By short name, the tasks that have the split and say how they are scored."""
    named = zip(lookup.short_names(experiment.tasks), experiment.tasks, strict=True)
    having = {name: task for name, task in named if split in task.splits}
    for task in having.values():
        if not task.metric_fns:
            logger.warning("%s has no metric functions: it isn't evaluated", task.name)
    return {name: task for name, task in having.items() if task.metric_fns}


def check(experiment: Experiment, evaluation: Evaluation) -> None:
    """Reads the splits that will be evaluated, so that nothing is trained that can't be.

    Raises:
      ValueError: a split without examples, or a task that nothing predicts for.
    """
    evaluation.positions(experiment)
    for split in SPLITS:
        tasks = scored_tasks(experiment, split)
        counting.check(tasks, split, experiment.task_feature_lengths, cache=experiment.cache)


def predictions(
    predict: predicting.Predict,
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


def evaluate(
    params: Any,
    experiment: Experiment,
    evaluation: Evaluation,
    *,
    split: str,
    model_dir: str,
    step: int,
    layout: sharding.Layout | None = None,
    only: Sequence[str] | None = None,
) -> Metrics:
    """The metrics of every task that has the split, by short task name.

    Beside the task's own metrics stand the counts of `counting.count` and, of the dev split, the
    model's `loss`: the mean over all its tokens or examples, as in training. Writes
    `<task>-metrics.jsonl`, `<task>-<step>.jsonl` with every prediction, and TensorBoard event files
    to `model_dir/inference_eval`, for splits other than test to a folder of the split's name in it.
    A step that is evaluated again stands there once. Several devices and processes share the
    examples; the first process writes.

    Args:
      params: of the model, placed by `layout`.
      experiment, evaluation: see there.
      split: of the tasks.
      model_dir: the run's folder.
      step: of the parameters.
      layout: where they live; None: on one device.
      only: short names of the tasks to evaluate; None: all.
    """
    tasks = scored_tasks(experiment, split)
    positions = evaluation.positions(experiment)
    loggers = _loggers(_folder(model_dir, split))
    place, batch_size = np.asarray, evaluation.batch_size
    if layout is not None:
        params, rows = layout.for_this_process(params)
        place = functools.partial(jax.device_put, device=rows)
        batch_size += -batch_size % rows.num_devices  # every device takes as many
    tasks = {name: task for name, task in tasks.items() if only is None or name in only}
    lengths = {name: features.lengths_of(name, experiment.task_feature_lengths) for name in tasks}
    counts = {
        name: counting.count(task, split, lengths[name], experiment.cache)
        for name, task in tasks.items()
    }
    total = sum(of_task.get("examples", 0) for of_task in counts.values())
    common, results = _Split(params, experiment, evaluation, split, batch_size, place), {}
    with progress.bar(f"evaluating {split}", total, "example") as shown:
        for name, task in tasks.items():
            predict = common.predict(name, task, positions[name])
            predict_dataset = functools.partial(predictions, predict, batch_size, place, shown)
            known = common.with_answers(name, task, positions[name])
            stored = tokens.examples(task, split, lengths[name], experiment.cache)
            task = _with_metrics(task, known)
            scores = _score(task, stored, split, lengths[name], predict_dataset, step, loggers)
            results[name] = scores | counts[name]
    return results


def _with_metrics(task: seqio.Task, metrics: Mapping[str, float]) -> seqio.Task:
    """The task, with metrics that are known already: SeqIO writes them beside the others."""

    def known(targets, predictions):
        del targets, predictions
        return dict(metrics)

    return task.replace(metric_fns=[*task.metric_fns, known]) if metrics else task


@dataclasses.dataclass(frozen=True)
class _Split:
    """What evaluating each of a split's tasks has in common; `params` and `place` as this process
    computes with them."""

    params: Any
    experiment: Experiment
    evaluation: Evaluation
    split: str
    batch_size: int
    place: Callable[[np.ndarray], Any]

    def lengths(self, name: str) -> dict[str, int]:
        return features.lengths_of(name, self.experiment.task_feature_lengths)

    def predict(self, name: str, task: seqio.Task, position: int) -> predicting.Predict:
        return predicting.predict_function(
            self.params,
            task,
            position,
            model=self.experiment.model,
            max_length=self.lengths(name)["targets"],
            search=self.evaluation.search,
        )

    def with_answers(self, name: str, task: seqio.Task, position: int) -> dict[str, float]:
        """What is seen where the model is given the answers: dev's loss, teacher-forced scores."""
        experiment, split = self.experiment, self.split
        has_decoder = isinstance(experiment.model.head(position), heads.Decoder)
        guess = self.evaluation.teacher_forced and has_decoder
        if split != "validation" and not guess:
            return {}
        model, params = experiment.model.for_task(self.params, position)
        examples = batching.whole_split(
            name, task, split, experiment.task_feature_lengths,
            with_heads=not has_decoder, cache=experiment.cache,
        )  # fmt: skip
        loss, guessed = teacher_forcing.over_examples(
            params, examples, model=model, batch_size=self.batch_size, place=self.place, guess=guess
        )
        metrics = {"loss": loss} if split == "validation" else {}
        if guessed is not None:
            stored = tokens.examples(task, split, self.lengths(name), experiment.cache)
            numbered = list(enumerate(guessed.tolist()))
            scores = _score(task, stored, split, self.lengths(name), lambda _: numbered, 0, {})
            metrics |= {f"teacher_forced_{metric}": value for metric, value in scores.items()}
        return metrics


def _score(
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
        converter = features.model_features()
    else:
        task = stored.as_task(task, split)
        converter = features.StoredInputs(stored.inputs(lengths["inputs"]))
    with lookup.registered_as(task):
        evaluator = seqio.Evaluator(
            task.name, converter, eval_split=split, sequence_length=lengths, **loggers
        )
    metrics, _ = evaluator.evaluate(compute_metrics=True, step=step, predict_fn=predict_dataset)
    scores = metrics.result()[task.name]
    evaluator.close()
    return {key: float(value) for key, value in scores.items()}


def _loggers(folder: epath.Path) -> dict[str, Any]:
    """What the first process writes with; nothing in the others."""
    if jax.process_index() != 0:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    return {"logger_cls": [seqio.JSONLogger, seqio.TensorBoardLogger], "log_dir": str(folder)}


def _folder(model_dir: str, split: str) -> epath.Path:
    folder = epath.Path(model_dir) / PREDICTIONS
    return folder if split == "test" else folder / split


def not_evaluated(
    experiment: Experiment, split: str, model_dir: str, step: int, *, whole: bool
) -> list[str]:
    """Short names of the tasks whose evaluation at a step isn't in the run's folder.

    `whole` also counts the predictions, whose file a kill may have cut off. The first process
    looks, and tells the others.
    """
    tasks = scored_tasks(experiment, split)
    folder = _folder(model_dir, split)

    def is_there(name: str, task: seqio.Task) -> bool:
        lines, _ = files.read_steps(folder / f"{task.name}-metrics.jsonl")
        if step not in [line["step"] for line in lines]:
            return False
        predicted = folder / f"{task.name}-{step:06}.jsonl"
        lengths = features.lengths_of(name, experiment.task_feature_lengths)
        examples = counting.count(task, split, lengths, experiment.cache).get("examples")
        if not whole or examples is None:
            return True
        return predicted.exists() and predicted.read_text().count("\n") == examples

    there = np.zeros(len(tasks), bool)
    if jax.process_index() == 0:
        there[:] = [is_there(*item) for item in tasks.items()]
    there = multihost_utils.broadcast_one_to_all(there)
    return [name for name, found in zip(tasks, there, strict=True) if not found]


def evaluate_run(
    *,
    model_dir: str,
    experiment: Experiment,
    evaluation: Evaluation,
    train_steps: int,
    limits: watchdog.Limits | None = None,
) -> dict[str, Any]:
    """Evaluates a run's newest checkpoint on dev and test.

    A run whose training has come to its end gets its `results.json` anew, and what that says of the
    train split stays. Of any other the results are in `results_<step>.json`: by `results.json` a
    study knows that a run is finished.

    Args:
      model_dir: the run's folder.
      experiment, evaluation: see there.
      train_steps: how many the run takes in all.
      limits: how long each stage may take before the process ends, with a stack dump.
    """
    limits = limits or watchdog.Limits()
    with limits.stage("start"):
        check(experiment, evaluation)
    with limits.stage("restore"):
        layout = experiment.layout(0)  # no step is taken: BATCH_SIZE needn't fit these devices
        shapes = experiment.state_shapes(layout).params
        params, done = checkpoints.restore_params(model_dir, shapes)
    results = {"step": done, "tasks": list(experiment.names)}
    for key, split in (("dev", "validation"), ("test", "test")):
        with limits.stage("evaluation"):
            results[key] = evaluate(
                params,
                experiment,
                evaluation,
                split=split,
                model_dir=model_dir,
                step=done,
                layout=layout,
            )
    if done < train_steps:
        name = f"results_{done}.json"
        logger.warning(
            "%s is at step %d of TRAIN_STEPS = %d: the results are in %s, not in %s, which marks a "
            "finished run",
            model_dir, done, train_steps, name, RESULTS,
        )  # fmt: skip
        return write_results(model_dir, results, name)
    earlier = epath.Path(model_dir) / RESULTS
    kept = json.loads(earlier.read_text()) if earlier.exists() else {}
    return write_results(model_dir, kept | results)


def write_results(
    model_dir: str, results: Mapping[str, Any], name: str = RESULTS
) -> dict[str, Any]:
    """Writes `results.json`, whole or not at all: it is what marks a run as finished."""
    if jax.process_index() == 0:
        files.write_atomically(epath.Path(model_dir) / name, json.dumps(results, indent=2))
    multihost_utils.sync_global_devices("the results are written")
    return dict(results)
