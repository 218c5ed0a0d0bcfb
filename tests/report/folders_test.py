import json

from mtl_t5x.report import folders, gathered


def record(results=None, steps=()):
    return folders.Record(
        name="run",
        architecture="text_to_text",
        prompt="default",
        labels="semantic",
        tasks=("cola", "mnli"),
        seed=0,
        kind="multi_task",
        results=results,
        steps=tuple(steps),
        error="",
    )


def test_warm_up_ends_at_the_first_step_of_the_highest_learning_rate():
    rates = zip((1, 5, 10, 20), (0.1, 1.0, 1.0, 0.2), strict=True)
    steps = [{"step": step, "learning_rate": rate} for step, rate in rates]
    assert folders.warm_up_end(record(steps=steps)) == 5


def test_warm_up_without_a_learning_rate_is_a_tenth_of_the_steps():
    assert folders.warm_up_end(record(steps=[{"step": 1}, {"step": 20}])) == 2
    assert folders.warm_up_end(record()) == 0


def test_counts_are_averaged_over_runs():
    first = {
        "test": {"cola": {"unparsed": 4, "examples": 10, "accuracy": 3.0}},
        "train": {"cola": {"targets_cut": 6}},
    }
    second = {"test": {"cola": {"unparsed": 2, "examples": 10, "accuracy": 5.0}}}
    runs = [record(first), record(second), record(None)]
    assert folders.mean_counts(runs, "cola") == {
        "examples": 10,
        "unparsed": 3,
        "train targets_cut": 6,
    }
    assert folders.mean_counts(runs, "mnli") == {}


def test_a_test_only_task_stands_behind_its_own_and_counts_are_no_headline():
    test = {
        "mnli_mismatched": {"accuracy": 1.0},
        "mnli": {"unparsed": 0, "accuracy": 1.0, "f1": 2.0},
        "cola": {"matthews_corrcoef": 0.0},
    }
    study = folders.Study("small", {}, (record({"test": test}),), ())
    assert list(folders.headlines(study, study.variants[0]).items()) == [
        ("cola", "matthews_corrcoef"),
        ("mnli", "accuracy"),
        ("mnli_mismatched", "accuracy"),
    ]


def test_a_study_knows_the_commands_that_make_it_again(tmp_path):
    record = {"name": "mini_glue:small", "config": {}, "runs": []}
    flags = ["--config=a.py", "--config.seeds=(0, 1)"]
    studies = []
    for name, more in (("old", {}), ("new", {"flags": flags, "versions": {"jax": "0.10.1"}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.json").write_text(json.dumps(record | more))
        studies.append(folders.load_study(tmp_path / name))
    old, new = studies
    expected = "python -m mtl_t5x.study --config=configs/mini_glue.py:small --workdir=DIR"
    assert (old.command, old.versions) == (expected, {})
    expected = "python -m mtl_t5x.study --config=a.py '--config.seeds=(0, 1)' --workdir=DIR"
    assert (new.command, new.versions) == (expected, {"jax": "0.10.1"})
    assert gathered.compared(old, new).command.splitlines() == [
        old.command,
        new.command.replace("DIR", "OTHER"),
        "python -m mtl_t5x.report --workdir=DIR --compare=OTHER",
    ]
