"""One run of a study: what to start in which folder, whether it is finished, how it ended."""

from __future__ import annotations

import dataclasses
import re
import sys
import traceback
from collections.abc import Callable, Sequence

from etils import epath

from mtl_t5x.runtime import exit_codes
from mtl_t5x.settings.checks import SettingsError
from mtl_t5x.storage import files, lock, results

RunFunction = Callable[[Sequence[str], Sequence[str]], None]
# Seconds that a run waits for a process that is leaving its folder: its save may be under way.
PATIENCE = 600
# What a task costs besides its steps (start, compilation, evaluation), in steps of one task.
_BESIDE_STEPS = 400
# The last line of such an error.txt; the report shows the last that names an error.
_REFUSED = "SettingsError: "
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
        return results.finished(epath.Path(self.folder), self.steps) is not None

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


def was_refused(folder: epath.Path) -> bool:
    """Whether the `error.txt` there tells of settings that the run can't have."""
    path = folder / "error.txt"
    return path.exists() and path.read_text(encoding="utf-8").startswith(_REFUSED)


def carry_out(job: Job, run: RunFunction) -> str | None:
    """Carries out the run in this process; None, or in a line why it failed, as `error.txt` tells.

    Raises:
      SystemExit: with code 42, the run was told to stop (SIGTERM) and has saved its state.
    """
    folder = epath.Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock.hold(job.folder, PATIENCE):
            if not job.is_finished():  # by the process that was waited for, it may be now
                run(job.gin_files, job.gin_bindings)
            if not job.is_finished():
                raise RuntimeError(
                    f"the run ended, and {folder / results.FILE} isn't there or of a step before "
                    "its last one"
                )
    # A run may also give up by sys.exit; whatever ended it, the other runs go on.
    except (Exception, SystemExit) as problem:
        if isinstance(problem, SystemExit) and problem.code == exit_codes.TOLD_TO_STOP:
            print(f"{job.name}: told to stop; start the study again to go on", flush=True)
            raise
        text, why = _told(problem)
        job.fail(text)
        print(text, file=sys.stderr, flush=True)
        return why
    job.succeed()
    return None


def _told(problem: BaseException) -> tuple[str, str]:
    """What is left of it in `error.txt`, and a line for whoever watches the study.

    Settings say by themselves what is wrong; of anything else it is told where in the code.
    """
    if isinstance(problem, SettingsError | lock.TakenError):
        # Gin's own subclasses have the name, too.
        name = type(problem).__name__
        return f"{name}: {problem}\n", f"{name}: {' '.join(str(problem).split())}"
    only = "".join(traceback.format_exception_only(problem)).splitlines()
    return traceback.format_exc(), next(line for line in only if line.strip())


def is_remote(folder: str) -> bool:
    """Whether a folder is object storage's."""
    return re.match(r"\w+://", folder) is not None
