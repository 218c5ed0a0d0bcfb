"""Compiled programs are kept where the user says, else in the user's cache folder, and a process
drops its own before it has too many."""

import gc
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from mtl_t5x.runtime import compiled


@pytest.fixture
def folder():
    """What JAX is set to, which is as it was afterwards."""
    before = jax.config.jax_compilation_cache_dir
    yield lambda: jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", before)


def test_in_the_users_cache_folder(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    compiled.keep_programs()
    assert folder().startswith(f"{tmp_path}/mtl_t5x/compiled/")


def test_where_the_user_says(folder):
    jax.config.update("jax_compilation_cache_dir", "elsewhere")
    compiled.keep_programs()
    assert folder() == "elsewhere"


def test_a_program_that_is_not_kept(folder, tmp_path):
    """Nor is it once JAX has used its cache, which it remembers."""
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    compilation_cache.reset_cache()
    try:
        jax.jit(lambda x: x * 2).lower(1.0).compile()
        kept = set(tmp_path.iterdir())
        with compiled.keeping_none():
            jax.jit(lambda x: x * 3).lower(1.0).compile()
        assert kept and set(tmp_path.iterdir()) == kept
        jax.jit(lambda x: x * 4).lower(1.0).compile()
        assert set(tmp_path.iterdir()) > kept
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
        compilation_cache.reset_cache()


def _maps() -> int:
    return pathlib.Path("/proc/self/maps").read_bytes().count(b"\n")


@pytest.mark.skipif(not pathlib.Path("/proc/self/maps").exists(), reason="no kernel that tells")
@pytest.mark.parametrize("allowed, dropped", ((3, False), (1.5, True)))
def test_programs_are_dropped_before_the_kernel_gives_no_more_maps(
    monkeypatch, tmp_path, allowed, dropped
):
    jax.clear_caches()
    gc.collect()
    before = _maps()
    programs = [jax.jit(lambda x, i=i: jnp.sort(x) * i) for i in range(20)]
    for program in programs:
        program(jnp.arange(8.0))
    after = _maps()
    assert after >= before + 3 * len(programs)
    most = tmp_path / "max_map_count"
    most.write_text(f"{int(after * allowed)}\n")
    monkeypatch.setattr(compiled, "_MOST_MAPS", most)
    compiled.make_room()
    gc.collect()
    assert (_maps() < after - 2 * len(programs)) == dropped
    assert programs[3](jnp.asarray([2.0, 1.0])).tolist() == [3.0, 6.0]


def test_a_kernel_that_does_not_tell_its_limit(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "_MOST_MAPS", tmp_path / "none")
    monkeypatch.setattr(jax, "clear_caches", lambda: pytest.fail("dropped"))
    compiled.make_room()
