"""Vocabularies by name or path, shared by every task."""

from __future__ import annotations

import functools
import pathlib

import seqio
from etils import epath

_MINI = pathlib.Path(__file__).with_name("mini") / "mini.model"
_EXTRA_IDS = {"mini": 0, "mini_100extra": 100}


@functools.cache
def load(path: str = "mini") -> seqio.Vocabulary:
    """Loads a vocabulary; the same path gives the same object.

    Args:
      path: "mini" (SentencePiece with byte fallback, trained on the embedded benchmark),
        "mini_100extra" (the same with 100 sentinels, for span corruption), "bytes" (ByT5's), or
        the path of a SentencePiece model, to which T5's 100 sentinels are added.

    Raises:
      FileNotFoundError: no such file; names the setting VOCABULARY_PATH.
      ValueError: a file that is no SentencePiece model.
    """
    if path in _EXTRA_IDS:
        return seqio.SentencePieceVocabulary(str(_MINI), extra_ids=_EXTRA_IDS[path])
    if path == "bytes":
        return seqio.ByteVocabulary()
    if not epath.Path(path).is_file():
        raise FileNotFoundError(
            f"VOCABULARY_PATH is {path!r}, but there is no such file. Write VOCABULARY_PATH = "
            "'mini' (shipped with the package; 'mini_100extra' with sentinels), 'bytes' (UTF-8 "
            "bytes), or the path of a "
            "SentencePiece model."
        )
    vocabulary = seqio.SentencePieceVocabulary(path, extra_ids=100)
    try:
        vocabulary.encode("")
    except Exception as error:  # SentencePiece's own, of several kinds
        raise ValueError(
            f"VOCABULARY_PATH = {path!r} is no SentencePiece model ({_first_line(error)}): name a "
            "file such as T5's spiece.model"
        ) from error
    return vocabulary


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def size(path: str = "mini") -> int:
    """Returns the number of ids, padded up to a multiple of 128 as T5's embeddings are."""
    return -(-load(path).vocab_size // 128) * 128
