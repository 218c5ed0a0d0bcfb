"""One run of a study: what to start in which folder, whether it is finished, how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from mtl_t5x.runtime import exit_codes
from mtl_t5x.storage import files

RunFunction = Callable[[Sequence[str], Sequence[str]], None]
# Seconds that a run waits for a process that is leaving its folder: its save may be under way.
PATIENCE = 600
# What a task costs besides its steps (start, compilation, evaluation), in steps of one task.
_BESIDE_STEPS = 400
# The last line of such an error.txt; the report shows the last that names an error.
_LOST = "ChildProcessError: "


@dataclasses.dataclass(frozen=True)
class Job:
    """A run to be carried out.

    Attributes:
      name: what the study calls it.
      folder: its run folder, which `gin_bindings` name as MODEL_DIR too.
      gin_files, gin_bindings: as `mtl_t5x.main.run` takes them.
      steps: its last step; 0 where the bindings don't say.
      tasks: how many tasks it trains.
    """

    name: str
    folder: str
    gin_files: tuple[str, ...]
    gin_bindings: tuple[str, ...]
    steps: int
    tasks: int

    @property
    def work(self) -> float:
        """How long it takes, in steps of one task."""
        return self.tasks * (self.steps + _BESIDE_STEPS)

    @property
    def shape(self) -> tuple[tuple[str, ...], int]:
        """What runs have in common that, as a rule, run the same compiled programs."""
        return self.gin_files, self.tasks

    def is_finished(self) -> bool:
        """Whether the folder holds results of the last step."""
        path = epath.Path(self.folder) / "results.json"
        if not path.exists():
            return False
        try:
            return int(json.loads(path.read_text(encoding="utf-8"))["step"]) >= self.steps
        except (ValueError, KeyError, TypeError):
            return True  # damaged: the report says so, and what to do

    def succeed(self) -> None:
        """Takes away what `fail` left in an earlier attempt."""
        (epath.Path(self.folder) / "error.txt").unlink(missing_ok=True)

    def fail(self, text: str) -> None:
        """Leaves word of what ended the run in its folder's `error.txt`."""
        files.write_atomically(epath.Path(self.folder) / "error.txt", text.encode())

    def lose(self, log: str, why: str) -> None:
        """The same where the run's process hung or was killed, after its last messages."""
        self.fail(f"{log}\n{_LOST}{why}\n")


def was_lost(folder: epath.Path) -> bool:
    """Whether the `error.txt` there tells of a process that hung or was killed (`Job.lose`)."""
    path = folder / "error.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return bool(lines) and lines[-1].startswith(_LOST)


def carry_out(job: Job, run: RunFunction) -> str | None:
    """Carries out the run in this process; None, or in a line why it failed, as `error.txt` tells.

    Raises:
      SystemExit: with code 42, the run was told to stop (SIGTERM) and has saved its state.
    """
    folder = epath.Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _alone_in(job.folder):
            if not job.is_finished():  # by the process that was waited for, it may be now
                run(job.gin_files, job.gin_bindings)
            if not job.is_finished():
                raise RuntimeError(
                    f"the run ended, and {folder / 'results.json'} isn't there or of a step before "
                    "its last one"
                )
    # A run may also give up by sys.exit; whatever ended it, the other runs go on.
    except (Exception, SystemExit) as problem:
        if isinstance(problem, SystemExit) and problem.code == exit_codes.TOLD_TO_STOP:
            print(f"{job.name}: told to stop; start the study again to go on", flush=True)
            raise
        text = traceback.format_exc()
        job.fail(text)
        print(text, file=sys.stderr, flush=True)
        return "".join(traceback.format_exception_only(problem)).splitlines()[0]
    job.succeed()
    return None


@contextlib.contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """Waits until no other process carries out a run in the folder, as a killed study's may.

    Object storage knows no locks: there nothing is waited for.

    Raises:
      TimeoutError: another process stays.
    """
    if is_remote(folder):
        yield
        return
    with open(epath.Path(folder) / ".lock", "a+") as lock:
        deadline = time.monotonic() + PATIENCE
        waits = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"another process has been at work in {folder} for {PATIENCE} s: wait for "
                        "it or end it, then start the study again"
                    ) from None
            if not waits:
                print(f"another process is at work in {folder}: waiting until it leaves")
                waits = True
            time.sleep(0.1)
        yield


def is_remote(folder: str) -> bool:
    """Whether a folder is object storage's."""
    return re.match(r"\w+://", folder) is not None
