"""One training step: a pure, jitted function of the state and a batch of every task.

What is static (the model, the optimizer, the groups) is compared by value, so runs of one shape
share one compilation within a process.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState
from jaxtyping import Array

from mtl_t5x import conflict, gradients

Batch = Mapping[str, Array]
Groups = tuple[tuple[str, str], ...]


@functools.lru_cache
def adamw(
    learning_rate: float,
    warmup_steps: int,
    decay_steps: int,
    max_grad_norm: float | None = 5.0,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """AdamW behind a clip of the global norm; linear warm-up, then cosine to 0 at `decay_steps`.

    Equal arguments give the same object, which is what lets runs share a compiled step. Any other
    optax transformation may stand in its place.
    """
    if warmup_steps >= decay_steps:
        raise ValueError(
            f"adamw.warmup_steps = {warmup_steps} leaves no step of the {decay_steps} for the "
            "cosine: set it below TRAIN_STEPS"
        )
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, decay_steps)
    update = optax.inject_hyperparams(optax.adamw)(
        schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay
    )
    if max_grad_norm is None:
        return update
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), update)


@functools.partial(jax.jit, static_argnames=("model", "optimizer"))
def init_state(
    key: Array, batch: Batch, *, model: nn.Module, optimizer: optax.GradientTransformation
) -> TrainState:
    """Fresh parameters and optimizer state; `batch` gives the shapes."""
    params = nn.meta.unbox(model.init(key, batch))["params"]
    return TrainState.create(apply_fn=model.apply, params=params, tx=optimizer)


@functools.partial(jax.jit, static_argnames=("groups",), donate_argnames=("state",))
def train_step(
    state: TrainState, batch: Batch, dropout_key: Array, *, groups: Groups = ()
) -> tuple[TrainState, dict[str, Any]]:
    """Updates the state by the sum of the task losses' gradients and says what was seen on the way.

    Args:
      state: parameters, optimizer state and step count; its buffers are reused.
      batch: every task's examples, `[task, batch, length]`.
      dropout_key: a key for the whole run; each step folds its own number in.
      groups: pairs of a group's name and the expression of its parameters' names; where there are
        any, the conflict between the tasks in each is measured. None: a plain step.

    Returns:
      The new state, and metrics of the state *before* the update: `loss` [task], the summed
      gradient's norm `grad_norm`, `learning_rate`, and `conflict`, by group, as
      `conflict.numbers` gives it.
    """
    key = jax.random.fold_in(dropout_key, state.step)

    def loss_fn(params, probes):
        variables = {"params": params, "probes": probes}
        losses = state.apply_fn(variables, batch, deterministic=False, rngs={"dropout": key})
        return losses, None

    if groups:
        num_tasks = batch["encoder_input_tokens"].shape[0]
        (losses, _), grads, grams = gradients.gradient_and_grams(
            loss_fn, state.params, num_tasks, dict(groups)
        )
    else:
        (losses, _), grads = gradients.gradient(loss_fn, state.params)
        grams = {}
    new_state = state.apply_gradients(grads=grads)
    hyperparams = optax.tree.get(new_state.opt_state, "hyperparams", default={})
    metrics = {
        "loss": losses,
        "grad_norm": optax.tree.norm(grads),
        "learning_rate": hyperparams.get("learning_rate", jnp.nan),
        "conflict": {group: conflict.numbers(gram) for group, gram in grams.items()},
    }
    return new_state, metrics
