"""docs/own_tasks.md as a newcomer follows it: its files, its commands, and what it promises."""

import csv
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "own_tasks.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def write_rows(path: pathlib.Path, count: int, seed: int) -> None:
    """Reviews whose answers all follow from one word."""
    generator = np.random.default_rng(seed)
    lines = []
    for number in generator.integers(0, 2, count):
        word, stars = (("awful", 1), ("lovely", 5))[number]
        label = ("bad", "good")[number]
        lines.append(f"it was {word} to use\t{label}\t{stars - 0.5:.1f}\t{word} thing\n")
    path.write_text("".join(lines))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("own")
    for block in blocks("python"):
        (folder / re.match(r"# (\S+)\n", block).group(1)).write_text(block)
    write_rows(folder / "train.tsv", 256, 0)
    write_rows(folder / "dev.tsv", 48, 1)
    return folder


def command(start: str, folder: pathlib.Path, *more: str) -> subprocess.CompletedProcess:
    (line,) = [one for one in "".join(blocks("bash")).splitlines() if one.startswith(start)]
    words = line.replace("/tmp/", f"{folder}/").split()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words[1:], *more],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def test_it_is_short():
    lines = [line for block in blocks("python") for line in block.splitlines() if line.strip()]
    assert len(lines) <= 40


@pytest.mark.slow
def test_the_examples_are_shown(folder):
    shown = command("python -m mtl_t5x.tasks", folder)
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert "title: it was" in shown.stdout and re.search(r"targets: \w+ thing", shown.stdout)


@pytest.mark.slow
def test_the_study(folder):
    shorter = ["--config.train_steps=60", "--jobs=1"]
    ended = command("python -m mtl_t5x.study", folder, *shorter)
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    report = folder / "own" / "report"
    with open(report / "transfer.csv") as file:
        rows = list(csv.DictReader(file))
    tasks = {"sentiment", "stars", "title", "cola"}
    assert tasks <= {row["task"] for row in rows}
    of_task = {row["task"]: row for row in reversed(rows)}
    for task in tasks:
        assert of_task[task]["seeds"] == "2", of_task[task]
        assert of_task[task]["single_task_mean"] != "" if "single_task_mean" in of_task[task] else 1
    page = (report / "report.html").read_text()
    assert all(task in page for task in tasks)
    assert "sentiment, stars, title: scored on the dev split, as there is no test split" in page


MISTAKES = {
    "absent": (None, "sentiment"),
    "empty": ("", "sentiment"),
    "a column too few": ("a text without answers\n" * 40, "sentiment"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", MISTAKES)
def test_a_file_with_a_mistake(what, folder, tmp_path):
    """Told in a line for each task that reads it, before anything is trained."""
    content, named = MISTAKES[what]
    for name in ("my_tasks.py", "train.tsv", "dev.tsv"):
        (tmp_path / name).write_text((folder / name).read_text())
    (tmp_path / "train.tsv").unlink()
    if content is not None:
        (tmp_path / "train.tsv").write_text(content)
    arguments = [
        "--gin_file=gin/examples/mini_glue_text_to_text.gin",
        f'--gin.MODEL_DIR="{tmp_path}/run"',
        '--gin.MIXTURE_OR_TASK_MODULE="my_tasks"',
        '--gin.MIXTURE_OR_TASK_NAME=["sentiment", "glue_cola.default.semantic"]',
        "--gin.CACHE_DIR=None",
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-m", "mtl_t5x.main", *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr
    assert re.search(rf"\b{named}\b.*train split|train split.*\b{named}\b", ended.stderr), (
        ended.stderr
    )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
