"""Conflict is read from fixed points where a run has them; small batches are a diagnostic."""

import numpy as np
import pytest

from mtl_t5x.report import analysis, findings, folders, plots, report, tables
from tests.report.report_test import TASKS, conflict_line, read_csv, write_run, write_study


def line(step, directional):
    """A step's own batch, and at each tenth a fixed point of another figure."""
    found = conflict_line(step, -0.5)
    if step % 10 == 0:
        point = conflict_line(step, 2 * directional, "fixed_point/encoder")
        found |= {k: v for k, v in point.items() if k.startswith("conflict/")}
        found |= {
            "conflict/fixed_point/encoder/covariance": 9.0,
            "conflict/fixed_point/encoder/noise": 16.0,
            "conflict/fixed_point/encoder/layers_0/directional": 0.1,
            "grad_norm/fixed_point/encoder/cola": 1.0,
        }
    return found


@pytest.fixture
def workdir(tmp_path):
    runs = [
        write_run(tmp_path, "multi_task", TASKS, seed, None, [line(s, 0.2) for s in range(1, 21)])
        for seed in (0, 1)
    ]
    write_study(tmp_path, runs)
    return tmp_path


def test_figures_are_of_fixed_points(workdir):
    found = analysis.analyse(folders.load_study(workdir))
    (conflict,) = found.conflicts
    assert (conflict.group, conflict.source) == ("encoder", findings.FIXED_POINT)
    axes = plots.conflict(found, "encoder").axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 0.2)
    (whole,) = (one for one in found.cosines if one.whole)
    shown = plots.cosine(found, whole).axes[0].images[0].get_array()
    np.testing.assert_allclose([shown[0, 1], shown[1, 0]], 0.4)


def test_the_page_and_the_tables_name_both(workdir):
    html = report.write_report(workdir).read_text()
    assert "encoder, fixed points" in html and "encoder, small batches (diagnostic)" in html
    assert html.index("encoder, fixed points") < html.index("encoder, small batches (diagnostic)")
    assert ">covariance</button>" in html
    rows = read_csv(workdir / "report" / "conflict.csv")
    fixed = [row for row in rows if row["group"] == "fixed_point/encoder"]
    assert {(row["covariance"], row["noise"]) for row in fixed} == {("9", "16")}
    assert len(fixed) == 2 * 2
    own = [row for row in rows if row["group"] == "encoder"]
    assert len(own) == 2 * 20 and {row["covariance"] for row in own} == {""}


def test_a_run_without_fixed_points_is_read_as_before(tmp_path):
    runs = [write_run(tmp_path, "multi_task", TASKS, 0, None, [conflict_line(5, 0.5)])]
    write_study(tmp_path, runs)
    study = folders.load_study(tmp_path)
    assert folders.conflict_key(study.records[0], "encoder", "cosine") == "conflict/encoder/cosine"
    assert [row["group"] for row in tables.conflict_rows(study)] == ["encoder"]
    html = report.write_report(tmp_path).read_text()
    assert "(diagnostic)" not in html and ">covariance</button>" not in html
