"""Every command and every piece of code in the README runs, as it stands there."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What is appended to a command, by how it starts, so that it ends soon.
FEW_STEPS = ["--gin.TRAIN_STEPS=3", "--gin.step.adamw.warmup_steps=1", "--gin.CONFLICT_PERIOD=2"]
# Most of a short run's time is SeqIO's, for each task it evaluates; examples_test takes all.
TWO_TASKS = "--gin.MIXTURE_OR_TASK_NAME=['glue_cola.default.semantic','glue_rte.default.semantic']"
SMALL_STUDY = ["--config.tasks=('cola','rte')", "--config.seeds=(0,)", "--config.train_steps=60"]
SHORTER = {
    "bash launch/local_cpu.sh": [*SMALL_STUDY, "--workdir={tmp}/local_cpu"],
    "bash launch/test.sh": ["--collect-only", "-q", "tests/conflict/metrics_test.py"],
    "python -m mtl_t5x.main --gin_file=gin/examples/mini_glue_text_to_text.gin": [
        *FEW_STEPS,
        TWO_TASKS,
    ],
    "python -m mtl_t5x.main --gin_file=my_run.gin": FEW_STEPS,
    "python -m mtl_t5x.measure": ["--gin.measure.Settings.examples=64", TWO_TASKS],
    "python -m mtl_t5x.main --gin_file=gin/examples/mini_glue_text_to_text.gin "
    '--gin.MODEL_DIR=\\"/tmp/dry\\" --dry_run': [],
    "python -m mtl_t5x.main --gin_file=gin/examples/mini_glue_text_to_text.gin --dry_run": [],
    "bash launch/gpu.sh --dry-run": [],
    "bash launch/tpu_pod.sh --dry-run": [],
    "bash launch/study.sh --dry-run": [],
    "python -m mtl_t5x.tasks --clear_cache": ["--cache_dir={tmp}/tokens"],
    "python -m mtl_t5x.tasks": [],
    "python -m mtl_t5x.study": SMALL_STUDY,
    "python -m mtl_t5x.report": [],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    lines = "".join(blocks("bash")).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and line[0] != "#"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A newcomer's checkout: the project's files by links, the README's own files beside them."""
    folder = tmp_path_factory.mktemp("readme")
    for path in ROOT.iterdir():
        if path.name not in ("runs", ".git", ".pytest_cache"):
            (folder / path.name).symlink_to(path)
    for block in [*blocks("python"), *blocks("gin")]:
        name = re.match(r"# (\S+)\n", block).group(1)
        (folder / name).write_text(block)
    generator = np.random.default_rng(0)
    for name, rows in (("train.tsv", 64), ("dev.tsv", 8)):
        lines = [
            f"{'lovely' if label else 'awful'} thing number {i}\t{label}"
            for i, label in enumerate(generator.integers(0, 2, rows))
        ]
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def run(command: str, folder: pathlib.Path) -> subprocess.CompletedProcess:
    start = next((s for s in sorted(SHORTER, key=len, reverse=True) if command.startswith(s)), None)
    assert start is not None, f"say in SHORTER how to run: {command}"
    extra = [f'"{argument.format(tmp=folder / "tmp")}"' for argument in SHORTER[start]]
    text = " ".join([command.replace("/tmp/", f"{folder}/tmp/"), *extra])
    text = re.sub(r"^python\b", sys.executable, text)
    # The scripts make .venv where there is none: the tests' own environment stands in for it.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(folder)}
    ended = subprocess.run(
        ["bash", "-c", text], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, f"{text}\n{ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
    return ended


def marked(command: str):
    """Whole runs and studies are `slow`, what compiles without one, and what lists tasks."""
    parts = (
        "mtl_t5x.tasks ",
        "/tmp/glue",
        "/tmp/reviews",
        "local_cpu",
        "mtl_t5x.study",
        "mtl_t5x.report",
        "/tmp/dry",
    )
    slow = any(part in command for part in parts)
    compiler = "--topology" in command
    marks = [pytest.mark.slow] * slow + [pytest.mark.tpu_compiler] * compiler
    return pytest.param(command, marks=marks)


# In the README's order: the report is of the study before it.
@pytest.mark.parametrize("command", [marked(command) for command in commands()])
def test_command(command, folder):
    if command.startswith("bash") and not (ROOT / ".venv/installed-test").exists():
        pytest.skip("the launch scripts would install an environment: start the tests by them")
    again = "mtl_t5x.study" in command and "--workdir=/tmp/study" in command
    if again and (folder / "tmp/local_cpu").exists():
        # The same study, which now finds its runs finished.
        shutil.copytree(folder / "tmp/local_cpu", folder / "tmp/study")
    ended = run(command, folder)
    if "local_cpu" in command:
        assert "report.html" in ended.stdout
        assert (folder / "tmp/local_cpu/report/report.html").stat().st_size > 10_000
    if "my_run" in command:
        text = (folder / "tmp/reviews/metrics.jsonl").read_text()
        assert "grad_norm/encoder/reviews" in text and '"conflict/encoder/directional"' in text
        assert '"reviews"' in (folder / "tmp/reviews/results.json").read_text()


@pytest.mark.slow
def test_prompts_of_ones_own(folder):
    code = (
        "import my_prompts, seqio; from mtl_t5x.tasks.glue import glue; glue.register();"
        "task = seqio.get_mixture_or_task('glue_cola.short.yes_no');"
        "example = next(task.get_dataset(None, 'test', shuffle=False).as_numpy_iterator());"
        "print(example['inputs_pretokenized'].decode(), example['targets_pretokenized'].decode())"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert re.match(r"grammatical\? .* (no|yes)$", ended.stdout.strip().splitlines()[-1])


def test_pictures_are_there():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).is_file(), path
