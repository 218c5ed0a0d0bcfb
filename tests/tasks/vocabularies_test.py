"""Vocabularies by name or path."""

import shutil

import pytest
import seqio

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


@pytest.mark.parametrize(
    ("settings", "more"),
    [(None, 100), ('{"extra_ids": 0}', 0), ('{"extra_ids": 28}', 28)],
)
def test_a_checkpoints_folder(tmp_path, settings, more):
    """Its spiece.model, with T5's sentinels unless its tokenizer has others."""
    mini = vocabularies.load("mini")
    shutil.copy(mini.sentencepiece_model_file, tmp_path / "spiece.model")
    if settings:
        (tmp_path / "tokenizer_config.json").write_text(settings)
    found = vocabularies.load(str(tmp_path))
    assert found.vocab_size == mini.vocab_size + more
    assert found.encode(TEXT) == mini.encode(TEXT)


def test_a_file_that_holds_its_sentinels(tmp_path):
    """As mT5's does."""
    with_them = seqio.SentencePieceVocabulary(
        vocabularies.load("mini").sentencepiece_model_file, extra_ids=7
    )
    (tmp_path / "own.model").write_bytes(with_them.sp_model)
    assert vocabularies.load(str(tmp_path / "own.model")).vocab_size == with_them.vocab_size


def test_a_folder_of_byt5_and_one_without_a_vocabulary(tmp_path):
    with pytest.raises(FileNotFoundError, match="VOCABULARY_PATH is the folder.*no spiece.model"):
        vocabularies.load(str(tmp_path))
    folder = tmp_path / "byt5"
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    assert vocabularies.load(str(folder)) is vocabularies.load("bytes")


def test_absent_file_names_setting():
    with pytest.raises(FileNotFoundError, match="VOCABULARY_PATH is 'gone.model'.*'mini'.*'bytes'"):
        vocabularies.load("gone.model")
