"""Adding, updating and removing artifacts: manifest, lock, files, and who may write them when."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from flask_artifact_cache import ArtifactManager, CollectionManager, signals
from flask_artifact_cache.errors import (
    AmbiguousIdError,
    BusyError,
    ConfigurationError,
    ConflictError,
    NotFoundError,
    RefusedError,
    RootUnavailableError,
)
from flask_artifact_cache.files import staging
from flask_artifact_cache.files.editing import Editor
from flask_artifact_cache.files.ledger import Ledger
from flask_artifact_cache.files.lockfile import one_writer
from flask_artifact_cache.files.manifest import Manifests
from flask_artifact_cache.files.problems import UnreadableError
from flask_artifact_cache.files.reading import Files
from flask_artifact_cache.files.sources import Fetched, local
from flask_artifact_cache.files.staging import Limits, discard

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NOW_NS = 1_772_366_400_500_000_000  # 2026-03-01T12:00:00.5Z


@pytest.fixture
def collection(tmp_path):
    return tmp_path / "collection"


@pytest.fixture
def manager(collection):
    collection.mkdir()
    return ArtifactManager(collection, clock_ns=lambda: NOW_NS)


@pytest.fixture
def source(tmp_path):
    """Makes a source: the folder of a skill."""

    def make(name="pdf", description="Reads PDF files.", extra="", **files):
        folder = tmp_path / "sources" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        head = f"---\nname: {name}\ndescription: {description}\n{extra}---\nText.\n"
        (folder / "SKILL.md").write_text(head, encoding="utf-8")
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        return Fetched(folder, name, "skill")

    return make


def toml(root, name="collection.toml"):
    return tomllib.loads((root / name).read_text(encoding="utf-8"))


def locked(root):
    return toml(root, "collection.lock")["lock"]["entries"]


def listing(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


# --- the format -----------------------------------------------------------------------------------


def test_an_empty_collection_is_as_skillmeat_makes_it(manager, collection):
    assert manager.create("work") is True
    assert manager.create("other") is False

    stamp = "2026-03-01T12:00:00.500000"
    head = {"name": "work", "version": "1.0.0", "created": stamp, "updated": stamp}
    assert toml(collection) == {"artifacts": [], "collection": head}
    assert toml(collection, "collection.lock") == {"lock": {"version": "1.0.0", "entries": {}}}
    assert all((collection / one).is_dir() for one in ("skills", "commands", "agents"))


def test_a_skill_is_put_into_folder_manifest_and_lock(manager, collection, source):
    extra = "tags: [pdf, Text]\nallowed-tools: Read, Bash(git *)\nversion: 1.2\n"
    fetched = source(extra=extra, run="#!/bin/sh\n")
    (fetched.path / "run").chmod(0o775)

    change = manager.add(fetched, tags=["mine", "pdf"])

    assert (change.change, change.id, change.path) == ("added", "skill:pdf", "skills/pdf/SKILL.md")
    [entry] = toml(collection)["artifacts"]
    stamp = "2026-03-01T12:00:00.500000"
    assert entry == {
        "name": "pdf", "type": "skill", "path": "skills/pdf", "origin": "local", "added": stamp,
        "tags": ["pdf", "Text", "mine"],
        "metadata": {"description": "Reads PDF files.", "version": "1.2", "tools": ["Read"]},
    }  # fmt: skip
    [artifact] = manager.list()
    lock = {"content_hash": artifact.content_hash, "fetched": stamp}
    assert locked(collection) == {"pdf::skill": lock}
    assert change.content_hash == artifact.content_hash
    assert os.access(collection / "skills/pdf/run", os.X_OK)
    assert not (collection / "skills/pdf/run").stat().st_mode & 0o022
    assert artifact.details["drift"] == []


def test_what_comes_from_upstream_is_said_in_both(manager, collection, source):
    sha = "0123456789abcdef0123456789abcdef01234567"
    url = f"https://github.com/o/r/tree/{sha}/pdf"
    fetched = source()
    upstream = Fetched(fetched.path, "pdf", "skill", "github", url, "v2", sha, "v2")

    manager.add(upstream)

    [entry] = toml(collection)["artifacts"]
    known = {"upstream": url, "resolved_sha": sha, "resolved_version": "v2"}
    assert {**entry, **known, "origin": "github", "version_spec": "v2"} == entry
    assert {**locked(collection)["pdf::skill"], **known} == locked(collection)["pdf::skill"]
    [artifact] = manager.list()
    assert (artifact.source, artifact.resolved_sha, artifact.origin) == (url, sha, "github")


def test_comments_and_unknown_keys_stay(manager, collection, source):
    manifest = (
        '# mine\nfuture = 1\n\n[collection]\nname = "c" # so called\nversion = "1.0.0"\n'
        'created = "2026-01-01T00:00:00"\nupdated = "2026-01-01T00:00:00"\nkept = [1,2]\n\n'
        '[[artifacts]]\nname = "old"\ntype = "skill"\npath = "skills/old"\norigin = "local"\n'
        'added = "2026-01-01T00:00:00"\nodd = { a = 1 } # odd\n\n[[groups]]\nname = "g"\n'
    )
    (collection / "collection.toml").write_text(manifest, encoding="utf-8")
    (collection / "collection.toml").chmod(0o640)

    manager.add(source())
    manager.remove("skill:pdf")

    after = (collection / "collection.toml").read_text(encoding="utf-8")
    updated = 'updated = "2026-03-01T12:00:00.500000"'
    assert after == manifest.replace('updated = "2026-01-01T00:00:00"', updated)
    assert (collection / "collection.toml").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "listed",
    [
        "artifacts = []\n",
        'artifacts = [\n  { name = "old", type = "agent", path = "agents/old.md" },\n]\n',
        "",
    ],
)
def test_every_way_to_write_the_list_is_edited(manager, collection, source, listed):
    text = f'{listed}[collection]\nname = "c"\nversion = "1.0.0"\n[[groups]]\nname = "g"\n'
    (collection / "collection.toml").write_text(text, encoding="utf-8")
    before = toml(collection).get("artifacts", [])

    manager.add(source())
    manager.add(source("csv"))

    assert [one["name"] for one in toml(collection)["artifacts"]] == [
        *(one["name"] for one in before), "pdf", "csv"
    ]  # fmt: skip
    assert toml(collection)["groups"] == [{"name": "g"}]
    manager.remove("skill:pdf")
    manager.remove("skill:csv")
    assert toml(collection)["artifacts"] == before


def test_what_cannot_be_read_is_not_written_over(manager, collection, source):
    (collection / "collection.toml").write_text("name = [", encoding="utf-8")

    with pytest.raises(UnreadableError, match="not valid TOML"):
        manager.add(source())

    assert listing(collection) == [
        ".artifact-cache/.gitignore", ".artifact-cache/lock", "collection.toml"
    ]  # fmt: skip
    assert (collection / "collection.toml").read_text(encoding="utf-8") == "name = ["


# --- update and remove ----------------------------------------------------------------------------


def test_an_update_replaces_all_files_and_what_is_said_of_them(manager, collection, source):
    manager.add(source(extra="version: 1\ntags: [a]\n", old="x"), tags=["mine"])

    change = manager.update(source(description="More.", extra="version: 2\n", new="y"))

    assert (change.change, change.new_version) == ("updated", True)
    assert sorted(os.listdir(collection / "skills/pdf")) == ["SKILL.md", "new"]
    [entry] = toml(collection)["artifacts"]
    assert entry["metadata"] == {"description": "More.", "version": "2"}
    assert entry["tags"] == ["a", "mine"]
    assert "last_updated" in entry
    assert locked(collection)["pdf::skill"]["content_hash"] == change.content_hash
    assert manager.update(source(description="More.", extra="version: 2\n", new="y")).change == (
        "unchanged"
    )
    assert manager.drift() == ()
    assert not [one for one in os.listdir(collection / ".artifact-cache") if "stage" in one]


@pytest.mark.parametrize("wanted", ["skill:pdf", "skills/pdf", "skills/pdf/SKILL.md"])
def test_an_artifact_is_removed_by_any_of_its_names(manager, collection, source, wanted):
    manager.add(source())

    change = manager.remove(wanted)

    assert (change.change, change.id, change.path) == (
        "removed", "skill:pdf", "skills/pdf/SKILL.md"
    )  # fmt: skip
    assert toml(collection)["artifacts"] == []
    assert locked(collection) == {}
    assert not (collection / "skills/pdf").exists()
    with pytest.raises(NotFoundError):
        manager.remove(wanted)


def test_an_artifact_that_no_manifest_lists_is_removed_too(manager, collection):
    for one in ("a", "b"):
        (collection / one / "commands").mkdir(parents=True)
        (collection / one / "commands/tidy.md").write_text("Tidies.\n", encoding="utf-8")

    with pytest.raises(AmbiguousIdError):
        manager.remove("command:tidy")
    manager.remove("a/commands/tidy.md")

    assert [one.path for one in manager.list()] == ["b/commands/tidy.md"]


def test_nothing_is_removed_but_what_is_shown_by_the_same_name(manager, collection, source):
    manager.add(source("foo"))
    manager.add(source("bar"))
    for folder, name in (("foo", "foo-tool"), ("bar", "foo")):
        text = f"---\nname: {name}\ndescription: D.\n---\n"
        (collection / f"skills/{folder}/SKILL.md").write_text(text, encoding="utf-8")
    assert manager.show("skill:foo").path == "skills/bar/SKILL.md"

    with pytest.raises(AmbiguousIdError) as caught:
        manager.remove("skill:foo")

    assert [one.path for one in caught.value.candidates] == [
        "skills/foo/SKILL.md", "skills/bar/SKILL.md"
    ]  # fmt: skip
    assert len(manager.list()) == 2
    assert manager.remove(caught.value.candidates[1].uid).path == "skills/bar/SKILL.md"
    # Now nothing else is called so.
    assert manager.remove("skill:foo").path == "skills/foo/SKILL.md"
    assert toml(collection)["artifacts"] == []


def test_an_artifact_that_holds_another_is_not_removed_with_it(manager, collection, source):
    manager.add(source("suite", **{"helper.py": "print()"}))
    (collection / "skills/suite/child").mkdir()
    text = "---\nname: child\ndescription: D.\n---\n"
    (collection / "skills/suite/child/SKILL.md").write_text(text, encoding="utf-8")
    assert len(manager.list()) == 2

    with pytest.raises(RefusedError, match=r"skills/suite/child/SKILL\.md"):
        manager.remove("skill:suite")

    assert len(manager.list()) == 2
    assert toml(collection)["artifacts"]
    manager.remove("skills/suite/child/SKILL.md")
    manager.remove("skill:suite")
    assert manager.list() == []


def test_another_origin_leaves_nothing_of_the_old_one(manager, collection, source):
    manager.add(source())
    text = (collection / "collection.toml").read_text(encoding="utf-8")
    marketplace = 'origin = "marketplace"\norigin_source = "github"\nimport_id = "x"\n'
    text = text.replace('origin = "local"\n', marketplace)
    (collection / "collection.toml").write_text(text, encoding="utf-8")
    assert toml(collection)["artifacts"][0]["origin_source"] == "github"

    manager.update(source(description="Mine."))

    [entry] = toml(collection)["artifacts"]
    assert entry["origin"] == "local"
    assert not {"origin_source", "import_id"} & entry.keys()


@pytest.mark.parametrize("text", ["", "a = 1\n"])
def test_a_file_that_is_no_manifest_is_not_written_over(manager, collection, source, text):
    manager.add(source())
    (collection / "collection.toml").write_text(text, encoding="utf-8")
    before = {path: (collection / path).read_bytes() for path in listing(collection)}

    for change in (lambda: manager.add(source("csv")), manager.sync, manager.create):
        with pytest.raises(UnreadableError, match="no manifest"):
            change()

    assert {path: (collection / path).read_bytes() for path in listing(collection)} == before


def test_no_file_is_written_that_could_not_be_read_again(manager, collection, source, monkeypatch):
    manager.add(source())
    size = (collection / "collection.toml").stat().st_size
    monkeypatch.setattr("flask_artifact_cache.files.ledger.TOML_LIMIT", size + 10)

    with pytest.raises(UnreadableError, match="would have over"):
        manager.add(source("csv"))

    assert [one["name"] for one in toml(collection)["artifacts"]] == ["pdf"]
    manager.remove("skill:pdf")


def test_what_is_there_already_is_not_replaced_unasked(manager, collection, source):
    manager.add(source())
    with pytest.raises(ConflictError, match="already"):
        manager.add(source())
    with pytest.raises(ConflictError, match="case alone"):
        manager.add(Fetched(source().path, "PDF", "skill"))
    (collection / "skills/mine").mkdir()
    (collection / "skills/mine/SKILL.md").write_text("mine", encoding="utf-8")

    with pytest.raises(ConflictError, match="something else"):
        manager.add(source("mine"))

    assert (collection / "skills/mine/SKILL.md").read_text(encoding="utf-8") == "mine"
    assert [one["name"] for one in toml(collection)["artifacts"]] == ["pdf"]


def test_what_lies_in_its_place_already_is_taken_into_the_manifest(manager, collection, source):
    shutil.copytree(source().path, collection / "skills/pdf")
    evidence = (collection / "skills/pdf/SKILL.md").stat().st_ino

    manager.add(local(str(collection / "skills/pdf")))

    assert (collection / "skills/pdf/SKILL.md").stat().st_ino == evidence
    assert [one["name"] for one in toml(collection)["artifacts"]] == ["pdf"]


def test_each_change_is_announced_when_the_files_are_in_place(collection, source):
    manager = CollectionManager({"work": collection})
    heard = []

    def hear(name):
        def receiver(sender, **data):
            there = (collection / "skills/pdf/SKILL.md").is_file()
            heard.append((name, sender is manager, there, data))

        getattr(signals, name).connect(receiver, weak=False)
        return receiver

    names = ("artifact_added", "artifact_updated", "artifact_removed", "version_changed")
    receivers = {name: hear(name) for name in names}
    try:
        manager.create("work")
        manager.add("work", source(extra="version: 1\n"))
        manager.update("work", source(extra="version: 2\n"))
        manager.update("work", source(extra="version: 2\n"))
        manager.remove("work", "skill:pdf")
    finally:
        for name, receiver in receivers.items():
            getattr(signals, name).disconnect(receiver)

    about = {
        "collection_id": "work", "artifact_id": "skill:pdf", "path": "skills/pdf/SKILL.md"
    }  # fmt: skip
    assert heard == [
        ("artifact_added", True, True, about),
        ("artifact_updated", True, True, about),
        ("version_changed", True, True, about),
        ("artifact_removed", True, False, about),
    ]


# --- what its source has changed ------------------------------------------------------------------


@pytest.fixture
def upstream(source):
    """Makes a source that has a commit, as one of GitHub does."""

    def make(name, description="Reads.", sha="1" * 40, **files):
        return replace(
            source(name, description, **files),
            origin="github",
            upstream=f"https://github.com/o/r/tree/{sha}/skills/{name}",
            version_spec="latest",
            resolved_sha=sha,
        )

    return make


def test_what_somebody_has_changed_since_it_was_asked_for_is_left(
    manager, collection, upstream, source
):
    for name in ("a", "b", "c"):
        manager.add(upstream(name))
    asked = manager.compare().entries
    # While the answer of its source was on its way.
    manager.update(source("a", "Mine."))
    manager.update(upstream("b", "Newer.", "3" * 40))

    news = [upstream(name, "New.", "2" * 40) for name in ("a", "b", "c")]
    followed = manager.follow(news, asked, replace=True)

    assert [one.name for one in followed.changes] == ["c"]
    assert followed.kept == (("skill", "a"), ("skill", "b"))
    found = {one.name: (one.description, one.origin, one.resolved_sha) for one in manager.list()}
    assert found == {
        "a": ("Mine.", "local", None),
        "b": ("Newer.", "github", "3" * 40),
        "c": ("New.", "github", "2" * 40),
    }
    assert not manager.note({("skill", "a"): "2" * 40, ("skill", "b"): "2" * 40}, asked)


def test_what_changed_at_its_source_is_put_in_place_in_one_write(
    manager, collection, upstream, monkeypatch
):
    for name in ("a", "b", "c"):
        manager.add(upstream(name), tags=["mine"])
    saved = []
    save = Ledger.save
    monkeypatch.setattr(Ledger, "save", lambda *given, **named: saved.append(save(*given, **named)))

    followed = manager.follow([upstream(name, "New.", "2" * 40) for name in ("a", "b")])

    assert [(one.change, one.id, one.new_version) for one in followed.changes] == [
        ("updated", "skill:a", True),
        ("updated", "skill:b", True),
    ]
    assert (followed.kept, followed.failed, saved) == ((), {}, [True])
    assert [one.description for one in manager.list()] == ["New.", "New.", "Reads."]
    entries = toml(collection)["artifacts"]
    assert [one["resolved_sha"][0] for one in entries] == ["2", "2", "1"]
    assert [one["tags"] for one in entries] == [["mine"]] * 3
    lock = toml(collection, "collection.lock")["lock"]["entries"]
    assert [one["resolved_sha"][0] for one in lock.values()] == ["2", "2", "1"]
    assert manager.drift() == ()


def test_what_was_changed_here_is_kept_unless_told_otherwise(manager, collection, upstream):
    for name in ("edited", "gone", "same", "fine", "bad"):
        manager.add(upstream(name))
    edited = collection / "skills/edited/SKILL.md"
    edited.write_text("Mine.", encoding="utf-8")
    shutil.rmtree(collection / "skills/gone")
    new = [upstream(name, "New.", "2" * 40) for name in ("edited", "gone", "same", "fine")]
    # By hand, or by a process that died before it could say so.
    shutil.copy(new[2].path / "SKILL.md", collection / "skills/same")
    bad = upstream("bad", "New.", "2" * 40)
    (bad.path / "SKILL.md").unlink()
    unlisted = upstream("unlisted")

    followed = manager.follow([*new, bad, unlisted])

    assert {one.name for one in followed.changes} == {"same", "fine"}
    assert followed.kept == (("skill", "edited"), ("skill", "gone"))
    assert list(followed.failed) == [("skill", "bad")]
    assert edited.read_text(encoding="utf-8") == "Mine."
    assert {(one.name, one.kind) for one in manager.drift()} == {
        ("edited", "modified"),
        ("gone", "missing_on_disk"),
    }
    assert not (collection / "skills/unlisted").exists()

    replaced = manager.follow(new, replace=True).changes

    assert [one.name for one in replaced if one.change == "updated"] == ["edited", "gone"]

    assert manager.drift() == ()
    assert "New." in edited.read_text(encoding="utf-8")


def test_a_skill_that_holds_another_is_followed(manager, collection, upstream):
    def nested(text, sha):
        made = upstream("outer", sha=sha)
        (made.path / "inner").mkdir()
        (made.path / "inner/SKILL.md").write_text(f"---\nname: inner\n---\n{text}")
        return made

    manager.add(nested("one", "1" * 40))
    assert "modified" not in {one.kind for one in manager.drift()}

    followed = manager.follow([nested("two", "2" * 40)])

    assert len(followed.changes) == 1
    assert (collection / "skills/outer/inner/SKILL.md").read_text().endswith("two")


def test_what_interrupts_it_leaves_nothing_that_looks_edited(manager, upstream):
    for name in ("a", "b"):
        manager.add(upstream(name))
    new = [upstream(name, "New.", "2" * 40) for name in ("a", "b")]

    def interrupted(source, before, target, leaf):
        if leaf == "b":
            raise KeyboardInterrupt
        staging.exchange(source, before, target, leaf)

    with pytest.raises(KeyboardInterrupt):
        Editor(manager, exchange=interrupted).follow(new)

    assert [one.description for one in manager.list()] == ["New.", "Reads."]
    assert manager.drift() == ()


def test_what_the_system_does_not_allow_of_one_fails_no_other(manager, collection, upstream):
    for name in ("a", "b"):
        manager.add(upstream(name))
    before = (collection / "skills/a/SKILL.md").read_bytes()

    def refused(source, before, target, leaf):
        if leaf == "a":
            raise PermissionError(errno.EACCES, "Permission denied", str(collection / "skills/a"))
        staging.exchange(source, before, target, leaf)

    news = [upstream(name, "New.", "2" * 40) for name in ("a", "b")]
    followed = Editor(manager, exchange=refused).follow(news)

    assert [one.name for one in followed.changes] == ["b"]
    # Where the collection lies is nobody's business.
    assert followed.failed == {("skill", "a"): "Permission denied: 'a'"}
    assert (collection / "skills/a/SKILL.md").read_bytes() == before
    assert manager.drift() == ()
    assert [one.name for one in manager.follow(news).changes if one.change == "updated"] == ["a"]


@contextmanager
def as_nobody():
    """Be somebody who may not read everything; root may."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.parametrize("unreadable", ["secret.txt", "secret"])
