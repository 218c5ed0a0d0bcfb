"""The paper's studies run to their reports: their `mini` presets, of two tasks and few steps."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A study's rows and its baselines' sets of runs.
STUDIES = {
    "paper_glue_architectures": (3, 2),
    "paper_decanlp_architectures": (3, 2),
    "paper_glue_prompts": (3, 1),
    "paper_glue_labels": (4, 1),
}
TASKS = {"glue": ("cola", "rte"), "decanlp": ("sst", "zre")}


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_mini(name, tmp_path):
    tasks = TASKS[name.split("_")[1]]
    command = [sys.executable, "-m", "mtl_t5x.study", f"--config=configs/{name}.py:mini"]
    command += [f"--config.tasks={tasks}", "--config.seeds=(0,)", "--config.train_steps=60"]
    ended = subprocess.run(
        [*command, f"--workdir={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, f"{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
    rows, baselines = STUDIES[name]
    results = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/results.json")]
    assert len(results) == rows + 2 * baselines
    assert all(set(result["test"]) == set(result["tasks"]) for result in results)
    with (tmp_path / "report" / "paper.csv").open(newline="") as file:
        cells = [cell for cell in csv.DictReader(file) if cell["task"] in tasks]
    printed_rows = rows - 2 * (name == "paper_glue_labels") + baselines
    assert len(cells) == 2 * printed_rows and all(cell["ours"] for cell in cells)
    generated = [cell for cell in cells if cell["architecture"] != "canonical"]
    assert {cell["metric"].startswith("teacher_forced") for cell in generated} == {True}
    with (tmp_path / "report" / "transfer.csv").open(newline="") as file:
        effects = [row for row in csv.DictReader(file) if row["task"] in tasks]
    methods: dict[tuple[str, ...], str] = {}  # of each task's headline, which comes first
    for row in effects:
        key = (row["architecture"], row["prompt"], row["labels"], row["task"])
        methods.setdefault(key, row["method"])
    assert set(methods.values()) == {"paired bootstrap"}
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.index("encoder, fixed points") < page.index("encoder, small batches (diagnostic)")
