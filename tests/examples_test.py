"""Every shipped gin example trains, evaluates and measures, on few tasks and steps."""

import json
import pathlib

import gin
import optax
import pytest

from mtl_t5x import main, step
from mtl_t5x.data import features, lookup

ROOT = pathlib.Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "gin" / "examples").glob("*.gin"))
FEW = {
    "glue": ["glue_mnli.default.semantic", "glue_stsb.default.semantic"],
    "decanlp": ["decanlp_zre.default.semantic", "decanlp_woz.default.semantic"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.startswith("mini")])
def test_mini(name, tmp_path):
    macros = {"MODEL_DIR": str(tmp_path), "TRAIN_STEPS": 2, "BATCH_SIZE": 2, "LOG_PERIOD": 1}
    benchmark = next((b for b in FEW if b in name), None)
    if benchmark:
        macros |= {"MIXTURE_OR_TASK_NAME": FEW[benchmark], "CONFLICT_PERIOD": 1}
    bindings = [f"{key}={value!r}" for key, value in macros.items()]
    main.run([f"gin/examples/{name}"], ["step.adamw.warmup_steps=1", *bindings])
    results = json.loads((tmp_path / "results.json").read_text())
    names = [task.split("_", 1)[1].split(".")[0] for task in FEW.get(benchmark, ["glue_cola."])]
    assert results["tasks"] == names and list(results["test"]) == names
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert ("conflict/encoder/directional" in json.loads(lines[0])) == bool(benchmark)


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
        assert gin.query_parameter("%TRAIN_STEPS") == 10_000
    finally:
        gin.clear_config(clear_constants=True)
    names = lookup.short_names(lookup.with_split(tasks, "train"))
    assert len(names) == (8 if "glue" in name else 10)
    example = features.empty_batch(names, lengths)
    shapes = step.state_shapes(example, model=model, optimizer=optax.identity())
    width = {"small": 512, "xl": 2048, "xxl": 4096}[name.split("_")[0]]
    assert shapes.params["token_embedder"]["embedding"].shape == (32128, width)
