"""Where arrays live: the mesh that gin names, and the rules from logical axes to it.

Devices form a grid `[data, model]`. The examples of a step are spread over `data`; tensor
parallelism splits the wide axes of the parameters over `model`. As far as their number allows the
tasks are spread over `data`, so that a device's gradient is one task's (see `gradients.over_mesh`):
`data` is then two axes, `task` and `data`.

Gradients are added up in slices, one a device, cut along a parameter's first axis where that can
be: an inner axis would cost accelerators a change of layout. The optimizer's state lives in the
same slices (ZeRO-1: Rajbhandari et al. 2020, arXiv 1910.02054), and with `fsdp` the parameters do.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.training.train_state import TrainState
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from mtl_t5x.settings import checks

TASK, DATA, MODEL = "task", "data", "model"
EXAMPLES = (TASK, DATA)  # what a step's examples are spread over: [task, batch, …]
BATCH = PartitionSpec(*EXAMPLES)
# The order of a weight's slices. First the sums over the devices that share a task are scattered
# over DATA, then what is left is exchanged over TASK: the other order would send more.
SLICES = (DATA, TASK)

# Logical axes of the models' parameters that tensor parallelism splits.
TENSOR_PARALLEL = ("vocab", "mlp", "joined_kv", "heads")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Sizes of the device grid, and what every device holds a slice of.

    Attributes:
      data: devices that share the examples; -1: what `model` leaves of the devices there are.
      model: devices that share every wide weight; or -1.
      shard_optimizer_state: the optimizer's state lives in slices over `data`, and each device
        updates its slice of the parameters. It sends what replicated state does.
      fsdp: parameters live in such slices too, and are gathered for every step.
    """

    data: int = -1
    model: int = 1
    shard_optimizer_state: bool = True
    fsdp: bool = False

    def __post_init__(self):
        name = "sharding.Mesh"
        sizes = (self.data, self.model)
        faults = [
            checks.whole(f"{name}.{axis}", size, 1, "devices; or -1: the rest of them")
            for axis, size in zip(("data", "model"), sizes, strict=True)
            if size != -1
        ]
        if sizes == (-1, -1):
            faults = [f"{name}.data = -1 and {name}.model = -1: one of them may be the rest"]
        checks.check(
            *faults,
            checks.flag(f"{name}.shard_optimizer_state", self.shard_optimizer_state),
            checks.flag(f"{name}.fsdp", self.fsdp),
        )

    def shape(self, num_devices: int) -> tuple[int, int]:
        """(data, model) for so many devices.

        Raises:
          ValueError: sizes that don't fit the number of devices.
        """
        sizes = [self.data, self.model]
        if -1 in sizes:
            sizes[sizes.index(-1)] = num_devices // -math.prod(sizes)
        if math.prod(sizes) != num_devices:
            raise ValueError(
                f"sharding.Mesh.data = {self.data} and .model = {self.model} don't make up the "
                f"{num_devices} devices: their product must"
            )
        return sizes[0], sizes[1]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each leaf of a train state lives, and how a batch is spread.

    Attributes:
      mesh: has the axes `task`, `data`, `model`.
      specs: of the state, in the order of its leaves.
      gathered: of the parameters while losses are computed: split over `task` and `model` at most.
      scattered: of their gradients: in a slice for each device.
      updated: of the parameters while the optimizer updates them, which is where its state lives.
      late: of a parameter that lives in slices and is gathered in the loop that uses it, the axis
        along which its weight there is cut; of the others None.
    """

    mesh: jax.sharding.Mesh
    specs: tuple[PartitionSpec, ...]
    gathered: tuple[PartitionSpec, ...]
    scattered: tuple[PartitionSpec, ...]
    updated: tuple[PartitionSpec, ...]
    late: tuple[int | None, ...]

    @property
    def everywhere(self) -> NamedSharding:
        """Whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def examples(self) -> NamedSharding:
        """Of a batch `[task, batch, …]`."""
        return NamedSharding(self.mesh, BATCH)

    def shardings(self, state: Any) -> Any:
        """A tree like `state` of NamedShardings."""
        return self._shardings(state, self.specs)

    def constrain(self, state: Any) -> Any:
        """Within jit: keeps every leaf of `state` where it belongs."""
        return jax.lax.with_sharding_constraint(state, self.shardings(state))

    def constrain_update(self, params: Any) -> Any:
        """Within jit: brings parameters, or what is added to them, where they are updated."""
        return jax.lax.with_sharding_constraint(params, self._shardings(params, self.updated))

    def _shardings(self, tree: Any, specs: Sequence[PartitionSpec]) -> Any:
        shardings = [NamedSharding(self.mesh, spec) for spec in specs]
        return jax.tree.unflatten(jax.tree.structure(tree), shardings)

    def share(self, num_tasks: int, batch_size: int) -> tuple[slice, slice]:
        """Of a batch `[task, batch, …]` the tasks, and their examples, that this process needs."""
        size = (num_tasks, batch_size)
        needed = self.examples.addressable_devices_indices_map(size).values()
        axes = zip(*(_bounds(index, size) for index in needed), strict=True)
        return tuple(
            slice(min(start for start, _ in axis), max(stop for _, stop in axis)) for axis in axes
        )

    def place(
        self, part: Mapping[str, np.ndarray], num_tasks: int, batch_size: int
    ) -> dict[str, Array]:
        """A batch `[task, batch, …]` over the devices; each process gives its `share` of it."""
        size = (num_tasks, batch_size)
        offsets = [axis.start for axis in self.share(*size)]

        def of_device(value: np.ndarray, index: tuple[slice, ...]) -> np.ndarray:
            bounds = zip(_bounds(index[:2], size), offsets, strict=True)
            return value[tuple(slice(start - at, stop - at) for (start, stop), at in bounds)]

        return {
            name: jax.make_array_from_callback(
                (*size, *value.shape[2:]), self.examples, functools.partial(of_device, value)
            )
            for name, value in part.items()
        }

    def columns(self, shape: tuple[int, ...]) -> NamedSharding:
        """Of per-task gradients `[task, *shape]`: each split over all devices along an axis that
        allows it."""
        axes = (*EXAMPLES, MODEL)
        fits = [axis for axis, size in enumerate(shape) if size % self.mesh.size == 0]
        spec = [axes if axis in fits[:1] else None for axis in range(len(shape))]
        return NamedSharding(self.mesh, PartitionSpec(None, *spec))

    def for_this_process(self, params: Any) -> tuple[Any, NamedSharding]:
        """(parameters, sharding of rows `[row, …]`) that this process computes by itself with.

        Of several processes each gets whole copies on its devices, and spreads rows over these; one
        alone leaves the parameters where they are, and spreads rows over `data`.
        """
        if jax.process_count() == 1:
            return params, NamedSharding(self.mesh, PartitionSpec(EXAMPLES))
        whole = jax.device_put(params, self.everywhere)
        whole = jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), whole)
        mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (DATA,))
        own = jax.device_put(whole, NamedSharding(mesh, PartitionSpec()))
        return own, NamedSharding(mesh, PartitionSpec(DATA))


