import numpy as np
import pytest
import seqio
import tensorflow as tf

from mtl_t5x.data import counting, heads, lookup
from mtl_t5x.tasks import vocabularies
from mtl_t5x.tasks.decanlp import decanlp
from mtl_t5x.tasks.glue import glue

TEXTS = (
    ("what is red ? the cat sat on the red mat.", "red mat"),
    ("Zoë’s ﬁne cat — 3,5 kg ☃ — sat.", "3,5 kg ☃"),
    ("Zoë’s ﬁne cat", "Zoë"),
    ("naïve café", "café"),
)


def span_of(vocabulary, text, answer):
    return heads.find_span(heads.token_offsets(vocabulary, text), text.index(answer), len(answer))


@pytest.mark.parametrize("vocabulary", ["mini", "bytes"])
@pytest.mark.parametrize(("text", "answer"), TEXTS)
def test_the_tokens_of_a_span_decode_to_the_answer(vocabulary, text, answer):
    vocabulary = vocabularies.load(vocabulary)
    tokens = vocabulary.encode(text)
    offsets = heads.token_offsets(vocabulary, text)
    assert len(offsets) == len(tokens)
    first, last = span_of(vocabulary, text, answer)
    assert vocabulary.decode(tokens[first : last + 1]).strip(" ,.") == answer


def test_spans_with_t5s_vocabulary(shared):
    vocabulary = vocabularies.load(str(shared / "data/vocab/t5_32000.model"))
    text = "what is red ? the cat sat on the red mat."
    first, last = span_of(vocabulary, text, "red mat")
    assert vocabulary.decode(vocabulary.encode(text)[first : last + 1]) == "red mat"


def test_a_span_in_no_token():
    assert heads.find_span([(0, 2), (2, 5)], 7, 3) is None
    assert heads.find_span([(0, 2), (2, 5)], 2, 0) is None
    assert heads.find_span([(0, 2), (2, 5)], 1, 3) == (0, 1)


def test_best_span_is_the_best_of_all_pairs():
    generator = np.random.default_rng(0)
    for _ in range(50):
        start, end = generator.normal(size=(2, 9))
        pairs = [(i, j) for i in range(9) for j in range(i, min(i + 4, 9))]
        expected = max(pairs, key=lambda pair: start[pair[0]] + end[pair[1]])
        assert heads.best_span(start, end, 4) == expected


def test_heads_that_the_tasks_ask_for():
    tasks = lookup.find_tasks(["glue.default.semantic"], register=glue.register)
    by_name = dict(zip(lookup.short_names(tasks), map(heads.head_of_task, tasks)))
    assert by_name["mnli"] == heads.Classification(3) == by_name["mnli_mismatched"]
    assert by_name["cola"] == heads.Classification(2)
    assert by_name["stsb"] == heads.Regression(0.0, 5.0)
    tasks = lookup.find_tasks(["decanlp_all.default.semantic"], register=decanlp.register)
    by_name = dict(zip(lookup.short_names(tasks), map(heads.head_of_task, tasks)))
    assert by_name["squad"] == by_name["srl"] == by_name["schema"] == heads.Span()
    assert by_name["zre"] == heads.Span(no_answer="unanswerable")
    for name in ("iwslt", "cnn_dailymail", "wikisql", "woz"):
        assert by_name[name] == heads.Decoder()


@pytest.mark.parametrize("name", ["squad", "srl", "zre", "schema"])
def test_span_targets_lead_back_to_the_gold_answers(name):
    decanlp.register()
    task = lookup.find_tasks(f"decanlp_{name}.default.semantic")[0]
    vocabulary = task.output_features["inputs"].vocabulary
    dataset = task.get_dataset(None, "validation", shuffle=False)
    for example in heads.with_targets(dataset, task, None).as_numpy_iterator():
        answerable, first, last = example[heads.FEATURE].astype(int)
        answer = example["targets_pretokenized"].decode()
        assert answerable == (answer != "unanswerable")
        if answerable:
            found = vocabulary.decode([int(i) for i in example["inputs"][first : last + 1]])
            assert found.strip(" ,.?") == answer
        else:
            assert first == last == -1


def test_lost_spans_are_counted():
    rows = [
        {"inputs": "find the cat in the house", "targets": "cat", "answer_start": 9},
        {"inputs": "find the cat in the house", "targets": "house", "answer_start": 20},
        {"inputs": "find the cat in the house", "targets": "dog", "answer_start": -1},
    ]
    vocabulary = vocabularies.load("bytes")
    feature = seqio.Feature(vocabulary, add_eos=True)

    def postprocess(text, **unused_kwargs):
        return text

    postprocess.head = heads.Span()
    seqio.TaskRegistry.add(
        "lost_spans",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices(
                {key: [row[key] for row in rows] for key in rows[0]}
            ),
            splits=["train"],
        ),
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features={"inputs": feature, "targets": feature},
        postprocess_fn=postprocess,
        metric_fns=[],
    )
    try:
        task = seqio.get_mixture_or_task("lost_spans")
        counts = counting.count_lost_spans(task, "train", {"inputs": 16, "targets": 8})
        assert counts == {"spans_unreachable": 1, "spans_cut": 1}
    finally:
        seqio.TaskRegistry.remove("lost_spans")


def test_a_task_without_what_its_head_learns_from():
    glue.register()
    task = lookup.find_tasks("glue_cola.default.semantic")[0]
    dataset = task.get_dataset(None, "validation", shuffle=False)
    dataset = dataset.map(lambda example: {k: v for k, v in example.items() if k != "label"})
    with pytest.raises(ValueError, match="glue_cola.*Classification head.*learns from 'label'"):
        heads.with_targets(dataset, task, None)
