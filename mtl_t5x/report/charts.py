"""The page's figures as Vega-Lite specifications, which answer to the pointer without code of ours.

Colours are the page's CSS variables, so that one drawing serves light, dark and print. Signals that
the page's controls set are parameters: `hidden_tasks` everywhere, `group` and `index` of a matrix.

Source: Satyanarayan, Moritz, Wongsuphasawat and Heer, "Vega-Lite: A Grammar of Interactive
Graphics", IEEE Transactions on Visualization and Computer Graphics 23 (2017).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mtl_t5x.report import vega

FEW = 12  # points of a curve that are drawn as such
MANY = 3  # curves whose bands can be told apart


@dataclasses.dataclass(frozen=True)
class Series:
    """A curve and its band: `points` are (x, value, low, high), None for what is undefined.

    `group` names the parameters it is of, where the reader chooses between some.
    """

    name: str
    colour: str
    points: tuple[tuple[float | None, ...], ...]
    dashed: bool = False
    group: str = "all"


def curves(
    series: Sequence[Series],
    y: str,
    *,
    x: str = "training step",
    descending: bool = False,
    log: bool = False,
    references: Mapping[str, float] | None = None,
    height: int = 150,
) -> vega.Spec:
    """Curves with bands; the pointer shows all curves' values at the x nearest to it.

    Args:
      series: the curves; those of one name have one colour.
      y, x: the axes' titles.
      descending: whether x falls from left to right.
      log: whether y is on a log scale.
      references: heights of horizontal lines, by their names.
      height: in pixels.
    """
    rows = [
        {"group": one.group, "x": at, "series": one.name, "y": value, "low": low, "high": high}
        for one in series
        for at, value, low, high in one.points
        if value is not None and (value > 0 or not log)
    ]
    axes = {
        "x": {
            "field": "x",
            "type": "quantitative",
            "title": x,
            "axis": {"grid": False, "tickCount": 4, "format": "~s"},
            "scale": {"reverse": descending, "zero": False, "nice": False},
        },
        "y": {
            "type": "quantitative",
            "title": y,
            "axis": {"values": _log_ticks(rows)} if log else {"tickCount": 4},
            "scale": {"type": "log", "nice": False} if log else {"zero": False},
        },
    }
    lines = _bands_and_lines(series, axes, floor=min(row["y"] for row in rows) / 2 if log else None)
    layers = [*lines, *_references(references or {}), _pointer(x)]
    return vega.view(
        rows,
        layers,
        height=height,
        transform=["indexof(hidden_tasks, datum.series) < 0", "datum.group === group"],
        params={"group": series[0].group},
    )


def _bands_and_lines(
    series: Sequence[Series], axes: Mapping[str, vega.Spec], floor: float | None
) -> list[vega.Spec]:
    """The curves, and their bands down to `floor`, below which a log axis may have no place."""
    looks = {one.name: one for one in series}
    colours = {"domain": list(looks), "range": [one.colour for one in looks.values()]}
    dashes = [[5, 3] if one.dashed else [1, 0] for one in looks.values()]
    colour = {"field": "series", "scale": colours, "legend": None}
    dash = {**colour, "scale": {"domain": list(looks), "range": dashes}}
    bottom = "datum.low" if floor is None else f"max(datum.low, {floor})"
    # A line through a single point can't be seen.
    few = {"size": 25} if max(len(one.points) for one in series) <= FEW else False
    band = [
        {
            "transform": [
                {"filter": "isValid(datum.low) && isValid(datum.high)"},
                {"calculate": bottom, "as": "bottom"},
            ],
            "mark": {"type": "area", "opacity": 0.2 if len(looks) <= MANY else 0.07},
            "encoding": {
                "x": axes["x"],
                "y": {"field": "bottom", **axes["y"]},
                "y2": {"field": "high"},
                "color": colour,
            },
        }
    ]
    # Without any interval, as from one seed, a band would have no extent.
    known = any(point[2] is not None for one in series for point in one.points)
    return [
        *(band if known else []),
        {
            "mark": {"type": "line", "strokeWidth": 2, "point": few},
            "encoding": {
                "x": axes["x"],
                "y": {"field": "y", **axes["y"]},
                "color": colour,
                "strokeDash": dash,
            },
        },
    ]


def _log_ticks(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """1, 2 and 5 times the powers of ten that the values span; without the 2 and 5 if many."""
    values = [row["y"] for row in rows]
    if not values:
        return []
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    steps = (1, 2, 5) if len(powers) < 4 else (1,)
    return [float(f"{step}e{power}") for power in powers for step in steps]


def _references(references: Mapping[str, float]) -> list[vega.Spec]:
    """Dashed horizontal lines with a name each."""
    if not references:
        return []
    data = {"values": [{"name": name, "height": height} for name, height in references.items()]}
    y = {"field": "height", "type": "quantitative"}
    name = {"type": "text", "align": "right", "dy": -6, "color": "var(--soft)"}
    at_the_end = {"y": y, "x": {"value": "width"}, "text": {"field": "name"}}
    return [
        {"data": data, "mark": {"type": "rule", "strokeDash": [4, 3]}, "encoding": {"y": y}},
        {"data": data, "mark": name, "encoding": at_the_end},
    ]


def _pointer(x: str) -> vega.Spec:
    """A line at the x that is nearest to the pointer, with every curve's value there."""
    value, low, high = (f"format(datum.{part}, ',.3~r')" for part in ("y", "low", "high"))
    interval = f"isValid(datum.low) ? ' [' + {low} + ', ' + {high} + ']' : ''"
    nearest = {"type": "point", "fields": [x], "nearest": True}
    return {
        # One row for each x, which holds no more than what is told: the x and each curve's text.
        "transform": [
            {"calculate": "datum.x", "as": x},
            {"calculate": f"{value} + ({interval})", "as": "text"},
            {"pivot": "series", "value": "text", "groupby": [x], "op": "max"},
        ],
        "params": [
            {
                "name": "pointed",
                "select": {**nearest, "on": "pointerover", "clear": "pointerout"},
            }
        ],
        "mark": {"type": "rule", "strokeWidth": 1, "tooltip": {"content": "data"}},
        "encoding": {
            "x": {"field": x, "type": "quantitative"},
            "opacity": {
                "condition": {"param": "pointed", "empty": False, "value": 0.8},
                "value": 0,
            },
        },
    }


