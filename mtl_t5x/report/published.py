"""The paper's tables beside a study's own figures, cell by cell.

Source: Mueller, Andrews and Dredze, Findings of EMNLP 2022; `paper/*.csv` hold its tables as they
are printed. Its scores of generated text are teacher-forced, so those are compared where a run has
them.
"""

import csv
import dataclasses
import functools
import importlib.resources
import statistics
from collections.abc import Iterator, Mapping, Sequence

from mtl_t5x.report import folders, tables

# A cell is printed to 0.01, and so is the average: both may be off by half of it.
PRINTED = 0.01
# What the paper's score of a task may be called, the nearest to it first.
_PREFIXES = ("teacher_forced_reference_", "teacher_forced_", "reference_", "")


@dataclasses.dataclass(frozen=True)
class Printed:
    """A row of one of the paper's tables: scores on the test split by task, in percent."""

    table: str
    variant: folders.Variant
    training: str
    cells: Mapping[str, float]
    average: float

    @property
    def mean(self) -> float:
        return statistics.fmean(self.cells.values())


@dataclasses.dataclass(frozen=True)
class Cell:
    """A line of paper.csv, in its columns' order; None stands for undefined.

    The differences are ours minus the paper's, in standard errors of ours over the seeds.
    """

    architecture: str
    prompt: str
    labels: str
    training: str
    task: str
    metric: str
    paper: float
    ours: float | None
    ours_sd: float | None
    seeds: int
    difference: float | None
    difference_in_se: float | None
    paper_transfer_percent: float | None
    transfer_percent: float | None
    transfer_difference_in_se: float | None

    @property
    def variant(self) -> folders.Variant:
        return self.architecture, self.prompt, self.labels


def names() -> tuple[str, ...]:
    """The tables that there are."""
    folder = importlib.resources.files("mtl_t5x.report") / "paper"
    return tuple(sorted(path.name.removesuffix(".csv") for path in folder.iterdir()))


@functools.cache
def load(name: str) -> tuple[Printed, ...]:
    """A table's rows.

    Raises:
      ValueError: there is no such table.
    """
    if name not in names():
        raise ValueError(f"there is no table {name!r} of the paper; there are {', '.join(names())}")
    path = importlib.resources.files("mtl_t5x.report") / "paper" / f"{name}.csv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    rows = []
    for line in csv.DictReader(lines):
        variant = tuple(line.pop(field) for field in ("architecture", "prompt", "labels"))
        training, average = line.pop("training"), float(line.pop("printed_average"))
        cells = {task: float(value) for task, value in line.items()}
        rows.append(Printed(name, variant, training, cells, average))
    return tuple(rows)


def as_study(rows: Sequence[Printed]) -> folders.Study:
    """The printed cells as runs of one seed, so that they are tabulated as any study's.

    A multi-task row is compared with the single-task row of its architecture, and the text-to-text
    ones with that of `text_to_text`.
    """
    baselines = {r.variant[0]: r.variant for r in rows if r.training == "single_task"}
    records = []
    for row in rows:
        multi = row.training == "multi_task"
        tasks = tuple(row.cells)
        for trained in [tasks] if multi else [(task,) for task in tasks]:
            records.append(
                folders.Record(
                    name=f"{'.'.join(row.variant)}.{row.training}.{'-'.join(trained)}",
                    architecture=row.variant[0],
                    prompt=row.variant[1],
                    labels=row.variant[2],
                    tasks=trained,
                    seed=0,
                    kind=row.training,
                    results={"test": {task: {"score": row.cells[task]} for task in trained}},
                    steps=(),
                    error="",
                    baseline=_baseline(baselines, row.variant[0]) if multi else None,
                )
            )
    return folders.Study(rows[0].table, {}, tuple(records), ())


def _baseline(
    baselines: Mapping[str, folders.Variant], architecture: str
) -> folders.Variant | None:
    return baselines.get(architecture, baselines.get("text_to_text"))


def wrong_averages() -> tuple[str, ...]:
    """The printed averages that are no means of their rows, each in a sentence."""
    return tuple(
        f"{name}, {' · '.join(row.variant)}, {row.training.replace('_', '-')}: printed "
        f"{row.average:.2f}, and the mean of its {len(row.cells)} columns is {row.mean:.2f}"
        for name in names()
        for row in load(name)
        if abs(row.average - row.mean) > PRINTED
    )


def cells(study: folders.Study, table: str) -> tuple[Cell, ...]:
    """Every printed cell of the rows that the study has too, beside the study's own figure.

    A row `average` over all tasks of the table stands behind each; the paper's is computed from its
    cells.
    """
    printed = load(table)
    transfers = {
        (sample.variant, sample.task): sample.percent
        for sample in tables.samples(as_study(printed))[0]
    }
    found: list[Cell] = []
    for row in printed:
        if any(r.variant == row.variant and r.kind == row.training for r in study.records):
            found += _row_cells(study, row, transfers)
    return tuple(found)


def _row_cells(
    study: folders.Study,
    row: Printed,
    transfers: Mapping[tuple[folders.Variant, str], float | None],
) -> Iterator[Cell]:
    multi = row.training == "multi_task"
    mine = [r for r in study.records if (r.variant, r.kind) == (row.variant, row.training)]
    values = tables.test_values(mine)
    alone = tables.test_values(study.runs(row.variant, "single_task")) if multi else {}
    metrics = {task: _metric(study, values, row.variant, task) for task in row.cells}
    ours = {task: values.get((task, metric), {}) for task, metric in metrics.items()}
    base = {task: alone.get((task, metric), {}) for task, metric in metrics.items()}
    for by_task in (ours, base):
        whole = set.intersection(*map(set, by_task.values()))  # the seeds that have every task
        by_task["average"] = {
            seed: statistics.fmean(by_task[task][seed] for task in row.cells)
            for seed in sorted(whole)
        }
    for task, paper in {**row.cells, "average": row.mean}.items():
        sample = list(ours[task].values())
        transfer = tables.ratio(sample, list(base[task].values()))
        printed = transfers[row.variant, task] if multi else None
        mean, sd = tables.mean_sd(sample)
        error = None if sd is None else sd / len(sample) ** 0.5
        yield Cell(
            *row.variant,
            row.training,
            task,
            metrics.get(task, "metrics above"),
            paper,
            mean,
            sd,
            len(sample),
            None if mean is None else mean - paper,
            _in_errors(mean, paper, error),
            printed,
            transfer.percent,
            _in_errors(transfer.percent, printed, transfer.error),
        )


def _metric(
    study: folders.Study, values: tables.Values, variant: folders.Variant, task: str
) -> str:
    """The study's metric of a task that is nearest to what the paper scored."""
    headline = folders.headlines(study, variant).get(task, "")
    candidates = [f"{prefix}{headline}" for prefix in _PREFIXES]
    return next((name for name in candidates if (task, name) in values), headline)


def _in_errors(ours: float | None, paper: float | None, error: float | None) -> float | None:
    """Undefined where seeds are missing or equal."""
    return (ours - paper) / error if error and None not in (ours, paper) else None
