"""Checkpoints by orbax: `checkpoint_<step>/state` in the run's folder."""

from __future__ import annotations

import os
import re
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax.training.train_state import TrainState

from mtl_t5x import pretrained

PREFIX = "checkpoint"


def manager(
    model_dir: str, *, keep: int | None = None, keep_period: int | None = None
) -> ocp.CheckpointManager:
    """Saves in the background; keeps the last `keep` (None: all) and each `keep_period`-th step."""
    options = ocp.CheckpointManagerOptions(
        step_prefix=PREFIX,
        max_to_keep=keep,
        keep_period=keep_period,
        create=True,
        enable_async_checkpointing=True,
    )
    return ocp.CheckpointManager(os.path.abspath(model_dir), options=options)


def _tree(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "params": state.params, "opt_state": state.opt_state}


def save(checkpoints: ocp.CheckpointManager, state: TrainState) -> None:
    """Writes the state under its own step; returns while the disk is still busy."""
    step = int(state.step)
    if step not in checkpoints.all_steps():
        args = ocp.args.Composite(state=ocp.args.StandardSave(_tree(state)))
        checkpoints.save(step, args=args, force=True)


def restore_latest(checkpoints: ocp.CheckpointManager, state: TrainState) -> TrainState | None:
    """The newest state in the run's folder, with `state`'s shapes; None where there is none yet."""
    step = checkpoints.latest_step()
    if step is None:
        return None
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _tree(state))
    args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
    return state.replace(**checkpoints.restore(step, args=args)["state"])


def restore_params(path: str, params: Any) -> tuple[Any, int]:
    """(parameters, step) of a checkpoint of ours with exactly the parameters of `params`.

    Args:
      path: `…/checkpoint_<step>`, or a run's folder for its newest.
      params: arrays or their shapes, which say what is restored and how it is sharded.

    Raises:
      FileNotFoundError: nothing there is a checkpoint.
    """
    found = _find(path)
    if found is None:
        raise FileNotFoundError(
            f"{path!r} holds no checkpoint: give a folder {PREFIX}_<step>, or the folder of a run "
            "that has one, as INITIAL_CHECKPOINT_PATH or MODEL_DIR"
        )
    folder, step = found
    abstract = {"params": jax.tree.map(ocp.utils.to_shape_dtype_struct, params)}
    restore = ocp.args.PyTreeRestore(
        abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=True,
    )
    with ocp.CheckpointManager(folder, options=_READ_ONLY) as checkpoints:
        return checkpoints.restore(step, args=ocp.args.Composite(state=restore))["state"][
            "params"
        ], step


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
    state = ocp.PyTreeCheckpointHandler().metadata(folder / f"{PREFIX}_{step}" / "state")
    stored = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), dict(state)["params"]
    )
    if jax.tree.map(np.shape, stored) == jax.tree.map(np.shape, params):
        return restore_params(path, params)[0]
    loaded, _ = restore_params(path, stored)
    parts = {name: loaded[name] for name in pretrained.PARTS if name in loaded}
    return pretrained.merge(params, jax.tree.map(np.asarray, parts))


_READ_ONLY = ocp.CheckpointManagerOptions(step_prefix=PREFIX, read_only=True)


def _find(path: str) -> tuple[epath.Path, int] | None:
    """(run's folder, step) of a checkpoint of ours; None where there is none."""
    folder = epath.Path(os.path.abspath(path))
    match = re.fullmatch(rf"{PREFIX}_(\d+)", folder.name)
    if match:
        return (folder.parent, int(match.group(1))) if (folder / "state").exists() else None
    if not folder.is_dir():
        return None
    steps = [
        int(match.group(1))
        for child in folder.iterdir()
        if (match := re.fullmatch(rf"{PREFIX}_(\d+)", child.name)) and (child / "state").exists()
    ]
    return (folder, max(steps)) if steps else None
