"""SIGTERM, as schedulers send it before they take a machine away: the run saves and leaves."""

from __future__ import annotations

import signal
import threading

import jax
from jax.experimental import multihost_utils

from mtl_t5x.runtime import exit_codes


class Terminated(SystemExit):
    """The run was told to stop; its state is saved."""

    def __init__(self) -> None:
        super().__init__(exit_codes.TOLD_TO_STOP)


class Watch:
    """A context in which SIGTERM only makes `requested` true, so that the loop can save first.

    Several processes agree on the step after which they stop: JAX hears the signal for them.
    """

    def __init__(self) -> None:
        self._heard = False
        self._before = None

    def __enter__(self) -> Watch:
        # Python lets the main thread alone set handlers.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *exception) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _hear(self, *_) -> None:
        self._heard = True

    def requested(self, step: int) -> bool:
        """Whether the run is to stop after this step; every process must ask at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._heard
