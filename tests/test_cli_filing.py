"""add, remove, sync and collections: files first, then the cache, in the app or over HTTP."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from flask_artifact_cache.errors import BusyError
from flask_artifact_cache.service import ArtifactCacheService

from .test_cli_remote import PREFIX, TOKEN, document, invoke, serving
from .upstream.fakegithub import Repository

APP = """
import os
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_artifact_cache import ArtifactCache

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["HOST_DATABASE"]
app.config["ARTIFACT_CACHE_COLLECTIONS"] = {"work": os.environ["HOST_COLLECTION"]}
app.config["ARTIFACT_CACHE_GITHUB_API_URL"] = os.environ["HOST_GITHUB"]
app.config["ARTIFACT_CACHE_GITHUB_STATE_FOLDER"] = os.environ["HOST_STATE"]
app.config["ARTIFACT_CACHE_TOKENS"] = [os.environ["ARTIFACT_CACHE_TOKEN"]]
db = SQLAlchemy()
db.init_app(app)
ArtifactCache(app, db)
"""


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "sources/pdf"
    folder.mkdir(parents=True)
    text = "---\nname: pdf\ndescription: Reads.\ntags: [a]\nversion: '1'\n---\nText.\n"
    (folder / "SKILL.md").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def run(make_app, sqlite_url, root):
    app = make_app(sqlite_url, {"work": root})
    return lambda *arguments: invoke(app, *arguments)


def manifest(root):
    return tomllib.loads((root / "collection.toml").read_text(encoding="utf-8"))


# --- in the app -----------------------------------------------------------------------------------


def test_what_the_system_does_not_allow_is_a_sentence(make_app, sqlite_url, root, source, tmp_path):
    app = make_app(sqlite_url, {"work": root, "other": tmp_path / "other"})
    (tmp_path / "other").mkdir()
    for one in ("work", "other"):
        assert invoke(app, "add", source, "--collection", one).exit_code == 0
    (root / ".artifact-cache/lock").unlink()
    (root / ".artifact-cache/lock").mkdir()
    (tmp_path / "other/skills/pdf/SKILL.md").write_text("---\ndescription: New.\n---\n")

    said = "the collection's files cannot be changed: Is a directory: 'lock'\n"
    for act in (("add", source, "--replace"), ("remove", "skill:pdf")):
        done = invoke(app, *act, "--collection", "work")
        assert (done.exit_code, done.stderr) == (1, f"Error: {said}")
    assert invoke(app, "sync", "work").stderr == f"Error: {said}"
    done = invoke(app, "sync")
    assert (done.exit_code, done.stderr) == (1, f"work: {said}")
    assert "other: updated skill:pdf" in done.stdout


def test_an_artifact_is_added_shown_and_removed(run, root, source):
    added = run("add", source, "--tag", "mine")
    shown = document(run("show", "skill:pdf", "--json"))
    removed = run("remove", "skill:pdf")

    assert (added.exit_code, added.stderr) == (0, "")
    assert added.stdout == "work: added skill:pdf (skills/pdf/SKILL.md)\ncache: 1 created\n"
    assert (shown["tags"], shown["details"]["drift"]) == (["a", "mine"], [])
    assert removed.stdout == "work: removed skill:pdf (skills/pdf/SKILL.md)\ncache: 1 removed\n"
    assert document(run("list", "--json"))["items"] == []
    assert manifest(root)["artifacts"] == []


def test_one_document_says_what_files_and_cache_did(run, source):
    done = document(run("add", source, "--json"))

    assert set(done) == {
        "collection_id", "change", "artifact_id", "path", "content_hash", "cache", "cache_error",
    }  # fmt: skip
    assert (done["change"], done["cache"]["created"], done["cache_error"]) == ("added", 1, None)
    assert document(run("collections", "--json"))["collections"][0]["listed"] == 1


def test_drift_is_named_and_settled(run, root, source):
    run("add", source)
    assert run("sync", "--check").stdout == "work: manifest, lock and files agree\n"
    with (root / "skills/pdf/SKILL.md").open("a", encoding="utf-8") as file:
        file.write("More.\n")

    checked = run("sync", "--check")
    document_ = json.loads(run("sync", "--check", "--json").stdout)
    run("refresh")
    shown = document(run("show", "skill:pdf", "--json"))
    synced = run("sync")

    assert (checked.exit_code, checked.stderr) == (
        1, "work: modified skill:pdf skills/pdf/SKILL.md\n"
    )  # fmt: skip
    assert [one["kind"] for one in document_["collections"][0]["drift"]] == ["modified"]
    assert shown["details"]["drift"] == ["modified"]
    assert (synced.exit_code, synced.stderr) == (0, "")
    assert "updated skill:pdf" in synced.stdout
    assert document(run("show", "skill:pdf", "--json"))["details"]["drift"] == []
    assert run("sync", "--check").exit_code == 0


def test_what_goes_wrong_is_a_sentence_and_a_code(run, root, source, tmp_path):
    run("add", source)
    cases = [
        (("add", tmp_path / "nothing"), 2, "there is no file or folder"),
        (("add", source), 1, "there is a skill 'pdf' in the collection already"),
        (("add", source, "--name", "../x"), 1, "cannot hold"),
        (("add", source, "--collection", "other"), 2, "not in ARTIFACT_CACHE_COLLECTIONS"),
        (("remove", "skill:other"), 1, "There is no artifact"),
    ]
    for arguments, code, message in cases:
        done = run(*arguments)
        assert (done.exit_code, done.stdout) == (code, ""), arguments
        assert message in done.stderr
    (root / "collection.toml").write_text("[", encoding="utf-8")
    assert run("add", source, "--name", "x").exit_code == 1
    assert run("collections").exit_code == 1


def test_whatever_keeps_the_cache_from_being_told_the_code_is_1(
    run, make_app, sqlite_url, root, source, monkeypatch
):
    other = make_app(sqlite_url, {"work": root}, ARTIFACT_CACHE_TOKENS=[TOKEN])
    monkeypatch.setenv("ARTIFACT_CACHE_TOKEN", "another-token-than-is-valid")
    with serving(other) as address:
        # By itself this is 2: nothing is done then.
        assert run("refresh", "--api-url", address + PREFIX).exit_code == 2
        added = run("add", source, "--api-url", address + PREFIX)
        again = run(
            "add", source, "--replace", "--tag", "x", "--json", "--api-url", "http://127.0.0.1:1/x"
        )

    assert (added.exit_code, again.exit_code) == (1, 1)
    assert added.stdout == "work: added skill:pdf (skills/pdf/SKILL.md)\n"
    assert "The files are changed." in added.stderr
    failure = json.loads(again.stdout)["cache_error"]
    assert failure["code"] == "remote_failed"
    assert [(one["name"], one["tags"]) for one in manifest(root)["artifacts"]] == [
        ("pdf", ["a", "x"])
    ]


def test_busy_after_the_files_were_changed_is_1_too(run, root, source, monkeypatch):
    def busy(*arguments, **keywords):
        raise BusyError("another refresh is at it")

    monkeypatch.setattr(ArtifactCacheService, "refresh", busy)
    assert run("refresh").exit_code == 4

    added = run("add", source)
    removed = run("remove", "skill:pdf")

    # The same command once more would find it done.
    assert (added.exit_code, removed.exit_code) == (1, 1)
    assert manifest(root)["artifacts"] == []


def test_where_the_cache_cannot_be_meant_nothing_is_done(run, root, source, tmp_path):
    for arguments in (
        ("--api-url", "no address"),
        ("--token-file", tmp_path / "none"),
        ("--api-url", "http://127.0.0.1:1/x", "--token-file", tmp_path / "none"),
    ):
        for command in (("add", source), ("remove", "skill:pdf"), ("sync",)):
            assert run(*command, *arguments).exit_code == 2
    assert list(root.iterdir()) == []


# --- end to end -----------------------------------------------------------------------------------


@pytest.fixture
def github(fake):
    """A repository with a skill, on a GitHub of our own."""
    fake.repos["octo/tools"] = Repository({"skills/pdf/SKILL.md": skill("Reads.")})
    return fake


def skill(description):
    return f"---\nname: pdf\ndescription: {description}\n---\nText.\n".encode()


@pytest.fixture
def host(tmp_path, root, github):
    """Runs the host's app, and commands of it, as processes of their own."""
    (tmp_path / "host.py").write_text(APP, encoding="utf-8")
    here = str(Path(__file__).resolve().parents[1])
    environment = {
        **os.environ,
        "ARTIFACT_CACHE_TOKEN": TOKEN,
        "HOST_COLLECTION": str(root),
        "HOST_GITHUB": github.url,
        "HOST_STATE": str(tmp_path / "state"),
        "HOST_DATABASE": f"sqlite:///{tmp_path / 'host.db'}",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), here]),
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Host(environment, port, tmp_path)


