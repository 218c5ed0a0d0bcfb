"""Inside T5X's trainer: what it logs is what our own trainer logs, and checkpoints go both ways.

All but the first tests need T5X on PYTHONPATH (docs/t5x.md) and run with -m t5x.
"""

import dataclasses
import itertools
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import flax.linen as nn
import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import seqio
from flax.traverse_util import flatten_dict
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util

import mtl_t5x
from mtl_t5x import main, train
from mtl_t5x.data import flat, lookup
from mtl_t5x.models import pretrained
from mtl_t5x.settings import bindings as settings
from mtl_t5x.settings.checks import SettingsError
from mtl_t5x.storage import checkpoints
from mtl_t5x.tasks import vocabularies
from mtl_t5x.tasks.glue import glue
from tests import random_t5
from tests.models.pretrained_test import assert_equal

ROOT = pathlib.Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "t5x.md").read_text(encoding="utf-8")
COMMANDS = [line for line in GUIDE.splitlines() if line.startswith("python -m t5x.train")]
OURS = "gin/examples/mini_glue_text_to_text.gin"


@pytest.mark.parametrize("path", sorted((ROOT / "gin" / "t5x").glob("*.gin")), ids=lambda p: p.name)
def test_without_t5x_there_is_advice(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "t5x", None)
    monkeypatch.delitem(sys.modules, "mtl_t5x.t5x_bridge", raising=False)
    monkeypatch.delattr(mtl_t5x, "t5x_bridge", raising=False)
    with pytest.raises(SettingsError, match="clone google-research/t5x, .* docs/t5x.md"):
        settings.read([str(path)], [], [str(ROOT)])


@pytest.fixture(scope="module")
def bridge():
    pytest.importorskip("t5x")
    from mtl_t5x import t5x_bridge

    return t5x_bridge


def a_model(bridge, tasks, config=random_t5.CONFIG, **options):
    """The bridge's model on T5X's network of these sizes."""
    from t5x import optimizers
    from t5x.examples.t5 import network

    names = {field.name for field in dataclasses.fields(network.T5Config)}
    sizes = {name: value for name, value in vars(config).items() if name in names}
    given = {
        "module": network.Transformer(network.T5Config(**sizes)),
        "input_vocabulary": vocabularies.load("mini"),
        "output_vocabulary": vocabularies.load("mini"),
        "optimizer_def": optimizers.OptaxWrapper(optax.sgd(0.1)),
    }
    return bridge.Model(**(given | options), tasks=tasks)


def three_tasks():
    glue.register()
    return lookup.find_tasks([f"glue_{name}.default.semantic" for name in ("rte", "cola", "stsb")])


T5_1_0 = dataclasses.replace(random_t5.CONFIG, mlp_activations=("relu",), logits_via_embedding=True)


@pytest.mark.t5x
@pytest.mark.parametrize("config", [random_t5.CONFIG, T5_1_0], ids=["1.1", "1.0"])
@pytest.mark.parametrize("microbatches", [1, 2])
def test_gradients_are_those_of_t5xs_network(config, microbatches, bridge):
    """Task by task, by autodiff through T5X's own loss."""
    model = a_model(bridge, three_tasks(), config, z_loss=1e-3)
    params, batch = random_t5.params(config), random_t5.batch(0)
    rows, groups = flat.flatten(batch), {"all": ".*(kernel|scale|rel_embedding)"}
    losses, gradient, grams = jax.jit(
        lambda params: model.gradients(params, rows, jax.random.key(0), groups, microbatches)
    )(params)

    @jax.jit
    @jax.value_and_grad
    def t5xs(params, of_task):
        loss, _ = super(bridge.Model, model).loss_fn(params, of_task, None)
        return loss / jnp.sum(of_task["decoder_loss_weights"])

    found = [
        t5xs(params, {name: value[task] for name, value in batch.items()}) for task in range(3)
    ]
    np.testing.assert_allclose(losses, [loss for loss, _ in found], rtol=1e-5)
    flat_grads = [flatten_dict(grads, sep="/") for _, grads in found]
    for name, value in flatten_dict(gradient, sep="/").items():
        expected = sum(grads[name] for grads in flat_grads)
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-5, err_msg=name)
    measured = [name for name in flat_grads[0] if re.fullmatch(groups["all"], name)]
    stacked = [np.concatenate([np.ravel(g[name]) for name in measured]) for g in flat_grads]
    expected = np.float64(stacked) @ np.float64(stacked).T
    np.testing.assert_allclose(grams["all"], expected, rtol=0, atol=1e-5 * expected.max())


