"""WikiSQL's queries: from the logical form to decaNLP's text and back.

`SELECT agg column FROM table WHERE column op value AND …`, where a column goes by its name in the
table's header.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

# {"sel": column, "agg": index, "conds": [[column, operator index, value], …]}, as WikiSQL has it.
Query = Mapping[str, Any]

AGGREGATES = ("", "MAX", "MIN", "COUNT", "SUM", "AVG")
OPERATORS = ("=", ">", "<", "OP")
_SYMBOLS = (
    "SELECT", "WHERE", "AND", "COL", "TABLE", "CAPTION", "PAGE", "SECTION", "OP", "COND",
    "QUESTION", "AGG", "AGGOPS", "CONDOPS",
)  # fmt: skip
# What decaNLP puts into each context, so that a model that copies can copy it.
KEY_WORDS = ", ".join((*AGGREGATES[1:], *OPERATORS, *_SYMBOLS))

# SentencePiece decodes an id that stands for no text like this. T5's vocabulary lacks `<`, and
# no other operator: a model over it can only write this in its place.
_UNKNOWN = "⁇"
_STATEMENT = re.compile(r"select\s(.*?)\s?from table(?:\swhere\s(.*))?", re.DOTALL)


def to_text(query: Query, header: Sequence[str]) -> str:
    """Writes a query as decaNLP does, with single spaces."""
    text = f"SELECT {AGGREGATES[query['agg']]} {header[query['sel']]} FROM table"
    if query["conds"]:
        conditions = (
            f"{header[column]} {OPERATORS[operator]} {value}"
            for column, operator, value in query["conds"]
        )
        text += " WHERE " + " AND ".join(conditions)
    return " ".join(text.split())


def to_json(query: Query, header: Sequence[str]) -> str:
    """Packs a query and its header into one text; `from_json` gives both back."""
    fields = {name: query[name] for name in ("sel", "agg", "conds")}
    return json.dumps({**fields, "header": list(header)}, ensure_ascii=False)


def from_json(text: str) -> tuple[dict[str, Any], list[str]]:
    """Returns the normalised query and the header that `to_json` has packed."""
    query = json.loads(text)
    header = query.pop("header")
    return normalise(query, header), header


def normalise(query: Query, header: Sequence[str]) -> dict[str, Any]:
    """Brings a query into the form that is compared.

    Columns of the same name are the first of them, as texts cannot tell them apart; values are
    lower-case texts with single spaces; conditions keep their order.
    """
    names = [_plain(name) for name in header]
    return {
        "sel": names.index(names[query["sel"]]),
        "agg": query["agg"],
        "conds": [
            [names.index(names[column]), operator, _plain(str(value))]
            for column, operator, value in query["conds"]
        ],
    }


def parse(text: str, header: Sequence[str]) -> dict[str, Any] | None:
    """Reads a query's text, given the table's header, into the form that `normalise` gives.

    Case and the amount of white space do not matter. Where names are ambiguous, the longest
    column counts, and a column before an aggregate of the same name.

    Returns:
      The query, or None where the text is not one over this header.
    """
    match = _STATEMENT.fullmatch(_plain(text))
    if not match:
        return None
    names = [_plain(name) for name in header]
    selected = _parse_selected(match[1].strip(), names)
    conditions = [] if match[2] is None else _parse_conditions(match[2], names)
    if selected is None or conditions is None:
        return None
    aggregate, column = selected
    return normalise({"sel": column, "agg": aggregate, "conds": conditions}, header)


def _parse_selected(text: str, names: Sequence[str]) -> tuple[int, int] | None:
    if text in names:
        return 0, names.index(text)
    first, _, column = text.partition(" ")
    if first.upper() in AGGREGATES[1:] and column in names:
        return AGGREGATES.index(first.upper()), names.index(column)
    return None


def _parse_conditions(text: str, names: Sequence[str]) -> list[list[Any]] | None:
    """Cuts at every `and` that a column and an operator follow: a value may hold an `and`."""
    longest = sorted(dict.fromkeys(names), key=len, reverse=True)
    columns = "|".join(map(re.escape, longest))
    operators = "|".join(re.escape(name.lower()) for name in (*OPERATORS, _UNKNOWN))
    head = re.compile(rf"(?:^|(?<= )and )({columns}) ?({operators})(?= |$)")
    heads = list(head.finditer(text))
    if not heads or heads[0].start() != 0:
        return None
    ends = [match.start() for match in heads[1:]] + [len(text)]
    symbols = [name.lower() for name in OPERATORS]
    return [
        [
            names.index(match[1]),
            symbols.index("<" if match[2] == _UNKNOWN else match[2]),
            text[match.end() : end].strip(),
        ]
        for match, end in zip(heads, ends, strict=True)
    ]


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
