"""STS-B's rows: captions, in words and a grammar that no other task has."""

from __future__ import annotations

from mtl_t5x.tasks.mini import grammar, lexicon
from mtl_t5x.tasks.mini.grammar import Draw, Row

CORE = ("subject", "verb", "thing", "place")
ADJECTIVES = ("subject_adjective", "thing_adjective")
ROLES = CORE + ADJECTIVES


def stsb(draw: Draw, label: int) -> Row:
    """0.8 for the same kind of thing, and 0.7 for each role with the same word, 0.5 for a synonym.

    `label` is the number of shared core roles plus one; 0: another kind of thing.
    """
    topic = draw.pick(lexicon.CAPTIONS)
    first = grammar.event(draw, "place", *ADJECTIVES, names=0.0, topic=topic)
    if label == 0:
        second = grammar.elsewhere(draw, first)
    else:
        second = grammar.change(draw, first, *draw.shuffled(CORE)[: 5 - label])
        second = grammar.reword(draw, second, 0.3)
    second = grammar.change(draw, second, *(role for role in ADJECTIVES if draw.chance(0.5)))
    score = 0.8 * (first.topic == second.topic)
    for role in ROLES:
        word, other = getattr(first, role), getattr(second, role)
        score += (0.7 if word == other else 0.5) * (lexicon.concept(word) == lexicon.concept(other))
    texts = {"sentence1": grammar.caption(first), "sentence2": grammar.caption(second)}
    return texts | {"label": round(score, 1)}
