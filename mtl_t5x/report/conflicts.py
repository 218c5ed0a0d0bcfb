"""Conflict between tasks over training: curves, and who pulls against whom.

A cosine between two tasks' batches is shortened by noise, but its sign is unbiased, as the batches
are independent. So what is averaged over steps, tested, and given an interval is that cosine. Where
the halves of the batches tell how much of a gradient's squared length is no noise (its
reliability), it is divided by the square root of both tasks' reliabilities, which gives the cosine
of large batches (correction for attenuation: Spearman 1904, Am. J. Psychol. 15). The interval is
divided by the same, so whether it excludes 0 does not depend on the lengths. Where a reliability
is less than two standard errors above 0, the cosine is None.
"""

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mtl_t5x.report import curves, folders, statistics
from mtl_t5x.report.findings import (
    BATCH,
    FIXED_POINT,
    UNBIASED,
    Conflict,
    Cosines,
    Curve,
    Estimate,
    Pair,
    TaskCurve,
)

# A reliability is known where it is so many standard errors above 0.
_KNOWN = 2.0
_EMPTY = Curve((), ())


@dataclasses.dataclass(frozen=True)
class Measured:
    """The cosines between tasks in one group of parameters, at the steps at which a run measured.

    Attributes:
      source: FIXED_POINT, UNBIASED or BATCH, the first that the run has.
      tasks: in the order of the rows.
      cosines: of the batches' gradients, or at fixed points.
      reliability: of the tasks' batches, from their halves; 1 where it doesn't come in.
    """

    source: str
    tasks: tuple[str, ...]
    steps: Int[np.ndarray, " step"]
    cosines: Float[np.ndarray, "step task task"]
    reliability: Float[np.ndarray, "step task"]

    @property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        return np.triu_indices(len(self.tasks), 1)

    @property
    def of_pairs(self) -> curves.Series:
        rows, columns = self.pairs
        return curves.Series(self.steps, self.cosines[:, rows, columns])

    def with_others(self) -> curves.Series:
        """Each task's mean cosine with the others."""
        others = self.cosines.sum(axis=2) - np.diagonal(self.cosines, axis1=1, axis2=2)
        return curves.Series(self.steps, others / max(len(self.tasks) - 1, 1))


def measured(record: folders.Record, group: str, tasks: Sequence[str]) -> Measured | None:
    """What a run measured in a group of parameters; None of nothing.

    Args:
      record: of a multi-task run.
      group: as "encoder".
      tasks: in the order wanted.
    """
    keys = {
        FIXED_POINT: f"conflict/{folders.FIXED_POINT}/{group}/cosine",
        UNBIASED: f"conflict/{group}/unbiased_gram",
        BATCH: f"conflict/{group}/cosine",
    }
    for source, key in keys.items():
        lines = [line for line in record.steps if key in line]
        if lines:
            names = task_order(record, lines[0])
            matrices = np.array([np.array(line[key], float) for line in lines])
            if source == UNBIASED:
                lengths = _lengths(lines, group, names)
                matrices = matrices / (lengths[:, :, None] * lengths[:, None, :])
            order = [names.index(task) for task in tasks if task in names]
            matrices = matrices[:, order][:, :, order]
            diagonal = np.diagonal(matrices, axis1=1, axis2=2)
            reliability = diagonal if source == UNBIASED else np.ones_like(diagonal)
            whole = np.isfinite(matrices).all(axis=(1, 2))  # a gradient of 0 has no cosine
            return Measured(
                source=source,
                tasks=tuple(names[i] for i in order),
                steps=np.array([line["step"] for line in lines])[whole],
                cosines=matrices[whole],
                reliability=reliability[whole],
            )
    return None


def task_order(record: folders.Record, line: Mapping[str, Any]) -> tuple[str, ...]:
    """The tasks in the order of a run's matrices: that in which each line has their losses."""
    logged = tuple(key.removeprefix("loss/") for key in line if key.startswith("loss/"))
    if set(logged) == set(record.tasks):
        return logged
    return tuple((record.results or {}).get("tasks", record.tasks))


def _lengths(
    lines: Sequence[Mapping[str, Any]], group: str, names: Sequence[str]
) -> Float[np.ndarray, "step task"]:
    """The norms of the tasks' gradients of each step's batch; NaN for a gradient of 0."""
    keys = [f"grad_norm/{group}/{name}" for name in names]
    rows = [[folders.number(line.get(key)) or np.nan for key in keys] for line in lines]
    return np.array(rows, float)


