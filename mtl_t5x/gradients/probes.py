"""How a parameter is used, so that the backward pass can tell the tasks apart.

Every weight of the model goes through one of the functions below. Activations carry the task as
their first axis, `[task, batch, length, features]`, and no operation mixes tasks, so the rows of
the cotangent that belong to task k hold nothing but the derivative of task k's loss. The backward
pass of a weight can therefore form the K per-task gradients of that one weight, hand on their sum
as the weight's ordinary gradient, and hand out what was asked for as the "gradient" of a *probe*:
an extra argument of zeros that the forward pass never reads. The probe's shape says what is asked
for:

* `[task, task]`: the Gram matrix of this weight's per-task gradients;
* `[task, 1, *weight.shape]`: the per-task gradients themselves (the 1 tells the two apart);
* a `Sketch`: the per-task gradients in fewer numbers, added up over all the weights that share it;
* `None`: nothing; the program is that of a plain step.

A probe may have more rows than there are tasks, a multiple: each task's examples then are cut into
so many parts, and `task` in these shapes means task and part. The parts' gradients add up to the
task's.

Only one weight's per-task gradients exist at a time, so memory doesn't grow with the model.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mtl_t5x.conflict import metrics as conflict_metrics
from mtl_t5x.parallel.sharding import MODEL


@functools.partial(jax.tree_util.register_dataclass, data_fields=["buckets"], meta_fields=["seed"])
@dataclasses.dataclass(frozen=True)
class Sketch:
    """A probe that reads a count sketch: every entry of a gradient, with a random sign, is added to
    one of `width` buckets. Inner products of sketches are unbiased for those of the gradients, with
    a variance of at most 2 ||x||^2 ||y||^2 / width, and sketches are linear: those of several
    weights add up, if each weight has a `seed` of its own, and so do those of parts of a batch.

    Source: Charikar, Chen, Farach-Colton 2002; as a map that keeps inner products, Weinberger et
    al. 2009 (arXiv 0902.2206). Here the entries of a row of `width` neighbours go to different
    buckets, in their order from a random one on, so that no scatter is needed.
    """

    buckets: Any  # [task, width]; JAX puts placeholders in their place at times
    seed: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.buckets.shape


Probe = Float[Array, "task *_"] | Sketch | None


def dot(
    x: Float[Array, "*batch inputs"],
    weight: Float[Array, "inputs outputs"],
    probe: Probe = None,
) -> Float[Array, "*batch outputs"]:
    """`x @ weight` in x's precision; `x` is `[task, batch, …, inputs]` where there is a probe."""
    return dots(x, (weight,), (probe,))[0]


@jax.custom_vjp
def dots(
    x: Float[Array, "*batch inputs"],
    weights: tuple[Float[Array, "inputs outputs"], ...],
    probes: tuple[Probe, ...],
) -> tuple[Float[Array, "*batch outputs"], ...]:
    """`dot` of one x with each of several weights."""
    del probes
    return tuple(x @ weight.astype(x.dtype) for weight in weights)


def _dots_forward(x, weights, probes):
    return dots(x, weights, probes), (x, weights, probes)


def _dots_backward(residuals, dys):
    x, weights, probes = residuals
    tasks = next((probe.shape[0] for probe in probes if probe is not None), None)
    dx, of_weights = jax.lax.platform_dependent(
        *(x, weights, dys),
        tpu=functools.partial(_gradients_on_tpu, tasks=tasks),
        default=functools.partial(_gradients, tasks=tasks),
    )
    if tasks is None:
        return dx, of_weights, probes
    readings = tuple(
        None if probe is None else _read(per_task, probe)
        for per_task, probe in zip(of_weights, probes, strict=True)
    )
    return dx, tuple(per_task.sum(axis=0) for per_task in of_weights), readings


dots.defvjp(_dots_forward, _dots_backward)


def _gradients(x, weights, dys, tasks):
    """(of x, of each weight), these with a first axis of `tasks` unless that is None."""
    # One flat product: on CPUs autodiff's product over several batch axes is slower.
    leading = () if tasks is None else (tasks,)
    x, *flat = (array.reshape(*leading, -1, array.shape[-1]) for array in (x, *dys))
    return _product_each(dys, weights), _products_with(x, flat, weights, len(leading))


def _gradients_on_tpu(x, weights, dys, tasks):
    """As `_gradients`. Nothing is made flat: attention has each head's positions together, which a
    TPU would lay out anew. And that of x is one product, of which no partial sums are written. (T5
    1.1 base on v5e, by its compiler's estimate: 41 M cycles a step; 44 M with products of each
    weight; 52 M with flat ones, too.)
    """
    # Columns that are split over devices can't be joined without moving them.
    if jax.sharding.get_abstract_mesh().shape.get(MODEL, 1) == 1:
        joined = jnp.concatenate(weights, axis=1)
        dx = _product_each([jnp.concatenate(dys, axis=-1)], [joined])
    else:
        dx = _product_each(dys, weights)
    if tasks is not None:
        x, *dys = (array.reshape(tasks, -1, *array.shape[2:]) for array in (x, *dys))
    return dx, _products_with(x, dys, weights, 0 if tasks is None else 1)


