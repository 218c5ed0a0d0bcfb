"""From what a step measured to weights that can be used, and what they make of the update."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtl_t5x.balance.balance import Balance
from mtl_t5x.balance.method import Measured, Method, State, Weights
from mtl_t5x.conflict import metrics as conflict_metrics

LEAST_LOSS = 1e-8  # losses of 0 have no logarithm


def init(balance: Balance, tasks: int) -> dict[str, Any] | None:
    """What a run remembers from step to step; None where there is no method."""
    if balance.method is None:
        return None
    return {"weights": jnp.ones(tasks), "method": balance.method.init(tasks)}


def weigh(
    method: Method, state: State, measured: Measured
) -> tuple[Weights, State, Bool[Array, " task"]]:
    """(finite weights, what the method remembers, tasks whose gradient can't be used).

    A gradient of zeros or of what isn't a number has no direction: the method sees one of mean
    length in its place that is orthogonal to all others. Where its weights still aren't finite,
    they are 1, and it remembers nothing of the step.
    """
    measured, unusable = _usable(measured)
    weights, new_state = method(state, measured)
    leaves = [weights, *jax.tree.leaves(new_state)]
    good = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
    new_state = jax.tree.map(lambda old, new: jnp.where(good, new, old), state, new_state)
    return jnp.where(good, weights, 1.0), new_state, unusable | ~good


def _usable(measured: Measured) -> tuple[Measured, Bool[Array, " task"]]:
    losses = jnp.nan_to_num(measured.losses, nan=1.0, posinf=1.0)
    unusable = ~jnp.isfinite(measured.losses)
    measured = measured._replace(losses=jnp.maximum(losses, LEAST_LOSS))
    if measured.halves is not None:
        gram = conflict_metrics.add_halves(measured.halves)
        unusable |= ~_has_length(jnp.diagonal(gram))
        # Of a gradient with two equal halves, a quarter of its squared length each.
        halves = _replaced(measured.halves, jnp.repeat(unusable, 2), _pairs(len(losses)))
        measured = measured._replace(halves=halves)
    if measured.gram is not None:
        unusable |= ~_has_length(jnp.diagonal(measured.gram))
        gram = _replaced(measured.gram, unusable, jnp.eye(len(losses)))
        measured = measured._replace(gram=gram)
    return measured, unusable


def _has_length(squares: Float[Array, " row"]) -> Bool[Array, " row"]:
    return jnp.isfinite(squares) & (squares > 0)


def _pairs(tasks: int) -> Float[Array, "part part"]:
    """1 between the halves of a task, 0 elsewhere."""
    return jnp.kron(jnp.eye(tasks), jnp.ones((2, 2)))


def _replaced(
    gram: Float[Array, "row row"], rows: Bool[Array, " row"], by: Float[Array, "row row"]
) -> Float[Array, "row row"]:
    """The matrix with the pattern `by`, of the other rows' mean length, in place of some rows."""
    squares = jnp.where(rows, 0.0, jnp.diagonal(gram))
    mean = jnp.sum(squares) / jnp.maximum(jnp.sum(~rows), 1)
    mean = jnp.where(mean > 0, mean, 1.0)
    return jnp.where(rows[:, None] | rows, by * mean, gram)


def lifted(weights: Weights, floor: float) -> Weights:
    """The weights, none nearer to 0 than `floor` times their mean size; their signs stay."""
    sizes = jnp.abs(weights)
    least = floor * jnp.mean(sizes)
    lifted = jnp.where(weights < 0, -1.0, 1.0) * jnp.maximum(sizes, least)
    return jnp.where(least > 0, lifted, 1.0)


def unweighted(gram: Float[Array, "row row"], weights: Weights) -> Float[Array, "row row"]:
    """The Gram matrix of the tasks' own gradients from that of the weighted ones; NaN where a
    weight is 0. There may be several rows for each task, of parts of its examples."""
    weights = jnp.repeat(weights, len(gram) // len(weights))
    return gram / (weights[:, None] * weights)


def effect(gram: Float[Array, "task task"], weights: Weights) -> dict[str, Float[Array, ""]]:
    """What the weights make of the update, where G is measured: its `norm`, that of the plain sum
    (`sum_norm`), and the `angle` between the two, in degrees. A task of weight 0 is in neither."""
    gram = jnp.where((weights[:, None] == 0) | (weights == 0), 0.0, gram)
    ones = jnp.ones_like(weights)
    norm, sum_norm = (jnp.sqrt(jnp.maximum(w @ gram @ w, 0.0)) for w in (weights, ones))
    cosine = jnp.clip(weights @ gram @ ones / (norm * sum_norm), -1.0, 1.0)
    return {"norm": norm, "sum_norm": sum_norm, "angle": jnp.degrees(jnp.arccos(cosine))}
