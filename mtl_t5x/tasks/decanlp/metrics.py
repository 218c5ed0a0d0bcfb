"""DecaNLP's metrics on a scale of 0 to 100, and the count of answers that are none.

Those whose names begin with `reference_` are computed as Mueller et al. (2022) do, beside ours of
the same name. Targets and predictions are what `decanlp_postprocessors` makes. An empty text and a
query or state change that cannot be read are unparsed: they are wrong everywhere, whatever the
target.

A right answer scores 100, but for those with characters that the vocabulary lacks or rewrites
(T5's has no `Ö` and no `ş`, and writes `½` as `1⁄2`), summaries of one word, in which ROUGE-2
finds no pair, and translations of less than four words in all, in which BLEU finds no 4-gram.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU

from mtl_t5x.tasks.metrics import Metrics

# The answer where there is none.
UNANSWERABLE = "unanswerable"

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def unparsed(targets: Sequence[Any], predictions: Sequence[Any]) -> Metrics:
    """Counts the predictions that are None or an empty text."""
    del targets
    return {"unparsed": sum(prediction in (None, "") for prediction in predictions)}


def normalise(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces: SQuAD's normalisation."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> Metrics:
    """Share of predictions that are one of their answers after `normalise`, in %."""
    return {"exact_match": _mean_of_best(_same, targets, predictions)}


def f1(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> Metrics:
    """SQuAD's F1 of the words after `normalise`: of the best answer, averaged, in %.

    Where an answer or a prediction has no word left, it is 1 if neither has and else 0.
    """
    return {"f1": _mean_of_best(_word_f1, targets, predictions)}


def reference_exact_match(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> Metrics:
    """`exact_match` with the first answer alone."""
    return {"reference_exact_match": _mean_of_best(_same, _first_of(targets), predictions)}


def reference_f1(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> Metrics:
    """`f1` with the first answer alone; 0 where it and the prediction have no word left."""

    def score(answer: str, prediction: str) -> float:
        return _word_f1(answer, prediction) if answer and prediction else 0.0

    return {"reference_f1": _mean_of_best(score, _first_of(targets), predictions)}


def _first_of(targets: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    return [answers[:1] for answers in targets]


def _mean_of_best(
    score: Callable[[str, str], float],
    targets: Sequence[Sequence[str]],
    predictions: Sequence[str],
) -> float:
    best = [
        max(score(normalise(answer), normalise(prediction)) for answer in answers)
        if prediction
        else 0.0
        for answers, prediction in zip(targets, predictions, strict=True)
    ]
    return 100 * sum(best) / len(best)


def _same(answer: str, prediction: str) -> float:
    return float(answer == prediction)


def _word_f1(answer: str, prediction: str) -> float:
    if not answer or not prediction:
        return _same(answer, prediction)
    expected, found = Counter(answer.split()), Counter(prediction.split())
    return 2 * (expected & found).total() / (expected.total() + found.total())


def bleu(targets: Sequence[str], predictions: Sequence[str]) -> Metrics:
    """Corpus BLEU of sacrebleu with its defaults: cased, tokenisation 13a, 4-grams."""
    return {"bleu": _bleu(targets, predictions, lowercase=False)}


def reference_bleu(targets: Sequence[str], predictions: Sequence[str]) -> Metrics:
    """`bleu` of lower-cased text."""
    return {"reference_bleu": _bleu(targets, predictions, lowercase=True)}


def _bleu(targets: Sequence[str], predictions: Sequence[str], lowercase: bool) -> float:
    return _scorer(lowercase).corpus_score(list(predictions), [list(targets)]).score


def _scorer(lowercase: bool) -> BLEU:
    # `force` keeps sacrebleu from remarking that texts look tokenised.
    return BLEU(force=True, lowercase=lowercase)


def bleu_counts(
    targets: Sequence[str], predictions: Sequence[str], lowercase: bool = False
) -> list[list[int]]:
    """What BLEU is made of, by example: its matching n-grams and all of its n-grams, n = 1 to 4,
    and both texts' lengths."""
    scorer = _scorer(lowercase)
    scores = [
        scorer.corpus_score([prediction], [[target]])
        for target, prediction in zip(targets, predictions, strict=True)
    ]
    return [[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in scores]


def bleu_of_counts(counts: Sequence[float]) -> float:
    """BLEU of a corpus from the sums of its examples' `bleu_counts`."""
    whole = [round(count) for count in counts]
    return BLEU.compute_bleu(whole[:4], whole[4:8], *whole[8:], smooth_method="exp").score


_ROUGE = ("rouge1", "rouge2", "rougeL")


def rouge(targets: Sequence[str], predictions: Sequence[str]) -> Metrics:
    """Mean F-measures of rouge-score with stemming, and first the average of the three.

    ROUGE-L takes a summary as one sequence.
    """
    means = _rouge(_ROUGE, targets, predictions)
    return {"rouge": sum(means.values()) / len(means), **means}


def reference_rouge(targets: Sequence[str], predictions: Sequence[str]) -> Metrics:
    """As ROUGE-1.5.5 with stemming has them, where every "." ends a sentence: the mean of the three
    F-measures and that of ROUGE-L, whose common subsequences are those of pairs of sentences (Lin
    2004, section 3.2). ROUGE-1 and ROUGE-2 know no sentences: they are those of `rouge`."""
    split = [[text.replace(".", "\n") for text in texts] for texts in (targets, predictions)]
    means = _rouge(("rouge1", "rouge2", "rougeLsum"), *split)
    return {
        "reference_rouge": sum(means.values()) / len(means),
        "reference_rougeL": means["rougeLsum"],
    }


def _rouge(
    names: Sequence[str], targets: Sequence[str], predictions: Sequence[str]
) -> dict[str, float]:
    scorer = rouge_scorer.RougeScorer(names, use_stemmer=True)
    scores = [
        scorer.score(target, prediction)
        for target, prediction in zip(targets, predictions, strict=True)
    ]
    return {
        name: 100 * sum(score[name].fmeasure for score in scores) / len(scores) for name in names
    }


def corpus_f1(targets: Sequence[Sequence[str]], predictions: Sequence[str]) -> Metrics:
    """F1 over the corpus for relations that a sentence may not hold (Levy et al. 2017).

    A prediction is right where it has the same set of words as all answers together, case,
    punctuation, articles and `and` aside. Precision is over the predictions other than
    `unanswerable`, recall over the targets other than it.
    """
    counts = relation_counts(targets, predictions)
    right, claimed, answerable = (sum(column) for column in zip(*counts, strict=True))
    if not right:
        return {"corpus_f1": 0.0}
    return {"corpus_f1": 200 * right / (claimed + answerable)}


def relation_counts(
    targets: Sequence[Sequence[str]], predictions: Sequence[str]
) -> list[tuple[bool, bool, bool]]:
    """What `corpus_f1` is made of, by example: whether the prediction is a right relation, whether
    it is any, and whether the target is any."""
    counts = []
    for answers, prediction in zip(targets, predictions, strict=True):
        expected, found = _word_set(" ".join(answers)), _word_set(prediction)
        right = bool(prediction) and found == expected != {UNANSWERABLE}
        counts.append((right, found != {UNANSWERABLE}, expected != {UNANSWERABLE}))
    return counts


def _word_set(text: str) -> set[str]:
    words = {word.translate(_PUNCTUATION) for word in text.lower().split()}
    return words - {"the", "a", "an", "and", ""}


def logical_form_em(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any] | None]
) -> Metrics:
    """Share of queries with the right column, aggregate and set of conditions, in %."""
    plain = [[one and _without_order(one) for one in queries] for queries in (targets, predictions)]
    return {"logical_form_em": _share_equal(*plain)}


