"""Whole runs through gin, as a user starts them, on three tasks of the embedded benchmark."""

import json
import pathlib
import shutil
import signal

import jax
import numpy as np
import optax
import pytest
import seqio

from mtl_t5x import main, measure, step
from mtl_t5x.data import features, tokens
from mtl_t5x.models import architectures, t5
from mtl_t5x.runtime import interruption, run_log
from mtl_t5x.storage import checkpoints
from mtl_t5x.tasks import vocabularies

EXAMPLE = "gin/examples/mini_glue_text_to_text.gin"
TASKS = ["glue_cola.default.semantic", "glue_rte.default.semantic", "glue_stsb.default.semantic"]
LENGTHS = {"inputs": 32, "targets": 4}


def bindings(folder: pathlib.Path, **macros) -> list[str]:
    values = {
        "MODEL_DIR": str(folder),
        "MIXTURE_OR_TASK_NAME": TASKS,
        "TASK_FEATURE_LENGTHS": LENGTHS,
        "TRAIN_STEPS": 12,
        "BATCH_SIZE": 4,
        "CONFLICT_PERIOD": 5,
        "LOG_PERIOD": 2,
        "CHECKPOINT_PERIOD": 6,
        **macros,
    }
    return ["step.adamw.warmup_steps=2", *(f"{name}={value!r}" for name, value in values.items())]


