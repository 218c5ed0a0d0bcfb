"""Parameters of which every device holds a slice, put together where a layer uses them.

Where layers are computed in a loop (`T5Config.scan_layers`) and parameters live in slices (FSDP),
a layer's weights are gathered when its turn comes, and once more in the backward pass, where
activations are computed again. Their gradients are exchanged as soon as they are there, in the loop
too: no device ever holds more than one layer's weights and gradients as a whole.

Source: Rajbhandari et al. 2020 (arXiv 1910.02054), stage 3; the exchange that tells the tasks apart
is `over_mesh`'s.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from mtl_t5x.conflict import metrics as conflict_metrics
from mtl_t5x.parallel.sharding import DATA, TASK


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["probe"], meta_fields=["cut", "axes", "rows"]
)
@dataclasses.dataclass(frozen=True)
class Sliced:
    """Stands in a probe's place: the parameter is this device's slice of a weight.

    Attributes:
      probe: zeros whose "gradient" is asked for. `[row, row]`: this device's part of the Gram
        matrix of all tasks' gradients, to be added up over the devices; `[row, 1, *slice]`: its
        slices of them; None: nothing. The slice's own gradient is that of the sum in all cases.
      cut: the weight's axis that is cut.
      axes: of the mesh, in the order of the slices.
      rows: of the tasks, and parts of their examples, that this device computes.
    """

    probe: Any
    cut: int
    axes: tuple[str, ...]
    rows: int


Variables = Mapping[str, Mapping[str, Any]]
READINGS = "readings"  # among the parameters: zeros by name, whose "gradients" are what is read


def of_slices(loss_fn: Callable[..., Any], sliced: Mapping[str, Sliced]) -> Callable[..., Any]:
    """The loss function of parameters and probes that finds those slices among the parameters, and
    has `READINGS` there: a parameter's zeros are its probe."""

    def loss_of_slices(params, probes, *arguments):
        others = {name: value for name, value in params.items() if name != READINGS}
        in_slices = {
            name: dataclasses.replace(one, probe=params[READINGS].get(name))
            for name, one in sliced.items()
        }
        probes = unflatten_dict(flatten_dict(probes, sep="/") | in_slices, sep="/")
        return loss_fn(others, probes, *arguments)

    return loss_of_slices


def gathered(variables: Variables) -> Variables:
    """A layer's parameters and probes, whole where they come in slices; within `shard_map`."""
    params = flatten_dict(variables["params"], sep="/")
    probes = flatten_dict(variables.get("probes", {}), sep="/")
    for name, probe in probes.items():
        if isinstance(probe, Sliced):
            params[name], probes[name] = _gathered(params[name], probe)
    return {
        "params": unflatten_dict(params, sep="/"),
        "probes": unflatten_dict(
            {name: probe for name, probe in probes.items() if probe is not None}, sep="/"
        ),
    }


@jax.custom_vjp
def _gathered(part: Float[Array, "*slice"], sliced: Sliced) -> tuple[Array, Array | None]:
    """(the weight, a probe of this device's per-task gradients where it has several)."""
    weight = jax.lax.all_gather(part, sliced.axes, axis=sliced.cut, tiled=True)
    if sliced.probe is None or sliced.rows == 1:  # the gradient is the one task's
        return weight, None
    return weight, jnp.zeros((sliced.rows, 1, *weight.shape))


def _gathered_forward(part, sliced):
    return _gathered(part, sliced), sliced


def _gathered_backward(sliced, cotangents):
    of_weight, of_rows = cotangents
    if sliced.probe is None:
        return scattered_sum(of_weight, sliced.cut, sliced.axes), sliced
    rows = exchanged(of_weight[None] if of_rows is None else of_rows[:, 0], sliced.cut)
    if sliced.probe.ndim > 2:
        read = rows.reshape(sliced.probe.shape)
    else:
        read = conflict_metrics.gram_matrix(rows)
    return functools.reduce(jnp.add, rows), dataclasses.replace(sliced, probe=read)


_gathered.defvjp(_gathered_forward, _gathered_backward)


def scattered_sum(
    grad: Float[Array, "*shape"], cut: int, axes: tuple[str, ...]
) -> Float[Array, "*slice"]:
    """This device's slice of the sum of the devices' gradients."""
    # Axis by axis: of several at once, in another order than the mesh's, a TPU's compiler makes a
    # sum of everything on every device.
    for axis in axes:
        grad = jax.lax.psum_scatter(grad, axis, scatter_dimension=cut, tiled=True)
    return grad


def exchanged(per_task: Float[Array, "local_row *shape"], cut: int) -> Float[Array, "row *slice"]:
    """This device's slice, along the weight's axis `cut`, of every task's gradient."""
    tasks, cut = jax.lax.axis_size(TASK), 1 + cut
    per_task = jax.lax.psum_scatter(per_task, DATA, scatter_dimension=cut, tiled=True)
    # Along a first axis of its own the exchange moves whole blocks: [to, local_row, …].
    shape = per_task.shape
    parts = per_task.reshape(*shape[:cut], tasks, shape[cut] // tasks, *shape[cut + 1 :])
    slices = jax.lax.all_to_all(jnp.moveaxis(parts, cut, 0), TASK, 0, 0, tiled=True)
    return slices.reshape(tasks * shape[0], *slices.shape[2:])
