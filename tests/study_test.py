import dataclasses
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from mtl_t5x import study
from mtl_t5x.report import published
from mtl_t5x.runtime import exit_codes, interruption
from tests.jobs import fake_runs
from tests.jobs.grid_test import parse, small_config

ROOT = pathlib.Path(__file__).parents[1]


class FakeRun:
    """Writes a run folder as main.run would; raises for the runs named in `failures`."""

    def __init__(self, failures=None):
        self.failures = failures or {}
        self.names = []

    def __call__(self, gin_files, gin_bindings):
        folder = pathlib.Path(parse(gin_bindings)["MODEL_DIR"])
        self.names.append(folder.name)
        if folder.name in self.failures:
            raise self.failures[folder.name]
        test = {"cola": {"matthews_corrcoef": 50.0}}
        (folder / "results.json").write_text(json.dumps({"step": 20, "tasks": [], "test": test}))


def conduct(workdir, run, config=None, **kwargs):
    config = config or small_config()
    return study.run_study(workdir, "small", config, tuple(study.grid(config)), run=run, **kwargs)


def test_runs_all_once_in_order_then_resumes_with_nothing_to_do(tmp_path):
    run = FakeRun()
    assert conduct(tmp_path, run) == ()
    assert run.names == [r.name for r in study.grid(small_config())]
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["config"]["train_steps"] == 20
    assert [r["name"] for r in record["runs"]] == run.names
    assert str(tmp_path) not in (tmp_path / "study.json").read_text()
    assert (tmp_path / "report" / "report.html").exists()

    again = FakeRun()
    assert conduct(tmp_path, again) == ()
    assert again.names == []


@pytest.mark.parametrize("results", [None, {"step": 6, "test": {}}], ids=["none", "too early"])
def test_only_unfinished_runs_are_started_again(results, tmp_path):
    conduct(tmp_path, FakeRun())
    victim = list(study.grid(small_config()))[3].name
    path = tmp_path / "runs" / victim / "results.json"
    path.unlink()
    if results:
        path.write_text(json.dumps(results))
    again = FakeRun()
    conduct(tmp_path, again)
    assert again.names == [victim]


def test_failures_leave_a_traceback_and_do_not_stop_the_others(tmp_path, capsys):
    names = [r.name for r in study.grid(small_config())]
    run = FakeRun({names[0]: FloatingPointError("loss of cola is NaN"), names[4]: SystemExit(3)})
    assert conduct(tmp_path, run) == (names[0], names[4])
    assert run.names == names
    error = tmp_path / "runs" / names[0] / "error.txt"
    assert error.read_text().strip().endswith("FloatingPointError: loss of cola is NaN")
    assert "Traceback" in capsys.readouterr().err
    page = (tmp_path / "report" / "report.html").read_text()
    assert "FloatingPointError: loss of cola is NaN" in page

    assert conduct(tmp_path, FakeRun()) == ()
    assert not error.exists()


def test_a_run_without_results_counts_as_failed(tmp_path):
    failed = conduct(tmp_path, lambda files, bindings: None)
    assert len(failed) == 8
    assert "isn't there or of a step" in (tmp_path / "runs" / failed[0] / "error.txt").read_text()


def test_an_interrupt_stops_the_study(tmp_path):
    first = next(study.grid(small_config())).name
    with pytest.raises(KeyboardInterrupt):
        conduct(tmp_path, FakeRun({first: KeyboardInterrupt()}))


def test_a_run_that_was_told_to_stop_ends_the_study(tmp_path, capsys):
    """SIGTERM made it save: nothing failed, nothing else starts, and the same code comes out."""
    names = [r.name for r in study.grid(small_config())]
    run = FakeRun({names[1]: interruption.Terminated()})
    with pytest.raises(SystemExit) as left:
        conduct(tmp_path, run)
    assert left.value.code == exit_codes.TOLD_TO_STOP
    assert run.names == names[:2]
    assert not list(tmp_path.glob("runs/*/error.txt"))
    assert "told to stop" in capsys.readouterr().out

    again = FakeRun()
    assert conduct(tmp_path, again) == ()
    assert again.names == names[1:]


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_shares_are_disjoint_even_and_complete(count):
    runs = tuple(study.grid(small_config()))
    shares = [study.share(runs, index, count) for index in range(count)]
    assert sorted(r.name for s in shares for r in s) == sorted(r.name for r in runs)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, 0)])
