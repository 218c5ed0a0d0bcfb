import collections
import math

import numpy as np
import pytest
import seqio

from mtl_t5x.data import batching, counting, features, heads, lookup, tokens
from mtl_t5x.tasks.glue import glue

INPUTS = "encoder_input_tokens"
LENGTHS = {"inputs": 32, "targets": 8}


@pytest.fixture(scope="module", autouse=True)
def mini_glue():
    glue.register()


def first_batches(names, count=3, **kwargs):
    tasks = lookup.find_tasks(names)
    batches = batching.train_batches(tasks, LENGTHS, 4, **{"seed": 0, **kwargs})
    return [next(batches) for _ in range(count)]


def test_a_batch_holds_every_task():
    (batch,) = first_batches(["glue_cola.default.semantic", "glue_rte.default.semantic"], 1)
    assert batch[INPUTS].shape == (2, 4, 32)
    assert batch["decoder_loss_weights"].shape == (2, 4, 8)
    vocabulary = seqio.get_mixture_or_task("glue_cola.default.semantic").output_features["inputs"]
    texts = [
        [vocabulary.vocabulary.decode([int(i) for i in row if i > 1]) for row in rows]
        for rows in batch[INPUTS]
    ]
    assert all(text.startswith("cola sentence: ") for text in texts[0])
    assert all(text.startswith("rte sentence1: ") for text in texts[1])
    # Teacher forcing: the decoder sees the targets one position late, and the loss counts them.
    targets = batch["decoder_target_tokens"]
    np.testing.assert_array_equal(
        batch["decoder_input_tokens"][..., 1:],
        targets[..., :-1] * (batch["decoder_input_tokens"][..., 1:] > 0),
    )
    np.testing.assert_array_equal(batch["decoder_loss_weights"], targets > 0)


def test_same_seed_same_batches_other_seed_others():
    name = "glue_mrpc.default.semantic"
    once, again, other = (first_batches(name, seed=seed) for seed in (0, 0, 1))
    for a, b in zip(once, again):
        np.testing.assert_array_equal(a[INPUTS], b[INPUTS])
    assert not np.array_equal(once[0][INPUTS], other[0][INPUTS])


def test_starting_later_goes_on_in_the_same_stream():
    names = ["glue_cola.default.semantic", "glue_sst2.default.semantic"]
    whole = first_batches(names, 5)
    rest = first_batches(names, 2, start_step=3)
    for a, b in zip(whole[3:], rest):
        np.testing.assert_array_equal(a[INPUTS], b[INPUTS])


def test_the_shares_of_several_processes_make_up_the_batch():
    names = [f"glue_{name}.default.semantic" for name in ("cola", "sst2", "stsb")]
    whole = first_batches(names, 2, start_step=1)
    for tasks in (slice(0, 2), slice(2, 3)):
        for examples in (slice(0, 1), slice(1, 4)):
            share = first_batches(names, 2, start_step=1, share=(tasks, examples))
            for batch, part in zip(whole, share, strict=True):
                for name in batch:
                    np.testing.assert_array_equal(batch[name][tasks, examples], part[name])


def test_a_task_sees_the_same_examples_alone_and_among_others():
    (alone,) = first_batches("glue_sst2.default.semantic", 1)
    (among,) = first_batches(["glue_cola.default.semantic", "glue_sst2.default.semantic"], 1)
    length = alone[INPUTS].shape[-1]
    np.testing.assert_array_equal(alone[INPUTS][0], among[INPUTS][1][:, :length])
    assert length == 16 < among[INPUTS].shape[-1], "as far as the task's own examples go"
    assert not among[INPUTS][1][:, length:].any()


def test_batches_are_as_long_as_the_longest_example_of_any_task():
    names = ["glue_cola.default.semantic", "glue_sst2.default.semantic"]
    tasks, lengths = lookup.find_tasks(names), {"inputs": 128, "targets": 64}
    longest = {
        name: max(counting.count(task, "train", lengths)[f"{name}_longest"] for task in tasks)
        for name in lengths
    }
    padded = batching.padded_lengths(tasks, lengths)
    assert padded == {name: 16 * math.ceil(n / 16) for name, n in longest.items()}
    batch = next(batching.train_batches(tasks, lengths, 4, seed=0))
    assert batch[INPUTS].shape == (2, 4, padded["inputs"])
    assert batch["decoder_target_tokens"].shape == (2, 4, padded["targets"])
    # What is cut is as long as it is cut to.
    short = {"inputs": 10, "targets": 8, "cola/inputs": 9}
    assert batching.padded_lengths(tasks, short) == {"inputs": 10, "targets": 8}
    assert batching.padded_lengths(tasks[:1], short) == {"inputs": 9, "targets": 8}


