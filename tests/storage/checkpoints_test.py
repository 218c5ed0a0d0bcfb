import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from mtl_t5x.storage import checkpoints


def a_state(value: float, step: int = 0) -> TrainState:
    params = {"encoder": {"kernel": jnp.full((3, 2), value)}, "scale": jnp.arange(2.0) + value}
    state = TrainState.create(apply_fn=len, params=params, tx=optax.adam(1e-3))
    return state.replace(step=step)


def assert_equal(a: TrainState, b: TrainState) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_array_equal(x, y)


def test_the_newest_comes_back_bit_for_bit(tmp_path):
    manager = checkpoints.manager(str(tmp_path))
    assert checkpoints.restore_latest(manager, a_state(0.0)) is None
    for step in (5, 10):
        checkpoints.save(manager, a_state(float(step) / 3, step))
    manager.wait_until_finished()
    assert (tmp_path / "checkpoint_10" / "state").is_dir()
    assert_equal(checkpoints.restore_latest(manager, a_state(0.0)), a_state(10 / 3, 10))
    manager.close()


def test_old_ones_go(tmp_path):
    manager = checkpoints.manager(str(tmp_path), checkpoints.Settings(keep=2, keep_period=20))
    for step in range(10, 60, 10):
        checkpoints.save(manager, a_state(1.0, step))
    manager.wait_until_finished()
    manager.close()
    assert sorted(p.name for p in tmp_path.glob("checkpoint_*")) == [
        "checkpoint_20",
        "checkpoint_40",
        "checkpoint_50",
    ]


def test_parameters_alone_of_a_step_or_of_the_newest(tmp_path):
    manager = checkpoints.manager(str(tmp_path))
    for step in (5, 10):
        checkpoints.save(manager, a_state(float(step), step))
    manager.wait_until_finished()
    manager.close()
    for path, step in ((tmp_path / "checkpoint_5", 5), (tmp_path, 10)):
        params, found = checkpoints.restore_params(str(path), a_state(0.0).params)
        assert found == step
        np.testing.assert_array_equal(params["scale"], a_state(float(step)).params["scale"])


def test_a_checkpoint_of_another_model(tmp_path):
    with checkpoints.manager(str(tmp_path)) as manager:
        checkpoints.save(manager, a_state(1.0, 5))
        checkpoints.finish(manager)
        params = a_state(0.0).params
        more = r"of another model.*head/kernel \(none, now \(4,\)\).*give another MODEL_DIR"
        for other, tx, message in (
            ({**params, "head": {"kernel": jnp.zeros(4)}}, optax.adam(1e-3), more),
            ({**params, "scale": jnp.zeros(3)}, optax.adam(1e-3), r"scale \(\(2,\), now \(3,\)\)"),
            ({"scale": params["scale"]}, optax.adam(1e-3), r"kernel \(\(3, 2\), now none\)"),
            (params, optax.sgd(1e-3), "optimizer: .*opt_state/0/count"),
        ):
            state = TrainState.create(apply_fn=len, params=other, tx=tx)
            with pytest.raises(ValueError, match=message):
                checkpoints.restore_latest(manager, state)
            if other is not params:
                with pytest.raises(ValueError, match="of another model"):
                    checkpoints.restore_params(str(tmp_path), other)


def test_no_checkpoint_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint.*INITIAL_CHECKPOINT_PATH"):
        checkpoints.restore_params(str(tmp_path), a_state(0.0).params)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoints.restore_params(str(tmp_path / "checkpoint_3"), a_state(0.0).params)


def test_the_first_process_chooses_for_all(monkeypatch):
    """Another one neither looks nor decides, and hears of an error."""
    told = []

    def broadcast(value):
        told.append(int(value))
        return np.int32(answers.pop(0)) if answers else value

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(checkpoints.multihost_utils, "broadcast_one_to_all", broadcast)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    answers = [7, -1, -2]
    assert checkpoints._by_first_process(pytest.fail, "folder") == 7
    assert checkpoints._by_first_process(pytest.fail, "folder") is None
    with pytest.raises(ValueError, match="process 0 can't use the checkpoints in folder"):
        checkpoints._by_first_process(pytest.fail, "folder")
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    assert checkpoints._by_first_process(lambda: 3, "folder") == 3
    assert checkpoints._by_first_process(lambda: None, "folder") is None

    def damaged():
        raise ValueError("all are damaged")

    with pytest.raises(ValueError, match="all are damaged"):
        checkpoints._by_first_process(damaged, "folder")
    assert told[-3:] == [3, -1, -2]


def test_a_checkpoint_that_a_live_run_deletes_meanwhile(tmp_path, monkeypatch):
    """It keeps one: while the older is read the newer takes its place."""
    with checkpoints.manager(str(tmp_path)) as manager:
        for step in (5, 10):
            checkpoints.save(manager, a_state(float(step), step))
    shutil.move(tmp_path / "checkpoint_10", tmp_path / "later")
    restored = checkpoints._restored

    def deleted(*args):
        if (tmp_path / "later").exists():
            shutil.move(tmp_path / "later", tmp_path / "checkpoint_10")
            shutil.rmtree(tmp_path / "checkpoint_5")
        return restored(*args)

    monkeypatch.setattr(checkpoints, "_restored", deleted)
    params, step = checkpoints.restore_params(str(tmp_path), a_state(0.0).params)
    assert step == 10
    assert_equal(params, a_state(10.0).params)
