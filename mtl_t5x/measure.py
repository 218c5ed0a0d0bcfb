"""The conflict at one point: many examples of every task, dropout off, no update.

python -m mtl_t5x.measure --gin_file=gin/examples/mini_glue_text_to_text.gin \
    --gin.MODEL_DIR=\\"/tmp/run\\"

As the original measures it: 1,024 examples a task in microbatches of 16, drawn anew at every point.
A task's gradient is the mean over the microbatches of each one's gradient, so with losses over
tokens every microbatch counts alike, whatever it holds. The per-task gradients are added up either
as they are, which takes twice K times the memory of the measured parameters (three times where
`MICROBATCHES` cuts what is computed at once), or as sketches of a given width. On a mesh every
device holds an equal part of these sums.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict
from jaxtyping import Array

from mtl_t5x import step
from mtl_t5x.conflict import fixed_point
from mtl_t5x.data import batching
from mtl_t5x.experiment import Experiment
from mtl_t5x.gradients import freezing, one_pass, over_batches
from mtl_t5x.parallel import sharding
from mtl_t5x.runtime import progress, watchdog
from mtl_t5x.settings import checks
from mtl_t5x.storage import checkpoints, files

logger = logging.getLogger(__name__)

FILE = "conflict.json"
# Without the output layer, which in the original is no part of its decoder.
DECODER = r"decoder/(?!logits_dense).*(kernel|rel_embedding)"
LAYERS = r"((?:encoder|decoder)/layers_\d+)/.*kernel"
Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a point is measured.

    Attributes:
      examples: per task; a multiple of `microbatch_size`. Of a task that has fewer, all that make
        whole microbatches.
      microbatch_size: examples per task whose gradient counts as one; also the smaller of the noise
        scale's two batch sizes. They are computed at once, or where `MICROBATCHES` cuts a step's
        examples, in parts that are no larger than a step's.
      groups: as for `one_pass.select`; None: the encoder and its layers, and where all tasks share
        a decoder, the decoder and its layers.
      sketch_width: buckets of the sketches; None: exact.
      period: while training, steps between measurements at a fixed point; 0: none.
    """

    examples: int = 1024
    microbatch_size: int = 16
    groups: Mapping[str, str] | None = None
    sketch_width: int | None = None
    period: int = 0

    def __post_init__(self):
        name, size = "measure.Settings", self.microbatch_size
        checks.check(
            checks.whole(f"{name}.examples", self.examples, 2, "of each task"),
            checks.whole(f"{name}.microbatch_size", size, 1, "examples computed at once"),
            checks.expressions(f"{name}.groups", self.groups, none=True),
            checks.whole(f"{name}.sketch_width", self.sketch_width, 1, "buckets", none=True),
            checks.whole(f"{name}.period", self.period, 0, "steps between measurements"),
        )
        if self.examples % size or self.examples < 2 * size:
            raise ValueError(
                f"measure.Settings: examples = {self.examples} must be two microbatches at least, "
                f"and a multiple of microbatch_size = {size}"
            )

    def names(
        self, model: nn.Module, params: Params, trainable: str | None = None
    ) -> dict[str, tuple[str, ...]]:
        """The parameters of each group, of those that are trained.

        Raises:
          ValueError: a group holds none, or where `groups` is None all do.
        """
        select = functools.partial(freezing.select, params, trainable=trainable)
        if self.groups is not None:
            return select(self.groups, "measure.Settings.groups")
        groups = {"encoder": one_pass.ENCODER, **one_pass.ENCODER_LAYERS}
        if model.shares_decoder:
            groups = {"encoder": one_pass.ENCODER, "decoder": DECODER, r"\1": LAYERS}
        still = freezing.frozen(params, trainable)
        # In one order everywhere: the groups' sums over the devices are exchanged one by one.
        some = {
            group: pattern
            for group, pattern in groups.items()
            if not still.issuperset(sum(one_pass.select(params, {group: pattern}).values(), ()))
        }
        return select(some or groups, "measure.Settings.groups")


