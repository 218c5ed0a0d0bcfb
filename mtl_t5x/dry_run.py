"""What a step takes, from its compiled program, without data and without running it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from etils import epath
from flax.traverse_util import flatten_dict
from jax.sharding import SingleDeviceSharding

from mtl_t5x import measure, step
from mtl_t5x.experiment import Experiment
from mtl_t5x.gradients import freezing
from mtl_t5x.parallel import hlo, sharding, topology
from mtl_t5x.runtime import compiled, tpu_compiler
from mtl_t5x.storage import files

logger = logging.getLogger(__name__)

COSTLIEST = 15  # places of the program that are listed


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """Published peaks of one device: dense bf16 FLOP/s, bytes/s of its memory, bytes/s that it
    sends to its neighbours, bytes of its memory; of a TPU also what JAX calls it, and the clock
    that its FLOP/s mean."""

    name: str
    flops: float
    memory_bandwidth: float
    network_bandwidth: float
    memory: float
    kind: str = ""
    clock: float = 0.0


ACCELERATORS = (
    # cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e: peak compute per chip, HBM capacity and
    # bandwidth, interchip interconnect bandwidth (bidirectional Gbit/s: half of it each way).
    Accelerator("TPU v4", 275e12, 1.2e12, 2400e9 / 8 / 2, 32e9, "TPU v4", 1.05e9),
    Accelerator("TPU v5e", 197e12, 0.819e12, 1600e9 / 8 / 2, 16e9, "TPU v5 lite", 1.5e9),
    Accelerator("TPU v5p", 459e12, 2.765e12, 4800e9 / 8 / 2, 95e9, "TPU v5", 1.75e9),
    Accelerator("TPU v6e", 918e12, 1.638e12, 3584e9 / 8 / 2, 32e9, "TPU v6 lite", 1.75e9),
    # NVIDIA's data sheets of the A100 80GB SXM, H100 SXM and H200 SXM: dense BF16 Tensor Core
    # FLOP/s, GPU memory and bandwidth, NVLink (bidirectional: half of it each way).
    Accelerator("A100 80GB", 312e12, 2.039e12, 600e9 / 2, 80e9),
    Accelerator("H100", 989e12, 3.35e12, 900e9 / 2, 80e9),
    Accelerator("H200", 989e12, 4.8e12, 900e9 / 2, 141e9),
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one step on one device.

    Attributes:
      held_bytes: what stays, the state and the batch.
      temporary_bytes: besides, while it runs.
      flops, accessed_bytes: floating point operations, bytes read and written; in loops roughly.
      sent_bytes, sent_times: on the wire, and by how many operations, by their kind.
      cycles: by place, as a TPU's compiler estimates them, costliest first; else empty.
    """

    held_bytes: int
    temporary_bytes: int
    flops: float
    accessed_bytes: float
    sent_bytes: Mapping[str, float]
    sent_times: Mapping[str, int] = dataclasses.field(default_factory=dict)
    cycles: Mapping[hlo.Place, int] = dataclasses.field(default_factory=dict)

    @property
    def all_cycles(self) -> int:
        return sum(self.cycles.values())

    def seconds(self, accelerator: Accelerator) -> float:
        """The least that the peaks allow: the larger of computing and reading, then sending."""
        computing = self.flops / accelerator.flops
        reading = self.accessed_bytes / accelerator.memory_bandwidth
        sending = sum(self.sent_bytes.values()) / accelerator.network_bandwidth
        return max(computing, reading) + sending


class DoesNotFitError(ValueError):
    """A step that takes more memory than the device has."""


