"""The one entry of a run: reads gin files and bindings, and calls what they bind.

python -m mtl_t5x.main --gin_file=gin/examples/mini_glue_text_to_text.gin \
    --gin.MODEL_DIR=\\"/tmp/run\\" --gin.TRAIN_STEPS=300
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import gin
from absl import app, flags
from absl import logging as absl_logging
from etils import epath

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RUN_MODES = {
    "train": "train.train",
    "eval": "evaluate.evaluate_run",
    "measure": "measure.measure",
    "dry_run": "dry_run.dry_run",
}

_GIN_FILE = flags.DEFINE_multi_string("gin_file", [], "A gin file; may be given several times.")
_GIN_BINDINGS = flags.DEFINE_multi_string(
    "gin_bindings", [], "A binding NAME=VALUE; --gin.NAME=VALUE is the same."
)
_GIN_SEARCH_PATHS = flags.DEFINE_list(
    "gin_search_paths", ["."], "Where gin files are looked for; the project's root always is one."
)
_RUN_MODE = flags.DEFINE_enum(
    "run_mode",
    "train",
    sorted(RUN_MODES),
    "train; or, of the newest checkpoint, eval or measure (its conflict); or dry_run.",
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run",
    False,
    "Compiles the step for the mesh, without data, and prints what it takes of memory, FLOPs, "
    "traffic and time; the same as --run_mode=dry_run.",
)
_TOPOLOGY = flags.DEFINE_string(
    "topology",
    None,
    "With --dry_run: compiles for these TPU devices, that needn't be there, as v5e:2x4.",
)
_NUM_SLICES = flags.DEFINE_integer("num_slices", 1, "How many slices of --topology.")
_DRY_RUN_JSON = flags.DEFINE_string("dry_run_json", None, "A file for --dry_run's numbers.")
_COORDINATOR_ADDRESS = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of the first of several processes, where the cluster (TPU pod, SLURM) doesn't tell.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of the processes this is, from 0.")
_TFDS_DATA_DIR = flags.DEFINE_string("tfds_data_dir", None, "Where TFDS keeps its data sets.")
_SEQIO_CACHE_DIRS = flags.DEFINE_list(
    "seqio_additional_cache_dirs", [], "Where SeqIO looks for cached tasks."
)


def run(
    gin_files: Sequence[str],
    gin_bindings: Sequence[str],
    run_mode: str = "train",
    gin_search_paths: Sequence[str] = (".",),
    **arguments: Any,
) -> None:
    """Configures gin afresh and carries out one run; runs may follow each other in a process.

    `arguments` go to what the mode calls.

    Raises:
      ValueError: among others, a macro that has no value; the message says which binding to add.
    """
    from mtl_t5x.runtime import compiled

    _configure_logging()
    compiled.keep_programs()
    gin.clear_config(clear_constants=True)
    for path in (*gin_search_paths, ROOT):
        gin.add_config_file_search_path(path)
    if run_mode == "dry_run":  # writes nothing and reads no data: its shapes are those of any
        gin_bindings = [*_FOR_A_DRY_RUN, *gin_bindings]
    try:
        gin.parse_config_files_and_bindings(list(gin_files), list(gin_bindings))
        if run_mode == "dry_run":
            gin.get_configurable(RUN_MODES[run_mode])(**arguments)
            return
        model_dir = _macro("MODEL_DIR")
        epath.Path(model_dir).mkdir(parents=True, exist_ok=True)
        config = "config.gin" if run_mode == "train" else f"config-{run_mode}.gin"
        with _config_in(epath.Path(model_dir) / config):
            gin.get_configurable(RUN_MODES[run_mode])(**arguments)
    except (TypeError, ValueError) as error:
        if name := _unset_macro(error):
            raise ValueError(_UNSET.format(name=name)) from error
        raise


_FOR_A_DRY_RUN = (
    'MODEL_DIR=""',
    'DATA="mini"',
    'VOCABULARY_PATH="mini"',
    "INITIAL_CHECKPOINT_PATH=None",
)


def _configure_logging() -> None:
    """Shows this package's messages; of the libraries', which log every file, errors alone."""
    if not (flags.FLAGS.is_parsed() and flags.FLAGS["verbosity"].present):
        absl_logging.set_verbosity(absl_logging.ERROR)
    # Absl's programs have it, a study's workers not: there the first library that logs would make
    # a handler of its own, which shows everything once more.
    absl_logging.use_absl_handler()
    logger = logging.getLogger("mtl_t5x")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        # absl's handler, on the root logger, would show them once more.
        absl_logging.get_absl_handler().addFilter(lambda record: not _is_ours(record))


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.split(".")[0] == "mtl_t5x"


_UNSET = (
    "{name} is not set: add --gin.{name}=… to the command, or {name} = … to the gin file (strings "
    'carry escaped quotes: --gin.MODEL_DIR=\\"/tmp/run\\")'
)


def _macro(name: str) -> Any:
    """The value of a macro that the configuration must set."""
    try:
        value = gin.query_parameter(f"%{name}")
    except ValueError as error:
        raise ValueError(_UNSET.format(name=name)) from error
    return value


def _unset_macro(error: Exception) -> str | None:
    """The macro that gin found without a value, if that is what the error is about."""
    for pattern in (
        r"^No bindings specified for '(\w+)/gin\.macro'",
        r"^(\w+)/macro\.value set to `%gin\.REQUIRED`",
        r"configurable 'macro'.* in scope '(\w+)'",
    ):
        if match := re.search(pattern, str(error)):
            return match.group(1)
    return None


@contextlib.contextmanager
def _config_in(path: epath.Path) -> Iterator[None]:
    """Writes the whole configuration before a run, and after it what was used of it.

    A run that is refused for its settings leaves the configuration of the run before.
    """
    import jax

    if jax.process_index() != 0:
        yield
        return
    before = path.read_text() if path.exists() else None
    path.write_text(gin.config_str())
    try:
        yield
    except (TypeError, ValueError):
        if before is not None:
            path.write_text(before)
        raise
    path.write_text(gin.operative_config_str())


def rewrite_gin_flags(argv: Sequence[str]) -> list[str]:
    """`--gin.NAME=VALUE` as `--gin_bindings=NAME=VALUE`, which absl understands."""
    return [re.sub(r"^--gin\.(.+?)=", r"--gin_bindings=\1=", argument) for argument in argv]


def _main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"what is {argv[1]!r}? Every argument is a --flag=value")
    if not _GIN_FILE.value:
        raise app.UsageError("give --gin_file=…; gin/examples holds ready ones")
    import seqio

    from mtl_t5x.parallel import distributed

    if _TFDS_DATA_DIR.value is not None:
        seqio.set_tfds_data_dir_override(_TFDS_DATA_DIR.value)
    seqio.add_global_cache_dirs(_SEQIO_CACHE_DIRS.value)
    run_mode = "dry_run" if _DRY_RUN.value else _RUN_MODE.value
    if run_mode != "dry_run" and (_TOPOLOGY.value or _DRY_RUN_JSON.value):
        raise app.UsageError("--topology and --dry_run_json are for --dry_run")
    try:
        distributed.start(_COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        arguments = {}
        if run_mode == "dry_run":
            arguments = {
                "topology_name": _TOPOLOGY.value,
                "num_slices": _NUM_SLICES.value,
                "json_file": _DRY_RUN_JSON.value,
            }
        run(_GIN_FILE.value, _GIN_BINDINGS.value, run_mode, _GIN_SEARCH_PATHS.value, **arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        traceback.print_exc()
        sys.exit(f"\nmtl_t5x.main stopped: {(str(error) or repr(error)).splitlines()[0]}")


def start(*arguments: str) -> None:
    """Runs what the command line asks for, with further arguments."""
    app.run(_main, argv=rewrite_gin_flags([*sys.argv, *arguments]))


if __name__ == "__main__":
    start()