def test_with_a_stream_among_them_batches_are_as_long_as_they_may_be():
    names = ["glue_cola.default.semantic", "glue_sst2.default.semantic"]
    stored, other = lookup.find_tasks(names)

    def forever(dataset):
        return dataset.repeat()

    endless = other.replace(preprocessors=[forever, *other.preprocessors])
    lengths = {"inputs": 128, "targets": 64}
    assert batching.padded_lengths([stored, endless], lengths) == lengths
    assert batching.padded_lengths([stored], lengths)["inputs"] < 128


def test_every_epoch_shows_every_example_once_in_an_order_of_its_own():
    task = lookup.find_tasks("glue_cola.default.semantic")[0]
    examples = counting.count(task, "train", LENGTHS)["examples"]
    batches = batching.train_batches([task], LENGTHS, 100, seed=0)
    rows = [tuple(row) for _ in range(5 * examples // 100) for row in next(batches)[INPUTS][0]]
    epochs = [rows[i * examples : (i + 1) * examples] for i in range(5)]
    expected = collections.Counter(
        tuple(np.pad(one["inputs"], (0, 32 - len(one["inputs"]))))
        for one in task.get_dataset(LENGTHS, "train", shuffle=False).as_numpy_iterator()
    )
    for epoch in epochs:
        assert collections.Counter(epoch) == expected
    first, second = ([epoch.index(row) for row in epochs[0]] for epoch in epochs[1:3])
    for order in (first, second):
        assert abs(np.corrcoef(order, range(examples))[0, 1]) < 0.1


def test_batches_are_those_of_seqios_converter():
    names = ["glue_cola.default.semantic", "glue_stsb.default.semantic"]
    lengths = LENGTHS | {"cola/inputs": 12}
    tasks = lookup.find_tasks(names)
    batches = batching.train_batches(tasks, lengths, 50, seed=0, with_heads=True)
    found = [next(batches) for _ in range(3)]
    for position, (name, task) in enumerate(zip(("cola", "stsb"), tasks)):
        own = features.lengths_of(name, lengths)
        dataset = task.get_dataset(own, "train", shuffle=False)
        dataset = heads.with_targets(dataset, task, own["inputs"])
        dataset = features.model_features(True)(dataset, LENGTHS | {heads.FEATURE: 3})
        expected = [
            {key: value.tolist() for key, value in one.items()}
            for one in dataset.as_numpy_iterator()
        ]
        for batch in found:
            assert {value.dtype for key, value in batch.items() if key != heads.FEATURE} == {
                np.dtype(np.int32)
            }
            for row in range(50):
                own_row = {key: value[position, row].tolist() for key, value in batch.items()}
                assert own_row in expected


def test_any_step_is_as_near_as_the_first(monkeypatch):
    """Nothing before it is read: of the ten thousandth batch only its own examples are."""
    names = ["glue_cola.default.semantic", "glue_rte.diverse.semantic"]
    (far,) = first_batches(names, 1, start_step=10_000)
    batches = batching.train_batches(lookup.find_tasks(names), LENGTHS, 4, seed=0, start_step=9_000)
    for _ in range(1_000):
        next(batches)
    np.testing.assert_array_equal(next(batches)[INPUTS], far[INPUTS])
    read = []
    read_from = batching._Stored.read
    monkeypatch.setattr(
        batching._Stored,
        "read",
        lambda self, first, *rest: (read.append(first // 4), read_from(self, first, *rest))[1],
    )
    first_batches(names, 1, start_step=10_000)
    assert set(read) <= set(range(10_000, 10_000 + 2 + batching.READ_AHEAD))


def test_a_prompt_is_drawn_anew_in_every_epoch():
    """Each of the templates as often as the others, and for an example not always the same."""
    name = "glue_rte.diverse.semantic"
    (task,) = lookup.find_tasks(name)
    stored = tokens.examples(task, "train", LENGTHS)
    template = {
        stored[number]["inputs"].tobytes(): number
        for number in range(len(stored) * stored.variants)
    }
    size = len(stored) // 10 * 10
    batches = batching.train_batches([task], LENGTHS, 10, seed=3)
    shown = np.full((4, len(stored)), -1)
    place = 0
    for _ in range(4 * size // 10):
        for row in next(batches)[INPUTS][0]:
            number = template[row[row > 0].tobytes()]
            shown[place // len(stored), number % len(stored)] = number // len(stored)
            place += 1
    whole = shown[:3]
    counts = np.bincount(whole[whole >= 0], minlength=stored.variants)
    expected = counts.sum() / stored.variants
    assert (abs(counts - expected) < 5 * np.sqrt(expected)).all()
    both = (shown[0] >= 0) & (shown[1] >= 0)
    same = (shown[0] == shown[1])[both].mean()
    assert abs(same - 1 / stored.variants) < 0.1
    (again,) = first_batches(name, 1, seed=3)
    (other,) = first_batches(name, 1, seed=4)
    assert not np.array_equal(again[INPUTS], other[INPUTS])


def test_mixture_is_its_tasks_and_lists_are_flattened_once():
    mixture = lookup.find_tasks("glue.default.semantic")
    assert len(mixture) == 9
    again = lookup.find_tasks(["glue_cola.default.semantic", "glue.default.semantic"])
    assert again[0].name == "glue_cola.default.semantic"
    assert set(again) == set(mixture)


def test_short_names():
    tasks = lookup.find_tasks(["glue_cola.default.semantic", "glue_mnli_mismatched.null.semantic"])
    assert lookup.short_names(tasks) == ("cola", "mnli_mismatched")
    same = lookup.find_tasks(["glue_cola.default.semantic", "glue_cola.null.semantic"])
    assert lookup.short_names(same) == ("glue_cola.default.semantic", "glue_cola.null.semantic")


@pytest.mark.parametrize(
    "name, suggestion",
    [
        ("glue_cola.default.semantik", "Did you mean 'semantic'"),
        ("glue.defualt.semantic", "Did you mean 'default'"),
        ("glue_mnil.default.semantic", "Did you mean 'glue_mnli'"),
    ],
)
def test_unknown_name_suggests_the_nearest(name, suggestion):
    with pytest.raises(ValueError, match="MIXTURE_OR_TASK_NAME") as error:
        lookup.find_tasks(name)
    assert suggestion in str(error.value)


def test_cut_examples_are_counted(caplog):
    task = lookup.find_tasks("glue_stsb.default.semantic")[0]
    with caplog.at_level("WARNING", logger="mtl_t5x"):
        counts = counting.check({"stsb": task}, "train", {"inputs": 32, "targets": 2})
    examples = [
        len(example["targets"])
        for example in task.get_dataset(None, "train", shuffle=False).as_numpy_iterator()
    ]
    assert counts["stsb"]["inputs_cut"] == 0
    assert counts["stsb"]["targets_cut"] == sum(n > 2 for n in examples)
    assert counts["stsb"]["targets_longest"] == max(examples)
    assert "raise TASK_FEATURE_LENGTHS['targets']" in caplog.text


def test_a_batch_that_cannot_be_filled():
    tasks = lookup.find_tasks("glue_cola.default.semantic")
    with pytest.raises(ValueError, match=r"BATCH_SIZE = 99999.*glue_cola\.default\.semantic"):
        counting.check({"cola": tasks[0]}, "train", LENGTHS, batch_size=99999)


def test_a_feature_without_a_length():
    tasks = lookup.find_tasks("glue_cola.default.semantic")
    assert features.check_names(tasks, LENGTHS) == []
    (fault,) = features.check_names(tasks, {"inputs": 32})
    assert fault.startswith("TASK_FEATURE_LENGTHS = {'inputs': 32} has no length for 'targets'")


def test_a_task_may_have_lengths_of_its_own():
    lengths = {**LENGTHS, "rte/targets": 2, "cola/inputs": 8}
    names = ["glue_cola.default.semantic", "glue_rte.default.semantic"]
    (batch,) = [next(batching.train_batches(lookup.find_tasks(names), lengths, 50, seed=0))]
    assert batch["decoder_target_tokens"].shape == (2, 50, 8)
    used = (batch[INPUTS] > 0).sum(axis=-1)
    assert used[0].max() == 8 and used[1].max() > 8
    assert features.lengths_of("rte", lengths) == {"inputs": 32, "targets": 2}


def test_what_heads_learn_from():
    names = ["glue_mnli.default.semantic", "glue_stsb.default.semantic"]
    tasks = lookup.find_tasks(names)
    batch = next(batching.train_batches(tasks, LENGTHS, 50, seed=0, with_heads=True))
    targets = batch[heads.FEATURE]
    assert targets.shape == (2, 50, 3) and (targets[..., 1:] == -1).all()
    vocabulary = tasks[0].output_features["targets"].vocabulary
    for row, label in zip(batch["decoder_target_tokens"][0], targets[0, :, 0]):
        word = vocabulary.decode([int(i) for i in row if i > 1])
        assert word == ("entailment", "neutral", "contradiction")[int(label)]
    for row, label in zip(batch["decoder_target_tokens"][1], targets[1, :, 0]):
        score = float(vocabulary.decode([int(i) for i in row if i > 1]))
        assert abs(score - label) <= 0.1 + 1e-6
