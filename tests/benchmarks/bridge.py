"""Step time against T5X's trainer on the same network, batch and optimizer.

It needs T5X (docs/t5x.md).

python tests/benchmarks/bridge.py [--size=mini|small] [--tasks=8] [--batch=4] [--rounds=20]

Three steps run in turn in one process: T5X's trainer on T5X's network, the bridge's, and our own;
the latter two measure the conflict. The last line is JSON.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
import seqio
import workbench
from t5x import models, optimizers, partitioning, trainer, utils
from t5x.examples.t5 import network

from mtl_t5x import step, t5x_bridge
from mtl_t5x.data import flat, lookup
from mtl_t5x.models import layers
from mtl_t5x.tasks.glue import glue

RATE = 1e-3


def t5xs_step(kind: type[trainer.Trainer], model: models.EncoderDecoderModel, rows):
    """(a compiled step of T5X's trainer or of the bridge's, its first state)."""
    partitioner = partitioning.PjitPartitioner(
        num_partitions=1, logical_axis_rules=partitioning.standard_logical_axis_rules()
    )
    initializer = utils.TrainStateInitializer(
        model.optimizer_def,
        model.get_initial_variables,
        {name: value.shape for name, value in rows.items()},
        partitioner,
        {name: value.dtype for name, value in rows.items()},
    )
    state = initializer.from_scratch(jax.random.PRNGKey(0))
    made = kind(
        model=model,
        train_state=state,
        partitioner=partitioner,
        eval_names=[],
        summary_dir=None,
        train_state_axes=initializer.train_state_axes,
        rng=jax.random.PRNGKey(1),
        learning_rate_fn=lambda at_step: jnp.float32(RATE),
        num_microbatches=None,
    )
    return partitioner.compile(made._partitioned_train_step, state, rows), state


def runs(size: str, num_tasks: int, examples: int) -> dict[str, Callable[[], None]]:
    """The three steps by name, each compiled."""
    glue.register()
    tasks = lookup.with_split(lookup.find_tasks("glue.default.semantic"), "train")[:num_tasks]
    batch = workbench.random_batch(size, num_tasks, examples)
    rows = jax.device_put(flat.flatten(batch))
    config = workbench.CONFIGS[size]
    sizes = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(network.T5Config)
        if hasattr(config, field.name)
    }
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adamw(RATE, weight_decay=0.0))
    given = {
        "module": network.Transformer(network.T5Config(**sizes)),
        "input_vocabulary": seqio.ByteVocabulary(),
        "output_vocabulary": seqio.ByteVocabulary(),
        "optimizer_def": optimizers.OptaxWrapper(optimizer),
    }
    assert config.mlp_activations == layers.GATED_GELU
    steps = {
        "t5x": (trainer.Trainer, models.EncoderDecoderModel(**given)),
        "bridge": (t5x_bridge.Trainer, t5x_bridge.Model(**given, tasks=tasks)),
    }
    made = {}
    for name, (kind, model) in steps.items():
        compiled, state = t5xs_step(kind, model, rows)
        made[name] = workbench.feeding_back(compiled, state, rows)
    state, key = workbench.new_state(size), jax.random.key(1)
    placed = jax.device_put(batch)
    ours = step.train_step.lower(state, placed, key, groups=workbench.ENCODER_GROUPS).compile()
    made["ours"] = workbench.feeding_back(ours, state, placed, key)
    return made


def main():
    arguments = workbench.parser(__doc__, rounds=20).parse_args()
    seconds = workbench.interleaved(
        runs(arguments.size, arguments.tasks, arguments.batch), arguments.rounds, arguments.budget
    )
    print(
        f"{arguments.size}: {arguments.tasks} tasks of {arguments.batch} examples, "
        f"{len(seconds['t5x'])} rounds, {jax.devices()[0].device_kind}"
    )
    ratios = {}
    for name, taken in seconds.items():
        ratios[f"{name}_over_t5x"] = round(workbench.median_ratio(taken, seconds["t5x"]), 4)
        print(f"{name:8} {sorted(taken)[len(taken) // 2] * 1e3:9.1f} ms (median)")
    del ratios["t5x_over_t5x"]
    print(json.dumps({"size": arguments.size, **ratios}))


if __name__ == "__main__":
    main()
