"""Stands in for `mtl_t5x.main.run` in a study's workers: runs that end as their seeds say."""

from __future__ import annotations

import ast
import functools
import json
import os
import pathlib
import signal
import sys
import time

# Other seeds finish at once.
FAILS, SAVED, TERMINATED, HANGS, KILLED, WAITS, STAYS, KILLED_AFTER, SAVES_LONG = range(50, 59)


def run(gin_files, gin_bindings) -> None:
    values = {k: ast.literal_eval(v) for k, v in (b.split("=", 1) for b in gin_bindings)}
    folder = pathlib.Path(values["MODEL_DIR"])
    note(folder, "begun")
    print("a message on stdout")
    print("a message on stderr", file=sys.stderr, flush=True)
    end = ENDS.get(values["RANDOM_SEED"])
    if end is not None:
        end(folder)
    task = values["MIXTURE_OR_TASK_NAME"][0].split("_")[1].split(".")[0]
    results = {"step": values["TRAIN_STEPS"], "test": {task: {"accuracy": 60.0}}}
    (folder / "results.json").write_text(json.dumps(results))
    note(folder, "finished")
    if values["RANDOM_SEED"] == KILLED_AFTER:
        _kill(folder)


def note(folder: pathlib.Path, what: str) -> None:
    """Appends a line to the study's `notes.jsonl`: which process did what, on which cores."""
    line = {
        "what": what,
        "run": folder.name,
        "process": os.getpid(),
        "cores": sorted(os.sched_getaffinity(0)),
        "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    with open(folder.parents[1] / "notes.jsonl", "a") as file:
        file.write(json.dumps(line) + "\n")


def notes(workdir: pathlib.Path, what: str) -> list[dict]:
    path = workdir / "notes.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []
    return [line for line in lines if line["what"] == what]


def _fail(folder: pathlib.Path) -> None:
    raise ValueError("no such seed")


def _leave_saved(folder: pathlib.Path) -> None:
    sys.exit(42)


def _terminate(folder: pathlib.Path) -> None:
    """In a stage in which nothing catches the signal."""
    signal.raise_signal(signal.SIGTERM)


def _hang(folder: pathlib.Path) -> None:
    print("process 0 of 1 hangs: stage 'step'", file=sys.__stderr__, flush=True)
    os._exit(43)


def _kill(folder: pathlib.Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _wait(folder: pathlib.Path, saving: float = 0.3) -> None:
    """Until it is told to stop; then it saves, and ends when it is started again."""
    if (folder / "saved").exists():
        return
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(True))
    note(folder, "waits")
    while not heard:
        time.sleep(0.01)
    time.sleep(saving)
    (folder / "saved").touch()
    signal.signal(signal.SIGTERM, before)
    sys.exit(42)


def _stay(folder: pathlib.Path) -> None:
    """Until somebody allows it to end."""
    note(folder, "stays")
    while not (folder.parents[1] / "end").exists():
        time.sleep(0.01)


ENDS = {
    FAILS: _fail,
    SAVED: _leave_saved,
    TERMINATED: _terminate,
    HANGS: _hang,
    KILLED: _kill,
    WAITS: _wait,
    STAYS: _stay,
    SAVES_LONG: functools.partial(_wait, saving=600.0),
}