@pytest.mark.t5x
def test_one_task(bridge):
    model = a_model(bridge, three_tasks()[:1])
    rows = flat.flatten(random_t5.batch(0, tasks=1))
    found = model.gradients(
        random_t5.params(), rows, jax.random.key(0), bridge.ENCODER, microbatches=1
    )
    metrics = bridge._metrics(model.tasks, found[0], found[2])
    assert float(metrics["loss"].compute()) == float(metrics["loss/rte"].compute())
    assert abs(float(metrics["conflict/encoder/directional"].compute())) < 1e-6


LENGTHS = {"inputs": 16, "targets": 4}
WRONG_DATA = [
    ({"batch_size": 20}, "BATCH_SIZE .* = 20 .* all 3 tasks .*: write 18 or 21"),
    ({"pack": True}, "pack = True"),
    ({"shuffle": False}, "shuffle = False"),
    ({"mixture_or_task_name": "glue_rte.default.semantic"}, "differ in glue_cola.*, glue_stsb"),
    ({"seed": None}, "seed = None"),
    ({"split": "validation"}, "split = 'validation'"),
    ({"task_feature_lengths": {"inputs": 16}}, "no length for 'targets'"),
    ({"mixture_or_task_name": "glue_colla.default.semantic"}, "Did you mean 'glue_cola'?"),
]


def a_dataset(bridge, folder, **changes):
    from t5x import utils

    tasks = three_tasks()
    given = {
        "mixture_or_task_name": [task.name for task in tasks], "split": "train",
        "task_feature_lengths": LENGTHS, "batch_size": 6, "shuffle": True, "seed": 0, **changes,
    }  # fmt: skip
    cfg = utils.DatasetConfig(**given)
    return bridge.get_dataset(
        cfg, 0, 1, seqio.EncDecFeatureConverter, tasks=tasks, model_dir=str(folder)
    )


@pytest.mark.t5x
@pytest.mark.parametrize(("changes", "named"), WRONG_DATA, ids=[named for _, named in WRONG_DATA])
def test_batches_that_cannot_be(changes, named, bridge, tmp_path):
    with pytest.raises(SettingsError, match=named):
        a_dataset(bridge, tmp_path, **changes)


@pytest.mark.t5x
def test_batches_go_on_where_t5x_does(bridge, tmp_path):
    from_start = a_dataset(bridge, tmp_path)
    for _ in range(3):
        passed = next(from_start)
    (tmp_path / "checkpoint_2").mkdir()
    (tmp_path / "checkpoint_1").mkdir()
    for name, value in next(a_dataset(bridge, tmp_path)).items():
        assert value.shape[0] == 6
        np.testing.assert_array_equal(value, passed[name])
    fresh = tmp_path / "fresh"
    assert bridge._first_step(str(fresh), "gs://bucket/checkpoint_1000") == 1000
    assert bridge._first_step(str(fresh), "model.ckpt-7/") == 7
    assert bridge._first_step(str(fresh), ()) == 0


@pytest.mark.t5x
def test_models_that_cannot_be(bridge):
    with pytest.raises(SettingsError, match="label_smoothing = 0.1"):
        a_model(bridge, three_tasks(), label_smoothing=0.1)
    model = a_model(bridge, three_tasks())
    with pytest.raises(SettingsError, match="(?s)Model.module = Dense.*Transformer"):
        a_model(bridge, three_tasks(), module=nn.Dense(1))
    rows = flat.flatten(random_t5.batch(0))
    with pytest.raises(SettingsError, match="num_microbatches = 3 .* 4 examples"):
        model.gradients(random_t5.params(), rows, jax.random.key(0), bridge.ENCODER, 3)
    with pytest.raises(SettingsError, match="train_script.train.model = .*t5x_bridge.Model"):
        bridge.Trainer(model=object())


@pytest.mark.t5x
def test_the_small_example_is_complete(bridge, monkeypatch):
    from t5x import gin_utils, train

    monkeypatch.setitem(sys.modules, "__main__", train)  # as `python -m t5x.train` has it
    gin.clear_config(clear_constants=True)
    paths = [str(ROOT), str(pathlib.Path(train.__file__).parents[1])]
    macros = {"DATA": "mini", "VOCABULARY_PATH": "mini", "INITIAL_CHECKPOINT_PATH": "unused"}
    macros |= {"MODEL_DIR": "unused", "TRAIN_STEPS": 10}
    bindings = [f"{name}={value!r}" for name, value in macros.items()]
    try:
        gin_utils.parse_gin_flags(paths, ["gin/t5x/small_glue_text_to_text.gin"], bindings)
        model = gin.query_parameter("%MODEL").scoped_configurable_fn()
    finally:
        gin.clear_config(clear_constants=True)
    assert isinstance(model, bridge.Model) and len(model.tasks) == 8
    assert model.module.config.emb_dim == 512 and model._z_loss == 1e-4


STEPS, WARM_UP = 20, "optax.warmup_cosine_decay_schedule.warmup_steps"


