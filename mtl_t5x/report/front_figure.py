"""The figure of a front: average against worst task, every weighting with its intervals."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from matplotlib.transforms import Bbox

from mtl_t5x.report import captions, figures, fronts, plots, sections, vega
from mtl_t5x.report.findings import Estimate

COLOURS = {
    fronts.STATIC: plots.COLOURS[0],
    fronts.RATE: plots.COLOURS[2],
    fronts.METHOD: plots.COLOURS[1],
}
# The same in the page's colours.
SHADES = {
    fronts.STATIC: "var(--task-0)",
    fronts.RATE: "var(--task-2)",
    fronts.METHOD: "var(--task-1)",
}

# Axes are linear so far from 0, and logarithmic beyond: a single-task corner loses dozens of points
# where what is compared differs by a few.
LINEAR = 10
TICKS = (-100, -50, -20, -10, -5, 0, 5, 10, 20, 50, 100)


def figure(front: fronts.Front) -> figures.Figure:
    """It on the page, where the pointer tells a weighting's name and numbers."""
    kinds = {point.kind for point in front.points}
    return figures.Figure(
        "Average against worst task",
        captions.WEIGHTINGS,
        (figures.Panel("", _chart(front)),),
        sections.weightings(front),
        keys=tuple(figures.Key(kind, shade) for kind, shade in SHADES.items() if kind in kinds),
    )


def _chart(front: fronts.Front) -> vega.Spec:
    rows = []
    for point in front.points:
        row = {"name": point.name, "kind": point.kind, "tuned": int(point.name == front.tuned)}
        for field in ("average", "worst"):
            estimate = getattr(point, field)
            ends = {f"{field}_{key}": v for key, v in dataclasses.asdict(estimate).items()}
            row |= ends
        rows.append(row)
    axes = {
        "x": {"field": "average_value", "type": "quantitative", "title": "average, points"},
        "y": {"field": "worst_value", "type": "quantitative", "title": "worst task, points"},
    }
    for axis in axes.values():
        stretched = {"type": "symlog", "constant": LINEAR, "nice": False, "padding": 12}
        axis |= {"axis": {"values": TICKS}, "scale": stretched}
    scale = {"domain": list(SHADES), "range": list(SHADES.values())}
    colour = {"color": {"field": "kind", "scale": scale, "legend": None}}
    told = [{"field": "name", "title": "weighting"}, {"field": "kind"}]
    told += [
        {"field": f"{field}_{part}", "type": "quantitative", "format": ".2f", "title": title}
        for field in ("average", "worst")
        for part, title in (("value", field), ("low", "from"), ("high", "to"))
    ]
    across = {**axes, **colour, "x": {**axes["x"], "field": "average_low"}}
    down = {**axes, **colour, "y": {**axes["y"], "field": "worst_low"}}
    edge = [{"average_value": x, "worst_value": y} for x, y in _edge(front)]
    faint = {"type": "rule", "opacity": 0.35}
    several = any(point.average.low is not None for point in front.points)
    intervals = [
        {"mark": faint, "encoding": {**across, "x2": {"field": "average_high"}}},
        {"mark": faint, "encoding": {**down, "y2": {"field": "worst_high"}}},
    ]
    line = {"type": "line", "color": SHADES[fronts.STATIC], "opacity": 0.6, "strokeWidth": 1}
    ring = {"type": "point", "size": 260, "color": "var(--ink)"}
    name = {"type": "text", "align": "left", "dx": 7, "dy": -6, "color": "var(--soft)"}
    layers = [
        *(intervals if several else []),
        {"data": {"values": edge}, "mark": line, "encoding": axes},
        {"transform": [{"filter": "datum.tuned"}], "mark": ring, "encoding": axes},
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.9},
            "encoding": {**axes, **colour, "tooltip": told},
        },
        {"mark": name, "encoding": {**axes, "text": {"field": "name"}}},
    ]
    return vega.view(rows, layers, height=380, transform=[], params={})


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
            if point.name == front.tuned:
                axes.plot(
                    point.average.value, point.worst.value, "o", markersize=14,
                    markerfacecolor="none", markeredgecolor=colour,
                )  # fmt: skip
    edge = _edge(front)
    axes.plot(*zip(*edge, strict=True), "-", color=COLOURS[fronts.STATIC], linewidth=1, alpha=0.6)
    axes.axhline(0, color="#888888", linewidth=0.8)
    axes.axvline(0, color="#888888", linewidth=0.8)
    axes.set_xlabel(f"average over the tasks, points; logarithmic beyond {LINEAR}")
    axes.set_ylabel(f"worst task, points; logarithmic beyond {LINEAR}")
    axes.set_title("Weightings: multi-task minus single-task")
    axes.legend(loc="lower right")
    axes.set_xscale("symlog", linthresh=LINEAR)
    axes.set_yscale("symlog", linthresh=LINEAR)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(TICKS))
        axis.set_major_formatter("{x:.0f}")
    _name_points(axes, front.points)


# Where a name may begin beside its point, in points, and its alignment there.
_CORNERS = tuple(
    (x, y, horizontal, vertical)
    for y, vertical in ((4, "bottom"), (-4, "top"))
    for x, horizontal in ((5, "left"), (-5, "right"))
)


def _name_points(axes: Axes, points: Sequence[fronts.Point]) -> None:
    """Each in that corner of its point where it covers least of the points, of the names before it
    and of what is outside."""
    places = axes.transData.transform(
        [(point.average.value, point.worst.value) for point in points]
    )
    taken = [Bbox.from_extents(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    for point in points:
        name = axes.annotate(
            point.name,
            (point.average.value, point.worst.value),
            textcoords="offset points",
            xytext=(0, 0),
            fontsize=7.5,
            color=COLOURS[point.kind],
        )

        def covering(corner, name=name):
            x, y, horizontal, vertical = corner
            name.set(position=(x, y), ha=horizontal, va=vertical)
            box = name.get_window_extent()
            outside = box.width * box.height - _covered(box, [axes.bbox])
            return _covered(box, taken) + outside

        covering(min(_CORNERS, key=covering))
        taken.append(name.get_window_extent())


def _covered(box: Bbox, taken: Sequence[Bbox]) -> float:
    """How much of it others have, in square pixels."""
    common = [Bbox.intersection(box, other) for other in taken]
    return sum(one.width * one.height for one in common if one is not None)


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
    axes.set_xticks(range(len(tasks)), tasks, rotation=20, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(points)), [point.name for point in points], fontsize=7.5)
    for label, point in zip(axes.get_yticklabels(), points, strict=True):
        label.set_color(COLOURS[point.kind])
    axes.grid(False)
    axes.set_title("Tasks' effects, points")
