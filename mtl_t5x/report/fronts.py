"""What weighting the tasks does: every weighting of a sweep beside the static front."""

import dataclasses
import math
import statistics as stdlib_statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtl_t5x.report import cells, findings, folders, predictions, statistics, tables
from mtl_t5x.report.findings import Estimate, Verdict

UNIT = "unit"
STATIC, RATE, METHOD = "static weights", "temperature", "method"


@dataclasses.dataclass(frozen=True)
class Point:
    """A weighting, on the test split, over the seeds. Effects are multi-task minus single-task
    metrics, in the metrics' points.

    Attributes:
      name: as the study calls it; `unit` weighs all tasks 1.
      kind: STATIC, RATE or METHOD.
      average, worst: effects: the mean over the tasks, and the least of them.
      by_task: each task's effect.
      worst_task: the task of the least effect.
      seeds: how many runs there are.
    """

    name: str
    kind: str
    average: Estimate
    worst: Estimate
    by_task: tuple[tuple[str, Estimate], ...]
    worst_task: str
    seeds: int


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A weighting minus the tuned static one, on average, in points; the verdict's family are the
    sweep's comparisons."""

    name: str
    kind: str
    difference: Estimate
    verdict: Verdict
    smallest: float | None


@dataclasses.dataclass(frozen=True)
class Front:
    """The weightings of a variant.

    Attributes:
      points: in the study's order.
      tuned: the static weighting with the best average on the dev split.
      comparisons: of all weightings but static ones with `tuned`.
      dominated: pairs (better, worse) whose average and worst task both differ by more than chance,
        among all pairs at the false discovery rate.
      sentences: what can be said, and what can't.
    """

    variant: folders.Variant
    points: tuple[Point, ...]
    tuned: str
    comparisons: tuple[Comparison, ...]
    dominated: tuple[tuple[str, str], ...]
    sentences: tuple[str, ...]


class _Drawn(NamedTuple):
    """Of a weighting: its point, and draws of its metrics' average and least effect, if any."""

    point: Point
    average: statistics.Draws | None
    worst: statistics.Draws | None


def fronts(study: folders.Study, resamples: int = 10_000) -> tuple[Front, ...]:
    """One for each variant whose weightings were swept, as far as their runs have come."""
    variants = dict.fromkeys(record.variant for record in study.weighted)
    found = (_front(study, variant, resamples) for variant in variants)
    return tuple(front for front in found if front is not None)


def _front(study: folders.Study, variant: folders.Variant, resamples: int) -> Front | None:
    swept = _as_variants(study, variant)
    names = {v: v[2] for v in swept.variants}
    answers, _ = predictions.read_all(swept)
    drawn = cells.draw(swept, answers, resamples)
    by_task: dict[folders.Variant, list[tables.Sample]] = {}
    for sample in tables.samples(swept)[0]:
        if sample.task != tables.AVERAGE[0] and tables.is_headline(swept, sample):
            by_task.setdefault(sample.variant, []).append(sample)
    whole = [s for s in by_task.values() if all(one.multi and one.single for one in s)]
    most = max((len(samples) for samples in whole), default=0)
    found = [
        _point(names[samples[0].variant], samples, drawn) for samples in whole
        if len(samples) == most
    ]  # fmt: skip
    static = [one.point.name for one in found if one.point.kind == STATIC]
    if not static:
        return None
    on_dev = {names[v]: _dev_average(swept, v) for v in by_task}
    tuned = max(static, key=lambda name: on_dev.get(name, -math.inf))
    comparisons = _compared(found, tuned)
    dominated = _dominated(found)
    sentences = _sentences(found, tuned, comparisons, dominated)
    points = tuple(one.point for one in found)
    return Front(variant, points, tuned, comparisons, dominated, sentences)


def _as_variants(study: folders.Study, variant: folders.Variant) -> folders.Study:
    """A study whose variants are the weightings: (architecture, prompt, weighting)."""
    unit = [dataclasses.replace(r, weighting=UNIT) for r in study.runs(variant, "multi_task")]
    swept = [r for r in study.weighted if r.variant == variant]
    records = [
        dataclasses.replace(
            record, kind="multi_task", labels=record.weighting, baseline=study.baseline(variant)
        )
        for record in (*unit, *swept)
    ]
    alone = study.runs(variant, "single_task")
    return dataclasses.replace(study, records=(*records, *alone), weighted=())


def kind_of(name: str) -> str:
    if name == UNIT or name.startswith(("corner_", "sobol_")):
        return STATIC
    return RATE if name.startswith("temperature_") else METHOD


def _point(name: str, samples: Sequence[tables.Sample], drawn: cells.Cells) -> _Drawn:
    effects = {
        s.task: stdlib_statistics.fmean(s.multi.values())
        - stdlib_statistics.fmean(s.single.values())
        for s in samples
    }
    draws = {s.task: _effect_draws(s, drawn) for s in samples}
    average = worst = None
    if all(one is not None for one in draws.values()):
        stacked = np.stack(list(draws.values()))
        average, worst = stacked.mean(axis=0), stacked.min(axis=0)
    worst_task = min(effects, key=effects.get)
    point = Point(
        name=name,
        kind=kind_of(name),
        average=statistics.interval(stdlib_statistics.fmean(effects.values()), average),
        worst=statistics.interval(effects[worst_task], worst),
        by_task=tuple(
            (task, statistics.interval(value, draws[task])) for task, value in effects.items()
        ),
        worst_task=worst_task,
        seeds=min(s.seeds for s in samples),
    )
    return _Drawn(point, average, worst)


