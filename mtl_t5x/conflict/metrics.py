"""Conflict numbers from the Gram matrix of the task gradients; arrays in, arrays out.

With g_k the gradient of task k's loss and G_ij = <g_i, g_j>. Source of the definitions: Mueller,
Andrews, Dredze, "Do Text-to-Text Multi-Task Learners Suffer from Task Conflict?", Findings of
EMNLP 2022. A task whose gradient is zero has no direction: its cosines, and every number made of
them, are NaN.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

Gram = Float[Array, "task task"]
Scalar = Float[Array, ""]


def norms(gram: Gram) -> Float[Array, " task"]:
    """||g_k||, in units of loss per unit of parameter."""
    return jnp.sqrt(jnp.diagonal(gram))


def cosine(gram: Gram) -> Gram:
    """cos(g_i, g_j); 1 on the diagonal."""
    length = norms(gram)
    return gram / (length[:, None] * length[None, :])


def directional(gram: Gram) -> Scalar:
    """C_dir = ||(1/K) sum_k g_k/||g_k|| ||^2 - 1/K = (1/K^2) sum_{i != j} cos_ij.

    0: orthogonal; (K-1)/K: aligned; -1/K: the most conflict there can be.
    """
    tasks = gram.shape[0]
    return (jnp.sum(cosine(gram)) - tasks) / tasks**2


def magnitude(gram: Gram) -> Scalar:
    """C_mg = (1/K) sum_k (||g_k||^2 - ||sum_j g_j||^2)^2."""
    return jnp.mean((jnp.diagonal(gram) - jnp.sum(gram)) ** 2)


def mean_cosine(gram: Gram) -> Scalar:
    """Mean over the pairs i != j of cos(g_i, g_j); NaN for one task, which has no pair."""
    tasks = gram.shape[0]
    if tasks == 1:
        return jnp.full((), jnp.nan, gram.dtype)
    return directional(gram) * tasks / (tasks - 1)


def reference_directional(gram: Gram) -> Scalar:
    """x = ||mean of the unit gradients||, the form that the original code logs.

    Mean pairwise cosine = (K x^2 - 1)/(K - 1); orthogonal tasks give 1/sqrt(K).
    """
    return jnp.sqrt(jnp.maximum(jnp.mean(cosine(gram)), 0.0))


def reference_magnitude(gram: Gram) -> Scalar:
    """Variance over the tasks of ||g_k||^2, the form that the original code logs."""
    return jnp.var(jnp.diagonal(gram))


def of_halves(halves: Float[Array, "parts parts"]) -> Gram:
    """The tasks' Gram matrix from that of the halves of their batches.

    Row 2k + h is half h of task k, scaled to its share of the task's loss: the halves' gradients
    add up to the task's.
    """
    tasks = halves.shape[0] // 2
    return halves.reshape(tasks, 2, tasks, 2).sum(axis=(1, 3))


def unbiased(halves: Float[Array, "parts parts"]) -> Gram:
    """Inner products of independent gradients: E is the Gram matrix of the expected gradients.

    <g_i, g_j> for two tasks; 4 <a_k, b_k> on the diagonal, of the two halves' gradients a + b =
    g_k, which can be negative. Of a loss over tokens this holds for its sum; see
    `conflict_estimates.pooled`.
    """
    tasks = halves.shape[0] // 2
    across = jnp.diagonal(halves, offset=1)[::2]
    gram = of_halves(halves)
    return jnp.where(jnp.eye(tasks, dtype=bool), jnp.diag(4 * across), gram)


def numbers(gram: Gram) -> dict[str, Array]:
    """Every number above by its name: scalars, `norms` [task] and `cosine` [task, task]."""
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
