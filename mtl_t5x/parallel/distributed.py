"""Several processes: how they find each other, and how a lost one is named."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Mapping

import jax
from jax._src import distributed  # the coordinator's client, which has no public name

logger = logging.getLogger(__name__)

# A process that says nothing for so long is lost: all others name it and leave. One that has failed
# waits so long for the others, which may wait for it, before all leave.
TIMEOUTS = {"heartbeat_timeout_seconds": 30, "shutdown_timeout_seconds": 60}
SILENT_SECONDS = 8  # JAX, by its own heartbeat, ends the process some ten seconds later


def start(
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
