import pytest

from mtl_t5x.report import findings, latex, sections, typeset, words
from tests.report import synthetic


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (-1.234, ".2f", "−1.23"),
        (-0.001, ".2f", "0.00"),
        (-0.04, "+.1f", "0.0"),
        (0.04, "+.1f", "0.0"),
        (1000, ",d", "1,000"),
        (-1e-05, ".3g", "−1e−05"),
        (None, ".2f", "–"),
    ],
)
def test_numbers_have_a_true_minus_and_no_negative_nought(value, form, text):
    assert words.number(value, form) == text


def test_an_estimate_without_an_interval_is_its_value():
    assert words.estimate(findings.Estimate(1.5, -0.5, 3.5), "+.1f") == "+1.5 [−0.5, +3.5]"
    assert words.estimate(findings.Estimate(1.5)) == "1.50"
    assert words.estimate(findings.Estimate(None)) == words.UNDEFINED


def test_what_stands_in_a_cell_is_no_command_of_latex():
    text = latex.escape(r"50 % of a_b & {c} \d ~ ^ # $ −1 → ±")
    assert text == (
        r"50 \% of a\_b \& \{c\} \textbackslash{}d \textasciitilde{} \textasciicircum{} \# \$ "
        r"$-$1 $\rightarrow$ $\pm$"
    )


def test_a_table_in_latex_has_all_its_cells():
    head = ("task", "metric", "x")
    lines = [("a_1", "f1", "1"), ("b", "acc", "2"), ("average", "", "1.5")]
    text = latex.render(typeset.table("A caption", head, lines, texts=2, last_is_foot=True))
    assert r"\begin{tabular}{llr}" in text
    body = text[text.index(r"\toprule") :]
    rows = [line.removesuffix(r" \\").split(" & ") for line in body.splitlines() if " & " in line]
    assert rows == [list(head), [r"a\_1", "f1", "1"], ["b", "acc", "2"], ["average", "", "1.5"]]
    assert body.count(r"\midrule") == 2


def test_tables_of_compared_studies_have_names_that_files_may_have():
    variants = tuple((f"study {i}/text_to_text", "default", "semantic") for i in (1, 2))
    printed = sections.for_papers(synthetic.full(variants), ())
    assert list(printed) == [f"transfer.study_{i}_text_to_text.default.semantic" for i in (1, 2)]
