"""Rates of the tasks, and the batches that they make: proportions, rows, draws, what can't be."""

import dataclasses
import logging

import numpy as np
import pytest
import seqio

from mtl_t5x.conflict import metrics
from mtl_t5x.data import batching, lookup, rates
from mtl_t5x.tasks.glue import glue

NAMES = ("cola", "rte")
MIXTURE = "rates_test_nine_to_one"
LENGTHS = {"inputs": 32, "targets": 4}


@pytest.fixture(scope="module")
def tasks():
    glue.register()
    found = lookup.find_tasks([f"glue_{name}.default.semantic" for name in NAMES])
    if MIXTURE not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(MIXTURE, list(zip((task.name for task in found), (9, 1))))
    return dict(zip(NAMES, found))


def test_shares(tasks):
    assert rates.Rates().shares(tasks) is None
    np.testing.assert_allclose(rates.Rates("mixture", MIXTURE).shares(tasks), [0.9, 0.1])
    np.testing.assert_allclose(rates.Rates({"cola": 1, "rte": 3}).shares(tasks), [0.25, 0.75])
    sizes = np.array([tasks[name].num_input_examples("train") for name in NAMES])
    mixed = np.minimum(sizes, 1500) ** (1 / 2.0)
    by_size = rates.Rates("examples", temperature=2.0, maximum=1500).shares(tasks)
    np.testing.assert_allclose(by_size, mixed / mixed.sum())
    two = rates.Rates("mixture", [MIXTURE, "glue_rte.default.semantic"]).shares(tasks)
    np.testing.assert_allclose(two, [9 / 11, 2 / 11])


def test_rates_that_are_not_used_are_told(tasks, caplog):
    with caplog.at_level(logging.WARNING, logger="mtl_t5x"):
        rates.Rates("mixture", MIXTURE).tell_unused(tasks)
        rates.Rates(None, [task.name for task in tasks.values()]).tell_unused(tasks)
        assert not caplog.text
        rates.Rates(None, MIXTURE).tell_unused(tasks)
    assert f"{MIXTURE} has rates (cola 9, rte 1) that aren't used" in caplog.text


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: rates.Rates("size"), r"RATES = 'size': it must be one of"),
        (lambda: rates.Rates(used_as="batches"), r"rates.Rates.used_as = 'batches'"),
        (lambda: rates.Rates(temperature=0.0), r"rates.Rates.temperature = 0.0"),
        (lambda: rates.Rates("mixture", maximum=5.0), r"rates.Rates.maximum = 5.0 limits numbers"),
    ],
)
def test_settings_that_cannot_work(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "source, message",
    [
        ({"cola": 1, "rte": 0}, r"the rate of rte is 0, and must be above 0"),
        ({"cola": 1, "rte": -2}, r"the rate of rte is -2"),
        ({"cola": 1}, r"'rte' has no rate"),
        ({"cola": 1, "rte": 1, "mrpc": 1}, r"'mrpc' is not trained"),
    ],
)
def test_rates_that_cannot_be(tasks, source, message):
    with pytest.raises(ValueError, match=message):
        rates.Rates(source).shares(tasks)


def test_numbers_of_examples():
    """About the batch's size on average, in multiples that leave every part its halves."""
    plan = rates.plan(np.array([0.9, 0.1]), 10, 1, "examples", 0)
    assert plan.numbers == (18, 2) and plan.rows == 18
    plan = rates.plan(np.array([0.5, 0.3, 0.2]), 16, 2, "examples", 0)
    assert plan.numbers == (24, 16, 8) and plan.blocks == 4
    plan = rates.plan(np.array([0.98, 0.01, 0.01]), 4, 1, "examples", 0)
    assert min(plan.numbers) == 2, "every task has examples"
    assert rates.plan(np.array([0.5, 0.5]), 3, 1, "examples", 0).numbers == (3, 3)


