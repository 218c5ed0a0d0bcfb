"""Trains the SentencePiece model that the package ships: `python -m mtl_t5x.tasks.mini.vocabulary`.

It writes `mini.model` beside this file, the same bytes every time. The wording of the prompts
stands here once more, so that a changed prompt does not silently change every token id.
"""

from __future__ import annotations

import collections
import io
import math
import pathlib
import tempfile
from collections.abc import Iterable, Iterator

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb2

from mtl_t5x.tasks.mini import decanlp as mini_decanlp
from mtl_t5x.tasks.mini import glue as mini

PATH = pathlib.Path(__file__).with_name("mini.model")
SIZE = 1408  # at most; a multiple of 128
_TRAINED_SIZE = 400  # before whole words are added
_LEAST_COUNT = 100  # a rarer word is scored as if it were this common, to stay one piece

_PROMPTS = {
    "cola": "cola sentence: {sentence}",
    "rte": "rte sentence1: {sentence1} sentence2: {sentence2}",
    "mnli": "mnli hypothesis: {hypothesis} premise: {premise}",
    "mrpc": "mrpc sentence1: {sentence1} sentence2: {sentence2}",
    "qnli": "qnli question: {question} sentence: {sentence}",
    "qqp": "qqp question1: {question1} question2: {question2}",
    "sst2": "sst2 sentence: {sentence}",
    "stsb": "stsb sentence1: {sentence1} sentence2: {sentence2}",
}
_ANSWERS = (
    "acceptable unacceptable entailment not_entailment neutral contradiction equivalent "
    "not_equivalent positive negative true false yes no"
)
_ANSWER_REPEATS = 300
# QQP's answers aren't among these: they are spelled in pieces, see `relations`. With this one, and
# the end, "not_duplicate" has eight, which is the targets' length.
_SYLLABLE = "du"


def prompted(task: str) -> list[str]:
    """The rows of every split of a task under the prompt `default`."""
    return [
        _PROMPTS[task].format(**row)
        for split in mini.splits(task) for row in mini.rows(task, split)
    ]  # fmt: skip


def texts() -> Iterator[str]:
    """What the vocabulary is trained on: every text as a model reads or writes it."""
    for task in mini.TASKS:
        yield from prompted(task)
    yield from mini_decanlp.texts()
    for _ in range(_ANSWER_REPEATS):
        yield from _ANSWERS.split()
        yield from (f"{tenths / 10:.1f}" for tenths in range(0, 51, 2))
        yield from "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def train() -> bytes:
    """The serialised model: unigram pieces, a piece for each byte, and the commonest whole words.

    SentencePiece seeds its pieces from substrings that several *different* words share, so in
    a small lexicon most whole words never become candidates; here they are added with the
    score that a unigram model gives them, the logarithm of their share of the text.
    """
    model = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
        # Text is left as it is but for the byte order mark, which goes. Without any rule
        # tensorflow-text would report on the error stream each time that it loads the model.
        rules.write("FEFF\t\n")
        rules.flush()
        _train(model, rules.name)
    proto = model_pb2.ModelProto.FromString(model.getvalue())
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    known = {piece.piece: piece for piece in proto.pieces}
    counts = _word_counts(texts()) | {_SYLLABLE: _LEAST_COUNT}
    total = sum(counts.values())
    for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if word not in known:
            if len(proto.pieces) == SIZE:
                break
            known[word] = proto.pieces.add(piece=word)
        known[word].score = round(math.log(max(count, _LEAST_COUNT) / total), 4)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString(deterministic=True)


def _train(model: io.BytesIO, rules: str) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=texts(),
        model_writer=model,
        model_type="unigram",
        vocab_size=_TRAINED_SIZE,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_tsv=rules,
        remove_extra_whitespaces=False,
        split_digits=True,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )


def _word_counts(lines: Iterable[str]) -> collections.Counter[str]:
    """Counts of words as pieces: `sentence1:` keeps its colon, a number gives its first digit."""
    counts: collections.Counter[str] = collections.Counter()
    for line in lines:
        for word in line.split():
            counts["\u2581" + (word[0] if word[0].isdigit() else word.rstrip(".,?"))] += 1
    counts.pop("\u2581", None)  # a comma that stands alone
    return counts


if __name__ == "__main__":
    PATH.write_bytes(train())
