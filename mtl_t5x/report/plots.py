"""The report's figures as files, PNG and SVG: an analysis drawn by Matplotlib."""

import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from mtl_t5x.report import findings, words

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
    # The same figure is the same file.
    "svg.hashsalt": "mtl_t5x",
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure's two files: the name without its ending, and their bytes."""

    name: str
    png: bytes
    svg: bytes


def draw_all(found: findings.Analysis) -> tuple[Picture, ...]:
    """The figures of an analysis, as many as it has data for."""
    figures: list[tuple[str, Callable[..., Figure | None], tuple]] = [
        ("transfer", transfer, (found,))
    ]
    # Single layers would make hundreds of files; the page and conflict.csv have them.
    for group in [group for group in found.groups if "/" not in group]:
        figures.append((f"conflict.{group}", conflict, (found, group)))
        for matrix in found.cosines:
            if matrix.whole and matrix.group == group:
                name = f"cosine.{group}.{'.'.join(matrix.variant)}"
                figures.append((name, cosine, (found, matrix)))
    figures += [(f"loss.{'.'.join(v)}", losses, (found, v)) for v in found.variants]
    pictures = (render(name, draw, *arguments) for name, draw, arguments in figures)
    return tuple(picture for picture in pictures if picture)


def render(name: str, draw: Callable[..., Figure | None], *args: Any) -> Picture | None:
    """A figure in the report's style; None where there is nothing to draw."""
    with matplotlib.rc_context(STYLE):
        figure = draw(*args)
        if figure is None:
            return None
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(png, format="png")
        figure.set_layout_engine("none")  # it is laid out now, which takes as long as drawing it
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return Picture(words.file_name(name), png.getvalue(), svg.getvalue())


def short_labels(variants: Sequence[findings.Variant]) -> dict[findings.Variant, str]:
    """What tells a study's variants apart; the whole name where there is only one."""
    differ = [i for i in range(3) if len({v[i] for v in variants}) > 1] or range(3)
    return {v: " · ".join(v[i] for i in differ) for v in variants}


def _which(found: findings.Analysis, variant: findings.Variant) -> str:
    """A line that names the variant, where the study has several."""
    return f"\n{short_labels(found.variants)[variant]}" if len(found.variants) > 1 else ""


def _band(
    axes: Axes, curve: findings.Curve, colour: str, line: str, label: str, above_0: bool = False
) -> None:
    """A curve with its intervals; `above_0` leaves out what a log axis has no place for."""
    known = [
        (step, point.value, point.low, point.high)
        for step, point in zip(curve.steps, curve.points, strict=True)
        if point.value is not None and (point.value > 0 or not above_0)
    ]
    if not known:
        return
    steps, values, low, high = np.array(known, float).T
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, values, line, color=colour, label=label, linewidth=1.8, marker=marker)
    axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)


def conflict(found: findings.Analysis, group: str) -> Figure | None:
    """Directional and magnitude conflict of one group of parameters over the steps."""
    mine = [one for one in found.conflicts if one.group == group and one.directional.steps]
    if not mine:
        return None
    labels = short_labels(found.variants)
    figure = Figure(figsize=(9, 7))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for one in mine:
        i = found.variants.index(one.variant)
        look = COLOURS[i % len(COLOURS)], LINES[i % len(LINES)], labels[one.variant]
        _band(upper, one.directional, *look)
        _band(lower, one.magnitude, *look, above_0=True)
    count = len(mine[0].tasks)
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
    sources = " and ".join(dict.fromkeys(one.source for one in mine))
    upper.set_title(f"Gradient conflict of {count} tasks, {group} ({sources})")
    lower.set(xlabel="training step", ylabel="magnitude conflict\n(gradient norm⁴)")
    if len(lower.lines):
        lower.set_yscale("log")
    if len(found.variants) > 1:
        upper.legend(loc="upper left", bbox_to_anchor=(0, 0.88), ncols=3)
    return figure


