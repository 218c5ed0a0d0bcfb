"""Predictions of every task's split, scored by seqio.Evaluator."""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import seqio
import tensorflow as tf

from mtl_t5x import checkpoints, data, decoding, step as step_lib

logger = logging.getLogger(__name__)

RESULTS = "results.json"
PREDICTIONS = "inference_eval"
Metrics = dict[str, dict[str, float]]


def predictions(
    params: Any,
    dataset: tf.data.Dataset,
    *,
    model: nn.Module,
    batch_size: int,
    max_length: int,
) -> list[tuple[int, list[int]]]:
    """(index, token ids) of every example of an enumerated dataset of model features."""
    decoded = []
    for indices, batch in dataset.batch(batch_size).as_numpy_iterator():
        inputs = batch["encoder_input_tokens"]
        rows = len(inputs)
        # The last batch is filled up, so that one compiled program decodes every batch.
        inputs = np.pad(inputs, ((0, batch_size - rows), (0, 0)), mode="edge")
        tokens = np.asarray(decoding.greedy(params, inputs, model=model, max_length=max_length))
        decoded.extend(zip(indices.tolist(), tokens[:rows].tolist(), strict=True))
    return decoded


def evaluate(
    params: Any,
    tasks: Sequence[seqio.Task],
    *,
    model: nn.Module,
    split: str,
    feature_lengths: data.FeatureLengths,
    batch_size: int,
    output_dir: str,
    step: int,
) -> Metrics:
    """The metrics of every task that has the split, by short task name.

    Beside the task's own metrics: `examples`, and how many had `inputs_cut` or `targets_cut`. Writes
    `<task>-metrics.jsonl`, `<task>-<step>.jsonl` with every prediction, and TensorBoard event files
    to `output_dir`, for splits other than test to a folder of the split's name in it.
    """
    if split != "test":
        output_dir = os.path.join(output_dir, split)
    names = dict(zip((task.name for task in tasks), data.short_names(tasks), strict=True))
    tasks = data.with_split(tasks, split)
    counts = data.check(tasks, split, feature_lengths)
    os.makedirs(output_dir, exist_ok=True)
    converter = seqio.EncDecFeatureConverter(pack=False)
    results = {}
    for task in tasks:
        if not task.metric_fns:
            logger.warning("%s has no metric functions: it isn't evaluated", task.name)
            continue
        evaluator = seqio.Evaluator(
            task.name,
            converter,
            eval_split=split,
            sequence_length=feature_lengths,
            logger_cls=[seqio.JSONLogger, seqio.TensorBoardLogger],
            log_dir=output_dir,
        )
        metrics, _ = evaluator.evaluate(
            compute_metrics=True,
            step=step,
            predict_fn=lambda dataset: predictions(
                params,
                dataset,
                model=model,
                batch_size=batch_size,
                max_length=feature_lengths["targets"],
            ),
        )
        name = names[task.name]
        results[name] = {key: float(value) for key, value in metrics.result()[task.name].items()}
        evaluator.close()
        if (seen := counts.get(name)) is not None:
            results[name]["examples"] = seen.examples
            results[name] |= {f"{feature}_cut": n for feature, n in seen.cut.items()}
    return results


def evaluate_run(
    *,
    model_dir: str,
    model: nn.Module,
    tasks: Sequence[seqio.Task],
    task_feature_lengths: data.FeatureLengths,
    eval_batch_size: int,
) -> dict[str, Any]:
    """Evaluates a run's newest checkpoint on dev and test, and writes its `results.json` anew."""
    names = data.short_names(data.with_split(tasks, "train"))
    state = jax.eval_shape(
        functools.partial(step_lib.init_state, model=model, optimizer=optax.identity()),
        jax.random.key(0),
        data.empty_batch(len(names), task_feature_lengths),
    )
    params, done = checkpoints.restore_params(model_dir, state.params)
    evaluate_split = functools.partial(
        evaluate,
        params,
        tasks,
        model=model,
        feature_lengths=task_feature_lengths,
        batch_size=eval_batch_size,
        output_dir=os.path.join(model_dir, PREDICTIONS),
        step=done,
    )
    return write_results(
        model_dir,
        step=done,
        tasks=names,
        dev=evaluate_split(split="validation"),
        test=evaluate_split(split="test"),
    )


def write_results(model_dir: str, **results: Any) -> dict[str, Any]:
    """Writes `results.json`, whole or not at all: it is what marks a run as finished."""
    path = os.path.join(model_dir, RESULTS)
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(results, file, indent=2)
    os.replace(path + ".new", path)
    return results
