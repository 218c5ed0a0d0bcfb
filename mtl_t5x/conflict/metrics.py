"""Conflict metrics from the Gram matrix of the task gradients; arrays in, arrays out.

With g_k the gradient of task k's loss and G_ij = <g_i, g_j>. Source of the definitions: Mueller,
Andrews, Dredze, "Do Text-to-Text Multi-Task Learners Suffer from Task Conflict?", Findings of
EMNLP 2022. Every function takes JAX's arrays, within jit too, or NumPy's, and any number of leading
axes, as of steps. A task whose squared norm isn't positive (a gradient of zeros, or an unbiased
estimate below 0) has no direction: its cosines, and every metric made of them, are NaN. One task
has no pair: its mean cosine is NaN, its directional conflict 0.
"""

from __future__ import annotations

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Gram = Float[Array | np.ndarray, "*steps task task"]
Halves = Float[Array | np.ndarray, "*steps part part"]
PerTask = Float[Array | np.ndarray, "*steps task"]
Scalar = Float[Array | np.ndarray | np.floating, "*steps"]


def gram_matrix(
    *gradients: Float[Array | np.ndarray, "task *shape"],
) -> Float[Array | np.ndarray, "task task"]:
    """G_ij = <g_i, g_j> of per-task gradients: of one parameter, or of several of one shape.

    The Gram matrices of parts of the gradients add up.
    """
    if isinstance(gradients[0], np.ndarray):
        return sum(np.tensordot(g, g, (range(1, g.ndim), range(1, g.ndim))) for g in gradients)
    # On accelerators float32 products default to fewer bits; cosines near 0 need them. A TPU's HIGH
    # takes 16 of a factor's 24, which leaves a cosine exact to about 2^-17, in half the passes.
    product_on_tpu = functools.partial(_product, precision=jax.lax.Precision.HIGH)
    few = len(gradients[0]) <= _FEW_TASKS
    return jax.lax.platform_dependent(
        *gradients, tpu=_each_product if few else product_on_tpu, default=_flat_product
    )


def _flat_product(*gradients: Float[Array, "task *shape"]) -> Float[Array, "task task"]:
    """Of vectors: of several axes a CPU transposes one factor, which takes twice as long again."""
    vectors = [of_one.reshape(len(of_one), math.prod(of_one.shape[1:])) for of_one in gradients]
    return _product(*vectors, precision=jax.lax.Precision.HIGHEST)


def _product(
    *gradients: Float[Array, "task *shape"], precision: jax.lax.Precision
) -> Float[Array, "task task"]:
    """In their shape: a TPU would lay flat ones out anew."""
    axes = tuple(range(1, gradients[0].ndim))
    each = functools.partial(jnp.tensordot, axes=(axes, axes), precision=precision)
    return functools.reduce(jnp.add, map(each, gradients, gradients))


_FEW_TASKS = 12  # with more, so many sums would take the compiler long


def _each_product(*gradients: Float[Array, "task *shape"]) -> Float[Array, "task task"]:
    """A sum for each pair of tasks. A TPU computes all of them, and the tasks' sum, in one pass
    over the gradients (`runtime.tpu_compiler`), in float32; a matrix product takes a second one."""
    tasks = range(len(gradients[0]))
    of_pairs = {
        (i, j): jnp.sum(functools.reduce(jnp.add, (of_one[i] * of_one[j] for of_one in gradients)))
        for i, j in itertools.combinations_with_replacement(tasks, 2)
    }
    ordered = [of_pairs[min(i, j), max(i, j)] for i, j in itertools.product(tasks, repeat=2)]
    return jnp.stack(ordered).reshape(len(tasks), len(tasks))


def squared_norms(gram: Gram) -> PerTask:
    """||g_k||^2."""
    return gram.__array_namespace__().linalg.diagonal(gram)


def norms(gram: Gram) -> PerTask:
    """||g_k||, in units of loss per unit of parameter; NaN for an estimate below 0."""
    xp = gram.__array_namespace__()
    squares = squared_norms(gram)
    return xp.sqrt(xp.where(squares >= 0, squares, xp.nan))


def cosine(gram: Gram) -> Gram:
    """cos(g_i, g_j); 1 on the diagonal."""
    xp = gram.__array_namespace__()
    length = norms(gram)
    length = xp.where(length > 0, length, xp.nan)
    return gram / (length[..., :, None] * length[..., None, :])


def directional(gram: Gram) -> Scalar:
    """C_dir = ||(1/K) sum_k g_k/||g_k|| ||^2 - 1/K = (1/K^2) sum_{i != j} cos_ij.

    0: orthogonal; (K-1)/K: aligned; -1/K: the most conflict there can be.
    """
    tasks = gram.shape[-1]
    return (cosine(gram).sum(axis=(-2, -1)) - tasks) / tasks**2


def magnitude(gram: Gram) -> Scalar:
    """C_mg = (1/K) sum_k (||g_k||^2 - ||sum_j g_j||^2)^2."""
    return (differences(gram) ** 2).mean(axis=-1)


def differences(gram: Gram) -> PerTask:
    """||g_k||^2 - ||sum_j g_j||^2: what the magnitude conflict is the mean square of."""
    return squared_norms(gram) - gram.sum(axis=(-2, -1))[..., None]


def mean_cosine(gram: Gram) -> Scalar:
    """Mean over the pairs i != j of cos(g_i, g_j); NaN for one task, which has no pair."""
    tasks = gram.shape[-1]
    if tasks == 1:
        return gram[..., 0, 0] * np.nan
    return directional(gram) * tasks / (tasks - 1)


def reference_directional(gram: Gram) -> Scalar:
    """x = ||mean of the unit gradients||, the form that the original code logs.

    Mean pairwise cosine = (K x^2 - 1)/(K - 1); orthogonal tasks give 1/sqrt(K).
    """
    xp = gram.__array_namespace__()
    return xp.sqrt(xp.maximum(cosine(gram).mean(axis=(-2, -1)), 0.0))


def reference_magnitude(gram: Gram) -> Scalar:
    """Variance over the tasks of ||g_k||^2, the form that the original code logs."""
    return squared_norms(gram).var(axis=-1)


def all_metrics(gram: Gram) -> dict[str, Scalar | PerTask | Gram]:
    """Every metric above by its name: scalars, `norms` [task] and `cosine` [task, task]."""
    functions = (
        directional,
        magnitude,
        mean_cosine,
        reference_directional,
        reference_magnitude,
        norms,
        cosine,
    )
    return {function.__name__: function(gram) for function in functions}


def add_halves(halves: Halves) -> Gram:
    """The tasks' Gram matrix from that of the halves of their batches.

    Row 2k + h is half h of task k, scaled to its share of the task's loss: the halves' gradients
    add up to the task's.
    """
    *steps, parts, _ = halves.shape
    return halves.reshape(*steps, parts // 2, 2, parts // 2, 2).sum(axis=(-3, -1))


def unbiased(halves: Halves) -> Gram:
    """Inner products of independent gradients: E is the Gram matrix of the expected gradients.

    <g_i, g_j> for two tasks; 4 <a_k, b_k> on the diagonal, of the two halves' gradients a + b =
    g_k, which can be negative. Of a loss over tokens this holds for its sum; see
    `estimates.pooled`.
    """
    xp = halves.__array_namespace__()
    across = xp.linalg.diagonal(halves, offset=1)[..., ::2]
    own = xp.eye(halves.shape[-1] // 2, dtype=bool)
    return xp.where(own, 4 * across[..., None], add_halves(halves))
