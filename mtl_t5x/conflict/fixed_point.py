"""From the Gram matrix at a fixed point to the figures of `conflict.json`, and these as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mtl_t5x.conflict import estimates as conflict_estimates
from mtl_t5x.conflict import metrics as conflict


def of_group(
    gram: Float[np.ndarray, "task task"],
    sketches: Float[np.ndarray, "task width"] | None,
    small_squares: Float[np.ndarray, " task"],
    examples: int,
    piece: int,
    by_task: Callable[[np.ndarray], dict[str, float | None]],
) -> dict[str, Any]:
    """A group's figures by name.

    Args:
      gram: of the tasks' gradients over all the examples.
      sketches: what it was made from, if that is sketches.
      small_squares: means over the pieces of ||g_k||^2.
      examples: per task.
      piece: examples per task and piece.
      by_task: names a value per task.
    """
    noise = conflict_estimates.noise(np.diagonal(gram), small_squares, examples, piece)
    unbiased = gram.copy()
    np.fill_diagonal(unbiased, noise.squared_norm)
    numbers = jax.tree.map(np.asarray, conflict.numbers(jnp.asarray(gram, jnp.float32)))
    figures = {
        name: value.tolist() if value.ndim else float(value)
        for name, value in numbers.items()
        if name != "norms"
    }
    figures["norms"] = by_task(numbers["norms"])
    for name, number in conflict_estimates.NUMBERS.items():
        figures[f"unbiased_{name}"] = _finite(number(unbiased))
    figures["squared_norm"] = by_task(noise.squared_norm)
    figures["noise_trace"] = by_task(noise.trace)
    figures["noise_scale"] = by_task(noise.scale)
    if sketches is not None:
        error = conflict_estimates.sketch_error(sketches)
        figures["cosine_error"] = error.tolist()
    return figures


def by_task(tasks: Sequence[str], values: np.ndarray) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in zip(tasks, values, strict=True)}


def _finite(value: Any) -> float | None:
    """JSON has no NaN."""
    return float(value) if np.isfinite(value) else None


def table(result: Mapping[str, Any]) -> str:
    """The figures as text: a line per group, then the tasks' of the first group."""

    def cell(value):
        return f"{'-' if value is None else format(value, '.4g'):>12}"

    columns = ("directional", "unbiased_directional", "magnitude", "unbiased_magnitude")
    columns += ("mean_cosine", "reference_directional", "reference_magnitude")
    width = max(len(name) for name in (*result["groups"], *result["tasks"]))
    lines = [
        f"step {result.get('step', '-')}: {result['examples']} examples a task in pieces of "
        f"{result['piece']}" + (f", sketches of {w}" if (w := result["sketch_width"]) else ""),
        " " * width + "".join(f"{name.replace('reference', 'ref')[:21]:>22}" for name in columns),
    ]
    for group, figures in result["groups"].items():
        cells = "".join(f"{cell(figures[name]):>22}" for name in columns)
        lines.append(f"{group:{width}}{cells}")
    group, figures = next(iter(result["groups"].items()))
    lines += ["", f"{group:{width}}" + "".join(f"{n:>12}" for n in ("loss", "norm", "noise scale"))]
    for task in result["tasks"]:
        values = (result["loss"][task], figures["norms"][task], figures["noise_scale"][task])
        lines.append(f"{task:{width}}" + "".join(map(cell, values)))
    return "\n".join(lines)
