"""A run's answers on the test split, as SeqIO's evaluator wrote them into its folder."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from mtl_t5x.report import folders

FOLDER = "inference_eval"


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a run answered on a task's test split, in the split's order.

    Attributes:
      examples: each one's row in the data and its target, by which runs are seen to have answered
        the same.
      inputs, right, said: the texts of input, target and answer; empty where none is kept.
      targets, predictions: as the task's postprocessor made them for its metrics.
    """

    examples: tuple[str, ...]
    inputs: tuple[str, ...]
    right: tuple[str, ...]
    said: tuple[str, ...]
    targets: tuple[Any, ...]
    predictions: tuple[Any, ...]


# By the names of run and task.
AllAnswers = Mapping[tuple[str, str], Answers]


def read_all(study: folders.Study) -> tuple[AllAnswers, tuple[str, ...]]:
    """The answers of every finished run that has them, and notes on what can't be read."""
    found, notes = {}, []
    for record in study.records:
        for task in (record.results or {"test": {}})["test"]:
            try:
                answers = read(record, task)
            except ValueError as problem:
                notes.append(str(problem))
                continue
            if answers is not None and len(answers.targets):
                found[record.name, task] = answers
    return found, tuple(notes)


def read(record: folders.Record, task: str) -> Answers | None:
    """A finished run's answers; None where its folder has none of the task's.

    Raises:
      ValueError: the file can't be read; says which.
    """
    path = _path(record, task)
    if path is None:
        return None
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            lines.append((line["input"], line["target"], line["prediction"], line.get("output")))
        except (ValueError, KeyError, TypeError) as problem:
            where = path.relative_to(record.folder.parent.parent)
            raise ValueError(
                f"{where}:{number} is no prediction of SeqIO's ({problem!r}): delete results.json "
                "beside it and start the study again to evaluate the run anew"
            ) from problem
    return _answers(lines)


def _path(record: folders.Record, task: str) -> epath.Path | None:
    if record.results is None:
        return None
    below = ["validation"] if task in record.results.get(folders.FROM_DEV, ()) else []
    return _file(record, task, f"-{record.results.get('step', 0):06}.jsonl", *below)


def metrics_path(record: folders.Record, task: str, split: str) -> epath.Path | None:
    """Where the metrics of a split other than test stand, by step; None where they don't."""
    return _file(record, task, "-metrics.jsonl", split)


def _file(record: folders.Record, task: str, end: str, *below: str) -> epath.Path | None:
    """`<benchmark>_<task>.<prompt>.<labels><end>`, or `<task><end>`."""
    if record.folder is None:
        return None
    folder = record.folder.joinpath(FOLDER, *below)
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        name = path.name.removesuffix(end)
        first, *variant = name.split(".")
        short = first.split("_", 1)[-1] if variant else name
        if path.name.endswith(end) and task in (name, short):
            return path
    return None


def _answers(lines: Sequence[tuple[dict[str, Any], Any, Any, Any]]) -> Answers:
    inputs, targets, predictions, said = zip(*lines, strict=True) if lines else ((), (), (), ())
    return Answers(
        examples=tuple(
            f"{one.get('idx', i)}: {target}"
            for i, (one, target) in enumerate(zip(inputs, targets, strict=True))
        ),
        inputs=tuple(str(one.get("inputs_pretokenized", "")) for one in inputs),
        right=tuple(str(one.get("targets_pretokenized", "")) for one in inputs),
        said=tuple("" if text is None else str(text) for text in said),
        targets=targets,
        predictions=predictions,
    )
