"""SeqIO's registries, filled benchmark by benchmark, and errors that suggest the nearest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import seqio

_SEPARATOR = "."
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
    return _SEPARATOR.join((f"{benchmark}_{task}", prompt, labels))


def mixture_name(benchmark: str, prompt: str, labels: str) -> str:
    """Returns e.g. `glue.default.semantic`."""
    return _SEPARATOR.join((benchmark, prompt, labels))


def check_name(kind: str, name: str) -> None:
    """Raises ValueError where a prompt's or label vocabulary's name cannot be part of a name."""
    if not re.fullmatch(r"\w+", name):
        raise ValueError(f"The {kind} name {name!r} may hold letters, digits and _ only.")


def find(name: str) -> seqio.Task | seqio.Mixture:
    """Returns the task or mixture of this name.

    Raises:
      ValueError: there is none; says which part of the name is unknown, and the nearest.
    """
    if name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names():
        return seqio.get_mixture_or_task(name)
    known = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()]
    parts = name.split(_SEPARATOR)
    if len(parts) == 3:
        kinds = ("task or benchmark", "prompt", "label vocabulary")
        for place, kind in enumerate(kinds):
            # The parts that can stand here, after those before it.
            options = {
                other.split(_SEPARATOR)[place]
                for other in known
                if len(other.split(_SEPARATOR)) == 3
                and other.split(_SEPARATOR)[:place] == parts[:place]
            }
            if parts[place] not in options:
                raise ValueError(unknown(kind, parts[place], options, f" in {name!r}"))
    raise ValueError(unknown("task or mixture", name, known))


def unknown(kind: str, name: str, known: Iterable[str], where: str = "") -> str:
    """Words an error for a name that is not known: the nearest name, then all of them."""
    known = sorted(known)
    # Low enough that a task's name alone finds a full name.
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(known[:20]) or "none"
    if len(known) > 20:
        listed += f", … ({len(known)} in all; `python -m mtl_t5x.tasks` lists them)"
    return f"Unknown {kind} {name!r}{where}.{hint} Known: {listed}."
