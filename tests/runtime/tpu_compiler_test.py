"""The TPU's compiler is asked for more, and for what the user asks for."""

import pytest

from mtl_t5x.runtime import tpu_compiler

OURS = "--xla_tpu_multioutput_fusion_max_operands=128"


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        (None, OURS),
        ("--xla_tpu_other=1", f"--xla_tpu_other=1 {OURS}"),
        ("--xla_tpu_multioutput_fusion_max_operands=9", None),
    ],
)
def test_flags_are_added_to_the_users(there, expected, monkeypatch):
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    if there is not None:
        monkeypatch.setenv("LIBTPU_INIT_ARGS", there)
    for _ in range(2):  # asked again, it adds nothing
        tpu_compiler.ask()
        assert tpu_compiler.asked_for() == (expected or there)
