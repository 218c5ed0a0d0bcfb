import csv
import json
import math
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from mtl_t5x.report import analysis, folders, plots, report, tables

COLUMNS = (
    "architecture,prompt,labels,task,metric,single_mean,single_sd,multi_mean,multi_sd,"
    "relative_transfer_percent,ci95_low,ci95_high,seeds,baseline,difference,difference_low,"
    "difference_high,p_value,q_value,verdict,smallest_percent,rank,rank_low,rank_high,examples,method"
)
TASKS = ("cola", "mnli")
VARIANT = ("text_to_text", "default", "semantic")
FIGURES = (
    "transfer",
    "conflict.encoder",
    "cosine.encoder.text_to_text.default.semantic",
    "loss.text_to_text.default.semantic",
)
MULTI = {0: {"cola": 30.0, "mnli": 61.0}, 1: {"cola": 33.0, "mnli": 64.0}}
SINGLE = {0: {"cola": 40.0, "mnli": 60.0}, 1: {"cola": 36.0, "mnli": 62.0}}


def results_of(values):
    """results.json's "test"; the count stands before the headline metric on purpose."""
    found = {}
    if "cola" in values:
        found["cola"] = {"unparsed": 2, "matthews_corrcoef": values["cola"], "accuracy": 70.0}
    if "mnli" in values:
        found["mnli_mismatched"] = {"accuracy": values["mnli"] - 1, "unparsed": 1}
        found["mnli"] = {"accuracy": values["mnli"], "unparsed": 0}
    return found


def write_run(workdir, kind, tasks, seed, test=None, lines=(), variant=VARIANT):
    """Writes one run folder and returns its entry in study.json."""
    name = f"{'.'.join(variant)}.{kind}.{'-'.join(tasks)}.seed{seed}"
    folder = workdir / "runs" / name
    folder.mkdir(parents=True)
    if test is not None:
        results = {"step": 20, "tasks": list(tasks), "test": test, "dev": test}
        (folder / "results.json").write_text(json.dumps(results))
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    architecture, prompt, labels = variant
    return {
        "name": name,
        "architecture": architecture,
        "prompt": prompt,
        "labels": labels,
        "tasks": list(tasks),
        "seed": seed,
        "kind": kind,
    }


def write_study(workdir, runs, config=None):
    config = {"data": "mini", "train_steps": 20, **(config or {})}
    record = {"name": "small", "config": config, "runs": runs}
    (workdir / "study.json").write_text(json.dumps(record))


def conflict_line(step, cosine=0.5, group="encoder"):
    count = len(TASKS)
    return {
        "step": step,
        "loss/cola": 2.0 / step,
        "loss/mnli": 3.0 / step,
        f"conflict/{group}/directional": cosine * (count - 1) / count,
        f"conflict/{group}/magnitude": 4.0,
        f"conflict/{group}/reference_directional": 0.8,
        f"conflict/{group}/reference_magnitude": 1.5,
        f"conflict/{group}/mean_cosine": cosine,
        f"conflict/{group}/cosine": [[1.0, cosine], [cosine, 1.0]],
    }


@pytest.fixture
def drawn():
    """Asked for by tests of the figures' files."""


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """Drawing takes most of a report's time: only those tests wait for it."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(plots, "draw_all", lambda found: ())


@pytest.fixture
def workdir(tmp_path):
    runs = []
    for seed in (0, 1):
        lines = [conflict_line(step, 0.1 * seed) for step in (1, 5, 10, 20)]
        runs.append(write_run(tmp_path, "multi_task", TASKS, seed, results_of(MULTI[seed]), lines))
        for task in TASKS:
            test = results_of({task: SINGLE[seed][task]})
            lines = [{"step": s, f"loss/{task}": 1.0 / s} for s in (1, 10, 20)]
            runs.append(write_run(tmp_path, "single_task", (task,), seed, test, lines))
    write_study(tmp_path, runs)
    return tmp_path


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def transfer_table(workdir):
    """transfer.csv's rows, and the notes."""
    found = analysis.analyse(folders.load_study(workdir))
    return [tables.transfer_row(effect) for effect in found.transfers], found.notes


