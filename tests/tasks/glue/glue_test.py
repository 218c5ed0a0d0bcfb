"""GLUE as SeqIO tasks: official files, splits, and gold answers from end to end."""

import itertools
import time

import pytest
import seqio

from mtl_t5x.tasks import metrics, prompts, registry
from mtl_t5x.tasks.glue import glue

COMBINATIONS = list(itertools.product(prompts.PROMPTS["glue"], prompts.LABELS["glue"]))
TRAIN, DEV = 40, 12


def tsv(header, rows, bom="", end="\n"):
    lines = ([] if header is None else ["\t".join(header)]) + ["\t".join(row) for row in rows]
    return (bom + end.join(lines) + end).encode()


def pair_rows(labels, count, first='A man "runs .', second='He runs , "" fast'):
    labels = itertools.islice(itertools.cycle(labels), count)
    return [(str(i), f"{first} {i}", f"{second} {i}", label) for i, label in enumerate(labels)]


def mnli(header, rows):
    """Rows of `header`, `_` where nothing is known; train and dev differ in their columns."""
    full = []
    for index, premise, hypothesis, label in rows:
        cells = dict.fromkeys(header, "_")
        cells.update(index=index, sentence1=premise, sentence2=hypothesis, gold_label=label)
        full.append([cells[name] for name in header])
    return tsv(header, full)


def official_files():
    """A tiny GLUE in the official layout with the oddities of its files."""
    nli = ("entailment", "neutral", "contradiction")
    rte = ("entailment", "not_entailment")
    scores = ("0.000", "2.5", "3.80", "5.000", "1.733")
    head = [
        "index",
        "promptID",
        "pairID",
        "genre",
        "parse1",
        "parse2",
        "tree1",
        "tree2",
        "sentence1",
        "sentence2",
    ]
    mnli_train = [*head, "label1", "gold_label"]
    mnli_dev = [*head, *(f"label{i}" for i in range(1, 6)), "gold_label"]
    sts = [
        "index",
        "genre",
        "filename",
        "year",
        "old_index",
        "source1",
        "source2",
        "sentence1",
        "sentence2",
        "score",
    ]
    mrpc = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
    qqp = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
    files = {}
    for name, count in (("train", TRAIN), ("dev", DEV)):
        binary = pair_rows("01", count)
        cola = [("src", row[3], "*" if row[3] == "0" else "", row[1]) for row in binary]
        # No header and no line feed at the end.
        files[f"CoLA/{name}.tsv"] = tsv(None, cola).removesuffix(b"\n")
        files[f"SST-2/{name}.tsv"] = tsv(
            ("sentence", "label"), [(r[1] + " ", r[3]) for r in binary]
        )
        files[f"MRPC/{name}.tsv"] = tsv(
            mrpc, [(r[3], "1", "2", r[1], r[2]) for r in binary], bom="\ufeff" * (name == "dev")
        )
        files[f"QQP/{name}.tsv"] = tsv(
            qqp, [(r[0], "_", "_", f'"Why ""{r[1]}?"', r[2], r[3]) for r in binary], end="\r\n"
        )
        files[f"STS-B/{name}.tsv"] = tsv(
            sts, [(r[0], *"_" * 6, r[1], r[2], r[3]) for r in pair_rows(scores, count)]
        )
        entailed = pair_rows(rte, count)
        files[f"RTE/{name}.tsv"] = tsv(("index", "sentence1", "sentence2", "label"), entailed)
        files[f"QNLI/{name}.tsv"] = tsv(("index", "question", "sentence", "label"), entailed)
    files["MNLI/train.tsv"] = mnli(mnli_train, pair_rows(nli, TRAIN))
    files["MNLI/dev_matched.tsv"] = mnli(mnli_dev, pair_rows(nli, DEV))
    files["MNLI/dev_mismatched.tsv"] = mnli(mnli_dev, pair_rows(nli, DEV + 3, first="Elsewhere"))
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("glue")
    for name, content in official_files().items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture
def registered(folder):
    glue.register(data=str(folder))
    yield
    glue.register()


def examples(name, split, **kwargs):
    task = seqio.get_mixture_or_task(name)
    dataset = task.get_dataset(None, split, shuffle=False, try_in_mem_cache=False, **kwargs)
    return list(dataset.as_numpy_iterator())


@pytest.mark.parametrize("name", list(glue.TASKS))
def test_rows_of_the_official_files(folder, name):
    task = glue.TASKS[name]
    data = str(folder)
    assert len(glue.rows(data, name, "test")) == DEV + 3 * (name == "mnli_mismatched")
    if "train" in task.splits:
        train, validation = glue.rows(data, name, "train"), glue.rows(data, name, "validation")
        assert (len(train), len(validation)) == (38, 2)
        assert [row["idx"] for row in [*train, *validation]] == list(range(TRAIN))
    for row in glue.rows(data, name, "test"):
        assert set(row) == {*task.columns, "label", "idx"}
        assert all("runs" in row[field] or "Elsewhere" in row[field] for field in task.columns)
        assert isinstance(row["label"], int if task.values else float)
    assert glue.rows(data, name, "test") is glue.rows(data, name, "test")


