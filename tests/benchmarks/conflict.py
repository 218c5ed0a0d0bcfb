"""Ways to the Gram matrix of the task gradients: time and temporary memory over a plain step's.

python tests/benchmarks/conflict.py [--sizes=mini,small] [--tasks=2,4,8,16] [--batch=4]
    [--device=cpu|gpu] [--dtype=float32|bfloat16] [--no_reference]

A step here is losses, summed gradient and Gram matrix of the encoder, without an optimizer: that is
the same for all. Run in turn, in one process:

* plain: `one_pass.gradient`, nothing is measured
* measuring: `one_pass.gradient_and_grams`, the streamed Gram matrix
* sketching: `one_pass.gradient_and_sketches`, count sketches of 65,536 buckets in its place
* naive: jax.grad of the same model with autodiff's own products, nothing is measured
* vmap: jax.vmap of each task's gradient, with autodiff's products; every gradient K times
* scan: a scan over the tasks that keeps the encoder's gradients K times
* torch_plain, torch_per_task: transformers' T5 with the same weights, one backward pass of the
  summed loss; one forward and backward pass per task, whose encoder gradients are flattened for the
  cosines
* torch_plain_compiled, torch_per_task_compiled: the same with the losses under torch.compile. That
  takes minutes, which aren't timed; left out where there is no C++ compiler
* torchjd: TorchJD's Gram engine with `batch_dim=None`: K losses, a backward pass of each under vmap
* torchjd_examples: its batched mode, `batch_dim=0`, which its documentation recommends: a loss per
  example, one backward pass. A task's loss is the sum of its examples' shares of it, so its
  gradient is the sum of theirs, and the sums over the blocks of the examples' Gram matrix are the
  tasks' Gram matrix, exactly
* torchjd_tasks: the batched mode where all tokens of a task are one element of the batch to the
  measured modules: K losses, and K gradients of each module instead of one per example

The batched mode needs changes of transformers' T5: see `torch_ways.py`. Before anything is timed,
the cosines of all exact ways are compared with measuring's; in float32 one that is off by more than
1e-3 ends the run. On a GPU float32 means no TF32, in JAX and in PyTorch.

The PyTorch ways need the extra `reference`. The last line is JSON: by size and number of tasks, the
time of each way over plain's (`measuring_over_plain`, …), measuring's over the PyTorch ones'
(`measuring_over_torch_per_task`, …), and memory over plain's: measuring's is `memory_over_plain`,
others' `scan_memory_over_plain`, …; `cosines_off` is the largest difference of a cosine.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch_ways
import workbench
from flax.traverse_util import flatten_dict, unflatten_dict

from mtl_t5x.gradients import one_pass, probes

# PyTorch's idle threads would else turn in circles while JAX is timed, and JAX would take most of a
# GPU's memory.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

SKETCH_WIDTH = 65_536
TOLERANCE = 1e-3  # of a cosine, in float32


def jax_ways(size: str, dtype: str, params, batch):
    """Name to compiled function of (params, batch)."""
    model, tasks = workbench.model(size, dtype), batch["encoder_input_tokens"].shape[0]
    groups = dict(workbench.ENCODER_GROUPS)

    def losses(params, batch, given=None):
        return model.apply({"params": params, "probes": given or {}}, batch, deterministic=False)

    def plain(params, batch):
        return one_pass.gradient(lambda p, _: (losses(p, batch), None), params)

    def measuring(params, batch):
        loss_fn = lambda p, given: (losses(p, batch, given), None)  # noqa: E731
        return one_pass.gradient_and_grams(loss_fn, params, tasks, groups)

    def sketching(params, batch):
        loss_fn = lambda p, given: (losses(p, batch, given), None)  # noqa: E731
        names = one_pass.select(params, groups)
        return one_pass.gradient_and_sketches(loss_fn, params, tasks, names, SKETCH_WIDTH)

    def naive(params, batch):
        return jax.value_and_grad(lambda p: losses(p, batch).sum())(params)

    def compiled(*ways):
        return {way.__name__: jax.jit(way).lower(params, batch).compile() for way in ways}

    vmap, scan = separate_ways(losses, tasks)
    ways = compiled(plain, measuring, sketching, scan)
    with (
        mock.patch.object(probes, "dot", lambda x, weight, probe=None: x @ weight.astype(x.dtype)),
        mock.patch.object(probes, "spread", lambda weight, probe: weight),
    ):
        return ways | compiled(naive, vmap)


def separate_ways(losses, tasks: int):
    """vmap and scan: every task's gradient on its own, then their products."""

    def one_task(params, piece):
        piece = {name: value[None] for name, value in piece.items()}
        return jax.value_and_grad(lambda p: losses(p, piece)[0])(params)

    def gram(by_task):
        rows = [a.reshape(tasks, -1) for name, a in flatten_dict(by_task, sep="/").items()
                if re.fullmatch(one_pass.ENCODER, name)]  # fmt: skip
        return sum(row @ row.T for row in rows)

    def vmap(params, batch):
        values, by_task = jax.vmap(one_task, (None, 0))(params, batch)
        return values, jax.tree.map(lambda g: g.sum(0), by_task), gram(by_task)

    def scan(params, batch):
        def body(total, piece):
            value, grads = one_task(params, piece)
            flat = flatten_dict(grads, sep="/")
            kept = {n: g for n, g in flat.items() if re.fullmatch(one_pass.ENCODER, n)}
            rest = {n: total[n] + g for n, g in flat.items() if n not in kept}
            return rest, (value, kept)

        flat = flatten_dict(params, sep="/")
        zeros = {n: jnp.zeros_like(p) for n, p in flat.items()
                 if not re.fullmatch(one_pass.ENCODER, n)}  # fmt: skip
        rest, (values, kept) = jax.lax.scan(body, zeros, batch)
        summed = unflatten_dict({**rest, **{n: g.sum(0) for n, g in kept.items()}}, sep="/")
        return values, summed, gram(unflatten_dict(kept, sep="/"))

    return vmap, scan


