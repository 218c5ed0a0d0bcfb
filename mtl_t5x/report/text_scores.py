"""How the metrics of texts, relations, queries and dialogues are resampled; see `scores`.

Apart, as what these need takes a second to import.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mtl_t5x.report.scores import Draws, Scoring, Statistics, Sums, mean, quotient
from mtl_t5x.tasks.decanlp import metrics


def _each(metric: Callable, name: str) -> Scoring:
    """Of a metric that is a mean over the examples."""

    def statistics(targets, predictions) -> Statistics:
        scores = [metric([t], [p])[name] for t, p in zip(targets, predictions, strict=True)]
        return np.stack([scores, np.ones(len(scores))], axis=1)

    return statistics, mean


def _relations(targets, predictions) -> Statistics:
    return np.array(metrics.relation_counts(targets, predictions), float)


def _relation_f1(sums: Sums) -> Draws:
    return 200 * quotient(sums[:, 0], sums[:, 1] + sums[:, 2])


def _goals(targets, predictions) -> Statistics:
    hits = metrics.joint_goals(targets, predictions)
    return np.stack([100.0 * np.array(hits), np.ones(len(hits))], axis=1)


def _bleu(lowercase: bool) -> Scoring:
    def statistics(targets, predictions) -> Statistics:
        return np.array(metrics.bleu_counts(targets, predictions, lowercase), float)

    def value(sums: Sums) -> Draws:
        return np.array([metrics.bleu_of_counts(row) for row in sums])

    return statistics, value


TABLE: dict[str, Scoring] = {
    "corpus_f1": (_relations, _relation_f1),
    "joint_goal_em": (_goals, mean),
    "bleu": _bleu(lowercase=False),
    "reference_bleu": _bleu(lowercase=True),
    **{
        name: _each(getattr(metrics, name), name)
        for name in (
            "f1",
            "exact_match",
            "reference_f1",
            "reference_exact_match",
            "logical_form_em",
            "reference_logical_form_em",
            "turn_request_em",
        )
    },
    **{name: _each(metrics.rouge, name) for name in ("rouge", "rouge1", "rouge2", "rougeL")},
    **{
        name: _each(metrics.reference_rouge, name)
        for name in ("reference_rouge", "reference_rougeL")
    },
}


def right(targets: Sequence[Any], predictions: Sequence[Any]) -> tuple[list[bool], str]:
    """Which answers are right, and the rule in words: of answers, queries and state changes."""
    if isinstance(targets[0], list):
        pairs = zip(targets, predictions, strict=True)
        equal = [metrics.exact_match([t], [p])["exact_match"] == 100 for t, p in pairs]
        return equal, "one of the answers, after SQuAD's normalisation"
    if "dialogue" in targets[0]:
        equal = [
            p is not None and all(t[field] == p[field] for field in ("inform", "request"))
            for t, p in zip(targets, predictions, strict=True)
        ]
        return equal, "the turn's goals and requests are the target's"
    pairs = zip(targets, predictions, strict=True)
    equal = [metrics.logical_form_em([t], [p])["logical_form_em"] == 100 for t, p in pairs]
    return equal, "the query's column, aggregate and set of conditions are the target's"
