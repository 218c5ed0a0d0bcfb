"""What training together does to a task's losses: slower learning, and worse generalization.

The slowdown is the difference of the training losses at equal steps. The generalization gap is that
of the dev losses at equal *training loss* (arXiv 2408.14677): for each run the dev loss is a
function of the training loss, whose lowest value so far stands for each evaluation; over the range
that all runs cover, the functions are subtracted. Runs of one seed see the same batches of a task,
so both are differences within seeds, whose variances are moderated over the tasks.
"""

import dataclasses
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from mtl_t5x.report import curves, folders, predictions, statistics
from mtl_t5x.report.findings import UNDECIDED, Curve, Estimate, Gap, Slowdown, Verdict
from mtl_t5x.storage import files

# A training loss is the mean over at most so many of the nearest logged steps: batches are small.
_SMOOTHED = 5
# Points at which dev losses are compared.
_GRID = 13
# Stretches of a loss curve.
_STRETCHES = 20
# A mean and its verdict, before those of all tasks are known.
_UNDECIDED = (Estimate(None), Verdict(None, None, UNDECIDED))


@dataclasses.dataclass(frozen=True)
class Pair:
    """Runs of a seed: of a task alone, and together with others."""

    seed: int
    single: folders.Record
    multi: folders.Record


def pairs_of(study: folders.Study, variant: folders.Variant, task: str) -> tuple[Pair, ...]:
    """The seeds that have both kinds of run."""
    kinds = [
        {r.seed: r for r in study.runs(variant, kind) if task in r.tasks and r.steps}
        for kind in ("single_task", "multi_task")
    ]
    return tuple(Pair(s, kinds[0][s], kinds[1][s]) for s in sorted(kinds[0]) if s in kinds[1])


def slowdowns(
    study: folders.Study, variant: folders.Variant, resamples: int
) -> tuple[Slowdown, ...]:
    """Of every task of the variant that has both kinds of run."""
    rows, of_seeds = [], {}
    for task in tasks_of(study, variant):
        pairs = pairs_of(study, variant, task)
        common = [_common(pair, task) for pair in pairs]
        common = [(single, multi) for single, multi in common if len(single.steps)]
        if not common:
            continue
        windows = curves.stretches([single for single, _ in common], most=_STRETCHES)
        seed = zlib.crc32(f"{variant} {task}".encode())
        found = [
            curves.means(list(series), windows, resamples, (seed, place))
            for place, series in enumerate(
                (*zip(*common, strict=True), [_minus(multi, single) for single, multi in common])
            )
        ]
        values = [slowdown_of(pair, task) for pair in pairs]
        of_seeds[task] = [value for value in values if value is not None]
        rows.append(Slowdown(variant, task, *(one.curve() for one in found), *_UNDECIDED))
    decided = _decided(of_seeds, resamples, f"{variant} slowdown")
    return tuple(
        dataclasses.replace(row, mean=decided[row.task][0], verdict=decided[row.task][1])
        for row in rows
    )


def slowdown_of(pair: Pair, task: str) -> float | None:
    """The mean difference of a seed's training losses after warm-up; None without common steps."""
    one = _minus(*reversed(_common(pair, task)))
    after = one.steps >= folders.warm_up_end(pair.multi)
    return float(one.values[after].mean()) if after.any() else None


def tasks_of(study: folders.Study, variant: folders.Variant) -> tuple[str, ...]:
    """The tasks that the variant trains together."""
    return tuple(dict.fromkeys(t for r in study.runs(variant, "multi_task") for t in r.tasks))


def _common(pair: Pair, task: str) -> tuple[curves.Series, curves.Series]:
    """Both runs' training losses at the steps that both logged, single first."""
    both = [curves.logged(record, [f"loss/{task}"]) for record in (pair.single, pair.multi)]
    steps, *places = np.intersect1d(both[0].steps, both[1].steps, return_indices=True)
    first, second = (
        curves.Series(steps, one.values[place]) for one, place in zip(both, places, strict=True)
    )
    return first, second


def _minus(one: curves.Series, other: curves.Series) -> curves.Series:
    return curves.Series(one.steps, one.values - other.values)


def _decided(
    of_seeds: dict[str, list[float]], resamples: int, name: str
) -> dict[str, tuple[Estimate, Verdict]]:
    """Each task's mean over its seeds, and whether it is other than 0; lower is better.

    Variances between seeds are moderated over the tasks that have the most seeds.
    """
    most = max((len(values) for values in of_seeds.values()), default=0)
    whole = [task for task, values in of_seeds.items() if len(values) == most > 0]
    drawn = None
    if most > 1:
        table = np.array([of_seeds[task] for task in whole])
        drawn = statistics.over_runs(table, None, resamples, (zlib.crc32(name.encode()),))
    estimates, p_values = {}, {}
    for task, values in of_seeds.items():
        mean = float(np.mean(values)) if values else None
        draws = drawn[whole.index(task)] if drawn is not None and task in whole else None
        estimates[task] = statistics.interval(mean, draws)
        p_values[task] = None if draws is None else statistics.p_value(draws)
    verdicts = statistics.verdicts(
        [one.value for one in estimates.values()], list(p_values.values()), good=-1
    )
    return {
        task: (estimate, verdict)
        for (task, estimate), verdict in zip(estimates.items(), verdicts, strict=True)
    }