def test_a_share_that_does_not_exist_is_refused(index, count):
    with pytest.raises(ValueError, match="from 0 to count - 1"):
        study.share((), index, count)


def test_shares_together_do_the_whole_study(tmp_path):
    first, second = FakeRun(), FakeRun()
    conduct(tmp_path, first, index=0, count=2)
    before = (tmp_path / "study.json").read_bytes()
    assert "Without results: 4 of 8" in (tmp_path / "report" / "report.html").read_text()
    conduct(tmp_path, second, index=1, count=2)
    assert (tmp_path / "study.json").read_bytes() == before
    assert sorted(first.names + second.names) == sorted(r.name for r in study.grid(small_config()))
    assert "Without results" not in (tmp_path / "report" / "report.html").read_text()


def test_another_configuration_is_refused_and_named(tmp_path):
    conduct(tmp_path, FakeRun())
    config = small_config()
    config.train_steps = 30
    config.prompts = ("null",)
    run = FakeRun()
    with pytest.raises(ValueError) as caught:
        conduct(tmp_path, run, config)
    message = str(caught.value)
    assert 'prompts: ["default"] in study.json, ["null"] now' in message
    assert "train_steps: 20 in study.json, 30 now" in message
    assert "seeds" not in message
    assert run.names == []


def test_changed_runs_of_the_same_configuration_are_refused(tmp_path):
    config = small_config()
    runs = tuple(study.grid(config))
    study.run_study(tmp_path, "small", config, runs, run=FakeRun())
    changed = (dataclasses.replace(runs[0], gin_files=("other.gin",)), *runs[1:])
    with pytest.raises(ValueError, match=r"multi_task\.seed0\.gin_files"):
        study.run_study(tmp_path, "small", config, changed, run=FakeRun())


def test_a_broken_record_is_refused(tmp_path):
    (tmp_path / "study.json").write_text('{"config": {')
    with pytest.raises(ValueError, match="not a study's record"):
        conduct(tmp_path, FakeRun())


CONFIGS = {
    "mini_glue": (18, 16),
    "mini_glue_front": (46, 8),
    "glue": (81, 72),
    "paper_glue_architectures": (57, 48),
    "paper_decanlp_architectures": (63, 54),
    "paper_glue_prompts": (33, 24),
    "paper_glue_labels": (36, 24),
    "paper_glue_architectures:mini": (38, 32),
    "paper_decanlp_architectures:mini": (21, 18),
    "paper_glue_prompts:mini": (22, 16),
    "paper_glue_labels:mini": (24, 16),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configs_span_their_runs(name):
    file, _, preset = name.partition(":")
    runs = study.load_runs(ROOT / "configs" / f"{file}.py")
    config = runs.__globals__["get_config"](*filter(None, [preset]))
    if config.get("vocabulary_path", "mini") is None:
        with pytest.raises(ValueError, match="--config.vocabulary_path=PATH"):
            list(runs(config))
        config.data = config.vocabulary_path = config.initial_checkpoint_path = "somewhere"
    spanned = list(runs(config))
    # What is told on the command line reaches the runs, and no baseline is trained twice.
    alone = [r for r in spanned if r.kind == "single_task"]
    assert (len(spanned), len(alone)) == CONFIGS[name]
    assert len({r.name for r in spanned}) == len(spanned)
    config.train_steps = 11
    assert all("TRAIN_STEPS=11" in r.gin_bindings for r in runs(config))
    for row in [r for r in spanned if r.kind == "multi_task"]:
        baseline = row.baseline or (row.architecture, row.prompt, row.labels)
        mine = [r for r in alone if (r.architecture, r.prompt, r.labels) == baseline]
        assert {r.tasks for r in mine if r.seed == row.seed} == {(task,) for task in config.tasks}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=lambda p: p.stem)
