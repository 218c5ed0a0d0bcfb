"""What a study tells while its runs go on: a line for each that ends, and one for them all."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence

from etils import epath

from mtl_t5x.jobs.job import Job, is_remote

# Seconds of work that the first guess counts for beside what has been seen.
_TRUST = 60
# The share of a run from which on its pace tells something: before, it is that of compiling.
_TELLING = 0.05
_TAIL = 65_536  # bytes at the end of metrics.jsonl, among which its last line is


@dataclasses.dataclass
class _Running:
    job: Job
    begun: float  # of the clock
    before: int  # steps that an earlier attempt has done


class Progress:
    """Counts a study's runs and their steps, and says how far they are and how long it will take.

    Lengths are in steps of one task, as `Job.work`.
    """

    def __init__(
        self,
        title: str,
        jobs: Sequence[Job],
        workers: int,
        seconds_per_step: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`seconds_per_step`: a first guess at what a step of one task takes a worker."""
        self._title = title
        self._waiting = {job.name: job for job in jobs}
        # What all names begin with tells nothing.
        common = os.path.commonprefix(list(self._waiting)) if len(jobs) > 1 else ""
        self._told = len(common[: common.rfind(".") + 1])
        self._running: dict[str, _Running] = {}
        self._count, self._ended = len(jobs), 0
        self._workers = workers
        self._guess = seconds_per_step
        self._clock = clock
        self._seconds = self._work = 0.0  # of the runs that finished
        self._failure, self._repeated = "", 0  # the last failure's reason; untold ones like it
        self._terminal = sys.stdout.isatty()
        self._period = 1 if self._terminal else 30
        self._next = clock() + self._period

    def started(self, job: Job) -> None:
        del self._waiting[job.name]
        self._running[job.name] = _Running(job, self._clock(), steps_done(job))

    def finished(self, job: Job) -> None:
        self._tell_repeated()
        run = self._running[job.name]
        self._seconds += self._clock() - run.begun
        self._work += job.work - job.tasks * run.before
        self._end(job, "finished", "")

    def failed(self, job: Job, why: str) -> None:
        """Says why, unless the run before failed for the same reason."""
        if self._failure != why:
            self._tell_repeated()
            self._failure = why
            self._end(job, "FAILED", f": {why}; see {epath.Path(job.folder) / 'error.txt'}")
            return
        self._repeated += 1
        del self._running[job.name]
        self._ended += 1
        if self._ended == self._count:
            self._tell_repeated()

    def _tell_repeated(self) -> None:
        if self._repeated:
            runs = "run" if self._repeated == 1 else "runs"
            self.say(f"[{self._ended}/{self._count}] {self._repeated} {runs} more: the same")
        self._repeated = 0

    def _end(self, job: Job, how: str, why: str) -> None:
        run = self._running.pop(job.name)
        self._ended += 1
        seconds = self._clock() - run.begun
        title = f"[{self._ended}/{self._count}] {job.name}"
        self.say(f"{title}: {how} after {seconds:.0f} s{why}")

    def say(self, text: str) -> None:
        """A line of its own."""
        print(f"{_CLEAR}{text}" if self._terminal else text, flush=True)

    def show(self) -> None:
        """The line for all runs, where it is due; on a terminal it stays the last one."""
        if self._clock() < self._next or not self._running:
            return
        self._next = self._clock() + self._period
        line = str(self)
        if self._terminal:
            width = os.get_terminal_size(sys.stdout.fileno()).columns
            print(f"{_CLEAR}{line[: width - 1]}", end="", flush=True)
        else:
            print(line, flush=True)

    def __str__(self) -> str:
        left = self.left()
        parts = [f"{self._ended} of {self._count} runs ended"]
        parts += [in_words(left) + " left"] if left is not None else []
        parts += [
            f"{name[self._told :]} at step {steps_done(run.job)} of {run.job.steps}"
            for name, run in self._running.items()
        ]
        return f"{self._title}: {', '.join(parts)}"

    def left(self) -> float | None:
        """Seconds until the last run ends, about; None where nothing says so yet."""
        now = self._clock()
        seconds, work = self._seconds, self._work
        lengths = [job.work for job in self._waiting.values()]
        for run in self._running.values():
            done = run.job.tasks * max(0, steps_done(run.job) - run.before)
            length = run.job.work - run.job.tasks * run.before
            lengths.append(length - done)
            if done >= _TELLING * length:
                seconds, work = seconds + now - run.begun, work + done
        if self._guess:
            seconds, work = seconds + _TRUST, work + _TRUST / self._guess
        if not work:
            return None
        # Not before the longest has ended, whatever the others do.
        longest = max(lengths, default=0.0)
        return max(sum(lengths) / self._workers, longest) * seconds / work


_CLEAR = "\r\x1b[K"


def steps_done(job: Job) -> int:
    """How far `metrics.jsonl` in the run's folder has come; 0 where that would take long to see."""
    path = epath.Path(job.folder) / "metrics.jsonl"
    if is_remote(job.folder) or not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        lines = file.read().split(b"\n")
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"]) + 1
        except (ValueError, KeyError, TypeError):
            continue  # the last one may be cut off
    return 0


def in_words(seconds: float) -> str:
    """About how long that is."""
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h"
