"""What is left out is padding, and lengths are few."""

import numpy as np
import pytest

from mtl_t5x.data import features, padding

LENGTH = 200


def a_batch(inputs, targets, length=LENGTH):
    """Examples with so many tokens each: `[example, length]`."""
    inputs, targets = np.array(inputs)[:, None], np.array(targets)[:, None]
    places = np.arange(length)
    return features.of_model(7 * (places < inputs), 7 * (places < targets))


@pytest.mark.parametrize(
    ("tokens", "left"), [(0, 64), (1, 64), (64, 64), (65, 128), (128, 128), (129, LENGTH)]
)
def test_lengths_are_few(tokens, left):
    batch = padding.trimmed(a_batch([tokens, 3], [2, 60]))
    assert batch["encoder_input_tokens"].shape == (2, left)
    assert {batch[name].shape for name in padding.TARGETS} == {(2, 64)}
    longer = padding.trimmed(a_batch([tokens, 3], [2, 60]), targets=LENGTH)
    assert longer["encoder_input_tokens"].shape == (2, left)
    assert {longer[name].shape for name in padding.TARGETS} == {(2, LENGTH)}


@pytest.mark.parametrize(
    ("tokens", "left"), [(0, 16), (16, 16), (17, 64), (64, 64), (65, LENGTH), (200, LENGTH)]
)
def test_lengths_of_targets_are_fewer(tokens, left):
    batch = padding.trimmed(a_batch([3, 3], [2, tokens]))
    assert {batch[name].shape for name in padding.TARGETS} == {(2, left)}


@pytest.mark.parametrize(
    ("longest", "most", "length"),
    [(0, 64, 16), (16, 64, 16), (17, 64, 32), (3, 8, 8), (50, 50, 50)],
)
def test_batches_of_a_run_are_as_long_as_the_longest_example(longest, most, length):
    assert padding.rounded(longest, most) == length


def test_short_batches_are_left_alone():
    batch = a_batch([3, 1], [2, 2], length=16)
    assert padding.trimmed(batch)["encoder_input_tokens"].shape == (2, 16)


@pytest.mark.parametrize("rest", [(), (2, 3)])
def test_only_padding_is_left_out(rest):
    """Whatever stands before the last axis."""
    rng = np.random.default_rng(0)
    batch = a_batch(*rng.integers(0, 100, (2, 12)))
    batch = {name: value.reshape(*(rest or (12,)), -1, LENGTH) for name, value in batch.items()}
    batch["head_targets"] = np.ones((3, LENGTH))
    cut = padding.trimmed(batch)
    assert cut["head_targets"].shape == (3, LENGTH), "is no tokens"
    for name in padding.INPUTS + padding.TARGETS:
        length = cut[name].shape[-1]
        assert length == (128 if name in padding.INPUTS else LENGTH)
        np.testing.assert_array_equal(cut[name], batch[name][..., :length])
        if name != "decoder_input_tokens":  # begins a place later
            assert not batch[name][..., length:].any()


def test_a_token_behind_padding_is_kept():
    inputs = np.zeros((1, LENGTH), int)
    inputs[0, 150] = 5
    assert padding.trimmed({"encoder_input_tokens": inputs})["encoder_input_tokens"].sum() == 5


def test_longest_come_first():
    batch = a_batch([5, 90, 10, 70, 5], [3, 3, 50, 60, 25])
    # Of the last three the targets have 64 places, whatever they fill.
    assert padding.longest_first(batch).tolist() == [3, 2, 4, 1, 0]
    only = {"encoder_input_tokens": batch["encoder_input_tokens"]}
    assert padding.longest_first(only).tolist() == [1, 3, 2, 0, 4]
    rows = {name: value[[[0, 3], [1, 1]]] for name, value in only.items()}
    assert padding.longest_first(rows).tolist() == [1, 0]


def test_what_has_ended_is_computed_no_more():
    ends, seen, told = np.array([3, 20, 16, 90, 17, 200, 1]), [], []

    def compute(numbers, filled, length):
        assert len(filled) == 2 and set(filled) == set(numbers)
        seen.append((length, numbers.tolist()))
        return ends[numbers] <= length

    lengths = padding.lengths("decoder_target_tokens", 100)
    padding.until_ended(np.arange(7)[::-1], 2, lengths, compute, told.append)
    first = [(16, [6, 5]), (16, [4, 3]), (16, [2, 1]), (16, [0])]
    assert seen == [*first, (64, [5, 4]), (64, [3, 1]), (100, [5, 3])]
    assert sum(told) == 7, "the last one, too, which never ends"
    padding.until_ended(np.arange(0), 2, lengths, compute, told.append)
    assert len(seen) == 7 and sum(told) == 7, "of no rows there is nothing to compute"
