"""Gradients over microbatches: the step's examples in pieces, one after the other.

A task's loss is a mean over its examples or tokens, so the pieces' losses are added by how much
each counts. The Gram matrix of a sum of gradients is not the sum of their Gram matrices: where the
conflict is measured, the per-task gradients themselves are added up, which takes K times the memory
of the measured parameters. (A step in one piece needs that for one parameter at a time.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float

from mtl_t5x.gradients import one_pass as gradients

Batch = Mapping[str, Array]
LossFn = Callable[[gradients.Params, gradients.Params, Batch, Array], Float[Array, " task"]]
Weigh = Callable[[Batch], Float[Array, " task"]]
Rows = dict[str, Float[Array, "task *shape"]]


def gradients_of(
    loss_fn: LossFn,
    weigh: Weigh,
    params: gradients.Params,
    batch: Batch,
    key: Array,
    *,
    total: Float[Array, " task"],
    measured: Sequence[str],
    microbatches: int,
) -> tuple[Float[Array, " task"], gradients.Params, Rows]:
    """(losses, gradient of their sum, per-task gradients of the measured parameters by name).

    Args:
      loss_fn: parameters, probes, batch and key to a loss per task of the batch it is given.
      weigh: how much a task's loss over a piece of its examples counts, `[task]`.
      params: parameters by name.
      batch: `[task, batch, …]`.
      key: for dropout; every piece folds its number in.
      total: the weights of all the examples that the step's losses are over, `[task]`; where these
        are more than `batch`, the results are `batch`'s share and add up.
      measured: names of parameters.
      microbatches: pieces; the number of examples is a multiple.

    Raises:
      ValueError: examples that can't be cut into so many pieces.
    """

    def piece(batch, key):
        share = weigh(batch) / total

        def scaled(params, probes):
            return loss_fn(params, probes, batch, key) * share, None

        return _with_rows(scaled, params, share.shape[0], measured)

    if microbatches == 1:
        return piece(batch, key)
    pieces = {name: _cut(value, microbatches) for name, value in batch.items()}
    shapes = jax.eval_shape(piece, {name: value[0] for name, value in pieces.items()}, key)

    def add(so_far, number_and_piece):
        number, batch = number_and_piece
        return jax.tree.map(jnp.add, so_far, piece(batch, jax.random.fold_in(key, number))), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, (jnp.arange(microbatches), pieces))[0]


def _with_rows(loss_fn: gradients.LossFn, params, num_tasks: int, measured: Sequence[str]):
    if not measured:
        (losses, _), grads = gradients.gradient(loss_fn, params)
        return losses, grads, {}
    if num_tasks == 1:  # the gradient is the one task's
        (losses, _), grads = gradients.gradient(loss_fn, params)
        flat = flatten_dict(grads, sep="/")
        return losses, grads, {name: flat[name][None] for name in measured}
    pattern = "|".join(map(re.escape, measured))
    (losses, _), grads, rows = gradients.per_task_gradients(loss_fn, params, num_tasks, pattern)
    return losses, grads, rows


def _cut(value: Array, pieces: int) -> Array:
    """`[task, batch, …]` to `[piece, task, batch / pieces, …]`; neighbours go to different pieces,
    so that each piece is spread over the devices as the whole is."""
    tasks, examples, *rest = value.shape
    if examples % pieces:
        raise ValueError(
            f"MICROBATCHES = {pieces} doesn't divide the {examples} examples of a task that are "
            "computed together: set it to a divisor of BATCH_SIZE / the devices that share a task"
        )
    return jnp.moveaxis(value.reshape(tasks, examples // pieces, pieces, *rest), 2, 0)


def grams(
    rows: Rows, groups: Mapping[str, tuple[str, ...]]
) -> dict[str, Float[Array, "task task"]]:
    """The Gram matrix of each group of parameters' names from their per-task gradients."""

    def gram(name: str) -> Array:
        flat = rows[name].reshape(rows[name].shape[0], -1)
        return jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST)

    return {group: sum(gram(name) for name in names) for group, names in groups.items()}
