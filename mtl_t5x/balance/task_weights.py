"""Static weights of the tasks, which may change with the step on a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

Plan = int | float | Sequence[tuple[int, int | float]]
TaskWeights = Mapping[str, Plan]
SETTING = "TASK_WEIGHTS"


def check(weights: TaskWeights, names: Sequence[str]) -> None:
    """Checks weights by task name, each a number or pairs of a step and the weight from there on.

    Raises:
      ValueError: a task that isn't there, a weight that is negative or no number, steps that don't
        rise, or a step at which all weights are 0.
    """
    for task, plan in weights.items():
        if task not in names:
            raise ValueError(
                f"{SETTING} names the task {task!r}, which isn't trained; these are: "
                f"{', '.join(names)}"
            )
        pairs = _pairs(plan)
        for _, weight in pairs:
            if not (math.isfinite(weight) and weight >= 0):
                raise ValueError(
                    f"{SETTING}[{task!r}] = {plan}: a weight must be a number, 0 or more"
                )
        steps = [step for step, _ in pairs]
        if not pairs or steps != sorted(set(steps)) or steps[0] < 0:
            raise ValueError(
                f"{SETTING}[{task!r}] = {plan}: give a number, or pairs of a step and a weight in "
                "the order of their steps, as [(0, 1.0), (500, 0.2)]"
            )
    for step in sorted({step for plan in weights.values() for step, _ in _pairs(plan)}):
        if not np.any(at_step(weights, names, step)):
            raise ValueError(f"{SETTING}: all weights are 0 at step {step}; set one above 0")


def at_step(weights: TaskWeights, names: Sequence[str], step: int) -> Float[np.ndarray, " task"]:
    """The weights of the tasks called `names` at a step; of those that aren't named, 1. Between the
    steps of a plan they change evenly."""
    plans = [_pairs(weights.get(name, 1.0)) for name in names]
    return np.array([np.interp(step, *zip(*plan, strict=True)) for plan in plans], dtype=np.float32)


def _pairs(plan: Plan) -> list[tuple[int, float]]:
    return (
        [(0, float(plan))]
        if isinstance(plan, int | float)
        else [(int(s), float(w)) for s, w in plan]
    )
