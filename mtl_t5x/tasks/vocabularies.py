"""Vocabularies by name or path, shared by every task."""

from __future__ import annotations

import functools
import pathlib

import seqio
from etils import epath

_SENTINEL = "▁<extra_id_0>"
_MINI = pathlib.Path(__file__).with_name("mini") / "mini.model"


@functools.cache
def load(path: str = "mini") -> seqio.Vocabulary:
    """Loads a vocabulary; the same path gives the same object.

    Args:
      path: "mini" (SentencePiece with byte fallback, trained on the embedded benchmark),
        "bytes" (ByT5's), the path of a SentencePiece model, to which T5's 100 sentinels are added
        where it doesn't have them itself (as mT5's), or a checkpoint's folder with such a model as
        `spiece.model`, or with the settings of ByT5's tokenizer.

    Raises:
      FileNotFoundError: no such file; names the setting VOCABULARY_PATH.
      ValueError: a file that is no SentencePiece model.
    """
    if path == "mini":
        return seqio.SentencePieceVocabulary(str(_MINI), extra_ids=0)
    if path == "bytes":
        return seqio.ByteVocabulary()
    if epath.Path(path).is_dir():
        return load(_in_folder(epath.Path(path)))
    if not epath.Path(path).is_file():
        raise FileNotFoundError(
            f"VOCABULARY_PATH is {path!r}, but there is no such file. Write VOCABULARY_PATH = "
            "'mini' (shipped with the package), 'bytes' (UTF-8 bytes), or the path of a "
            "SentencePiece model or of a checkpoint's folder with a spiece.model."
        )
    plain = seqio.SentencePieceVocabulary(path, extra_ids=0)
    try:
        plain.encode("")
    except Exception as error:  # SentencePiece's own, of several kinds
        raise ValueError(
            f"VOCABULARY_PATH = {path!r} is no SentencePiece model ({_first_line(error)}): name a "
            "file such as T5's spiece.model"
        ) from error
    pieces = plain.tokenizer
    if pieces.piece_to_id(_SENTINEL) != pieces.unk_id():
        return plain
    return seqio.SentencePieceVocabulary(path, extra_ids=100)


def _in_folder(folder: epath.Path) -> str:
    """What `load` takes for a checkpoint's own vocabulary."""
    if (folder / "spiece.model").is_file():
        return str(folder / "spiece.model")
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and "ByT5Tokenizer" in settings.read_text(encoding="utf-8"):
        return "bytes"
    raise FileNotFoundError(
        f"VOCABULARY_PATH is the folder {str(folder)!r}, which holds no spiece.model, and no "
        "tokenizer_config.json of ByT5: get the checkpoint's spiece.model, or name its file"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def size(path: str = "mini") -> int:
    """Returns the number of ids, padded up to a multiple of 128 as T5's embeddings are."""
    return -(-load(path).vocab_size // 128) * 128