def dry_run(
    *,
    experiment: Experiment,
    conflict: measure.InTraining,
    topology_name: str | None = None,
    num_slices: int = 1,
    json_file: str | None = None,
    cache_dir: str | None = None,
) -> dict[str, Cost]:
    """Compiles the plain and, where the conflict is measured, that step; prints what they take.

    Without a topology it is the program for the devices at hand, and a mesh of more devices than a
    CPU has is laid over as many virtual ones: another compiler fuses otherwise, so times on
    accelerators are rough, and lower bounds. With one it is the TPU's own program, and the cycles
    are its compiler's estimate.

    Args:
      experiment, conflict: see there.
      topology_name: TPU devices that needn't be there, as "v5e:2x4".
      num_slices: how many of these.
      json_file: where the numbers are written, too.
      cache_dir: keeps what a topology's programs take, which need minutes to compile; by default a
        folder of the user's cache.

    Returns:
      The costs of a device by the step's kind, `plain` and `measuring`.

    Raises:
      ValueError: a topology that libtpu can't compile for; a mesh that doesn't fit it.
      DoesNotFitError: a step that its devices have too little memory for; says what would fit.
    """
    if topology_name is None:
        _make_cpus(experiment.mesh)
        devices, cache = jax.devices(), None
    else:
        devices = topology.devices(topology_name, num_slices)
        _chip(devices[0])
        cache = epath.Path(cache_dir or files.user_cache("dry_run")).expanduser()
    try:
        costs = _costs(experiment, conflict, devices, cache)
    except DoesNotFitError as error:
        raise DoesNotFitError(
            f"{error}. {_what_fits(experiment, conflict, devices, cache)}"
        ) from None
    print(_title(experiment, devices))
    print(report(costs) if topology_name is None else topology_report(costs, devices[0]))
    if json_file:
        _write_json(epath.Path(json_file), costs, topology_name, len(devices))
    return costs


def _title(experiment: Experiment, devices: Sequence[jax.Device]) -> str:
    """What the costs are of."""
    params = experiment.state_shapes(None).params
    sizes = {name: leaf.size for name, leaf in flatten_dict(params, sep="/").items()}
    still = sum(sizes[name] for name in freezing.frozen(params, experiment.trainable))
    parameters = f"{sum(sizes.values()):,} parameters"
    parameters += f" ({sum(sizes.values()) - still:,} trained)" if still else ""
    of_each = f"{len(experiment.names)} tasks of {experiment.batch_size} examples"
    title = f"{of_each}, {parameters}, {len(devices)} x {devices[0].device_kind}"
    return title + (f", {experiment.mesh}" if len(devices) > 1 else "")


def _chip(device: jax.Device) -> Accelerator:
    chips = {one.kind: one for one in ACCELERATORS if one.kind}
    if device.device_kind not in chips:
        known = ", ".join(one.name for one in chips.values())
        raise ValueError(
            f"--topology: {device.device_kind}'s peaks aren't known here, only {known}"
        )
    return chips[device.device_kind]


def _costs(
    experiment: Experiment,
    conflict: measure.InTraining,
    devices: Sequence[jax.Device],
    cache: epath.Path | None,
) -> dict[str, Cost]:
    """By the step's kind; from the cache what is there."""
    layout = experiment.layout(devices=devices)
    experiment.check_balance(layout, measuring=conflict.period > 0)
    shapes = (
        experiment.state_shapes(layout),
        experiment.batch_shapes(layout),
        jax.eval_shape(jax.random.key, 0),
    )
    if layout is None:
        shapes = _all_on(shapes, SingleDeviceSharding(devices[0]))
    else:
        shapes = (*shapes[:2], _all_on(shapes[2], layout.everywhere))
    kinds: dict[str, dict[str, Any]] = {"plain": {}}
    if conflict.period:
        groups = tuple(conflict.groups.items())
        problem = step.no_halves(experiment.batch_size, layout, experiment.microbatches)
        halves = conflict.unbiased_window > 0 and problem is None
        kinds["measuring"] = {"groups": groups, "halves": halves}
    costs = {}
    for kind, measured in kinds.items():
        lowered = step.train_step.lower(
            *shapes,
            experiment.weights_at(0, experiment.plan(layout)),
            layout=layout,
            microbatches=experiment.microbatches,
            balance=experiment.balance,
            trainable=experiment.trainable,
            **measured,
        )
        if cache is None:
            costs[kind] = _cost(lowered.compile(), len(devices))
        else:
            costs[kind] = _cost_for_topology(kind, lowered, devices, cache)
    return costs


def _all_on(shapes: Any, where: jax.sharding.Sharding) -> Any:
    return sharding.placed_shapes(shapes, jax.tree.map(lambda _: where, shapes))


