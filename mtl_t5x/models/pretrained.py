"""Pretrained T5 weights as our parameter tree: from Hugging Face or T5X.

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
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from mtl_t5x.models import huggingface, t5, t5x_layout
from mtl_t5x.settings import checks
from mtl_t5x.storage import checkpoints, files
from mtl_t5x.storage.tensor_files import Lazy

logger = logging.getLogger(__name__)

Params = Mapping[str, Any]

# The parts of our models that a pretrained T5 has; anything else (task heads) starts fresh.
PARTS = ("token_embedder", "encoder", "decoder")
EMBEDDING, OWN_EMBEDDING = "token_embedder/embedding", "decoder/token_embedder/embedding"
OUTPUT = "decoder/logits_dense/kernel"
VOCABULARY_MULTIPLE = 128  # embeddings have rows for so many ids, and for no further ones

UNDERSTOOD = (
    "a Hugging Face folder (config.json with model.safetensors, or its shards and their index), "
    "a T5X checkpoint folder (checkpoint_<step> with the index file `checkpoint`, or with orbax's "
    "folder `state`), "
    "or a T5X checkpoint in one .msgpack file"
)


def check(path: epath.PathLike, config: t5.T5Config | None = None, ids: int | None = None) -> None:
    """Looks at what INITIAL_CHECKPOINT_PATH names, without reading its parameters.

    Args:
      path: the setting.
      config: of the model, whose sizes a Hugging Face folder's config.json must have.
      ids: how many the vocabulary has; a pretrained embedding must be made for that many.

    Raises:
      FileNotFoundError, ValueError: as `load_params`, or sizes or a vocabulary that don't fit.
    """
    path = files.absolute(path)
    if checkpoints.is_there(path) or _kind(path) != "Hugging Face":
        return
    huggingface.check(path, config)
    rows = huggingface.read_config(path).vocab_size
    if ids is not None and not 0 <= rows - ids < VOCABULARY_MULTIPLE:
        raise checks.SettingsError(
            f"VOCABULARY_PATH has {ids} ids, and the embedding of INITIAL_CHECKPOINT_PATH = "
            f"{str(path)!r} has {rows} rows: write the vocabulary that the checkpoint was trained "
            "with, as VOCABULARY_PATH = the same folder, which holds its spiece.model"
        )


def size(path: str | None, name: str) -> int | bool | tuple[str, ...]:
    """What a Hugging Face folder's config.json says of a setting of `t5.T5Config`.

    Raises:
      SettingsError: the path is none, or names something else.
      ValueError: config.json is not that of a T5.
    """
    folder = None if path is None else files.absolute(path)
    if folder is None or not (folder / huggingface.CONFIG).is_file():
        raise checks.SettingsError(
            f"INITIAL_CHECKPOINT_PATH = {path!r}: the model's sizes are to come from the "
            "config.json in it, so name a Hugging Face folder that has one (for a dry run too), or "
            "include a gin/models file that says the sizes"
        )
    return getattr(huggingface.read_config(folder), name)


def load_params(path: epath.PathLike) -> dict[str, Any]:
    """The parameters of a pretrained T5 under T5X's names, as nested dicts of float32 arrays.

    Args:
      path: a Hugging Face folder, a T5X checkpoint folder, or a T5X .msgpack file. Optimizer
        states are not read.

    Raises:
      FileNotFoundError: nothing is there, or a file of it is absent.
      ValueError: what is there is none of the three, or not a T5.
    """
    return jax.tree.map(_whole, open_params(path))


def open_params(path: epath.PathLike) -> dict[str, Any]:
    """As `load_params`, but each array is read only when `np.asarray` asks for it."""
    path = files.absolute(path)
    return unflatten_dict(_READ[_kind(path)](path), sep="/")


def _whole(array: Any) -> np.ndarray:
    return np.asarray(np.asarray(array), np.float32)


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
    if (path / t5x_layout.ORBAX_FOLDER).is_dir():
        return "T5X by orbax"
    raise ValueError(f"pretrained weights: {path} {_found(path)}. Understood are {UNDERSTOOD}.")


def initial_params(path: str, params: Params) -> Params:
    """`params` with what a checkpoint has of them: ours of any architecture, or a pretrained T5.

    `params` may be shapes with shardings; what the checkpoint doesn't have stays as it is.

    The same architecture gives all parameters. From another one, and from Hugging Face's or T5X's
    files, come the embedding, the encoder and the decoder, which every task's own decoder starts
    from; heads stay as they are.

    Raises:
      FileNotFoundError: nothing there can be read.
      ValueError: the checkpoint's parameters don't fit.
    """
    stored = checkpoints.stored_params(path)
    if stored is None:
        return merge(params, open_params(path))
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
    per task, `[task, …]`, each becomes the pretrained one; embeddings, and output layers where the
    pretrained one is tied, that decoders have of their own become the encoder's embedding. The
    arrays that are taken get the precision and the sharding of those that they replace, one after
    the other; which ones they are is logged.

    Args:
      params: jax arrays, or their shapes.
      pretrained: as `open_params` or `load_params` gives it.

    Raises:
      ValueError: a parameter of these parts is not in `pretrained` or has another shape there, or
        `pretrained` holds more of one of these parts (as further layers) than `params` has.
    """
    ours, theirs = flatten_dict(params, sep="/"), flatten_dict(pretrained, sep="/")
    if OWN_EMBEDDING in ours and EMBEDDING in theirs:
        theirs.setdefault(OWN_EMBEDDING, theirs[EMBEDDING])
    if OUTPUT in ours and EMBEDDING in theirs and any(n.startswith("decoder/") for n in theirs):
        theirs.setdefault(OUTPUT, _output_of(theirs[EMBEDDING]))
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
            + ". Include the gin/models file of the checkpoint's family and size."
        )
    # The largest first: while little else is there, and with no smaller ones between the holes that
    # they leave in this process's memory.
    by_size = sorted(wanted, key=lambda name: (-ours[name].size, name))
    taken = {name: _like(theirs[name], ours[name]) for name in by_size}
    fresh = sorted(set(ours) - wanted)
    logger.info(
        "pretrained weights: %d parameters taken (%s); %d stay as initialised%s",
        len(taken),
        ", ".join(f"{part}/*" for part in parts),
        len(fresh),
        f" ({', '.join(fresh)})" if fresh else "",
    )
    return unflatten_dict({**ours, **taken}, sep="/")


def _fits(name: str, ours: Any, theirs: Any) -> bool:
    per_task = name.startswith("decoder/") and len(ours.shape) == len(theirs.shape) + 1
    return tuple(theirs.shape) == (ours.shape[1:] if per_task else ours.shape)


def _output_of(embedding: Any) -> Lazy:
    """The output layer of a T5 1.0: its embedding, scaled."""
    rows, features = embedding.shape
    scale = np.float32(features**-0.5)
    return Lazy((features, rows), lambda to: np.multiply(_whole(embedding).T, scale, out=to))


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


def _like(new: Any, old: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
    """Waits until it is on its devices: the next one is read when this one's copy here is gone."""
    new = np.asarray(new).astype(old.dtype, copy=False)
    placed = jax.device_put(np.broadcast_to(new, old.shape), old.sharding)
    return placed.block_until_ready()


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


_READ = {
    "msgpack": t5x_layout.read_file,
    "Hugging Face": huggingface.load_params,
    "T5X": t5x_layout.read_folder,
    "T5X by orbax": t5x_layout.read_orbax,
}
