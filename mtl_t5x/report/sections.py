"""The tables of the page: a study and its analysis -> cells of text."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mtl_t5x.report import findings, folders, fronts, published, tables, words
from mtl_t5x.report.typeset import Cell, Table, estimate, number, spread, table


def facts(study: folders.Study) -> tuple[tuple[str, str], ...]:
    """What ran, as names and values."""
    done = [r for r in study.records if r.results is not None]
    tasks = list(dict.fromkeys(task for r in study.records for task in r.tasks))
    multi = [r for r in study.records if r.kind == "multi_task"]
    seeds = sorted({r.seed for r in study.records})

    def steps(kind: str) -> str:
        found = sorted({r.results["step"] for r in done if r.kind == kind and "step" in r.results})
        return " and ".join(f"{step:,}" for step in found) or words.UNDEFINED

    return (
        ("Finished", f"{len(done)} of {len(study.records)} runs"),
        ("Runs", f"{len(multi)} multi-task, {len(study.records) - len(multi)} single-task"),
        ("Tasks", f"{len(tasks)}: {', '.join(tasks)}"),
        ("Settings", "; ".join(map(words.variant, study.variants))),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Steps", f"{steps('multi_task')} multi-task, {steps('single_task')} single-task"),
        ("Data", str(study.config.get("data", words.UNDEFINED))),
    )


def missing(study: folders.Study) -> Table | None:
    """The runs without results, and why."""
    absent = [r for r in study.records if r.results is None]
    if not absent:
        return None
    rows = [
        (r.name, Cell(f"failed: {r.error}" if r.error else "not finished", "long")) for r in absent
    ]
    caption = (
        f"Without results: {len(absent)} of {len(study.records)} runs; everything here leaves "
        "them out. Starting the study again runs them. The whole traceback of a failed run is in "
        "error.txt in its folder."
    )
    return table(caption, ("run", "state"), rows, texts=2)


def for_papers(found: findings.Analysis, paper: Sequence[published.Cell]) -> dict[str, Table]:
    """The tables that are written for papers too, by the names of their files."""
    printed = {f"transfer.{'.'.join(v)}": _verdicts(found, v) for v in found.variants}
    printed |= {f"paper.{i}": it for i, it in enumerate(beside_the_paper(paper), 1)}
    return {words.file_name(name): it for name, it in printed.items() if it.rows}


def _verdicts(found: findings.Analysis, variant: findings.Variant) -> Table:
    rows = [
        (
            one.task,
            one.metric,
            number(one.single.value, ".1f"),
            number(one.multi.value, ".1f"),
            estimate(one.percent, "+.1f"),
            number(one.verdict.q, ".3f"),
            one.verdict.word,
        )
        for one in found.transfers
        if one.variant == variant and one.headline
    ]
    head = ("task", "metric", "alone", "together", "change in %", "q", "verdict")
    last = bool(rows) and rows[-1][0] == "average"
    return table(words.variant(variant), head, rows, texts=2, last_is_foot=last)


def all_metrics(found: findings.Analysis) -> Table | None:
    """Every metric of every task and setting."""
    rows = [
        (
            words.variant(one.variant),
            one.task,
            one.metric,
            spread(one.single.value, _sd(one.single_by_seed)),
            spread(one.multi.value, _sd(one.multi_by_seed)),
            estimate(one.difference),
            estimate(one.percent, "+.1f"),
            number(one.verdict.p, ".3f"),
            str(one.seeds),
        )
        for one in found.transfers
    ]
    head = ("setting", "task", "metric", "alone", "together", "difference", "transfer in %", "p")
    caption = "On the test split: means over the seeds ± one standard deviation."
    return table(caption, (*head, "seeds"), rows, texts=3) if rows else None


def _sd(by_seed: Sequence[tuple[int, float]]) -> float | None:
    return tables.mean_sd([value for _, value in by_seed])[1]


def differences(found: findings.Analysis) -> Table | None:
    """What the architecture, the prompt or the labels change."""
    rows = [
        (
            one.changed,
            f"{words.variant(one.variant)} against {words.variant(one.other)}",
            one.task,
            one.metric,
            estimate(one.points),
            estimate(one.percent, "+.1f"),
            number(one.verdict.q, ".3f"),
            Cell(one.verdict.word, f"word {one.verdict.word}"),
        )
        for one in found.differences
    ]
    head = ("changed", "settings", "task", "metric", "points", "transfer, in % points", "q", "")
    caption = "Multi-task models of two settings that differ in one thing, on the test split."
    return table(caption, (*head[:-1], "verdict"), rows, texts=4) if rows else None


def weightings(front: fronts.Front) -> Table:
    """A row for each weighting, the best on average first."""
    tasks = [task for task, _ in front.points[0].by_task]
    verdicts = {one.name: one.verdict.word for one in front.comparisons}
    points = sorted(front.points, key=lambda point: -point.average.value)
    return table(
        f"Weightings of {words.variant(front.variant)}: multi-task minus single-task on the test "
        f"split, in points. The last column compares with {front.tuned}, the static weighting that "
        "was tuned on the dev split.",
        ("weighting", "kind", "average", "worst task", *tasks, "against tuned"),
        [
            (
                point.name,
                point.kind,
                estimate(point.average),
                estimate(point.worst),
                *(number(effect.value) for _, effect in point.by_task),
                verdicts.get(point.name, "tuned" if point.name == front.tuned else ""),
            )
            for point in points
        ],
        texts=2,
    )


def conflict_summary(study: folders.Study, conflicts: Sequence[Mapping[str, Any]]) -> Table | None:
    """Every conflict figure that the runs logged, averaged after warm-up."""
    names = ("directional", "mean_cosine", "magnitude")
    names += ("reference_directional", "reference_magnitude")
    names += tuple(n for n in ("covariance", "noise") if any(n in row for row in conflicts))
    records = {r.name: r for r in study.records}
    start = {r.name: folders.warm_up_end(r) for r in study.records}
    rows = []
    for variant in study.variants:
        mine = [row for row in conflicts if records[row["run"]].variant == variant]
        groups = dict.fromkeys(row["group"] for row in mine)
        for group in sorted(groups, key=lambda g: not g.startswith(folders.FIXED_POINT)):
            late = [
                row for row in mine if row["group"] == group and row["step"] >= start[row["run"]]
            ]
            cells = []
            for name in names:
                values = [row[name] for row in late if row.get(name) is not None]
                cells.append(number(statistics.fmean(values) if values else None, ".3g"))
            rows.append((words.variant(variant), _measured_on(group, mine), *cells))
    head = ("setting", "parameters", *(name.replace("_", " ") for name in names))
    caption = (
        "Means over the seeds and the measured steps from the highest learning rate on. "
        "Directional: (1/K²) Σ of the cosines of different tasks. The two reference forms are "
        "those that earlier figures log: the norm of the mean unit gradient, and the variance of "
        "the squared norms. Covariance and noise, at fixed points, are the variances over the "
        "tasks of their gradients' covariances' traces, and of their noise scales."
    )
    return table(caption, head, rows, texts=2) if rows else None


def _measured_on(group: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A group's name, and on what it is measured where there are fixed points too."""
    prefix = f"{folders.FIXED_POINT}/"
    if group.startswith(prefix):
        return f"{group.removeprefix(prefix)}, fixed points"
    both = any(row["group"] == prefix + group for row in rows)
    return f"{group}, small batches (diagnostic)" if both else group


