import subprocess
import sys

import pytest

from mtl_t5x import main

EXAMPLE = "gin/examples/mini_glue_text_to_text.gin"


def test_gin_flags_become_bindings():
    argv = ["main", "--gin_file=a.gin", '--gin.MODEL_DIR="/x=y"', "--gin.step.adamw.b1=0.5"]
    assert main.rewrite_gin_flags(argv) == [
        "main",
        "--gin_file=a.gin",
        '--gin_bindings=MODEL_DIR="/x=y"',
        "--gin_bindings=step.adamw.b1=0.5",
    ]


def test_a_missing_model_dir():
    with pytest.raises(ValueError, match=r"MODEL_DIR is not set: add --gin\.MODEL_DIR="):
        main.run([EXAMPLE], [])


def test_a_missing_macro(tmp_path):
    gin_file = tmp_path / "half.gin"
    gin_file.write_text(
        "from __gin__ import dynamic_registration\n"
        'include "gin/models/t5_1_1_mini.gin"\n'
        'include "gin/tasks/glue.gin"\n'
        'include "gin/runs/train.gin"\n'
        'MIXTURE_OR_TASK_NAME = "glue.default.semantic"\n'
        'TASK_FEATURE_LENGTHS = {"inputs": 32, "targets": 4}\n'
        "TRAIN_STEPS = 100\n"
    )
    with pytest.raises(ValueError, match=r"MODEL is not set: add --gin\.MODEL="):
        main.run([str(gin_file)], [f'MODEL_DIR="{tmp_path}"'])


def test_a_binding_that_nothing_takes(tmp_path):
    with pytest.raises(ValueError, match="no_such_parameter"):
        main.run([EXAMPLE], [f'MODEL_DIR="{tmp_path}"', "train.train.no_such_parameter=1"])


def test_the_command_line_says_what_is_wrong(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mtl_t5x.main",
        f"--gin_file={EXAMPLE}",
        f'--gin.MODEL_DIR="{tmp_path}"',
        '--gin.MIXTURE_OR_TASK_NAME="glue_colla.default.semantic"',
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("mtl_t5x.main stopped: MIXTURE_OR_TASK_NAME:")
    assert "Did you mean 'glue_cola'?" in last
