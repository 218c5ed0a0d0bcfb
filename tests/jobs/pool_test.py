"""A study's workers: what they share, and that what ends one run ends that one alone."""

import os
import pathlib
import signal

import pytest

from mtl_t5x.jobs import pool
from mtl_t5x.jobs.job import Job, was_lost
from mtl_t5x.jobs.places import Place
from mtl_t5x.jobs.progress import Progress
from tests.jobs import fake_runs

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # workers import the package and the fake runs from there


def job(workdir: pathlib.Path, name: str, seed: int = 0, tasks: int = 1) -> Job:
    folder = str(workdir / "runs" / name)
    bindings = {
        "MODEL_DIR": folder,
        "RANDOM_SEED": seed,
        "TRAIN_STEPS": 3,
        "MIXTURE_OR_TASK_NAME": ["glue_cola.default.semantic"],
    }
    return Job(name, folder, (), tuple(f"{k}={v!r}" for k, v in bindings.items()), 3, tasks)


def carry_out(jobs, places) -> dict[str, str]:
    progress = Progress("study", jobs, len(places))
    return pool.carry_out(jobs, places, progress, "tests.jobs.fake_runs:run")


def on_one_core(count: int) -> list[Place]:
    core = min(os.sched_getaffinity(0))
    return [Place((core,), {"CUDA_VISIBLE_DEVICES": str(i)}, "") for i in range(count)]


def test_workers_carry_out_one_run_after_the_other_the_longest_first(tmp_path, capsys):
    jobs = [job(tmp_path, f"{tasks}", tasks=tasks) for tasks in (1, 2, 5, 4, 3)]
    assert carry_out(jobs, on_one_core(1)) == {}
    begun = fake_runs.notes(tmp_path, "begun")
    assert [note["run"] for note in begun] == ["5", "4", "3", "2", "1"]
    assert len({note["process"] for note in begun}) == 1
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == [f"[{i}/5] {6 - i}" for i in range(1, 6)]
    assert all("finished after" in line for line in told)
    for item in jobs:
        log = (pathlib.Path(item.folder) / pool.LOG).read_text()
        assert log == "a message on stdout\na message on stderr\n"


def test_each_worker_has_its_cores_and_devices(tmp_path):
    jobs = [job(tmp_path, f"{i}", fake_runs.STAYS) for i in range(2)] + [job(tmp_path, "end")]
    cores = sorted(os.sched_getaffinity(0))
    places = [Place((cores[0],), {"CUDA_VISIBLE_DEVICES": "5"}, "")]
    places += [Place((cores[-1],), {"CUDA_VISIBLE_DEVICES": "6"}, "")]
    places += [Place((), {}, "")]

    class UntilBothStay(Progress):
        def show(self):
            if len(fake_runs.notes(tmp_path, "stays")) == 2:
                (tmp_path / "end").touch()

    progress = UntilBothStay("study", jobs, 3)
    assert pool.carry_out(jobs, places, progress, "tests.jobs.fake_runs:run") == {}
    begun = {note["run"]: note for note in fake_runs.notes(tmp_path, "begun")}
    assert begun["0"]["process"] != begun["1"]["process"]
    assert (begun["0"]["cores"], begun["0"]["devices"]) == ([cores[0]], "5")
    assert (begun["1"]["cores"], begun["1"]["devices"]) == ([cores[-1]], "6")
    assert begun["end"]["cores"] == cores
    assert sorted(os.sched_getaffinity(0)) == cores


def test_a_run_waits_for_another_that_compiles_its_programs(tmp_path):
    """Until the first of its shape has taken a step, or is the only one there is to do."""
    multi = [job(tmp_path, f"multi{i}", fake_runs.STAYS, tasks=2) for i in range(3)]
    jobs = [*multi, job(tmp_path, "single"), job(tmp_path, "end")]

    class UntilTheStep(Progress):
        """The first run takes a step once the single one has ended."""

        # In the order that the pool gave them in: which of two new processes is the first to run
        # its own is the machine's to say.
        given = ()

        def started(self, job):
            super().started(job)
            self.given += (job.name,)

        def finished(self, job):
            super().finished(job)
            if job.name == "single":
                (tmp_path / "runs/multi0/metrics.jsonl").write_text('{"step": 0}\n')

        def show(self):
            if len(fake_runs.notes(tmp_path, "stays")) == 2:
                (tmp_path / "end").touch()

    progress = UntilTheStep("study", jobs, 2)
    assert pool.carry_out(jobs, on_one_core(2), progress, "tests.jobs.fake_runs:run") == {}
    assert progress.given == ("multi0", "single", "multi1", "multi2", "end")


