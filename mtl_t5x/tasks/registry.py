"""SeqIO's registries, filled benchmark by benchmark."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import seqio

from mtl_t5x.data import lookup

_registered: dict[str, tuple[list[str], list[str]]] = {}
_settings: dict[str, Any] = {}


def is_current(benchmark: str, settings: Any) -> bool:
    """Whether the benchmark's tasks were registered last with equal settings.

    Tasks that stay registered keep what was read and counted of them.
    """
    return _settings.get(benchmark) == settings


def replace(
    benchmark: str,
    settings: Any,
    tasks: Mapping[str, Mapping[str, Any]],
    mixtures: Mapping[str, Sequence[str]],
) -> None:
    """Registers a benchmark's tasks and mixtures in place of those it registered before.

    Args:
      benchmark: whose registrations these are, e.g. "glue".
      settings: what they were made from, for `is_current`.
      tasks: from a task's name to the arguments of `seqio.TaskRegistry.add`.
      mixtures: from a mixture's name to its tasks, each at rate 1.
    """
    old_tasks, old_mixtures = _registered.pop(benchmark, ([], []))
    for name in old_mixtures:
        seqio.MixtureRegistry.remove(name)
    for name in old_tasks:
        seqio.TaskRegistry.remove(name)
    _registered[benchmark] = (list(tasks), list(mixtures))
    for name, arguments in tasks.items():
        seqio.TaskRegistry.add(name, **arguments)
    for name, members in mixtures.items():
        seqio.MixtureRegistry.add(name, list(members), default_rate=1.0)
    _settings[benchmark] = settings


def registered(benchmark: str) -> tuple[Sequence[str], Sequence[str]]:
    """Returns the names of the tasks and of the mixtures that a benchmark has registered."""
    return _registered.get(benchmark, ((), ()))


def task_name(benchmark: str, task: str, prompt: str, labels: str) -> str:
    """Returns e.g. `glue_cola.default.semantic`."""
    return lookup.SEPARATOR.join((f"{benchmark}_{task}", prompt, labels))


def mixture_name(mixture: str, prompt: str, labels: str) -> str:
    """Returns e.g. `glue.default.semantic`."""
    return lookup.SEPARATOR.join((mixture, prompt, labels))


def check_name(kind: str, name: str) -> None:
    """Raises ValueError where a prompt's or label vocabulary's name cannot be part of a name."""
    if not re.fullmatch(r"\w+", name):
        raise ValueError(f"The {kind} name {name!r} may hold letters, digits and _ only.")