def cosine(found: findings.Analysis, matrix: findings.Cosines) -> Figure | None:
    """Heat map of the cosines of a matrix; a frame marks the pairs whose sign is sure."""
    tasks, count = matrix.tasks, len(matrix.tasks)
    sure = [pair for pair in matrix.pairs if pair.verdict.word != findings.UNDECIDED]
    known = [pair for pair in matrix.pairs if pair.cosine.value is not None]
    if not known and not sure:
        return None
    shown = np.full((count, count), math.nan)
    # The scale reaches to the next 0.05, so that small cosines are still told apart.
    strongest = max((abs(pair.cosine.value) for pair in known), default=0.0)
    limit = max(0.05, math.ceil(strongest / 0.05 - 1e-9) * 0.05)
    figure = Figure(figsize=(1.8 + 0.72 * count, 1.2 + 0.62 * count))
    axes = figure.subplots()
    for pair in dict.fromkeys((*known, *sure)):
        value = pair.cosine.value
        text = words.number(value)
        if value is None:  # noise hides all but its sign
            text = "+" if pair.verdict.word == findings.GAIN else "−"
        places = tasks.index(pair.first), tasks.index(pair.second)
        for i, j in (places, places[::-1]):
            shown[i, j] = math.nan if value is None else value
            colour = "white" if abs(value or 0) > 0.65 * limit else "black"
            axes.text(j, i, text, ha="center", va="center", fontsize=10, color=colour)
            if pair in sure:
                corner = j - 0.47, i - 0.47
                axes.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, linewidth=1.6))
    colours = matplotlib.colormaps["RdBu"].with_extremes(bad="#eeeeee")
    image = axes.imshow(shown, cmap=colours, vmin=-limit, vmax=limit, aspect="auto")
    axes.set_xticks(range(count), tasks, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), tasks)
    axes.grid(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    title = f"Mean cosine of task gradients, {matrix.group} ({matrix.source})"
    axes.set_title(f"{title}{_which(found, matrix.variant)}\nframed: the sign is sure")
    bar = figure.colorbar(image, ax=axes, shrink=0.85, ticks=np.linspace(-limit, limit, 5))
    bar.ax.yaxis.set_major_formatter("{x:.3g}")
    bar.set_label("cosine (red: opposed, blue: aligned)")
    bar.outline.set_visible(False)
    return figure


def losses(found: findings.Analysis, variant: findings.Variant) -> Figure | None:
    """Training loss of every task over the steps, multi-task against single-task."""
    mine = [
        one
        for one in found.slowdowns
        if one.variant == variant and (one.single.steps or one.multi.steps)
    ]
    if not mine:
        return None
    columns = min(4, len(mine))
    rows = math.ceil(len(mine) / columns)
    figure = Figure(figsize=(2.9 * columns + 0.4, 2.3 * rows + 0.7))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, one in zip(grid.flat, mine, strict=False):
        _band(axes, one.single, LOSS, "--", "single-task")
        _band(axes, one.multi, GAIN, "-", "multi-task")
        axes.set_title(one.task)
        axes.set_yscale("log")  # the first steps would flatten all that follows
    for axes in grid.flat[len(mine) :]:
        axes.set_visible(False)
    if len(found.variants) > 1:
        name = _which(found, variant).removeprefix("\n")
        figure.suptitle(name, fontsize=11, x=0.03, ha="left")
    figure.supxlabel("training step", fontsize=11)
    # Heads on the encoder have losses of several kinds; text has one.
    unit = " (nats per target token)" if variant[0].startswith("text_to_text") else ""
    figure.supylabel(f"training loss{unit}", fontsize=11)
    handles: Mapping[str, Any] = {}
    for axes in grid.flat:
        lines, names = axes.get_legend_handles_labels()
        handles = {**dict(zip(names, lines, strict=True)), **handles}
    figure.legend(handles.values(), handles, loc="outside upper right", ncols=2)
    return figure


def transfer(found: findings.Analysis) -> Figure | None:
    """Relative transfer of the headline metrics and their average, with its 95 % interval.

    A task's verdict colours it, where there is only one variant. None where it is undefined for
    every row.
    """
    drawn = [t for t in found.transfers if t.headline and t.percent.value is not None]
    if not drawn:
        return None
    tasks = [task for task in found.tasks if any(t.task == task for t in drawn)] + ["average"]
    variants = [v for v in found.variants if any(t.variant == v for t in drawn)]
    labels = short_labels(found.variants)
    words_colours = {findings.GAIN: GAIN, findings.LOSS: LOSS, findings.UNDECIDED: "#777777"}
    # Intervals from two seeds can be very wide; the values set the scale, arrows say "goes on".
    reach = max(5.0, 2.2 * max(abs(t.percent.value) for t in drawn))
    thick = 0.72 / len(variants)
    figure = Figure(figsize=(9, 1.4 + max(0.42, 0.24 * len(variants)) * len(tasks)))
    axes = figure.subplots()
    for one in drawn:
        i = variants.index(one.variant)
        y = tasks.index(one.task) + (i - (len(variants) - 1) / 2) * thick
        colour = COLOURS[i % len(COLOURS)]
        if len(variants) == 1:
            colour = words_colours[one.verdict.word]
        axes.plot(one.percent.value, y, "o", color=colour, markersize=7)
        if one.percent.low is not None:
            low, high = max(one.percent.low, -reach), min(one.percent.high, reach)
            axes.plot([low, high], [y, y], color=colour, linewidth=2.2, solid_capstyle="butt")
            for end, bound, beyond in ((low, one.percent.low, "<"), (high, one.percent.high, ">")):
                axes.plot(end, y, beyond if end != bound else "|", color=colour, markersize=7)
    axes.axvline(0, color="#333333", linewidth=1)
    axes.axhline(len(tasks) - 1.5, color="#999999", linewidth=0.8)
    axes.set_yticks(range(len(tasks)), tasks)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.set_xlim(-1.04 * reach, 1.04 * reach)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("relative transfer (% of the single-task score) with its 95 % interval")
    axes.set_title("← multi-task worse · multi-task better →", loc="center", fontsize=11)
    handles = [
        Patch(color=colour, label=word)
        for word, colour in words_colours.items()
        if any(t.verdict.word == word for t in drawn)
    ]
    if len(variants) > 1:
        handles = [
            Patch(color=COLOURS[i % len(COLOURS)], label=labels[v]) for i, v in enumerate(variants)
        ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
    return figure
