"""The embedded DecaNLP: the same everywhere, small, and right by rules told here anew."""

import collections
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from mtl_t5x.tasks import prompts, vocabularies
from mtl_t5x.tasks.decanlp import rows as decanlp_rows
from mtl_t5x.tasks.decanlp import wikisql as decanlp_wikisql
from mtl_t5x.tasks.mini import decanlp as mini_decanlp

ALL = [(task, split) for task in mini_decanlp.TASKS for split in mini_decanlp.SPLITS]


@pytest.mark.parametrize(("task", "split"), ALL)
def test_sizes_fields_and_spans(task, split):
    rows = mini_decanlp.rows(task, split)
    assert len(rows) == mini_decanlp.SPLITS[split]
    assert [row["idx"] for row in rows] == list(range(len(rows)))
    for row in rows:
        assert set(row) == set(rows[0])
        assert row["answers"][0] == row["answer"] == row["answer"].strip() != ""
        start = row["answer_start"]
        assert start < 0 or row["context"].startswith(row["answer"], start)
        if task in ("squad", "srl", "schema"):
            assert start >= 0
    assert rows == mini_decanlp.rows(task, split)
    assert rows != mini_decanlp.rows(task, split, seed=1)


@pytest.mark.parametrize("task", [task for task in mini_decanlp.TASKS if task != "woz"])
def test_no_input_occurs_twice(task):
    inputs = [
        (row["context"], row["question"])
        for split in mini_decanlp.SPLITS
        for row in mini_decanlp.rows(task, split)
    ]
    assert len(set(inputs)) == len(inputs)


@pytest.mark.parametrize("task", mini_decanlp.TASKS)
def test_inputs_and_targets_are_short(task):
    vocabulary = vocabularies.load("mini")
    rows = [row for split in mini_decanlp.SPLITS for row in mini_decanlp.rows(task, split)]
    for prompt in ("null", "default"):
        text = prompts.PROMPTS["decanlp"][prompt][task][0].text
        assert max(len(vocabulary.encode(text.format(**row))) for row in rows) < 64
    assert max(len(vocabulary.encode(row["answer"])) for row in rows) < 24


def test_classes_and_unanswerable_questions_are_balanced():
    for task, classes in (("multinli", 3), ("sst", 2)):
        for split in mini_decanlp.SPLITS:
            rows = mini_decanlp.rows(task, split)
            counts = collections.Counter(row["label"] for row in rows)
            assert set(counts) == set(range(classes))
            assert max(counts.values()) < 1.25 * len(rows) / classes
    rows = mini_decanlp.rows("zre", "train")
    assert 0.3 < sum(row["answerable"] for row in rows) / len(rows) < 0.7
    rows = mini_decanlp.rows("schema", "train")
    first = sum(f"? {row['answer']} or" in row["question"] for row in rows)
    assert 0.45 < first / len(rows) < 0.55


def test_an_unanswerable_question_asks_for_what_is_not_told():
    told = {"job": "job of", "work": "works in", "start": "started", "like": "likes"}
    for row in mini_decanlp.rows("zre", "train"):
        (kind,) = [word for word in told if word in row["question"]]
        assert (told[kind] in row["context"]) == (row["answer"] != decanlp_rows.UNANSWERABLE)


def test_schemas_follow_the_adjective():
    first = ("big", "large", "weak", "short", "fast", "young", "poor", "sad")
    for row in mini_decanlp.rows("schema", "train"):
        nouns = re.findall(r"[Tt]he (\w+)", row["context"])
        adjective = row["context"].rstrip(".").split()[-1]
        assert row["answer"] == nouns[0 if adjective in first else 1]


def test_translations_end_in_the_participle_and_keep_names():
    for row in mini_decanlp.rows("iwslt", "train"):
        german = row["answer"].rstrip(".").split()
        assert re.match(r"(ge|be|er|si|ko|se)", german[-1])
        subject = row["context"].split()[0]
        assert german[0] == ("Der" if subject == "The" else subject)
        assert "hat" in german[:3]


def test_summaries_are_the_first_sentence_shortened():
    for row in mini_decanlp.rows("cnn_dailymail", "train"):
        first = iter(row["context"].split(".")[0].split())
        assert all(word in first for word in row["answer"].rstrip(".").split())


def test_queries_answer_their_questions():
    for row in mini_decanlp.rows("wikisql", "train"):
        query, header = decanlp_wikisql.from_json(row["query"])
        assert decanlp_wikisql.parse(row["answer"], header) == query
        asked, told = row["question"].rstrip("?").split(" where ")
        assert asked.split()[-1] == header[query["sel"]]
        values = {value for _, _, value in query["conds"]}
        assert {part.split()[-1].lower() for part in told.split(" and ")} == values


def test_dialogues_start_at_turn_0_and_go_on():
    for split in mini_decanlp.SPLITS:
        places = [(row["dialogue"], row["turn"]) for row in mini_decanlp.rows("woz", split)]
        assert places[0] == (0, 0)
        for (dialogue, turn), following in zip(places, places[1:], strict=False):
            assert following in ((dialogue, turn + 1), (dialogue + 1, 0))


def digest():
    made = [mini_decanlp.rows(task, split) for task, split in ALL]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()


@pytest.mark.slow
def test_rows_are_the_same_in_another_process():
    code = "from tests.tasks.mini import decanlp_test; print(decanlp_test.digest())"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    folder = pathlib.Path(__file__).parents[3]
    found = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == digest()


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="no task 'snli'; it has squad"):
        mini_decanlp.rows("snli", "train")
    with pytest.raises(ValueError, match="no split 'dev'; it has train, validation, test"):
        mini_decanlp.rows("squad", "dev")


def test_the_vocabularys_texts_hold_prompts_and_answers():
    texts = list(mini_decanlp.texts())
    assert len(texts) == 3 * 10 * mini_decanlp.SPLITS["train"]
    assert any(text.startswith("translate English to German: ") for text in texts)
    assert any(text.startswith("SELECT ") for text in texts)
