"""The paper's table of architectures on DecaNLP: `canonical`, `text_to_text_id`, `text_to_text`.

    python -m mtl_t5x.study --config=configs/paper_decanlp_architectures.py --workdir=DIR \
        --config.data=DECANLP_FOLDER --config.vocabulary_path=spiece.model \
        --config.initial_checkpoint_path=t5-v1_1-small

63 runs of 10,001 updates: 9 of the nine tasks together, and 54 of a task alone, which are the
baselines of `canonical` and, with the null prompt, of both text-to-text rows. By --dry_run an
update of all nine takes 1.4e13 FLOPs (`canonical`: 7.9e12) and 40 GB besides the state, so the
study 1.9e18 with its fixed points; at the peaks of one A100 that is 184 ms (108) and 6.9 hours, a
bound that float32 and the scoring of dev every 500 updates, which isn't counted, are far from.

To expect, as printed: on average text_to_text 7.7 % above its baseline, text_to_text_id 2.3 %,
canonical 2.9 %; but the original's released code can't have made all of that table
(docs/fidelity.md). `report.html` shows each of its cells beside ours.

    python -m mtl_t5x.study --config=configs/paper_decanlp_architectures.py:mini --workdir=DIR

takes the same rows with one seed on the embedded benchmark, with a mini T5 from scratch: 21 runs of
200 steps. Its scores are no estimate of the paper's.
"""

import ml_collections

from mtl_t5x import study

ARCHITECTURES = ("canonical", "text_to_text_id", "text_to_text")


def get_config(preset: str = "paper") -> ml_collections.ConfigDict:
    """The settings of a preset, "paper" or "mini"; --config.NAME=VALUE sets each of them."""
    config = ml_collections.ConfigDict()
    config.preset = preset
    config.benchmark = "decanlp"
    config.paper_table = "decanlp_architectures"
    config.tasks = ("squad", "iwslt", "cnn_dailymail", "multinli", "sst")
    config.tasks += ("srl", "zre", "schema", "wikisql")
    config.architectures = ARCHITECTURES
    config.prompts = {
        "canonical": ("null",),
        "text_to_text_id": ("default",),
        "text_to_text": ("default",),
    }
    config.labels = ("semantic",)
    config.baselines = {
        "canonical": "canonical.null.semantic",
        "text_to_text_id": "text_to_text.null.semantic",
        "text_to_text": "text_to_text.null.semantic",
    }
    if preset == "paper":
        config.data = ml_collections.config_dict.placeholder(str)  # decaNLP's files
        config.vocabulary_path = ml_collections.config_dict.placeholder(str)
        config.initial_checkpoint_path = ml_collections.config_dict.placeholder(str)
        config.task_feature_lengths = {"inputs": 256, "targets": 256}
        config.seeds = (0, 1, 2)
        config.train_steps = 10_001
        config.conflict_period = 100
        config.gin_files = {
            name: f"gin/examples/paper_decanlp_{name}.gin" for name in ARCHITECTURES
        }
    elif preset == "mini":
        config.data = "mini"
        config.vocabulary_path = "mini"
        config.initial_checkpoint_path = None
        config.seeds = (0,)
        config.train_steps = 200
        config.conflict_period = 20
        config.task_feature_lengths = {"inputs": 64, "targets": 24}
        config.gin_files = {
            name: (f"gin/examples/mini_decanlp_{name}.gin", "gin/runs/paper_mini.gin")
            for name in ARCHITECTURES
        }
    else:
        raise ValueError(f"there is no preset {preset!r}: say --config=FILE, or --config=FILE:mini")
    config.single_task_steps = config.get_oneway_ref("train_steps")
    return config


def runs(config: ml_collections.ConfigDict):
    """Three rows; the two text-to-text ones share a baseline."""
    if config.preset == "paper":
        study.required(config, "data", "vocabulary_path", "initial_checkpoint_path")
    macros = {
        "VOCABULARY_PATH": config.vocabulary_path,
        "INITIAL_CHECKPOINT_PATH": config.initial_checkpoint_path,
        "TASK_FEATURE_LENGTHS": config.task_feature_lengths.to_dict(),
    }
    # A task alone has no conflict, at fixed points neither.
    alone = {"measure.InTraining.fixed_point": None}
    return study.grid(config, macros, single_task=alone, baselines=config.baselines)