@pytest.mark.parametrize(
    ("seed", "why"),
    [
        (fake_runs.HANGS, "a stage hung, and its process left with code 43"),
        (fake_runs.KILLED, "its process was killed (SIGKILL), as is done where memory runs out"),
    ],
)
def test_a_lost_process_ends_its_run_alone(seed, why, tmp_path, capsys):
    jobs = [job(tmp_path, "first", tasks=3), job(tmp_path, "lost", seed, tasks=2)]
    jobs += [job(tmp_path, "last")]
    failed = carry_out(jobs, on_one_core(1))
    assert list(failed) == ["lost"] and why in failed["lost"]
    begun = fake_runs.notes(tmp_path, "begun")
    assert [note["run"] for note in begun] == ["first", "lost", "last"]
    assert begun[0]["process"] == begun[1]["process"] != begun[2]["process"]
    *log, end = (tmp_path / "runs/lost/error.txt").read_text().splitlines()
    assert end.startswith(f"ChildProcessError: {why}")
    assert log[:2] == ["a message on stdout", "a message on stderr"]
    assert was_lost(tmp_path / "runs/lost") and not was_lost(tmp_path / "runs/last")
    assert f"[2/3] lost: FAILED after 0 s: {why}" in capsys.readouterr().out


def test_a_failed_run_costs_no_worker(tmp_path):
    jobs = [job(tmp_path, "fails", fake_runs.FAILS, tasks=2), job(tmp_path, "other")]
    assert carry_out(jobs, on_one_core(1)) == {"fails": "ValueError: no such seed"}
    assert len({note["process"] for note in fake_runs.notes(tmp_path, "begun")}) == 1
    error = (tmp_path / "runs/fails/error.txt").read_text()
    assert "Traceback" in error and not was_lost(tmp_path / "runs/fails")
    assert error.strip() in (tmp_path / "runs/fails" / pool.LOG).read_text()


def test_a_program_that_can_not_be_imported_fails_every_run(tmp_path):
    jobs = [job(tmp_path, "a"), job(tmp_path, "b")]
    failed = pool.carry_out(jobs, on_one_core(1), Progress("s", jobs, 1), "tests.absent:run")
    assert failed == dict.fromkeys("ab", "ModuleNotFoundError: No module named 'tests.absent'")


def test_a_run_that_finished_before_its_process_was_lost_counts(tmp_path):
    """Between its results and the word of it."""
    item = job(tmp_path, "a", fake_runs.KILLED_AFTER)
    pathlib.Path(item.folder).mkdir(parents=True)
    item.lose("", "of an earlier attempt")
    assert carry_out([item], on_one_core(1)) == {}
    assert not (pathlib.Path(item.folder) / "error.txt").exists()


def test_a_worker_that_is_lost_between_runs_costs_none(tmp_path):
    jobs = [job(tmp_path, "a", tasks=2), job(tmp_path, "b")]

    class Kills(Progress):
        def finished(self, job):
            super().finished(job)
            if job.name == "a":
                process = fake_runs.notes(tmp_path, "begun")[0]["process"]
                os.kill(process, signal.SIGKILL)
                os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)

    progress = Kills("study", jobs, 1)
    assert pool.carry_out(jobs, on_one_core(1), progress, "tests.jobs.fake_runs:run") == {}
    begun = fake_runs.notes(tmp_path, "begun")
    assert [note["run"] for note in begun] == ["a", "b"]


def test_the_log_reaches_object_storage(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "is_remote", lambda folder: True)
    item = job(tmp_path, "a")
    assert carry_out([item], on_one_core(1)) == {}
    assert "a message on stdout" in (tmp_path / "runs/a" / pool.LOG).read_text()