def gaps(study: folders.Study, variant: folders.Variant, resamples: int) -> tuple[Gap, ...]:
    """Of every task whose dev losses both kinds of run logged at several steps."""
    rows, of_seeds = [], {}
    for task in tasks_of(study, variant):
        pairs = pairs_of(study, variant, task)
        found = [dev_losses(pair, task) for pair in pairs]
        found = [pair for pair in found if all(len(points) > 1 for points in pair)]
        grid = _grid([points for pair in found for points in pair])
        if grid is None:
            continue
        losses = np.array([[_at(points, grid) for points in pair] for pair in found])
        single, multi = losses[:, 0], losses[:, 1]
        of_seeds[task] = (multi - single).mean(axis=1).tolist()
        seed = zlib.crc32(f"{variant} {task} gap".encode())
        drawn = [
            _band(grid, values, resamples, (seed, place))
            for place, values in enumerate((single, multi, multi - single))
        ]
        rows.append(Gap(variant, task, *drawn, *_UNDECIDED))
    decided = _decided(of_seeds, resamples, f"{variant} gap")
    return tuple(
        dataclasses.replace(row, mean=decided[row.task][0], verdict=decided[row.task][1])
        for row in rows
    )


def gap_of(pair: Pair, task: str) -> float | None:
    """The mean gap of a seed's two runs over the range that both cover; None of no such range."""
    found = dev_losses(pair, task)
    if any(len(points) < 2 for points in found) or (grid := _grid(found)) is None:
        return None
    single, multi = (_at(points, grid) for points in found)
    return float((multi - single).mean())


def dev_losses(pair: Pair, task: str) -> tuple[Float[np.ndarray, "_ 2"], Float[np.ndarray, "_ 2"]]:
    """(training loss, dev loss) at each evaluation of the dev split, the training loss falling.

    Of the run alone and of that together, the training losses of both from the steps that both
    logged.
    """
    trained = _common(pair, task)
    records = (pair.single, pair.multi)
    first, second = (
        _falling(losses, dict(_evaluations(record, task)))
        for losses, record in zip(trained, records, strict=True)
    )
    return first, second


def _falling(trained: curves.Series, dev: Mapping[int, float]) -> Float[np.ndarray, "_ 2"]:
    rows = []
    count = int(np.clip(len(trained.steps) // max(len(dev), 1), 1, _SMOOTHED))
    for step in sorted(dev) if len(trained.steps) else ():
        nearest = np.argsort(np.abs(trained.steps - step), kind="stable")[:count]
        rows.append((float(trained.values[nearest].mean()), dev[step]))
    points = np.array(rows, float).reshape(-1, 2)
    points[:, 0] = np.minimum.accumulate(points[:, 0])
    # Of evaluations at the same lowest loss so far the first counts.
    kept = np.diff(points[:, 0], prepend=np.inf) < 0
    return points[kept]


def _evaluations(record: folders.Record, task: str) -> list[tuple[int, float]]:
    """Steps and dev losses, of what the evaluator wrote and of results.json."""
    found = []
    path = predictions.metrics_path(record, task, "validation")
    if path is not None:
        for line in files.read_steps(path)[0]:
            found.append((line["step"], folders.number(line.get("loss"))))
    results = record.results or {}
    last = results.get("dev", {}).get(task, {}).get("loss")
    found.append((results.get("step", 0), folders.number(last)))
    return [(step, loss) for step, loss in found if loss is not None]


def _grid(
    found: Sequence[Float[np.ndarray, "_ 2"]],
) -> Float[np.ndarray, " point"] | None:
    """Training losses, from high to low, that all of the functions cover; None of no range."""
    if not found:
        return None
    high = min(points[0, 0] for points in found)
    low = max(points[-1, 0] for points in found)
    return np.linspace(high, low, _GRID) if low < high else None


def _at(points: np.ndarray, grid: np.ndarray) -> np.ndarray:
    return np.interp(grid, points[::-1, 0], points[::-1, 1])


def _band(
    grid: np.ndarray, values: Float[np.ndarray, "seed point"], resamples: int, seed: Sequence[int]
) -> Curve:
    drawn = statistics.over_runs(values.T.copy(), None, resamples, seed)
    return curves.curve(
        [
            (float(at), statistics.interval(float(value), None if drawn is None else drawn[i]))
            for i, (at, value) in enumerate(zip(grid, values.mean(axis=0), strict=True))
        ]
    )
