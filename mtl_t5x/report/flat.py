"""Findings -> the flat rows of pairs.csv and examples.csv; None stands for undefined."""

from collections.abc import Iterator, Sequence
from typing import Any

from mtl_t5x.report import findings

SETTING = ("architecture", "prompt", "labels")
PAIRS = (
    *SETTING,
    "group",
    "source",
    "first_step",
    "last_step",
    "first",
    "second",
    "cosine",
    "ci95_low",
    "ci95_high",
    "batch_cosine",
    "batch_ci95_low",
    "batch_ci95_high",
    "p",
    "q",
    "verdict",
)
EXAMPLES = (*SETTING, "task", "direction", "example", "input", "target", "single", "multi")


def _row(names: Sequence[str], *values: Any) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


def pairs(found: findings.Analysis) -> Iterator[dict[str, Any]]:
    """A row for each pair of tasks, stretch of the training and group of parameters."""
    for one in found.cosines:
        for pair in one.pairs:
            yield _row(
                PAIRS,
                *one.variant,
                one.group,
                one.source,
                one.first_step,
                one.last_step,
                pair.first,
                pair.second,
                pair.cosine.value,
                pair.cosine.low,
                pair.cosine.high,
                pair.batch.value,
                pair.batch.low,
                pair.batch.high,
                pair.verdict.p,
                pair.verdict.q,
                pair.verdict.word,
            )


def examples(found: findings.Analysis) -> Iterator[dict[str, Any]]:
    """A row for each test example that is shown; answers in the order of the seeds."""
    for flips in found.flips:
        for one in flips.shown:
            answers = " | ".join(one.single), " | ".join(one.multi)
            place = (*flips.variant, flips.task, one.direction, one.example)
            yield _row(EXAMPLES, *place, one.input, one.target, *answers)
