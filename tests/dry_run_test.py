"""What `--dry_run` prints, against what is known of the step."""

import subprocess
import sys
import types

import jax
import pytest
from etils import epath

from mtl_t5x import dry_run, main, step

EXAMPLE = "gin/examples/mini_glue_text_to_text.gin"


def cost(**changes):
    fields = {
        "held_bytes": 1,
        "temporary_bytes": 1,
        "flops": 2e12,
        "accessed_bytes": 1e9,
        "sent_bytes": {"all-reduce": 3e8, "all-gather": 1e8},
    }
    return dry_run.Cost(**(fields | changes))


@pytest.mark.parametrize("changes, seconds", [({}, 6.0), ({"accessed_bytes": 4e11}, 8.0)])
def test_the_least_time(changes, seconds):
    """2 s of computing or 4 s of reading, then 4 s of sending."""
    device = dry_run.Accelerator("a", 1e12, 1e11, 1e8, 1e9)
    assert cost(**changes).seconds(device) == pytest.approx(seconds)


def test_what_does_not_fit_is_told():
    table = dry_run.report({"plain": cost(held_bytes=50e9)})
    lines = {line.split("  ")[1].strip(): line for line in table.splitlines() if "TPU" in line}
    assert "does not fit" in lines["TPU v4"] and "does not fit" not in lines["TPU v5p"]


@pytest.mark.slow
def test_a_mesh_that_is_not_there(tmp_path):
    """Four CPU devices with all the parameters split; no folder is needed, none is written."""
    command = [sys.executable, "-m", "mtl_t5x.main", f"--gin_file={EXAMPLE}", "--dry_run"]
    settings = {
        "sharding.Mesh.data": 4,
        "sharding.Mesh.fsdp": True,
        "MIXTURE_OR_TASK_NAME": ["glue_cola.null.semantic", "glue_rte.null.semantic"],
        "BATCH_SIZE": 4,
    }
    command += [f"--gin.{name}={value!r}" for name, value in settings.items()]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    title, *table = ended.stdout.splitlines()
    assert title.startswith("2 tasks of 4 examples, 377,856 parameters, 4 x cpu")
    rows = {line[:36].partition(" (")[0].strip(): line[36:].split() for line in table}
    assert rows["per device and step"] == ["plain", "measuring"]
    # Parameters and the two moments of AdamW, a quarter of each, and a few norm scales.
    held = 3 * 4 * 377_856 / 4 / 2**20
    assert float(rows["state and batch"][0]) == pytest.approx(held, abs=0.06)
    gathered = 3 / 4 * 4 * 377_856 / 2**20
    assert float(rows["sent by all-gather"][0]) == pytest.approx(gathered, rel=0.05)
    assert float(rows["sent by all-to-all"][2]) > 0 == float(rows["sent by all-to-all"][0])
    assert {"TPU v5e", "H100"} <= set(rows)


# A step that the devices have too little memory for


RAN_OUT = """RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory \
space hbm. Used 18.49G of 15.75G hbm. Exceeded hbm capacity by 2.74G.

Total hbm usage >= 18.75G:"""


def test_what_would_fit_is_tried(monkeypatch, tmp_path):
    """FSDP alone doesn't do, nor with remat, nor with a loop too; with two microbatches it fits."""
    tried = []

    def costs(experiment, conflict, devices, cache):
        config = experiment.model.config
        settings = (
            experiment.mesh.fsdp, config.remat, config.scan_layers, experiment.microbatches,
        )  # fmt: skip
        tried.append(settings)
        if settings != (True, True, True, 2):
            raise dry_run.DoesNotFitError("the plain step takes 18.49G of 15.75G")
        return {"plain": cost()}

    monkeypatch.setattr(dry_run, "_costs", costs)
    message = (
        "18.49G of 15.75G. With sharding.Mesh.fsdp = True, t5.T5Config.remat = True, "
        r"t5.T5Config.scan_layers = True, MICROBATCHES = 2 it fits \(sharding.Mesh.fsdp = True; "
        r"sharding.Mesh.fsdp = True, t5.T5Config.remat = True; sharding.Mesh.fsdp = True, "
        r"t5.T5Config.remat = True, t5.T5Config.scan_layers = True: not enough\)"
    )
    with pytest.raises(dry_run.DoesNotFitError, match=message):
        main.run([EXAMPLE], [], "dry_run")
    assert tried == [
        (False, False, False, 1),
        (True, False, False, 1),
        (True, True, False, 1),
        (True, True, True, 1),
        (True, True, True, 2),
    ]


def test_nothing_fits(monkeypatch):
    def costs(*args):
        raise dry_run.DoesNotFitError("too much")

    monkeypatch.setattr(dry_run, "_costs", costs)
    with pytest.raises(
        dry_run.DoesNotFitError, match="Nor does it .*BATCH_SIZE = 8: take a larger"
    ):
        main.run([EXAMPLE], [], "dry_run")


def test_the_compilers_message_is_read(monkeypatch, tmp_path):
    def compile():
        raise jax.errors.JaxRuntimeError(RAN_OUT)

    lowered = types.SimpleNamespace(as_text=lambda: "program", compile=compile)
    device = types.SimpleNamespace(device_kind="TPU v5 lite")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1")
    message = "the plain step takes 18.49G of 15.75G that TPU v5 lite has: 2.74G too much"
    with pytest.raises(dry_run.DoesNotFitError, match=message):
        dry_run._cost_for_topology("plain", lowered, [device], epath.Path(tmp_path))


@pytest.mark.slow
def test_unbiased_metrics_are_in_the_measuring_step(monkeypatch):
    compiled = []

    def lower(*args, **options):
        compiled.append(options)
        return original(*args, **options)

    original = step.train_step.lower
    monkeypatch.setattr(step, "train_step", types.SimpleNamespace(lower=lower))
    bindings = ['MIXTURE_OR_TASK_NAME="glue_cola.null.semantic"', "BATCH_SIZE=4"]
    main.run([EXAMPLE], [*bindings, "measure.InTraining.unbiased_window=5"], "dry_run")
    assert [options.get("halves", False) for options in compiled] == [False, True]