def edit_study(workdir, change):
    record = json.loads((workdir / "study.json").read_text())
    change(record["runs"])
    (workdir / "study.json").write_text(json.dumps(record))


def test_transfer_table(workdir):
    report.write_report(workdir)
    path = workdir / "report" / "transfer.csv"
    assert path.read_text().splitlines()[0] == COLUMNS
    rows = read_csv(path)
    assert [(r["task"], r["metric"]) for r in rows] == [
        ("cola", "matthews_corrcoef"),
        ("cola", "accuracy"),
        ("mnli", "accuracy"),
        ("mnli_mismatched", "accuracy"),
        ("average", "headline metrics"),
    ]
    row = rows[0]
    assert [row[k] for k in ("architecture", "prompt", "labels")] == list(VARIANT)
    single, multi = np.array([40.0, 36.0]), np.array([30.0, 33.0])
    assert float(row["single_mean"]) == single.mean()
    assert float(row["single_sd"]) == pytest.approx(single.std(ddof=1))
    assert float(row["multi_sd"]) == pytest.approx(multi.std(ddof=1))
    expected = 100 * (multi.mean() - single.mean()) / single.mean()
    assert float(row["relative_transfer_percent"]) == pytest.approx(expected)
    assert float(row["ci95_low"]) < expected < float(row["ci95_high"])
    assert row["seeds"] == "2"


def test_average_is_computed_from_each_seeds_headline_metrics(workdir):
    rows, _ = transfer_table(workdir)
    headline = [
        r
        for r in rows
        if (r.task, r.metric)
        in {("cola", "matthews_corrcoef"), ("mnli", "accuracy"), ("mnli_mismatched", "accuracy")}
    ]
    assert len(headline) == 3
    average = rows[-1]
    assert average.single_mean == pytest.approx(np.mean([r.single_mean for r in headline]))
    assert average.multi_mean == pytest.approx(np.mean([r.multi_mean for r in headline]))
    per_seed = [np.mean([v["cola"], v["mnli"], v["mnli"] - 1]) for v in MULTI.values()]
    assert average.multi_sd == pytest.approx(np.std(per_seed, ddof=1))


def test_one_seed_leaves_the_interval_empty(workdir):
    edit_study(workdir, lambda runs: runs.__delitem__(slice(3, None)))
    report.write_report(workdir)
    for row in read_csv(workdir / "report" / "transfer.csv"):
        assert row["relative_transfer_percent"] != ""
        assert row["ci95_low"] == row["ci95_high"] == row["multi_sd"] == ""
        assert row["seeds"] == "1"


def test_a_baseline_not_above_zero_is_undefined_and_said_so(workdir):
    for run in json.loads((workdir / "study.json").read_text())["runs"]:
        if run["kind"] == "single_task" and run["tasks"] == ["cola"]:
            path = workdir / "runs" / run["name"] / "results.json"
            path.write_text(json.dumps({"step": 1, "test": results_of({"cola": 0.0})}))
    page = report.write_report(workdir).read_text()
    row = read_csv(workdir / "report" / "transfer.csv")[0]
    assert row["single_mean"] == "0"
    assert row["relative_transfer_percent"] == row["ci95_low"] == ""
    assert "cola, matthews_corrcoef: the single-task mean is 0, not above 0" in page


def test_a_missing_task_is_left_out_of_the_average_and_said_so(workdir):
    for run in json.loads((workdir / "study.json").read_text())["runs"]:
        if run["kind"] == "single_task" and run["tasks"] == ["cola"]:
            (workdir / "runs" / run["name"] / "results.json").unlink()
    (workdir / "runs" / run["name"] / "results.json").unlink()  # mnli alone, seed 1
    rows, notes = transfer_table(workdir)
    assert (rows[0].single_mean, rows[0].multi_mean, rows[0].seeds) == (None, 31.5, 0)
    assert rows[-1].single_mean == 59.5
    assert rows[-1].multi_mean == pytest.approx(62.0)
    assert any("average leaves out cola" in note for note in notes)
    page = report.write_report(workdir).read_text()
    assert "Without results: 3 of 6 runs" in page
    assert "not finished" in page


