"""Who may import whom: imports go down the list, and the light files stay light."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "mtl_t5x"

# From the bottom up. A module imports those of earlier rows only.
LAYERS = (
    ("probes", "conflict", "conflict_estimates", "heads", "lookup", "losses", "sharding"),
    ("hlo", "grouping", "interruption", "manifest", "paths", "running", "watchdog"),
    ("models.layers",),
    ("models.t5",),
    ("gradients", "measure_figures", "models.architectures", "pretrained"),
    ("accumulation",),
    ("task_parallel",),
    ("data", "decoding", "step", "checkpoints", "run_log"),
    ("evaluate", "example_log", "measure"),
    ("dry_run",),
    ("train",),
    ("main",),
    ("report_folders",),
    ("report_tables",),
    ("report_plots",),
    ("report_html",),
    ("report",),
    ("study",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# What goes up, lazily: programs of their own that start runs.
EXCEPTIONS = {("study", "main"), ("measure", "main")}


def imported(path: pathlib.Path) -> set[str]:
    """Modules of this package that a file imports, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("mtl_t5x.") for name in found if name.startswith("mtl_t5x.")}


def modules() -> dict[str, pathlib.Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }


def level_of(name: str) -> int | None:
    """A name may be a module or something in one."""
    return LEVEL.get(name, LEVEL.get(name.rpartition(".")[0]))


def test_every_module_has_its_place():
    library = {name for name in modules() if not name.startswith("tasks.")}
    assert library == set(LEVEL) & library
    assert library, "no module was found"


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down(name):
    for other in imported(modules()[name]):
        if name.startswith("tasks."):
            continue
        assert not other.startswith("tasks"), f"{name} imports {other}: gin files and configs do"
        if (name, other) not in EXCEPTIONS:
            assert level_of(other) is not None and level_of(other) < LEVEL[name], (name, other)


@pytest.mark.parametrize("name", sorted(n for n in modules() if n.startswith("tasks.")))
def test_tasks_import_no_jax(name):
    tree = ast.parse(modules()[name].read_text())
    roots = {
        (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not roots & {"jax", "flax", "optax", "orbax"}


def test_results_are_redrawn_without_jax():
    code = (
        "import sys, mtl_t5x.study, mtl_t5x.report\n"
        "heavy = {'jax', 'tensorflow', 'seqio', 'flax'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_the_bridge_imports_t5x():
    for name, path in modules().items():
        if name != "t5x_bridge":
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module:
                    names = [node.module]
                assert not any(n == "t5x" or n.startswith("t5x.") for n in names), name


def test_the_gin_folder_hides_nothing():
    assert not list((PACKAGE.parent / "gin").rglob("__init__.py"))
