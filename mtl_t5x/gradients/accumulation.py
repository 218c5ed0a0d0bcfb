"""Gradient accumulation: the step's examples in microbatches, one after the other.

A task's loss is a mean over its examples or tokens, so the microbatches' losses are added by how
much each counts. The Gram matrix of a sum of gradients is not the sum of their Gram matrices: where
the conflict is measured, the per-task gradients themselves are added up, which takes K times the
memory of the measured parameters. (A step in one piece needs that for one parameter at a time.)
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Num, Shaped

from mtl_t5x.conflict import metrics as conflict_metrics
from mtl_t5x.gradients import one_pass

Batch = Mapping[str, Shaped[Array, "task batch *_"]]
LossFn = Callable[[one_pass.Params, one_pass.Params, Batch, Array], Float[Array, " task"]]
Weigh = Callable[[Batch], Float[Array, " task"]]
PerTaskGradients = Mapping[str, Float[Array, "row *_"]]
Grams = dict[str, Float[Array, "row row"]]


def accumulate(
    loss_fn: LossFn,
    weigh: Weigh,
    params: one_pass.Params,
    batch: Batch,
    key: Array,
    *,
    total: Float[Array, " task"],
    measured: Sequence[str],
    microbatches: int,
    parts: int = 1,
) -> tuple[Float[Array, " task"], one_pass.Params, PerTaskGradients]:
    """(losses, gradient of their sum, per-task gradients of the measured parameters by name).

    A task without a target token, or without an example that counts, has loss and gradient 0.

    Args:
      loss_fn: parameters, probes, batch and key to a loss per task of the batch it is given.
      weigh: how much a task's loss over some of its examples counts, `[task]`.
      params: parameters by name.
      batch: `[task, batch, …]`.
      key: for dropout; every microbatch folds its number in.
      total: the weights of all the examples that the step's losses are over, `[task]`; where these
        are more than `batch`, the results are `batch`'s share and add up.
      measured: names of parameters.
      microbatches: how many; the number of examples is a multiple.
      parts: of each task's examples, in their order, whose gradients are told apart: then `task` of
        the per-task gradients is task and part. A microbatch's examples are a multiple.

    Raises:
      ValueError: examples that can't be cut into so many microbatches.
    """

    def of_microbatch(batch, key):
        share = share_of(weigh(batch), total)

        def scaled(params, probes):
            return loss_fn(params, probes, batch, key) * share, None

        return _with_per_task(scaled, params, share.shape[0] * parts, measured)

    return added(of_microbatch, batch, key, microbatches)


def added(
    of_microbatch: Callable[[Batch, Array], Any], batch: Batch, key: Array, microbatches: int
) -> Any:
    """The sum of the trees that `of_microbatch` makes of each microbatch and its own key.

    Raises:
      ValueError: examples that can't be cut into so many microbatches.
    """
    if microbatches == 1:
        return of_microbatch(batch, key)
    cut = {name: _cut(value, microbatches) for name, value in batch.items()}
    shapes = jax.eval_shape(of_microbatch, {name: value[0] for name, value in cut.items()}, key)

    def add(so_far, number_and_microbatch):
        number, batch = number_and_microbatch
        more = of_microbatch(batch, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, so_far, more), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, (jnp.arange(microbatches), cut))[0]


def share_of(weights: Float[Array, " task"], total: Float[Array, " task"]) -> Array:
    """What part of the tasks' losses is a microbatch's, by the weights of its own and of all
    examples; 0 of a task that has nothing to be learned from."""
    return weights / jnp.where(total > 0, total, 1)


def keeping_gradients(
    loss_fn: LossFn,
    weigh: Weigh,
    params: one_pass.Params,
    batch: Batch,
    key: Array,
    *,
    kept: str,
    groups: Mapping[str, str],
    microbatches: int,
    parts: int,
) -> tuple[Float[Array, " task"], Grams, Callable[[Float[Array, " row"]], one_pass.Params]]:
    """(losses, Gram matrix of each group, weights of the rows -> gradient), on one device.

    The gradients of the parameters that the expression `kept` matches are kept for every row, of a
    task and part. The other arguments are those of `accumulate`.
    """
    (names,) = one_pass.select(params, {"kept": kept}).values()
    losses, grads, per_task = accumulate(
        loss_fn, weigh, params, batch, key,
        total=weigh(batch), measured=names, microbatches=microbatches, parts=parts,
    )  # fmt: skip

    def weighted(weights: Float[Array, " row"]) -> one_pass.Params:
        flat = flatten_dict(grads, sep="/")
        flat |= {name: mixed(weights, per_task[name]) for name in names}
        return unflatten_dict(flat, sep="/")

    return losses, grams(per_task, one_pass.select(params, groups)), weighted


def _with_per_task(loss_fn: one_pass.LossFn, params, rows: int, measured: Sequence[str]):
    if not measured:
        (losses, _), grads = one_pass.gradient(loss_fn, params)
        return losses, grads, {}
    if rows == 1:  # the gradient is the one task's
        (losses, _), grads = one_pass.gradient(loss_fn, params)
        flat = flatten_dict(grads, sep="/")
        return losses, grads, {name: flat[name][None] for name in measured}
    pattern = "|".join(map(re.escape, measured))
    (losses, _), grads, per_task = one_pass.per_task_gradients(loss_fn, params, rows, pattern)
    return losses, grads, per_task


def _cut(
    value: Num[Array, "task batch *rest"], microbatches: int
) -> Num[Array, "microbatches task part *rest"]:
    """Neighbours go to different microbatches, so that each is spread over the devices, and has
    the same halves, as the whole."""
    tasks, examples, *rest = value.shape
    if examples % microbatches:
        raise ValueError(
            f"MICROBATCHES = {microbatches} doesn't divide the {examples} examples of a task that "
            "are computed together: set it to a divisor of BATCH_SIZE / the devices that share a "
            "task"
        )
    return jnp.moveaxis(value.reshape(tasks, examples // microbatches, microbatches, *rest), 2, 0)


def grams(per_task: PerTaskGradients, groups: Mapping[str, tuple[str, ...]]) -> Grams:
    """The Gram matrix of each group of parameters' names from their per-task gradients."""
    return {
        group: sum(conflict_metrics.gram_matrix(per_task[name]) for name in names)
        for group, names in groups.items()
    }


def mixed(
    weights: Float[Array, " row"], rows: Float[Array, "row *shape"]
) -> Float[Array, "*shape"]:
    """The rows' sum by weights, added one by one: a TPU's product would round them to bfloat16."""
    return functools.reduce(jnp.add, (weights[i] * rows[i] for i in range(len(rows))))
