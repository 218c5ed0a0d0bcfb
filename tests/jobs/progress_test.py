"""What a study says about how far it is."""

import json

import pytest

from mtl_t5x.jobs import progress
from mtl_t5x.jobs.job import Job


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def job(folder, name: str, tasks: int = 1, steps: int = 600) -> Job:
    return Job(name, str(folder / "runs" / name), (), (), steps, tasks)


def log(job: Job, step: int, broken: str = "") -> None:
    folder = progress.epath.Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"step": s, "loss": 1.0}) + "\n" for s in range(0, step + 1, 20))
    (folder / "metrics.jsonl").write_text(lines + broken)


def test_steps_done_are_read_from_the_log(tmp_path):
    run = job(tmp_path, "a")
    assert progress.steps_done(run) == 0
    log(run, 40)
    assert progress.steps_done(run) == 41
    log(run, 5000, broken='{"step": 50')
    assert progress.steps_done(run) == 5001


def test_time_left_before_anything_is_seen(tmp_path):
    runs = [job(tmp_path, str(i)) for i in range(4)]
    assert progress.Progress("s", runs, 2).left() is None
    # Each is 600 steps, and what takes as long as 400; two at a time.
    assert progress.Progress("s", runs, 2, seconds_per_step=0.01).left() == pytest.approx(20)


def test_time_left_from_runs_that_ended_and_runs_under_way(tmp_path, capsys):
    clock = Clock()
    runs = [job(tmp_path, name) for name in "abcd"]
    counted = progress.Progress("study s", runs, 2, clock=clock)
    counted.started(runs[0])
    counted.started(runs[1])
    clock.now += 50
    counted.finished(runs[0])
    assert "[1/4] a: finished after 50 s" in capsys.readouterr().out
    counted.started(runs[2])
    log(runs[1], 499)
    # 1,000 and 481 steps in 100 s of workers; 519 + 2,000 are left, for two.
    assert counted.left() == pytest.approx((519 + 2000) / 2 * 100 / 1481)
    clock.now += 50
    counted.show()
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert "study s: 1 of 4 runs ended, about" in line and "b at step 481 of 600" in line


def test_the_line_for_all_leaves_out_what_all_names_begin_with(tmp_path):
    runs = [
        job(tmp_path, f"text_to_text.default.{name}") for name in ("multi.seed0", "multi.seed1")
    ]
    counted = progress.Progress("study s", runs, 2)
    counted.started(runs[1])
    assert str(counted) == "study s: 0 of 2 runs ended, seed1 at step 0 of 600"
    alone = progress.Progress("study s", runs[:1], 1)
    alone.started(runs[0])
    assert runs[0].name in str(alone)


def test_the_longest_run_lasts_whatever_the_others_do(tmp_path):
    runs = [job(tmp_path, "long", tasks=8), job(tmp_path, "short")]
    assert progress.Progress("s", runs, 2, seconds_per_step=0.01).left() == pytest.approx(80)


def test_steps_of_an_earlier_attempt_took_no_time_now(tmp_path):
    clock = Clock()
    run = job(tmp_path, "a", steps=800)
    log(run, 599)
    counted = progress.Progress("s", [run], 1, clock=clock)
    counted.started(run)
    assert counted.left() is None
    clock.now += 10
    log(run, 699)
    assert counted.left() == pytest.approx(10 / 100 * (1200 - 681), rel=0.02)


def test_a_first_step_which_compiles_tells_no_pace(tmp_path):
    clock = Clock()
    run = job(tmp_path, "a")
    counted = progress.Progress("s", [run], 1, clock=clock)
    counted.started(run)
    clock.now += 90
    log(run, 0)
    assert counted.left() is None
    log(run, 100)
    assert counted.left() == pytest.approx(90 / 101 * (1000 - 101))


def test_a_failure_says_why_and_where_to_look(tmp_path, capsys):
    run = job(tmp_path, "a")
    counted = progress.Progress("s", [run], 1)
    counted.started(run)
    counted.failed(run, "it was killed")
    line = capsys.readouterr().out
    assert "[1/1] a: FAILED after 0 s: it was killed; see" in line and "a/error.txt" in line


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "about 10 s"), (75, "about 80 s"), (290, "about 5 min"), (9000, "about 2.5 h")],
)
def test_in_words(seconds, words):
    assert progress.in_words(seconds) == words