def _bounds(index: tuple[slice, ...], size: tuple[int, ...]) -> list[tuple[int, int]]:
    """(start, stop) along each axis of an array."""
    return [axis.indices(length)[:2] for axis, length in zip(index, size, strict=True)]


def check_spread(layout: Layout | None, batch_size: int, setting: str) -> None:
    """Raises ValueError where so many examples of a task, the user's `setting`, can't be spread."""
    devices = 1 if layout is None else layout.mesh.shape[DATA]
    if batch_size % devices:
        raise ValueError(
            f"{setting} = {batch_size} examples of a task can't be spread over the {devices} "
            f"devices that share it: set it to a multiple of {devices}"
        )


def placed_batches(
    read: Callable[..., Iterator[Mapping[str, np.ndarray]]],
    layout: Layout | None,
    num_tasks: int,
    batch_size: int,
) -> Iterator[dict[str, Array]]:
    """Batches `[task, batch, …]` on the devices; each process reads its share of the examples.

    Args:
      read: gives whole batches, and with an argument `share` the process's part of them.
      layout: of the devices; None: one.
      num_tasks: K.
      batch_size: examples per task.

    Raises:
      ValueError: examples that can't be spread over the devices.
    """
    if layout is None:
        return map(functools.partial(jax.tree.map, jnp.asarray), read())
    check_spread(layout, batch_size, "BATCH_SIZE")
    place = functools.partial(layout.place, num_tasks=num_tasks, batch_size=batch_size)
    return map(place, read(share=layout.share(num_tasks, batch_size)))


