"""Do the report's intervals cover, and are they narrower than with the seeds alone?

    nice python -m tests.benchmarks.intervals [--studies=1000] [--part=0 --parts=4]

Simulated studies of eight tasks (tests/report/simulated.py) go through the report's own functions
from the answers on: for each of accuracy, Matthews' and Pearson's correlation, effects of 0, 2 and
5 points, 2 and 3 seeds, 200 and 1,000 test examples. Counted are the intervals of relative transfer
that hold the true one; the share of studies without any effect in which a task is called helped or
hurt (the false discovery rate where every discovery is false); and the width, over that of the
interval that takes the seeds alone as its sample (delta method, Student's t with Welch's degrees of
freedom), of which the median over all intervals is printed.

Runs differ between seeds by 2 (accuracy), 6 (Matthews) and 5.5 points (Pearson) beside what the
test examples do, which is what the embedded study's do (1.9, 5.9 and 5.6), and tasks by a factor of
1.7 either way between the most and the least. `--seed_factor=F` takes F times as much.

The report takes 10,000 resamples; here 500 will do, and all studies share theirs: that changes what
an interval's end is off by chance, by about 3 % of the width, and nothing in the mean. A part is
every PARTS-th of the 36 conditions. A process takes one core, and for 1,000 studies of each
condition 20 minutes of it in all. Every condition gets a line, the last line is JSON.
"""

import argparse
import functools
import itertools
import json
import time

import numpy as np
from scipy import stats

from mtl_t5x.report import cells, statistics, tables, transfers
from mtl_t5x.report.findings import UNDECIDED
from tests.report import simulated

TASKS = 8
# By metric: what tasks reach alone, from the lowest to the highest, and how far seeds differ.
METRICS = {
    "accuracy": (70.0, 88.0, 2.0),
    "matthews_corrcoef": (40.0, 65.0, 6.0),
    "pearson_corrcoef": (50.0, 75.0, 5.5),
}
EFFECTS, SEEDS, EXAMPLES = (0.0, 2.0, 5.0), (2, 3), (200, 1000)
# The spread of the logarithm of the tasks' seed noise.
UNLIKE = 0.33


def tasks_of(metric: str, effect: float, seed_factor: float) -> dict[str, simulated.Task]:
    low, high, points = METRICS[metric]
    places = (np.arange(TASKS) + 0.5) / TASKS
    noise = points * seed_factor * np.exp(UNLIKE * stats.norm.ppf(places))
    # Neither the best nor the worst tasks are those whose seeds differ most.
    noise = noise[[(3 * i) % TASKS for i in range(TASKS)]]
    levels = np.linspace(low, high, TASKS)
    return {
        f"task{i}": simulated.Task(metric, float(level), effect, float(sd))
        for i, (level, sd) in enumerate(zip(levels, noise, strict=True))
    }


def condition(
    metric: str, effect: float, seeds: int, examples: int, arguments: argparse.Namespace
) -> dict[str, float]:
    """Coverage, discoveries where there is no effect, and widths over those of the seeds alone."""
    tasks = tasks_of(metric, effect, arguments.seed_factor)
    rng = np.random.default_rng([list(METRICS).index(metric), int(effect), seeds, examples])
    covered, ratios, discoveries = [], [], 0
    for _ in range(arguments.studies):
        study, answers = simulated.study(rng, tasks, examples, seeds)
        samples, _ = tables.samples(study)
        drawn = cells.draw(study, answers, arguments.resamples)
        effects, _, notes = transfers.transfers(samples, drawn, {})
        assert not notes, notes
        pairs = [pair for pair in zip(effects, samples, strict=True) if pair[0].task != "average"]
        for effect_found, sample in pairs:
            true = 100 * effect / tasks[sample.task].alone
            found = effect_found.percent
            _, low, high = sample.transfer()
            if found.low is None:
                covered.append(True)  # an interval without ends
                ratios.append(np.inf)
                continue
            covered.append(found.low <= true <= found.high)
            ratios.append((found.high - found.low) / max(high - low, 1e-9))
        discoveries += any(e.verdict.word != UNDECIDED for e, _ in pairs)
    return {
        "coverage": float(np.mean(covered)),
        "discoveries": discoveries / arguments.studies,
        "ratios": ratios,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--seed_factor", type=float, default=1.0)
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--parts", type=int, default=1)
    arguments = parser.parse_args()
    _share_resamples()
    grid = list(itertools.product(METRICS, EFFECTS, SEEDS, EXAMPLES))
    coverage, false, ratios = [], [], {seeds: [] for seeds in SEEDS}
    for place in grid[arguments.part :: arguments.parts]:
        metric, effect, seeds, examples = place
        begun = time.perf_counter()
        found = condition(*place, arguments)
        coverage.append(found["coverage"])
        ratios[seeds] += found["ratios"]
        if effect == 0:
            false.append(found["discoveries"])
        print(
            f"{metric:18} effect {effect:.0f}, {seeds} seeds, {examples:4} examples: "
            f"coverage {100 * found['coverage']:.1f} %, studies with a verdict "
            f"{100 * found['discoveries']:.1f} %, width over seeds only "
            f"{np.median(found['ratios']):.2f}, {time.perf_counter() - begun:.0f} s",
            flush=True,
        )
    result = {
        "coverage_min": min(coverage),
        "coverage_max": max(coverage),
        "false_discovery_max": max(false, default=None),
        "width_over_seeds_only": float(np.median(sum(ratios.values(), []))),
    }
    for seeds, of_seeds in ratios.items():
        if of_seeds:
            result[f"width_over_seeds_only_{seeds}_seeds"] = float(np.median(of_seeds))
    print(json.dumps(result))


def _share_resamples() -> None:
    """Draws each size's resamples once: most of a study's time would go there."""
    drawn = statistics.counts

    @functools.cache
    def kept(units: int, resamples: int) -> list:
        return list(drawn(units, resamples, np.random.default_rng(0)))

    statistics.counts = lambda units, resamples, rng: kept(units, resamples)


if __name__ == "__main__":
    main()
