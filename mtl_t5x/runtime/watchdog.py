"""A limit for every stage of a run: what hangs is named, all stacks are shown, the process leaves.

Leaving is what makes a hang harmless: the scheduler starts the run again, and it goes on from its
last checkpoint; of several processes the others notice that one is lost, and leave as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import jax

from mtl_t5x.runtime import exit_codes
from mtl_t5x.settings import checks

# A hang that holds the interpreter's lock is left to SIGALRM, so many seconds later: faulthandler
# shows the stacks, for which it needs no lock, and the signal then ends the process.
GRACE = 5
_LOOKS = 1  # seconds between two looks at the stage


@dataclasses.dataclass(frozen=True)
class _Stage:
    name: str
    seconds: float
    deadline: float  # of time.monotonic()


_running: _Stage | None = None


@dataclasses.dataclass(frozen=True)
class Limits:
    """The seconds that each stage may take before it counts as hung; 0: as long as it likes.

    Attributes:
      start: counting the examples, and the first batch: it passes over what was seen before.
      restore: the state that training starts from.
      data: any further batch.
      compile: the first step of a kind, plain or measured.
      step: any other; also what it waits for, which is the step before.
      save: a checkpoint; also what it waits for, which is the one before.
      measurement: the conflict at a fixed point.
      evaluation: of one split of every task.
    """

    start: float = 4 * 3600
    restore: float = 3600
    data: float = 600
    compile: float = 3600
    step: float = 600
    save: float = 3600
    measurement: float = 4 * 3600
    evaluation: float = 12 * 3600

    def __post_init__(self):
        checks.check(
            *(
                checks.number(f"watchdog.Limits.{name}", seconds, 0, "seconds; 0: no limit")
                for name, seconds in dataclasses.asdict(self).items()
            )
        )

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Ends the process, with a stack dump, if the block takes longer than the limit `name`.

        Stages come one after the other, never one within another.
        """
        global _running
        seconds = getattr(self, name)
        if not seconds:
            yield
            return
        _start_looking()
        _running = _Stage(name, seconds, time.monotonic() + seconds)
        # And no `faulthandler.dump_traceback_later`, which starts and joins a thread each time.
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            _running = None


DEFAULT = Limits()


@functools.cache
def _start_looking() -> None:
    faulthandler.register(signal.SIGALRM, file=sys.__stderr__, all_threads=True, chain=True)
    # One thread for all stages: to start one beside a busy step takes longer than many a stage.
    threading.Thread(target=_look, daemon=True, name="watchdog").start()


def _look() -> None:
    while True:
        time.sleep(_LOOKS)
        stage = _running
        if stage is not None and time.monotonic() > stage.deadline:
            _leave(stage)


def _leave(stage: _Stage) -> None:
    print(
        f"\nprocess {jax.process_index()} of {jax.process_count()} hangs: stage {stage.name!r} has "
        f"taken more than {stage.seconds:g} s (watchdog.Limits.{stage.name}). It leaves with code "
        f"{exit_codes.HANGS}; started again, the run goes on from its last checkpoint. The stacks "
        "of all threads:",
        file=sys.__stderr__,
        flush=True,
    )
    faulthandler.dump_traceback(sys.__stderr__)
    os._exit(exit_codes.HANGS)
