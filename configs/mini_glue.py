"""All eight GLUE tasks on the embedded benchmark: together against each alone, over two seeds.

    python -m mtl_t5x.study --config=configs/mini_glue.py --workdir=DIR

Eighteen runs of a two-layer T5, minutes on two cores; the report is DIR/report/report.html. To
expect: RTE gains some 12 points by MNLI, QQP loses some 30 by all others, SST-2 stays at 100 %
(`mtl_t5x/tasks/mini/relations.py`).
"""

import ml_collections

from mtl_t5x import study

# About what a step of one task takes on one core: how long the study is, before any step is taken.
SECONDS_PER_STEP = 0.025


def get_config() -> ml_collections.ConfigDict:
    """The study's settings; each is set on the command line by --config.NAME=VALUE."""
    config = ml_collections.ConfigDict()
    config.benchmark = "glue"
    config.data = "mini"
    config.tasks = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
    config.architectures = ("text_to_text",)
    config.prompts = ("default",)
    config.labels = ("semantic",)
    config.seeds = (0, 1)
    config.train_steps = 800
    config.single_task_steps = config.get_oneway_ref("train_steps")
    config.conflict_period = 20
    config.eval_period = 200
    config.feature_lengths = {"inputs": 32, "targets": 8}
    config.vocabulary_path = "mini"
    # A run's checkpoint, as of gin/examples/mini_span_corruption.gin; empty: from scratch.
    config.initial_checkpoint_path = ""
    config.gin_files = {"text_to_text": "gin/examples/mini_glue_text_to_text.gin"}
    return config


def runs(config: ml_collections.ConfigDict):
    """One multi-task run and eight single-task baselines for each seed."""
    macros = {
        "TASK_FEATURE_LENGTHS": config.feature_lengths.to_dict(),
        # Dev losses on the way: the generalization gap at equal training loss is made of them.
        "EVAL_PERIOD": config.eval_period,
        "measure.InTraining.groups": {
            "encoder": r"encoder/.*(kernel|rel_embedding)",
            r"\1": r"(encoder/layers_\d+)/.*kernel",
        },
        "VOCABULARY_PATH": config.vocabulary_path,
        "INITIAL_CHECKPOINT_PATH": config.initial_checkpoint_path or None,
    }
    return study.grid(config, macros)