class Host:
    def __init__(self, environment, port, folder):
        self.environment = environment
        self.url = f"http://127.0.0.1:{port}{PREFIX}"
        self._address = f"127.0.0.1:{port}"
        self._folder = folder
        self._process = None

    def command(self, *arguments, database=None):
        code = (
            "import host\n"
            "from flask.cli import ScriptInfo\n"
            "from flask_artifact_cache.cli import cli\n"
            "cli.main(prog_name='artifact-cache', obj=ScriptInfo(create_app=lambda: host.app))\n"
        )
        environment = dict(self.environment)
        if database is not None:
            environment["HOST_DATABASE"] = database
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            check=False, capture_output=True, text=True, env=environment, cwd=self._folder,
        )  # fmt: skip

    def start(self):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-b", self._address, "-w", "2", "host:app"],
            env=self.environment, cwd=self._folder, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(600):
            try:
                self.get("/")
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.05)
            else:
                return
        pytest.fail("the app does not start")

    def stop(self):
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def get(self, path):
        with urllib.request.urlopen(self.url + path) as answer:
            return json.load(answer)

    def page(self):
        with urllib.request.urlopen(f"http://{self._address}/collection/work") as answer:
            return answer.read().decode()


def test_files_api_database_and_back(host, root, source):
    nowhere = "sqlite:////there/is/no/such/folder/host.db"
    up = host.command("db", "upgrade")
    assert up.returncode == 0, up.stderr
    host.start()
    try:
        # The commands have no database of their own: what they say comes over HTTP.
        added = host.command("add", source, "--api-url", host.url, "--json", database=nowhere)
        assert added.returncode == 0, added.stderr
        done = json.loads(added.stdout)
        found = host.get("/work/artifacts/skill:pdf")
        removed = host.command("remove", "skill:pdf", "--api-url", host.url, database=nowhere)
        assert removed.returncode == 0, removed.stderr
        with pytest.raises(urllib.error.HTTPError, match="404"):
            host.get("/work/artifacts/skill:pdf")
    finally:
        host.stop()

    assert done["cache"]["created"] == 1
    assert (found["description"], found["version"], found["tags"]) == ("Reads.", "1", ["a"])
    assert (found["content_hash"], found["details"]["drift"]) == (done["content_hash"], [])
    assert manifest(root)["artifacts"] == []


