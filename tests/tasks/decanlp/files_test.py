"""Readers of the decaNLP files: rows, dropped rows, and errors that say where."""

import csv
import json
import re

import pytest

from mtl_t5x.tasks.decanlp import files as decanlp_files
from mtl_t5x.tasks.decanlp import rows as decanlp_rows
from mtl_t5x.tasks.decanlp import wikisql as decanlp_wikisql
from mtl_t5x.tasks.decanlp import woz as decanlp_woz

SENTENCE = "The chef fed the dog in the kitchen ."
SQUAD = {
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "A kitten sat. The  kit\u2028 sat there.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "Who  sat\nthere?",
                            "answers": [
                                {"text": "The  kit", "answer_start": 14},
                                {"text": "kit", "answer_start": 19},
                            ],
                        },
                        {"id": "2", "question": "Why?", "answers": []},
                        {
                            "id": "3",
                            "question": "Where?",
                            "answers": [{"text": "there", "answer_start": 3}],
                        },
                    ],
                }
            ],
        }
    ]
}
WOZ = [
    {
        "dialogue_idx": 7,
        "dialogue": [
            {
                "system_acts": [],
                "transcript": "Cheap  thai food",
                "belief_state": [
                    {"act": "inform", "slots": [["food", "thai"]]},
                    {"act": "inform", "slots": [["price range", "cheap"]]},
                ],
            },
            {
                "system_acts": ["area", ["name", "wok"]],
                "transcript": "Chinese, and the phone?",
                "belief_state": [
                    {"act": "request", "slots": [["slot", "phone"]]},
                    {"act": "inform", "slots": [["food", "chinese"]]},
                    {"act": "inform", "slots": [["price range", "cheap"]]},
                ],
            },
            {"system_acts": [], "transcript": "Bye", "belief_state": []},
        ],
    }
]
HEADER = ["Player", "No.", "Points Scored"]
FILES = {
    "squad/train-v1.1.json": json.dumps(SQUAD, indent=1),
    "iwslt/en-de/train.en-de.en": "A \u2028 cat.\n\nTwo cats.\n",
    "iwslt/en-de/train.en-de.de": "Eine Katze.\nLeer.\n Zwei Katzen.\n",
    "cnn_dailymail/training.jsonl": (
        '{"context": "News. More.", "question": "What is the summary?", "answer": "News."}\n'
        '{"context": "News.", "question": "What is the summary?", "answer": " "}\n'
    ),
    "multinli/multinli_1.0_train.jsonl": (
        '{"gold_label": "contradiction", "sentence1": "It rains.", "sentence2": "It is dry."}\n'
        '{"gold_label": "-", "sentence1": "It rains.", "sentence2": "It is cold."}\n'
    ),
    "sst/train_fine_sent.csv": (
        'label,sentence\n4,"Good, ""really"" good."\n2,Meh.\n3,It\'s fine.\n1,Bad.\n0,"Bad, bad."\n'
    ),
    "srl/train.qa": (
        f"WIKI_0\t2\n{SENTENCE}\n"
        "2\tfed\t2\nwho\t_\t_\tfed\tsomething\t_\t_\t?\tThe chef ### chef\n"
        "where\tdid\tsomeone\tfeed\tsomething\t_\t_\t?\tin the kitchen\n"
        "0\tcook\t0\n\nWIKI_1\t1\n`` It rains .''\n1\trains\t1\n"
        "what\t_\t_\trains\t_\t_\t_\t?\t`` It\n"
    ),
    "zre/relation_splits/train.0": (
        "job\tWhat does XXX do?\tAnna\tAnna is a chef and a baker .\tchef\tbaker\n"
        "job\tWhat does XXX do?\tBen\tBen sleeps .\n"
        "job\tWhat does XXX do?\tBen\tBen is a chef .\tchef\n"
    ),
    "schema/schema.txt": (
        "The [big/small] {0} left the cat because it [was/is] in.  \nWhat [was/is] in?\n{0}/cat\n\n"
    ),
    "wikisql/train.tables.jsonl": json.dumps({"id": "t", "header": HEADER}) + "\n",
    "wikisql/train.jsonl": json.dumps(
        {
            "table_id": "t",
            "question": " How  many? ",
            "sql": {"sel": 0, "agg": 3, "conds": [[2, 1, 3.5], [1, 0, "A  b"]]},
        }
    )
    + "\n",
    "woz/woz_train_en.json": json.dumps(WOZ),
}
FILES["schema/schema.txt"] = "".join(FILES["schema/schema.txt"].format(f"dog{i}") for i in range(7))


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    return tmp_path