def layout(
    mesh: Mesh,
    boxed_state: TrainState,
    *,
    num_tasks: int,
    batch_size: int,
    runs_on_task_subset: bool,
    in_loops: str = "",
    devices: Sequence[Any] | None = None,
    setting: str = "BATCH_SIZE",
) -> Layout:
    """The layout of a state on a mesh.

    Args:
      mesh: as gin names it.
      boxed_state: shapes of the state, parameters with their logical axes (`nn.Partitioned`).
      num_tasks: K.
      batch_size: examples per task and step.
      runs_on_task_subset: whether the program that computes all the tasks' losses, given some of
        them only, computes theirs.
      in_loops: an expression of the names of the parameters that are used in a loop over layers.
      devices: all there are, unless others are given.
      setting: what the user calls `batch_size`.

    Raises:
      ValueError: a batch that can't be spread over `data`.
    """
    devices = jax.devices() if devices is None else devices
    data, model = mesh.shape(len(devices))
    task = math.gcd(num_tasks, data) if runs_on_task_subset else 1
    if batch_size % (data // task):
        raise ValueError(
            f"{setting} = {batch_size} can't be spread over the mesh: the {data} devices of axis "
            f"data share {num_tasks} tasks, which leaves the examples of a task to {data // task} "
            f"devices. Set {setting} to a multiple of {data // task}, or sharding.Mesh.data"
        )
    shape = {TASK: task, DATA: data // task, MODEL: model}
    grid = device_grid(tuple(shape.values()), devices)
    rules = {name: MODEL for name in TENSOR_PARALLEL} | {"task": TASK}

    def specs(tree: Any, slices: bool) -> tuple[PartitionSpec, ...]:
        leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned))
        return tuple(_spec(leaf, rules, shape, slices) for leaf in leaves)

    params, updated = boxed_state.params, mesh.fsdp or mesh.shard_optimizer_state
    of_optimizer = specs(boxed_state.opt_state, updated)
    gathered, held = specs(params, False), specs(params, mesh.fsdp)
    # What comes last is small: a few numbers of each task.
    laid_out = (boxed_state.step, params, boxed_state.opt_state)
    rest = len(jax.tree.leaves(boxed_state)) - len(jax.tree.leaves(laid_out))
    return Layout(
        mesh=jax.sharding.Mesh(grid, tuple(shape)),
        # The step's number comes first.
        specs=(PartitionSpec(), *held, *of_optimizer, *[PartitionSpec()] * rest),
        gathered=gathered,
        scattered=specs(params, True),
        updated=specs(params, updated),
        late=tuple(map(functools.partial(_late, in_loops), _boxed(params), gathered, held)),
    )


def _boxed(params: Any) -> list[tuple[str, Any]]:
    """(name, leaf), in the order of the leaves."""
    leaves = jax.tree.leaves_with_path(
        params, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned)
    )
    return [("/".join(key.key for key in path), leaf) for path, leaf in leaves]


def _late(
    in_loops: str, boxed: tuple[str, Any], gathered: PartitionSpec, held: PartitionSpec
) -> int | None:
    name, leaf = boxed
    if gathered == held or not re.fullmatch(in_loops, name):
        return None
    cut = cut_axis(gathered, held)
    return cut - 1 if leaf.names[0] == "task" else cut  # a loop is within a task


def cut_axis(gathered: PartitionSpec, scattered: PartitionSpec) -> int | None:
    """The axis along which a parameter is cut into slices; None: it stays whole."""
    axes = enumerate(zip(gathered, scattered, strict=True))
    return next((axis for axis, (before, after) in axes if before != after), None)


def device_grid(shape: tuple[int, int, int], devices: Sequence[Any]) -> np.ndarray:
    """The devices as `[task, data, model]`, neighbours in the grid where they are neighbours in the
    hardware.

    Of several slices of TPUs, whose network is slower than that within one, each holds a block
    along `task` and `data`: only what every step exchanges once crosses it.

    Raises:
      ValueError: `model` would cross slices.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    task, data, model = shape
    outer_task = math.gcd(task, slices)
    outer_data = slices // outer_task
    if data % outer_data:
        raise ValueError(
            f"the {len(devices)} devices are {slices} slices of {len(devices) // slices}, which a "
            f"mesh of task x data x model = {task} x {data} x {model} can't be split between: set "
            "sharding.Mesh.model to a divisor of a slice's devices"
        )
    inner = (task // outer_task, data // outer_data, model)
    return mesh_utils.create_hybrid_device_mesh(
        inner, (outer_task, outer_data, 1), devices, allow_split_physical_axes=True
    )


def placed_shapes(shapes: Any, shardings: Any) -> Any:
    """The shapes of arrays with the places of `shardings`, a tree like theirs."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        shardings,
    )


def _spec(
    leaf: Any, rules: Mapping[str, str], sizes: Mapping[str, int], slices: bool
) -> PartitionSpec:
    """Splits each axis by its rule, unless its size is no multiple or the mesh axis is taken.

    With `slices` the first axis that allows it is split further, over the rest of SLICES. Vectors
    stay whole: they are small.
    """
    if not isinstance(leaf, nn.Partitioned) or len(leaf.names) != leaf.value.ndim:
        return PartitionSpec()
    spec: list[tuple[str, ...]] = []
    for name, size in zip(leaf.names, leaf.value.shape, strict=True):
        axis = rules.get(name)
        fits = axis is not None and sizes[axis] > 1 and size % sizes[axis] == 0
        spec.append((axis,) if fits and (axis,) not in spec else ())
    free = tuple(axis for axis in SLICES if (axis,) not in spec and sizes[axis] > 1)
    if slices and free and sum(name != "task" for name in leaf.names) > 1:
        for i, size in enumerate(leaf.value.shape):
            parts = math.prod(sizes[axis] for axis in (*spec[i], *free))
            if leaf.names[i] != "task" and size % parts == 0:
                spec[i] += free
                break
    return PartitionSpec(*(axes[0] if len(axes) == 1 else axes or None for axes in spec))
