"""Transfer between tasks: every metric together against alone, with intervals and verdicts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtl_t5x.report import cells, folders, gathered, statistics, tables
from mtl_t5x.report.findings import (
    BOOTSTRAP,
    SEEDS_ONLY,
    UNDECIDED,
    Estimate,
    Transfer,
    VariantDifference,
    Verdict,
)


class Draws(NamedTuple):
    """Of a multi-task metric and of its relative transfer in percent."""

    multi: statistics.Draws
    percent: statistics.Draws


# By variant, task and metric; of those with two seeds of both kinds and all predictions.
AllDraws = Mapping[tuple[folders.Variant, str, str], Draws]


def transfers(
    samples: Sequence[tables.Sample],
    found: cells.Cells,
    examples: Mapping[str, int],
) -> tuple[tuple[Transfer, ...], AllDraws, tuple[str, ...]]:
    """A transfer for each sample, draws of those that have them, and notes on the others.

    Args:
      samples: of a study.
      found: its cells.
      examples: of each task's test split, where its predictions are at hand.
    """
    notes: list[str] = []
    effects: list[Transfer] = []
    draws: dict[tuple[folders.Variant, str, str], Draws] = {}
    for sample in samples:
        start = _start(sample, examples)
        pair = _pair(found, sample)
        where = f"{'.'.join(sample.variant)}, {sample.task}, {sample.metric}"
        if pair is None:
            effects.append(_of_seeds(start, sample))
            if sample.seeds > 1:
                notes.append(f"{where}: {_WITHOUT_PREDICTIONS}")
            continue
        multi, single = pair
        start = dataclasses.replace(start, method=BOOTSTRAP)
        if multi.draws is None or single.draws is None:
            effects.append(start)
            continue
        mine = Draws(multi.draws, _percents(multi.draws, single.draws))
        draws[sample.variant, sample.task, sample.metric] = mine
        effects.append(_of_examples(start, multi, single, mine.percent))
    return _with_ranks(_with_verdicts(effects), draws), draws, tuple(notes)


_WITHOUT_PREDICTIONS = (
    "not every run's predictions are at hand and of a known metric, so the interval takes the "
    "seeds alone as its sample"
)


def _pair(found: cells.Cells, sample: tables.Sample) -> tuple[cells.Drawn, cells.Drawn] | None:
    """The sample's multi-task and single-task cells, where both are at hand."""
    alone = sample.variant if sample.task == "average" else sample.baseline
    multi = found.drawn.get(cells.Key(sample.variant, "multi_task", sample.task, sample.metric))
    single = found.drawn.get(cells.Key(alone, "single_task", sample.task, sample.metric))
    return (multi, single) if multi and single else None


def _start(sample: tables.Sample, examples: Mapping[str, int]) -> Transfer:
    """A sample's values without intervals."""
    multi, single = (
        float(np.mean(list(values.values()))) if values else None
        for values in (sample.multi, sample.single)
    )
    difference = None if None in (multi, single) else multi - single
    return Transfer(
        variant=sample.variant,
        task=sample.task,
        metric=sample.metric,
        headline=sample.headline,
        baseline=sample.baseline,
        single=Estimate(single),
        multi=Estimate(multi),
        single_by_seed=tuple(sample.single.items()),
        multi_by_seed=tuple(sample.multi.items()),
        difference=Estimate(difference),
        percent=Estimate(sample.percent),
        verdict=Verdict(None, None, UNDECIDED),
        smallest_points=None,
        smallest_percent=None,
        rank=Estimate(None),
        examples=examples.get(sample.task),
        seeds=sample.seeds,
        seeds_needed=None,
        method=SEEDS_ONLY,
    )


def _of_seeds(start: Transfer, sample: tables.Sample) -> Transfer:
    """With the seeds alone as the sample: Student's t with Welch's degrees of freedom."""
    percent = Estimate(*sample.transfer())
    start = dataclasses.replace(
        start, percent=percent, smallest_percent=statistics.smallest_effect(percent)
    )
    welch = tables.welch(list(sample.multi.values()), list(sample.single.values()))
    if welch is None:
        return start
    low, high, p = welch
    difference = Estimate(start.difference.value, low, high)
    return dataclasses.replace(
        start,
        difference=difference,
        verdict=Verdict(p, None, UNDECIDED),
        smallest_points=statistics.smallest_effect(difference),
    )


def _percents(multi: statistics.Draws, single: statistics.Draws) -> statistics.Draws:
    """Relative transfer; endless where the baseline may be 0 or less."""
    above = single > 0
    return np.where(above, 100 * (multi / np.where(above, single, 1) - 1), np.inf)