def test_what_cannot_be_read_is_said_and_stays(upstream, unreadable):
    with tempfile.TemporaryDirectory() as top:
        root = Path(top, "collection")
        Path(top).chmod(0o755)
        root.mkdir()
        manager = ArtifactManager(root)
        for name in ("a", "b"):
            manager.add(upstream(name))
        # A copy that everybody may read, which the fixture's folder is not.
        news = [
            replace(one, path=shutil.copytree(one.path, Path(top, one.name)))
            for one in (upstream(name, "New.", "2" * 40) for name in ("a", "b"))
        ]
        secret = root / "skills/a" / unreadable
        secret.write_text("Mine.") if secret.suffix else secret.mkdir()
        for path in (root, *root.rglob("*")):
            os.chown(path, 65534, 65534)
        secret.chmod(0)

        with as_nobody():
            followed = manager.follow(news)

        assert [one.name for one in followed.changes] == ["b"]
        [(key, said)] = followed.failed.items()
        assert key == ("skill", "a")
        assert said.startswith(f"what is there cannot be read: Permission denied: '{unreadable}")
        assert manager.list()[0].description == "Reads."
        assert secret.exists()


def test_a_source_that_cannot_be_read_is_refused(collection, upstream):
    with tempfile.TemporaryDirectory() as top:
        Path(top).chmod(0o777)
        source = replace(upstream("a"), path=shutil.copytree(upstream("a").path, Path(top, "a")))
        (source.path / "SKILL.md").chmod(0)
        root = Path(top, "collection")
        root.mkdir(mode=0o777)
        root.chmod(0o777)
        with as_nobody(), pytest.raises(RefusedError, match="the source cannot be read: Permiss"):
            ArtifactManager(root).add(source)