@dataclasses.dataclass(frozen=True)
class InTraining:
    """What of the conflict is measured while a model trains.

    Attributes:
      period: every such step is measured, from 0 on; 0: none.
      groups: as for `one_pass.select`.
      unbiased_window: over how many measured steps the unbiased metrics run (see `Running`), where
        the batches have halves; 0: none, and the halves aren't told apart.
      fixed_point: how, and at which steps, the conflict is measured on many examples, dropout off;
        each is logged and leaves a file `conflict_<step>.json`. None: never.
    """

    period: int
    groups: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"encoder": one_pass.ENCODER}
    )
    unbiased_window: int = 10
    fixed_point: Settings | None = None

    def __post_init__(self):
        name, point = "measure.InTraining", self.fixed_point
        checks.check(
            checks.whole("CONFLICT_PERIOD", self.period, 0, "steps between measurements; 0: none"),
            checks.expressions(f"{name}.groups", self.groups),
            checks.whole(f"{name}.unbiased_window", self.unbiased_window, 0, "measured steps"),
            checks.a(f"{name}.fixed_point", point, (Settings, type(None)), "@measure.Settings()"),
        )
        if point is not None and not point.period:
            raise checks.SettingsError(
                f"measure.Settings.period = 0, and {name}.fixed_point is set, which then never "
                "measures: write after how many steps it shall, or fixed_point = None"
            )


def measure(
    *,
    model_dir: str,
    experiment: Experiment,
    random_seed: int,
    settings: Settings,
    update_directions: bool = False,
    limits: watchdog.Limits = watchdog.DEFAULT,
) -> dict[str, Any]:
    """Measures at the newest checkpoint of a run's folder, prints a table, writes `conflict.json`.

    Args:
      model_dir: the run's folder.
      experiment: as the run had it; its tasks with a train split are measured, on that.
      random_seed: which examples are drawn.
      settings: see there.
      update_directions: measures g_k / (sqrt(v) + eps), with Adam's second moments v of the
        checkpoint (Kingma and Ba 2015, arXiv 1412.6980, bias-corrected), in place of g_k: how the
        tasks pull at the update that is made. It reads the optimizer's state, twice the size of the
        parameters, and can't be sketched.
      limits: how long each stage may take before the process ends, with a stack dump.

    Raises:
      FileNotFoundError: the folder has no checkpoint.
      ValueError: settings that can't work.
    """
    if update_directions and settings.sketch_width is not None:
        raise ValueError("update directions can't be sketched: set Settings.sketch_width = None")
    with limits.stage("restore"):
        layout = experiment.layout(settings.microbatch_size, "measure.Settings.microbatch_size")
        shapes = experiment.state_shapes(layout)
        scale = None
        if update_directions:
            state = checkpoints.restore_state(model_dir, shapes)
            params, done, scale = state.params, int(state.step), step.adam_scale(state.opt_state)
        else:
            params, done = checkpoints.restore_params(model_dir, shapes.params)
    with limits.stage("measurement"):
        result = measure_tasks(
            params, experiment, settings, seed=random_seed, at_step=done, scale=scale, layout=layout
        )
    result = {"of": "update directions" if update_directions else "gradients", **result}
    write(result, epath.Path(model_dir) / FILE)
    if jax.process_index() == 0:
        print(fixed_point.table(result))
    return result


def measure_tasks(
    params: Params,
    experiment: Experiment,
    settings: Settings,
    *,
    seed: int,
    at_step: int,
    scale: Params | None = None,
    layout: sharding.Layout | None = None,
) -> dict[str, Any]:
    """`measure_batches` on examples of the train splits, as `seed` and `at_step` draw them."""
    logger.info("measuring the conflict at step %d", at_step)
    sharding.check_spread(layout, settings.microbatch_size, "measure.Settings.microbatch_size")
    drawn = batching.draw(
        experiment.trained,
        experiment.task_feature_lengths,
        settings.microbatch_size,
        settings.examples,
        seed=zlib.crc32(f"{seed}:{at_step}".encode()),
        with_heads=experiment.with_heads,
        any_order=experiment.model.shares_decoder,
        cache=experiment.cache,
    )
    if layout is not None:
        size = (len(experiment.trained), settings.microbatch_size)
        share = layout.share(*size)
        drawn = [
            batching.Drawn(
                layout.place({name: value[share] for name, value in batch.items()}, *size), tasks
            )
            for batch, tasks in drawn
        ]
    result = measure_batches(
        params, drawn, model=experiment.model, tasks=experiment.names,
        settings=settings, scale=scale, layout=layout, trainable=experiment.trainable,
        parts=_parts(
            settings.microbatch_size, experiment.batch_size, experiment.microbatches,
            1 if layout is None else layout.mesh.shape[sharding.DATA],
        ),
    )  # fmt: skip
    return {"step": at_step, **result}


