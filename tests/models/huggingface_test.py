"""Weights in Hugging Face's format: every family in and out, and what is refused."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from mtl_t5x.models import huggingface, pretrained, t5
from mtl_t5x.settings.checks import SettingsError
from mtl_t5x.storage import tensor_files
from tests import random_t5
from tests.models.pretrained_test import assert_equal

CONFIG = t5.T5Config(11, 5, 1, 1, 1, 3, 7, relpos_buckets=4)
SETTINGS = {
    "model_type": "t5", "vocab_size": 11, "d_model": 5, "num_heads": 1, "num_layers": 1, "d_kv": 3,
    "d_ff": 7, "relative_attention_num_buckets": 4, "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}  # fmt: skip
STACKS = ("encoder", "decoder")
T5_1_0 = {"mlp_activations": ("relu",), "logits_via_embedding": True}


def huggingface_tensors(rng):
    """A T5 1.1 of one layer and 1 head of 3, 5 features, MLP of 7, under names typed by hand."""
    tensors = {"shared.weight": (11, 5), "lm_head.weight": (11, 5)}
    for stack in ("encoder", "decoder"):
        tensors[f"{stack}.final_layer_norm.weight"] = (5,)
        tensors[f"{stack}.embed_tokens.weight"] = (11, 5)
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        tensors[bias] = (4, 1)
        blocks = {"encoder": ["SelfAttention"], "decoder": ["SelfAttention", "EncDecAttention"]}
        for i, attention in enumerate(blocks[stack]):
            for weight, shape in {"q": (3, 5), "k": (3, 5), "v": (3, 5), "o": (5, 3)}.items():
                tensors[f"{stack}.block.0.layer.{i}.{attention}.{weight}.weight"] = shape
            tensors[f"{stack}.block.0.layer.{i}.layer_norm.weight"] = (5,)
        i = len(blocks[stack])
        for weight, shape in {"wi_0": (7, 5), "wi_1": (7, 5), "wo": (5, 7)}.items():
            tensors[f"{stack}.block.0.layer.{i}.DenseReluDense.{weight}.weight"] = shape
        tensors[f"{stack}.block.0.layer.{i}.layer_norm.weight"] = (5,)
    return {name: rng.normal(size=size).astype(np.float32) for name, size in tensors.items()}


def write_huggingface(folder, tensors, **settings):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SETTINGS | settings))
    save_file(tensors, folder / "model.safetensors")


def a_folder(tmp_path, **settings) -> pathlib.Path:
    write_huggingface(tmp_path / "hf", huggingface_tensors(np.random.default_rng(0)), **settings)
    return tmp_path / "hf"


def split(folder) -> dict:
    """Makes two shards of the folder's one file; returns the index."""
    tensors = huggingface_tensors(np.random.default_rng(0))
    where = {}
    for i, names in enumerate((sorted(tensors)[:9], sorted(tensors)[9:]), start=1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        where |= dict.fromkeys(names, file)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_huggingface_folder(tmp_path):
    tensors = huggingface_tensors(np.random.default_rng(0))
    write_huggingface(tmp_path / "hf", tensors)
    params = flatten_dict(pretrained.load_params(tmp_path / "hf"), sep="/")
    for ours, theirs in {
        "token_embedder/embedding": tensors["shared.weight"],
        "decoder/logits_dense/kernel": tensors["lm_head.weight"].T,
        "encoder/encoder_norm/scale": tensors["encoder.final_layer_norm.weight"],
        "encoder/relpos_bias/rel_embedding": tensors[
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ].T,
        "encoder/layers_0/attention/out/kernel": tensors[
            "encoder.block.0.layer.0.SelfAttention.o.weight"
        ].T,
        "encoder/layers_0/pre_mlp_layer_norm/scale": tensors[
            "encoder.block.0.layer.1.layer_norm.weight"
        ],
        "decoder/layers_0/self_attention/key/kernel": tensors[
            "decoder.block.0.layer.0.SelfAttention.k.weight"
        ].T,
        "decoder/layers_0/pre_cross_attention_layer_norm/scale": tensors[
            "decoder.block.0.layer.1.layer_norm.weight"
        ],
        "decoder/layers_0/encoder_decoder_attention/value/kernel": tensors[
            "decoder.block.0.layer.1.EncDecAttention.v.weight"
        ].T,
        "decoder/layers_0/mlp/wi_1/kernel": tensors[
            "decoder.block.0.layer.2.DenseReluDense.wi_1.weight"
        ].T,
    }.items():
        np.testing.assert_array_equal(params[ours], theirs, err_msg=ours)
    assert huggingface.read_config(tmp_path / "hf") == CONFIG
    ours = random_t5.params(CONFIG)
    assert_equal(
        pretrained.merge(ours, unflatten_dict(params, sep="/")), unflatten_dict(params, sep="/")
    )


@pytest.mark.parametrize("kind", [{}, T5_1_0], ids=["1.1", "1.0"])
@pytest.mark.parametrize("shard", [tensor_files.SHARD_BYTES, 20_000])
def test_out_and_in_again(tmp_path, monkeypatch, kind, shard):
    """Bit-equal, in one file and in shards, with the same sizes."""
    monkeypatch.setattr(tensor_files, "SHARD_BYTES", shard)
    config = dataclasses.replace(random_t5.CONFIG, **kind)
    params = random_t5.params(config)
    huggingface.export_params(params, config, epath.Path(tmp_path))
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard < 1e6)
    assert huggingface.read_config(epath.Path(tmp_path)) == config
    assert_equal(pretrained.load_params(tmp_path), params)


