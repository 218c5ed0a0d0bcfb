import csv

import pytest
import vl_convert

from mtl_t5x.report import charts, vega

CURVE = charts.Series(
    "a", "red", ((1.0, 2.0, 1.5, 2.5), (2.0, None, None, None), (3.0, -1.0, None, None))
)


def rows(spec):
    return list(csv.DictReader(spec["data"]["values"].splitlines()))


def test_curves_leave_out_what_is_undefined():
    assert [(r["x"], r["y"], r["low"]) for r in rows(charts.curves([CURVE], "y"))] == [
        ("1", "2", "1.5"),
        ("3", "-1", ""),
    ]
    assert [r["x"] for r in rows(charts.curves([CURVE], "y", log=True))] == ["1"]


@pytest.mark.parametrize(
    "name", ["glue.v1", "a[0]", "it's", 'say "it"', "back\\slash", "täsk, one"]
)
def test_any_task_name_is_drawn_and_told_at_the_pointer(name):
    """Vega-Lite reads dots and brackets in a field's name as a path; CSV has commas and quotes."""
    series = charts.Series(name, "red", CURVE.points)
    spec = charts.curves([series], "y") | {"width": 200}
    assert {row["series"] for row in rows(spec)} == {name}
    assert "<svg" in vl_convert.vegalite_to_svg(spec, vl_version=vega.VEGA_LITE)


def test_groups_are_chosen_by_a_signal():
    series = [charts.Series("a", "red", CURVE.points, group=group) for group in ("x", "y")]
    spec = charts.curves(series, "cosine")
    assert {"name": "group", "value": "x"} in spec["params"]
    assert {"filter": "datum.group === group"} in spec["transform"]
    assert [row["group"] for row in rows(spec)] == ["x", "x", "y", "y"]


def test_a_matrix_draws_the_chosen_step_alone():
    cells = [
        charts.Cell("encoder", index, "a", "b", value, value - 0.1, value + 0.1, 0.0, value > 0.1)
        for index, value in enumerate((0.05, 0.31, -0.42))
    ]
    spec = charts.matrix(cells, ("a", "b"), 0.5) | {"width": 200}
    for index, text in enumerate(("0.05", "0.31", "−0.42")):
        chosen = {"group": "encoder", "index": index}
        spec["params"] = [{**p, "value": chosen.get(p["name"], p["value"])} for p in spec["params"]]
        svg = vl_convert.vegalite_to_svg(spec, vl_version=vega.VEGA_LITE)
        assert [t for t in ("0.05", "0.31", "−0.42") if f">{t}<" in svg] == [text]
        assert ("var(--ink)" in svg.split("mark-text")[0]) == (index == 1)
        assert ("var(--loss)" in svg) == (index == 2)
    spec["params"][0]["value"] = ["b"]
    assert ">−0.42<" not in vl_convert.vegalite_to_svg(spec, vl_version=vega.VEGA_LITE)


@pytest.mark.parametrize(("batch", "sure", "text"), [(0.1, 1, "+"), (-0.1, 1, "−"), (-0.1, 0, "–")])
def test_an_undefined_cosine_has_its_sign_at_most(batch, sure, text):
    cells = [charts.Cell("encoder", 0, "a", "b", None, None, None, batch, bool(sure))]
    spec = charts.matrix(cells, ("a", "b"), 0.5) | {"width": 200}
    svg = vl_convert.vegalite_to_svg(spec, vl_version=vega.VEGA_LITE)
    assert [t for t in "+−–" if f">{t}<" in svg] == [text]
