"""Weightings beside the static front, on a sweep whose truth is known."""

import csv
import dataclasses

import numpy as np
import pytest
import vl_convert

from mtl_t5x.report import folders, front_figure, fronts, predictions, report, vega
from tests.report import simulated

TASKS = ("cola", "rte")
EXAMPLES, SEEDS = 600, (0, 1)
# By weighting: the share of right answers to each task.
RIGHT = {
    "unit": (0.70, 0.70),
    "corner_cola": (0.75, 0.40),
    "corner_rte": (0.40, 0.75),
    "sobol_0": (0.74, 0.70),
    "temperature_2": (0.74, 0.70),
    "UPGrad": (0.90, 0.88),
    "MGDA": (0.60, 0.55),
}
ALONE = (0.72, 0.72)


def a_sweep():
    """Answers of one set of examples; how hard each is, is the same for all runs."""
    rng = np.random.default_rng(0)
    hard = rng.random((2, EXAMPLES))
    targets = rng.integers(0, 2, (2, EXAMPLES))
    numbers, texts = tuple(map(str, range(EXAMPLES))), ("",) * EXAMPLES
    records, answers = [], {}

    def add(name, kind, tasks, shares, seed, weighting=None):
        test = {}
        for task, share in zip(tasks, shares, strict=True):
            place = TASKS.index(task)
            right = hard[place] + 0.1 * rng.standard_normal(EXAMPLES) < share
            said = np.where(right, targets[place], 1 - targets[place])
            answers[name, task] = predictions.Answers(
                numbers, texts, texts, texts, targets[place], said
            )
            test[task] = {"accuracy": 100 * float(right.mean())}
        results = {"step": 10, "test": test, "dev": test}
        variant = simulated.VARIANT
        records.append(
            folders.Record(name, *variant, tasks, seed, kind, results, (), "", weighting=weighting)
        )

    for seed in SEEDS:
        for weighting, shares in RIGHT.items():
            kind = "multi_task" if weighting == "unit" else "weighted"
            add(f"{weighting}.seed{seed}", kind, TASKS, shares, seed, weighting)
        for task, share in zip(TASKS, ALONE):
            add(f"single.{task}.seed{seed}", "single_task", (task,), (share,), seed)
    return folders.Study("sweep", {}, tuple(records), ()), answers


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    simulated.write(folder, *a_sweep())
    return folder


@pytest.fixture(scope="module")
def front(workdir):
    (found,) = fronts.fronts(folders.load_study(workdir), resamples=1000)
    return found


def test_points(front):
    assert [point.name for point in front.points] == list(RIGHT)
    kinds = {point.name: point.kind for point in front.points}
    assert kinds["corner_rte"] == kinds["unit"] == fronts.STATIC
    assert (kinds["temperature_2"], kinds["MGDA"]) == (fronts.RATE, fronts.METHOD)
    for point in front.points:
        effects = dict(point.by_task)
        assert point.average.value == pytest.approx(np.mean([e.value for e in effects.values()]))
        assert point.worst.value == min(e.value for e in effects.values())
        assert effects[point.worst_task].value == point.worst.value
        true = 100 * np.mean(np.subtract(RIGHT[point.name], ALONE))
        assert point.average.low < true < point.average.high, point.name
        assert point.seeds == 2


def test_what_is_better_than_the_tuned_front(front):
    """Tuned on the dev split, by the average."""
    assert front.tuned == "sobol_0"
    words = {one.name: one.verdict.word for one in front.comparisons}
    assert words == {"temperature_2": "undecided", "UPGrad": "gain", "MGDA": "loss"}
    assert {("UPGrad", name) for name in RIGHT if name != "UPGrad"} <= set(front.dominated)
    assert not {("temperature_2", "sobol_0"), ("sobol_0", "temperature_2")} & set(front.dominated)
    said = " ".join(front.sentences)
    assert "UPGrad is" in said and "above the tuned static weighting (sobol_0)" in said
    assert "temperature_2 can't be told apart from the tuned static weighting" in said
    assert "UPGrad dominates" in said


def test_one_seed_has_no_intervals():
    study, _ = a_sweep()
    swept = tuple(r for r in study.records if r.seed == 0)
    of_kind = {kind: tuple(r for r in swept if (r.kind == "weighted") == kind) for kind in (0, 1)}
    study = dataclasses.replace(study, records=of_kind[0], weighted=of_kind[1])
    (front,) = fronts.fronts(study, resamples=50)
    assert all(point.average.low is None for point in front.points) and not front.dominated
    assert any("there are no intervals" in sentence for sentence in front.sentences)
    front_figure.picture(front)
    assert "rule" not in str(front_figure.figure(front).panels[0].spec["layer"])


def test_the_pages_figure_has_every_weighting_and_rings_the_tuned_one(front):
    drawn = front_figure.figure(front)
    spec = drawn.panels[0].spec | {"width": 400}
    rows = list(csv.DictReader(spec["data"]["values"].splitlines()))
    assert [row["name"] for row in rows] == list(RIGHT)
    assert [row["name"] for row in rows if row["tuned"] == "1"] == [front.tuned]
    svg = vl_convert.vegalite_to_svg(spec, vl_version=vega.VEGA_LITE)
    assert all(f">{name}<" in svg for name in RIGHT)
    assert {key.name for key in drawn.keys} == {fronts.STATIC, fronts.RATE, fronts.METHOD}


def test_a_weighting_that_has_not_finished_is_left_out(workdir):
    study = folders.load_study(workdir)
    weighted = tuple(
        dataclasses.replace(r, results=None) if r.weighting == "MGDA" else r for r in study.weighted
    )
    (front,) = fronts.fronts(dataclasses.replace(study, weighted=weighted), resamples=50)
    assert "MGDA" not in {point.name for point in front.points}


def test_it_is_on_the_page(workdir):
    page = report.write_report(workdir).read_text()
    assert "Weighting the tasks, beside a tuned static front" in page
    lines = (workdir / "report" / "front.csv").read_text().splitlines()
    assert len(lines) == 1 + len(RIGHT) * (2 + len(TASKS))
    assert (workdir / "report" / "front.text_to_text.default.semantic.png").exists()
    rows = (workdir / "report" / "transfer.csv").read_text()
    assert rows.count("cola") == 1, "the sweep's runs are in no other table"


def test_a_study_without_a_sweep_has_none():
    study, _ = a_sweep()
    plain = tuple(r for r in study.records if r.kind != "weighted")
    assert fronts.fronts(dataclasses.replace(study, records=plain)) == ()
