"""DecaNLP's ten tasks as SeqIO tasks: every prompt with every label vocabulary.

Tasks are named `decanlp_<task>.<prompt>.<labels>`. Mixtures named `decanlp.<prompt>.<labels>` hold
the nine tasks of Mueller et al. (2022), those named `decanlp_all.<prompt>.<labels>` WOZ too. SQuAD
and MultiNLI are split as GLUE's tasks are, first 95 % and last 5 % of the official training split
and the official development split; the others have three splits of their own. Labels matter to
`multinli` and `sst` alone: the other tasks are the same under each name.

Under the preset `paper` prompts are the paper's, SQuAD is without punctuation, and a head for spans
learns and answers only examples in which the answer's tokens stand, see `heads.Span`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from mtl_t5x.data import fingerprint, heads
from mtl_t5x.tasks import metrics, postprocessors, preprocessors, prompts, sources, variants
from mtl_t5x.tasks.decanlp import files as decanlp_files
from mtl_t5x.tasks.decanlp import metrics as decanlp_metrics
from mtl_t5x.tasks.decanlp import prompts as decanlp_prompts
from mtl_t5x.tasks.decanlp import rows as decanlp_rows
from mtl_t5x.tasks.decanlp import tfds as decanlp_tfds
from mtl_t5x.tasks.decanlp.metrics import UNANSWERABLE
from mtl_t5x.tasks.decanlp.postprocessors import Answers, LogicalForm, StateChange, Text
from mtl_t5x.tasks.decanlp.rows import NLI_LABELS, SENTIMENTS
from mtl_t5x.tasks.prompts import Template

BENCHMARK = decanlp_prompts.BENCHMARK
# Opens the names of the mixtures of all ten tasks.
ALL = f"{BENCHMARK}_all"
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class DecaNlpTask:
    """How a task is prompted and scored.

    Attributes:
      metric_fns: the headline metric first.
      postprocess: from text to what they take; None where the answer is a class.
      classes: the number of classes, 0 where there are none.
      fields: what prompts may use besides `context` and `question`.
      keep: what examples keep of the row besides `idx` and `label`.
      search_all: whether a strict span is looked for behind the context too, as the paper does for
        SQuAD alone.
    """

    metric_fns: Sequence[Callable]
    postprocess: Callable | None = None
    classes: int = 0
    fields: Sequence[str] = ()
    keep: Sequence[str] = ()
    search_all: bool = False


_UNPARSED = decanlp_metrics.unparsed
_ACCURACY = (metrics.accuracy, metrics.unparsed)
_SPAN = ("answers", "answer_start")
# Of tasks with several right answers, of which the paper takes the first.
_ANSWERS = (
    decanlp_metrics.f1,
    decanlp_metrics.exact_match,
    decanlp_metrics.reference_f1,
    decanlp_metrics.reference_exact_match,
    _UNPARSED,
)

TASKS: dict[str, DecaNlpTask] = {
    "squad": DecaNlpTask(_ANSWERS, Answers(), keep=_SPAN),
    "iwslt": DecaNlpTask((decanlp_metrics.bleu, decanlp_metrics.reference_bleu, _UNPARSED), Text()),
    "cnn_dailymail": DecaNlpTask(
        (decanlp_metrics.rouge, decanlp_metrics.reference_rouge, _UNPARSED), Text()
    ),
    "multinli": DecaNlpTask(_ACCURACY, classes=len(NLI_LABELS), fields=("premise", "hypothesis")),
    "sst": DecaNlpTask(_ACCURACY, classes=len(SENTIMENTS)),
    "srl": DecaNlpTask(_ANSWERS, Answers(), keep=_SPAN),
    "zre": DecaNlpTask(
        (decanlp_metrics.corpus_f1, _UNPARSED),
        Answers(heads.Span(no_answer=UNANSWERABLE)),
        keep=(*_SPAN, "answerable"),
    ),
    "schema": DecaNlpTask((decanlp_metrics.exact_match, _UNPARSED), Answers(), keep=_SPAN),
    "wikisql": DecaNlpTask(
        (decanlp_metrics.logical_form_em, decanlp_metrics.reference_logical_form_em, _UNPARSED),
        LogicalForm(),
        fields=("columns",),
        keep=("query",),
    ),
    "woz": DecaNlpTask(
        (decanlp_metrics.joint_goal_em, decanlp_metrics.turn_request_em, _UNPARSED),
        StateChange(),
        keep=("dialogue", "turn"),
    ),
}

# The official files have no validation split: it is cut from the training split.
_CUT = ("squad", "multinli")


def rows(data: str, task: str, split: str, preset: str = "default") -> Sequence[sources.Row]:
    """Returns the rows of one of our splits, with the fields of `decanlp_rows` and `idx`.

    Args:
      data: the setting DATA: "mini", "tfds", or a folder with the decaNLP files.
      task: a key of `TASKS`.
      split: "train", "validation" or "test".
      preset: the setting PRESET.
    """
    if (preset, task) == ("paper", "squad"):
        return _blanked_squad(data, split)
    if data == "mini":
        from mtl_t5x.tasks.mini import (
            decanlp as mini_decanlp,  # what a run on other data does not need
        )

        return mini_decanlp.rows(task, split)
    official = _official(task, split)
    loaded = (
        decanlp_tfds.rows(task, official)
        if data == "tfds"
        else decanlp_files.load(data, task, official).rows
    )
    if task in _CUT and official == "train":
        # Of SQuAD the official files cut one paragraph in two; TFDS has lost their order anyway.
        together = "context" if (data, task) == ("tfds", "squad") else None
        return sources.train_or_validation(loaded, split, together)
    return loaded


@functools.cache
def _blanked_squad(data: str, split: str) -> Sequence[sources.Row]:
    return list(map(decanlp_rows.blanked, rows(data, "squad", split)))


def dropped(data: str, task: str, split: str) -> Mapping[str, int]:
    """Returns how many rows of the files were left out of a split, by the reason.

    For a split that is cut from an official one, these are the rows of that whole split.
    """
    if data in ("mini", "tfds"):
        return {}
    return decanlp_files.load(data, task, _official(task, split)).dropped


def content(data: str, task: str, split: str) -> Any:
    """What the rows of one of our splits depend on besides this code, see `sources.rows_source`."""
    official = _official(task, split)
    if data == "mini":
        from mtl_t5x.tasks.mini import decanlp as mini_decanlp

        return mini_decanlp.rows
    if data == "tfds":
        return decanlp_tfds.content(task, official)
    return [fingerprint.of_file(path) for path in decanlp_files.paths(data, task, official)]


def _official(task: str, split: str) -> str:
    return "train" if task in _CUT and split == "validation" else split


def register(data: str = "mini", vocabulary_path: str = "mini", preset: str = "default") -> None:
    """Registers every task and mixture, in place of those of other settings; reads no data yet.

    Args:
      data: the setting DATA: "mini", "tfds" (which lacks seven of the tasks: an error where one
        is read), or a folder with the decaNLP files.
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
                    functools.partial(rows, data, name, preset=preset),
                    SPLITS,
                    functools.partial(dropped, data, name),
                    functools.partial(content, data, name),
                ),
                metric_fns=task.metric_fns,
                build=functools.partial(_build, _strict(name, task) if preset == "paper" else task),
                fields=("context", "question", *task.fields),
                classes=task.classes,
                mixtures=(ALL,) if name == "woz" else (BENCHMARK, ALL),
            )
            for name, task in TASKS.items()
        },
        data,
        vocabulary_path,
        preset,
        decanlp_prompts.PRESETS,
    )


