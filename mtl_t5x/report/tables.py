"""Records of runs -> the rows of the transfer and conflict tables."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from scipy import stats

from mtl_t5x.report import folders


@dataclasses.dataclass(frozen=True)
class TransferRow:
    """A line of transfer.csv, in its columns' order; None stands for undefined.

    `baseline` names the variant, as "text_to_text.null.semantic", whose runs of a task alone give
    the single-task figures.
    """

    architecture: str
    prompt: str
    labels: str
    task: str
    metric: str
    single_mean: float | None
    single_sd: float | None
    multi_mean: float | None
    multi_sd: float | None
    relative_transfer_percent: float | None
    ci95_low: float | None
    ci95_high: float | None
    seeds: int
    baseline: str

    @property
    def variant(self) -> folders.Variant:
        return self.architecture, self.prompt, self.labels


class Ratio(NamedTuple):
    """Relative transfer in percent, its standard error and that one's degrees of freedom."""

    percent: float | None
    error: float | None
    freedom: float | None


def ratio(multi: Sequence[float], single: Sequence[float]) -> Ratio:
    """Relative transfer 100·(m − s)/s in percent of two means, with its standard error.

    With m, s the means over n_m and n_s seeds, v_m, v_s the variances (ddof = 1), R = m/s,
    a = v_m/n_m and b = R²·v_s/n_s, the delta method gives Var(R) ≈ (a + b)/s², with
    (a + b)²/(a²/(n_m − 1) + b²/(n_s − 1)) degrees of freedom. The two groups are taken as
    independent, which is on the safe side where runs of one seed resemble each other.

    Sources: Casella and Berger, Statistical Inference (2002), 5.5.4 (delta method for a ratio);
    Welch, Biometrika 34 (1947), and Satterthwaite, Biometrics Bulletin 2 (1946) (degrees of
    freedom); used together for ratios of means by Hasler, Vonk and Hothorn, Statistics in
    Medicine 27 (2008).

    Returns:
      All None where a group is empty or the single-task mean is not above 0; no error where a group
      has only one seed; without any spread between the seeds an error of 0.
    """
    if not multi or not single:
        return Ratio(None, None, None)
    mean = statistics.fmean(single)
    if mean <= 0:
        return Ratio(None, None, None)
    quotient = statistics.fmean(multi) / mean
    percent = 100 * (quotient - 1)
    if len(multi) < 2 or len(single) < 2:
        return Ratio(percent, None, None)
    a = statistics.variance(multi) / len(multi)
    b = quotient**2 * statistics.variance(single) / len(single)
    # Scaled by the larger, so that tiny variances do not underflow when squared.
    scale = max(a, b)
    if scale == 0:
        return Ratio(percent, 0.0, None)
    freedom = ((a + b) / scale) ** 2 / (
        (a / scale) ** 2 / (len(multi) - 1) + (b / scale) ** 2 / (len(single) - 1)
    )
    return Ratio(percent, 100 * math.sqrt(a + b) / mean, freedom)


def relative_transfer(
    multi: Sequence[float], single: Sequence[float]
) -> tuple[float | None, float | None, float | None]:
    """Relative transfer as `ratio` has it, with its 95 % interval.

    The interval is the percentage ± t times its standard error, t the 0.975 quantile of Student's
    distribution with its degrees of freedom.

    Returns:
      (percent, low, high). All None where `ratio` is undefined; low and high None where a group has
      only one seed. Without any spread between the seeds low and high equal percent.
    """
    percent, error, freedom = ratio(multi, single)
    if error is None:
        return percent, None, None
    half = float(stats.t.ppf(0.975, freedom)) * error if error else 0.0
    return percent, percent - half, percent + half


Values = dict[tuple[str, str], dict[int, float]]  # (task, metric) -> seed -> value


def test_values(records: Iterable[folders.Record]) -> Values:
    """The test split's finite metrics by task, metric and seed."""
    values: Values = {}
    for record in records:
        for task, metrics in (record.results or {"test": {}})["test"].items():
            for metric, value in metrics.items():
                if folders.is_metric(metric) and folders.number(value) is not None:
                    values.setdefault((task, metric), {})[record.seed] = float(value)
    return values


def is_headline(study: folders.Study, row: TransferRow) -> bool:
    """Whether the row is a task's headline metric, or the average of those."""
    first = folders.headlines(study, row.variant)
    return row.task == "average" or first.get(row.task) == row.metric


