"""How far cosines from count sketches are from the exact ones.

python tests/benchmarks/sketch.py [--size=mini|small] [--width=65536] [--seeds=8] [--tasks=8]

Per-task gradients of the encoder at random weights are computed once and sketched with many seeds.
Over the pairs of tasks and the seeds: the root mean square and the largest error of a cosine, that
of the seeds' mean (unbiased: about rms / sqrt(seeds)), and the error that a single sketch states of
itself. The last line is JSON. What sketching costs is in conflict.py.
"""

from __future__ import annotations

import argparse
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import workbench

from mtl_t5x.conflict import estimates
from mtl_t5x.gradients import one_pass, probes


def task_gradients(size: str, tasks: int, examples: int) -> dict[str, jax.Array]:
    """The encoder's per-task gradients by parameter name."""
    model, params = workbench.model(size), workbench.new_state(size).params
    batch = workbench.random_batch(size, tasks, examples)

    @jax.jit
    def rows(params, batch):
        def loss_fn(params, given):
            return model.apply({"params": params, "probes": given}, batch), None

        return one_pass.per_task_gradients(loss_fn, params, tasks, one_pass.ENCODER)[2]

    return rows(params, batch)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(workbench.CONFIGS), default="mini")
    parser.add_argument("--width", type=int, default=65_536)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4, help="examples per task")
    arguments = parser.parse_args()

    rows = task_gradients(arguments.size, arguments.tasks, arguments.batch)
    flat = [row.reshape(arguments.tasks, -1) for row in rows.values()]
    sketch = jax.jit(probes.sketch, static_argnums=(1, 2))
    exact = _cosines(sum(np.asarray(jnp.matmul(row, row.T), np.float64) for row in flat))
    pairs = np.triu_indices(arguments.tasks, 1)
    errors, stated = [], []
    for seed in range(arguments.seeds):
        sketches = [
            sketch(row, arguments.width, zlib.crc32(f"{seed}:{name}".encode()))
            for name, row in rows.items()
        ]
        joined = np.asarray(sum(sketches), np.float64)
        errors.append((_cosines(joined @ joined.T) - exact)[pairs])
        stated.append(estimates.sketch_error(joined)[pairs])
    errors, stated = np.array(errors), np.array(stated)
    result = {
        "size": arguments.size,
        "width": arguments.width,
        "rms": np.sqrt(np.mean(errors**2)),
        "largest": np.abs(errors).max(),
        "rms_of_mean": np.sqrt(np.mean(errors.mean(axis=0) ** 2)),
        "mean": errors.mean(),
        "stated_rms": np.sqrt(np.mean(stated**2)),
    }
    print(f"cosines from {exact[pairs].min():.3f} to {exact[pairs].max():.3f}, "
          f"{len(pairs[0])} pairs, {arguments.seeds} seeds")  # fmt: skip
    print(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in result.items()}))


def _cosines(gram: np.ndarray) -> np.ndarray:
    lengths = np.sqrt(np.diagonal(gram))
    return gram / np.outer(lengths, lengths)


if __name__ == "__main__":
    main()
