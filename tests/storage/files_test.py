"""Folders as gs://: everything that a run, a study and a report take and leave there.

The programs under test are processes of their own, with the clients of TensorFlow and TensorStore
that they would have, and a storage that fake_gcs plays.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from etils import epath

from mtl_t5x.storage import files
from mtl_t5x.tasks.glue import glue
from mtl_t5x.tasks.mini import vocabulary as mini_vocabulary
from tests import random_t5
from tests.models import pretrained_test
from tests.storage import fake_gcs

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    with fake_gcs.serve(tmp_path_factory.mktemp("certificate")) as storage:
        yield storage
    assert not storage.unanswered


def python(storage: fake_gcs.Storage, code: str) -> None:
    environment = {**os.environ, **storage.environment, "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path[1:]])
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-5000:]


def test_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert files.absolute("a/../b") == epath.Path(tmp_path / "b")
    assert str(files.absolute("/a/b")) == "/a/b"
    assert str(files.absolute("gs://bucket/a") / "b") == "gs://bucket/a/b"


STUDY = """
import json
from tests import study_test
from etils import epath

def run(gin_files, gin_bindings):
    folder = epath.Path(study_test.parse(gin_bindings)["MODEL_DIR"])
    if "cola.seed0" in folder.name:
        raise RuntimeError("no luck")
    test = {"cola": {"matthews_corrcoef": float(len(folder.name))}}
    (folder / "results.json").write_text(json.dumps({"step": 20, "tasks": [], "test": test}))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 0, "loss": 1.0}) + "\\n")

for folder in ("gs://bucket/study", WORKDIR):
    failed = study_test.conduct(folder, run)
    assert len(failed) == 1 and "cola.seed0" in failed[0]
"""


@pytest.mark.slow
def test_a_study_and_its_report(storage, tmp_path):
    python(storage, STUDY.replace("WORKDIR", repr(str(tmp_path))))
    stored = storage.files("bucket/study")
    local = {
        str(path.relative_to(tmp_path)): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert {"study.json", "report/report.html", "report/transfer.csv"} <= set(local)
    assert sum(name.endswith("error.txt") for name in local) == 1
    assert set(stored) == set(local)
    for name in local:
        if not name.endswith((".png", ".html", "error.txt")):
            assert stored[name] == local[name], name


LOG = """
from etils import epath
from mtl_t5x.runtime import run_log
path = epath.Path("gs://bucket/log/metrics.jsonl")
for start in (0, 300):
    run_log.drop_lines_from(path, start)
    lines = run_log.Lines(path)
    for step in range(start, start + 500):
        lines.add({"step": step})
    lines.flush()
    assert len(path.read_text().splitlines()) == start + 500
    lines.close()
"""


def test_a_log_that_can_not_be_appended_to(storage):
    """Every line is there when it is asked for, though the file isn't written anew for each."""
    python(storage, LOG)
    content = storage.files("bucket/log")["metrics.jsonl"].decode()
    assert [json.loads(line)["step"] for line in content.splitlines()] == list(range(800))
    assert storage.uploads["bucket/log/metrics.jsonl"] < 100


PRETRAINED = """
from etils import epath
from tests import random_t5
from tests.models import pretrained_test
from mtl_t5x.models import huggingface, pretrained
params = random_t5.params()
pretrained_test.assert_equal(pretrained.load_params("gs://bucket/t5x/checkpoint_7"), params)
huggingface.export_params(params, random_t5.CONFIG, epath.Path("gs://bucket/huggingface"))
pretrained_test.assert_equal(pretrained.load_params("gs://bucket/huggingface"), params)
"""


@pytest.mark.slow
def test_pretrained_weights(storage, tmp_path):
    folder = tmp_path / "checkpoint_7"
    pretrained_test.write_t5x(folder, random_t5.params())
    for path in folder.rglob("*"):
        if path.is_file():
            storage.write(f"bucket/t5x/checkpoint_7/{path.relative_to(folder)}", path.read_bytes())
    python(storage, PRETRAINED)


