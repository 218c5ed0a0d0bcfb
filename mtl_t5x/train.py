"""The training loop: the function that gin binds."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import seqio
from clu import parameter_overview
from etils import epath
from flax.training.train_state import TrainState
from jaxtyping import Array

from mtl_t5x import evaluate, measure, step
from mtl_t5x.conflict.running import Running
from mtl_t5x.data import batching as data
from mtl_t5x.data import heads
from mtl_t5x.gradients import one_pass as gradients
from mtl_t5x.models import decoding
from mtl_t5x.parallel import sharding
from mtl_t5x.runtime import interruption, watchdog
from mtl_t5x.runtime.example_log import ExampleLog
from mtl_t5x.runtime.run_log import RunLog
from mtl_t5x.storage import checkpoints

logger = logging.getLogger(__name__)

ALL_DEVICES = sharding.Mesh()
LIMITS = watchdog.Limits()


def train(
    *,
    model_dir: str,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    tasks: Sequence[seqio.Task],
    task_feature_lengths: Mapping[str, int],
    batch_size: int,
    train_steps: int,
    random_seed: int,
    eval_period: int,
    log_period: int,
    saving: checkpoints.Settings,
    conflict: measure.InTraining,
    eval_batch_size: int,
    evaluated_as: Mapping[str, str],
    search: decoding.Search,
    initial_checkpoint_path: str | None = None,
    mesh: sharding.Mesh = ALL_DEVICES,
    microbatches: int = 1,
    log_examples: bool = False,
    limits: watchdog.Limits = LIMITS,
) -> dict[str, Any]:
    """Trains on every task at once, measures their conflict, evaluates, and leaves a run folder.

    A folder that holds a checkpoint is continued; else `initial_checkpoint_path` gives the
    parameters; else they are drawn from `random_seed`.

    Args:
      model_dir: the run's folder.
      model: an architecture of `mtl_t5x.models.architectures`.
      optimizer: an optax transformation; it sees the sum of the tasks' gradients.
      tasks: as `data.find_tasks` gives them; one without a train split is evaluated only.
      task_feature_lengths: tokens of each feature, cut or padded to.
      batch_size: examples per task and step.
      train_steps: updates in all.
      random_seed: of parameters, data order and dropout.
      eval_period: steps between evaluations of the dev split; 0: at the end only.
      log_period: steps between lines of `metrics.jsonl`; measured steps are logged always.
      saving: when checkpoints are written, and which stay.
      conflict: when the tasks' conflict is measured, and where.
      eval_batch_size: examples decoded at once.
      evaluated_as: whose head or decoder answers a task that is only evaluated, by task name.
      search: how answers are decoded.
      initial_checkpoint_path: a checkpoint of ours, or a pretrained T5 1.1 of Hugging Face or T5X.
      mesh: how the devices share the work, where there are several.
      microbatches: pieces that a step's examples are computed in, one after the other.
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
    trained = data.with_split(tasks, "train")
    if not trained:
        raise ValueError(f"none of {[task.name for task in tasks]} has a train split")
    names = data.short_names(trained)
    answered_by = evaluate.positions(tasks, evaluated_as, all_alike=model.all_alike)
    with_heads = any(not isinstance(model.head(i), heads.Decoder) for i in range(len(trained)))
    with limits.stage("start"):
        counts = data.check(trained, names, "train", task_feature_lengths, batch_size)
        if with_heads:
            _count_spans(trained, counts, task_feature_lengths)
    manager = checkpoints.manager(model_dir, saving)
    init_key, dropout_key = jax.random.split(jax.random.key(random_seed))
    with limits.stage("restore"):
        state, layout = _set_up(
            init_key,
            data.empty_batch(names, task_feature_lengths),
            batch_size,
            manager,
            initial_checkpoint_path,
            model=model,
            optimizer=optimizer,
            mesh=mesh,
        )
    gradients.select(state.params, conflict.groups)
    groups = tuple(conflict.groups.items())
    _describe(model_dir, state.params)
    start = int(state.step)
    read = functools.partial(
        data.train_batches,
        trained,
        task_feature_lengths,
        batch_size,
        seed=random_seed,
        start_step=start,
        with_heads=with_heads,
    )
    batches = sharding.placed_batches(read, layout, len(trained), batch_size)
    # Each process evaluates by itself; one alone lets all of its devices do it.
    whole = layout.gather if jax.process_count() > 1 else lambda params: params

    def evaluate_split(split: str, done: int) -> evaluate.Metrics:
        with limits.stage("evaluation"):
            return evaluate.evaluate(
                whole(state.params),
                tasks,
                model=model,
                split=split,
                feature_lengths=task_feature_lengths,
                batch_size=eval_batch_size,
                output_dir=epath.Path(model_dir) / evaluate.PREDICTIONS,
                step=done,
                answered_by=answered_by,
                search=search,
            )

    def measure_point(current: int) -> None:
        with limits.stage("measurement"):
            point = measure.of_tasks(
                state.params,
                trained,
                model=model,
                feature_lengths=task_feature_lengths,
                seed=random_seed,
                settings=conflict.fixed_point,
                layout=layout,
            )
        path = epath.Path(model_dir) / f"conflict_{current}.json"
        measure.write({"step": current, **point}, path)

    window = conflict.unbiased_window
    running = Running(names, window, batch_size) if window else None
    log = RunLog(model_dir, names, len(names) * batch_size, start, train_steps, running)
    example_log = ExampleLog(model_dir, names, start) if log_examples else contextlib.nullcontext()
    compiled = set()
    with manager, log, example_log, interruption.Watch() as watch:
        for current in range(start, train_steps):
            measured = _due(current, conflict.period)
            if conflict.fixed_point is not None and _due(current, conflict.fixed_point.period):
                measure_point(current)
            with limits.stage("data" if current > start else "start"):
                batch = next(batches)
            with limits.stage("step" if measured in compiled else "compile"):
                state, metrics = step.train_step(
                    state,
                    batch,
                    dropout_key,
                    groups=groups if measured else (),
                    halves=measured and window > 0,
                    layout=layout,
                    microbatches=microbatches,
                )
                log.add(current, metrics, write=measured or current % log_period == 0)
                if log_examples:
                    example_log.add(current, batch)
            compiled.add(measured)
            done = current + 1
            checkpoints.check(manager)
            stopped = watch.requested(done) and done < train_steps
            if _due(done, saving.period) or done == train_steps or stopped:
                with limits.stage("save"):
                    log.check(state.params)  # what isn't finite never becomes a checkpoint
                    log.flush()
                    if log_examples:
                        example_log.flush()
                    checkpoints.save(manager, state)
                    if stopped or not saving.asynchronous:
                        checkpoints.finish(manager)
            if stopped:
                logger.warning("told to stop: saved after step %d; start again to go on", done)
                raise interruption.Terminated
            if _due(done, eval_period) and done < train_steps:
                evaluate_split("validation", done)
        with limits.stage("save"):
            checkpoints.finish(manager)
    return evaluate.write_results(
        model_dir,
        step=int(state.step),
        tasks=names,
        train=counts,
        dev=evaluate_split("validation", train_steps),
        test=evaluate_split("test", train_steps),
    )


