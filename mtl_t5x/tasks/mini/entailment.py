"""MNLI's and RTE's rows: one grammar of what follows from what."""

from __future__ import annotations

from mtl_t5x.tasks.mini import grammar, lexicon
from mtl_t5x.tasks.mini.grammar import Draw, Row, Sentence

ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)
# The share of rows in which what stands before the verb decides: "managed to", "was unable to".
ATTITUDES = 0.5


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
        return grammar.active(grammar.elsewhere(draw, sentence.replace(negation="")))
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


def _by_attitude(draw: Draw, label: int) -> tuple[str, str]:
    """Premise and hypothesis; the one says whether the other was done, or that this is open."""
    told = grammar.event(draw, *draw.shuffled(grammar.MODIFIERS[:-1])[:2])
    premise = told.replace(attitude=draw.pick(lexicon.ATTITUDES[label]))
    return grammar.active(premise), _reworded(draw, _without(draw, told))


HYPOTHESES = (_entailed, _unknown, _denied)


def mnli(draw: Draw, label: int) -> Row:
    """Entailment leaves things out, neutral adds some, contradiction denies; or the attitude
    decides."""
    if draw.chance(ATTITUDES):
        premise, hypothesis = _by_attitude(draw, label)
        return {"premise": premise, "hypothesis": hypothesis}
    premise = _premise(draw)
    if label != NEUTRAL and draw.chance(0.08):
        premise = _without(draw, premise).replace(negation="not")
    hypothesis = HYPOTHESES[label](draw, premise)
    return {"premise": grammar.active(premise), "hypothesis": hypothesis}


SPOKEN = ("Well, {}", "You know, {}", "I heard that {}", "Yes, {}")


def mnli_mismatched(draw: Draw, label: int) -> Row:
    """The same rules in the spoken genre."""
    row = mnli(draw, label)
    premise = row["premise"]
    if premise.startswith("The "):
        premise = "t" + premise[1:]
    return row | {"premise": draw.pick(SPOKEN).format(premise)}


def rte(draw: Draw, label: int) -> Row:
    """0: leaves things out. 1: adds or denies some, or tells of other people or things. Or the
    attitude decides, as in MNLI."""
    if draw.chance(ATTITUDES):
        of_mnli = draw.pick((NEUTRAL, CONTRADICTION)) if label else ENTAILMENT
        premise, hypothesis = _by_attitude(draw, of_mnli)
        return {"sentence1": premise, "sentence2": hypothesis}
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
                other = grammar.elsewhere(draw, other)
            else:
                other = grammar.change(draw, other, draw.pick(["subject", "verb", "thing"]))
            hypothesis = _reworded(draw, other)
    return {"sentence1": grammar.active(premise), "sentence2": hypothesis}
