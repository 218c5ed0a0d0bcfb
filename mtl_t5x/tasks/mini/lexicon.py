"""The words of the embedded mini benchmark, as data.

A topic holds words that go together, so that any of its people, verbs, things and places make a
sensible sentence. Words written `a~b` are synonyms: two surfaces of one concept, which is named
by the first. Everything is ordered, so that a seeded draw is the same on every machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Topic:
    """People, actions (base forms), things and places that go together."""

    name: str
    people: tuple[str, ...]
    verbs: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]


# name | people | verbs | things | places
_TOPICS = (
    "kitchen | chef baker waiter~server | prepare~cook taste~sample order serve"
    " | soup~broth cake salad dessert~pudding | kitchen restaurant~diner",
    "hospital | doctor~physician nurse surgeon | examine~inspect treat~heal wash cover"
    " | patient wound~injury arm baby~infant | hospital~clinic tent",
    "school | teacher~instructor student~pupil writer~author"
    " | explain~describe copy finish~complete discuss"
    " | story~tale lesson poem book | school library",
    "farm | farmer~rancher shepherd rider | guard~protect chase~pursue feed brush"
    " | horse cow dog~hound rabbit~bunny | barn field~meadow",
    "garage | mechanic~technician driver~motorist engineer | repair~fix test paint move"
    " | car~automobile truck bicycle~bike engine~motor | garage street~road",
    "office | lawyer~attorney manager~boss clerk | review~study approve~accept sign send"
    " | contract~agreement report plan file | office bank",
    "theater | actor~performer singer~vocalist dancer"
    " | rehearse~practice praise~applaud record announce"
    " | song~tune film~movie concert show | theater studio",
)  # fmt: skip

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry")

# One pair of opposites each.
_PERSON_ADJECTIVES = ("rich~wealthy | poor", "happy~cheerful | sad~unhappy", "young | elderly",
                      "tall | short")  # fmt: skip
_THING_ADJECTIVES = ("big~large | small~little", "strange~odd | ordinary~normal")
_MANNERS = ("quickly~rapidly | slowly", "quietly~silently | loudly", "carefully | carelessly")

TIMES = ("yesterday", "on Monday", "on Friday", "at noon", "at night", "last week", "last year")
REASONS = ("for money", "for fun", "for a friend", "for a prize")

POSITIVE = ("brilliant", "charming", "clever", "delightful", "fresh", "funny", "great",
            "gripping", "lovely", "superb", "touching", "wonderful")  # fmt: skip
NEGATIVE = ("awful", "bland", "boring", "clumsy", "dull", "lifeless", "messy", "predictable",
            "tedious", "terrible", "tired", "weak")  # fmt: skip
POSITIVE_VERBS = ("love", "enjoy", "admire")
NEGATIVE_VERBS = ("hate", "dislike", "regret")
REVIEWED = ("film", "movie", "song", "concert", "show", "story", "plot", "cast", "script",
            "ending", "music", "acting")  # fmt: skip
INTENSIFIERS = ("very", "really", "quite", "truly")
NEGATORS = ("not", "never", "hardly")

_IRREGULAR_PAST = {"feed": "fed", "send": "sent"}


def third_person(verb: str) -> str:
    """`cook` -> `cooks`, `copy` -> `copies`, `finish` -> `finishes`."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x")) else "s")


def past(verb: str) -> str:
    """The past tense, which is also the participle of every verb of this lexicon."""
    if verb in _IRREGULAR_PAST:
        return _IRREGULAR_PAST[verb]
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + ("d" if verb.endswith("e") else "ed")


def plural(noun: str) -> str:
    """The plural of a person or thing: `boss` -> `bosses`, `baby` -> `babies`."""
    return third_person(noun)


def _words(groups: str) -> tuple[str, ...]:
    return tuple(groups.replace("~", " ").replace("|", " ").split())


def _topic(line: str) -> Topic:
    name, *parts = (part.strip() for part in line.split("|"))
    return Topic(name, *map(_words, parts))


def _synonyms(lines: Iterable[str]) -> dict[str, tuple[str, str]]:
    groups = (group.split("~") for line in lines for group in line.split() if "~" in group)
    return {word: (first, second) for first, second in groups for word in (first, second)}


def _opposites(lines: Iterable[str]) -> dict[str, str]:
    sides = [[_words(side) for side in line.split("|")] for line in lines]
    return {
        word: other[0] for left, right in sides
        for side, other in ((left, right), (right, left)) for word in side
    }  # fmt: skip


TOPICS = tuple(map(_topic, _TOPICS))
PERSON_ADJECTIVES = _words(" ".join(_PERSON_ADJECTIVES))
THING_ADJECTIVES = _words(" ".join(_THING_ADJECTIVES))
MANNERS = _words(" ".join(_MANNERS))
_PAIRS = _synonyms(_TOPICS + _PERSON_ADJECTIVES + _THING_ADJECTIVES + _MANNERS)
_OPPOSITE = _opposites(_PERSON_ADJECTIVES + _THING_ADJECTIVES + _MANNERS)


def concept(word: str) -> str:
    """The name that a word shares with its synonym (itself where it has none)."""
    return _PAIRS.get(word, (word, word))[0]


def synonym(word: str) -> str:
    """The other surface of the word's concept; the word itself where there is none."""
    first, second = _PAIRS.get(word, (word, word))
    return second if word == first else first


def opposite(word: str) -> str:
    """The antonym of an adjective or a manner; KeyError for other words."""
    return _OPPOSITE[word]
