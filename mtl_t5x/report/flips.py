"""The test examples that training together turned from right to wrong, and back."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from scipy import stats

from mtl_t5x.report import folders, predictions
from mtl_t5x.report.findings import GAIN, LOSS, Flip, Flips

# Of each task and direction, so many examples are shown.
SHOWN = 20
# A score counts as right so near the target's.
NEAR = 0.5


def flips(
    study: folders.Study,
    answers: predictions.AllAnswers,
    headlines: Mapping[folders.Variant, Mapping[str, str]],
) -> tuple[Flips, ...]:
    """Of every variant's tasks whose answers are right or wrong: translations, say, are neither."""
    found = []
    for variant in study.variants:
        for task in headlines[variant]:
            kinds = [
                [
                    answers[record.name, task]
                    for record in sorted(study.runs(variant, kind), key=lambda r: r.seed)
                    if (record.name, task) in answers
                ]
                for kind in ("single_task", "multi_task")
            ]
            everyone = [*kinds[0], *kinds[1]]
            alike = {mine.examples for mine in everyone}
            if not all(kinds) or len(alike) > 1 or right(everyone[0]) is None:
                continue
            found.append(_of_task(variant, task, *kinds))
    return tuple(found)


def right(answers: predictions.Answers) -> tuple[Bool[np.ndarray, " example"], str] | None:
    """Which answers are right, and the rule in words; None where they are neither."""
    targets, said = answers.targets, answers.predictions
    if isinstance(targets[0], str):
        return None
    if isinstance(targets[0], int):
        return np.array(targets) == np.array(said), "the class is the target's"
    if isinstance(targets[0], float):
        near = np.abs(np.array(targets) - np.array(said, float)) <= NEAR
        return near, f"the score is within {NEAR} of the target's"
    rights, rule = importlib.import_module("mtl_t5x.report.text_scores").right(targets, said)
    return np.array(rights), rule


def _of_task(
    variant: folders.Variant,
    task: str,
    single: Sequence[predictions.Answers],
    multi: Sequence[predictions.Answers],
) -> Flips:
    alone, together = (np.stack([right(mine)[0] for mine in kind]) for kind in (single, multi))
    _, rule = right(single[0])
    lost = alone.all(0) & ~together.any(0)
    gained = ~alone.any(0) & together.all(0)
    both_right = alone.all(0) & together.all(0)
    both_wrong = ~alone.any(0) & ~together.any(0)
    agreed = lost | gained | both_right | both_wrong
    flipped = int(lost.sum() + gained.sum())
    shown = [
        _flip(direction, int(example), single, multi)
        for direction, of_direction in ((LOSS, lost), (GAIN, gained))
        for example in np.flatnonzero(of_direction)[:SHOWN]
    ]
    return Flips(
        variant=variant,
        task=task,
        rule=rule,
        examples=len(agreed),
        right_to_wrong=int(lost.sum()),
        wrong_to_right=int(gained.sum()),
        both_right=int(both_right.sum()),
        both_wrong=int(both_wrong.sum()),
        mixed=int((~agreed).sum()),
        p=float(stats.binomtest(int(gained.sum()), flipped).pvalue) if flipped else None,
        shown=tuple(shown),
    )


def _flip(
    direction: str,
    example: int,
    single: Sequence[predictions.Answers],
    multi: Sequence[predictions.Answers],
) -> Flip:
    def said(answers: predictions.Answers) -> str:
        return answers.said[example] or _text(answers.predictions[example])

    return Flip(
        direction=direction,
        example=example,
        input=multi[0].inputs[example],
        target=multi[0].right[example] or _text(multi[0].targets[example]),
        single=tuple(map(said, single)),
        multi=tuple(map(said, multi)),
    )


def _text(value: Any) -> str:
    return " | ".join(map(str, value)) if isinstance(value, list) else str(value)
