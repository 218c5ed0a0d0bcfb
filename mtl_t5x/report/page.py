"""The report's page: one HTML file with its pictures and styles inside, for light and dark."""

import base64
import dataclasses
import html
import json
import statistics
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtl_t5x.report import folders, plots, published, tables


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure: its file's name, how to read it, and the PNG's bytes."""

    file: str
    caption: str
    png: bytes


Cell = str | tuple[str, str]  # text, or a CSS class and text

TRANSFER = (
    "Relative transfer of each task's headline metric on the test split, 0 = as good as alone; "
    "bars are means over the seeds, black lines 95 % intervals. An arrow says that the interval "
    "goes on beyond the figure; one that crosses 0 does not settle the sign."
)
CONFLICT = (
    "Directional conflict above: 0 = orthogonal gradients, above 0 the tasks agree on the whole, "
    "below 0 they oppose each other, within the dashed bounds. Magnitude conflict below grows "
    "with the gradients themselves; lines are means and bands ranges over the seeds."
)
AT_FIXED_POINTS = (
    " Measured at fixed points: on many examples of every task, dropout off, where the runs log it."
)
SMALL_BATCHES = (
    "A diagnostic: the same on each step's own small batch, whose noise lengthens the gradients "
    "and shrinks their cosines towards 0. What to read is the figure at fixed points."
)
COSINE = (
    "The cosine between two tasks' gradients, averaged over the seeds and the measured steps "
    "after warm-up: 0 = orthogonal, blue = one task's step helps the other, red = it "
    "hurts. The colour scale is symmetric about 0 and reaches as far as the values do."
)
LOSS = (
    "Training loss of each task, together with the others against alone, averaged over stretches "
    "of steps; lines are means and bands ranges over the seeds. A multi-task curve above the "
    "single-task one learns slower from the same number of its own examples."
)
PAPER = (
    "Differences are ours minus the paper's, also in standard errors (s.e.) of ours over the "
    "seeds, from two on; with two or three seeds a difference of a few s.e. settles nothing. "
    "The spread of the paper's own figures isn't printed. Its scores of generated text are "
    "teacher-forced: those are compared with ours of that kind, where the runs have them. Averages "
    "are computed from the cells."
)
EMBEDDED = (
    "This study's data are the embedded benchmark, another one than the paper's: the differences "
    "say that everything was scored, and nothing else."
)
METHOD = (
    "Relative transfer is 100 · (multi − single) / single of the means over seeds, on the test "
    "split. ± is one standard deviation over seeds (n − 1). The 95 % interval in brackets takes "
    "the seeds as the sample: delta method for the ratio of two means, Student's t with Welch's "
    "degrees of freedom; with two or three seeds it is wide, and it says nothing about other test "
    "data. Strong colour: the interval excludes 0."
)

_PAGE = string.Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #62666d; --paper: #fff;
  --line: #dcdfe4; --card: #f5f6f8; --gain: 0, 114, 178; --loss: 213, 94, 0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ea; --soft: #a0a4ab;
  --paper: #17181b; --line: #3a3d43; --card: #212328; --gain: 60, 150, 215;
  --loss: 225, 110, 30; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 66rem; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; } p, figcaption { max-width: 52rem; }
.soft, figcaption { color: var(--soft); font-size: .92rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .75rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
th { font-weight: 600; white-space: normal; } .text { text-align: left; }
td.long { white-space: normal; min-width: 20rem; }
tr.average td { border-top: 2px solid var(--soft); font-weight: 600; }
.gain { background: rgba(var(--gain), .14); } .gain.sure { background: rgba(var(--gain), .42); }
.loss { background: rgba(var(--loss), .14); } .loss.sure { background: rgba(var(--loss), .42); }
.warn { border-left: 4px solid rgb(var(--loss)); background: var(--card); padding: .5rem 1rem; }
figure { margin: 1.5rem 0; } figure img { max-width: 100%; background: #fff; border-radius: 6px;
  border: 1px solid var(--line); }
pre { background: var(--card); padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; }
summary { cursor: pointer; font-weight: 600; margin: 1rem 0 .5rem; }
</style></head><body>
$body
</body></html>
""")


def render(
    study: folders.Study,
    rows: Sequence[tables.TransferRow],
    cells: Sequence[published.Cell],
    conflicts: Sequence[Mapping[str, Any]],
    figures: Sequence[Plot],
    notes: Sequence[str],
) -> str:
    """The whole page as text."""
    parts = [
        *_what_ran(study),
        *_missing(study),
        *_headline_tables(study, rows),
        *_beside_the_paper(study, cells),
        "<h2>Figures</h2>" if figures else "",
        *map(_figure, figures),
        *_conflict_summary(study, conflicts),
        *_counts(study),
        *_all_metrics(rows),
        *_notes(notes),
        "<details><summary>Study configuration</summary><pre>",
        html.escape(json.dumps(study.config, indent=2)),
        "</pre></details>",
    ]
    return _PAGE.substitute(title=f"Study {html.escape(study.name)}", body="\n".join(parts))


