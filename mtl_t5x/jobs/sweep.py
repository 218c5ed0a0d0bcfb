"""A study of weightings: the static front, temperatures and methods, each at every seed."""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from scipy.stats import qmc

from mtl_t5x.jobs.grid import Run, gin_value, grid

UNIT = "unit"
# Settings of how any method is applied; a method's other settings are its own.
_OF_BALANCE = ("applied", "floor", "keep_gradients", "parameters")


@dataclasses.dataclass(frozen=True)
class Weighting:
    """A way to weight the tasks: its name in the report, and the gin bindings that ask for it.

    Names begin with `corner`, `sobol`, `temperature` or the method.
    """

    name: str
    bindings: Mapping[str, Any]


def sweep(
    config: ml_collections.ConfigDict, macros: Mapping[str, Any] | None = None, **options: Any
) -> Iterator[Run]:
    """Yields the runs of `grid`, whose multi-task runs weigh all tasks 1, and each of those again
    with the weightings that the config spans.

    All points of the static front share one compiled step: weights are its arguments.

    Args:
      config: as for `grid`, and `corners` (whether each task alone is a point), `sobol` (how many
        points are spread over the simplex), `temperatures` (of T5's mixing by numbers of examples)
        and `methods` (as "UPGrad" or "CAGrad c=0.4 applied=exact": a method of `balance.balance`
        and its settings, or those of `balance.Balance`).
      macros, options: as for `grid`.

    Raises:
      ValueError: as `grid` does; a method that can't be read, or a point named twice.
    """
    points = weightings(config)
    names = [point.name for point in points]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"these weightings are named twice: {', '.join(twice)}")
    for run in grid(config, macros, **options):
        if run.kind != "multi_task":
            yield run
            continue
        yield _weighted(run, _static(UNIT, run.tasks, np.ones(len(run.tasks))), run.kind, run.name)
        for point in points:
            name = run.name.replace(".multi_task.", f".{point.name}.")
            yield _weighted(run, point, "weighted", name)


def _weighted(run: Run, point: Weighting, kind: str, name: str) -> Run:
    bindings = tuple(f"{key}={gin_value(value)}" for key, value in point.bindings.items())
    return dataclasses.replace(
        run,
        name=name,
        kind=kind,
        gin_bindings=(*run.gin_bindings, *bindings),
        weighting=point.name,
    )


def weightings(config: ml_collections.ConfigDict) -> tuple[Weighting, ...]:
    """Every weighting that a config spans besides that of weights 1."""
    tasks = tuple(config.tasks)
    points = []
    if config.corners:
        points += [
            _static(f"corner_{task}", tasks, len(tasks) * np.eye(len(tasks))[i])
            for i, task in enumerate(tasks)
        ]
    points += [
        _static(f"sobol_{i}", tasks, len(tasks) * point)
        for i, point in enumerate(on_simplex(len(tasks), config.sobol))
    ]
    points += [
        Weighting(
            f"temperature_{temperature:g}",
            {"RATES": "examples", "rates.Rates.temperature": float(temperature)},
        )
        for temperature in config.temperatures
    ]
    return (*points, *map(_method, config.methods))


def _static(name: str, tasks: Sequence[str], weights: np.ndarray) -> Weighting:
    values = {task: round(float(w), 6) for task, w in zip(tasks, weights, strict=True)}
    return Weighting(name, {"TASK_WEIGHTS": values})


def on_simplex(dimensions: int, count: int, seed: int = 0) -> np.ndarray:
    """So many points [count, dimensions] spread evenly over {w >= 0, sum w = 1}: the gaps between
    the sorted coordinates of scrambled Sobol points (Devroye 1986, theorem V.2.1)."""
    if not count:
        return np.zeros((0, dimensions))
    sobol = qmc.Sobol(dimensions - 1, rng=np.random.default_rng(seed))
    drawn = np.sort(sobol.random_base2(math.ceil(math.log2(count)))[:count], axis=1)
    return np.diff(drawn, axis=1, prepend=0, append=1)


def _method(text: str) -> Weighting:
    name, *settings = text.split()
    bindings: dict[str, Any] = {"BALANCE": f"@balance.{name}()"}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (equals and key.isidentifier()):
            raise ValueError(
                f"config.methods: {text!r} can't be read; write a method and its settings, as "
                "'CAGrad c=0.4 applied=exact'"
            )
        owner = "Balance" if key in _OF_BALANCE else name
        bindings[f"balance.{owner}.{key}"] = _literal(value)
    return Weighting(re.sub(r"[^\w.]+", "_", text), bindings)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
