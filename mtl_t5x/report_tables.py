"""Run folders -> records, and records -> the rows of the transfer and conflict tables."""

import dataclasses
import json
import math
import pathlib
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy import stats

# Numbers in results.json that count examples and are no metrics.
COUNTS = ("examples", "unparsed", "inputs_cut", "targets_cut")

# The share of a run's steps that figures and summaries of conflict leave out as warm-up.
WARM_UP = 0.1

Variant = tuple[str, str, str]  # architecture, prompt, labels


@dataclasses.dataclass(frozen=True)
class Record:
    """One run of a study with what its folder holds so far.

    `results` is results.json, None where the run has not finished; `steps` are the lines of
    metrics.jsonl in order of their step; `error` is the message in error.txt, if there is one.
    """

    name: str
    architecture: str
    prompt: str
    labels: str
    tasks: tuple[str, ...]
    seed: int
    kind: str
    results: Mapping[str, Any] | None
    steps: tuple[Mapping[str, Any], ...]
    error: str

    @property
    def variant(self) -> Variant:
        return self.architecture, self.prompt, self.labels


@dataclasses.dataclass(frozen=True)
class Study:
    """A study's record with all its runs; `notes` say what could not be read or computed."""

    name: str
    config: Mapping[str, Any]
    records: tuple[Record, ...]
    notes: tuple[str, ...]

    @property
    def variants(self) -> tuple[Variant, ...]:
        return tuple(dict.fromkeys(r.variant for r in self.records))


@dataclasses.dataclass(frozen=True)
class TransferRow:
    """A line of transfer.csv, in its columns' order; None stands for undefined."""

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

    @property
    def variant(self) -> Variant:
        return self.architecture, self.prompt, self.labels


def load_study(workdir: str | pathlib.Path) -> Study:
    """Reads a study's folder; what is broken in a run's files is left out and noted.

    Raises:
      FileNotFoundError: there is no study.json.
    """
    workdir = pathlib.Path(workdir)
    path = workdir / "study.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no study in {workdir}: {path} is absent. Give --workdir the folder that "
            "mtl_t5x.study was given"
        )
    study = json.loads(path.read_text(encoding="utf-8"))
    notes: list[str] = []
    records = tuple(_load_record(workdir, run, notes) for run in study["runs"])
    return Study(study["name"], study["config"], records, tuple(notes))


def _load_record(workdir: pathlib.Path, run: Mapping[str, Any], notes: list[str]) -> Record:
    folder = workdir / "runs" / run["name"]
    results = None
    path = folder / "results.json"
    if path.exists():
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
            results = results if isinstance(results["test"], dict) else None
        except (ValueError, KeyError, TypeError):
            results = None
        if results is None:
            notes.append(
                f'runs/{run["name"]}/results.json can\'t be read or has no "test": delete it '
                "and start the study again to evaluate the run anew"
            )
    error = folder / "error.txt"
    return Record(
        name=run["name"],
        architecture=run["architecture"],
        prompt=run["prompt"],
        labels=run["labels"],
        tasks=tuple(run["tasks"]),
        seed=run["seed"],
        kind=run["kind"],
        results=results,
        steps=_load_steps(folder / "metrics.jsonl", run["name"], notes),
        error=_message(error.read_text(encoding="utf-8")) if error.exists() else "",
    )


def _message(traceback: str) -> str:
    """The line of a traceback that names the error; others may follow, as gin adds one."""
    lines = traceback.strip().splitlines() or ["failed"]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    return (named or lines)[-1]


def _load_steps(path: pathlib.Path, name: str, notes: list[str]) -> tuple[Mapping[str, Any], ...]:
    if not path.exists():
        return ()
    steps = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            logged = json.loads(line)
            # A run that went on from a checkpoint logs some steps again: the later line holds.
            steps[int(logged["step"])] = logged
        except (ValueError, KeyError, TypeError):
            notes.append(f"runs/{name}/metrics.jsonl:{number}: skipped, the line is cut off")
    return tuple(steps[step] for step in sorted(steps))


