"""From the Gram matrix at a fixed point to the metrics of `conflict.json`, and these as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mtl_t5x.conflict import estimates, metrics


def group_metrics(
    gram: Float[np.ndarray, "task task"],
    sketches: Float[np.ndarray, "task width"] | None,
    small_squared_norms: Float[np.ndarray, " task"],
    examples: Int[np.ndarray, " task"],
    microbatch_size: int,
    by_task: Callable[[np.ndarray], dict[str, float | None]],
) -> dict[str, Any]:
    """A group's metrics by name.

    Besides those of `metrics` and `estimates` there are the original's `covariance` and `noise`
    conflict: the variances over the tasks of the traces of their gradients' covariance, and of
    their noise scales (`estimates.Noise`). They are None where a task has none of these.

    Args:
      gram: of the tasks' gradients over all the examples.
      sketches: what it was made from, if that is sketches.
      small_squared_norms: means over the microbatches of ||g_k||^2.
      examples: of each task.
      microbatch_size: examples per task in a microbatch.
      by_task: names a value per task.
    """
    noise = estimates.noise(np.diagonal(gram), small_squared_norms, examples, microbatch_size)
    unbiased = gram.copy()
    np.fill_diagonal(unbiased, noise.squared_norm)
    found = metrics.all_metrics(gram)
    found |= {"covariance": np.var(noise.trace), "noise": np.var(noise.scale)}
    norms = found.pop("norms")
    named = {name: _finite(value) for name, value in found.items()}
    named["norms"] = by_task(norms)
    for name, metric in estimates.METRICS.items():
        named[f"unbiased_{name}"] = _finite(metric(unbiased))
    named["squared_norm"] = by_task(noise.squared_norm)
    named["noise_trace"] = by_task(noise.trace)
    named["noise_scale"] = by_task(noise.scale)
    if sketches is not None:
        named["cosine_error"] = _finite(estimates.sketch_error(sketches))
    return named


def logged(result: Mapping[str, Any]) -> dict[str, Any]:
    """A fixed point's metrics under the names that a step's have in `metrics.jsonl`, by groups
    called `fixed_point/<group>`.

    Args:
      result: as `measure.measure_tasks` returns it.
    """
    line: dict[str, Any] = {}
    per_task = {"norms": "grad_norm", "noise_trace": "noise_trace", "noise_scale": "noise_scale"}
    for group, values in result["groups"].items():
        for name, value in values.items():
            if name in per_task:
                prefix = f"{per_task[name]}/fixed_point/{group}"
                line |= {f"{prefix}/{task}": of_task for task, of_task in value.items()}
            elif name not in ("squared_norm", "cosine_error"):
                line[f"conflict/fixed_point/{group}/{name}"] = value
    return line


def by_task(tasks: Sequence[str], values: np.ndarray) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in zip(tasks, values, strict=True)}


def _finite(value: Any) -> Any:
    """As JSON holds it, which has no NaN."""
    if np.ndim(value):
        return [_finite(item) for item in value]
    return float(value) if np.isfinite(value) else None


def table(result: Mapping[str, Any]) -> str:
    """The metrics as text: a line per group, then the tasks' of the first group."""

    def cell(value):
        return f"{'-' if value is None else format(value, '.4g'):>12}"

    columns = ("directional", "unbiased_directional", "magnitude", "unbiased_magnitude")
    columns += ("mean_cosine", "reference_directional", "reference_magnitude")
    width = max(len(name) for name in (*result["groups"], *result["tasks"]))
    sketched = f", sketches of {w}" if (w := result["sketch_width"]) else ""
    lines = [
        f"step {result.get('step', '-')}: {_range(result['examples'].values())} examples a task in "
        f"microbatches of {result['microbatch_size']}{sketched}",
        " " * width + "".join(f"{name.replace('reference', 'ref')[:21]:>22}" for name in columns),
    ]
    for group, values in result["groups"].items():
        cells = "".join(f"{cell(values[name]):>22}" for name in columns)
        lines.append(f"{group:{width}}{cells}")
    group, values = next(iter(result["groups"].items()))
    lines += ["", f"{group:{width}}" + "".join(f"{n:>12}" for n in ("loss", "norm", "noise scale"))]
    for task in result["tasks"]:
        of_task = (result["loss"][task], values["norms"][task], values["noise_scale"][task])
        lines.append(f"{task:{width}}" + "".join(map(cell, of_task)))
    return "\n".join(lines)


def _range(counts: Iterable[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"
