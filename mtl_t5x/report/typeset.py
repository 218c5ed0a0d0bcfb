"""Cells and tables of text, for HTML and LaTeX alike."""

import dataclasses
from collections.abc import Iterable, Sequence

from mtl_t5x.report import findings, words


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell's text, the CSS classes it has, and the number it is sorted by, if not its text."""

    text: str
    style: str = ""
    value: float | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: the first `texts` columns are text, the others numbers.

    `foot` stands below the rows, however they are sorted.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    foot: tuple[tuple[Cell, ...], ...] = ()
    texts: int = 1


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[Cell | str]],
    texts: int = 1,
    last_is_foot: bool = False,
) -> Table:
    """A table of cells, or of texts that are sorted as they stand."""
    cells = tuple(
        tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row) for row in rows
    )
    split = len(cells) - 1 if last_is_foot and cells else len(cells)
    return Table(caption, tuple(head), cells[:split], cells[split:], texts)


def number(value: float | None, form: str = ".2f", text: str = "") -> Cell:
    return Cell(text or words.number(value, form), value=value)


def estimate(value: findings.Estimate, form: str = ".2f") -> Cell:
    return Cell(words.estimate(value, form), value=value.value)


def spread(mean: float | None, sd: float | None) -> Cell:
    text = words.number(mean) + (f" ± {words.number(sd)}" if sd is not None else "")
    return number(mean, text=text)
