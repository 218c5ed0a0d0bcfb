"""What the benchmarks share: models of known sizes, compiled steps, interleaved timing."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from mtl_t5x import step
from mtl_t5x.gradients import one_pass
from mtl_t5x.models import architectures, t5

# A benchmark is a script of its own; the tests' helpers are in the package `tests`.
sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))

INPUTS, TARGETS = 128, 16
ENCODER_GROUPS = (("encoder", one_pass.ENCODER),)
CONFIGS = {
    "mini": t5.T5Config(
        vocab_size=1024,
        emb_dim=64,
        num_heads=4,
        num_encoder_layers=2,
        num_decoder_layers=2,
        head_dim=16,
        mlp_dim=128,
    ),
    "small": t5.T5Config(
        vocab_size=32128,
        emb_dim=512,
        num_heads=6,
        num_encoder_layers=8,
        num_decoder_layers=8,
        head_dim=64,
        mlp_dim=1024,
    ),
}


def model(size: str, dtype: str = "float32") -> architectures.TextToText:
    return architectures.TextToText(dataclasses.replace(CONFIGS[size], dtype=dtype))


def random_batch(size: str, tasks: int, examples: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ids without padding: `[task, batch, length]`."""
    rng = np.random.default_rng(seed)

    def draw(length: int) -> np.ndarray:
        shape = (tasks, examples, length)
        return rng.integers(2, CONFIGS[size].vocab_size, shape).astype(np.int32)

    targets = draw(TARGETS)
    shifted = np.pad(targets[..., :-1], ((0, 0), (0, 0), (1, 0)))
    return {
        "encoder_input_tokens": draw(INPUTS),
        "decoder_input_tokens": shifted,
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones_like(targets),
    }


def new_state(size: str):
    return step.init_state(
        jax.random.key(0),
        random_batch(size, 1, 1),
        model=model(size),
        optimizer=step.adamw(1e-3, 10, 10_000),
    )


def temporary_mebibytes(compiled: jax.stages.Compiled) -> float:
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def feeding_back(compiled: Callable, state: Any, *arguments: Any) -> Callable[[], None]:
    """Runs a step on its own state, which it feeds back: the step reuses its buffers."""
    states = [jax.tree.map(lambda leaf: leaf.copy(), state)]

    def run():
        new, metrics = compiled(states.pop(), *arguments)
        states.append(new)
        jax.block_until_ready((new, metrics))

    return run


def parser(documentation: str, rounds: int | None) -> argparse.ArgumentParser:
    """Of a benchmark that times steps in turn; `rounds` by default."""
    made = argparse.ArgumentParser(description=documentation.splitlines()[0])
    made.add_argument("--size", choices=sorted(CONFIGS), default="mini")
    made.add_argument("--tasks", type=int, default=8)
    made.add_argument("--batch", type=int, default=4, help="examples per task")
    made.add_argument("--rounds", type=int, default=rounds, help="of each step once")
    made.add_argument("--budget", type=float, default=400.0, help="seconds at most")
    return made


def interleaved(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    budget_seconds: float = float("inf"),
    *,
    warm_up: bool = True,
) -> dict[str, np.ndarray]:
    """Seconds of every run in every round; a round calls each once, in an order that turns.

    Whatever else the machine does slows neighbours alike, so ratios within a round stay true. Stops
    early when the budget is spent, after three rounds at the least. `warm_up` runs each once first.
    """
    for run in runs.values() if warm_up else ():
        run()
    seconds = {name: [] for name in runs}
    names, begun = list(runs), time.perf_counter()
    for i in range(rounds):
        if i >= 3 and time.perf_counter() - begun > budget_seconds:
            break
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = time.perf_counter()
            runs[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def median_ratio(numerator: np.ndarray, denominator: np.ndarray) -> float:
    """Median of the ratios of pairs that ran next to each other."""
    return float(np.median(numerator / denominator))
