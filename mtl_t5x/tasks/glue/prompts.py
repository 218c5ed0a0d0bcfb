"""GLUE's prompts and label vocabularies: `null`, `default`, `diverse`, and three sets of labels."""

from __future__ import annotations

from mtl_t5x.tasks.prompts import Template, add_labels, add_prompt, normal

add_prompt(
    "null",
    {
        "cola": "{sentence}",
        "mnli": "{premise} {hypothesis}",
        "mrpc": "{sentence1} {sentence2}",
        "qnli": "{question} {sentence}",
        "qqp": "{question1} {question2}",
        "rte": "{sentence1} {sentence2}",
        "sst2": "{sentence}",
        "stsb": "{sentence1} {sentence2}",
    },
)

# T5's own wording, order and spacing (Raffel et al. 2020, appendix D).
add_prompt(
    "default",
    {
        "cola": "cola sentence: {sentence}",
        "mnli": "mnli hypothesis: {hypothesis} premise: {premise}",
        "mrpc": "mrpc sentence1: {sentence1} sentence2: {sentence2}",
        "qnli": "qnli question: {question} sentence: {sentence}",
        "qqp": "qqp question1: {question1} question2: {question2}",
        "rte": "rte sentence1: {sentence1} sentence2: {sentence2}",
        "sst2": "sst2 sentence: {sentence}",
        "stsb": "stsb sentence1: {sentence1} sentence2: {sentence2}",
    },
)

# What `default` is under each preset, where it isn't the above. The paper's is that of its code, to
# the letter: three spaces between the parts, and MNLI's two sentences in each other's place.
PRESETS = {
    "default": {},
    "paper": {
        "default": normal(
            {
                "cola": "cola sentence: {sentence}",
                "mnli": "mnli hypothesis: {premise}   premise: {hypothesis}",
                "mrpc": "mrpc sentence1: {sentence1}   sentence2: {sentence2}",
                "qnli": "qnli question: {question}   sentence: {sentence}",
                "qqp": "qqp question1: {question1}   question2: {question2}",
                "rte": "rte sentence1: {sentence1}   sentence2: {sentence2}",
                "sst2": "sst2 sentence: {sentence}",
                "stsb": "stsb sentence1: {sentence1}   sentence2: {sentence2}",
            }
        )
    },
}

