"""The embedded benchmark: seeded English-like examples for the eight GLUE tasks, made offline.

Every label follows from the text by a rule, which each task's function states. Most tasks share
words and sentences, so that there is something to transfer (`relations` says to whom), and some of
GLUE's own surface regularities (a negation hints at contradiction), so that a two-layer model
learns them in minutes.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from mtl_t5x.tasks.mini import captions, entailment, grammar, lexicon
from mtl_t5x.tasks.mini.grammar import Draw, Row, Sentence

# Of the official training split; large and small as in GLUE, where `relations` asks for it.
TRAIN_ROWS = {
    "cola": 2000, "rte": 320, "mnli": 4000, "mrpc": 2000,
    "qnli": 2000, "qqp": 4000, "sst2": 4000, "stsb": 2000,
}  # fmt: skip
VALIDATION_ROWS = 1000  # of the official development split, by which a study tells small effects


def _cola(draw: Draw, label: int) -> Row:
    """1: an acceptable sentence. 0: the same with one error of order, form or number of words."""
    topic = draw.pick(lexicon.TOPICS)
    is_plural = draw.chance(0.4)
    noun, verb = draw.pick(topic.people), draw.pick(topic.verbs)
    subject = ["the", lexicon.plural(noun) if is_plural else noun]
    if draw.chance(0.4):
        subject.insert(1, draw.pick(lexicon.PERSON_ADJECTIVES))
    thing = ["the", draw.pick(topic.things)]
    if draw.chance(0.3):
        thing.insert(1, draw.pick(lexicon.THING_ADJECTIVES))
    place = ["in", "the", draw.pick(topic.places)] if draw.chance(0.5) else []
    right, wrong = _verb_groups(draw, verb, is_plural)
    parts = {"subject": subject, "verb": right, "thing": thing, "place": place}
    if not label:
        parts = _with_error(draw, parts, wrong, is_plural)
    return {"sentence": grammar.as_sentence(*(" ".join(words) for words in parts.values()))}


def _verb_groups(draw: Draw, verb: str, is_plural: bool) -> tuple[list[str], list[str]]:
    """The verb in the right and in a wrong form: `does not cook` and `does not cooks`."""
    third, past = lexicon.third_person(verb), lexicon.past(verb)
    present, other_present = (verb, third) if is_plural else (third, verb)
    do, other_do = ("do", "does") if is_plural else ("does", "do")
    form = draw.weighted({"present": 0.45, "past": 0.15, "not": 0.2, "past not": 0.2})
    if form == "present":
        return [present], [other_present]
    if form == "past":
        return [past], ["did", past]
    inflected = draw.pick([third, past])
    if form == "past not":
        return ["did", "not", verb], ["did", "not", inflected]
    wrong = [other_do, "not", verb] if draw.chance(0.5) else [do, "not", inflected]
    return [do, "not", verb], wrong


def _with_error(
    draw: Draw, parts: dict[str, list[str]], wrong_verb: list[str], is_plural: bool
) -> dict[str, list[str]]:
    kind = draw.weighted({"verb": 2, "order": 2.5, "move": 2, "double": 2, "missing": 1.5})
    if kind == "verb":
        return parts | {"verb": wrong_verb}
    if kind == "move":  # "the chef the soup cooks", "cooks the chef the soup"
        first, second = draw.pick([("subject", "thing"), ("verb", "subject")])
        order = [first, second, *(part for part in parts if part not in (first, second))]
        return {part: parts[part] for part in order}
    if kind == "missing":  # the verb, or the article of a single person
        is_article = not is_plural and draw.chance(0.5)
        return parts | ({"subject": parts["subject"][1:]} if is_article else {"verb": []})
    part = draw.pick([name for name in ("subject", "thing", "place") if parts[name]])
    words = parts[part]
    at = words.index("the")
    if kind == "double":  # "the the chef"
        return parts | {part: [*words[:at], "the", *words[at:]]}
    return parts | {part: [*words[:at], words[at + 1], "the", *words[at + 2 :]]}  # "chef the"


def _sst2(draw: Draw, label: int) -> Row:
    """Three words of a sentence, or more, tell one sentiment."""
    words = lexicon.POSITIVE if label else lexicon.NEGATIVE
    one, two, three = (draw.pick(words) for _ in range(3))
    noun, second = draw.pick(lexicon.REVIEWED), draw.pick(lexicon.REVIEWED)
    kind = draw.weighted({"with": 0.4, "is": 0.3, "verb": 0.3})
    if kind == "with":
        return {"sentence": f"a {one} and {two} {noun} with {three} {second}"}
    if kind == "is":
        intensifier = draw.pick(lexicon.INTENSIFIERS)
        return {"sentence": f"the {noun} is {one} , {two} and {intensifier} {three}"}
    verb = draw.pick(lexicon.POSITIVE_VERBS if label else lexicon.NEGATIVE_VERBS)
    return {"sentence": f"i truly {verb} the {one} {noun} and the {two} {second}"}


def _mrpc(draw: Draw, label: int) -> Row:
    """1: synonyms and the passive voice only. 0: at least one role is another one's, or negated."""
    first = grammar.event(draw, *draw.shuffled(("place", "time", "manner"))[:1])
    second = first
    if not label:
        kind = draw.weighted({"topic": 0.45, "roles": 0.25, "role": 0.1, "negation": 0.2})
        core = draw.shuffled(("subject", "verb", "thing"))
        if kind == "topic":
            second = grammar.elsewhere(draw, first)
        elif kind == "negation":
            second = first.replace(negation="not")
        else:
            second = grammar.change(draw, first, *core[: 1 if kind == "role" else 2])
    second = grammar.reword(draw, second, 0.5)
    voice = grammar.passive if second == first or draw.chance(0.3) else grammar.active
    return {"sentence1": grammar.active(first), "sentence2": voice(second)}