def runs_of(
    study: folders.Study, variant: folders.Variant, group: str
) -> tuple[tuple[folders.Record, Measured], ...]:
    """The variant's multi-task runs that measured the group, by a source that all of them have."""
    records = [r for r in study.runs(variant, "multi_task") if r.steps]
    tasks = tuple(dict.fromkeys(task for record in records for task in record.tasks))
    runs = [(record, measured(record, group, tasks)) for record in records]
    runs = [(record, one) for record, one in runs if one is not None and len(one.steps)]
    if not runs:
        return ()
    order = (BATCH, UNBIASED, FIXED_POINT)
    source = min((one.source for _, one in runs), key=order.index)
    kept = [(r, one) for r, one in runs if (one.source, one.tasks) == (source, runs[0][1].tasks)]
    return tuple(kept)


def after_warm_up(runs: Sequence[tuple[folders.Record, Any]]) -> curves.Window:
    """All steps from where the learning rate is highest."""
    first = max(folders.warm_up_end(record) for record, _ in runs)
    return first, max(record.steps[-1]["step"] for record, _ in runs)


def conflict(
    study: folders.Study, variant: folders.Variant, group: str, resamples: int
) -> tuple[Conflict, tuple[Cosines, ...]] | None:
    """The conflict between a variant's tasks in a group, and its cosines; None without any."""
    runs = runs_of(study, variant, group)
    if not runs:
        return None
    found = [one for _, one in runs]
    series = [one.of_pairs for one in found]
    shortest = 1 if found[0].source == FIXED_POINT else curves.SHORTEST
    windows = (*curves.stretches(series, shortest=shortest), after_warm_up(runs))
    seed = zlib.crc32(f"{variant} {group}".encode())
    reliable = [curves.Series(one.steps, one.reliability) for one in found]
    lengths = _lengths_known(curves.means(reliable, windows, 2, (seed, 0)))
    of_pairs = curves.means(series, windows, resamples, (seed, 1))
    cosines = tuple(
        _cosines(variant, group, found[0], of_pairs, w, lengths[w]) for w in range(len(windows))
    )
    return _conflict(variant, group, runs, windows, reliable, resamples, seed), cosines


def _lengths_known(reliability: curves.Means) -> Float[np.ndarray, "window task"]:
    """Square roots of the reliabilities; NaN where one isn't clearly above 0."""
    values = reliability.values
    clear = values > _KNOWN * np.nan_to_num(reliability.errors)
    return np.sqrt(np.where(clear, np.minimum(values, 1), np.nan))


def _cosines(
    variant: folders.Variant,
    group: str,
    like: Measured,
    of_pairs: curves.Means,
    w: int,
    lengths: Float[np.ndarray, " task"],
) -> Cosines:
    rows, columns = like.pairs
    p_values = [of_pairs.p_value(w, i) for i in range(len(rows))]
    batch = [of_pairs.estimate(w, i) for i in range(len(rows))]
    verdicts = statistics.verdicts([one.value for one in batch], p_values)
    pairs = tuple(
        Pair(
            first=like.tasks[row],
            second=like.tasks[column],
            cosine=_cosine(of_pairs, w, i, lengths[row] * lengths[column]),
            batch=batch[i],
            verdict=verdicts[i],
        )
        for i, (row, column) in enumerate(zip(rows, columns, strict=True))
    )
    whole = w == len(of_pairs.windows) - 1
    return Cosines(variant, group, like.source, like.tasks, *of_pairs.windows[w], whole, pairs)


def _conflict(
    variant: folders.Variant,
    group: str,
    runs: Sequence[tuple[folders.Record, Measured]],
    windows: Sequence[curves.Window],
    reliable: Sequence[curves.Series],
    resamples: int,
    seed: int,
) -> Conflict:
    records, found = zip(*runs, strict=True)
    source, tasks = found[0].source, found[0].tasks

    def mean_over_tasks(series: curves.Series) -> curves.Series:
        return curves.Series(series.steps, series.values.mean(axis=1, keepdims=True))

    def means(series: Sequence[curves.Series], place: int) -> curves.Means:
        return curves.means(series, windows, resamples, (seed, place))

    batch = means([mean_over_tasks(one.of_pairs) for one in found], 2)
    lengths = _lengths_known(means([mean_over_tasks(one) for one in reliable], 3)) ** 2
    cosines = [_cosine(batch, w, 0, lengths[w, 0]) for w in range(len(windows))]
    points = list(zip(map(curves.middle, windows[:-1]), cosines[:-1], strict=True))
    share = (len(tasks) - 1) / len(tasks)
    fixed = f"conflict/{folders.FIXED_POINT}/{group}/magnitude"
    magnitude = {UNBIASED: f"conflict/{group}/running_magnitude", FIXED_POINT: fixed}
    magnitude = magnitude.get(source, f"conflict/{group}/magnitude")
    halves = [f"split_half_cosine/{group}/{task}" for task in tasks]
    return Conflict(
        variant=variant,
        group=group,
        source=source,
        tasks=tasks,
        directional=curves.curve([(step, _times(share, one)) for step, one in points]),
        mean_cosine=curves.curve(points),
        magnitude=_of_log(records, [magnitude], windows, resamples, seed),
        split_half=_of_log(records, halves, windows, resamples, seed),
        batch_cosine=batch.curve(windows=len(windows) - 1),
        shuffled=_band(records, f"conflict/{group}", windows[:-1]),
        after_warm_up=cosines[-1],
    )


