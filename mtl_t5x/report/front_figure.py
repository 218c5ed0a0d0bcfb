"""The figure of a front: average against worst task, every weighting with its intervals."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtl_t5x.report import fronts, plots
from mtl_t5x.report.findings import Estimate

COLOURS = {
    fronts.STATIC: plots.COLOURS[0],
    fronts.RATE: plots.COLOURS[2],
    fronts.METHOD: plots.COLOURS[1],
}


def picture(front: fronts.Front) -> plots.Picture:
    """The figure's files."""
    return plots.render(f"front.{'.'.join(front.variant)}", draw, front)


def draw(front: fronts.Front) -> Figure:
    """All weightings, and beside them the tasks' own effects."""
    figure = Figure(figsize=(12, 6))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _draw_points(left, front)
    _draw_tasks(right, front)
    return figure


def _error(estimate: Estimate) -> list[list[float]] | None:
    if estimate.low is None or estimate.high is None:
        return None
    # The point may lie outside the interval of draws of a minimum.
    return [
        [max(estimate.value - estimate.low, 0.0)],
        [max(estimate.high - estimate.value, 0.0)],
    ]


def _draw_points(axes: Axes, front: fronts.Front) -> None:
    for kind, colour in COLOURS.items():
        mine = [point for point in front.points if point.kind == kind]
        for i, point in enumerate(mine):
            axes.errorbar(
                point.average.value,
                point.worst.value,
                xerr=_error(point.average),
                yerr=_error(point.worst),
                fmt="o",
                color=colour,
                ecolor=(colour, 0.3),
                label=kind if i == 0 else None,
            )
            axes.annotate(
                point.name,
                (point.average.value, point.worst.value),
                textcoords="offset points",
                xytext=(5, 4),
                fontsize=7.5,
                color=colour,
            )
            if point.name == front.tuned:
                axes.plot(
                    point.average.value, point.worst.value, "o", markersize=14,
                    markerfacecolor="none", markeredgecolor=colour,
                )  # fmt: skip
    edge = _edge(front)
    axes.plot(*zip(*edge, strict=True), "-", color=COLOURS[fronts.STATIC], linewidth=1, alpha=0.6)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_xlabel("average over the tasks, points")
    axes.set_ylabel("worst task, points")
    axes.set_title("Weightings: multi-task minus single-task")
    axes.legend(loc="lower right")


def _edge(front: fronts.Front) -> list[tuple[float, float]]:
    """The static weightings that no other one beats in average and worst task, left to right."""
    static = [
        (point.average.value, point.worst.value)
        for point in front.points
        if point.kind == fronts.STATIC
    ]
    return sorted(
        (x, y)
        for x, y in static
        if not any(a >= x and b >= y and (a, b) != (x, y) for a, b in static)
    )


def _draw_tasks(axes: Axes, front: fronts.Front) -> None:
    """A row for each weighting, the best on average on top; a column for each task."""
    points = sorted(front.points, key=lambda point: -point.average.value)
    tasks = [task for task, _ in points[0].by_task]
    values = np.array([[effect.value for _, effect in point.by_task] for point in points])
    limit = np.abs(values).max() or 1.0
    axes.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        dark = abs(value) > 0.6 * limit
        axes.text(
            column, row, f"{value:+.1f}", ha="center", va="center", fontsize=7.5,
            color="white" if dark else "black",
        )  # fmt: skip
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set_yticks(range(len(points)), [point.name for point in points], fontsize=7.5)
    for label, point in zip(axes.get_yticklabels(), points, strict=True):
        label.set_color(COLOURS[point.kind])
    axes.grid(False)
    axes.set_title("Tasks' effects, points")
