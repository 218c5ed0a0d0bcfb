"""A study: multi-task runs and their single-task baselines over seeds, run or resumed.

    python -m mtl_t5x.study --config=configs/mini_glue.py --workdir=DIR [--config.FIELD=VALUE]

runs what is not finished, one run folder each under `DIR/runs/<name>/`, then writes the report.
`--jobs=N` runs N at a time on this machine, each on cores or accelerators of its own, by default as
many as help. `--index=I --count=N` takes the I-th of N shares (counted from 0), for job arrays;
shares may run at the same time in one DIR. A config file holds `get_config()` and `runs(config)`,
and may hold SECONDS_PER_STEP, about what a step of one task takes on one core. `get_config` may
take the name of a preset, which `--config=configs/NAME.py:PRESET` gives it.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import pathlib
import platform
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
from absl import app, flags
from etils import epath
from ml_collections import config_flags

from mtl_t5x.jobs import job as one_run
from mtl_t5x.jobs import places, pool
from mtl_t5x.jobs.grid import Run
from mtl_t5x.jobs.grid import grid as grid  # what config files call
from mtl_t5x.jobs.grid import required as required
from mtl_t5x.jobs.progress import Progress, in_words
from mtl_t5x.jobs.sweep import sweep as sweep
from mtl_t5x.runtime import exit_codes
from mtl_t5x.storage import files, results

_OF_BEGUN = ("metrics.jsonl", results.FILE)  # a run that has taken steps has either

# What a run's numbers may depend on; study.json holds the versions.
LIBRARIES = ("mtl_t5x", "jax", "jaxlib", "flax", "optax", "numpy", "seqio", "tensorflow")


def share(runs: Sequence[Run], index: int, count: int) -> tuple[Run, ...]:
    """The `index`-th (from 0) of `count` shares of the runs, dealt out in turn."""
    if not 0 <= index < count:
        raise ValueError(
            f"--index={index} --count={count}: give a count of 1 or more, and as index a number "
            "from 0 to count - 1"
        )
    return tuple(runs[index::count])


@dataclasses.dataclass(frozen=True)
class Workers:
    """How many runs take place at a time on this machine; what is None, `places.plan` chooses.

    Attributes:
      jobs: runs at a time.
      devices_per_run: accelerators of each.
      devices: names of the accelerators to use.
    """

    jobs: int | None = None
    devices_per_run: int | None = None
    devices: Sequence[str] | None = None

    def places(self, jobs: Sequence[one_run.Job]) -> tuple[places.Place, ...]:
        helpful = places.helpful([job.work for job in jobs])
        return places.plan(self.jobs, self.devices_per_run, self.devices, helpful=helpful)


def run_study(
    workdir: epath.PathLike,
    name: str,
    config: ml_collections.ConfigDict,
    runs: Sequence[Run],
    *,
    index: int = 0,
    count: int = 1,
    workers: Workers = Workers(),
    config_arguments: Sequence[str] = (),
    seconds_per_step: float | None = None,
    run: one_run.RunFunction | None = None,
) -> tuple[str, ...]:
    """Runs this share's unfinished runs, by workers the longest first, then writes the report.

    A finished run isn't run again. One that fails leaves its traceback, or what ended its process,
    in `error.txt`, and the others go on. Told to stop, all save; the study started again goes on.

    Args:
      workdir: the study's folder.
      name: the study's name, for the report.
      config: the study's settings, recorded in `study.json`.
      runs: all runs of the study, those of other shares included.
      index, count: which share of the runs to take.
      workers: the processes that the runs are carried out in.
      config_arguments: what on the command line chose the config, recorded for the report.
      seconds_per_step: about what a step of one task takes on one core.
      run: called with a run's gin files and bindings, in this process, instead of workers that call
        `mtl_t5x.main.run`.

    Returns:
      The names of this share's runs that failed.

    Raises:
      ValueError: `workdir` belongs to another configuration, `index` is not below `count`, or
        `workers` asks for more than there is.
      SystemExit: with code 42, told to stop (SIGTERM, Ctrl-C), and the runs' states are saved.
    """
    workdir = epath.Path(workdir)
    mine = [_job(workdir, item) for item in share(runs, index, count)]
    todo = [job for job in mine if not job.is_finished()]
    # By all of them, so that the study started again shares out the cores as it did before.
    found = workers.places(mine) if todo and run is None else ()
    _record(workdir, name, config, runs, config_arguments)
    print(f"study {name}: {len(mine)} runs here, {len(mine) - len(todo)} of them finished before")
    used = found[: len(todo)]
    progress = Progress(f"study {name}", todo, max(1, len(used)), seconds_per_step)
    if used:
        _tell(workdir, todo, used, progress)
        failed = pool.carry_out(todo, used, progress)
    else:
        failed = _carry_out_here(todo, progress, run)
    # Here, as drawing takes seconds to import, and a study's first words shall come at once.
    from mtl_t5x.report import report

    print(f"report: {report.write_report(workdir)}", flush=True)
    return tuple(job.name for job in mine if job.name in failed)


def _job(workdir: epath.Path, item: Run) -> one_run.Job:
    folder = str(workdir / "runs" / item.name)
    return one_run.Job(
        name=item.name,
        folder=folder,
        gin_files=item.gin_files,
        gin_bindings=(*item.gin_bindings, f"MODEL_DIR={json.dumps(folder)}"),
        steps=results.last_step(item.gin_bindings),
        tasks=len(item.tasks),
    )


def _tell(
    workdir: epath.Path,
    todo: Sequence[one_run.Job],
    used: Sequence[places.Place],
    progress: Progress,
) -> None:
    """What is to be done where, and how long it will take."""
    left = progress.left()
    when = "how long it takes is told once it has begun" if left is None else in_words(left)
    where = "; ".join(place.title for place in used)
    workers = "1 worker" if len(used) == 1 else f"{len(used)} workers"
    print(f"{len(todo)} runs by {workers} ({where}): {when}")
    print(f"what each run says: {workdir / 'runs' / 'NAME' / pool.LOG}", flush=True)


def _carry_out_here(
    todo: Sequence[one_run.Job], progress: Progress, run: one_run.RunFunction
) -> dict[str, str]:
    """Why, by the name of each that failed; the runs take place in this process."""
    failed = {}
    for job in todo:
        progress.started(job)
        why = one_run.carry_out(job, run)
        if why is None:
            progress.finished(job)
        else:
            failed[job.name] = why
            progress.failed(job, why)
    return failed


def _record(
    workdir: epath.Path,
    name: str,
    config: ml_collections.ConfigDict,
    runs: Sequence[Run],
    config_arguments: Sequence[str],
) -> None:
    """Writes `study.json`, or checks that the one there is of this study or a part of it.

    A study may be extended, by seeds, say, or an architecture: its runs stay, and others come. One
    of which no run has taken a step yet may be any.
    """
    record = {
        "name": name,
        "config": config.to_dict(),
        "runs": [item.record() for item in runs],
        "flags": list(config_arguments),
        "versions": {
            "Python": platform.python_version(),
            **{library: importlib.metadata.version(library) for library in LIBRARIES},
        },
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
        here = json.loads(text)
        extended = _is_extended(there, here)
        folders = [workdir / "runs" / run["name"] for run in there["runs"]]
        begun = any((folder / file).exists() for folder in folders for file in _OF_BEGUN)
        differences = _differences(there, here) if begun and not extended else []
    except (ValueError, KeyError, TypeError) as problem:
        raise ValueError(
            f"{path} is not a study's record ({problem!r}); delete it, or use another --workdir"
        ) from problem
    if differences:
        raise ValueError(
            f"{path} belongs to another configuration. What differs:\n  "
            + "\n  ".join(differences)
            + "\nGive these settings their own --workdir, or run with those of study.json; runs "
            "may be added to those."
        )
    if extended or not begun:
        files.write_atomically(path, text.encode())


def _is_extended(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether all runs of a record are here, as they were, and others besides."""
    old, new = ({run["name"]: run for run in record["runs"]} for record in (there, here))
    return len(old) < len(new) and all(new.get(name) == run for name, run in old.items())


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
    return _load(path).runs


