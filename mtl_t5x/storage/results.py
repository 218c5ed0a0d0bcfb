"""A run's results, by whose file studies and reports alike know that the run is finished.

`results.json` is written once, whole, when a run has trained and evaluated to its end; nothing else
writes it. What evaluates a checkpoint anew leaves a file of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

FILE = "results.json"


def finished(folder: epath.Path, steps: int = 0) -> dict[str, Any] | None:
    """The results in a run's folder; None: the run isn't finished.

    It isn't where there is no file, where the file is cut off or damaged, and where it is of a step
    before the last of `steps`.
    """
    found = _read(folder / FILE)
    return found if found is not None and found["step"] >= steps else None


def is_damaged(folder: epath.Path) -> bool:
    """Whether there is a file, but nothing that can be read in it."""
    path = folder / FILE
    return path.exists() and _read(path) is None


def last_step(gin_bindings: Iterable[str]) -> int:
    """The last step of a run with these bindings; 0 where they don't say."""
    found = [re.fullmatch(r"TRAIN_STEPS\s*=\s*(\d+)", one.strip()) for one in gin_bindings]
    return max((int(match.group(1)) for match in found if match), default=0)


def _read(path: epath.Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found["test"], dict) and found["step"] >= 0 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def table(results: Mapping[str, Any]) -> str:
    """A line for each task: the metrics of its test split, and where it has none of dev."""
    lines = [f"{'step ' + str(results['step']):24} {'split':6} metrics"]
    for task in dict.fromkeys([*results["test"], *results["dev"]]):
        split = "test" if task in results["test"] else "dev"
        shown = [
            f"{name} {value:.4g}"
            for name, value in results[split][task].items()
            if not name.endswith(("_cut", "_longest", "_dropped")) and name != "examples"
        ]
        lines.append(f"{task:24} {split:6} {', '.join(shown)}")
    return "\n".join(lines)
