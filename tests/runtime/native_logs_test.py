"""A program that was kept is loaded without a word."""

import os
import subprocess
import sys

PROGRAM = """
import sys
from mtl_t5x.runtime import native_logs
native_logs.quiet()
import jax, jax.numpy as jnp
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.jit(lambda x: jnp.sin(x @ x).sum())(jnp.ones((8, 8))))
"""


def test_programs_that_were_kept_are_loaded_without_a_word(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    for _ in range(2):
        ended = subprocess.run(
            command, check=True, capture_output=True, text=True,
            env={**environment, "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
    assert list(tmp_path.iterdir())
    assert ended.stderr == ""
