"""Pretrained weights: every format that is read, what is refused, and the way back."""

import gzip
import json
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from mtl_t5x.models import architectures, huggingface, pretrained, t5
from tests import random_t5

TINY_T5X = t5.T5Config(
    vocab_size=32128,
    emb_dim=8,
    num_heads=4,
    num_encoder_layers=2,
    num_decoder_layers=2,
    head_dim=3,
    mlp_dim=16,
)


def assert_equal(actual, expected):
    actual, expected = flatten_dict(actual, sep="/"), flatten_dict(expected, sep="/")
    assert set(actual) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(actual[name], np.asarray(expected[name]), err_msg=name)


def write_array(folder, name, array, dtype="float32", chunks=None):
    """An array as T5X writes it, and its entry in the index."""
    metadata = {
        "shape": list(array.shape),
        "chunks": list(chunks or array.shape),
        "compressor": {"id": "gzip", "level": 1},
    }
    spec = {"driver": "zarr", "dtype": dtype, "metadata": metadata}
    kvstore = {"driver": "file", "path": f"{folder / name}/"}
    store = tensorstore.open({**spec, "kvstore": kvstore}, create=True, open=True).result()
    store.write(array.astype(store.dtype.numpy_dtype)).result()
    return {**spec, "kvstore": {"driver": "gfile", "path": f"{name}/"}}


def write_t5x(folder, params):
    """A T5X checkpoint: large arrays in folders, norm scales in the index, Adam states lost."""
    folder.mkdir()
    target = {}
    for name, array in flatten_dict(params, sep="/").items():
        array = np.asarray(array)
        if array.ndim > 1:
            chunks = (array.shape[0] // 2, array.shape[1])
            array = write_array(folder, f"target.{name.replace('/', '.')}", array, chunks=chunks)
        target[name] = array
    target = unflatten_dict(target, sep="/")
    lost = {"driver": "zarr", "dtype": "float32", "kvstore": {"path": "state.m/"}, "metadata": {}}
    index = {
        "version": 3,
        "optimizer": {"target": target, "state": {"step": np.int32(7), "param_states": lost}},
    }
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(index))


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
    save_file = pytest.importorskip("safetensors.numpy").save_file
    folder.mkdir()
    settings = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, **settings}
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "model.safetensors")


# T5X


def test_t5x_msgpack_has_the_names_and_shapes_of_our_model(shared):
    path = shared / "data/checkpoints/t5x_tiny_t5.msgpack"
    params = pretrained.load_params(path)
    ours = random_t5.params(TINY_T5X)
    assert {n: a.shape for n, a in flatten_dict(params, sep="/").items()} == {
        n: a.shape for n, a in flatten_dict(ours, sep="/").items()
    }
    raw = serialization.msgpack_restore(path.read_bytes())["optimizer"]["target"]
    assert_equal(params, raw)
    assert all(a.dtype == np.float32 for a in jax.tree.leaves(params))


def test_t5x_folder(tmp_path):
    params = random_t5.params()
    folder = tmp_path / "checkpoint_7"
    write_t5x(folder, params)
    assert_equal(pretrained.load_params(folder), params)
    for hidden in folder.rglob(".zarray"):
        hidden.unlink()
    assert_equal(pretrained.load_params(folder), params)


