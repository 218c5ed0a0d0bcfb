"""A real study: runs side by side give what runs one after the other give, whatever is killed."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUDY = [
    sys.executable,
    "-m",
    "mtl_t5x.study",
    "--config=configs/mini_glue.py",
    "--config.tasks=('cola', 'rte')",
    "--config.seeds=(0, 1)",
    "--config.train_steps=60",
    "--config.conflict_period=10",
]
TABLES = ("transfer.csv", "conflict.csv")


def start(workdir: pathlib.Path, jobs: int, cores: set[int]) -> subprocess.Popen:
    # As `taskset` would: the same number of cores for each run, however many there are at a time.
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    workdir.mkdir(exist_ok=True)
    try:
        with open(workdir / "output.txt", "ab") as output:
            return subprocess.Popen(
                [*STUDY, f"--workdir={workdir}", f"--jobs={jobs}"],
                cwd=ROOT,
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
                stdout=output,
                stderr=output,
            )
    finally:
        os.sched_setaffinity(0, before)


def numbers(workdir: pathlib.Path) -> dict:
    """Everything that must be equal: the tables, and each run's results and metrics."""
    found = {name: (workdir / "report" / name).read_text() for name in TABLES}
    for path in workdir.glob("runs/*/results.json"):
        found[path.parent.name] = json.loads(path.read_text())
        text = path.with_name("metrics.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        for line in lines:
            line.pop("examples_per_second", None)
        found[f"{path.parent.name} metrics"] = lines
    return found


@pytest.fixture(scope="module")
def two_cores() -> set[int]:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("two workers need two cores")
    return set(cores[:2])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, two_cores) -> dict:
    """The study's runs one after the other, on one core."""
    workdir = tmp_path_factory.mktemp("study") / "one"
    assert start(workdir, 1, {min(two_cores)}).wait() == 0, (workdir / "output.txt").read_text()
    assert len(list(workdir.glob("runs/*/results.json"))) == 6
    return numbers(workdir)


@pytest.mark.slow
def test_runs_side_by_side_give_the_same_numbers(undisturbed, two_cores, tmp_path):
    assert start(tmp_path / "two", 2, two_cores).wait() == 0
    assert numbers(tmp_path / "two") == undisturbed


def workers_of(process: subprocess.Popen) -> list[int]:
    path = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


@pytest.mark.slow
def test_ten_kills_lose_nothing_that_is_finished(undisturbed, two_cores, tmp_path):
    """SIGKILL falls on the study's own process or on one of its workers, at any time."""
    workdir, draw = tmp_path / "killed", random.Random(0)
    kills, ended = 0, {}

    def finished() -> dict[str, int]:
        paths = workdir.glob("runs/*/results.json")
        return {path.parent.name: path.stat().st_mtime_ns for path in paths}

    while True:
        process = start(workdir, 2, two_cores)
        while process.poll() is None and kills < 10:
            time.sleep(draw.uniform(2, 10))
            victims = [process.pid, *workers_of(process)]
            if process.poll() is None:
                os.kill(draw.choice(victims), signal.SIGKILL)
                kills += 1
        code = process.wait()
        for name, at in ended.items():
            assert finished()[name] == at, f"{name} was finished, and was run again"
        ended = finished()
        assert code in (0, 43, -signal.SIGKILL), (workdir / "output.txt").read_text()
        if code == 0:
            break
    assert kills == 10
    assert numbers(workdir) == undisturbed
    assert not list(workdir.glob("runs/*/error.txt"))