def test_shards_and_bfloat16(tmp_path):
    folder = a_folder(tmp_path)
    expected = pretrained.load_params(folder)
    split(folder)
    assert_equal(pretrained.load_params(folder), expected)
    half = huggingface_tensors(np.random.default_rng(0))
    half = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in half.items()}
    write_huggingface(tmp_path / "half", half)
    rounded = jax.tree.map(lambda a: a.astype(jnp.bfloat16).astype(np.float32), expected)
    found = pretrained.load_params(tmp_path / "half")
    assert_equal(found, rounded)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}


def test_a_tied_output_that_is_not_scaled(tmp_path):
    """As newer versions write a T5 1.1 that was never trained: the embedding, as it is."""
    tensors = huggingface_tensors(np.random.default_rng(0))
    del tensors["lm_head.weight"]
    settings = {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    write_huggingface(tmp_path / "hf", tensors, **settings)
    params = pretrained.load_params(tmp_path / "hf")
    kernel = params["decoder"]["logits_dense"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["shared.weight"].T)


def test_what_is_taken_is_placed_as_asked(tmp_path):
    """Shapes are enough: nothing is drawn that is read."""
    expected = pretrained.load_params(a_folder(tmp_path))
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), random_t5.params(CONFIG)
    )
    fresh = jax.ShapeDtypeStruct((5, 2), jnp.float32)
    params = pretrained.initial_params(str(tmp_path / "hf"), {**shapes, "head_0": fresh})
    assert params.pop("head_0") is fresh
    assert_equal(params, expected)


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model_type": "bart"},
            r"config\.json is of a model of the type 'bart'.*INITIAL_CHECKPOI",
        ),
        ({"model_type": "umt5"}, "of the type 'umt5'"),
        ({"feed_forward_proj": "gated-silu"}, r"has feed_forward_proj = 'gated-silu'.*'relu'"),
        ({"d_ff": None}, r"config\.json has d_ff = None instead of a whole number"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon = 1e-05, and the models here have"),
        (
            {"tie_word_embeddings": True},
            "says that the output is scaled.*lm_head.weight is another",
        ),
    ],
)
def test_another_family_is_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        pretrained.check(a_folder(tmp_path, **settings))


def test_another_size_is_told_by_gin_s_names(tmp_path):
    ours = dataclasses.replace(CONFIG, emb_dim=8, mlp_activations=("relu",), dtype="bfloat16")
    with pytest.raises(SettingsError) as error:
        pretrained.check(a_folder(tmp_path), ours)
    first, second = error.value.faults
    assert re.match(r"t5.T5Config.emb_dim = 8, but \S+config.json says 5 \(d_model\)", first)
    assert "t5.T5Config.mlp_activations = ('relu',)" in second
    assert "gin/models/from_checkpoint.gin" in second
    pretrained.check(tmp_path / "hf", dataclasses.replace(CONFIG, dropout_rate=0.1))