def _strict(name: str, task: DecaNlpTask) -> DecaNlpTask:
    """The task with the paper's kind of span, if it is answered by one."""
    if not isinstance(task.postprocess, Answers):
        return task
    return dataclasses.replace(
        task,
        postprocess=Answers(dataclasses.replace(task.postprocess.head, strict=True)),
        keep=(*task.keep, "searched"),
        search_all=name == "squad",
    )


def _build(
    task: DecaNlpTask, templates: Sequence[Template], labels: str, words: Sequence[str]
) -> tuple[Sequence[Callable], Callable]:
    if not task.classes:
        target = preprocessors.field("answer")
        return _preprocessors(task, templates, target), task.postprocess
    table = prompts.answers(templates, labels, words)
    target = preprocessors.class_words(table)
    return _preprocessors(task, templates, target), postprocessors.ClassIndex(table)


def _preprocessors(
    task: DecaNlpTask, templates: Sequence[Template], target: preprocessors.Target
) -> list[Callable]:
    steps = preprocessors.preprocessors(templates, target, ("idx", "label", *task.keep))
    if "answer_start" not in task.keep:
        return steps

    def locate(example: preprocessors.Example) -> dict[str, tf.Tensor]:
        before = tf.stack([_before_context(template.text, example) for template in templates])
        start = example["answer_start"]
        moved = tf.where((start >= 0) & (before >= 0), start + before, -1)
        end = before + tf.strings.length(example["context"], unit="UTF8_CHAR")
        searched = tf.where(before >= 0, tf.int32.max if task.search_all else end, 0)
        return {**example, "answer_start": moved, "searched": searched}

    def choose(example: preprocessors.Example) -> dict[str, tf.Tensor]:
        chosen = {name: example[name] for name in ("answer_start", "searched") if name in example}
        template = example.get("template", 0)
        return example | {name: places[template] for name, places in chosen.items()}

    # An example's `answer_start` is an offset in `inputs_pretokenized`, a row's one in `context`;
    # which template's is known only once one was drawn.
    return [seqio.map_over_dataset(locate), *steps, seqio.map_over_dataset(choose)]


def _before_context(text: str, example: preprocessors.Example) -> tf.Tensor:
    """The number of characters before the context; -1 where the template lacks it."""
    length = tf.constant(0)
    for literal, name in prompts.parse(text):
        length += len(literal)
        if name == "context":
            return length
        if name is not None:
            length += tf.strings.length(example[name], unit="UTF8_CHAR")
    return tf.constant(-1)


register()
