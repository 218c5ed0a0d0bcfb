"""The launch scripts: shellcheck accepts them and what they print, and it is what was asked for."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "launch").glob("*.sh"))
RUNNABLE = [name for name in SCRIPTS if name != "environment.sh"]
DRY_RUNS = {
    "tpu": "tpu_pod.sh --name=n --zone=z --project=p --delete",
    "spot": "tpu_pod.sh --name=n --zone=z --project=p --spot --delete",
    "reserved": "tpu_pod.sh --name=n --zone=z --type=v4-8 --version=v2-alpha-tpuv4 --reserved",
    "queued": "tpu_pod.sh --name=n --zone=z --queued",
    "gpu": "gpu.sh",
    "slurm": "gpu.sh --slurm --nodes=2 --gpus-per-node=4 --partition=q",
    "array": "study.sh --config=c.py --workdir=w --shares=3",
    "local array": "study.sh --config=c.py --workdir=w --shares=3 --local",
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


RUN = ("tar ", "scp ", "rm ", "install", "mtl_t5x.main", "mkdir", "cat")


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("tpu", ("tpu-vm create n", *RUN, "tpu-vm delete n")),
        ("spot", ("queued-resources create n", "ACTIVE", *RUN, "queued-resources delete n")),
        ("reserved", ("queued-resources create n", "ACTIVE", *RUN)),
        ("queued", ("queued-resources create n", "ACTIVE", *RUN)),
    ],
)
def test_tpu_pod(kind, steps):
    lines = dry_run(kind).splitlines()
    assert len(lines) == len(steps)
    for line, step in zip(lines, steps):
        assert step in line
    (main,) = arguments_with(kind, "mtl_t5x.main")
    remote = shlex.split(main[-1].removeprefix("--command="))
    assert FLAG in remote, "the flag comes through both shells as it was given"


def test_how_a_slice_is_asked_for():
    (create,) = arguments_with("tpu", " create ")
    assert {"--version=v2-alpha-tpuv5-lite", "--zone=z", "--project=p"} <= set(create)
    (create,) = arguments_with("spot", " create ")
    assert {"--spot", "--node-id=n", "--zone=z", "--project=p"} <= set(create)
    (create,) = arguments_with("reserved", " create ")
    wanted = {"--reserved", "--accelerator-type=v4-8", "--runtime-version=v2-alpha-tpuv4"}
    assert wanted <= set(create) and "--spot" not in create
    (create,) = arguments_with("queued", " create ")
    assert not {"--spot", "--reserved"} & set(create)
    (delete,) = arguments_with("spot", " delete ")
    assert {"--force", "--quiet", "--zone=z"} <= set(delete)


# Says what state a queued resource is in, another each time, and notes what else it is asked to do.
GCLOUD = """
case "$4 $3" in
  "describe queued-resources")
    read -r state < states || exit 1
    sed 1d states > rest; mv rest states
    [ "$state" != none ] && echo "$state" ;;
  "describe tpu-vm") [ -e slice ] ;;
  *) echo "$3 $4 $5" >> calls ;;
