"""What a run tells while it trains: metrics.jsonl, TensorBoard, a progress bar, and the alarm that
rings when a loss stops being a number."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import metric_writers
from etils import epath
from tqdm import tqdm

from mtl_t5x.conflict.running import Running
from mtl_t5x.storage import files

FILE = "metrics.jsonl"
logger = logging.getLogger(__name__)

_STORING = 0.01  # of the time, at most, is spent on storing lines
_ADVICE = "The checkpoints there are good; lower adamw.learning_rate"


class TrainingDivergedError(FloatingPointError):
    """A task's loss or the gradient stopped being a finite number."""


class RunLog:
    """Collects the metrics of every step, and fetches them from the device only when a line is due.

    Used as a context manager. Lines of an earlier attempt from `start_step` on are dropped, so that
    a run that was interrupted leaves one line per logged step.
    """

    def __init__(
        self,
        model_dir: str,
        task_names: Sequence[str],
        examples_per_step: int,
        start_step: int,
        train_steps: int,
        running: Running | None = None,
    ):
        self._names = tuple(task_names)
        self._examples_per_step = examples_per_step
        self._pending: list[tuple[int, Mapping[str, Any]]] = []
        writes = jax.process_index() == 0  # the other processes only ring the alarm
        path = epath.Path(model_dir) / FILE
        kept = drop_lines_from(path, start_step) if writes else []
        self._running = running
        if running is not None:
            running.restore(kept)
        self._lines = Lines(path if writes else None)
        self._tensorboard = metric_writers.MultiWriter(
            [metric_writers.SummaryWriter(model_dir)] if writes else []
        )
        self._progress = tqdm(
            total=max(train_steps, start_step),
            initial=start_step,
            unit="step",
            desc=epath.Path(model_dir).name,
            mininterval=0.5 if sys.stderr.isatty() else 30.0,
            disable=not writes,
        )
        # The first step compiles: the rate is counted from its end.
        self._rate_since: tuple[int, float] | None = None
        self._told: set[str] = set()  # tasks whose gradient a method couldn't use
        self._paused = 0.0  # seconds since then in which no step was taken

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *exception) -> None:
        self._progress.close()
        self._lines.close()
        self._tensorboard.close()

    def add(
        self,
        step: int,
        metrics: Mapping[str, Any],
        *,
        write: bool,
        point: Mapping[str, Any] | None = None,
    ) -> None:
        """Takes the metrics of one step, as `step.train_step` returns them, and writes a line of
        them if it shall; with what was measured at a `point` (`fixed_point.logged`), where it was.

        Waits for the step before, so that the device is one step behind at most, and a step that
        hangs is found in its own time.
        """
        if self._pending:
            jax.block_until_ready(self._pending[-1])
        self._pending.append((step, metrics))
        self._progress.update()
        if write:
            self.check()
            self._write(step, jax.device_get(metrics), point or {})

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What takes place in this context isn't counted in the steps' rate."""
        if self._pending:
            jax.block_until_ready(self._pending[-1])
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - begun

    def check(self, params: Any = None) -> None:
        """Waits for the steps so far.

        Raises:
          TrainingDivergedError: names the first task and step whose loss, or the first step whose
            gradient, is not finite; or parameters, where they are given, that aren't.
        """
        for step, metrics in self._pending:
            losses = np.asarray(metrics["loss"])
            bad = [
                name
                for name, loss in zip(self._names, losses, strict=True)
                if not np.isfinite(loss)
            ]
            if bad:
                raise TrainingDivergedError(
                    f"step {step}: the loss of {', '.join(bad)} is not a finite number. "
                    f"{_ADVICE}, or look at that task's data"
                )
            if not np.isfinite(metrics["grad_norm"]):
                raise TrainingDivergedError(
                    f"step {step}: the losses are finite, but the gradient is not. {_ADVICE}"
                )
            if "unusable" in metrics.get("balance", ()):
                self._tell_unusable(step, np.asarray(metrics["balance"]["unusable"]))
        self._pending.clear()
        for path, good in jax.tree_util.tree_leaves_with_path(jax.device_get(_all_finite(params))):
            if not good:
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                raise TrainingDivergedError(f"the last update made {name} not finite. {_ADVICE}")

    def _tell_unusable(self, step: int, unusable: np.ndarray) -> None:
        """Once for each task."""
        bad = {name for name, is_bad in zip(self._names, unusable, strict=True) if is_bad}
        if new := sorted(bad - self._told):
            self._told |= bad
            logger.warning(
                "step %d: the gradient of %s is zero or no number: BALANCE weighs it like one that "
                "is orthogonal to all others (said once for each task)", step, ", ".join(new),
            )  # fmt: skip

    def flush(self) -> None:
        """Returns when the lines so far are stored: a checkpoint must not be ahead of them."""
        self._lines.flush()

    def _write(self, step: int, metrics: Mapping[str, Any], point: Mapping[str, Any]) -> None:
        scalars, matrices = flatten(metrics, self._names)
        for name, value in point.items():
            (scalars if isinstance(value, float) else matrices)[name] = value
        if self._running is not None:
            for name, value in self._running.add(metrics).items():
                (scalars if isinstance(value, float) else matrices)[name] = value
        if (rate := self._rate(step)) is not None:
            scalars["examples_per_second"] = rate
        self._lines.add(_finite({"step": step, **scalars, **matrices}))
        self._tensorboard.write_scalars(step, scalars)
        shown = {"loss": f"{scalars['loss']:.3f}"}
        if rate is not None:
            shown["examples/s"] = f"{rate:.0f}"
        self._progress.set_postfix(shown, refresh=False)

    def _rate(self, step: int) -> float | None:
        now = time.perf_counter()
        last, self._rate_since = self._rate_since, (step, now)
        paused, self._paused = self._paused, 0.0
        if last is None:
            return None
        return (step - last[0]) * self._examples_per_step / (now - last[1] - paused)


@jax.jit
def _all_finite(params: Any) -> Any:
    """Whether each array's numbers all are."""
    return jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), params)


