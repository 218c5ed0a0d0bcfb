"""The embedded DecaNLP: seeded English-like examples for the ten tasks, made offline.

Each answer follows from context and question by a rule that its function states. Words and
sentences are those of the embedded GLUE, from which natural language inference and sentiment come
as they are, with other draws.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from mtl_t5x.tasks import prompts
from mtl_t5x.tasks.decanlp import prompts as decanlp_prompts
from mtl_t5x.tasks.decanlp import rows as decanlp_rows
from mtl_t5x.tasks.decanlp import wikisql as decanlp_wikisql
from mtl_t5x.tasks.decanlp.woz import Change
from mtl_t5x.tasks.mini import decanlp_words as words
from mtl_t5x.tasks.mini import glue as mini
from mtl_t5x.tasks.mini import grammar, lexicon
from mtl_t5x.tasks.mini.grammar import Draw, Sentence
from mtl_t5x.tasks.sources import Row

SPLITS = {"train": 1800, "validation": 200, "test": 200}

_PEOPLE = tuple(person for topic in lexicon.TOPICS for person in topic.people)
_THINGS = tuple(thing for topic in lexicon.TOPICS for thing in topic.things)
_PLACES = tuple(dict.fromkeys(place for topic in lexicon.TOPICS for place in topic.places))


def _phrase(sentence: Sentence, role: str) -> str:
    """A role as it reads inside the sentence, without a preposition of place."""
    return {
        "subject": grammar.subject_phrase(sentence),
        "thing": grammar.thing_phrase(sentence),
        "place": f"the {sentence.place}",
        "time": sentence.time,
        "manner": sentence.manner,
    }[role]


def _span(text: str, phrase: str) -> tuple[str, int]:
    """The phrase as it stands in the text, which may open with it, and where."""
    if text.lower().startswith(phrase.lower()):
        return text[: len(phrase)], 0
    return phrase, text.index(phrase)


def _squad(draw: Draw) -> Row:
    """Two events; the answer is a role of the one that the question tells of."""
    first = grammar.event(draw, draw.pick(("place", "time")))
    topic = grammar.other_topic(draw, first.topic)
    events = (first, grammar.event(draw, draw.pick(("place", "time")), topic=topic))
    told = draw.pick(events)
    role = draw.pick(
        [role for role in ("subject", "thing", "place", "time") if getattr(told, role)]
    )
    texts = [grammar.active(event) for event in events]
    answer, start = _span(grammar.active(told), _phrase(told, role))
    if told is not first:
        start += len(texts[0]) + 1
    return decanlp_rows.squad(" ".join(texts), grammar.question(told, role), [answer], [start])


def _iwslt(draw: Draw) -> Row:
    """The participle goes to the end and the time before the object; articles have cases."""
    topic = draw.pick([topic for topic in lexicon.TOPICS if topic.name in words.GERMAN_TOPICS])
    role = draw.pick(("place", "time", ""))
    event = grammar.event(draw, *([role] if role else []), names=0.2, topic=topic)
    subject = event.subject if event.subject in lexicon.NAMES else _german(event.subject)
    parts = [
        subject[0].upper() + subject[1:],
        "hat",
        words.GERMAN_TIMES.get(event.time, ""),
        _german(event.thing, words.ACCUSATIVE),
        f"in {_german(event.place, words.DATIVE)}" if event.place else "",
        words.GERMAN[lexicon.concept(event.verb)],
    ]
    german = " ".join(part for part in parts if part) + "."
    return decanlp_rows.iwslt(grammar.active(event), german)


def _german(noun: str, case: Mapping[str, str] | None = None) -> str:
    article, german = words.GERMAN[lexicon.concept(noun)].split(" ")
    return f"{case[article] if case else article} {german}"


def _cnn_dailymail(draw: Draw) -> Row:
    """The summary is the first event without its circumstances."""
    first = grammar.event(draw, *draw.shuffled(grammar.MODIFIERS)[:2])
    others = [grammar.event(draw) for _ in range(1 + draw.chance(0.3))]
    article = " ".join(grammar.active(event) for event in (first, *others))
    core = first.replace(**dict.fromkeys(grammar.MODIFIERS, ""))
    return decanlp_rows.summary(article, grammar.active(core))


# Role -> the question for it as QA-SRL asks, from the verb's past tense and base form.
_SRL = {
    "subject": "who {0} something?",
    "thing": "what did someone {1}?",
    "place": "where did someone {1} something?",
    "time": "when did someone {1} something?",
    "manner": "how did someone {1} something?",
}


def _srl(draw: Draw) -> Row:
    """The answer is the role that the question asks for; the noun alone is right as well."""
    event = grammar.event(draw, *draw.shuffled(("place", "time", "manner"))[:2])
    role = draw.pick([role for role in _SRL if getattr(event, role)])
    text = grammar.active(event)[:-1] + " ."
    answer, _ = _span(text, _phrase(event, role))
    question = _SRL[role].format(lexicon.past(event.verb), event.verb)
    answers = dict.fromkeys((answer, getattr(event, role)))
    return decanlp_rows.srl(text, question, list(answers))


# Relation -> how a sentence tells it, and how questions ask for it.
_RELATIONS = {
    "job": ("has the job of {}", ("What is the job of {}?", "Which job does {} have?")),
    "place": ("works in the {}", ("Where does {} work?", "In which place does {} work?")),
    "start": ("started {}", ("When did {} start?", "What is the start time of {}?")),
    "thing": ("likes the {}", ("What does {} like?", "Which thing does {} like?")),
}


def _zre(draw: Draw) -> Row:
    """Two relations are told; a question for another one is unanswerable."""
    options = {"job": _PEOPLE, "place": _PLACES, "start": lexicon.TIMES, "thing": _THINGS}
    relations = draw.shuffled(tuple(_RELATIONS))
    told = {relation: draw.pick(options[relation]) for relation in relations[:2]}
    name = draw.pick(lexicon.NAMES)
    sentence = " and ".join(_RELATIONS[relation][0].format(told[relation]) for relation in told)
    asked = draw.pick(relations[:2] if draw.chance(0.6) else relations[2:])
    question = draw.pick(_RELATIONS[asked][1]).format(name)
    answers = [told[asked]] if asked in told else []
    return decanlp_rows.zre(f"{name} {sentence}.", question, answers)


def _schema(draw: Draw) -> Row:
    """The adjective decides which of the two is meant."""
    context, question, *meanings = draw.pick(words.SCHEMAS)
    if question.startswith("What"):
        nouns = (draw.pick(_THINGS), draw.pick(words.CONTAINERS))
    else:
        nouns = tuple(draw.shuffled(_PEOPLE)[:2])
    meant = int(draw.chance(0.5))
    adjective = draw.pick(meanings[meant])
    candidates = draw.shuffled(nouns)
    return decanlp_rows.schema(
        context.format(*nouns, adjective),
        question.format("", "", adjective),
        candidates,
        candidates.index(nouns[meant]),
    )


_NUMBERS = tuple(str(number) for number in range(10, 100))
_COLUMNS = {
    "name": lexicon.NAMES,
    "job": _PEOPLE,
    "place": _PLACES,
    "day": words.DAYS,
    "price": _NUMBERS,
    "age": _NUMBERS,
}
_NUMERIC = ("price", "age")
_ASKED = {
    "": "What is the {}", "COUNT": "How many {}", "MAX": "What is the highest {}",
    "MIN": "What is the lowest {}",
}  # fmt: skip
_COMPARED = {"=": "the {} is {}", ">": "the {} is above {}", "<": "the {} is below {}"}


def _wikisql(draw: Draw) -> Row:
    """Three columns; the question names them all and the values. Without the SQL key words."""
    header = draw.shuffled(tuple(_COLUMNS))[:3]
    selected, *rest = draw.shuffled(range(3))
    aggregates = {"": 6, "COUNT": 2}
    if header[selected] in _NUMERIC:
        aggregates |= {"MAX": 3, "MIN": 3}
    aggregate = draw.weighted(aggregates)
    conditions, told = [], []
    for column in rest[: 1 + draw.chance(0.2)]:
        name = header[column]
        operator = draw.pick(("=", ">", "<") if name in _NUMERIC else ("=",))
        value = draw.pick(_COLUMNS[name])
        conditions.append([column, decanlp_wikisql.OPERATORS.index(operator), value])
        told.append(_COMPARED[operator].format(name, value))
    question = f"{_ASKED[aggregate].format(header[selected])} where {' and '.join(told)}?"
    query = {
        "sel": selected,
        "agg": decanlp_wikisql.AGGREGATES.index(aggregate),
        "conds": conditions,
    }
    row = decanlp_rows.wikisql(header, question, query)
    return row | {"context": f"The table has columns {row['columns']}"}


def _dialogue(draw: Draw) -> list[tuple[list[str], str, Change]]:
    """What the system did, the user's turn and its change: goals first, then requests."""
    slots = draw.shuffled(tuple(words.SLOTS))
    count = 2 if draw.chance(0.5) else 1
    turns = [([], *_tell(draw, slots[:count]))]
    turns += [([slot], *_tell(draw, [slot])) for slot in slots[count:]]
    requests = draw.shuffled(words.REQUESTS)[: 1 + draw.chance(0.4)]
    wanted = draw.pick(("What is the {}?", "Can I have the {}?")).format(" and ".join(requests))
    turns.append((["name"], wanted, Change({}, requests)))
    if draw.chance(0.4):
        turns.append(([*requests], draw.pick(words.GOODBYES), Change({}, [])))
    return turns


