"""Studies whose true effects are known: answers drawn from a model of tasks, examples and seeds.

An answer's evidence is mean + example + kind's own share of the example + seed's own share + seed:
the first three normal parts are drawn anew for every example, the last for every run.
"""

import dataclasses
import functools
import json

import numpy as np
from scipy import optimize, stats

from mtl_t5x.report import folders, predictions

VARIANT = ("text_to_text", "default", "semantic")
# Standard deviations of what examples, kinds and seeds add to an example's evidence.
PARTS = (1.0, 0.5, 0.7)
TOTAL = float(np.sqrt(sum(part**2 for part in PARTS)))
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(31)
# Of the targets of the tasks that are scored by Matthews' correlation, as CoLA's.
POSITIVE = 0.7


def population(metric: str, mean: float, seed_sd: float) -> float:
    """The metric on endless examples, averaged over endless seeds."""
    values = of_evidence(metric, mean + seed_sd * _NODES)
    return float(np.sum(_WEIGHTS * values) / np.sum(_WEIGHTS))


def of_evidence(metric, mean):
    """The metric of one run on endless examples."""
    if metric == "accuracy":
        return 100 * stats.norm.cdf(mean / TOTAL)
    if metric == "matthews_corrcoef":
        right = stats.norm.cdf(mean / TOTAL)  # of either class
        found = POSITIVE * right + (1 - POSITIVE) * (1 - right)
        covariance = POSITIVE * right - POSITIVE * found
        return 100 * covariance / np.sqrt(found * (1 - found) * POSITIVE * (1 - POSITIVE))
    return 100 * mean / np.sqrt(mean**2 + TOTAL**2)


def mean_of(metric: str, value: float, seed_sd: float) -> float:
    """The evidence's mean that gives a value of the metric."""
    return optimize.brentq(lambda mean: population(metric, mean, seed_sd) - value, -9, 9)


@dataclasses.dataclass(frozen=True)
class Task:
    """A task's metric, what its models reach alone, what training together adds, and by how much
    runs differ, as a standard deviation of the metric in points."""

    metric: str
    alone: float
    effect: float
    seed_points: float


@functools.cache
def evidence(task: Task) -> tuple[float, float, float]:
    """Its means alone and together, and the standard deviation between seeds."""
    mean = mean_of(task.metric, task.alone, 0.0)
    step = 1e-4
    slope = np.ptp(of_evidence(task.metric, np.array([mean - step, mean + step]))) / (2 * step)
    seed_sd = task.seed_points / slope
    values = (task.alone, task.alone + task.effect)
    return *(mean_of(task.metric, value, seed_sd) for value in values), seed_sd


def answers(rng, task: Task, examples: int, seeds: int) -> dict[tuple[str, int], tuple]:
    """(targets, predictions) by kind and seed."""
    alone, together, seed_sd = evidence(task)
    of_example = PARTS[0] * rng.standard_normal(examples)
    targets = rng.random(examples) < POSITIVE
    scores = rng.standard_normal(examples)
    found = {}
    for kind, mean in (("single_task", alone), ("multi_task", together)):
        of_kind = of_example + PARTS[1] * rng.standard_normal(examples)
        for seed in range(seeds):
            noise = of_kind + PARTS[2] * rng.standard_normal(examples)
            signal = mean + seed_sd * rng.standard_normal()
            if task.metric == "pearson_corrcoef":
                found[kind, seed] = scores, signal * scores + noise
            else:
                right = signal + noise > 0
                found[kind, seed] = targets.astype(int), (targets == right).astype(int)
    return found


def study(rng, tasks: dict[str, Task], examples: int, seeds: int):
    """A study and its answers, as `predictions.read_all` gives them."""
    records, found = [], {}
    drawn = {name: answers(rng, task, examples, seeds) for name, task in tasks.items()}
    numbers = tuple(map(str, range(examples)))
    texts = ("",) * examples

    def record(kind, names, seed):
        name = f"{'.'.join(VARIANT)}.{kind}.{'-'.join(names)}.seed{seed}"
        test = {}
        for task in names:
            targets, predicted = drawn[task][kind, seed]
            found[name, task] = predictions.Answers(
                numbers, texts, texts, texts, targets, predicted
            )
            test[task] = {tasks[task].metric: value(tasks[task].metric, targets, predicted)}
        records.append(
            folders.Record(
                name, *VARIANT, tuple(names), seed, kind, {"step": 10, "test": test}, (), ""
            )
        )

    for seed in range(seeds):
        record("multi_task", list(tasks), seed)
        for task in tasks:
            record("single_task", [task], seed)
    return folders.Study("simulated", {}, tuple(records), ()), found


def value(metric, targets, predicted):
    x, y = np.asarray(targets, float), np.asarray(predicted, float)
    if metric == "accuracy":
        return 100 * float(np.mean(x == y))
    return 100 * float(np.corrcoef(x, y)[0, 1]) if np.ptp(y) else 0.0


def write(workdir, simulated, found) -> None:
    """The study's folder: study.json, results.json and predictions in the form of SeqIO's."""
    runs = []
    for record in simulated.records:
        folder = workdir / "runs" / record.name
        (folder / "inference_eval").mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(record.results))
        fields = ("name", "architecture", "prompt", "labels", "tasks", "seed", "kind")
        runs.append({field: getattr(record, field) for field in fields})
        if record.weighting is not None:
            runs[-1]["weighting"] = record.weighting
        for task in record.results["test"]:
            mine = found[record.name, task]
            lines = []
            for i, (target, said) in enumerate(
                zip(mine.targets.tolist(), mine.predictions.tolist(), strict=True)
            ):
                text = {"idx": i, "inputs_pretokenized": f"{task} {i}"}
                text["targets_pretokenized"] = str(target)
                line = {"input": text, "target": target, "output": str(said), "prediction": said}
                lines.append(json.dumps(line) + "\n")
            path = folder / "inference_eval" / f"glue_{task}.default.semantic-000010.jsonl"
            path.write_text("".join(lines))
    text = json.dumps({"name": "simulated", "config": {"data": "mini"}, "runs": runs})
    (workdir / "study.json").write_text(text)
