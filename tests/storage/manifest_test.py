"""Whatever happens to a checkpoint's files is found, and the checkpoint before is used."""

import json
import os
import pathlib
import shutil
import subprocess

import jax
import numpy as np
import pytest
from etils import epath

from mtl_t5x.storage import checkpoints, manifest
from tests.storage import checkpoints_test


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> pathlib.Path:
    """A folder with checkpoints of steps 5 and 10."""
    folder = tmp_path_factory.mktemp("saved")
    manager = checkpoints.manager(str(folder))
    for step in (5, 10):
        checkpoints.save(manager, checkpoints_test.a_state(step / 3, step))
    checkpoints.finish(manager)
    manager.close()
    return folder


def files(folder: pathlib.Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def flip(content: bytes, position: int) -> bytes:
    flipped = bytearray(content)
    flipped[position] ^= 1
    return bytes(flipped)


def test_a_checkpoint_that_was_left_alone(saved):
    for step in (5, 10):
        folder = saved / f"checkpoint_{step}"
        assert manifest.damage(epath.Path(folder)) is None
        listed = json.loads((folder / manifest.FILE).read_text())["files"]
        assert sorted([*listed, manifest.FILE]) == files(folder), "every file is listed"


def test_every_file_cut_off_or_altered_is_found(saved, tmp_path):
    """Each emptied, shortened by a byte, flipped at both ends and in the middle, and gone."""
    folder = tmp_path / "checkpoint_10"
    shutil.copytree(saved / "checkpoint_10", folder)
    tried = 0
    for name in files(folder):
        path = folder / name
        content = path.read_bytes()
        flipped = [flip(content, at) for at in (0, len(content) // 2, -1)]
        gone = [] if name == manifest.FILE else [None]
        for harmed in (b"", content[:-1], *flipped, *gone):
            path.unlink() if harmed is None else path.write_bytes(harmed)
            found = manifest.damage(epath.Path(folder))
            assert found is not None and str(path) in found
            tried += 1
        path.write_bytes(content)
    assert tried > 50 and manifest.damage(epath.Path(folder)) is None


def test_every_byte_of_the_manifest_counts(saved, tmp_path):
    folder = tmp_path / "checkpoint_10"
    shutil.copytree(saved / "checkpoint_10", folder)
    path = folder / manifest.FILE
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(flip(content, position))
        assert manifest.damage(epath.Path(folder)) is not None, position


def test_the_checkpoint_before_is_used(saved, tmp_path, caplog):
    """Restored through orbax, for every kind of file; the damaged one makes room for its step."""
    kinds = ("manifest.json", "_CHECKPOINT_METADATA", "state/_METADATA", "state/manifest.ocdbt")
    for i, name in enumerate(kinds):
        folder = tmp_path / str(i)
        shutil.copytree(saved, folder)
        harmed = folder / "checkpoint_10" / name
        harmed.write_bytes(harmed.read_bytes()[:-7])
        manager = checkpoints.manager(str(folder))
        with caplog.at_level("ERROR", logger="mtl_t5x"):
            state = checkpoints.restore_latest(manager, checkpoints_test.a_state(0.0))
        checkpoints_test.assert_equal(state, checkpoints_test.a_state(5 / 3, 5))
        assert str(harmed) in caplog.text
        assert (folder / "damaged_checkpoint_10").is_dir()
        checkpoints.save(manager, checkpoints_test.a_state(4.0, 10))
        checkpoints.finish(manager)
        again = checkpoints.restore_latest(manager, checkpoints_test.a_state(0.0))
        checkpoints_test.assert_equal(again, checkpoints_test.a_state(4.0, 10))
        manager.close()
        params, step = checkpoints.restore_params(str(folder), state.params)
        assert step == 10


def test_parameters_alone(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    file = next((tmp_path / "run" / "checkpoint_10" / "state" / "d").iterdir())
    file.write_bytes(flip(file.read_bytes(), 40))
    shapes = checkpoints_test.a_state(0.0).params
    with pytest.raises(ValueError, match="no good checkpoint is left.*was altered"):
        checkpoints.restore_params(str(tmp_path / "run" / "checkpoint_10"), shapes)
    params, step = checkpoints.restore_params(str(tmp_path / "run"), shapes)
    assert step == 5
    expected = checkpoints_test.a_state(5 / 3).params
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(expected)):
        np.testing.assert_array_equal(a, b)


def test_nothing_good_is_left(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    for step in (5, 10):
        (tmp_path / "run" / f"checkpoint_{step}" / "state" / "_METADATA").unlink()
    manager = checkpoints.manager(str(tmp_path / "run"))
    with pytest.raises(ValueError, match="no good checkpoint is left.*_METADATA is missing.*;"):
        checkpoints.restore_latest(manager, checkpoints_test.a_state(0.0))
    manager.close()


def test_one_without_a_manifest_is_told(saved, tmp_path, caplog):
    shutil.copytree(saved, tmp_path / "run")
    (tmp_path / "run" / "checkpoint_10" / manifest.FILE).unlink()
    manager = checkpoints.manager(str(tmp_path / "run"))
    with caplog.at_level("WARNING", logger="mtl_t5x"):
        state = checkpoints.restore_latest(manager, checkpoints_test.a_state(0.0))
    assert int(state.step) == 10 and "has no manifest.json" in caplog.text
    manager.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax's threads
def test_a_full_disk(tmp_path):
    """The error names the folder, and what was saved before restores."""
    if os.geteuid() != 0:
        pytest.skip("a tmpfs can't be mounted: it takes root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs can't be mounted here")
    try:
        manager = checkpoints.manager(str(tmp_path))
        checkpoints.save(manager, checkpoints_test.a_state(1.0, 5))
        checkpoints.finish(manager)
        (tmp_path / "ballast").write_bytes(b"x" * (os.statvfs(tmp_path).f_bavail * 4096 - 30000))
        state = checkpoints_test.a_state(2.0, 10)
        big = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
        state = state.replace(params={**state.params, "big": big})
        with pytest.raises(OSError, match=f"could be written to {tmp_path}.*(?i:space|full)"):
            checkpoints.save(manager, state)
            checkpoints.finish(manager)
        restored = checkpoints.restore_latest(
            checkpoints.manager(str(tmp_path)), checkpoints_test.a_state(0.0)
        )
        checkpoints_test.assert_equal(restored, checkpoints_test.a_state(1.0, 5))
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