def check(runs, dtype: str) -> float:
    """Runs each once; the largest difference of an exact way's cosines from measuring's."""
    grams = {
        "measuring": lambda result: result[2]["encoder"],
        "vmap": lambda result: result[2],
        "scan": lambda result: result[2],
    }
    exact, worst = None, 0.0
    for name, run in runs.items():
        result = run()
        if name in grams:
            gram = np.asarray(grams[name](result), np.float64)
        elif name.startswith("torch") and result is not None:
            gram = result.double().cpu().numpy()
        else:  # nothing is measured, or estimated
            continue
        lengths = np.sqrt(np.diagonal(gram))
        cosines = gram / np.outer(lengths, lengths)
        exact = cosines if exact is None else exact
        off = np.abs(cosines - exact).max()
        if dtype == "float32" and not off < TOLERANCE:
            sys.exit(f"conflict.py: the cosines of {name} are off by {off:.1e}")
        worst = max(worst, float(off))
    return worst


def measure(size: str, tasks: int, arguments) -> dict[str, float]:
    """Every ratio by name; prints the table's lines."""
    params = workbench.new_state(size).params
    batch = jax.device_put(workbench.random_batch(size, tasks, arguments.batch))
    compiled = jax_ways(size, arguments.dtype, params, batch)
    runs = {
        name: lambda way=way: jax.block_until_ready(way(params, batch))
        for name, way in compiled.items()
    }
    against = {}
    if arguments.reference:
        config = workbench.model(size, arguments.dtype).config
        against = torch_ways.ways(config, params, batch, arguments.device)
    ratios = {"cosines_off": float(f"{check(runs | against, arguments.dtype):.1e}")}
    print(f"{size:6}{tasks:4}  cosines agree to {ratios['cosines_off']}", flush=True)
    interleaved = functools.partial(workbench.interleaved, rounds=arguments.rounds, warm_up=False)
    seconds = interleaved(runs, budget_seconds=0.4 * arguments.budget)
    memory = {name: workbench.temporary_mebibytes(way) for name, way in compiled.items()}
    for name, taken in seconds.items():
        ratio = workbench.median_ratio(taken, seconds["plain"])
        share = memory[name] / memory["plain"]
        print(f"{size:6}{tasks:4}  {name:15}{np.median(taken) * 1e3:10.1f} ms{ratio:8.3f}"
              f"{memory[name]:10.1f} MiB{share:8.3f}{len(taken):6} rounds", flush=True)  # fmt: skip
        if name != "plain":
            ratios[f"{name}_over_plain"] = round(ratio, 4)
            key = "memory_over_plain" if name == "measuring" else f"{name}_memory_over_plain"
            ratios[key] = round(share, 4)
    # Apart, so that a slow neighbour doesn't come before a plain step; the slowest, of few rounds,
    # last and alone.
    slow = {name: against.pop(name) for name in ("torchjd",) if name in against}
    for others, share in ((against, 0.4), (slow, 0.2)):
        if not others:
            continue
        pair = {"measuring": runs["measuring"], **others}
        seconds = interleaved(pair, budget_seconds=share * arguments.budget)
        for name in others:
            ratio = workbench.median_ratio(seconds["measuring"], seconds[name])
            ratios[f"measuring_over_{name}"] = round(ratio, 4)
            print(f"{size:6}{tasks:4}  {name:24}{np.median(seconds[name]) * 1e3:10.1f} ms; "
                  f"measuring takes {ratio:.3f} of it, {len(seconds[name])} rounds",
                  flush=True)  # fmt: skip
    return ratios


def choose_device(device: str | None, dtype: str, reference: bool) -> str:
    """Makes JAX compute on it; ends the run where JAX or PyTorch has none of its kind."""
    if device is not None:
        try:
            found = jax.devices(device)[0]
        except RuntimeError:
            sys.exit(f"conflict.py: --device={device}, but JAX has only: {jax.default_backend()}")
        jax.config.update("jax_default_device", found)
    device = device or jax.default_backend()
    if device == "gpu" and reference and not torch_ways.has_gpu():
        sys.exit("conflict.py: PyTorch has no GPU: --device=cpu, or --no_reference for JAX alone")
    if device == "gpu" and dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")
    return device


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="mini,small")
    parser.add_argument("--tasks", default="2,4,8,16")
    parser.add_argument("--batch", type=int, default=4, help="examples per task")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--budget", type=float, default=600.0, help="seconds per size and K at most"
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), help="default: what JAX has")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--no_reference", action="store_true", help="without the PyTorch ways")
    arguments = parser.parse_args()
    arguments.reference = torch_ways.HAS_TORCH and not arguments.no_reference
    arguments.device = choose_device(arguments.device, arguments.dtype, arguments.reference)
    print(f"{jax.devices(arguments.device)[0].device_kind}, {arguments.dtype}, {arguments.batch} "
          f"examples a task, {workbench.INPUTS} + {workbench.TARGETS} tokens; over plain:",
          flush=True)  # fmt: skip
    result = {
        f"{size}_{tasks}": measure(size, int(tasks), arguments)
        for size in arguments.sizes.split(",")
        for tasks in arguments.tasks.split(",")
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
