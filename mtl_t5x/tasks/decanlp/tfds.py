"""DecaNLP's tasks that TensorFlow Datasets has, as rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtl_t5x.tasks import sources
from mtl_t5x.tasks.decanlp import rows as decanlp_rows
from mtl_t5x.tasks.sources import Row


@functools.cache
def rows(task: str, split: str) -> Sequence[Row]:
    """Loads an official split; each is loaded once and kept.

    Args:
      task: one of DecaNLP's ten.
      split: "train", "validation" or "test"; SQuAD and MultiNLI have no "validation" here.

    Raises:
      ValueError: TensorFlow Datasets does not have the task, or cannot load it.
    """
    name, splits, convert = _set(task)
    load = sources.tfds_rows_by_idx if name.startswith("glue/") else sources.tfds_rows
    loaded = load(name, splits[split])
    if task == "squad":
        loaded = by_paragraph(loaded)
    return [{**convert(row), "idx": index} for index, row in enumerate(loaded)]


def content(task: str, split: str) -> Any:
    """What tells one version of an official split from another, see `sources.tfds_content`.

    Raises:
      ValueError: as `rows`.
    """
    name, splits, _ = _set(task)
    return sources.tfds_content(name, splits[split])


def _set(task: str) -> tuple[str, Mapping[str, str], Callable[[Row], Row]]:
    if task not in _SETS:
        raise ValueError(
            f"DATA is 'tfds', but TensorFlow Datasets has no {task!r} as DecaNLP uses it; it has "
            f"{', '.join(_SETS)}. Set DATA to 'mini', or to a folder with the decaNLP files."
        )
    return _SETS[task]


def by_paragraph(rows: Sequence[Row]) -> list[Row]:
    """Rows of TFDS' `squad`, which stores them shuffled, in an order by article and paragraph.

    The official order can't be had from them, but what it gives can: articles and paragraphs that
    are whole, so that a cut parts two of them.
    """
    return sorted(rows, key=lambda row: (row["title"], row["context"], row["id"]))


def squad(row: Row) -> Row:
    """Converts a row of TFDS' `squad`."""
    answers = row["answers"]
    return decanlp_rows.squad(
        row["context"], row["question"], answers["text"], answers["answer_start"]
    )


def multinli(row: Row) -> Row:
    """Converts a row of TFDS' `glue/mnli`, which has decaNLP's order of classes."""
    return decanlp_rows.multinli(row["premise"], row["hypothesis"], row["label"])


def cnn_dailymail(row: Row) -> Row:
    """Converts a row of TFDS' `cnn_dailymail`; line breaks become spaces, as in decaNLP."""
    article, highlights = (" ".join(row[name].split()) for name in ("article", "highlights"))
    return decanlp_rows.summary(article, highlights)


_SETS: Mapping[str, tuple[str, Mapping[str, str], Callable[[Row], Row]]] = {
    "squad": ("squad", {"train": "train", "test": "validation"}, squad),
    # GLUE's MNLI is MultiNLI without the rows that have no gold label; `multi_nli` is shuffled, and
    # doesn't number its rows.
    "multinli": ("glue/mnli", {"train": "train", "test": "validation_matched"}, multinli),
    "cnn_dailymail": (
        "cnn_dailymail",
        {split: split for split in ("train", "validation", "test")},
        cnn_dailymail,
    ),
}
