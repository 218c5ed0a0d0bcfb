"""WOZ's dialogue states: what a turn changes, as decaNLP's text and back.

`food: chinese, area: east; phone, postcode`: the goals that are new or other than before, then
what the user requests; `None` where there is neither.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "None"


@dataclasses.dataclass(frozen=True)
class Change:
    """What a turn changes: `inform` from a slot to its value, `request` the slots asked for."""

    inform: Mapping[str, str]
    request: Sequence[str]


def changes(belief_states: Sequence[Sequence[Mapping[str, Any]]]) -> list[Change]:
    """Returns what each turn changes, from the belief state after each turn of a dialogue.

    A goal is new where the turn before has not the same value for its slot. Slots and values are
    written so that the change's text can be read back: commas and semicolons, which separate them
    there, become spaces, and what is empty then is no goal.
    """
    found, before = [], {}
    for state in belief_states:
        inform, request = {}, []
        for item in state:
            for slot, value in item["slots"]:
                slot, value = _without(",;:", slot), _without(",;", value)
                if item["act"] == "inform" and slot and value:
                    inform[slot] = value
                elif item["act"] != "inform" and value:
                    request.append(value)
        new = {slot: value for slot, value in inform.items() if before.get(slot) != value}
        found.append(Change(new, request))
        before = inform
    return found


def _without(separators: str, text: str) -> str:
    return " ".join(re.sub(f"[{separators}]", " ", text).split())


def to_text(change: Change) -> str:
    """Writes a change as decaNLP does."""
    if not change.inform and not change.request:
        return NOTHING
    inform = ", ".join(f"{slot}: {value}" for slot, value in change.inform.items())
    return f"{inform}; {', '.join(change.request)}".strip()


def parse(text: str) -> Change | None:
    """Reads a change's text; None where it is not one. Case and white space do not matter."""
    text = " ".join(text.lower().split())
    if text == NOTHING.lower():
        return Change({}, [])
    inform_text, semicolon, request_text = text.partition(";")
    pairs = [pair.partition(":") for pair in _parts(inform_text)]
    request = _parts(request_text)
    if not semicolon or ";" in request_text or not (pairs or request):
        return None
    if any(not slot.strip() or not value.strip() for slot, _, value in pairs):
        return None
    inform = {slot.strip(): value.strip() for slot, _, value in pairs}
    return Change(inform, sorted(set(request)))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
