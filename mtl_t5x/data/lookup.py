"""From names in SeqIO's registries to tasks; an unknown name's error suggests the nearest one."""

from __future__ import annotations

import contextlib
import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import seqio

from mtl_t5x.data import heads
from mtl_t5x.settings import checks, names
from mtl_t5x.settings.checks import SettingsError

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
    module: str | Sequence[str] | None = None,
    register: Callable[[], None] | Sequence[Callable[[], None]] = (),
) -> tuple[seqio.Task, ...]:
    """The tasks of a mixture, a task, or a list of either; each once, in the order given.

    Args:
      mixture_or_task_name: names in SeqIO's registries.
      module: imported first, to register tasks; or several.
      register: called first, to register tasks that depend on settings, such as where the data is;
        or several.

    Raises:
      SettingsError: names that aren't registered, for which the nearest ones are suggested; a name
        that is given twice; a module that isn't there.
    """
    for one in [register] if callable(register) else register:
        one()
    for one in [] if module is None else _listed(module, "MIXTURE_OR_TASK_MODULE", "my_tasks"):
        import_module(one)
    tasks, faults = {}, []
    listed = _listed(mixture_or_task_name, "MIXTURE_OR_TASK_NAME", "glue_cola.default.semantic")
    for name in listed:
        try:
            found = find(name)
        except ValueError as error:
            faults.append(
                f"MIXTURE_OR_TASK_NAME: {error} A module of your own that registers it must be "
                "imported in the gin file, or named as MIXTURE_OR_TASK_MODULE."
            )
            continue
        for task in seqio.get_subtasks(found):
            tasks[task.name] = task
    twice = [name for name in dict.fromkeys(listed) if listed.count(name) > 1]
    faults += [f"MIXTURE_OR_TASK_NAME has {name!r} twice: name each once" for name in twice]
    if not listed:
        faults = ["MIXTURE_OR_TASK_NAME is empty: give a mixture, a task or a list of tasks"]
    checks.check(*faults)
    return tuple(tasks.values())


def _listed(value: str | Sequence[str], setting: str, example: str) -> Sequence[str]:
    """The names of a setting that takes one or a list.

    Raises:
      SettingsError: it is neither.
    """
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, Sequence) or not all(isinstance(name, str) for name in listed):
        raise SettingsError(f"{setting} = {value!r}: write a name, as {example!r}, or a list")
    return listed


def import_module(module: str, setting: str = "MIXTURE_OR_TASK_MODULE") -> None:
    """Imports a module that registers tasks, which the user names by `setting`.

    Raises:
      SettingsError: it, or a module that it imports, isn't there.
    """
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{setting} = {module!r} can't be imported: {error}. Write its name as in "
            "an import; its folder must be on PYTHONPATH, or be the one that you start from"
        ) from error


def short_names(tasks: Sequence[seqio.Task]) -> tuple[str, ...]:
    """What metrics and reports call the tasks.

    As `settings.names.short` has it; names that would be the same so stay as they are.
    """
    short = [names.short(task.name) for task in tasks]
    if len(set(short)) < len(short):
        return tuple(task.name for task in tasks)
    return tuple(short)


def with_split(tasks: Sequence[seqio.Task], split: str) -> tuple[seqio.Task, ...]:
    """Those of the tasks that have the split: MNLI mismatched, for one, has a test split only."""
    return tuple(task for task in tasks if split in task.splits)


def heads_of(tasks: Sequence[seqio.Task]) -> tuple[heads.Head, ...]:
    """What each of the trained tasks asks to be answered by, in their order."""
    return tuple(heads.head_of_task(task) for task in with_split(tasks, "train"))
