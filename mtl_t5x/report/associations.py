"""Whether a task's conflict with the others goes with what becomes of it."""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from mtl_t5x.report import conflicts, folders, statistics, trajectories
from mtl_t5x.report.findings import Association, Estimate, Point, Transfer

OUTCOMES = ("transfer", "slowdown", "gap")
# Permutations of the tasks.
_PERMUTATIONS = 5_000
# A rank correlation over fewer tasks has no permutation that is rare.
_FEWEST = 4


def associations(
    study: folders.Study, effects: Sequence[Transfer], groups: Sequence[str]
) -> tuple[Association, ...]:
    """Of every group's conflict with each outcome that enough tasks have."""
    found = []
    outcomes = {outcome: _outcomes(study, effects, outcome) for outcome in OUTCOMES}
    for group in groups:
        cosines = _cosines(study, group)
        for outcome, values in outcomes.items():
            points = tuple(
                Point(*place, cosines[place], value)
                for place, value in values.items()
                if place in cosines
            )
            association = _association(group, outcome, points)
            if association is not None:
                found.append(association)
    return tuple(found)


# A variant, a task and a seed.
_Place = tuple[folders.Variant, str, int]


def _cosines(study: folders.Study, group: str) -> dict[_Place, float]:
    """Each task's mean cosine with the others after warm-up, by run."""
    found = {}
    for variant in study.variants:
        runs = conflicts.runs_of(study, variant, group)
        if not runs:
            continue
        window = conflicts.after_warm_up(runs)
        for record, measured in runs:
            inside = measured.with_others().between(window)
            if len(inside):
                means = zip(measured.tasks, inside.mean(axis=0).tolist(), strict=True)
                found |= {(variant, task, record.seed): mean for task, mean in means}
    return found


def _outcomes(
    study: folders.Study, effects: Sequence[Transfer], outcome: str
) -> dict[_Place, float]:
    if outcome == "transfer":
        return {
            (effect.variant, effect.task, seed): 100 * (value / effect.single.value - 1)
            for effect in effects
            if effect.headline and effect.percent.value is not None
            for seed, value in effect.multi_by_seed
        }
    of_pair = {"slowdown": trajectories.slowdown_of, "gap": trajectories.gap_of}[outcome]
    found = {}
    for variant in study.variants:
        for task in trajectories.tasks_of(study, variant):
            for pair in trajectories.pairs_of(study, variant, task):
                value = of_pair(pair, task)
                if value is not None:
                    found[variant, task, pair.seed] = value
    return found


def _association(group: str, outcome: str, points: Sequence[Point]) -> Association | None:
    """Spearman's correlation, against those of permuted tasks.

    Seeds of one task resemble each other, so tasks are permuted as wholes, within their variant:
    what is compared is their mean over the seeds.
    """
    by_task: dict[tuple[folders.Variant, str], list[Point]] = {}
    for point in points:
        by_task.setdefault((point.variant, point.task), []).append(point)
    x, y = (
        np.array([np.mean([getattr(p, axis) for p in mine]) for mine in by_task.values()])
        for axis in ("x", "y")
    )
    if len(by_task) < _FEWEST or not np.ptp(x) or not np.ptp(y):
        return None
    variants = [variant for variant, _ in by_task]
    seed = zlib.crc32(f"{group} {outcome}".encode())
    drawn = _permuted(x, y, variants, np.random.default_rng(seed))
    value = float(stats.spearmanr(x, y).statistic)
    low, high = np.quantile(drawn, [statistics.LEVEL / 2, 1 - statistics.LEVEL / 2])
    farther = np.sum(np.abs(drawn) >= abs(value) - 1e-9)
    return Association(
        group=group,
        outcome=outcome,
        correlation=Estimate(value, float(low), float(high)),
        p=float((farther + 1) / (len(drawn) + 1)),
        points=tuple(points),
    )


def _permuted(
    x: Float[np.ndarray, " task"],
    y: Float[np.ndarray, " task"],
    variants: Sequence[folders.Variant],
    rng: np.random.Generator,
) -> Float[np.ndarray, " permutation"]:
    """Rank correlations with x permuted within each variant."""
    x, y = stats.rankdata(x), stats.rankdata(y)
    places: Mapping[folders.Variant, list[int]] = {}
    for i, variant in enumerate(variants):
        places.setdefault(variant, []).append(i)
    table = np.tile(x, (_PERMUTATIONS, 1))
    for mine in places.values():
        table[:, mine] = rng.permuted(table[:, mine], axis=1)
    table -= table.mean(axis=1, keepdims=True)
    y = y - y.mean()
    return table @ y / np.sqrt((table**2).sum(axis=1) * (y**2).sum())
