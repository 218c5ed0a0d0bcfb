"""The conflict at one point: many examples of every task, dropout off, no update.

python -m mtl_t5x.measure --gin_file=gin/examples/mini_glue_text_to_text.gin \
    --gin.MODEL_DIR=\\"/tmp/run\\"

As the original measures it: 1,024 examples a task in pieces of 16. A task's gradient is the mean
over the pieces of each piece's gradient, so with losses over tokens every piece counts alike,
whatever it holds. The per-task gradients are added up either as they are, which takes twice K times
the memory of the measured parameters, or as sketches of a given width.
On a mesh every device holds an equal part of these sums.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import seqio
from etils import epath
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float

from mtl_t5x import step
from mtl_t5x.conflict import fixed_point as measure_figures
from mtl_t5x.data import batching as data
from mtl_t5x.data import heads
from mtl_t5x.gradients import one_pass as gradients
from mtl_t5x.parallel import sharding
from mtl_t5x.storage import checkpoints

logger = logging.getLogger(__name__)

FILE = "conflict.json"
ALL_DEVICES = sharding.Mesh()
DECODER = r"decoder/.*(kernel|rel_embedding)"
LAYERS = r"((?:encoder|decoder)/layers_\d+)/.*kernel"
Params = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a point is measured.

    Attributes:
      examples: per task; a multiple of `piece`.
      piece: examples per task that are computed at once; also the smaller of the noise scale's two
        batch sizes.
      groups: a group's name to the expression of its parameters' names, as for
        `gradients.select`; None: the encoder and its layers, and where all tasks share a decoder,
        the decoder and its layers.
      sketch_width: buckets of the sketches; None: exact.
      period: while training, steps between measurements at a fixed point; 0: none.
    """

    examples: int = 1024
    piece: int = 16
    groups: Mapping[str, str] | None = None
    sketch_width: int | None = None
    period: int = 0

    def __post_init__(self):
        if self.examples % self.piece or self.examples < 2 * self.piece:
            raise ValueError(
                f"measure.Settings: examples = {self.examples} must be two pieces at least, and a "
                f"multiple of piece = {self.piece}"
            )

    def names(self, model: nn.Module, params: Params) -> dict[str, tuple[str, ...]]:
        """The parameters of each group."""
        groups = self.groups
        if groups is None:
            groups = {"encoder": gradients.ENCODER, **gradients.ENCODER_LAYERS}
            if model.all_alike:
                groups = {"encoder": gradients.ENCODER, "decoder": DECODER, r"\1": LAYERS}
        return gradients.select(params, groups)


@dataclasses.dataclass(frozen=True)
class InTraining:
    """What of the conflict is measured while a model trains.

    Attributes:
      period: every such step is measured, from 0 on; 0: none.
      groups: a group's name to the expression of its parameters' names, as for `gradients.select`.
      unbiased_window: over how many measured steps the unbiased figures run (see `Running`); 0:
        none, and the halves of the batches aren't told apart.
      fixed_point: how, and at which steps, the conflict is measured on many examples, dropout off;
        each time leaves a file `conflict_<step>.json`. None: never.
    """

    period: int
    groups: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"encoder": gradients.ENCODER}
    )
    unbiased_window: int = 0
    fixed_point: Settings | None = None


