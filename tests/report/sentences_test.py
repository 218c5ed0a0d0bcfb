import dataclasses

import numpy as np
import pytest

from mtl_t5x.report import analysis, findings, folders, sentences
from tests.report import quadratic, simulated

NULL = {f"t{i}": simulated.Task("accuracy", 70.0 + i, 0.0, 2.0) for i in range(4)}
EFFECTS = {
    "rte": simulated.Task("accuracy", 70.0, 10.0, 0.5),
    "cola": simulated.Task("matthews_corrcoef", 60.0, -15.0, 0.5),
    "mnli": simulated.Task("accuracy", 75.0, 0.0, 0.5),
}


def analysis_of(folder, tasks, seeds=2, examples=400, seed=0):
    simulated.write(folder, *simulated.study(np.random.default_rng(seed), tasks, examples, seeds))
    return analysis.analyse(folders.load_study(folder), resamples=2000)


def texts(found, kind):
    return [s.text for s in found.sentences if s.kind == kind]


def test_the_headline_names_the_tasks_that_are_helped_and_hurt(tmp_path):
    found = analysis_of(tmp_path, EFFECTS)
    first = found.sentences[0]
    assert first.kind == "transfer" and first.variant is None
    by_task = {e.task: sentences.percent(e.percent) for e in found.transfers}
    assert first.text == (
        f"Training together helps rte ({by_task['rte']}) and hurts cola ({by_task['cola']}); "
        "1 other task is undecided."
    )
    assert dict(first.numbers) == {"helped": 1, "hurt": 1, "undecided": 1}
    assert "2 seeds and 400 test examples a task" in texts(found, "limits")[0]
    assert not any("can't tell" in text for text in texts(found, "limits"))


def test_a_study_that_can_tell_nothing_says_what_would(tmp_path):
    found = analysis_of(tmp_path, NULL, examples=200)
    assert found.sentences[0].text.startswith(
        "Whether training together helps or hurts any of the 4 tasks is undecided: every interval "
    )
    (limit,) = [t for t in texts(found, "limits") if "can't tell the tasks apart" in t]
    needed = [e for e in found.transfers if e.seeds_needed and e.task != "average"]
    if needed:
        least = min(needed, key=lambda e: e.seeds_needed)
        assert f"; {least.seeds_needed} seeds would, if the effect on {least.task} " in limit
    else:
        assert "nor would more seeds" in limit


def test_one_seed_and_no_run_at_all(tmp_path):
    one = analysis_of(tmp_path, NULL, seeds=1)
    assert "One seed of each kind of run gives no interval; two are the least." in texts(
        one, "limits"
    )
    assert one.sentences[0].text.endswith("is undecided: nothing has an interval.")
    none = analysis.analyse(folders.Study("none", {}, (), ()))
    assert [s.text for s in none.sentences] == [
        "No task has been trained both together and alone yet, so nothing can be said."
    ]


def test_several_settings_are_counted_and_told_apart(tmp_path):
    found = analysis_of(tmp_path, EFFECTS)
    other = (*simulated.VARIANT[:2], "distinct_letters")
    copies = tuple(dataclasses.replace(e, variant=other) for e in found.transfers)
    both = dataclasses.replace(
        found, variants=(*found.variants, other), transfers=(*found.transfers, *copies)
    )
    made = sentences.sentences(both)
    assert made[0].text == (
        "Over 2 settings, training together helps a task twice and hurts one twice; 2 of 6 "
        "comparisons are undecided."
    )
    mine = [s.text for s in made if s.variant == other]
    assert mine[0].startswith("text_to_text · default · distinct_letters: training together helps")


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quadratic")
    quadratic.write(folder)
    return analysis.analyse(folders.load_study(folder), resamples=1000)


def test_known_conflict_and_gap_are_told_in_words(known):
    conflict = texts(known, "conflict")
    assert conflict[0].startswith("After warm-up the mean cosine between two tasks' gradients")
    assert conflict[1].startswith("The gradients of left and right (−0.")
    assert ") pull apart, and those of other and friend (+" in conflict[1]
    why = texts(known, "why")
    assert why[0].startswith("At equal steps ") and " learn slower together than alone." in why[0]
    assert why[1].startswith("At equal training loss left (+") and "generalizes worse" in why[1]


def test_what_noise_hides_is_said(known):
    hidden = tuple(
        dataclasses.replace(c, after_warm_up=findings.Estimate(None)) for c in known.conflicts
    )
    (text,) = [
        s.text
        for s in sentences.sentences(dataclasses.replace(known, conflicts=hidden))
        if "noise hides" in s.text
    ]
    assert "their noise scale is about " in text and "fixed points would show it" in text
