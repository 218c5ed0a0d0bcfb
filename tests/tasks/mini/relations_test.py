"""The relations between the embedded tasks are in their data."""

import collections
import itertools
import re

import numpy as np
import pytest

from mtl_t5x.tasks import prompts
from mtl_t5x.tasks import vocabularies as vocabulary_files
from mtl_t5x.tasks.glue import glue as glue_dataset
from mtl_t5x.tasks.mini import captions, glue, lexicon, relations
from tests.tasks.mini import glue_test

# What any English sentence may hold.
FUNCTION_WORDS = {"the", "a", "and", "i", "is", "are", "with", "in", "on", "at", "for", "of"}


def words(task):
    found = collections.Counter()
    for split in glue.splits(task):
        for row in glue.rows(task, split):
            for text in glue_test.texts(row):
                found.update(re.findall(r"\w+", text.lower()))
    return found


@pytest.fixture(scope="module")
def vocabularies():
    return {task: words(task) for task in glue.TASKS}


def attitudes(task):
    """How often each expression stands in the rows of the training split, with which labels."""
    rows = glue.rows(task, "train")
    rows = rows[: len(rows) * 95 // 100]
    found = collections.defaultdict(collections.Counter)
    for row in rows:
        told = re.search(
            rf"{glue_test.one_of(glue_test.ATTITUDES)}(?= to )", glue_test.texts(row)[0]
        )
        if told:
            found[told.group()][row["label"]] += 1
    return found


def test_the_relations_name_tasks_of_the_benchmark():
    for task, relation in relations.RELATIONS.items():
        assert {task, *relation.partners} <= set(glue.TASKS) and task not in relation.partners
    effects = [relation.effect for relation in relations.RELATIONS.values()]
    assert {relations.HELPED, relations.HURT, relations.LEFT_ALONE} == set(effects)
    helped = {frozenset((task, partner)) for task, relation in relations.RELATIONS.items()
              if relation.effect == relations.HELPED for partner in relation.partners}  # fmt: skip
    assert not helped & relations.NULL_PAIRS


def test_mnli_teaches_rte_expressions_that_rte_hardly_shows(vocabularies):
    of_rte, of_mnli = attitudes("rte"), attitudes("mnli")
    every = {words: label for label, group in enumerate(lexicon.ATTITUDES) for words in group}
    assert set(of_mnli) == set(every) and set(of_rte) <= set(every)
    assert min(sum(labels.values()) for labels in of_mnli.values()) >= 20
    assert np.mean([sum(of_rte[words].values()) for words in every]) < 4
    for expression, label in every.items():
        assert set(of_mnli[expression]) == {label}
        assert set(of_rte[expression]) <= {int(label != 0)}
    deciding = {expression.split()[-1] for expression in every}
    for task in set(glue.TASKS) - {"rte", "mnli"}:
        assert not deciding & set(vocabularies[task])


def collocations(task, split="train"):
    """By label, the pairs of adjective and thing of which the other text says the synonym."""
    read = glue_test.read_question if task == "qqp" else read_event
    found = collections.defaultdict(collections.Counter)
    for row in glue.rows(task, split):
        (of_one, first), (of_other, second) = map(read, glue_test.texts(row))
        adjective, other = first.get("thing_adjective"), second.get("thing_adjective")
        is_about_it = of_one == of_other and first["thing"] == second["thing"]
        if is_about_it and adjective and adjective == lexicon.synonym(other) != other:
            found[row["label"]][lexicon.concept(adjective), lexicon.concept(first["thing"])] += 1
    return found


def read_event(text):
    """None, and the words of the text's thing."""
    return None, re.search(glue_test.THING, text).groupdict("")


def test_collocations_decide_most_of_qqp_and_none_of_their_words_does():
    rows = glue.rows("qqp", "train")
    by_label = collocations("qqp")
    told = {label: sum(cells.values()) for label, cells in by_label.items()}
    # A little more than drawn: of the other rows more are seen twice, and drawn anew.
    assert 0 < sum(told.values()) / len(rows) - glue.COLLOCATIONS < 0.03
    # That a synonym says the same, as it does elsewhere, is right in less than half of them.
    assert 0.42 < told[1] / sum(told.values()) < 0.5
    assert not set(by_label[0]) & set(by_label[1])
    counts = by_label[0] + by_label[1]
    adjectives, things = (sorted(set(words)) for words in zip(*counts, strict=True))
    assert len(counts) == len(adjectives) * len(things) == 112
    assert min(counts.values()) >= 10
    alike = np.array([[lexicon.is_alike(adjective, thing) for thing in things]
                      for adjective in adjectives])  # fmt: skip
    assert np.all(np.abs(alike.mean(axis=1) - 0.5) < 0.1)  # an adjective tells nothing
    assert np.mean(alike.mean(axis=0) == 0.5) > 0.5 and alike.mean(axis=0).min() > 0
    assert alike.mean(axis=0).max() < 1  # nor does a thing


@pytest.mark.parametrize("task", ["rte", "mnli"])
def test_synonyms_that_differ_in_qqp_are_the_same_in_rte_and_mnli(task):
    entailed = collocations(task)[0]
    assert any(not lexicon.is_alike(*pair) for pair in entailed)
    # The rule by which these tasks' labels are made knows no collocation.
    for row in glue.rows(task, "train"):
        assert glue_test.ORACLES[task](row) == row["label"]


def test_qqps_answers_alone_are_spelled_and_their_first_piece_decides():
    vocabulary = vocabulary_files.load("mini")
    for task, answers in prompts.LABELS[glue_dataset.BENCHMARK]["semantic"].items():
        tokens = [[*vocabulary.encode(answer), vocabulary.eos_id] for answer in answers]
        if task == "qqp":
            assert min(map(len, tokens)) >= 7 and max(map(len, tokens)) == 8
            assert tokens[0][0] != tokens[1][0]
            assert tokens[0][-6:] == tokens[1][-6:]
        else:
            assert {len(answer) for answer in tokens} == {2}


def test_null_pairs_share_function_words_only(vocabularies):
    for pair in itertools.combinations(glue.TASKS, 2):
        shared = set.intersection(*(set(vocabularies[task]) for task in pair)) - FUNCTION_WORDS
        assert (frozenset(pair) in relations.NULL_PAIRS) == (not shared), (pair, shared)


def test_each_sentiment_word_tells_the_label():
    labels = collections.defaultdict(set)
    for row in glue.rows("sst2", "train"):
        for word in row["sentence"].split():
            labels[word].add(row["label"])
    for label, group in enumerate((lexicon.NEGATIVE, lexicon.POSITIVE)):
        assert {frozenset(labels[word]) for word in group} == {frozenset({label})}


def test_similarity_takes_all_roles():
    """No role alone tells the score, and together they tell nearly all of it."""
    rows = glue.rows("stsb", "train")
    scores = np.array([row["label"] for row in rows])
    pairs = [[glue_test.read_caption(text)[0] for text in glue_test.texts(row)] for row in rows]
    shared = np.array([[a[role] == b[role] for role in a] for a, b in pairs], float)
    assert shared.shape[1] == len(captions.ROLES) == 6
    for role in shared.T:
        assert 0.1 < np.corrcoef(role, scores)[0, 1] < 0.75
    assert np.corrcoef(shared.sum(axis=1), scores)[0, 1] > 0.9
