"""Programs that were compiled are kept, so that the next process doesn't compile them again, and
dropped where one process has too many of them."""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
import platform
import re
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache

from mtl_t5x.storage import files

_MAPS = pathlib.Path("/proc/self/maps")
_MOST_MAPS = pathlib.Path("/proc/sys/vm/max_map_count")


def keep_programs() -> None:
    """Turns JAX's compilation cache on, in the user's cache folder, if nothing says where it is.

    What takes JAX less than its own limit to compile isn't kept.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(_folder()))


def make_room() -> None:
    """Drops this process's programs where the memory maps are half of what the kernel allows.

    To be called between runs, which may follow each other in a process for as long as one likes.
    XLA's compiler for CPUs takes three maps or more for each piece of a program, a run some
    thousands, and a process that asks for one too many (65,530 by default) dies of a segmentation
    fault. Programs in use stay; those that are wanted again come from the cache on disk.
    """
    if _MAPS.exists() and _MOST_MAPS.exists():
        maps = _MAPS.read_bytes().count(b"\n")
        if maps > int(_MOST_MAPS.read_text()) // 2:
            jax.clear_caches()


@contextlib.contextmanager
def keeping_none() -> Iterator[None]:
    """What is compiled within is neither looked up nor kept: JAX's cache can write programs for
    devices that aren't there, and not read them."""
    before = jax.config.jax_enable_compilation_cache
    _set_caching(False)
    try:
        yield
    finally:
        _set_caching(before)


def _set_caching(on: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", on)
    compilation_cache.reset_cache()  # it remembers whether it is on


def _folder() -> pathlib.Path:
    """Programs for CPUs fit those with the same instructions only: each kind has its folder."""
    cpu = pathlib.Path("/proc/cpuinfo")
    flags = re.search(r"^(flags|Features)\s*:.*$", cpu.read_text() if cpu.exists() else "", re.M)
    kind = f"{platform.machine()} {platform.processor()} {flags and flags.group(0)}"
    return files.user_cache("compiled") / hashlib.sha256(kind.encode()).hexdigest()[:16]
