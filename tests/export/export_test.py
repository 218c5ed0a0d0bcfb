"""A run's model in other programs' formats: what is written, what is refused, and a full disk."""

import errno
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from safetensors.numpy import load_file

from mtl_t5x.data import heads
from mtl_t5x.export import export, tokenizer
from mtl_t5x.models import architectures, pretrained
from mtl_t5x.settings.checks import SettingsError
from mtl_t5x.storage import checkpoints, tensor_files
from mtl_t5x.tasks import vocabularies
from tests import random_t5
from tests.models.pretrained_test import assert_equal

CONFIG = random_t5.CONFIG
HEADS = (heads.Classification(2), heads.Decoder(), heads.Span(no_answer="none"))
NAMES = ("cola", "iwslt", "zre")


def a_run(folder, model, vocabulary="mini"):
    """(what export takes of an experiment, its parameters), with a checkpoint in the folder."""
    batch = random_t5.batch(0)
    batch[heads.FEATURE] = jnp.zeros((3, 4, 3))
    params = random_t5.params_of(model, 0, batch)
    state = TrainState.create(apply_fn=None, params=params, tx=optax.sgd(0.1))
    with checkpoints.manager(str(folder)) as manager:
        checkpoints.save(manager, state.replace(step=7))
        checkpoints.finish(manager)
    (folder / "config.gin").write_text("TRAIN_STEPS = 7\n")
    found = {"cola": {"matthews_corrcoef": 12.345}}
    (folder / "results.json").write_text(json.dumps({"step": 7, "dev": {}, "test": found}))
    experiment = types.SimpleNamespace(
        model=model,
        names=NAMES,
        vocabulary=vocabularies.load(vocabulary),
        task_feature_lengths={"inputs": 12, "targets": 6, "iwslt/targets": 9},
        state_shapes=lambda layout: state,
    )
    return experiment, params


def exported(folder, experiment, layout="huggingface"):
    export.export(
        model_dir=str(folder), experiment=experiment, output=str(folder / "out"), layout=layout
    )
    return folder / "out"


@pytest.mark.parametrize("layout", export.LAYOUTS)
def test_one_decoder(tmp_path, layout):
    experiment, params = a_run(tmp_path, architectures.TextToText(CONFIG))
    out = exported(tmp_path, experiment, layout)
    found = out / "checkpoint_7" if layout == "t5x" else out
    assert_equal(pretrained.load_params(found), params)
    assert not list(tmp_path.glob(".out*"))
    if layout == "t5x":
        return
    generation = json.loads((out / "generation_config.json").read_text())
    assert generation["max_new_tokens"] == 9
    card = (out / "README.md").read_text()
    for said in ("# T5 fine-tuned on cola, iwslt, zre", "TRAIN_STEPS = 7", "| 12.35 |", "<unk>"):
        assert said in card
    assert vocabularies.load(str(out)).vocab_size == experiment.vocabulary.vocab_size


def test_a_decoder_for_each_task(tmp_path):
    model = architectures.TextToTextID(CONFIG)
    experiment, params = a_run(tmp_path, model, "bytes")
    out = exported(tmp_path, experiment)
    assert sorted(path.name for path in out.iterdir()) == sorted(NAMES)
    for task, name in enumerate(NAMES):
        assert_equal(pretrained.load_params(out / name), model.for_task(params, task)[1])
        assert ("12.35" in (out / name / "README.md").read_text()) == (name == "cola")
    assert vocabularies.load(str(out / "zre")) is vocabularies.load("bytes")


def test_a_head_for_each_task(tmp_path):
    experiment, params = a_run(tmp_path, architectures.Canonical(CONFIG, heads=HEADS))
    out = exported(tmp_path, experiment)
    head = load_file(out / "zre" / export.HEAD)
    assert {name: array.shape for name, array in head.items()} == {
        "span.weight": (2, 32), "span.bias": (2,),
        "answerable.weight": (2, 32), "answerable.bias": (2,),
    }  # fmt: skip
    np.testing.assert_array_equal(head["span.weight"], params["head_2"]["span"]["kernel"].T)
    assert "of being the first and the last" in (out / "zre" / "README.md").read_text()
    encoder = pretrained.load_params(out / "cola")["encoder"]
    assert_equal(encoder, params["encoder"])
    decoder = pretrained.load_params(out / "iwslt")["decoder"]
    assert_equal(decoder, jax.tree.map(lambda leaf: leaf[0], params["decoder"]))


def test_what_can_not_be_exported(tmp_path):
    own = architectures.TextToTextID(CONFIG, own_embeddings=True)
    experiment, _ = a_run(tmp_path, own)
    with pytest.raises(SettingsError, match="TextToTextID.own_embeddings = True.*--layout=t5x can"):
        exported(tmp_path, experiment)
    with pytest.raises(SettingsError, match="--layout = .torch.: write one of"):
        exported(tmp_path, experiment, "torch")
    experiment.model = architectures.TextToText(CONFIG)
    experiment.vocabulary = types.SimpleNamespace(vocab_size=3)
    with pytest.raises(SettingsError, match="vocabulary is a SimpleNamespace"):
        exported(tmp_path, experiment)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(SettingsError, match="--output=.*/out is there already: name a new folder"):
        exported(tmp_path, experiment)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(
    ("module", "function"), [(tensor_files, "write_file"), (tokenizer, "write")]
)
def test_a_full_disk(tmp_path, monkeypatch, module, function, there):
    """Nothing half-written stays, and an empty folder stays empty."""
    experiment, _ = a_run(tmp_path, architectures.TextToText(CONFIG))
    if there:
        (tmp_path / "out").mkdir()
    before = sorted(tmp_path.rglob("*"))

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device", "a file")

    monkeypatch.setattr(module, function, full)
    with pytest.raises(OSError, match="--output=.*out can't be written: .*No space left.*Nothing"):
        exported(tmp_path, experiment)
    assert sorted(tmp_path.rglob("*")) == before
