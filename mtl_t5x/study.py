"""A study: multi-task runs and their single-task baselines over seeds, run or resumed.

    python -m mtl_t5x.study --config=configs/mini_glue.py --workdir=DIR [--config.FIELD=VALUE]

runs what is not finished, one run folder each under `DIR/runs/<name>/`, then writes the report.
`--index=I --count=N` takes the I-th of N shares (counted from 0), for job arrays; shares may run
at the same time in one DIR. A config file holds `get_config()` and `runs(config)`.
"""

import dataclasses
import importlib.util
import itertools
import json
import pathlib
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
from absl import app, flags
from etils import epath
from ml_collections import config_flags

from mtl_t5x.report import report
from mtl_t5x.runtime import exit_codes
from mtl_t5x.storage import files

RunFunction = Callable[[Sequence[str], Sequence[str]], None]

# Tasks that only have a test split, scored by whoever trains on the task they belong to.
_TEST_ONLY = {("glue", "mnli"): ("mnli_mismatched",)}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of `mtl_t5x.main`: what to start, and where it stands in the study's tables.

    `gin_bindings` are as on the command line (`TRAIN_STEPS=300`), without MODEL_DIR, which the
    study adds. `tasks` are the trained tasks' short names. `kind` is `multi_task` or
    `single_task`.
    """

    name: str
    gin_files: tuple[str, ...]
    gin_bindings: tuple[str, ...]
    architecture: str
    prompt: str
    labels: str
    tasks: tuple[str, ...]
    seed: int
    kind: str


def grid(
    config: ml_collections.ConfigDict, macros: Mapping[str, Any] | None = None
) -> Iterator[Run]:
    """Yields a config's runs: per architecture, prompt and labels the multi-task runs over the
    seeds, then the single-task baseline of every task over the seeds.

    Runs of one shape stand next to each other, so that they share compilations, and neighbours
    cost about the same, so that shares taken in turn are even.

    Args:
      config: fields benchmark, tasks, architectures, prompts, labels, seeds, train_steps,
        single_task_steps, conflict_period, data, and gin_files (architecture -> gin file).
      macros: further gin macros for every run.

    Raises:
      ValueError: fewer than two tasks, a name given twice, or an architecture without gin file.
    """
    if len(config.tasks) < 2:
        raise ValueError(
            f"config.tasks is {tuple(config.tasks)}: a study compares several tasks trained "
            "together with each alone; name two or more, as --config.tasks=\"('cola', 'rte')\""
        )
    for field in ("tasks", "architectures", "prompts", "labels", "seeds"):
        values = tuple(config[field])
        if not values or len(set(values)) < len(values):
            raise ValueError(f"config.{field} is {values}: give one value or more, each once")
    for architecture, prompt, labels in itertools.product(
        config.architectures, config.prompts, config.labels
    ):
        groups = [("multi_task", tuple(config.tasks), seed) for seed in config.seeds]
        groups += [("single_task", (task,), seed) for seed in config.seeds for task in config.tasks]
        for kind, tasks, seed in groups:
            middle = kind if kind == "multi_task" else f"{kind}.{tasks[0]}"
            yield Run(
                name=f"{architecture}.{prompt}.{labels}.{middle}.seed{seed}",
                gin_files=(_gin_file(config, architecture),),
                gin_bindings=_bindings(config, prompt, labels, tasks, seed, kind, macros or {}),
                architecture=architecture,
                prompt=prompt,
                labels=labels,
                tasks=tasks,
                seed=seed,
                kind=kind,
            )


def _gin_file(config: ml_collections.ConfigDict, architecture: str) -> str:
    if architecture not in config.gin_files:
        raise ValueError(
            f"config.gin_files names no gin file for the architecture {architecture!r}, only for "
            f"{sorted(config.gin_files)}; add it to get_config(), or leave the architecture out"
        )
    return config.gin_files[architecture]


def _bindings(
    config: ml_collections.ConfigDict,
    prompt: str,
    labels: str,
    tasks: tuple[str, ...],
    seed: int,
    kind: str,
    macros: Mapping[str, Any],
) -> tuple[str, ...]:
    scored = []
    for task in tasks:
        scored += [task, *_TEST_ONLY.get((config.benchmark, task), ())]
    multi = kind == "multi_task"
    values = {
        "MIXTURE_OR_TASK_NAME": [f"{config.benchmark}_{t}.{prompt}.{labels}" for t in scored],
        "TRAIN_STEPS": config.train_steps if multi else config.single_task_steps,
        "RANDOM_SEED": seed,
        "DATA": config.data,
        # One task alone has no conflict to measure.
        "CONFLICT_PERIOD": config.conflict_period if multi else 0,
        **macros,
    }
    return tuple(f"{name}={_gin_value(value)}" for name, value in values.items())


def _gin_value(value: Any) -> str:
    """JSON's double-quoted strings, lists and numbers are Python literals, as gin reads them."""
    return json.dumps(value) if isinstance(value, (str, list)) else repr(value)


