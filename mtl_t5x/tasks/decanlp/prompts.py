"""DecaNLP's prompts `null` and `default`, and its three sets of labels."""

from __future__ import annotations

import itertools
import string

from mtl_t5x.tasks.decanlp.rows import NLI_LABELS, SENTIMENTS
from mtl_t5x.tasks.prompts import add_labels, add_prompt

BENCHMARK = "decanlp"
TASKS = (
    "squad", "iwslt", "cnn_dailymail", "multinli", "sst", "srl", "zre", "schema", "wikisql", "woz",
)  # fmt: skip

# DecaNLP's own question is the prompt.
add_prompt("null", dict.fromkeys(TASKS, "{question} {context}"), BENCHMARK)

# T5's wording where it had the task (Raffel et al. 2020, appendix D), and its manner elsewhere;
# SQuAD's has the task's name in front, as there are more question tasks here.
add_prompt(
    "default",
    {
        "squad": "squad question: {question} context: {context}",
        "iwslt": "translate English to German: {context}",
        "cnn_dailymail": "summarize: {context}",
        "multinli": "mnli hypothesis: {hypothesis} premise: {premise}",
        "sst": "sst2 sentence: {context}",
        "srl": "srl question: {question} sentence: {context}",
        "zre": "zre question: {question} sentence: {context}",
        "schema": "schema question: {question} sentence: {context}",
        "wikisql": "wikisql question: {question} columns: {columns}",
        "woz": "woz turn: {context}",
    },
    BENCHMARK,
)

_WORDS = {"multinli": NLI_LABELS, "sst": SENTIMENTS}
_ALPHABET = iter(string.ascii_uppercase)

add_labels("semantic", _WORDS, BENCHMARK)
add_labels(
    "shared_letters", {task: "ABC"[: len(words)] for task, words in _WORDS.items()}, BENCHMARK
)
add_labels(
    "distinct_letters",
    {task: tuple(itertools.islice(_ALPHABET, len(words))) for task, words in _WORDS.items()},
    BENCHMARK,
)