def _product_each(dys, weights):
    """The sum of dy weight^T."""
    products = (dy @ weight.astype(dy.dtype).T for dy, weight in zip(dys, weights, strict=True))
    return functools.reduce(jnp.add, products)


def _products_with(x, dys, weights, batched):
    """x^T dy of each dy, for each index of so many first axes, in the weights' precision."""
    summed = range(batched, x.ndim - 1)
    axes = ((summed, summed), (range(batched), range(batched)))
    return tuple(
        jax.lax.dot_general(x, dy, axes, preferred_element_type=weight.dtype)
        for dy, weight in zip(dys, weights, strict=True)
    )


def spread(weight: Float[Array, "*shape"], probe: Probe) -> Float[Array, "*task_and_shape"]:
    """A copy of `weight` per task, `[task, *shape]`, for every use that is no matrix product.

    Without a probe the weight comes back as it is. A weight that is used in several places must be
    spread once and the copies passed on, because the Gram matrix of a sum of gradients is not the
    sum of their Gram matrices.
    """
    return weight if probe is None else _spread(weight, probe)


@jax.custom_vjp
def _spread(weight, probe):
    return jnp.broadcast_to(weight, (probe.shape[0], *weight.shape))


def _spread_forward(weight, probe):
    return _spread(weight, probe), probe


def _spread_backward(probe, per_task):
    return per_task.sum(axis=0), _read(per_task, probe)


_spread.defvjp(_spread_forward, _spread_backward)


@jax.custom_vjp
def weigh(x: Float[Array, "task *rest"], weights: Float[Array, "task *_"]) -> Array:
    """`x` as it is, whose cotangent is multiplied by the weights of its first axes.

    What `x` was computed from gets its task's gradient that many times; what is computed from `x`
    gets its own.
    """
    del weights
    return x


def _weigh_forward(x, weights):
    return x, weights


def _weigh_backward(weights, cotangent):
    axes = tuple(range(weights.ndim, cotangent.ndim))
    return cotangent * jnp.expand_dims(weights, axes).astype(cotangent.dtype), None


weigh.defvjp(_weigh_forward, _weigh_backward)


def for_examples(
    copies: Float[Array, "task *shape"], tasks: int, examples: int
) -> Float[Array, "tasks _ *shape"]:
    """The copies that `spread` made, laid against activations `[task, batch, …]`.

    `[task, 1, *shape]`, or `[task, batch, *shape]` where each task has several copies.
    """
    if copies.shape[0] == tasks:
        return copies[:, None]
    shape = copies.shape[1:]
    repeated = jnp.broadcast_to(
        copies[:, None], (copies.shape[0], tasks * examples // copies.shape[0], *shape)
    )
    return repeated.reshape(tasks, examples, *shape)


def _read(per_task: Float[Array, "task *shape"], probe: Probe) -> Array | Sketch:
    """What the probe asks for: the per-task gradients, their Gram matrix or their sketch."""
    if isinstance(probe, Sketch):
        return Sketch(sketch(per_task, probe.buckets.shape[1], probe.seed), probe.seed)
    if probe.ndim > 2:
        return per_task.reshape(probe.shape).astype(probe.dtype)
    return conflict_metrics.gram_matrix(per_task.astype(probe.dtype))


def sketch(
    per_task: Float[Array, "task *shape"], width: int, seed: int
) -> Float[Array, "task width"]:
    """The count sketch of each task's gradient; see `Sketch`."""
    flat = per_task.reshape(per_task.shape[0], -1)
    size = flat.shape[1]
    blocks = -(-size // width)
    signed = flat * _signs(size, seed)
    signed = jnp.pad(signed, ((0, 0), (0, blocks * width - size)))
    shifts = np.random.default_rng(seed).integers(0, width, blocks)
    return sum(
        jnp.roll(signed[:, i * width : (i + 1) * width], int(shift), axis=1)
        for i, shift in enumerate(shifts)
    )


def _signs(size: int, seed: int) -> Float[Array, " size"]:
    """Random signs, a bit of a mixed counter each (murmur3's finaliser, by A. Appleby)."""
    salt = np.random.default_rng(seed).integers(0, 2**32, 2, np.uint32)
    bits = (jnp.arange(size, dtype=jnp.uint32) + salt[0]) * jnp.uint32(0x9E3779B1)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    bits = bits ^ (bits >> 16) ^ salt[1]
    return 1.0 - 2.0 * (bits & 1).astype(jnp.float32)
