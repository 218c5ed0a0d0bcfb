"""A wrong setting is refused in the words of who wrote it, before anything is read or compiled."""

import json
import os
import pathlib
import resource
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLE = "gin/examples/mini_glue_text_to_text.gin"

# Bindings, as on the command line after `--gin.`, and what the last line must name.
WRONG = [
    ("BATCH_SIZE=-4", "BATCH_SIZE = -4"),
    ("BATCH_SIZE=0", "BATCH_SIZE = 0"),
    ("BATCH_SIZE=2.5", "BATCH_SIZE = 2.5"),
    ('BATCH_SIZE="a"', "BATCH_SIZE = 'a'"),
    ("BATCH_SIZE=True", "BATCH_SIZE = True"),
    ("BATCH_SIZE=None", "BATCH_SIZE = None"),
    ("BATCH_SIZE=abc", "BATCH_SIZE=abc"),
    ("TRAIN_STEPS=0", "TRAIN_STEPS = 0"),
    ("TRAIN_STEPS=-3", "TRAIN_STEPS = -3"),
    ('TRAIN_STEPS="many"', "TRAIN_STEPS = 'many'"),
    ("TRAIN_STEPS=30", "step.adamw.warmup_steps = 50"),
    ("TRAIN_STEP=8", "did you mean TRAIN_STEPS?"),
    ("BATCHSIZE=8", "did you mean BATCH_SIZE?"),
    ("train_steps=8", "did you mean TRAIN_STEPS?"),
    ("TRAINABLE=5", "TRAINABLE = 5"),
    ('TRAINABLE="decoder/("', "TRAINABLE = 'decoder/('"),
    ('TRAINABLE="no_such/.*"', "TRAINABLE = 'no_such/.*' matches no parameter"),
    ('TRAINABLE="decoder/.*"', "measure.InTraining.groups, 'encoder': nothing"),
    ("MICROBATCHES=0", "MICROBATCHES = 0"),
    ("MICROBATCHES=3", "MICROBATCHES = 3"),
    ('TASK_FEATURE_LENGTHS={"inputs": 0, "targets": 8}', "TASK_FEATURE_LENGTHS['inputs'] = 0"),
    ('TASK_FEATURE_LENGTHS={"inputs": -64, "targets": 8}', "TASK_FEATURE_LENGTHS['inputs'] = -64"),
    ('TASK_FEATURE_LENGTHS={"inputs": "a", "targets": 8}', "TASK_FEATURE_LENGTHS['inputs'] = 'a'"),
    ("TASK_FEATURE_LENGTHS=256", "TASK_FEATURE_LENGTHS = 256"),
    ("TASK_FEATURE_LENGTHS={}", "TASK_FEATURE_LENGTHS = {}"),
    ('TASK_FEATURE_LENGTHS={"inputs": 64}', "no length for 'targets'"),
    ('TASK_FEATURE_LENGTHS={"input": 64, "targets": 8}', "did you mean 'inputs'?"),
    (
        'TASK_FEATURE_LENGTHS={"inputs": 64, "targets": 8, "colla/inputs": 16}',
        "did you mean 'cola/inputs'?",
    ),
    ('TASK_FEATURE_LENGTHS={"inputs": 200000, "targets": 8}', "TASK_FEATURE_LENGTHS = "),
    ("DROPOUT_RATE=1", "DROPOUT_RATE = 1"),
    ("DROPOUT_RATE=-0.1", "DROPOUT_RATE = -0.1"),
    ('DROPOUT_RATE="no"', "DROPOUT_RATE = 'no'"),
    ("step.adamw.learning_rate=-1e-3", "step.adamw.learning_rate = -0.001"),
    ('step.adamw.learning_rate="nan"', "step.adamw.learning_rate = 'nan'"),
    ("step.adamw.b1=1", "step.adamw.b1 = 1"),
    ("step.adamw.max_grad_norm=-5", "step.adamw.max_grad_norm = -5"),
    ("step.adamw.warmup_steps=-1", "step.adamw.warmup_steps = -1"),
    ("step.adamw.learning_rates=1", "Did you mean 'learning_rate'?"),
    ("steps.adamw.b1=0.5", "steps.adamw"),
    ("CONFLICT_PERIOD=-5", "CONFLICT_PERIOD = -5"),
    ("CONFLICT_PERIOD=0.5", "CONFLICT_PERIOD = 0.5"),
    ("EVAL_PERIOD=-1", "EVAL_PERIOD = -1"),
    ("EVAL_BATCH_SIZE=0", "EVAL_BATCH_SIZE = 0"),
    ("EVALUATED_AS=3", "EVALUATED_AS = 3"),
    ("CHECKPOINT_PERIOD=-1", "CHECKPOINT_PERIOD = -1"),
    ("checkpoints.Settings.keep=0", "checkpoints.Settings.keep = 0"),
    ("checkpoints.Settings.keep_period=-2", "checkpoints.Settings.keep_period = -2"),
    ("checkpoints.Settings.asynchronous=1", "checkpoints.Settings.asynchronous = 1"),
    ("LOG_PERIOD=-1", "LOG_PERIOD = -1"),
    ("RANDOM_SEED=-1", "RANDOM_SEED = -1"),
    ("RANDOM_SEED=1.5", "RANDOM_SEED = 1.5"),
    ("decoding.Search.beams=0", "decoding.Search.beams = 0"),
    ("decoding.Search.beams=2.5", "decoding.Search.beams = 2.5"),
    ("decoding.Search.length_penalty=-1", "decoding.Search.length_penalty = -1"),
    ('decoding.Search.restrict="yes"', "decoding.Search.restrict = 'yes'"),
    ('t5.T5Config.dtype="bf16"', "Did you mean 'bfloat16'?"),
    ("t5.T5Config.num_heads=0", "t5.T5Config.num_heads = 0"),
    ("t5.T5Config.emb_dim=64.0", "t5.T5Config.emb_dim = 64.0"),
    ("architectures.TextToText.z_loss=-1", "architectures.TextToText.z_loss = -1"),
    ("architectures.TextToText.config=3", "architectures.TextToText.config = 3"),
    ("MODEL=3", "MODEL = 3"),
    ("OPTIMIZER=None", "OPTIMIZER = None"),
    ("MODEL=@architectures.TextToTex()", "Did you mean 'architectures.TextToText'?"),
    ("sharding.Mesh.data=0", "sharding.Mesh.data = 0"),
    ("sharding.Mesh.model=-2", "sharding.Mesh.model = -2"),
    ("sharding.Mesh.model=-1", "sharding.Mesh.model = -1"),
    ("sharding.Mesh.data=3", "sharding.Mesh.data = 3"),
    ('sharding.Mesh.fsdp="no"', "sharding.Mesh.fsdp = 'no'"),
    ("watchdog.Limits.step=-1", "watchdog.Limits.step = -1"),
    ('watchdog.Limits.step="long"', "watchdog.Limits.step = 'long'"),
    ('measure.InTraining.groups={"a": "encoder/("}', "measure.InTraining.groups"),
    ('measure.InTraining.groups={"a": "no_such/.*"}', "measure.InTraining.groups"),
    ("measure.InTraining.groups=3", "measure.InTraining.groups = 3"),
    ("measure.InTraining.unbiased_window=-1", "measure.InTraining.unbiased_window = -1"),
    ("measure.InTraining.fixed_point=@measure.Settings()", "measure.Settings.period = 0"),
    ("measure.InTraining.fixed_point=64", "measure.InTraining.fixed_point = 64"),
    ('MIXTURE_OR_TASK_NAME="glue_colla.default.semantic"', "Did you mean 'glue_cola'?"),
    ("MIXTURE_OR_TASK_NAME=[]", "MIXTURE_OR_TASK_NAME is empty"),
    ("MIXTURE_OR_TASK_NAME=3", "MIXTURE_OR_TASK_NAME = 3"),
    (
        'MIXTURE_OR_TASK_NAME=["glue_rte.default.semantic", "glue_rte.default.semantic"]',
        "MIXTURE_OR_TASK_NAME has 'glue_rte.default.semantic' twice",
    ),
    ('MIXTURE_OR_TASK_MODULE="no_such_tasks"', "MIXTURE_OR_TASK_MODULE = 'no_such_tasks'"),
    ("MIXTURE_OR_TASK_MODULE=3", "MIXTURE_OR_TASK_MODULE = 3"),
    ('VOCABULARY_PATH="no_such.model"', "VOCABULARY_PATH is 'no_such.model'"),
    ('VOCABULARY_PATH="setup.py"', "VOCABULARY_PATH = 'setup.py'"),
    ('DATA="no_such_folder"', "DATA"),
    ('PRESET="papers"', "PRESET"),
    ('CACHE_DIR=""', "CACHE_DIR = ''"),
    ("CACHE_DIR=5", "CACHE_DIR = 5"),
    ("INITIAL_CHECKPOINT_PATH=5", "INITIAL_CHECKPOINT_PATH = 5"),
    ('INITIAL_CHECKPOINT_PATH="no_such_folder"', "INITIAL_CHECKPOINT_PATH"),
    ('INITIAL_CHECKPOINT_PATH="gin"', "Understood are"),
    ("MODEL_DIR=5", "MODEL_DIR = 5"),
    ('MODEL_DIR=""', "MODEL_DIR = ''"),
    ("MODEL_DIR=%gin.REQUIRED", "MODEL_DIR is not set"),
    ("MODEL_DIR=%MY_FOLDER", "MY_FOLDER is not set"),
    ("train.train.no_such=1", "no_such"),
]


