"""Which interpreter the launch scripts take: one that is there and new enough, else uv gets one."""

import pathlib
import shutil
import subprocess

import pytest

from tests.launch_test import checkout, programs

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Fake interpreters and a fake uv, which say what they are asked to do.
PYTHON = """
case "$1 $2" in
  -c*) {suits} ;;
  "-m venv") echo "${{0##*/}} makes $3"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  "-m pip")
    case "$*" in
      *" --target "*" uv") shift $(($# - 2)); {get_uv} ;;
      *--editable*) echo "installs by ${{0#"$PWD/"}}" ;;
    esac ;;
esac"""
UV = """echo "uv $*"; mkdir -p .venv/bin; cp "$NEW" .venv/bin/python; exit {code}"""
OLD = PYTHON.format(suits="exit 1", get_uv="exit 1")
OLD_WITH_PIP = PYTHON.format(suits="exit 1", get_uv='mkdir -p "$1/bin"; cp "$UV" "$1/bin/uv"')
NEW = PYTHON.format(suits="exit 0", get_uv="exit 1")
INSTALLED = "installs by .venv/bin/python"
BY_UV = "uv venv --quiet --seed --python 3.11 .venv"


def install(
    folder: pathlib.Path, fetched: int = 0, python: str | None = None, **bodies: str
) -> subprocess.CompletedProcess:
    """`install` where PATH has these programs, few of the system's, and no other Python.

    `fetched` is the code that a fetched uv ends with, and `python` what PYTHON names.
    """
    checkout(folder)
    shutil.rmtree(folder / ".venv")
    for name in ("programs", "elsewhere", "temporary"):
        (folder / name).mkdir()
    for name in ("bash", "sh", "cp", "dirname", "mkdir", "mktemp", "rm", "touch"):
        (folder / "programs" / name).symlink_to(shutil.which(name))
    programs(folder / "elsewhere", uv=UV.format(code=fetched), new=NEW)
    programs(folder / "programs", **bodies)
    environment = {
        "PATH": str(folder / "programs"),
        "TMPDIR": str(folder / "temporary"),
        "UV": str(folder / "elsewhere/uv"),
        "NEW": str(folder / "elsewhere/new"),
        **({"PYTHON": str(folder / python)} if python else {}),
    }
    ended = subprocess.run(
        ["bash", "-c", ". launch/environment.sh && install"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert not list((folder / "temporary").iterdir())
    return ended


@pytest.mark.parametrize(
    ("there", "maker"),
    [
        ({"python": "elsewhere/new", "python3": OLD}, "new makes .venv"),
        ({"python3": NEW, "uv": UV}, "python3 makes .venv"),
        ({"python3": OLD, "python3.13": NEW}, "python3.13 makes .venv"),
        ({"python3": OLD, "uv": UV.format(code=0)}, BY_UV),
        ({"python3": OLD_WITH_PIP}, BY_UV),
    ],
    ids=["PYTHON", "python3", "python3.13", "uv", "uv by pip"],
)
def test_an_interpreter_is_found_or_fetched(there, maker, tmp_path):
    """TPU VM images have Python 3.10 alone."""
    ended = install(tmp_path, **there)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert maker in lines and lines[-1] == INSTALLED
    assert ("getting one" in ended.stdout) == (maker == BY_UV)


@pytest.mark.parametrize(
    "there",
    [
        {"python": "programs/python3", "python3": OLD_WITH_PIP},
        {"python3": OLD},
        {"python3": OLD_WITH_PIP, "fetched": 2},
        {},
    ],
    ids=["PYTHON too old", "no pip", "no download", "no Python"],
)
def test_without_an_interpreter_one_line_says_what_is_needed(there, tmp_path):
    ended = install(tmp_path, **there)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert "Python 3.11 or newer" in line and "PYTHON=/path/to/python3.11" in line
    assert not (tmp_path / ".venv").exists(), "half an environment would be taken for a whole one"