def _tell(draw: Draw, slots: Sequence[str]) -> tuple[str, Change]:
    told = next(known for known in words.TURNS if set(known) == set(slots))
    inform = {slot: draw.pick(words.SLOTS[slot]) for slot in told}
    text = draw.pick(words.TURNS[told]).format(*inform.values())
    return text[0].upper() + text[1:], Change(inform, [])


def _woz_rows(draw: Draw, count: int) -> Iterator[Row]:
    made = 0
    for dialogue in range(count):
        for turn, (acts, transcript, change) in enumerate(_dialogue(draw)):
            if made == count:
                return
            made += 1
            yield decanlp_rows.woz(acts, transcript, change, dialogue, turn)


_MAKERS: Mapping[str, Callable[[Draw], Row]] = {
    "squad": _squad,
    "iwslt": _iwslt,
    "cnn_dailymail": _cnn_dailymail,
    "srl": _srl,
    "zre": _zre,
    "schema": _schema,
    "wikisql": _wikisql,
}
# Task -> the embedded GLUE's, its test split, and from its rows to ours.
_FROM_GLUE: Mapping[str, tuple[str, str, Callable[[Row], Row]]] = {
    "multinli": (
        "mnli",
        "validation_matched",
        lambda row: decanlp_rows.multinli(row["premise"], row["hypothesis"], row["label"]),
    ),
    "sst": ("sst2", "validation", lambda row: decanlp_rows.sst(row["sentence"], row["label"])),
}
TASKS = (*_MAKERS, *_FROM_GLUE, "woz")


