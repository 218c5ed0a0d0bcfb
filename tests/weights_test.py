"""docs/weights.md: its commands, one after the other, from random weights; and bad settings."""

import json
import pathlib
import re

import gin
import pytest
from etils import epath

from mtl_t5x import main
from mtl_t5x.export import tokenizer
from mtl_t5x.models import huggingface, pretrained, t5
from mtl_t5x.settings import bindings as settings
from mtl_t5x.settings.checks import SettingsError
from mtl_t5x.storage import checkpoints
from mtl_t5x.tasks import vocabularies
from tests import random_t5
from tests.models.pretrained_test import assert_equal

ROOT = pathlib.Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
MODES = {"main": "train", "measure": "measure", "export": "export"}
CONFIG = t5.T5Config(
    vocab_size=vocabularies.size("mini"), emb_dim=24, num_heads=2, num_encoder_layers=1,
    num_decoder_layers=1, head_dim=8, mlp_dim=32,
)  # fmt: skip
SHORT = [
    'MIXTURE_OR_TASK_NAME=["glue_rte.default.semantic", "glue_cola.default.semantic"]',
    "TRAIN_STEPS=2", "step.adamw.warmup_steps=1", "BATCH_SIZE=2", "CONFLICT_PERIOD=0",
    "measure.Settings.examples=4", "measure.Settings.microbatch_size=2",
]  # fmt: skip


def make_checkpoint(folder):
    """Random weights as a downloaded folder has them."""
    folder.mkdir(parents=True)
    huggingface.export_params(random_t5.params(CONFIG), CONFIG, epath.Path(folder))
    tokenizer.write(epath.Path(folder), vocabularies.load("mini"), CONFIG.vocab_size, 8)


def carry_out(command, folder):
    """In this process, shortened, its files below `folder`."""
    words = command.replace("/tmp/weights", str(folder)).replace('\\"', '"').split()
    assert words[:2] == ["python", "-m"], command
    found = [word.removeprefix("--").split("=", 1) for word in words[3:]]
    files = [value for name, value in found if name == "gin_file"]
    bindings = [
        f"{name.removeprefix('gin.')}={value}" for name, value in found if name.startswith("gin.")
    ]
    arguments = {name: value for name, value in found if name in ("output", "layout")}
    mode = MODES[words[2].removeprefix("mtl_t5x.")]
    if mode == "export":
        arguments = {"layout": "huggingface", **arguments}
    main.run(files, [*SHORT, *bindings], mode, **arguments)


@pytest.mark.slow
def test_the_way_there_and_back(tmp_path):
    make_checkpoint(tmp_path / "t5")
    for command in COMMANDS:
        carry_out(command, tmp_path)
    shapes = checkpoints.stored_params(str(tmp_path / "run"))
    trained, _ = checkpoints.restore_params(str(tmp_path / "run"), shapes)
    for written in ("exported", "t5x/checkpoint_2"):
        assert_equal(pretrained.load_params(tmp_path / written), trained)
    assert (tmp_path / "run" / "conflict.json").exists()
    assert json.loads((tmp_path / "second" / "results.json").read_text())["step"] == 2
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "| rte | test | accuracy |" in card and "TRAIN_STEPS = 2" in card


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        (["t5.T5Config.emb_dim=32"], r"t5.T5Config.emb_dim = 32, but \S+config.json says 24"),
        (['VOCABULARY_PATH="bytes"'], r"VOCABULARY_PATH has 259 ids.* \d+ rows"),
        (['INITIAL_CHECKPOINT_PATH="gone"'], "INITIAL_CHECKPOINT_PATH = 'gone': the model's sizes"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_read(tmp_path, bindings, message):
    make_checkpoint(tmp_path / "t5")
    command = COMMANDS[0]
    for binding in bindings:
        command += f" --gin.{binding}"
    with pytest.raises((SettingsError, FileNotFoundError), match=message):
        carry_out(command, tmp_path)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


# Parameters of the published checkpoints, by the file of gin/models.
PUBLISHED = {
    "t5_1_0_small": 60_506_624, "t5_1_0_base": 222_903_552, "t5_1_0_large": 737_668_096,
    "t5_1_0_xl": 2_851_598_336, "t5_1_0_xxl": 11_307_321_344,
    "t5_1_1_small": 76_961_152, "t5_1_1_base": 247_577_856, "t5_1_1_large": 783_150_080,
    "t5_1_1_xl": 2_849_757_184, "t5_1_1_xxl": 11_135_332_352,
    "mt5_small": 300_176_768, "mt5_base": 582_401_280, "mt5_large": 1_229_581_312,
    "mt5_xl": 3_742_619_648, "mt5_xxl": 12_921_057_280,
    "byt5_small": 299_637_760, "byt5_base": 581_653_248,
    "byt5_large": 1.23e9, "byt5_xl": 3.74e9, "byt5_xxl": 12.9e9,  # as their paper rounds them
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_sizes_are_the_published_ones(name):
    settings.read([f"gin/models/{name}.gin"], ["DROPOUT_RATE=0.0"], (str(ROOT),))
    config = gin.get_configurable("t5.T5Config")()
    embed, inner = config.emb_dim, config.num_heads * config.head_dim
    tables = 1 if config.logits_via_embedding else 2
    mlp = (2 + (config.mlp_activations == ("gelu", "linear"))) * embed * config.mlp_dim
    encoder = config.num_encoder_layers * (4 * embed * inner + mlp + 2 * embed)
    decoder = config.num_decoder_layers * (8 * embed * inner + mlp + 3 * embed)
    ends = 2 * (embed + config.num_heads * config.relpos_buckets)
    found, published = (
        tables * config.vocab_size * embed + encoder + decoder + ends,
        PUBLISHED[name],
    )
    assert found == pytest.approx(published, rel=0 if isinstance(published, int) else 4e-3, abs=0)
