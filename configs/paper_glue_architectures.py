"""The paper's table of architectures on GLUE: `canonical`, `text_to_text_id`, `text_to_text`.

    python -m mtl_t5x.study --config=configs/paper_glue_architectures.py --workdir=DIR \
        --config.data=GLUE_FOLDER --config.vocabulary_path=spiece.model \
        --config.initial_checkpoint_path=t5-v1_1-small

57 runs of 10,001 updates: 9 of the eight tasks together, and 48 of a task alone, which are the
baselines of `canonical` and, with the null prompt, of both text-to-text rows. By --dry_run an
update of all eight takes 5.2e12 FLOPs (`canonical`: 4.0e12) and 14 GB besides the state, so the
study 7.6e17 with its fixed points; at the peaks of one A100 that is 70 ms (57) and 2.9 hours, a
bound that float32 and the scoring of dev every 500 updates, which isn't counted, are far from.

To expect, as printed: on average text_to_text 1.4 % above its baseline, text_to_text_id 1.9 % and
canonical 1.1 % below theirs; `report.html` shows each cell of the table beside ours.

    python -m mtl_t5x.study --config=configs/paper_glue_architectures.py:mini --workdir=DIR

takes the same rows over two seeds on the embedded benchmark, with a mini T5 from scratch: 38 runs
of 300 steps. Its scores are no estimate of the paper's.
"""

import ml_collections

from mtl_t5x import study

ARCHITECTURES = ("canonical", "text_to_text_id", "text_to_text")


def get_config(preset: str = "paper") -> ml_collections.ConfigDict:
    """The settings of a preset, "paper" or "mini"; --config.NAME=VALUE sets each of them."""
    config = ml_collections.ConfigDict()
    config.preset = preset
    config.benchmark = "glue"
    config.paper_table = "glue_architectures"
    config.tasks = ("cola", "rte", "mnli", "mrpc", "qnli", "qqp", "sst2", "stsb")
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
        config.data = "tfds"  # or a folder with GLUE's TSV files
        config.vocabulary_path = ml_collections.config_dict.placeholder(str)
        config.initial_checkpoint_path = ml_collections.config_dict.placeholder(str)
        config.task_feature_lengths = {"inputs": 256, "targets": 16}
        config.seeds = (0, 1, 2)
        config.train_steps = 10_001
        config.conflict_period = 100
        config.gin_files = {name: f"gin/examples/paper_glue_{name}.gin" for name in ARCHITECTURES}
    elif preset == "mini":
        config.data = "mini"
        config.vocabulary_path = "mini"
        config.initial_checkpoint_path = None
        config.seeds = (0, 1)
        config.train_steps = 300
        config.conflict_period = 20
        config.task_feature_lengths = {"inputs": 32, "targets": 8}
        config.gin_files = {
            name: (f"gin/examples/mini_glue_{name}.gin", "gin/runs/paper_mini.gin")
            for name in ARCHITECTURES
        }
    else:
        raise ValueError(f"there is no preset {preset!r}: say --config=FILE, or --config=FILE:mini")
    config.single_task_steps = config.get_oneway_ref("train_steps")
    return config


def runs(config: ml_collections.ConfigDict):
    """Three rows; the two text-to-text ones share a baseline."""
    if config.preset == "paper":
        study.required(config, "vocabulary_path", "initial_checkpoint_path")
    macros = {
        "VOCABULARY_PATH": config.vocabulary_path,
        "INITIAL_CHECKPOINT_PATH": config.initial_checkpoint_path,
        "TASK_FEATURE_LENGTHS": config.task_feature_lengths.to_dict(),
    }
    # A task alone has no conflict, at fixed points neither.
    alone = {"measure.InTraining.fixed_point": None}
    return study.grid(config, macros, single_task=alone, baselines=config.baselines)