def test_each_artifact_that_followed_is_announced(collection, upstream):
    collections = CollectionManager({"work": collection})
    collections.create("work")
    collections.add("work", upstream("a"))
    heard = []

    def hear(sender, **about):
        heard.append(about["artifact_id"])

    with (
        signals.artifact_updated.connected_to(hear),
        signals.version_changed.connected_to(hear),
    ):
        collections.follow("work", [upstream("a", "New.", "2" * 40)])

    assert heard == ["skill:a"] * 2


# --- drift ----------------------------------------------------------------------------------------


def test_each_difference_has_a_name_and_sync_settles_what_it_can(manager, collection, source):
    for name in ("same", "modified", "gone", "unlocked"):
        manager.add(source(name))
    fetched = source("theirs")
    manager.add(Fetched(fetched.path, "theirs", "skill", "github", "https://x", "v1", "1" * 40))
    lock = (collection / "collection.lock").read_text(encoding="utf-8")
    lock = lock.replace('"unlocked::skill"', '"alone::agent"')
    (collection / "collection.lock").write_text(lock, encoding="utf-8")
    for name in ("modified", "theirs"):
        with (collection / f"skills/{name}/SKILL.md").open("a", encoding="utf-8") as file:
            file.write("More.\n")
    shutil.rmtree(collection / "skills/gone")
    (collection / "agents").mkdir(exist_ok=True)
    (collection / "agents/new.md").write_text("---\ndescription: N.\n---\n", encoding="utf-8")

    def named():
        return {(one.name, one.kind) for one in manager.drift()}

    before = {path: (collection / path).read_bytes() for path in listing(collection)}
    left = {
        ("gone", "missing_on_disk"), ("new", "not_in_manifest"), ("theirs", "modified")
    }  # fmt: skip
    settled = {("modified", "modified"), ("unlocked", "not_in_lock"), ("alone", "lock_only")}
    assert named() == left | settled
    assert {path: (collection / path).read_bytes() for path in listing(collection)} == before
    details = {one.name: one.details.get("drift") for one in manager.list()}
    assert details == {
        "same": [], "modified": ["modified"], "unlocked": ["not_in_lock"], "theirs": ["modified"],
        "new": None,
    }  # fmt: skip

    synced = manager.sync()

    assert {one.name for one in synced.changes} == {"modified", "unlocked"}
    assert {(one.name, one.kind) for one in synced.left} == left == named()
    assert manager.sync().changes == ()