def load(folder, task, split="train"):
    decanlp_files.load.cache_clear()
    return decanlp_files.load(str(folder), task, split)


def test_squad_takes_the_first_answer_and_keeps_all(folder):
    loaded = load(folder, "squad")
    assert loaded.dropped == {"no answer": 1}
    first, second = loaded.rows
    assert first["question"] == "Who sat there?"
    assert (first["answer"], first["answers"]) == ("The  kit", ["The  kit", "kit"])
    assert first["answer_start"] == 14
    # The offset in the file is wrong: the answer is looked for.
    assert second["context"][second["answer_start"] :].startswith("there")
    assert [row["idx"] for row in loaded.rows] == [0, 1]


def test_an_answer_is_found_as_whole_words_first():
    assert decanlp_rows.find("A kitten, a kit.", "kit") == 12
    assert decanlp_rows.find("Kittens", "tten") == 2
    assert decanlp_rows.find("cost (in $)", "$") == 9
    assert decanlp_rows.find("abc", "d") == decanlp_rows.find("abc", "") == -1


def test_iwslt_pairs_lines_at_line_feeds_alone(folder):
    loaded = load(folder, "iwslt")
    assert loaded.dropped == {"empty line": 1}
    pairs = [(row["context"], row["answer"]) for row in loaded.rows]
    assert pairs == [("A \u2028 cat.", "Eine Katze."), ("Two cats.", "Zwei Katzen.")]


def test_classes_and_their_dropped_rows(folder):
    loaded = load(folder, "multinli")
    assert loaded.dropped == {"no gold label": 1}
    (row,) = loaded.rows
    assert (row["label"], row["answer"], row["premise"]) == (2, "contradiction", "It rains.")
    assert row["context"] == 'Premise: "It rains."'
    question = 'Hypothesis: "It is dry." -- entailment, neutral, or contradiction?'
    assert row["question"] == question

    loaded = load(folder, "sst")
    assert loaded.dropped == {"neutral label": 1}
    assert [row["label"] for row in loaded.rows] == [1, 1, 0, 0]
    assert loaded.rows[0]["context"] == 'Good, "really" good.'
    assert loaded.rows[2]["answer"] == "negative"


def test_question_tasks(folder):
    assert load(folder, "cnn_dailymail").dropped == {"empty answer": 1}
    rows = load(folder, "srl").rows
    questions = ["who fed something?", "where did someone feed something?", "what rains?"]
    assert [row["question"] for row in rows] == questions
    assert rows[0]["answers"] == ["The chef", "chef"]
    assert [row["answer_start"] for row in rows] == [0, SENTENCE.index("in the"), 0]
    assert (rows[2]["context"], rows[2]["answer"]) == ('" It rains ."', '" It')

    rows = load(folder, "zre").rows
    assert [row["answer"] for row in rows] == ["chef, baker", "unanswerable", "chef"]
    assert [row["answerable"] for row in rows] == [1, 0, 1]
    assert [row["answer_start"] for row in rows] == [-1, -1, 9]
    assert rows[1]["question"] == "What does Ben do?"


def test_schema_makes_two_examples_of_each_block(folder):
    splits = {name: load(folder, "schema", name).rows for name in ("train", "validation", "test")}
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 4,
        "validation": 6,
        "test": 4,
    }
    first, second = splits["train"][:2]
    assert first["context"] == "The big dog0 left the cat because it was in."
    assert second["context"] == "The small dog0 left the cat because it is in."
    assert first["question"] == "What was in? dog0 or cat?"
    assert (first["answer"], second["answer"]) == ("dog0", "cat")
    contexts = [row["context"] for rows in splits.values() for row in rows]
    assert len(set(contexts)) == 14


def test_schema_of_decanlps_size_is_split_as_there(tmp_path):
    (tmp_path / "schema").mkdir()
    block = "A [b/c] {} d.\nWhat [b/c]?\ne/f\n"
    text = "\n".join(block.format(i) for i in range(132))
    (tmp_path / "schema" / "schema.txt").write_text(text)
    sizes = [len(load(tmp_path, "schema", split).rows) for split in ("train", "validation", "test")]
    assert sizes == [80, 84, 100]


