"""What the TPU's compiler is asked for beside its own defaults."""

from __future__ import annotations

import os

_ARGUMENTS = "LIBTPU_INIT_ARGS"
# A fusion may have as many operands and results as the tasks' sum and inner products are together,
# so that they are one pass over the gradients (`conflict.metrics.gram_matrix`). A libtpu that knows
# no such flag wouldn't start: 0.0.20 to 0.0.52 do.
_FLAGS = {"xla_tpu_multioutput_fusion_max_operands": "128"}


def ask() -> None:
    """Adds the flags to the environment, but for those that are there; to be called before libtpu
    is loaded, which reads them then."""
    there = os.environ.get(_ARGUMENTS, "")
    added = [f"--{name}={value}" for name, value in _FLAGS.items() if name not in there]
    os.environ[_ARGUMENTS] = " ".join([there, *added]).strip()


def asked_for() -> str:
    """All flags that the compiler is given, the user's too."""
    return os.environ.get(_ARGUMENTS, "")
