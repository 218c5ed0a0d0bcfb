"""The step's gradients where tasks are spread over the devices: conflict at no extra traffic.

A device that holds one task's examples has, before anything is exchanged, that task's gradient.
Data parallelism would now all-reduce, and the tasks were lost in the sum. Instead an all-to-all
gives every device one slice of all K gradients; from its slices it computes its part of the K x K
Gram matrix, which is summed over the devices, and the sum of the slices: its slice of the gradient,
which is what the optimizer's state is held in. A plain step's reduce-scatter moves the same bytes.

With more devices than tasks several hold parts of one task's batch, and the slices of those are
added first; with fewer, a device holds several tasks, and its all-to-all carries as many gradients.
An architecture whose tasks differ in kind computes all of them on every device, each on its part of
their examples. Tensor parallelism happens within each of the parts and is the compiler's.

A weight keeps its shape and is cut along its first axis wherever that can be: flat, or cut along an
inner axis, a TPU would have to lay it out anew.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from mtl_t5x.conflict import metrics as conflict_metrics
from mtl_t5x.gradients import accumulation, one_pass, slices
from mtl_t5x.parallel import sharding
from mtl_t5x.parallel.sharding import DATA, EXAMPLES, MODEL, SLICES, TASK

Specs = Mapping[str, PartitionSpec]
Grams = dict[str, Float[Array, "row row"]]


def gradient_and_grams(
    loss_fn: accumulation.LossFn,
    weigh: accumulation.Weigh,
    params: one_pass.Params,
    batch: accumulation.Batch,
    key: Array,
    *,
    layout: sharding.Layout,
    groups: Mapping[str, str],
    microbatches: int = 1,
    parts: int = 1,
    frozen: Collection[str] = (),
) -> tuple[Float[Array, " task"], one_pass.Params, Grams]:
    """(losses, slices of their sum's gradient, exact Gram matrix of each group), within jit.

    Args:
      loss_fn, weigh: as for `accumulation.accumulate`.
      params, batch: placed as `layout` does, `[task, batch, …]`.
      key: for dropout; every device folds its number in, so masks depend on the mesh.
      layout: of the state and the batch; the gradient comes as `scattered` says.
      groups: a group's name to the regular expression of its parameters' names.
      microbatches, parts: of each device's examples; the matrices' rows are of task and part.
      frozen: names of parameters whose gradient is 0, of which nothing is sent.

    Raises:
      ValueError: a group holds parameters of which every task has its own.
    """
    selected = one_pass.select(params, groups)
    measured = tuple(sorted(set().union(*selected.values())))
    losses, grads, late = _of_devices(
        loss_fn, weigh, params, batch, key, layout=layout, measured=measured,
        microbatches=microbatches, parts=parts, frozen=frozen, keep=False,
    )  # fmt: skip
    summed, _, grams = _exchanged(grads, late, params, layout, measured, selected, keep=False)
    return losses, unflatten_dict(summed, sep="/"), grams


def keeping_gradients(
    loss_fn: accumulation.LossFn,
    weigh: accumulation.Weigh,
    params: one_pass.Params,
    batch: accumulation.Batch,
    key: Array,
    *,
    layout: sharding.Layout,
    kept: str,
    groups: Mapping[str, str],
    microbatches: int = 1,
    parts: int = 1,
    frozen: Collection[str] = (),
) -> tuple[Float[Array, " task"], Grams, Callable[[Float[Array, " row"]], one_pass.Params]]:
    """(losses, exact Gram matrix of each group, weights of the rows -> slices of the gradient).

    Every device keeps its slice of all tasks' gradients of the parameters that the expression
    `kept` matches: K / devices times their memory. The other arguments are as above.
    """
    (names,) = one_pass.select(params, {"kept": kept}).values()
    losses, grads, late = _of_devices(
        loss_fn, weigh, params, batch, key, layout=layout, measured=names,
        microbatches=microbatches, parts=parts, frozen=frozen, keep=True,
    )  # fmt: skip
    selected = one_pass.select(params, groups)
    summed, kept_rows, grams = _exchanged(grads, late, params, layout, names, selected, keep=True)

    def weighted(weights: Float[Array, " row"]) -> one_pass.Params:
        mixed = {name: accumulation.mixed(weights, rows) for name, rows in kept_rows.items()}
        return unflatten_dict(summed | mixed, sep="/")

    return losses, grams, weighted


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["summed", "rows", "grams"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class Late:
    """What is exchanged already, of the parameters that are gathered in a loop, by name.

    Attributes:
      summed: slices of the gradient.
      rows: of those that are measured slices [row, …], where they are kept, or add up over
        microbatches before their Gram matrix can be known.
      grams: else each device's part of it, [1, row, row].
    """

    summed: Any
    rows: Any
    grams: Any


def _of_devices(
    loss_fn: accumulation.LossFn,
    weigh: accumulation.Weigh,
    params: one_pass.Params,
    batch: accumulation.Batch,
    key: Array,
    *,
    layout: sharding.Layout,
    measured: Sequence[str],
    microbatches: int,
    parts: int,
    frozen: Collection[str],
    keep: bool,
) -> tuple[Float[Array, " task"], dict[str, Array], Late]:
    """Losses, and by name, but of those that are frozen, what each device has before anything is
    exchanged: gradients that have a first axis, of the one sum, or where they are measured of the
    tasks; and apart from them what is exchanged in a loop."""
    gathered, scattered = (_by_name(params, s) for s in (layout.gathered, layout.scattered))
    _check_shared(measured, gathered)
    late = {name: cut for name, cut in _by_name(params, layout.late).items() if cut is not None}
    read = [name for name in measured if name in late]
    as_rows = keep or microbatches > 1

    def local(params, batch, key):
        key = jax.random.fold_in(key, jax.lax.axis_index(EXAMPLES))
        rows = len(weigh(batch)) * parts
        in_slices = {
            name: slices.Sliced(None, cut, _axes(gathered[name]), rows)
            for name, cut in late.items()
        }
        zeros = _zeros(params, read, rows * jax.lax.axis_size(TASK), as_rows)
        losses, grads, per_task = accumulation.accumulate(
            slices.of_slices(loss_fn, in_slices), weigh, {**params, slices.READINGS: zeros},
            batch, key, total=jax.lax.psum(weigh(batch), DATA),
            measured=[name for name in measured if name not in late],
            microbatches=microbatches, parts=parts,
        )  # fmt: skip
        summed = flatten_dict({name: grads[name] for name in params}, sep="/")
        done = _done({name: summed.pop(name) for name in late}, grads[slices.READINGS], as_rows)
        summed = {name: grad[None] for name, grad in summed.items() if name not in frozen}
        return jax.lax.psum(losses, DATA), summed | per_task, done

    of_late = {name: _but_model(scattered[name]) for name in late}
    of_rows = {name: PartitionSpec(None, *of_late[name]) for name in read if as_rows}
    # Differentiating with check_vma would add the devices' gradients up by itself.
    return jax.shard_map(
        local,
        mesh=layout.mesh,
        axis_names={TASK, DATA},  # what is split over `model` is left to the compiler
        in_specs=(_as_used(gathered, of_late), sharding.BATCH, PartitionSpec()),
        out_specs=(
            PartitionSpec(TASK),
            PartitionSpec(EXAMPLES),
            Late(of_late, of_rows, PartitionSpec(EXAMPLES)),
        ),
        check_vma=False,
    )(params, batch, key)


def _done(summed: dict[str, Array], readings: dict[str, Array], as_rows: bool) -> Late:
    """What a device has read in loops."""
    if as_rows:
        return Late(summed, {name: rows[:, 0] for name, rows in readings.items()}, {})
    return Late(summed, {}, {name: gram[None] for name, gram in readings.items()})


def _exchanged(
    grads: Mapping[str, Array],
    late: Late,
    params: one_pass.Params,
    layout: sharding.Layout,
    measured: Sequence[str],
    groups: Mapping[str, tuple[str, ...]],
    *,
    keep: bool,
) -> tuple[dict[str, Array], dict[str, Array], Grams]:
    """By name slices of the gradient, 0 where it wasn't sent, and, with `keep`, in their place of
    the measured gradients [row, …]; the Gram matrix of each group."""
    gathered, scattered = (_by_name(params, s) for s in (layout.gathered, layout.scattered))
    kept = [name for name in measured if keep and name in grads]
    of_rows = {name: PartitionSpec(None, *scattered[name]) for name in measured}
    reduce = functools.partial(
        _reduce, gathered=gathered, scattered=scattered, measured=measured, groups=groups, keep=keep
    )
    # By hand over all axes: the compiler would gather over `model` before every exchange.
    summed, rows, grams = jax.shard_map(
        reduce,
        mesh=layout.mesh,
        in_specs=(
            {name: _of_device(gathered[name]) for name in grads},
            {name: of_rows[name] for name in late.rows},
            PartitionSpec(EXAMPLES),
        ),
        out_specs=(
            {name: scattered[name] for name in grads if name not in kept},
            {name: of_rows[name] for name in kept},
            PartitionSpec(),
        ),
        check_vma=False,
    )(grads, late.rows, late.grams)
    flat = flatten_dict(params, sep="/")
    not_sent = {name: jnp.zeros_like(flat[name]) for name in flat if name not in grads}
    return {**not_sent, **late.summed, **summed}, rows | (late.rows if keep else {}), grams


@functools.partial(jax.jit, static_argnames="layout")
def gram_matrix(
    per_task: Float[Array, "task *shape"], layout: sharding.Layout | None
) -> Float[Array, "task task"]:
    """Of per-task gradients of one parameter, which a layout has split as `Layout.columns` says."""
    if layout is None:
        return conflict_metrics.gram_matrix(per_task)
    split = layout.columns(per_task.shape[1:]).spec

    # By hand, because the compiler would gather what is split to make it flat.
    def of_part(part):
        gram = conflict_metrics.gram_matrix(part)
        return jax.lax.psum(gram, layout.mesh.axis_names) if any(split) else gram

    return jax.shard_map(
        of_part,
        mesh=layout.mesh,
        in_specs=(split,),
        out_specs=PartitionSpec(),
        check_vma=False,
    )(per_task)


def _by_name(params: one_pass.Params, of_each: Sequence[Any]) -> dict[str, Any]:
    return flatten_dict(jax.tree.unflatten(jax.tree.structure(params), of_each), sep="/")


def _check_shared(measured: Sequence[str], gathered: Specs) -> None:
    for name in measured:
        if TASK in gathered[name]:
            raise ValueError(
                f"measure.InTraining.groups: every task has its own {name}, so there is no "
                "conflict in it; let the group's expression leave it out"
            )


def _reduce(
    grads: Mapping[str, Array],
    late_rows: Mapping[str, Array],
    late_grams: Mapping[str, Array],
    *,
    gathered: Specs,
    scattered: Specs,
    measured: Sequence[str],
    groups: Mapping[str, tuple[str, ...]],
    keep: bool,
) -> tuple[dict[str, Array], dict[str, Array], Grams]:
    """On each device: its slice of the gradient, its slices of those that are kept, and the Gram
    matrix of each group."""
    summed, kept, exchanged = {}, {}, {}
    for name, grad in grads.items():
        where, cut_as = gathered[name], scattered[name]
        if name not in measured:
            summed[name] = _sum(grad[0], where, cut_as)
            continue
        cut = sharding.cut_axis(where, cut_as)
        rows = _exchanged_flat(grad) if cut is None else slices.exchanged(grad, cut)
        exchanged[name] = rows, MODEL in where and cut is not None
        # Added one by one, which a TPU's compiler fuses with the norm: a reduction stands alone.
        result = rows if keep else functools.reduce(jnp.add, rows)
        (kept if keep else summed)[name] = _whole(result, grad.shape[1:]) if cut is None else result
    parts = {name: _once(gram[0]) for name, gram in late_grams.items()}
    late = {name: (rows, MODEL in gathered[name]) for name, rows in late_rows.items()}
    parts |= _parts_of_grams(exchanged | late, groups)
    grams = {
        group: sum(parts[name] for name in names if name in parts)
        for group, names in groups.items()
    }
    return summed, kept, jax.lax.psum(grams, (*EXAMPLES, MODEL)) if grams else {}


def _zeros(
    params: one_pass.Params, names: Sequence[str], rows: int, as_rows: bool
) -> dict[str, Array]:
    """Of which slices of the rows' gradients are read, or else their Gram matrices."""
    flat = flatten_dict(params, sep="/")
    shapes = {name: (1, *flat[name].shape) if as_rows else (rows,) for name in names}
    return {name: jnp.zeros((rows, *shape)) for name, shape in shapes.items()}


def _axes(gathered: PartitionSpec) -> tuple[str, ...]:
    """Of the mesh, that a parameter's slices are spread over."""
    return tuple(axis for axis in SLICES if axis not in gathered)


def _as_used(gathered: Specs, of_late: Specs) -> Any:
    """Of the parameters as the loss takes them: whole, but for those that every task has, and for
    the late ones, which come in slices."""
    tasks_only = {
        name: PartitionSpec(*(axis if axis == TASK else None for axis in spec))
        for name, spec in gathered.items()
    }
    return unflatten_dict({**tasks_only, **of_late}, sep="/")


def _but_model(spec: PartitionSpec) -> PartitionSpec:
    """What of a parameter's places isn't left to the compiler."""

    def without(axes):
        left = tuple(
            axis for axis in (axes if isinstance(axes, tuple) else (axes,)) if axis != MODEL
        )
        return left or None

    return PartitionSpec(*map(without, spec))


def _of_device(gathered: PartitionSpec) -> PartitionSpec:
    """Of a gradient that every device has of its own, before the exchange."""
    return PartitionSpec(EXAMPLES, *(axis if axis == MODEL else None for axis in gathered))


def _sum(grad: Array, gathered: PartitionSpec, scattered: PartitionSpec) -> Array:
    """The sum of the devices' gradients: each device's slice of it, where it is cut."""
    axes = _axes(gathered)
    cut = sharding.cut_axis(gathered, scattered)
    return jax.lax.psum(grad, axes) if cut is None else slices.scattered_sum(grad, cut, axes)


def _exchanged_flat(per_task: Float[Array, "local_row *_"]) -> Float[Array, "row part"]:
    """As `slices.exchanged`, of a weight that has no axis to be cut along: a small one, as the bias
    of relative positions. It is cut as a vector."""
    flat = per_task.reshape(len(per_task), -1)
    parts = jax.lax.axis_size(EXAMPLES)
    flat = jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % parts)))
    return slices.exchanged(flat, 0)


