"""Slices that aren't there: what is refused, and steps compiled by the TPU's own compiler."""

import importlib.metadata
import json

import pytest

from mtl_t5x import main
from mtl_t5x.parallel import topology

# What T5 1.1 small is, but for its layers and ids.
SIZES = {"emb_dim": 512, "num_heads": 6, "head_dim": 64, "mlp_dim": 1024}
LENGTHS = 'TASK_FEATURE_LENGTHS = {"inputs": 256, "targets": 16}'
ONE_LAYER = {"num_encoder_layers": 1, "num_decoder_layers": 1, "dtype": "bfloat16"}


def dry_run(example: str, tmp_path, *bindings: str, name: str = "v5e:2x4", **config) -> dict:
    """The numbers of the JSON file, of nothing but compiled programs."""
    numbers = tmp_path / "numbers.json"
    main.run(
        [f"gin/examples/mini_glue_{example}.gin"],
        [
            *(f"t5.T5Config.{key} = {value!r}" for key, value in (ONE_LAYER | config).items()),
            f'dry_run.dry_run.cache_dir = "{tmp_path / "cache"}"',
            *bindings,
        ],
        "dry_run",
        topology_name=name,
        json_file=str(numbers),
    )
    return json.loads(numbers.read_text())


def test_no_compiler(monkeypatch):
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(ValueError, match=r"libtpu: pip install -e '\.\[tpu-compiler\]'"):
        topology.devices("v5e:2x4")


def test_a_compiler_of_another_version(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1")
    with pytest.raises(ValueError, match=r"libtpu 0\.0\.1 doesn't fit jax .*asks for 0\.0\."):
        topology.devices("v5e:2x4")


@pytest.mark.tpu_compiler
@pytest.mark.parametrize("name", ["v9x:2x2", "v5e:3x5", "v5e", ""])
def test_a_topology_that_there_is_not(name):
    with pytest.raises(ValueError, match=f"--topology={name}.* Names are .*v5e:2x4, v5p:2x2x2"):
        topology.devices(name)


@pytest.mark.tpu_compiler
def test_a_mesh_that_does_not_fit_the_slice(tmp_path):
    with pytest.raises(ValueError, match="data = 3 and .model = 1 don't make up the 8 devices"):
        dry_run("text_to_text", tmp_path, "sharding.Mesh.data = 3")


@pytest.mark.tpu_compiler
def test_several_slices():
    devices = topology.devices("v5e:2x4", num_slices=2)
    assert len(devices) == 16 and {device.slice_index for device in devices} == {0, 1}


@pytest.mark.tpu_compiler
def test_measuring_costs_what_a_plain_step_costs(tmp_path, capsys):
    """Eight tasks on eight chips, a layer of T5 1.1 small; again, from what is known of it."""
    bindings = (LENGTHS, "measure.InTraining.unbiased_window = 0")
    numbers = dry_run("text_to_text", tmp_path, *bindings, **SIZES)
    printed = capsys.readouterr().out
    assert dry_run("text_to_text", tmp_path, *bindings, **SIZES) == numbers
    assert capsys.readouterr().out == printed
    assert "encoder/layers_*/attention" in printed and "8 x TPU v5 lite" in printed
    plain, measuring = numbers["plain"], numbers["measuring"]
    assert measuring["cycles"] <= 1.03 * plain["cycles"]
    assert measuring["sent_bytes"] <= 1.02 * plain["sent_bytes"]
    assert measuring["hbm_bytes"] <= 1.02 * plain["hbm_bytes"]


@pytest.mark.tpu_compiler
def test_halves_exchange_the_measured_gradients_twice(tmp_path):
    numbers = dry_run("text_to_text", tmp_path, LENGTHS, **SIZES)
    more = numbers["measuring"]["sent_bytes"] - numbers["plain"]["sent_bytes"]
    # Four projections and three kernels; a chip keeps an eighth of its task's gradient.
    encoder = 4 * 512 * 6 * 64 + 3 * 512 * 1024
    assert more == pytest.approx(7 / 8 * 4 * encoder, rel=0.01)


@pytest.mark.tpu_compiler
@pytest.mark.parametrize("example", ["text_to_text_id", "canonical"])
def test_every_architecture_compiles(tmp_path, example):
    numbers = dry_run(example, tmp_path, "sharding.Mesh.fsdp = True")
    assert numbers["devices"] == 8
    assert numbers["measuring"]["cycles"] > 0 < numbers["plain"]["cycles"]


@pytest.mark.tpu_compiler
def test_layers_in_a_loop_take_one_layers_memory(tmp_path):
    """Four layers of wide kernels, whose weights live in slices: measuring costs no more there."""
    layers = {"num_encoder_layers": 4, "num_decoder_layers": 4, "remat": True}
    wide = SIZES | {"mlp_dim": 8192} | layers
    bindings = (LENGTHS, "sharding.Mesh.fsdp = True", "measure.InTraining.unbiased_window = 0")
    loop = dry_run("text_to_text", tmp_path, *bindings, **wide, scan_layers=True)
    unrolled = dry_run("text_to_text", tmp_path, *bindings, "CONFLICT_PERIOD = 0", **wide)
    plain, measuring = loop["plain"], loop["measuring"]
    assert plain["hbm_bytes"] < 0.75 * unrolled["plain"]["hbm_bytes"]
    assert measuring["sent_bytes"] <= 1.02 * plain["sent_bytes"]
    assert measuring["hbm_bytes"] <= 1.02 * plain["hbm_bytes"]
    # The loop's body counts as often as it runs.
    assert loop["plain"]["flops"] == pytest.approx(unrolled["plain"]["flops"], rel=0.1)
