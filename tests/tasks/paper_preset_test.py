"""The preset `paper`: its prompts, answers and spans as strings, on rows written here."""

import json

import numpy as np
import pytest
import seqio

from mtl_t5x.data import heads, lookup, tokens
from mtl_t5x.tasks import registry, sources
from mtl_t5x.tasks.decanlp import decanlp
from mtl_t5x.tasks.decanlp import rows as decanlp_rows
from mtl_t5x.tasks.glue import glue


@pytest.fixture(autouse=True)
def defaults():
    yield
    glue.register()
    decanlp.register()


def examples(name, split="validation", lengths=None):
    task = seqio.get_mixture_or_task(name)
    dataset = task.get_dataset(lengths, split, shuffle=False, try_in_mem_cache=False)
    return list(dataset.as_numpy_iterator())


def shown(name, split="validation"):
    """The first example's inputs and targets in text."""
    first = examples(name, split)[0]
    return tuple(first[f"{part}_pretokenized"].decode() for part in ("inputs", "targets"))


TWO = {"sentence1": "One.", "sentence2": "Two."}
GLUE_ROWS = {
    "cola": {"sentence": "One.", "label": 0},
    "rte": {**TWO, "label": 1},
    "mnli": {"premise": "One.", "hypothesis": "Two.", "label": 2},
    "mrpc": {**TWO, "label": 0},
    "qnli": {"question": "One?", "sentence": "Two.", "label": 1},
    "qqp": {"question1": "One?", "question2": "Two?", "label": 0},
    "sst2": {"sentence": "One.", "label": 1},
    "stsb": {**TWO, "label": 2.75},
}
# Inputs under `null` and `default`; targets under the three label vocabularies.
GLUE = {
    "cola": ("One.", "cola sentence: One.", "unacceptable z z"),
    "rte": ("One. Two.", "rte sentence1: One.   sentence2: Two.", "not_entailment y v"),
    "mnli": ("One. Two.", "mnli hypothesis: One.   premise: Two.", "contradiction y s"),
    "mrpc": ("One. Two.", "mrpc sentence1: One.   sentence2: Two.", "not_equivalent z r"),
    "qnli": ("One? Two.", "qnli question: One?   sentence: Two.", "not_entailment y o"),
    "qqp": ("One? Two?", "qqp question1: One?   question2: Two?", "not_duplicate z n"),
    "sst2": ("One.", "sst2 sentence: One.", "positive y k"),
    "stsb": ("One. Two.", "stsb sentence1: One.   sentence2: Two.", "2.8 2.8 2.8"),
}


def test_prompts_and_answers_of_the_eight_glue_tasks(monkeypatch):
    monkeypatch.setattr(
        glue, "rows", lambda data, task, split: [GLUE_ROWS[task.split("_")[0]] | {"idx": 0}]
    )
    glue.register(preset="paper", vocabulary_path="bytes")
    for task, (null, default, answers) in GLUE.items():
        assert shown(f"glue_{task}.null.semantic") == (null, answers.split()[0])
        for labels, answer in zip(
            ("semantic", "shared_letters", "distinct_letters"), answers.split(), strict=True
        ):
            assert shown(f"glue_{task}.default.{labels}") == (default, answer)


def test_stsb_is_written_with_one_decimal_and_scored_against_the_gold_score():
    rows = glue.official_rows("mini", "stsb", "train")
    scores = np.linspace(0, 5, 101).round(3).tolist()
    gold = [{**rows[0], "label": score, "idx": i} for i, score in enumerate(scores)]
    glue.register(preset="paper", vocabulary_path="bytes")
    task = seqio.get_mixture_or_task("glue_stsb.default.semantic")
    task = task.replace(source=sources.rows_source(lambda split: gold, ("test",)))
    given = list(task.get_dataset(None, "test", shuffle=False).as_numpy_iterator())
    texts = [one["targets_pretokenized"].decode() for one in given]
    # As `{:.1f}` of the 32-bit score: 0.05 is a little more than a half.
    assert texts == [f"{np.float32(score):.1f}" for score in scores]
    assert len(set(texts)) == 51
    read = task.postprocess_fn
    targets = [read(text, example=e, is_target=True) for text, e in zip(texts, given, strict=True)]
    assert targets == pytest.approx(scores)
    assert read("2.71", example=given[0], is_target=False) == 2.71
    assert read("7.5", example=given[0], is_target=False) == 7.5
    for text in ("", "high", "nan", "inf"):
        assert read(text, example=given[0], is_target=False) == -1.0
    assert heads.head_of_task(task) == heads.Regression(-np.inf, np.inf)
    assert task.postprocessor.answers == tuple(f"{tenth / 10:.1f}" for tenth in range(51))