def test_texts_are_taken_as_they_stand(folder):
    data = str(folder)
    assert glue.rows(data, "mrpc", "test")[0]["sentence1"] == 'A man "runs . 0'
    assert glue.rows(data, "qqp", "test")[0]["question1"] == '"Why ""A man "runs . 0?"'
    assert glue.rows(data, "qqp", "test")[1]["label"] == 1
    assert glue.rows(data, "cola", "test")[-1]["sentence"].endswith(str(DEV - 1))
    assert [row["label"] for row in glue.rows(data, "mnli", "test")[:3]] == [0, 1, 2]
    assert glue.rows(data, "mnli_mismatched", "test")[0]["premise"] == "Elsewhere 0"
    assert glue.rows(data, "stsb", "test")[2]["label"] == 3.8


# A task, a file of its split's, an edit of that file, and what the error says.
BAD_FILES = [
    ("rte", "RTE/dev.tsv", b"0\tA man", b"0 A man", r":2: expected at least 4 .*label\), found 3"),
    (
        "rte",
        "RTE/dev.tsv",
        b"\tnot_entailment",
        b"\tneutral",
        ":3: the label 'neutral' is not one of 'entailment', 'not_entailment'",
    ),
    ("cola", "CoLA/dev.tsv", b"src\t1", b"src\t2", ":2: the label '2' is not one of '0', '1'"),
    ("stsb", "STS-B/dev.tsv", b"5.000", b"5.1", ":5: the score '5.1' is not a number from 0 to 5"),
    (
        "mnli_mismatched",
        "MNLI/dev_mismatched.tsv",
        b"gold_label",
        b"label6",
        ":1: the header has no column 'gold_label'",
    ),
    ("qqp", "QQP/dev.tsv", b"Why", b"\xff", r":2: not UTF-8 \(byte 0xff at offset 54\)"),
]


@pytest.mark.parametrize("task, file, old, new, error", BAD_FILES)
def test_bad_files(tmp_path, task, file, old, new, error):
    content = official_files()[file]
    assert old in content
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_bytes(content.replace(old, new, 1))
    with pytest.raises(ValueError, match=file + error):
        glue.rows(str(tmp_path), task, "test")


def test_empty_files(tmp_path):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE" / "dev.tsv").write_bytes(b"")
    with pytest.raises(ValueError, match=r"RTE/dev\.tsv: the file is empty"):
        glue.rows(str(tmp_path), "rte", "test")
    (tmp_path / "RTE" / "train.tsv").write_bytes(b"index\tsentence1\tsentence2\tlabel\n")
    with pytest.raises(ValueError, match=r"RTE/train\.tsv: the file has a header but no rows"):
        glue.rows(str(tmp_path), "rte", "train")


def test_absent_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"MNLI/dev_matched\.tsv: no such file.*DATA"):
        glue.rows(str(tmp_path), "mnli", "test")
    before = seqio.TaskRegistry.get("glue_cola.null.semantic")
    with pytest.raises(FileNotFoundError, match="DATA is '.*gone'"):
        glue.register(data=str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match="VOCABULARY_PATH is 'gone.model'"):
        glue.register(vocabulary_path="gone.model")
    assert seqio.TaskRegistry.get("glue_cola.null.semantic") is before


def test_registration_reads_nothing_and_is_quick(tmp_path):
    start = time.perf_counter()
    glue.register(data=str(tmp_path))
    assert time.perf_counter() - start < 1
    tasks, mixtures = registry.registered("glue")
    assert len(tasks) == 9 * 9 and len(mixtures) == 9
    for prompt, labels in COMBINATIONS:
        members = seqio.get_mixture_or_task(f"glue.{prompt}.{labels}").tasks
        assert sorted(task.name for task in members) == sorted(
            f"glue_{name}.{prompt}.{labels}" for name in glue.TASKS
        )
    glue.register()


def test_headline_metrics():
    headline = {name: task.metric_fns[0] for name, task in glue.TASKS.items()}
    assert headline.pop("cola") is metrics.matthews_corrcoef
    assert headline.pop("stsb") is metrics.pearson_corrcoef
    assert set(headline.values()) == {metrics.accuracy}
    assert all(task.metric_fns[-1] is metrics.unparsed for task in glue.TASKS.values())


def test_default_prompt_is_t5s(registered):
    def first(name):
        return examples(f"glue_{name}.default.semantic", "test")[0]["inputs_pretokenized"].decode()

    one, two = 'A man "runs . 0', 'He runs , "" fast 0'
    assert first("cola") == f"cola sentence: {one}"
    assert first("sst2") == f"sst2 sentence: {one} "
    for name in ("mrpc", "rte", "stsb"):
        assert first(name) == f"{name} sentence1: {one} sentence2: {two}"
    assert first("qqp") == f'qqp question1: "Why ""{one}?" question2: {two}'
    assert first("qnli") == f"qnli question: {one} sentence: {two}"
    assert first("mnli") == f"mnli hypothesis: {two} premise: {one}"
    assert first("mnli_mismatched") == f"mnli hypothesis: {two} premise: Elsewhere 0"


