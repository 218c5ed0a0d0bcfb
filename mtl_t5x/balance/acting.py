"""A step's gradients with the tasks weighted: by given weights, or by a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from mtl_t5x.balance import weighing
from mtl_t5x.balance.balance import Balance
from mtl_t5x.balance.method import Measured, State, Weights
from mtl_t5x.conflict import metrics as conflict_metrics

# What `Balance.parameters` are called among the groups whose Gram matrix is measured.
GROUP = "balance.Balance.parameters"

Losses = Float[Array, " task"]
Groups = Mapping[str, str]
Grams = dict[str, Float[Array, "row row"]]
Gradient = Any  # a tree like the parameters


class Gradients(NamedTuple):
    """How a step gets its gradients; the matrices' rows are of tasks, or of their halves.

    Attributes:
      weighted: weights (None: 1 each) and groups to (losses, the gradient of the losses' sum, Gram
        matrix of each group), the tasks' gradients of the shared parameters being multiplied by the
        weights in what is summed and in the matrices.
      measured: groups to (losses, Gram matrix of each group, weights -> gradient).
    """

    weighted: Callable[[Weights | None, Groups], tuple[Losses, Gradient, Grams]]
    measured: Callable[[Groups], tuple[Losses, Grams, Callable[[Weights], Gradient]]]


class Acted(NamedTuple):
    """What came of it: the gradient to apply, the Gram matrices of the tasks' own gradients, what
    is remembered, and metrics of the weights."""

    losses: Losses
    gradient: Gradient
    grams: Grams
    remembered: dict[str, Any] | None
    metrics: dict[str, Array]


def act(
    balance: Balance,
    remembered: dict[str, Any] | None,
    task_weights: Weights | None,
    gradients: Gradients,
    groups: Groups,
    key: Array,
) -> Acted:
    """The gradients of one step.

    Args:
      balance: whose method, if it has one, weighs the tasks; else `task_weights` do.
      remembered: as `weighing.init` began it, or what the last step gave.
      task_weights: of the tasks; None: 1 each, and nothing is said of them.
      gradients: how to get them.
      groups: in which parameters the conflict is measured.
      key: of this step.
    """
    if balance.method is not None:
        return _by_method(balance, remembered, gradients, groups, key)
    if task_weights is None:
        losses, gradient, grams = gradients.weighted(None, groups)
        return Acted(losses, gradient, grams, None, {})
    if groups:
        groups = {**groups, GROUP: balance.parameters}
    losses, gradient, grams = gradients.weighted(task_weights, groups)
    grams = {group: weighing.unweighted(gram, task_weights) for group, gram in grams.items()}
    return Acted(losses, gradient, grams, None, _metrics(task_weights, grams))


def _by_method(
    balance: Balance,
    remembered: dict[str, Any],
    gradients: Gradients,
    groups: Groups,
    key: Array,
) -> Acted:
    if balance.method.NEEDS != "losses" or groups:
        groups = {**groups, GROUP: balance.parameters}

    def decide(losses: Losses, grams: Grams) -> tuple[Weights, State, Array]:
        measured = _measured(losses, grams.get(GROUP), key)
        return weighing.weigh(balance.method, remembered["method"], measured)

    if balance.applied == "lagged":
        weights = remembered["weights"]
        losses, gradient, grams = gradients.weighted(weights, groups)
        grams = {group: weighing.unweighted(gram, weights) for group, gram in grams.items()}
        following, state, unusable = decide(losses, grams)
        following = weighing.lifted(following, balance.floor)
    else:
        losses, grams, gradient_for = gradients.measured(groups)
        following, state, unusable = decide(losses, grams)
        weights, gradient = following, gradient_for(following)
    metrics = _metrics(weights, grams) | {"unusable": unusable}
    return Acted(losses, gradient, grams, {"weights": following, "method": state}, metrics)


def _measured(losses: Losses, gram: Float[Array, "row row"] | None, key: Array) -> Measured:
    has_halves = gram is not None and len(gram) > len(losses)
    return Measured(
        losses,
        gram=None if gram is None else _of_tasks(gram, len(losses)),
        halves=gram if has_halves else None,
        key=key,
    )


def _of_tasks(gram: Float[Array, "row row"], tasks: int) -> Float[Array, "task task"]:
    return gram if len(gram) == tasks else conflict_metrics.add_halves(gram)


def _metrics(weights: Weights, grams: Grams) -> dict[str, jax.Array]:
    metrics = {"weights": weights}
    if GROUP in grams:
        metrics |= weighing.effect(_of_tasks(grams.pop(GROUP), len(weights)), weights)
    return metrics
