"""Six methods against the front of static weights: four GLUE tasks of the embedded benchmark.

    python -m mtl_t5x.study --config=configs/mini_glue_front.py --workdir=DIR

Forty-six runs of a two-layer T5 over two seeds: twelve static weightings (all 1, each task alone,
seven spread over the simplex), six methods, a temperature, and four single-task baselines.
The report shows every weighting's average and worst task, and which differ by more than chance.
"""

import ml_collections

from mtl_t5x import study

# About what a step of one task takes on one core: how long the study is, before any step is taken.
SECONDS_PER_STEP = 0.02


def get_config() -> ml_collections.ConfigDict:
    """The study's settings; each is set on the command line by --config.NAME=VALUE."""
    config = ml_collections.ConfigDict()
    config.benchmark = "glue"
    config.data = "mini"
    config.tasks = ("cola", "stsb", "mnli", "rte")
    config.architectures = ("text_to_text",)
    config.prompts = ("default",)
    config.labels = ("semantic",)
    config.seeds = (0, 1)
    config.train_steps = 600
    config.single_task_steps = config.get_oneway_ref("train_steps")
    config.conflict_period = 50
    config.corners = True
    config.sobol = 7
    config.temperatures = (2.0,)
    config.methods = ("UPGrad", "MGDA", "CAGrad c=0.4", "NashMTL", "FAMO", "RandomWeights")
    config.feature_lengths = {"inputs": 32, "targets": 8}
    config.gin_files = {"text_to_text": "gin/examples/mini_glue_text_to_text.gin"}
    return config


def runs(config: ml_collections.ConfigDict):
    """Every weighting over the seeds, then the single-task baselines."""
    return study.sweep(config, {"TASK_FEATURE_LENGTHS": config.feature_lengths.to_dict()})
