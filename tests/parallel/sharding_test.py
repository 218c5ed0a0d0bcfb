"""Meshes: the numbers of a step don't depend on them, and measuring costs no traffic.

What needs several devices runs in a process of its own (`eight_devices.py`), once for all tests.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import linen as nn
from flax.training.train_state import TrainState
from jax.sharding import PartitionSpec

from mtl_t5x.parallel import distributed, sharding
from tests.parallel import eight_devices

HERE = pathlib.Path(__file__).parent


def run(folder: pathlib.Path, *arguments: str) -> pathlib.Path:
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parents[1]}"}
    command = [sys.executable, str(HERE / "eight_devices.py"), str(folder), *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def narrow(tmp_path_factory) -> pathlib.Path:
    return run(tmp_path_factory.mktemp("eight"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> pathlib.Path:
    return run(tmp_path_factory.mktemp("eight_wide"), "wide")


def facts(folder: pathlib.Path) -> dict:
    return json.loads((folder / "facts.json").read_text())


def pairs(runs) -> list[tuple[str, str]]:
    return [(kind, name) for kind, names in runs.items() for name in names if name != "one device"]


def assert_equals_one_device(folder: pathlib.Path, kind: str, name: str) -> None:
    """Losses, Gram matrices, conflict and parameters, to 1e-5 of each array's largest number."""
    one, several = (np.load(folder / f"{kind}-{run}.npz") for run in ("one device", name))
    assert set(one) == set(several)
    assert one["loss"][-1].sum() < 0.9 * one["loss"][0].sum(), "ten steps that learn something"
    for array in one:
        # The directional conflict is a difference of numbers of size 1, and the bias of a span's
        # pointers, which changes no softmax over positions, learns nothing but rounding.
        scale = 1.0 if array == "directional" else max(np.abs(one[array]).max(), 1e-3)
        np.testing.assert_allclose(
            several[array], one[array], rtol=0, atol=1e-5 * scale, err_msg=f"{name}: {array}"
        )


@pytest.mark.parametrize("kind, name", pairs(eight_devices.RUNS))
@pytest.mark.slow
def test_every_mesh_computes_the_same(narrow, kind, name):
    assert_equals_one_device(narrow, kind, name)


@pytest.mark.slow
@pytest.mark.parametrize("kind, name", pairs(eight_devices.WIDE))
def test_every_mesh_computes_the_same_for_every_architecture(wide, kind, name):
    assert_equals_one_device(wide, kind, name)


@pytest.mark.slow
def test_parameters_and_optimizer_state_are_split(narrow):
    shards = facts(narrow)["shards"]
    # Parameters, then the optimizer's state: all but vectors and the relative positions' bias.
    assert shards["text/data 8"][0] == 1
    assert shards["text/data 8"][1] < 0.14
    assert max(shards["text/fsdp 8"]) < 0.14
    assert shards["text/data 4 x model 2"][0] < 0.51
    assert shards["text/data 4 x model 2"][1] < 0.14


@pytest.mark.slow
def test_nothing_is_compiled_twice(narrow):
    assert set(facts(narrow)["compilations"].values()) == {1}


@pytest.mark.slow
def test_measuring_sends_what_a_plain_step_sends(narrow):
    sent = facts(narrow)["traffic"]
    plain, measuring = (sum(sent[name].values()) for name in ("plain", "measuring"))
    ring = 2 * 7 / 8 * sent["parameters"]
    assert ring <= plain < 1.01 * ring, "the plain step is an all-reduce of the gradient"
    assert measuring <= 1.05 * plain
    assert sent["measuring"]["all-to-all"] > 0.3 * plain


@pytest.mark.slow
def test_measuring_sends_what_a_plain_step_sends_with_fsdp(wide):
    sent = facts(wide)["traffic"]
    assert sum(sent["measuring"].values()) <= 1.05 * sum(sent["plain"].values())


@pytest.mark.slow
def test_measuring_sends_what_a_plain_step_sends_in_a_loop(wide):
    """A layer's weights are gathered there twice, its gradients exchanged once."""
    sent = facts(wide)["traffic of a loop"]
    plain, measuring = sent["plain"], sent["measuring"]
    assert sum(measuring.values()) <= 1.05 * sum(plain.values())
    assert measuring["all-gather"] == plain["all-gather"] > 1.5 * plain["reduce-scatter"]
    assert measuring["all-to-all"] > 0.25 * sum(plain.values())


@pytest.mark.slow
def test_tasks_are_weighted_alike(wide):
    found = facts(wide)["weights"]
    one, several = (np.array(found[name]) for name in ("one device", "fsdp 4 x 2"))
    assert np.ptp(one[-1]) > 0.1
    np.testing.assert_allclose(several, one, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["id", "canonical"])