def test_a_folder_without_a_manifest_does_not_drift(manager, collection):
    (collection / "commands").mkdir()
    (collection / "commands/tidy.md").write_text("Tidies.\n", encoding="utf-8")

    assert manager.drift() == ()
    assert manager.sync().changes == ()
    assert listing(collection) == ["commands/tidy.md"]


def test_what_was_never_added_gets_an_entry_when_asked_for(manager, collection):
    def write(path, text="---\ndescription: D.\n---\n"):
        (collection / path).parent.mkdir(parents=True, exist_ok=True)
        (collection / path).write_text(text, encoding="utf-8")

    write("commands/git/tidy.md")
    write("skills/pdf/SKILL.md", "---\nname: pdf\ndescription: D.\ntags: [a]\n---\n")
    write("skills/pdf/more/helper.py", "print()")
    write("more/skills/pdf/SKILL.md", "---\nname: pdf\ndescription: Another.\n---\n")
    write(".claude/agents/hidden.md")
    write("skills/torn/SKILL.md", "---\na: !!python/object:os.system x\n---\n")
    before = {path: (collection / path).read_bytes() for path in listing(collection)}

    synced = manager.sync(adopt=True)

    assert {(one.change, one.path) for one in synced.changes} == {
        ("added", "commands/git/tidy.md"),
        ("added", "more/skills/pdf/SKILL.md"),
    }
    # What has no place of its own in a manifest, or could not be removed by it, is left.
    assert {one.kind for one in synced.left} == {"not_in_manifest"}
    assert len(synced.left) == 3
    assert {path: (collection / path).read_bytes() for path in before} == before
    entries = {one.name: one for one in manager.compare().entries}
    assert entries["tidy"].path == "commands/git/tidy.md"
    assert {one.origin for one in entries.values()} == {"local"}
    details = {one.name: one.details.get("drift") for one in manager.list()}
    assert details["tidy"] == []
    assert manager.sync(adopt=True).changes == ()
    assert manager.remove("command:tidy").path == "commands/git/tidy.md"
    assert not (collection / "commands/git/tidy.md").exists()


