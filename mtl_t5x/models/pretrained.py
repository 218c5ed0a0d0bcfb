"""Pretrained T5 1.1 weights as our parameter tree: from Hugging Face or T5X, and back.

Names are T5X's, so only Hugging Face's need a table. Its kernels are `[outputs, inputs]` and its
relative bias is `[buckets, heads]`: both are transposed; norm scales and the embedding are not.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import tensorstore
from etils import epath
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

from mtl_t5x.models import huggingface
from mtl_t5x.storage import checkpoints, files

logger = logging.getLogger(__name__)

Params = Mapping[str, Any]

# The parts of our models that a pretrained T5 has; anything else (task heads) starts fresh.
PARTS = ("token_embedder", "encoder", "decoder")
EMBEDDING, OWN_EMBEDDING = "token_embedder/embedding", "decoder/token_embedder/embedding"

UNDERSTOOD = (
    "a Hugging Face folder (config.json with model.safetensors or pytorch_model.bin), "
    "a T5X checkpoint folder (checkpoint_<step> with the index file `checkpoint`), "
    "or a T5X checkpoint in one .msgpack file"
)


def check(path: epath.PathLike) -> None:
    """Looks at what INITIAL_CHECKPOINT_PATH names, without reading its parameters.

    Raises:
      FileNotFoundError, ValueError, ImportError: as `load_params`, where that shows already.
    """
    path = files.absolute(path)
    if not checkpoints.is_there(path) and _kind(path) == "Hugging Face":
        huggingface.check(path)


def load_params(path: epath.PathLike) -> dict[str, Any]:
    """The parameters of a pretrained T5 1.1 under T5X's names, as nested dicts of float32 arrays.

    Args:
      path: a Hugging Face folder, a T5X checkpoint folder, or a T5X .msgpack file. Optimizer
        states are not read.

    Raises:
      FileNotFoundError: nothing is there.
      ValueError: what is there is none of the three, or not a T5 1.1.
      ImportError: the package that reads this format is not installed.
    """
    path = files.absolute(path)
    flat = _READ[_kind(path)](path)
    return unflatten_dict({n: np.asarray(a, np.float32) for n, a in flat.items()}, sep="/")


def _kind(path: epath.Path) -> str:
    """A key of `_READ`."""
    if not path.exists():
        raise FileNotFoundError(
            f"pretrained weights: {path} does not exist. Set INITIAL_CHECKPOINT_PATH to the "
            f"path of {UNDERSTOOD}; names on a hub are not downloaded."
        )
    if path.is_file() and path.suffix == ".msgpack":
        return "msgpack"
    if (path / "config.json").is_file():
        return "Hugging Face"
    if (path / "checkpoint").is_file():
        return "T5X"
    raise ValueError(f"pretrained weights: {path} {_found(path)}. Understood are {UNDERSTOOD}.")


def initial_params(path: str, params: Params) -> Params:
    """`params` with what a checkpoint has of them: ours of any architecture, or a pretrained T5.

    The same architecture gives all parameters. From another one, and from Hugging Face's or T5X's
    files, come the embedding, the encoder and the decoder, which every task's own decoder starts
    from; heads stay as they are.

    Raises:
      FileNotFoundError: nothing there can be read.
      ValueError: the checkpoint's parameters don't fit.
    """
    stored = checkpoints.stored_params(path)
    if stored is None:
        return merge(params, load_params(path))
    if _shapes(stored) == _shapes(params):
        return checkpoints.restore_params(path, params)[0]
    loaded, _ = checkpoints.restore_params(path, stored)
    parts = {name: loaded[name] for name in PARTS if name in loaded}
    return merge(params, jax.tree.map(np.asarray, parts))


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in flatten_dict(params, sep="/").items()}


def merge(params: Params, pretrained: Params) -> dict[str, Any]:
    """`params` with the encoder, decoder and embedding taken from `pretrained`.

    Parameters outside these parts, as task heads, stay as they are. Where the model has a decoder
    per task, `[task, …]`, each becomes the pretrained one; embeddings that decoders have of their
    own become the encoder's. The arrays that are taken get the precision and the sharding of those
    that they replace; which ones they are is logged.

    Args:
      params: initialised parameters, jax arrays.
      pretrained: as `load_params` gives it.

    Raises:
      ValueError: a parameter of these parts is not in `pretrained` or has another shape there, or
        `pretrained` holds more of one of these parts (as further layers) than `params` has.
    """
    ours, theirs = flatten_dict(params, sep="/"), flatten_dict(pretrained, sep="/")
    if OWN_EMBEDDING in ours and EMBEDDING in theirs:
        theirs.setdefault(OWN_EMBEDDING, theirs[EMBEDDING])
    wanted = {name for name in ours if name.split("/")[0] in PARTS}
    parts = sorted({name.split("/")[0] for name in wanted})
    missing = sorted(wanted - set(theirs))
    unused = sorted(name for name in set(theirs) - wanted if name.split("/")[0] in parts)
    misshaped = [
        f"{name} (here {tuple(ours[name].shape)}, pretrained {tuple(theirs[name].shape)})"
        for name in sorted(wanted & set(theirs))
        if not _fits(name, ours[name], theirs[name])
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
        for what, names in (
            ("not in the checkpoint", missing),
            ("of another shape", misshaped),
            ("in the checkpoint only", unused),
        )
        if names
    ]
    _check_decoder(ours, theirs)
    if problems:
        raise ValueError(
            "the pretrained weights don't fit the model; parameters "
            + "; ".join(problems)
            + ". Choose the gin/models file of the checkpoint's size."
        )
    taken = {name: _like(theirs[name], ours[name]) for name in wanted}
    fresh = sorted(set(ours) - wanted)
    logger.info(
        "pretrained weights: %d parameters taken (%s); %d stay as initialised%s",
        len(taken),
        ", ".join(f"{part}/*" for part in parts),
        len(fresh),
        f" ({', '.join(fresh)})" if fresh else "",
    )
    return unflatten_dict({**ours, **taken}, sep="/")


def _fits(name: str, ours: jax.Array, theirs: np.ndarray) -> bool:
    per_task = name.startswith("decoder/") and ours.ndim == theirs.ndim + 1
    return theirs.shape == (ours.shape[1:] if per_task else ours.shape)


def _check_decoder(ours: Params, theirs: Params) -> None:
    """Tells a checkpoint of another architecture from one of another size."""
    decoder = [name for name in ours if name.startswith("decoder/")]
    found = ""
    if decoder and not any(name.startswith("decoder/") for name in theirs):
        found = "no decoder, as canonical has where every task has a head"
    for name in decoder:
        if name in theirs and _has_task_axis(name, ours, theirs):
            found = (
                f"a decoder for each of {theirs[name].shape[0]} tasks (text_to_text_id, canonical)"
            )
    if found:
        raise ValueError(
            f"the checkpoint has {found}, and this model needs one that all its decoders start "
            "from. Set INITIAL_CHECKPOINT_PATH to a checkpoint of the architecture text_to_text or "
            "of a pretrained T5, or keep the checkpoint's architecture and tasks"
        )


def _has_task_axis(name: str, ours: Params, theirs: Params) -> bool:
    """Whether the checkpoint's decoder is of other tasks, or of tasks where ours is of all."""
    if not name.startswith("decoder/") or theirs[name].shape == ours[name].shape:
        return False
    as_ours = theirs[name].shape[1:]
    return as_ours in (ours[name].shape, ours[name].shape[1:])


