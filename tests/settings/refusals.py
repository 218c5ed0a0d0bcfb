"""Tries commands of `mtl_t5x.main` that must be refused: JSON in, from names to arguments; and out.

What reads examples or computes numbers fails, which would be told with a traceback.
"""

import contextlib
import io
import json
import sys
import time

import jax
import seqio
from absl.testing import flagsaver

from mtl_t5x import main, step
from mtl_t5x.data import tokens


def fail(*args, **kwargs):
    raise AssertionError("something was read")


def only_shapes(function):
    def called(key, *args, **kwargs):
        assert isinstance(key, jax.core.Tracer), "something was computed"
        return function(key, *args, **kwargs)

    return called


def refused(arguments: list[str]) -> dict:
    # Of this process's own time: others may be busy beside it.
    said, begun, code = io.StringIO(), time.process_time(), None
    with contextlib.redirect_stderr(said), flagsaver.flagsaver():
        try:
            main._main(main._read_flags(main.rewrite_gin_flags(["main", *arguments])))
        except SystemExit as left:
            code = left.code
    lines = said.getvalue().strip().splitlines()
    return {"code": code, "said": lines or [""], "seconds": time.process_time() - begun}


if __name__ == "__main__":
    tokens.examples = seqio.Task.get_dataset = fail
    step.init_state = only_shapes(step.init_state)
    cases = json.load(sys.stdin)
    print(json.dumps({name: refused(arguments) for name, arguments in cases.items()}))
