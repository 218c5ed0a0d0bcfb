"""Vocabularies by name or path."""

import pytest

from mtl_t5x.tasks import vocabularies
from mtl_t5x.tasks.mini import vocabulary as mini_vocabulary

TEXT = "The 2 nurses didn't read naïve notes — 3.8 of “them”."


@pytest.mark.parametrize("path", ["mini", "bytes"])
def test_special_ids_and_round_trip(path):
    vocabulary = vocabularies.load(path)
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
    ids = vocabulary.encode(TEXT)
    assert vocabulary.unk_id not in ids
    assert vocabulary.decode([*ids, 1, 0, 0]) == TEXT


def test_sizes_are_multiples_of_128():
    assert vocabularies.load("bytes").vocab_size == 259
    assert vocabularies.size("bytes") == 384
    mini = vocabularies.load("mini").vocab_size
    assert mini <= mini_vocabulary.SIZE
    assert mini <= vocabularies.size() < mini + 128
    assert vocabularies.size() % 128 == 0


def test_same_path_same_object():
    assert vocabularies.load("mini") is vocabularies.load("mini")


def test_t5_file_has_sentinels(shared):
    path = str(shared / "data/vocab" / "t5_32000.model")
    assert vocabularies.load(path).vocab_size == 32100
    assert vocabularies.size(path) == 32128
    assert vocabularies.load(path).decode([32099]) == "<extra_id_0>"


def test_absent_file_names_setting():
    with pytest.raises(FileNotFoundError, match="VOCABULARY_PATH is 'gone.model'.*'mini'.*'bytes'"):
        vocabularies.load("gone.model")
