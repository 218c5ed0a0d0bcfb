"""What an evaluation has scored already, so that one that is broken off goes on with the next task.

It stands in a file from the first task's end until all results are written.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from mtl_t5x.storage import files

logger = logging.getLogger(__name__)

FILE = "unfinished.json"
Scores = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """The scores of tasks that are evaluated under the same settings, by split and task.

    Attributes:
      folder: what the evaluation writes to.
      settings: what all scores depend on, as JSON; what was scored under others is dropped.
    """

    folder: epath.Path
    settings: Mapping[str, Any]

    def read(self, split: str, fingerprints: Mapping[str, str | None]) -> dict[str, Scores]:
        """By task name, of those whose fingerprint is what it was: of the task's own settings,
        data and code. The first process reads, and tells the others."""
        found = {
            task: noted["scores"]
            for task, noted in self._read().get(split, {}).items()
            if noted["fingerprint"] == fingerprints.get(task)
        }
        text = np.frombuffer(json.dumps(found).encode(), np.uint8)
        size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
        told = multihost_utils.broadcast_one_to_all(np.resize(text, size))
        return json.loads(told.tobytes().decode())

    def add(self, split: str, task: str, fingerprint: str | None, scores: Scores) -> None:
        """A task that is done, unless it has no fingerprint. The first process writes."""
        if jax.process_index() == 0 and fingerprint is not None:
            scored = self._read()
            scored.setdefault(split, {})[task] = {"fingerprint": fingerprint, "scores": scores}
            record = {"settings": self.settings, "scored": scored}
            files.write_atomically(self.folder / FILE, json.dumps(record, indent=2))

    def _read(self) -> dict[str, dict[str, Any]]:
        path = self.folder / FILE
        if jax.process_index() != 0 or not path.exists():
            return {}
        try:
            record = json.loads(path.read_text())
            settings, scored = record["settings"], record["scored"]
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s can't be read, and every task is evaluated: %s", path, error)
            return {}
        return scored if settings == json.loads(json.dumps(self.settings)) else {}


def forget(folder: epath.Path) -> None:
    """The results are written: the next evaluation begins with the first task."""
    (folder / FILE).unlink(missing_ok=True)
