"""Scores from the token cache are those of SeqIO's own reading; the loss, and guesses at answers
that are given."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import seqio

from mtl_t5x import evaluate
from mtl_t5x.data import batching, heads, lookup, padding, scoring, tokens
from mtl_t5x.experiment import Experiment
from mtl_t5x.models import architectures, decoding, predicting, teacher_forcing
from mtl_t5x.runtime import interruption, progress
from mtl_t5x.tasks import sources, vocabularies
from mtl_t5x.tasks.decanlp import decanlp
from mtl_t5x.tasks.glue import glue
from tests import random_t5

LENGTHS = {"inputs": 32, "targets": 8}


def guess(inputs, most):
    """Some tokens of the inputs: right for a few, wrong or no answer for most."""
    return np.concatenate([inputs[:, 2:5], np.ones((len(inputs), 1), np.int32)], axis=1)


GUESSING = predicting.Predictor(guess, [LENGTHS["targets"]])


def scored(task, stored, folder):
    folder.mkdir()
    loggers = {"logger_cls": [seqio.JSONLogger], "log_dir": str(folder)}
    with progress.bar("evaluating", None, "example") as shown:
        predict = functools.partial(predicting.of_dataset, GUESSING, 16, np.asarray, shown)
        metrics = scoring.score(task, stored, "test", LENGTHS, predict, 7, loggers)
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


def test_every_example_has_its_own_prediction(monkeypatch):
    """Of batches of alike length, whose last isn't full, and once more where it was cut off."""
    monkeypatch.setitem(padding.STEPS, "encoder_input_tokens", (8, 2))
    rng, widths = np.random.default_rng(0), []
    lengths = rng.integers(1, 33, 50)
    inputs = np.where(np.arange(32) < lengths[:, None], rng.integers(2, 90, (50, 32)), 0)
    short = inputs[:, 0] < 60

    def reversed_inputs(inputs, most):
        widths.append(inputs.shape[1])
        ended = (most == 40) | (inputs[:, :1] < 60)
        return np.concatenate([np.where(ended, inputs[:, ::-1], 9), ended], axis=1)

    dataset = evaluate.features.StoredInputs(inputs.astype(np.int32))(None, {}).enumerate()
    with progress.bar("evaluating test", 50, "example") as shown:
        reverse = predicting.Predictor(reversed_inputs, [4, 40])
        predicted = predicting.of_dataset(reverse, 16, np.asarray, shown, dataset)
        assert shown.n == 50
    assert [index for index, _ in predicted] == list(range(50))
    for (_, ids), row in zip(predicted, inputs):
        assert [i for i in ids if i] == [*(i for i in row[::-1] if i), 1]
    first, again = widths[:4], widths[4:]
    assert first == sorted(first, reverse=True) and first[-1] == 8
    assert len(again) == -(-np.sum(~short) // 16) and again == sorted(again, reverse=True)


def test_progress_counts_examples(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SHOWN_AFTER", 0.0)
    glue.register()
    (task,) = lookup.find_tasks("glue_cola.default.semantic")
    stored = tokens.examples(task, "test", LENGTHS)
    dataset = evaluate.features.StoredInputs(stored.inputs(32))(None, {}).enumerate()
    with progress.bar("evaluating test", len(stored), "example") as shown:
        predicted = predicting.of_dataset(GUESSING, 16, np.asarray, shown, dataset)
        assert shown.n == len(stored) == len(predicted)
    assert "evaluating test" in capsys.readouterr().err
    monkeypatch.setattr(progress.jax, "process_index", lambda: 1)
    with progress.bar("evaluating test", len(stored), "example") as shown:
        shown.update(5)
    assert not capsys.readouterr().err


# With the answers given

FORCED_LENGTHS = {"inputs": 24, "targets": 8}
FORCED = [f"decanlp_{name}.default.semantic" for name in ("sst", "zre", "iwslt")]


def an_experiment(architecture):
    decanlp.register()
    tasks = lookup.find_tasks(FORCED)
    config = dataclasses.replace(random_t5.CONFIG, vocab_size=vocabularies.size("mini"))
    options = {"heads": lookup.heads_of(tasks)} if architecture is architectures.Canonical else {}
    model = architecture(config, **options)
    return Experiment(model, optax.identity(), tasks, FORCED_LENGTHS, batch_size=4)


def random_params(experiment):
    empty = jax.tree.map(jnp.asarray, experiment.empty_batch)
    return random_t5.params_of(experiment.model, 0, empty)


@pytest.mark.parametrize(
    "architecture",
    [
        architectures.TextToText,
        pytest.param(architectures.TextToTextID, marks=pytest.mark.slow),
        pytest.param(architectures.Canonical, marks=pytest.mark.slow),
    ],
)
def test_dev_loss_is_that_of_the_whole_split_at_once(architecture, tmp_path, monkeypatch):
    """Of the model of all tasks, each of which is given the one task's examples, with padding."""
    monkeypatch.setitem(padding.STEPS, "encoder_input_tokens", (8, 2))
    experiment = an_experiment(architecture)
    params = random_params(experiment)
    settings = evaluate.Evaluation(batch_size=48, teacher_forced=True)
    found = evaluate.evaluate(
        params, experiment, settings, split="validation", model_dir=str(tmp_path), step=3
    )
    for i, name in enumerate(experiment.names):
        task = experiment.trained[i]
        examples = batching.whole_split(
            name, task, "validation", FORCED_LENGTHS, with_heads=experiment.with_heads
        )
        assert len(examples["encoder_input_tokens"]) % 48, "the last batch isn't full"
        batch = {n: jnp.stack([value] * len(FORCED)) for n, value in examples.items()}
        expected = jax.jit(experiment.model.apply)({"params": params}, batch)[i]
        assert found[name]["loss"] == pytest.approx(float(expected), rel=1e-5), name
        path = tmp_path / f"inference_eval/validation/{task.name}-metrics.jsonl"
        assert json.loads(path.read_text())["loss"] == pytest.approx(found[name]["loss"])
        forced = any(metric.startswith("teacher_forced_") for metric in found[name])
        assert forced == isinstance(experiment.model.head(i), heads.Decoder)
        headline = next(iter(found[name]))
        assert headline != "loss" and not headline.startswith("teacher_forced_"), "of predictions"


@pytest.mark.slow
def test_what_is_guessed_with_the_answers_given(tmp_path, monkeypatch):
    """Behind the answers, too, up to the first end that is guessed, if there is one."""
    monkeypatch.setitem(padding.STEPS, "decoder_target_tokens", (2, 2))
    experiment = an_experiment(architectures.TextToText)
    params = random_params(experiment)
    kernel = params["decoder"]["logits_dense"]["kernel"]
    params["decoder"]["logits_dense"]["kernel"] = kernel.at[:, 1].multiply(3)  # ends some
    examples = batching.whole_split("sst", experiment.trained[0], "test", FORCED_LENGTHS)
    options = {"model": experiment.model, "batch_size": 64, "place": np.asarray, "guess": True}
    size = len(examples["encoder_input_tokens"])
    with progress.bar("sst with its answers given", size, "example") as shown:
        _, guessed = teacher_forcing.over_examples(params, examples, **options, shown=shown)
        assert shown.n == size and size % 64, "the last batch isn't full"
    given = [jnp.asarray(examples[f"{name}_input_tokens"][None]) for name in ("encoder", "decoder")]
    logits = experiment.model.apply({"params": params}, *given, method="logits")
    whole = np.argmax(logits[0], axis=-1)
    read = np.cumsum(whole == 1, axis=1) - (whole == 1) == 0
    assert read[:, -1].any() and not read[:, -1].all(), "some end, some do not"
    np.testing.assert_array_equal(guessed[read], whole[read])
    # The gold answers with one in four wrong; what is guessed behind an answer's end is not read.
    right = examples["decoder_target_tokens"].copy()
    right[np.cumsum(right == 1, axis=1) - (right == 1) > 0] = 7
    right[::4, 0] = 9
    monkeypatch.setattr(teacher_forcing, "over_examples", lambda *_, **__: (0.0, right))
    found = evaluate.evaluate(
        params, experiment, evaluate.Evaluation(teacher_forced=True), split="test",
        model_dir=str(tmp_path), step=3, only=["sst"],
    )["sst"]  # fmt: skip
    assert found["teacher_forced_accuracy"] == pytest.approx(75, abs=0.5) and found["accuracy"] < 60
    assert "loss" not in found


# Broken off

ALL = [f"{task} {split}" for split in evaluate.SPLITS for task in ("sst", "zre", "iwslt")]


def answered(targets, predictions):
    return {"answered": float(len(predictions))}


def but_one(dataset):
    return dataset.skip(1)


def with_more(zre, functions, one):
    """ZRE with one more of its functions, as after an edit of somebody's code."""
    return zre.replace(**{functions: [*getattr(zre, functions), one]})


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, ["iwslt test"]),
        pytest.param({"step": 4}, ALL, marks=pytest.mark.slow),
        pytest.param({"search": decoding.Search(beams=2)}, ALL, marks=pytest.mark.slow),
        pytest.param({"lengths": {"inputs": 24, "targets": 9}}, ALL, marks=pytest.mark.slow),
        pytest.param({"weight": 1e-3}, ALL, marks=pytest.mark.slow),
        ({"zre": ("metric_fns", answered)}, ["zre validation", "zre test", "iwslt test"]),
        ({"zre": ("preprocessors", but_one)}, ["zre validation", "zre test", "iwslt test"]),
    ],
    ids=["as it was", "step", "beams", "lengths", "parameters", "metrics", "examples"],
)
def test_an_evaluation_that_is_broken_off_goes_on(change, again, tmp_path, monkeypatch):
    """With the first task that wasn't finished; with the first of all after another setting."""
    experiment = an_experiment(architectures.TextToText)
    params = random_params(experiment)
    scored, original = [], scoring.score

    def score(task, stored, split, *args):
        if len(scored) == break_at:
            raise interruption.Terminated
        scored.append(f"{task.name.split('_')[1].split('.')[0]} {split}")
        return original(task, stored, split, *args)

    def evaluated(folder, *, step=3, search=None, lengths=FORCED_LENGTHS, weight=0.0, zre=None):
        settings = evaluate.Evaluation(search=search or decoding.Search())
        tasks = [
            with_more(task, *zre) if zre and "zre" in task.name else task
            for task in experiment.tasks
        ]
        changed = dataclasses.replace(experiment, tasks=tuple(tasks), task_feature_lengths=lengths)
        trained = jax.tree.map(lambda array: array + weight, params)
        return evaluate.dev_and_test(
            trained, changed, settings, model_dir=str(tmp_path / folder), step=step, layout=None
        )

    monkeypatch.setattr(scoring, "score", score)
    break_at = 5
    with pytest.raises(interruption.Terminated):
        evaluated("broken")
    assert scored == ALL[:5]
    break_at = None
    scored.clear()
    found = evaluated("broken", **change)
    assert scored == again
    assert found == evaluated("whole", **change)
    folder = tmp_path / "broken" / evaluate.PREDICTIONS
    of_whole = tmp_path / "whole" / evaluate.PREDICTIONS
    for path in of_whole.glob("**/*.jsonl"):
        assert (folder / path.relative_to(of_whole)).read_text().endswith(path.read_text()), path
    scored.clear()
    found |= {"step": 3, "tasks": list(experiment.names)}
    evaluate.write_results(tmp_path / "results.json", found, folder)
    assert json.loads((tmp_path / "results.json").read_text()) == found
    evaluated("broken", **change)
    assert scored == ALL, "the results are written, and it begins anew"
