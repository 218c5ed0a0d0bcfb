"""A study's records -> everything that its report says."""

from mtl_t5x.report import findings, folders, tables

# Of the bootstrap; an interval's ends are the 250th and the 9,750th of them.
RESAMPLES = 10_000


def analyse(study: folders.Study, resamples: int = RESAMPLES) -> findings.Analysis:
    """What the study's runs say, as far as they have come."""
    rows, notes = tables.transfer_rows(study)
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
        transfers=tuple(_transfer(study, row) for row in rows),
        differences=(),
        conflicts=(),
        cosines=(),
        shares=(),
        noise_scales=(),
        slowdowns=(),
        gaps=(),
        associations=(),
        flips=(),
        notes=(*study.notes, *notes),
    )


def _transfer(study: folders.Study, row: tables.TransferRow) -> findings.Transfer:
    difference = None
    if row.single_mean is not None and row.multi_mean is not None:
        difference = row.multi_mean - row.single_mean
    percent = findings.Estimate(row.relative_transfer_percent, row.ci95_low, row.ci95_high)
    return findings.Transfer(
        variant=row.variant,
        task=row.task,
        metric=row.metric,
        headline=tables.is_headline(study, row),
        baseline=study.baseline(row.variant),
        single=findings.Estimate(row.single_mean),
        multi=findings.Estimate(row.multi_mean),
        single_by_seed=(),
        multi_by_seed=(),
        difference=findings.Estimate(difference),
        percent=percent,
        verdict=findings.Verdict(None, None, findings.UNDECIDED),
        smallest_points=None,
        smallest_percent=None,
        rank=findings.Estimate(None),
        examples=None,
        seeds=row.seeds,
        seeds_needed=None,
        method=findings.SEEDS_ONLY,
    )