def test_an_exact_step_is_one_devices(wide, kind):
    found = facts(wide)["exact updates"][kind]
    assert len(found) == 5 and max(found.values()) < 1e-5, found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exact", "sketched"])
@pytest.mark.parametrize("mesh", ["fsdp 8", "4 x 2"])
def test_a_fixed_point_is_measured_alike(wide, mesh, kind):
    points = facts(wide)["points"]
    one, several = (points[f"{name}, {kind}"] for name in ("one device", mesh))
    np.testing.assert_allclose(*(list(p["loss"].values()) for p in (one, several)), rtol=1e-5)
    for group, figures in one["groups"].items():
        for name in ("cosine", "reference_directional", "reference_magnitude", "magnitude"):
            expected = np.array(figures[name])
            np.testing.assert_allclose(
                several["groups"][group][name], expected, rtol=0,
                atol=1e-5 * max(1.0, expected.max()), err_msg=f"{group}: {name}",
            )  # fmt: skip
        for name in ("norms", "noise_trace"):
            expected, found = (
                np.array(list(p["groups"][group][name].values())) for p in (one, several)
            )
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * expected.max())


@pytest.mark.slow
def test_halves_over_devices_that_share_a_task(wide):
    one, several = (np.array(found) for found in facts(wide)["halves"].values())
    lengths = np.sqrt(np.diagonal(one, axis1=1, axis2=2))
    assert one.shape == (2, 4, 4)
    assert np.all(np.abs(several - one) <= 1e-5 * lengths[:, :, None] * lengths[:, None, :])


@pytest.mark.parametrize("devices", ["4", "2 x 2", "2", "1"])
@pytest.mark.slow
def test_a_checkpoint_of_eight_restores_on_fewer(narrow, devices):
    assert facts(narrow)["restored"][devices]


@dataclasses.dataclass(frozen=True)
class Chip:
    """What `mesh_utils` looks at of a TPU."""

    id: int
    coords: tuple[int, int, int]
    slice_index: int = 0
    core_on_chip: int = 0
    process_index: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v4"


# The mesh


@pytest.mark.parametrize(
    "mesh, devices, shape",
    [
        (sharding.Mesh(), 8, (8, 1)),
        (sharding.Mesh(4, 2), 8, (4, 2)),
        (sharding.Mesh(data=-1, model=4), 8, (2, 4)),
        (sharding.Mesh(data=2, model=-1), 8, (2, 4)),
    ],
)
def test_mesh_shape(mesh, devices, shape):
    assert mesh.shape(devices) == shape


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((3, 1), "data = 3 and .model = 1 don't make up the 8 devices"),
        ((-1, 3), "don't make up the 8 devices"),
        ((-1, -1), "one of them may be the rest"),
        ((0, 1), "Mesh.data = 0: write a whole number, 1 or more"),
    ],
)
def test_a_mesh_that_does_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        sharding.Mesh(*sizes).shape(8)


def a_state() -> TrainState:
    box = lambda shape, *names: nn.Partitioned(  # noqa: E731
        jax.ShapeDtypeStruct(shape, np.float32), names
    )
    params = {
        "each": box((6, 32, 24), "task", "embed", "joined_kv"),
        "kernel": box((32, 24), "embed", "joined_kv"),
        "odd": box((6, 32), "heads", "relpos_buckets"),
        "out": box((24, 32), "mlp", "embed"),
        "scale": box((32,), "embed"),
        "small": box((6, 7), "heads", "head"),
    }
    statistics = {
        "count": jax.ShapeDtypeStruct((), np.int32),
        "row": box((32,), "embed", "mlp"),  # of another rank than its parameter
        "nu": params["kernel"],
    }
    return TrainState(step=0, apply_fn=None, params=params, tx=None, opt_state=statistics)


def place(*spec) -> PartitionSpec:
    return PartitionSpec(*spec)


# By name: gathered, then scattered.
OVER_TASKS = {  # task x data x model = 2 x 2 x 2
    "each": (place("task", None, "model"), place("task", "data", "model")),
    "kernel": (place(None, "model"), place(("data", "task"), "model")),
    "odd": (place("model", None), place("model", ("data", "task"))),
    "out": (place("model", None), place(("model", "data", "task"), None)),
    "scale": (place(None), place(None)),
    "small": (place("model", None), place("model", None)),
}
OVER_EXAMPLES = {  # 1 x 8 x 1
    "each": (place(None, None, None), place(None, "data", None)),
    "kernel": (place(None, None), place("data", None)),
    "odd": (place(None, None), place(None, "data")),
    "out": (place(None, None), place("data", None)),
    "scale": (place(None), place(None)),
    "small": (place(None, None), place(None, None)),
}


