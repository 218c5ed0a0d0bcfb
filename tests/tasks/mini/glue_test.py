"""The embedded benchmark against oracles that read each label off the text alone."""

import collections
import json
import re
import zlib

import numpy as np
import pytest
import scipy.sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from mtl_t5x.tasks.mini import glue as mini
from mtl_t5x.tasks.mini import lexicon

EVERY_SPLIT = [(task, split) for task in mini.TASKS for split in mini.splits(task)]
PAIR_TASKS = ("rte", "mnli", "mrpc", "qnli", "qqp")


def texts(row):
    return [value for value in row.values() if isinstance(value, str)]


def one_of(words):
    return "(?:" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + ")"


PEOPLE = [word for topic in lexicon.TOPICS for word in topic.people]
THINGS = [word for topic in lexicon.TOPICS for word in topic.things]
VERBS = {form: verb for topic in lexicon.TOPICS for verb in topic.verbs
         for form in (verb, lexicon.past(verb))}  # fmt: skip
PLACES = [word for topic in lexicon.TOPICS for word in topic.places]
SUBJECT = (
    rf"(?:[Tt]he (?:(?P<subject_adjective>{one_of(lexicon.PERSON_ADJECTIVES)}) )?"
    rf"(?P<person>{one_of(PEOPLE)})|(?P<name>{one_of((*lexicon.NAMES, 'Somebody', 'Nobody'))}))"
)
THING = (
    rf"[Tt]he (?:(?P<thing_adjective>{one_of(lexicon.THING_ADJECTIVES)}) )?"
    rf"(?P<thing>{one_of(THINGS)})"
)
ADJUNCTS = (
    rf"(?: (?P<manner>{one_of(lexicon.MANNERS)}))?(?: in the (?P<place>{one_of(PLACES)}))?"
    rf"(?: (?P<time>{one_of(lexicon.TIMES)}))?(?: (?P<reason>{one_of(lexicon.REASONS)}))?"
)
VERB = rf"(?P<verb>{one_of(VERBS)})"
ATTITUDES = {words: label for label, group in enumerate(lexicon.ATTITUDES) for words in group}
EVENT = [
    rf"{SUBJECT} (?P<attitude>{one_of(ATTITUDES)}) to {VERB} {THING}{ADJUNCTS}\.",
    rf"{SUBJECT} (?:(?P<negation>did not|never) )?{VERB} {THING}{ADJUNCTS}\.",
    rf"{THING} was (?:(?P<negation>not|never) )?{VERB}(?: by {SUBJECT})?{ADJUNCTS}\.",
]
QUESTION = [
    rf"(?P<asked>Who) {VERB} {THING}\?",
    rf"(?P<asked>Where|When|Why) did {SUBJECT} {VERB} {THING}\?",
]
MODIFIERS = ("subject_adjective", "thing_adjective", "manner", "place", "time", "reason")


def read(text, patterns=EVENT):
    """The text's roles as concepts; absent ones are missing."""
    found = next(filter(None, (re.fullmatch(pattern, text) for pattern in patterns)), None)
    assert found, text
    roles = {role: word for role, word in found.groupdict().items() if word}
    for role in ("person", "name"):
        if role in roles:
            roles["subject"] = roles.pop(role)
    roles["verb"] = VERBS[roles["verb"]]
    if roles.pop("negation", None):
        roles["negation"] = "not"
    return {role: lexicon.concept(word) for role, word in roles.items()}


def is_entailed(premise, hypothesis):
    if premise.get("negation"):  # of what did not happen slowly, something may have happened
        return premise == hypothesis
    hypothesis = {role: word for role, word in hypothesis.items() if word != "Somebody"}
    return hypothesis.items() <= premise.items()


def nli_label(premise, hypothesis):
    if attitude := premise.pop("attitude", None):  # whether what the hypothesis says was done
        assert is_entailed(premise, hypothesis)
        return ATTITUDES[attitude]
    if is_entailed(premise, hypothesis):
        return 0
    core = {role for role in ("subject", "verb", "thing") if hypothesis[role] != "Nobody"}
    shared = [role for role in MODIFIERS if role in premise and role in hypothesis]
    is_same = all(premise[role] == hypothesis[role] for role in core)
    is_denied = (
        hypothesis["subject"] == "Nobody"
        or premise.get("negation") != hypothesis.get("negation")
        or any(premise[role] != hypothesis[role] for role in shared)
    )
    return 2 if is_same and is_denied else 1


def mnli_oracle(row):
    premise = re.sub("^(Well, |You know, |I heard that |Yes, )", "", row["premise"])
    return nli_label(read(premise), read(row["hypothesis"]))