def share(runs: Sequence[Run], index: int, count: int) -> tuple[Run, ...]:
    """The `index`-th (from 0) of `count` shares of the runs, dealt out in turn."""
    if not 0 <= index < count:
        raise ValueError(
            f"--index={index} --count={count}: give a count of 1 or more, and as index a number "
            "from 0 to count - 1"
        )
    return tuple(runs[index::count])


def run_study(
    workdir: epath.PathLike,
    name: str,
    config: ml_collections.ConfigDict,
    runs: Sequence[Run],
    *,
    index: int = 0,
    count: int = 1,
    run: RunFunction | None = None,
) -> tuple[str, ...]:
    """Runs this share's unfinished runs in this process, then writes the report.

    A run that `is_finished` isn't run again. One that fails leaves its traceback in
    `error.txt`, and the others go on. One that was told to stop ends the study; the study started
    again goes on with it.

    Args:
      workdir: the study's folder.
      name: the study's name, for the report.
      config: the study's settings, recorded in `study.json`.
      runs: all runs of the study, those of other shares included.
      index, count: which share of the runs to take.
      run: what to call with a run's gin files and bindings; by default `mtl_t5x.main.run`.

    Returns:
      The names of this share's runs that failed.

    Raises:
      ValueError: `workdir` belongs to another configuration, or `index` is not below `count`.
      SystemExit: with code 42, a run was told to stop (SIGTERM) and has saved its state.
    """
    workdir = epath.Path(workdir)
    mine = share(runs, index, count)
    _record(workdir, name, config, runs)
    todo = [item for item in mine if not is_finished(workdir, item)]
    print(f"study {name}: {len(mine)} runs here, {len(mine) - len(todo)} of them finished before")
    if todo and run is None:
        # Here and not at the top, so that a study can be listed and redrawn without JAX.
        from mtl_t5x import main as program

        run = program.run
    failed = []
    for number, item in enumerate(todo, start=1):
        title = f"[{number}/{len(todo)}] {item.name}"
        print(title, flush=True)
        start = time.monotonic()
        succeeded = _run_one(workdir, item, run)
        if not succeeded:
            failed.append(item.name)
        state = "finished" if succeeded else "FAILED"
        print(f"{title}: {state} after {time.monotonic() - start:.0f} s", flush=True)
    print(f"report: {report.write_report(workdir)}", flush=True)
    return tuple(failed)


def is_finished(workdir: epath.Path, item: Run) -> bool:
    """Whether the run's folder holds results of its last step."""
    path = workdir / "runs" / item.name / "results.json"
    if not path.exists():
        return False
    steps = [re.fullmatch(r"TRAIN_STEPS\s*=\s*(\d+)", b.strip()) for b in item.gin_bindings]
    last = max((int(match.group(1)) for match in steps if match), default=0)
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["step"]) >= last
    except (ValueError, KeyError, TypeError):
        return True  # damaged: the report says so, and what to do


