"""DecaNLP as SeqIO tasks: names, splits, prompts, and gold answers from end to end."""

import itertools
import json

import pytest
import seqio

from mtl_t5x.data import lookup
from mtl_t5x.tasks import prompts, registry, sources
from mtl_t5x.tasks.decanlp import decanlp
from mtl_t5x.tasks.decanlp import rows as decanlp_rows
from mtl_t5x.tasks.decanlp import tfds as decanlp_tfds

COMBINATIONS = list(
    itertools.product(prompts.PROMPTS["decanlp"], prompts.LABELS["decanlp"], decanlp.TASKS)
)
SPANS = ("squad", "srl", "zre", "schema")


@pytest.fixture
def restored():
    known = [dict(table["decanlp"]) for table in (prompts.PROMPTS, prompts.LABELS)]
    yield
    prompts.PROMPTS["decanlp"], prompts.LABELS["decanlp"] = known
    decanlp.register()


def examples(name, split="validation", **kwargs):
    task = seqio.get_mixture_or_task(name)
    dataset = task.get_dataset(None, split, shuffle=False, try_in_mem_cache=False, **kwargs)
    return task, list(dataset.as_numpy_iterator())


def scored(task, given, decode):
    """Every metric, where `decode` makes the model's text from an example's target ids."""
    targets, predictions = [], []
    for example in given:
        text = example["targets_pretokenized"].decode("utf-8")
        targets.append(task.postprocess_fn(text, example=example, is_target=True))
        text = decode([int(token) for token in example["targets"]])
        predictions.append(task.postprocess_fn(text, example=example, is_target=False))
    # SeqIO's loggers write both.
    json.dumps([targets, predictions])
    found = {}
    for metric in task.metric_fns:
        found |= metric(targets, predictions)
    return found


def assert_gold_is_right(task, given):
    found = scored(task, given, task.output_features["targets"].vocabulary.decode)
    assert found.pop("unparsed") == 0
    assert found == dict.fromkeys(found, pytest.approx(100))


@pytest.mark.parametrize(("prompt", "labels", "name"), COMBINATIONS)
def test_gold_answers_score_100_and_empty_ones_0(prompt, labels, name):
    task, given = examples(f"decanlp_{name}.{prompt}.{labels}")
    assert_gold_is_right(task, given)
    found = scored(task, given, lambda ids: " ")
    assert found.pop("unparsed") == len(given)
    assert found == dict.fromkeys(found, 0)


@pytest.mark.parametrize("name", list(decanlp.TASKS))
def test_gold_answers_score_100_in_bytes(restored, name):
    decanlp.register(vocabulary_path="bytes")
    assert_gold_is_right(*examples(f"decanlp_{name}.default.semantic", "test"))


def representable(vocabulary, text):
    return vocabulary.decode(vocabulary.encode(text)).split() == text.split()


@pytest.mark.parametrize("name", list(decanlp.TASKS))
def test_gold_answers_of_real_files_score_100_with_t5s_vocabulary(shared, restored, name):
    """Where it has the answer's characters. It lacks some (Ö, ş, ☉), and rewrites others (½)."""
    root = shared / "data"
    decanlp.register(str(root / "decanlp"), str(root / "vocab" / "t5_32000.model"))
    task, given = examples(f"decanlp_{name}.default.semantic", "test")
    vocabulary = task.output_features["targets"].vocabulary
    kept = [
        example
        for example in given
        if representable(vocabulary, example["targets_pretokenized"].decode("utf-8"))
    ]
    assert_gold_is_right(task, kept)
    # The rest are the exceptions: at most 3 %, in WikiSQL.
    assert len(kept) >= 0.97 * len(given)


def test_t5s_vocabulary_has_a_way_to_say_less_than(shared, restored):
    root = shared / "data"
    decanlp.register("mini", str(root / "vocab" / "t5_32000.model"))
    task, given = examples("decanlp_wikisql.default.semantic")
    less = [example for example in given if b"<" in example["targets_pretokenized"]]
    assert less
    assert_gold_is_right(task, less)


def test_what_is_registered():
    tasks, mixtures = registry.registered("decanlp")
    assert set(tasks) == {
        f"decanlp_{name}.{prompt}.{labels}" for prompt, labels, name in COMBINATIONS
    }
    assert len(mixtures) == 2 * 6
    paper = {
        "squad", "iwslt", "cnn_dailymail", "multinli", "sst", "srl", "zre", "schema", "wikisql",
    }  # fmt: skip
    for mixture in mixtures:
        found = seqio.get_mixture_or_task(mixture)
        expected = paper if mixture.startswith("decanlp.") else paper | {"woz"}
        assert set(lookup.short_names(found.tasks)) == expected
        assert set(found.splits) == {"train", "validation", "test"}
    headlines = {name: task.metric_fns[0].__name__ for name, task in decanlp.TASKS.items()}
    assert headlines == {
        "squad": "f1",
        "iwslt": "bleu",
        "cnn_dailymail": "rouge",
        "multinli": "accuracy",
        "sst": "accuracy",
        "srl": "f1",
        "zre": "corpus_f1",
        "schema": "exact_match",
        "wikisql": "logical_form_em",
        "woz": "joint_goal_em",
    }