def _table(
    head: Sequence[str],
    lines: Iterable[Sequence[Cell]],
    text_columns: int = 1,
    last_is_average: bool = False,
) -> str:
    """A table, the first columns text and the others numbers; an empty head is left out."""

    def line(tag: str, cells: Sequence[Cell]) -> str:
        parts = []
        for place, cell in enumerate(cells):
            name, text = cell if isinstance(cell, tuple) else ("", cell)
            names = f"{name} text" if place < text_columns else name
            parts.append(f'<{tag} class="{names.strip()}">{html.escape(text)}</{tag}>')
        return "".join(parts)

    lines = list(lines)
    body = []
    for i, cells in enumerate(lines):
        average = ' class="average"' if last_is_average and i == len(lines) - 1 else ""
        body.append(f"<tr{average}>{line('td', cells)}</tr>")
    top = f"<thead><tr>{line('th', head)}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{top}<tbody>{"".join(body)}</tbody></table></div>'


def _number(value: float | None, form: str = ".2f") -> str:
    return "–" if value is None else format(value, form).replace("-", "−")


def _spread(mean: float | None, sd: float | None) -> str:
    return _number(mean) + (f" ± {_number(sd)}" if sd is not None else "")


def _change(row: tables.TransferRow) -> Cell:
    value, low, high = row.relative_transfer_percent, row.ci95_low, row.ci95_high
    if value is None:
        return "–"
    sure = low is not None and (low > 0 or high < 0)
    name = ("gain" if value > 0 else "loss" if value < 0 else "") + (" sure" if sure else "")
    interval = f" [{_number(low, '+.1f')}, {_number(high, '+.1f')}]" if low is not None else ""
    return name, f"{_number(value, '+.1f')} %{interval}"


def _what_ran(study: folders.Study) -> list[str]:
    done = [r for r in study.records if r.results is not None]
    multi = [r for r in study.records if r.kind == "multi_task"]
    tasks = list(dict.fromkeys(task for r in study.records for task in r.tasks))
    seeds = sorted({r.seed for r in study.records})

    def steps(kind: str) -> str:
        found = sorted({r.results["step"] for r in done if r.kind == kind and "step" in r.results})
        return " and ".join(f"{step:,}" for step in found) or "–"

    facts = [
        ("Finished", f"{len(done)} of {len(study.records)} runs"),
        ("Tasks", f"{len(tasks)}: {', '.join(tasks)}"),
        ("Settings", ("long", "; ".join(" · ".join(v) for v in study.variants))),
        ("Seeds", ", ".join(map(str, seeds))),
        ("Steps", f"{steps('multi_task')} multi-task, {steps('single_task')} single-task"),
        ("Data", str(study.config.get("data", "–"))),
    ]
    return [
        f"<h1>Study {html.escape(study.name)}</h1>",
        f'<p class="soft">{len(multi)} multi-task runs and {len(study.records) - len(multi)} '
        "single-task baselines: does training tasks together help or hurt each of them?</p>",
        _table((), facts, text_columns=2),
    ]


def _missing(study: folders.Study) -> list[str]:
    absent = [r for r in study.records if r.results is None]
    if not absent:
        return []
    lines = [
        (r.name, ("long", f"failed: {r.error}" if r.error else "not finished")) for r in absent
    ]
    return [
        f'<h2>Missing runs</h2><p class="warn">Without results: {len(absent)} of '
        f"{len(study.records)} runs; all figures here leave them out. Starting the study again "
        "runs them. The whole traceback of a failed run is in error.txt in its folder.</p>",
        _table(("run", "state"), lines, text_columns=2),
    ]


_TRANSFER = ("task", "metric", "single-task", "multi-task", "relative transfer", "seeds")


def _transfer_cells(row: tables.TransferRow) -> tuple[Cell, ...]:
    return (
        row.task,
        row.metric,
        _spread(row.single_mean, row.single_sd),
        _spread(row.multi_mean, row.multi_sd),
        _change(row),
        str(row.seeds),
    )


def _headline_tables(study: folders.Study, rows: Sequence[tables.TransferRow]) -> list[str]:
    parts = ["<h2>Transfer</h2>"]
    for variant in study.variants:
        mine = [r for r in rows if r.variant == variant and tables.is_headline(study, r)]
        parts.append(f"<h3>{html.escape(_title(study, variant))}</h3>")
        if not mine:
            parts.append("<p>No run of this setting has finished.</p>")
            continue
        lines = map(_transfer_cells, mine)
        parts.append(_table(_TRANSFER, lines, 2, last_is_average=mine[-1].task == "average"))
    return [*parts, f'<p class="soft">{METHOD}</p>']


def _title(study: folders.Study, variant: folders.Variant) -> str:
    """A row's name, with what it is compared with where that isn't itself."""
    baseline = study.baseline(variant)
    against = "" if baseline == variant else f", against {' · '.join(baseline)} alone"
    return " · ".join(variant) + against


