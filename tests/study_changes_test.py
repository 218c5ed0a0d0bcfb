"""A study that is extended or corrected, and what it makes of results that lack something."""

import json
import pathlib

import pytest

from mtl_t5x import study
from mtl_t5x.settings.checks import SettingsError
from tests.jobs.grid_test import parse, small_config
from tests.study_test import FakeRun, conduct


def test_a_finished_study_gets_a_third_seed_and_runs_only_what_is_new(tmp_path, capsys):
    conduct(tmp_path, FakeRun())
    config = small_config()
    config.seeds = (0, 1, 2)
    run = FakeRun()
    assert conduct(tmp_path, run, config) == ()
    assert {name.rpartition(".")[2] for name in run.names} == {"seed2"} and len(run.names) == 4
    assert json.loads((tmp_path / "study.json").read_text())["config"]["seeds"] == [0, 1, 2]
    again = FakeRun()
    conduct(tmp_path, again, config)
    assert again.names == []
    with pytest.raises(ValueError, match=r"seeds: \[0, 1, 2\] in study.json, \[0, 1\] now"):
        conduct(tmp_path, FakeRun())


def test_a_study_whose_runs_were_all_refused_may_be_corrected(tmp_path, capsys):
    def refuse(gin_files, gin_bindings):
        raise SettingsError("MIXTURE_OR_TASK_MODULE = 'my_task' can't be imported")

    assert len(conduct(tmp_path, refuse)) == 8
    told = capsys.readouterr()
    assert told.out.count("can't be imported") == 1 and "7 runs more: the same" in told.out
    assert "Traceback" not in told.out + told.err
    config = small_config()
    config.modules = ("my_tasks",)
    assert conduct(tmp_path, FakeRun(), config) == ()


def test_a_truncated_result_is_made_anew(tmp_path):
    """For the study as for the report the run isn't finished."""
    conduct(tmp_path, FakeRun())
    victim = tmp_path / "runs" / list(study.grid(small_config()))[3].name / "results.json"
    victim.write_text(victim.read_text()[:-9])
    again = FakeRun()
    conduct(tmp_path, again)
    assert again.names == [victim.parent.name]


def test_tasks_without_a_test_split_are_reported_on_dev(tmp_path):
    def run(gin_files, gin_bindings):
        folder = pathlib.Path(parse(gin_bindings)["MODEL_DIR"])
        dev = {"cola": {"matthews_corrcoef": 50.0, "loss": 0.5}}
        results = {"step": 20, "tasks": ["cola"], "test": {}, "dev": dev}
        (folder / "results.json").write_text(json.dumps(results))

    conduct(tmp_path, run)
    rows = (tmp_path / "report" / "transfer.csv").read_text().splitlines()
    assert any(",cola,matthews_corrcoef," in row for row in rows)
    assert not any(",loss," in row for row in rows)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "cola: scored on the dev split, as there is no test split" in page
