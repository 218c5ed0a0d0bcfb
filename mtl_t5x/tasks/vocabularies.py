"""Vocabularies by name or path, shared by every task."""

from __future__ import annotations

import functools
import json
import pathlib

import seqio
from etils import epath

_SENTINEL = "▁<extra_id_0>"
_MINI = pathlib.Path(__file__).with_name("mini") / "mini.model"
_EXTRA_IDS = {"mini": 0, "mini_100extra": 100}


@functools.cache
def load(path: str = "mini") -> seqio.Vocabulary:
    """Loads a vocabulary; the same path gives the same object.

    Args:
      path: "mini" (SentencePiece with byte fallback, trained on the embedded benchmark),
        "mini_100extra" (the same with 100 sentinels, for span corruption), "bytes" (ByT5's), the
        path of a SentencePiece model, to which T5's 100 sentinels are added where it doesn't have
        them itself (as mT5's), or a checkpoint's folder with such a model as `spiece.model`, or
        with the settings of ByT5's tokenizer.

    Raises:
      FileNotFoundError: no such file; names the setting VOCABULARY_PATH.
      ValueError: a file that is no SentencePiece model.
    """
    if path in _EXTRA_IDS:
        return seqio.SentencePieceVocabulary(str(_MINI), extra_ids=_EXTRA_IDS[path])
    if path == "bytes":
        return seqio.ByteVocabulary()
    if epath.Path(path).is_dir():
        return _in_folder(epath.Path(path))
    if not epath.Path(path).is_file():
        raise FileNotFoundError(
            f"VOCABULARY_PATH is {path!r}, but there is no such file. Write VOCABULARY_PATH = "
            "'mini' (shipped with the package; 'mini_100extra' with sentinels), 'bytes' (UTF-8 "
            "bytes), or the path of a SentencePiece model or of a checkpoint's folder with a "
            "spiece.model."
        )
    return _sentencepiece(path)


def _sentencepiece(path: str, extra_ids: int | None = None) -> seqio.Vocabulary:
    """With so many sentinels; None: T5's 100, unless the file itself has them."""
    plain = seqio.SentencePieceVocabulary(path, extra_ids=0)
    try:
        plain.encode("")
    except Exception as error:  # SentencePiece's own, of several kinds
        raise ValueError(
            f"VOCABULARY_PATH = {path!r} is no SentencePiece model ({_first_line(error)}): name a "
            "file such as T5's spiece.model"
        ) from error
    if extra_ids is None:
        pieces = plain.tokenizer
        extra_ids = 100 if pieces.piece_to_id(_SENTINEL) == pieces.unk_id() else 0
    return seqio.SentencePieceVocabulary(path, extra_ids=extra_ids) if extra_ids else plain


def _in_folder(folder: epath.Path) -> seqio.Vocabulary:
    """A checkpoint's own."""
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if (folder / "spiece.model").is_file():
        return _sentencepiece(str(folder / "spiece.model"), settings.get("extra_ids"))
    if settings.get("tokenizer_class") == "ByT5Tokenizer":
        return load("bytes")
    raise FileNotFoundError(
        f"VOCABULARY_PATH is the folder {str(folder)!r}, which holds no spiece.model, and no "
        "tokenizer_config.json of ByT5: get the checkpoint's spiece.model, or name its file"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def size(path: str = "mini") -> int:
    """Returns the number of ids, padded up to a multiple of 128 as T5's embeddings are."""
    return -(-load(path).vocab_size // 128) * 128
