import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from mtl_t5x.report import analysis, folders, gathered
from tests.report import simulated

TASKS = {
    "rte": simulated.Task("accuracy", 70.0, 10.0, 0.5),
    "cola": simulated.Task("matthews_corrcoef", 60.0, 0.0, 0.5),
}
CONFIG = """from mtl_t5x.models import architectures

# Macros:
MIXTURE_OR_TASK_NAME = \\
    ['glue_rte.null.distinct_letters',
     'glue_cola.null.distinct_letters']
MODEL = @architectures.{model}()
RANDOM_SEED = {seed}
"""


@pytest.fixture
def workdir(tmp_path):
    simulated.write(tmp_path, *simulated.study(np.random.default_rng(0), TASKS, 300, 2))
    return tmp_path


def run_folder(path, tasks, model="TextToText", seed=0):
    path.mkdir(parents=True)
    (path / "config.gin").write_text(CONFIG.format(model=model, seed=seed))
    line = {"step": 0, "loss": 1.0} | {f"loss/{task}": 1.0 for task in tasks}
    (path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    test = {task: {"accuracy": 50.0 + 10 * seed} for task in tasks}
    (path / "results.json").write_text(json.dumps({"step": 1, "tasks": tasks, "test": test}))
    return path


def test_the_runs_of_a_study_are_what_its_record_says(workdir):
    study = folders.load_study(workdir)
    found = gathered.of_runs([record.folder for record in study.records])
    assert found.records == study.records
    whole, mine = analysis.analyse(study, 200), analysis.analyse(found, 200)
    assert mine.transfers == whole.transfers and mine.sentences == whole.sentences


def test_runs_of_no_study_are_what_their_configs_say(tmp_path):
    paths = [
        run_folder(tmp_path / "together", ["rte", "cola"], seed=3),
        run_folder(tmp_path / "elsewhere" / "alone", ["rte"], seed=3),
        run_folder(tmp_path / "heads", ["cola"], "Canonical"),
    ]
    together, alone, heads = gathered.of_runs(paths).records
    assert together.variant == alone.variant == ("text_to_text", "null", "distinct_letters")
    assert (together.kind, together.tasks, together.seed) == ("multi_task", ("rte", "cola"), 3)
    assert (alone.kind, alone.tasks) == ("single_task", ("rte",))
    assert (heads.architecture, heads.seed) == ("canonical", 0)
    (rte,) = [e for e in analysis.analyse(gathered.of_runs(paths)).transfers if e.task == "rte"]
    assert rte.percent.value == 0


def test_what_is_no_run_or_no_other_seed_is_refused(tmp_path):
    first = run_folder(tmp_path / "a", ["rte"])
    with pytest.raises(FileNotFoundError, match="no run in .*config.gin is absent"):
        gathered.of_runs([first, tmp_path / "b"])
    with pytest.raises(ValueError, match="a and .*c are both seed 0 .*on rte: leave one out"):
        gathered.of_runs([first, run_folder(tmp_path / "c", ["rte"])])
    empty = run_folder(tmp_path / "d", ["rte"])
    (empty / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match="d has logged no step yet"):
        gathered.of_runs([empty])


def test_two_studies_are_compared_on_the_same_examples(workdir):
    """A study against itself: no difference, and only the seeds' noise in the interval."""
    study = folders.load_study(workdir)
    both = gathered.compared(study, study)
    assert [v[0] for v in both.variants] == ["simulated 1/text_to_text", "simulated 2/text_to_text"]
    found = analysis.analyse(both, 500)
    assert {row.changed for row in found.differences} == {"study"}
    assert {row.task for row in found.differences} == {*TASKS, "average"}
    assert all(row.points.value == 0 for row in found.differences)
    one = analysis.analyse(study, 500)
    values = {e.task: e.percent.value for e in one.transfers}
    assert all(e.percent.value == values[e.task] for e in found.transfers)
    other = dataclasses.replace(study, name="other")
    names = [v[0] for v in gathered.compared(study, other).variants]
    assert names == ["simulated/text_to_text", "other/text_to_text"]


@pytest.mark.slow
def test_the_command_takes_runs_and_another_study(tmp_path):
    run = run_folder(tmp_path / "runs" / "a", ["rte"])
    record = {"name": "s", "config": {}, "runs": []}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.json").write_text(json.dumps(record))

    def command(*flags):
        return subprocess.run(
            [sys.executable, "-m", "mtl_t5x.report", *flags],
            cwd=pathlib.Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            check=False,
        )

    done = command(f"--workdir={tmp_path}", f"--runs={run}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "report" / "report.html")
    done = command(f"--workdir={tmp_path / 'one'}", f"--compare={tmp_path / 'two'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one" / "compared_with_two" / "report.html").exists()
    wrong = command(f"--workdir={tmp_path}", f"--runs={run}", "--compare=x")
    assert wrong.returncode == 2 and "can't be given together" in wrong.stderr