def reference_logical_form_em(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any] | None]
) -> Metrics:
    """`logical_form_em` where the conditions must stand in the target's order, in %."""
    return {"reference_logical_form_em": _share_equal(targets, predictions)}


def _without_order(query: Mapping[str, Any]) -> dict[str, Any]:
    return {**query, "conds": set(map(tuple, query["conds"]))}


def turn_request_em(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any] | None]
) -> Metrics:
    """Share of turns with the right set of requested slots, in %."""
    return {
        "turn_request_em": _share_equal(
            [target["request"] for target in targets],
            [prediction and prediction["request"] for prediction in predictions],
        )
    }


def _share_equal(targets: Sequence[Any], predictions: Sequence[Any]) -> float:
    equal = [target == found for target, found in zip(targets, predictions, strict=True)]
    return 100 * sum(equal) / len(equal)


def joint_goal_em(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any] | None]
) -> Metrics:
    """Share of turns after which every goal of the dialogue so far is right, in %.

    The goals are those of all turns up to this one, a later value in place of an earlier one. A
    turn whose prediction is unparsed is wrong and leaves the predicted goals as they were.
    """
    return {"joint_goal_em": 100 * sum(hits := joint_goals(targets, predictions)) / len(hits)}


def joint_goals(
    targets: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any] | None]
) -> list[bool]:
    """Whether every goal is right after each turn, in the order of the targets."""
    turns = sorted(range(len(targets)), key=lambda i: (targets[i]["dialogue"], targets[i]["turn"]))
    right, dialogue, goals, predicted_goals = [False] * len(targets), None, {}, {}
    for turn in turns:
        target, prediction = targets[turn], predictions[turn]
        if target["dialogue"] != dialogue:
            dialogue, goals, predicted_goals = target["dialogue"], {}, {}
        goals = goals | target["inform"]
        if prediction is not None:
            predicted_goals = predicted_goals | prediction["inform"]
            right[turn] = goals == predicted_goals
    return right
