"""Checkpoints by orbax: `checkpoint_<step>/state` in the run's folder, with hashes of its files."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.training.train_state import TrainState
from jax.experimental import multihost_utils

from mtl_t5x.models import pretrained
from mtl_t5x.storage import manifest, paths

logger = logging.getLogger(__name__)

PREFIX = "checkpoint"
DAMAGED = "damaged_"  # before the name of a checkpoint that was put aside


@dataclasses.dataclass(frozen=True)
class Settings:
    """When checkpoints are written, and which stay.

    Attributes:
      period: steps between checkpoints; 0: at the end only.
      keep: how many of the last ones stay; None: all.
      keep_period: besides these, those of steps that it divides stay; None: no others.
      asynchronous: goes on training while a checkpoint is written. A crash then costs the steps
        since the one before, up to twice the period; else never more than the period, and the
        training waits for the disk.
    """

    period: int = 0
    keep: int | None = None
    keep_period: int | None = None
    asynchronous: bool = False


def manager(model_dir: str, settings: Settings = Settings()) -> ocp.CheckpointManager:
    """Saves in the background. What an earlier attempt didn't finish saving is deleted."""
    folder = paths.absolute(model_dir)

    def hash_files() -> None:
        # Called in the background, when all files are there under a temporary name.
        if jax.process_index() == 0:
            for path in folder.glob(f"{PREFIX}_*"):
                if not manifest.exists(path) and (path / "state").exists():
                    manifest.write(path, committed=False)

    if jax.process_index() == 0:
        # Orbax's own cleaning takes any other folder of object storage for an unfinished one.
        for path in folder.glob(f"{PREFIX}_[0-9]*"):
            if path.is_dir() and not ocp.utils.is_checkpoint_finalized(path):
                path.rmtree()
    options = ocp.CheckpointManagerOptions(
        step_prefix=PREFIX,
        max_to_keep=settings.keep,
        keep_period=settings.keep_period,
        create=True,
        enable_async_checkpointing=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=hash_files),
    )
    # Parameters hardly get smaller, and trying to takes three quarters of the time of a save.
    handler = ocp.PyTreeCheckpointHandler(use_compression=False)
    return ocp.CheckpointManager(folder, options=options, item_handlers={"state": handler})


def _tree(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}


def save(checkpoints: ocp.CheckpointManager, state: TrainState) -> None:
    """Writes the state under its own step; returns while the disk is still busy.

    Raises:
      OSError: this or the last save failed, as on a full disk; what was saved before stays.
    """
    step = int(state.step)
    if step not in checkpoints.all_steps():
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(_tree(state)))
        finish(checkpoints)
        with _Writing(checkpoints):
            checkpoints.save(step, args=args, force=True)


def check(checkpoints: ocp.CheckpointManager) -> None:
    """Raises OSError if a save in the background has failed."""
    with _Writing(checkpoints):
        checkpoints.check_for_errors()


def finish(checkpoints: ocp.CheckpointManager) -> None:
    """Waits until the disk has everything; raises OSError if it won't."""
    with _Writing(checkpoints):
        checkpoints.wait_until_finished()
        checkpoints.check_for_errors()
        newest = checkpoints.directory / f"{PREFIX}_{checkpoints.latest_step()}"
        if jax.process_index() == 0 and manifest.exists(newest):
            manifest.write(newest, committed=True)


class _Writing:
    """Orbax and TensorStore raise many kinds of errors for what is wrong with a disk."""

    def __init__(self, checkpoints: ocp.CheckpointManager):
        self._folder = checkpoints.directory

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, traceback) -> None:
        if isinstance(error, Exception):
            raise OSError(
                f"no checkpoint could be written to {self._folder}: {str(error).splitlines()[0]}. "
                "Those that were written before are good"
            ) from error


def restore_latest(checkpoints: ocp.CheckpointManager, state: TrainState) -> TrainState | None:
    """The newest good state in the run's folder, placed as `state`; None where there is none yet.

    A checkpoint with a damaged file is put aside under another name, and the one before is used.

    Raises:
      ValueError: there are checkpoints, but all are damaged, or they are of another model.
    """
    steps = sorted(checkpoints.all_steps(), reverse=True)
    step = _newest_good(checkpoints.directory, steps)
    if step is None:
        return None
    if step != steps[0]:
        _put_aside(checkpoints, [newer for newer in steps if newer > step])
    return state.replace(**_restored(checkpoints, step, _tree(state)))


def _restored(checkpoints: ocp.CheckpointManager, step: int, wanted: Any) -> Any:
    """Those items of a checkpoint that `wanted` holds, placed as there.

    Raises:
      ValueError: the items hold other arrays, or of other shapes.
    """
    path = checkpoints.directory / f"{PREFIX}_{step}"
    there = _shapes({item: tree for item, tree in _stored(path).items() if item in wanted})
    here = _shapes(wanted)
    if differ := sorted(name for name in there | here if there.get(name) != here.get(name)):
        shown = [
            f"{name} ({there.get(name, 'none')}, now {here.get(name, 'none')})" for name in differ
        ]
        raise ValueError(
            f"{path} is of another model or optimizer: {len(differ)} arrays differ in shape, as "
            f"{'; '.join(shown[:3])}. Set what it was trained with, or give another MODEL_DIR; "
            "INITIAL_CHECKPOINT_PATH starts another model from its parameters"
        )
    abstract = _abstract(wanted)
    args = ocp.args.PyTreeRestore(
        abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=True,
    )
    return checkpoints.restore(step, args=ocp.args.Composite(state=args))["state"]


