"""Checkpoints by orbax: `checkpoint_<step>/state` in the run's folder, with hashes of its files."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.training.train_state import TrainState
from jax.experimental import multihost_utils

from mtl_t5x.settings import checks
from mtl_t5x.storage import files, manifest

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

    def __post_init__(self):
        name = "checkpoints.Settings"
        checks.check(
            checks.whole("CHECKPOINT_PERIOD", self.period, 0, "steps; 0: at the end only"),
            checks.whole(f"{name}.keep", self.keep, 1, "how many stay", none=True),
            checks.whole(f"{name}.keep_period", self.keep_period, 1, "steps", none=True),
            checks.flag(f"{name}.asynchronous", self.asynchronous),
        )


def manager(model_dir: str, settings: Settings = Settings()) -> ocp.CheckpointManager:
    """Saves in the background. What an earlier attempt didn't finish saving is deleted."""
    folder = files.absolute(model_dir)

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
    """What is stored; what a method of `balance` remembers, where there is one."""
    tree = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
    if getattr(state, "balance", None) is not None:
        tree["balance"] = state.balance
    return tree


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
                f"no checkpoint could be written to {self._folder}: "
                f"{(str(error) or repr(error)).splitlines()[0]}. "
                "Those that were written before are good"
            ) from error


def restore_latest(checkpoints: ocp.CheckpointManager, state: TrainState) -> TrainState | None:
    """The newest good state in the run's folder, placed as `state`; None where there is none yet.

    A checkpoint with a damaged file is put aside under another name, and the one before is used.

    Raises:
      ValueError: there are checkpoints, but all are damaged, or they are of another model.
    """
    folder = checkpoints.directory

    def choose() -> int | None:
        steps = sorted(checkpoints.all_steps(), reverse=True)
        step = _newest_good(folder, steps)
        for newer in steps[: steps.index(step)] if step is not None else ():
            _put_aside(folder / f"{PREFIX}_{newer}")
        return step

    step = _by_first_process(choose, folder)
    checkpoints.reload()  # what is there may have changed, or been seen too early
    if step is None:
        return None
    return state.replace(**_restored(checkpoints, step, _tree(state)))


def _by_first_process(choose: Callable[[], int | None], folder: epath.Path) -> int | None:
    """The step that process 0 chooses, in every process.

    Processes that looked for themselves could see different checkpoints on a network disk, and wait
    for each other for ever; and each would hash every file.
    """
    if jax.process_count() == 1:
        return choose()
    step, error = None, None
    if jax.process_index() == 0:
        try:
            step = choose()
        except (ValueError, OSError) as caught:
            error = caught
    told = _FAILED if error else _NONE if step is None else step
    told = int(multihost_utils.broadcast_one_to_all(np.int32(told)))
    if error is not None:
        raise error
    if told == _FAILED:
        raise ValueError(f"process 0 can't use the checkpoints in {folder}; it says why")
    return None if told == _NONE else told


_NONE, _FAILED = -1, -2


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
            f"{path} is of another model, balance or optimizer: {len(differ)} arrays differ, as "
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
        if not path.exists():  # a live run has deleted what its settings don't keep
            continue
        found.append(damage)
        logger.error("%s: that checkpoint isn't used", damage)
    if found:
        raise ValueError(f"no good checkpoint is left in {folder}: {'; '.join(found)}")
    return None


def _put_aside(path: epath.Path) -> None:
    aside = path.parent / f"{DAMAGED}{path.name}"
    if aside.exists():
        aside.rmtree()
    path.rename(aside)


def restore_params(path: str, params: Any) -> tuple[Any, int]:
    """(parameters, step) of a checkpoint of ours with exactly the parameters of `params`.

    Args:
      path: `…/checkpoint_<step>`, or a run's folder for its newest.
      params: arrays or their shapes, which say what is restored and how it is sharded.

    Raises:
      FileNotFoundError: nothing there is a checkpoint.
      ValueError: it is of another model, or damaged.
    """
    restored, step = _restore(path, {"params": params})
    return restored["params"], step


def restore_state(path: str, state: TrainState) -> TrainState:
    """The whole state of a checkpoint, as `restore_params`; nothing is written or put aside."""
    return state.replace(**_restore(path, _tree(state))[0])


def _restore(path: str, wanted: Any) -> tuple[Any, int]:
    if (found := find(path)) is None:
        raise FileNotFoundError(
            f"{path!r} holds no checkpoint: give a folder {PREFIX}_<step>, or the folder of a run "
            "that has one, as INITIAL_CHECKPOINT_PATH or MODEL_DIR"
        )
    folder, step = found
    try:
        with ocp.CheckpointManager(folder, options=_READ_ONLY) as checkpoints:
            return _restored(checkpoints, step, wanted), step
    except OSError:
        # A live run deletes what its settings don't keep: then there is a newer one.
        again = find(path)
        if again is None or again == found:
            raise
        return _restore(path, wanted)


def stored_params(path: str) -> Any:
    """Shapes and types of the parameters of a checkpoint of ours; None where there is none, or one
    of another program that uses orbax, as T5X does."""
    if (found := find(path)) is None:
        return None
    folder, step = found
    params = _stored(folder / f"{PREFIX}_{step}").get("params")
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)


def _whole(path: epath.Path) -> bool:
    """Object storage has no temporary names: there a file in the folder says that it is whole."""
    return (path / "state").exists() and ocp.utils.is_checkpoint_finalized(path)


def is_there(path: str | epath.Path) -> bool:
    """Whether a run's folder, or a folder `…/checkpoint_<step>`, has a checkpoint, good or not."""
    return bool(_steps(files.absolute(path)))


def _steps(folder: epath.Path) -> list[int]:
    """Of the whole checkpoints in a run's folder, or of the one that it is; newest first."""
    of_run = re.fullmatch(rf"{PREFIX}_\d+", folder.name) is None
    children = [folder] if not of_run else folder.iterdir() if folder.is_dir() else ()
    found = [
        int(match.group(1))
        for child in children
        if (match := re.fullmatch(rf"{PREFIX}_(\d+)", child.name)) and _whole(child)
    ]
    return sorted(found, reverse=True)


_READ_ONLY = ocp.CheckpointManagerOptions(step_prefix=PREFIX, read_only=True)


def find(path: str) -> tuple[epath.Path, int] | None:
    """(run's folder, step) of a good checkpoint of ours; None where there is no checkpoint.

    Raises:
      ValueError: there is, but its files are damaged.
    """
    folder = files.absolute(path)
    is_checkpoint = re.fullmatch(rf"{PREFIX}_\d+", folder.name) is not None
    parent = folder.parent if is_checkpoint else folder

    def choose() -> int | None:
        # Once more where a live run has deleted all of them meanwhile: then there are newer ones.
        while there := _steps(folder):
            if (step := _newest_good(parent, there)) is not None:
                return step
        return None

    step = _by_first_process(choose, parent)
    return None if step is None else (parent, step)
