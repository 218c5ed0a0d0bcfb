"""The training loop: the function that gin binds."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from clu import parameter_overview
from etils import epath
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict
from jaxtyping import Array

from mtl_t5x import evaluate, measure, step
from mtl_t5x.conflict import fixed_point
from mtl_t5x.conflict.running import Running
from mtl_t5x.data import counting, features, rates, tokens
from mtl_t5x.evaluate import Evaluation
from mtl_t5x.experiment import Experiment
from mtl_t5x.gradients import freezing
from mtl_t5x.models import pretrained
from mtl_t5x.parallel import sharding
from mtl_t5x.runtime import interruption, watchdog
from mtl_t5x.runtime.example_log import ExampleLog
from mtl_t5x.runtime.run_log import RunLog
from mtl_t5x.settings import checks
from mtl_t5x.storage import checkpoints, results

logger = logging.getLogger(__name__)


def train(
    *,
    model_dir: str,
    experiment: Experiment,
    evaluation: Evaluation,
    train_steps: int,
    random_seed: int,
    log_period: int,
    saving: checkpoints.Settings,
    conflict: measure.InTraining,
    initial_checkpoint_path: str | None = None,
    log_examples: bool = False,
    limits: watchdog.Limits = watchdog.DEFAULT,
) -> dict[str, Any]:
    """Trains on every task at once, measures their conflict, evaluates, and leaves a run folder.

    A folder that holds a checkpoint is continued, and evaluations that it lacks are made up; else
    `initial_checkpoint_path` gives the parameters; else they are drawn from `random_seed`.

    Args:
      model_dir: the run's folder.
      experiment: the model, the optimizer, the tasks and how the devices share them.
      evaluation: when the dev split is evaluated, and how the model predicts.
      train_steps: updates in all.
      random_seed: of parameters, data order and dropout.
      log_period: steps between lines of `metrics.jsonl`; 0: none but those of measured steps and
        fixed points, which are logged always.
      saving: when checkpoints are written, and which stay.
      conflict: when the tasks' conflict is measured, and where.
      initial_checkpoint_path: a checkpoint of ours, or a pretrained T5 of Hugging Face or T5X.
      log_examples: writes `examples.jsonl`, which examples each step saw.
      limits: how long each stage may take before the process ends, with a stack dump.

    Returns:
      What `results.json` holds.

    Raises:
      ValueError: a setting that can't work, before any step is taken.
      TrainingDivergedError: names the task and the step; the last good checkpoint stays.
      OSError: a checkpoint can't be written; the last good one stays.
      Terminated: the run was told to stop (SIGTERM) and has saved its state.
    """
    with limits.stage("start"):
        _check_settings(
            experiment, evaluation, conflict, model_dir=model_dir, train_steps=train_steps,
            random_seed=random_seed, log_period=log_period, log_examples=log_examples,
            initial_checkpoint_path=initial_checkpoint_path,
        )  # fmt: skip
        layout = experiment.layout()
        experiment.check_balance(layout, measuring=conflict.period > 0)
        counts = _count(experiment, evaluation)
        tokens.tell_size(experiment.cache)
    manager = checkpoints.manager(model_dir, saving)
    init_key, dropout_key = jax.random.split(jax.random.key(random_seed))
    with limits.stage("restore"):
        state = _start(experiment, init_key, layout, manager, initial_checkpoint_path)
        state = state if layout is None else jax.device_put(state, layout.shardings(state))
    _describe(model_dir, state.params)
    start, plan = int(state.step), experiment.plan(layout)
    window = _unbiased_window(experiment, conflict, layout)
    run = _Run(
        model_dir=model_dir,
        experiment=experiment,
        evaluation=evaluation,
        train_steps=train_steps,
        saving=saving,
        conflict=conflict,
        plan=plan,
        unbiased_window=window,
        random_seed=random_seed,
        layout=layout,
        manager=manager,
        log=_log(model_dir, experiment, plan, window, start, train_steps),
        log_period=log_period,
        example_log=ExampleLog(model_dir, experiment.names, start) if log_examples else None,
        limits=limits,
    )
    with interruption.Watch() as watch:
        with manager, run.log, run.example_log or contextlib.nullcontext():
            with run.leaving_if_told(watch, state, saved=True):
                run.make_up_evaluations(state)
            batches = experiment.batches(random_seed, layout, start)
            state = _loop(run, state, batches, dropout_key, watch)
            with limits.stage("save"):
                checkpoints.finish(manager)
        found = {"step": int(state.step), "tasks": experiment.names, "train": counts}
        with run.leaving_if_told(watch, state, saved=True):
            found |= evaluate.dev_and_test(
                state.params, experiment, evaluation, model_dir=model_dir, step=int(state.step),
                layout=layout, limits=limits,
            )  # fmt: skip
    folder = epath.Path(model_dir)
    return evaluate.write_results(folder / results.FILE, found, folder / evaluate.PREDICTIONS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """What stays the same through a run, and what happens at its due steps."""

    model_dir: str
    experiment: Experiment
    evaluation: Evaluation
    train_steps: int
    saving: checkpoints.Settings
    conflict: measure.InTraining
    plan: rates.Plan | None
    unbiased_window: int
    random_seed: int
    layout: sharding.Layout | None
    manager: ocp.CheckpointManager
    log: RunLog
    log_period: int
    example_log: ExampleLog | None
    limits: watchdog.Limits

    def evaluate(self, params: Any, done: int, only: Sequence[str] | None = None) -> None:
        """On dev, whose scores of a step in training stand in the folder alone."""
        with self.limits.stage("evaluation"), self.log.paused():
            evaluate.evaluate(
                params, self.experiment, self.evaluation, split="validation",
                model_dir=self.model_dir, step=done, layout=self.layout, only=only,
            )  # fmt: skip

    def make_up_evaluations(self, state: TrainState) -> None:
        """Those that were due and aren't there: a run may be killed between a save and the
        evaluation of the same step."""
        done, period = int(state.step), self.evaluation.period
        for due in range(period, min(done, self.train_steps - 1) + 1, period) if period else ():
            missing = evaluate.not_evaluated(
                self.experiment, "validation", self.model_dir, due, whole=due == done
            )
            if not missing:
                continue
            params = state.params
            if due < done:
                try:
                    params, _ = checkpoints.restore_params(
                        f"{self.model_dir}/{checkpoints.PREFIX}_{due}", params
                    )
                except FileNotFoundError:
                    logger.warning(
                        "step %d was due to be evaluated (EVAL_PERIOD) and was not; there is no "
                        "checkpoint of it to make that up from", due,
                    )  # fmt: skip
                    continue
            logger.info("making up the evaluation of step %d", due)
            self.evaluate(params, due, missing)

    def measure_point(self, params: Any, at_step: int) -> dict[str, Any]:
        """The conflict on many examples, into a file of its own; returns what is logged of it."""
        with self.limits.stage("measurement"), self.log.paused():
            point = measure.measure_tasks(
                params, self.experiment, self.conflict.fixed_point, seed=self.random_seed,
                at_step=at_step, layout=self.layout,
            )  # fmt: skip
        measure.write(point, epath.Path(self.model_dir) / f"conflict_{at_step}.json")
        return fixed_point.logged(point)

    @contextlib.contextmanager
    def leaving_if_told(
        self, watch: interruption.Watch, state: TrainState, *, saved: bool = False
    ) -> Iterator[None]:
        """Told to stop, the run leaves in the middle of this context: once the state is saved."""
        try:
            with watch.breaking_off():
                yield
        except interruption.Terminated:
            if not saved:
                self.save(state, wait=True)
            logger.warning(_TOLD_TO_STOP, int(state.step))
            raise

    def save(self, state: TrainState, *, wait: bool) -> None:
        with self.limits.stage("save"), self.log.paused():
            self.log.check(state.params)  # what isn't finite never becomes a checkpoint
            self.log.flush()
            if self.example_log is not None:
                self.example_log.flush()
            checkpoints.save(self.manager, state)
            if wait:
                checkpoints.finish(self.manager)


_TOLD_TO_STOP = "told to stop: saved after step %d; start again to go on"


def _loop(
    run: _Run,
    state: TrainState,
    batches: Iterator[dict[str, Array]],
    dropout_key: Array,
    watch: interruption.Watch,
) -> TrainState:
    """Steps from where the state is to the last one."""
    conflict, limits, start = run.conflict, run.limits, int(state.step)
    if start > run.train_steps:
        logger.warning(
            "%s is at step %d, beyond TRAIN_STEPS = %d: nothing is trained, and that step is "
            "evaluated", run.model_dir, start, run.train_steps,
        )  # fmt: skip
    compiled = set()
    for current in range(start, run.train_steps):
        groups = tuple(conflict.groups.items()) if _due(current, conflict.period) else ()
        point = {}
        if conflict.fixed_point is not None and _due(current, conflict.fixed_point.period):
            with run.leaving_if_told(watch, state):
                point = run.measure_point(state.params, current)
        with limits.stage("data" if current > start else "start"):
            batch = next(batches)
        with limits.stage("step" if groups in compiled else "compile"):
            state, metrics = step.train_step(
                state,
                batch,
                dropout_key,
                run.experiment.weights_at(current, run.plan),
                groups=groups,
                halves=bool(groups) and run.unbiased_window > 0,
                layout=run.layout,
                microbatches=run.experiment.microbatches,
                balance=run.experiment.balance,
                trainable=run.experiment.trainable,
            )
            write = bool(groups) or bool(point) or _due(current, run.log_period)
            run.log.add(current, metrics, write=write, point=point)
            if run.example_log is not None:
                run.example_log.add(current, batch)
        compiled.add(groups)
        done = current + 1
        checkpoints.check(run.manager)
        stopped = watch.requested(done)
        if _due(done, run.saving.period) or done == run.train_steps or stopped:
            run.save(state, wait=stopped or not run.saving.asynchronous)
        if stopped:
            logger.warning(_TOLD_TO_STOP, done)
            raise interruption.Terminated
        if _due(done, run.evaluation.period) and done < run.train_steps:
            with run.leaving_if_told(watch, state):
                run.evaluate(state.params, done)
    return state


def _due(at_step: int, period: int) -> bool:
    return period > 0 and at_step % period == 0


def _check_settings(
    experiment: Experiment,
    evaluation: Evaluation,
    conflict: measure.InTraining,
    **arguments: Any,
) -> None:
    """What no setting shows alone, before anything is read."""
    checks.check(*checks.plain("run", arguments))
    evaluation.positions(experiment)
    params, trainable = experiment.state_shapes(None).params, experiment.trainable
    measured = trainable if conflict.period else None  # else only whether there are such parameters
    freezing.select(params, conflict.groups, "measure.InTraining.groups", measured)
    if conflict.fixed_point is not None:
        conflict.fixed_point.names(experiment.model, params, trainable)
    path = arguments["initial_checkpoint_path"]
    if path is not None and not checkpoints.is_there(arguments["model_dir"]):
        config = getattr(experiment.model, "config", None)
        pretrained.check(path, config, experiment.vocabulary.vocab_size)


def _count(experiment: Experiment, evaluation: Evaluation) -> dict[str, dict[str, int]]:
    """Counts of the train split by task; every split that will be read is looked at."""
    tasks = dict(zip(experiment.names, experiment.trained, strict=True))
    lengths = experiment.task_feature_lengths
    counts = counting.check(tasks, "train", lengths, experiment.batch_size, experiment.cache)
    evaluate.check(experiment, evaluation)
    if experiment.with_heads:
        for name, task in tasks.items():
            own = features.lengths_of(name, lengths)
            lost = counting.count_lost_spans(task, "train", own, experiment.cache)
            counts[name] |= lost
            if any(lost.values()):
                logger.warning(
                    "%s: of %s train examples' answers %d are no span of the inputs, and %d are "
                    "cut off; nothing is learned from those",
                    task.name, counts[name].get("examples"), lost["spans_unreachable"],
                    lost["spans_cut"],
                )  # fmt: skip
    return counts


def _start(
    experiment: Experiment,
    key: Array,
    layout: sharding.Layout | None,
    manager: ocp.CheckpointManager,
    initial_checkpoint_path: str | None,
) -> TrainState:
    """The run folder's newest state, else the initial checkpoint's parameters, else fresh ones.

    Nothing is drawn that is read: a model takes the memory of one.
    """
    shapes = experiment.state_shapes(layout)
    restored = checkpoints.restore_latest(manager, shapes)
    if restored is not None:
        logger.info("%s: going on from step %d", manager.directory, int(restored.step))
        return restored
    if initial_checkpoint_path is not None:
        params = pretrained.initial_params(initial_checkpoint_path, shapes.params)
        flat = flatten_dict(params, sep="/")
        known = {name: leaf for name, leaf in flat.items() if isinstance(leaf, jax.Array)}
        return experiment.init_state(key, layout, known)
    return experiment.init_state(key, layout)


def _unbiased_window(
    experiment: Experiment, conflict: measure.InTraining, layout: sharding.Layout | None
) -> int:
    """Over how many measured steps the unbiased metrics run; 0 where the batches have no halves."""
    if not conflict.period or not conflict.unbiased_window:
        return 0
    problem = step.no_halves(experiment.batch_size, layout, experiment.microbatches)
    if problem is not None:
        logger.warning("the running, unbiased metrics of the conflict are left off: %s", problem)
        return 0
    return conflict.unbiased_window


def _log(
    model_dir: str,
    experiment: Experiment,
    plan: rates.Plan | None,
    window: int,
    start: int,
    train_steps: int,
) -> RunLog:
    numbers = np.full(len(experiment.names), experiment.batch_size)
    examples = numbers.sum()
    if plan is not None:
        numbers = np.array(plan.numbers)
        examples = numbers.sum() if plan.shares is None else experiment.batch_size
        logger.info(
            "examples of a step: %s", dict(zip(experiment.names, plan.numbers, strict=True))
        )
    running = Running(experiment.names, window, numbers) if window else None
    return RunLog(model_dir, experiment.names, int(examples), start, train_steps, running)


def _describe(model_dir: str, params: Any) -> None:
    if jax.process_index() == 0:
        overview = parameter_overview.get_parameter_overview(params, include_stats="sharding")
        (epath.Path(model_dir) / "model-info.txt").write_text(overview)
