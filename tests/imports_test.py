"""Who may import whom: imports go down the list, and the light files stay light."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "mtl_t5x"

# The wings and the files beside them, from the bottom up: each imports those of earlier rows only.
# `report`, `jobs` and `tasks` stand beside the library.
LAYERS = (
    ("settings",),
    ("conflict", "storage"),
    ("data",),
    ("runtime",),
    ("parallel",),
    ("gradients",),
    ("balance", "models"),
    ("step",),
    ("experiment",),
    ("evaluate", "export", "measure", "t5x_bridge"),
    ("dry_run", "train"),
    ("main",),
    ("study",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
BESIDE = {
    "report": {"storage", "tasks"},
    "jobs": {"runtime", "settings", "storage"},
    "study": {"jobs", "report", "runtime", "settings", "storage"},
    "tasks": {"data"},
}
# What goes up, lazily: a program of its own that starts a run.
EXCEPTIONS = {("export", "main"), ("measure", "main")}


def imported(path: pathlib.Path) -> set[str]:
    """Modules of this package that a file imports, without the package's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix("mtl_t5x.") for name in found if name.startswith("mtl_t5x.")}


def packages(path: pathlib.Path) -> set[str]:
    """What a file imports modules of, by its name alone."""
    return {
        (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }


def modules() -> dict[str, pathlib.Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    }


def wing_of(name: str) -> str:
    """The wing, or the file beside the wings, that a module or something in one belongs to."""
    return name.split(".")[0]


def test_every_wing_has_its_place():
    assert {wing_of(name) for name in modules()} == set(LEVEL) | set(BESIDE)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_down(name):
    wing = wing_of(name)
    for other in imported(modules()[name]):
        found = wing_of(other)
        if (wing, found) in EXCEPTIONS or found == wing:
            continue
        if wing in BESIDE:
            assert found in BESIDE[wing], (name, other)
        else:
            assert found in LEVEL and LEVEL[found] < LEVEL[wing], (name, other)


def test_t5x_is_imported_by_its_bridge_and_that_by_nothing():
    for name, path in modules().items():
        assert ("t5x" in packages(path)) == (name == "t5x_bridge"), name
        assert not any(other.startswith("t5x_bridge") for other in imported(path)), name


def test_there_are_no_cycles():
    """A file may stand in a cycle with another of its own wing: none does."""
    files = modules()

    def module_of(name: str) -> str | None:
        return (
            name
            if name in files
            else next((n for n in (name.rpartition(".")[0],) if n in files), None)
        )

    graph = {
        name: {module_of(other) for other in imported(path)} - {None}
        for name, path in files.items()
        if not any(name == start for start, _ in EXCEPTIONS)
    }
    graphlib.TopologicalSorter(graph).prepare()


# What README says is longer than a screen.
LONGER = {"mtl_t5x/train.py: train"}


def test_files_and_functions_are_short():
    """400 lines a file, 60 a function with its docstring."""
    found = set()
    root = PACKAGE.parent
    for path in [
        p for folder in ("mtl_t5x", "tests", "configs") for p in (root / folder).rglob("*.py")
    ]:
        text, name = path.read_text(), path.relative_to(root).as_posix()
        assert text.count("\n") <= 400, name
        found |= {
            f"{name}: {node.name}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60
        }
    assert found == LONGER


def test_the_root_is_the_pipeline():
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert len(files) <= 9, sorted(files)
    for path in PACKAGE.rglob("__init__.py"):
        body = ast.parse(path.read_text()).body
        assert len(body) == 1 and ast.get_docstring(ast.parse(path.read_text())), path


@pytest.mark.parametrize("name", sorted(n for n in modules() if n.startswith("tasks.")))
def test_tasks_import_no_jax(name):
    assert not packages(modules()[name]) & {"jax", "flax", "optax", "orbax"}


def test_results_are_redrawn_without_jax():
    code = (
        "import sys, mtl_t5x.study, mtl_t5x.jobs.pool, mtl_t5x.jobs.worker\n"
        "import mtl_t5x.report.report, mtl_t5x.report.text_scores\n"
        "heavy = {'jax', 'tensorflow', 'seqio', 'flax'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_gin_folder_hides_nothing():
    assert not list((PACKAGE.parent / "gin").rglob("__init__.py"))
