"""A study's worker: a process that carries out one run after the other as its parent asks for them.

    python -m mtl_t5x.jobs.worker MODULE:FUNCTION [CORE,CORE…]

Runs come as lines of JSON on stdin; for each a line, why it failed, goes to stdout. What a run
itself prints goes to its log. Imports, compiled programs and what a run has cached serve the next.
The end of stdin means that the parent wants no more runs, or is gone: a run under way is then told
to stop, as by SIGTERM, and saves.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from mtl_t5x.jobs.job import Job, carry_out
from mtl_t5x.runtime import native_logs, tpu_compiler


@dataclasses.dataclass
class _Orders:
    """What the parent asks for, heard by a thread so that its end is heard during a run."""

    source: io.RawIOBase

    def __post_init__(self) -> None:
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._busy = self._ended = False
        threading.Thread(target=self._listen, daemon=True, name="orders").start()

    def _listen(self) -> None:
        while line := self.source.readline():
            self._lines.put(line)
        self._ended = True
        self._lines.put(b"")
        if self._busy:
            os.kill(os.getpid(), signal.SIGTERM)

    def next(self) -> dict | None:
        """Waits for the next; None: there are no more, or nobody who would hear of its end."""
        line = self._lines.get()
        self._busy = True
        return json.loads(line) if line and not self._ended else None

    def done(self) -> None:
        self._busy = False


@contextlib.contextmanager
def _messages_to(path: str) -> Iterator[None]:
    """What this process prints, its libraries in C++ included, is appended to the file."""
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for output in (1, 2):
        os.dup2(log, output)
    os.close(log)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def main(argv: Sequence[str]) -> None:
    """Carries out runs until there are no more."""
    # A Ctrl-C or a closed terminal: the parent says what is to be done, or is gone.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    program, *cores = argv
    if cores:  # before any library counts them
        os.sched_setaffinity(0, [int(core) for core in cores[0].split(",")])
    native_logs.quiet()
    tpu_compiler.ask()
    # Runs find an empty stdin, and their stdout isn't the parent's pipe.
    source = open(os.dup(0), "rb", buffering=0)  # noqa: SIM115
    answers = open(os.dup(1), "wb", buffering=0)  # noqa: SIM115
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)
    orders = _Orders(source)
    while (order := orders.next()) is not None:
        with _messages_to(order.pop("log")):
            job = Job(**order)

            def run(*arguments) -> None:
                # Within the run, so that a failing import is told as any failure.
                module, function = program.split(":")
                getattr(importlib.import_module(module), function)(*arguments)

            why = carry_out(job, run)
        orders.done()
        answers.write(json.dumps({"failed": why}).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
