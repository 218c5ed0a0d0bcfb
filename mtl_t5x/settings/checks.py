"""Checks of settings: each gives a line that says what is wrong, or None.

A line opens with the name by which a user sets the value, as BATCH_SIZE or `decoding.Search.beams`,
then says what it is and what to write instead. What is made of settings checks itself, by `check`.
"""

from __future__ import annotations

import difflib
import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Fault = str | None


class SettingsError(ValueError):
    """Settings that can't work; its text has a line for each, which are `faults`."""

    def __init__(self, *faults: str):
        super().__init__("\n".join(faults))
        self.faults = faults


def check(*faults: Fault) -> None:
    """Raises SettingsError for the faults among what checks gave, all at once."""
    if found := [fault for fault in faults if fault is not None]:
        raise SettingsError(*found)


def whole(
    name: str,
    value: Any,
    least: int = 0,
    meaning: str = "",
    *,
    most: int | None = None,
    none: bool = False,
) -> Fault:
    """A whole number from `least` to `most`; with `none`, None is one too."""
    if none and value is None:
        return None
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if is_whole and least <= value and (most is None or value <= most):
        return None
    limits = f"{least} or more" if most is None else f"from {least} to {most}"
    return _wrong(name, value, f"a whole number, {limits}", meaning, none)


def number(
    name: str,
    value: Any,
    least: float = 0.0,
    meaning: str = "",
    *,
    below: float = math.inf,
    none: bool = False,
) -> Fault:
    """A finite number, at least `least` and less than `below`; with `none`, or None."""
    if none and value is None:
        return None
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and least <= value < below:
        return None
    upper = "" if math.isinf(below) else f" and below {below:g}"
    return _wrong(name, value, f"a number, {least:g} or more{upper}", meaning, none)


def flag(name: str, value: Any) -> Fault:
    """True or False."""
    return None if isinstance(value, bool) else _wrong(name, value, "True or False", "", False)


def text(name: str, value: Any, meaning: str, *, none: bool = False) -> Fault:
    """A text that isn't empty; with `none`, or None."""
    if (none and value is None) or (isinstance(value, str) and value):
        return None
    return _wrong(name, value, "a text in quotes", meaning, none)


def choice(name: str, value: Any, options: Sequence[Any]) -> Fault:
    """One of the options."""
    if value in options:
        return None
    hint = f" Did you mean {near!r}?" if (near := nearest(str(value), options)) else ""
    listed = ", ".join(map(repr, options))
    return f"{name} = {value!r}: write one of {listed}.{hint}"


def a(name: str, value: Any, kind: type | tuple[type, ...], meaning: str) -> Fault:
    """A value of a kind, which `meaning` describes as what to write."""
    return None if isinstance(value, kind) else f"{name} = {_shown(value)}: write {meaning}"


def expressions(name: str, value: Any, *, none: bool = False) -> Fault:
    """A dictionary from names to regular expressions."""
    if none and value is None:
        return None
    example = '{"encoder": "encoder/.*kernel"}'
    if not isinstance(value, Mapping) or not all(
        isinstance(one, str) for item in value.items() for one in item
    ):
        return f"{name} = {_shown(value)}: write a dictionary of texts, as {example}"
    for group, expression in value.items():
        try:
            re.compile(expression)
        except re.error as error:
            return (
                f"{name}: the expression {expression!r} of {group!r} is no regular expression "
                f"({error}); write one as in {example}"
            )
    return None


def expression(name: str, value: Any, example: str) -> Fault:
    """A regular expression, or None."""
    if value is None:
        return None
    wanted = f"write a regular expression in quotes, as {example!r}, or None"
    if not isinstance(value, str):
        return f"{name} = {_shown(value)}: {wanted}"
    try:
        re.compile(value)
    except re.error as error:
        return f"{name} = {_shown(value)} is no regular expression ({error}): {wanted}"
    return None


def lengths(value: Any) -> Fault:
    """Of TASK_FEATURE_LENGTHS: tokens by feature."""
    name, example = "TASK_FEATURE_LENGTHS", '{"inputs": 256, "targets": 16}'
    if not isinstance(value, Mapping) or not value:
        return f"{name} = {_shown(value)}: write a dictionary, as {example}"
    faults = (whole(f"{name}[{key!r}]", length, 1, "tokens") for key, length in value.items())
    return next(filter(None, faults), None)


# By the function or class that is given them, its settings that aren't made of others.
_PLAIN: dict[str, dict[str, Callable[[Any], Fault]]] = {
    "run": {
        "model_dir": lambda value: text("MODEL_DIR", value, "the run's folder"),
        "train_steps": lambda value: whole("TRAIN_STEPS", value, 1, "updates in all"),
        "random_seed": lambda value: whole("RANDOM_SEED", value, most=2**32 - 1),
        "log_period": lambda value: whole("LOG_PERIOD", value, 0, "steps between lines"),
        "initial_checkpoint_path": lambda value: text(
            "INITIAL_CHECKPOINT_PATH", value, "where the parameters come from", none=True
        ),
        "log_examples": lambda value: flag("train.train.log_examples", value),
        "update_directions": lambda value: flag("measure.measure.update_directions", value),
    },
    "Experiment": {
        "batch_size": lambda value: whole("BATCH_SIZE", value, 1, "examples of a task and step"),
        "microbatches": lambda value: whole("MICROBATCHES", value, 1, "parts of a step's examples"),
        "cache_dir": lambda value: text("CACHE_DIR", value, "a folder for tokens", none=True),
        "task_feature_lengths": lengths,
        "trainable": lambda value: expression("TRAINABLE", value, "decoder/.*"),
    },
}


def plain(kind: str, values: Mapping[str, Any]) -> list[Fault]:
    """Of the values by name, those that a kind of thing in `_PLAIN` has."""
    known = _PLAIN.get(kind, {})
    return [known[name](value) for name, value in values.items() if name in known]


def nearest(name: str, known: Iterable[Any]) -> str | None:
    """The name among those known that a misspelt one most likely means."""
    by_lower = {str(one).lower(): str(one) for one in known}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def _wrong(name: str, value: Any, wanted: str, meaning: str, none: bool) -> str:
    wanted = f"{wanted}, or None" if none else wanted
    return f"{name} = {_shown(value)}: write {wanted}" + (f" ({meaning})" if meaning else "")


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"
