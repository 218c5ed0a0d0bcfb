"""Where arrays live: the mesh that gin names, the rules from logical axes to it, jax.distributed.

Devices form a grid `[data, model]`. The examples of a step are spread over `data`; tensor
parallelism splits the wide axes of the parameters over `model`; with `fsdp` parameters and
optimizer state are split over `data` too. As far as their number allows the tasks are spread over
`data`, so that a device's gradient is one task's (see `task_parallel`): `data` is then two axes,
`task` and `data`.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed  # the coordinator's client, which has no public name
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

logger = logging.getLogger(__name__)

TASK, DATA, MODEL = "task", "data", "model"
EXAMPLES = (TASK, DATA)  # what a step's examples are spread over: [task, batch, …]
BATCH = PartitionSpec(*EXAMPLES)

# Logical axes of the models' parameters that tensor parallelism splits, and that FSDP splits. The
# others (relpos_buckets, head) stay whole: they are small.
TENSOR_PARALLEL = ("vocab", "mlp", "joined_kv", "heads")
FULLY_SHARDED = ("embed",)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Sizes of the device grid; -1 takes what the other leaves of the devices there are.

    `fsdp` splits parameters and optimizer state over `data` as well.
    """

    data: int = -1
    model: int = 1
    fsdp: bool = False

    def shape(self, num_devices: int) -> tuple[int, int]:
        """(data, model) for so many devices.

        Raises:
          ValueError: sizes that don't fit the number of devices.
        """
        sizes = [self.data, self.model]
        if sizes.count(-1) > 1 or any(size != -1 and size < 1 for size in sizes):
            raise ValueError(
                f"sharding.Mesh.data = {self.data} and .model = {self.model}: sizes are 1 or more, "
                "and one of the two may be -1, for the rest of the devices"
            )
        if -1 in sizes:
            sizes[sizes.index(-1)] = num_devices // -math.prod(sizes)
        if math.prod(sizes) != num_devices:
            raise ValueError(
                f"sharding.Mesh.data = {self.data} and .model = {self.model} don't make up the "
                f"{num_devices} devices of {jax.default_backend()}: their product must"
            )
        return sizes[0], sizes[1]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where each leaf of a train state lives, and how a batch is spread.

    `mesh` has the axes `task`, `data`, `model`; `specs` follow the order of the state's leaves.
    """

    mesh: jax.sharding.Mesh
    specs: tuple[PartitionSpec, ...]

    @property
    def everywhere(self) -> NamedSharding:
        """Whole on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def spec_tree(self, state: Any) -> Any:
        """A tree like `state` of PartitionSpecs."""
        return jax.tree.unflatten(jax.tree.structure(state), self.specs)

    def shardings(self, state: Any) -> Any:
        """A tree like `state` of NamedShardings."""
        shardings = [NamedSharding(self.mesh, spec) for spec in self.specs]
        return jax.tree.unflatten(jax.tree.structure(state), shardings)

    def constrain(self, state: Any) -> Any:
        """Within jit: keeps every leaf of `state` where it belongs."""
        return jax.lax.with_sharding_constraint(state, self.shardings(state))

    def share(self, num_tasks: int, batch_size: int) -> tuple[slice, slice]:
        """Of a batch `[task, batch, …]` the tasks, and their examples, that this process needs."""
        size = (num_tasks, batch_size)
        needed = NamedSharding(self.mesh, BATCH).addressable_devices_indices_map(size).values()
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

        sharding = NamedSharding(self.mesh, BATCH)
        return {
            name: jax.make_array_from_callback(
                (*size, *value.shape[2:]), sharding, functools.partial(of_device, value)
            )
            for name, value in part.items()
        }

    def columns(self, shape: tuple[int, ...]) -> NamedSharding:
        """Of rows `[row, *shape]`: each split over all devices along an axis that allows it."""
        axes = (*EXAMPLES, MODEL)
        fits = [axis for axis, size in enumerate(shape) if size % self.mesh.size == 0]
        spec = [axes if axis in fits[:1] else None for axis in range(len(shape))]
        return NamedSharding(self.mesh, PartitionSpec(None, *spec))

    def gather(self, tree: Any) -> Any:
        """Whole copies on a device of this process, for what each process computes by itself."""
        whole = jax.device_put(tree, self.everywhere)
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)


def _bounds(index: tuple[slice, ...], size: tuple[int, ...]) -> list[tuple[int, int]]:
    """(start, stop) along each axis of an array."""
    return [axis.indices(length)[:2] for axis, length in zip(index, size, strict=True)]


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
    devices = layout.mesh.shape[DATA]
    if batch_size % devices:
        raise ValueError(
            f"{batch_size} examples of a task can't be spread over the {devices} devices that "
            f"share it: set BATCH_SIZE or measure.Settings.piece to a multiple of {devices}"
        )
    place = functools.partial(layout.place, num_tasks=num_tasks, batch_size=batch_size)
    return map(place, read(share=layout.share(num_tasks, batch_size)))


