"""Per-task gradients of many batches: their sums, as they are or as sketches, one batch at a time.

Where the tasks' gradients are means over more examples than a step has, they are added up batch by
batch: as they are, which takes K times the memory of the measured parameters, or as count sketches
(`probes.Sketch`), K times their width. On a mesh every device holds an equal part of the sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, Int

from mtl_t5x.conflict import metrics as conflict_metrics
from mtl_t5x.gradients import accumulation, one_pass, over_mesh
from mtl_t5x.parallel import sharding

Groups = Mapping[str, tuple[str, ...]]  # a group's name to its parameters' names


class Sums(NamedTuple):
    """Over batches.

    Attributes:
      losses: [task].
      per_task: gradients [task, *shape] by parameter; or sketches [task, width] by sets of
        parameters that are in the same groups.
      squared_norms: of each batch's gradients, [task] by group.
    """

    losses: Float[Array, " task"]
    per_task: dict[str, Float[Array, "task *_"]]
    squared_norms: dict[str, Float[Array, " task"]]


def add(
    sums: Sums | None,
    loss_fn: accumulation.LossFn,
    weigh: accumulation.Weigh,
    params: one_pass.Params,
    batch: accumulation.Batch,
    tasks: Int[Array, " row"],
    *,
    num_tasks: int,
    groups: Groups,
    width: int | None = None,
    microbatches: int = 1,
    scale: Mapping[str, Array] | None = None,
    layout: sharding.Layout | None = None,
) -> tuple[Sums, dict[str, Float[Array, ""]] | None]:
    """(the sums with a batch more, and on the first exact one what part of each parameter's
    gradient the rows' don't account for).

    Args:
      sums: None: there are none yet.
      loss_fn, weigh: as for `accumulation.accumulate`, with rows for tasks; the loss takes no
        notice of its key.
      params, batch: where, and of what `[row, batch, …]`, the gradients are.
      tasks: the number of each row's task; what is no task's isn't added.
      num_tasks: K.
      groups: see there.
      width: of the sketches; None: gradients as they are.
      microbatches: what the batch's examples are computed in, one after the other; the sums are
        those of the whole.
      scale: factors by parameter that the gradients are multiplied by.
      layout: where the sums live; None: on one device.
    """
    losses, per_row, grads = _of_batch(
        loss_fn, weigh, params, batch, len(tasks),
        groups=groups, width=width, microbatches=microbatches, with_gradient=sums is None,
    )  # fmt: skip
    unexplained = None
    if grads is not None:
        unexplained = one_pass.unexplained(flatten_dict(grads, sep="/"), per_row)
    if scale is not None:
        per_row = {name: value * scale[name] for name, value in per_row.items()}
    rows = Sums(losses, per_row, _squared_norms(per_row, groups, width))
    if sums is None:
        sums = jax.tree.map(lambda row: jnp.zeros((num_tasks, *row.shape[1:]), row.dtype), rows)
    added = jax.tree.map(lambda so_far, row: so_far.at[tasks].add(row, mode="drop"), sums, rows)
    return _spread(added, width, layout), unexplained


def _of_batch(
    loss_fn: accumulation.LossFn,
    weigh: accumulation.Weigh,
    params: one_pass.Params,
    batch: accumulation.Batch,
    rows: int,
    *,
    groups: Groups,
    width: int | None,
    microbatches: int,
    with_gradient: bool,
) -> tuple[Float[Array, " row"], dict[str, Float[Array, "row *_"]], one_pass.Params | None]:
    """(losses, what `Sums.per_task` adds up, and of exact ones the gradient where it is asked
    for)."""
    total = weigh(batch)

    def of_microbatch(batch, key):
        share = accumulation.share_of(weigh(batch), total)

        def scaled(params, probes):
            return loss_fn(params, probes, batch, key) * share, None

        if width is not None:
            (losses, _), _, sketches = one_pass.gradient_and_sketches(
                scaled, params, rows, _atoms(groups), width
            )
            return losses, sketches, None
        pattern = "|".join(sorted({name for members in groups.values() for name in members}))
        (losses, _), grads, per_row = one_pass.per_task_gradients(scaled, params, rows, pattern)
        return losses, per_row, grads if with_gradient else None

    return accumulation.added(of_microbatch, batch, jax.random.key(0), microbatches)


def gram(
    sums: Sums,
    group: str,
    number: Int[np.ndarray, " task"],
    *,
    groups: Groups,
    width: int | None = None,
    layout: sharding.Layout | None = None,
) -> tuple[Float[np.ndarray, "task task"], Float[np.ndarray, "task width"] | None]:
    """(Gram matrix, sketches where there are any) of a group's mean gradients, each task's over its
    `number` of batches."""
    per_task = [sums.per_task[key] for key in _keys(groups, group, width)]
    if width is not None:
        sketches = np.asarray(sum(per_task), np.float64) / number[:, None]
        return conflict_metrics.gram_matrix(sketches), sketches
    added = sum(
        np.asarray(over_mesh.gram_matrix(summed, layout), np.float64) for summed in per_task
    )
    return added / np.outer(number, number), None


def _squared_norms(
    per_task: Mapping[str, Float[Array, "task *_"]], groups: Groups, width: int | None
) -> dict[str, Float[Array, " task"]]:
    found = {}
    for group in groups:
        members = [per_task[key] for key in _keys(groups, group, width)]
        members = members if width is None else [sum(members)]
        found[group] = sum(
            jnp.sum(jnp.square(value.reshape(len(value), -1)), 1) for value in members
        )
    return found


def _atoms(groups: Groups) -> dict[str, tuple[str, ...]]:
    """Sets of parameters that are in the same groups: every group is a union of these."""
    membership = {}
    for group, names in groups.items():
        for name in names:
            membership[name] = (*membership.get(name, ()), group)
    atoms = {}
    for name, member_of in membership.items():
        atoms.setdefault("|".join(member_of), []).append(name)
    return {atom: tuple(names) for atom, names in atoms.items()}


def _keys(groups: Groups, group: str, width: int | None) -> list[str]:
    """What the group's gradients are kept under: parameters' names, or atoms of sketches."""
    if width is None:
        return list(groups[group])
    return [atom for atom in _atoms(groups) if group in atom.split("|")]


def _spread(sums: Sums, width: int | None, layout: sharding.Layout | None) -> Sums:
    """Per-task gradients are split over the devices; the rest, sketches too, is whole on each."""
    if layout is None:
        return sums
    places: Any = jax.tree.map(lambda _: layout.everywhere, sums)
    if width is None:
        columns = {name: layout.columns(value.shape[1:]) for name, value in sums.per_task.items()}
        places = places._replace(per_task=columns)
    return jax.lax.with_sharding_constraint(sums, places)
