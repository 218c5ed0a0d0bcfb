"""Shapes are checked in every test: jaxtyping's annotations are enforced by beartype."""

import gc
import importlib
import importlib.metadata
import os
import pathlib

import pytest
from jaxtyping import install_import_hook

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "mtl_t5x"
# Every module that annotates shapes.
CHECKED = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if "from jaxtyping import" in path.read_text()
)

# Most of the suite's time is compilation: tests and the processes that they start share programs,
# and LLVM doesn't optimise them, which takes longer than these small ones then run.
COMPILATION = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".jax_cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
}
# What a user's own caches are, tokens among them: tests write none of those.
COMPILATION["XDG_CACHE_HOME"] = str(ROOT / ".cache")
for name, value in COMPILATION.items():
    os.environ.setdefault(name, value)

# Tracing makes objects by the million, and the collector would go through TensorFlow's each time.
gc.set_threshold(50_000, 20, 100)

install_import_hook(CHECKED, "beartype.beartype")


def pytest_configure(config: pytest.Config) -> None:
    """XLA's older way from fusions to LLVM compiles in little more than half of the time: the fast
    tests take it, the others its newer one, as users do. XLA stops at a flag that it doesn't know,
    so it is for the versions that are known to have it."""
    known = importlib.metadata.version("jaxlib").startswith("0.10.")
    if known and "not slow" in config.option.markexpr:
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")


def pytest_collection() -> None:
    """Imports the large libraries, in processes that run tests, before anything that is checked:
    what a checked module imports first isn't taken from its compiled files, but compiled anew.
    """
    for name in ("seqio", "flax", "optax", "orbax.checkpoint"):
        importlib.import_module(name)


# A file is tested by one process: those that take longest begin first, so that none is left last,
# and the one that would be among the last by its name.
LONGEST = (
    "readme_test.py",
    "train_test.py",
    "processes_test.py",
    "examples_test.py",
    "paper_preset_test.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="module", autouse=True)
def room_for_programs() -> None:
    """A process goes through dozens of files and would keep the programs of all."""
    importlib.import_module("mtl_t5x.runtime.compiled").make_room()


@pytest.fixture
def shared() -> pathlib.Path:
    """Real benchmark files, T5's vocabulary, checkpoints; a test that needs them skips without."""
    folder = pathlib.Path(os.environ.get("MTL_T5X_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real benchmark files at {folder}; MTL_T5X_SHARED says where they are")
    return folder
