"""Checkpoints in T5X's layouts: a folder `checkpoint_<step>`, or one .msgpack file.

The folder's file `checkpoint` is an index in msgpack, which holds small arrays itself and says of
others which zarr folder beside it they lie in. T5X reads such folders, and writes them with
`train.use_orbax = False`; by default it writes orbax's, `checkpoint_<step>/state`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from etils import epath
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from mtl_t5x.storage.tensor_files import Lazy

Params = Mapping[str, Any]
INDEX = "checkpoint"
ORBAX_FOLDER = "state"
_VERSION = 3  # of T5X's layout
_CHUNK_BYTES = 1 << 26


def read_file(path: epath.Path) -> dict[str, np.ndarray]:
    """The parameters by name.

    Raises:
      ValueError: it is no such checkpoint, or holds no parameters.
    """
    return _flatten(_read_index(path), path)


def read_folder(folder: epath.Path) -> dict[str, np.ndarray | tensorstore.TensorStore]:
    """The parameters by name; large ones are read when `np.asarray` asks for them.

    Raises:
      FileNotFoundError: the index names an array that isn't there.
      ValueError: it is no such checkpoint, or holds no parameters.
    """
    flat = _flatten(_read_index(folder / INDEX), folder / INDEX)
    return {
        name: _open_zarr(folder, leaf) if isinstance(leaf, Mapping) else leaf
        for name, leaf in flat.items()
    }


def read_orbax(folder: epath.Path) -> dict[str, Lazy]:
    """The parameters by name; each is read when `np.asarray` asks for it.

    Raises:
      ValueError: it is no checkpoint of T5X, or not whole.
    """
    state = folder / ORBAX_FOLDER
    try:
        stored = dict(ocp.PyTreeCheckpointHandler().metadata(state))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is no whole checkpoint of orbax: {error}") from error
    if not stored.get("target"):
        raise ValueError(f"{folder} is not a T5X checkpoint: its {ORBAX_FOLDER} has no target")

    def read(name: str, of: Any, into: np.ndarray) -> None:
        wanted = {"target": unflatten_dict({name: jax.ShapeDtypeStruct(of.shape, of.dtype)}, "/")}
        whole = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        args = ocp.args.PyTreeRestore(wanted, restore_args=whole, partial_restore=True)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            found = checkpointer.restore(state, args=args)
        (into[...],) = jax.tree.leaves(found)

    flat = flatten_dict(stored["target"], sep="/")
    return {name: Lazy(tuple(of.shape), partial(read, name, of)) for name, of in flat.items()}


def write_folder(folder: epath.Path, params: Params, step: int) -> None:
    """Writes float32 parameters as T5X does, without the states of an optimizer."""
    target = {}
    for name, array in flatten_dict(params, sep="/").items():
        array = np.asarray(array, np.float32)
        if array.ndim > 1:
            array = _write_zarr(folder, f"target.{name.replace('/', '.')}", array)
        target[name] = array
    state = {"step": np.int32(step), "param_states": {}}
    optimizer = {"target": unflatten_dict(target, sep="/"), "state": state}
    index = {"version": _VERSION, "optimizer": optimizer}
    (folder / INDEX).write_bytes(serialization.msgpack_serialize(index))


def _write_zarr(folder: epath.Path, name: str, array: np.ndarray) -> dict[str, Any]:
    """What the index says of the array."""
    rows = max(1, _CHUNK_BYTES // array[0].nbytes)
    metadata = {
        "shape": list(array.shape),
        "chunks": [min(rows, array.shape[0]), *array.shape[1:]],
        "compressor": {"id": "gzip", "level": 1},
    }
    spec = {"driver": "zarr", "dtype": "float32", "metadata": metadata}
    store = {**spec, "kvstore": f"{(folder / name).as_uri()}/"}
    tensorstore.open(store, create=True).result().write(array).result()
    return {**spec, "kvstore": {"driver": "gfile", "path": f"{name}/"}}


def _read_index(path: epath.Path) -> Params:
    try:
        return serialization.msgpack_restore(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a msgpack file: {error}") from error


def _flatten(checkpoint: Params, path: epath.Path) -> dict[str, Any]:
    """The parameters (`optimizer/target`) by name; array specifications stay unread."""
    if not isinstance(checkpoint, Mapping) or "target" not in checkpoint.get("optimizer", {}):
        raise ValueError(f"{path} is not a T5X checkpoint: it has no entry optimizer/target")
    flat = flatten_dict(
        checkpoint["optimizer"]["target"], sep="/", is_leaf=lambda _, node: "kvstore" in node
    )
    if not flat:
        raise ValueError(f"{path} holds no parameters: its entry optimizer/target is empty")
    return flat


def _open_zarr(folder: epath.Path, leaf: Params) -> tensorstore.TensorStore:
    """Opens one array by the index's own metadata, so a copy that lost its dot files will do."""
    array = folder / epath.Path(leaf["kvstore"]["path"]).name
    if not array.is_dir():
        raise FileNotFoundError(f"{folder / 'checkpoint'} names {array}, which does not exist")
    spec = {
        "driver": "zarr",
        "dtype": leaf["dtype"],
        "kvstore": f"{array.as_uri()}/",
        "metadata": leaf["metadata"],
        "fill_missing_data_reads": False,
    }
    return tensorstore.open(spec, open=True, assume_metadata=True).result()