def _like(new: np.ndarray, old: jax.Array) -> jax.Array:
    return jax.device_put(np.broadcast_to(new.astype(old.dtype), old.shape), old.sharding)


def _found(path: epath.Path) -> str:
    """What lies at a path that isn't understood, for its error message."""
    if path.is_file():
        return f"is a file of the type {path.suffix or 'without suffix'!r}"
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        return "is an empty folder"
    steps = [name for name in names if re.fullmatch(r"checkpoint_\d+", name)]
    if steps:
        return f"is a folder of checkpoints: name one of them, as {path / steps[-1]}"
    return f"is a folder that holds {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"


def _read_msgpack(path: epath.Path) -> Params:
    try:
        return serialization.msgpack_restore(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not a msgpack file: {error}") from error


def _flatten_t5x(checkpoint: Params, path: epath.Path) -> dict[str, Any]:
    """The parameters (`optimizer/target`) by name; array specifications stay unread."""
    if not isinstance(checkpoint, Mapping) or "target" not in checkpoint.get("optimizer", {}):
        raise ValueError(f"{path} is not a T5X checkpoint: it has no entry optimizer/target")
    flat = flatten_dict(
        checkpoint["optimizer"]["target"], sep="/", is_leaf=lambda _, node: "kvstore" in node
    )
    if not flat:
        raise ValueError(f"{path} holds no parameters: its entry optimizer/target is empty")
    return flat


def _read_t5x_folder(folder: epath.Path) -> dict[str, np.ndarray]:
    """Large arrays are zarr folders that the index specifies, small ones lie in the index."""
    flat = _flatten_t5x(_read_msgpack(folder / "checkpoint"), folder / "checkpoint")
    opened = {
        name: _open_zarr(folder, leaf) if isinstance(leaf, Mapping) else leaf
        for name, leaf in flat.items()
    }
    reads = {
        name: leaf.read() if isinstance(leaf, tensorstore.TensorStore) else leaf
        for name, leaf in opened.items()
    }
    return {
        name: read.result() if isinstance(read, tensorstore.Future) else read
        for name, read in reads.items()
    }


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


_READ = {
    "msgpack": lambda path: _flatten_t5x(_read_msgpack(path), path),
    "Hugging Face": huggingface.load_params,
    "T5X": _read_t5x_folder,
}
