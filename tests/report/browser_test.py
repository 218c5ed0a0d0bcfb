"""The page in a browser: every control acts, nothing complains, nothing runs over the edge."""

import pytest

from mtl_t5x.report import page, words
from tests.report import browser, pictures, synthetic

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        browser.program() is None, reason="no Chromium here: apt-get install -y chromium"
    ),
]
OTHER = ("text_to_text", "null", "semantic")
# Clicks every button, and takes every value of every choice and the ends of every slider.
USE_ALL = """
(async () => {
  const frame = () => new Promise(requestAnimationFrame);
  let used = 0;
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const button of document.querySelectorAll("button")) {
    for (const time of [1, 2]) { button.click(); used += 1; }
  }
  for (const control of document.querySelectorAll("select, input")) {
    const values = control.options
      ? [...control.options].map((option) => option.value) : [control.max, control.min];
    for (const value of [...values, values[0]]) {
      control.value = value;
      control.dispatchEvent(new Event("input", { bubbles: true }));
      used += 1;
      await frame();
    }
  }
  await frame();
  return used;
})()
"""
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages by name: of one setting, of two, and before any run has finished."""
    two = (synthetic.VARIANT, OTHER)
    drawn = {
        "one": (synthetic.study(), synthetic.full()),
        "two": (synthetic.study(two), synthetic.full(two)),
        "none": (synthetic.study(finished=False), synthetic.empty()),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, (study, found) in drawn.items():
        (folder / f"{name}.html").write_text(page.render(study, found, (), (), ()))
    return folder


@pytest.fixture(scope="module")
def tab():
    with browser.tab() as opened:
        yield opened


@pytest.fixture
def shown(tab, pages):
    """Opens a page; what goes wrong in it until the end of the test fails the test."""
    tab.problems.clear()
    tab.requests.clear()
    yield lambda name, *window: tab.show(pages / f"{name}.html", *window)
    tab.evaluate("new Promise((done) => setTimeout(done, 50))")
    assert tab.problems == []
    assert all(url.startswith(("file:", "data:")) for url in tab.requests), tab.requests


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("name", ["one", "two", "none"])
def test_every_control_can_be_used(shown, tab, name, width, scheme):
    shown(name, width, 800, scheme)
    assert tab.evaluate(OVERFLOW) == 0
    controls = tab.evaluate("document.querySelectorAll('button, select, input').length")
    assert tab.evaluate(USE_ALL) >= 2 * controls
    assert tab.evaluate(OVERFLOW) == 0
    drawn = tab.of(".chart", "e.offsetWidth === 0 || e.querySelector('svg') !== null")
    assert all(drawn) and (name == "none" or (drawn and controls > 50))


def names_in_order(tab):
    return tab.of(".verdict tbody th", "e.textContent.trim()")


def test_a_table_sorts_both_ways_by_keyboard_and_says_so(shown, tab):
    shown("one", 1200, 800, "light")
    names = sorted(synthetic.TASKS)
    tab.evaluate("document.querySelector('.verdict th button').focus()")
    for key, expected, direction in (
        ("Enter", names, "ascending"),
        (" ", names[::-1], "descending"),
    ):
        tab.press(key)
        assert names_in_order(tab) == expected
        heads = tab.of(".verdict th[aria-sort]", "e.ariaSort")
        assert heads[0] == direction and set(heads[1:]) == {"none"}
    tab.evaluate("document.querySelectorAll('.verdict th button')[3].click()")
    by_value = sorted(synthetic.full().transfers[:-1], key=lambda t: t.percent.value)
    assert names_in_order(tab) == [t.task for t in by_value]
    assert tab.of(".verdict tfoot th", "e.textContent.trim()") == ["average"]


def texts(tab, chart):
    """What a chart has written in it."""
    return tab.of(f"[data-figure='{chart}'] text", "e.textContent")


def test_the_slider_goes_through_the_matrices(shown, tab):
    shown("one", 1200, 800, "light")
    matrices = [one for one in synthetic.full().cosines if one.group == "encoder"]
    tab.evaluate("document.querySelector('input[type=range]').focus()")
    for place, one in enumerate(matrices):
        if place:
            tab.press("ArrowRight")
            tab.settle()
        drawn = sorted(text for text in texts(tab, 0) if "." in text)
        assert drawn == sorted(words.number(pair.cosine.value) for pair in one.pairs)
    steps = f"steps {one.first_step:,} to {one.last_step:,}"
    assert tab.of("input[type=range]", "e.getAttribute('aria-valuetext')") == [steps]
    assert tab.of("input[type=range] + output", "e.value") == [steps]


def test_a_task_that_is_switched_off_leaves_every_figure(shown, tab):
    shown("one", 1200, 800, "light")
    for pressed in (True, False):
        assert ("rte" in texts(tab, 0)) == pressed
        assert set(tab.of("[data-panel-task=rte]", "e.hidden")) == {not pressed}
        assert tab.of("[data-task=rte][aria-pressed]", "e.ariaPressed") == [str(pressed).lower()]
        tab.evaluate("document.querySelector('button[data-task=rte]').click()")
        tab.settle()


def test_examples_are_filtered(shown, tab):
    shown("one", 1200, 800, "light")
    flips = [one for of_task in synthetic.full().flips for one in of_task.shown]
    assert tab.of("form output", "e.value") == ["6"]  # of the first task
    tab.choose("form select[name=task]", "")
    assert tab.of("form output", "e.value") == [str(len(flips))]
    tab.choose("form select[name=task]", "qnli")
    tab.choose("form select[name=direction]", "loss")
    seen = tab.of(".examples li:not([hidden])", "e.dataset.task + ' ' + e.dataset.direction")
    assert seen == ["qnli loss"] * 3
    assert tab.of("form output", "e.value") == ["3"]


def test_the_pointer_tells_values(shown, tab):
    shown("one", 1200, 800, "light")
    chart = "[data-figure='1']"
    tab.of(chart, "e.scrollIntoView()")
    (box,) = tab.of(chart, "e.getBoundingClientRect().toJSON()")
    for nudge in (0, 3):
        tab.point(box["left"] + box["width"] / 2 + nudge, box["top"] + 80)
    tab.settle()
    (said,) = tab.of("#vg-tooltip-element", "e.textContent")
    step = int(said.removeprefix("training step").split("between")[0])
    curve = synthetic.full().conflicts[0].mean_cosine
    point = curve.points[curve.steps.index(step)]
    assert f"between tasks{point.value:.3g} [{point.low:.3g}, {point.high:.3g}]" in said


def test_a_setting_is_shown_alone(shown, tab):
    shown("two", 1200, 800, "light")
    for name in map(words.variant, (OTHER, synthetic.VARIANT)):
        tab.choose("#variant", name)
        assert set(tab.of("[data-variant]:not([hidden])", "e.dataset.variant")) == {name}


def test_the_answers_stand_on_a_laptops_screen(shown, tab):
    """1366 x 768: all three, and the first rows of the table."""
    shown("one", 1366, 768, "light")
    parts = ".answers section, .verdict tbody tr:nth-child(3)"
    bottoms = tab.of(parts, "e.getBoundingClientRect().bottom")
    assert len(bottoms) == 4 and max(bottoms) <= 768


def test_the_readmes_pictures_are_taken(pages, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "DOCS", tmp_path)
    pictures.main(pages / "one.html")
    sizes = {}
    for path in tmp_path.iterdir():
        head = path.read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        sizes[path.name] = int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    assert sizes["report.png"] == (1366, 768)
    width, height = sizes["conflict.png"]
    assert 1200 < width <= 1366 and 300 < height < 1000