def test_an_incomplete_seed_is_left_out_of_the_average_and_said_so(workdir):
    last = json.loads((workdir / "study.json").read_text())["runs"][-1]
    (workdir / "runs" / last["name"] / "results.json").unlink()
    rows, notes = transfer_table(workdir)
    assert rows[-1].single_mean == pytest.approx(np.mean([40, 60, 59]))
    assert rows[-1].seeds == 1
    assert any("single-task average leaves out the incomplete seeds [1]" in n for n in notes)


def test_variants_get_rows_of_their_own(workdir, drawn):
    other = ("text_to_text", "null", "semantic")
    new = [
        write_run(workdir, "multi_task", TASKS, 0, results_of(MULTI[0]), variant=other),
        write_run(workdir, "single_task", ("cola",), 0, results_of({"cola": 60.0}), variant=other),
    ]
    edit_study(workdir, lambda runs: runs.extend(new))
    rows, _ = transfer_table(workdir)
    mine = {(r.task, r.metric): r for r in rows if r.variant == other}
    assert mine["cola", "matthews_corrcoef"].relative_transfer_percent == pytest.approx(-50)
    assert mine["average", "headline metrics"].single_mean == 60.0
    assert plots.short_labels((VARIANT, other)) == {VARIANT: "default", other: "null"}
    report.write_report(workdir)
    assert (workdir / "report" / "conflict.encoder.png").exists()


def test_conflict_table(workdir):
    report.write_report(workdir)
    rows = read_csv(workdir / "report" / "conflict.csv")
    assert list(rows[0]) == [
        "run",
        "seed",
        "step",
        "group",
        "directional",
        "magnitude",
        "reference_directional",
        "reference_magnitude",
        "mean_cosine",
    ]
    assert [(r["seed"], r["step"]) for r in rows] == [
        (str(seed), str(step)) for seed in (0, 1) for step in (1, 5, 10, 20)
    ]
    for row in rows:
        assert row["group"] == "encoder"
        # (1/K²) Σ_{i≠j} cos_ij = (K − 1)/K of the mean cosine.
        assert float(row["directional"]) == pytest.approx(float(row["mean_cosine"]) / 2)


def test_groups_of_single_layers_are_told_apart_and_other_numbers_get_columns(tmp_path, drawn):
    line = {**conflict_line(5), **conflict_line(5, -0.2, "encoder/layers_0")}
    line["conflict/encoder/noise_scale"] = 7.0
    line["conflict/encoder/unbiased_gram"] = [[1.0, 0.5], [0.5, 1.0]]
    line |= {f"grad_norm/encoder/{task}": 1.5 for task in TASKS}
    line["conflict/encoder/magnitude"] = None
    runs = [write_run(tmp_path, "multi_task", TASKS, 0, None, [line])]
    write_study(tmp_path, runs)
    report.write_report(tmp_path)
    whole, layer = read_csv(tmp_path / "report" / "conflict.csv")
    assert "unbiased_gram" not in whole and "cosine" not in whole
    assert (whole["group"], layer["group"]) == ("encoder", "encoder/layers_0")
    assert (whole["noise_scale"], whole["magnitude"]) == ("7", "")
    assert (layer["noise_scale"], layer["mean_cosine"]) == ("", "-0.2")
    assert sorted(p.name for p in (tmp_path / "report").glob("conflict.*.png")) == [
        "conflict.encoder.png"
    ]


def test_a_line_that_is_cut_off_is_skipped_and_said_so(workdir):
    name = json.loads((workdir / "study.json").read_text())["runs"][0]["name"]
    with (workdir / "runs" / name / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "loss/co')
    study = folders.load_study(workdir)
    assert [s["step"] for s in study.records[0].steps] == [1, 5, 10, 20]
    note = f"runs/{name}/metrics.jsonl:5: skipped, the line is cut off"
    assert study.notes == (note,)
    assert note in report.write_report(workdir).read_text()


def test_steps_logged_again_after_a_restart_count_once(tmp_path):
    lines = [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 2.0}, {"step": 10, "loss": 3.0}]
    write_study(tmp_path, [write_run(tmp_path, "multi_task", TASKS, 0, None, lines)])
    steps = folders.load_study(tmp_path).records[0].steps
    assert [(s["step"], s["loss"]) for s in steps] == [(10, 3.0), (20, 2.0)]


