"""Sentences of the embedded benchmark as roles, and how they read as English."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from mtl_t5x.tasks.mini import lexicon

Row = dict[str, Any]
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Sentence:
    """One event. Verbs are base forms; an empty string is an absent role."""

    topic: lexicon.Topic
    subject: str
    verb: str
    thing: str
    subject_adjective: str = ""
    thing_adjective: str = ""
    manner: str = ""
    place: str = ""
    time: str = ""
    reason: str = ""
    negation: str = ""  # "not", "never" or none
    attitude: str = ""  # one of `lexicon.ATTITUDES`, as in "managed to cook", or none

    def replace(self, **roles: str) -> Sentence:
        """The sentence with some roles changed."""
        return dataclasses.replace(self, **roles)


@dataclasses.dataclass(frozen=True)
class Draw:
    """Seeded choices.

    Only `Generator.random` is used: numpy keeps the doubles of PCG64 the same over its
    versions, which it does not promise for `choice`, `integers` or `shuffle`.
    """

    generator: np.random.Generator

    def chance(self, probability: float) -> bool:
        return bool(self.generator.random() < probability)

    def pick(self, options: Sequence[_T]) -> _T:
        return options[int(self.generator.random() * len(options))]

    def other(self, options: Sequence[str], than: str) -> str:
        """A word of `options` with another concept than that of `than`."""
        concept = lexicon.concept(than)
        return self.pick([word for word in options if lexicon.concept(word) != concept])

    def weighted(self, options: dict[_T, float]) -> _T:
        """A key of `options`, drawn by its weight."""
        left = self.generator.random() * sum(options.values())
        for option, weight in options.items():
            left -= weight
            if left < 0:
                return option
        return option

    def shuffled(self, items: Sequence[_T]) -> list[_T]:
        keys = self.generator.random(len(items))
        return [items[i] for i in sorted(range(len(items)), key=lambda i: (keys[i], i))]


ADJUNCTS = ("manner", "place", "time", "reason")
MODIFIERS = ("subject_adjective", "thing_adjective", *ADJUNCTS)


def options(sentence: Sentence, role: str) -> tuple[str, ...]:
    """The words that may fill a role of this sentence."""
    topic = sentence.topic
    return {
        "subject": topic.people, "verb": topic.verbs, "thing": topic.things,
        "place": topic.places, "time": lexicon.TIMES, "reason": lexicon.REASONS,
        "manner": lexicon.MANNERS, "subject_adjective": topic.person_adjectives,
        "thing_adjective": topic.thing_adjectives,
    }[role]  # fmt: skip


def fill(draw: Draw, sentence: Sentence, *roles: str) -> Sentence:
    """The sentence with words drawn for `roles`; names take no adjective."""
    for role in roles:
        if role != "subject_adjective" or sentence.subject not in lexicon.NAMES:
            sentence = sentence.replace(**{role: draw.pick(options(sentence, role))})
    return sentence


def change(draw: Draw, sentence: Sentence, *roles: str) -> Sentence:
    """The sentence with another concept in each of `roles`."""
    for role in roles:
        word = draw.other(options(sentence, role), than=getattr(sentence, role))
        sentence = sentence.replace(**{role: word})
    return sentence


def event(
    draw: Draw, *roles: str, names: float = 0.2, topic: lexicon.Topic | None = None
) -> Sentence:
    """A sentence with a subject, a verb, a thing and the further `roles`.

    Its subject is a name with probability `names`; the topic is drawn where none is given.
    """
    topic = topic or draw.pick(lexicon.TOPICS)
    subject = draw.pick(lexicon.NAMES if draw.chance(names) else topic.people)
    bare = Sentence(topic, subject, draw.pick(topic.verbs), draw.pick(topic.things))
    return fill(draw, bare, *roles)


def other_topic(draw: Draw, than: lexicon.Topic) -> lexicon.Topic:
    topics = lexicon.CAPTIONS if than in lexicon.CAPTIONS else lexicon.TOPICS
    return draw.pick([topic for topic in topics if topic != than])


def elsewhere(draw: Draw, sentence: Sentence) -> Sentence:
    """Another topic's event with the same roles filled; time, manner and names are kept."""
    topic = other_topic(draw, than=sentence.topic)
    roles = ["verb", "thing", *(["place"] if sentence.place else [])]
    if sentence.subject not in lexicon.NAMES:
        roles.append("subject")
    return fill(draw, sentence.replace(topic=topic), *roles)


def reword(draw: Draw, sentence: Sentence, probability: float) -> Sentence:
    """The same meaning with each word replaced by its synonym with `probability`."""
    roles = ("subject", "verb", "thing", "place", "manner", "subject_adjective", "thing_adjective")
    return sentence.replace(
        **{
            role: lexicon.synonym(getattr(sentence, role))
            for role in roles
            if getattr(sentence, role) and draw.chance(probability)
        }
    )


def subject_phrase(sentence: Sentence) -> str:
    if sentence.subject in lexicon.NAMES or sentence.subject in ("somebody", "nobody"):
        return sentence.subject
    return _join("the", sentence.subject_adjective, sentence.subject)


def thing_phrase(sentence: Sentence) -> str:
    return _join("the", sentence.thing_adjective, sentence.thing)


def place_phrase(sentence: Sentence) -> str:
    return _join("in the", sentence.place) if sentence.place else ""


def active(sentence: Sentence) -> str:
    """`The tall chef cooked the soup slowly in the kitchen on Monday for fun.`"""
    verb = lexicon.past(sentence.verb)
    if sentence.attitude:
        verb = f"{sentence.attitude} to {sentence.verb}"
    elif sentence.negation == "not":
        verb = "did not " + sentence.verb
    elif sentence.negation:
        verb = _join(sentence.negation, verb)
    return as_sentence(subject_phrase(sentence), verb, thing_phrase(sentence), _adjuncts(sentence))


def caption(sentence: Sentence) -> str:
    """`A shy girl is tossing the red frisbee in the garden.`"""
    subject = _join("a", sentence.subject_adjective, sentence.subject)
    verb = "is " + lexicon.progressive(sentence.verb)
    return as_sentence(subject, verb, thing_phrase(sentence), place_phrase(sentence))


def passive(sentence: Sentence, *, agent: bool = True) -> str:
    """`The soup was not cooked by the tall chef in the kitchen.`"""
    verb = _join("was", sentence.negation, lexicon.past(sentence.verb))
    by = "by " + subject_phrase(sentence) if agent else ""
    return as_sentence(thing_phrase(sentence), verb, by, _adjuncts(sentence))


def question(sentence: Sentence, role: str) -> str:
    """The question whose answer is the sentence's `role`."""
    base = _join(sentence.verb, thing_phrase(sentence))
    if role == "subject":
        return as_question("who", lexicon.past(sentence.verb), thing_phrase(sentence))
    if role == "thing":
        return as_question("what did", subject_phrase(sentence), sentence.verb)
    word = {"place": "where", "time": "when", "manner": "how", "reason": "why"}[role]
    return as_question(word, "did", subject_phrase(sentence), base)


def as_sentence(*parts: str) -> str:
    text = _join(*parts)
    return text[0].upper() + text[1:] + "."


def as_question(*parts: str) -> str:
    return as_sentence(*parts)[:-1] + "?"


def _adjuncts(sentence: Sentence) -> str:
    return _join(sentence.manner, place_phrase(sentence), sentence.time, sentence.reason)


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)