esac"""
CREATE, DELETE = "queued-resources create n", "queued-resources delete n"
TRAIN = ["tpu-vm scp archive"] + 3 * ["tpu-vm ssh n"]


def pod(
    folder: pathlib.Path, flags: str, states: str = "", slice_there: bool = False
) -> tuple[subprocess.CompletedProcess, list[str]]:
    """The script against a Google Cloud whose queued resource goes through these states."""
    shutil.copytree(ROOT / "launch", folder / "launch")
    (folder / "states").write_text("".join(f"{state}\n" for state in states.split()))
    (folder / "calls").touch()
    if slice_there:
        (folder / "slice").touch()
    environment = programs(
        folder, gcloud=GCLOUD, sleep="", tar="", mktemp="echo archive", date="echo 12:00"
    )
    ended = subprocess.run(
        ["bash", "launch/tpu_pod.sh", "--name=n", "--zone=z", *flags.split()],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    calls = (folder / "calls").read_text().replace(".tar.gz", "").splitlines()
    return ended, calls


@pytest.mark.parametrize(
    ("flags", "states", "calls"),
    [
        ("--spot x", "none WAITING_FOR_RESOURCES PROVISIONING ACTIVE", [CREATE, *TRAIN]),
        ("--spot x", "ACTIVE ACTIVE", TRAIN),
        ("--spot x", "PROVISIONING PROVISIONING ACTIVE", TRAIN),
        ("--spot x", "SUSPENDED PROVISIONING ACTIVE", [DELETE, CREATE, *TRAIN]),
        ("--reserved x", "FAILED ACTIVE", [DELETE, CREATE, *TRAIN]),
        ("--spot --delete x", "none ACTIVE", [CREATE, *TRAIN, DELETE]),
        ("--spot --delete", "", [DELETE]),
        ("--delete", "ACTIVE", [DELETE]),
        ("--delete", "", ["tpu-vm delete n"]),
        ("x", "", ["tpu-vm create n", *TRAIN]),
    ],
)
def test_slices_by_queued_resources(flags, states, calls, tmp_path):
    ended, made = pod(tmp_path, flags, states)
    assert ended.returncode == 0, ended.stderr
    assert made == calls
    for state in ("WAITING_FOR_RESOURCES", "PROVISIONING"):
        assert (state in ended.stdout) == (state in states)


def test_a_slice_that_is_there_is_taken(tmp_path):
    ended, made = pod(tmp_path, "--spot x", slice_there=True)
    assert ended.returncode == 0 and made == TRAIN


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
@pytest.mark.parametrize("delete", ["", "--delete "])
def test_a_queued_resource_that_comes_to_nothing_is_named(state, delete, tmp_path):
    ended, made = pod(tmp_path, f"{delete}--spot x", f"none PROVISIONING {state}")
    assert ended.returncode == 1
    assert f"n is {state}" in ended.stderr
    assert made == [CREATE, *([DELETE] if delete else [])]


@pytest.mark.parametrize("kind", ["gpu", "slurm"])
def test_gpu(kind):
    lines = [line for line in dry_run(kind).splitlines() if "mtl_t5x.main" in line]
    assert len(lines) == 1 and FLAG in shlex.split(lines[0])
    if kind == "slurm":
        batch = dry_run(kind)
        for option in ("--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--partition=q"):
            assert f"#SBATCH {option}\n" in batch


def batch_script(kind: str) -> str:
    return dry_run(kind).partition("<<'BATCH'\n")[2].partition("BATCH\n")[0]


def programs(folder: pathlib.Path, **bodies: str) -> dict[str, str]:
    """An environment in which these programs, shell scripts, come before the machine's own."""
    for name, body in bodies.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)}


