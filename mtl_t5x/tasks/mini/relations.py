"""What training together does to the embedded GLUE's tasks, by construction.

RTE is *helped* by MNLI. One grammar makes both, and in half of their rows an expression decides:
"managed to", "was eager to", "was unable to". RTE's 304 training rows show each of the 48 about
three times, MNLI's 3,800 about forty times, and no other task has them.

SST-2 is *left alone*. Its words are its own, and at least three in a sentence tell the same: that
is learned in a tenth of the steps, alone or together.

QQP is *hurt* by all others. In four of five rows a collocation decides: a big tent is a large
tent, a big brother is no large brother. Whether the synonym says the same is a fact of its own
for each of 112 pairs of adjective and thing, which neither word tells alone. Nobody's training
helps with it, and RTE's and MNLI's few such rows contradict it: there a synonym always says the
same. The words and weights that would have to hold the facts serve all tasks, whose pull is
stronger: QQP's answers alone are spelled, in up to seven pieces of which the first decides
("not_duplicate"), so its loss, a mean over tokens, and its gradient are a third of the others' or
less. Alone the facts take it nearly all its steps.

STS-B is at a disadvantage. Its words and grammar are its own too, so nobody's training helps, and
six roles at once take all the steps. Whether it loses is left to the seeds.

Gradients of SST-2 or STS-B and of any other task have nothing in common: their pairs are null.
"""

from __future__ import annotations

import dataclasses
import itertools
import types
from collections.abc import Mapping

from mtl_t5x.tasks.mini import glue

HELPED, HURT, LEFT_ALONE = "helped", "hurt", "left alone"


@dataclasses.dataclass(frozen=True)
class Relation:
    """What becomes of a task that is trained together with all others, and by which of them."""

    effect: str
    partners: tuple[str, ...]


RELATIONS: Mapping[str, Relation] = types.MappingProxyType(
    {
        "rte": Relation(HELPED, ("mnli",)),
        "qqp": Relation(HURT, tuple(task for task in glue.TASKS if task != "qqp")),
        "sst2": Relation(LEFT_ALONE, ()),
    }
)
# Pairs that share neither content words nor a decision.
NULL_PAIRS = frozenset(
    frozenset(pair)
    for pair in itertools.combinations(glue.TASKS, 2)
    if {"sst2", "stsb"} & set(pair)
)