def test_what_another_manifest_lists_is_not_adopted(manager, collection, upstream):
    inner = ArtifactManager(collection / "team")
    (collection / "team").mkdir()
    inner.add(upstream("a"))
    (collection / "commands").mkdir()
    (collection / "commands/tidy.md").write_text("Tidies.\n", encoding="utf-8")
    before = {one.path: one.origin for one in manager.list()}
    assert before["team/skills/a/SKILL.md"] == "github"

    synced = manager.sync(adopt=True)

    assert [one.path for one in synced.changes] == ["commands/tidy.md"]
    assert synced.left == ()
    assert {one.path: one.origin for one in manager.list()} == before


def test_what_cannot_be_adopted_can_be_copied(manager, collection):
    folder = collection / "templates/skills/x"
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text("---\nname: x\ndescription: D.\n---\n", encoding="utf-8")
    [one] = manager.list()
    assert one.secondary

    assert manager.add(local(str(folder))).path == "skills/x/SKILL.md"


def test_a_folder_that_is_read_only_does_not_stay_in_the_way():
    is_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory() as top:
        Path(top).chmod(0o777)
        if is_root:
            os.seteuid(65534)  # root may write everywhere
        try:
            data = Path(top, "stage/skill/data")
            data.mkdir(parents=True)
            (data / "x").write_text("x", encoding="utf-8")
            data.chmod(0o555)
            handle = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
            try:
                discard(handle, "stage")
            finally:
                os.close(handle)
            assert os.listdir(top) == []
        finally:
            if is_root:
                os.seteuid(0)


