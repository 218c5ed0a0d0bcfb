"""Runs on quadratic tasks of two layers, in the form of the package's logs, whose truth is known.

Task k's loss is ||p_k (theta - c_k)||^2 / 2, p_k a projection on one layer: its gradient is
p_k (theta - c_k). `left` and `right` pull the first layer to nearly opposite centres, `other` and
`friend` the second one to nearly the same, and tasks of different layers have nothing to do with
each other. The dev loss's centre is moved by `moved` orthogonally to c_k: alone that changes
nothing at a given training loss but a constant, together it does.
"""

import json

import numpy as np

from tests.report import simulated

TASKS = ("left", "right", "other", "friend")
GROUPS = {
    "encoder": slice(None),
    "encoder/layers_0": slice(0, 40),
    "encoder/layers_1": slice(40, 80),
}
RATE, STEPS, EVALUATED, MEASURED, BATCH = 0.004, 200, 5, 8, 16
NOISE = 0.7  # of an example's gradient, in each parameter


def centres() -> np.ndarray:
    c = np.zeros((4, 80))
    c[0, 0], c[1, 0], c[1, 1] = 3.0, -1.0, 3.0
    c[2, 40], c[3, 40], c[3, 41] = 3.0, 3.0, 0.3
    return c


def moved() -> np.ndarray:
    """Of the dev losses' centres: that of `left` and `right` away from where the other pulls."""
    m = np.zeros((4, 80))
    m[0, 1], m[1, 2] = -1.0, 0.0
    return m


def gradients(theta: np.ndarray) -> np.ndarray:
    g = theta - centres()
    g[:2, 40:] = 0
    g[2:, :40] = 0
    return g


def losses(theta: np.ndarray, centre: np.ndarray) -> np.ndarray:
    g = theta - centre
    g[:2, 40:] = 0
    g[2:, :40] = 0
    return (g**2).sum(axis=1) / 2


def trajectory(trained: list[int], start: np.ndarray, steps: int = STEPS) -> np.ndarray:
    """The parameters before every step."""
    found = [start]
    for _ in range(steps):
        found.append(found[-1] - RATE * gradients(found[-1])[trained].sum(axis=0))
    return np.stack(found)


def of_batches(group: str, path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expected inner products of batches' unit gradients, and the tasks' reliabilities: means over
    a path."""
    products = []
    for theta in path:
        g = gradients(theta)[:, GROUPS[group]]
        lengths = np.sqrt((g**2).sum(axis=1) + g.shape[1] * NOISE**2 / BATCH)
        products.append(g @ g.T / np.outer(lengths, lengths))
    mean = np.mean(products, axis=0)
    return mean, np.diag(mean)


def true_gap(task: int) -> float:
    """By the definition, on exact paths of many small steps."""
    functions = []
    for trained in ([task], list(range(4))):
        path = trajectory(trained, np.zeros(80))
        train = np.array([losses(theta, centres())[task] for theta in path])
        dev = np.array([losses(theta, centres() + moved())[task] for theta in path])
        functions.append((train, dev))
    # As the analysis: from the first evaluation on.
    high = min(train[EVALUATED] for train, _ in functions)
    low = max(train.min() for train, _ in functions)
    grid = np.linspace(high, low, 500)
    single, multi = (np.interp(grid, train[::-1], dev[::-1]) for train, dev in functions)
    return float((multi - single).mean())


def write(workdir, seeds: int = 3) -> None:
    """A study's folder, with `metrics.jsonl` and the dev losses of every run."""
    runs = []
    for seed in range(seeds):
        for kind, trained in (
            ("multi_task", [0, 1, 2, 3]),
            *(("single_task", [k]) for k in range(4)),
        ):
            names = [TASKS[k] for k in trained]
            name = f"{'.'.join(simulated.VARIANT)}.{kind}.{'-'.join(names)}.seed{seed}"
            architecture, prompt, labels = simulated.VARIANT
            runs.append(
                {
                    "name": name,
                    "architecture": architecture,
                    "prompt": prompt,
                    "labels": labels,
                    "tasks": names,
                    "seed": seed,
                    "kind": kind,
                }
            )
            _write_run(workdir / "runs" / name, trained, np.random.default_rng([seed, *trained]))
    record = {"name": "quadratic", "config": {"data": "none"}, "runs": runs}
    (workdir / "study.json").write_text(json.dumps(record))


def _write_run(folder, trained, rng) -> None:
    (folder / "inference_eval" / "validation").mkdir(parents=True)
    path = trajectory(trained, 0.005 * rng.standard_normal(80))
    names = [TASKS[k] for k in trained]
    lines, dev = [], {name: [] for name in names}
    for step, theta in enumerate(path):
        of_tasks = losses(theta, centres())[trained] + 0.01 * rng.standard_normal(len(trained))
        line = {"step": step, "learning_rate": min(step, 10.0)}
        line |= {f"loss/{n}": float(loss) for n, loss in zip(names, of_tasks, strict=True)}
        if len(trained) > 1 and step % MEASURED == 0:
            line |= _measured(names, theta, rng)
        lines.append(json.dumps(line) + "\n")
        if step and step % EVALUATED == 0:
            of_dev = losses(theta, centres() + moved())[trained]
            for name, loss in zip(names, of_dev, strict=True):
                dev[name].append(json.dumps({"step": step, "loss": float(loss)}) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    for name, of_task in dev.items():
        path = folder / "inference_eval" / "validation" / f"glue_{name}.x.y-metrics.jsonl"
        path.write_text("".join(of_task))


def _measured(names, theta, rng) -> dict:
    """What a step of the library logs of its halves, but for the running figures."""
    line = {}
    noise = NOISE * np.sqrt(2 / BATCH) * rng.standard_normal((2, len(names), 80))
    first, second = (gradients(theta) + noise) / 2
    for group, part in GROUPS.items():
        a, b = first[:, part], second[:, part]
        whole = (a + b) @ (a + b).T
        norms = np.sqrt(np.diag(whole))
        across = (a * b).sum(axis=1)
        unbiased = np.where(np.eye(len(names), dtype=bool), 4 * across, whole)
        cosine = whole / np.outer(norms, norms)
        prefix = f"conflict/{group}"
        line |= {f"{prefix}/cosine": cosine.tolist(), f"{prefix}/unbiased_gram": unbiased.tolist()}
        line[f"{prefix}/directional"] = float((cosine.sum() - len(names)) / len(names) ** 2)
        halves = across / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
        scale = 80 * NOISE**2 / np.maximum(4 * across, 1e-3)
        for i, name in enumerate(names):
            line[f"grad_norm/{group}/{name}"] = float(norms[i])
            line[f"split_half_cosine/{group}/{name}"] = float(halves[i])
            line[f"noise_scale/{group}/{name}"] = float(scale[i])
    return line
