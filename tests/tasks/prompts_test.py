"""Prompts and label vocabularies: what ships, what may be added, and what is refused."""

import copy

import pytest
import seqio

from mtl_t5x.data import lookup
from mtl_t5x.tasks import prompts
from mtl_t5x.tasks.glue import glue
from mtl_t5x.tasks.prompts import Template

GLUE = prompts.PROMPTS["glue"]
LABELS = prompts.LABELS["glue"]
CLASSIFIED = [name for name, task in glue.TASKS.items() if task.values and not task.official]


@pytest.fixture
def additions(monkeypatch):
    """Lets a test add prompts and label vocabularies, and takes them out again."""
    monkeypatch.setattr(prompts, "PROMPTS", copy.deepcopy(prompts.PROMPTS))
    monkeypatch.setattr(prompts, "LABELS", copy.deepcopy(prompts.LABELS))
    yield
    monkeypatch.undo()
    glue.register()


def test_shipped_names():
    assert list(GLUE) == ["null", "default", "diverse"]
    assert list(LABELS) == ["semantic", "shared_letters", "distinct_letters"]
    official = {name for name, task in glue.TASKS.items() if not task.official}
    for by_task in GLUE.values():
        assert set(by_task) == official
    for by_task in LABELS.values():
        assert set(by_task) == set(CLASSIFIED)


def test_null_is_the_bare_sentences():
    for name, (template,) in GLUE["null"].items():
        bare = template.text.replace("{", "").replace("}", "").split()
        assert sorted(bare) == sorted(glue.TASKS[name].columns)


def test_letters():
    joined = {
        name: {task: "".join(words) for task, words in LABELS[name].items()} for name in LABELS
    }
    assert joined["shared_letters"] == dict.fromkeys(CLASSIFIED, "zy") | {"mnli": "zxy"}
    assert joined["distinct_letters"] == {
        "cola": "zy", "rte": "wv", "mnli": "uts", "mrpc": "rq", "qnli": "po", "qqp": "nm",
        "sst2": "lk",
    }  # fmt: skip
    # Contradiction, and not neutral, shares its letter with "not".
    shared, words = LABELS["shared_letters"], LABELS["semantic"]
    letter = dict(zip(words["mnli"], shared["mnli"], strict=True))
    assert letter["contradiction"] == shared["rte"][words["rte"].index("not_entailment")]


@pytest.mark.parametrize("name", list(GLUE["diverse"]))
def test_diverse_templates(name):
    templates = GLUE["diverse"][name]
    assert len({template.text for template in templates}) >= 5
    for template in templates:
        for field in glue.TASKS[name].columns:
            assert f"{{{field}}}" in template.text
        if glue.TASKS[name].values:
            assert len(set(template.answers)) == len(glue.TASKS[name].values)
            # Within 16 targets even in bytes, EOS included.
            assert all(len(answer.encode()) < 16 for answer in template.answers)
    if glue.TASKS[name].values:
        assert any(template.turned for template in templates)
        assert not templates[0].turned
        assert len({template.answers for template in templates}) >= 3
    fields = list(glue.TASKS[name].columns)
    if len(fields) == 2:
        first, second = (f"{{{field}}}" for field in fields)
        orders = {t.text.index(first) < t.text.index(second) for t in templates}
        assert orders == {True, False}


def test_letters_follow_a_turned_question():
    templates = (
        Template("Is it good? {a}", ("no", "yes")),
        Template("Is it bad? {a}", ("yes", "no"), turned=True),
    )
    # "no" stays A and "yes" stays B, whichever class they mean.
    assert prompts.answers(templates, "letters", ("A", "B")) == (("A", "B"), ("B", "A"))
    assert prompts.answers(templates, "semantic", ("bad", "good")) == (("no", "yes"), ("yes", "no"))
    plain = (Template("{a}"),)
    assert prompts.answers(plain, "semantic", ("bad", "good")) == (("bad", "good"),)