def test_wikisql_writes_columns_and_query_in_words(folder):
    (row,) = load(folder, "wikisql").rows
    assert row["context"].startswith(
        "The table has columns Player, No., Points Scored and key words MAX, MIN, COUNT, SUM, AVG, "
        "=, >, <, OP, SELECT, WHERE,"
    )
    assert row["question"] == "How many?"
    expected = "SELECT COUNT Player FROM table WHERE Points Scored > 3.5 AND No. = A b"
    assert row["answer"] == expected
    query, header = decanlp_wikisql.from_json(row["query"])
    assert header == HEADER
    assert query == {"sel": 0, "agg": 3, "conds": [[2, 1, "3.5"], [1, 0, "a b"]]}


def test_woz_tells_what_a_turn_changes(folder):
    rows = load(folder, "woz").rows
    assert [row["context"] for row in rows] == [
        "Cheap thai food",
        "area, name: wok -- Chinese, and the phone?",
        "Bye",
    ]
    assert [row["answer"] for row in rows] == [
        "food: thai, price range: cheap;",
        "food: chinese; phone",
        "None",
    ]
    assert [(row["dialogue"], row["turn"]) for row in rows] == [(0, 0), (0, 1), (0, 2)]
    for row in rows:
        assert (
            decanlp_woz.to_text(decanlp_woz.parse(row["answer"])).lower() == row["answer"].lower()
        )