QUESTIONS = {
    "how": ("How can I {}?", "What is the best way to {}?"),
    "where": ("Where can I {}?", "What is a good place to {}?"),
    "when": ("When should I {}?", "What is the right time to {}?"),
    "why": ("Why do people {}?", "What is the reason to {}?"),
    "who": ("Who can {} for me?", "Which person should {}?"),
    "cost": ("How much does it cost to {}?", "What is the price to {}?"),
}


# The share of QQP's rows in which a collocation decides: whether two adjectives say the same of it.
COLLOCATIONS = 0.8


def _qqp(draw: Draw, label: int) -> Row:
    """1: the same kind of question about the same action on the same thing, of which a synonym of
    the adjective says the same."""
    if draw.chance(COLLOCATIONS):
        intent = other = draw.pick(tuple(QUESTIONS))
        first = _with_collocation(draw, bool(label))
        synonym = lexicon.synonym(first.thing_adjective)
        second = first.replace(thing_adjective=synonym)
    else:
        intent, other, first, second = _asked(draw, label)
    texts = [
        draw.pick(QUESTIONS[kind]).format(f"{sentence.verb} {grammar.thing_phrase(sentence)}")
        for kind, sentence in ((intent, first), (other, second))
    ]
    return {"question1": texts[0], "question2": texts[1]}


def _with_collocation(draw: Draw, is_alike: bool) -> Sentence:
    """An event with a thing of which its adjective and the synonym say the same, or don't."""
    while True:
        sentence = grammar.event(draw, "thing_adjective")
        if lexicon.is_alike(sentence.thing_adjective, sentence.thing) == is_alike:
            return sentence


def _asked(draw: Draw, label: int) -> tuple[str, str, Sentence, Sentence]:
    """Two kinds of question and the events they ask about, in which the adjective is no synonym."""
    intent = other = draw.pick(tuple(QUESTIONS))
    roles = ["thing_adjective"] if draw.chance(0.3) else []
    first = second = grammar.event(draw, *roles)
    if not label:
        kind = draw.weighted({"intent": 0.3, "topic": 0.4, "both": 0.15, "role": 0.15})
        if kind in ("intent", "both"):
            other = draw.pick([name for name in QUESTIONS if name != intent])
        if kind in ("topic", "both"):
            second = grammar.elsewhere(draw, first)
        if kind == "role":
            second = grammar.change(draw, first, draw.pick(["verb", "thing", *roles]))
    reworded = grammar.reword(draw, second, 0.4)
    return intent, other, first, reworded.replace(thing_adjective=second.thing_adjective)


