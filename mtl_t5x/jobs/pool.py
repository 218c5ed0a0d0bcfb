"""The parent of a study's workers: hands out the runs, and hears how each ended.

What ends one run ends that one alone: its worker is replaced, and the others go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence

from etils import epath

from mtl_t5x.jobs.job import Job, is_remote
from mtl_t5x.jobs.places import Place
from mtl_t5x.jobs.progress import Progress, steps_done
from mtl_t5x.runtime import exit_codes

PROGRAM = "mtl_t5x.main:run"  # what a worker calls with a run's gin files and bindings
LOG = "log.txt"
_TAIL = 30  # lines of the log that error.txt repeats
_LOOKS = 0.5  # seconds between two looks at what nothing else tells
_LEAVING = 60  # seconds that a worker without a run may take to end


class _Worker:
    """A worker's process; by `give`, the `job` that it is at, and its `log`."""

    job: Job | None = None

    def __init__(self, place: Place, program: str):
        self.place = place
        cores = [",".join(map(str, place.cores))] if place.cores else []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mtl_t5x.jobs.worker", program, *cores],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **place.environment},
        )

    def give(self, job: Job, log: pathlib.Path) -> None:
        self.job, self.log = job, log
        order = {**dataclasses.asdict(job), "log": str(log)}
        # One that has died already is found by the next look.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(order).encode() + b"\n")

    def leave(self) -> None:
        """Lets it end, now or after the run that it is told to stop."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def close(self) -> None:
        """Of a process that has ended."""
        self.leave()
        self.process.stdout.close()


class _Told:
    """A context in which SIGTERM and Ctrl-C only make `requested` true, a second one `at_once`."""

    requested = at_once = False

    def __enter__(self) -> _Told:
        self._before = {}
        # Python lets the main thread alone set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: object) -> None:
        del frame
        self.at_once = self.requested and number == signal.SIGINT
        self.requested = True


def carry_out(
    jobs: Sequence[Job], places: Sequence[Place], progress: Progress, program: str | None = None
) -> dict[str, str]:
    """Carries out the runs, as many at a time as there are places: the longest first, but none
    while another worker compiles what it would.

    Each run's messages are appended to `log.txt` in its folder. One that fails, crashes, hangs or
    is killed leaves `error.txt` there.

    Args:
      program: MODULE:FUNCTION that carries out a run; `PROGRAM` by default.

    Returns:
      Why, by the name of each that failed.

    Raises:
      SystemExit: with code 42, this process or a worker was told to stop (SIGTERM, Ctrl-C), and the
        workers have saved their runs' states.
    """
    with _Told() as told, tempfile.TemporaryDirectory() as folder:
        return _Pool(jobs, places, progress, program or PROGRAM, pathlib.Path(folder)).run(told)


class _Pool:
    def __init__(
        self,
        jobs: Sequence[Job],
        places: Sequence[Place],
        progress: Progress,
        program: str,
        folder: pathlib.Path,
    ):
        # The longest first: else one of them would begin last, and all would wait for it.
        self._waiting = sorted(jobs, key=lambda job: -job.work)
        self._compiled: set[tuple] = set()  # shapes of runs that have ended
        self._progress = progress
        self._program = program
        self._folder = folder
        self._free = list(places)[::-1]
        self._workers: list[_Worker] = []  # each at a run
        self._leaving: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._failed: dict[str, str] = {}

    def run(self, told: _Told) -> dict[str, str]:
        stopping = False
        try:
            while True:
                while self._waiting and self._free and not stopping:
                    self._start(self._free.pop())
                if not self._workers:
                    break
                ready = {key.data for key, _ in self._selector.select(_LOOKS)}
                for worker in tuple(self._workers):
                    if worker in ready and (answer := worker.process.stdout.readline()):
                        self._answered(worker, json.loads(answer)["failed"])
                    elif worker in ready or worker.process.poll() is not None:
                        told.requested |= self._died(worker)
                if told.requested and not stopping:
                    stopping = True
                    self._stop()
                if told.at_once:
                    for worker in self._workers:
                        worker.process.kill()
                    raise SystemExit(exit_codes.INTERRUPTED)
                self._progress.show()
        finally:
            self._leave()
        if stopping:
            self._progress.say("told to stop; start the study again to go on")
            raise SystemExit(exit_codes.TOLD_TO_STOP)
        return self._failed

    def _start(self, place: Place) -> None:
        worker = _Worker(place, self._program)
        self._workers.append(worker)
        self._selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        self._give(worker)

    def _give(self, worker: _Worker) -> None:
        job = self._next()
        folder = epath.Path(job.folder)
        folder.mkdir(parents=True, exist_ok=True)
        # Object storage can't be appended to: there the log is put when the run has ended.
        log = self._folder / job.name if is_remote(job.folder) else pathlib.Path(folder / LOG)
        worker.give(job, log)
        self._progress.started(job)

    def _next(self) -> Job:
        """Takes the longest that waits out of them: of those that wait for no compilation.

        Another of a shape whose first run is still compiling would compile the same programs once
        more; later it finds them in the cache.
        """
        begun = [worker.job for worker in self._workers if worker.job is not None]
        compiling = {job.shape for job in begun if not steps_done(job)} - self._compiled
        ready = [job for job in self._waiting if job.shape not in compiling]
        job = (ready or self._waiting)[0]
        self._waiting.remove(job)
        return job

    def _answered(self, worker: _Worker, why: str | None) -> None:
        self._keep_log(worker)
        self._end(worker.job, why)
        if self._waiting and worker.process.poll() is None:
            self._give(worker)
            return
        self._remove(worker)
        self._leaving.append(worker)
        worker.leave()

    def _died(self, worker: _Worker) -> bool:
        """Whether it was told to stop, and so all are; else its run failed, unless it was over."""
        code, job = worker.process.wait(), worker.job
        self._remove(worker)
        self._keep_log(worker)
        worker.close()
        if job.is_finished():
            job.succeed()
            self._end(job, None)
        elif code in (exit_codes.TOLD_TO_STOP, -signal.SIGTERM):
            return True
        else:
            why = _in_words(code)
            job.lose(_last_lines(worker.log), why)
            self._end(job, why)
        return False

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._selector.unregister(worker.process.stdout)
        self._free.append(worker.place)

    def _keep_log(self, worker: _Worker) -> None:
        if is_remote(worker.job.folder) and worker.log.exists():
            (epath.Path(worker.job.folder) / LOG).write_bytes(worker.log.read_bytes())

    def _end(self, job: Job, why: str | None) -> None:
        self._compiled.add(job.shape)
        if why is None:
            self._progress.finished(job)
        else:
            self._failed[job.name] = why
            self._progress.failed(job, why)

    def _stop(self) -> None:
        self._waiting.clear()
        for worker in self._workers:
            worker.process.terminate()
        names = ", ".join(worker.job.name for worker in self._workers)
        if names:
            self._progress.say(f"told to stop: waiting until these have saved: {names}")

    def _leave(self) -> None:
        """Waits for the workers; those at a run, after an error here, save it first."""
        for worker in self._workers:
            worker.leave()
            worker.process.wait()
        for worker in self._leaving:
            try:
                worker.process.wait(_LEAVING)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        for worker in (*self._workers, *self._leaving):
            worker.close()
        self._selector.close()


def _in_words(code: int) -> str:
    """What the code says with which a run's process ended."""
    if code in (exit_codes.HANGS, -signal.SIGALRM):  # see runtime.watchdog
        return f"a stage hung, and its process left with code {code}; its log has the stacks"
    if code == -signal.SIGKILL:
        return "its process was killed (SIGKILL), as is done where memory runs out"
    if code < 0:
        return f"its process crashed ({signal.Signals(-code).name})"
    return f"its process ended with code {code}"


def _last_lines(log: pathlib.Path) -> str:
    if not log.exists():
        return ""
    # A progress bar writes its line anew and anew.
    lines = re.split(r"[\r\n]+", log.read_bytes()[-65_536:].decode(errors="replace").strip())
    return "\n".join(lines[-_TAIL:])
