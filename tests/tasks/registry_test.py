"""Registration anew."""

import seqio

from mtl_t5x.data import lookup
from mtl_t5x.tasks.glue import glue


def test_replace_keeps_what_others_registered():
    task = lookup.find("glue_cola.default.semantic")
    seqio.TaskRegistry.add_provider("glue_cola.of.a_user", task)
    try:
        glue.register()
        assert lookup.find("glue_cola.default.semantic") is task, "equal settings change nothing"
        glue.register(vocabulary_path="bytes")
        assert lookup.find("glue_cola.of.a_user") is task
        assert lookup.find("glue_cola.default.semantic") is not task
    finally:
        glue.register()
        seqio.TaskRegistry.remove("glue_cola.of.a_user")
