"""A study's records -> everything that its report says."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

from mtl_t5x.report import (
    associations,
    cells,
    conflicts,
    findings,
    flips,
    folders,
    predictions,
    sentences,
    tables,
    trajectories,
    transfers,
)

# Of the bootstrap; an interval's ends are the 250th and the 9,750th of them.
RESAMPLES = 10_000
# Of each curve's points and each pair's cosine, of which there are hundreds.
CURVES = 4_000


def analyse(study: folders.Study, resamples: int = RESAMPLES) -> findings.Analysis:
    """What the study's runs say, as far as they have come."""
    samples, notes = tables.samples(study)
    answers, unread = predictions.read_all(study)
    drawn = cells.draw(study, answers, resamples)
    sizes = {task: len(found.examples) for (_, task), found in answers.items()}
    effects, draws, without = transfers.transfers(samples, drawn, sizes)
    groups, few = _groups(study), min(resamples, CURVES)
    places = [(variant, group) for variant in study.variants for group in groups]
    measured = [conflicts.conflict(study, *place, few) for place in places]
    measured = [found for found in measured if found is not None]
    headlines = {variant: folders.headlines(study, variant) for variant in study.variants}
    tasks = dict.fromkeys(task for of_variant in headlines.values() for task in of_variant)
    found = findings.Analysis(
        resamples=resamples,
        tasks=tuple(tasks),
        variants=study.variants,
        groups=groups,
        sentences=(),
        transfers=effects,
        differences=transfers.differences(effects, draws),
        conflicts=tuple(of_group for of_group, _ in measured),
        cosines=tuple(matrix for _, matrices in measured for matrix in matrices),
        shares=_flat(conflicts.shares(study, *place, few) for place in places),
        noise_scales=_flat(conflicts.noise_scales(study, *place, few) for place in places),
        slowdowns=_flat(trajectories.slowdowns(study, v, few) for v in study.variants),
        gaps=_flat(trajectories.gaps(study, v, few) for v in study.variants),
        associations=associations.associations(study, effects, groups),
        flips=flips.flips(study, answers, headlines),
        notes=(*study.notes, *notes, *unread, *drawn.notes, *without),
    )
    return dataclasses.replace(found, sentences=sentences.sentences(found))


def _groups(study: folders.Study) -> tuple[str, ...]:
    """Of parameters whose conflict any run measured, whole stacks before their layers."""
    found = dict.fromkeys(
        group.removeprefix(f"{folders.FIXED_POINT}/")
        for record in study.records
        if record.kind == "multi_task"
        for group in folders.conflict_groups(record)
    )
    return tuple(sorted(found, key=lambda group: "/" in group))


def _flat(parts: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(itertools.chain.from_iterable(parts))