def measure(
    *,
    model_dir: str,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    tasks: Sequence[seqio.Task],
    task_feature_lengths: data.FeatureLengths,
    random_seed: int,
    settings: Settings,
    update_directions: bool = False,
    mesh: sharding.Mesh = ALL_DEVICES,
) -> dict[str, Any]:
    """Measures at the newest checkpoint of a run's folder, prints a table, writes `conflict.json`.

    Args:
      model_dir: the run's folder.
      model, optimizer: as the run had them.
      tasks: as the run had them; those with a train split are measured, on that.
      task_feature_lengths: tokens of each feature, cut or padded to.
      random_seed: which examples are drawn.
      settings: see there.
      update_directions: measures g_k / (sqrt(v) + eps), with Adam's second moments v of the
        checkpoint (Kingma and Ba 2015, arXiv 1412.6980, bias-corrected), in place of g_k: how the
        tasks pull at the update that is made. It reads the optimizer's state, twice the size of the
        parameters, and can't be sketched.
      mesh: how the devices share the work, where there are several.

    Raises:
      FileNotFoundError: the folder has no checkpoint.
      ValueError: settings that can't work.
    """
    trained = data.with_split(tasks, "train")
    names = data.short_names(trained)
    empty = data.empty_batch(names, task_feature_lengths)
    layout = step.state_layout(mesh, empty, settings.piece, model=model, optimizer=optimizer)
    shapes = step.state_shapes(empty, model=model, optimizer=optimizer, layout=layout)
    scale = None
    if update_directions:
        if settings.sketch_width is not None:
            raise ValueError(
                "update directions can't be sketched: set Settings.sketch_width = None"
            )
        manager = checkpoints.manager(model_dir)
        state = checkpoints.restore_latest(manager, shapes)
        if state is None:
            raise FileNotFoundError(f"MODEL_DIR = {model_dir!r} holds no checkpoint to measure")
        params, done, scale = state.params, int(state.step), step.adam_scale(state.opt_state)
    else:
        params, done = checkpoints.restore_params(model_dir, shapes.params)
    result = of_tasks(
        params, trained, model=model, feature_lengths=task_feature_lengths, seed=random_seed,
        settings=settings, scale=scale, layout=layout,
    )  # fmt: skip
    of = "update directions" if update_directions else "gradients"
    result = {"step": done, "of": of, **result}
    write(result, epath.Path(model_dir) / FILE)
    if jax.process_index() == 0:
        print(measure_figures.table(result))
    return result


def of_tasks(
    params: Params,
    tasks: Sequence[seqio.Task],
    *,
    model: nn.Module,
    feature_lengths: data.FeatureLengths,
    seed: int,
    settings: Settings,
    scale: Params | None = None,
    layout: sharding.Layout | None = None,
) -> dict[str, Any]:
    """`at`, on examples of the tasks' train splits; `seed` says which are drawn."""
    with_heads = any(not isinstance(model.head(i), heads.Decoder) for i in range(len(tasks)))
    read = functools.partial(
        data.train_batches, tasks, feature_lengths, settings.piece, seed=seed, with_heads=with_heads
    )
    return at(
        params,
        sharding.placed_batches(read, layout, len(tasks), settings.piece),
        model=model,
        tasks=data.short_names(tasks),
        settings=settings,
        scale=scale,
        layout=layout,
    )


def write(result: Mapping[str, Any], path: epath.Path) -> None:
    """Of several processes the first one writes."""
    if jax.process_index() != 0:
        return
    path.write_text(json.dumps(result, indent=1))
    logger.info("the conflict at step %d is in %s", result["step"], path)


def at(
    params: Params,
    batches: Iterable[Mapping[str, Array]],
    *,
    model: nn.Module,
    tasks: Sequence[str],
    settings: Settings,
    scale: Params | None = None,
    layout: sharding.Layout | None = None,
) -> dict[str, Any]:
    """The figures of every group, as `conflict.json` holds them.

    Args:
      params: where it is measured.
      batches: pieces, `[task, piece, …]`; as many are taken as the settings say.
      model: an architecture.
      tasks: short names.
      settings: see there.
      scale: factors, of the parameters' shapes, that the gradients are multiplied by.
      layout: where the parameters and the pieces live; None: on one device.
    """
    groups, width = settings.names(model, params), settings.sketch_width
    scale = None if scale is None else flatten_dict(scale, sep="/")
    sums, pieces = None, settings.examples // settings.piece
    add = functools.partial(
        _add,
        model=model,
        groups=tuple(groups.items()),
        width=width,
        layout=layout,
    )
    for _, batch in zip(range(pieces), batches, strict=False):
        sums, unexplained = add(sums, params, batch, scale)
        if unexplained is not None:
            _check_explained(jax.device_get(unexplained))
    losses, rows, squares = sums
    by_task = functools.partial(measure_figures.by_task, tasks)
    return {
        "tasks": list(tasks),
        "examples": settings.examples,
        "piece": settings.piece,
        "sketch_width": width,
        "loss": by_task(np.asarray(losses) / pieces),
        "groups": {
            group: measure_figures.of_group(
                *_gram([rows[key] for key in _keys(groups, group, width)], pieces, width, layout),
                np.asarray(squares[group], np.float64) / pieces,
                settings.examples,
                settings.piece,
                by_task,
            )
            for group in groups
        },
    }


def _gram(
    rows: Sequence[Array], pieces: int, width: int | None, layout: sharding.Layout | None
) -> tuple[Float[np.ndarray, "task task"], Float[np.ndarray, "task width"] | None]:
    """(Gram matrix, sketches where there are any) of the means over the pieces."""
    if width is not None:
        sketches = np.asarray(sum(rows), np.float64) / pieces
        return sketches @ sketches.T, sketches
    return sum(np.asarray(_products(row, layout), np.float64) for row in rows) / pieces**2, None


