"""Per-task gradients of shared parameters: their sum and their Gram matrices in one pass.

A model takes part by sending every use of a parameter through `mtl_t5x.gradients.probes` with
activations `[task, batch, …]`. The loss function here is `loss_fn(params, probes) -> (losses
[task], aux)`; the probes are a tree with the parameters' names, in Flax the variable collection
"probes". A model of one's own needs no Flax:

    from mtl_t5x.conflict import metrics
    from mtl_t5x.gradients import one_pass, probes

    def loss_fn(params, given):
        # x: [task, batch, inputs]. A product goes through `dot`, …
        hidden = probes.dot(x, params["in"], given.get("in"))
        # … any other use through `spread`, which makes a copy for each task.
        bias = probes.spread(params["bias"], given.get("bias"))
        if bias.ndim == 2:  # [task, hidden] where it is measured, else [hidden]
            bias = probes.for_examples(bias, *x.shape[:2])
        y = probes.dot(jax.nn.relu(hidden + bias), params["out"], given.get("out"))
        return ((y - targets) ** 2).mean(axis=(1, 2)), None

    (losses, _), gradient, grams = one_pass.gradient_and_grams(
        loss_fn, params, num_tasks, {"first": "in|bias", "all": ".*"}
    )
    print(metrics.directional(grams["all"]))
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.interpreters import partial_eval
from jaxtyping import Array, Float

from mtl_t5x.gradients import probes as probes_lib

Params = Mapping[str, Any]
LossFn = Callable[[Params, Params], tuple[Float[Array, " task"], Any]]
Losses = tuple[Float[Array, " task"], Any]

# What the original measures: the encoder without its layer norms and without the shared embedding.
ENCODER = r"encoder/.*(kernel|rel_embedding)"
# Each encoder layer's share of that on its own, as groups encoder/layers_0, encoder/layers_1, …
ENCODER_LAYERS = {r"\1": r"(encoder/layers_\d+)/.*kernel"}


def select(
    params: Params, groups: Mapping[str, str], setting: str = "conflict groups"
) -> dict[str, tuple[str, ...]]:
    """Names of the parameters in each group.

    A *group* is a set of parameters whose conflict is measured together. `groups` maps its name, by
    which metrics are logged, to a regular expression: the group holds the parameters whose names
    (as in model-info.txt) it matches in full. A parameter may be in several groups. A group's name
    may refer to the expression's parentheses (`\\1`): then there is a group for every name that
    this gives, as in `ENCODER_LAYERS`. `setting` is what the user calls the groups.

    Raises:
      ValueError: a group's expression matches no parameter.
    """
    names = sorted(flatten_dict(params, sep="/"))
    selected = {}
    for group, pattern in groups.items():
        matches = [match for name in names if (match := re.fullmatch(pattern, name))]
        for match in matches:
            expanded = match.expand(group) if "\\" in group else group
            selected[expanded] = (*selected.get(expanded, ()), match.string)
        if not matches:
            raise ValueError(
                f"{setting}, {group!r}: the expression {pattern!r} matches no parameter. "
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
) -> tuple[Losses, Params, dict[str, Float[Array, "row row"]]]:
    """((losses, aux), gradient of the summed losses, exact Gram matrix of each group).

    Args:
      loss_fn: takes parameters and probes, returns a loss per task.
      params: parameters by name.
      num_tasks: K.
      groups: a group's name to the regular expression of its parameters' names; a parameter may be
        in several groups.
    """
    selected = select(params, groups)
    names = {name for group in selected.values() for name in group}
    zeros = {name: jnp.zeros((num_tasks, num_tasks)) for name in sorted(names)}
    losses, grads, by_name = _read_probes(loss_fn, params, zeros, lambda zeros: zeros)
    grams = {group: sum(by_name[name] for name in names) for group, names in selected.items()}
    return losses, grads, grams


def grams_then_gradient(
    loss_fn: LossFn, params: Params, rows: int, groups: Mapping[str, str], shared: str
) -> tuple[Losses, dict[str, Float[Array, "row row"]], Callable[[Float[Array, " task"]], Params]]:
    """((losses, aux), exact Gram matrix of each group, weights -> gradient).

    The weights [task] multiply the tasks' gradients of the parameters that `shared` matches; the
    others are each one task's own. One forward pass, and two backward: 5/3 of a plain step.

    Args:
      loss_fn, params, groups: as for `gradient_and_grams`.
      rows: of the matrices: K, or a multiple, of parts of each task's examples.
      shared: a regular expression of names.
    """
    selected = select(params, groups)
    (names_of_shared,) = select(params, {"shared": shared}).values()
    names = {name for group in selected.values() for name in group}
    zeros = {name: jnp.zeros((rows, rows)) for name in sorted(names)}

    def losses_of(params, zeros):
        return loss_fn(params, unflatten_dict(zeros, sep="/"))

    _check_used(lambda given: loss_fn(params, unflatten_dict(given, sep="/"))[0], zeros)
    losses, pull_back, aux = jax.vjp(losses_of, params, zeros, has_aux=True)
    unweighted, by_name = pull_back(jnp.ones_like(losses))
    grams = {group: sum(by_name[name] for name in names) for group, names in selected.items()}

    def gradient_for(weights: Float[Array, " task"]) -> Params:
        weighted, _ = pull_back(weights.astype(losses.dtype))
        flat = flatten_dict(unweighted, sep="/")
        flat |= {name: flatten_dict(weighted, sep="/")[name] for name in names_of_shared}
        return unflatten_dict(flat, sep="/")

    return (losses, aux), grams, gradient_for


def per_task_gradients(
    loss_fn: LossFn, params: Params, rows: int, pattern: str
) -> tuple[Losses, Params, dict[str, Float[Array, "row *shape"]]]:
    """((losses, aux), gradient of the summed losses, per-task gradients by parameter name).

    There is a row for each task, or several, a multiple: those of its examples' parts.

    For when the gradients themselves are needed: it takes K times the memory of the parameters that
    `pattern` matches.
    """
    (names,) = select(params, {"all": pattern}).values()
    flat = flatten_dict(params, sep="/")
    zeros = {name: jnp.zeros((rows, 1, *flat[name].shape)) for name in names}
    losses, grads, by_name = _read_probes(loss_fn, params, zeros, lambda zeros: zeros)
    return losses, grads, {name: read[:, 0] for name, read in by_name.items()}


def gradient_and_sketches(
    loss_fn: LossFn,
    params: Params,
    num_tasks: int,
    names: Mapping[str, tuple[str, ...]],
    width: int,
    seed: int = 0,
) -> tuple[Losses, Params, dict[str, Float[Array, "task width"]]]:
    """((losses, aux), gradient of the summed losses, each group's gradients as a count sketch).

    Sketches are linear: those of several batches add up to that of the sum of their losses, so
    per-task gradients are kept in K x width numbers, however large the model. See `probes.Sketch`.

    Args:
      loss_fn, params, num_tasks: as for `gradient_and_grams`.
      names: the parameters of each group, none in two groups.
      width: buckets of a sketch.
      seed: of the signs and buckets.
    """

    def probes_of(buckets):
        return {
            name: probes_lib.Sketch(buckets[group], zlib.crc32(f"{seed}:{name}".encode()))
            for group, members in names.items()
            for name in members
        }

    buckets = {group: jnp.zeros((num_tasks, width)) for group in names}
    return _read_probes(loss_fn, params, buckets, probes_of)


def _read_probes(
    loss_fn: LossFn,
    params: Params,
    zeros: dict[str, Array],
    probes_of: Callable[[dict[str, Array]], dict[str, Any]],
) -> tuple[Losses, Params, dict[str, Array]]:
    """(losses, gradient of their sum, "gradient" of the zeros that the probes are made of).

    Raises:
      ValueError: a probe that the loss has no use for.
    """

    def total(params, zeros):
        losses, aux = loss_fn(params, unflatten_dict(probes_of(zeros), sep="/"))
        return jnp.sum(losses), (losses, aux)

    _check_used(lambda given: loss_fn(params, unflatten_dict(given, sep="/"))[0], probes_of(zeros))
    (grads, read), losses = jax.grad(total, argnums=(0, 1), has_aux=True)(params, zeros)
    return losses, grads, read


def _check_used(losses: Callable[[dict[str, Any]], Array], probes: dict[str, Any]) -> None:
    """A probe that nothing takes would read zeros: conflict of a parameter that isn't shared, or
    whose uses don't go through `mtl_t5x.gradients.probes`."""
    jaxpr = jax.make_jaxpr(losses)(probes).jaxpr
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    unused = [name for name, is_used in zip(sorted(probes), used, strict=True) if not is_used]
    if unused:
        raise ValueError(
            f"the conflict in {', '.join(unused[:5])}{', …' if len(unused) > 5 else ''} can't be "
            "measured: these parameters are not shared by the tasks (a decoder per task, a head), "
            "or the model uses them without mtl_t5x.gradients.probes. Leave them out of the "
            "conflict groups"
        )


def unexplained(
    grads: Mapping[str, Array], per_task: Mapping[str, Array]
) -> dict[str, Float[Array, ""]]:
    """||g - sum_k g_k|| / (||g|| + sum_k ||g_k||) by name: 0 but for rounding if all uses count."""

    def norm(array):
        return jnp.sqrt(jnp.sum(jnp.square(array)))

    return {
        name: norm(grads[name] - value.sum(axis=0))
        / jnp.maximum(norm(grads[name]) + sum(map(norm, value)), jnp.finfo(jnp.float32).tiny)
        for name, value in per_task.items()
    }


def check_explained(unexplained: Mapping[str, Float[np.ndarray, ""]]) -> None:
    """Raises ValueError where more than rounding is unexplained."""
    names = [name for name, part in unexplained.items() if part > 1e-3]
    if names:
        raise ValueError(
            f"the tasks' gradients of {', '.join(names)} don't add up to the gradient: the model "
            "also uses these parameters in places that don't go through mtl_t5x.gradients.probes"
        )
