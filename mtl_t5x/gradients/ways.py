"""A step's gradients by whichever way fits: at once, in microbatches, over several devices.

`one_pass` is the idea: its `gradient` is a plain step's, and its `gradient_and_grams` measures the
conflict in the same pass. The others may be skipped: `accumulation` (microbatches) and `over_mesh`
(several devices) come to the same numbers, in another order of work.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from mtl_t5x.gradients import accumulation, one_pass, over_mesh
from mtl_t5x.parallel import sharding

Grams = dict[str, Float[Array, "row row"]]


def gradient_and_grams(
    loss_fn: accumulation.LossFn,
    weigh: accumulation.Weigh,
    params: one_pass.Params,
    batch: accumulation.Batch,
    key: Array,
    *,
    groups: Mapping[str, str],
    layout: sharding.Layout | None = None,
    microbatches: int = 1,
    parts: int = 1,
    frozen: Collection[str] = (),
) -> tuple[Float[Array, " task"], one_pass.Params, Grams]:
    """(losses, gradient of their sum, exact Gram matrix of each group).

    Args:
      loss_fn, weigh, params, batch, key: as for `accumulation.accumulate`.
      groups: a group's name to the regular expression of its parameters' names.
      layout: where the parameters and the batch live; None: on one device.
      microbatches: what the examples are computed in, one after the other.
      parts: of each task's examples, whose gradients are told apart: the matrices' rows.
      frozen: names of parameters that are constants of the loss: their gradient, 0, isn't sent.
    """

    def at_once(params, probes):
        return loss_fn(params, probes, batch, key), None

    if layout is None and microbatches == 1 and not groups:
        (losses, _), grads = one_pass.gradient(at_once, params)
        return losses, grads, {}
    if layout is None and microbatches == 1:
        rows = batch["encoder_input_tokens"].shape[0] * parts
        (losses, _), grads, grams = one_pass.gradient_and_grams(at_once, params, rows, groups)
        return losses, grads, grams
    if layout is None:
        selected = one_pass.select(params, groups)
        losses, grads, per_task = accumulation.accumulate(
            loss_fn, weigh, params, batch, key, total=weigh(batch),
            measured=sorted({name for names in selected.values() for name in names}),
            microbatches=microbatches, parts=parts,
        )  # fmt: skip
        return losses, grads, accumulation.grams(per_task, selected)
    return over_mesh.gradient_and_grams(
        loss_fn, weigh, params, batch, key, layout=layout,
        groups=groups, microbatches=microbatches, parts=parts, frozen=frozen,
    )  # fmt: skip


def grams_then_gradient(
    loss_fn: accumulation.LossFn,
    weigh: accumulation.Weigh,
    params: one_pass.Params,
    batch: accumulation.Batch,
    key: Array,
    *,
    shared: str,
    groups: Mapping[str, str],
    keep: bool,
    layout: sharding.Layout | None = None,
    microbatches: int = 1,
    parts: int = 1,
    frozen: Collection[str] = (),
) -> tuple[Float[Array, " task"], Grams, Callable[[Float[Array, " task"]], one_pass.Params]]:
    """(losses, Gram matrix of each group, weights -> gradient).

    The gradient is that of the losses' sum, where the tasks' gradients of the parameters that the
    expression `shared` matches are multiplied by the weights. With `keep` these are kept, K times
    their memory, over several devices K / devices times; else a second backward pass makes it,
    which is for one device and one microbatch. The other arguments are those of
    `gradient_and_grams`.
    """
    if not keep:

        def at_once(params, probes):
            return loss_fn(params, probes, batch, key), None

        rows = batch["encoder_input_tokens"].shape[0] * parts
        (losses, _), grams, weighted = one_pass.grams_then_gradient(
            at_once, params, rows, groups, shared
        )
        return losses, grams, weighted
    options = {"groups": groups, "microbatches": microbatches, "parts": parts}
    if layout is not None:
        losses, grams, weighted = over_mesh.keeping_gradients(
            loss_fn, weigh, params, batch, key, layout=layout, kept=shared, frozen=frozen, **options
        )
    else:
        losses, grams, weighted = accumulation.keeping_gradients(
            loss_fn, weigh, params, batch, key, kept=shared, **options
        )
    return losses, grams, lambda weights: weighted(jnp.repeat(weights, parts))