def _effect_draws(sample: tables.Sample, drawn: cells.Cells) -> statistics.Draws | None:
    keys = (
        cells.Key(sample.variant, "multi_task", sample.task, sample.metric),
        cells.Key(sample.baseline, "single_task", sample.task, sample.metric),
    )
    multi, single = (drawn.drawn.get(key) for key in keys)
    if multi is None or single is None or multi.draws is None or single.draws is None:
        return None
    return multi.draws - single.draws


def _dev_average(study: folders.Study, variant: folders.Variant) -> float:
    """Of the headline metrics on the dev split, over tasks and seeds."""
    values = [
        folders.number(record.results.get("dev", {}).get(task, {}).get(metric))
        for record in study.runs(variant, "multi_task")
        if record.results
        for task, metric in folders.headlines(study, variant).items()
    ]
    known = [value for value in values if value is not None]
    return stdlib_statistics.fmean(known) if known else -math.inf


def _difference(one: _Drawn, other: _Drawn) -> tuple[Estimate, float | None]:
    """(difference of the averages, its p-value)."""
    value = one.point.average.value - other.point.average.value
    if one.average is None or other.average is None:
        return Estimate(value), None
    draws = one.average - other.average
    return statistics.interval(value, draws), statistics.p_value(draws)


def _compared(found: Sequence[_Drawn], tuned: str) -> tuple[Comparison, ...]:
    (reference,) = [one for one in found if one.point.name == tuned]
    others = [one for one in found if one.point.kind != STATIC]
    pairs = [_difference(one, reference) for one in others]
    verdicts = statistics.verdicts([e.value for e, _ in pairs], [p for _, p in pairs])
    return tuple(
        Comparison(
            one.point.name, one.point.kind, effect, verdict, statistics.smallest_effect(effect)
        )
        for one, (effect, _), verdict in zip(others, pairs, verdicts, strict=True)
    )


def _dominated(found: Sequence[_Drawn]) -> tuple[tuple[str, str], ...]:
    """A pair's p-value is the larger of the two: both have to differ."""
    known = [one for one in found if one.average is not None]
    pairs = []
    for i, one in enumerate(known):
        for other in known[:i]:
            average, worst = one.average - other.average, one.worst - other.worst
            up = one.point.average.value > other.point.average.value
            if up == (one.point.worst.value > other.point.worst.value):
                p = max(statistics.p_value(average), statistics.p_value(worst))
                names = one.point.name, other.point.name
                pairs.append((names if up else names[::-1], p))
    adjusted = statistics.adjusted([p for _, p in pairs])
    return tuple(
        names for (names, _), q in zip(pairs, adjusted, strict=True) if q <= statistics.LEVEL
    )


def _sentences(
    found: Sequence[_Drawn],
    tuned: str,
    comparisons: Sequence[Comparison],
    dominated: Sequence[tuple[str, str]],
) -> tuple[str, ...]:
    told = []
    for one in comparisons:
        if one.verdict.word == findings.UNDECIDED:
            continue
        effect = one.difference
        told.append(
            f"{one.name} is {abs(effect.value):.2f} points "
            f"{'above' if effect.value > 0 else 'below'} the tuned static weighting ({tuned}) on "
            f"average, 95 % interval {effect.low:.2f} to {effect.high:.2f}."
        )
    open_ones = [one for one in comparisons if one.verdict.word == findings.UNDECIDED]
    if open_ones:
        sizes = [one.smallest for one in open_ones if one.smallest is not None]
        size = f"; effects of {max(sizes):.1f} points would be seen 4 times in 5" if sizes else ""
        told.append(
            f"{', '.join(one.name for one in open_ones)} can't be told apart from the tuned static "
            f"weighting ({tuned}) on average{size}."
        )
    if dominated:
        by_better: dict[str, list[str]] = {}
        for better, worse in dominated:
            by_better.setdefault(better, []).append(worse)
        told += [
            f"{better} dominates {', '.join(worse)}: better on average and in the worst task."
            for better, worse in by_better.items()
        ]
    elif len(found) > 1:
        told.append("No weighting dominates another beyond chance.")
    if all(one.average is None for one in found):
        told.append("One seed, or no predictions at hand: there are no intervals.")
    return tuple(told)


def rows(front: Front) -> list[Mapping[str, object]]:
    """The lines of front.csv: each weighting's average, worst task and tasks."""
    lines = []
    for point in front.points:
        of_point = [("average", point.average), ("worst", point.worst), *point.by_task]
        for task, effect in of_point:
            lines.append(
                {
                    **dict(zip(("architecture", "prompt", "labels"), front.variant, strict=True)),
                    "weighting": point.name,
                    "kind": point.kind,
                    "task": task,
                    "points": effect.value,
                    "ci95_low": effect.low,
                    "ci95_high": effect.high,
                    "seeds": point.seeds,
                    "tuned": point.name == front.tuned,
                }
            )
    return lines
