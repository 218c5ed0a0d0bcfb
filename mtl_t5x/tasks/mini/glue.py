"""The embedded benchmark: seeded English-like examples for the eight GLUE tasks, made offline.

Every label follows from the text by a rule, which each task's function states. The tasks share
words and sentences, so that there is something to transfer, and some of GLUE's own surface
regularities (a negation hints at contradiction), so that a two-layer model learns them in minutes.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mtl_t5x.tasks.mini import grammar, lexicon
from mtl_t5x.tasks.mini.grammar import Draw, Sentence

TRAIN_ROWS = 2000
VALIDATION_ROWS = 200

Row = dict[str, Any]


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
    """The last clause decides; there a negator turns its sentiment words round."""
    kind = draw.weighted({"is": 0.3, "two": 0.2, "contrast": 0.3, "verb": 0.2})
    if kind == "contrast":
        first = _opinion(draw, 1 - label)
        if draw.chance(0.5):
            return {"sentence": f"{first} but {_opinion(draw, label)}"}
        return {"sentence": f"although {first} , {_opinion(draw, label)}"}
    if kind == "two":
        words = lexicon.POSITIVE if label else lexicon.NEGATIVE
        adjective, other = draw.pick(words), draw.pick(words)
        noun, second = draw.pick(lexicon.REVIEWED), draw.pick(lexicon.REVIEWED)
        return {"sentence": f"a {adjective} {noun} with {other} {second}"}
    if kind == "verb":
        negated = draw.chance(0.35)
        words = lexicon.POSITIVE_VERBS if label != negated else lexicon.NEGATIVE_VERBS
        negation = "did not" if negated else draw.pick(["truly", "really", "will"])
        time = draw.pick(["", "", "yesterday", "at night", "last week", "last year"])
        text = f"i {negation} {draw.pick(words)} the {draw.pick(lexicon.REVIEWED)} {time}"
        return {"sentence": text.strip()}
    return {"sentence": _opinion(draw, label)}


def _opinion(draw: Draw, label: int) -> str:
    negator = draw.pick(lexicon.NEGATORS) if draw.chance(0.35) else ""
    words = lexicon.POSITIVE if label != bool(negator) else lexicon.NEGATIVE
    intensifier = draw.pick(lexicon.INTENSIFIERS) if draw.chance(0.4) else ""
    parts = ("the", draw.pick(lexicon.REVIEWED), "is", negator, intensifier, draw.pick(words))
    return " ".join(part for part in parts if part)


def _mrpc(draw: Draw, label: int) -> Row:
    """1: synonyms and the passive voice only. 0: at least one role is another one's, or negated."""
    first = grammar.event(draw, *draw.shuffled(("place", "time", "manner"))[:1])
    second = first
    if not label:
        kind = draw.weighted({"topic": 0.45, "roles": 0.25, "role": 0.1, "negation": 0.2})
        core = draw.shuffled(("subject", "verb", "thing"))
        if kind == "topic":
            second = _elsewhere(draw, first)
        elif kind == "negation":
            second = first.replace(negation="not")
        else:
            second = grammar.change(draw, first, *core[: 1 if kind == "role" else 2])
    second = grammar.reword(draw, second, 0.5)
    voice = grammar.passive if second == first or draw.chance(0.3) else grammar.active
    return {"sentence1": grammar.active(first), "sentence2": voice(second)}


def _elsewhere(draw: Draw, sentence: Sentence) -> Sentence:
    """Another topic's event with the same roles filled; time, manner and names are kept."""
    topic = grammar.other_topic(draw, than=sentence.topic)
    roles = ["verb", "thing", *(["place"] if sentence.place else [])]
    if sentence.subject not in lexicon.NAMES:
        roles.append("subject")
    return grammar.fill(draw, sentence.replace(topic=topic), *roles)


STSB_ROLES = ("subject", "verb", "thing", "place")


