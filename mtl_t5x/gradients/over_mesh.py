"""The step's gradients where tasks are spread over the devices: conflict at no extra traffic.

A device that holds one task's examples has, before anything is exchanged, that task's gradient.
Data parallelism would now all-reduce, and the tasks were lost in the sum. Instead an all-to-all
gives every device one slice of all K gradients; from its slices it computes its part of the K x K
Gram matrix, which is summed over the devices, and the sum of the slices, which is gathered: an
all-reduce is a reduce-scatter and an all-gather, and an all-to-all moves the bytes of the former.

With more devices than tasks several hold parts of one task's batch, and the slices of those are
added first; with fewer, a device holds several tasks, and its all-to-all carries as many gradients.
With parameters split over the devices (FSDP) they are gathered before and the slices stay where
they are after, which is the same traffic again. An architecture whose tasks differ in kind computes
all of them on every device, each on its part of their examples. Tensor parallelism happens within
each of the parts and is the compiler's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from mtl_t5x.conflict import metrics as conflict_metrics
from mtl_t5x.gradients import accumulation, one_pass
from mtl_t5x.parallel import sharding
from mtl_t5x.parallel.sharding import DATA, EXAMPLES, MODEL, TASK

Specs = Mapping[str, PartitionSpec]


def gradient_and_grams(
    loss_fn: accumulation.LossFn,
    weigh: accumulation.Weigh,
    params: one_pass.Params,
    batch: accumulation.Batch,
    key: Array,
    *,
    layout: sharding.Layout,
    param_specs: Any,
    groups: Mapping[str, str],
    microbatches: int = 1,
) -> tuple[Float[Array, " task"], one_pass.Params, dict[str, Float[Array, "task task"]]]:
    """(losses, gradient of their sum, exact Gram matrix of each group), within jit.

    Args:
      loss_fn, weigh: as for `accumulation.accumulate`.
      params: placed as `param_specs` says.
      batch: `[task, batch, …]`, placed as `layout` does.
      key: for dropout; every device folds its number in, so masks depend on the mesh.
      layout, param_specs: of the state and the batch; the parameters' part of `layout.spec_tree`.
      groups: a group's name to the regular expression of its parameters' names.
      microbatches: of each device's examples.

    Raises:
      ValueError: a group holds parameters of which every task has its own.
    """
    specs = flatten_dict(param_specs, sep="/")
    selected = one_pass.select(params, groups)
    measured = tuple(sorted({name for names in selected.values() for name in names}))
    _check_shared(measured, specs)

    def local(params, batch, key):
        """Losses, and gradients that have a first axis: of the one sum, or of the tasks."""
        key = jax.random.fold_in(key, jax.lax.axis_index(EXAMPLES))
        losses, grads, per_task = accumulation.accumulate(
            loss_fn, weigh, params, batch, key, total=jax.lax.psum(weigh(batch), DATA),
            measured=measured, microbatches=microbatches,
        )  # fmt: skip
        summed = {name: grad[None] for name, grad in flatten_dict(grads, sep="/").items()}
        return jax.lax.psum(losses, DATA), summed | per_task

    # Differentiating with check_vma would add the devices' gradients up by itself.
    losses, grads = jax.shard_map(
        local,
        mesh=layout.mesh,
        axis_names={TASK, DATA},  # what is split over `model` is left to the compiler
        in_specs=(_tasks_only(specs), sharding.BATCH, PartitionSpec()),
        out_specs=(PartitionSpec(TASK), PartitionSpec(EXAMPLES)),
        check_vma=False,
    )(params, batch, key)

    # By hand over all axes: the compiler would gather over `model` before every exchange.
    summed, grams = jax.shard_map(
        functools.partial(_reduce, specs=specs, measured=measured, groups=selected),
        mesh=layout.mesh,
        in_specs=({name: _model_only(spec) for name, spec in specs.items()},),
        out_specs=(specs, PartitionSpec()),
        check_vma=False,
    )(grads)
    return losses, unflatten_dict(summed, sep="/"), grams


def _check_shared(measured: Sequence[str], specs: Specs) -> None:
    for name in measured:
        if TASK in specs[name]:
            raise ValueError(
                f"measure.InTraining.groups: every task has its own {name}, so there is no "
                "conflict in it; let the group's expression leave it out"
            )


def _reduce(
    grads: Mapping[str, Array],
    *,
    specs: Specs,
    measured: Sequence[str],
    groups: Mapping[str, tuple[str, ...]],
) -> tuple[dict[str, Array], dict[str, Float[Array, "task task"]]]:
    """On each device: (its part of the gradient, Gram matrix of each group)."""
    summed, parts = {}, {}
    for name, grad in grads.items():
        if name in measured:
            summed[name], parts[name] = _exchange(grad, specs[name])
        else:
            summed[name] = _sum(grad[0], specs[name])
    grams = {group: sum(parts[name] for name in names) for group, names in groups.items()}
    return summed, jax.lax.psum(grams, (*EXAMPLES, MODEL)) if grams else {}


def _tasks_only(specs: Specs) -> Any:
    """Of the parameters as the loss takes them: whole, but for those that every task has."""
    return unflatten_dict(
        {
            name: PartitionSpec(*(axis if axis == TASK else None for axis in spec))
            for name, spec in specs.items()
        },
        sep="/",
    )


def _model_only(spec: PartitionSpec) -> PartitionSpec:
    """Of a gradient that every device has of its own, before the exchange."""
    return PartitionSpec(EXAMPLES, *(axis if axis == MODEL else None for axis in spec))


def _split_axis(spec: PartitionSpec) -> int | None:
    """The axis of a parameter that is split over all of EXAMPLES, if there is one."""
    return next((axis for axis, names in enumerate(spec) if names == EXAMPLES), None)


def _sum(grad: Array, spec: PartitionSpec) -> Array:
    """The sum of the devices' gradients, each device's own part of it where the value is split."""
    axis = _split_axis(spec)
    if axis is not None:
        return jax.lax.psum_scatter(grad, EXAMPLES, scatter_dimension=axis, tiled=True)
    return jax.lax.psum(grad, DATA if TASK in spec else EXAMPLES)


def _exchange(
    per_task: Float[Array, "local_task *_"], spec: PartitionSpec
) -> tuple[Array, Float[Array, "task task"]]:
    """(gradient of the summed losses, this device's part of the Gram matrix) of one parameter."""
    tasks, replicas = jax.lax.axis_size(TASK), jax.lax.axis_size(DATA)
    local_tasks, *shape = per_task.shape
    axis = _split_axis(spec)
    if axis is None:
        per_task = per_task.reshape(local_tasks, -1)
        per_task = jnp.pad(per_task, ((0, 0), (0, -per_task.shape[1] % (tasks * replicas))))
    slices = jax.lax.all_to_all(per_task, EXAMPLES, (axis or 0) + 1, 0, tiled=True)
    slices = slices.reshape(tasks, replicas, local_tasks, *slices.shape[1:]).sum(axis=1)
    slices = slices.reshape(tasks * local_tasks, *slices.shape[2:])
    gram = conflict_metrics.gram_matrix(slices)
    if MODEL not in spec:  # else every device along `model` counted the same
        gram = jnp.where(jax.lax.axis_index(MODEL) == 0, gram, 0.0)
    summed = slices.sum(axis=0)
    if axis is None:
        summed = jax.lax.all_gather(summed, EXAMPLES, tiled=True)
        summed = summed[: math.prod(shape)].reshape(shape)
    return summed, gram
