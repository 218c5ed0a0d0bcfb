"""The unbiased metrics of a run: of each measured step, and over the last ones together."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mtl_t5x.conflict import estimates, metrics

Line = dict[str, Any]


class Running:
    """Pools the Gram matrices of the last `window` measured steps, by group.

    The parameters move between the steps, so the metrics are those of about the window's middle; a
    window that is short against the time in which the conflict changes is a good one.
    """

    def __init__(self, names: Sequence[str], window: int, batch_size: estimates.Examples):
        self._names = tuple(names)
        self._window = window
        self._batch_size = batch_size
        self._steps: dict[str, collections.deque] = {}

    def restore(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Goes on from the lines of an earlier attempt, as `add` made them."""
        suffix = "/unbiased_gram"
        for line in lines:
            for key in line:
                if key.startswith("conflict/") and key.endswith(suffix):
                    group = key[len("conflict/") : -len(suffix)]
                    weights = [line[f"loss_weight/{name}"] for name in self._names]
                    traces = [line[f"noise_trace/{group}/{name}"] for name in self._names]
                    self._keep(group, line[key], weights, traces)

    def add(self, step_metrics: Mapping[str, Any]) -> Line:
        """What `metrics.jsonl` says of a step that was measured with halves; nothing of others.

        By group: `unbiased_gram` and the directional conflict of this step alone; those of the last
        steps together with their standard errors (`running_<name>`, `running_<name>_se`); the trace
        of the gradient noise, and the noise scale over the last steps, by task; the cosine of each
        task's two halves; and the band of directional conflict under shuffled tasks.
        """
        line: Line = {}
        for group, of_group in step_metrics["conflict"].items():
            if "halves" not in of_group:
                continue
            weights = np.asarray(step_metrics["loss_weights"], np.float64)
            line |= self._by_task("loss_weight", weights)
            line |= self._add(group, np.asarray(of_group["halves"], np.float64), weights)
        return line

    def _add(self, group: str, halves: np.ndarray, weights: np.ndarray) -> Line:
        gram = metrics.unbiased(halves)
        traces = estimates.noise_of_halves(halves, self._batch_size).trace
        null = estimates.null(halves)
        prefix = f"conflict/{group}"
        line: Line = {
            f"{prefix}/unbiased_gram": gram.tolist(),
            f"{prefix}/unbiased_directional": float(metrics.directional(gram)),
            f"{prefix}/shuffled_low": float(null.shuffled[0]),
            f"{prefix}/shuffled_high": float(null.shuffled[2]),
        }
        line |= self._by_task(f"split_half_cosine/{group}", null.split_half)
        line |= self._by_task(f"noise_trace/{group}", traces)
        steps = self._keep(group, gram, weights, traces)
        grams, all_weights, all_traces = (
            np.array(column, np.float64) for column in zip(*steps, strict=True)
        )
        for name, estimate in estimates.estimate_metrics(grams, all_weights).items():
            line[f"{prefix}/running_{name}"] = estimate.value
            line[f"{prefix}/running_{name}_se"] = estimate.standard_error
        squared_norms = metrics.squared_norms(estimates.pooled(grams, all_weights))
        positive = np.where(squared_norms > 0, squared_norms, np.nan)
        scales = all_traces.mean(0) / positive
        return line | self._by_task(f"noise_scale/{group}", scales)

    def _keep(self, group: str, gram, weights, traces) -> collections.deque:
        steps = self._steps.setdefault(group, collections.deque(maxlen=self._window))
        steps.append((gram, weights, traces))
        return steps

    def _by_task(self, prefix: str, values: Float[np.ndarray, " task"]) -> Line:
        pairs = zip(self._names, values, strict=True)
        return {f"{prefix}/{name}": float(value) for name, value in pairs}