def _qnli(draw: Draw, label: int) -> Row:
    """0: the sentence tells of the event that is asked about, and the role that is asked for."""
    role = draw.pick(("subject", "place", "time", "reason"))
    others = [name for name in grammar.ADJUNCTS if name != role]
    told = draw.shuffled(others)[: int(draw.chance(0.5))]
    asked = role if role in grammar.ADJUNCTS else ""
    sentence = grammar.event(draw, *told, *([asked] if asked else []))
    question = grammar.question(sentence, role)
    kind = draw.weighted({"missing": 0.52, "topic": 0.4, "role": 0.08}) if label else ""
    if kind == "topic":
        sentence = grammar.elsewhere(draw, sentence)
    elif kind == "role":
        told_roles = [name for name in ("subject", "verb", "thing") if name != role]
        sentence = grammar.change(draw, sentence, draw.pick(told_roles))
    elif kind == "missing" and asked:
        sentence = grammar.fill(draw, sentence.replace(**{asked: ""}), draw.pick(others))
    sentence = grammar.reword(draw, sentence, 0.2)
    if role == "subject" and kind == "missing":
        answer = grammar.passive(sentence, agent=False)
    elif role == "subject" or draw.chance(0.1):
        answer = draw.pick([grammar.passive, grammar.active])(sentence)
    else:
        answer = grammar.active(sentence)
    return {"question": question, "sentence": answer}


# Task -> how to make a row with a label, and the labels with their shares; STS-B's are those of
# `captions.stsb`.
_MAKERS: Mapping[str, tuple[Callable[[Draw, int], Row], Mapping[int, int]]] = {
    "cola": (_cola, {0: 8, 1: 12}),
    "rte": (entailment.rte, {0: 1, 1: 1}),
    "mnli": (entailment.mnli, {0: 1, 1: 1, 2: 1}),
    "mrpc": (_mrpc, {0: 9, 1: 11}),
    "qnli": (_qnli, {0: 1, 1: 1}),
    "qqp": (_qqp, {0: 11, 1: 9}),
    "sst2": (_sst2, {0: 1, 1: 1}),
    "stsb": (captions.stsb, {0: 3, 1: 2, 2: 3, 3: 4, 4: 4, 5: 4}),
}

TASKS = tuple(_MAKERS)


def splits(task: str) -> tuple[str, ...]:
    """The official splits that the benchmark has for a task."""
    if task == "mnli":
        return ("train", "validation_matched", "validation_mismatched")
    return ("train", "validation")


def rows(task: str, split: str, seed: int = 0) -> list[Row]:
    """The examples of a task's official split, in the fields of TFDS' `glue`.

    The same seed gives the same rows everywhere. No input occurs twice, in one split or two.
    Raises ValueError for a task or split that the benchmark lacks.
    """
    if task not in _MAKERS:
        raise ValueError(f"the mini benchmark has no task {task!r}; it has {', '.join(TASKS)}")
    if split not in splits(task):
        raise ValueError(
            f"the mini benchmark's {task} has no split {split!r}; it has {', '.join(splits(task))}"
        )
    return [dict(row) for row in _all_rows(task, seed)[split]]


@functools.lru_cache(maxsize=32)
def _all_rows(task: str, seed: int) -> dict[str, list[Row]]:
    make, shares = _MAKERS[task]
    seen: set[tuple[str, ...]] = set()
    made = {}
    for split in splits(task):
        key = [seed, zlib.crc32(f"{task}/{split}".encode())]
        draw = Draw(np.random.Generator(np.random.PCG64(key)))
        maker = entailment.mnli_mismatched if split == "validation_mismatched" else make
        count = TRAIN_ROWS[task] if split == "train" else VALIDATION_ROWS
        cycle = [label for label, share in shares.items() for _ in range(share)]
        labels = draw.shuffled([cycle[i % len(cycle)] for i in range(count)])
        made[split] = [
            {"label": label} | _fresh(maker, draw, label, seen) | {"idx": i}
            for i, label in enumerate(labels)
        ]
    return made


def _fresh(
    make: Callable[[Draw, int], Row], draw: Draw, label: int, seen: set[tuple[str, ...]]
) -> Row:
    """A row whose texts were not seen yet, in either order."""
    for _ in range(1000):
        row = make(draw, label)
        texts = tuple(sorted(value for value in row.values() if isinstance(value, str)))
        if texts not in seen and len(set(texts)) == len(texts):
            seen.add(texts)
            return row
    raise RuntimeError(f"found no new text in 1000 draws for label {label} by {make.__name__}")