def _stored(path: epath.Path) -> dict[str, Any]:
    """What a checkpoint holds, with the shape and the type of every array."""
    return dict(ocp.PyTreeCheckpointHandler().metadata(path / "state"))


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _abstract(tree: Any) -> Any:
    """Shapes, types and places; what has no place comes whole to a device of this process."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            np.shape(leaf), jnp.result_type(leaf), sharding=getattr(leaf, "sharding", None) or here
        ),
        tree,
    )


def _newest_good(folder: epath.Path, steps: Iterable[int]) -> int | None:
    """The first of the steps whose files are all as they were written; None: there are no steps."""
    found = []
    for step in steps:
        path = folder / f"{PREFIX}_{step}"
        if not manifest.exists(path):
            logger.warning("%s has no %s: it can't be checked", path, manifest.FILE)
            return step
        damage = manifest.damage(path)
        if damage is None:
            return step
        found.append(damage)
        logger.error("%s: that checkpoint isn't used", damage)
    if found:
        raise ValueError(f"no good checkpoint is left in {folder}: {'; '.join(found)}")
    return None


def _put_aside(checkpoints: ocp.CheckpointManager, steps: Iterable[int]) -> None:
    multihost_utils.sync_global_devices("every process has looked at the checkpoints")
    for step in steps:
        path = checkpoints.directory / f"{PREFIX}_{step}"
        if jax.process_index() == 0:
            aside = path.parent / f"{DAMAGED}{path.name}"
            if aside.exists():
                aside.rmtree()
            path.rename(aside)
    multihost_utils.sync_global_devices("damaged checkpoints are put aside")
    checkpoints.reload()


def restore_params(path: str, params: Any) -> tuple[Any, int]:
    """(parameters, step) of a checkpoint of ours with exactly the parameters of `params`.

    Args:
      path: `…/checkpoint_<step>`, or a run's folder for its newest.
      params: arrays or their shapes, which say what is restored and how it is sharded.

    Raises:
      FileNotFoundError: nothing there is a checkpoint.
      ValueError: it is of another model, or damaged.
    """
    found = _find(path)
    if found is None:
        raise FileNotFoundError(
            f"{path!r} holds no checkpoint: give a folder {PREFIX}_<step>, or the folder of a run "
            "that has one, as INITIAL_CHECKPOINT_PATH or MODEL_DIR"
        )
    return _restore_params(*found, params), found[1]


def _restore_params(folder: epath.Path, step: int, params: Any) -> Any:
    with ocp.CheckpointManager(folder, options=_READ_ONLY) as checkpoints:
        return _restored(checkpoints, step, {"params": params})["params"]


def initial_params(path: str, params: Any) -> Any:
    """`params` with what a checkpoint has of them: ours of any architecture, or a pretrained T5.

    The same architecture gives all parameters. From another one, and from Hugging Face's or T5X's
    files, come the embedding, the encoder and the decoder, which every task's own decoder starts
    from; heads stay as they are.

    Raises:
      FileNotFoundError: nothing there can be read.
      ValueError: the checkpoint's parameters don't fit.
    """
    if (found := _find(path)) is None:
        return pretrained.merge(params, pretrained.load_params(path))
    folder, step = found
    stored = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
        _stored(folder / f"{PREFIX}_{step}")["params"],
    )
    if _shapes(stored) == _shapes(params):
        return _restore_params(folder, step, params)
    loaded = _restore_params(folder, step, stored)
    parts = {name: loaded[name] for name in pretrained.PARTS if name in loaded}
    return pretrained.merge(params, jax.tree.map(np.asarray, parts))


def _whole(path: epath.Path) -> bool:
    """Object storage has no temporary names: there a file in the folder says that it is whole."""
    return (path / "state").exists() and ocp.utils.is_checkpoint_finalized(path)


_READ_ONLY = ocp.CheckpointManagerOptions(step_prefix=PREFIX, read_only=True)


def _find(path: str) -> tuple[epath.Path, int] | None:
    """(run's folder, step) of a good checkpoint of ours; None where there is no checkpoint.

    Raises:
      ValueError: there is, but its files are damaged.
    """
    folder = paths.absolute(path)
    children = [folder]
    if not re.fullmatch(rf"{PREFIX}_\d+", folder.name):
        children = list(folder.iterdir()) if folder.is_dir() else []
    steps = [
        int(match.group(1))
        for child in children
        if (match := re.fullmatch(rf"{PREFIX}_(\d+)", child.name)) and _whole(child)
    ]
    parent = folder.parent if children == [folder] else folder
    step = _newest_good(parent, sorted(steps, reverse=True))
    return None if step is None else (parent, step)