def test_what_lies_in_the_collection_is_not_copied(manager, collection):
    (collection / "commands/git").mkdir(parents=True)
    file = collection / "commands/git/tidy.md"
    file.write_text("Tidies.\n", encoding="utf-8")

    with pytest.raises(ConflictError, match=r"'commands/git/tidy\.md' is in the coll"):
        manager.add(local(str(file), "command"))

    assert {one.path for one in manager.list()} == {"commands/git/tidy.md"}
    assert not (collection / "collection.toml").exists()


# --- hostile input --------------------------------------------------------------------------------

ODD = [
    "..", ".", "", "...", " ", "a ", " a", "a.", ".hidden", "-x", "a/b", "/a", "a\\b", "\\a", "C:a",
    "C:", "C:\\a", "c:/a", "a:b", "a::b", "../a", "../../etc/passwd", "a/../b", "a/..", "./a", "~",
    "~/a", "//a", "\\\\server\\share", "\\\\?\\C:\\a", "a*", "a?", "a<b", "a>b", 'a"b', "a|b",
    *(f"a{chr(code)}b" for code in range(32)), "a\x7fb", "a\x85b", "a\x9fb", "a\u2028b", "a\u2029b",
    "a\u202eb", "a\u2066b", "a\u200fb", "a\udc80b", "a\ud800b", "CON", "con", "PRN", "AUX", "NUL",
    "nul", "NUL.txt", "con.md", "aux.tar.gz", "COM1", "com9.x", "LPT1", "lpt3", "COM\u00b9",
    "CONIN$", "CONOUT$", "a..b", "a..", "x" * 256, "\u00e4" * 200, "x" * 5000,
]  # fmt: skip
ODD_PATHS = [
    *(one for one in ODD if one not in ("a/b", "-x", "a..b")),
    "skills/../../x", "skills/..", "/etc/passwd",
    "skills//x", "skills/./x", "skills/C:x", "skills/nul", "skills/a\x00b", "skills/x\\..\\y",
    "file:///etc", "https://x/y", "skills/" + "x/" * 600 + "y", "%2e%2e%2f/..", "~root/x",
    ".artifact-cache/lock", ".git/hooks/x", "skills",
]  # fmt: skip


def outside_of(collection):
    """All that is beside the collection."""
    above = collection.parent
    return {
        str(p.relative_to(above)): p.read_bytes()
        for p in above.rglob("*")
        if p.is_file() and not p.is_symlink() and collection not in p.parents
    }


def test_the_corpus_is_large_enough():
    assert len({*ODD, *ODD_PATHS}) >= 100


