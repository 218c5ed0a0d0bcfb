"""What a step takes, from its compiled program, without data and without running it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax

from mtl_t5x import measure, step
from mtl_t5x.experiment import Experiment
from mtl_t5x.parallel import hlo, sharding


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """Published peaks of one device: dense bf16 FLOP/s, bytes/s of its memory, bytes/s that it
    sends to its neighbours, bytes of its memory."""

    name: str
    flops: float
    memory_bandwidth: float
    network_bandwidth: float
    memory: float


ACCELERATORS = (
    # cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e: peak compute per chip, HBM capacity and
    # bandwidth, interchip interconnect bandwidth (bidirectional Gbit/s: half of it each way).
    Accelerator("TPU v4", 275e12, 1.2e12, 2400e9 / 8 / 2, 32e9),
    Accelerator("TPU v5e", 197e12, 0.819e12, 1600e9 / 8 / 2, 16e9),
    Accelerator("TPU v5p", 459e12, 2.765e12, 4800e9 / 8 / 2, 95e9),
    Accelerator("TPU v6e", 918e12, 1.638e12, 3584e9 / 8 / 2, 32e9),
    # NVIDIA's data sheets of the A100 80GB SXM, H100 SXM and H200 SXM: dense BF16 Tensor Core
    # FLOP/s, GPU memory and bandwidth, NVLink (bidirectional: half of it each way).
    Accelerator("A100 80GB", 312e12, 2.039e12, 600e9 / 2, 80e9),
    Accelerator("H100", 989e12, 3.35e12, 900e9 / 2, 80e9),
    Accelerator("H200", 989e12, 4.8e12, 900e9 / 2, 141e9),
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one step on one device: bytes that stay (state and batch), bytes while it runs, floating
    point operations, bytes read and written, bytes on the wire by kind of operation."""

    held_bytes: int
    temporary_bytes: int
    flops: float
    accessed_bytes: float
    sent_bytes: Mapping[str, float]

    def seconds(self, accelerator: Accelerator) -> float:
        """The least that the peaks allow: the larger of computing and reading, then sending."""
        computing = self.flops / accelerator.flops
        reading = self.accessed_bytes / accelerator.memory_bandwidth
        sending = sum(self.sent_bytes.values()) / accelerator.network_bandwidth
        return max(computing, reading) + sending


def dry_run(*, experiment: Experiment, conflict: measure.InTraining) -> dict[str, Cost]:
    """Compiles the plain and, where the conflict is measured, that step; prints what they take.

    A mesh of more devices than a CPU has is laid over as many virtual ones. FLOPs and bytes are
    those of the program for the devices at hand; another compiler fuses otherwise, so times on
    accelerators are rough, and lower bounds.

    Returns:
      The costs of a device by the step's kind, `plain` and `measuring`.
    """
    devices = _devices(experiment.mesh)
    kinds = {"plain": {}}
    if conflict.period:
        groups = tuple(conflict.groups.items())
        kinds["measuring"] = {"groups": groups, "halves": conflict.unbiased_window > 0}
    layout = experiment.layout()
    state, batch = experiment.state_shapes(layout), experiment.batch_shapes(layout)
    costs = {}
    for kind, measured in kinds.items():
        lowered = step.train_step.lower(
            state,
            batch,
            jax.random.key(0),
            layout=layout,
            microbatches=experiment.microbatches,
            **measured,
        )
        costs[kind] = _cost(lowered.compile(), devices)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    title = f"{len(experiment.names)} tasks of {experiment.batch_size} examples, {parameters:,} "
    title += f"parameters, {devices} x {jax.devices()[0].device_kind}"
    print(title + (f", {experiment.mesh}" if devices > 1 else ""))
    print(report(costs))
    return costs


def _devices(mesh: sharding.Mesh) -> int:
    """How many devices the mesh has; CPUs become as many as it asks for."""
    asked = mesh.data * mesh.model
    if asked > 1:
        # Once JAX has started, its devices are what they are: Mesh.shape says if they don't fit.
        try:
            if jax.config.jax_platforms in ("cpu", None):
                jax.config.update("jax_num_cpu_devices", asked)
        except RuntimeError:
            return jax.device_count()
    return jax.device_count()


def _cost(compiled: jax.stages.Compiled, devices: int) -> Cost:
    memory, analysis = compiled.memory_analysis(), compiled.cost_analysis()
    return Cost(
        held_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        flops=analysis["flops"],
        accessed_bytes=analysis["bytes accessed"],
        sent_bytes=hlo.traffic(compiled.as_text(), devices).bytes,
    )


def report(costs: Mapping[str, Cost]) -> str:
    """The costs as a table, then the expected times."""
    mebi = 2**20
    lines = [f"{'per device and step':32}" + "".join(f"{kind:>16}" for kind in costs)]

    def row(name: str, values: Sequence[str]) -> None:
        lines.append(f"{name:32}" + "".join(f"{value:>16}" for value in values))

    row("state and batch", [f"{cost.held_bytes / mebi:,.1f} MiB" for cost in costs.values()])
    row("while it runs", [f"{cost.temporary_bytes / mebi:,.1f} MiB" for cost in costs.values()])
    row("FLOPs", [f"{cost.flops:.3g}" for cost in costs.values()])
    row("memory traffic", [f"{cost.accessed_bytes / mebi:,.1f} MiB" for cost in costs.values()])
    kinds = sorted({kind for cost in costs.values() for kind in cost.sent_bytes})
    for kind in kinds:
        sent = [cost.sent_bytes.get(kind, 0.0) / mebi for cost in costs.values()]
        row(f"sent by {kind}", [f"{value:,.2f} MiB" for value in sent])
    lines.append("least time at published peaks (bf16)")
    for accelerator in ACCELERATORS:
        needed = max(cost.held_bytes + cost.temporary_bytes for cost in costs.values())
        times = [f"{cost.seconds(accelerator) * 1e3:,.2f} ms" for cost in costs.values()]
        fits = "" if needed <= accelerator.memory else "  does not fit in its memory"
        row(f"  {accelerator.name}", times)
        lines[-1] += fits
    return "\n".join(lines)
