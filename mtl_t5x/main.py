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
from typing import Any, NoReturn

import gin
from absl import app, flags
from absl import logging as absl_logging
from etils import epath

from mtl_t5x.runtime import exit_codes, huge_pages, native_logs, tpu_compiler
from mtl_t5x.settings import bindings, changes, checks
from mtl_t5x.settings.checks import SettingsError
from mtl_t5x.storage import files, lock

logger = logging.getLogger(__name__)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RUN_MODES = {
    "train": "train.train",
    "eval": "evaluate.evaluate_run",
    "measure": "measure.measure",
    "export": "export.export",
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
    "train; or, of the newest checkpoint, eval, measure (its conflict) or export (its model); or "
    "dry_run.",
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
_OUTPUT = flags.DEFINE_string("output", None, "With export: the new folder for the model.")
_LAYOUT = flags.DEFINE_string(
    "layout", "huggingface", "With export: huggingface (as transformers reads it) or t5x."
)
_ALLOW_CHANGES = flags.DEFINE_bool(
    "allow_changes",
    False,
    "Goes on with a run though settings that decide its results are others than those it was "
    "begun with.",
)
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
    *,
    allow_changes: bool = False,
    **arguments: Any,
) -> None:
    """Configures gin afresh and carries out one run; runs may follow each other in a process.

    `arguments` go to what the mode calls.

    Raises:
      SettingsError: settings that can't work, all of them told, before anything is read or written;
        or, unless `allow_changes`, others than those that the folder's run was begun with.
      TakenError: another process trains in the folder.
    """
    from mtl_t5x.runtime import compiled

    _configure_logging()
    compiled.keep_programs()
    compiled.make_room()
    if run_mode == "dry_run":  # writes nothing and reads no data: its shapes are those of any
        gin_bindings = [*_FOR_A_DRY_RUN, *gin_bindings]
    bindings.read(gin_files, gin_bindings, (*gin_search_paths, ROOT))
    bindings.check(RUN_MODES[run_mode])
    carry_out = gin.get_configurable(RUN_MODES[run_mode])
    if run_mode == "dry_run":
        carry_out(**arguments)
        return
    folder = epath.Path(bindings.macro("MODEL_DIR"))
    if run_mode == "train":
        folder.mkdir(parents=True, exist_ok=True)
    elif not folder.is_dir():
        raise SettingsError(f"MODEL_DIR = {str(folder)!r}: there is no such folder; name a run's")
    if run_mode == "export":  # leaves the run's folder as it is
        carry_out(**arguments)
        return
    name = "config.gin" if run_mode == "train" else f"config-{run_mode}.gin"
    with _alone_in(folder, run_mode):
        if run_mode == "train" and not allow_changes:
            _check_unchanged(folder)
        with _config_in(folder / name):
            carry_out(**arguments)


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
        absl_logging.get_absl_handler().addFilter(_is_told_by_absl)


def _is_told_by_absl(record: logging.LogRecord) -> bool:
    """Not what this package's own handler shows, nor each place where gin has looked for a file."""
    ours = record.name.split(".")[0] == "mtl_t5x"
    return not ours and record.module != "resource_reader"


def _alone_in(folder: epath.Path, run_mode: str) -> contextlib.AbstractContextManager[None]:
    """Whoever trains has the run's folder alone; of several processes the first one holds it.

    What is measured and evaluated beside it has files of its own.
    """
    import jax

    if run_mode == "train" and jax.process_index() == 0:
        return lock.hold(folder)
    return contextlib.nullcontext()


def _check_unchanged(folder: epath.Path) -> None:
    """Whether a run that goes on has the settings that it was begun with."""
    from mtl_t5x.storage import checkpoints

    config = folder / "config.gin"
    if not config.exists() or not checkpoints.is_there(folder):
        return
    try:
        changed = changes.decisive(config.read_text(), gin.config_str(), gin.operative_config_str())
    except SyntaxError as error:
        logger.warning("%s can't be read, and so not compared: %s", config, error)
        return
    if changed:
        raise SettingsError(
            f"the run in MODEL_DIR = {str(folder)!r} was begun with other settings. Give another "
            "MODEL_DIR, or go on with these all the same by --allow_changes. What differs:\n  "
            + "\n  ".join(changed)
        )