# Answers by class index, short enough for 16 targets even in bytes.
add_prompt(
    "diverse",
    {
        "cola": (  # 0 unacceptable, 1 acceptable
            Template("Is this sentence grammatical English? {sentence}", ("no", "yes")),
            Template("{sentence} Does that break a rule of grammar?", ("yes", "no"), turned=True),
            Template("Would a native speaker say this? {sentence}", ("unlikely", "likely")),
            Template("Rate the grammar as good or bad: {sentence}", ("bad", "good")),
            Template("A proofreader reads: {sentence} Fix it or keep it?", ("fix", "keep")),
            Template(
                "Is there a mistake in the next line? {sentence}",
                ("mistake", "correct"),
                turned=True,
            ),
        ),
        "mnli": (  # 0 entailment, 1 neutral, 2 contradiction
            Template(
                "If it is true that {premise} must it be true that {hypothesis}",
                ("yes", "maybe", "no"),
            ),
            Template(
                "Claim: {hypothesis} Evidence: {premise} Is the claim refuted?",
                ("no", "maybe", "yes"),
                turned=True,
            ),
            Template(
                "{premise} Knowing this, someone adds: {hypothesis} Right, wrong or open?",
                ("right", "open", "wrong"),
            ),
            Template(
                "Source: {premise} Statement: {hypothesis} The source's verdict is",
                ("true", "unknown", "false"),
            ),
            Template(
                "How does the text disagree with the remark? Remark: {hypothesis} Text: {premise}",
                ("not at all", "perhaps", "fully"),
                turned=True,
            ),
        ),
        "mrpc": (  # 0 not equivalent, 1 equivalent
            Template(
                "Do both sentences say the same? First: {sentence1} Second: {sentence2}",
                ("no", "yes"),
            ),
            Template(
                "One report: {sentence2} Another: {sentence1} Do they differ in meaning?",
                ("yes", "no"),
                turned=True,
            ),
            Template(
                "{sentence1} In other words: {sentence2} Is the rewording fair?",
                ("unfair", "fair"),
            ),
            Template(
                "Original: {sentence2} Copy: {sentence1} Is the copy a paraphrase?",
                ("different", "paraphrase"),
            ),
            Template(
                "Would an editor drop one of these as a repeat? {sentence1} {sentence2}",
                ("keep both", "drop one"),
            ),
        ),
        "qnli": (  # 0 the sentence answers the question, 1 it does not
            Template(
                "Does the sentence answer the question? Question: {question} Sentence: {sentence}",
                ("yes", "no"),
            ),
            Template(
                "{sentence} After reading this, is it still open: {question}",
                ("closed", "open"),
                turned=True,
            ),
            Template(
                "A student asks: {question} The book says: {sentence} Is this a reply?",
                ("reply", "no reply"),
            ),
            Template(
                "Passage: {sentence} Can one work out from it: {question}",
                ("possible", "impossible"),
            ),
            Template(
                "Question: {question} Is the answer missing here? {sentence}",
                ("present", "missing"),
                turned=True,
            ),
        ),
        "qqp": (  # 0 not duplicate, 1 duplicate
            Template(
                "Do these questions ask the same? One: {question1} Two: {question2}",
                ("no", "yes"),
            ),
            Template(
                "Asked first: {question2} Asked later: {question1} Is the later one new?",
                ("new", "old"),
                turned=True,
            ),
            Template(
                "Could one answer serve both? {question1} {question2}",
                ("two needed", "one is enough"),
            ),
            Template(
                "A forum shows: {question2} A user writes: {question1} Should they be merged?",
                ("separate", "merge"),
            ),
            Template(
                "Is a different thing wanted here: {question1} than here: {question2}",
                ("different", "same"),
                turned=True,
            ),
        ),
        "rte": (  # 0 entailment, 1 not entailment
            Template(
                "{sentence1} Does it follow that {sentence2}",
                ("yes", "no"),
            ),
            Template(
                "Conclusion: {sentence2} Text: {sentence1} Does the conclusion go too far?",
                ("no", "yes"),
                turned=True,
            ),
            Template(
                "Can a reader of the text be sure? Text: {sentence1} Claim: {sentence2}",
                ("sure", "unsure"),
            ),
            Template(
                "Is this supported: {sentence2} by this: {sentence1}",
                ("supported", "unsupported"),
            ),
            Template(
                "Facts: {sentence1} Would it be a guess to say {sentence2}",
                ("certain", "a guess"),
                turned=True,
            ),
        ),
        "sst2": (  # 0 negative, 1 positive
            Template("Did the reviewer like the film? {sentence}", ("no", "yes")),
            Template("{sentence} Is the critic disappointed?", ("yes", "no"), turned=True),
            Template("Thumbs up or thumbs down? {sentence}", ("down", "up")),
            Template("A viewer wrote: {sentence} The viewer was", ("unhappy", "happy")),
            Template(
                "Would these words keep you away from the cinema? {sentence}",
                ("surely", "hardly"),
                turned=True,
            ),
        ),
        "stsb": (  # a number in every wording
            Template(
                "How alike in meaning are these, from 0 to 5? One: {sentence1} Two: {sentence2}"
            ),
            Template("Give 0 to 5 points for likeness. {sentence2} {sentence1}"),
            Template("{sentence1} On a scale of 0 to 5, how close is that to: {sentence2}"),
            Template(
                "5 means the same, 0 means unrelated. Left: {sentence2} Right: {sentence1} Score:"
            ),
            Template("Similarity of {sentence1} and {sentence2} as a number up to 5.0:"),
        ),
    },
)

_WORDS = {
    "cola": ("unacceptable", "acceptable"),
    "mnli": ("entailment", "neutral", "contradiction"),
    "mrpc": ("not_equivalent", "equivalent"),
    "qnli": ("entailment", "not_entailment"),
    "qqp": ("not_duplicate", "duplicate"),
    "rte": ("entailment", "not_entailment"),
    "sst2": ("negative", "positive"),
}

add_labels("semantic", _WORDS)
# The letters of Mueller et al. (2022). MNLI's contradiction, and not its neutral, shares the letter
# of the second of two classes, which is "not" in the tasks of entailment.
add_labels(
    "shared_letters",
    {
        "cola": ("z", "y"),
        "mnli": ("z", "x", "y"),
        "mrpc": ("z", "y"),
        "qnli": ("z", "y"),
        "qqp": ("z", "y"),
        "rte": ("z", "y"),
        "sst2": ("z", "y"),
    },
)
add_labels(
    "distinct_letters",
    {
        "cola": ("z", "y"),
        "mnli": ("u", "t", "s"),
        "mrpc": ("r", "q"),
        "qnli": ("p", "o"),
        "qqp": ("n", "m"),
        "rte": ("w", "v"),
        "sst2": ("l", "k"),
    },
)
