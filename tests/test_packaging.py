"""What is installed: complete, working outside the checkout, and with no name that is not ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

# Older ones cannot build a wheel by themselves.
pytest.importorskip("setuptools", minversion="70.1", reason="setuptools is missing or too old")
pytest.importorskip("pip", reason="pip is missing")

CHECKOUT = Path(__file__).parent.parent
NAMES = {"flask_artifact_cache", "artifact_cache_daemon"}
# Where the packages are in the checkout, and in what is installed.
HOMES = {
    "flask_artifact_cache": "flask_artifact_cache",
    "migrations": "flask_artifact_cache/migrations",
    "daemon/artifact_cache_daemon": "artifact_cache_daemon",
}
LEFT_OUT = shutil.ignore_patterns(
    ".*", "__pycache__", "*.py[cod]", "*.egg-info", "build", "dist", "*.db", "venv", "node_modules"
)
APP = """
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_artifact_cache import ArtifactCache, database

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{app.root_path}/host.db"
ArtifactCache(app, SQLAlchemy(app))
print(database.migrations_directory(), flush=True)
"""


def run(*command, cwd, **environment):
    """Run a command; give what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(
        [str(part) for part in command],
        check=False,
        cwd=cwd,
        env={**kept, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


def build(kind, source, folder):
    """Call a hook of the build backend, as pip and build do; give what it made."""
    folder.mkdir(parents=True, exist_ok=True)
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    run(sys.executable, "-c", code, folder, cwd=source)
    [made] = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout, which building and editable installs write to."""
    copy = tmp_path_factory.mktemp("source") / "artifact cache 100%"
    shutil.copytree(CHECKOUT, copy, ignore=LEFT_OUT)
    return copy


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(source, tmp_path_factory):
    return build("sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def requirements(tmp_path_factory):
    """Everything that is installed here but ourselves, as a folder of links."""
    folder = tmp_path_factory.mktemp("requirements")
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            ours = entry.name.startswith((*NAMES, "__editable__"))
            if not ours and entry.suffix not in (".pth", ".egg-link"):
                (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def install(requirements, tmp_path_factory):
    """Installs something into a fresh environment; gives its interpreter and its packages."""

    def into(*arguments):
        environment = tmp_path_factory.mktemp("environment 100%")
        venv.create(environment, symlinks=True)
        scripts = environment / ("Scripts" if os.name == "nt" else "bin")
        python = scripts / "python"
        place = "import sysconfig; print(sysconfig.get_path('purelib'))"
        packages = Path(run(python, "-c", place, cwd=environment).strip())
        (packages / "requirements.pth").write_text(str(requirements))
        options = ("install", "--quiet", "--no-deps", "--no-build-isolation")
        run(python, "-m", "pip", *options, *arguments, cwd=environment)
        return python, packages

    return into


def package_files(source):
    """What belongs to our packages, under the names it is installed by."""
    return {
        f"{home}/{file.relative_to(source / folder).as_posix()}"
        for folder, home in HOMES.items()
        for file in (source / folder).rglob("*")
        if file.is_file()
    }


def test_the_wheel_has_every_file_of_our_packages_and_nothing_else(source, wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert names == package_files(source)
    assert names >= {
        "flask_artifact_cache/py.typed",
        "flask_artifact_cache/migrations/env.py",
        "flask_artifact_cache/migrations/script.py.mako",
        "flask_artifact_cache/migrations/versions/0001_tables.py",
        "artifact_cache_daemon/__init__.py",
    }


def test_the_sdist_has_what_a_packager_needs(source, sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    wanted = {
        file.relative_to(source).as_posix()
        for folder in (*HOMES, "tests", "docs", "examples")
        for file in (source / folder).rglob("*")
        if file.is_file()
    }
    roots = {"setup.cfg", "pyproject.toml", "tox.ini", "README.md", "CHANGES.md", "LICENSE"}
    assert wanted | roots <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".db")]


def test_the_wheel_made_from_the_sdist_is_the_same(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [unpacked] = tmp_path.iterdir()
    other = build("wheel", unpacked, tmp_path / "wheel")

    def contents(file):
        with zipfile.ZipFile(file) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    assert other.name == wheel.name
    assert contents(other) == contents(wheel)


@pytest.fixture(scope="module", params=["wheel", "editable", "strict editable"])
def installed(request, install, source):
    """Ourselves in a fresh environment: the interpreter, its packages, where migrations are."""
    if request.param == "wheel":
        python, packages = install(request.getfixturevalue("wheel"))
        return python, packages, packages / "flask_artifact_cache" / "migrations"
    if request.param == "editable":
        return *install("--editable", source), source / "migrations"
    strict = ("--config-settings", "editable_mode=strict", "--editable", source)
    return *install(*strict), None


def test_the_command_works_outside_the_checkout(installed, tmp_path):
    python, _, migrations = installed
    (tmp_path / "host_app.py").write_text(APP)

    upgrade = ("artifact-cache", "db", "upgrade")
    said = run(python, "-W", "error", "-m", "flask", "--app", "host_app", *upgrade, cwd=tmp_path)

    found, result = said.splitlines()
    assert re.fullmatch(r"The tables are at (\d+); the newest is \1\.", result)
    assert migrations in (Path(found), None)
    assert {"env.py", "script.py.mako", "versions"} <= set(os.listdir(found))


def test_no_foreign_name_is_taken(installed, tmp_path):
    python, packages, _ = installed

    names = {entry.name for entry in packages.iterdir()} - {"requirements.pth", "__pycache__"}
    assert all(name.startswith((*NAMES, "__editable__")) for name in names)
    code = (
        "import importlib.util as find, flask_artifact_cache, artifact_cache_daemon;"
        "print(find.find_spec('daemon'), find.find_spec('migrations'), find.find_spec('tests'))"
    )
    assert run(python, "-c", code, cwd=tmp_path) == "None None None\n"
