"""The paper's tables, and a study's figures beside them."""

import csv
import dataclasses
import pathlib

import pytest

from mtl_t5x.report import folders, published, report, tables
from tests.report.report_test import read_csv, write_run, write_study

NULL = ("text_to_text", "null", "semantic")
DEFAULT = ("text_to_text", "default", "semantic")
SHARED = pathlib.Path("/work/shared/paper")


def test_the_papers_cells_as_runs_give_its_relative_transfers():
    """By hand from the printed cells: 100 · (multi − single) / single."""
    rows = {
        (name, sample.variant, sample.task): sample
        for name in published.names()
        for sample in tables.samples(published.as_study(published.load(name)))[0]
    }
    expected = {
        ("glue_architectures", ("canonical", "null", "semantic"), "cola"): (30.27, 36.20),
        ("glue_architectures", ("text_to_text_id", "default", "semantic"), "rte"): (65.70, 59.33),
        ("glue_prompts", NULL, "stsb"): (48.20, 64.27),
        ("decanlp_architectures", DEFAULT, "schema"): (47.62, 27.38),
        # Means of nine columns, added up by hand.
        ("decanlp_architectures", DEFAULT, "average"): (544.01 / 9, 505.17 / 9),
        ("glue_prompts", ("text_to_text", "diverse", "semantic"), "average"): (
            662.85 / 9,
            670.81 / 9,
        ),
    }
    for key, (multi, single) in expected.items():
        row = rows[key]
        assert (row.multi[0], row.single[0]) == pytest.approx((multi, single))
        assert row.transfer()[0] == pytest.approx(100 * (multi - single) / single)
    # On average text-to-text is above its baseline on GLUE, which the printed average hides.
    assert rows["glue_architectures", DEFAULT, "average"].transfer()[0] > 0


def test_five_printed_averages_are_no_averages():
    """The sums of the cells, by hand: 693.71, 670.81 (in two tables), 627.62 and 515.88."""
    found = published.wrong_averages()
    assert [sentence.split(": printed ")[1] for sentence in found] == [
        f"{printed} , and the mean of its 9 columns is {mean:.2f}".replace(" ,", ",")
        for printed, mean in (
            ("53.41", 515.88 / 9),
            ("78.06", 693.71 / 9),
            ("77.55", 670.81 / 9),
            ("77.55", 670.81 / 9),
            ("50.99", 627.62 / 9),
        )
    ]
    assert found[0].startswith("decanlp_architectures, canonical · null · semantic, single-task")


@pytest.mark.skipif(not SHARED.exists(), reason="the tables' other copy isn't here")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("glue_architectures", "glue.csv"),
        ("decanlp_architectures", "decanlp.csv"),
        ("glue_prompts", "glue_prompts.csv"),
    ],
)
def test_the_tables_are_as_printed(name, file):
    with (SHARED / file).open(newline="") as lines:
        there = list(csv.DictReader(lines))
    for row, printed in zip(published.load(name), there, strict=True):
        assert printed.pop("training") == row.training
        assert printed.pop("architecture", row.variant[0]) == row.variant[0]
        assert printed.pop("prompt", row.variant[1]) == row.variant[1]
        values = {task: float(value) for task, value in printed.items()}
        assert values == {**row.cells, "printed_average": row.average}


def small_study(workdir):
    """Two rows of the prompts' table with one baseline, over two seeds, of all but one task."""
    tasks = tuple(published.load("glue_prompts")[0].cells)[:-1]
    runs = []
    for seed, shift in ((0, -1.0), (1, 2.0)):
        for variant in (NULL, DEFAULT):
            test = {
                task: {"accuracy": 1.0, "teacher_forced_accuracy": 40 + shift} for task in tasks
            }
            run = write_run(workdir, "multi_task", tasks, seed, test, variant=variant)
            runs.append(run if variant == NULL else {**run, "baseline": list(NULL)})
        for task in tasks:
            test = {task: {"accuracy": 2.0, "teacher_forced_accuracy": 50 + shift / 2}}
            runs.append(write_run(workdir, "single_task", (task,), seed, test, variant=NULL))
    write_study(workdir, runs, {"paper_table": "glue_prompts"})
    return tasks


def test_each_cell_stands_beside_ours(tmp_path):
    tasks = small_study(tmp_path)
    html = report.write_report(tmp_path).read_text()
    rows = read_csv(tmp_path / "report" / "paper.csv")
    assert [field.name for field in dataclasses.fields(published.Cell)] == list(rows[0])
    # The row of the diverse prompt isn't in the study; nine tasks and the average of each other.
    places = [(r["prompt"], r["training"], r["task"]) for r in rows]
    assert len(places) == len(set(places)) == 3 * 10
    row = rows[places.index(("default", "multi_task", "cola"))]
    assert (row["metric"], row["paper"]) == ("teacher_forced_accuracy", "35.12")
    # 39 and 42, against 49.5 and 51 alone: standard errors 1.5 and 0.75.
    assert float(row["ours"]) == 40.5 and row["seeds"] == "2"
    assert float(row["difference_in_se"]) == pytest.approx((40.5 - 35.12) / 1.5)
    quotient, error = 40.5 / 50.25, (1.5**2 + (40.5 / 50.25 * 0.75) ** 2) ** 0.5 / 50.25
    paper = 100 * (35.12 - 36.28) / 36.28
    assert float(row["paper_transfer_percent"]) == pytest.approx(paper)
    assert float(row["transfer_percent"]) == pytest.approx(100 * (quotient - 1))
    assert float(row["transfer_difference_in_se"]) == pytest.approx(
        (100 * (quotient - 1) - paper) / (100 * error)
    )
    # Without rte there is no figure of it, and none of the average over all.
    for task in ("rte", "average"):
        assert task not in tasks
        absent = rows[places.index(("default", "multi_task", task))]
        assert absent["ours"] == absent["transfer_percent"] == "" and absent["paper"] != ""
    assert "the embedded benchmark, another one than the paper" in html
    assert "Beside the paper" in html and "no means of their rows: 5" in html


def test_a_row_is_compared_with_its_named_baseline(tmp_path):
    small_study(tmp_path)
    html = report.write_report(tmp_path).read_text()
    study = folders.load_study(tmp_path)
    assert study.variants == (NULL, DEFAULT)
    assert study.baseline(DEFAULT) == study.baseline(NULL) == NULL
    sample = next(s for s in tables.samples(study)[0] if s.variant == DEFAULT)
    assert (sample.single[0], sample.multi[0], sample.baseline) == (2.0, 1.0, NULL)
    assert "text_to_text · default · semantic, against text_to_text · null · semantic" in html


def test_a_table_that_there_is_not_is_refused(tmp_path):
    write_study(tmp_path, [], {"paper_table": "glue_typo"})
    with pytest.raises(ValueError, match="no table 'glue_typo'.*decanlp_architectures, glue"):
        report.write_report(tmp_path)


def test_a_variant_only_trained_as_a_baseline_is_no_row(tmp_path):
    runs = [write_run(tmp_path, "multi_task", ("cola", "mnli"), 0, variant=DEFAULT)]
    runs[0]["baseline"] = list(NULL)
    runs.append(write_run(tmp_path, "single_task", ("cola",), 0, variant=NULL))
    write_study(tmp_path, runs)
    assert folders.load_study(tmp_path).variants == (DEFAULT,)
