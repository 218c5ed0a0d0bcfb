"""DecaNLP's rows: how each task reads as a context, a question and an answer.

A row has the fields `context, question, answer`, all texts; `answers`, every answer that counts
as right; `answer_start`, the character offset of `answer` in `context`, or -1 where the answer is
not (known to be) a span of it; and what the task's metric and prompts need besides. The texts are
those of the decaNLP project (McCann et al. 2018, arXiv 1806.08730) except where a function says
otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from mtl_t5x.tasks.decanlp import wikisql as decanlp_wikisql
from mtl_t5x.tasks.decanlp import woz as decanlp_woz
from mtl_t5x.tasks.decanlp.metrics import UNANSWERABLE
from mtl_t5x.tasks.sources import Row

NLI_LABELS = ("entailment", "neutral", "contradiction")
SENTIMENTS = ("negative", "positive")


def find(context: str, answer: str) -> int:
    """Returns where `answer` first stands in `context`, as whole words if it does; else -1."""
    if not answer:
        return -1
    whole = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", context)
    return whole.start() if whole else context.find(answer)


def _row(
    context: str, question: str, answers: Sequence[str], answer_start: int = -1, **more: Any
) -> Row:
    return {
        "context": context,
        "question": question,
        "answer": answers[0],
        "answers": list(answers),
        "answer_start": answer_start,
        **more,
    }


def squad(context: str, question: str, answers: Sequence[str], starts: Sequence[int]) -> Row:
    """A question about a paragraph; the first answer is the target.

    An offset that does not lead to its answer is replaced by where the answer first stands.
    """
    start = starts[0]
    if start < 0 or not context.startswith(answers[0], start):
        start = find(context, answers[0])
    return _row(context, " ".join(question.split()), answers, start)


# What the code of Mueller et al. (2022) takes out of SQuAD's texts.
_BLANKED = str.maketrans(dict.fromkeys('(){}-._,–"', " "))


def blanked(row: Row) -> Row:
    """A row of `squad` with a space in place of much punctuation; offsets stay what they are.

    Answers lose the space around them, which no vocabulary of T5's sees.
    """
    start = row["answer_start"]
    answers = [answer.translate(_BLANKED) for answer in row["answers"]]
    if start >= 0:
        start += len(answers[0]) - len(answers[0].lstrip())
    answers = [answer.strip() for answer in answers]
    return row | {
        "context": row["context"].translate(_BLANKED),
        "question": row["question"].translate(_BLANKED),
        "answer": answers[0],
        "answers": answers,
        "answer_start": start,
    }


def iwslt(source: str, target: str) -> Row:
    """An English sentence and its German translation."""
    return _row(source, "Translate from English to German", [target])


def summary(article: str, highlights: str, question: str = "What is the summary?") -> Row:
    """A news article and its summary."""
    return _row(article, question, [highlights])


def multinli(premise: str, hypothesis: str, label: int) -> Row:
    """A pair of sentences; `label` is an index into `NLI_LABELS`."""
    return _row(
        f'Premise: "{premise}"',
        f'Hypothesis: "{hypothesis}" -- entailment, neutral, or contradiction?',
        [NLI_LABELS[label]],
        premise=premise,
        hypothesis=hypothesis,
        label=label,
    )


def sst(sentence: str, label: int) -> Row:
    """A sentence of a film review; `label` is an index into `SENTIMENTS`."""
    question = "Is this review negative or positive?"
    return _row(sentence, question, [SENTIMENTS[label]], label=label)


def srl(sentence: str, question: str, answers: Sequence[str]) -> Row:
    """A question about a verb's role; the first answer is the target.

    The sentence stays tokenised as its file has it, but with plain quotation marks, as T5's
    vocabulary lacks ``; decaNLP leaves them out and glues the tokens together.
    """
    sentence, *answers = (_plain_quotes(text) for text in (sentence, *answers))
    return _row(sentence, question, answers, find(sentence, answers[0]))


def _plain_quotes(text: str) -> str:
    return text.replace("``", '"').replace("''", '"')


def zre(sentence: str, question: str, answers: Sequence[str]) -> Row:
    """A question for a relation's other end; without answers it is `unanswerable`.

    Several answers are one target, joined by commas; its words are what is scored. `answerable`
    is 1 or 0.
    """
    answer = ", ".join(answers) or UNANSWERABLE
    start = find(sentence, answer) if answers else -1
    return _row(sentence, question, [answer], start, answerable=int(bool(answers)))


def schema(context: str, question: str, candidates: Sequence[str], index: int) -> Row:
    """A Winograd schema: which of two candidates is meant."""
    answer = candidates[index]
    full_question = f"{question} {candidates[0]} or {candidates[1]}?"
    return _row(context, full_question, [answer], find(context, answer))


def wikisql(header: Sequence[str], question: str, query: decanlp_wikisql.Query) -> Row:
    """A question over a table, and the SQL that answers it.

    `query` is the logical form with the header as JSON, which is what is scored. As with
    decaNLP's option `query_as_question`, the question is the row's question.
    """
    columns = ", ".join(header)
    return _row(
        f"The table has columns {columns} and key words {decanlp_wikisql.KEY_WORDS}",
        " ".join(question.split()),
        [decanlp_wikisql.to_text(query, header)],
        columns=columns,
        query=decanlp_wikisql.to_json(query, header),
    )


def woz(
    acts: Sequence[str | Sequence[str]],
    transcript: str,
    change: decanlp_woz.Change,
    dialogue: int,
    turn: int,
) -> Row:
    """A user's turn, after what the system did, and the change of the dialogue's state.

    `dialogue` numbers the dialogues of a split and `turn` the turns of a dialogue.
    """
    done = ", ".join(act if isinstance(act, str) else ": ".join(act) for act in acts)
    context = " ".join((f"{done} -- {transcript}" if done else transcript).split())
    answer = decanlp_woz.to_text(change)
    return _row(context, "What is the change in state?", [answer], dialogue=dialogue, turn=turn)
