"""WikiSQL's queries: what can and cannot be read, and every real query."""

import pytest

from mtl_t5x.tasks.decanlp import files as decanlp_files
from mtl_t5x.tasks.decanlp import wikisql as decanlp_wikisql

HEADER = ["Player", "No.", "Points Scored"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT Player FROM table", {"sel": 0, "agg": 0, "conds": []}),
        ("select  max No. from TABLE", {"sel": 1, "agg": 1, "conds": []}),
        # A value may hold `and`; conditions have no order; a column's name may be a word of it.
        (
            "SELECT No. FROM table WHERE Player = Tom and Player AND No. > 3",
            {"sel": 1, "agg": 0, "conds": [[0, 0, "tom and player"], [1, 1, "3"]]},
        ),
        ("SELECT No. FROM table WHERE No.  ⁇  3", {"sel": 1, "agg": 0, "conds": [[1, 2, "3"]]}),
        ("SELECT No. FROM table WHERE No. =", {"sel": 1, "agg": 0, "conds": [[1, 0, ""]]}),
        ("SELECT Team FROM table", None),
        ("SELECT AVERAGE No. FROM table", None),
        ("SELECT No. FROM table WHERE 3 = No.", None),
        ("SELECT No. FROM table WHERE", None),
        ("SELECT No.", None),
        ("", None),
    ],
)
def test_queries_are_read_back(text, expected):
    assert decanlp_wikisql.parse(text, HEADER) == expected


def test_the_longest_column_is_meant_and_same_names_are_one():
    header = ["Max speed", "speed", "Speed limit", "speed"]
    assert decanlp_wikisql.parse("SELECT max speed FROM table", header)["sel"] == 0
    query = decanlp_wikisql.parse("SELECT min speed FROM table WHERE speed limit > 3", header)
    assert query == {"sel": 1, "agg": 2, "conds": [[2, 1, "3"]]}
    gold = {"sel": 3, "agg": 2, "conds": [[2, 1, 3]]}
    assert decanlp_wikisql.normalise(gold, header) == query


def test_real_queries_are_read_back(shared):
    root = str(shared / "data" / "decanlp")
    for split in ("train", "validation", "test"):
        for row in decanlp_files.load(root, "wikisql", split).rows:
            query, header = decanlp_wikisql.from_json(row["query"])
            assert decanlp_wikisql.parse(row["answer"], header) == query, row["answer"]