@dataclasses.dataclass(frozen=True)
class Cell:
    """A pair of tasks in one of several matrices: which, by `group` and `index` (from 0).

    `batch` is the cosine of small batches, which may tell the sign where `value` is undefined.
    """

    group: str
    index: int
    first: str
    second: str
    value: float | None
    low: float | None
    high: float | None
    batch: float | None
    marked: bool


def matrix(cells: Sequence[Cell], tasks: Sequence[str], limit: float) -> vega.Spec:
    """The lower triangle of cosines; signals `group` and `index` choose which.

    The colour is as strong as the cosine is far from 0, up to `limit`; a marked pair has a frame.
    Where a cosine is undefined, its sign stands for it, or a dash.
    """
    rows = [dataclasses.asdict(cell) | {"marked": int(cell.marked)} for cell in cells]
    axis = {"title": None, "domain": False, "ticks": False, "labelFontSize": 12}
    shared = {"sort": list(tasks), "scale": {"paddingInner": 0.08, "paddingOuter": 0.04}}
    place = {
        "x": {"field": "first", **shared, "axis": {**axis, "labelAngle": -40}},
        "y": {"field": "second", **shared, "axis": axis},
    }
    text = {"field": "text", "type": "nominal"}
    layers = [
        {
            "mark": {"type": "rect", "stroke": "var(--line)"},
            "encoding": {**place, **_colour(limit), "tooltip": _of_pair()},
        },
        {
            "transform": [{"filter": "datum.marked"}],
            "mark": {"type": "rect", "stroke": "var(--ink)", "strokeWidth": 2, "fill": None},
            "encoding": place,
        },
        {"mark": "text", "encoding": {**place, "text": text, "tooltip": _of_pair()}},
    ]
    shown = "indexof(hidden_tasks, datum.{}) < 0"
    return vega.view(
        rows,
        layers,
        height=34 * (len(tasks) - 1),
        transform=[
            "datum.group === group && datum.index === index",
            shown.format("first"),
            shown.format("second"),
        ],
        params={"group": cells[0].group, "index": cells[0].index},
        calculate={
            "sign": "datum.marked ? (datum.batch > 0 ? '+' : '−') : '–'",
            "text": "isValid(datum.value) ? format(datum.value, '.2f') : datum.sign",
            "shown": "isValid(datum.value) ? datum.value : datum.marked ? datum.batch : 0",
            "strength": "abs(datum.shown)",
        },
    )