def lines(folder: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("run")
    main.run([EXAMPLE], bindings(folder))
    return folder


def test_run_folder(folder):
    names = {path.name for path in folder.iterdir()}
    assert {"config.gin", "model-info.txt", "metrics.jsonl", "results.json"} <= names
    assert {"checkpoint_6", "checkpoint_12", "inference_eval"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert "TRAIN_STEPS = 12" in (folder / "config.gin").read_text()
    assert "encoder/layers_0/attention/query/kernel" in (folder / "model-info.txt").read_text()
    predictions = folder / "inference_eval" / "glue_cola.default.semantic-000012.jsonl"
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert len(rows) == 1000 and {"input", "target", "prediction"} <= set(rows[0])


def test_metrics(folder):
    logged = lines(folder)
    assert [line["step"] for line in logged] == [0, 2, 4, 5, 6, 8, 10]
    measured = [line for line in logged if "conflict/encoder/cosine" in line]
    assert [line["step"] for line in measured] == [0, 5, 10]
    # Two halves of four examples: the last steps together, by default.
    assert measured[2]["conflict/encoder/running_directional_se"] > 0
    for line in measured:
        cosine = np.array(line["conflict/encoder/cosine"])
        np.testing.assert_allclose(np.diag(cosine), 1, rtol=1e-5)
        np.testing.assert_allclose(cosine, cosine.T, rtol=1e-5)
        off_diagonal = (cosine.sum() - 3) / 9
        np.testing.assert_allclose(line["conflict/encoder/directional"], off_diagonal, atol=1e-6)
        assert line["grad_norm/encoder/rte"] > 0 and line["conflict/encoder/magnitude"] > 0
    total = sum(logged[0][f"loss/{name}"] for name in ("cola", "rte", "stsb"))
    np.testing.assert_allclose(logged[0]["loss"], total, rtol=1e-6)
    assert logged[-1]["loss"] < logged[0]["loss"]


def test_results(folder):
    results = json.loads((folder / "results.json").read_text())
    assert results["step"] == 12 and results["tasks"] == ["cola", "rte", "stsb"]
    assert results["train"]["cola"]["examples"] == 1900
    assert list(results["test"]["cola"])[:2] == ["matthews_corrcoef", "unparsed"]
    assert results["test"]["stsb"]["examples"] == 1000 and results["dev"]["stsb"]["examples"] == 100
    assert results["test"]["rte"]["targets_cut"] == 0
    assert results["dev"]["stsb"]["loss"] > 0 and "loss" not in results["test"]["stsb"]


@pytest.mark.slow
def test_the_measured_step_changes_nothing_but_rounding(folder, tmp_path):
    main.run([EXAMPLE], bindings(tmp_path, CONFLICT_PERIOD=0))
    for a, b in zip(
        jax.tree.leaves(parameters(folder, 12)), jax.tree.leaves(parameters(tmp_path, 12))
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def parameters(folder: pathlib.Path, at_step: int):
    model = architectures.TextToText(a_config())
    batch = features.empty_batch(["cola", "rte", "stsb"], LENGTHS)
    shapes = step.state_shapes(batch, model=model, optimizer=optax.identity())
    return checkpoints.restore_params(str(folder / f"checkpoint_{at_step}"), shapes.params)[0]


def a_config() -> t5.T5Config:
    return t5.T5Config(
        vocab_size=vocabularies.size("mini"),
        emb_dim=64,
        num_heads=4,
        head_dim=16,
        num_encoder_layers=2,
        num_decoder_layers=2,
        mlp_dim=128,
    )


@pytest.mark.slow
def test_a_run_that_is_started_again_ends_bit_equal(folder, tmp_path):
    """Once with saves that are waited for, each whole before the next step, once without."""

    class StoppedError(Exception):
        pass

    original = run_log.RunLog.add

    def interrupt(self, at_step, *args, **kwargs):
        original(self, at_step, *args, **kwargs)
        if at_step == 6:
            assert (tmp_path / "checkpoint_6").is_dir()
        if at_step == 8:
            raise StoppedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_log.RunLog, "add", interrupt)
        with pytest.raises(StoppedError):
            main.run([EXAMPLE], bindings(tmp_path))
    assert not (tmp_path / "results.json").exists()
    main.run([EXAMPLE], [*bindings(tmp_path), "checkpoints.Settings.asynchronous=True"])
    for a, b in zip(
        jax.tree.leaves(parameters(folder, 12)), jax.tree.leaves(parameters(tmp_path, 12))
    ):
        np.testing.assert_array_equal(a, b)
    timeless = [
        [{k: v for k, v in line.items() if k != "examples_per_second"} for line in lines(run)]
        for run in (folder, tmp_path)
    ]
    assert timeless[0] == timeless[1]
    once, again = (json.loads((run / "results.json").read_text()) for run in (folder, tmp_path))
    assert once == again


@pytest.mark.parametrize(
    ("run_mode", "allow_changes", "said"),
    [
        ("train", False, "t5.T5Config.mlp_dim: 128 before, 64 now"),
        ("train", True, "checkpoint_12 is of another model.*another MODEL_DIR"),
        ("eval", False, "checkpoint_12 is of another model.*another MODEL_DIR"),
    ],
)
def test_a_folder_of_another_model_stays_as_it_is(run_mode, allow_changes, said, folder):
    def files():
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    before = files()
    settings = bindings(folder, **{"t5.T5Config.mlp_dim": 64})
    with pytest.raises(ValueError, match=said):
        main.run([EXAMPLE], settings, run_mode, allow_changes=allow_changes)
    assert files() == before


def everything(folder: pathlib.Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_an_evaluation_stands_beside_what_the_run_wrote(folder, tmp_path):
    """It repeats the results; one of a task alone leaves the others', one with beams has its own
    files, and so has one of the checkpoint before a damaged one."""
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    main.run([EXAMPLE], bindings(run), run_mode="eval")
    written = json.loads((run / "results.json").read_text())
    again = json.loads((run / "results_12_greedy.json").read_text())
    assert again["test"] == written["test"] and again["dev"] == written["dev"]
    assert again["step"] == 12 and again["search"]["beams"] == 1
    one = bindings(run, MIXTURE_OR_TASK_NAME=TASKS[:1])
    main.run([EXAMPLE], one, run_mode="eval")
    assert json.loads((run / "results_12_greedy.json").read_text())["test"] == written["test"]
    main.run([EXAMPLE], [*one, "decoding.Search.beams=2"], run_mode="eval")
    beams = json.loads((run / "results_12_beams2.json").read_text())
    assert set(beams["test"]) == {"cola"} and beams["search"]["beams"] == 2
    damaged = next((run / "checkpoint_12" / "state").rglob("*"))
    damaged.unlink() if damaged.is_file() else shutil.rmtree(damaged)
    main.run([EXAMPLE], one, run_mode="eval")
    assert json.loads((run / "results_6_greedy.json").read_text())["step"] == 6
    after = everything(run)
    for name, content in everything(folder).items():
        if not name.startswith("checkpoint_12"):
            assert after[name] == content, name


def test_an_evaluation_of_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="MODEL_DIR = .*there is no such folder"):
        main.run([EXAMPLE], bindings(tmp_path / "rum"), run_mode="eval")
    assert not list(tmp_path.iterdir())


def a_copy(folder: pathlib.Path, target: pathlib.Path, *checkpoints: str) -> None:
    for name in checkpoints:
        shutil.copytree(folder / name, target / name)


@pytest.mark.slow
def test_eval_mode_leaves_an_unfinished_run_unfinished(folder, tmp_path):
    a_copy(folder, tmp_path, "checkpoint_6")
    settings = bindings(tmp_path, LOG_PERIOD=0, MIXTURE_OR_TASK_NAME=TASKS[:1])
    main.run([EXAMPLE], settings, run_mode="eval")
    assert not (tmp_path / "results.json").exists()
    results = json.loads((tmp_path / "results_6_greedy.json").read_text())
    assert results["step"] == 6 and set(results["test"]) == {"cola"}
    main.run([EXAMPLE], settings)
    assert json.loads((tmp_path / "results.json").read_text())["step"] == 12
    assert [line["step"] for line in lines(tmp_path)] == [10], "no other step is measured"


@pytest.mark.slow
def test_told_to_stop_in_the_last_step(folder, tmp_path, monkeypatch):
    """It is saved, and the run isn't finished: started again it evaluates."""
    a_copy(folder, tmp_path, "checkpoint_6")
    settings = bindings(tmp_path, MIXTURE_OR_TASK_NAME=TASKS[:1], TRAIN_STEPS=7, CONFLICT_PERIOD=0)
    original = run_log.RunLog.add

    def add(self, at_step, *args, **kwargs):
        original(self, at_step, *args, **kwargs)
        signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(run_log.RunLog, "add", add)
        with pytest.raises(interruption.Terminated):
            main.run([EXAMPLE], settings)
    assert (tmp_path / "checkpoint_7").is_dir() and not (tmp_path / "results.json").exists()
    main.run([EXAMPLE], settings)
    assert json.loads((tmp_path / "results.json").read_text())["step"] == 7


@pytest.mark.slow
@pytest.mark.parametrize("where", ["evaluation", "point"])
def test_told_to_stop_in_what_takes_long(where, folder, tmp_path, monkeypatch, caplog):
    """It is broken off, with the state saved between two saves, and done when the run goes on."""
    a_copy(folder, tmp_path, "checkpoint_6")
    settings = [
        *bindings(tmp_path, MIXTURE_OR_TASK_NAME=TASKS[:1], TRAIN_STEPS=8, EVAL_PERIOD=7),
        "measure.InTraining.fixed_point = @measure.Settings()",
        "measure.Settings.examples = 32",
        "measure.Settings.period = 7",
    ]
    place = {"evaluation": (seqio.Evaluator, "evaluate"), "point": (measure, "measure_tasks")}

    def told(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it went on")

    with monkeypatch.context() as patch, caplog.at_level("WARNING", logger="mtl_t5x"):
        patch.setattr(*place[where], told)
        with pytest.raises(interruption.Terminated):
            main.run([EXAMPLE], settings)
    assert "told to stop: saved after step 7" in caplog.text
    assert (tmp_path / "checkpoint_7").is_dir() and not (tmp_path / "conflict_7.json").exists()
    main.run([EXAMPLE], settings)
    assert [line["step"] for line in dev_lines(tmp_path, TASKS[0])] == [7, 8]
    assert json.loads((tmp_path / "conflict_7.json").read_text())["step"] == 7
    logged = {line["step"]: line for line in lines(tmp_path)}
    assert "conflict/fixed_point/encoder/covariance" in logged[7]


@pytest.mark.slow
@pytest.mark.parametrize(("where", "step"), [("the last one", 7), ("one that is made up", 6)])
def test_told_to_stop_in_an_evaluation_outside_of_training(
    where, step, folder, tmp_path, monkeypatch, caplog
):
    """The state is there already: it leaves as in training; started again it evaluates."""
    a_copy(folder, tmp_path, "checkpoint_6")
    period = {"the last one": 0, "one that is made up": 6}[where]
    settings = bindings(tmp_path, MIXTURE_OR_TASK_NAME=TASKS[:1], TRAIN_STEPS=7, EVAL_PERIOD=period)

    def told(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("it went on")

    with monkeypatch.context() as patch, caplog.at_level("WARNING", logger="mtl_t5x"):
        patch.setattr(seqio.Evaluator, "evaluate", told)
        with pytest.raises(interruption.Terminated):
            main.run([EXAMPLE], settings)
    assert f"told to stop: saved after step {step}" in caplog.text
    assert (tmp_path / f"checkpoint_{step}").is_dir()
    assert (tmp_path / "checkpoint_7").is_dir() == (step == 7)
    assert not (tmp_path / "results.json").exists()
    main.run([EXAMPLE], settings)
    assert json.loads((tmp_path / "results.json").read_text())["step"] == 7
    assert [line["step"] for line in dev_lines(tmp_path, TASKS[0])] == ([6, 7] if period else [7])


def dev_lines(folder: pathlib.Path, task: str) -> list[dict]:
    path = folder / "inference_eval" / "validation" / f"{task}-metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_evaluations_that_a_kill_cost_are_made_up(folder, tmp_path, monkeypatch, caplog):
    """Killed while a task of step 8 was evaluated; step 4 has a checkpoint, step 2 has none."""

    class KilledError(Exception):
        pass

    two = {"MIXTURE_OR_TASK_NAME": TASKS[:2], "CHECKPOINT_PERIOD": 4}
    settings = bindings(tmp_path, EVAL_PERIOD=8, **two)
    call = seqio.Evaluator.evaluate

    def killed(self, *args, **kwargs):
        found = call(self, *args, **kwargs)
        found[0].result()  # written in the background
        if "rte" in str(self.eval_tasks[0].name):
            predicted = tmp_path / "inference_eval/validation" / f"{TASKS[1]}-000008.jsonl"
            predicted.write_text("".join(predicted.read_text().splitlines(keepends=True)[:-1]))
            raise KilledError
        return found

    monkeypatch.setattr(seqio.Evaluator, "evaluate", killed)
    with pytest.raises(KilledError):
        main.run([EXAMPLE], settings)
    assert (tmp_path / "checkpoint_8").exists()
    monkeypatch.setattr(seqio.Evaluator, "evaluate", call)
    again = bindings(tmp_path, EVAL_PERIOD=2, **two)
    with caplog.at_level("WARNING", logger="mtl_t5x"):
        main.run([EXAMPLE], again)
    counts = json.loads((tmp_path / "results.json").read_text())["dev"]
    for task, name in zip(TASKS[:2], ("cola", "rte")):
        assert sorted(line["step"] for line in dev_lines(tmp_path, task)) == [4, 8, 10, 12]
        rows = (tmp_path / f"inference_eval/validation/{task}-000008.jsonl").read_text()
        assert rows.count("\n") == counts[name]["examples"]
    for step_without in (2, 6):
        assert f"step {step_without} was due to be evaluated" in caplog.text


@pytest.mark.slow
def test_fewer_steps_than_the_checkpoint_has(folder, tmp_path, caplog):
    """What is evaluated is that checkpoint, under its own step."""
    a_copy(folder, tmp_path, "checkpoint_12")
    with caplog.at_level("WARNING", logger="mtl_t5x"):
        main.run([EXAMPLE], bindings(tmp_path, TRAIN_STEPS=3, MIXTURE_OR_TASK_NAME=TASKS[:1]))
    assert "at step 12, beyond TRAIN_STEPS = 3" in caplog.text
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["step"] == 12
    whole = json.loads((folder / "results.json").read_text())
    assert results["test"]["cola"] == whole["test"]["cola"]
    steps = {path.name.split("-")[1] for path in (tmp_path / "inference_eval").glob("*-0*.jsonl")}
    assert steps == {"000012.jsonl"}


def test_a_split_without_examples_is_told_before_training(tmp_path, monkeypatch):
    examples = seqio.Task.num_input_examples

    def no_dev(self, split):
        return 0 if "rte" in self.name and split == "validation" else examples(self, split)

    monkeypatch.setattr(seqio.Task, "num_input_examples", no_dev)
    tokens.forget()
    with pytest.raises(ValueError, match=r"validation split of glue_rte\S* has no examples"):
        main.run([EXAMPLE], bindings(tmp_path, CACHE_DIR=str(tmp_path / "tokens")))
    tokens.forget()
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.slow
def test_initial_checkpoint(folder, tmp_path):
    start = str(folder / "checkpoint_12")
    main.run(
        [EXAMPLE],
        bindings(tmp_path, INITIAL_CHECKPOINT_PATH=start, TRAIN_STEPS=3, LOG_PERIOD=1),
    )
    assert lines(tmp_path)[0]["loss"] < 0.8 * lines(folder)[0]["loss"]


@pytest.mark.slow
def test_cut_targets_are_in_the_log_and_the_results(tmp_path, caplog):
    with caplog.at_level("WARNING", logger="mtl_t5x"):
        logging_propagates = bindings(
            tmp_path, TASK_FEATURE_LENGTHS={"inputs": 32, "targets": 2}, TRAIN_STEPS=3
        )
        main.run([EXAMPLE], logging_propagates)
    results = json.loads((tmp_path / "results.json").read_text())
    cut = results["train"]["stsb"]["targets_cut"]
    assert cut > 1000 and f"{cut} of 1900 train examples have their targets cut" in caplog.text
    assert results["test"]["stsb"]["targets_cut"] > 100
