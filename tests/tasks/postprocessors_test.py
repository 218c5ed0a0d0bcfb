"""From answers in text to class indices and scores."""

import pytest

from mtl_t5x.tasks import postprocessors


def test_class_index():
    read = postprocessors.ClassIndex((("no", "yes"),))
    assert [read(text) for text in ("no", " yes\n")] == [0, 1]
    assert [read(text) for text in ("", "Yes", "yes no", "maybe")] == [-1] * 4
    assert read("no", example={}, is_target=True) == 0
    assert read.answers == ("no", "yes")


def test_class_index_reads_with_the_examples_template():
    read = postprocessors.ClassIndex((("no", "yes"), ("yes", "no"), ("bad", "good")))
    assert [read("yes", example={"template": i}) for i in range(3)] == [1, 0, -1]
    assert read("good", example={"template": 2}, is_target=False) == 1
    assert read.answers == ("no", "yes", "bad", "good")


def test_score():
    read = postprocessors.Score()
    assert [read(text) for text in ("0.0", "3.8", " 5 ")] == [0.0, 3.8, 5.0]
    for text in ("", "five", "5.1", "-1.0", "-0.2", "nan", "inf", "3.8.1", "3,8"):
        assert read(text, is_target=False) == -1.0
    assert isinstance(read("4"), float)


def test_scores_answers_are_fifths():
    answers = postprocessors.Score().answers
    assert len(answers) == 26
    assert answers[:3] == ("0.0", "0.2", "0.4") and answers[-1] == "5.0"
    assert [float(one) for one in answers] == pytest.approx([i * 0.2 for i in range(26)])
