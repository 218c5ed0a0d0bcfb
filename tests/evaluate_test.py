"""Scores from the token cache are those of SeqIO's own reading."""

import functools
import json

import numpy as np
import pytest
import seqio

from mtl_t5x import evaluate
from mtl_t5x.data import lookup, tokens
from mtl_t5x.runtime import progress
from mtl_t5x.tasks import sources
from mtl_t5x.tasks.decanlp import decanlp
from mtl_t5x.tasks.glue import glue

LENGTHS = {"inputs": 32, "targets": 8}


def guess(inputs):
    """Some tokens of the inputs: right for a few, wrong or no answer for most."""
    return np.concatenate([inputs[:, 2:5], np.ones((len(inputs), 1), np.int32)], axis=1)


def scored(task, stored, folder):
    folder.mkdir()
    loggers = {"logger_cls": [seqio.JSONLogger], "log_dir": str(folder)}
    with progress.bar("evaluating", None, "example") as shown:
        predict = functools.partial(evaluate.predictions, guess, 16, np.asarray, shown)
        metrics = evaluate._score(task, stored, "test", LENGTHS, predict, 7, loggers)
    lines = (folder / f"{task.name}-000007.jsonl").read_text().splitlines()
    return metrics, [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    "name",
    [
        "glue_stsb.default.semantic",
        "glue_rte.diverse.semantic",
        "decanlp_squad.default.semantic",
        "decanlp_woz.default.semantic",
    ],
)
def test_scores_and_predictions_are_seqios(name, tmp_path):
    glue.register()
    decanlp.register()
    (task,) = lookup.find_tasks(name)
    stored = tokens.examples(task, "test", LENGTHS)
    expected = scored(task, None, tmp_path / "seqio")
    found = scored(task, stored, tmp_path / "stored")
    assert found == expected
    assert len(found[1]) == len(stored)
    assert seqio.TaskRegistry.get(name) is task


def test_what_is_stored_is_not_read_again(tmp_path, monkeypatch):
    glue.register()
    (task,) = lookup.find_tasks("glue_cola.default.semantic")
    stored = tokens.examples(task, "test", LENGTHS)
    monkeypatch.setattr(sources.RowsSource, "get_dataset", None)
    metrics, lines = scored(task, stored, tmp_path / "stored")
    assert len(lines) == len(stored) and "matthews_corrcoef" in metrics


def test_the_registry_is_as_before_after_an_error():
    glue.register()
    (task,) = lookup.find_tasks("glue_cola.default.semantic")
    other = task.replace(preprocessors=[])
    with pytest.raises(KeyError), lookup.registered_as(other):
        assert seqio.TaskRegistry.get(task.name) is other
        raise KeyError
    assert seqio.TaskRegistry.get(task.name) is task


def test_progress_counts_examples(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SHOWN_AFTER", 0.0)
    glue.register()
    (task,) = lookup.find_tasks("glue_cola.default.semantic")
    stored = tokens.examples(task, "test", LENGTHS)
    dataset = evaluate.features.StoredInputs(stored.inputs(32))(None, {}).enumerate()
    with progress.bar("evaluating test", len(stored), "example") as shown:
        predicted = evaluate.predictions(guess, 16, np.asarray, shown, dataset)
        assert shown.n == len(stored) == len(predicted)
    assert "evaluating test" in capsys.readouterr().err
    monkeypatch.setattr(progress.jax, "process_index", lambda: 1)
    with progress.bar("evaluating test", len(stored), "example") as shown:
        shown.update(5)
    assert not capsys.readouterr().err
