"""A study's run folders -> one HTML page, and its tables and figures as files.

    python -m mtl_t5x.report --workdir=DIR

writes `DIR/report/` from what the runs under `DIR/runs/` have logged so far. It needs no JAX, so
that results can be redrawn anywhere.
"""

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from mtl_t5x.report import (
    analysis,
    flat,
    folders,
    front_figure,
    fronts,
    latex,
    page,
    plots,
    published,
    sections,
    tables,
)
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
    return write(folders.load_study(workdir), epath.Path(workdir) / "report")


def write(study: folders.Study, folder: epath.Path) -> epath.Path:
    """Writes a study's report into a folder; see `write_report`."""
    found = analysis.analyse(study)
    conflicts = tables.conflict_rows(study)
    table = study.config.get("paper_table")  # only the paper's studies name one
    paper = published.cells(study, table) if table else ()
    rows = map(tables.transfer_row, found.transfers)
    columns = [field.name for field in dataclasses.fields(tables.TransferRow)]
    swept = fronts.fronts(study)
    pictures = (*plots.draw_all(found), *map(front_figure.picture, swept))
    written = {
        "transfer.csv": _csv(columns, map(dataclasses.asdict, rows)),
        "conflict.csv": _csv(_CONFLICT_COLUMNS, conflicts),
        "pairs.csv": _csv(flat.PAIRS, flat.pairs(found)),
        "examples.csv": _csv(flat.EXAMPLES, flat.examples(found)),
        **{f"{picture.name}.png": picture.png for picture in pictures},
        **{f"{picture.name}.svg": picture.svg for picture in pictures},
    }
    if swept:
        lines = [line for front in swept for line in fronts.rows(front)]
        written["front.csv"] = _csv((), lines)
    if table:
        columns = [field.name for field in dataclasses.fields(published.Cell)]
        written["paper.csv"] = _csv(columns, map(dataclasses.asdict, paper))
    for name, printed in sections.for_papers(found, paper).items():
        written[f"{name}.tex"] = latex.render(printed).encode()
    names = sorted(name for name in written if name.endswith((".png", ".svg", ".csv", ".tex")))
    html = page.render(study, found, paper, conflicts, names, swept)
    written["report.html"] = html.encode()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in written.items():
        files.write_atomically(folder / name, content)
    return folder / "report.html"


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> bytes:
    """CSV with a header; columns that rows have beside `columns` follow; undefined is empty."""
    rows = list(rows)
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {k: format(v, ".10g") if isinstance(v, float) else v for k, v in row.items()}
        )
    return text.getvalue().encode()
