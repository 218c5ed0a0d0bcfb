"""Per-task gradients of shared parameters: their sum and their Gram matrices in one pass.

A model takes part by sending every use of a parameter through `mtl_t5x.probes` with activations
`[task, batch, …]`. The loss function here is `loss_fn(params, probes) -> (losses [task], aux)`; the
probes are a tree with the parameters' names, in Flax the variable collection "probes". A model of
one's own needs no Flax:

    def loss_fn(params, probes):                        # one shared linear layer, K tasks
        y = probes_lib.dot(x, params["w"], probes.get("w"))   # x [task, batch, inputs]
        return ((y - targets) ** 2).mean(axis=(1, 2)), None

    _, gradient, grams = gradient_and_grams(loss_fn, {"w": w}, K, {"shared": "w"})
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

Params = Mapping[str, Any]
LossFn = Callable[[Params, Params], tuple[Float[Array, " task"], Any]]
Losses = tuple[Float[Array, " task"], Any]

# What the original measures: the encoder without its layer norms and without the shared embedding.
ENCODER = r"encoder/.*(kernel|rel_embedding)"


def select(params: Params, groups: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Names of the parameters in each group: those that its regular expression matches in full.

    Raises:
      ValueError: a group's expression matches no parameter.
    """
    names = sorted(flatten_dict(params, sep="/"))
    selected = {}
    for group, pattern in groups.items():
        selected[group] = tuple(name for name in names if re.fullmatch(pattern, name))
        if not selected[group]:
            raise ValueError(
                f"conflict group {group!r}: the expression {pattern!r} matches no parameter. "
                f"Names look like {', '.join(names[:3])}; model-info.txt lists them all."
            )
    return selected


def gradient(loss_fn: LossFn, params: Params) -> tuple[Losses, Params]:
    """((losses, aux), gradient of the summed losses): a plain step, nothing is measured."""

    def total(params):
        losses, aux = loss_fn(params, {})
        return jnp.sum(losses), (losses, aux)

    grads, losses = jax.grad(total, has_aux=True)(params)
    return losses, grads


def gradient_and_grams(
    loss_fn: LossFn, params: Params, num_tasks: int, groups: Mapping[str, str]
) -> tuple[Losses, Params, dict[str, Float[Array, "task task"]]]:
    """((losses, aux), gradient of the summed losses, exact Gram matrix of each group).

    Args:
      loss_fn: takes parameters and probes, returns a loss per task.
      params: parameters by name.
      num_tasks: K.
      groups: a group's name to the regular expression of its parameters' names; a parameter may be
        in several groups.
    """
    selected = select(params, groups)
    (losses, grads), by_name = _read_probes(
        loss_fn, params, selected, lambda weight: (num_tasks, num_tasks)
    )
    grams = {group: sum(by_name[name] for name in names) for group, names in selected.items()}
    return losses, grads, grams


def per_task_gradients(
    loss_fn: LossFn, params: Params, num_tasks: int, pattern: str
) -> tuple[Losses, Params, dict[str, Float[Array, "task *shape"]]]:
    """((losses, aux), gradient of the summed losses, per-task gradients by parameter name).

    For when the gradients themselves are needed: it takes K times the memory of the parameters that
    `pattern` matches.
    """
    selected = select(params, {"all": pattern})
    (losses, grads), by_name = _read_probes(
        loss_fn, params, selected, lambda weight: (num_tasks, 1, *weight.shape)
    )
    return losses, grads, {name: rows[:, 0] for name, rows in by_name.items()}


def _read_probes(
    loss_fn: LossFn,
    params: Params,
    selected: Mapping[str, tuple[str, ...]],
    shape: Callable[[Array], tuple[int, ...]],
) -> tuple[tuple[Losses, Params], dict[str, Array]]:
    flat = flatten_dict(params, sep="/")
    names = {name for group in selected.values() for name in group}
    zeros = {name: jnp.zeros(shape(flat[name]), jnp.float32) for name in sorted(names)}

    def total(params, probes):
        losses, aux = loss_fn(params, unflatten_dict(probes, sep="/"))
        return jnp.sum(losses), (losses, aux)

    (grads, by_name), losses = jax.grad(total, argnums=(0, 1), has_aux=True)(params, zeros)
    return (losses, grads), by_name