def _beside_the_paper(study: folders.Study, cells: Sequence[published.Cell]) -> list[str]:
    if not cells:
        return []
    parts = ["<h2>Beside the paper</h2>", f'<p class="soft">{PAPER}</p>']
    if study.config.get("data") == "mini":
        parts.append(f'<p class="warn">{EMBEDDED}</p>')
    head = ("task", "metric", "paper", "ours", "difference", "in s.e.")
    transfer = ("transfer, paper", "transfer, ours", "difference in s.e.")
    for place in dict.fromkeys((cell.variant, cell.training) for cell in cells):
        variant, training = place
        multi = training == "multi_task"
        lines = []
        for cell in [cell for cell in cells if (cell.variant, cell.training) == place]:
            line = [
                cell.task,
                cell.metric,
                _number(cell.paper),
                _spread(cell.ours, cell.ours_sd),
                _number(cell.difference, "+.2f"),
                _number(cell.difference_in_se, "+.1f"),
            ]
            if multi:
                line += [
                    _number(cell.paper_transfer_percent, "+.1f"),
                    _number(cell.transfer_percent, "+.1f"),
                    _number(cell.transfer_difference_in_se, "+.1f"),
                ]
            lines.append(line)
        title = " · ".join((*variant, training.replace("_", "-")))
        parts.append(f"<h3>{html.escape(title)}</h3>")
        parts.append(_table((*head, *transfer) if multi else head, lines, 2, last_is_average=True))
    wrong = published.wrong_averages()
    items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in wrong)
    return [
        *parts,
        f"<p>Printed averages that are no means of their rows: {len(wrong)}</p>",
        f"<ul>{items}</ul>",
    ]


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.png).decode()
    # A PNG's pixel width stands at byte 16; the page shows it at 100 pixels an inch.
    width = round(int.from_bytes(plot.png[16:20]) * 100 / plots.STYLE["figure.dpi"])
    return (
        f'<figure><img width="{width}" alt="{html.escape(plot.file)}" '
        f'src="data:image/png;base64,{data}">'
        f"<figcaption>{html.escape(plot.caption)}</figcaption></figure>"
    )


def _conflict_summary(study: folders.Study, conflicts: Sequence[Mapping[str, Any]]) -> list[str]:
    names = ("directional", "mean_cosine", "magnitude")
    names += ("reference_directional", "reference_magnitude")
    names += tuple(n for n in ("covariance", "noise") if any(n in row for row in conflicts))
    records = {r.name: r for r in study.records}
    start = {r.name: folders.warm_up_end(r) for r in study.records}
    lines = []
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
                cells.append(_number(statistics.fmean(values) if values else None, ".3g"))
            lines.append((" · ".join(variant), _measured_on(group, mine), *cells))
    if not lines:
        return []
    head = ("setting", "parameters", *(name.replace("_", " ") for name in names))
    return [
        "<h2>Conflict after warm-up</h2>",
        _table(head, lines, 2),
        '<p class="soft">Means over the seeds and the measured steps from the highest learning '
        "rate on. Directional: (1/K²) Σ of the cosines of different tasks. The two reference "
        "forms are those that earlier figures log: the norm of the mean unit gradient, and the "
        "variance of the squared norms. Covariance and noise, at fixed points, are the variances "
        "over the tasks of their gradients' covariances' traces, and of their noise scales.</p>",
    ]


def _measured_on(group: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A group's name, and on what it is measured where there are fixed points too."""
    prefix = f"{folders.FIXED_POINT}/"
    if group.startswith(prefix):
        return f"{group.removeprefix(prefix)}, fixed points"
    both = any(row["group"] == prefix + group for row in rows)
    return f"{group}, small batches (diagnostic)" if both else group


def _counts(study: folders.Study) -> list[str]:
    found: dict[tuple[folders.Variant, str, str], dict[str, float]] = {}
    for variant in study.variants:
        for task in folders.headlines(study, variant):
            for kind in ("single_task", "multi_task"):
                if counts := folders.mean_counts(study.runs(variant, kind), task):
                    found[variant, task, kind] = counts
    if not found:
        return []
    names = dict.fromkeys(name for counts in found.values() for name in counts)
    lines = [
        (
            " · ".join(variant),
            task,
            kind.replace("_", "-"),
            *(_number(counts.get(name), ".4g") for name in names),
        )
        for (variant, task, kind), counts in found.items()
    ]
    head = ("setting", "task", "kind", *(name.replace("_", " ") for name in names))
    return [
        "<details open><summary>Unparsed answers and cut examples</summary>",
        '<p class="soft">Per run, mean over the seeds, on the test split unless "train" is said. '
        "Unparsed: the answer is none of the task's labels, which counts as wrong. Cut: longer "
        "than TASK_FEATURE_LENGTHS allows.</p>",
        _table(head, lines, 3),
        "</details>",
    ]


def _all_metrics(rows: Sequence[tables.TransferRow]) -> list[str]:
    lines = [(" · ".join(row.variant), *_transfer_cells(row)) for row in rows]
    return [
        "<details><summary>All metrics (test split)</summary>",
        _table(("setting", *_TRANSFER), lines, 3),
        "</details>",
    ]


def _notes(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return [f"<h2>Notes on the data</h2><ul>{items}</ul>"]