def _cost_for_topology(
    kind: str, lowered: jax.stages.Lowered, devices: Sequence[jax.Device], cache: epath.Path
) -> Cost:
    """Compiled, or as it was found in an earlier dry run of the same program."""
    versions = [importlib.metadata.version(name) for name in ("jax", "libtpu")]
    read_by = pathlib.Path(hlo.__file__).read_text()  # what is kept is what was read of programs
    identity = [lowered.as_text(), devices[0].device_kind, len(devices), *versions, read_by]
    identity.append(tpu_compiler.asked_for())
    known = cache / f"{hashlib.sha256(repr(identity).encode()).hexdigest()}.json"
    if known.exists():
        return _from_json(json.loads(known.read_text()))
    logger.info("compiling the %s step for %d x %s …", kind, len(devices), devices[0].device_kind)
    try:
        with compiled.keeping_none():
            cost = _cost(lowered.compile(), len(devices))
    except jax.errors.JaxRuntimeError as error:
        used = re.search(
            r"Used (\S+) of (\S+) hbm. Exceeded hbm capacity by (\S+?)\.?\s", str(error)
        )
        if not used:
            raise
        raise DoesNotFitError(
            f"the {kind} step takes {used[1]} of {used[2]} that {devices[0].device_kind} has: "
            f"{used[3]} too much"
        ) from None
    cache.mkdir(parents=True, exist_ok=True)
    files.write_atomically(known, json.dumps(_to_json(cost)))
    return cost


def _what_fits(
    experiment: Experiment,
    conflict: measure.InTraining,
    devices: Sequence[jax.Device],
    cache: epath.Path | None,
) -> str:
    """The first setting, or the first few together, with which the step fits: tried."""
    tried = []
    for bindings, changed in _remedies(experiment):
        logger.info("it doesn't fit; trying %s", bindings)
        try:
            _costs(changed, conflict, devices, cache)
        except DoesNotFitError:
            tried.append(bindings)
        except ValueError:  # a batch that the mesh can't cut so
            continue
        else:
            without = f" ({'; '.join(tried)}: not enough)" if tried else ""
            return f"With {bindings} it fits{without}"
    return f"Nor does it with {'; '.join(tried)}: take a larger slice"


def _remedies(experiment: Experiment) -> Iterator[tuple[str, Experiment]]:
    """Settings that save memory, each on top of the ones before; the cheapest first."""
    bindings = []
    if not experiment.mesh.fsdp:
        bindings.append("sharding.Mesh.fsdp = True")
        mesh = dataclasses.replace(experiment.mesh, fsdp=True)
        experiment = dataclasses.replace(experiment, mesh=mesh)
        yield ", ".join(bindings), experiment
    for name in ("remat", "scan_layers"):
        if not getattr(experiment.model.config, name):
            bindings.append(f"t5.T5Config.{name} = True")
            config = dataclasses.replace(experiment.model.config, **{name: True})
            model = experiment.model.clone(config=config)
            experiment = dataclasses.replace(experiment, model=model)
            yield ", ".join(bindings), experiment
    microbatches = 2 * experiment.microbatches
    one_more = dataclasses.replace(experiment, microbatches=microbatches)
    yield ", ".join([*bindings, f"MICROBATCHES = {microbatches}"]), one_more
    half = experiment.batch_size // 2
    yield (
        ", ".join([*bindings, f"BATCH_SIZE = {half}"]),
        dataclasses.replace(experiment, batch_size=half),
    )


def _make_cpus(mesh: sharding.Mesh) -> None:
    """CPUs become as many devices as the mesh asks for."""
    asked = mesh.data * mesh.model
    if asked > 1 and jax.config.jax_platforms in ("cpu", None):
        try:
            jax.config.update("jax_num_cpu_devices", asked)
        except RuntimeError as error:
            # Once JAX has started its devices are what they are; Mesh.shape says if they don't fit.
            logger.debug("%s", error)


def _cost(program: jax.stages.Compiled, devices: int) -> Cost:
    memory, analysis = program.memory_analysis(), program.cost_analysis()
    text = program.as_text()
    traffic, repeated = hlo.traffic(text, devices), hlo.repeated(text)
    return Cost(
        held_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        flops=analysis["flops"] * repeated.flops,
        accessed_bytes=analysis["bytes accessed"] * repeated.accessed_bytes,
        sent_bytes=traffic.bytes,
        sent_times=traffic.operations,
        cycles=hlo.cycles(text),
    )


