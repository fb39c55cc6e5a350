"""A collection that goes back and forth between the SkillMeat command line and us.

The daemon watches a folder that the other program writes to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest

from flask_artifact_cache import CollectionManager
from flask_artifact_cache.files.sources import Fetched, local

from ..upstream.fakegithub import TOKEN, Repository

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.interop

# The program and all that it needs, so that nobody's release decides whether this passes.
REQUIREMENTS = Path(__file__).with_name("skillmeat.txt")
PROGRAM = os.environ.get("ARTIFACT_CACHE_TEST_SKILLMEAT")
CI = os.environ.get("CI") == "true"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program, in an environment of its own."""
    if PROGRAM:
        return PROGRAM
    if os.environ.get("ARTIFACT_CACHE_TEST_INTEROP") != "1":
        pytest.skip("needs SkillMeat: run 'tox -e interop', or set ARTIFACT_CACHE_TEST_SKILLMEAT")
    folder = tmp_path_factory.mktemp("skillmeat")
    venv.create(folder, with_pip=True)
    install = [folder / "bin/python", "-m", "pip", "install", "-q", "-r", REQUIREMENTS]
    if subprocess.run(install, check=False).returncode != 0:
        text = "SkillMeat could not be installed; is there a package index?"
        if CI:
            pytest.fail(text)
        pytest.skip(text)
    return str(folder / "bin/skillmeat")


