import numpy as np
import pytest
import sentencepiece

from mtl_t5x.tasks.mini import glue as mini
from mtl_t5x.tasks.mini import vocabulary as mini_vocabulary


@pytest.fixture(scope="module")
def pieces():
    return sentencepiece.SentencePieceProcessor(model_file=str(mini_vocabulary.PATH))


def test_the_shipped_file_is_what_the_command_makes():
    assert mini_vocabulary.PATH.read_bytes() == mini_vocabulary.train()
    assert mini_vocabulary.PATH.stat().st_size < 300_000


def test_special_ids_and_size(pieces):
    assert pieces.vocab_size() <= mini_vocabulary.SIZE
    assert (pieces.pad_id(), pieces.eos_id(), pieces.unk_id(), pieces.bos_id()) == (0, 1, 2, -1)
    assert sum(pieces.is_byte(i) for i in range(pieces.vocab_size())) == 256


def test_any_text_comes_back(pieces):
    generator = np.random.default_rng(0)
    # All of Unicode but the surrogates, U+2581, which SentencePiece keeps for the space, and
    # U+FEFF, the byte order mark, which is dropped.
    planes = [range(0x80), range(0x2581), range(0x2582, 0xD800), range(0xE000, 0xFEFF)]
    planes.append(range(0xFF00, 0x110000))
    for _ in range(300):
        drawn = [planes[i] for i in generator.integers(0, len(planes), generator.integers(12))]
        text = "".join(chr(plane[generator.integers(len(plane))]) for plane in drawn)
        ids = pieces.encode(text)
        assert pieces.decode(ids) == text
        assert pieces.unk_id() not in ids
    for text in ("  two  spaces ", "tab\tline\r\nend\n", "e\u0301 \ufb01 \u00bd"):
        assert pieces.decode(pieces.encode(text)) == text


@pytest.mark.parametrize("task", mini.TASKS)
def test_words_are_one_piece_and_prompted_rows_short(pieces, task):
    longest = 24 if task in ("cola", "sst2") else 32
    prompted = mini_vocabulary.prompted(task)
    for text in prompted:
        ids = pieces.encode(text)
        assert len(ids) + 1 <= longest
    words = {word.rstrip(".,?") for text in prompted for word in text.split()} - {""}
    assert [word for word in words if len(pieces.encode(word)) > 1] == []


@pytest.mark.parametrize(
    "answer", ["not_entailment", "unacceptable", "contradiction", "equivalent"]
)
def test_answers_are_one_piece(pieces, answer):
    assert len(pieces.encode(answer)) == 1