def test_shipped_configs_name_gin_files_that_there_are(path):
    get_config = study.load_runs(path).__globals__["get_config"]
    for preset in ([], ["mini"]) if path.stem.startswith("paper") else ([],):
        named = get_config(*preset).gin_files.values()
        files = {file for one in named for file in ([one] if isinstance(one, str) else one)}
        assert {file for file in files if not (ROOT / file).exists()} == set()


@pytest.mark.parametrize("table", ["glue_architectures", "decanlp_architectures", "glue_prompts"])
def test_the_papers_studies_have_the_rows_of_its_tables(table):
    runs = study.load_runs(ROOT / "configs" / f"paper_{table}.py")
    config = runs.__globals__["get_config"]("mini")
    assert config.paper_table == table
    ours = {((r.architecture, r.prompt, r.labels), r.kind) for r in runs(config)}
    printed = published.load(table)
    assert ours == {(row.variant, row.training) for row in printed}
    assert set(config.tasks) == set(printed[0].cells) - {"mnli_mismatched"}


def test_a_preset_that_there_is_not_is_refused():
    runs = study.load_runs(ROOT / "configs" / "paper_glue_labels.py")
    with pytest.raises(ValueError, match="no preset 'tiny'"):
        runs.__globals__["get_config"]("tiny")


def test_a_config_without_runs_is_refused(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("def get_config():\n    return None\n")
    with pytest.raises(ValueError, match="no function runs"):
        study.load_runs(path)


# Workers call a program that needs no JAX instead of mtl_t5x.main.
COMMAND = """
import runpy, sys
from mtl_t5x.jobs import pool

pool.PROGRAM = "tests.jobs.fake_runs:run"
try:
    runpy.run_module("mtl_t5x.study", run_name="__main__", alter_sys=True)
finally:
    assert "jax" not in sys.modules
"""


def start(*arguments, platforms="cpu", **settings):
    if not any(argument.startswith("--config=") for argument in arguments):
        arguments = (f"--config={ROOT / 'configs' / 'mini_glue.py'}", *arguments)
    return subprocess.Popen(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", COMMAND, *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": platforms},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **settings,
    )


def command(*arguments, **settings):
    process = start(*arguments, **settings)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.mark.slow
def test_the_command_runs_a_study_and_its_exit_code_tells_of_failures(tmp_path):
    overrides = ["--config.tasks=('cola', 'rte')", "--config.train_steps=3"]
    done = command(f"--workdir={tmp_path / 'a'}", *overrides)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "a" / "runs").glob("*/results.json"))) == 2 + 2 * 2
    assert str(tmp_path / "a" / "report" / "report.html") in done.stdout

    again = command(f"--workdir={tmp_path / 'a'}", *overrides, platforms="none of JAX's")
    assert again.returncode == 0, "with nothing to be run JAX is not asked"

    other = command(f"--workdir={tmp_path / 'a'}", "--config.train_steps=4")
    assert other.returncode == 2
    assert "train_steps: 3 in study.json, 4 now" in other.stderr
    assert "Traceback" not in other.stderr

    partly = command(
        f"--workdir={tmp_path / 'b'}", *overrides, f"--config.seeds=(0, {fake_runs.FAILS})"
    )
    assert partly.returncode == 1
    assert "3 of the runs failed" in partly.stdout
    record = json.loads((tmp_path / "b" / "study.json").read_text())
    assert record["flags"][1:] == [*overrides, f"--config.seeds=(0, {fake_runs.FAILS})"]
    assert record["versions"]["jax"] == importlib.metadata.version("jax")
    assert f"single_task.rte.seed{fake_runs.FAILS}" in partly.stdout.splitlines()[-1]