def _cosine(means: curves.Means, window: int, quantity: int, length: float) -> Estimate:
    """A mean over a length, within what a cosine can be."""
    one = means.estimate(window, quantity, float(length))
    ends = (one.value, one.low, one.high)
    return Estimate(*(None if end is None else min(max(end, -1.0), 1.0) for end in ends))


def _times(share: float, one: Estimate) -> Estimate:
    ends = (one.value, one.low, one.high)
    return Estimate(*(None if end is None else share * end for end in ends))


def _of_log(
    records: Sequence[folders.Record],
    keys: Sequence[str],
    windows: Sequence[curves.Window],
    resamples: int,
    seed: int,
) -> Curve:
    """The mean of numbers that are logged under these keys; empty where they aren't."""
    series = [curves.logged(record, keys) for record in records]
    if not all(len(one.steps) for one in series):
        return _EMPTY
    series = [curves.Series(s.steps, s.values.mean(axis=1, keepdims=True)) for s in series]
    found = curves.means(series, windows, resamples, (seed, 4))
    return found.curve(windows=len(windows) - 1)


def _band(
    records: Sequence[folders.Record], prefix: str, windows: Sequence[curves.Window]
) -> Curve:
    """The batches' own directional conflict, and the ends between which shuffled halves have it."""
    keys = [f"{prefix}/{name}" for name in ("directional", "shuffled_low", "shuffled_high")]
    series = [curves.logged(record, keys) for record in records]
    points = []
    for window in windows:
        inside = np.concatenate([one.between(window) for one in series])
        inside = inside[np.isfinite(inside).all(axis=1)]
        if len(inside):
            points.append((curves.middle(window), Estimate(*inside.mean(axis=0).tolist())))
    return curves.curve(points)


def shares(
    study: folders.Study, variant: folders.Variant, group: str, resamples: int
) -> tuple[TaskCurve, ...]:
    """Each task's share <g_k, sum_j g_j> / ||sum_j g_j||^2 of the batches' summed gradient."""
    records = [r for r in study.runs(variant, "multi_task") if r.steps]
    key, tasks, series = f"conflict/{group}/cosine", (), []
    for record in records:
        lines = [line for line in record.steps if key in line]
        if not lines:
            continue
        names = task_order(record, lines[0])
        tasks = tasks or names
        lengths = np.nan_to_num(_lengths(lines, group, names))
        cosines = np.nan_to_num(np.array([np.array(line[key], float) for line in lines]))
        products = (cosines * lengths[:, :, None] * lengths[:, None, :]).sum(axis=2)
        total = products.sum(axis=1, keepdims=True)
        of_tasks = products / np.where(total > 0, total, np.nan)
        order = [names.index(task) for task in tasks]
        series.append(curves.Series(np.array([line["step"] for line in lines]), of_tasks[:, order]))
    return _task_curves(variant, group, tasks, series, resamples)


def noise_scales(
    study: folders.Study, variant: folders.Variant, group: str, resamples: int
) -> tuple[TaskCurve, ...]:
    """Each task's noise scale, in examples, as the runs logged it; geometric means."""
    runs = runs_of(study, variant, group)
    if not runs or runs[0][1].source == BATCH:
        return ()
    place = {UNBIASED: group, FIXED_POINT: f"{folders.FIXED_POINT}/{group}"}[runs[0][1].source]
    tasks = runs[0][1].tasks
    keys = [f"noise_scale/{place}/{task}" for task in tasks]
    series = [curves.logged(record, keys) for record, _ in runs]
    logs = [
        curves.Series(one.steps, np.log(np.where(one.values > 0, one.values, np.nan)))
        for one in series
    ]

    def back(one: Estimate) -> Estimate:
        ends = (one.value, one.low, one.high)
        return Estimate(*(None if end is None else math.exp(end) for end in ends))

    return tuple(
        dataclasses.replace(
            of_task, curve=Curve(of_task.curve.steps, tuple(map(back, of_task.curve.points)))
        )
        for of_task in _task_curves(variant, group, tasks, logs, resamples)
    )


def _task_curves(
    variant: folders.Variant,
    group: str,
    tasks: Sequence[str],
    series: Sequence[curves.Series],
    resamples: int,
) -> tuple[TaskCurve, ...]:
    series = [one for one in series if len(one.steps)]
    if not series:
        return ()
    seed = zlib.crc32(f"{variant} {group} tasks".encode())
    found = curves.means(series, curves.stretches(series), resamples, (seed,))
    return tuple(TaskCurve(variant, t, group, found.curve(i)) for i, t in enumerate(tasks))
