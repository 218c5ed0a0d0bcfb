"""The paper's output spaces on GLUE: words, letters shared or not, and the diverse prompts' words.

    python -m mtl_t5x.study --config=configs/paper_glue_labels.py --workdir=DIR \
        --config.data=GLUE_FOLDER --config.vocabulary_path=spiece.model \
        --config.initial_checkpoint_path=t5-v1_1-small

36 runs of 10,001 updates: 12 of the eight tasks together, and 24 of a task alone with the null
prompt and words, the baselines of all four rows. By --dry_run an update of all eight takes 5.2e12
FLOPs and 14 GB besides the state, so the study 8.6e17 with its fixed points; at the peaks of one
A100 that is 70 ms and 3.2 hours, a bound that float32 and the scoring of dev every 500 updates,
which isn't counted, are far from.

These are the output spaces that the original's code offers. `report.html` shows what the paper's
table of prompts prints, the baseline and the two rows with words, beside ours; of the rows with
letters no figures stand here to compare with.

    python -m mtl_t5x.study --config=configs/paper_glue_labels.py:mini --workdir=DIR

takes the same rows over two seeds on the embedded benchmark, with a mini T5 from scratch: 24 runs
of 400 steps. Its scores are no estimate of the paper's.
"""

import ml_collections

from mtl_t5x import study


def get_config(preset: str = "paper") -> ml_collections.ConfigDict:
    """The settings of a preset, "paper" or "mini"; --config.NAME=VALUE sets each of them."""
    config = ml_collections.ConfigDict()
    config.preset = preset
    config.benchmark = "glue"
    config.paper_table = "glue_prompts"
    config.tasks = ("cola", "rte", "mnli", "mrpc", "qnli", "qqp", "sst2", "stsb")
    config.architectures = ("text_to_text",)
    config.prompts = ("default", "diverse")
    config.labels = ("semantic", "shared_letters", "distinct_letters")
    config.excluded = ("*.diverse.*_letters",)  # diverse prompts ask for answers of their own
    config.baselines = {"text_to_text": "text_to_text.null.semantic"}
    if preset == "paper":
        config.data = "tfds"  # or a folder with GLUE's TSV files
        config.vocabulary_path = ml_collections.config_dict.placeholder(str)
        config.initial_checkpoint_path = ml_collections.config_dict.placeholder(str)
        config.task_feature_lengths = {"inputs": 256, "targets": 16}
        config.seeds = (0, 1, 2)
        config.train_steps = 10_001
        config.conflict_period = 100
        config.gin_files = {"text_to_text": "gin/examples/paper_glue_text_to_text.gin"}
    elif preset == "mini":
        config.data = "mini"
        config.vocabulary_path = "mini"
        config.initial_checkpoint_path = None
        config.seeds = (0, 1)
        config.train_steps = 400
        config.conflict_period = 20
        config.task_feature_lengths = {"inputs": 32, "targets": 8}
        files = ("gin/examples/mini_glue_text_to_text.gin", "gin/runs/paper_mini.gin")
        config.gin_files = {"text_to_text": files}
    else:
        raise ValueError(f"there is no preset {preset!r}: say --config=FILE, or --config=FILE:mini")
    config.single_task_steps = config.get_oneway_ref("train_steps")
    return config


def runs(config: ml_collections.ConfigDict):
    """Four rows with one baseline, that with the null prompt and words."""
    if config.preset == "paper":
        study.required(config, "vocabulary_path", "initial_checkpoint_path")
    macros = {
        "VOCABULARY_PATH": config.vocabulary_path,
        "INITIAL_CHECKPOINT_PATH": config.initial_checkpoint_path,
        "TASK_FEATURE_LENGTHS": config.task_feature_lengths.to_dict(),
    }
    # A task alone has no conflict, at fixed points neither.
    alone = {"measure.InTraining.fixed_point": None}
    return study.grid(
        config, macros, single_task=alone, baselines=config.baselines, excluded=config.excluded
    )