@pytest.mark.parametrize(("ids", "fits"), [(11, True), (9, True), (12, False)])
def test_the_vocabulary_must_fit(tmp_path, ids, fits):
    folder = a_folder(tmp_path)
    if fits:
        pretrained.check(folder, None, ids)
        return
    with pytest.raises(SettingsError, match="VOCABULARY_PATH has 12 ids.*11 rows"):
        pretrained.check(folder, None, ids)


def test_a_far_smaller_vocabulary_is_another(tmp_path):
    folder = a_folder(tmp_path)
    (folder / "config.json").write_text(json.dumps(SETTINGS | {"vocab_size": 32128}))
    with pytest.raises(SettingsError, match="VOCABULARY_PATH has 1397 ids.*32128 rows"):
        pretrained.check(folder, None, 1397)


@pytest.mark.parametrize(
    "name",
    [
        "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
        "transformer.h.0.attn.weight",
    ],
)
def test_tensors_of_another_model_are_refused(tmp_path, name):
    tensors = huggingface_tensors(np.random.default_rng(0))
    tensors[name] = np.ones((2, 2), np.float32)
    write_huggingface(tmp_path / "hf", tensors)
    with pytest.raises(ValueError, match=f"1 tensors that a T5 doesn't have: {name}"):
        pretrained.load_params(tmp_path / "hf")


def test_pickles_are_refused(tmp_path):
    folder = a_folder(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"pickles.*python -c .*from_pretrained\(.*save_pretrained"
    ):
        pretrained.check(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match=r"has a config\.json but no model\.safetensors"):
        pretrained.check(folder)


def truncated(folder):
    file = folder / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def no_header(folder):
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"\x10")


def lost(folder):
    (folder / "model-00002-of-00002.safetensors").unlink()


def exchanged(folder):
    first, second = (folder / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    second.write_bytes(first.read_bytes())


def no_index(folder):
    (folder / "model.safetensors.index.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (truncated, ValueError, r"model-00002-of-00002.safetensors has \d+ bytes instead of \d+"),
        (no_header, ValueError, "model-00002-of-00002.safetensors is no safetensors file, or cut"),
        (lost, FileNotFoundError, r"index.json names model-00002-of-00002.safetensors, which"),
        (exchanged, ValueError, "says that model-00002-of-00002.safetensors holds .* and it does"),
        (no_index, ValueError, "index.json is no index of safetensors files"),
    ],
)
def test_damaged_files_are_named(tmp_path, damage, error, message):
    folder = a_folder(tmp_path)
    split(folder)
    damage(folder)
    with pytest.raises(error, match=message):
        pretrained.check(folder)


def test_quantised_weights_are_refused(tmp_path):
    tensors = huggingface_tensors(np.random.default_rng(0))
    tensors["shared.weight"] = np.ones((11, 5), np.int8)
    write_huggingface(tmp_path / "hf", tensors)
    with pytest.raises(ValueError, match="holds shared.weight as I8: read are F64"):
        pretrained.load_params(tmp_path / "hf")


@pytest.mark.reference
def test_the_command_that_converts_pickles(tmp_path):
    torch = pytest.importorskip("torch")
    folder = a_folder(tmp_path)
    expected = pretrained.load_params(folder)
    tensors = huggingface_tensors(np.random.default_rng(0))
    tensors |= {f"{stack}.embed_tokens.weight": tensors["shared.weight"] for stack in STACKS}
    (folder / "model.safetensors").unlink()
    loaded = {name: torch.tensor(tensor) for name, tensor in tensors.items()}
    torch.save(loaded, folder / "pytorch_model.bin")
    with pytest.raises(ValueError) as error:
        pretrained.check(folder)
    code = re.search(r'python -c "(.*)"', str(error.value)).group(1)
    subprocess.run([sys.executable, "-c", code], check=True)
    assert_equal(pretrained.load_params(folder), expected)