def test_t5x_folder_in_bfloat16(tmp_path):
    array = np.linspace(-1, 1, 12).reshape(4, 3)
    leaf = write_array(tmp_path, "target.x", array, dtype="bfloat16")
    index = {"version": 3, "optimizer": {"target": {"x": leaf}, "state": {}}}
    (tmp_path / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
    loaded = pretrained.load_params(tmp_path)["x"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, array.astype(jnp.bfloat16).astype(np.float32))


def test_t5x_folder_that_is_not_whole(tmp_path):
    params = random_t5.params()
    folder = tmp_path / "checkpoint_7"
    write_t5x(folder, params)
    (folder / "target.token_embedder.embedding" / "1.0").unlink()
    with pytest.raises(ValueError, match=r"embedding.*missing"):
        pretrained.load_params(folder)
    shutil.rmtree(folder / "target.token_embedder.embedding")
    with pytest.raises(FileNotFoundError, match=r"names .*target\.token_embedder\.embedding"):
        pretrained.load_params(folder)


def test_arrays_that_t5x_itself_wrote(shared, tmp_path):
    """The sample's arrays are optimizer states: its index is changed to call them parameters."""
    sample = shared / "data/checkpoints/t5x_layout_sample/checkpoint_1"
    with pytest.raises(
        ValueError, match="holds no parameters: its entry optimizer/target is empty"
    ):
        pretrained.load_params(sample)
    folder = tmp_path / "checkpoint_1"
    folder.mkdir()
    for name in ("bias", "kernel"):
        shutil.copytree(
            sample / f"state.param_states.{name}", folder / f"state.param_states.{name}"
        )
    index = serialization.msgpack_restore((sample / "checkpoint").read_bytes())
    states = index["optimizer"]["state"]["param_states"]
    index["optimizer"]["target"] = {"bias": states["bias"], "kernel": states["kernel"]}
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
    params = pretrained.load_params(folder)
    raw = gzip.decompress((folder / "state.param_states.kernel/0.0").read_bytes())
    expected = np.frombuffer(raw, "<f8").reshape(10, 5).astype(np.float32)
    np.testing.assert_array_equal(params["kernel"], expected)
    raw = gzip.decompress((folder / "state.param_states.bias/0").read_bytes())
    np.testing.assert_array_equal(params["bias"], np.frombuffer(raw, "<f4"))


# Hugging Face


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
    config = t5.T5Config(11, 5, 1, 1, 1, 3, 7, relpos_buckets=4)
    ours = random_t5.params(config)
    assert_equal(
        pretrained.merge(ours, unflatten_dict(params, sep="/")), unflatten_dict(params, sep="/")
    )


def test_export_and_back(tmp_path):
    pytest.importorskip("safetensors")
    params = random_t5.params()
    huggingface.export_params(params, random_t5.CONFIG, tmp_path / "a" / "b")
    assert_equal(pretrained.load_params(tmp_path / "a" / "b"), params)


def test_huggingface_without_safetensors(tmp_path, monkeypatch):
    write_huggingface(tmp_path / "hf", huggingface_tensors(np.random.default_rng(0)))
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match="needs the package safetensors: pip install safetensors"):
        pretrained.load_params(tmp_path / "hf")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"feed_forward_proj": "relu"}, r"config\.json has feed_forward_proj = 'relu'.*T5 1\.1"),
        ({"tie_word_embeddings": True}, r"ties the output to the embedding.*T5 1\.0"),
    ],
)
def test_t5_1_0_is_refused(tmp_path, settings, message):
    write_huggingface(tmp_path / "hf", huggingface_tensors(np.random.default_rng(0)), **settings)
    with pytest.raises(ValueError, match=message):
        pretrained.load_params(tmp_path / "hf")


@pytest.mark.parametrize(
    "name",
    [
        "encoder.block.0.layer.1.DenseReluDense.wi.weight",
        "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
        "transformer.h.0.attn.weight",
    ],
)
def test_tensors_of_another_model_are_refused(tmp_path, name):
    tensors = huggingface_tensors(np.random.default_rng(0))
    tensors[name] = np.ones((2, 2), np.float32)
    write_huggingface(tmp_path / "hf", tensors)
    with pytest.raises(ValueError, match=f"1 tensors that a T5 1.1 doesn't have: {name}"):
        pretrained.load_params(tmp_path / "hf")


@pytest.mark.reference
def test_pytorch_bin(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = huggingface_tensors(np.random.default_rng(0))
    write_huggingface(tmp_path / "hf", tensors)
    expected = pretrained.load_params(tmp_path / "hf")
    (tmp_path / "hf/model.safetensors").unlink()
    names = sorted(tensors)
    for i, part in enumerate((names[:9], names[9:]), start=1):  # shards, as large models have
        loaded = {name: torch.tensor(tensors[name]) for name in part}
        torch.save(loaded, tmp_path / f"hf/pytorch_model-0000{i}-of-00002.bin")
    assert_equal(pretrained.load_params(tmp_path / "hf"), expected)


@pytest.mark.reference
def test_exported_folder_in_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, params = architectures.TextToText(random_t5.CONFIG), random_t5.params()
    huggingface.export_params(params, random_t5.CONFIG, tmp_path)
    reference = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    rng = np.random.default_rng(0)
    inputs = random_t5.ids(rng, [30, 20, 5], 30)
    decoder_inputs = random_t5.ids(rng, [9, 9, 9], 9)
    with torch.no_grad():
        expected = reference(
            input_ids=torch.tensor(np.asarray(inputs)),
            attention_mask=torch.tensor(np.asarray(inputs != 0)),
            decoder_input_ids=torch.tensor(np.asarray(decoder_inputs)),
        ).logits
    logits = model.apply({"params": params}, inputs, decoder_inputs, method="logits")
    np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=1e-4)


# What is refused


