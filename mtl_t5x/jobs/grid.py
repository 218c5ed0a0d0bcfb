"""Which runs a study's config spans: multi-task runs, and the single-task baselines of each.

A config has the fields `tasks`, `architectures`, `seeds`, `train_steps`, and `gin_files`
(architecture -> gin file, or several, read in turn). It may have

* `prompts` (also by architecture) and `labels`;
* `benchmark`: then `tasks` are short, <task> of <benchmark>_<task>.<prompt>.<labels>; else they are
  names in SeqIO's registry, in which {prompt} and {labels} stand for these;
* `modules`, which register tasks of one's own;
* `companions` (short name -> names of tasks that it answers, which are evaluated only);
* `headlines` (short name -> the metric that the report shows first; else the first that is logged);
* `single_task_steps`, `conflict_period`, and `data`, which is the macro DATA.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections

from mtl_t5x.settings import names as short_names

# Tasks that only have a test split, scored by whoever trains on the task they belong to; by how
# their SeqIO names begin.
_TEST_ONLY = {"glue_mnli": ("glue_mnli_mismatched",)}
# What a config needn't say.
_DEFAULTS = {
    "benchmark": None,
    "data": None,
    "modules": (),
    "prompts": ("default",),
    "labels": ("semantic",),
    "companions": {},
    "conflict_period": None,  # as the gin file has it
}
_REQUIRED = ("tasks", "architectures", "seeds", "train_steps", "gin_files")
# From a task of the config, a prompt and labels to the task's name in SeqIO's registry.
Names = Callable[[str, str, str], str]

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
    names: Names | None = None,
) -> Iterator[Run]:
    """Yields a config's runs: per architecture, prompt and labels the multi-task runs over the
    seeds, then the single-task baseline of every task over the seeds, where no row before had it.

    Runs of one shape stand next to each other, so that they share compilations, and neighbours
    cost about the same, so that shares taken in turn are even.

    Args:
      config: with the fields above.
      macros: further gin bindings for every run, by name. A string that begins with @ or % is a gin
        expression, as `@measure.Settings()`; every other value is bound as it is.
      single_task: the same for the baselines alone, in place of those of `macros`.
      baselines: architecture -> the variant, as "text_to_text.null.semantic", whose single-task
        runs all rows of that architecture are compared with; an architecture that isn't named is
        compared row by row with its own.
      excluded: patterns of variants that have no row, as "text_to_text.diverse.*_letters".
      names: gives a task its name under a prompt and labels, in place of the rule above.

    Raises:
      ValueError: a field that is missing, fewer than two tasks, a name given twice, an architecture
        without gin file or prompts, a baseline that is no variant, or a pattern that excludes
        nothing.
    """
    config = _complete(config)
    names = names or functools.partial(_name, config.benchmark)
    _check(config, names)
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
            yield _run(config, names, row, tuple(config.tasks), seed, together, baseline)
        if baseline in begun:
            continue
        begun.add(baseline)
        for seed, task in itertools.product(config.seeds, config.tasks):
            yield _run(config, names, baseline, (task,), seed, alone)


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


def _complete(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with what it needn't say."""
    absent = [name for name in _REQUIRED if name not in config]
    if absent:
        raise ValueError(f"get_config() gives no {', '.join(absent)}: a study needs {_REQUIRED}")
    complete = ml_collections.ConfigDict({**_DEFAULTS, **config.to_dict()})
    if "single_task_steps" not in complete:
        complete.single_task_steps = complete.train_steps
    return complete


def _name(benchmark: str | None, task: str, prompt: str, labels: str) -> str:
    if benchmark is not None:
        return f"{benchmark}_{task}.{prompt}.{labels}"
    return task.replace("{prompt}", prompt).replace("{labels}", labels)


def _check(config: ml_collections.ConfigDict, names: Names) -> None:
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
    prompts = {prompt for field in fields if "prompts" in field for prompt in fields[field]}
    _check_names(config, names, sorted(itertools.product(prompts, config.labels)))


def _check_names(
    config: ml_collections.ConfigDict, names: Names, variants: Sequence[tuple[str, str]]
) -> None:
    """Whether tables call every task by a name of its own, and every variant has its own tasks."""
    found = [tuple(names(task, *variant) for task in config.tasks) for variant in variants]
    short = [short_names.short(name) for name in found[0]]
    if len(set(short)) < len(short):
        raise ValueError(
            f"config.tasks: tables call them {', '.join(short)}, two of them the same: register "
            "one under another name"
        )
    if len(set(found)) < len(found):
        raise ValueError(
            f"config.tasks are the same under several prompts or labels, {variants}: write "
            "{prompt} and {labels} in their names, as 'glue_cola.{prompt}.{labels}'"
        )


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
    names: Names,
    variant: tuple[str, str, str],
    tasks: tuple[str, ...],
    seed: int,
    macros: Mapping[str, Any],
    baseline: tuple[str, str, str] | None = None,
) -> Run:
    """A multi-task run where a baseline is given, else one of a task alone."""
    kind = "single_task" if baseline is None else "multi_task"
    architecture, prompt, labels = variant
    of_task = {short_names.short(names(task, prompt, labels)): task for task in tasks}
    middle = f"{kind}.{next(iter(of_task))}" if baseline is None else kind
    return Run(
        name=f"{'.'.join(variant)}.{middle}.seed{seed}",
        gin_files=_gin_files(config, architecture),
        gin_bindings=_bindings(config, names, (prompt, labels), of_task, seed, kind, macros),
        architecture=architecture,
        prompt=prompt,
        labels=labels,
        tasks=tuple(of_task),
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
    names: Names,
    variant: tuple[str, str],
    tasks: Mapping[str, str],
    seed: int,
    kind: str,
    macros: Mapping[str, Any],
) -> tuple[str, ...]:
    """`tasks` are those of the config by their short names; `variant` is (prompt, labels)."""
    scored, evaluated_as = [], {}
    for short, task in tasks.items():
        name = names(task, *variant)
        first, *rest = name.split(".")
        own = [names(companion, *variant) for companion in config.companions.get(short, ())]
        evaluated_as |= {short_names.short(companion): short for companion in own}
        known = [".".join([companion, *rest]) for companion in _TEST_ONLY.get(first, ())]
        scored += [name, *own, *known]
    multi = kind == "multi_task"
    values = {
        "MIXTURE_OR_TASK_NAME": scored,
        "TRAIN_STEPS": config.train_steps if multi else config.single_task_steps,
        "RANDOM_SEED": seed,
    }
    # One task alone has no conflict to measure.
    period = config.conflict_period if multi else 0
    values |= {} if period is None else {"CONFLICT_PERIOD": period}
    optional = {
        "DATA": config.data,
        "MIXTURE_OR_TASK_MODULE": list(config.modules),
        "EVALUATED_AS": evaluated_as,
    }
    values |= {name: value for name, value in optional.items() if value} | macros
    return tuple(f"{name}={gin_value(value)}" for name, value in values.items())


def gin_value(value: Any) -> str:
    """A value as gin reads it: Python literals, and strings that begin with @ or % as they are."""
    if isinstance(value, str):
        return value if value.startswith(("@", "%")) else json.dumps(value)
    if isinstance(value, list):
        return f"[{', '.join(map(gin_value, value))}]"
    return repr(value)