HEAD = "from __gin__ import dynamic_registration\n"
# A gin file of one's own that includes the example, by what is wrong with it.
WRONG_FILES = [
    (HEAD + "step.adamw.b1 = 0.5\n", "from mtl_t5x import step"),
    (HEAD + "import no_such_module\n", "no_such_module"),
    (HEAD + 'include "gin/no_such.gin"\n', "gin/no_such.gin"),
    (HEAD + "BATCH_SIZE = = 4\n", "BATCH_SIZE = = 4"),
    (HEAD + "MY_STEPS = 4\n", "MY_STEPS is read by nothing"),
    (HEAD + "from mtl_t5x import step\nstep.adamv.b1 = 0.5\n", "Did you mean 'adamw'?"),
    (
        HEAD + "import __main__ as train_script\ntrain_script.train.total_steps = 1\n",
        "python -m t5x.train",
    ),
]
# Of T5 1.1 in gin/models/t5_1_1_mini.gin's sizes.
CONFIG = (
    '{"model_type": "t5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": false, '
    '"vocab_size": 1408, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_heads": 4, "num_layers": 2}'
)
HEADER = b'{"a": {"data_offsets": [0, 8]}}'  # of a file that has eight bytes more
# INITIAL_CHECKPOINT_PATH's files, and what the last line must name.
WRONG_CHECKPOINTS = [
    ({"config.json": b'{"model_type": '}, "config.json is no JSON"),
    ({"config.json": b'{"model_type": "bert"}'}, "a model of the type 'bert'"),
    ({"config.json": b'{"model_type": "t5"}'}, "has vocab_size = None instead of a whole number"),
    ({"config.json": CONFIG.replace("64", "32").encode()}, "t5.T5Config.emb_dim = 64, but"),
    ({"config.json": CONFIG.encode()}, "no model.safetensors"),
    ({"config.json": CONFIG.encode(), "model.safetensors": b"\x00" * 5}, "model.safetensors"),
    (
        {
            "config.json": CONFIG.encode(),
            "model.safetensors": len(HEADER).to_bytes(8, "little") + HEADER,
        },
        "no safetensors file, or cut off",
    ),
    ({}, "is an empty folder"),
]


