"""The launch scripts: shellcheck accepts them and what they print, and it is what was asked for."""

import os
import pathlib
import shlex
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "launch").glob("*.sh"))
RUNNABLE = [name for name in SCRIPTS if name != "environment.sh"]
DRY_RUNS = {
    "tpu": "tpu_pod.sh --name=n --zone=z --project=p --spot --delete",
    "gpu": "gpu.sh",
    "slurm": "gpu.sh --slurm --nodes=2 --gpus-per-node=4 --partition=q",
    "array": "study.sh --config=c.py --workdir=w --jobs=3",
    "local array": "study.sh --config=c.py --workdir=w --jobs=3 --local",
}
FLAG = '--gin.MODEL_DIR="gs://bucket/a run"'


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def dry_run(kind: str) -> str:
    script, *arguments = DRY_RUNS[kind].split()
    ended = run(f"launch/{script}", *arguments, "--dry-run", FLAG)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def shellcheck(*arguments: str, text: str | None = None) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    ended = subprocess.run(
        ["shellcheck", *arguments], input=text, cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_accepts(script):
    # SC2119: install takes extras, never the script's own arguments.
    shellcheck("--external-sources", "--exclude=SC2119", f"launch/{script}")


@pytest.mark.parametrize("script", RUNNABLE)
def test_usage(script):
    ended = run(f"launch/{script}", "--help")
    assert ended.returncode == 0 and f"bash launch/{script}" in ended.stdout
    assert "set -e" not in ended.stdout and "#" not in ended.stdout.splitlines()[0]


@pytest.mark.parametrize("kind", DRY_RUNS)
def test_shellcheck_accepts_what_a_dry_run_prints(kind):
    commands = dry_run(kind)
    assert run("-n", "-c", commands).returncode == 0
    # SC2016: what a worker or a job expands stands in single quotes.
    shellcheck("--shell=bash", "--exclude=SC1091,SC2016", "-", text=commands)


def arguments_with(kind: str, text: str) -> list[list[str]]:
    """The commands that a dry run prints, as argument lists, that have `text`."""
    return [shlex.split(line) for line in dry_run(kind).splitlines() if text in line]


def test_tpu_pod():
    lines = dry_run("tpu").splitlines()
    steps = ("create n", "tar ", "scp ", "rm ", "install", "mtl_t5x.main", "mkdir", "cat", "delete")
    assert len(lines) == len(steps)
    for line, step in zip(lines, steps):
        assert step in line
    (create,) = arguments_with("tpu", "create")
    assert {"--spot", "--zone=z", "--project=p"} <= set(create)
    (main,) = arguments_with("tpu", "mtl_t5x.main")
    remote = shlex.split(main[-1].removeprefix("--command="))
    assert FLAG in remote, "the flag comes through both shells as it was given"


@pytest.mark.parametrize("kind", ["gpu", "slurm"])
def test_gpu(kind):
    lines = [line for line in dry_run(kind).splitlines() if "mtl_t5x.main" in line]
    assert len(lines) == 1 and FLAG in shlex.split(lines[0])
    if kind == "slurm":
        batch = dry_run(kind)
        for option in ("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--partition=q"):
            assert f"#SBATCH {option}\n" in batch


@pytest.mark.parametrize(
    ("code", "restarts", "again"),
    [(0, 0, False), (1, 0, False), (42, 9, True), (43, 0, True), (134, 4, True), (134, 5, False)],
)
def test_what_slurm_starts_again(code, restarts, again, tmp_path):
    batch = dry_run("slurm").partition("<<'BATCH'\n")[2].removesuffix("BATCH\n")
    for name, body in (("srun", f"exit {code}"), ("scontrol", 'echo "$@"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "7",
        "SLURM_RESTART_COUNT": str(restarts),
    }
    ended = subprocess.run(["bash", "-c", batch], env=environment, capture_output=True, text=True)
    assert ended.returncode == code
    assert ended.stdout == ("requeue 7\n" if again else "")


@pytest.mark.parametrize("kind", ["array", "local array"])
def test_study(kind):
    shares = arguments_with(kind, "-m mtl_t5x.study")
    assert len(shares) == (3 if "local" in kind else 1)
    if "local" in kind:
        assert [share[-2:] for share in shares] == [[f"--index={i}", "--count=3"] for i in range(3)]
        assert all(FLAG in share for share in shares)
    else:
        assert "--array=0-2" in shares[0]
        assert FLAG in shlex.split(shares[0][-1].removeprefix("--wrap="))
        assert "--index=$SLURM_ARRAY_TASK_ID --count=3" in shares[0][-1]
    assert len(arguments_with(kind, "mtl_t5x.report")) == 1


@pytest.mark.parametrize("script", ["tpu_pod.sh", "study.sh"])
def test_what_must_be_given(script):
    ended = run(f"launch/{script}")
    assert ended.returncode == 2 and "--help says more" in ended.stderr
