"""SIGTERM, as schedulers send it before they take a machine away, and Ctrl-C: the run saves, then
leaves. A second Ctrl-C leaves at once."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

from mtl_t5x.runtime import exit_codes

AGAIN = 5.0  # seconds after which what is still not broken off is told once more


class Terminated(SystemExit):
    """The run was told to stop; its state is saved."""

    def __init__(self) -> None:
        super().__init__(exit_codes.TOLD_TO_STOP)


class Watch:
    """A context in which SIGTERM and Ctrl-C only make `requested` true, so that the loop can save.

    Several processes agree on the step after which they stop: JAX hears SIGTERM for them.
    """

    def __init__(self) -> None:
        self._heard = False
        self._breaks_off = False
        self._before: dict[int, signal.Handlers] = {}
        self._ear: socket.socket | None = None
        self._listener: threading.Thread | None = None
        self._again: threading.Timer | None = None

    def __enter__(self) -> Watch:
        # Python lets the main thread alone set handlers.
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT] + [signal.SIGTERM] * (jax.process_count() == 1)
            self._listen()
            self._before = {number: signal.signal(number, self._hear) for number in numbers}
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._ear is not None:
            signal.set_wakeup_fd(-1)
            self._ear.close()
            self._listener.join()  # once it has said what it heard

    def _hear(self, number: int, frame: object) -> None:
        del frame
        self._heard = True
        if self._breaks_off:
            # What is raised here is lost where Python calls back and drops exceptions, as from the
            # garbage collector. SIGTERM, since a second Ctrl-C would leave at once.
            if self._again is not None:
                self._again.cancel()
            main = threading.main_thread().ident
            self._again = threading.Timer(AGAIN, signal.pthread_kill, (main, signal.SIGTERM))
            self._again.daemon = True
            self._again.start()
            raise Terminated
        if number == signal.SIGINT and jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    @contextlib.contextmanager
    def breaking_off(self) -> Iterator[None]:
        """What takes place in this context is broken off when the signal comes: what takes long,
        and is done again when the run goes on. Several processes, which can't all leave it at one
        place, end it first.

        Raises:
          Terminated: the signal came.
        """
        self._breaks_off = jax.process_count() == 1
        try:
            if self._breaks_off and self._heard:
                raise Terminated
            yield
        finally:
            self._breaks_off = False
            if self._again is not None:
                self._again.cancel()
                self._again.join()  # no signal may come once the handlers are gone

    def _listen(self) -> None:
        """Starts a thread that hears a Ctrl-C where, as in a compiler, no handler is called."""
        self._ear, heard = socket.socketpair()
        self._ear.setblocking(False)
        signal.set_wakeup_fd(self._ear.fileno())
        self._listener = threading.Thread(target=_count, args=(heard,), daemon=True, name="Ctrl-C")
        self._listener.start()

    def requested(self, step: int) -> bool:
        """Whether the run is to stop after this step; every process must ask at every step."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._heard


def _count(heard: socket.socket) -> None:
    """Leaves the process at the second SIGINT; a byte stands for every signal."""
    interrupts = 0
    with heard:
        while numbers := heard.recv(64):
            interrupts += numbers.count(signal.SIGINT)
            if interrupts > 1:
                os._exit(exit_codes.INTERRUPTED)
            if signal.SIGINT in numbers:
                print(
                    "\nsaving, then leaving; Ctrl-C again leaves at once",
                    file=sys.stderr,
                    flush=True,
                )
