"""A benchmark's tasks under every prompt and every label vocabulary, registered with SeqIO."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import seqio

from mtl_t5x.data import lookup
from mtl_t5x.tasks import prompts, registry, sources, vocabularies

# From the templates of a prompt, the name of a label vocabulary and its words (none for a task
# without classes) to the preprocessors and the postprocessor.
Build = Callable[
    [Sequence[prompts.Template], str, Sequence[str]], tuple[Sequence[Callable], Callable]
]


# By prompt and task, as `prompts.PROMPTS` has them of a benchmark.
Prompts = Mapping[str, Mapping[str, tuple[prompts.Template, ...]]]


@dataclasses.dataclass(frozen=True)
class Variants:
    """What a task's variants have in common.

    Attributes:
      source: of the rows.
      metric_fns: the headline metric first.
      build: makes what depends on prompt and labels.
      fields: the rows' fields that templates may name.
      classes: the number of classes; 0: no label vocabulary changes the task.
      prompted_as: whose templates and words it uses, where they aren't its own.
      mixtures: what opens the names of the mixtures that it is in; empty: the benchmark's name.
    """

    source: seqio.DataSource
    metric_fns: Sequence[Callable]
    build: Build
    fields: Sequence[str]
    classes: int = 0
    prompted_as: str = ""
    mixtures: Sequence[str] = ()


def register(
    benchmark: str,
    make: Callable[[], Mapping[str, Variants]],
    data: str,
    vocabulary_path: str,
    preset: str,
    presets: Mapping[str, Prompts],
) -> None:
    """Registers tasks and mixtures in place of those of other settings; reads no data yet.

    Args:
      benchmark: opens the names, `<benchmark>_<task>.<prompt>.<labels>`.
      make: the tasks by name; called where the settings are new.
      data: the setting DATA.
      vocabulary_path: the setting VOCABULARY_PATH.
      preset: the setting PRESET, a key of `presets`.
      presets: the prompts that each preset has in place of `prompts.PROMPTS`'s of the same names.

    Raises:
      FileNotFoundError: no such folder, or no such vocabulary.
      ValueError: no such preset, or a prompt or a label vocabulary does not fit its task.
    """
    sources.check_folder(data)
    if preset not in presets:
        raise ValueError(lookup.unknown("PRESET", preset, presets, f" of {benchmark}"))
    settings = (data, vocabulary_path, preset, prompts.snapshot(benchmark))
    if registry.is_current(benchmark, settings):
        return
    feature = seqio.Feature(vocabularies.load(vocabulary_path), add_eos=True)
    by_name = make()
    prompted = {**prompts.PROMPTS[benchmark], **presets[preset]}
    _check(benchmark, prompted, {task.prompted_as or name: task for name, task in by_name.items()})
    tasks, mixtures = {}, {}
    for name, task in by_name.items():
        key = task.prompted_as or name
        for prompt, templates in prompted.items():
            for labels, words in prompts.LABELS[benchmark].items():
                if key not in templates or (task.classes and key not in words):
                    continue
                preprocessors, postprocess_fn = task.build(
                    templates[key], labels, words.get(key, ())
                )
                full_name = registry.task_name(benchmark, name, prompt, labels)
                tasks[full_name] = {
                    "source": task.source,
                    "preprocessors": preprocessors,
                    "postprocess_fn": postprocess_fn,
                    "metric_fns": task.metric_fns,
                    "output_features": {"inputs": feature, "targets": feature},
                }
                for mixture in task.mixtures or (benchmark,):
                    mixture_name = registry.mixture_name(mixture, prompt, labels)
                    mixtures.setdefault(mixture_name, []).append(full_name)
    registry.replace(benchmark, settings, tasks, mixtures)


def _check(benchmark: str, prompted: Prompts, tasks: Mapping[str, Variants]) -> None:
    """Checks every prompt and label vocabulary against the tasks, before any is registered."""
    for prompt, by_task in prompted.items():
        for name, templates in by_task.items():
            if name not in tasks:
                raise ValueError(lookup.unknown("task", name, tasks, f" in prompt {prompt!r}"))
            where = f"Prompt {prompt!r} of {benchmark}, task {name!r}"
            prompts.check(where, templates, list(tasks[name].fields), tasks[name].classes)
    for labels, by_task in prompts.LABELS[benchmark].items():
        for name, words in by_task.items():
            if name not in tasks:
                raise ValueError(lookup.unknown("task", name, tasks, f" in labels {labels!r}"))
            where = f"Label vocabulary {labels!r} of {benchmark}, task {name!r}"
            prompts.check_words(where, words, tasks[name].classes)