def test_the_command_takes_a_preset(tmp_path):
    config = f"--config={ROOT / 'configs' / 'paper_glue_labels.py'}:mini"
    done = command(f"--workdir={tmp_path}", config, "--config.tasks=('cola', 'rte')")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "study.json").read_text())["name"] == "paper_glue_labels:mini"
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Beside the paper" in page and "against text_to_text · null · semantic alone" in page


@pytest.mark.parametrize("seed", [fake_runs.SAVED, fake_runs.TERMINATED])
def test_the_command_ends_with_a_run_that_was_told_to_stop(seed, tmp_path):
    """As a scheduler tells all processes, and the study's own hears of it last."""
    arguments = ["--config.tasks=('cola', 'rte')", f"--config.seeds=(0, {seed}, 1)", "--jobs=1"]
    ended = command(f"--workdir={tmp_path}", *arguments)
    assert ended.returncode == exit_codes.TOLD_TO_STOP, ended.stderr
    begun = [f"text_to_text.default.semantic.multi_task.seed{i}" for i in (0, seed)]
    assert sorted(p.name for p in tmp_path.glob("runs/*")) == begun
    assert not list(tmp_path.glob("runs/*/error.txt")) and "Traceback" not in ended.stderr


def test_the_command_tells_of_runs_that_were_lost(tmp_path):
    """By the code with which a scheduler starts it again, and on the report's page."""
    tasks = "--config.tasks=('cola', 'rte')"
    ended = command(f"--workdir={tmp_path}", tasks, f"--config.seeds=(0, {fake_runs.KILLED})")
    assert ended.returncode == exit_codes.HANGS, ended.stderr
    assert "3 of the runs failed" in ended.stdout
    assert len(list(tmp_path.glob("runs/*/results.json"))) == 3
    page = (tmp_path / "report" / "report.html").read_text()
    assert "ChildProcessError: its process was killed (SIGKILL)" in page


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--jobs=0", "error: --jobs=0: give 1 or more"),
        ("--jobs=1000", "error: --jobs=1000: every run needs a core of its own"),
        ("--devices=1,1", "error: --devices=1,1 names the device 1 twice"),
        ("--config.sedes=(0,)", "error: the config has no field 'sedes'. Did you mean \"seeds\""),
        ("--devices_per_run=2", "error: --devices and --devices_per_run are for accelerators"),
    ],
)
def test_workers_that_there_is_no_room_for_are_refused(flag, message, tmp_path):
    ended = command(f"--workdir={tmp_path / 'a'}", flag)
    assert ended.returncode == 2 and not (tmp_path / "a").exists()
    assert ended.stderr.startswith(message) and ended.stderr.count("\n") == 1


def test_the_command_says_first_what_it_will_do(tmp_path):
    tasks = "--config.tasks=('cola', 'rte')"
    out = command(f"--workdir={tmp_path}", tasks, "--jobs=1").stdout.splitlines()
    assert out[0] == "study mini_glue: 6 runs here, 0 of them finished before"
    assert re.fullmatch(r"6 runs by 1 worker \(cores? [\d,]+\): about .*", out[1])
    assert out[2].endswith("runs/NAME/log.txt")


def test_study_and_report_import_nothing_heavy():
    code = (
        "import sys; import mtl_t5x.study, mtl_t5x.report; "
        "print({'jax', 'flax', 'tensorflow', 'seqio', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_the_flags_that_chose_the_config_are_told_from_the_others():
    arguments = ["--workdir", "d", "--config", "a.py:mini", "--jobs=2", "-config.seeds=(0, 1)"]
    arguments += ["--config.deep", "--index=0", "--noconfig.tied"]
    assert study._config_arguments(arguments) == (
        *("--config=a.py:mini", "-config.seeds=(0, 1)", "--config.deep", "--noconfig.tied"),
    )