@contextlib.contextmanager
def _config_in(path: epath.Path) -> Iterator[None]:
    """Writes the whole configuration before a run, and after it what was used of it.

    A run that is refused for its settings leaves the configuration of the run before, if any. The
    other processes compare their settings with this file meanwhile.
    """
    import jax

    if jax.process_index() != 0:
        yield
        return
    before = path.read_text() if path.exists() else None
    files.write_atomically(path, gin.config_str())
    try:
        yield
    except (TypeError, ValueError, ImportError, FileNotFoundError):
        if before is None:
            path.unlink()
        else:
            files.write_atomically(path, before)
        raise
    files.write_atomically(path, gin.operative_config_str())


def rewrite_gin_flags(argv: Sequence[str]) -> list[str]:
    """`--gin.NAME=VALUE` as `--gin_bindings=NAME=VALUE`, which absl understands."""
    return [re.sub(r"^--gin\.(.+?)=", r"--gin_bindings=\1=", argument) for argument in argv]


def _main(argv: Sequence[str]) -> None:
    from mtl_t5x.parallel import distributed

    if _NUM_PROCESSES.value is None and not distributed.in_cluster(os.environ):
        native_logs.quiet()
    import seqio

    if _TFDS_DATA_DIR.value is not None:
        seqio.set_tfds_data_dir_override(_TFDS_DATA_DIR.value)
    seqio.add_global_cache_dirs(_SEQIO_CACHE_DIRS.value)
    run_mode = "dry_run" if _DRY_RUN.value else _RUN_MODE.value
    arguments = {}
    if run_mode == "dry_run":
        arguments = {
            "topology_name": _TOPOLOGY.value,
            "num_slices": _NUM_SLICES.value,
            "json_file": _DRY_RUN_JSON.value,
        }
    if run_mode == "export":
        arguments = {"output": _OUTPUT.value, "layout": _LAYOUT.value}
    try:
        _check_flags(argv, run_mode)
        distributed.start(_COORDINATOR_ADDRESS.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        run(
            _GIN_FILE.value,
            _GIN_BINDINGS.value,
            run_mode,
            _GIN_SEARCH_PATHS.value,
            allow_changes=_ALLOW_CHANGES.value,
            **arguments,
        )
    except KeyboardInterrupt:  # where nothing is to be saved; a loop of steps hears it itself
        print("\nmtl_t5x.main was interrupted: started again, it goes on", file=sys.stderr)
        sys.exit(exit_codes.INTERRUPTED)
    except (ValueError, ImportError, OSError, FloatingPointError) as error:
        _stop(error)


def _check_flags(argv: Sequence[str], run_mode: str) -> None:
    further = argv[1:]
    only_dry = run_mode != "dry_run" and bool(_TOPOLOGY.value or _DRY_RUN_JSON.value)
    checks.check(
        f"what is {further[0]!r}? Every argument is a --flag=value" if further else None,
        None if _GIN_FILE.value else "give --gin_file=…; gin/examples holds ready ones",
        "--topology and --dry_run_json are for --dry_run" if only_dry else None,
        _wrong_output(run_mode),
    )


def _wrong_output(run_mode: str) -> checks.Fault:
    if run_mode == "export":
        return None if _OUTPUT.value else "give --output=DIR, a new folder for the model"
    return "--output is for python -m mtl_t5x.export" if _OUTPUT.value else None


def _stop(error: Exception) -> NoReturn:
    """Says what is wrong, in a line for each fault; --verbosity=1 shows where, too."""
    if flags.FLAGS["verbosity"].present and flags.FLAGS.verbosity > 0:
        traceback.print_exc()
    said = bindings.words(error)
    if isinstance(error, SettingsError) and len(error.faults) > 1:
        said = "\n  ".join([f"{len(error.faults)} settings can't work:", *error.faults])
    print(f"\nmtl_t5x.main stopped: {said}", file=sys.stderr)
    settings = isinstance(error, ValueError | ImportError | FileNotFoundError)
    sys.exit(exit_codes.SETTINGS if settings else exit_codes.FAILED)


def _read_flags(argv: Sequence[str]) -> list[str]:
    """The arguments that are no flags; leaves with code 2 where a flag can't be read."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"mtl_t5x.main stopped: {error}; --help lists the flags", file=sys.stderr)
        sys.exit(exit_codes.SETTINGS)


def start(*arguments: str) -> None:
    """Runs what the command line asks for, with further arguments."""
    huge_pages.ask_for()
    tpu_compiler.ask()
    argv = rewrite_gin_flags([*sys.argv, *arguments])
    app.run(_main, argv=argv, flags_parser=_read_flags)


if __name__ == "__main__":
    start()
