"""Ways to the Gram matrix of the task gradients: time and temporary memory over a plain step's.

python tests/benchmarks/conflict.py [--sizes=mini,small] [--tasks=2,4,8,16] [--batch=4]
    [--no_reference]

A step here is losses, summed gradient and Gram matrix of the encoder, without an optimizer: that is
the same for all. Run in turn, in one process:

* plain: `one_pass.gradient`, nothing is measured
* measuring: `one_pass.gradient_and_grams`, the streamed Gram matrix
* sketching: `one_pass.gradient_and_sketches`, count sketches of 65,536 buckets in its place
* naive: jax.grad of the same model with autodiff's own products, nothing is measured
* vmap: jax.vmap of each task's gradient, with autodiff's products; every gradient K times
* scan: a scan over the tasks that keeps the encoder's gradients K times
* torch_plain, torch_per_task: transformers' T5, one backward pass of the summed loss; one
  forward and backward pass per task, whose encoder gradients are flattened for the cosines
* torchjd: TorchJD's Gram engine on the same PyTorch model

The last three need the extra `reference` and torchjd. The last line is JSON: by size and number of
tasks, each one's time over plain's (`measuring_over_plain`, …), measuring's over the PyTorch ones'
(`measuring_over_torch_per_task`, …), and memory over plain's: measuring's is `memory_over_plain`,
others' `scan_memory_over_plain`, ….
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
import os
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import workbench
from flax.traverse_util import flatten_dict, unflatten_dict

from mtl_t5x.gradients import one_pass, probes

# PyTorch's idle threads would else turn in circles while JAX is timed.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

SKETCH_WIDTH = 65_536
HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
HAS_TORCHJD = HAS_TORCH and importlib.util.find_spec("torchjd") is not None


def jax_ways(size: str, params, batch):
    """Name to compiled function of (params, batch)."""
    model, tasks = workbench.model(size), batch["encoder_input_tokens"].shape[0]
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

    def compiled(way):
        return jax.jit(way).lower(params, batch).compile()

    ways = (plain, measuring, sketching, scan)
    ways = {way.__name__: compiled(way) for way in ways}
    with (
        mock.patch.object(probes, "dot", lambda x, weight, probe=None: x @ weight.astype(x.dtype)),
        mock.patch.object(probes, "spread", lambda weight, probe: weight),
    ):
        ways |= {"naive": compiled(naive), "vmap": compiled(vmap)}
    return ways


def torch_ways(size: str, batch):
    """Name to function without arguments; empty where PyTorch isn't installed."""
    if not HAS_TORCH:
        return {}
    import torch

    from tests import random_t5

    model = random_t5.transformers_t5(workbench.CONFIGS[size])
    encoder = [
        p for n, p in model.encoder.named_parameters() if "norm" not in n and "embed" not in n
    ]
    ids = {
        name: torch.tensor(np.asarray(batch[key])).long()
        for name, key in (
            ("input_ids", "encoder_input_tokens"),
            ("labels", "decoder_target_tokens"),
        )
    }
    tasks = len(ids["input_ids"])

    def one_loss(k):
        return model(input_ids=ids["input_ids"][k], labels=ids["labels"][k], use_cache=False).loss

    def all_losses(model):
        logits = model(
            input_ids=ids["input_ids"].flatten(0, 1), labels=ids["labels"].flatten(0, 1),
            use_cache=False,
        ).logits  # fmt: skip
        entropy = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), ids["labels"].flatten(), reduction="none"
        )
        return entropy.reshape(tasks, -1).mean(1)

    def torch_plain():
        model.zero_grad()
        all_losses(model).sum().backward()

    def torch_per_task():
        rows, summed = [], None
        for k in range(tasks):
            model.zero_grad()
            one_loss(k).backward()
            rows.append(torch.cat([p.grad.flatten() for p in encoder]))
            grads = [p.grad for p in model.parameters()]
            summed = grads if summed is None else torch._foreach_add(summed, grads)
        rows = torch.stack(rows)
        units = torch.nn.functional.normalize(rows)
        return units @ units.T

    ways = {"torch_plain": torch_plain, "torch_per_task": torch_per_task}
    if HAS_TORCHJD:
        import torchjd.autogram

        # A copy, because the engine's hooks slow other passes; attention without the fused kernel,
        # which the engine can't batch.
        watched = copy.deepcopy(model)
        watched.set_attn_implementation("eager")
        engine = torchjd.autogram.Engine(watched.encoder.block, batch_dim=None)

        def torchjd_engine():
            watched.zero_grad()
            losses = all_losses(watched)
            gram = engine.compute_gramian(losses)
            losses.backward(torch.ones_like(losses))
            return gram

        ways["torchjd"] = torchjd_engine
    return ways


def measure(
    size: str, tasks: int, examples: int, rounds: int, budget: float, reference: bool
) -> dict[str, float]:
    """Every ratio by name; prints the table's lines."""
    params = workbench.new_state(size).params
    batch = jax.device_put(workbench.random_batch(size, tasks, examples))
    compiled = jax_ways(size, params, batch)
    runs = {
        name: lambda way=way: jax.block_until_ready(way(params, batch))
        for name, way in compiled.items()
    }
    seconds = workbench.interleaved(runs, rounds, budget / 2)
    memory = {name: workbench.temporary_mebibytes(way) for name, way in compiled.items()}
    ratios = {}
    for name, taken in seconds.items():
        ratio = workbench.median_ratio(taken, seconds["plain"])
        share = memory[name] / memory["plain"]
        print(f"{size:6}{tasks:4}  {name:15}{np.median(taken) * 1e3:10.1f} ms{ratio:8.3f}"
              f"{memory[name]:10.1f} MiB{share:8.3f}{len(taken):6} rounds", flush=True)  # fmt: skip
        if name != "plain":
            ratios[f"{name}_over_plain"] = round(ratio, 4)
            key = "memory_over_plain" if name == "measuring" else f"{name}_memory_over_plain"
            ratios[key] = round(share, 4)
    # Apart, so that a slow neighbour doesn't come before a plain step.
    against = torch_ways(size, batch) if reference else {}
    if not against:
        return ratios
    seconds = workbench.interleaved({"measuring": runs["measuring"], **against}, rounds, budget / 2)
    for name in against:
        ratio = workbench.median_ratio(seconds["measuring"], seconds[name])
        ratios[f"measuring_over_{name}"] = round(ratio, 4)
        print(f"{size:6}{tasks:4}  {name:15}{np.median(seconds[name]) * 1e3:10.1f} ms; measuring "
              f"takes {ratio:.3f} of it, {len(seconds[name])} rounds", flush=True)  # fmt: skip
    return ratios


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="mini,small")
    parser.add_argument("--tasks", default="2,4,8,16")
    parser.add_argument("--batch", type=int, default=4, help="examples per task")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--budget", type=float, default=600.0, help="seconds per size and K at most"
    )
    parser.add_argument("--no_reference", action="store_true", help="without the PyTorch ways")
    arguments = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, {arguments.batch} examples a task, "
          f"{workbench.INPUTS} + {workbench.TARGETS} tokens; over plain:")  # fmt: skip
    result = {
        f"{size}_{tasks}": measure(
            size,
            int(tasks),
            arguments.batch,
            arguments.rounds,
            arguments.budget,
            not arguments.no_reference,
        )
        for size in arguments.sizes.split(",")
        for tasks in arguments.tasks.split(",")
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
