"""The shared preprocessors: wording, targets, and the seeded draw of templates."""

import collections

import numpy as np
import pytest
import seqio
import tensorflow as tf

from mtl_t5x.tasks import postprocessors, preprocessors, sources, vocabularies
from mtl_t5x.tasks.prompts import Template

COUNT = 300
TEMPLATES = tuple(Template(f"{number}: {{text}}") for number in range(3))
WORDS = (("a0", "a1"), ("b0", "b1"), ("c0", "c1"))


def make_task(templates=TEMPLATES, target=None):
    rows = [{"text": f"row {i}", "label": i % 2, "idx": i} for i in range(COUNT)]
    feature = seqio.Feature(vocabularies.load("bytes"), add_eos=True)
    return seqio.Task(
        "drawn",
        source=sources.rows_source(lambda split: rows, ("train", "test")),
        preprocessors=preprocessors.preprocessors(
            templates, target or preprocessors.class_words(WORDS)
        ),
        output_features={"inputs": feature, "targets": feature},
    )


def draws(split="train", seed=0, num_epochs=1, shuffle=False):
    dataset = make_task().get_dataset(
        None, split, shuffle=shuffle, seed=seed, num_epochs=num_epochs
    )
    return [(int(e["idx"]), int(e["template"])) for e in dataset.as_numpy_iterator()]


def test_same_seed_same_draws_other_seed_other_draws():
    assert draws(seed=1) == draws(seed=1)
    assert draws(seed=1) != draws(seed=2)
    assert draws(seed=1, shuffle=True) == draws(seed=1, shuffle=True)


def test_every_epoch_draws_anew_and_evenly():
    both = draws(num_epochs=2)
    first, second = dict(both[:COUNT]), dict(both[COUNT:])
    assert set(first) == set(second) == set(range(COUNT))
    # Independent draws of three agree on a third: 100 of 300, standard deviation 8.
    assert 60 < sum(first[idx] == second[idx] for idx in first) < 140
    counts = collections.Counter(first.values())
    assert all(60 < counts[template] < 140 for template in range(3))


def test_other_splits_have_the_first_template():
    for seed in (0, 1, None):
        assert {template for _, template in draws("test", seed=seed)} == {0}


def test_text_target_and_template_belong_together():
    task = make_task()
    read = postprocessors.ClassIndex(WORDS)
    for example in task.get_dataset(None, "train", shuffle=False, seed=0).as_numpy_iterator():
        template, label, idx = (int(example[key]) for key in ("template", "label", "idx"))
        assert example["inputs_pretokenized"].decode() == f"{template}: row {idx}"
        target = example["targets_pretokenized"].decode()
        assert target == WORDS[template][label]
        assert read(target, example=example) == label


def test_one_template_draws_nothing_and_may_be_cached():
    task = make_task(TEMPLATES[:1], preprocessors.class_words(WORDS[:1]))
    example = next(task.get_dataset(None, "train", shuffle=False).take(1).as_numpy_iterator())
    assert set(example) == {
        "inputs", "targets", "inputs_pretokenized", "targets_pretokenized", "idx", "label",
    }  # fmt: skip
    assert example["inputs"].dtype == example["targets"].dtype == np.int32
    assert example["inputs"][-1] == example["targets"][-1] == 1
    # Before the placeholder stands what a cache may freeze: here the tokens, else the rows.
    kinds = [type(step) is seqio.CacheDatasetPlaceholder for step in task.preprocessors]
    assert kinds == [False, False, True, False]
    drawn = [type(step) is seqio.CacheDatasetPlaceholder for step in make_task().preprocessors]
    assert drawn == [True, False, False, False]


def test_too_long_inputs_are_cut_and_end_in_eos():
    lengths = {"inputs": 5, "targets": 2}
    example = next(make_task().get_dataset(lengths, "test", shuffle=False).as_numpy_iterator())
    assert len(example["inputs"]) == 5 and example["inputs"][-1] == 1
    assert len(example["targets"]) == 2 and example["targets"][-1] == 1


@pytest.mark.parametrize("fifths", range(26))
def test_scores_round_to_a_fifth(fifths):
    for offset in (-0.09, 0.0, 0.09):
        label = np.clip(fifths / 5 + offset, 0, 5)
        text = preprocessors.score({"label": tf.constant(label, tf.float32)}, tf.constant(0))
        assert text.numpy().decode() == f"{fifths / 5:.1f}"


def test_target_of_a_field():
    target = preprocessors.field("text")
    example = next(
        make_task(TEMPLATES[:1], target)
        .get_dataset(None, "test", shuffle=False)
        .as_numpy_iterator()
    )
    assert example["targets_pretokenized"] == b"row 0"
