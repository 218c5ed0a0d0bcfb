"""Numbers that several runs logged at many steps -> their means over stretches, with intervals."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from mtl_t5x.report import folders, statistics
from mtl_t5x.report.findings import Curve, Estimate

# Curves stand on the means of so many stretches of the steps, of so many steps at least.
STRETCHES = 8
SHORTEST = 5

Window = tuple[int, int]  # first and last step, both included


@dataclasses.dataclass(frozen=True)
class Series:
    """What a run logged: some quantities at each of some steps; NaN where one wasn't."""

    steps: Int[np.ndarray, " step"]
    values: Float[np.ndarray, "step quantity"]

    def between(self, window: Window) -> Float[np.ndarray, "inside quantity"]:
        first, last = window
        return self.values[(self.steps >= first) & (self.steps <= last)]


def logged(record: folders.Record, keys: Sequence[str]) -> Series:
    """Numbers of metrics.jsonl, at the steps that have any of them."""
    rows = []
    for line in record.steps:
        values = [folders.number(line.get(key)) for key in keys]
        if any(value is not None for value in values):
            rows.append((line["step"], [np.nan if v is None else v for v in values]))
    steps = np.array([step for step, _ in rows], int)
    return Series(steps, np.array([v for _, v in rows], float).reshape(len(rows), len(keys)))


def stretches(
    runs: Sequence[Series], most: int = STRETCHES, shortest: int = SHORTEST
) -> tuple[Window, ...]:
    """Stretches of about equally many steps of those that any run logged."""
    steps = np.unique(np.concatenate([run.steps for run in runs])) if runs else np.array([])
    count = int(np.clip(len(steps) // shortest, 1, most))
    parts = np.array_split(steps, count) if len(steps) else []
    return tuple((int(part[0]), int(part[-1])) for part in parts)


def middle(window: Window) -> float:
    return sum(window) / 2


@dataclasses.dataclass(frozen=True)
class Means:
    """Means over runs and steps, by window and quantity, with draws over new runs and batches.

    Attributes:
      values: NaN where a run logged nothing.
      errors: standard errors over the steps alone, of the means over the runs; NaN of one step.
      draws: None where nothing tells what chance does: one run, and one step in a window.
    """

    windows: tuple[Window, ...]
    values: Float[np.ndarray, "window quantity"]
    errors: Float[np.ndarray, "window quantity"]
    draws: Float[np.ndarray, "window quantity resample"] | None

    def p_value(self, window: int, quantity: int) -> float | None:
        drawn = self._drawn(window, quantity)
        return None if drawn is None else statistics.p_value(drawn)

    def estimate(self, window: int, quantity: int = 0, over: float = 1.0) -> Estimate:
        """A mean and its interval, both over a positive number; None where either isn't known."""
        value = self.values[window, quantity]
        if not np.isfinite([value, over]).all():
            return Estimate(None)
        found = statistics.interval(float(value), self._drawn(window, quantity))
        ends = (found.value, found.low, found.high)
        return Estimate(*(None if end is None else float(end / over) for end in ends))

    def curve(self, quantity: int = 0, windows: int | None = None) -> Curve:
        """Through the first `windows` windows (None: all) in which the mean is known."""
        points = [
            (middle(window), self.estimate(w, quantity))
            for w, window in enumerate(self.windows[:windows])
        ]
        return curve(points)

    def _drawn(self, window: int, quantity: int) -> statistics.Draws | None:
        if self.draws is None or not np.isfinite(self.draws[window, quantity]).all():
            return None
        return self.draws[window, quantity]


def curve(points: Sequence[tuple[float, Estimate]]) -> Curve:
    """Through those of the points that are known."""
    known = [(step, one) for step, one in points if one.value is not None]
    return Curve(tuple(step for step, _ in known), tuple(one for _, one in known))


def means(
    runs: Sequence[Series], windows: Sequence[Window], resamples: int, seed: Sequence[int]
) -> Means:
    """Means over the steps in each window, then over the runs; steps count as independent."""
    shape = (len(windows), runs[0].values.shape[1], len(runs))
    values, errors = np.full(shape, np.nan), np.full(shape, np.nan)
    for r, run in enumerate(runs):
        for w, window in enumerate(windows):
            inside = run.between(window)
            count = np.isfinite(inside).sum(axis=0)
            some, several = count > 0, count > 1
            values[w, some, r] = np.nanmean(inside[:, some], axis=0)
            spread = np.nanstd(inside[:, several], axis=0, ddof=1)
            errors[w, several, r] = spread / np.sqrt(count[several])
    cells = values.reshape(-1, len(runs))
    whole = np.isfinite(cells).all(axis=1)
    known = errors.reshape(-1, len(runs))[whole]
    drawn = None
    if whole.any():
        known = known if np.isfinite(known).all() else None
        drawn = statistics.over_runs(cells[whole], known, resamples, seed)
    draws = None
    if drawn is not None:
        draws = np.full((len(cells), resamples), np.nan)
        draws[whole] = drawn
        draws = draws.reshape(*shape[:2], resamples)
    pooled = np.sqrt((errors**2).sum(axis=2)) / len(runs)
    return Means(tuple(windows), values.mean(axis=2), pooled, draws)
