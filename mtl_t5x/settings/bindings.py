"""Gin files and bindings: read, and checked as a whole before anything is done with them.

Whatever is wrong is told in the words of who wrote it: the macro or the binding, where it stands,
and what to write. Faults that don't follow from each other are told together.
"""

from __future__ import annotations

import copy
import inspect
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import gin
from gin import config as gin_config

from mtl_t5x.settings import checks
from mtl_t5x.settings.checks import SettingsError

UNSET = (
    "{name} is not set: add --gin.{name}=… to the command, or {name} = … to the gin file (strings "
    'carry escaped quotes: --gin.MODEL_DIR=\\"/tmp/run\\")'
)
# Its macros may be set though nothing reads them: DATA where all tasks are one's own, or BATCH_SIZE
# where `experiment.Experiment.batch_size` is bound to something else.
_USUAL = pathlib.Path(__file__).parents[2] / "gin" / "runs" / "train.gin"
_MACRO = "gin.macro"


def read(files: Sequence[str], bindings: Sequence[str], search_paths: Sequence[str]) -> None:
    """Makes the files and bindings gin's configuration, in place of the one before.

    Raises:
      SettingsError: a file that isn't there, what gin can't read, or what nothing takes.
    """
    gin.clear_config(clear_constants=True)
    for path in search_paths:
        gin.add_config_file_search_path(path)
    try:
        gin.parse_config_files_and_bindings(list(files), list(bindings), finalize_config=False)
    except Exception as error:  # a module that a file imports may raise anything
        raise SettingsError(_unreadable(error)) from error


def check(configurable: str) -> None:
    """Makes everything that a function is given by gin, and throws it away.

    Args:
      configurable: the function's name in the gin files.

    Raises:
      SettingsError: with all that is wrong: macros that nothing reads or that have no value, and
        what can't be made of its settings.
    """
    told, first = dict.fromkeys(_unread()), None
    try:
        given = gin.get_bindings(configurable, resolve_references=False)
    except ValueError as error:
        raise SettingsError(
            f"the gin files bind no {configurable}: include gin/runs/train.gin"
        ) from error
    built: dict[tuple[str, ...], bool] = {}

    def build(reference: gin_config.ConfigurableReference) -> bool:
        """Whether it can be made; what is made of something that can't isn't tried."""
        nonlocal first
        # As gin does it: what a macro names is made within the macro's scope.
        scope = reference.scopes or gin.current_scope()
        if (key := (*scope, reference.selector)) in built:
            return built[key]
        try:
            with gin.config_scope(list(scope)):
                works = check_parts(reference.configurable.name, _given(reference))
            built[key] = works
            if works:
                reference.scoped_configurable_fn()
        except Exception as error:  # whatever somebody's own configurable raises
            first, built[key] = first or error, False
            told.update(dict.fromkeys(_faults(reference, error)))
        return built[key]

    def check_parts(kind: str, values: Mapping[str, Any]) -> bool:
        """Whether all can be made that it is made of; else what is plain of it is checked here."""
        works = {name: all([build(part) for part in _made(of)]) for name, of in values.items()}
        if not all(works.values()) or kind == "run":
            made = {name: copy.deepcopy(values[name]) for name in values if works[name]}
            told.update(dict.fromkeys(filter(None, checks.plain(kind, made))))
        return all(works.values())

    check_parts("run", given)
    if told:
        raise SettingsError(*told) from first


def macro(name: str) -> Any:
    """A macro's value.

    Raises:
      SettingsError: it has none.
    """
    try:
        return gin.query_parameter(f"%{name}")
    except ValueError as error:
        raise SettingsError(UNSET.format(name=name)) from error


def words(error: BaseException) -> str:
    """What an error says, without what gin appends to it."""
    kept = [line for line in str(error).splitlines() if not _APPENDED.match(line)]
    return "\n".join(kept).strip() or repr(error)


_APPENDED = re.compile(r"\s+(In call to configurable '|No values supplied by Gin |Gin had values )")


def _made(value: Any) -> Iterator[gin_config.ConfigurableReference]:
    """The references within a value that gin calls: `@name()` and `%MACRO`."""
    return (one for one in gin_config.iterate_references(value) if one.evaluate)