def layout(
    mesh: Mesh,
    boxed_state: Any,
    *,
    num_tasks: int,
    batch_size: int,
    tasks_are_alike: bool,
    devices: Sequence[jax.Device] | None = None,
) -> Layout:
    """The layout of a state on a mesh.

    Args:
      mesh: as gin names it.
      boxed_state: shapes of the state, parameters with their logical axes (`nn.Partitioned`).
      num_tasks: K.
      batch_size: examples per task and step.
      tasks_are_alike: whether the program that computes all the tasks' losses, given some of them
        only, computes theirs.
      devices: all there are, unless others are given.

    Raises:
      ValueError: a batch that can't be spread over `data`.
    """
    devices = jax.devices() if devices is None else devices
    data, model = mesh.shape(len(devices))
    task = math.gcd(num_tasks, data) if tasks_are_alike else 1
    if batch_size % (data // task):
        raise ValueError(
            f"BATCH_SIZE = {batch_size} can't be spread over the mesh: the {data} devices of axis "
            f"data share {num_tasks} tasks, which leaves the examples of a task to {data // task} "
            f"devices. Set BATCH_SIZE to a multiple of {data // task}, or sharding.Mesh.data"
        )
    shape = {TASK: task, DATA: data // task, MODEL: model}
    grid = np.asarray(devices).reshape(tuple(shape.values()))
    rules = {name: (MODEL,) for name in TENSOR_PARALLEL}
    if mesh.fsdp:
        rules |= {name: EXAMPLES for name in FULLY_SHARDED}
    if task > 1:
        rules["task"] = (TASK,)
    is_box = lambda leaf: isinstance(leaf, nn.Partitioned)  # noqa: E731
    leaves = jax.tree.leaves(boxed_state, is_leaf=is_box)
    specs = tuple(_spec(leaf, rules, shape) for leaf in leaves)
    return Layout(jax.sharding.Mesh(grid, tuple(shape)), specs)


def placed_shapes(shapes: Any, shardings: Any) -> Any:
    """The shapes of arrays with the places of `shardings`, a tree like theirs."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        shapes,
        shardings,
    )


def _spec(leaf: Any, rules: Mapping[str, tuple[str, ...]], shape: Mapping[str, int]):
    """Splits each axis by its rule, unless its size is no multiple or the mesh axis is taken."""
    if not isinstance(leaf, nn.Partitioned) or len(leaf.names) != leaf.value.ndim:
        return PartitionSpec()
    taken: set[str] = set()
    spec = []
    for name, size in zip(leaf.names, leaf.value.shape, strict=True):
        axes = rules.get(name, ())
        parts = math.prod(shape[axis] for axis in axes)
        fits = parts > 1 and size % parts == 0 and not taken & set(axes)
        spec.append((axes if len(axes) > 1 else axes[0]) if fits else None)
        taken |= set(axes) if fits else set()
    return PartitionSpec(*spec)


# A process that says nothing for so long is lost: all others name it and leave. One that has failed
# waits so long for the others, which may wait for it, before all leave.
TIMEOUTS = {"heartbeat_timeout_seconds": 30, "shutdown_timeout_seconds": 60}
SILENT_SECONDS = 8  # JAX, by its own heartbeat, ends the process some ten seconds later


def start_distributed(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the other processes of a job, before anything else uses JAX; alone, does nothing.

    Explicit arguments come first; else the environment is looked at: a TPU pod's workers, tasks
    that SLURM's `srun` or Open MPI's `mpirun` started, or JAX_COORDINATOR_ADDRESS.

    Raises:
      ValueError: some of the three arguments are given, others not.
    """
    given = (coordinator_address, num_processes, process_id)
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise ValueError(
                "--coordinator_address, --num_processes and --process_id go together: give all "
                "three, or none where the cluster tells them"
            )
        jax.distributed.initialize(*given, **TIMEOUTS)
    elif in_cluster(os.environ):
        jax.distributed.initialize(**TIMEOUTS)
    else:
        return
    logger.info(
        "process %d of %d, %d of %d devices",
        jax.process_index(), jax.process_count(), jax.local_device_count(), jax.device_count(),
    )  # fmt: skip
    _watch_coordinator()


def _watch_coordinator() -> None:
    """Names process 0, which tells the others who is lost, where it is lost itself.

    JAX then ends this process, but where process 0 hangs it only says that a deadline has passed.
    """
    client = distributed.global_state.client
    key, ended = "mtl_t5x/coordinator", threading.Event()
    if jax.process_index() == 0:
        client.key_value_set(key, "here")
        return

    def ask() -> None:
        while not ended.wait(2):
            try:
                client.blocking_key_value_get(key, SILENT_SECONDS * 1000)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):  # JAX has heard more, and says it
                    return
                logger.error(
                    "process 0 of %d, the coordinator, has not answered for %d s: if that lasts, "
                    "it is lost, and this process leaves",
                    jax.process_count(), SILENT_SECONDS,
                )  # fmt: skip

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()

    def end() -> None:
        ended.set()
        asking.join()

    atexit.register(end)


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether the environment is that of one process among several, as JAX knows to read it."""
    several = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    if any(int(environment.get(name) or 1) > 1 for name in several):
        return True
    workers = (environment.get("TPU_WORKER_HOSTNAMES") or "").split(",")
    return (
        len(workers) > 1
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
        or "JAX_COORDINATOR_ADDRESS" in environment
    )
