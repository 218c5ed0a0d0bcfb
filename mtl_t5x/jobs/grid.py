"""Which runs a study's config spans: multi-task runs, and the single-task baselines of each."""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ml_collections

# Tasks that only have a test split, scored by whoever trains on the task they belong to.
_TEST_ONLY = {("glue", "mnli"): ("mnli_mismatched",)}

_FIELDS = ("architecture", "prompt", "labels")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of `mtl_t5x.main`: what to start, and where it stands in the study's tables.

    `gin_bindings` are as on the command line (`TRAIN_STEPS=300`), without MODEL_DIR, which the
    study adds. `tasks` are the trained tasks' short names. `kind` is `multi_task`, `single_task` or
    `weighted`: a multi-task run by another `weighting`, see `sweep`. `baseline` is the variant
    (architecture, prompt, labels) whose single-task runs a multi-task run is compared with; None:
    those of its own.
    """

    name: str
    gin_files: tuple[str, ...]
    gin_bindings: tuple[str, ...]
    architecture: str
    prompt: str
    labels: str
    tasks: tuple[str, ...]
    seed: int
    kind: str
    baseline: tuple[str, str, str] | None = None
    weighting: str | None = None

    def record(self) -> dict[str, Any]:
        """What `study.json` holds of it; without what is None."""
        return {
            name: value for name, value in dataclasses.asdict(self).items() if value is not None
        }


def grid(
    config: ml_collections.ConfigDict,
    macros: Mapping[str, Any] | None = None,
    *,
    single_task: Mapping[str, Any] | None = None,
    baselines: Mapping[str, str] | None = None,
    excluded: Sequence[str] = (),
) -> Iterator[Run]:
    """Yields a config's runs: per architecture, prompt and labels the multi-task runs over the
    seeds, then the single-task baseline of every task over the seeds, where no row before had it.

    Runs of one shape stand next to each other, so that they share compilations, and neighbours
    cost about the same, so that shares taken in turn are even.

    Args:
      config: fields benchmark, tasks, architectures, prompts, labels, seeds, train_steps,
        single_task_steps, conflict_period, data, and gin_files (architecture -> gin file, or
        several, read in turn). `prompts` may name them by architecture, too.
      macros: further gin bindings for every run, by name. A string that begins with @ or % is a gin
        expression, as `@measure.Settings()`; every other value is bound as it is.
      single_task: the same for the baselines alone, in place of those of `macros`.
      baselines: architecture -> the variant, as "text_to_text.null.semantic", whose single-task
        runs all rows of that architecture are compared with; an architecture that isn't named is
        compared row by row with its own.
      excluded: patterns of variants that have no row, as "text_to_text.diverse.*_letters".

    Raises:
      ValueError: fewer than two tasks, a name given twice, an architecture without gin file or
        prompts, a baseline that is no variant, or a pattern that excludes nothing.
    """
    _check(config)
    rows = _rows(config, excluded)
    by_architecture = {
        key: _variant(text, f"the baseline of {key!r}") for key, text in (baselines or {}).items()
    }
    # Those of architectures that were left out for now may stay named.
    for name in by_architecture.keys() - set(config.gin_files):
        raise ValueError(
            f"there is a baseline of the architecture {name!r}, for which config.gin_files names "
            f"no gin file, only for {sorted(config.gin_files)}"
        )
    together = dict(macros or {})
    alone = {**together, **(single_task or {})}
    begun = set()
    for row in rows:
        baseline = by_architecture.get(row[0], row)
        for seed in config.seeds:
            yield _run(config, row, tuple(config.tasks), seed, together, baseline)
        if baseline in begun:
            continue
        begun.add(baseline)
        for seed, task in itertools.product(config.seeds, config.tasks):
            yield _run(config, baseline, (task,), seed, alone)


def required(config: ml_collections.ConfigDict, *fields: str) -> None:
    """Checks that fields that have no default were given.

    Raises:
      ValueError: names those that weren't, as they are given on the command line.
    """
    absent = [name for name in fields if not config[name]]
    if absent:
        raise ValueError(
            "this study fine-tunes pretrained weights on real data; say where things lie: "
            + " ".join(f"--config.{name}=PATH" for name in absent)
        )


def _check(config: ml_collections.ConfigDict) -> None:
    if len(config.tasks) < 2:
        raise ValueError(
            f"config.tasks is {tuple(config.tasks)}: a study compares several tasks trained "
            "together with each alone; name two or more, as --config.tasks=\"('cola', 'rte')\""
        )
    fields = {name: config[name] for name in ("tasks", "architectures", "labels", "seeds")}
    if isinstance(config.prompts, ml_collections.ConfigDict):
        for architecture in config.architectures:
            if architecture not in config.prompts:
                raise ValueError(
                    f"config.prompts names no prompts of the architecture {architecture!r}, only "
                    f"of {sorted(config.prompts)}; add them to get_config(), or leave it out"
                )
            fields[f"prompts.{architecture}"] = config.prompts[architecture]
    else:
        fields["prompts"] = config.prompts
    for field, given in fields.items():
        values = tuple(given)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"config.{field} is {values}: give one value or more, each once")


def _rows(
    config: ml_collections.ConfigDict, excluded: Sequence[str]
) -> tuple[tuple[str, str, str], ...]:
    by_architecture = isinstance(config.prompts, ml_collections.ConfigDict)
    rows = [
        (architecture, prompt, labels)
        for architecture in config.architectures
        for prompt in (config.prompts[architecture] if by_architecture else config.prompts)
        for labels in config.labels
    ]
    for pattern in excluded:
        left = [row for row in rows if not fnmatch.fnmatchcase(".".join(row), pattern)]
        if len(left) == len(rows):
            names = ", ".join(map(".".join, rows))
            raise ValueError(f"the pattern {pattern!r} excludes none of {names}: leave it out")
        rows = left
    if not rows:
        raise ValueError(f"the patterns {tuple(excluded)} exclude every row: leave one in")
    return tuple(rows)


def _variant(text: str, what: str) -> tuple[str, str, str]:
    parts = tuple(text.split("."))
    if len(parts) != len(_FIELDS):
        raise ValueError(f"{what} is {text!r}: write it as {'.'.join(_FIELDS)}")
    return parts


def _run(
    config: ml_collections.ConfigDict,
    variant: tuple[str, str, str],
    tasks: tuple[str, ...],
    seed: int,
    macros: Mapping[str, Any],
    baseline: tuple[str, str, str] | None = None,
) -> Run:
    """A multi-task run where a baseline is given, else one of a task alone."""
    kind = "single_task" if baseline is None else "multi_task"
    middle = f"{kind}.{tasks[0]}" if baseline is None else kind
    architecture, prompt, labels = variant
    return Run(
        name=f"{'.'.join(variant)}.{middle}.seed{seed}",
        gin_files=_gin_files(config, architecture),
        gin_bindings=_bindings(config, prompt, labels, tasks, seed, kind, macros),
        architecture=architecture,
        prompt=prompt,
        labels=labels,
        tasks=tasks,
        seed=seed,
        kind=kind,
        baseline=None if baseline == variant else baseline,
    )


def _gin_files(config: ml_collections.ConfigDict, architecture: str) -> tuple[str, ...]:
    if architecture not in config.gin_files:
        raise ValueError(
            f"config.gin_files names no gin file for the architecture {architecture!r}, only for "
            f"{sorted(config.gin_files)}; add it to get_config(), or leave the architecture out"
        )
    found = config.gin_files[architecture]
    return (found,) if isinstance(found, str) else tuple(found)


def _bindings(
    config: ml_collections.ConfigDict,
    prompt: str,
    labels: str,
    tasks: tuple[str, ...],
    seed: int,
    kind: str,
    macros: Mapping[str, Any],
) -> tuple[str, ...]:
    scored = []
    for task in tasks:
        scored += [task, *_TEST_ONLY.get((config.benchmark, task), ())]
    multi = kind == "multi_task"
    values = {
        "MIXTURE_OR_TASK_NAME": [f"{config.benchmark}_{t}.{prompt}.{labels}" for t in scored],
        "TRAIN_STEPS": config.train_steps if multi else config.single_task_steps,
        "RANDOM_SEED": seed,
        "DATA": config.data,
        # One task alone has no conflict to measure.
        "CONFLICT_PERIOD": config.conflict_period if multi else 0,
        **macros,
    }
    return tuple(f"{name}={_gin_value(value)}" for name, value in values.items())


def _gin_value(value: Any) -> str:
    """A value as gin reads it: Python literals, and strings that begin with @ or % as they are."""
    if isinstance(value, str):
        return value if value.startswith(("@", "%")) else json.dumps(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_gin_value, value))}]"
    return repr(value)