@pytest.mark.parametrize("name", ODD, ids=repr)
def test_a_name_that_could_do_harm_is_refused(manager, collection, source, name):
    fetched = source()
    before = outside_of(collection)

    with pytest.raises(RefusedError):
        manager.add(Fetched(fetched.path, name, "skill"))

    assert outside_of(collection) == before
    assert not (collection / "skills").exists()
    assert not (collection / "collection.toml").exists()


@pytest.mark.parametrize("path", ODD_PATHS, ids=lambda path: repr(path)[:60])
def test_a_path_of_a_manifest_that_could_do_harm_is_refused(manager, collection, source, path):
    (collection.parent / "x").mkdir()
    (collection.parent / "x/SKILL.md").write_text("not mine", encoding="utf-8")
    try:
        escaped = "".join(f"\\U{ord(one):08x}" for one in path)
        text = (
            '[collection]\nname = "c"\nversion = "1.0.0"\n[[artifacts]]\nname = "pdf"\n'
            f'type = "skill"\norigin = "local"\npath = "{escaped}"\n'
        )
        tomllib.loads(text)
    except ValueError:
        pytest.skip("no TOML can say this")
    (collection / "collection.toml").write_text(text, encoding="utf-8")
    fetched = source()
    before = outside_of(collection)

    # An entry without a path is none.
    for act in (lambda: manager.update(fetched), lambda: manager.remove("skill:pdf")):
        if path:
            with pytest.raises(RefusedError):
                act()
        assert outside_of(collection) == before
        assert (collection / "collection.toml").read_text(encoding="utf-8") == text


def test_a_source_with_anything_but_files_and_folders_is_refused(manager, collection, source):
    secret = collection.parent / "secret"
    secret.write_text("secret", encoding="utf-8")
    for number, make in enumerate(
        (
            lambda folder: (folder / "link").symlink_to(secret),
            lambda folder: (folder / "link").symlink_to(folder.parent.parent),
            lambda folder: (folder / "link").symlink_to("SKILL.md"),
            lambda folder: (folder / "link").symlink_to("nowhere"),
            lambda folder: os.mkfifo(folder / "fifo"),
            lambda folder: (folder / "Skill.md").write_text("x", encoding="utf-8"),
            lambda folder: (folder / "nul.txt").write_text("x", encoding="utf-8"),
            lambda folder: (folder / "a\nb").write_text("x", encoding="utf-8"),
            lambda folder: Path(os.fsdecode(bytes(folder) + b"/\xff")).write_bytes(b"x"),
        )
    ):
        fetched = source(f"hostile-{number}")
        make(fetched.path)
        with pytest.raises(RefusedError):
            manager.add(fetched)
    fetched = source("linked")
    link = fetched.path.parent / "a-link"
    link.symlink_to(fetched.path)
    with pytest.raises(RefusedError):
        manager.add(Fetched(link, "linked", "skill"))
    with pytest.raises(RefusedError, match="is a link"):
        local(str(link))

    assert manager.list() == []
    assert listing(collection) == [".artifact-cache/.gitignore", ".artifact-cache/lock"]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (Limits(files=3), "over 3 files"),
        (Limits(bytes=200), "over 200 bytes"),
        (Limits(depth=2), "more than 2 folders deep"),
    ],
)
def test_a_source_that_is_too_large_is_refused(collection, source, limits, message):
    collection.mkdir()
    fetched = source(a="x" * 100, b="x" * 100, c="x")
    (fetched.path / "1/2/3").mkdir(parents=True)

    with pytest.raises(RefusedError, match=message):
        ArtifactManager(collection, limits=limits).add(fetched)

    assert listing(collection) == [".artifact-cache/.gitignore", ".artifact-cache/lock"]


def test_what_is_no_artifact_is_refused(manager, source, tmp_path):
    fetched = source()
    (fetched.path / "SKILL.md").rename(fetched.path / "README.md")
    with pytest.raises(RefusedError, match=r"no SKILL\.md"):
        manager.add(fetched)
    for type_ in ("command", "agent"):
        with pytest.raises(RefusedError, match="no Markdown file"):
            manager.add(Fetched(fetched.path, "pdf", type_))
    with pytest.raises(RefusedError, match="a plugin cannot be added"):
        manager.add(Fetched(fetched.path, "pdf", "plugin"))
    with pytest.raises(ConfigurationError, match="there is no file or folder"):
        local(str(tmp_path / "nothing"))


@pytest.mark.parametrize("origin", ["plugin", "", "GitHub"])
def test_no_origin_is_written_that_makes_the_manifest_unreadable(
    manager, collection, source, origin
):
    manager.add(source())
    before = (collection / "collection.toml").read_bytes()
    odd = replace(source(description="Other."), origin=origin)

    for act in (manager.update, lambda one: manager.add(replace(one, name="other"))):
        with pytest.raises(RefusedError, match="origin"):
            act(odd)

    assert list(manager.follow([odd]).failed) == [("skill", "pdf")]
    assert (collection / "collection.toml").read_bytes() == before


def test_links_in_the_place_of_our_own_folders_are_not_followed(manager, collection, source):
    outside = collection.parent / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept", encoding="utf-8")
    fetched = source()
    before = outside_of(collection)
    for name in ("skills", ".artifact-cache", "collection.toml", "collection.lock"):
        link = collection / name
        shutil.rmtree(collection / ".artifact-cache", ignore_errors=True)
        link.symlink_to(outside)
        with pytest.raises(RefusedError):
            manager.add(fetched)
        link.unlink()
        assert outside_of(collection) == before
    manager.add(fetched)
    shutil.rmtree(collection / "skills")
    (outside / "pdf").mkdir()
    (collection / "skills").symlink_to(outside)
    with pytest.raises(RefusedError):
        manager.remove("skill:pdf")
    assert (outside / "pdf").is_dir()


