"""Span corruption: what is asked, that it fits and that it is drawn as seeds say."""

import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from mtl_t5x.data import batching
from mtl_t5x.tasks import span_corruption

LENGTHS = {"inputs": 24, "targets": 12}


@pytest.fixture
def task(tmp_path):
    text = "the chef cooks the soup and the baker eats the bread in the park near the river . "
    lines = [text, text * 9, "the", "", "a cat"]
    (tmp_path / "a.txt").write_text("\n".join(lines * 4))
    (tmp_path / "b.txt").write_text(f"{text}\n{text * 2}\n")
    files = {"train": f"{tmp_path}/a*.txt", "validation": str(tmp_path / "b.txt")}
    span_corruption.register(files, name="spans_of_files")
    return seqio.get_mixture_or_task("spans_of_files")


def examples(task, split="train", **options):
    dataset = task.get_dataset(LENGTHS, split, try_in_mem_cache=False, **options)
    return list(dataset.as_numpy_iterator())


def restored(example, last):
    """The text: each sentinel of the inputs is what stands behind it in the targets."""
    spans, current = {}, None
    for token in example["targets"][:-1]:
        current = int(token) if token > last - 100 else current
        spans.setdefault(current, []).append(token)
    whole = []
    for token in example["inputs"][:-1]:
        whole += spans[int(token)][1:] if token > last - 100 else [token]
    return whole


def test_inputs_and_targets_make_the_text(task):
    vocabulary = task.output_features["inputs"].vocabulary
    last = vocabulary.vocab_size - 1
    texts = set()
    for one in examples(task, shuffle=True, seed=0):
        assert len(one["inputs"]) <= 24 and len(one["targets"]) <= 12
        assert one["inputs"][-1] == one["targets"][-1] == 1
        assert one["targets"][0] == last
        texts.add(vocabulary.decode([int(token) for token in restored(one, last)]))
    assert any(text.startswith("the chef cooks the soup and") for text in texts)
    assert "a cat" in texts and "the" not in texts


def test_noise_is_as_raffel_et_al_have_it():
    """T5's 512 inputs and 114 targets: 568 tokens; one target more for a last sentinel."""
    assert span_corruption.longest({"inputs": 512, "targets": 115}, 100) == 568
    masks = np.stack(
        [span_corruption.noise_mask(tf.constant(568), tf.constant([0, i])) for i in range(200)]
    )
    np.testing.assert_array_equal(masks.sum(1), 85)
    starts = masks & ~np.pad(masks, ((0, 0), (1, 0)))[:, :-1]
    np.testing.assert_array_equal(starts.sum(1), 28)
    assert not masks[:, 0].any() and 0.01 < masks[:, -1].mean() < 0.2
    assert np.abs(masks[:, 20:-20].reshape(200, -1, 16).mean((0, 2)) - 0.15).max() < 0.05


def test_seeds_decide(task):
    def batches(seed, start, count):
        made = batching.train_batches([task], LENGTHS, 4, seed=seed, start_step=start)
        return [batch["encoder_input_tokens"] for batch in itertools.islice(made, count)]

    whole = batches(0, 0, 24)
    np.testing.assert_array_equal(whole[21:], batches(0, 21, 3))
    assert not np.array_equal(whole[:1], batches(1, 0, 1))
    rows = {tuple(row) for row in np.concatenate(whole, axis=1)[0]}
    assert len(rows) > len(examples(task, shuffle=False)), "each epoch has other noise"
    first, again = (examples(task, "validation", shuffle=False, seed=seed) for seed in (1, 2))
    np.testing.assert_equal(first, again)


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="VOCABULARY_PATH = 'mini' has no extra ids"):
        span_corruption.register(vocabulary_path="mini")
    with pytest.raises(ValueError, match="no file '.*gone.txt' for train: write"):
        span_corruption.register({"train": str(tmp_path / "gone.txt")})
    with pytest.raises(ValueError, match="files = 'texts.txt': write"):
        span_corruption.register("texts.txt")
    with pytest.raises(ValueError, match="hold no text with a corrupted span"):
        span_corruption.longest({"inputs": 2, "targets": 8}, 100)