def _load(path: str | pathlib.Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("study_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "runs"):
        raise ValueError(
            f"{path} has no function runs(config); write one, as: "
            "def runs(config): return study.grid(config)"
        )
    return module


def _config_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
    """Those of a command line's arguments that choose the config or set its fields."""
    found = []
    following = iter([*arguments[1:], "-"])
    for argument, value in zip(arguments, following, strict=True):
        name, has_value, _ = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name.split(".")[0] in ("config", "noconfig"):
            apart = not has_value and not value.startswith("-")
            found.append(f"{argument}={value}" if apart else argument)
    return tuple(found)


def main(argv: Sequence[str]) -> int:
    """Runs the study that the flags describe; 2 where it could not start, 1 where runs failed.

    43 where a hang or a kill ended some of these: they go on when the study is started again. The
    process leaves with 42 where it was told to stop.
    """
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    values = flags.FLAGS
    path, _, preset = config_flags.get_config_filename(values["config"]).partition(":")
    try:
        module = _load(path)
        runs = tuple(module.runs(values.config))
        failed = run_study(
            values.workdir,
            ":".join(filter(None, (pathlib.Path(path).stem, preset))),
            values.config,
            runs,
            index=values.index,
            count=values.count,
            workers=Workers(values.jobs, values.devices_per_run, values.devices),
            config_arguments=_config_arguments(sys.argv[1:]),
            seconds_per_step=getattr(module, "SECONDS_PER_STEP", None),
        )
    except (ValueError, FileNotFoundError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return exit_codes.SETTINGS
    except KeyboardInterrupt:  # of the report, say
        print("interrupted; start the study again to go on", file=sys.stderr)
        return exit_codes.INTERRUPTED
    if not failed:
        return 0
    folders = [epath.Path(values.workdir) / "runs" / name for name in failed]
    if len(failed) == len(share(runs, values.index, values.count)) and all(
        map(one_run.was_refused, folders)
    ):
        print("error: no run could start, see above", file=sys.stderr)
        return exit_codes.SETTINGS
    print(f"{len(failed)} of the runs failed (see error.txt in their folders):")
    for folder in folders:
        print(f"  {folder}")
    return exit_codes.HANGS if any(map(one_run.was_lost, folders)) else exit_codes.FAILED


def _read_flags(argv: Sequence[str]) -> list[str]:
    """The arguments that are no flags; leaves with code 2 where one, or the config, is wrong."""
    try:
        return flags.FLAGS(argv)
    # A field that the config doesn't have, by ml_collections; the others by the config's file.
    except (flags.Error, KeyError, AttributeError, ValueError, OSError, ImportError) as problem:
        # Of an error within the config's file, absl tells the whole traceback.
        said = str(problem).strip().splitlines()[-1]
        if isinstance(problem, KeyError | AttributeError):
            said = str(problem.args[0]).replace("\\'", "'").replace("\\n", ". ").strip("'")
            said = f"the config has no field '{said}"
        print(f"error: {said}", file=sys.stderr)
        sys.exit(exit_codes.SETTINGS)


# Flags are defined only where this file is the program: config files import it as a module.
if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "The study's config file.")
    flags.DEFINE_string("workdir", None, "The study's folder.")
    flags.DEFINE_integer("index", 0, "Which share of the runs to take, from 0.")
    flags.DEFINE_integer("count", 1, "Into how many shares the runs are split.")
    flags.DEFINE_integer("jobs", None, "Runs at a time on this machine; by default what helps.")
    flags.DEFINE_integer(
        "devices_per_run", None, "Accelerators of each run; by default all over --jobs, else 1."
    )
    flags.DEFINE_list(
        "devices", None, "Accelerators to use, by number, as 0,1; by default all there are."
    )
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=_read_flags)