def test_what_is_added_while_the_api_is_down_arrives_later(host, root, source):
    assert host.command("db", "upgrade").returncode == 0

    added = host.command("add", source, "--api-url", host.url)

    assert added.returncode == 1
    assert added.stdout == "work: added skill:pdf (skills/pdf/SKILL.md)\n"
    assert "the cache was not told: cannot reach" in added.stderr
    assert "'flask artifact-cache refresh work'" in added.stderr
    assert [one["name"] for one in manifest(root)["artifacts"]] == ["pdf"]
    host.start()
    try:
        caught_up = host.command("refresh", "work", "--api-url", host.url)
        assert caught_up.returncode == 0, caught_up.stderr
        assert host.get("/work/artifacts/skill:pdf")["name"] == "pdf"
    finally:
        host.stop()


def test_an_artifact_of_github_from_its_repository_to_the_page_and_back(host, root, github):
    """No command has a database of its own: what the cache knows came over HTTP."""
    nowhere = "sqlite:////there/is/no/such/folder/host.db"

    def command(*arguments):
        done = host.command(*arguments, "--api-url", host.url, "--json", database=nowhere)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def locked():
        lock = tomllib.loads((root / "collection.lock").read_text(encoding="utf-8"))
        return lock["lock"]["entries"]["pdf::skill"]

    assert host.command("db", "upgrade").returncode == 0
    repo = github.repos["octo/tools"]
    first = repo.refs["main"]
    host.start()
    try:
        added = command("add", "octo/tools/skills/pdf@main")
        assert added["cache"]["created"] == 1
        [entry] = manifest(root)["artifacts"]
        assert (entry["version_spec"], entry["resolved_sha"]) == ("main", first)
        assert (locked()["resolved_sha"], locked()["content_hash"]) == (
            first,
            added["content_hash"],
        )
        found = host.get("/work/artifacts/skill:pdf")
        assert (found["description"], found["origin"]) == ("Reads.", "github")
        assert (found["resolved_sha"], found["content_hash"]) == (first, added["content_hash"])
        assert found["source"].endswith(f"/octo/tools/tree/{first}/skills/pdf")
        assert "Reads." in host.page()

        second = repo.commit({"skills/pdf/SKILL.md": skill("Reads and writes.")})
        [synced] = command("sync")["collections"]
        assert [one["artifact_id"] for one in synced["changes"]] == ["skill:pdf"]
        assert synced["cache"]["updated"] == 1
        assert locked()["resolved_sha"] == second
        found = host.get("/work/artifacts/skill:pdf")
        assert (found["description"], found["resolved_sha"]) == ("Reads and writes.", second)
        assert found["details"]["drift"] == []
        assert "Reads and writes." in host.page()
        github.forget()
        [nothing] = command("sync")["collections"]
        assert (nothing["changes"], nothing["drift"], github.calls) == ([], [], {"304": 1})

        assert command("remove", "skill:pdf")["cache"]["removed"] == 1
        assert manifest(root)["artifacts"] == []
        assert "Reads and writes." not in host.page()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            host.get("/work/artifacts/skill:pdf")
        # One refresh by the API for each of the three.
        runs = host.get("/refreshes")["refreshes"]
        assert [one["trigger"] for one in runs].count("api") == 3
    finally:
        host.stop()


