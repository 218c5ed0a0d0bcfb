"""GLUE with T5 1.1 small and three prompts, from pretrained weights, over three seeds.

    python -m mtl_t5x.study --config=configs/glue.py --workdir=DIR \
        --config.vocabulary_path=sentencepiece.model --config.initial_checkpoint_path=CHECKPOINT

81 runs of 10,000 steps: split them over machines with --index=I --count=N. Published figures
for this setting: Mueller, Andrews and Dredze, Findings of EMNLP 2022, the tables for GLUE.
"""

import ml_collections

from mtl_t5x import study


def get_config() -> ml_collections.ConfigDict:
    """The study's settings; each is set on the command line by --config.NAME=VALUE."""
    config = ml_collections.ConfigDict()
    config.benchmark = "glue"
    config.data = "tfds"  # or a folder with GLUE's TSV files
    config.vocabulary_path = ml_collections.config_dict.placeholder(str)
    config.initial_checkpoint_path = ml_collections.config_dict.placeholder(str)
    config.tasks = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
    config.architectures = ("text_to_text",)
    config.prompts = ("null", "default", "diverse")
    config.labels = ("semantic",)
    config.seeds = (0, 1, 2)
    config.train_steps = 10_000
    config.single_task_steps = config.get_oneway_ref("train_steps")
    config.conflict_period = 100
    config.gin_files = {"text_to_text": "gin/examples/small_glue_text_to_text.gin"}
    return config


def runs(config: ml_collections.ConfigDict):
    """For each prompt and seed, one multi-task run and eight single-task baselines."""
    study.required(config, "vocabulary_path", "initial_checkpoint_path")
    paths = {
        "VOCABULARY_PATH": config.vocabulary_path,
        "INITIAL_CHECKPOINT_PATH": config.initial_checkpoint_path,
    }
    return study.grid(config, paths)