def transfer_rows(study: folders.Study) -> tuple[tuple[TransferRow, ...], tuple[str, ...]]:
    """The transfer table on the test split, and notes on what in it is undefined or partial.

    Per variant: a row per task and metric, the headline metric first, and a row `average` over
    the headline metrics of the tasks that have both kinds of run. The single-task runs are those of
    the variant's baseline. `seeds` is the smaller of the two kinds' numbers of seeds.
    """
    rows: list[TransferRow] = []
    notes: list[str] = []
    for variant in study.variants:
        baseline = ".".join(study.baseline(variant))
        multi = test_values(study.runs(variant, "multi_task"))
        single = test_values(study.runs(variant, "single_task"))
        first = folders.headlines(study, variant)
        keys = dict.fromkeys([*multi, *single])
        for task, headline in first.items():
            metrics = [metric for t, metric in keys if t == task and metric != headline]
            for metric in [headline, *metrics] if (task, headline) in keys else metrics:
                key = (task, metric)
                row = _row(variant, key, multi.get(key, {}), single.get(key, {}), baseline)
                rows.append(row)
                notes += _row_notes(row)
        average, average_notes = _average(variant, first, multi, single, baseline)
        if average:
            rows.append(average)
        notes += average_notes
    return tuple(rows), tuple(notes)


def _row(
    variant: folders.Variant,
    key: tuple[str, str],
    multi: dict[int, float],
    single: dict[int, float],
    baseline: str,
) -> TransferRow:
    ours, base = list(multi.values()), list(single.values())
    return TransferRow(
        *variant,
        *key,
        *mean_sd(base),
        *mean_sd(ours),
        *relative_transfer(ours, base),
        seeds=min(len(ours), len(base)),
        baseline=baseline,
    )


def mean_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean and the standard deviation (n - 1); None of too few values."""
    return (
        statistics.fmean(values) if values else None,
        statistics.stdev(values) if len(values) > 1 else None,
    )


def _row_notes(row: TransferRow) -> list[str]:
    where = f"{'.'.join(row.variant)}, {row.task}, {row.metric}"
    if row.single_mean is not None and row.single_mean <= 0:
        return [
            f"{where}: the single-task mean is {row.single_mean:.3g}, not above 0, so relative "
            "transfer is undefined"
        ]
    if row.single_sd == 0 and row.multi_sd == 0:
        return [f"{where}: no spread between the seeds, so the interval has no width"]
    return []


def _average(
    variant: folders.Variant,
    first: Mapping[str, str],
    multi: Values,
    single: Values,
    baseline: str,
) -> tuple[TransferRow | None, list[str]]:
    """The row of the averages: each seed's mean over tasks is one value of the sample."""
    keys = [key for key in first.items() if key in multi and key in single]
    if not keys:
        return None, []
    where = ".".join(variant)
    notes = []
    left_out = [task for task in first if (task, first[task]) not in keys]
    if left_out:
        notes.append(f"{where}: the average leaves out {', '.join(left_out)}: one kind is missing")
    samples = []
    for kind, values in (("multi-task", multi), ("single-task", single)):
        seeds = sorted({seed for key in keys for seed in values[key]})
        whole = [s for s in seeds if all(s in values[key] for key in keys)]
        if len(whole) < len(seeds):
            partial = sorted(set(seeds) - set(whole))
            notes.append(f"{where}: the {kind} average leaves out the incomplete seeds {partial}")
        samples.append({s: statistics.fmean(values[key][s] for key in keys) for s in whole})
    row = _row(variant, ("average", "headline metrics"), *samples, baseline)
    return row, notes + _row_notes(row)


def conflict_rows(study: folders.Study) -> tuple[dict[str, Any], ...]:
    """A row per multi-task run, measured step and group; every number logged gets a column.

    Matrices stay in metrics.jsonl.
    """
    rows = []
    for record in study.records:
        if record.kind != "multi_task":
            continue
        for group in folders.conflict_groups(record):
            prefix = f"conflict/{group}/"
            for step in record.steps:
                logged = {
                    key[len(prefix) :]: value
                    for key, value in step.items()
                    if key.startswith(prefix)
                    and "/" not in key[len(prefix) :]
                    and not isinstance(value, list)
                }
                if logged:
                    rows.append(
                        {
                            "run": record.name,
                            "seed": record.seed,
                            "step": step["step"],
                            "group": group,
                            **{key: folders.number(value) for key, value in logged.items()},
                        }
                    )
    return tuple(rows)