def test_what_came_from_github_while_the_api_was_down_arrives_later(host, root, github):
    assert host.command("db", "upgrade").returncode == 0
    down = ("--api-url", host.url)
    assert host.command("add", "octo/tools/skills/pdf", *down).returncode == 1
    github.repos["octo/tools"].commit({"skills/pdf/SKILL.md": skill("New.")})

    synced = host.command("sync", *down)

    assert synced.returncode == 1
    assert "updated skill:pdf" in synced.stdout
    assert "The files are changed." in synced.stderr
    assert b"New." in (root / "skills/pdf/SKILL.md").read_bytes()
    host.start()
    try:
        # There is nothing left to sync: what is missing is that the cache looks.
        assert host.command("sync", "--check").returncode == 0
        assert host.command("refresh", "work", *down).returncode == 0
        assert host.get("/work/artifacts/skill:pdf")["description"] == "New."
        assert "New." in host.page()
    finally:
        host.stop()


def test_what_was_never_added_is_named_and_can_be_adopted(run, root, source):
    (root / "commands").mkdir()
    (root / "commands/tidy.md").write_text("Tidies.\n", encoding="utf-8")
    assert run("add", str(source)).exit_code == 0

    checked = run("sync", "--check")
    assert checked.exit_code == 1
    assert checked.stderr == (
        "work: not_in_manifest command:tidy commands/tidy.md\n"
        "  'sync work --adopt' lists what the manifest does not\n"
    )
    assert run("sync", "--check", "--adopt").exit_code == 2

    adopted = run("sync", "--adopt")
    assert (adopted.exit_code, adopted.stderr) == (0, "")
    assert "work: added command:tidy (commands/tidy.md)" in adopted.stdout
    assert run("sync", "--check").exit_code == 0
    assert document(run("show", "command:tidy", "--json"))["details"]["drift"] == []
