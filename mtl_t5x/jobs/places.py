"""Where a study's workers run: each on cores of its own, or on accelerators of its own."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from mtl_t5x.runtime import huge_pages

# A worker of the embedded benchmark takes 2 GiB; one that takes more needs fewer beside it.
_MEMORY = 3 * 2**30
# How the chips of a TPU process lie, by their number.
_TPU_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}
_TPU_PORT = 8476
# Asked in a process that ends, so that this one holds neither JAX nor a device.
_ASK_JAX = """
import json, jax
devices = jax.local_devices()
chips = {tuple(getattr(d, "coords", (d.id,))) for d in devices}
print(json.dumps([devices[0].platform, len(chips)]))
"""


@dataclasses.dataclass(frozen=True)
class Place:
    """What belongs to one worker alone.

    Attributes:
      cores: the CPU cores that it is pinned to; none: it isn't.
      environment: what its process is started with besides.
      title: in words.
    """

    cores: tuple[int, ...]
    environment: Mapping[str, str]
    title: str


def plan(
    jobs: int | None = None,
    devices_per_run: int | None = None,
    devices: Sequence[str] | None = None,
    *,
    helpful: int = 2**31,
) -> tuple[Place, ...]:
    """The places of `jobs` workers on this machine, all of one size.

    Without accelerators the cores that this process may use are shared out. With them, devices are:
    `devices_per_run` each, by default all divided by `jobs`, else 1.

    Args:
      jobs: how many; by default as many as help, and find memory.
      devices_per_run: accelerators of each.
      devices: names of the accelerators to use, as CUDA_VISIBLE_DEVICES or TPU_VISIBLE_CHIPS has
        them; all by default.
      helpful: more workers than this would not make the study shorter.

    Raises:
      ValueError: a number below 1, more workers than cores or devices, a device named twice or one
        that isn't there.
    """
    for flag, value in (("jobs", jobs), ("devices_per_run", devices_per_run)):
        if value is not None and value < 1:
            raise ValueError(f"--{flag}={value}: give 1 or more, or leave the flag out")
    for name in devices or ():
        if list(devices).count(name) > 1:
            raise ValueError(f"--devices={','.join(devices)} names the device {name} twice")
    platform, count = _accelerators()
    if platform == "cpu":
        if devices_per_run is not None or devices is not None:
            raise ValueError(
                "--devices and --devices_per_run are for accelerators, and JAX finds none here: "
                "--jobs alone shares out the CPU's cores"
            )
        return _on_cores(jobs, helpful)
    return _on_devices(platform, _visible(platform, count, devices), jobs, devices_per_run)


def _on_cores(jobs: int | None, helpful: int) -> tuple[Place, ...]:
    pins = hasattr(os, "sched_getaffinity")  # macOS knows no pinning
    cores = sorted(os.sched_getaffinity(0)) if pins else list(range(os.cpu_count() or 1))
    if jobs is None:
        jobs = max(1, min(len(cores), helpful, _memory() // _MEMORY))
    if jobs > len(cores):
        raise ValueError(
            f"--jobs={jobs}: every run needs a core of its own, and there are {len(cores)} here"
        )
    each = len(cores) // jobs  # the same for all: results must not depend on who does a run
    places = []
    for index in range(jobs):
        mine = tuple(cores[index * each : (index + 1) * each])
        word = "core" if each == 1 else "cores"
        title = f"{word} {','.join(map(str, mine))}"
        places.append(Place(mine if pins else (), huge_pages.environment(), title))
    return tuple(places)


def _on_devices(
    platform: str, names: Sequence[str], jobs: int | None, each: int | None
) -> tuple[Place, ...]:
    if each is None:
        each = len(names) // jobs if jobs else 1
    if jobs is None:
        jobs = len(names) // each
    if jobs * each > len(names) or not jobs * each:
        raise ValueError(
            f"--jobs={jobs or 1} --devices_per_run={each or 1} asks for "
            f"{(jobs or 1) * (each or 1)} devices, and there are {len(names)}"
        )
    if platform == "tpu" and each not in _TPU_BOUNDS:
        raise ValueError(
            f"{each} TPU chips for a run: give --devices_per_run as one of "
            f"{', '.join(map(str, _TPU_BOUNDS))}"
        )
    places = []
    for index in range(jobs):
        mine = names[index * each : (index + 1) * each]
        title = f"{'device' if each == 1 else 'devices'} {','.join(mine)}"
        places.append(Place((), _environment(platform, mine, index), title))
    return tuple(places)


def _environment(platform: str, names: Sequence[str], index: int) -> dict[str, str]:
    """What makes a process see these devices alone, and leave the others to other processes."""
    joined = ",".join(names)
    if platform != "tpu":
        return {"CUDA_VISIBLE_DEVICES": joined}
    # A slice of its own, of one process, that no other process is to join.
    port = str(_TPU_PORT + index)
    return {
        "TPU_VISIBLE_CHIPS": joined,
        "TPU_CHIPS_PER_PROCESS_BOUNDS": _TPU_BOUNDS[len(names)],
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
        "TPU_PROCESS_PORT": port,
        "CLOUD_TPU_TASK_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }


def _visible(platform: str, count: int, wanted: Sequence[str] | None) -> list[str]:
    """The names of the devices to use."""
    variable = "TPU_VISIBLE_CHIPS" if platform == "tpu" else "CUDA_VISIBLE_DEVICES"
    names = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
    names = names[:count] or [str(index) for index in range(count)]
    if absent := [name for name in wanted or () if name not in names]:
        raise ValueError(f"--devices names {absent[0]!r}; there are {', '.join(names)}")
    return names if wanted is None else list(wanted)


def _accelerators() -> tuple[str, int]:
    """(platform, how many devices, or of TPUs chips, JAX would use)."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return "cpu", 0
    asked = subprocess.run([sys.executable, "-c", _ASK_JAX], capture_output=True, text=True)
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ValueError(f"JAX doesn't start: {reason}")
    platform, count = json.loads(asked.stdout.splitlines()[-1])
    return platform, count


def _memory() -> int:
    """This machine's, in bytes; not what is free now, or a study started again ran otherwise."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def helpful(works: Sequence[float]) -> int:
    """How many workers end runs of these lengths soonest: beyond, the longest still lasts."""
    return math.ceil(sum(works) / max(works)) if works else 1
