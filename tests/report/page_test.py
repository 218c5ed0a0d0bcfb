"""The page drawn from analyses of plain numbers."""

import dataclasses
import html.parser
import json
import re

import markupsafe
import pytest
import vl_convert

from mtl_t5x.report import findings, page, vega, words
from tests.report import synthetic

OTHER = ("text_to_text", "null", "semantic")


def render(found=None, **study):
    variants = found.variants if found else (synthetic.VARIANT,)
    found = found or synthetic.full()
    return page.render(synthetic.study(variants, **study), found, (), (), ("transfer.png",))


class Reader(html.parser.HTMLParser):
    """Collects start tags, and the visible text of each element of some kind."""

    VOID = {"meta", "link", "input", "br", "img", "line", "circle"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def of(self, tag):
        return [" ".join(text.split()) for text in self.texts.get(tag, [])]


def specs(text):
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.S)
    return json.loads(found.group(1))


@pytest.fixture(scope="module")
def full():
    return render()


def test_every_element_is_closed_and_nothing_comes_from_elsewhere(full):
    reader = Reader(full)
    assert reader.open == []
    for tag, attributes in reader.tags:
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
    style = reader.of("style")[0]
    assert "url(" not in style and "@import" not in style


def test_the_verdict_comes_first_and_in_order(full):
    found = synthetic.full()
    reader = Reader(full)
    assert reader.of("h1") == [found.sentences[0].text]
    places = [full.index(markupsafe.escape(sentence.text)) for sentence in found.sentences]
    table = full.index('<table class="verdict">')
    assert max(places) < table < full.index('class="chart"') < full.index('class="examples"')
    assert full.index('class="examples"') < full.index('id="methods"')


def test_the_table_says_what_the_analysis_says(full):
    table = full[full.index('<table class="verdict">') :]
    table = table[: table.index("</table>")]
    rows = {t.task: t for t in synthetic.full().transfers}
    lines = re.findall(r"<tr>\s*<th scope=\"row\".*?</tr>", table, re.S)
    assert len(lines) == len(rows)
    for line in lines:
        reader = Reader(line)
        one = rows.pop(reader.of("th")[0])
        cells = reader.of("td")
        assert cells[0] == one.verdict.word
        expected = (
            f"{words.number(one.percent.value, '+.1f')} {words.interval(one.percent, '+.1f')}"
        )
        assert cells[2] == expected
        assert cells[3:5] == [words.number(one.verdict.q, ".3f"), "±5.5"]
        assert cells[-2:] == ["1,000 × 2", str(one.seeds_needed)]
    body = table[: table.index("</tbody>")]
    values = [float(v) for v in re.findall(r'<td data-value="(-?[\d.]+)"><?\s*<svg', body)]
    assert len(values) == len(synthetic.TASKS) and values == sorted(values)
    assert "average" in table[table.index("<tfoot>") :]


def test_an_intervals_picture_is_to_scale_and_ends_at_its_edge():
    found = synthetic.full()
    part = page._part(synthetic.study(), found, synthetic.VARIANT)
    assert part.across(0) == page.WIDTH / 2
    assert part.across(part.reach / 2) - part.across(0) == pytest.approx(page.WIDTH / 4, abs=0.1)
    assert part.across(10 * part.reach) == page.WIDTH and part.across(-1e9) == 0
    wide = dataclasses.replace(found.transfers[0], percent=findings.Estimate(1.0, -500.0, 500.0))
    usual = [t.percent.value for t in found.transfers]
    assert max(map(abs, usual)) <= page._reach([wide, *found.transfers]) < 100


def test_a_change_without_a_percentage_is_told_in_points():
    """As where the baseline may be 0: the verdict is given on the difference."""
    found = synthetic.full()
    first = dataclasses.replace(found.transfers[0], percent=findings.Estimate(None))
    text = render(dataclasses.replace(found, transfers=(first, *found.transfers[1:])))
    said = " ".join(re.sub(r"<[^>]*>", "", text).split())
    assert "– −4.5 points [−6.5, −2.5]" in said and said.count(" points [") == 1


def test_an_arrow_says_that_an_interval_goes_on_beyond_its_picture(full):
    found = synthetic.full()
    wide = dataclasses.replace(found.transfers[0], percent=findings.Estimate(1.0, -900.0, 3.0))
    assert 'class="beyond"' not in full
    text = render(dataclasses.replace(found, transfers=(wide, *found.transfers[1:])))
    assert text.count('class="beyond"') == 1