@pytest.mark.parametrize(
    ("task", "name", "content", "message"),
    [
        ("squad", "train-v1.1.json", b'{"data": [\n{"x" 1}]}', r"train-v1.1.json:2: not JSON"),
        ("squad", "train-v1.1.json", b'{"data": [{}]}', r"data\[0\]: no key 'paragraphs'"),
        (
            "squad",
            "train-v1.1.json",
            b'{"data": [{"paragraphs": [{"context": 3, "qas": []}]}]}',
            r"paragraphs\[0\]: 'context' has an unexpected value, 3",
        ),
        ("iwslt", "en-de/train.en-de.de", b"Eine Katze.\n", r"de:2: the lines must pair .* 1 .* 3"),
        ("cnn_dailymail", "training.jsonl", b'\n{"context": 1\n', r"training.jsonl:2: not a JSON"),
        ("cnn_dailymail", "training.jsonl", b'{"context": "a"}', r"jsonl:1: no key 'question'"),
        ("cnn_dailymail", "training.jsonl", b"", "the file is empty"),
        ("cnn_dailymail", "training.jsonl", b"[1]", "training.jsonl:1: expected an object"),
        (
            "multinli",
            "multinli_1.0_train.jsonl",
            b'{"gold_label": "yes", "sentence1": "a", "sentence2": "b"}',
            "jsonl:1: gold_label 'yes' is not one of entailment, neutral, contradiction",
        ),
        (
            "multinli",
            "multinli_1.0_train.jsonl",
            b'{"gold_label": "-", "sentence1": "a", "sentence2": "b"}',
            "no usable row for train .*1 no gold label",
        ),
        ("sst", "train_fine_sent.csv", b"1,Bad.\n", "csv:1: expected the header"),
        ("sst", "train_fine_sent.csv", b"label,sentence\n7,Bad.\n", "csv:2: the label '7'"),
        ("sst", "train_fine_sent.csv", b"label,sentence\n1,So, so\n", "csv:2: expected a label"),
        ("sst", "train_fine_sent.csv", b'label,sentence\n1,"So\n', "csv:2: not a CSV row"),
        ("sst", "train_fine_sent.csv", b"label,sentence\n1,\xff\n", "csv:2: not UTF-8"),
        ("srl", "train.qa", b"A\t1\nIt rains .\n1\trains\t2\n", "qa:4: the verb above has 2 more"),
        ("srl", "train.qa", b"A\t1\nIt rains .\nwhat\t?\tIt\n", "qa:3: one question more"),
        ("srl", "train.qa", b"A\t1\nIt rains .\nrains\n", "qa:3: expected a verb"),
        ("srl", "train.qa", b"A\t1\nIt .\n1\trains\t1\nwhat\t?\n", "qa:4: after '\\?' one cell"),
        ("zre", "relation_splits/train.0", b"job\tWhat?\tBen\n", "train.0:1: .*found 3 cell"),
        ("schema", "schema.txt", b"\nA [b/c].\nWhat?\nb\n", "schema.txt:2: expected three lines"),
        ("schema", "schema.txt", b"A [b/c].\nWhat?\nb/c\n", "1 schema.* are too few"),
        (
            "wikisql",
            "train.jsonl",
            b'{"table_id": "u", "question": "q", "sql": {}}',
            "train.jsonl:1: the table 'u' is not in .*train.tables.jsonl",
        ),
        (
            "wikisql",
            "train.jsonl",
            b'{"table_id": "t", "question": "q", "sql": {"sel": 3, "agg": 0, "conds": []}}',
            "train.jsonl:1: the query .* does not fit the table's 3 columns",
        ),
        ("woz", "woz_train_en.json", b"{}", "expected a list of dialogues"),
        ("woz", "woz_train_en.json", b'[{"dialogue": [{}]}]', r"\[0\].dialogue\[0\]: no key"),
    ],
)
def test_bad_files_say_where(folder, task, name, content, message):
    (folder / task / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(folder, task)


@pytest.mark.parametrize("task", list(decanlp_files._FILES))
def test_an_absent_file_names_the_setting(tmp_path, task):
    with pytest.raises(FileNotFoundError, match="The setting DATA names a folder"):
        load(tmp_path, task)


# From here on: real files, counted without the readers.


def lines(path):
    return [line for line in path.read_bytes().decode("utf-8").split("\n") if line.strip()]


def count_squad(folder, split):
    data = json.loads((folder / f"{split}-v1.1.json").read_text("utf-8"))["data"]
    return sum(len(part["qas"]) for article in data for part in article["paragraphs"])


def count_srl(folder, split):
    return (folder / f"{split}.qa").read_text("utf-8").count("\t?\t")


def count_sst(folder, split):
    with (folder / f"{split}_fine_sent.csv").open(encoding="utf-8", newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    return len(labels) - labels.count("2"), labels.count("2")


def count_woz(folder, split):
    dialogues = json.loads((folder / f"woz_{split}_en.json").read_text("utf-8"))
    return sum(len(dialogue["dialogue"]) for dialogue in dialogues)


def counted(root):
    """The number of rows of each split, and of those dropped, by other means than the readers."""
    names = {"train": "train", "validation": "dev", "test": "test"}
    counts = {}
    for split, name in names.items():
        for task, number in (
            ("srl", count_srl(root / "srl", name)),
            ("zre", len(lines(root / f"zre/relation_splits/{name}.0"))),
            ("wikisql", len(lines(root / f"wikisql/{name}.jsonl"))),
            ("woz", count_woz(root / "woz", name.replace("dev", "validate"))),
            ("cnn_dailymail", len(lines(root / f"cnn_dailymail/{LONG[split]}.jsonl"))),
        ):
            counts[task, split] = number, 0
        counts["sst", split] = count_sst(root / "sst", name)
    for task, files in (
        ("squad", {"train": "train", "test": "dev"}),
        ("multinli", {"train": "train", "test": "dev_matched"}),
        ("iwslt", {"train": "train", "validation": "tst2013", "test": "tst2014"}),
    ):
        for split, name in files.items():
            if task == "squad":
                counts[task, split] = count_squad(root / task, name), 0
            elif task == "multinli":
                path = root / task / f"multinli_1.0_{name}.jsonl"
                unlabelled = path.read_text("utf-8").count('"gold_label": "-"')
                counts[task, split] = len(lines(path)) - unlabelled, unlabelled
            else:
                (path,) = (root / "iwslt/en-de").glob(f"*{name}.en*.en")
                counts[task, split] = len(lines(path)), 0
    return counts


LONG = {"train": "training", "validation": "validation", "test": "test"}


def test_real_files_give_the_rows_that_they_hold(shared):
    root = shared / "data" / "decanlp"
    expected = counted(root)
    found = {(task, split): decanlp_files.load(str(root), task, split) for task, split in expected}
    assert {
        key: (len(loaded.rows), sum(loaded.dropped.values())) for key, loaded in found.items()
    } == expected
    blocks = re.split(r"\n\s*\n", (root / "schema/schema.txt").read_text("utf-8").strip())
    splits = [decanlp_files.load(str(root), "schema", split).rows for split in LONG]
    assert sum(map(len, splits)) == 2 * len(blocks)
    for loaded in [*found.values(), *map(lambda rows: decanlp_files.Loaded(rows, {}), splits)]:
        for row in loaded.rows:
            start = row["answer_start"]
            assert start < 0 or row["context"].startswith(row["answer"], start)
