"""Finding tasks by name, and errors that suggest the nearest one."""

import pytest
import seqio

from mtl_t5x.data import lookup
from mtl_t5x.tasks.glue import glue


@pytest.fixture(autouse=True)
def registered():
    glue.register()


def test_find():
    assert isinstance(lookup.find("glue_cola.default.semantic"), seqio.Task)
    assert isinstance(lookup.find("glue.default.semantic"), seqio.Mixture)


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
        lookup.find(name)