def _due(step: int, period: int) -> bool:
    return period > 0 and step % period == 0


def _set_up(
    key: Array,
    shapes: Mapping[str, np.ndarray],
    batch_size: int,
    manager: ocp.CheckpointManager,
    initial_checkpoint_path: str | None,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    mesh: sharding.Mesh,
) -> tuple[TrainState, sharding.Layout | None]:
    """(the state that training starts from, where it lives); None: on one device."""
    layout = step.state_layout(mesh, shapes, batch_size, model=model, optimizer=optimizer)
    state = step.init_state(key, shapes, model=model, optimizer=optimizer, layout=layout)
    state = _start(state, manager, initial_checkpoint_path)
    if layout is not None:
        state = jax.device_put(state, layout.shardings(state))
    return state, layout


def _start(
    state: TrainState, manager: ocp.CheckpointManager, initial_checkpoint_path: str | None
) -> TrainState:
    """The run folder's newest state, else the initial checkpoint's parameters, else fresh ones."""
    restored = checkpoints.restore_latest(manager, state)
    if restored is not None:
        logger.info("%s: going on from step %d", manager.directory, int(restored.step))
        return restored
    if initial_checkpoint_path is not None:
        params = checkpoints.initial_params(initial_checkpoint_path, state.params)
        return state.replace(params=params)
    return state


def _count_spans(
    tasks: Sequence[seqio.Task],
    counts: dict[str, dict[str, int]],
    feature_lengths: data.FeatureLengths,
) -> None:
    """Adds to the counts, and says, how many spans their heads can't learn from."""
    for task, (name, seen) in zip(tasks, counts.items(), strict=True):
        lengths = data.lengths_of(name, feature_lengths)
        lost = heads.count_lost_spans(task, "train", lengths["inputs"])
        seen |= lost
        if any(lost.values()):
            logger.warning(
                "%s: of %s train examples' answers %d are no span of the inputs, and %d are cut "
                "off; nothing is learned from those",
                task.name, seen.get("examples"), lost["spans_unreachable"], lost["spans_cut"],
            )  # fmt: skip


def _describe(model_dir: str, params: Any) -> None:
    if jax.process_index() == 0:
        overview = parameter_overview.get_parameter_overview(params, include_stats="sharding")
        (epath.Path(model_dir) / "model-info.txt").write_text(overview)
