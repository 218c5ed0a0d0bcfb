"""Pretrained weights: every format that is read, what is refused, and the way back."""

import gzip
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from mtl_t5x.models import pretrained, t5, t5x_layout
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


def test_a_folder_that_is_written(tmp_path):
    """Weights in and out again, whichever way, are bit-equal."""
    params = random_t5.params()
    t5x_layout.write_folder(tmp_path, params, step=7)
    assert_equal(pretrained.load_params(tmp_path), params)
    index = serialization.msgpack_restore((tmp_path / "checkpoint").read_bytes())
    assert index["optimizer"]["state"]["step"] == 7


def test_t5x_folder_in_bfloat16(tmp_path):
    array = np.linspace(-1, 1, 12).reshape(4, 3)
    leaf = write_array(tmp_path, "target.x", array, dtype="bfloat16")
    index = {"version": 3, "optimizer": {"target": {"x": leaf}, "state": {}}}
    (tmp_path / "checkpoint").write_bytes(serialization.msgpack_serialize(index))
    loaded = pretrained.load_params(tmp_path)["x"]
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, array.astype(jnp.bfloat16).astype(np.float32))


def write_t5x_by_orbax(folder, params):
    """As T5X's checkpoint manager does: its state is `target` and the optimizer's `state`."""
    options = ocp.CheckpointManagerOptions(step_prefix="checkpoint", create=True)
    handlers = {"state": ocp.PyTreeCheckpointHandler(use_ocdbt=True)}
    state = {"target": params, "state": {"step": np.int32(7), "param_states": {"0": params}}}
    with ocp.CheckpointManager(folder, options=options, item_handlers=handlers) as manager:
        manager.save(7, args=ocp.args.Composite(state=ocp.args.PyTreeSave(state)))
    return folder / "checkpoint_7"


def test_t5x_by_orbax(tmp_path):
    params = random_t5.params()
    checkpoint = write_t5x_by_orbax(tmp_path, params)
    assert_equal(pretrained.load_params(checkpoint), params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert_equal(pretrained.initial_params(str(checkpoint), zeros), params)
    with pytest.raises(ValueError, match="is a folder of checkpoints: name one of them"):
        pretrained.initial_params(str(tmp_path), zeros)


def test_another_program_s_checkpoint(tmp_path):
    checkpoint = write_t5x_by_orbax(tmp_path, {})
    with pytest.raises(ValueError, match="not a T5X checkpoint: its state has no target"):
        pretrained.load_params(checkpoint)
    shutil.rmtree(checkpoint / "state")
    (checkpoint / "state").mkdir()
    with pytest.raises(ValueError, match="no whole checkpoint of orbax"):
        pretrained.load_params(checkpoint)


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
        (["a.msgpack"], "a.msgpack", "is not a msgpack file"),
    ],
)
def test_path_that_is_not_understood(tmp_path, files, path, message):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}")
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
