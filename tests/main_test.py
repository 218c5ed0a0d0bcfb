import subprocess
import sys

import pytest
from absl.testing import flagsaver
from etils import epath

from mtl_t5x import main
from mtl_t5x.settings import bindings

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


def test_who_reads_a_configuration_meanwhile_reads_a_whole_one(tmp_path):
    """As the other processes of a run do, to compare it with theirs, when the first one writes."""
    path = epath.Path(tmp_path / "config.gin")
    path.write_text("of the run before")
    bindings.read([], ["TRAIN_STEPS = 7"], [])
    with path.open() as before, main._config_in(path):
        assert before.read() == "of the run before"
        begun = path.open()
    with begun:
        assert "TRAIN_STEPS = 7" in begun.read()
    assert [found.name for found in path.parent.iterdir()] == ["config.gin"]


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
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("mtl_t5x.main stopped: MIXTURE_OR_TASK_NAME:")
    assert "Did you mean 'glue_cola'?" in last


LOGGING = """
import logging
from absl import app
from mtl_t5x import main

def program(argv):
    main._configure_logging()
    logging.error("said by a library")  # makes a handler where there is none
    for name in ("mtl_t5x.models.pretrained", "mtl_t5x.train"):
        logging.getLogger(name).info("said by %s", name)

"""


@pytest.mark.parametrize("start", ["app.run(program)", "program([])"])
def test_every_message_is_shown_once(start):
    ended = subprocess.run([sys.executable, "-c", LOGGING + start], capture_output=True, text=True)
    for name in ("mtl_t5x.models.pretrained", "mtl_t5x.train"):
        assert ended.stderr.count(f"said by {name}") == 1, ended.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError(), 2),
        (ValueError("a\nb"), 2),
        (FileNotFoundError("no such file"), 2),
        (ImportError("no such package"), 2),
        (OSError(), 1),
        (FloatingPointError("step 3"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
@pytest.mark.parametrize("verbosity", [None, 1])
def test_errors_are_told_without_where_in_the_code(error, code, verbosity, monkeypatch, capsys):
    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(main, "run", fails)
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
        shown = [f"--verbosity={verbosity}"] if verbosity else []
        main._main(main._read_flags(["main", "--gin_file=a.gin", *shown]))
    assert ended.value.code == code
    said = capsys.readouterr().err
    assert ("Traceback" in said) == (verbosity is not None and code < 130)
    if code < 130:
        assert said.endswith(f"mtl_t5x.main stopped: {str(error) or repr(error)}\n")


def test_a_flag_that_there_is_not(capsys):
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as ended:
        main._read_flags(["main", "--gin_fille=a.gin"])
    assert ended.value.code == 2 and "gin_fille" in capsys.readouterr().err