JOBS = {
    "slurm": ({"SLURM_JOB_ID": "7"}, "7"),
    # The number of one of the array's tasks is the whole array's number.
    "array": (
        {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"},
        "7_2",
    ),
}
CODES = [
    (0, 0, False), (1, 0, False), (2, 0, False), (42, 9, True), (43, 0, True), (134, 4, True),
    (137, 0, True), (142, 0, True), (143, 0, True), (43, 5, False), (134, 5, False),
    (143, 5, False),
]  # fmt: skip


@pytest.mark.parametrize("kind", JOBS)
@pytest.mark.parametrize(("code", "restarts", "again"), CODES)
def test_what_slurm_starts_again(kind, code, restarts, again, tmp_path):
    job, name = JOBS[kind]
    environment = {
        **programs(tmp_path, srun=f"exit {code}", scontrol='echo "$@"'),
        "SLURM_RESTART_COUNT": str(restarts),
        **job,
    }
    ended = subprocess.run(
        ["bash", "-c", batch_script(kind)], env=environment, capture_output=True, text=True
    )
    assert ended.returncode == code
    assert ended.stdout == (f"requeue {name}\n" if again else "")


@pytest.mark.parametrize("kind", JOBS)
def test_slurm_tells_the_program_before_the_time_is_over(kind):
    """SIGTERM goes to what srun started; with B: it would go to the script alone."""
    batch = batch_script(kind)
    shellcheck("--shell=bash", "-", text=batch)
    for option in ("--signal=TERM@120", "--requeue", "--open-mode=append"):
        assert f"#SBATCH {option}\n" in batch
    (program,) = [line for line in batch.splitlines() if "-m mtl_t5x." in line]
    assert program.startswith("srun ")


def test_an_array_job_takes_its_share():
    batch = batch_script("array")
    assert "#SBATCH --array=0-2\n" in batch
    (line,) = [line for line in batch.splitlines() if "mtl_t5x.study" in line]
    assert FLAG in shlex.split(line)
    assert '--index="$SLURM_ARRAY_TASK_ID" --count=3' in line


@pytest.mark.parametrize("kind", ["array", "local array"])
def test_the_report_comes_last(kind):
    assert "-m mtl_t5x.report" in dry_run(kind).splitlines()[-1]
    assert dry_run(kind).count("-m mtl_t5x.report") == 1


def test_local_shares():
    shares = arguments_with("local array", "-m mtl_t5x.study")
    assert [share[-2:] for share in shares] == [[f"--index={i}", "--count=3"] for i in range(3)]
    assert all(FLAG in share for share in shares)


def checkout(folder: pathlib.Path) -> None:
    """The launch scripts, and a .venv in which they find nothing to be installed."""
    shutil.copytree(ROOT / "launch", folder / "launch")
    (folder / ".venv/bin").mkdir(parents=True)
    for name in ("setup.py", "constraints.txt", ".venv/installed"):
        (folder / name).touch()
    programs(folder / ".venv/bin", python="exit 9")


def test_the_report_waits_for_the_array(tmp_path):
    checkout(tmp_path)
    environment = programs(
        tmp_path,
        sbatch='echo "$@" >> calls; case $1 in --parsable) cat > script; echo "7;cluster" ;; esac',
    )
    study = ["launch/study.sh", "--config=c.py", "--workdir=w", "--shares=3"]
    subprocess.run(["bash", *study], cwd=tmp_path, env=environment, check=True)
    array, report = (tmp_path / "calls").read_text().splitlines()
    assert array == "--parsable" and "--dependency=afterany:7 " in report
    assert "--array=0-2" in (tmp_path / "script").read_text()


@pytest.mark.parametrize(
    ("code", "begun"), [(0, "0 1 2 report"), (1, "0 1 2 report"), (2, "0"), (42, "0"), (43, "0")]
)
def test_local_shares_stop_where_one_was_told_to(code, begun, tmp_path):
    """Only runs that failed, code 1, leave the other shares to be done."""
    checkout(tmp_path)
    body = f"""
case "$*" in
  *mtl_t5x.report*) echo report ;;
  *) for a; do case $a in --index=*) echo "${{a#*=}}" ;; esac; done; exit {code} ;;
esac"""
    programs(tmp_path / ".venv/bin", python=body)
    study = ["launch/study.sh", "--config=c.py", "--workdir=w", "--shares=3", "--local"]
    ended = subprocess.run(["bash", *study], cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout.split() == begun.split(), ended.stderr
    assert ended.returncode == code


SAVES = """
case "$*" in
  *mtl_t5x.report*) echo report ;;
  *--index=0*)
    trap "sleep 0.3; echo saved; exit CODE" TERM
    echo begun > begun
    while true; do sleep 0.05; done ;;
  *) echo another share ;;
esac"""


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["the shell", "all"])
@pytest.mark.parametrize("code", [42, 0])
def test_local_shares_pass_on_that_they_are_to_stop(code, send, tmp_path):
    """The shell alone hears of it, or both do: it waits for the study, and starts no other."""
    checkout(tmp_path)
    programs(tmp_path / ".venv/bin", python=SAVES.replace("CODE", str(code)))
    study = ["launch/study.sh", "--config=c.py", "--workdir=w", "--shares=2", "--local"]
    process = subprocess.Popen(
        ["bash", *study], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.02)
    send(process.pid, signal.SIGTERM)
    assert process.communicate(timeout=30)[0].split() == ["saved"]
    assert process.returncode == 42


def test_a_share_takes_runs_at_a_time():
    ended = run("launch/study.sh", *["--config=c.py", "--workdir=w", "--jobs=2", "--dry-run"])
    (share,) = [line for line in ended.stdout.splitlines() if "mtl_t5x.study" in line]
    assert "--jobs=2" in share and "--count=8" in share


@pytest.mark.parametrize("script", ["tpu_pod.sh", "study.sh"])
def test_what_must_be_given(script):
    ended = run(f"launch/{script}")
    assert ended.returncode == 2 and "--help says more" in ended.stderr
