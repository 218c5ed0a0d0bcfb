"""The report's figures, each returned as the bytes of a PNG."""

import io
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mtl_t5x.report import folders, tables

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")
GAIN, LOSS = COLOURS[:2]
STYLE = {
    "figure.dpi": 140,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
}
# Loss curves are drawn through the means of at most so many stretches of steps.
LOSS_POINTS = 50


def render(draw: Callable[..., Figure | None], *args: Any) -> bytes | None:
    """A figure's PNG, drawn in the report's style; None where there is nothing to draw."""
    with matplotlib.rc_context(STYLE):
        figure = draw(*args)
        if figure is None:
            return None
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
    return buffer.getvalue()


def short_labels(variants: Sequence[folders.Variant]) -> dict[folders.Variant, str]:
    """What tells a study's variants apart; the whole name where there is only one."""
    differ = [i for i in range(3) if len({v[i] for v in variants}) > 1] or range(3)
    return {v: " · ".join(v[i] for i in differ) for v in variants}


def _which(study: folders.Study, variant: folders.Variant) -> str:
    """A line that names the variant, where the study has several."""
    return f"\n{short_labels(study.variants)[variant]}" if len(study.variants) > 1 else ""


def _over_seeds(
    keys: Iterable[tuple[folders.Record, str]], width: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, and the mean, lowest and highest over runs of a number, each with the key it's under.

    Each run is first averaged over stretches of `width` steps, which stand at their middle.
    """
    values: dict[int, list[float]] = {}
    for record, key in keys:
        stretches: dict[int, list[float]] = {}
        for step in record.steps:
            value = folders.number(step.get(key))
            if value is not None:
                stretches.setdefault(step["step"] // width, []).append(value)
        for stretch, logged in stretches.items():
            values.setdefault(stretch, []).append(statistics.fmean(logged))
    order = sorted(values)
    return (
        np.array([stretch * width + (width - 1) / 2 for stretch in order]),
        np.array([statistics.fmean(values[s]) for s in order]),
        np.array([min(values[s]) for s in order]),
        np.array([max(values[s]) for s in order]),
    )


def _band(axes: Axes, curve: tuple, colour: str, line: str, label: str) -> None:
    steps, mean, low, high = curve
    axes.plot(
        steps,
        mean,
        line,
        color=colour,
        label=label,
        linewidth=1.8,
        marker="o" if len(steps) == 1 else None,
    )
    axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)


def conflict(study: folders.Study, group: str, small_batches: bool = False) -> Figure:
    """Directional and magnitude conflict of one parameter group over the steps.

    At fixed points where a run has those, or of each step's own batch alone.
    """
    runs = [r for r in study.records if r.kind == "multi_task"]
    labels = short_labels(study.variants)
    figure = Figure(figsize=(9, 7))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for i, variant in enumerate(study.variants):
        mine = [r for r in runs if r.variant == variant]
        for axes, name in ((upper, "directional"), (lower, "magnitude")):
            of_steps = f"conflict/{group}/{name}"
            curve = _over_seeds(
                (r, of_steps if small_batches else folders.conflict_key(r, group, name))
                for r in mine
            )
            if name == "magnitude":
                # A log axis has no place for the 0 that equal norms of one task would give.
                curve = tuple(x[curve[2] > 0] for x in curve)
            if len(curve[0]):
                colour, line = COLOURS[i % len(COLOURS)], LINES[i % len(LINES)]
                _band(axes, curve, colour, line, labels[variant])
    count = len(runs[0].tasks)
    bounds = {
        (count - 1) / count: "all aligned\n(K−1)/K",
        0: "orthogonal",
        -1 / count: "opposed\n−1/K",
    }
    for height, text in bounds.items():
        upper.axhline(height, color="#555555", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        upper.annotate(
            text,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=9.5,
            color="#444444",
        )
    upper.set(ylabel="directional conflict (no unit)", ylim=(-1 / count - 0.08, 1.02))
    fixed = any(folders.has_fixed_points(r, group) for r in runs)
    which = ", small batches (diagnostic)" if small_batches else ", fixed points" if fixed else ""
    upper.set_title(f"Gradient conflict of {count} tasks, {group}{which}")
    lower.set(xlabel="training step", ylabel="magnitude conflict\n(gradient norm⁴)")
    if len(lower.lines):
        lower.set_yscale("log")
    if len(study.variants) > 1:
        upper.legend(loc="upper left", bbox_to_anchor=(0, 0.88), ncols=3)
    return figure


def mean_cosines(
    records: Sequence[folders.Record], group: str
) -> tuple[tuple[str, ...], np.ndarray] | None:
    """Task names and the K×K cosines, averaged over seeds and steps after warm-up."""
    names, total = (), []
    for record in records:
        order = tuple((record.results or {}).get("tasks", record.tasks))
        start = folders.warm_up_end(record)
        key = folders.conflict_key(record, group, "cosine")
        for step in record.steps:
            rows = step.get(key) if step["step"] >= start else None
            if not isinstance(rows, list) or len(rows) != len(order):
                continue
            matrix = np.array(
                [[math.nan if (x := folders.number(v)) is None else x for v in r] for r in rows]
            )
            names = names or order
            if matrix.shape == (len(names),) * 2 and set(order) == set(names):
                permutation = [order.index(name) for name in names]
                total.append(matrix[np.ix_(permutation, permutation)])
    if not total:
        return None
    stacked = np.stack(total)
    known = np.isfinite(stacked)
    sums = np.where(known, stacked, 0).sum(axis=0)
    counts = known.sum(axis=0)
    return names, np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)


def cosine(study: folders.Study, variant: folders.Variant, group: str) -> Figure | None:
    """Heat map of the mean gradient cosines; None where nothing was measured."""
    found = mean_cosines(study.runs(variant, "multi_task"), group)
    if found is None:
        return None
    names, matrix = found
    count = len(names)
    off = ~np.eye(count, dtype=bool)
    shown = np.where(off, matrix, math.nan)
    # The scale reaches to the next 0.05, so that small cosines are still told apart.
    known = np.abs(shown[np.isfinite(shown)])
    limit = max(0.05, math.ceil(known.max() / 0.05 - 1e-9) * 0.05) if known.size else 1.0
    figure = Figure(figsize=(1.8 + 0.72 * count, 1.2 + 0.62 * count))
    axes = figure.subplots()
    colours = matplotlib.colormaps["RdBu"].with_extremes(bad="#eeeeee")
    image = axes.imshow(shown, cmap=colours, vmin=-limit, vmax=limit, aspect="auto")
    for (i, j), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            dark = off[i, j] and abs(value) > 0.65 * limit
            # Adding 0 makes a rounded -0.0 a plain 0.
            text = f"{round(value, 2) + 0:.2f}".replace("-", "−") if off[i, j] else "1"
            axes.text(
                j,
                i,
                text,
                ha="center",
                va="center",
                fontsize=10,
                color="white" if dark else "black" if off[i, j] else "#888888",
            )
    axes.set_xticks(range(count), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), names)
    axes.grid(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(f"Mean cosine of task gradients, {group}{_which(study, variant)}")
    bar = figure.colorbar(image, ax=axes, shrink=0.85, ticks=np.linspace(-limit, limit, 5))
    bar.ax.yaxis.set_major_formatter("{x:.3g}")
    bar.set_label("cosine (red: opposed, blue: aligned)")
    bar.outline.set_visible(False)
    return figure


def losses(study: folders.Study, variant: folders.Variant) -> Figure:
    """Training loss of every task over the steps, multi-task against single-task."""
    records = study.runs(variant)
    tasks = list(dict.fromkeys(task for r in records for task in r.tasks))
    last = max((r.steps[-1]["step"] for r in records if r.steps), default=0)
    width = max(1, math.ceil(last / LOSS_POINTS))
    columns = min(4, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(2.9 * columns + 0.4, 2.3 * rows + 0.7))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, task in zip(grid.flat, tasks, strict=False):
        for kind, colour, line, label in (
            ("single_task", LOSS, "--", "single-task"),
            ("multi_task", GAIN, "-", "multi-task"),
        ):
            mine = [r for r in records if r.kind == kind and task in r.tasks]
            curve = _over_seeds(((r, f"loss/{task}") for r in mine), width)
            if len(curve[0]):
                _band(axes, curve, colour, line, label)
        axes.set_title(task)
        axes.set_yscale("log")  # the first steps would flatten all that follows
    for axes in grid.flat[len(tasks) :]:
        axes.set_visible(False)
    if len(study.variants) > 1:
        figure.suptitle(_which(study, variant).removeprefix("\n"), fontsize=11, x=0.03, ha="left")
    figure.supxlabel("training step", fontsize=11)
    # Heads on the encoder have losses of several kinds; text has one.
    unit = " (nats per target token)" if variant[0].startswith("text_to_text") else ""
    figure.supylabel(f"training loss{unit}", fontsize=11)
    handles: Mapping[str, Any] = {}
    for axes in grid.flat:
        lines, names = axes.get_legend_handles_labels()
        handles = {**dict(zip(names, lines, strict=True)), **handles}
    if handles:
        figure.legend(handles.values(), handles, loc="outside upper right", ncols=2)
    return figure


def transfer(study: folders.Study, rows: Sequence[tables.TransferRow]) -> Figure | None:
    """Relative transfer of the headline metrics and their average, with its 95 % interval.

    None where it is undefined for every row.
    """
    drawn = [row for row in rows if row.relative_transfer_percent is not None]
    if not drawn:
        return None
    tasks = list(dict.fromkeys(row.task for row in rows if row.task != "average")) + ["average"]
    variants = list(dict.fromkeys(row.variant for row in rows))
    labels = short_labels(study.variants)
    # Intervals from two seeds can be very wide; the bars set the scale, arrows say "goes on".
    reach = max(5.0, 2.2 * max(abs(row.relative_transfer_percent) for row in drawn))
    thick = 0.72 / len(variants)
    figure = Figure(figsize=(9, 1.4 + max(0.42, 0.24 * len(variants)) * len(tasks)))
    axes = figure.subplots()
    for row in drawn:
        i = variants.index(row.variant)
        y = tasks.index(row.task) + (i - (len(variants) - 1) / 2) * thick
        value = row.relative_transfer_percent
        colour = COLOURS[i % len(COLOURS)] if len(variants) > 1 else GAIN if value >= 0 else LOSS
        axes.barh(y, value, height=thick * 0.9, color=colour, alpha=0.85)
        if row.ci95_low is not None:
            low, high = max(row.ci95_low, -reach), min(row.ci95_high, reach)
            axes.plot([low, high], [y, y], color="#333333", linewidth=1.4, solid_capstyle="butt")
            for end, bound, beyond in ((low, row.ci95_low, "<"), (high, row.ci95_high, ">")):
                axes.plot(end, y, beyond if end != bound else "|", color="#333333", markersize=6)
    axes.axvline(0, color="#333333", linewidth=1)
    axes.axhline(len(tasks) - 1.5, color="#999999", linewidth=0.8)
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlim(-1.04 * reach, 1.04 * reach)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("relative transfer (% of the single-task score)")
    axes.set_title("← multi-task worse · multi-task better →", loc="center", fontsize=11)
    if len(variants) > 1:
        handles = [
            Patch(color=COLOURS[i % len(COLOURS)], label=labels[v], alpha=0.85)
            for i, v in enumerate(variants)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(variants)))
    return figure
