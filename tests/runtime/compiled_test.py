"""Compiled programs are kept where the user says, else in the user's cache folder."""

import jax
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