def test_absent_path(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist. Set INITIAL_CHECKPOINT_PATH"):
        pretrained.load_params(tmp_path / "google/t5-v1_1-small")


@pytest.mark.parametrize(
    ("files", "path", "message"),
    [
        ([], "", "is an empty folder. Understood are a Hugging Face folder"),
        (["notes.txt"], "", "is a folder that holds notes.txt"),
        (["notes.txt"], "notes.txt", "is a file of the type '.txt'"),
        (["checkpoint_9/checkpoint"], "", r"a folder of checkpoints: name one.*checkpoint_9\. "),
        (["config.json"], "", r"has a config\.json but no model\.safetensors"),
        (["a.msgpack"], "a.msgpack", "is not a msgpack file"),
    ],
)
def test_path_that_is_not_understood(tmp_path, files, path, message):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        text = '{"feed_forward_proj": "gated-gelu", "tie_word_embeddings": false}'
        (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        pretrained.load_params(tmp_path / path)


def test_msgpack_of_something_else(tmp_path):
    (tmp_path / "a.msgpack").write_bytes(serialization.msgpack_serialize({"params": {}}))
    with pytest.raises(ValueError, match="a.msgpack is not a T5X checkpoint"):
        pretrained.load_params(tmp_path / "a.msgpack")


# Merging


def test_merge_leaves_task_heads(caplog):
    params = random_t5.params()
    other = random_t5.params(seed=1)
    head = {"kernel": jnp.ones((32, 2))}
    with caplog.at_level("INFO"):
        merged = pretrained.merge({**params, "heads": {"cola": head}}, jax.device_get(other))
    assert_equal(merged, {**other, "heads": {"cola": head}})
    assert all(isinstance(a, jax.Array) for a in jax.tree.leaves(merged))
    assert "43 parameters taken (decoder/*, encoder/*, token_embedder/*)" in caplog.text
    assert "1 stay as initialised (heads/cola/kernel)" in caplog.text
    assert {record.name for record in caplog.records} == {"mtl_t5x.models.pretrained"}


def test_merge_without_a_decoder_of_ours():
    params = random_t5.params()
    other = random_t5.params(seed=1)
    del params["decoder"]
    merged = pretrained.merge(params, jax.device_get(other))
    assert_equal(merged, {name: other[name] for name in ("encoder", "token_embedder")})


def test_merge_starts_every_tasks_decoder_equal():
    params, other = random_t5.params(), random_t5.params(seed=1)
    params["decoder"] = jax.tree.map(lambda a: jnp.stack([a, 2 * a, 3 * a]), params["decoder"])
    merged = pretrained.merge(params, jax.device_get(other))
    for task in range(3):
        decoder = jax.tree.map(lambda a, task=task: a[task], merged["decoder"])
        assert_equal({**merged, "decoder": decoder}, other)
    params["encoder"] = jax.tree.map(lambda a: a[None], params["encoder"])
    with pytest.raises(ValueError, match="11 of another shape: encoder/encoder_norm/scale"):
        pretrained.merge(params, jax.device_get(other))


def test_merge_lists_what_does_not_fit():
    params = random_t5.params()
    other = jax.device_get(params)
    other["encoder"]["layers_1"] = {"mlp": {"wo": {"kernel": np.ones((2, 2), np.float32)}}}
    del other["decoder"]["layers_1"]
    other["token_embedder"]["embedding"] = np.ones((64, 32), np.float32)
    with pytest.raises(ValueError) as error:
        pretrained.merge(params, other)
    message = str(error.value)
    assert "14 not in the checkpoint: decoder/layers_1/encoder_decoder_attention/key" in message
    assert message.count("decoder/layers_1") == 5
    assert (
        "1 of another shape: token_embedder/embedding (here (96, 32), pretrained (64, 32))"
        in message
    )
    assert "1 in the checkpoint only: encoder/layers_1/mlp/wo/kernel" in message


@pytest.mark.parametrize("tasks", [0, 3])
def test_a_checkpoint_of_another_architecture_is_told_from_one_of_another_size(tasks):
    """Its decoders are of other tasks, or it has none."""
    params = random_t5.params()

    def decoders(count):
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * count), params["decoder"])

    theirs = {**params, "decoder": decoders(tasks) if tasks else {}}
    ours = {**params, "decoder": decoders(2)}
    message = "a decoder for each of 3 tasks" if tasks else "no decoder"
    for model in (params, ours):
        with pytest.raises(ValueError, match=f"has {message}.*INITIAL_CHECKPOINT_PATH"):
            pretrained.merge(model, theirs)
