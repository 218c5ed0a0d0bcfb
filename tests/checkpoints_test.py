import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from mtl_t5x import checkpoints


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


def test_no_checkpoint_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint.*INITIAL_CHECKPOINT_PATH"):
        checkpoints.restore_params(str(tmp_path), a_state(0.0).params)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoints.restore_params(str(tmp_path / "checkpoint_3"), a_state(0.0).params)