def rte_oracle(row):
    return int(nli_label(read(row["sentence1"]), read(row["sentence2"])) != 0)


def mrpc_oracle(row):
    return int(read(row["sentence1"]) == read(row["sentence2"]))


def qnli_oracle(row):
    question, answer = read(row["question"], QUESTION), read(row["sentence"])
    role = {"Who": "subject", "Where": "place", "When": "time", "Why": "reason"}[
        question.pop("asked")
    ]
    return int(not (role in answer and question.items() <= answer.items()))


INTENTS = {
    "how": "How can I (.*)|What is the best way to (.*)",
    "where": "Where can I (.*)|What is a good place to (.*)",
    "when": "When should I (.*)|What is the right time to (.*)",
    "why": "Why do people (.*)|What is the reason to (.*)",
    "who": "Who can (.*) for me|Which person should (.*)",
    "cost": "How much does it cost to (.*)|What is the price to (.*)",
}


ASKED = (
    rf"(?P<verb>{one_of(VERBS)}) "
    rf"the (?:(?P<thing_adjective>{one_of(lexicon.THING_ADJECTIVES)}) )?(?P<thing>{one_of(THINGS)})"
)


def read_question(text):
    """What kind of question it is, and the roles that it asks about, as words."""
    [(intent, found)] = [
        (intent, found)
        for intent, pattern in INTENTS.items()
        if (found := re.fullmatch(f"(?:{pattern})" + r"\?", text))
    ]
    return intent, re.fullmatch(ASKED, found.group(1) or found.group(2)).groupdict("")


def qqp_oracle(row):
    (intent, first), (other, second) = map(read_question, texts(row))
    adjective = first["thing_adjective"]
    if intent != other or any(
        lexicon.concept(word) != lexicon.concept(second[role]) for role, word in first.items()
    ):
        return 0
    is_same = adjective == second["thing_adjective"]
    return int(is_same or lexicon.is_alike(adjective, first["thing"]))


def captioned(role):
    return one_of(word for topic in lexicon.CAPTIONS for word in getattr(topic, role))


ING = {lexicon.progressive(verb): verb for topic in lexicon.CAPTIONS for verb in topic.verbs}
CAPTION = (
    rf"A (?P<kind>{captioned('person_adjectives')}) (?P<subject>{captioned('people')}) is "
    rf"(?P<verb>{one_of(ING)}) the (?P<colour>{captioned('thing_adjectives')}) "
    rf"(?P<thing>{captioned('things')}) in the (?P<place>{captioned('places')})\."
)


def read_caption(text):
    """The caption's roles, and the topic of its thing."""
    roles = re.fullmatch(CAPTION, text).groupdict()
    roles["verb"] = ING[roles["verb"]]
    [name] = [topic.name for topic in lexicon.CAPTIONS if roles["thing"] in topic.things]
    return roles, name


def stsb_oracle(row):
    (first, topic), (second, other_topic) = map(read_caption, texts(row))
    score = 0.8 * (topic == other_topic)
    for role, word in first.items():
        if word == second[role]:
            score += 0.7
        elif lexicon.concept(word) == lexicon.concept(second[role]):
            score += 0.5
    return round(score, 1)


def sst2_oracle(row):
    words = row["sentence"].split()
    good = sum(word in (*lexicon.POSITIVE, *lexicon.POSITIVE_VERBS) for word in words)
    bad = sum(word in (*lexicon.NEGATIVE, *lexicon.NEGATIVE_VERBS) for word in words)
    assert good + bad >= 3 and not (good and bad)
    return int(good > 0)


def cola_oracle(row):
    """A regular grammar: agreement, word order and the forms after do, does and did."""
    adjective = one_of(lexicon.PERSON_ADJECTIVES)
    bases = [verb for topic in lexicon.TOPICS for verb in topic.verbs]
    past = one_of(map(lexicon.past, bases))
    base, third = one_of(bases), one_of(map(lexicon.third_person, bases))
    one = rf"{one_of(PEOPLE)} (?:{third}|{past}|(?:does|did) not {base})"
    many = rf"{one_of(map(lexicon.plural, PEOPLE))} (?:{base}|{past}|(?:do|did) not {base})"
    thing = rf"the (?:{one_of(lexicon.THING_ADJECTIVES)} )?{one_of(THINGS)}"
    place = rf"(?: in the {one_of(PLACES)})?"
    sentence = rf"The (?:{adjective} )?(?:{one}|{many}) {thing}{place}\."
    return int(bool(re.fullmatch(sentence, row["sentence"])))