def counts(study: folders.Study) -> Table | None:
    """Unparsed answers and cut examples."""
    found: dict[tuple[folders.Variant, str, str], dict[str, float]] = {}
    for variant in study.variants:
        for task in folders.headlines(study, variant):
            for kind in ("single_task", "multi_task"):
                if counted := folders.mean_counts(study.runs(variant, kind), task):
                    found[variant, task, kind] = counted
    names = dict.fromkeys(name for counted in found.values() for name in counted)
    rows = [
        (
            words.variant(variant),
            task,
            kind.replace("_", "-"),
            *(number(counted.get(name), ".4g") for name in names),
        )
        for (variant, task, kind), counted in found.items()
    ]
    head = ("setting", "task", "kind", *(name.replace("_", " ") for name in names))
    caption = (
        'Per run, mean over the seeds, on the test split unless "train" is said. Unparsed: the '
        "answer is none of the task's labels, which counts as wrong. Cut: longer than "
        "TASK_FEATURE_LENGTHS allows."
    )
    return table(caption, head, rows, texts=3) if rows else None


def beside_the_paper(cells: Sequence[published.Cell]) -> tuple[Table, ...]:
    """A table for each of the paper's rows, ours beside it."""
    head = ("task", "metric", "paper", "ours", "difference", "in s.e.")
    transfer = ("transfer, paper", "transfer, ours", "difference in s.e.")
    found = []
    for place in dict.fromkeys((cell.variant, cell.training) for cell in cells):
        variant, training = place
        multi = training == "multi_task"
        rows = []
        for cell in [cell for cell in cells if (cell.variant, cell.training) == place]:
            row: list[Cell | str] = [
                cell.task,
                cell.metric,
                number(cell.paper),
                spread(cell.ours, cell.ours_sd),
                number(cell.difference, "+.2f"),
                number(cell.difference_in_se, "+.1f"),
            ]
            if multi:
                row += [
                    number(cell.paper_transfer_percent, "+.1f"),
                    number(cell.transfer_percent, "+.1f"),
                    number(cell.transfer_difference_in_se, "+.1f"),
                ]
            rows.append(row)
        title = words.variant((*variant, training.replace("_", "-")))
        columns = (*head, *transfer) if multi else head
        found.append(table(title, columns, rows, texts=2, last_is_foot=True))
    return tuple(found)


def flips(found: Sequence[findings.Flips]) -> Table:
    """How many examples turned."""
    rows = [
        (
            one.task,
            Cell(str(one.right_to_wrong), findings.LOSS),
            Cell(str(one.wrong_to_right), findings.GAIN),
            number(one.p, ".3f"),
            str(one.both_right),
            str(one.both_wrong),
            str(one.mixed),
            Cell(one.rule, "long"),
        )
        for one in found
    ]
    head = ("task", "right → wrong", "wrong → right", "p", "right both ways", "wrong both ways")
    caption = (
        "Test examples by what all runs alone and all runs together make of them; p is McNemar's "
        "exact test of the first two counts."
    )
    return table(caption, (*head, "seeds differ", "what counts as right"), rows)