def run_t5x(command, folder, **macros):
    """A command of docs/t5x.md, shortened: T5X's beam search over all of dev takes longer than the
    steps."""
    given = {
        "MODEL_DIR": str(folder), "TRAIN_STEPS": STEPS, "CHECKPOINT_PERIOD": STEPS // 2,
        "train.stats_period": 1, "train.infer_eval_dataset_cfg": None,
        "train.train_eval_dataset_cfg": None, WARM_UP: 5, **macros,
    }  # fmt: skip
    flags = [f"--gin.{name}={value!r}" for name, value in given.items()]
    command = [sys.executable, *shlex.split(command)[1:], *flags]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


def logged(folder, tag):
    """What T5X logged of each step."""
    events = event_accumulator.EventAccumulator(str(folder / "train"), {"tensors": 0})
    events.Reload()
    return [float(tensor_util.make_ndarray(e.tensor_proto)) for e in events.Tensors(tag)]


@pytest.fixture(scope="module")
def folder(bridge, tmp_path_factory):
    """A run inside T5X's trainer, on the embedded benchmark."""
    folder = tmp_path_factory.mktemp("t5x")
    run_t5x(COMMANDS[0], folder)
    return folder


@pytest.fixture(scope="module")
def ours(folder, tmp_path_factory):
    """The same run by our own trainer, from T5X's first checkpoint; nothing is evaluated."""
    run = tmp_path_factory.mktemp("ours")
    bindings = {
        "MODEL_DIR": str(run), "TRAIN_STEPS": STEPS, "step.adamw.warmup_steps": 5,
        "INITIAL_CHECKPOINT_PATH": str(folder / "checkpoint_0"), "LOG_PERIOD": 1,
        "CONFLICT_PERIOD": 1,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.evaluate, "evaluate", lambda *arguments, **options: {})
        main.run([OURS], [f"{name}={value!r}" for name, value in bindings.items()])
    return run


@pytest.mark.t5x
def test_every_step_is_that_of_our_own_trainer(folder, ours):
    lines = [json.loads(line) for line in (ours / "metrics.jsonl").read_text().splitlines()]
    names = [name.removeprefix("loss/") for name in lines[0] if name.startswith("loss/")]
    assert len(lines) == STEPS and len(names) == 8
    directional = "conflict/encoder/directional"
    relative = ["loss", "conflict/encoder/magnitude", "learning_rate"]
    relative += [f"{kind}/{name}" for kind in ("loss", "grad_norm/encoder") for name in names]
    for tag, tolerance in [*((tag, {"rtol": 1e-4}) for tag in relative), (directional, ABSOLUTE)]:
        expected = [line[tag] for line in lines]
        np.testing.assert_allclose(logged(folder, tag), expected, **tolerance, err_msg=tag)
    for (i, one), (j, other) in itertools.combinations(enumerate(names), 2):
        found = logged(folder, f"conflict/encoder/cosine/{one}/{other}")
        expected = [line["conflict/encoder/cosine"][i][j] for line in lines]
        np.testing.assert_allclose(found, expected, **ABSOLUTE)
    trained = checkpoints.restore_params(str(ours), checkpoints.stored_params(str(ours)))[0]
    stored = flatten_dict(pretrained.load_params(folder / f"checkpoint_{STEPS}"), sep="/")
    for name, array in flatten_dict(trained, sep="/").items():
        np.testing.assert_allclose(array, stored[name], rtol=0, atol=1e-4, err_msg=name)


# Figures whose size is that of a cosine.
ABSOLUTE = {"rtol": 0, "atol": 1e-4}


@pytest.mark.t5x
def test_a_run_goes_on(folder, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    shutil.rmtree(again / f"checkpoint_{STEPS}")
    shutil.rmtree(again / "train")
    run_t5x(COMMANDS[0], again)
    for tag in ("loss", "conflict/encoder/magnitude"):
        assert logged(again, tag) == logged(folder, tag)[STEPS // 2 :]
    last = f"checkpoint_{STEPS}"
    assert_equal(pretrained.load_params(again / last), pretrained.load_params(folder / last))


@pytest.mark.t5x
def test_t5x_starts_from_what_is_exported(ours, tmp_path):
    bindings = [f"MODEL_DIR={str(ours)!r}"]
    exported, run = tmp_path / "exported", tmp_path / "run"
    main.run([OURS], bindings, "export", output=str(exported), layout="t5x")
    checkpoint = f"checkpoint_{STEPS}"
    run_t5x(
        COMMANDS[1], run, TRAIN_STEPS=STEPS + 1, INITIAL_CHECKPOINT_PATH=str(exported / checkpoint)
    )
    trained = checkpoints.restore_params(str(ours), checkpoints.stored_params(str(ours)))[0]
    assert_equal(pretrained.load_params(run / checkpoint), trained)
