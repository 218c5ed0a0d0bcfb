"""Predictions of every task's split, and what they score."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
import seqio
import tqdm
from etils import epath
from jax.experimental import multihost_utils

from mtl_t5x.data import batching, counting, features, heads, lookup, scoring, tokens
from mtl_t5x.experiment import Experiment
from mtl_t5x.models import decoding, predicting, teacher_forcing
from mtl_t5x.parallel import sharding
from mtl_t5x.runtime import progress, watchdog
from mtl_t5x.settings import checks
from mtl_t5x.storage import checkpoints, files, results, unfinished

logger = logging.getLogger(__name__)

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

    def __post_init__(self):
        owners = self.evaluated_as
        named = isinstance(owners, Mapping) and all(
            isinstance(name, str) for pair in owners.items() for name in pair
        )
        name = "evaluate.Evaluation"
        checks.check(
            checks.whole("EVAL_PERIOD", self.period, 0, "steps between evaluations; 0: none"),
            checks.whole("EVAL_BATCH_SIZE", self.batch_size, 1, "examples decoded at once"),
            None if named else f'EVALUATED_AS = {owners!r}: write as {{"mnli_mismatched": "mnli"}}',
            checks.a(f"{name}.search", self.search, decoding.Search, "@decoding.Search()"),
            checks.flag(f"{name}.teacher_forced", self.teacher_forced),
        )

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
    folder: str = PREDICTIONS,
    earlier: unfinished.Unfinished | None = None,
) -> Metrics:
    """The metrics of every task that has the split, by short task name.

    Beside the task's own metrics stand the counts of `counting.count` and, of the dev split, the
    model's `loss`: the mean over all its tokens or examples, as in training. Writes
    `<task>-metrics.jsonl`, `<task>-<step>.jsonl` with every prediction, and TensorBoard event files
    to `folder` in `model_dir`, for splits other than test to a folder of the split's name in that.
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
      folder: where in `model_dir` everything is written.
      earlier: what needn't be scored again, and where every task's scores are noted.
    """
    tasks = scored_tasks(experiment, split)
    positions = evaluation.positions(experiment)
    loggers = scoring.loggers_of(_of_split(epath.Path(model_dir) / folder, split))
    place, batch_size = np.asarray, evaluation.batch_size
    if layout is not None:
        params, rows = layout.for_this_process(params)
        place = functools.partial(jax.device_put, device=rows)
        batch_size += -batch_size % rows.num_devices  # every device takes as many
    tasks = {name: task for name, task in tasks.items() if only is None or name in only}
    common = _Split(params, experiment, evaluation, split, batch_size, place)
    counts = {
        name: counting.count(task, split, common.lengths(name), experiment.cache)
        for name, task in tasks.items()
    }
    fingerprints = {} if earlier is None else common.fingerprints(tasks)
    found = {} if earlier is None else _scored_before(earlier, split, tasks, fingerprints)
    left = {name: task for name, task in tasks.items() if name not in found}
    total = sum(counts[name].get("examples", 0) for name in left)
    logger.info("evaluating %s: %d tasks, %d examples", split, len(left), total)
    with progress.bar(f"evaluating {split}", total, "example") as shown:
        for name, task in left.items():
            scores = common.scores(name, task, positions[name], step, loggers, shown)
            found[name] = scores | counts[name]
            if earlier is not None:
                earlier.add(split, task.name, fingerprints[task.name], found[name])
    return {name: found[name] for name in tasks}


def _scored_before(
    earlier: unfinished.Unfinished,
    split: str,
    tasks: Mapping[str, seqio.Task],
    fingerprints: Mapping[str, str | None],
) -> Metrics:
    """Of the tasks that are what they were then."""
    scores = earlier.read(split, fingerprints)
    found = {name: scores[task.name] for name, task in tasks.items() if task.name in scores}
    if found:
        logger.info("scored on %s before this was broken off: %s", split, ", ".join(found))
    return found


def dev_and_test(
    params: Any,
    experiment: Experiment,
    evaluation: Evaluation,
    *,
    model_dir: str,
    step: int,
    layout: sharding.Layout | None,
    folder: str = PREDICTIONS,
    limits: watchdog.Limits = watchdog.DEFAULT,
) -> dict[str, Metrics]:
    """The metrics of both splits, which `write_results` takes; the arguments are as above.

    Broken off, it goes on with the task that wasn't finished when it is called again for the same
    step with the same settings; a task whose data or code has changed meanwhile is scored anew.
    """
    with limits.stage("evaluation"):  # the devices compute the norm together: one may be lost
        norm = float(jax.jit(optax.global_norm)(params))
    settings = {
        "step": step,
        "evaluation": dataclasses.asdict(evaluation),
        "model": str(getattr(experiment.model, "config", None)),
        # The step tells nothing of a training that was begun anew in the folder.
        "norm of the parameters": norm,
    }
    earlier = unfinished.Unfinished(epath.Path(model_dir) / folder, settings)
    found = {}
    for key, split in (("dev", "validation"), ("test", "test")):
        with limits.stage("evaluation"):
            found[key] = evaluate(
                params, experiment, evaluation, split=split, model_dir=model_dir, step=step,
                layout=layout, folder=folder, earlier=earlier,
            )  # fmt: skip
    return found


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

    def fingerprints(self, tasks: Mapping[str, seqio.Task]) -> dict[str, str | None]:
        """By the tasks' own names, of what their scores depend on besides the model."""
        return {
            task.name: scoring.fingerprint_of(task, self.split, self.lengths(name))
            for name, task in tasks.items()
        }

    def scores(
        self,
        name: str,
        task: seqio.Task,
        position: int,
        step: int,
        loggers: Mapping[str, Any],
        shown: tqdm.tqdm,
    ) -> dict[str, float]:
        """A task's, which are written too."""
        predict_dataset = functools.partial(
            predicting.of_dataset,
            self.predictor(name, task, position),
            self.batch_size,
            self.place,
            shown,
        )
        known, lengths = self.with_answers(name, task, position), self.lengths(name)
        stored = tokens.examples(task, self.split, lengths, self.experiment.cache)
        task = scoring.with_metrics(task, known)
        return scoring.score(task, stored, self.split, lengths, predict_dataset, step, loggers)

    def predictor(self, name: str, task: seqio.Task, position: int) -> predicting.Predictor:
        return predicting.predictor(
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
        size = len(examples["encoder_input_tokens"])
        with progress.bar(f"{name} with its answers given", size, "example") as shown:
            loss, guessed = teacher_forcing.over_examples(
                params,
                examples,
                model=model,
                batch_size=self.batch_size,
                place=self.place,
                guess=guess,
                shown=shown,
            )
        metrics = {"loss": loss} if split == "validation" else {}
        if guessed is not None:
            lengths = self.lengths(name)
            stored = tokens.examples(task, split, lengths, experiment.cache)
            numbered = list(enumerate(guessed.tolist()))
            scores = scoring.score(task, stored, split, lengths, lambda _: numbered, 0, {})
            metrics |= {f"teacher_forced_{metric}": value for metric, value in scores.items()}
        return metrics


def _of_split(folder: epath.Path, split: str) -> epath.Path:
    return folder if split == "test" else folder / split


def not_evaluated(
    experiment: Experiment, split: str, model_dir: str, step: int, *, whole: bool
) -> list[str]:
    """Short names of the tasks whose evaluation at a step isn't in the run's folder.

    `whole` also counts the predictions, whose file a kill may have cut off. The first process
    looks, and tells the others.
    """
    tasks = scored_tasks(experiment, split)
    folder = _of_split(epath.Path(model_dir) / PREDICTIONS, split)

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
    limits: watchdog.Limits = watchdog.DEFAULT,
) -> dict[str, Any]:
    """Evaluates a run's newest checkpoint on dev and test, beside what the run itself has written.

    The results are in `results_<step>_<search>.json`, the predictions and metrics in a folder
    `inference_eval_<step>_<search>`, where `<search>` is as `Search.title` has it. Other tasks that
    were evaluated so before keep their places in both.

    Args:
      model_dir: the run's folder.
      experiment, evaluation: see there.
      limits: how long each stage may take before the process ends, with a stack dump.
    """
    with limits.stage("start"):
        check(experiment, evaluation)
    with limits.stage("restore"):
        layout = experiment.layout(0)  # no step is taken: BATCH_SIZE needn't fit these devices
        shapes = experiment.state_shapes(layout).params
        params, done = checkpoints.restore_params(model_dir, shapes)
    which = f"{done}_{evaluation.search.title}"
    path, folder = epath.Path(model_dir) / f"results_{which}.json", f"{PREDICTIONS}_{which}"
    found = {"step": done, "search": dataclasses.asdict(evaluation.search)}
    found |= {"tasks": list(experiment.names), "dev": {}, "test": {}}
    if path.exists():
        try:
            found |= {key: json.loads(path.read_text())[key] for key in ("dev", "test")}
        except (ValueError, KeyError) as error:
            logger.warning("%s can't be read, and is written anew: %s", path, error)
    scored = dev_and_test(
        params, experiment, evaluation, model_dir=model_dir, step=done, layout=layout,
        folder=folder, limits=limits,
    )  # fmt: skip
    found |= {key: found[key] | scores for key, scores in scored.items()}
    return write_results(path, found, epath.Path(model_dir) / folder)


def write_results(path: epath.Path, found: Mapping[str, Any], folder: epath.Path) -> dict[str, Any]:
    """Writes results, whole or not at all, and shows them; their evaluation in `folder` is over."""
    if jax.process_index() == 0:
        files.write_atomically(path, json.dumps(found, indent=2))
        unfinished.forget(folder)
        logger.info("results in %s:\n%s", path, results.table(found))
    multihost_utils.sync_global_devices("the results are written")
    return dict(found)