def _colour(limit: float) -> vega.Spec:
    """A cell's colour by the sign of what it shows, as strong as that is large."""
    gain = {"test": "datum.shown > 0", "value": "var(--gain)"}
    scale = {"domain": [0, limit], "range": [0, 0.65], "clamp": True}
    strength = {"field": "strength", "type": "quantitative", "scale": scale, "legend": None}
    return {"fill": {"condition": gain, "value": "var(--loss)"}, "fillOpacity": strength}


def _of_pair() -> list[vega.Spec]:
    """What the pointer tells of a cell."""
    titles = {"value": "cosine", "low": "from", "high": "to", "batch": "of small batches"}
    return [
        {"field": "first", "title": "task"},
        {"field": "second", "title": "with"},
        *(
            {"field": field, "title": title, "format": ".3f", "type": "quantitative"}
            for field, title in titles.items()
        ),
    ]


@dataclasses.dataclass(frozen=True)
class Dot:
    """An observation of a task, of the parameters `group`; `note` says of what run."""

    group: str
    task: str
    note: str
    x: float
    y: float


def scatter(
    dots: Sequence[Dot], notes: Mapping[str, str], x: str, y: str, colours: Mapping[str, str]
) -> vega.Spec:
    """Dots in their tasks' colours, lines at 0, and a note for each group; `group` chooses."""
    look = {"axis": {"tickCount": 4, "grid": False}, "scale": {"padding": 10}}
    place = {
        "x": {"field": "x", "type": "quantitative", "title": x, **look},
        "y": {"field": "y", "type": "quantitative", "title": y, **look},
    }
    scale = {"domain": list(colours), "range": list(colours.values())}
    tooltip = [
        {"field": "task"},
        {"field": "note", "title": "run"},
        {"field": "x", "type": "quantitative", "format": ".3~g", "title": x},
        {"field": "y", "type": "quantitative", "format": ".3~g", "title": y},
    ]
    corner = {"type": "text", "align": "left", "baseline": "bottom"}
    layers = [
        _line_at_0("x"),
        _line_at_0("y"),
        {
            "mark": {"type": "point", "filled": True, "size": 70, "opacity": 0.85},
            "encoding": {
                **place,
                "color": {"field": "task", "scale": scale, "legend": None},
                "tooltip": tooltip,
            },
        },
        {
            "data": {"values": [{"group": group, "note": note} for group, note in notes.items()]},
            "transform": [{"filter": "datum.group === group"}],
            "mark": corner,
            "encoding": {"x": {"value": 0}, "y": {"value": -4}, "text": {"field": "note"}},
        },
    ]
    return vega.view(
        [dataclasses.asdict(dot) for dot in dots],
        layers,
        height=230,
        transform=["indexof(hidden_tasks, datum.task) < 0", "datum.group === group"],
        params={"group": dots[0].group},
    )


def _line_at_0(axis: str) -> vega.Spec:
    return {
        "data": {"values": [{}]},
        "mark": {"type": "rule", "strokeDash": [4, 3]},
        "encoding": {axis: {"datum": 0}},
    }


@dataclasses.dataclass(frozen=True)
class Range:
    """An estimate with its interval, by name."""

    name: str
    value: float
    low: float | None
    high: float | None


def ranges(estimates: Sequence[Range], x: str) -> vega.Spec:
    """A dot with its interval for each name, one under the other, and a line at 0."""
    rows = [dataclasses.asdict(estimate) for estimate in estimates]
    y = {
        "field": "name",
        "sort": [one.name for one in estimates],
        "axis": {"title": None, "ticks": False, "labelLimit": 140},
    }
    across = {"type": "quantitative", "title": x, "axis": {"tickCount": 4}}
    tooltip = [{"field": "name", "title": "parameters"}]
    tooltip += [
        {"field": field, "title": title, "type": "quantitative", "format": ".3f"}
        for field, title in (("value", x), ("low", "from"), ("high", "to"))
    ]
    interval = {"y": y, "x": {"field": "low", **across}, "x2": {"field": "high"}}
    layers = [
        _line_at_0("x"),
        {
            "mark": {"type": "rule", "strokeWidth": 2.5, "color": "var(--together)"},
            "encoding": interval,
        },
        {
            "mark": {"type": "point", "filled": True, "size": 60, "color": "var(--together)"},
            "encoding": {"y": y, "x": {"field": "value", **across}, "tooltip": tooltip},
        },
    ]
    return vega.view(rows, layers, height=24 * len(rows), transform=[], params={})
