"""Every shipped gin example trains, evaluates and measures, on few tasks and steps."""

import json
import pathlib

import gin
import optax
import pytest

from mtl_t5x import main, step
from mtl_t5x.data import features, lookup
from mtl_t5x.settings.names import short
from mtl_t5x.tasks import vocabularies

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "gin" / "examples").glob("*.gin"))
FEW = {
    "glue": ["glue_mnli.default.semantic", "glue_stsb.default.semantic"],
    "decanlp": ["decanlp_zre.default.semantic", "decanlp_woz.default.semantic"],
}
# What takes the time is compiling.
ONE_LAYER = {"num_encoder_layers": 1, "num_decoder_layers": 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.startswith("mini")])
def test_mini(name, tmp_path):
    macros = {"MODEL_DIR": str(tmp_path), "TRAIN_STEPS": 2, "BATCH_SIZE": 2, "LOG_PERIOD": 1}
    benchmark = next((b for b in FEW if b in name), None)
    if benchmark:
        macros |= {"MIXTURE_OR_TASK_NAME": FEW[benchmark], "CONFLICT_PERIOD": 1}
    macros |= {f"t5.T5Config.{size}": value for size, value in ONE_LAYER.items()}
    bindings = [f"{key}={value!r}" for key, value in macros.items()]
    main.run([f"gin/examples/{name}"], ["step.adamw.warmup_steps=1", *bindings])
    results = json.loads((tmp_path / "results.json").read_text())
    alone = "span_corruption" if "span" in name else "glue_cola.default.semantic"
    names = [short(task) for task in FEW.get(benchmark, [alone])]
    assert results["tasks"] == names
    assert list(results["test"]) == [name for name in names if name != "span_corruption"]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert ("conflict/encoder/directional" in json.loads(lines[0])) == bool(benchmark)


@pytest.mark.slow
def test_span_corruption_beside_a_supervised_task(tmp_path):
    """Their conflict is measured."""
    lines = (
        "from __gin__ import dynamic_registration",
        "from mtl_t5x.data import lookup",
        "from mtl_t5x.tasks import span_corruption",
        "from mtl_t5x.tasks.glue import glue",
        'include "gin/examples/mini_glue_text_to_text.gin"',
        'include "gin/tasks/span_corruption.gin"',
        "lookup.find_tasks.register = [@glue.register, @span_corruption.register]",
        'MIXTURE_OR_TASK_NAME = ["glue_rte.default.semantic", "span_corruption"]',
        'VOCABULARY_PATH = "mini_100extra"',
    )
    (tmp_path / "both.gin").write_text("\n".join(lines))
    macros = {"MODEL_DIR": str(tmp_path), "TRAIN_STEPS": 2, "BATCH_SIZE": 2, "CONFLICT_PERIOD": 1}
    macros |= {f"t5.T5Config.{size}": value for size, value in ONE_LAYER.items()}
    macros |= {"step.adamw.warmup_steps": 1, "TASK_FEATURE_LENGTHS": {"inputs": 32, "targets": 16}}
    bindings = [f"{key}={value!r}" for key, value in macros.items()]
    main.run([str(tmp_path / "both.gin")], bindings)
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss/rte"] > 0 and first["loss/span_corruption"] > 0
    assert -1 < first["conflict/encoder/cosine"][0][1] < 1


MINI = {"emb_dim": 64, "num_heads": 4, **ONE_LAYER}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.startswith("paper")])
def test_paper(name, tmp_path):
    """On the embedded benchmark: a head and a decoder where there are both, every fixed point."""
    prompt = "null" if "canonical" in name else "default"
    tasks = ["glue_mnli", "glue_stsb"] if "glue" in name else ["decanlp_zre", "decanlp_iwslt"]
    macros = {
        "MODEL_DIR": str(tmp_path), "TRAIN_STEPS": 3, "BATCH_SIZE": 2, "LOG_PERIOD": 1,
        "CONFLICT_PERIOD": 1, "DATA": "mini", "VOCABULARY_PATH": "mini",
        "INITIAL_CHECKPOINT_PATH": None, "EVAL_PERIOD": 2, "step.adamw.warmup_steps": 1,
        "MIXTURE_OR_TASK_NAME": [f"{task}.{prompt}.semantic" for task in tasks],
        "TASK_FEATURE_LENGTHS": {"inputs": 64, "targets": 16},
        "measure.Settings.examples": 4, "measure.Settings.microbatch_size": 2,
        "measure.Settings.period": 2,
    }  # fmt: skip
    sizes = MINI | {"vocab_size": vocabularies.size("mini"), "head_dim": 16, "mlp_dim": 128}
    macros |= {f"t5.T5Config.{size}": value for size, value in sizes.items()}
    bindings = [f"{key}={value!r}" for key, value in macros.items()]
    main.run([f"gin/examples/{name}"], bindings)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines]
    assert rates == pytest.approx([0, 5e-4, 0], abs=1e-9), "the last update is at the cosine's end"
    measured = ["conflict/fixed_point/encoder/covariance" in line for line in lines]
    assert measured == [True, False, True]
    assert all("conflict/encoder/running_directional" in line for line in lines)
    results = json.loads((tmp_path / "results.json").read_text())
    for task, scores in results["dev"].items():
        assert scores["loss"] > 0
        forced = any(metric.startswith("teacher_forced_") for metric in results["test"][task])
        assert forced == ("canonical" not in name or task == "iwslt")
    shapes = (tmp_path / "model-info.txt").read_text()
    own = "text_to_text_id" in name or name == "paper_decanlp_canonical.gin"
    assert ("decoder/token_embedder/embedding" in shapes) == own


def marked(name: str):
    return pytest.param(name, marks=[pytest.mark.slow] * name.startswith("x"))


@pytest.mark.parametrize("name", [marked(name) for name in EXAMPLES if not name.startswith("mini")])
def test_larger_ones_are_complete(name):
    """Everything but the weights: the whole configuration, the tasks, the parameters' shapes."""
    macros = {"MODEL_DIR": "unused", "DATA": "mini", "VOCABULARY_PATH": "mini"}
    bindings = [f"{key}={value!r}" for key, value in macros.items()]
    bindings += ['INITIAL_CHECKPOINT_PATH="unused"']
    gin.clear_config(clear_constants=True)
    gin.add_config_file_search_path(str(ROOT))
    try:
        gin.parse_config_files_and_bindings([f"gin/examples/{name}"], bindings)
        model = gin.query_parameter("%MODEL").scoped_configurable_fn()
        tasks = gin.get_configurable("lookup.find_tasks")()
        lengths = gin.query_parameter("%TASK_FEATURE_LENGTHS")
        steps = 10_001 if name.startswith("paper") else 10_000
        assert gin.query_parameter("%TRAIN_STEPS") == steps
    finally:
        gin.clear_config(clear_constants=True)
    names = lookup.short_names(lookup.with_split(tasks, "train"))
    assert len(names) == (8 if "glue" in name else 9)
    example = features.empty_batch(names, lengths)
    shapes = step.state_shapes(example, model=model, optimizer=optax.identity())
    width = {"small": 512, "paper": 512, "xl": 2048, "xxl": 4096}[name.split("_")[0]]
    assert shapes.params["token_embedder"]["embedding"].shape == (32128, width)
