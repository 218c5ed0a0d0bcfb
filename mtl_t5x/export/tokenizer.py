"""The files of a tokenizer of transformers, and of its generation, for a SeqIO vocabulary."""

from __future__ import annotations

import json

import seqio
from etils import epath

from mtl_t5x.settings import checks

SPIECE = "spiece.model"


def check(vocabulary: seqio.Vocabulary) -> checks.Fault:
    """Whether transformers has a tokenizer for it."""
    if isinstance(vocabulary, seqio.SentencePieceVocabulary | seqio.ByteVocabulary):
        return None
    return (
        f"the tasks' vocabulary is a {type(vocabulary).__name__}, and transformers has tokenizers "
        "of T5 for a SentencePieceVocabulary and a ByteVocabulary: --layout=t5x needs none"
    )


def falls_back_to_bytes(vocabulary: seqio.Vocabulary) -> bool:
    """Whether characters that no piece has are written as bytes, which T5's tokenizer of
    transformers doesn't do."""
    return isinstance(vocabulary, seqio.SentencePieceVocabulary) and any(
        vocabulary.tokenizer.IsByte(i) for i in range(vocabulary.tokenizer.GetPieceSize())
    )


def write(folder: epath.Path, vocabulary: seqio.Vocabulary, rows: int, longest: int) -> None:
    """Writes the tokenizer's files and the settings of generation.

    Args:
      folder: is there.
      vocabulary: of the tasks.
      rows: of the embedding.
      longest: answer, in tokens.
    """
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    if isinstance(vocabulary, seqio.ByteVocabulary):
        # The bytes, and after them what rows there are.
        extra = rows - seqio.ByteVocabulary().vocab_size
        settings = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": extra, **special}
    else:
        model = epath.Path(vocabulary.sentencepiece_model_file)
        (folder / SPIECE).write_bytes(model.read_bytes())
        extra = vocabulary.extra_ids
        settings = {"tokenizer_class": "T5Tokenizer", "extra_ids": extra, **special}
    generation = {
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "max_new_tokens": longest,
    }
    for name, content in (("tokenizer_config", settings), ("generation_config", generation)):
        text = json.dumps(content, indent=2) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
