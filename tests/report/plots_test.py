"""The figures that lie beside the page as files."""

import dataclasses
import itertools
import xml.etree.ElementTree

import numpy as np
import pytest

from mtl_t5x.report import findings, plots
from tests.report import synthetic

OTHER = ("text_to_text", "null", "semantic")


@pytest.fixture(scope="module")
def found():
    return synthetic.full()


def drawn_lines(axes, count):
    return [line for line in axes.lines if len(line.get_xdata()) == count]


def test_every_figure_is_a_png_and_an_svg_of_one_name(found):
    small = synthetic.full(tasks=("a", "b"), groups=("encoder", "encoder/layers_0"))
    pictures = plots.draw_all(small)
    assert [picture.name for picture in pictures] == [
        "transfer",
        "conflict.encoder",
        "cosine.encoder.text_to_text.default.semantic",
        "loss.text_to_text.default.semantic",
    ]
    for picture in pictures:
        assert picture.png.startswith(b"\x89PNG")
        assert xml.etree.ElementTree.fromstring(picture.svg).tag.endswith("}svg")
    assert plots.draw_all(synthetic.empty()) == ()


def test_the_transfer_figure_is_at_its_numbers_in_its_verdicts_colours(found):
    axes = plots.transfer(found).axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    colours = {findings.GAIN: plots.GAIN, findings.LOSS: plots.LOSS}
    for dot, one in zip(dots, found.transfers, strict=True):
        assert dot.get_xdata()[0] == one.percent.value
        assert dot.get_color() == colours.get(one.verdict.word, "#777777")
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [*synthetic.TASKS, "average"]


def test_conflict_is_drawn_for_each_setting_with_its_band():
    both = synthetic.full((synthetic.VARIANT, OTHER), tasks=("a", "b", "c"), groups=("encoder",))
    upper, lower = plots.conflict(both, "encoder").axes
    curves = drawn_lines(upper, 40)
    assert [curve.get_label() for curve in curves] == ["default", "null"]
    for curve, one in zip(curves, both.conflicts, strict=True):
        np.testing.assert_allclose(
            curve.get_ydata(), [point.value for point in one.directional.points]
        )
    assert len(upper.collections) == len(lower.collections) == 2
    assert lower.get_yscale() == "log"
    assert plots.conflict(both, "decoder") is None


def test_cosines_are_symmetric_and_sure_pairs_are_framed(found):
    matrix = found.cosines[0]
    axes = plots.cosine(found, matrix).axes[0]
    shown = axes.images[0].get_array()
    np.testing.assert_array_equal(shown, shown.T)
    places = {task: i for i, task in enumerate(matrix.tasks)}
    for pair in matrix.pairs:
        assert shown[places[pair.first], places[pair.second]] == pair.cosine.value
    framed = {(round(p.get_y() + 0.47), round(p.get_x() + 0.47)) for p in axes.patches}
    sure = [p for p in matrix.pairs if p.verdict.word != findings.UNDECIDED]
    expected = {
        way
        for pair in sure
        for way in itertools.permutations((places[pair.first], places[pair.second]))
    }
    assert framed == expected
    unknown = dataclasses.replace(matrix, pairs=())
    assert plots.cosine(found, unknown) is None


def test_losses_are_drawn_for_each_task_and_kind(found):
    axes = plots.losses(found, synthetic.VARIANT).axes
    assert [a.get_title(loc="left") or a.get_title() for a in axes] == list(synthetic.TASKS)
    for panel, one in zip(axes, found.slowdowns, strict=True):
        for line, curve in zip(drawn_lines(panel, 40), (one.single, one.multi), strict=True):
            np.testing.assert_allclose(line.get_ydata(), [point.value for point in curve.points])
    assert plots.losses(found, OTHER) is None