QUERY = {"sel": 1, "agg": 0, "conds": [[0, 1, "3"]]}
DECANLP_ROWS = {
    "squad": decanlp_rows.squad("A (tabby) cat sat.", "Who  sat, then?", ["cat", "A cat"], [10]),
    "iwslt": decanlp_rows.iwslt("A cat.", "Eine Katze."),
    "cnn_dailymail": decanlp_rows.summary("A cat sat. It slept.", "Cat sat."),
    "multinli": decanlp_rows.multinli("A cat.", "A dog.", 2),
    "sst": decanlp_rows.sst("A fine cat.", 1),
    "srl": decanlp_rows.srl("A cat sat .", "who sat?", ["A cat"]),
    "zre": decanlp_rows.zre("Tom is a cat.", "What is Tom?", ["cat"]),
    "schema": decanlp_rows.schema("The cat saw the dog.", "Who saw?", ["The cat", "the dog"], 0),
    "wikisql": decanlp_rows.wikisql(("Age", "Name"), "Who is over 3?", QUERY),
    "woz": decanlp_rows.sst("", 0),
}
TABLE = (
    "The table has columns Age, Name and key words MAX, MIN, COUNT, SUM, AVG, =, >, <, OP, SELECT, "
    "WHERE, AND, COL, TABLE, CAPTION, PAGE, SECTION, OP, COND, QUESTION, AGG, AGGOPS, CONDOPS-- "
    "Who is over 3?"
)
# Inputs under `null` and `default`, and the targets.
DECANLP = {
    "squad": ("A  tabby  cat sat  Who sat  then?",) * 2 + ("cat",),
    "iwslt": ("A cat.", "A cat. Translate from English to German", "Eine Katze."),
    "cnn_dailymail": (
        "A cat sat. It slept.",
        "A cat sat. It slept. What is the summary?",
        "Cat sat.",
    ),
    "multinli": (
        "A cat. A dog.",
        "Context: A cat. Premise: A dog. -- entailment, neutral, or contradiction?",
        "contradiction",
    ),
    "sst": ("A fine cat.", "A fine cat. Is this review negative or positive?", "positive"),
    "srl": ("A cat sat . who sat?",) * 2 + ("A cat",),
    "zre": ("Tom is a cat. What is Tom?",) * 2 + ("cat",),
    "schema": ("The cat saw the dog. Who saw? The cat or the dog?",) * 2 + ("The cat",),
    "wikisql": (
        TABLE,
        f"{TABLE} What is the translation from English to SQL?",
        "SELECT Name FROM table WHERE Age > 3",
    ),
}


def test_prompts_of_the_nine_decanlp_tasks(monkeypatch):
    monkeypatch.setattr(
        decanlp.decanlp_files,
        "load",
        lambda folder, task, split: decanlp.decanlp_files.Loaded(
            [DECANLP_ROWS[task] | {"idx": i} for i in range(20)], {}
        ),
    )
    monkeypatch.setattr(sources, "check_folder", lambda data: None)
    decanlp._blanked_squad.cache_clear()
    decanlp.register("folder", "bytes", preset="paper")
    mixture = seqio.get_mixture_or_task("decanlp.default.semantic")
    assert set(lookup.short_names(mixture.tasks)) == set(DECANLP)
    for task, (null, default, target) in DECANLP.items():
        assert shown(f"decanlp_{task}.null.semantic") == (null, target)
        assert shown(f"decanlp_{task}.default.semantic") == (default, target)
    squad = examples("decanlp_squad.default.semantic")[0]
    assert squad["answers"].tolist() == [b"cat", b"A cat"]
    assert squad["inputs_pretokenized"][squad["answer_start"] :].startswith(b"cat")
    decanlp._blanked_squad.cache_clear()


def test_blanked_answers_keep_their_place():
    row = decanlp_rows.blanked(decanlp_rows.squad("By (The Cat)-1.", "Who?", ["(The Cat)"], [3]))
    assert (row["context"], row["answer"]) == ("By  The Cat  1 ", "The Cat")
    assert row["context"][row["answer_start"] :].startswith("The Cat")


def test_mini_and_every_mixture_under_the_preset():
    for benchmark, preset_tasks in ((glue, 9), (decanlp, 9)):
        before = registry.registered(benchmark.BENCHMARK)
        benchmark.register(preset="paper")
        assert registry.registered(benchmark.BENCHMARK) == before
        mixture = seqio.get_mixture_or_task(f"{benchmark.BENCHMARK}.default.semantic")
        assert len(mixture.tasks) == preset_tasks
        for task in mixture.tasks:
            first = examples(task.name, "test")[0]
            assert first["inputs"][-1] == first["targets"][-1] == 1
        benchmark.register()


def test_an_unknown_preset_names_the_setting_and_what_there_is():
    for benchmark in (glue, decanlp):
        with pytest.raises(ValueError, match="Unknown PRESET 'papr'.*mean 'paper'.*default, paper"):
            benchmark.register(preset="papr")


