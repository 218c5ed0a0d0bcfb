"""Registration anew, and errors that suggest the nearest name."""

import pytest
import seqio

from mtl_t5x.tasks import glue, registry


def test_find():
    assert isinstance(registry.find("glue_cola.default.semantic"), seqio.Task)
    assert isinstance(registry.find("glue.default.semantic"), seqio.Mixture)


@pytest.mark.parametrize(
    "name, message",
    [
        ("glue_colla.default.semantic", "task or benchmark 'glue_colla'.*mean 'glue_cola'"),
        (
            "glue_cola.defualt.semantic",
            "Unknown prompt 'defualt' in 'glue_cola.defualt.semantic'. Did you mean 'default'\\? "
            "Known: default, diverse, null.",
        ),
        (
            "glue.default.letters",
            "Unknown label vocabulary 'letters' in .*Known: distinct_letters, semantic, shared_",
        ),
        ("glue_cola", "Unknown task or mixture 'glue_cola'. Did you mean 'glue_cola"),
        ("zzz", r"Unknown task or mixture 'zzz'\. Known: .*\d+ in all; `python -m mtl_t5x.tasks`"),
    ],
)
def test_unknown_names(name, message):
    with pytest.raises(ValueError, match=message):
        registry.find(name)


def test_replace_keeps_what_others_registered():
    task = registry.find("glue_cola.default.semantic")
    seqio.TaskRegistry.add_provider("glue_cola.of.a_user", task)
    try:
        glue.register()
        assert registry.find("glue_cola.default.semantic") is task, "equal settings change nothing"
        glue.register(vocabulary_path="bytes")
        assert registry.find("glue_cola.of.a_user") is task
        assert registry.find("glue_cola.default.semantic") is not task
    finally:
        glue.register()
        seqio.TaskRegistry.remove("glue_cola.of.a_user")