RUNS = """
import json
import jax
import numpy as np
from etils import epath
from mtl_t5x import main
from mtl_t5x.runtime import run_log
from mtl_t5x.storage import checkpoints
from mtl_t5x.runtime.run_log import RunLog

def bindings(folder, **macros):
    values = {
        "MODEL_DIR": folder,
        "MIXTURE_OR_TASK_NAME": ["glue_cola.default.semantic"],
        "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 4},
        "DATA": "gs://bucket/glue",
        "VOCABULARY_PATH": "gs://bucket/words.model",
        "TRAIN_STEPS": 12, "BATCH_SIZE": 4, "LOG_PERIOD": 1, "CHECKPOINT_PERIOD": 5,
        "CONFLICT_PERIOD": 4, "measure.Settings.examples": 32, "step.adamw.warmup_steps": 2,
        "train.train.log_examples": True, "checkpoints.Settings.keep": 2,
        "checkpoints.Settings.keep_period": 10,
        **macros,
    }
    return [f"{name}={value!r}" for name, value in values.items()]

EXAMPLE = ["gin/examples/mini_glue_text_to_text.gin"]
folder = epath.Path("gs://bucket/run")

class Stopped(Exception):
    pass

original = RunLog.add
def stop(self, step, *args, **kwargs):
    original(self, step, *args, **kwargs)
    if step == 10:
        raise Stopped

RunLog.add = stop
try:
    main.run(EXAMPLE, bindings(str(folder)))
except Stopped:
    pass
RunLog.add = original

# The newest one is damaged and the save after it was cut short: step 5 is what is left.
file = next(path for path in (folder / "checkpoint_10/state/d").iterdir())
file.write_bytes(file.read_bytes()[:-1])
(folder / "checkpoint_11/state").mkdir(parents=True)
(folder / "checkpoint_11/state/_METADATA").write_text("{")
main.run(EXAMPLE, bindings(str(folder)))
assert (folder / "damaged_checkpoint_10").is_dir()
assert not (folder / "checkpoint_11").exists()

main.run(EXAMPLE, bindings(LOCAL))
main.run(EXAMPLE, bindings(str(folder)), run_mode="eval")
main.run(EXAMPLE, bindings(str(folder)), run_mode="measure")
started = bindings("gs://bucket/second", INITIAL_CHECKPOINT_PATH=str(folder), TRAIN_STEPS=3)
main.run(EXAMPLE, started)
"""


def timeless(metrics: str) -> list[dict]:
    lines = [json.loads(line) for line in metrics.splitlines()]
    return [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines]


@pytest.mark.slow
def test_a_run_ends_as_on_a_disk(storage, tmp_path):
    """Interrupted, its newest checkpoint damaged, resumed, evaluated, measured and started from."""
    pytest.importorskip("google.cloud.storage", reason="orbax needs the extra gcs for gs://")
    for split, name in (("train", "train"), ("test", "dev")):
        rows = glue.rows("mini", "cola", split)[:300]
        text = "".join(f"x\t{row['label']}\t\t{row['sentence']}\n" for row in rows)
        storage.write(f"bucket/glue/CoLA/{name}.tsv", text.encode())
    storage.write("bucket/words.model", mini_vocabulary.PATH.read_bytes())
    python(storage, RUNS.replace("LOCAL", repr(str(tmp_path))))
    stored = storage.files("bucket/run")
    assert timeless(stored["metrics.jsonl"].decode()) == timeless(
        (tmp_path / "metrics.jsonl").read_text()
    )
    assert stored["examples.jsonl"].decode() == (tmp_path / "examples.jsonl").read_text()
    results = json.loads(stored["results.json"])
    local = json.loads((tmp_path / "results.json").read_text())
    assert results["test"] == local["test"] and results["dev"] == local["dev"]
    assert json.loads(stored["conflict.json"])["step"] == 12
    for path in tmp_path.rglob("*"):
        name = str(path.relative_to(tmp_path))
        if path.is_file() and "events" not in name and "/d/" not in name:
            assert name in stored, name
    assert any("events.out.tfevents" in name for name in stored)
    first, second = (timeless(storage.files(f"bucket/{run}")["metrics.jsonl"].decode())[0]
                     for run in ("run", "second"))  # fmt: skip
    assert second["loss"] < first["loss"]