def texts(name):
    """The first inputs and targets of a task's validation split."""
    dataset = seqio.get_mixture_or_task(name).get_dataset(
        None, "validation", shuffle=False, try_in_mem_cache=False
    )
    given = list(dataset.take(20).as_numpy_iterator())
    return [
        [one[f"{feature}_pretokenized"].decode() for one in given]
        for feature in ("inputs", "targets")
    ]


@pytest.mark.parametrize("name", list(decanlp.TASKS))
def test_prompts_as_the_model_sees_them(name):
    rows = decanlp.rows("mini", name, "validation")[:20]
    inputs, targets = texts(f"decanlp_{name}.null.semantic")
    assert inputs == [f"{row['question']} {row['context']}" for row in rows]
    assert targets == [row["answer"] for row in rows]
    inputs, targets = texts(f"decanlp_{name}.default.semantic")
    first = {
        "multinli": "mnli hypothesis: {hypothesis} premise: {premise}",
        "wikisql": "wikisql question: {question} columns: {columns}",
        "iwslt": "translate English to German: {context}",
        "cnn_dailymail": "summarize: {context}",
        "sst": "sst2 sentence: {context}",
        "woz": "woz turn: {context}",
        "squad": "squad question: {question} context: {context}",
    }.get(name, name + " question: {question} sentence: {context}")
    assert inputs == [first.format(**row) for row in rows]
    assert targets == [row["answer"] for row in rows]


def test_labels_as_the_model_sees_them():
    for name, labels, words in (
        ("sst", "shared_letters", "zy"),
        ("multinli", "shared_letters", "zxy"),
        ("multinli", "distinct_letters", "zyx"),
        ("sst", "distinct_letters", "wv"),
    ):
        rows = decanlp.rows("mini", name, "validation")[:20]
        _, targets = texts(f"decanlp_{name}.null.{labels}")
        assert targets == [words[row["label"]] for row in rows]
    rows = decanlp.rows("mini", "woz", "validation")[:20]
    assert texts("decanlp_woz.null.distinct_letters")[1] == [row["answer"] for row in rows]


def span(example):
    text, answer = (example[f"{name}_pretokenized"].decode() for name in ("inputs", "targets"))
    start = example["answer_start"]
    return answer if start < 0 else text[start : start + len(answer)]


@pytest.mark.parametrize("name", SPANS)
@pytest.mark.parametrize("prompt", ["null", "default"])
def test_spans_are_offsets_in_the_inputs(prompt, name):
    _, given = examples(f"decanlp_{name}.{prompt}.semantic")
    assert all(span(example) == example["targets_pretokenized"].decode() for example in given)
    found = [example["answer_start"] >= 0 for example in given]
    assert all(found) if name != "zre" else 60 < sum(found) < 180
    if name == "zre":
        assert found == [bool(example["answerable"]) for example in given]


def test_spans_are_characters_and_not_bytes(tmp_path, restored):
    folder = tmp_path / "zre" / "relation_splits"
    folder.mkdir(parents=True)
    (folder / "dev.0").write_text("r\tÜber XXX → wo?\tÉa\tÖl → Äöü Ort .\tÄöü\n", "utf-8")
    decanlp.register(str(tmp_path), "bytes")
    _, (example,) = examples("decanlp_zre.default.semantic")
    assert span(example) == "Äöü"
    assert example["answer_start"] > 0


def test_a_prompt_of_ones_own_with_several_templates(restored):
    templates = ("In short: {question} {context}", "{context} Now: {question}", "{question}")
    prompts.add_prompt("mine", {"squad": templates, "sst": "{context}"}, "decanlp")
    prompts.add_labels("smileys", {"sst": (":(", ":)")}, "decanlp")
    decanlp.register()
    assert "decanlp_squad.mine.smileys" in registry.registered("decanlp")[0]
    assert "decanlp_multinli.null.smileys" not in registry.registered("decanlp")[0]
    _, given = examples("decanlp_squad.mine.semantic", "train", seed=3)
    seen = {int(example["template"]) for example in given}
    assert seen == {0, 1, 2}
    for example in given:
        assert span(example) == example["targets_pretokenized"].decode()
        assert (example["answer_start"] < 0) == (example["template"] == 2)
    _, given = examples("decanlp_sst.mine.smileys")
    assert {example["targets_pretokenized"] for example in given} == {b":(", b":)"}


@pytest.mark.parametrize(
    ("templates", "words", "message"),
    [
        ({"squat": "{context}"}, {}, "Unknown task 'squat' in prompt 'mine'. Did you mean 'squad'"),
        ({"squad": "{contxt}"}, {}, "Unknown field 'contxt' .*Did you mean 'context'"),
        ({"squad": "{premise}"}, {}, "Unknown field 'premise'"),
        ({"sst": "{context}"}, {"sst": ("x",)}, "2 different words are needed"),
        (
            {"sst": "{context}"},
            {"squad": ("x", "y")},
            "'squad': the task has no classes, so it takes no answer words",
        ),
    ],
)
def test_prompts_and_labels_are_checked(restored, templates, words, message):
    prompts.add_prompt("mine", templates, "decanlp")
    prompts.add_labels("mine", words, "decanlp")
    with pytest.raises(ValueError, match=message):
        decanlp.register()