def _run_one(workdir: epath.Path, item: Run, run: RunFunction) -> bool:
    """Whether the run finished; if not, `error.txt` in its folder says why."""
    folder = workdir / "runs" / item.name
    folder.mkdir(parents=True, exist_ok=True)
    error = folder / "error.txt"
    bindings = (*item.gin_bindings, f"MODEL_DIR={_gin_value(str(folder))}")
    try:
        run(item.gin_files, bindings)
        if not is_finished(workdir, item):
            raise RuntimeError(
                f"the run ended, and {folder / 'results.json'} isn't there or of a step before its "
                "last one"
            )
    # A run may also give up by sys.exit; whatever ended it, the other runs go on.
    except (Exception, SystemExit) as problem:
        if isinstance(problem, SystemExit) and problem.code == exit_codes.TOLD_TO_STOP:
            print(f"{item.name}: told to stop; start the study again to go on", flush=True)
            raise
        text = traceback.format_exc()
        files.write_atomically(error, text.encode())
        print(text, file=sys.stderr, flush=True)
        return False
    error.unlink(missing_ok=True)
    return True


def _record(
    workdir: epath.Path, name: str, config: ml_collections.ConfigDict, runs: Sequence[Run]
) -> None:
    """Writes `study.json`, or checks that the one there describes this very study."""
    record = {
        "name": name,
        "config": config.to_dict(),
        "runs": [dataclasses.asdict(item) for item in runs],
    }
    text = json.dumps(record, indent=2, sort_keys=False) + "\n"
    path = workdir / "study.json"
    if not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        # Shares that start together write equal bytes, so the last one may win.
        files.write_atomically(path, text.encode())
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        differences = _differences(there, json.loads(text))
    except (ValueError, KeyError, TypeError) as problem:
        raise ValueError(
            f"{path} is not a study's record ({problem!r}); delete it, or use another --workdir"
        ) from problem
    if differences:
        raise ValueError(
            f"{path} belongs to another configuration. What differs:\n  "
            + "\n  ".join(differences)
            + "\nGive these settings their own --workdir, or run with those of study.json."
        )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Differing config fields; where there are none, differing fields of the runs."""
    pairs = (
        (_flatten(there["config"]), _flatten(here["config"])),
        tuple(_flatten({"runs": {r["name"]: r for r in x["runs"]}}) for x in (there, here)),
    )
    for old, new in pairs:
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        if changed:
            return [
                f"{key}: {old.get(key, 'absent')} in study.json, {new.get(key, 'absent')} now"
                for key in changed
            ]
    return []


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value)
    return flat


def load_runs(
    path: str | pathlib.Path,
) -> Callable[[ml_collections.ConfigDict], Iterator[Run]]:
    """The function `runs` of a study's config file."""
    spec = importlib.util.spec_from_file_location("study_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "runs"):
        raise ValueError(
            f"{path} has no function runs(config); write one, as: "
            "def runs(config): return study.grid(config)"
        )
    return module.runs


def main(argv: Sequence[str]) -> int:
    """Runs the study that the flags describe; 1 where runs failed, 2 where it could not start.

    The process leaves with 42 where it was told to stop.
    """
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    values = flags.FLAGS
    path = pathlib.Path(config_flags.get_config_filename(values["config"]))
    try:
        runs = tuple(load_runs(path)(values.config))
        failed = run_study(
            values.workdir,
            path.stem,
            values.config,
            runs,
            index=values.index,
            count=values.count,
        )
    except (ValueError, FileNotFoundError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    if failed:
        print(f"{len(failed)} of the runs failed (see error.txt in their folders):")
        for name in failed:
            print(f"  {epath.Path(values.workdir) / 'runs' / name}")
    return 1 if failed else 0


# Flags are defined only where this file is the program: config files import it as a module.
if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "The study's config file.")
    flags.DEFINE_string("workdir", None, "The study's folder.")
    flags.DEFINE_integer("index", 0, "Which share of the runs to take, from 0.")
    flags.DEFINE_integer("count", 1, "Into how many shares the runs are split.")
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
