"""A study's folder -> records of its runs, read as far as they have come."""

import dataclasses
import json
import math
import re
import shlex
import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from etils import epath

from mtl_t5x.storage import files
from mtl_t5x.storage.results import finished, is_damaged, last_step

# Numbers in results.json that count examples and are no metrics.
COUNTS = (
    "examples",
    "unparsed",
    "inputs_cut",
    "targets_cut",
    "inputs_longest",
    "targets_longest",
    "rows_dropped",
    "spans_unreachable",
    "spans_cut",
)

WEIGHTED = "weighted"  # a sweep's runs that don't weigh every task 1

# What opens a group's name in metrics.jsonl where the figure is of a fixed point.
FIXED_POINT = "fixed_point"

# What names, beside a run's results, the tasks whose figures of "test" are of dev.
FROM_DEV = "from_dev"

# The share of its steps that counts as warm-up where a run logs no learning rate.
WARM_UP = 0.1

Variant = tuple[str, str, str]  # architecture, prompt, labels


@dataclasses.dataclass(frozen=True)
class Record:
    """One run of a study with what its folder holds so far.

    `results` is results.json, None where the run has not finished; `steps` are the lines of
    metrics.jsonl in order of their step; `error` is the message in error.txt, if there is one.
    `baseline` is the variant whose single-task runs a multi-task run is compared with; None: its
    own. `weighting` is how a multi-task run of a sweep weighs its tasks; the kind of those that
    don't weigh all 1 is `weighted`. `folder` is where all that is; None of figures that come from
    elsewhere.
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
    baseline: Variant | None = None
    weighting: str | None = None
    folder: epath.Path | None = None

    @property
    def variant(self) -> Variant:
        return self.architecture, self.prompt, self.labels


@dataclasses.dataclass(frozen=True)
class Study:
    """A study's record with all its runs; `notes` say what could not be read or computed.

    `command` makes it and its report anew, with DIR for its folder; `versions` are those that it
    was started with. Both are empty where they aren't known. The runs that a sweep's other
    weightings add are in `weighted` alone.
    """

    name: str
    config: Mapping[str, Any]
    records: tuple[Record, ...]
    notes: tuple[str, ...]
    command: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    weighted: tuple[Record, ...] = ()

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The tables' rows: without those that were only trained as baselines of others."""
        named = {r.baseline for r in self.records}
        mine = [r for r in self.records if r.kind == "multi_task" or r.variant not in named]
        return tuple(dict.fromkeys(r.variant for r in mine))

    def baseline(self, variant: Variant) -> Variant:
        """The variant whose single-task runs a row is compared with."""
        mine = [r for r in self.records if r.variant == variant and r.kind == "multi_task"]
        return next((r.baseline for r in mine if r.baseline), variant)

    def runs(self, variant: Variant, kind: str | None = None) -> tuple[Record, ...]:
        """A row's multi-task runs and its baseline's single-task runs, or one kind of these."""
        place = {"multi_task": variant, "single_task": self.baseline(variant)}
        return tuple(
            r for r in self.records if r.variant == place[r.kind] and kind in (None, r.kind)
        )


def load_study(workdir: epath.PathLike) -> Study:
    """Reads a study's folder; what is broken in a run's files is left out and noted.

    Raises:
      FileNotFoundError: there is no study.json.
    """
    workdir = epath.Path(workdir)
    path = workdir / "study.json"
    if not path.exists():
        raise FileNotFoundError(
            f"no study in {workdir}: {path} is absent. Give --workdir the folder that "
            "mtl_t5x.study was given"
        )
    study = json.loads(path.read_text(encoding="utf-8"))
    notes: list[str] = []
    records = [load_record(workdir / "runs" / run["name"], run, notes) for run in study["runs"]]
    notes += _absent_headlines(study["config"].get("headlines", {}), records)
    # Studies of earlier versions of this package have no flags and no versions.
    config, _, preset = study["name"].partition(":")
    path = ":".join(filter(None, (f"configs/{config}.py", preset)))
    flags = shlex.join(study.get("flags", ())) or f"--config={path}"
    return Study(
        study["name"],
        study["config"],
        tuple(record for record in records if record.kind != WEIGHTED),
        tuple(notes),
        command=f"python -m mtl_t5x.study {flags} --workdir=DIR",
        versions=study.get("versions", {}),
        weighted=tuple(record for record in records if record.kind == WEIGHTED),
    )


def _absent_headlines(chosen: Mapping[str, str], records: Iterable[Record]) -> Iterator[str]:
    """Notes on metrics that the config would show first and that no run has."""
    for task, metric in chosen.items():
        scored = [record.results["test"] for record in records if record.results]
        found = [scores[task] for scores in scored if task in scores]
        if found and not any(metric in scores for scores in found):
            yield (
                f"config.headlines names {metric!r} of {task}, which has {', '.join(found[0])}: "
                "the first of these is shown"
            )