def scores(task, gold, answers):
    """The task's metrics for answers in text."""
    read = task.postprocess_fn
    targets = [read(e["targets_pretokenized"].decode(), example=e, is_target=True) for e in gold]
    pairs = zip(answers, gold, strict=True)
    predictions = [read(text, example=e, is_target=False) for text, e in pairs]
    results = {}
    for metric in task.metric_fns:
        results |= metric(targets=targets, predictions=predictions)
    return results


@pytest.mark.parametrize(
    "prompt, labels",
    # Every prompt and every label set once; their other combinations are slow.
    [
        pair if i % 4 == 0 else pytest.param(*pair, marks=pytest.mark.slow)
        for i, pair in enumerate(COMBINATIONS)
    ],
)
def test_gold_answers_score_100_and_empty_ones_0(registered, prompt, labels):
    for name, described in glue.TASKS.items():
        task = seqio.get_mixture_or_task(f"glue_{name}.{prompt}.{labels}")
        gold = examples(task.name, described.splits[0], seed=0)
        vocabulary = task.output_features["targets"].vocabulary
        answers = [vocabulary.decode(example["targets"].tolist()) for example in gold]
        results = scores(task, gold, answers)
        assert results.pop("unparsed") == 0
        assert results == pytest.approx(dict.fromkeys(results, 100)), task.name
        results = scores(task, gold, [""] * len(gold))
        assert results.pop("unparsed") == len(gold)
        assert set(results.values()) == {0}, task.name


def test_labels_stay_class_indices_under_every_wording(registered):
    for example in examples("glue_cola.diverse.semantic", "train", seed=0):
        template = prompts.PROMPTS["glue"]["diverse"]["cola"][example["template"]]
        answer = example["targets_pretokenized"].decode()
        assert template.answers.index(answer) == example["label"]


def test_diverse_draws_all_templates_in_training_alone(registered):
    name = "glue_rte.diverse.semantic"
    templates = prompts.PROMPTS["glue"]["diverse"]["rte"]
    assert {e["template"] for e in examples(name, "train", seed=0)} == set(range(len(templates)))
    for split in ("validation", "test"):
        assert {e["template"] for e in examples(name, split, seed=0)} == {0}


def test_mixture_trains_on_the_tasks_that_have_a_train_split(registered):
    mixture = seqio.get_mixture_or_task("glue.default.semantic")
    assert sum("train" in task.splits for task in mixture.tasks) == 8
    assert {mixture.get_rate(task) for task in mixture.tasks} == {1.0}
    dataset = mixture.get_dataset({"inputs": 32, "targets": 16}, "train", seed=0, num_epochs=None)
    for example in dataset.take(20).as_numpy_iterator():
        assert set(example) == {"inputs", "targets"}


def test_mini_has_the_same_fields():
    for name, task in glue.TASKS.items():
        row = glue.rows("mini", name, "test")[0]
        assert set(row) == {*task.columns, "label", "idx"}


REAL_TEST_FILES = {
    "cola": "CoLA/dev.tsv",
    "rte": "RTE/dev.tsv",
    "mnli": "MNLI/dev_matched.tsv",
    "mrpc": "MRPC/dev.tsv",
    "qnli": "QNLI/dev.tsv",
    "qqp": "QQP/dev.tsv",
    "sst2": "SST-2/dev.tsv",
    "stsb": "STS-B/dev.tsv",
    "mnli_mismatched": "MNLI/dev_mismatched.tsv",
}


def test_row_counts_of_the_real_files(shared):
    data = shared / "data/glue"

    def count(name, file):
        """Lines that are not blank, without the header that all files but CoLA's have."""
        lines = (data / file).read_bytes().split(b"\n")
        return sum(bool(line.strip()) for line in lines) - (name != "cola")

    assert set(REAL_TEST_FILES) == set(glue.TASKS)
    for name, file in REAL_TEST_FILES.items():
        assert len(glue.rows(str(data), name, "test")) == count(name, file)
        if name != "mnli_mismatched":
            total = count(name, f"{file.split('/')[0]}/train.tsv")
            train, validation = (glue.rows(str(data), name, s) for s in ("train", "validation"))
            assert (len(train), len(train) + len(validation)) == (total * 95 // 100, total)


def test_gold_answers_with_t5s_vocabulary(shared):
    path = str(shared / "data/vocab" / "t5_32000.model")
    try:
        glue.register(data=str(shared / "data/glue"), vocabulary_path=path)
        for name in ("cola", "qnli", "stsb", "mnli_mismatched"):
            task = seqio.get_mixture_or_task(f"glue_{name}.default.semantic")
            gold = examples(task.name, "test")
            vocabulary = task.output_features["targets"].vocabulary
            results = scores(task, gold, [vocabulary.decode(e["targets"].tolist()) for e in gold])
            assert results.pop("unparsed") == 0
            assert results == pytest.approx(dict.fromkeys(results, 100))
    finally:
        glue.register()
