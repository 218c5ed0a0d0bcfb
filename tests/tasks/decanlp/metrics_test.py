"""DecaNLP's metrics against implementations and counts of their own."""

import collections
import math
import random
import re
import string

import pytest

from mtl_t5x.tasks.decanlp import metrics

WORDS = (
    "The", "a", "an", "and", "dog", "dogs,", "ran!", "ran;", "quick-fox", "It's", "%", "Éa", "3.5",
    "unanswerable",
)  # fmt: skip


def sentences(count, seed):
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 6))) for _ in range(count)]


def official_normalize(text):
    """As SQuAD 1.1's evaluation script words it."""
    exclude = set(string.punctuation)
    lowered = "".join(character for character in text.lower() if character not in exclude)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", lowered).split())


def official_f1(prediction, truth):
    found, expected = official_normalize(prediction).split(), official_normalize(truth).split()
    if not found or not expected:  # as SQuAD 2.0's
        return float(found == expected)
    same = sum((collections.Counter(found) & collections.Counter(expected)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(found), same / len(expected)
    return 2 * precision * recall / (precision + recall)


def test_squads_metrics_are_those_of_the_official_script():
    predictions = sentences(300, 0)
    answers = [list(pair) for pair in zip(sentences(300, 1), sentences(300, 2), strict=True)]
    answers[:50] = [[text.lower(), "other"] for text in predictions[:50]]
    pairs = list(zip(predictions, answers, strict=True))
    best = [max(official_f1(found, answer) for answer in all_) for found, all_ in pairs]
    same = [
        max(official_normalize(found) == official_normalize(answer) for answer in all_)
        for found, all_ in pairs
    ]
    assert metrics.f1(answers, predictions)["f1"] == pytest.approx(100 * sum(best) / 300)
    expected = pytest.approx(100 * sum(same) / 300)
    assert metrics.exact_match(answers, predictions)["exact_match"] == expected
    assert sum(same) >= 50


def test_an_empty_answer_is_wrong_even_where_nothing_is_left_of_the_right_one():
    assert metrics.f1([["The"], ["The"]], ["the", ""]) == {"f1": 50.0}
    assert metrics.exact_match([["The"], ["%"]], ["a", ""]) == {"exact_match": 50.0}
    assert metrics.corpus_f1([["The The"]], [""]) == {"corpus_f1": 0.0}
    assert metrics.corpus_f1([["The The"]], ["the"]) == {"corpus_f1": 100.0}
    assert metrics.unparsed([["x"]] * 4, ["x", "", "y", ""]) == {"unparsed": 2}
    assert metrics.unparsed([{}] * 3, [{}, None, None]) == {"unparsed": 2}


def test_bleu_of_small_cases_by_hand():
    # 4 of 5 words, 2 of 4 pairs, 1 of 3 triples; no 4-gram of 2 fits, which counts as half.
    target, prediction = "the cat sat down here", "the cat sat up here"
    precisions = [4 / 5, 2 / 4, 1 / 3, 1 / 2 / 2]
    expected = 100 * math.prod(precisions) ** 0.25
    assert metrics.bleu([target], [prediction])["bleu"] == pytest.approx(expected)
    # Counts add up over the corpus; 8 words where 10 are due cost exp(1 - 10/8).
    targets = [target, "one two three four five"]
    counts = [8 / 8, 6 / 6, 4 / 4, 2 / 2]
    expected = 100 * math.prod(counts) ** 0.25 * math.exp(1 - 10 / 8)
    found = metrics.bleu(targets, ["the cat sat down", "one two three four"])["bleu"]
    assert found == pytest.approx(expected)
    assert metrics.bleu(targets, targets)["bleu"] == pytest.approx(100)
    assert metrics.bleu(targets, ["", ""])["bleu"] == 0
    # Cased, and punctuation apart.
    assert metrics.bleu([target], [target.upper()])["bleu"] == 0
    tight = metrics.bleu(["a b c d ."], ["a b c d."])["bleu"]
    assert tight == pytest.approx(100)


def test_the_papers_bleu_knows_no_case():
    target, prediction = "The cat Sat down here", "the Cat sat up HERE"
    precisions = [4 / 5, 2 / 4, 1 / 3, 1 / 2 / 2]
    expected = 100 * math.prod(precisions) ** 0.25
    found = metrics.reference_bleu([target], [prediction])
    assert found == {"reference_bleu": pytest.approx(expected)}
    assert metrics.bleu([target], [prediction])["bleu"] < found["reference_bleu"]


def f_measure(same, expected, found):
    precision, recall = same / found, same / expected
    return 2 * precision * recall / (precision + recall)


def test_rouge_of_small_cases_by_hand():
    target, prediction = "The dogs ran home.", "the dog ran to a home"
    # Stemmed: the dog ran home | the dog ran to a home.
    scores = [f_measure(4, 4, 6), f_measure(2, 3, 5), f_measure(4, 4, 6)]
    found = metrics.rouge([target], [prediction])
    assert list(found) == ["rouge", "rouge1", "rouge2", "rougeL"]
    expected = [sum(scores) / 3, *scores]
    assert list(found.values()) == pytest.approx([100 * score for score in expected])
    # Order matters to pairs and to the longest common subsequence.
    found = metrics.rouge(["a b c d"], ["d c b a"])
    assert list(found.values()) == pytest.approx([100 * 5 / 12, 100, 0, 25])
    both = metrics.rouge(["a b c d", target], ["d c b a", ""])
    assert list(both.values()) == pytest.approx([score / 2 for score in found.values()])


def test_the_papers_rouge_l_takes_pairs_of_sentences():
    # Lin (2004), section 3.2: of w1…w5, the common subsequences with the two sentences are w1 w2
    # and w1 w3 w5, in all four words. The second reference sentence has none.
    target, prediction = "aa bb cc dd ee. zz.", "aa bb ff gg hh. aa cc ii jj ee."
    scores = [f_measure(4, 6, 10), f_measure(1, 5, 9), f_measure(4, 6, 10)]
    found = metrics.reference_rouge([target], [prediction])
    expected = {"reference_rouge": sum(scores) / 3, "reference_rougeL": scores[2]}
    assert found == pytest.approx({name: 100 * score for name, score in expected.items()})
    ours = metrics.rouge([target], [prediction])
    assert [ours["rouge1"], ours["rouge2"]] == pytest.approx([100 * score for score in scores[:2]])
    # The order of sentences is nothing to it.
    assert metrics.reference_rouge(["a b. c d."], ["c d. a b."])["reference_rougeL"] == 100
    assert metrics.rouge(["a b. c d."], ["c d. a b."])["rougeL"] == 50


def test_the_papers_scores_of_answers_take_the_first_alone():
    answers = [["red cat", "cat"], ["dog"], ["the", "a"]]
    predictions = ["cat", "dog", "the"]
    assert metrics.f1(answers, predictions)["f1"] == 100
    assert metrics.exact_match(answers, predictions)["exact_match"] == 100
    # 2/3, 1, and no word in common where none is left.
    expected = pytest.approx(100 * (2 / 3 + 1 + 0) / 3)
    assert metrics.reference_f1(answers, predictions) == {"reference_f1": expected}
    expected = pytest.approx(100 * 2 / 3)
    assert metrics.reference_exact_match(answers, predictions) == {
        "reference_exact_match": expected
    }


def zero_shot_f1(answers, predictions):
    """Counts as in the evaluation of Levy et al. (2017): true and claimed and real positives."""
    true = claimed = real = 0
    for golds, found in zip(answers, predictions, strict=True):
        clean = [
            {
                "".join(c for c in word if c not in string.punctuation)
                for text in texts
                for word in text.lower().split()
            }
            - {"the", "a", "an", "and", ""}
            for texts in (golds, [found])
        ]
        real += clean[0] != {"unanswerable"}
        claimed += clean[1] != {"unanswerable"}
        true += clean[0] == clean[1] and clean[0] != {"unanswerable"}
    precision, recall = true / claimed, true / real
    return 100 * 2 * precision * recall / (precision + recall)


def test_corpus_f1_is_that_of_the_zero_shot_evaluation():
    answers = [[text] for text in sentences(200, 3)] + [["unanswerable"]] * 100
    predictions = [text[0].upper() for text in answers[:60]] + sentences(100, 4)
    predictions += ["unanswerable"] * 90 + sentences(50, 5)
    expected = zero_shot_f1(answers, predictions)
    assert 0 < expected < 100
    assert metrics.corpus_f1(answers, predictions)["corpus_f1"] == pytest.approx(expected)
    assert metrics.corpus_f1(answers, [text for (text,) in answers])["corpus_f1"] == 100
    assert metrics.corpus_f1(answers, ["unanswerable"] * 300)["corpus_f1"] == 0
    # The words of several answers in any order, joined as they may be.
    assert metrics.corpus_f1([["the chef, a baker"]], ["baker and chef"])["corpus_f1"] == 100


def query(sel=0, agg=0, *conds):
    return {"sel": sel, "agg": agg, "conds": list(conds)}


def test_logical_forms_are_right_as_a_whole():
    target = query(1, 2, [0, 0, "x"], [1, 1, "3"])
    wrong = [query(1, 2, [0, 0, "x"]), query(0, 2, *target["conds"]), query(1, 0), None]
    found = metrics.logical_form_em([target] * 5, [dict(target), *wrong])
    assert found == {"logical_form_em": 20.0}


def test_the_papers_logical_forms_have_their_conditions_in_order():
    first, second = [0, 0, "x"], [1, 1, "3"]
    target = query(1, 2, first, second)
    given = [
        query(1, 2, first, second),
        query(1, 2, second, first),
        query(1, 2, first, first, second),
    ]
    assert metrics.logical_form_em([target] * 4, [*given, None]) == {"logical_form_em": 75.0}
    found = metrics.reference_logical_form_em([target] * 4, [*given, None])
    assert found == {"reference_logical_form_em": 25.0}


def change(inform=None, request=(), **place):
    return {"inform": dict(inform or {}), "request": list(request), **place}


def test_joint_goals_are_those_of_the_dialogue_so_far():
    thai, chinese, cheap = {"food": "thai"}, {"food": "chinese"}, {"price range": "cheap"}
    targets = [
        change(thai, dialogue=0, turn=0),
        change(cheap, ["phone"], dialogue=0, turn=1),
        change(chinese, dialogue=0, turn=2),
        change(cheap, dialogue=1, turn=0),
        change({}, ["phone"], dialogue=1, turn=1),
    ]
    predictions = [
        change(chinese),  # wrong
        change(cheap, ["phone"]),  # the food is still wrong
        change(chinese),  # now everything is right
        change(cheap),  # right
        None,  # unparsed: wrong
    ]
    order = [3, 1, 4, 0, 2]  # the turns are put in order
    shuffled = [[rows[i] for i in order] for rows in (targets, predictions)]
    assert metrics.joint_goal_em(*shuffled) == {"joint_goal_em": 40.0}
    assert metrics.turn_request_em(*shuffled) == {"turn_request_em": 80.0}
    assert metrics.unparsed(*shuffled) == {"unparsed": 1}
    gold = [change(target["inform"], target["request"]) for target in targets]
    assert metrics.joint_goal_em(targets, gold) == {"joint_goal_em": 100.0}
    assert metrics.joint_goal_em(targets, [None] * 5) == {"joint_goal_em": 0.0}
    assert metrics.turn_request_em(targets, [None] * 5) == {"turn_request_em": 0.0}