def test_squad_and_multinli_are_cut_and_the_counts_of_dropped_rows_are_kept(tmp_path):
    folder = tmp_path / "multinli"
    folder.mkdir()
    labels = ["entailment", "-", "neutral"] * 20
    lines = [
        json.dumps({"gold_label": label, "sentence1": str(i), "sentence2": "h"})
        for i, label in enumerate(labels)
    ]
    (folder / "multinli_1.0_train.jsonl").write_text("\n".join(lines))
    (folder / "multinli_1.0_dev_matched.jsonl").write_text("\n".join(lines[:6]))
    data = str(tmp_path)
    split = {name: decanlp.rows(data, "multinli", name) for name in decanlp.SPLITS}
    assert {name: len(rows) for name, rows in split.items()} == {
        "train": 38,
        "validation": 2,
        "test": 4,
    }
    kept = [*split["train"], *split["validation"]]
    assert [row["idx"] for row in kept] == list(range(40))
    assert [row["premise"] for row in split["validation"]] == ["57", "59"]
    assert decanlp.dropped(data, "multinli", "train") == {"no gold label": 20}
    assert decanlp.dropped(data, "multinli", "validation") == {"no gold label": 20}
    assert decanlp.dropped(data, "multinli", "test") == {"no gold label": 2}
    assert decanlp.dropped("mini", "multinli", "test") == {}


TFDS = {
    "squad": {
        "id": "1",
        "title": "t",
        "context": "A cat sat.",
        "question": "Who  sat?",
        "answers": {"text": ["cat", "A cat"], "answer_start": [2, 0]},
    },
    "glue/mnli": {"premise": "P.", "hypothesis": "H.", "label": 1},
    "cnn_dailymail": {"article": "One.\nTwo.", "highlights": "One .\nTwo .", "id": "1"},
}


def test_tfds_rows_become_ours(monkeypatch):
    asked = []

    def fake(name, split):
        asked.append((name, split))
        # As stored, in no order; SQuAD's are four paragraphs of five questions.
        given = [TFDS[name] | {"idx": i} for i in range(20)]
        if name == "squad":
            given = [row | {"context": f"A cat sat. {row['idx'] % 4}"} for row in given]
        return given[7:] + given[:7]

    monkeypatch.setattr(sources, "tfds_rows", fake)
    decanlp_tfds.rows.cache_clear()
    rows = {
        name: {split: decanlp.rows("tfds", name, split) for split in decanlp.SPLITS}
        for name in ("squad", "multinli", "cnn_dailymail")
    }
    decanlp_tfds.rows.cache_clear()
    counts = {name: [len(part) for part in split.values()] for name, split in rows.items()}
    assert counts == {"squad": [15, 5, 20], "multinli": [19, 1, 20], "cnn_dailymail": [20] * 3}
    contexts = {split: {row["context"] for row in part} for split, part in rows["squad"].items()}
    assert not contexts["train"] & contexts["validation"]
    assert ("squad", "validation") in asked
    assert ("glue/mnli", "validation_matched") in asked
    assert rows["squad"]["test"][3] == {
        **decanlp_rows.squad("A cat sat. 0", "Who sat?", ["cat", "A cat"], [2, 0]),
        "idx": 3,
    }
    assert rows["multinli"]["test"][0]["answer"] == "neutral"
    assert rows["cnn_dailymail"]["test"][0]["answer"] == "One . Two ."
    for split in rows.values():
        for part in split.values():
            assert all(set(row) == set(part[0]) for row in part)


def test_tasks_that_tfds_lacks_say_so(restored):
    decanlp.register("tfds")
    lacking = set(decanlp.TASKS) - {"squad", "multinli", "cnn_dailymail"}
    for name in lacking:
        with pytest.raises(ValueError, match=f"TensorFlow Datasets has no '{name}'.*Set DATA to"):
            decanlp.rows("tfds", name, "train")


def test_an_absent_folder_is_an_error_before_anything_is_registered(tmp_path):
    before = registry.registered("decanlp")
    with pytest.raises(FileNotFoundError, match="DATA is .*no such folder"):
        decanlp.register(str(tmp_path / "absent"))
    assert registry.registered("decanlp") == before


def test_real_files_become_examples(shared, restored):
    decanlp.register(str(shared / "data" / "decanlp"))
    for name in decanlp.TASKS:
        for split in decanlp.SPLITS:
            task = seqio.get_mixture_or_task(f"decanlp_{name}.null.semantic")
            dataset = task.get_dataset(None, split, shuffle=False, try_in_mem_cache=False)
            given = list(dataset.take(5).as_numpy_iterator())
            assert len(given) == 5
            assert all(example["targets"][-1] == 1 for example in given)
