"""Which runs a config spans."""

import ast
import json

import gin
import ml_collections
import pytest

from mtl_t5x.jobs import grid


def small_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.benchmark = "glue"
    config.data = "mini"
    config.tasks = ("cola", "mnli", "rte")
    config.architectures = ("text_to_text",)
    config.prompts = ("default",)
    config.labels = ("semantic",)
    config.seeds = (0, 1)
    config.train_steps = 20
    config.single_task_steps = config.get_oneway_ref("train_steps")
    config.conflict_period = 5
    config.gin_files = {"text_to_text": "small.gin"}
    return config


def parse(bindings):
    return {k: ast.literal_eval(v) for k, v in (b.split("=", 1) for b in bindings)}


def test_grid_pairs_each_multi_task_run_with_a_baseline_per_task():
    config = small_config()
    config.prompts = ("null", "default")
    runs = list(grid.grid(config))
    assert len(runs) == 2 * (2 + 3 * 2)
    assert len({r.name for r in runs}) == len(runs)
    for prompt in config.prompts:
        for seed in config.seeds:
            mine = [r for r in runs if (r.prompt, r.seed) == (prompt, seed)]
            assert [r.tasks for r in mine if r.kind == "multi_task"] == [config.tasks]
            single = [r.tasks for r in mine if r.kind == "single_task"]
            assert single == [(task,) for task in config.tasks]


def test_bindings_are_gin_literals_and_mnli_brings_its_mismatched_test():
    config = small_config()
    config.single_task_steps = 7
    multi, _, cola, mnli, *_ = grid.grid(config, {"VOCABULARY_PATH": 'a "b".model'})
    assert multi.gin_files == ("small.gin",)
    assert 'DATA="mini"' in multi.gin_bindings
    assert parse(multi.gin_bindings) == {
        "MIXTURE_OR_TASK_NAME": [
            "glue_cola.default.semantic",
            "glue_mnli.default.semantic",
            "glue_mnli_mismatched.default.semantic",
            "glue_rte.default.semantic",
        ],
        "TRAIN_STEPS": 20,
        "RANDOM_SEED": 0,
        "DATA": "mini",
        "CONFLICT_PERIOD": 5,
        "VOCABULARY_PATH": 'a "b".model',
    }
    assert parse(cola.gin_bindings)["MIXTURE_OR_TASK_NAME"] == ["glue_cola.default.semantic"]
    assert parse(cola.gin_bindings)["CONFLICT_PERIOD"] == 0
    assert parse(cola.gin_bindings)["TRAIN_STEPS"] == 7
    assert len(parse(mnli.gin_bindings)["MIXTURE_OR_TASK_NAME"]) == 2
    assert mnli.tasks == ("mnli",)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tasks", ("cola",), "two or more"),
        ("seeds", (0, 0), "config.seeds"),
        ("prompts", (), "config.prompts"),
        ("architectures", ("canonical",), "no gin file for the architecture 'canonical'"),
    ],
)
def test_a_config_that_spans_no_study_is_refused(field, value, message):
    config = small_config()
    config[field] = value
    with pytest.raises(ValueError, match=message):
        list(grid.grid(config))


def own_config() -> ml_collections.ConfigDict:
    """Tasks by their names in SeqIO's registry, and nothing that a config needn't say."""
    config = ml_collections.ConfigDict()
    config.tasks = ("reviews", "glue_mnli.{prompt}.{labels}")
    config.architectures = ("text_to_text",)
    config.seeds = (0,)
    config.train_steps = 20
    config.gin_files = {"text_to_text": "small.gin"}
    return config


def test_tasks_of_ones_own_by_their_names():
    config = own_config()
    config.modules = ("my_tasks", "more_tasks")
    config.companions = {"reviews": ("hard_reviews",)}
    multi, reviews, mnli = grid.grid(config)
    assert multi.tasks == ("reviews", "mnli")
    assert parse(multi.gin_bindings) == {
        "MIXTURE_OR_TASK_NAME": [
            "reviews",
            "hard_reviews",
            "glue_mnli.default.semantic",
            "glue_mnli_mismatched.default.semantic",
        ],
        "MIXTURE_OR_TASK_MODULE": ["my_tasks", "more_tasks"],
        "EVALUATED_AS": {"hard_reviews": "reviews"},
        "TRAIN_STEPS": 20,
        "RANDOM_SEED": 0,
    }
    assert reviews.name == "text_to_text.default.semantic.single_task.reviews.seed0"
    assert parse(reviews.gin_bindings)["CONFLICT_PERIOD"] == 0
    assert mnli.tasks == ("mnli",)


