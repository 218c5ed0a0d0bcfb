"""GLUE as SeqIO tasks: every prompt with every label vocabulary, from any of three sources.

Tasks are named `glue_<task>.<prompt>.<labels>`, mixtures `glue.<prompt>.<labels>`. Splits are
those of the paper: `train` is the first 95 % of the official training split, `validation` the
rest, `test` the official development split.

Under the preset `paper` the prompt `default` is the paper's, and STS-B's scores are written with
one decimal and compared with the gold scores as they are, where T5 rounds both to 0.2.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from mtl_t5x.data import fingerprint
from mtl_t5x.tasks import metrics, postprocessors, preprocessors, prompts, sources, variants
from mtl_t5x.tasks.glue import prompts as glue_prompts

BENCHMARK = "glue"


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """What the official files and the scoring of one task are.

    Attributes:
      folder: of the official TSVs.
      columns: from a row's text field to the column that holds it.
      label: the column of the label.
      values: the labels as the files write them, by class index; empty: a score from 0 to 5.
      metric_fns: the headline metric first.
      header: all columns, where the files have no header line.
      official: the task's name in the sources, where its own is not one there.
      test: the official split that is the test split here.
      splits: which splits it has.
    """

    folder: str
    columns: Mapping[str, str]
    label: str
    values: Sequence[str]
    metric_fns: Sequence[Callable]
    header: Sequence[str] | None = None
    official: str = ""
    test: str = "validation"
    splits: Sequence[str] = ("train", "validation", "test")


_PAIR = {"sentence1": "sentence1", "sentence2": "sentence2"}
_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_ACCURACY = (metrics.accuracy, metrics.unparsed)
_ACCURACY_F1 = (metrics.accuracy, metrics.f1, metrics.unparsed)
_MNLI = GlueTask(
    "MNLI",
    {"premise": "sentence1", "hypothesis": "sentence2"},
    "gold_label",
    ("entailment", "neutral", "contradiction"),
    _ACCURACY,
    test="validation_matched",
)

TASKS: dict[str, GlueTask] = {
    "cola": GlueTask(
        "CoLA",
        {"sentence": "sentence"},
        "label",
        _BINARY,
        (metrics.matthews_corrcoef, metrics.unparsed),
        header=("source", "label", "mark", "sentence"),
    ),
    "rte": GlueTask("RTE", _PAIR, "label", _ENTAILMENT, _ACCURACY),
    "mnli": _MNLI,
    "mrpc": GlueTask(
        "MRPC",
        {"sentence1": "#1 String", "sentence2": "#2 String"},
        "Quality",
        _BINARY,
        _ACCURACY_F1,
    ),
    "qnli": GlueTask(
        "QNLI",
        {"question": "question", "sentence": "sentence"},
        "label",
        _ENTAILMENT,
        _ACCURACY,
    ),
    "qqp": GlueTask(
        "QQP",
        {"question1": "question1", "question2": "question2"},
        "is_duplicate",
        _BINARY,
        _ACCURACY_F1,
    ),
    "sst2": GlueTask("SST-2", {"sentence": "sentence"}, "label", _BINARY, _ACCURACY),
    "stsb": GlueTask(
        "STS-B",
        _PAIR,
        "score",
        (),
        (metrics.pearson_corrcoef, metrics.spearman_corrcoef, metrics.unparsed),
    ),
    "mnli_mismatched": dataclasses.replace(
        _MNLI, official="mnli", test="validation_mismatched", splits=("test",)
    ),
}

_FILES = {
    "train": "train.tsv",
    "validation": "dev.tsv",
    "validation_matched": "dev_matched.tsv",
    "validation_mismatched": "dev_mismatched.tsv",
}


def rows(data: str, task: str, split: str) -> Sequence[sources.Row]:
    """Returns the rows of one of our splits, with the fields of TensorFlow Datasets' `glue`.

    Args:
      data: the setting DATA: "mini", "tfds", or a folder with the official TSVs.
      task: a key of `TASKS`.
      split: "train", "validation" or "test".
    """
    official = TASKS[task].official or task
    if split == "test":
        return official_rows(data, official, TASKS[task].test)
    return sources.train_or_validation(official_rows(data, official, "train"), split)


def content(data: str, task: str, split: str) -> Any:
    """What the rows of one of our splits depend on besides this code, see `sources.rows_source`."""
    official = TASKS[task].official or task
    official_split = TASKS[task].test if split == "test" else "train"
    if data == "mini":
        from mtl_t5x.tasks.mini import glue as mini

        return mini.rows
    if data == "tfds":
        return sources.tfds_content(f"glue/{official}", official_split)
    return fingerprint.of_file(_path(epath.Path(data), TASKS[official], official_split))


@functools.cache
def official_rows(data: str, task: str, official_split: str) -> Sequence[sources.Row]:
    """Loads one official split; each is loaded once and kept."""
    if data == "mini":
        from mtl_t5x.tasks.mini import glue as mini  # what a run on other data does not need

        return mini.rows(task, official_split)
    if data == "tfds":
        return sources.tfds_rows_by_idx(f"glue/{task}", official_split)
    return _file_rows(epath.Path(data), TASKS[task], official_split)


def _path(folder: epath.Path, task: GlueTask, official_split: str) -> epath.Path:
    return folder / task.folder / _FILES[official_split]


def _file_rows(folder: epath.Path, task: GlueTask, official_split: str) -> list[sources.Row]:
    path = _path(folder, task, official_split)
    rows_read = []
    table = sources.read_tsv(path, (*task.columns.values(), task.label), task.header)
    for index, (number, cells) in enumerate(table):
        if task.values:
            label = sources.parse_label(cells[task.label], task.values, path, number)
        else:
            label = sources.parse_score(cells[task.label], 0.0, 5.0, path, number)
        texts = {field: cells[column] for field, column in task.columns.items()}
        rows_read.append({**texts, "label": label, "idx": index})
    return rows_read


def register(data: str = "mini", vocabulary_path: str = "mini", preset: str = "default") -> None:
    """Registers every task and mixture, in place of those of other settings; reads no data yet.

    Args:
      data: the setting DATA: "mini", "tfds", or a folder with the official TSVs.
      vocabulary_path: the setting VOCABULARY_PATH, see `vocabularies.load`.
      preset: the setting PRESET: "default", or "paper" for the choices of Mueller et al. (2022).

    Raises:
      FileNotFoundError: no such folder, or no such vocabulary.
      ValueError: no such preset, or a prompt or a label vocabulary does not fit its task.
    """
    variants.register(
        BENCHMARK,
        lambda: {
            name: variants.Variants(
                source=sources.rows_source(
                    functools.partial(rows, data, name),
                    task.splits,
                    content=functools.partial(content, data, name),
                ),
                metric_fns=task.metric_fns,
                build=functools.partial(_build, preset),
                fields=tuple(task.columns),
                classes=len(task.values),
                prompted_as=task.official,
            )
            for name, task in TASKS.items()
        },
        data,
        vocabulary_path,
        preset,
        glue_prompts.PRESETS,
    )


def _build(
    preset: str, templates: Sequence[prompts.Template], labels: str, words: Sequence[str]
) -> tuple[Sequence[Callable], Callable]:
    if not words:
        exact = preset == "paper"
        target = preprocessors.exact_score if exact else preprocessors.score
        return preprocessors.preprocessors(templates, target), postprocessors.Score(exact)
    table = prompts.answers(templates, labels, words)
    return (
        preprocessors.preprocessors(templates, preprocessors.class_words(table)),
        postprocessors.ClassIndex(table),
    )


register()
