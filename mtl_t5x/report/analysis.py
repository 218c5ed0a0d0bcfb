"""A study's records -> everything that its report says."""

from mtl_t5x.report import cells, findings, folders, predictions, tables, transfers

# Of the bootstrap; an interval's ends are the 250th and the 9,750th of them.
RESAMPLES = 10_000


def analyse(study: folders.Study, resamples: int = RESAMPLES) -> findings.Analysis:
    """What the study's runs say, as far as they have come."""
    samples, notes = tables.samples(study)
    answers, unread = predictions.read_all(study)
    drawn = cells.draw(study, answers, resamples)
    sizes = {task: len(found.examples) for (_, task), found in answers.items()}
    effects, draws, without = transfers.transfers(study, samples, drawn, sizes)
    groups = dict.fromkeys(
        group.removeprefix(f"{folders.FIXED_POINT}/")
        for record in study.records
        if record.kind == "multi_task"
        for group in folders.conflict_groups(record)
    )
    tasks = dict.fromkeys(
        task for variant in study.variants for task in folders.headlines(study, variant)
    )
    return findings.Analysis(
        resamples=resamples,
        tasks=tuple(tasks),
        variants=study.variants,
        groups=tuple(sorted(groups, key=lambda group: "/" in group)),
        sentences=(),
        transfers=effects,
        differences=transfers.differences(effects, draws),
        conflicts=(),
        cosines=(),
        shares=(),
        noise_scales=(),
        slowdowns=(),
        gaps=(),
        associations=(),
        flips=(),
        notes=(*study.notes, *notes, *unread, *drawn.notes, *without),
    )