def test_names_by_a_function_of_prompt_and_labels():
    config = own_config()
    config.tasks, config.prompts = ("a", "b"), ("short", "long")
    runs = list(grid.grid(config, names=lambda task, prompt, labels: f"{task}_{prompt}"))
    named = [parse(run.gin_bindings)["MIXTURE_OR_TASK_NAME"] for run in runs]
    assert named == [["a_short", "b_short"], ["a_short"], ["b_short"],
                     ["a_long", "b_long"], ["a_long"], ["b_long"]]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompts": ("null", "default"), "tasks": ("a", "b")}, "the same under several prompts"),
        ({"tasks": ("glue_cola.a.b", "my_cola.a.b")}, "two of them the same"),
    ],
)
def test_names_that_make_no_study_are_refused(fields, message):
    config = own_config()
    for name, value in fields.items():
        config[name] = value
    with pytest.raises(ValueError, match=message):
        list(grid.grid(config))


def test_a_field_that_is_missing_is_named():
    config = own_config()
    del config.seeds
    with pytest.raises(ValueError, match="gives no seeds"):
        list(grid.grid(config))


def paper_config() -> ml_collections.ConfigDict:
    """Two rows of one architecture and one of another, as the paper's tables have them."""
    config = small_config()
    config.architectures = ("canonical", "text_to_text")
    del config.prompts  # of another type
    config.prompts = {"canonical": ("null",), "text_to_text": ("default", "diverse")}
    config.labels = ("semantic", "shared_letters")
    config.gin_files = {"canonical": ("heads.gin", "paper.gin"), "text_to_text": "one.gin"}
    return config


BASELINES = {"canonical": "canonical.null.semantic", "text_to_text": "text_to_text.null.semantic"}
EXCLUDED = ("canonical.*.shared_letters", "*.diverse.*_letters")


def test_rows_share_a_named_baseline_that_is_trained_once():
    config = paper_config()
    runs = list(grid.grid(config, baselines=BASELINES, excluded=EXCLUDED))
    assert len({r.name for r in runs}) == len(runs)
    rows = {(r.architecture, r.prompt, r.labels): r for r in runs if r.kind == "multi_task"}
    assert list(map(".".join, rows)) == [
        "canonical.null.semantic",
        "text_to_text.default.semantic",
        "text_to_text.default.shared_letters",
        "text_to_text.diverse.semantic",
    ]
    alone = [r for r in runs if r.kind == "single_task"]
    # Of both baselines every task and seed once, though three rows share one, and none has it.
    assert len(alone) == 2 * 3 * 2
    assert {r.name.partition(".single_task")[0] for r in alone} == set(BASELINES.values())
    # A row's own baseline goes without saying, so that records of older studies stay equal.
    assert "baseline" not in rows["canonical", "null", "semantic"].record()
    record = json.loads(json.dumps(rows["text_to_text", "diverse", "semantic"].record()))
    assert record["baseline"] == ["text_to_text", "null", "semantic"]
    assert rows["canonical", "null", "semantic"].gin_files == ("heads.gin", "paper.gin")
    assert rows["text_to_text", "diverse", "semantic"].gin_files == ("one.gin",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"excluded": ("*.no_such.*",)}, "excludes none of canonical.null.semantic"),
        ({"excluded": ("*",)}, "exclude every row"),
        ({"baselines": {"text_to_text": "null.semantic"}}, "write it as architecture.prompt"),
        (
            {"baselines": {"text_to_text_id": "a.b.c"}},
            "'text_to_text_id', for which config",
        ),
    ],
)
def test_baselines_and_exclusions_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        list(grid.grid(paper_config(), **arguments))


def test_an_architecture_without_prompts_is_refused():
    config = paper_config()
    config.architectures = ("canonical", "text_to_text_id")
    with pytest.raises(ValueError, match="no prompts of the architecture 'text_to_text_id'"):
        list(grid.grid(config))


@gin.configurable("grid_test.settings")
def settings():
    return "settings"


@gin.configurable("grid_test.measure")
def measure(settings, period):
    return settings, period


def test_gin_reads_the_bindings_as_they_are_meant():
    """Expressions as references and macros, every other value as itself; baselines have theirs."""
    values = {"TEXT": 'a "b" @c %d', "LENGTHS": {"inputs": 3, "a/inputs": 4}, "NONE": None}
    expressions = {
        "grid_test.measure.settings": "@grid_test.settings()",
        "grid_test.measure.period": "%CONFLICT_PERIOD",
    }
    runs = list(
        grid.grid(
            small_config(),
            {**values, **expressions},
            single_task={"grid_test.measure.settings": None},
        )
    )
    try:
        for run, expected in ((runs[0], ("settings", 5)), (runs[-1], (None, 0))):
            gin.clear_config()
            gin.parse_config(list(run.gin_bindings))
            assert {name: gin.query_parameter(f"%{name}") for name in values} == values
            assert measure() == expected
    finally:
        gin.clear_config()
