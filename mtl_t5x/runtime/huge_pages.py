"""Huge pages for a step's temporary arrays, which are the kernel's anew at every step.

As pages of 4 KiB they take 20 % of T5 small's step on a CPU, and 30 % of the embedded benchmark's
with its eight tasks. glibc asks for huge ones where it is told to when a process starts, not later.
"""

from __future__ import annotations

import os
import pathlib
import sys

_TUNABLE = "glibc.malloc.hugetlb"
_KERNEL = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def environment() -> dict[str, str]:
    """What a process is started with to ask for them; nothing where the user has set how."""
    there = os.environ.get("GLIBC_TUNABLES", "")
    if _TUNABLE in there:
        return {}
    return {"GLIBC_TUNABLES": f"{there}:{_TUNABLE}=1".lstrip(":")}


def ask_for() -> None:
    """Starts this program again, in the same process, where asking for them would change something.

    To be called before anything is done that has an effect outside of it. A kernel that gives them
    to all or to nobody leaves nothing to ask for; a debugger would lose its program.
    """
    asking = environment()
    if asking and not _is_debugged() and _KERNEL.exists() and "[madvise]" in _KERNEL.read_text():
        os.execve(sys.executable, sys.orig_argv, os.environ | asking)


def _is_debugged() -> bool:
    monitoring = getattr(sys, "monitoring", None)  # which debuggers take from Python 3.12 on
    if monitoring is not None and monitoring.get_tool(monitoring.DEBUGGER_ID) is not None:
        return True
    return sys.gettrace() is not None