def test_results_that_cannot_be_read_are_left_out_and_said_so(workdir):
    name = json.loads((workdir / "study.json").read_text())["runs"][0]["name"]
    (workdir / "runs" / name / "results.json").write_text('{"step": 20, "te')
    page = report.write_report(workdir).read_text()
    assert f"runs/{name}/results.json can&#39;t be read" in page
    assert read_csv(workdir / "report" / "transfer.csv")[0]["multi_mean"] == "33"


def test_values_that_are_not_finite_are_left_out(tmp_path):
    line = {
        "step": 5,
        "loss/cola": math.nan,
        "loss/mnli": None,
        "conflict/encoder/magnitude": 0.0,
        "conflict/encoder/directional": None,
        "conflict/encoder/cosine": [[1, None], [None, 1]],
    }
    test = {"cola": {"matthews_corrcoef": None, "accuracy": 50.0}}
    write_study(tmp_path, [write_run(tmp_path, "multi_task", TASKS, 0, test, [line])])
    rows, _ = transfer_table(tmp_path)
    assert [(r.task, r.metric, r.multi_mean) for r in rows] == [("cola", "accuracy", 50.0)]
    assert report.write_report(tmp_path).exists()


def test_a_report_before_any_run_says_that_all_are_missing(tmp_path):
    run = write_run(tmp_path, "multi_task", TASKS, 0)
    (tmp_path / "runs" / run["name"] / "error.txt").write_text(
        "Traceback\nValueError: a <b>\n  In call to f\n"
    )
    write_study(tmp_path, [run])
    page = report.write_report(tmp_path).read_text()
    assert "Without results: 1 of 1 runs" in page
    assert "failed: ValueError: a &lt;b&gt;" in page
    assert (tmp_path / "report" / "transfer.csv").read_text().strip() == COLUMNS


def test_figures_are_files_of_two_kinds_and_the_page_names_all_files(workdir, drawn):
    html = report.write_report(workdir).read_text()
    folder = workdir / "report"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "report.html",
        *("transfer.csv", "conflict.csv", "pairs.csv", "examples.csv"),
        "transfer.text_to_text.default.semantic.tex",
        *(f"{figure}.{kind}" for figure in FIGURES for kind in ("png", "svg")),
    }
    for name in names - {"report.html"}:
        assert name in html
        content = (folder / name).read_bytes()
        starts = {"png": b"\x89PNG", "svg": b"<?xml", "csv": b"", "tex": b"% "}
        assert content.startswith(starts[name.rpartition(".")[2]])


def test_the_page_shows_the_numbers_of_the_tables(workdir):
    html = report.write_report(workdir).read_text()
    text = re.sub(r"<[^>]*>", " ", html)
    assert "6 of 6 runs" in text
    assert "38.00 ± 2.83" in text
    assert "−17.1" in text
    assert "Unparsed answers" in text
    assert '"train_steps": 20' in text.replace("&#34;", '"')


def test_a_report_is_written_again_byte_for_byte(workdir, drawn):
    report.write_report(workdir)
    before = {p.name: p.read_bytes() for p in (workdir / "report").iterdir()}
    report.write_report(workdir)
    assert {p.name: p.read_bytes() for p in (workdir / "report").iterdir()} == before


def test_a_folder_without_a_study_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no study in"):
        report.write_report(tmp_path)


def test_the_command(workdir, tmp_path_factory):
    def command(folder):
        return subprocess.run(
            [sys.executable, "-m", "mtl_t5x.report", f"--workdir={folder}"],
            cwd=pathlib.Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )

    done = command(workdir)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(workdir / "report" / "report.html")
    empty = command(tmp_path_factory.mktemp("empty"))
    assert empty.returncode == 2
    assert empty.stderr.startswith("error: no study in")
