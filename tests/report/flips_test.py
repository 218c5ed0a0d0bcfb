import dataclasses

import pytest
from scipy import stats

from mtl_t5x.report import findings, flips, folders, predictions
from tests.report import simulated


def answers(targets, said):
    numbers = tuple(map(str, range(len(targets))))
    texts = tuple(f"input {i}" for i in numbers)
    return predictions.Answers(
        numbers, texts, tuple(map(str, targets)), tuple(map(str, said)), tuple(targets), tuple(said)
    )


def study_of(said_by_run):
    """`said_by_run`: by kind and seed, what a run says on a task `t` whose targets are all 1."""
    records, found = [], {}
    for (kind, seed), said in said_by_run.items():
        name = f"{kind}.{seed}"
        records.append(
            folders.Record(name, *simulated.VARIANT, ("t",), seed, kind, {"test": {}}, (), "")
        )
        found[name, "t"] = answers([1] * len(said), said)
    return folders.Study("s", {}, tuple(records), ()), found


def test_examples_on_which_all_runs_of_a_kind_agree_are_counted_and_shown():
    #       lost, gained, right, wrong, mixed, mixed, lost
    alone = [[1, 0, 1, 0, 1, 0, 1], [1, 0, 1, 0, 0, 0, 1]]
    together = [[0, 1, 1, 0, 1, 1, 0], [0, 1, 1, 0, 1, 0, 0]]
    said = {("multi_task", s): row for s, row in enumerate(together)}
    said |= {("single_task", s): row for s, row in enumerate(alone)}
    (found,) = flips.flips(*study_of(said), {simulated.VARIANT: {"t": "accuracy"}})
    counts = (found.right_to_wrong, found.wrong_to_right, found.both_right, found.both_wrong)
    assert counts == (2, 1, 1, 1) and found.mixed == 2 and found.examples == 7
    assert found.p == pytest.approx(stats.binomtest(1, 3).pvalue)
    shown = [(flip.direction, flip.example) for flip in found.shown]
    assert shown == [(findings.LOSS, 0), (findings.LOSS, 6), (findings.GAIN, 1)]
    first = found.shown[0]
    assert (first.input, first.target) == ("input 0", "1")
    assert (first.single, first.multi) == (("1", "1"), ("0", "0"))


@pytest.mark.parametrize(
    ("targets", "said", "expected"),
    [
        ([1, 0, 1], [1, 1, -1], [True, False, False]),
        ([2.0, 3.0, 1.0], [2.5, 3.6, -1.0], [True, False, False]),
        ([["The cat", "dog"], ["x"]], ["cat!", ""], [True, False]),
        (
            [{"sel": 1, "agg": 0, "conds": [[0, 1, "a"], [1, 0, "b"]]}] * 2,
            [{"sel": 1, "agg": 0, "conds": [[1, 0, "b"], [0, 1, "a"]]}, None],
            [True, False],
        ),
        (
            [{"inform": {"a": "b"}, "request": [], "dialogue": 0, "turn": t} for t in range(3)],
            [{"inform": {"a": "b"}, "request": []}, None, {"inform": {}, "request": []}],
            [True, False, False],
        ),
    ],
)
def test_what_is_right(targets, said, expected):
    rights, rule = flips.right(answers(targets, said))
    assert rights.tolist() == expected and rule


def test_translations_are_neither_right_nor_wrong():
    assert flips.right(answers(["ein Hund"], ["ein Hund"])) is None


def test_runs_that_answered_other_examples_are_not_compared():
    study, found = study_of({("multi_task", 0): [1, 0], ("single_task", 0): [1, 1]})
    other = dataclasses.replace(found["single_task.0", "t"], examples=("5", "6"))
    headlines = {simulated.VARIANT: {"t": "accuracy"}}
    assert len(flips.flips(study, found, headlines)) == 1
    assert not flips.flips(study, {**found, ("single_task.0", "t"): other}, headlines)
