"""Huge pages are asked for once, unless the user has set how, and only where the kernel listens."""

import os
import subprocess
import sys

import pytest

from mtl_t5x.runtime import huge_pages


def test_what_is_set_besides_stays(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    wanted = "glibc.malloc.check=1:glibc.malloc.hugetlb=1"
    assert huge_pages.environment() == {"GLIBC_TUNABLES": wanted}


@pytest.mark.parametrize("mine", ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=2"))
def test_the_users_own_setting_stays(monkeypatch, mine):
    monkeypatch.setenv("GLIBC_TUNABLES", mine)
    assert huge_pages.environment() == {}


def _started(tmp_path, kernel: str, before: str = "") -> list[str]:
    """What a program prints at each of its starts that asks for huge pages of such a kernel."""
    enabled = tmp_path / "enabled"
    enabled.write_text(kernel)
    program = (
        "import os, pathlib, sys\n"
        "from mtl_t5x.runtime import huge_pages\n"
        "print(os.getpid(), sys.argv[1:], os.environ.get('GLIBC_TUNABLES'), flush=True)\n"
        f"huge_pages._KERNEL = pathlib.Path({str(enabled)!r})\n"
        f"{before}\n"
        "huge_pages.ask_for()\n"
    )
    clean = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", program, "--a=b c"]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_program_starts_again_once_in_its_own_process(tmp_path):
    first, second = _started(tmp_path, "always [madvise] never\n")
    process = first.split()[0]
    assert first == f"{process} ['--a=b c'] None"
    assert second == f"{process} ['--a=b c'] glibc.malloc.hugetlb=1"


@pytest.mark.parametrize("kernel", ("[always] madvise never\n", "always madvise [never]\n"))
def test_where_the_kernel_has_decided_nothing_is_started_again(tmp_path, kernel):
    assert len(_started(tmp_path, kernel)) == 1


def test_a_debugger_keeps_its_program(tmp_path):
    debugged = "sys.settrace(lambda *_: None)"
    assert len(_started(tmp_path, "always [madvise] never\n", debugged)) == 1
    if sys.version_info >= (3, 12):
        debugged = "sys.monitoring.use_tool_id(sys.monitoring.DEBUGGER_ID, 'a debugger')"
        assert len(_started(tmp_path, "always [madvise] never\n", debugged)) == 1


def test_where_the_kernel_has_no_huge_pages_nothing_is_started_again(tmp_path, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(huge_pages, "_KERNEL", tmp_path / "none")
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("started again"))
    huge_pages.ask_for()
