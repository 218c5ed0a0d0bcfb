"""Which settings may change while a run goes on, by the configurations that gin writes."""

import gin
import pytest

from mtl_t5x import main
from mtl_t5x.settings import bindings, changes

EXAMPLE = "gin/examples/mini_glue_text_to_text.gin"


# What is known after the run alone, or isn't known where types are checked.
USED = {
    "train.train.random_seed": "%RANDOM_SEED",
    "train.train.initial_checkpoint_path": "%INITIAL_CHECKPOINT_PATH",
    "decoding.Search.beams": "1",
    "step.adamw.b1": "0.9",
}


def texts(*given: str) -> tuple[str, str]:
    """The whole configuration, and what is used of it."""
    bindings.read([EXAMPLE], ['MODEL_DIR="/tmp/run"', *given], (".", main.ROOT))
    bindings.check("train.train")
    used = gin.operative_config_str()
    lines = [f"{name} = {value}" for name, value in USED.items() if f"{name} = " not in used]
    return gin.config_str(), "\n".join([used, *lines])


@pytest.fixture(scope="module")
def before() -> tuple[str, str]:
    """Of a run as it was begun, and as it was used."""
    return texts()


@pytest.mark.parametrize("as_it_was", [0, 1], ids=["begun", "used"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("BATCH_SIZE=32", "BATCH_SIZE: 16 before, 32 now"),
        ("experiment.Experiment.batch_size=32", "BATCH_SIZE: 16 before, 32 now"),
        ('MIXTURE_OR_TASK_NAME="glue_rte.default.semantic"', "MIXTURE_OR_TASK_NAME: 'glue.def"),
        ("RANDOM_SEED=1", "RANDOM_SEED: 0 before, 1 now"),
        ("DROPOUT_RATE=0.1", "DROPOUT_RATE: 0.0 before, 0.1 now"),
        ("step.adamw.learning_rate=1e-3", "step.adamw.learning_rate: 0.002 before, 0.001 now"),
        ("step.adamw.decay_steps=500", "step.adamw.decay_steps: %TRAIN_STEPS before, 500 now"),
        ("t5.T5Config.mlp_dim=64", "t5.T5Config.mlp_dim: 128 before, 64 now"),
        ('DATA="."', "DATA: 'mini' before, '.' now"),
        ("EVALUATED_AS={}", "EVALUATED_AS: {'mnli_mismatched': 'mnli'} before, {} now"),
    ],
)
def test_what_decides_the_results(given, told, as_it_was, before):
    (line,) = changes.decisive(before[as_it_was], *texts(given))
    assert line.startswith(told)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("decoding.Search.beams=4", "decoding.Search.beams: 1 before, 4 now"),
        ("step.adamw.b1=0.5", "step.adamw.b1: 0.9 before, 0.5 now"),
    ],
)
def test_a_default_that_is_set_to_another_value(given, told, before):
    assert changes.decisive(before[1], *texts(given)) == [told]
    # As it was begun the configuration has no defaults.
    assert changes.decisive(before[0], *texts(given)) == [told.replace(told.split()[1], "absent")]


@pytest.mark.parametrize("as_it_was", [0, 1], ids=["begun", "used"])
@pytest.mark.parametrize(
    "given",
    [
        "TRAIN_STEPS=2000",
        'MODEL_DIR="/tmp/moved"',
        "LOG_PERIOD=1",
        "EVAL_PERIOD=5",
        "EVAL_BATCH_SIZE=8",
        "CHECKPOINT_PERIOD=7",
        "CONFLICT_PERIOD=3",
        "checkpoints.Settings.keep=3",
        "watchdog.Limits.step=60",
        "sharding.Mesh.fsdp=True",
        "MICROBATCHES=2",
        "CACHE_DIR=None",
        "t5.T5Config.remat=True",
        "t5.T5Config.scan_layers=True",
        "BATCH_SIZE=16",
        "evaluate.Evaluation.teacher_forced=True",
    ],
)
def test_what_may_change(given, as_it_was, before):
    assert changes.decisive(before[as_it_was], *texts(given)) == []


def test_a_default_that_is_spelled_out_and_one_that_is_left_again(before):
    spelled_out = texts("step.adamw.b1=0.9")
    assert (
        changes.decisive(before[1], *spelled_out) == changes.decisive(spelled_out[0], *before) == []
    )
    for text in texts("step.adamw.b1=0.5"):
        assert changes.decisive(text, *before) == ["step.adamw.b1: 0.5 before, 0.9 now"]


def test_what_is_no_gin_file(before):
    with pytest.raises(SyntaxError):
        changes.decisive("{cut of", *before)