@pytest.fixture
def skillmeat(program, tmp_path):
    """Runs the program with a home of its own."""

    def run(*arguments):
        done = subprocess.run(
            [program, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COLUMNS": "200"},
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def source(tmp_path):
    def make(name, description):
        folder = tmp_path / "sources" / name
        folder.mkdir(parents=True, exist_ok=True)
        text = (
            f"---\nname: {name}\ndescription: {description}\nauthor: Ada\nlicense: MIT\n"
            "version: 1.2.0\ntags: [One, two]\ntools: [Read, Bash]\n---\nText.\n"
        )
        (folder / "SKILL.md").write_text(text, encoding="utf-8")
        return folder

    return make


@pytest.fixture
def folder(skillmeat, tmp_path):
    """A collection that the program has made; the app's, too."""
    skillmeat("init", "--name", "default", "--no-input")
    return SimpleNamespace(root=tmp_path / ".skillmeat/collections/default")


def test_each_reads_what_the_other_has_written(skillmeat, source, folder):
    manager = CollectionManager({"default": folder.root})
    artifacts = manager.artifacts("default")

    skillmeat("add", "skill", source("theirs", "Made by them."), "--yes")
    [theirs] = artifacts.list()
    assert (theirs.id, theirs.path, theirs.origin) == (
        "skill:theirs", "skills/theirs/SKILL.md", "local"
    )  # fmt: skip
    assert (theirs.description, theirs.author, theirs.license, theirs.version) == (
        "Made by them.", "Ada", "MIT", "1.2.0"
    )  # fmt: skip
    assert (theirs.tags, theirs.tools) == (("One", "two"), ("Read", "Bash"))
    assert theirs.details["locked_hash"] == theirs.content_hash
    assert artifacts.drift() == ()

    manager.add("default", local(str(source("ours", "Made by us."))))
    assert "theirs" in (listed := skillmeat("list"))
    assert "ours" in listed
    assert "Made by us." in skillmeat("show", "ours")

    manager.update("default", local(str(source("ours", "Changed by us."))))
    assert "Changed by us." in skillmeat("show", "ours")

    manager.remove("default", "skill:ours")
    assert "ours" not in skillmeat("list")

    # What they write into what we have written.
    manager.remove("default", "skill:theirs")
    skillmeat("add", "skill", source("again", "Made by them."), "--yes")
    assert [one.name for one in artifacts.list()] == ["again"]
    assert artifacts.drift() == ()


@pytest.fixture
def run(make_app, sqlite_url, fake, folder, tmp_path):
    """Our command line, for which the fake is GitHub."""
    app = make_app(
        sqlite_url,
        {"work": folder.root},
        ARTIFACT_CACHE_GITHUB_API_URL=fake.url,
        ARTIFACT_CACHE_GITHUB_TOKEN=TOKEN,
        ARTIFACT_CACHE_GITHUB_STATE_FOLDER=tmp_path / "state",
    )

    def run(*arguments):
        return app.test_cli_runner().invoke(args=["artifact-cache", *map(str, arguments)])

    return run


def synced(run):
    """What differs after a sync, which has changed no file of an artifact."""
    [found] = json.loads(run("sync", "--json").stdout)["collections"]
    assert (found["changes"], found["upstream"], found["error"]) == ([], [], None)
    return {(one["name"], one["kind"]) for one in found["drift"]}


def written(root, names):
    """What manifest and lock say of skills, key by key."""
    manifest, lock = (
        tomllib.loads((root / name).read_text("utf-8"))
        for name in ("collection.toml", "collection.lock")
    )
    entries = {one["name"]: one for one in manifest["artifacts"]}
    return {name: (entries[name], lock["lock"]["entries"][f"{name}::skill"]) for name in names}


def forget_upstream_at(said):
    return {
        name: (entry, {key: value for key, value in lock.items() if key != "upstream_at"})
        for name, (entry, lock) in said.items()
    }


def skill(name, description):
    return f"---\nname: {name}\ndescription: {description}\n---\nText.\n".encode()


def test_what_comes_from_github_outlives_what_the_other_writes(
    skillmeat, source, folder, fake, run
):
    names = ("same", "edited", "gone")
    files = {f"skills/{name}/SKILL.md": skill(name, "First.") for name in names}
    repository = fake.repos["octo/tools"] = Repository(files)
    for name in names:
        assert run("add", f"octo/tools/skills/{name}", "--tag", "mine").exit_code == 0
    (folder.root / "skills/edited/SKILL.md").write_bytes(skill("edited", "Mine."))
    del files["skills/gone/SKILL.md"]
    sha = repository.commit({**files, "skills/edited/SKILL.md": skill("edited", "New.")})
    differs = {("edited", "modified"), ("edited", "upstream_ahead"), ("gone", "upstream_gone")}
    assert synced(run) == differs
    before = written(folder.root, names)
    fake.forget()
    assert synced(run) == differs
    usual = dict(fake.calls)
    assert [lock.get("upstream_at") for _, lock in before.values()] == [None, sha, "gone"]
    artifacts = CollectionManager({"work": folder.root}).artifacts("work")

    listed = skillmeat("list")
    assert all(name in listed for name in names)
    assert listed.count("github") == len(names)
    assert "First." in skillmeat("show", "gone")

    for write in (
        lambda: skillmeat("add", "skill", source("theirs", "Made by them."), "--yes"),
        lambda: skillmeat("remove", "theirs", "--force"),
    ):
        write()

        # It writes the lock anew with the keys that it knows, which 'upstream_at' is not among.
        assert written(folder.root, names) == forget_upstream_at(before)
        # So nobody says what nobody knows, and what is known stays known.
        assert {(one.name, one.kind) for one in artifacts.drift()} == {("edited", "modified")}
        fake.forget()
        # The next sync asks, no more than any other does, and writes it down again.
        assert synced(run) == differs
        assert fake.calls == usual
        assert written(folder.root, names) == before

    # What changes is followed all the same.
    repository.commit({**files, "skills/same/SKILL.md": skill("same", "Changed upstream.")})
    run("sync")
    assert "Changed upstream." in skillmeat("show", "same")
    assert "First." in skillmeat("show", "gone")


def test_what_comes_from_a_marketplace_outlives_what_the_other_writes(
    skillmeat, source, folder, fake, run
):
    manager = CollectionManager({"default": folder.root})
    artifacts = manager.artifacts("default")
    link = "https://github.com/octo/market/tree/main/skills/bought"

    def bought(description):
        path = source("bought", description)
        return Fetched(path, "bought", "skill", "marketplace", link, "latest")

    manager.add("default", bought("From a marketplace."))
    # What its own import says of it, which needs the network.
    manifest = folder.root / "collection.toml"
    own = 'origin = "marketplace"\norigin_source = "github"\nimport_id = "batch-1"\n'
    text = manifest.read_text("utf-8").replace('origin = "marketplace"\n', own)
    manifest.write_text(text, encoding="utf-8")
    manager.update("default", bought("As it is now."))
    before = written(folder.root, ["bought"])
    assert before["bought"][0]["import_id"] == "batch-1"

    assert "marketplace" in skillmeat("list")
    assert "As it is now." in skillmeat("show", "bought")
    for write in (
        lambda: skillmeat("add", "skill", source("theirs", "Made by them."), "--yes"),
        lambda: skillmeat("remove", "theirs", "--force"),
    ):
        write()
        assert written(folder.root, ["bought"]) == before
        assert artifacts.drift() == ()
        assert synced(run) == set()
        assert fake.calls == {}  # nobody asks GitHub of what a marketplace has
    assert written(folder.root, ["bought"]) == before


def test_the_daemon_notices_what_the_other_adds(
    skillmeat, source, served, folder, daemon, token_file, eventually
):
    daemon(
        *("--api-url", served.url, "--token-file", token_file),
        *("--collection", f"work={folder.root}", "--interval", 0.2, "--settle", 0.1),
    )
    eventually(lambda: served("/work/artifacts").get("items") == [], 30)

    skillmeat("add", "skill", source("theirs", "Made by them."), "--yes")

    eventually(lambda: served.listed() == {"theirs": "Made by them."}, 30)

    def row_with_lock():
        row = served("/work/artifacts/skill:theirs")
        return row["details"].get("locked_hash") and row

    # The files may have been served before the lock was written.
    row = eventually(row_with_lock, 30)
    assert (row["path"], row["origin"], row["version"]) == (
        "skills/theirs/SKILL.md", "local", "1.2.0"
    )  # fmt: skip
    assert row["content_hash"] == row["details"]["locked_hash"]
    assert row["details"]["drift"] == []