def test_a_user_adds_a_prompt_and_labels(additions):
    prompts.add_prompt("mine", {
        "cola": ["Good English? {sentence}", Template("Bad English? {sentence}", turned=True)],
        "stsb": "Alike? {sentence1} / {sentence2}",
        "mnli": "{{So}} {premise} => {hypothesis}",
    })  # fmt: skip
    prompts.add_labels("digits", {"cola": ("0", "1"), "mnli": ("0", "1", "2")})
    glue.register()

    names = {"glue_cola", "glue_stsb", "glue_mnli", "glue_mnli_mismatched"}
    mixture = lookup.find("glue.mine.digits")
    assert {task.name for task in mixture.tasks} == {f"{name}.mine.digits" for name in names}
    assert lookup.find("glue.default.digits").name == "glue.default.digits"
    example = next(
        seqio.get_mixture_or_task("glue_mnli.mine.digits")
        .get_dataset(None, "test", shuffle=False, try_in_mem_cache=False)
        .as_numpy_iterator()
    )
    assert example["inputs_pretokenized"].startswith(b"{So} ")
    assert example["targets_pretokenized"].decode() == str(example["label"])


def bad(prompt=None, labels=None):
    if prompt:
        prompts.add_prompt("mine", prompt)
    if labels:
        prompts.add_labels("mine", labels)
    glue.register()


@pytest.mark.parametrize(
    "prompt, labels, message",
    [
        (
            {"cola": "Good? {sentense}"},
            None,
            "Prompt 'mine' of glue, task 'cola': Unknown field 'sentense' in the template "
            r"'Good\? {sentense}'\. Did you mean 'sentence'\? Known: sentence\.",
        ),
        ({"cola": "Good? {}"}, None, "Unknown field ''"),
        ({"cola": "Good? {sentence"}, None, "task 'cola'.*unbalanced braces.*write {{ or }}"),
        ({"cola": []}, None, "Prompt 'mine' of glue, task 'cola': at least one template"),
        ({"colla": "{sentence}"}, None, "Unknown task 'colla' in prompt 'mine'.*mean 'cola'"),
        ({"cola": Template("{sentence}", ("a",))}, None, "2 different words are needed.*found 'a'"),
        ({"stsb": Template("{sentence1}", ("a",))}, None, "task 'stsb'.*has no classes"),
        ({"stsb": Template("{sentence1}", turned=True)}, None, "no template can be turned"),
        (
            None,
            {"mnli": ("a", "b")},
            "Label vocabulary 'mine' of glue, task 'mnli': 3 different words",
        ),
        (None, {"cola": ("a", "a")}, "2 different words are needed"),
        (None, {"cola": ("a ", "b")}, "without space around them"),
        (None, {"stsb": ("a", "b")}, "'stsb': the task has no classes"),
        (None, {"rtee": ("a", "b")}, "Unknown task 'rtee' in labels 'mine'.*mean 'rte'"),
    ],
)
def test_what_does_not_fit_is_refused(additions, prompt, labels, message):
    with pytest.raises(ValueError, match=message):
        bad(prompt, labels)
    # The tasks registered before stay.
    assert lookup.find("glue_cola.default.semantic")


def test_names_are_checked(additions):
    with pytest.raises(ValueError, match="prompt name 'my.own' may hold letters"):
        prompts.add_prompt("my.own", {"cola": "{sentence}"})
    with pytest.raises(ValueError, match="The prompt 'default' of glue exists"):
        prompts.add_prompt("default", {"cola": "{sentence}"})
    with pytest.raises(ValueError, match="The label vocabulary 'semantic' of glue exists"):
        prompts.add_labels("semantic", {"cola": ("no", "yes")})
    # The same again is no conflict: a module may be imported twice.
    for _ in range(2):
        prompts.add_prompt("again", {"cola": "{sentence}"})
