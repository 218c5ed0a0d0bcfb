"""Names in SeqIO's registries, and errors that suggest the nearest one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import seqio

SEPARATOR = "."  # <benchmark>_<task>.<prompt>.<labels>


def find(name: str) -> seqio.Task | seqio.Mixture:
    """Returns the task or mixture of this name.

    Raises:
      ValueError: there is none; says which part of the name is unknown, and the nearest.
    """
    if name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names():
        return seqio.get_mixture_or_task(name)
    known = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names()]
    parts = name.split(SEPARATOR)
    if len(parts) == 3:
        kinds = ("task or benchmark", "prompt", "label vocabulary")
        for place, kind in enumerate(kinds):
            # The parts that can stand here, after those before it.
            options = {
                other.split(SEPARATOR)[place]
                for other in known
                if len(other.split(SEPARATOR)) == 3
                and other.split(SEPARATOR)[:place] == parts[:place]
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