def _whole(part: Float[Array, "*row part"], shape: tuple[int, ...]) -> Array:
    """What `_exchanged_flat` cut, put together again."""
    flat = jax.lax.all_gather(part, SLICES, axis=part.ndim - 1, tiled=True)
    return flat[..., : math.prod(shape)].reshape(*part.shape[:-1], *shape)


def _parts_of_grams(
    exchanged: Mapping[str, tuple[Float[Array, "row *slice"], bool]],
    groups: Mapping[str, tuple[str, ...]],
) -> Grams:
    """This device's part of the Gram matrices, of rows and whether they are split over `model`.

    Rows of one shape and in the same groups, as of query, key and value, are multiplied together,
    under the name of the first: their matrices are needed as a sum only.
    """
    alike: dict[Any, list[str]] = {}
    for name, (rows, split) in exchanged.items():
        member = tuple(group for group, names in groups.items() if name in names)
        alike.setdefault((rows.shape, split, member), []).append(name)
    parts = {}
    for (_, split, _), names in alike.items():
        for first in range(0, len(names), _TOGETHER):
            together = names[first : first + _TOGETHER]
            gram = conflict_metrics.gram_matrix(*(exchanged[name][0] for name in together))
            # Before all are added up: else a TPU keeps every pair's number of each until then.
            gram = jax.lax.optimization_barrier(gram)
            # Where a weight isn't split over `model`, every device along it has counted the same.
            parts[together[0]] = gram if split else _once(gram)
    return parts


_TOGETHER = 4  # weights in one fusion of a TPU's; of 8 it makes several


def _once(gram):
    return jnp.where(jax.lax.axis_index(MODEL) == 0, gram, 0.0)