def load_record(folder: epath.Path, run: Mapping[str, Any], notes: list[str]) -> Record:
    """What a run's folder holds; `run` is as in study.json, and `notes` get what is broken."""
    found = _with_dev(finished(folder, last_step(run.get("gin_bindings", ()))), notes)
    if is_damaged(folder):
        notes.append(
            f'runs/{run["name"]}/results.json can\'t be read or has no "test": start the study '
            "again, which evaluates the run anew"
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
        results=found,
        steps=_load_steps(folder / "metrics.jsonl", run["name"], notes),
        error=_message(error.read_text(encoding="utf-8")) if error.exists() else "",
        baseline=tuple(run["baseline"]) if "baseline" in run else None,
        weighting=run.get("weighting"),
        folder=folder,
    )


def _with_dev(results: Mapping[str, Any] | None, notes: list[str]) -> Mapping[str, Any] | None:
    """The results, with dev's scores in place of the test split's where a task has none.

    `FROM_DEV` names these tasks.
    """
    dev = (results or {}).get("dev", {})
    tasks = [task for task in dev if task not in results["test"]]
    if not tasks:
        return results
    note = f"{', '.join(tasks)}: scored on the dev split, as there is no test split"
    if note not in notes:
        notes.append(note)
    # A loss is none of the task's metrics; the test split has none.
    scores = {task: {k: v for k, v in dev[task].items() if k != "loss"} for task in tasks}
    return {**results, "test": {**results["test"], **scores}, FROM_DEV: tasks}


def _message(traceback: str) -> str:
    """The line of a traceback that names the error; others may follow, as gin adds one."""
    lines = traceback.strip().splitlines() or ["failed"]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    return (named or lines)[-1]


def _load_steps(path: epath.Path, name: str, notes: list[str]) -> tuple[Mapping[str, Any], ...]:
    lines, broken = files.read_steps(path)
    for number in broken:
        notes.append(f"runs/{name}/metrics.jsonl:{number}: skipped, the line is cut off")
    # A run that went on from a checkpoint logs some steps again: the later line holds.
    steps = {line["step"]: line for line in lines}
    return tuple(steps[step] for step in sorted(steps))


def number(value: Any) -> float | None:
    """A finite float, or None for what is not (null, NaN, text, a list)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def is_metric(name: str) -> bool:
    """Whether a number of results.json is a metric, and no count of examples."""
    return name.removeprefix("teacher_forced_") not in COUNTS


def mean_counts(records: Iterable[Record], task: str) -> dict[str, float]:
    """A task's counts on the test split and of cut training examples, averaged over runs."""
    logged: dict[str, list[float]] = {}
    for record in records:
        results = record.results or {"test": {}}
        counts = {k: v for k, v in results["test"].get(task, {}).items() if k in COUNTS}
        train = results.get("train", {}).get(task, {})
        counts |= {f"train {name}": value for name, value in train.items()}
        for name, value in counts.items():
            if number(value) is not None:
                logged.setdefault(name, []).append(float(value))
    order = [*(name for name in COUNTS if name in logged), *logged]
    return {name: statistics.fmean(logged[name]) for name in order}


def headlines(study: Study, variant: Variant) -> dict[str, str]:
    """Each scored task's headline metric, in task order: the one that the config's `headlines`
    names, else the first that results.json gives.

    A test-only task such as mnli_mismatched stands behind the task whose name it begins with.
    """
    records = study.runs(variant)
    chosen = study.config.get("headlines", {})
    first: dict[str, str] = {}
    for record in records:
        for task, metrics in (record.results or {"test": {}})["test"].items():
            names = [metric for metric in metrics if is_metric(metric)]
            if names:
                first.setdefault(task, chosen[task] if chosen.get(task) in names else names[0])
    trained = list(dict.fromkeys(task for r in records for task in r.tasks))

    def place(task: str) -> tuple[int, bool, str]:
        owners = [i for i, t in enumerate(trained) if task == t or task.startswith(f"{t}_")]
        return (owners[0] if owners else len(trained)), task not in trained, task

    return {task: first[task] for task in sorted(first, key=place)}


def conflict_groups(record: Record) -> tuple[str, ...]:
    """The parameter groups whose conflict a run measured, as `encoder`, `fixed_point/encoder`."""
    keys = dict.fromkeys(key for step in record.steps for key in step)
    parts = [key.split("/") for key in keys if key.startswith("conflict/")]
    return tuple(dict.fromkeys("/".join(p[1:-1]) for p in parts if len(p) > 2))


def has_fixed_points(record: Record, group: str) -> bool:
    """Whether a run measured a group's conflict on many examples at fixed points."""
    return f"{FIXED_POINT}/{group}" in conflict_groups(record)


def conflict_key(record: Record, group: str, name: str) -> str:
    """Where a run logs a figure of a group's conflict: of fixed points, if it has any.

    Else it is that of the steps' own batches, whose noise lengthens the gradients and shrinks their
    cosines.
    """
    key = f"conflict/{FIXED_POINT}/{group}/{name}"
    return key if any(key in step for step in record.steps) else f"conflict/{group}/{name}"


def warm_up_end(record: Record) -> int:
    """The step at which the learning rate is highest; a tenth of the steps where none is logged."""
    rates = [(number(s.get("learning_rate")), s["step"]) for s in record.steps]
    known = [(rate, -step) for rate, step in rates if rate is not None]
    if known:
        return -max(known)[1]
    return math.ceil(WARM_UP * record.steps[-1]["step"]) if record.steps else 0
