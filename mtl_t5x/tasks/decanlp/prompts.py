"""DecaNLP's prompts `null` and `default`, and its three sets of labels."""

from __future__ import annotations

from mtl_t5x.tasks.decanlp.rows import NLI_LABELS, SENTIMENTS
from mtl_t5x.tasks.prompts import add_labels, add_prompt, normal

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

# The paper's prompts, the context first: those of its canonical models, which are `null` here, and
# those of its text-to-text models, in which MultiNLI's premise is called context and its hypothesis
# premise. WikiSQL's question is part of the context. WOZ, which the paper leaves out, is prompted
# in the same manner.
_QUESTION_TASKS = dict.fromkeys(("squad", "srl", "zre", "schema"), "{context} {question}")
PRESETS = {
    "default": {},
    "paper": {
        "null": normal(
            {
                **_QUESTION_TASKS,
                "iwslt": "{context}",
                "cnn_dailymail": "{context}",
                "multinli": "{premise} {hypothesis}",
                "sst": "{context}",
                "wikisql": "{context}-- {question}",
                "woz": "{context}",
            }
        ),
        "default": normal(
            {
                **_QUESTION_TASKS,
                "iwslt": "{context} Translate from English to German",
                "cnn_dailymail": "{context} What is the summary?",
                "multinli": "Context: {premise} Premise: {hypothesis} -- entailment, neutral, or "
                "contradiction?",
                "sst": "{context} Is this review negative or positive?",
                "wikisql": "{context}-- {question} What is the translation from English to SQL?",
                "woz": "{context} {question}",
            }
        ),
    },
}

_WORDS = {"multinli": NLI_LABELS, "sst": SENTIMENTS}

add_labels("semantic", _WORDS, BENCHMARK)
# GLUE's letters; the paper has none for DecaNLP.
add_labels("shared_letters", {"multinli": ("z", "x", "y"), "sst": ("z", "y")}, BENCHMARK)
add_labels("distinct_letters", {"multinli": ("z", "y", "x"), "sst": ("w", "v")}, BENCHMARK)