def _parts(size: int, batch_size: int, microbatches: int, devices: int) -> int:
    """What so many examples of a task are computed in: where `MICROBATCHES` cuts a step's examples,
    no more of them at once than a step computes."""
    if microbatches == 1:
        return 1
    most = max(batch_size // microbatches, devices)
    at_once = (n for n in range(most, 0, -1) if size % n == 0 and n % devices == 0)
    return size // next(at_once)


def write(result: Mapping[str, Any], path: epath.Path) -> None:
    """Of several processes the first one writes."""
    if jax.process_index() != 0:
        return
    files.write_atomically(path, json.dumps(result, indent=1))
    logger.info("the conflict at step %d is in %s", result["step"], path)


def measure_batches(
    params: Params,
    drawn: Sequence[batching.Drawn],
    *,
    model: nn.Module,
    tasks: Sequence[str],
    settings: Settings,
    scale: Params | None = None,
    layout: sharding.Layout | None = None,
    trainable: str | None = None,
    parts: int = 1,
) -> dict[str, Any]:
    """The metrics of every group, as `conflict.json` holds them.

    Args:
      params: where it is measured.
      drawn: microbatches in rows, `[row, microbatch_size, …]`, of any task where all tasks share a
        decoder, else row k of task k.
      model, tasks: an architecture, and the tasks' short names.
      settings: see there.
      scale: factors, of the parameters' shapes, that the gradients are multiplied by.
      layout: where the parameters and the batches live; None: on one device.
      trainable: an expression of the names of the parameters that are trained; None: all.
      parts: what a microbatch's examples are computed in, one after the other.
    """
    groups, width = settings.names(model, params, trainable), settings.sketch_width
    if width is not None:  # a loop would give all layers the same random signs
        model = model.clone(config=dataclasses.replace(model.config, scan_layers=False))
    scale = None if scale is None else flatten_dict(scale, sep="/")
    where = {"width": width, "layout": layout}
    add = functools.partial(
        _add, model=model, num_tasks=len(tasks), groups=tuple(groups.items()), parts=parts, **where
    )
    sums = _summed(add, params, drawn, scale)
    rows = np.concatenate([of_rows for _, of_rows in drawn])
    number = np.bincount(rows[rows < len(tasks)], minlength=len(tasks))
    by_task = functools.partial(fixed_point.by_task, tasks)
    examples = number * settings.microbatch_size
    return {
        "tasks": list(tasks),
        "examples": dict(zip(tasks, examples.tolist(), strict=True)),
        "microbatch_size": settings.microbatch_size,
        "sketch_width": width,
        "loss": by_task(np.asarray(sums.losses) / number),
        "groups": {
            group: fixed_point.group_metrics(
                *over_batches.gram(sums, group, number, groups=groups, **where),
                np.asarray(sums.squared_norms[group], np.float64) / number,
                examples,
                settings.microbatch_size,
                by_task,
            )
            for group in groups
        },
    }


def _summed(
    add: Callable[..., Any],
    params: Params,
    drawn: Sequence[batching.Drawn],
    scale: Mapping[str, Array] | None,
) -> over_batches.Sums:
    sums = None
    with progress.bar("measuring the conflict", len(drawn), "batch") as shown:
        for batch, tasks in drawn:
            sums, unexplained = add(sums, params, batch, tasks, scale)
            if unexplained is not None:
                one_pass.check_explained(jax.device_get(unexplained))
            jax.block_until_ready(sums.losses)  # what is shown as done is done
            shown.update()
    return sums


@functools.partial(
    jax.jit,
    static_argnames=("model", "num_tasks", "groups", "width", "layout", "parts"),
    donate_argnames=("sums",),
)
def _add(sums, params, batch, tasks, scale, *, model, num_tasks, groups, width, layout, parts):
    """`over_batches.add` of a model's losses, dropout off."""
    if parts > 1:
        batch = model.apply({}, batch, method="before_splitting")

    def loss_fn(params, probes, batch, key):
        return model.apply({"params": params, "probes": probes}, batch, deterministic=True)

    def weigh(batch):
        return model.apply({}, batch, method="loss_weights")

    return over_batches.add(
        sums, loss_fn, weigh, params, batch, tasks, num_tasks=num_tasks, groups=dict(groups),
        width=width, microbatches=parts, scale=scale, layout=layout,
    )  # fmt: skip


if __name__ == "__main__":
    from mtl_t5x import main

    main.start("--run_mode=measure")
