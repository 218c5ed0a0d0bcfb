"""A study's run folders -> transfer.csv, conflict.csv, paper.csv, plots and one HTML page.

    python -m mtl_t5x.report --workdir=DIR

writes `DIR/report/` from what the runs under `DIR/runs/` have logged so far. It needs no JAX, so
that results can be redrawn anywhere.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from mtl_t5x.report import analysis, folders, page, plots, published, tables
from mtl_t5x.storage import files

_CONFLICT_COLUMNS = (
    "run",
    "seed",
    "step",
    "group",
    "directional",
    "magnitude",
    "reference_directional",
    "reference_magnitude",
    "mean_cosine",
)


def write_report(workdir: epath.PathLike) -> epath.Path:
    """Writes `workdir/report/` from the runs finished so far, and says on the page what is missing.

    Returns:
      The path of report.html.

    Raises:
      FileNotFoundError: `workdir` holds no study.json.
      ValueError: its config's `paper_table` is none of the paper's tables.
    """
    study = folders.load_study(workdir)
    found = analysis.analyse(study)
    rows = tuple(map(tables.transfer_row, found.transfers))
    conflicts = tables.conflict_rows(study)
    folder = epath.Path(workdir) / "report"
    folder.mkdir(exist_ok=True)
    columns = [field.name for field in dataclasses.fields(tables.TransferRow)]
    files.write_atomically(folder / "transfer.csv", _csv(columns, map(dataclasses.asdict, rows)))
    columns = list(dict.fromkeys([*_CONFLICT_COLUMNS, *(key for row in conflicts for key in row)]))
    files.write_atomically(folder / "conflict.csv", _csv(columns, conflicts))
    figures = draw(study, rows)
    for figure in figures:
        files.write_atomically(folder / figure.file, figure.png)
    cells: tuple[published.Cell, ...] = ()
    table = study.config.get("paper_table")  # only the paper's studies name one
    if table:
        cells = published.cells(study, table)
        columns = [field.name for field in dataclasses.fields(published.Cell)]
        files.write_atomically(folder / "paper.csv", _csv(columns, map(dataclasses.asdict, cells)))
    html = page.render(study, rows, cells, conflicts, figures, found.notes)
    files.write_atomically(folder / "report.html", html.encode())
    return folder / "report.html"


def draw(study: folders.Study, rows: Sequence[tables.TransferRow]) -> tuple[page.Plot, ...]:
    """The report's figures with their captions, in the page's order."""
    figures = [
        ("transfer.png", page.TRANSFER, plots.transfer, (study, _headline_rows(study, rows)))
    ]
    multi = [r for r in study.records if r.kind == "multi_task"]
    logged = dict.fromkeys(group for r in multi for group in folders.conflict_groups(r))
    groups = dict.fromkeys(group.removeprefix(f"{folders.FIXED_POINT}/") for group in logged)
    # Single layers would make a page of hundreds of figures; conflict.csv has them.
    for group in [group for group in groups if "/" not in group]:
        fixed = any(folders.has_fixed_points(r, group) for r in multi)
        caption = page.CONFLICT + (page.AT_FIXED_POINTS if fixed else "")
        figures.append((f"conflict.{group}.png", caption, plots.conflict, (study, group)))
        if fixed and group in logged:
            name = f"conflict.{group}.small_batches.png"
            figures.append((name, page.SMALL_BATCHES, plots.conflict, (study, group, True)))
        for variant in study.variants:
            name = f"cosine.{group}.{'.'.join(variant)}.png"
            figures.append((name, page.COSINE, plots.cosine, (study, variant, group)))
    for variant in study.variants:
        if any(r.steps for r in study.runs(variant)):
            name = f"loss.{'.'.join(variant)}.png"
            figures.append((name, page.LOSS, plots.losses, (study, variant)))
    drawn = []
    for name, caption, function, arguments in figures:
        png = plots.render(function, *arguments)
        if png is not None:
            drawn.append(page.Plot(re.sub(r"[^\w.-]", "_", name), caption, png))
    return tuple(drawn)


def _headline_rows(
    study: folders.Study, rows: Iterable[tables.TransferRow]
) -> tuple[tables.TransferRow, ...]:
    return tuple(row for row in rows if tables.is_headline(study, row))


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """CSV with a header; an undefined number is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: format(v, ".10g") if isinstance(v, float) else v for k, v in row.items()}
        )
    return text.getvalue().encode()
