"""Imports point one way, downwards, and the file side needs neither Flask nor SQLAlchemy."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import flask_artifact_cache

PACKAGE = Path(flask_artifact_cache.__file__).parent
NAME = "flask_artifact_cache"

# A room, which is a module or a package, may import what stands beside it or below it. Some of
# these are only planned.
ROOMS = [
    {"__init__"},
    {"extension"},
    {"web", "cli", "celery_tasks"},
    {"background", "events", "doctor"},
    {"service", "remote", "population"},
    {"reading"},
    {"metrics"},
    {
        "queries",
        "faults",
        "feed",
        "statements",
        "cursors",
        "bodies",
        "readers",
        "tasks",
        "refresh",
        "database",
    },
    {"search", "settings", "notices"},
    {"stats", "files", "models", "upstream", "freshness"},
    {"errors", "signals", "version"},
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def module_files(root, name):
    """Module names and their files, below a package's folder."""
    for file in sorted(root.rglob("*.py")):
        inside = file.relative_to(root).with_suffix("").parts
        if "migrations" not in inside:
            yield ".".join((name, *(part for part in inside if part != "__init__"))), file


MODULES = dict(module_files(PACKAGE, NAME))


def imports(module, file, once=False):
    """The full names of what a module imports, anywhere, or once while it is imported itself."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in running(tree) if once else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def running(tree):
    """What is run when a module is imported: no functions, nothing for type checkers."""
    nodes = list(tree.body)
    while nodes:
        node = nodes.pop()
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            nodes += node.orelse
        else:
            nodes += ast.iter_child_nodes(node)


def modules(names):
    """The modules of ours that imported names are, or are in."""
    found = set()
    for name in names:
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {"", NAME}


def room(module):
    return module.removeprefix(NAME).lstrip(".").partition(".")[0] or "__init__"


GRAPH = {module: modules(imports(module, file)) - {module} for module, file in MODULES.items()}


def test_every_module_has_its_place():
    homeless = {room(module) for module in MODULES} - LEVEL.keys()

    assert not homeless, f"say in ROOMS of {__file__} what {homeless} may import"


def test_imports_never_point_upwards():
    upwards = [
        f"{module} imports {imported}"
        for module, found in GRAPH.items()
        for imported in found
        if LEVEL[room(imported)] < LEVEL[room(module)]
    ]

    assert upwards == []


def test_there_is_no_import_cycle():
    graph = {module: modules(imports(module, file, once=True)) for module, file in MODULES.items()}

    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))
    assert set(order) >= MODULES.keys() - {NAME}


def outside(module):
    """The foreign top-level packages that a module imports, directly or through others of ours."""
    seen, waiting = set(), [module]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += GRAPH[one]
    names = {name for one in seen for name in imports(one, MODULES[one])}
    return {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, "tomllib", NAME}


@pytest.mark.parametrize(
    ("part", "allowed"),
    [
        ("files", {"blinker", "ruamel", "tomli", "tomlkit"}),
        ("errors", set()),
        ("freshness", set()),
        ("settings", {"limits"}),
        ("upstream", {"blinker", "ruamel", "tomli", "tomlkit", "urllib3"}),
        ("models", {"sqlalchemy"}),
        ("queries", {"sqlalchemy", "blinker", "ruamel", "tomli", "tomlkit"}),
        ("refresh", {"sqlalchemy", "blinker", "ruamel", "tomli", "tomlkit"}),
    ],
)
def test_a_room_needs_no_more_than_it_says(part, allowed):
    needed = {name for module in MODULES if room(module) == part for name in outside(module)}

    assert needed <= allowed


def test_the_daemon_imports_nothing_of_the_package():
    checkout = PACKAGE.parent / "daemon" / "artifact_cache_daemon"
    daemon = checkout if checkout.is_dir() else PACKAGE.parent / "artifact_cache_daemon"
    modules = dict(module_files(daemon, "artifact_cache_daemon"))

    assert modules
    found = {
        name.partition(".")[0] for module, file in modules.items() for name in imports(module, file)
    }
    assert found.isdisjoint({NAME, "flask", "flask_sqlalchemy", "sqlalchemy", "alembic"})


def run(code, *arguments):
    """Run code in a fresh interpreter that has no Flask and no SQLAlchemy."""
    blocked = (
        "flask",
        "flask_sqlalchemy",
        "flask_migrate",
        "sqlalchemy",
        "alembic",
        "marshmallow",
        "limits",
    )
    prelude = (
        "import sys; "
        f"sys.modules.update(dict.fromkeys({blocked!r})); "
        f"sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
    )
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", prelude + code, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_file_side_works_where_there_is_no_flask_and_no_sqlalchemy(sample):
    code = """
from flask_artifact_cache import ArtifactManager, CollectionManager

manager = CollectionManager({"work": sys.argv[1]}).artifacts("work")
assert isinstance(manager, ArtifactManager)
print(sorted(artifact.name for artifact in manager.list()))
"""

    result = run(code, sample.root)

    assert result.stderr == ""
    assert result.stdout == "['charts', 'csv', 'pdf', 'reviewer', 'search', 'tidy']\n"


def test_what_needs_flask_says_so_only_when_it_is_asked_for():
    result = run("import flask_artifact_cache as cache; cache.ArtifactManager; cache.ArtifactCache")

    assert "ModuleNotFoundError" in result.stderr
    assert "flask" in result.stderr.splitlines()[-1]


def test_every_public_name_is_there():
    for name in flask_artifact_cache.__all__:
        assert getattr(flask_artifact_cache, name).__module__.startswith(NAME)
    assert set(flask_artifact_cache.__all__) <= set(dir(flask_artifact_cache))
    with pytest.raises(AttributeError, match="has no attribute 'Artefact'"):
        _ = flask_artifact_cache.Artefact
    with pytest.raises(ImportError, match="cannot import name 'Artefact'"):
        from flask_artifact_cache import Artefact  # noqa: F401