@pytest.fixture
def srl(tmp_path):
    """A folder with QA-SRL of five sentences: found, not as tokens, late, in the question alone."""
    rows = [
        ("The cat sat .", "who _ sat ?", "The cat"),
        ("The hotdog sat .", "who _ sat ?", "dog"),
        (f"{'so ' * 20}the dog ran .", "who _ ran ?", "dog"),
        ("The pig ate the pig .", "what _ ate ?", "pig"),
        ("He ran .", "who ran dog ?", "dog"),
    ]
    lines = []
    for number, (sentence, question, answer) in enumerate(rows):
        question = "\t".join(question.split())
        lines += [f"name{number}", sentence, "2\tverb\t1", f"{question}\t{answer}", ""]
    (tmp_path / "srl").mkdir()
    (tmp_path / "srl/dev.qa").write_text("\n".join(lines))
    return str(tmp_path)


def test_only_a_head_leaves_out_examples_whose_span_is_lost(srl):
    decanlp.register(srl, preset="paper")
    task = seqio.get_mixture_or_task("decanlp_srl.null.semantic")
    lengths = {"inputs": 16, "targets": 8}
    assert len(tokens.examples(task, "validation", lengths)) == 5
    kept = heads.without_lost_spans(task)
    assert heads.without_lost_spans(kept) is kept
    stored = tokens.examples(kept, "validation", lengths)
    assert [example["idx"] for example in stored] == [0, 3]
    # The third's is found where nothing is cut.
    uncut = tokens.examples(kept, "validation", {"inputs": 64, "targets": 8})
    assert [example["idx"] for example in uncut] == [0, 2, 3]
    vocabulary = task.output_features["inputs"].vocabulary
    for number, (_, first, last) in enumerate(
        stored.head_targets(kept, np.arange(2), 16).astype(int)
    ):
        example = stored[number]
        answer = vocabulary.decode(example["inputs"][first : last + 1].tolist())
        assert answer == example["targets_pretokenized"].decode()
    # Where the answer stands first, whatever offset the row gives.
    assert vocabulary.decode(stored[1]["inputs"][: last + 1].tolist()) == "The pig"
    decanlp.register(srl)
    plain = seqio.get_mixture_or_task("decanlp_srl.null.semantic")
    assert heads.without_lost_spans(plain) is plain


def test_unanswerable_questions_are_kept():
    decanlp.register(preset="paper")
    task = heads.without_lost_spans(seqio.get_mixture_or_task("decanlp_zre.null.semantic"))
    rows = decanlp.rows("mini", "zre", "validation")
    given = list(task.get_dataset(None, "validation", shuffle=False).as_numpy_iterator())
    kept = sum(example["answerable"] == 0 for example in given)
    assert kept == sum(row["answerable"] == 0 for row in rows) > 0
    assert len(given) > 0.9 * len(rows)


def test_first_tokens_by_trying_all_places():
    generator = np.random.default_rng(0)
    for _ in range(200):
        text = generator.integers(0, 3, 12).tolist()
        answer = generator.integers(0, 3, generator.integers(0, 4)).tolist()
        size = len(answer)
        places = [i for i in range(13 - size) if size and text[i : i + size] == answer]
        expected = (places[0], places[0] + size - 1) if places else None
        assert heads.first_tokens(text, answer) == expected


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", [glue, decanlp])
def test_all_tasks_of_real_files_load_under_the_preset(shared, benchmark):
    data, vocabulary = shared / "data" / benchmark.BENCHMARK, shared / "data/vocab/t5_32000.model"
    benchmark.register(str(data), str(vocabulary), preset="paper")
    for prompt in ("null", "default"):
        for task in seqio.get_mixture_or_task(f"{benchmark.BENCHMARK}.{prompt}.semantic").tasks:
            for split in task.splits:
                dataset = task.get_dataset(None, split, shuffle=False, try_in_mem_cache=False)
                given = list(dataset.take(5).as_numpy_iterator())
                assert len(given) == 5
                json.dumps([one["targets_pretokenized"].decode() for one in given])
                assert all(one["targets"][-1] == 1 for one in given)


@pytest.mark.parametrize("name", ["squad", "srl", "zre", "schema"])
def test_most_spans_of_real_files_are_found(shared, name):
    data, vocabulary = shared / "data/decanlp", shared / "data/vocab/t5_32000.model"
    decanlp.register(str(data), str(vocabulary), preset="paper")
    task = heads.without_lost_spans(seqio.get_mixture_or_task(f"decanlp_{name}.null.semantic"))
    stored = tokens.examples(task, "test", {"inputs": 256, "targets": 256})
    count = len(decanlp.rows(str(data), name, "test"))
    assert 0.6 * count < len(stored) <= count
    if name == "squad":
        assert len(stored) < count
