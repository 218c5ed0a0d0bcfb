"""From an answer's text to what DecaNLP's metrics take; all of it can be written as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mtl_t5x.data import heads
from mtl_t5x.tasks.decanlp import wikisql as decanlp_wikisql
from mtl_t5x.tasks.decanlp import woz as decanlp_woz

Example = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Text:
    """The text itself, without space around it."""

    def __call__(self, text: str, **unused_kwargs: Any) -> str:
        return text.strip()


@dataclasses.dataclass(frozen=True)
class Answers:
    """A prediction is its text, a target the list of every right answer.

    `head` is what answers the task in the canonical architecture: a span of the input.
    """

    head: heads.Head = heads.Span()

    def __call__(
        self, text: str, example: Example, is_target: bool = False, **unused_kwargs: Any
    ) -> str | list[str]:
        if is_target:
            return [_text(answer) for answer in example["answers"]]
        return text.strip()


@dataclasses.dataclass(frozen=True)
class LogicalForm:
    """WikiSQL's query in the form of `decanlp_wikisql.normalise`; None where it is not SQL.

    The target is the logical form of the data, not what its text parses to.
    """

    def __call__(
        self, text: str, example: Example, is_target: bool = False, **unused_kwargs: Any
    ) -> dict[str, Any] | None:
        query, header = decanlp_wikisql.from_json(_text(example["query"]))
        return query if is_target else decanlp_wikisql.parse(text, header)


@dataclasses.dataclass(frozen=True)
class StateChange:
    """The change of a dialogue's state; None where the text is not one.

    A target also says which turn of which dialogue it is.
    """

    def __call__(
        self, text: str, example: Example, is_target: bool = False, **unused_kwargs: Any
    ) -> dict[str, Any] | None:
        change = decanlp_woz.parse(text)
        if change is None:
            return None
        fields = {"inform": dict(change.inform), "request": list(change.request)}
        if is_target:
            fields |= {name: int(example[name]) for name in ("dialogue", "turn")}
        return fields


def _text(value: bytes | str) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else value