def _stsb(draw: Draw, label: int) -> Row:
    """1 for the same topic, and 4 shared among the roles: a whole one for the same word, 4/5 of
    it for a synonym."""
    first = grammar.event(draw, "place", names=0.25)
    if label == 0:
        second = _elsewhere(draw, first)
    else:
        second = grammar.change(draw, first, *draw.shuffled(STSB_ROLES)[: 5 - label])
        second = grammar.reword(draw, second, 0.3)
    score = float(first.topic == second.topic)
    for role in STSB_ROLES:
        word, other = getattr(first, role), getattr(second, role)
        score += (1.0 if word == other else 0.8) * (lexicon.concept(word) == lexicon.concept(other))
    texts = {"sentence1": grammar.active(first), "sentence2": grammar.active(second)}
    return texts | {"label": round(score, 1)}


QUESTIONS = {
    "how": ("How can I {}?", "What is the best way to {}?"),
    "where": ("Where can I {}?", "What is a good place to {}?"),
    "when": ("When should I {}?", "What is the right time to {}?"),
    "why": ("Why do people {}?", "What is the reason to {}?"),
    "who": ("Who can {} for me?", "Which person should {}?"),
    "cost": ("How much does it cost to {}?", "What is the price to {}?"),
}


def _qqp(draw: Draw, label: int) -> Row:
    """1: the same kind of question about the same action on the same thing."""
    intent = other = draw.pick(tuple(QUESTIONS))
    roles = ["thing_adjective"] if draw.chance(0.3) else []
    first = second = grammar.event(draw, *roles)
    if not label:
        kind = draw.weighted({"intent": 0.3, "topic": 0.4, "both": 0.15, "role": 0.15})
        if kind in ("intent", "both"):
            other = draw.pick([name for name in QUESTIONS if name != intent])
        if kind in ("topic", "both"):
            second = _elsewhere(draw, first)
        if kind == "role":
            second = grammar.change(draw, first, draw.pick(["verb", "thing", *roles]))
    second = grammar.reword(draw, second, 0.4)
    texts = [
        draw.pick(QUESTIONS[kind]).format(f"{sentence.verb} {grammar.thing_phrase(sentence)}")
        for kind, sentence in ((intent, first), (other, second))
    ]
    return {"question1": texts[0], "question2": texts[1]}


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
        sentence = _elsewhere(draw, sentence)
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


ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)


def _premise(draw: Draw) -> Sentence:
    roles = draw.shuffled(grammar.MODIFIERS[:-1])[: 2 if draw.chance(0.6) else 3]
    return grammar.event(draw, *roles)


def _present(sentence: Sentence) -> list[str]:
    return [role for role in grammar.MODIFIERS if getattr(sentence, role)]


def _without(draw: Draw, sentence: Sentence, keep: tuple[str, ...] = ()) -> Sentence:
    """The sentence without at least one of its modifiers, but with those in `keep`."""
    roles = draw.shuffled([role for role in _present(sentence) if role not in keep])
    dropped = roles[: 1 + int(draw.chance(0.5))]
    return sentence.replace(**dict.fromkeys(dropped, ""))


def _reworded(draw: Draw, sentence: Sentence) -> str:
    voice = draw.weighted({grammar.active: 0.75, grammar.passive: 0.25})
    return voice(grammar.reword(draw, sentence, 0.25))


def _entailed(draw: Draw, premise: Sentence) -> str:
    """Less is said, in other words."""
    if draw.chance(0.1) and not premise.negation:
        return grammar.active(_without(draw, premise).replace(subject="somebody"))
    kept = premise if premise.negation else _without(draw, premise)
    return _reworded(draw, kept)


