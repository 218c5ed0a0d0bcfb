"""What of a run's settings has changed since it was begun, as far as that decides its results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gin import config_parser

# What may change while a run goes on: where and how long it trains, what of it is written down and
# how its work is divided. By the last name of what is bound, and of some by the parameter too.
_FREE = re.compile(
    r"""
    (Settings|Limits|Mesh|InTraining|user_folder|measure|dry_run|evaluate_run|export)\.\w+
    | train\.(?!random_seed|initial_checkpoint_path)\w+
    | Experiment\.(mesh|microbatches|cache_dir)
    | Evaluation\.(period|batch_size|teacher_forced)
    | find_tasks\.module
    | T5Config\.(remat|scan_layers)
    | last_update\.train_steps
    | \w+\.name
    """,
    re.VERBOSE,
)
# A run may be made longer: what follows from TRAIN_STEPS follows.
_FREE_MACRO = "%TRAIN_STEPS"


def decisive(before: str, now: str, used: str) -> list[str]:
    """A line for every setting that decides the results and is another one now.

    Args:
      before: a run's config.gin, as it was begun or as it was used.
      now: all bindings.
      used: those that are used, with the values of what isn't bound.
    """
    old, new = _Bindings(before), _Bindings(now)
    defaults = _Bindings(used)
    lines = []
    for key in sorted(old.values.keys() | new.values.keys()):
        if _FREE.fullmatch(".".join(key.split(".")[-2:])):
            continue
        there = old.resolved(key)
        here = new.resolved(key) if key in new.values else defaults.resolved(key)
        # Unused then or now: whatever makes it used is told itself.
        if there == here or here is _ABSENT or (there is _ABSENT and key not in defaults.values):
            continue
        name = new.name(key) or old.name(key) or key
        lines.append(f"{name}: {there!r} before, {here!r} now")
    return list(dict.fromkeys(lines))


class _Word(str):
    """A reference or a macro, written as in gin files."""

    __repr__ = str.__str__


_ABSENT = _Word("absent")


class _Names(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> _Word:
        # An import of another form makes the same name longer.
        name = ".".join(scoped_configurable_name.split(".")[-2:])
        return _Word(f"@{name}()" if evaluate else f"@{name}")

    def macro(self, macro_name: str) -> _Word:
        return _Word(f"%{macro_name}")


class _Bindings:
    """A gin file's, read without its imports: `values` by "module.name.parameter", and `macros`."""

    def __init__(self, text: str):
        self.macros: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        for scope, selector, parameter, value in _statements(text):
            if parameter:
                # What a macro names is used within the macro's scope, and told so once more.
                scoped = f"{scope}/" if scope and scope not in self.macros else ""
                name = ".".join(selector.split(".")[-2:])
                self.values[f"{scoped}{name}.{parameter}"] = value
            else:
                self.macros[f"{scope}/{selector}" if scope else selector] = value

    def resolved(self, key: str) -> Any:
        return self._resolve(self.values.get(key, _ABSENT))

    def name(self, key: str) -> str | None:
        """The macro that a user sets where it is bound to one."""
        value = self.values.get(key)
        of_macro = isinstance(value, _Word) and value.startswith("%") and value != _FREE_MACRO
        return value[1:] if of_macro else None

    def _resolve(self, value: Any) -> Any:
        if isinstance(value, _Word) and value.startswith("%") and value != _FREE_MACRO:
            return self._resolve(self.macros[value[1:]]) if value[1:] in self.macros else value
        if isinstance(value, Mapping):
            return {name: self._resolve(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self._resolve, value))
        return value


def _statements(text: str) -> Iterator[tuple[str, str, str, Any]]:
    """Macros first, as gin writes them.

    Raises:
      SyntaxError: it is no gin file.
    """
    for statement in config_parser.ConfigParser(text, _Names()):
        if isinstance(statement, config_parser.BindingStatement):
            yield statement[:4]
