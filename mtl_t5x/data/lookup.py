"""From names in SeqIO's registries to tasks; an unknown name's error suggests the nearest one."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import seqio

from mtl_t5x.data import heads

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


@contextlib.contextmanager
def registered_as(task: seqio.Task) -> Iterator[None]:
    """Puts a task in SeqIO's registry in place of the one of its name, for as long."""
    original = seqio.TaskRegistry.get(task.name)
    seqio.TaskRegistry.remove(task.name)
    seqio.TaskRegistry.add_provider(task.name, task)
    try:
        yield
    finally:
        seqio.TaskRegistry.remove(task.name)
        seqio.TaskRegistry.add_provider(task.name, original)


def find_tasks(
    mixture_or_task_name: str | Sequence[str],
    module: str | None = None,
    register: Callable[[], None] | None = None,
) -> tuple[seqio.Task, ...]:
    """The tasks of a mixture, a task, or a list of either; each once, in the order given.

    Args:
      mixture_or_task_name: names in SeqIO's registries.
      module: imported first, to register tasks.
      register: called first, to register tasks that depend on settings, such as where the data is.

    Raises:
      ValueError: a name that isn't registered; the nearest ones are suggested.
    """
    if register is not None:
        register()
    if module is not None:
        importlib.import_module(module)
    names = (
        [mixture_or_task_name] if isinstance(mixture_or_task_name, str) else mixture_or_task_name
    )
    tasks = {}
    for name in names:
        try:
            found = find(name)
        except ValueError as error:
            raise ValueError(
                f"MIXTURE_OR_TASK_NAME: {error} A module of your own that registers it must be "
                "imported in the gin file, or named as MIXTURE_OR_TASK_MODULE."
            ) from error
        for task in seqio.get_subtasks(found):
            tasks[task.name] = task
    if not tasks:
        raise ValueError("MIXTURE_OR_TASK_NAME is empty: give a mixture, a task or a list of tasks")
    return tuple(tasks.values())


def short_names(tasks: Sequence[seqio.Task]) -> tuple[str, ...]:
    """What metrics and reports call the tasks.

    `<benchmark>_<task>.<prompt>.<labels>` is called `<task>`; any other name stays as it is, and so
    do names that would otherwise be the same.
    """
    short = []
    for task in tasks:
        first, *variant = task.name.split(".")
        short.append(first.split("_", 1)[-1] if variant else task.name)
    if len(set(short)) < len(short):
        return tuple(task.name for task in tasks)
    return tuple(short)


def with_split(tasks: Sequence[seqio.Task], split: str) -> tuple[seqio.Task, ...]:
    """Those of the tasks that have the split: MNLI mismatched, for one, has a test split only."""
    return tuple(task for task in tasks if split in task.splits)


def heads_of(tasks: Sequence[seqio.Task]) -> tuple[heads.Head, ...]:
    """What each of the trained tasks asks to be answered by, in their order."""
    return tuple(heads.head_of_task(task) for task in with_split(tasks, "train"))
