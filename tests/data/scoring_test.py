"""A fingerprint of scores changes with the task's data and code, those of its metrics too."""

import logging

import pytest
import seqio

from mtl_t5x.data import lookup, scoring
from mtl_t5x.tasks.decanlp import decanlp
from mtl_t5x.tasks.glue import glue

LENGTHS = {"inputs": 32, "targets": 8}
BENCHMARKS = ("glue.default.semantic", "decanlp_all.default.semantic")


@pytest.fixture
def cola() -> seqio.Task:
    glue.register()
    (task,) = lookup.find_tasks("glue_cola.default.semantic")
    return task


def test_every_task_has_its_own():
    glue.register()
    decanlp.register()
    tasks = [task for benchmark in BENCHMARKS for task in lookup.find_tasks(benchmark)]
    found = [
        scoring.fingerprint_of(task, split, LENGTHS)
        for task in tasks
        for split in ("validation", "test")
        if split in task.splits
    ]
    assert None not in found and len(set(found)) == len(found) > 30


def accuracy(targets, predictions):
    return {"accuracy": 100.0}


def first_word(text, **_):
    return text.split()[0]


def but_one(dataset):
    return dataset.skip(1)


@pytest.mark.parametrize(
    "part",
    [
        {"metric_fns": [accuracy]},
        {"postprocess_fn": first_word},
        {"preprocessors": [but_one]},
    ],
    ids=lambda part: next(iter(part)),
)
def test_it_changes_with_a_part_of_the_task(part, cola):
    before = scoring.fingerprint_of(cola, "test", LENGTHS)
    assert scoring.fingerprint_of(cola.replace(name="other"), "test", LENGTHS) == before
    assert scoring.fingerprint_of(cola.replace(**part), "test", LENGTHS) != before


def test_what_cannot_be_told_has_none(cola, caplog):
    class Closed:
        __slots__ = ()

        def __call__(self, targets, predictions):
            return {"accuracy": 0.0}

    task = cola.replace(metric_fns=[Closed()])
    with caplog.at_level(logging.INFO, logger="mtl_t5x"):
        assert scoring.fingerprint_of(task, "test", LENGTHS) is None
    assert "glue_cola.default.semantic test: its scores aren't kept" in caplog.text