def _given(reference: gin_config.ConfigurableReference) -> dict[str, Any]:
    """What the files bind of a reference, and of a macro its value."""
    values = gin.get_bindings(reference.configurable.selector, resolve_references=False)
    if reference.configurable.selector == _MACRO:
        name = "/".join(reference.scopes)
        if repr(values.get("value", "%gin.REQUIRED")) in ("%gin.REQUIRED", "'%gin.REQUIRED'"):
            raise SettingsError(UNSET.format(name=name))
    return values


def _faults(reference: gin_config.ConfigurableReference, error: Exception) -> tuple[str, ...]:
    if isinstance(error, SettingsError):
        return error.faults
    if isinstance(error, ValueError | OSError):
        return (words(error),)
    return (f"{reference!r} can't be made of its settings: {type(error).__name__}: {words(error)}",)


def _unread() -> Iterator[str]:
    """The macros that are set and that nothing reads, each with the name that may be meant."""
    bound = {scope for scope, selector in gin_config._CONFIG if selector == _MACRO}  # no public way
    references = gin_config.iterate_references(gin_config._CONFIG)
    macros = (one for one in references if one.configurable.selector == _MACRO)
    read = {"/".join(one.scopes) for one in macros}
    read |= set(re.findall(r"^([A-Z_]+) = ", _USUAL.read_text(encoding="utf-8"), re.M))
    for name in sorted(bound - read):
        near = checks.nearest(name, read)
        hint = f"did you mean {near}?" if near else f"known are {', '.join(sorted(read))}"
        yield f"{name} is read by nothing: {hint}"


def _unreadable(error: Exception) -> str:
    """A line on what gin can't read, that begins with where it stands."""
    if isinstance(error, SyntaxError):
        where = _where(error.filename, error.lineno, (error.text or "").strip())
        return (
            f"{where}: {error.msg.splitlines()[0]}. Values are written as in Python, texts with "
            'quotes (on the command line escaped: --gin.MODEL_DIR=\\"/tmp/run\\")'
        )
    text = str(error)
    places = re.findall(r"\n  In (?:file \"(.+?)\",|bindings string) line (\d+)\n\s+(.*)", text)
    said = text.split("\n  In ")[0].strip()
    if not isinstance(error, ValueError | OSError | NameError | AttributeError):
        said = f"{type(error).__name__}: {said}"
    where = f"{_where(*places[0])}: " if places else ""
    return f"{where}{said}{_hint(said)}"


def _where(file: str | None, number: int | str | None, line: str) -> str:
    return f"{file} line {number}, {line}" if file else f"--gin.{line}"


def _hint(said: str) -> str:
    """What may be meant, where gin says what isn't there."""
    near = None
    if match := re.match(r"Configurable '(.+)' doesn't have a parameter named '(\w+)'", said):
        known = inspect.signature(gin.get_configurable(match.group(1))).parameters
        near = checks.nearest(match.group(2), known)
    elif match := re.match(r"No configurable matching (?:reference )?'@?([\w.]+)", said):
        pattern = r"^([\w.]+)\.\w+ =|@([\w.]+)"
        known = {one for pair in re.findall(pattern, gin.config_str(), re.M) for one in pair if one}
        near = checks.nearest(match.group(1), known)
    elif match := re.match(r"'(\w+)' was not provided by an import statement", said):
        ours = (name for name in sys.modules if name.startswith("mtl_t5x."))
        of = [name.rpartition(".")[0] for name in ours if name.endswith(f".{match.group(1)}")]
        line = f"from {of[0] if of else 'PACKAGE'} import {match.group(1)}"
        return f" Write `{line}` below the file's first line"
    elif "selector train_script." in said:
        return (
            " This file is for T5X's own trainer: start it by `python -m t5x.train` (docs/t5x.md)"
        )
    elif match := re.search(r"<module '([\w.]+)'.* has no attribute (\w+)", said):
        near = checks.nearest(match.group(2), vars(sys.modules[match.group(1)]))
    return f" Did you mean {near!r}?" if near else ""