def flatten(
    metrics: Mapping[str, Any], names: Sequence[str]
) -> tuple[dict[str, float], dict[str, list]]:
    """A step's metrics by the names of `metrics.jsonl`: scalars, and matrices as lists of rows."""
    scalars = {
        "loss": float(np.sum(metrics["loss"])),
        "grad_norm": float(metrics["grad_norm"]),
        "learning_rate": float(metrics["learning_rate"]),
    }
    examples = metrics.get("examples", np.ones(len(names)))
    seen = [i for i, number in enumerate(examples) if number]  # others have no loss
    scalars |= _by_task("loss", metrics["loss"][seen], [names[i] for i in seen])
    matrices = {}
    for group, of_group in metrics["conflict"].items():
        scalars |= _by_task(f"grad_norm/{group}", of_group["norms"], names)
        matrices[f"conflict/{group}/cosine"] = np.asarray(of_group["cosine"]).tolist()
        for name, value in of_group.items():
            if name not in ("norms", "cosine", "halves"):
                scalars[f"conflict/{group}/{name}"] = float(value)
    for name, value in metrics.get("balance", {}).items():
        if name == "weights":
            scalars |= _by_task("balance/weight", value, names)
        elif name != "unusable":
            scalars[f"balance/{name}"] = float(value)
    return scalars, matrices


def _by_task(prefix: str, values: Any, names: Sequence[str]) -> dict[str, float]:
    return {f"{prefix}/{name}": float(value) for name, value in zip(names, values, strict=True)}


def _finite(value: Any) -> Any:
    """JSON has no NaN: null stands for what isn't a finite number."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def drop_lines_from(path: epath.Path, step: int) -> list[dict[str, Any]]:
    """Keeps the lines before `step`, and returns them; one that a crash cut off is dropped too."""
    return files.keep_steps(path, lambda at_step: at_step < step)


class Lines:
    """Appends JSON to a file, a line each; to nothing where there is no path.

    A line is stored at once where that is quick. Object storage can't append, it takes the whole
    file anew: there lines are stored as often as takes little of the time, and by `flush`.
    """

    def __init__(self, path: epath.Path | None):
        # Files of object storage open as contexts only.
        self._opened = contextlib.ExitStack()
        self._file = self._opened.enter_context((path or epath.Path(os.devnull)).open("a"))
        self._next_flush = 0.0

    def add(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        if time.perf_counter() >= self._next_flush:
            self.flush()

    def flush(self) -> None:
        """Returns when all lines are stored."""
        begun = time.perf_counter()
        self._file.flush()
        ended = time.perf_counter()
        self._next_flush = ended + (ended - begun) / _STORING

    def close(self) -> None:
        self._opened.close()