ORACLES = {
    "cola": cola_oracle, "rte": rte_oracle, "mnli": mnli_oracle, "mrpc": mrpc_oracle,
    "qnli": qnli_oracle, "qqp": qqp_oracle, "sst2": sst2_oracle, "stsb": stsb_oracle,
}  # fmt: skip


@pytest.mark.parametrize(("task", "split"), EVERY_SPLIT)
def test_every_label_follows_from_the_text(task, split):
    for row in mini.rows(task, split):
        assert ORACLES[task](row) == row["label"], row


FIELDS = {
    "cola": ["sentence"], "sst2": ["sentence"], "rte": ["sentence1", "sentence2"],
    "mrpc": ["sentence1", "sentence2"], "stsb": ["sentence1", "sentence2"],
    "mnli": ["premise", "hypothesis"], "qnli": ["question", "sentence"],
    "qqp": ["question1", "question2"],
}  # fmt: skip


@pytest.mark.parametrize("task", mini.TASKS)
def test_rows_have_the_official_fields_and_sizes(task):
    for split in mini.splits(task):
        rows = mini.rows(task, split)
        assert len(rows) == (mini.TRAIN_ROWS[task] if split == "train" else 1000)
        assert [row["idx"] for row in rows] == list(range(len(rows)))
        for row in rows:
            assert sorted(row) == sorted([*FIELDS[task], "label", "idx"])
            assert isinstance(row["label"], float if task == "stsb" else int)


@pytest.mark.parametrize("task", mini.TASKS)
def test_no_input_occurs_twice(task):
    seen = collections.Counter(
        frozenset(texts(row)) for split in mini.splits(task) for row in mini.rows(task, split)
    )
    assert max(seen.values()) == 1


@pytest.mark.parametrize(("task", "split"), EVERY_SPLIT)
def test_classes_are_nearly_balanced(task, split):
    labels = [row["label"] for row in mini.rows(task, split)]
    share = max(collections.Counter(labels).values()) / len(labels)
    if task == "stsb":
        assert share < 0.25
        assert min(labels) == 0.0 and max(labels) >= 4.8 and np.std(labels) > 1.1
    else:
        assert share <= {"cola": 0.6, "mrpc": 0.55, "qqp": 0.55, "mnli": 0.34}.get(task, 0.5)


def test_the_rows_are_the_same_on_every_machine():
    text = json.dumps([mini.rows(task, split) for task, split in EVERY_SPLIT], sort_keys=True)
    assert zlib.crc32(text.encode()) == 2937985415
    assert mini.rows("rte", "train", seed=1) != mini.rows("rte", "train")


def test_a_caller_can_not_change_the_rows():
    mini.rows("cola", "train")[0]["label"] = 7
    assert mini.rows("cola", "train")[0]["label"] in (0, 1)


@pytest.mark.parametrize("task", PAIR_TASKS)
def test_words_and_lengths_alone_do_not_tell_the_label_of_a_pair(task):
    train, test = (
        # But for the expressions that decide by themselves.
        [row for row in mini.rows(task, split) if not re.search(one_of(ATTITUDES), texts(row)[0])]
        for split in mini.splits(task)[:2]
    )

    def features(rows, vectorizer):
        words = [[f"{i}_{word}" for i, text in enumerate(texts(row)) for word in text.split()]
                 for row in rows]  # fmt: skip
        lengths = [[len(text.split()) for text in texts(row)] for row in rows]
        return scipy.sparse.hstack([vectorizer(words), lengths])

    vectorizer = CountVectorizer(analyzer=list)
    x, y = features(train, vectorizer.fit_transform), [row["label"] for row in train]
    model = LogisticRegression(C=0.3, max_iter=300).fit(x, y)
    right = model.predict(features(test, vectorizer.transform)) == [row["label"] for row in test]
    assert right.mean() < 0.72


def test_synonyms_and_opposites_stay_apart():
    for word in (*lexicon.PERSON_ADJECTIVES, *lexicon.THING_ADJECTIVES, *lexicon.MANNERS):
        assert lexicon.concept(lexicon.opposite(word)) != lexicon.concept(word)
        assert lexicon.opposite(lexicon.opposite(word)) == lexicon.concept(word)
        assert lexicon.synonym(lexicon.synonym(word)) == word


def test_an_unknown_task_or_split_is_an_error():
    with pytest.raises(ValueError, match="no task 'sst'.*sst2"):
        mini.rows("sst", "train")
    with pytest.raises(ValueError, match="mnli has no split 'validation'.*validation_matched"):
        mini.rows("mnli", "validation")