def rows(task: str, split: str, seed: int = 0) -> list[Row]:
    """The examples of a split, with the fields of `decanlp_rows` and `idx`.

    The same seed gives the same rows everywhere. No context occurs twice with one question, in
    one split or two, but for WOZ's turns.

    Raises:
      ValueError: there is no such task or split.
    """
    if task not in TASKS:
        raise ValueError(f"the mini DecaNLP has no task {task!r}; it has {', '.join(TASKS)}")
    if split not in SPLITS:
        raise ValueError(f"the mini DecaNLP has no split {split!r}; it has {', '.join(SPLITS)}")
    made = _from_glue(task, seed) if task in _FROM_GLUE else _made(task, seed)
    return [{**row, "idx": index} for index, row in enumerate(made[split])]


def _from_glue(task: str, seed: int) -> dict[str, list[Row]]:
    name, test, convert = _FROM_GLUE[task]
    # Another seed than the embedded GLUE's own, so that the two benchmarks differ.
    train = mini.rows(name, "train", seed + 1)
    count = SPLITS["train"]
    parts = {
        "train": train[:count],
        "validation": train[count : count + SPLITS["validation"]],
        "test": mini.rows(name, test, seed + 1)[: SPLITS["test"]],
    }
    return {split: [convert(row) for row in part] for split, part in parts.items()}


@functools.cache
def _made(task: str, seed: int) -> dict[str, list[Row]]:
    seen: set[tuple[str, str]] = set()
    made: dict[str, list[Row]] = {}
    for split, count in SPLITS.items():
        key = [seed, zlib.crc32(f"decanlp/{task}/{split}".encode())]
        draw = Draw(np.random.Generator(np.random.PCG64(key)))
        if task == "woz":
            made[split] = list(_woz_rows(draw, count))
            continue
        made[split] = []
        while len(made[split]) < count:
            row = _MAKERS[task](draw)
            texts = (row["context"], row["question"])
            if texts not in seen:
                seen.add(texts)
                made[split].append(row)
    return made


def texts() -> Iterator[str]:
    """What a vocabulary should know: each training input under both prompts, and each answer."""
    known = prompts.PROMPTS[decanlp_prompts.BENCHMARK]
    for task in TASKS:
        for row in rows(task, "train"):
            for prompt in ("null", "default"):
                yield known[prompt][task][0].text.format(**row)
            yield row["answer"]