def number(value: Any) -> float | None:
    """A finite float, or None for what is not (null, NaN, text, a list)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def relative_transfer(
    multi: Sequence[float], single: Sequence[float]
) -> tuple[float | None, float | None, float | None]:
    """Relative transfer 100·(m − s)/s in percent of two means, with its 95 % interval.

    With m, s the means over n_m and n_s seeds, v_m, v_s the variances (ddof = 1), R = m/s,
    a = v_m/n_m and b = R²·v_s/n_s, the delta method gives Var(R) ≈ (a + b)/s², and the interval
    is 100·(R − 1 ± t·√(a + b)/s), t the 0.975 quantile of Student's distribution with
    (a + b)²/(a²/(n_m − 1) + b²/(n_s − 1)) degrees of freedom. The two groups are taken as
    independent, which is on the safe side where runs of one seed resemble each other.

    Sources: Casella and Berger, Statistical Inference (2002), 5.5.4 (delta method for a ratio);
    Welch, Biometrika 34 (1947), and Satterthwaite, Biometrics Bulletin 2 (1946) (degrees of
    freedom); used together for ratios of means by Hasler, Vonk and Hothorn, Statistics in
    Medicine 27 (2008).

    Returns:
      (percent, low, high). All None where a group is empty or the single-task mean is not above
      0; low and high None where a group has only one seed. Without any spread between the seeds
      low and high equal percent.
    """
    if not multi or not single:
        return None, None, None
    mean = statistics.fmean(single)
    if mean <= 0:
        return None, None, None
    ratio = statistics.fmean(multi) / mean
    percent = 100 * (ratio - 1)
    if len(multi) < 2 or len(single) < 2:
        return percent, None, None
    a = statistics.variance(multi) / len(multi)
    b = ratio**2 * statistics.variance(single) / len(single)
    # Scaled by the larger, so that tiny variances do not underflow when squared.
    scale = max(a, b)
    if scale == 0:
        return percent, percent, percent
    freedom = ((a + b) / scale) ** 2 / (
        (a / scale) ** 2 / (len(multi) - 1) + (b / scale) ** 2 / (len(single) - 1)
    )
    half = 100 * float(stats.t.ppf(0.975, freedom)) * math.sqrt(a + b) / mean
    return percent, percent - half, percent + half


Values = dict[tuple[str, str], dict[int, float]]  # (task, metric) -> seed -> value


def _test_values(records: Iterable[Record]) -> Values:
    values: Values = {}
    for record in records:
        for task, metrics in (record.results or {"test": {}})["test"].items():
            for metric, value in metrics.items():
                if metric not in COUNTS and number(value) is not None:
                    values.setdefault((task, metric), {})[record.seed] = float(value)
    return values


def headlines(study: Study, variant: Variant) -> dict[str, str]:
    """Each scored task's headline metric: the first that results.json gives, in task order.

    A test-only task such as mnli_mismatched stands behind the task whose name it begins with.
    """
    records = [r for r in study.records if r.variant == variant]
    first: dict[str, str] = {}
    for record in records:
        for task, metrics in (record.results or {"test": {}})["test"].items():
            names = [metric for metric in metrics if metric not in COUNTS]
            if names:
                first.setdefault(task, names[0])
    trained = list(dict.fromkeys(task for r in records for task in r.tasks))

    def place(task: str) -> tuple[int, bool, str]:
        owners = [i for i, t in enumerate(trained) if task == t or task.startswith(f"{t}_")]
        return (owners[0] if owners else len(trained)), task not in trained, task

    return {task: first[task] for task in sorted(first, key=place)}


def is_headline(study: Study, row: TransferRow) -> bool:
    """Whether the row is a task's headline metric, or the average of those."""
    first = headlines(study, row.variant)
    return row.task == "average" or first.get(row.task) == row.metric


def transfer_rows(study: Study) -> tuple[tuple[TransferRow, ...], tuple[str, ...]]:
    """The transfer table on the test split, and notes on what in it is undefined or partial.

    Per variant: a row per task and metric, the headline metric first, and a row `average` over
    the headline metrics of the tasks that have both kinds of run. `seeds` is the smaller of the
    two kinds' numbers of seeds.
    """
    rows: list[TransferRow] = []
    notes: list[str] = []
    for variant in study.variants:
        records = [r for r in study.records if r.variant == variant]
        multi = _test_values(r for r in records if r.kind == "multi_task")
        single = _test_values(r for r in records if r.kind == "single_task")
        first = headlines(study, variant)
        keys = dict.fromkeys([*multi, *single])
        for task, headline in first.items():
            metrics = [metric for t, metric in keys if t == task and metric != headline]
            for metric in [headline, *metrics] if (task, headline) in keys else metrics:
                key = (task, metric)
                row = _row(variant, key, multi.get(key, {}), single.get(key, {}))
                rows.append(row)
                notes += _row_notes(row)
        average, average_notes = _average(variant, first, multi, single)
        if average:
            rows.append(average)
        notes += average_notes
    return tuple(rows), tuple(notes)


def _row(
    variant: Variant, key: tuple[str, str], multi: dict[int, float], single: dict[int, float]
) -> TransferRow:
    ours, base = list(multi.values()), list(single.values())
    return TransferRow(
        *variant,
        *key,
        *_mean_sd(base),
        *_mean_sd(ours),
        *relative_transfer(ours, base),
        seeds=min(len(ours), len(base)),
    )


def _mean_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
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
    variant: Variant, first: Mapping[str, str], multi: Values, single: Values
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
    row = _row(variant, ("average", "headline metrics"), *samples)
    return row, notes + _row_notes(row)


def conflict_groups(record: Record) -> tuple[str, ...]:
    """The parameter groups whose conflict a run measured, as `encoder`."""
    keys = dict.fromkeys(key for step in record.steps for key in step)
    parts = [key.split("/") for key in keys if key.startswith("conflict/")]
    return tuple(dict.fromkeys("/".join(p[1:-1]) for p in parts if len(p) > 2))


def mean_cosine(matrix: Any) -> float | None:
    """The mean of a K×K cosine matrix off its diagonal; None where an entry is not finite."""
    if not isinstance(matrix, list) or len(matrix) < 2:
        return None
    values = [
        number(value) for i, row in enumerate(matrix) for j, value in enumerate(row) if i != j
    ]
    return None if None in values else statistics.fmean(values)


def conflict_rows(study: Study) -> tuple[dict[str, Any], ...]:
    """A row per multi-task run, measured step and group; every number logged gets a column."""
    rows = []
    for record in study.records:
        if record.kind != "multi_task":
            continue
        for group in conflict_groups(record):
            prefix = f"conflict/{group}/"
            for step in record.steps:
                logged = {
                    key[len(prefix) :]: value
                    for key, value in step.items()
                    if key.startswith(prefix) and "/" not in key[len(prefix) :]
                }
                if logged:
                    cosine = logged.pop("cosine", None)
                    rows.append(
                        {
                            "run": record.name,
                            "seed": record.seed,
                            "step": step["step"],
                            "group": group,
                            **{key: number(value) for key, value in logged.items()},
                            "mean_cosine": mean_cosine(cosine),
                        }
                    )
    return tuple(rows)


def after_warm_up(record: Record) -> tuple[Mapping[str, Any], ...]:
    """The run's logged steps without the first tenth of its steps."""
    last = record.steps[-1]["step"] if record.steps else 0
    return tuple(step for step in record.steps if step["step"] > WARM_UP * last)