def _of_examples(
    start: Transfer, multi: cells.Drawn, single: cells.Drawn, percents: statistics.Draws
) -> Transfer:
    """With examples and seeds as the sample."""
    draws = multi.draws - single.draws
    difference = statistics.interval(start.difference.value, draws)
    percent = statistics.interval(start.percent.value, percents)
    return dataclasses.replace(
        start,
        single=statistics.interval(start.single.value, single.draws),
        multi=statistics.interval(start.multi.value, multi.draws),
        difference=difference,
        percent=percent,
        verdict=Verdict(statistics.p_value(draws), None, UNDECIDED),
        smallest_points=statistics.smallest_effect(difference),
        smallest_percent=statistics.smallest_effect(percent),
        seeds_needed=statistics.seeds_needed(
            difference,
            of_examples=multi.cell.draws - single.cell.draws,
            by_chance=sum(one.cell.by_chance / one.cell.seeds for one in (multi, single)),
            seeds=start.seeds,
        ),
    )


def _with_verdicts(effects: Sequence[Transfer]) -> list[Transfer]:
    """Of the tasks' headline metrics, all variants together; of the averages likewise."""
    decided = list(effects)
    for of_average in (False, True):
        family = [
            i for i, e in enumerate(effects) if e.headline and (e.task == "average") == of_average
        ]
        verdicts = statistics.verdicts(
            [effects[i].difference.value for i in family], [effects[i].verdict.p for i in family]
        )
        for i, verdict in zip(family, verdicts, strict=True):
            decided[i] = dataclasses.replace(effects[i], verdict=verdict)
    return decided


def _with_ranks(effects: Sequence[Transfer], draws: AllDraws) -> tuple[Transfer, ...]:
    ranked = list(effects)
    for variant in dict.fromkeys(effect.variant for effect in effects):
        mine = [
            (i, draws[place].percent)
            for i, effect in enumerate(effects)
            if effect.variant == variant and effect.headline and effect.task != "average"
            if (place := (variant, effect.task, effect.metric)) in draws
            and effect.percent.value is not None
        ]
        found = statistics.ranks(
            [effects[i].percent.value for i, _ in mine], [one for _, one in mine]
        )
        for (i, _), rank in zip(mine, found, strict=True):
            ranked[i] = dataclasses.replace(effects[i], rank=rank)
    return tuple(ranked)


def differences(effects: Sequence[Transfer], draws: AllDraws) -> tuple[VariantDifference, ...]:
    """What each setting changes: between all pairs of variants that differ in it alone."""
    headlines = [effect for effect in effects if effect.headline]
    rows = []
    for i, other in enumerate(headlines):
        for one in headlines[i + 1 :]:
            changed = _changed(one.variant, other.variant)
            if (one.task, one.metric) == (other.task, other.metric) and changed:
                rows.append(_difference(one, other, changed, draws))
    verdicts = statistics.verdicts([r.points.value for r in rows], [r.verdict.p for r in rows])
    return tuple(
        dataclasses.replace(row, verdict=verdict)
        for row, verdict in zip(rows, verdicts, strict=True)
    )


def _changed(one: folders.Variant, other: folders.Variant) -> str | None:
    """The one setting in which two variants differ; None where it isn't one."""
    fields = ("architecture", "prompt", "labels")
    changed = [f for f, a, b in zip(fields, one, other, strict=True) if a != b]
    if changed != ["architecture"]:
        return changed[0] if len(changed) == 1 else None
    (study, _, mine), (its_study, _, its) = (
        variant[0].rpartition(gathered.OF_STUDY) for variant in (one, other)
    )
    if study == its_study:
        return "architecture"
    return "study" if mine == its else None


def _difference(one: Transfer, other: Transfer, changed: str, draws: AllDraws) -> VariantDifference:
    def less(first: float | None, second: float | None) -> float | None:
        return None if first is None or second is None else first - second

    points = Estimate(less(one.multi.value, other.multi.value))
    percent = Estimate(less(one.percent.value, other.percent.value))
    p = None
    mine, its = (draws.get((side.variant, side.task, side.metric)) for side in (one, other))
    if mine and its:
        between = mine.multi - its.multi
        points = statistics.interval(points.value, between)
        p = statistics.p_value(between)
        known = np.isfinite(mine.percent) & np.isfinite(its.percent)
        of_percent = np.where(known, np.where(known, mine.percent, 0) - its.percent, np.inf)
        percent = statistics.interval(percent.value, of_percent)
    return VariantDifference(
        variant=one.variant,
        other=other.variant,
        changed=changed,
        task=one.task,
        metric=one.metric,
        points=points,
        percent=percent,
        verdict=Verdict(p, None, UNDECIDED),
    )