@pytest.mark.parametrize("number, rows, blocks", [(4, 12, 2), (12, 12, 2), (4, 16, 4), (1, 3, 1)])
def test_every_part_has_its_share(number, rows, blocks):
    place, counts = rates.places(number, rows, blocks)
    np.testing.assert_array_equal(np.sort(place[counts]), np.arange(number))
    np.testing.assert_array_equal(counts.reshape(blocks, -1).sum(axis=1), number // blocks)
    assert place.max() < number


def examples_of(batch, name):
    task = NAMES.index(name)
    rows = batch[rates.EXAMPLE_WEIGHTS][task] > 0
    return [row.tobytes() for row in batch["encoder_input_tokens"][task][rows]]


def test_batches_are_nine_to_one(tasks):
    """Each task shows the examples, in the order, that it shows alone; the rows that fill the batch
    up have no targets."""
    plan = rates.plan(rates.Rates("mixture", MIXTURE).shares(tasks), 10, 1, "examples", 0)
    of_task = list(tasks.values())
    mixed = batching.train_batches(of_task, LENGTHS, 10, seed=3, plan=plan)
    mixed = [next(mixed) for _ in range(3)]
    for name, number in zip(NAMES, (18, 2)):
        alone = batching.train_batches([tasks[name]], LENGTHS, number, seed=3)
        for batch in mixed:
            inputs = next(alone)["encoder_input_tokens"][0]
            shown = [row.tobytes() for row in inputs]
            assert sorted(shown) == sorted(examples_of(batch, name))
            filler = batch[rates.EXAMPLE_WEIGHTS][NAMES.index(name)] == 0
            assert not batch["decoder_loss_weights"][NAMES.index(name)][filler].any()
            assert batch["encoder_input_tokens"][NAMES.index(name)].any(axis=-1).all()
    again = batching.train_batches(of_task, LENGTHS, 10, seed=3, plan=plan, start_step=2)
    for name, value in next(again).items():
        np.testing.assert_array_equal(value, mixed[2][name])


def test_one_task_is_drawn(tasks):
    """As often as its rate says; its examples follow each other over the steps that draw it."""
    plan = rates.plan(np.array([0.75, 0.25]), 4, 1, "draws", seed=1)
    steps = [[plan.taken(task, step) for task in range(2)] for step in range(5000)]
    numbers = np.array([[number for _, number in taken] for taken in steps])
    assert set(numbers.sum(axis=1)) == {4}
    assert abs((numbers[:, 0] > 0).mean() - 0.75) < 0.03
    for task in range(2):
        before = np.cumsum(numbers[:, task]) - numbers[:, task]
        np.testing.assert_array_equal([taken[task][0] for taken in steps], before)
    batches = batching.train_batches(list(tasks.values()), LENGTHS, 4, seed=0, plan=plan)
    for step in range(3):
        batch = next(batches)
        np.testing.assert_array_equal(batch[rates.EXAMPLE_WEIGHTS].sum(axis=1), numbers[step])


def test_streamed_tasks(tasks):
    """A task that SeqIO streams gives what a stored one does, but for its order."""

    def forever(dataset):
        return dataset.repeat()

    task = tasks["cola"]
    endless = task.replace(preprocessors=[forever, *task.preprocessors])
    plan = dataclasses.replace(rates.plan(np.array([1.0]), 4, 1, "draws", 0), shares=(1.0,))
    batches = batching.train_batches([endless], LENGTHS, 4, seed=0, plan=plan)
    first, second = next(batches), next(batches)
    assert (first[rates.EXAMPLE_WEIGHTS] == 1).all()
    assert (first["encoder_input_tokens"] != second["encoder_input_tokens"]).any()
    later = batching.train_batches([endless], LENGTHS, 4, seed=0, plan=plan, start_step=1)
    np.testing.assert_array_equal(
        next(later)["encoder_input_tokens"], second["encoder_input_tokens"]
    )


def test_conflict_is_unbiased_by_rates():
    """Two tasks, nine examples of one for each of the other's: over many batches the products of
    their halves' gradients are those of the expected gradients, whatever the rates."""
    plan = rates.plan(np.array([0.9, 0.1]), 20, 1, "examples", 0)
    assert plan.numbers == (36, 4)
    rng = np.random.default_rng(0)
    expected = np.array([[1.0, 0.5, 0.0], [-0.5, 1.0, 0.5]])
    grams = []
    for _ in range(4000):
        halves = []
        for task, number in enumerate(plan.numbers):
            of_examples = expected[task] + rng.normal(size=(number, 3))
            place, counts = rates.places(number, plan.rows, plan.blocks)
            rows = of_examples[place] * counts[:, None] / number  # a mean over those that count
            halves += [half.sum(axis=0) for half in np.split(rows, 2)]
        grams.append(metrics.unbiased(np.stack(halves) @ np.stack(halves).T))
    error = np.std(grams, axis=0) / np.sqrt(len(grams))
    np.testing.assert_array_less(np.abs(np.mean(grams, axis=0) - expected @ expected.T), 4 * error)
    naive = np.mean([np.sum(expected[1] ** 2) + 3 / 4])
    assert abs(naive - np.sum(expected[1] ** 2)) > 20 * error[1, 1], "which would tell a bias"
