"""Runs that no study holds together, or two studies, as one study for a report."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from mtl_t5x.report import folders

_ARCHITECTURES = {
    "Canonical": "canonical",
    "TextToText": "text_to_text",
    "TextToTextID": "text_to_text_id",
}
# What stands between a study's name and an architecture where two studies are compared.
OF_STUDY = "/"


def of_runs(paths: Sequence[epath.PathLike]) -> folders.Study:
    """Run folders as a study: those that trained one task are the baselines of the others.

    What a run is, is read from the study.json of its study, if it has one, else from its
    config.gin.

    Raises:
      FileNotFoundError: no such run folder.
      ValueError: it can't be told what a run trained, or two runs are the same seed of one setting.
    """
    notes: list[str] = []
    records = []
    for path in map(epath.Path, paths):
        run = _in_study(path) or _of_config(path)
        records.append(folders.load_record(path, run, notes))
    seen: dict[Any, folders.Record] = {}
    for record in records:
        place = (record.variant, record.tasks, record.seed)
        if place in seen:
            raise ValueError(
                f"{seen[place].folder} and {record.folder} are both seed {record.seed} of "
                f"{'.'.join(record.variant)} on {', '.join(record.tasks)}: leave one out"
            )
        seen[place] = record
    command = f"python -m mtl_t5x.report --runs={','.join(map(str, paths))} --workdir=DIR"
    return folders.Study("runs", {}, tuple(records), tuple(notes), command)


def _in_study(path: epath.Path) -> Mapping[str, Any] | None:
    record = path.parent.parent / "study.json"
    if not record.exists():
        return None
    runs = json.loads(record.read_text(encoding="utf-8"))["runs"]
    return next((run for run in runs if run["name"] == path.name), None)


def _of_config(path: epath.Path) -> dict[str, Any]:
    """What study.json would say of a run, from its operative gin configuration and its log."""
    config = path / "config.gin"
    if not config.exists():
        raise FileNotFoundError(
            f"no run in {path}: {config} is absent. Give --runs the folders that MODEL_DIR named, "
            "separated by commas"
        )
    text = config.read_text(encoding="utf-8")
    tasks = _tasks(path)
    if not tasks:
        raise ValueError(f"{path} has logged no step yet, so it can't be told what it trains")
    model = re.search(r"^MODEL\s*=\s*@(?:\w+\.)*(\w+)", text, re.MULTILINE)
    named = re.search(r"^MIXTURE_OR_TASK_NAME\s*=.*?['\"]([^'\"]+)", text, re.MULTILINE | re.DOTALL)
    seed = re.search(r"^RANDOM_SEED\s*=\s*(\d+)", text, re.MULTILINE)
    _, *setting = named.group(1).split(".") if named else ("",)
    prompt, labels = setting if len(setting) == 2 else ("unnamed", "unnamed")
    name = model.group(1) if model else "unnamed"
    return {
        "name": path.name,
        "architecture": _ARCHITECTURES.get(name, name),
        "prompt": prompt,
        "labels": labels,
        "tasks": tasks,
        "seed": int(seed.group(1)) if seed else 0,
        "kind": "multi_task" if len(tasks) > 1 else "single_task",
    }


def _tasks(path: epath.Path) -> tuple[str, ...]:
    """Short names of the tasks that a run trains, as each line of its log has them."""
    log = path / "metrics.jsonl"
    first = log.read_text(encoding="utf-8").partition("\n")[0] if log.exists() else ""
    try:
        line = json.loads(first)
    except ValueError:
        return ()
    return tuple(key.removeprefix("loss/") for key in line if key.startswith("loss/"))


def compared(first: folders.Study, second: folders.Study) -> folders.Study:
    """Two studies as one, whose variants' architectures begin with their study's name.

    Runs that answered the same test examples are compared on these; each study keeps its own
    baselines.
    """
    names = (first.name, second.name)
    if names[0] == names[1]:
        names = (f"{names[0]} 1", f"{names[1]} 2")
    records, notes = [], []
    for name, study in zip(names, (first, second), strict=True):

        def renamed(variant: folders.Variant, name: str = name) -> folders.Variant:
            return f"{name}{OF_STUDY}{variant[0]}", *variant[1:]

        for record in study.records:
            baseline = renamed(record.baseline) if record.baseline else None
            records.append(
                dataclasses.replace(
                    record,
                    name=f"{name}{OF_STUDY}{record.name}",
                    architecture=renamed(record.variant)[0],
                    baseline=baseline,
                )
            )
        notes += [f"{name}: {note}" for note in study.notes]
    config = {name: dict(one.config) for name, one in zip(names, (first, second), strict=True)}
    commands = (
        first.command,
        second.command.replace("--workdir=DIR", "--workdir=OTHER"),
        "python -m mtl_t5x.report --workdir=DIR --compare=OTHER",
    )
    command = "\n".join(filter(None, commands))
    return folders.Study(" and ".join(names), config, tuple(records), tuple(notes), command)