def test_what_is_written_in_the_data_is_text(full):
    assert "a note on &lt;the data&gt;" in full
    assert "<b>the cat" not in full and "&lt;b&gt;the cat &amp; dog&lt;/b&gt;" in full
    unfinished = render(synthetic.empty(), finished=False)
    assert "failed: ValueError: a &lt;b&gt; &amp; c" in unfinished


def test_before_any_run_has_finished_the_page_says_so():
    text = render(synthetic.empty(), finished=False)
    reader = Reader(text)
    assert reader.of("h1") == [
        "Does training together help or hurt? The runs finished so far don't tell"
    ]
    assert "Without results: 18 of 18 runs" in text
    assert (
        specs(text) == []
        and 'class="verdict"' not in text
        and "data-filters=" not in text.split("<script")[0]
    )


@pytest.mark.parametrize(
    "field", ["conflicts", "cosines", "slowdowns", "gaps", "shares", "associations", "flips"]
)
def test_a_page_without_some_of_the_findings_is_whole(field):
    found = dataclasses.replace(synthetic.full(), **{field: ()})
    reader = Reader(render(found))
    assert reader.open == []


def test_an_undefined_transfer_stands_last_and_is_no_number():
    found = synthetic.full()
    nothing = dataclasses.replace(
        found.transfers[0],
        percent=findings.Estimate(None),
        single=findings.Estimate(None),
        verdict=findings.Verdict(None, None, findings.UNDECIDED),
        smallest_percent=None,
        examples=None,
    )
    text = render(dataclasses.replace(found, transfers=(nothing, *found.transfers[1:])))
    body = text[text.index("<tbody>") : text.index("</tbody>")]
    last = Reader(body[body.rindex("<tr>") :])
    assert last.of("th") == ["cola"]
    assert [cell for cell in last.of("td") if cell == words.UNDEFINED]
    assert "None" not in body and "nan" not in body


def test_each_setting_has_a_part_of_its_own():
    found = synthetic.full((synthetic.VARIANT, OTHER))
    reader = Reader(render(found))
    parts = [a["data-variant"] for _, a in reader.tags if "data-variant" in a]
    names = {words.variant(v) for v in found.variants}
    assert set(parts) == names and len(parts) > 2 * len(names)
    options = [a["value"] for tag, a in reader.tags if tag == "option" and a.get("value") in names]
    assert options == [words.variant(v) for v in found.variants]
    assert "data-variant" not in str(Reader(render()).tags)


def test_controls_and_figures_have_names_for_those_who_dont_see_them(full):
    reader = Reader(full)
    charts_drawn = [a for _, a in reader.tags if a.get("class") == "chart"]
    assert [int(a["data-figure"]) for a in charts_drawn] == list(range(len(specs(full))))
    assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in charts_drawn)
    heads = [a for tag, a in reader.tags if tag == "th" and a.get("scope") == "col"]
    assert heads and all("aria-sort" in a for a in heads)
    assert len(reader.of("caption")) == len(reader.of("table"))


def test_tasks_in_training_are_switched_and_no_others():
    """Not those that are tested only; and those too that no finished run has scored."""
    found = synthetic.full()
    found = dataclasses.replace(found, tasks=("mnli_mismatched", *found.tasks[:3]))
    reader = Reader(render(found))
    tasks = [a["data-task"] for tag, a in reader.tags if tag == "button" and "data-task" in a]
    assert tasks == list(synthetic.TASKS)


def test_figures_compile_and_hold_their_numbers(full):
    found = synthetic.full()
    drawn = specs(full)
    kinds = {json.dumps([layer["mark"] for layer in spec["layer"]]): spec for spec in drawn}
    for spec in kinds.values():
        assert vl_convert.vegalite_to_vega(spec, vl_version=vega.VEGA_LITE)["marks"]
    matrix = drawn[0]["data"]["values"].splitlines()
    pairs = [pair for one in found.cosines for pair in one.pairs]
    assert len(matrix) == 1 + len(pairs)
    marked = [line for line in matrix[1:] if line.endswith(",1")]
    assert len(marked) == sum(pair.verdict.word != findings.UNDECIDED for pair in pairs)


def test_every_chart_can_leave_out_tasks(full):
    for spec in specs(full):
        assert spec["params"][0] == {"name": "hidden_tasks", "value": []}


def test_the_page_says_how_to_make_it_again():
    command = "python -m mtl_t5x.study --config=a.py '--config.seeds=(0, 1)' --workdir=DIR"
    study = synthetic.study()
    assert "Run it again" not in page.render(study, synthetic.full(), (), (), ())
    study = dataclasses.replace(study, command=command, versions={"jax": "0.10.1"})
    text = page.render(study, synthetic.full(), (), (), ())
    assert markupsafe.escape(command) in text
    assert "begun with jax 0.10.1." in text
