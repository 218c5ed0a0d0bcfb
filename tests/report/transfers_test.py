"""Intervals and verdicts on studies whose truth is known, read back from a study's folder."""

import dataclasses
import pathlib
import re

import numpy as np
import pytest

from mtl_t5x.report import analysis, cells, findings, folders, predictions, tables, transfers
from tests.report import simulated

TASKS = {
    "helped": simulated.Task("accuracy", 70, 9, 1.0),
    "hurt": simulated.Task("matthews_corrcoef", 60, -16, 1.0),
    "neither": simulated.Task("accuracy", 80, 0, 1.0),
    "scored": simulated.Task("pearson_corrcoef", 70, 0, 1.0),
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    drawn = simulated.study(np.random.default_rng(0), TASKS, 800, 3)
    simulated.write(folder, *drawn)
    return folder


@pytest.fixture(scope="module")
def found(workdir):
    return analysis.analyse(folders.load_study(workdir), resamples=2000)


def test_known_effects_are_found_and_nothing_else(found):
    assert not found.notes
    by_task = {effect.task: effect for effect in found.transfers}
    assert list(by_task) == [*TASKS, "average"]
    for task, effect in by_task.items():
        assert effect.method == findings.BOOTSTRAP
        low, high = effect.difference.low, effect.difference.high
        true = TASKS[task].effect if task in TASKS else np.mean([t.effect for t in TASKS.values()])
        assert low < true < high
        assert effect.single.low < effect.single.value < effect.single.high
        relative = 100 * effect.difference.value / effect.single.value
        assert effect.percent.value == pytest.approx(relative)
    words = {task: effect.verdict.word for task, effect in by_task.items()}
    assert words["helped"] == findings.GAIN and words["hurt"] == findings.LOSS
    assert words["neither"] == words["scored"] == findings.UNDECIDED
    assert (by_task["helped"].rank.value, by_task["hurt"].rank.value) == (1, 4)
    assert by_task["helped"].examples == 800 and by_task["average"].examples is None


def test_the_smallest_effect_is_what_the_interval_would_show(found):
    for effect in found.transfers:
        width = effect.difference.high - effect.difference.low
        assert effect.smallest_points == pytest.approx(width * 2.8016 / 3.9199, rel=1e-3)


def test_the_docs_example_runs(workdir, capsys):
    docs = pathlib.Path(__file__).resolve().parents[2] / "docs" / "statistics.md"
    (code,) = re.findall(r"```python\n(.*?)```", docs.read_text(), re.DOTALL)
    exec(code.replace("runs/mini_glue", str(workdir)), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*TASKS, "average"]


def test_without_predictions_the_seeds_are_the_sample_and_a_note_says_so(workdir):
    study = folders.load_study(workdir)
    samples, _ = tables.samples(study)
    answers, _ = predictions.read_all(study)
    answers = {key: mine for key, mine in answers.items() if key[1] != "hurt"}
    effects, draws, notes = transfers.transfers(
        samples, cells.draw(study, answers, 200), {"helped": 800}
    )
    by_task = {effect.task: effect for effect in effects}
    for task in ("hurt", "average"):
        sample = next(s for s in samples if s.task == task)
        assert by_task[task].method == findings.SEEDS_ONLY
        assert dataclasses.astuple(by_task[task].percent) == sample.transfer()
        assert any(f", {task}, " in note and "seeds alone" in note for note in notes)
    assert by_task["helped"].method == findings.BOOTSTRAP
    assert len(draws) == len(notes) + 1 == 3


def test_predictions_that_give_another_result_are_not_used(workdir):
    study = folders.load_study(workdir)
    answers, _ = predictions.read_all(study)
    name = study.records[0].name
    wrong = dataclasses.replace(
        answers[name, "helped"], predictions=answers[name, "neither"].targets
    )
    notes = cells.draw(study, {**answers, (name, "helped"): wrong}, 50).notes
    assert len(notes) == 1
    assert f"runs/{name}: helped's predictions give accuracy" in notes[0]


def test_a_file_that_is_cut_off_is_named(workdir):
    study = folders.load_study(workdir)
    record = study.records[0]
    path = record.folder / predictions.FOLDER / "glue_helped.default.semantic-000010.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-20])
    try:
        answers, notes = predictions.read_all(study)
    finally:
        path.write_text(whole)
    assert (record.name, "helped") not in answers and (record.name, "hurt") in answers
    assert f"{record.name}/inference_eval/{path.name}:800 is no prediction" in notes[0]


def test_variants_that_differ_in_one_setting_are_compared(workdir):
    """A variant against itself under another name: no difference, to the last draw."""
    study = folders.load_study(workdir)
    other = (*simulated.VARIANT[:2], "distinct_letters")
    copies = [
        dataclasses.replace(r, name=f"other {r.name}", labels=other[2], baseline=r.variant)
        for r in study.records
        if r.kind == "multi_task"
    ]
    both = dataclasses.replace(study, records=(*study.records, *copies))
    answers, _ = predictions.read_all(both)
    samples, _ = tables.samples(both)
    effects, draws, _ = transfers.transfers(samples, cells.draw(both, answers, 500), {})
    rows = transfers.differences(effects, draws)
    assert {(row.changed, row.other) for row in rows} == {("labels", simulated.VARIANT)}
    assert len(rows) == len(TASKS) + 1
    for row in rows:
        assert row.points.value == pytest.approx(0) and row.points.low < 0 < row.points.high
        assert row.verdict.word == findings.UNDECIDED
        # The examples' share cancels; what is left is that of the seeds.
        whole = next(e for e in effects if e.task == row.task).multi
        assert row.points.high - row.points.low < 1.4 * (whole.high - whole.low)