def test_a_folder_that_is_swapped_for_a_link_meanwhile_leads_nowhere(manager, collection, source):
    outside = collection.parent / "outside"
    outside.mkdir()
    manager.create("c")
    fetched = source()
    before = outside_of(collection)
    stop = threading.Event()
    skills, aside = collection / "skills", collection / "aside"
    swaps = 0

    def swap():
        nonlocal swaps
        while not stop.is_set():
            # The writer may have made a folder in the place meanwhile.
            with suppress(OSError):
                skills.rename(aside)
                skills.symlink_to(outside)
            if skills.is_symlink():
                skills.unlink()
            with suppress(OSError):
                aside.rename(skills)
            shutil.rmtree(aside, ignore_errors=True)
            swaps += 1

    thread = threading.Thread(target=swap)
    thread.start()
    done = refused = 0
    try:
        while done + refused < 40 or swaps < 40:
            for act in (lambda: manager.update(fetched), lambda: manager.remove("skill:pdf")):
                try:
                    act()
                    done += 1
                except (RefusedError, NotFoundError, AmbiguousIdError, ConflictError, OSError):
                    refused += 1
            assert list(outside.iterdir()) == []
    finally:
        stop.set()
        thread.join()

    assert outside_of(collection) == before


def test_a_folder_that_is_not_there_is_said_to_be_so(collection, source):
    manager = ArtifactManager(collection)

    for act in (
        manager.sync,
        manager.compare,
        lambda: manager.add(source()),
        lambda: manager.remove("skill:pdf"),
    ):
        with pytest.raises(RootUnavailableError):
            act()
    assert not collection.exists()


# --- one writer, and what dies --------------------------------------------------------------------


def test_a_second_writer_waits_and_then_gives_up(collection, source):
    collection.mkdir()
    editor = Editor(ArtifactManager(collection), wait_s=0)

    with one_writer(collection), pytest.raises(BusyError, match="another process"):
        editor.add(source())

    editor.add(source())


class Died(BaseException):
    """Stands for a process that is killed: nothing of ours catches it."""


@pytest.mark.parametrize("exchange", [staging.exchange, staging.by_renames])
@pytest.mark.parametrize("act", ["add", "update", "remove"])
def test_whenever_a_process_dies_all_can_be_read_and_the_next_one_goes_on(
    collection, source, act, exchange, monkeypatch
):
    rename = os.rename
    crashed = 0
    for steps in range(10):
        shutil.rmtree(collection, ignore_errors=True)
        collection.mkdir()
        manager = ArtifactManager(collection)
        editor = Editor(manager, exchange=exchange)
        manager.add(source("other"))
        if act != "add":
            manager.add(source())
        left = steps

        def dying(*arguments, **keywords):
            nonlocal left
            if left == 0:
                raise Died
            left -= 1
            rename(*arguments, **keywords)

        new = source(description="Another.")
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", dying)
            # A process that is killed cleans nothing up.
            patch.setattr(staging, "discard", lambda folder, name: None)
            try:
                if act == "remove":
                    editor.remove("skill:pdf")
                else:
                    editor.add(new, replace=True)
            except Died:
                crashed += 1
        if act == "update":
            # Any change that comes next puts back what was moved aside.
            manager.create("c")
            assert (collection / "skills/pdf/SKILL.md").is_file()
        manifest = Manifests().read(Files(collection).read)
        assert {"other", *((entry.name) for entry in manifest.entries)} <= {"other", "pdf"}
        assert all(entry.locked_hash for entry in manifest.entries)

        if act == "remove":
            try:
                manager.remove("skill:pdf")
            except NotFoundError:
                assert left or steps
        else:
            manager.update(new)

        assert manager.drift() == ()
        names = ["other"] if act == "remove" else ["other", "pdf"]
        assert [one.name for one in manager.list()] == names
        entries = Manifests().read(Files(collection).read).entries
        assert [one.metadata.description for one in entries] == [
            one.description for one in manager.list()
        ]
        assert not [one for one in os.listdir(collection / ".artifact-cache") if "stage" in one]
        if left:
            break
    assert crashed >= 2


def test_what_shares_a_file_is_refused_by_the_name_of_that_file(collection):
    collection.mkdir()
    (collection / ".mcp.json").write_text('{"mcpServers": {"search": {"command": "x"}}}')

    with pytest.raises(RefusedError, match=r"is a part of '\.mcp\.json': edit that file"):
        ArtifactManager(collection).remove("mcp:search")


def test_what_changes_files_is_named_in_the_docs():
    writing = {name for name in vars(Editor) if not name.startswith("_")} - {"drift", "compare"}
    docs = (Path(__file__).parents[2] / "docs/files.md").read_text(encoding="utf-8")
    section = docs.partition("## What is written")[2].partition("- ")[0]

    assert {name for name in writing if f"`{name}`" not in section} == set()
    said = ArtifactManager.__doc__ or ""
    assert {name for name in writing if f":meth:`{name}`" not in said} == set()
