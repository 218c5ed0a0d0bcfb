"""Checkpoints by orbax: `checkpoint_<step>/state` in the run's folder."""

from __future__ import annotations

import os
import re
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from flax.training.train_state import TrainState

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
    """(parameters, step) of a checkpoint: `…/checkpoint_<step>`, or a run's folder for its newest.

    Raises:
      FileNotFoundError: nothing there looks like a checkpoint.
    """
    folder = epath.Path(os.path.abspath(path))
    match = re.fullmatch(rf"{PREFIX}_(\d+)", folder.name)
    if match:
        folder = folder.parent
    checkpoints = ocp.CheckpointManager(
        folder, options=ocp.CheckpointManagerOptions(step_prefix=PREFIX, read_only=True)
    )
    step = int(match.group(1)) if match else checkpoints.latest_step()
    if step is None or step not in checkpoints.all_steps():
        raise FileNotFoundError(
            f"{path!r} holds no checkpoint: give a folder {PREFIX}_<step>, or the folder of a run "
            "that has one, as INITIAL_CHECKPOINT_PATH or MODEL_DIR"
        )
    abstract = {"params": jax.tree.map(ocp.utils.to_shape_dtype_struct, params)}
    args = ocp.args.Composite(
        state=ocp.args.PyTreeRestore(
            abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        )
    )
    return checkpoints.restore(step, args=args)["state"]["params"], step