def _to_json(cost: Cost) -> dict[str, Any]:
    places = [(*dataclasses.astuple(place), cycles) for place, cycles in cost.cycles.items()]
    return {**vars(cost), "cycles": places}


def _from_json(fields: Mapping[str, Any]) -> Cost:
    cycles = {hlo.Place(*place): count for *place, count in fields["cycles"]}
    return Cost(**{**fields, "cycles": cycles})


def _write_json(
    path: epath.Path, costs: Mapping[str, Cost], topology_name: str | None, devices: int
) -> None:
    by_kind = {
        kind: {
            "cycles": cost.all_cycles,
            "hbm_bytes": cost.held_bytes + cost.temporary_bytes,
            "sent_bytes": sum(cost.sent_bytes.values()),
            "flops": cost.flops,
        }
        for kind, cost in costs.items()
    }
    written = {"topology": topology_name, "devices": devices, **by_kind}
    files.write_atomically(path, json.dumps(written, indent=2))


def topology_report(costs: Mapping[str, Cost], device: jax.Device) -> str:
    """What a TPU's compiler says of the steps, as tables."""
    chip = _chip(device)
    lines = _table(costs)

    def row(name: str, of_cost) -> None:
        lines.append(f"{name:36}" + "".join(f"{of_cost(cost):>16}" for cost in costs.values()))

    row("of its memory", lambda c: f"{(c.held_bytes + c.temporary_bytes) / chip.memory:.1%}")
    row("cycles, but for collectives'", lambda c: f"{c.all_cycles / 1e6:,.2f} M")
    seconds = {id(cost): cost.all_cycles / chip.clock for cost in costs.values()}
    row(f"time at {chip.clock / 1e9:.2f} GHz", lambda c: f"{seconds[id(c)] * 1e3:,.2f} ms")
    row("share of peak FLOP/s", lambda c: f"{c.flops / seconds[id(c)] / chip.flops:.1%}")
    for kind, cost in costs.items():
        lines += ["", f"costliest places of the {kind} step, in millions of cycles"]
        lines += [
            f"{count / 1e6:9.3f}  {place.where}  {place.kind}  {place.direction}".rstrip()
            for place, count in list(cost.cycles.items())[:COSTLIEST]
        ]
    return "\n".join(lines)


def report(costs: Mapping[str, Cost]) -> str:
    """The costs as a table, then the expected times."""
    lines = _table(costs)
    lines.append("least time at published peaks (bf16)")
    for accelerator in ACCELERATORS:
        needed = max(cost.held_bytes + cost.temporary_bytes for cost in costs.values())
        times = [f"{cost.seconds(accelerator) * 1e3:,.2f} ms" for cost in costs.values()]
        lines.append(f"  {accelerator.name:34}" + "".join(f"{time:>16}" for time in times))
        lines[-1] += "" if needed <= accelerator.memory else "  does not fit in its memory"
    return "\n".join(lines)


def _table(costs: Mapping[str, Cost]) -> list[str]:
    """Memory, operations and traffic, a line each."""
    mebi = 2**20
    lines = [f"{'per device and step':36}" + "".join(f"{kind:>16}" for kind in costs)]

    def row(name: str, values: Sequence[str]) -> None:
        lines.append(f"{name:36}" + "".join(f"{value:>16}" for value in values))

    row("state and batch", [f"{cost.held_bytes / mebi:,.1f} MiB" for cost in costs.values()])
    row("while it runs", [f"{cost.temporary_bytes / mebi:,.1f} MiB" for cost in costs.values()])
    row("FLOPs", [f"{cost.flops:.3g}" for cost in costs.values()])
    row("memory traffic", [f"{cost.accessed_bytes / mebi:,.1f} MiB" for cost in costs.values()])
    for kind in sorted({kind for cost in costs.values() for kind in cost.sent_bytes}):
        times = "/".join(str(cost.sent_times.get(kind, 0)) for cost in costs.values())
        sent = [cost.sent_bytes.get(kind, 0.0) / mebi for cost in costs.values()]
        row(f"sent by {kind} ({times})", [f"{value:,.2f} MiB" for value in sent])
    return lines
