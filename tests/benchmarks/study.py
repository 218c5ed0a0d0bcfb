"""What runs side by side are worth: a study's wall time with two at a time over one at a time.

python tests/benchmarks/study.py [--runs=8] [--steps=800] [--jobs=1,2] [--folder=DIR]

Single-task runs of the embedded benchmark (eight tasks, then the next seed), as `mtl_t5x.study`
carries them out: workers start, import, compile, train, evaluate and save. With N at a time each
has an Nth of the cores. A study of the first runs, sixty steps long, fills the cache of compiled
programs before anything is timed, as an earlier study on the machine does. The last line is JSON:
seconds of each way, and two at a time over one at a time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import pathlib
import tempfile
import time

from mtl_t5x import study

ROOT = pathlib.Path(__file__).resolve().parents[2]


def single_task_runs(count: int, steps: int):
    """(the study's settings, its runs)."""
    runs = study.load_runs(ROOT / "configs" / "mini_glue.py")
    config = runs.__globals__["get_config"]()
    config.train_steps = steps
    config.seeds = tuple(range(-(-count // len(config.tasks))))
    alone = [run for run in runs(config) if run.kind == "single_task"]
    return config, alone[:count]


def seconds(folder: pathlib.Path, count: int, steps: int, jobs: int) -> float:
    """Wall time of the study's runs, from nothing to the report."""
    config, runs = single_task_runs(count, steps)
    begun = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        failed = study.run_study(
            folder, "benchmark", config, runs, workers=study.Workers(jobs=jobs)
        )
    if failed:
        raise SystemExit(f"{failed[0]} failed: see its error.txt in {folder}")
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--jobs", default="1,2")
    parser.add_argument("--folder", type=pathlib.Path, default=None)
    arguments = parser.parse_args()
    folder = arguments.folder or pathlib.Path(tempfile.mkdtemp())
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    ways = [int(jobs) for jobs in arguments.jobs.split(",")]
    result = {}
    for jobs in ways:
        seconds(folder / f"warm_{jobs}", jobs, 60, jobs)
    for jobs in ways:
        result[f"seconds_jobs_{jobs}"] = spent = seconds(
            folder / f"jobs_{jobs}", arguments.runs, arguments.steps, jobs
        )
        print(f"--jobs={jobs}: {arguments.runs} runs of {arguments.steps} steps in {spent:.1f} s")
    if {1, 2} <= set(ways):
        result["jobs_2_over_jobs_1"] = result["seconds_jobs_2"] / result["seconds_jobs_1"]
    print(json.dumps({name: round(value, 4) for name, value in result.items()}))


if __name__ == "__main__":
    main()
