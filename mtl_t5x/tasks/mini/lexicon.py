"""The words of the embedded mini benchmark, as data.

A topic holds words that go together, so that any of its people, verbs, things and places make a
sensible sentence. Words written `a~b` are synonyms: two surfaces of one concept, which is named
by the first. Everything is ordered, so that a seeded draw is the same on every machine.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Topic:
    """People, actions (base forms), things and places that go together, and their adjectives."""

    name: str
    people: tuple[str, ...]
    verbs: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]
    person_adjectives: tuple[str, ...]
    thing_adjectives: tuple[str, ...]


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

# What captions tell of, by kinds of things: words that no other task knows.
_CAPTION_PEOPLE = "man~guy woman~lady boy~lad girl toddler"
_CAPTION_PLACES = "park garden forest"
_CAPTIONS = tuple(
    f"{name} | {_CAPTION_PEOPLE} | {verbs} | {things} | {_CAPTION_PLACES}"
    for name, verbs, things in (
        ("music", "play polish hold carry", "guitar flute piano violin drum"),
        ("food", "slice peel chew boil", "onion potato~spud carrot tomato pepper"),
        ("sport", "kick throw~toss catch roll", "ball frisbee hoop balloon stone~rock"),
    )
)
_CAPTION_PERSON_ADJECTIVES = ("thin", "bald", "blond", "shy", "tanned")
_CAPTION_THING_ADJECTIVES = ("red", "blue", "green", "yellow", "black", "white")

NAMES = ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry")

# One pair of opposites each.
_PERSON_ADJECTIVES = ("rich~wealthy | poor", "happy~cheerful | sad~unhappy", "young | elderly",
                      "tall | short")  # fmt: skip
_THING_ADJECTIVES = ("big~large | small~little", "strange~odd | ordinary~normal")
_MANNERS = ("quickly~rapidly | slowly", "quietly~silently | loudly", "carefully | carelessly")

TIMES = ("yesterday", "on Monday", "on Friday", "at noon", "at night", "last week", "last year")
REASONS = ("for money", "for fun", "for a friend", "for a prize")

# What is said before "to cook": that it was done, that this stays open, that it was not (Karttunen
# 1971, Implicative verbs, Language 47). In the order of MNLI's classes.
_DONE = (
    "managed remembered happened dared bothered proceeded hastened began",
    "glad sorry proud lucky wise foolish quick brave",
)
_OPEN = (
    "wanted hoped planned promised offered agreed tried intended",
    "eager keen ready willing anxious free due likely",
)
_NOT_DONE = (
    "failed forgot refused declined neglected omitted disdained scorned",
    "unable unwilling unfit powerless helpless forbidden loath afraid",
)
ATTITUDES = tuple(
    (*verbs.split(), *(f"was {adjective}" for adjective in adjectives.split()))
    for verbs, adjectives in (_DONE, _OPEN, _NOT_DONE)
)

POSITIVE = ("brilliant", "charming", "clever", "delightful", "fresh", "funny", "great",
            "gripping", "lovely", "superb", "touching", "wonderful")  # fmt: skip
NEGATIVE = ("awful", "bland", "boring", "clumsy", "dull", "lifeless", "messy", "predictable",
            "tedious", "terrible", "tired", "weak")  # fmt: skip
POSITIVE_VERBS = ("love", "enjoy", "admire")
NEGATIVE_VERBS = ("hate", "dislike", "regret")
REVIEWED = ("plot", "cast", "script", "ending", "music", "acting", "dialogue", "camera",
            "pacing", "sequel", "soundtrack", "humor")  # fmt: skip
INTENSIFIERS = ("very", "really", "quite", "truly")

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


def progressive(verb: str) -> str:
    """`slice` -> `slicing`; only for verbs that double no letter."""
    return verb.removesuffix("e") + "ing"


def plural(noun: str) -> str:
    """The plural of a person or thing: `boss` -> `bosses`, `baby` -> `babies`."""
    return third_person(noun)


def _words(groups: str) -> tuple[str, ...]:
    return tuple(groups.replace("~", " ").replace("|", " ").split())


def _topic(line: str, *adjectives: tuple[str, ...]) -> Topic:
    name, *parts = (part.strip() for part in line.split("|"))
    return Topic(name, *map(_words, parts), *adjectives)


def _synonyms(lines: Iterable[str]) -> dict[str, tuple[str, str]]:
    groups = (group.split("~") for line in lines for group in line.split() if "~" in group)
    return {word: (first, second) for first, second in groups for word in (first, second)}


def _opposites(lines: Iterable[str]) -> dict[str, str]:
    sides = [[_words(side) for side in line.split("|")] for line in lines]
    return {
        word: other[0] for left, right in sides
        for side, other in ((left, right), (right, left)) for word in side
    }  # fmt: skip


PERSON_ADJECTIVES = _words(" ".join(_PERSON_ADJECTIVES))
THING_ADJECTIVES = _words(" ".join(_THING_ADJECTIVES))
TOPICS = tuple(_topic(line, PERSON_ADJECTIVES, THING_ADJECTIVES) for line in _TOPICS)
CAPTIONS = tuple(
    _topic(line, _CAPTION_PERSON_ADJECTIVES, _CAPTION_THING_ADJECTIVES) for line in _CAPTIONS
)
MANNERS = _words(" ".join(_MANNERS))
_PAIRS = _synonyms(_TOPICS + _CAPTIONS + _PERSON_ADJECTIVES + _THING_ADJECTIVES + _MANNERS)
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


def is_alike(adjective: str, thing: str) -> bool:
    """Whether an adjective and its synonym say the same of this thing: a big tent is a large tent,
    but a big brother is no large brother.

    A collocation is a fact by itself: a hash stands for it, which no other pair of words foretells.
    """
    words = f"{concept(adjective)} {concept(thing)}"
    return bool(zlib.crc32(words.encode()) >> 7 & 1)