@functools.partial(jax.jit, static_argnames="layout")
def _products(row: Float[Array, "task *shape"], layout: sharding.Layout | None) -> Array:
    axes = list(range(1, row.ndim))
    # Not flattened, because that would gather what is split along another axis than the first.
    gram = jnp.tensordot(row, row, [axes, axes], precision=jax.lax.Precision.HIGHEST)
    if layout is not None:
        gram = jax.lax.with_sharding_constraint(gram, layout.everywhere)
    return gram


def _atoms(groups: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Sets of parameters that are in the same groups: every group is a union of these."""
    membership = {}
    for group, names in groups.items():
        for name in names:
            membership[name] = (*membership.get(name, ()), group)
    atoms = {}
    for name, member_of in membership.items():
        atoms.setdefault("|".join(member_of), []).append(name)
    return {atom: tuple(names) for atom, names in atoms.items()}


def _keys(groups: Mapping[str, tuple[str, ...]], group: str, width: int | None) -> list[str]:
    """What the group's rows are kept under: parameters' names, or atoms where they are sketched."""
    if width is None:
        return list(groups[group])
    return [atom for atom in _atoms(groups) if group in atom.split("|")]


@functools.partial(
    jax.jit, static_argnames=("model", "groups", "width", "layout"), donate_argnames=("sums",)
)
def _add(sums, params, batch, scale, *, model, groups, width, layout):
    """((losses, per-task gradients or sketches, squared norms by group) with a piece more, and on
    the first exact piece what part of each parameter's gradient the tasks' don't account for)."""
    groups = dict(groups)
    num_tasks = batch["encoder_input_tokens"].shape[0]

    def loss_fn(params, probes):
        return model.apply({"params": params, "probes": probes}, batch, deterministic=True), None

    unexplained = None
    if width is None:
        names = sorted({name for members in groups.values() for name in members})
        pattern = "|".join(names)
        (losses, _), grads, rows = gradients.per_task_gradients(loss_fn, params, num_tasks, pattern)
        if sums is None:
            unexplained = _unexplained(flatten_dict(grads, sep="/"), rows)
        if scale is not None:
            rows = {name: row * scale[name] for name, row in rows.items()}
    else:
        (losses, _), _, rows = gradients.gradient_and_sketches(
            loss_fn, params, num_tasks, _atoms(groups), width
        )
    squares = {}
    for group in groups:
        members = [rows[key] for key in _keys(groups, group, width)]
        if width is None:
            squares[group] = sum(
                jnp.sum(jnp.square(row.reshape(num_tasks, -1)), 1) for row in members
            )
        else:
            squares[group] = jnp.sum(jnp.square(sum(members)), 1)
    piece = (losses, rows, squares)
    if sums is not None:
        piece = jax.tree.map(jnp.add, sums, piece)
    return _spread(piece, width, layout), unexplained


def _spread(piece, width, layout):
    """Per-task gradients are split over the devices; the rest, sketches too, is whole on each."""
    if layout is None:
        return piece
    losses, rows, squares = jax.tree.map(lambda _: layout.everywhere, piece)
    if width is None:
        rows = {name: layout.columns(row.shape[1:]) for name, row in piece[1].items()}
    return jax.lax.with_sharding_constraint(piece, (losses, rows, squares))


def _unexplained(grads: Mapping[str, Array], rows: Mapping[str, Array]) -> dict[str, Array]:
    """||g - sum_k g_k|| / (||g|| + sum_k ||g_k||) by name: 0 but for rounding if all uses count."""

    def norm(array):
        return jnp.sqrt(jnp.sum(jnp.square(array)))

    return {
        name: norm(grads[name] - row.sum(axis=0))
        / jnp.maximum(norm(grads[name]) + sum(map(norm, row)), jnp.finfo(jnp.float32).tiny)
        for name, row in rows.items()
    }


def _check_explained(unexplained: Mapping[str, np.ndarray]) -> None:
    names = [name for name, part in unexplained.items() if part > 1e-3]
    if names:
        raise ValueError(
            f"the tasks' gradients of {', '.join(names)} don't add up to the gradient: the model "
            "also uses these parameters in places that don't go through mtl_t5x.gradients.probes"
        )


if __name__ == "__main__":
    from mtl_t5x import main

    main.start("--run_mode=measure")
