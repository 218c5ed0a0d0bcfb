"""A fingerprint changes with all that tokens depend on, and with nothing else."""

import functools
import importlib
import subprocess
import sys
import types

import numpy as np
import pytest
import seqio
import tensorflow as tf

from mtl_t5x.data import building, fingerprint, lookup
from mtl_t5x.tasks import preprocessors, prompts, sources, vocabularies
from mtl_t5x.tasks.glue import glue

LENGTHS = {"inputs": 24, "targets": 4}


def of(*steps, rows=("one",), vocabulary="bytes", split="train", lengths=LENGTHS, **options):
    feature = seqio.Feature(vocabularies.load(vocabulary), **{"add_eos": True, **options})
    source = sources.rows_source(lambda _: [{"text": row} for row in rows], ["train", "test"])
    task = seqio.Task("a", source, {"inputs": feature, "targets": feature}, steps)
    return fingerprint.of_split(task, split, lengths, building.build)


def prompted(text="{text}", answers=("a", "b")):
    template = prompts.Template(text)
    return preprocessors.prompt_preprocessor([template], preprocessors.class_words([answers]))


def test_it_is_the_same_for_the_same():
    assert of(prompted()) == of(prompted())
    assert len(of(prompted())) == 32


@pytest.mark.slow
def test_it_is_the_same_in_another_process():
    name = "glue_cola.diverse.semantic"
    code = (
        "from mtl_t5x.data import building, fingerprint, lookup\n"
        "from mtl_t5x.tasks.glue import glue\n"
        f"(task,) = lookup.find_tasks({name!r})\n"
        f"print(fingerprint.of_split(task, 'train', {LENGTHS}, building.build))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    glue.register()
    (task,) = lookup.find_tasks(name)
    here = fingerprint.of_split(task, "train", LENGTHS, building.build)
    assert done.stdout.split()[-1] == here


@pytest.mark.parametrize(
    "changed",
    [
        lambda: of(prompted("say: {text}")),
        lambda: of(prompted(answers=("a", "c"))),
        lambda: of(prompted(), rows=("two",)),
        lambda: of(prompted(), split="test"),
        lambda: of(prompted(), lengths={**LENGTHS, "inputs": 25}),
        lambda: of(prompted(), vocabulary="mini"),
        lambda: of(prompted(), add_eos=False),
        lambda: of(prompted(), seqio.preprocessors.tokenize),
        lambda: of(functools.partial(prompted(), 1)),
    ],
)
def test_it_changes_with(changed):
    assert changed() != of(prompted())


def test_every_variant_of_glue_has_its_own():
    glue.register()
    tasks = [
        task
        for prompt in prompts.PROMPTS["glue"]
        for labels in prompts.LABELS["glue"]
        for task in lookup.find_tasks(f"glue.{prompt}.{labels}")
        if task.name.startswith("glue_rte")
    ]
    found = {fingerprint.of_split(task, "test", LENGTHS, building.build) for task in tasks}
    assert len(found) == len(tasks) > 3


MODULE = """
import re
import {other}

WORDS = {{"a": 1}}
PATTERN = re.compile("x")

def help_with(text):
    return text + "{helped}"

def step(dataset):
    return dataset.map(lambda one: help_with(one) + {other}.more(one) + str(WORDS))

class Step:
    def __init__(self, number):
        self.number = number
    def __call__(self, dataset):
        return dataset.map(lambda one: one * {factor})
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def load(helped="!", more="one", factor=2) -> types.ModuleType:
        text = MODULE.format(other="its_other", helped=helped, factor=factor)
        (tmp_path / "its_steps.py").write_text(text)
        (tmp_path / "its_other.py").write_text(f"def more(one):\n    return {more}\n")
        for name in ("its_steps", "its_other"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("its_steps")

    yield load
    for name in ("its_steps", "its_other"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("change", [{"helped": "?"}, {"more": "one * 2"}, {"factor": 3}])
def test_it_changes_with_code_that_a_step_calls(write, change):
    def steps(module):
        return module.step, module.Step(1)

    first = of(*steps(write()))
    assert of(*steps(write())) == first
    assert of(*steps(write(**change))) != first


def test_it_changes_with_what_code_refers_to(write):
    module = write()
    first = of(module.step)
    module.WORDS["b"] = 2
    assert of(module.step) != first
    assert of(module.Step(1)) != of(module.Step(2))


def test_a_file_that_was_edited_since_it_was_imported(write, tmp_path):
    """What runs is the old code, so neither the old nor the new code's entry will do."""
    module = write()
    first = of(module.step)
    (tmp_path / "its_steps.py").write_text("# another\n" + (tmp_path / "its_steps.py").read_text())
    edited = of(module.step)
    assert edited != first
    del module
    text = (tmp_path / "its_steps.py").read_text().replace('"!"', '"?"')
    (tmp_path / "its_steps.py").write_text(text)
    old = of(sys.modules["its_steps"].step)
    sys.modules.pop("its_steps")
    assert of(importlib.import_module("its_steps").step) != old


def test_files_of_seqios_sources(tmp_path):
    path = tmp_path / "a.txt"
    feature = seqio.Feature(vocabularies.load("bytes"))

    def told():
        source = seqio.TextLineDataSource({"train": str(path)})
        task = seqio.Task("a", source, {"inputs": feature}, [])
        return fingerprint.of_split(task, "train", LENGTHS, building.build)

    path.write_text("one")
    first = told()
    assert told() == first
    path.write_text("two")
    assert told() != first


def test_the_files_of_a_benchmark(tmp_path):
    """They are told by their content, and needn't be read as rows."""
    (tmp_path / "RTE").mkdir()
    path = tmp_path / "RTE" / "dev.tsv"
    glue.register(str(tmp_path))
    try:
        (task,) = lookup.find_tasks("glue_rte.default.semantic")
        found = []
        for text in ("not a", "not b"):
            path.write_text(text)
            found.append(fingerprint.of_split(task, "test", LENGTHS, building.build))
        assert found[0] != found[1]
    finally:
        glue.register()


def test_what_cannot_be_told_raises():
    source = seqio.FunctionDataSource(lambda split, shuffle_files: None, splits=["train"])
    task = seqio.Task("a", source, {}, [])
    with pytest.raises(fingerprint.UntellableError, match="FunctionDataSource"):
        fingerprint.of_split(task, "train", LENGTHS, building.build)
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(["a"], np.array([1], np.int64)), -1
    )
    with pytest.raises(fingerprint.UntellableError):
        of(lambda dataset: dataset.map(table.lookup))


def test_what_is_installed_anywhere_is_a_library(tmp_path, monkeypatch):
    """As by pip's --target; its version stands for its code. A module beside it would be told."""
    for name, installed in (("elsewhere", True), ("own", False)):
        folder = tmp_path / name
        (folder / f"{name}-1.0.dist-info").mkdir(parents=True)
        (folder / f"{name}-1.0.dist-info/METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
        if installed:
            (folder / f"{name}-1.0.dist-info/INSTALLER").write_text("pip\n")
        (folder / f"{name}_module.py").write_text("")
        monkeypatch.syspath_prepend(folder)
        importlib.import_module(f"{name}_module")
    fingerprint._library_folders.cache_clear()
    try:
        assert fingerprint._is_library("elsewhere_module")
        assert not fingerprint._is_library("own_module")
    finally:
        fingerprint._library_folders.cache_clear()