def cases(folder: pathlib.Path) -> dict[str, list[str]]:
    """Arguments of all commands that must be refused, by name; their files are in the folder."""
    found = {binding: arguments(binding, folder / "run") for binding, _ in WRONG}
    for i, (text, _) in enumerate(WRONG_FILES):
        path = folder / f"{i}.gin"
        path.write_text(text.replace("\n", f'\ninclude "{EXAMPLE}"\n', 1))
        found[f"file {i}"] = [f"--gin_file={path}", f'--gin.MODEL_DIR="{folder / "run"}"']
    for i, (files, _) in enumerate(WRONG_CHECKPOINTS):
        checkpoint = folder / f"checkpoint {i}"
        checkpoint.mkdir()
        for name, content in files.items():
            (checkpoint / name).write_bytes(content)
        binding = f'INITIAL_CHECKPOINT_PATH="{checkpoint}"'
        found[f"checkpoint {i}"] = arguments(binding, folder / "run")
    return found


@pytest.fixture(scope="module")
def refusals(tmp_path_factory) -> dict[str, dict]:
    """By binding: the process of `refusals.py` tries all, without the suite's own type checks."""
    folder = tmp_path_factory.mktemp("runs")
    ended = subprocess.run(
        [sys.executable, "-m", "tests.settings.refusals"],
        cwd=ROOT,
        input=json.dumps(cases(folder)),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert not list((folder / "run").rglob("*")) or not (folder / "run").exists()
    return json.loads(ended.stdout.splitlines()[-1])


def arguments(binding: str, folder: pathlib.Path) -> list[str]:
    name, _, value = binding.partition("=")
    settings = {"MODEL_DIR": f'"{folder}"', name: value}
    return [f"--gin_file={EXAMPLE}", *(f"--gin.{name}={value}" for name, value in settings.items())]


NAMED = [
    *WRONG,
    *((f"file {i}", named) for i, (_, named) in enumerate(WRONG_FILES)),
    *((f"checkpoint {i}", named) for i, (_, named) in enumerate(WRONG_CHECKPOINTS)),
]


@pytest.mark.parametrize(("name", "named"), NAMED, ids=[name for name, _ in NAMED])
def test_a_wrong_setting(name, named, refusals):
    found = refusals[name]
    assert named in found["said"][-1], found
    assert found["code"] == 2
    assert not [line for line in found["said"] if line.startswith("Traceback")]
    assert found["seconds"] < 15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("binding", "named"),
    [("BATCH_SIZE=2.5", "BATCH_SIZE = 2.5"), ("TRAIN_STEP=8", "did you mean TRAIN_STEPS?")],
)
def test_the_command_as_it_is_started(binding, named, tmp_path):
    command = [sys.executable, "-m", "mtl_t5x.main", *arguments(binding, tmp_path / "run")]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of CPU time: other processes may be busy beside it.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 15
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert named in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()