@pytest.mark.parametrize("fsdp, sharded", [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    "data, model, alike, expected", [(4, 2, True, OVER_TASKS), (8, 1, False, OVER_EXAMPLES)]
)
def test_layout(data, model, alike, expected, fsdp, sharded):
    """Slices are cut along the first axis that allows it; the state lives in them if it shall."""
    chips = [Chip(i, (i % 4, i // 4, 0)) for i in range(8)]
    mesh = sharding.Mesh(data, model, shard_optimizer_state=sharded, fsdp=fsdp)
    layout = sharding.layout(
        mesh, a_state(), num_tasks=6, batch_size=8, runs_on_task_subset=alike, devices=chips
    )
    assert layout.mesh.axis_names == ("task", "data", "model")
    gathered, scattered = zip(*(expected[name] for name in sorted(expected)), strict=True)
    assert layout.gathered == gathered
    assert layout.scattered == scattered
    assert layout.updated == (scattered if sharded else gathered)
    state = dict(zip(["step", *sorted(expected), "count", "nu", "row"], layout.specs, strict=True))
    assert state["step"] == state["count"] == state["row"] == place()
    assert [state[name] for name in sorted(expected)] == list(scattered if fsdp else gathered)
    assert state["nu"] == expected["kernel"][sharded]


@pytest.mark.parametrize("setting", ["BATCH_SIZE", "measure.Settings.microbatch_size"])
def test_a_batch_that_can_not_be_spread(setting):
    """Told by the setting that the user has to change."""
    devices = [jax.devices()[0]] * 8
    with pytest.raises(ValueError, match=f"{setting} = 6.*Set {setting} to a multiple of 4"):
        sharding.layout(
            sharding.Mesh(), a_state(), num_tasks=6, batch_size=6, runs_on_task_subset=True,
            devices=devices, setting=setting,
        )  # fmt: skip


@pytest.mark.parametrize("size, good", [(8, True), (6, False)])
def test_a_fixed_points_examples_that_can_not_be_spread(size, good):
    chips = [Chip(i, (i % 4, i // 4, 0)) for i in range(8)]
    layout = sharding.layout(
        sharding.Mesh(), a_state(), num_tasks=6, batch_size=4, runs_on_task_subset=True,
        devices=chips,
    )  # fmt: skip
    message = "microbatch_size = 6 .* over the 4 devices"
    with contextlib.nullcontext() if good else pytest.raises(ValueError, match=message):
        sharding.check_spread(layout, size, "measure.Settings.microbatch_size")


# Devices in their physical order


def hops(a: Chip, b: Chip, sides: tuple[int, int]) -> int:
    """Links between two chips of a torus."""
    distances = (abs(x - y) for x, y in zip(a.coords, b.coords))
    return sum(min(d, side - d) for d, side in zip(distances, sides))


@pytest.mark.parametrize("shape", [(8, 1, 2), (4, 2, 2), (2, 2, 4)])
def test_devices_that_split_a_weight_are_neighbours(shape):
    """In a plain reshape of chips that are listed in another order they are not."""
    chips = [Chip(i, (i % 4, i // 4, 0)) for i in range(16)]
    order = np.random.default_rng(0).permutation(16)
    grid = sharding.device_grid(shape, [chips[i] for i in order])
    assert sorted(chip.id for chip in grid.ravel()) == list(range(16))
    for row in grid.reshape(-1, shape[2]):
        assert {hops(a, b, (4, 4)) for a, b in zip(row, np.roll(row, 1))} == {1}


@pytest.mark.parametrize("shape", [(8, 1, 2), (1, 8, 2), (2, 4, 2)])
def test_slices_hold_blocks_of_tasks_and_examples(shape):
    chips = [Chip(i, (i % 2, i // 2 % 4, 0), slice_index=i // 8) for i in range(16)]
    grid = sharding.device_grid(shape, chips)
    slices = np.vectorize(lambda chip: chip.slice_index)(grid).reshape(-1, shape[2])
    np.testing.assert_array_equal(slices, np.repeat([[0], [1]], 4, axis=0) * np.ones((1, 2)))


def test_a_weight_is_not_split_over_slices():
    chips = [Chip(i, (i % 2, i // 2 % 2, 0), slice_index=i // 4) for i in range(8)]
    with pytest.raises(ValueError, match="2 slices of 4.*sharding.Mesh.model"):
        sharding.device_grid((1, 1, 8), chips)


# Predicting


@pytest.mark.slow
def test_every_device_decodes_its_share(narrow):
    decoded = facts(narrow)["decoded"]
    assert decoded["equal"]
    # The encoder, each step of the decoder and the cache: an eighth, but for what is too small.
    assert decoded["flops_per_device"] < 0.2


# Starting together


@pytest.mark.parametrize(
    "environment, several",
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, True),
    ],
)
def test_the_cluster_is_told_by_the_environment(environment, several):
    assert distributed.in_cluster(environment) is several


def test_half_of_the_addresses():
    with pytest.raises(ValueError, match="--num_processes and --process_id go together"):
        distributed.start(coordinator_address="localhost:1")
