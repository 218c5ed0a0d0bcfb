"""Compiled programs are kept where the user says, else in the user's cache folder."""

import jax
import pytest

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
