"""Records of runs -> the rows of the transfer and conflict tables."""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from mtl_t5x.report import findings, folders

# What the average over the tasks is called: its task, and its metric.
AVERAGE = ("average", "headline metrics")


@dataclasses.dataclass(frozen=True)
class TransferRow:
    """A line of transfer.csv, in its columns' order; None stands for undefined.

    `baseline` names the variant, as "text_to_text.null.semantic", whose runs of a task alone give
    the single-task figures. The columns from `difference` on are those of `findings.Transfer`.
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
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    p_value: float | None
    q_value: float | None
    verdict: str
    smallest_percent: float | None
    rank: float | None
    rank_low: float | None
    rank_high: float | None
    examples: int | None
    method: str

    @property
    def variant(self) -> folders.Variant:
        return self.architecture, self.prompt, self.labels


@dataclasses.dataclass(frozen=True)
class Sample:
    """A metric of a task, or the average over tasks, by seed, of a variant and its baseline.

    `headline`: whether the metric is the task's first.
    """

    variant: folders.Variant
    baseline: folders.Variant
    task: str
    metric: str
    headline: bool
    multi: Mapping[int, float]
    single: Mapping[int, float]

    @property
    def seeds(self) -> int:
        return min(len(self.multi), len(self.single))

    @property
    def percent(self) -> float | None:
        """Relative transfer; None where it is undefined."""
        return ratio(list(self.multi.values()), list(self.single.values())).percent

    def transfer(self) -> tuple[float | None, float | None, float | None]:
        """Relative transfer, with the seeds alone as the sample; see `relative_transfer`."""
        return relative_transfer(list(self.multi.values()), list(self.single.values()))


def transfer_row(effect: findings.Transfer) -> TransferRow:
    """The line of transfer.csv on an effect."""
    single, multi = ([v for _, v in s] for s in (effect.single_by_seed, effect.multi_by_seed))
    return TransferRow(
        *effect.variant,
        effect.task,
        effect.metric,
        *mean_sd(single),
        *mean_sd(multi),
        *dataclasses.astuple(effect.percent),
        effect.seeds,
        ".".join(effect.baseline),
        *dataclasses.astuple(effect.difference),
        *dataclasses.astuple(effect.verdict),
        effect.smallest_percent,
        *dataclasses.astuple(effect.rank),
        effect.examples,
        effect.method,
    )


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
    a = _variance_of_mean(multi)
    b = quotient**2 * _variance_of_mean(single)
    if a + b == 0:
        return Ratio(percent, 0.0, None)
    return Ratio(percent, 100 * math.sqrt(a + b) / mean, _freedom(a, b, len(multi), len(single)))


def _variance_of_mean(values: Sequence[float]) -> float:
    return float(np.var(values, ddof=1)) / len(values)


def _freedom(a: float, b: float, first: int, second: int) -> float:
    """Satterthwaite's degrees of freedom of a sum of two variances of means."""
    scale = max(a, b)  # so that tiny variances do not underflow when squared
    a, b = a / scale, b / scale
    return (a + b) ** 2 / (a**2 / (first - 1) + b**2 / (second - 1))


def welch(multi: Sequence[float], single: Sequence[float]) -> tuple[float, float, float] | None:
    """(low, high, p) of the difference of two means: its 95 % interval and Welch's t test of 0.

    None where a group has only one value, or there is no spread at all.
    """
    if len(multi) < 2 or len(single) < 2:
        return None
    a, b = _variance_of_mean(multi), _variance_of_mean(single)
    if a + b == 0:
        return None
    difference = statistics.fmean(multi) - statistics.fmean(single)
    student = stats.t(_freedom(a, b, len(multi), len(single)))
    error = math.sqrt(a + b)
    half = float(student.ppf(0.975)) * error
    return difference - half, difference + half, 2 * float(student.sf(abs(difference) / error))


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


def is_headline(study: folders.Study, row: TransferRow | Sample) -> bool:
    """Whether the row is a task's headline metric, or the average of those."""
    first = folders.headlines(study, row.variant)
    return row.task == "average" or first.get(row.task) == row.metric


def samples(study: folders.Study) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """What transfer is computed from on the test split, and notes on what is missing or undefined.

    Per variant: a sample per task and metric, the headline metric first, and one called `average`
    over the headline metrics of the tasks that have both kinds of run.
    """
    found: list[Sample] = []
    notes: list[str] = []
    for variant in study.variants:
        multi = test_values(study.runs(variant, "multi_task"))
        single = test_values(study.runs(variant, "single_task"))
        first = folders.headlines(study, variant)
        keys = dict.fromkeys([*multi, *single])
        mine = []
        for task, headline in first.items():
            metrics = [metric for t, metric in keys if t == task and metric != headline]
            for metric in [headline, *metrics] if (task, headline) in keys else metrics:
                key = (task, metric)
                values = (multi.get(key, {}), single.get(key, {}))
                first_one = metric == headline
                mine.append(Sample(variant, study.baseline(variant), *key, first_one, *values))
        average, average_notes = _average(study, variant, first, multi, single)
        mine += [average] if average else []
        found += mine
        notes += [note for sample in mine for note in _notes(sample)] + average_notes
    return tuple(found), tuple(notes)


def mean_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean and the standard deviation (n - 1); None of too few values."""
    return (
        statistics.fmean(values) if values else None,
        float(np.std(values, ddof=1)) if len(values) > 1 else None,
    )


def _notes(sample: Sample) -> list[str]:
    single, _ = mean_sd(list(sample.single.values()))
    if single is None or single > 0:
        return []
    return [
        f"{'.'.join(sample.variant)}, {sample.task}, {sample.metric}: the single-task mean is "
        f"{single:.3g}, not above 0, so relative transfer is undefined"
    ]


def _average(
    study: folders.Study,
    variant: folders.Variant,
    first: Mapping[str, str],
    multi: Values,
    single: Values,
) -> tuple[Sample | None, list[str]]:
    """The averages: each seed's mean over tasks is one value of the sample."""
    keys = [key for key in first.items() if key in multi and key in single]
    if not keys:
        return None, []
    where = ".".join(variant)
    notes = []
    left_out = [task for task in first if (task, first[task]) not in keys]
    if left_out:
        notes.append(f"{where}: the average leaves out {', '.join(left_out)}: one kind is missing")
    means = []
    for kind, values in (("multi-task", multi), ("single-task", single)):
        seeds = sorted({seed for key in keys for seed in values[key]})
        whole = [s for s in seeds if all(s in values[key] for key in keys)]
        if len(whole) < len(seeds):
            partial = sorted(set(seeds) - set(whole))
            notes.append(f"{where}: the {kind} average leaves out the incomplete seeds {partial}")
        means.append({s: statistics.fmean(values[key][s] for key in keys) for s in whole})
    return Sample(variant, study.baseline(variant), *AVERAGE, True, *means), notes


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
