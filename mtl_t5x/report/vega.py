"""What every chart of the page has in common: Vega-Lite's view, its looks, and data within it.

Colours are the page's CSS variables, so that one drawing serves light, dark and print.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

Spec = dict[str, Any]

VEGA_LITE = "6.4"  # of the versions that vl-convert carries
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name; nothing is fetched from there
CONFIG = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--soft)",
        "titleColor": "var(--soft)",
        "titleFontWeight": "normal",
        "gridColor": "var(--line)",
        "domain": False,
        "tickColor": "var(--line)",
        "labelFontSize": 11,
        "titleFontSize": 11,
    },
    "text": {"color": "var(--ink)", "fontSize": 11},
    "rule": {"color": "var(--soft)"},
}


def view(
    rows: Sequence[Mapping[str, Any]],
    layers: Sequence[Spec],
    *,
    height: int,
    transform: Sequence[str],
    params: Mapping[str, Any],
    calculate: Mapping[str, str] | None = None,
) -> Spec:
    """One view as wide as its place on the page; `transform` are filters, `params` its signals."""
    calculations = (calculate or {}).items()
    return {
        "$schema": SCHEMA,
        "config": CONFIG,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": _data(rows),
        "params": [
            {"name": name, "value": value} for name, value in {"hidden_tasks": [], **params}.items()
        ],
        "transform": [
            *({"filter": condition} for condition in transform),
            *({"calculate": expression, "as": name} for name, expression in calculations),
        ],
        "layer": list(layers),
    }


def _data(rows: Sequence[Mapping[str, Any]]) -> Spec:
    """Rows as CSV inside the specification, a third of what they take as JSON."""
    text = io.StringIO()
    names = list(rows[0]) if rows else []
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    kinds = {}
    for row in rows:
        for name, value in row.items():
            # An empty field of a column of numbers is null.
            kinds[name] = "string" if isinstance(value, str) else "number"
        writer.writerow(
            {k: format(v, ".4g") if isinstance(v, float) else v for k, v in row.items()}
        )
    return {"values": text.getvalue(), "format": {"type": "csv", "parse": kinds}}