def _unknown(draw: Draw, premise: Sentence) -> str:
    """A modifier that the premise lacks, or an event that it doesn't tell of."""
    sentence = _without(draw, premise)
    kind = draw.weighted({"topic": 0.5, "reason": 0.28, "modifier": 0.15, "event": 0.07})
    if kind == "topic":
        return grammar.active(_elsewhere(draw, sentence.replace(negation="")))
    if kind == "event":
        return grammar.active(grammar.change(draw, sentence, "verb", "thing"))
    absent = [role for role in grammar.ADJUNCTS if not getattr(premise, role)]
    role = kind if kind == "reason" else draw.pick(absent)
    return grammar.active(grammar.reword(draw, grammar.fill(draw, sentence, role), 0.2))


def _denied(draw: Draw, premise: Sentence) -> str:
    """The negation, or the opposite of a modifier, or another place or time."""
    if premise.negation:
        return grammar.active(premise.replace(negation=""))
    if draw.chance(0.72):
        sentence = grammar.reword(draw, _without(draw, premise), 0.2)
        how = draw.pick(["not", "never", "nobody"])
        if how == "nobody":
            return grammar.active(sentence.replace(subject="nobody"))
        return grammar.active(sentence.replace(negation=how))
    role = draw.pick(_present(premise))
    sentence = _without(draw, premise, keep=(role,))
    if role in ("place", "time"):
        return grammar.active(grammar.change(draw, sentence, role))
    opposite = lexicon.opposite(getattr(sentence, role))
    return grammar.active(sentence.replace(**{role: opposite}))


HYPOTHESES = (_entailed, _unknown, _denied)


def _mnli(draw: Draw, label: int) -> Row:
    """Entailment leaves things out, neutral adds some, contradiction denies."""
    premise = _premise(draw)
    if label != NEUTRAL and draw.chance(0.08):
        premise = _without(draw, premise).replace(negation="not")
    hypothesis = HYPOTHESES[label](draw, premise)
    return {"premise": grammar.active(premise), "hypothesis": hypothesis}


SPOKEN = ("Well, {}", "You know, {}", "I heard that {}", "Yes, {}")


def _mnli_mismatched(draw: Draw, label: int) -> Row:
    """The same rules in the spoken genre."""
    row = _mnli(draw, label)
    premise = row["premise"]
    if premise.startswith("The "):
        premise = "t" + premise[1:]
    return row | {"premise": draw.pick(SPOKEN).format(premise)}


def _rte(draw: Draw, label: int) -> Row:
    """0: leaves things out. 1: adds or denies some, or tells of other people or things."""
    premise = _premise(draw)
    if not label:
        hypothesis = _entailed(draw, premise)
    else:
        kind = draw.weighted({"unknown": 0.37, "denied": 0.32, "topic": 0.25, "role": 0.06})
        if kind in ("unknown", "denied"):
            hypothesis = {"unknown": _unknown, "denied": _denied}[kind](draw, premise)
        else:
            other = _without(draw, premise)
            if kind == "topic":
                other = _elsewhere(draw, other)
            else:
                other = grammar.change(draw, other, draw.pick(["subject", "verb", "thing"]))
            hypothesis = _reworded(draw, other)
    return {"sentence1": grammar.active(premise), "sentence2": hypothesis}


# Task -> how to make a row with a label, and the labels with their shares. STS-B's are the number
# of shared roles plus one; 0 is another topic.
_MAKERS: Mapping[str, tuple[Callable[[Draw, int], Row], Mapping[int, int]]] = {
    "cola": (_cola, {0: 8, 1: 12}),
    "rte": (_rte, {0: 1, 1: 1}),
    "mnli": (_mnli, {0: 1, 1: 1, 2: 1}),
    "mrpc": (_mrpc, {0: 9, 1: 11}),
    "qnli": (_qnli, {0: 1, 1: 1}),
    "qqp": (_qqp, {0: 11, 1: 9}),
    "sst2": (_sst2, {0: 1, 1: 1}),
    "stsb": (_stsb, {0: 3, 1: 2, 2: 3, 3: 4, 4: 4, 5: 4}),
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
        maker = _mnli_mismatched if split == "validation_mismatched" else make
        count = TRAIN_ROWS if split == "train" else VALIDATION_ROWS
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
