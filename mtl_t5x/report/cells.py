"""Predictions of a study's runs -> draws of each kind of run's metrics, over examples and seeds."""

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtl_t5x.report import folders, predictions, scores, statistics, tables

# A metric computed anew from the predictions agrees with results.json to rounding.
_ROUNDING = 1e-6


class Key(NamedTuple):
    """A cell: the runs of a variant and kind, scored on a task by a metric.

    An average's variant is that of the table's row, of its baseline's runs too.
    """

    variant: folders.Variant
    kind: str
    task: str
    metric: str


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A cell with draws of its mean over new examples and new seeds; None of one seed."""

    cell: statistics.Cell
    draws: statistics.Draws | None


@dataclasses.dataclass(frozen=True)
class Cells:
    """All cells whose runs' predictions are at hand, the averages, and what could not be used."""

    drawn: Mapping[Key, Drawn]
    notes: tuple[str, ...]


# By seed, a run's metric and its draws on the resamples.
_Runs = dict[int, tuple[float, statistics.Draws]]


def draw(study: folders.Study, answers: predictions.AllAnswers, resamples: int) -> Cells:
    """Resamples the test split of every task, the same way for all runs that answered it."""
    notes: list[str] = []
    runs: dict[Key, _Runs] = {}
    for task in dict.fromkeys(task for _, task in answers):
        for group in _alike(study, task, answers):
            for record, metric, value, draws in _resampled(group, task, answers, resamples, notes):
                key = Key(record.variant, record.kind, task, metric)
                runs.setdefault(key, {})[record.seed] = value, draws
    runs = {key: by_seed for key, by_seed in runs.items() if _whole(study, key, by_seed)}
    headlines = _headline_keys(study)
    averages = {
        key: found for key, members in headlines.items() if (found := _average(runs, members))
    }
    everything = runs | averages
    cells = {
        key: statistics.cell(
            {seed: value for seed, (value, _) in by_seed.items()},
            np.stack([draws for _, draws in by_seed.values()]),
        )
        for key, by_seed in everything.items()
    }
    first = {member for members in headlines.values() for member in members}
    seeded = statistics.over_seeds(
        list(cells.values()), [key in first for key in cells], (zlib.crc32(b"seeds"),)
    )
    drawn = {
        key: Drawn(one, draws) for (key, one), draws in zip(cells.items(), seeded, strict=True)
    }
    return Cells(drawn, tuple(notes))


def _alike(
    study: folders.Study, task: str, answers: predictions.AllAnswers
) -> list[list[folders.Record]]:
    """The runs that answered a task, together with those that answered the same examples."""
    groups: dict[tuple[str, ...], list[folders.Record]] = {}
    for record in study.records:
        if (record.name, task) in answers:
            groups.setdefault(answers[record.name, task].examples, []).append(record)
    return list(groups.values())


def _resampled(
    group: Sequence[folders.Record],
    task: str,
    answers: predictions.AllAnswers,
    resamples: int,
    notes: list[str],
) -> list[tuple[folders.Record, str, float, statistics.Draws]]:
    """Every metric of the runs: its value in results.json, and on resamples."""
    units = int(scores.units_of(answers[group[0].name, task].targets).max()) + 1
    once = np.ones((1, units))
    metrics: dict[tuple[int, str], statistics.Scored] = {}
    for place, record in enumerate(group):
        mine = answers[record.name, task]
        for metric, value in record.results["test"][task].items():
            if not folders.is_metric(metric) or folders.number(value) is None:
                continue
            scored = scores.resampled(metric, mine.targets, mine.predictions)
            if scored is None:
                continue
            found = float(scored.of(once)[0])
            if not math.isclose(found, value, rel_tol=_ROUNDING, abs_tol=_ROUNDING):
                notes.append(
                    f"runs/{record.name}: {task}'s predictions give {metric} = {found:.6g}, and "
                    f"results.json says {value:.6g}: they aren't used"
                )
                continue
            metrics[place, metric] = scored
    drawn = statistics.resample(metrics, units, resamples, (zlib.crc32(task.encode()), units))
    return [
        (group[place], metric, float(group[place].results["test"][task][metric]), draws)
        for (place, metric), draws in drawn.items()
    ]


def _whole(study: folders.Study, key: Key, by_seed: _Runs) -> bool:
    """Whether no run of the cell lacks its predictions."""
    scored = {
        record.seed
        for record in study.records
        if (record.variant, record.kind) == (key.variant, key.kind) and record.results
        if folders.number(record.results["test"].get(key.task, {}).get(key.metric)) is not None
    }
    return scored == set(by_seed)


def _headline_keys(study: folders.Study) -> dict[Key, list[Key]]:
    """The cells that each average is over: of the tasks that have both kinds of run."""
    found = {}
    for variant in study.variants:
        places = {"multi_task": variant, "single_task": study.baseline(variant)}
        scored = {
            kind: {
                task for r in study.runs(variant, kind) if r.results for task in r.results["test"]
            }
            for kind in places
        }
        both = [
            (task, metric)
            for task, metric in folders.headlines(study, variant).items()
            if all(task in tasks for tasks in scored.values())
        ]
        for kind, place in places.items():
            found[Key(variant, kind, *tables.AVERAGE)] = [Key(place, kind, *pair) for pair in both]
    return found


def _average(runs: Mapping[Key, _Runs], members: Sequence[Key]) -> _Runs | None:
    """The means over the tasks of the seeds that have all; None where a task isn't at hand."""
    if not members or any(key not in runs for key in members):
        return None
    seeds = [s for s in runs[members[0]] if all(s in runs[key] for key in members)]
    return {
        seed: (
            math.fsum(runs[key][seed][0] for key in members) / len(members),
            np.mean([runs[key][seed][1] for key in members], axis=0),
        )
        for seed in seeds
    } or None
