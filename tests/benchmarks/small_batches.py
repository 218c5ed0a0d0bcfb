"""Do small batches show the conflict of large ones? Unbiased and naive figures against the truth.

python tests/benchmarks/small_batches.py [--repetitions=100] [--steps=128] [--trained=0]

A mini model stands still, at its start or after some steps of training. 1,024 examples of each
GLUE task of the embedded benchmark are all there is; the truth is the conflict over all of them. A
repetition draws batches of 8 a task from them, with replacement, `steps` times, and states 95 %
intervals: unbiased, from the halves of the batches (`conflict_estimates`), and naive, from the mean
of the batches' own figures. Counted is how often they hold the truth. Every example's gradient is
computed once; the Gram matrix of any batch then is a sum over that of the examples. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
import workbench

from mtl_t5x import step
from mtl_t5x.conflict import estimates
from mtl_t5x.data import batching, features, lookup
from mtl_t5x.gradients import one_pass
from mtl_t5x.models import architectures
from mtl_t5x.tasks.glue import glue

EXAMPLES, BATCH = 1024, 8
LENGTHS = {"inputs": 64, "targets": 8}


def fixed_model(tasks, trained: int):
    """(model, parameters after `trained` steps)."""
    model = architectures.TextToText(workbench.CONFIGS["mini"])
    state = step.init_state(
        jax.random.key(0),
        features.empty_batch(lookup.short_names(tasks), LENGTHS),
        model=model,
        optimizer=step.adamw(2e-3, 20, 10_000),
    )
    batches = batching.train_batches(tasks, LENGTHS, 16, seed=1)
    for _, batch in zip(range(trained), batches):
        state, _ = step.train_step(state, batch, jax.random.key(1))
    return model, state.params


def example_gradients(model, params, batch) -> tuple[np.ndarray, np.ndarray]:
    """(encoder gradient of each example's summed token losses [task * example, n], tokens)."""
    flat = {name: value.reshape(-1, 1, *value.shape[2:]) for name, value in batch.items()}
    piece = 128

    @jax.jit
    def rows(params, batch):
        def loss_fn(params, given):  # every example is a task of its own
            return model.apply({"params": params, "probes": given}, batch), None

        _, _, by_name = one_pass.per_task_gradients(loss_fn, params, piece, one_pass.ENCODER)
        tokens = batch["decoder_loss_weights"].sum((1, 2))
        joined = jnp.concatenate([a.reshape(piece, -1) for a in by_name.values()], axis=1)
        return joined * tokens[:, None], tokens

    parts = [
        jax.device_get(rows(params, {name: value[i : i + piece] for name, value in flat.items()}))
        for i in range(0, len(flat["encoder_input_tokens"]), piece)
    ]
    return np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])


def batch_grams(gram, tokens, tasks: int, steps: int, rng):
    """(Gram matrices of the halves [step, 2 task, 2 task], tokens [step, task]) of batches."""
    drawn = rng.integers(0, EXAMPLES, (steps, tasks, BATCH)) + EXAMPLES * np.arange(tasks)[:, None]
    weights = tokens[drawn].sum(-1).astype(float)
    halves = np.empty((steps, 2 * tasks, 2 * tasks))
    for t, rows in enumerate(drawn):
        picked = gram[np.ix_(rows.ravel(), rows.ravel())]
        sums = picked.reshape(2 * tasks, BATCH // 2, 2 * tasks, BATCH // 2).sum((1, 3), dtype=float)
        scale = np.repeat(weights[t], 2)
        halves[t] = sums / np.outer(scale, scale)
    return halves, weights


def intervals(halves, weights) -> dict[str, dict[str, estimates.Estimate]]:
    """The naive and the unbiased estimates from the same batches."""
    steps, tasks = weights.shape
    blocks = halves.reshape(steps, tasks, 2, tasks, 2)
    naive = blocks.sum((2, 4))
    unbiased = naive.copy()
    k = np.arange(tasks)
    unbiased[:, k, k] = 4 * blocks[:, k, 0, k, 1]
    found = {"naive": {}, "unbiased": estimates.estimate_metrics(unbiased, weights)}
    for name, number in estimates.METRICS.items():
        values = number(naive)
        found["naive"][name] = estimates.Estimate(
            float(values.mean()), float(values.std(ddof=1) / np.sqrt(steps)), steps
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--trained", type=int, default=0, help="steps of training before")
    arguments = parser.parse_args()
    glue.register()
    tasks = lookup.with_split(lookup.find_tasks("glue.default.semantic"), "train")
    model, params = fixed_model(tasks, arguments.trained)
    batch = next(batching.train_batches(tasks, LENGTHS, EXAMPLES, seed=0))
    rows, tokens = example_gradients(model, params, batch)
    gram = rows @ rows.T
    del rows
    count = len(tasks)
    totals = tokens.reshape(count, EXAMPLES).sum(1).astype(float)
    whole = gram.reshape(count, EXAMPLES, count, EXAMPLES).sum((1, 3), dtype=float)
    whole /= np.outer(totals, totals)
    truth = {name: float(f(whole)) for name, f in estimates.METRICS.items()}

    held = {kind: dict.fromkeys(truth, 0) for kind in ("unbiased", "naive")}
    seen = {kind: {name: [] for name in truth} for kind in held}
    for repetition in range(arguments.repetitions):
        rng = np.random.default_rng(repetition)
        drawn = batch_grams(gram, tokens, count, arguments.steps, rng)
        for kind, found in intervals(*drawn).items():
            for name, estimate in found.items():
                low, high = estimate.interval()
                held[kind][name] += bool(low <= truth[name] <= high)
                seen[kind][name].append((estimate.value, estimate.standard_error))
    print(f"{count} tasks, {arguments.steps} batches of {BATCH} in each of {arguments.repetitions}")
    print(f"{'':24}{'1,024 examples':>16}{'mean figure':>14}{'mean s.e.':>12}{'held':>8}")
    for name in ("directional", "magnitude"):
        for kind in held:
            value, error = np.mean(seen[kind][name], axis=0)
            print(f"{name + ', ' + kind:24}{truth[name]:16.5g}{value:14.5g}{error:12.3g}"
                  f"{held[kind][name]:8}")  # fmt: skip
    result = {f"{kind}_{name}": held[kind][name] for kind in held for name in truth}
    print(json.dumps({"repetitions": arguments.repetitions, "steps": arguments.steps, **result}))


if __name__ == "__main__":
    main()
