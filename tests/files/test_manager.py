from __future__ import annotations

import gc
import json
import os
import re
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_artifact_cache.errors import (
    AmbiguousIdError,
    ConfigurationError,
    NotFoundError,
    RootUnavailableError,
)
from flask_artifact_cache.files import manager
from flask_artifact_cache.files.artifact import TYPES, uid
from flask_artifact_cache.files.manager import ArtifactManager, CollectionManager
from flask_artifact_cache.files.walk import walk


def test_the_list_is_by_type_name_and_path(root) -> None:
    root.write_md("skills/b/SKILL.md", "b")
    root.write_md("skills/a/SKILL.md", "a")
    root.write_md("z/agents/x.md", "same")
    root.write_md("y/agents/x.md", "same")

    assert [one.path for one in root.manager().list()] == [
        "y/agents/x.md",
        "z/agents/x.md",
        "skills/a/SKILL.md",
        "skills/b/SKILL.md",
    ]


def test_an_artifact_is_shown_by_id_path_and_uid(root) -> None:
    root.write_md("agents/x.md", "C#/.NET: Helper")
    root.write_json(".mcp.json", {"git:hub": {"command": "x"}})
    collection = root.manager(collection_id="work")

    for artifact_id in (
        "agent:C#/.NET: Helper",
        "agents/x.md",
        uid("work", "agent", "agents/x.md"),
    ):
        assert collection.show(artifact_id).path == "agents/x.md"
    assert collection.show("mcp:git:hub").path == ".mcp.json#git:hub"
    assert collection.show(".mcp.json#git:hub").name == "git:hub"
    for artifact_id in ("agent:none", "agents/none.md", "none", "", "plan:x"):
        with pytest.raises(NotFoundError):
            collection.show(artifact_id)


def test_an_id_that_several_share_names_them(root) -> None:
    root.write_md("a/agents/x.md", "reviewer")
    root.write_md("b/agents/y.md", "reviewer")

    with pytest.raises(AmbiguousIdError) as caught:
        root.manager().show("agent:reviewer")

    assert caught.value.candidates == tuple(
        (uid("default", "agent", path), path, "default")
        for path in ("a/agents/x.md", "b/agents/y.md")
    )
    assert root.manager().show("b/agents/y.md").name == "reviewer"


def test_a_scan_can_take_the_walk_that_was_made(root) -> None:
    root.write_md("skills/a/SKILL.md")
    collection = root.manager()
    tree = collection.walk()
    root.write_md("skills/b/SKILL.md")

    assert [place.name for place in collection.scan(tree).places] == ["a"]
    assert collection.scan(tree).digest != collection.scan().digest
    assert collection.scan().digest == collection.scan().digest


def test_an_empty_root_is_told_from_one_without_artifacts(root) -> None:
    (root.path / "lost+found").mkdir()
    assert root.manager().scan().is_empty

    root.write("notes.txt")
    assert not root.manager().scan().is_empty
    assert root.manager().list() == []


def test_only_what_may_lie_in_a_folder_that_cannot_be_listed_is_hidden(root) -> None:
    root.write_md("skills/a/SKILL.md")
    root.write("c/.mcp.json", "{")
    root.write_json(".claude-plugin/marketplace.json", {"plugins": []})
    (root.path / "locked\n").mkdir(0o000)
    (root.path / "p").mkdir()
    (root.path / "p/.claude-plugin").mkdir(0o000)
    root.link("linked/SKILL.md", "../locked\n/x.md")

    with root.as_nobody():
        scan = root.manager().scan()

    assert [place.name for place in scan.places] == ["a"]
    assert not scan.complete
    for path in (
        "locked\\x0a/x/SKILL.md",
        "locked\\x0a/.mcp.json#a",
        "p/anywhere/x.md",
        "p/.claude-plugin/plugin.json",
        "linked/SKILL.md",
        ".claude-plugin/marketplace.json#listed",
    ):
        assert scan.is_hidden(path), path
        assert not scan.is_uncertain(path)
    for path in ("skills/b/SKILL.md", "locked", "locked\\x0ab/x.md", "px/x.md", "c/x.md", "c"):
        assert not scan.is_hidden(path), path
        assert not scan.is_uncertain(path)
    assert scan.is_hidden("c/.mcp.json#a")
    assert scan.is_uncertain("c/.mcp.json#a")


def test_what_a_limit_cuts_off_is_hidden(root) -> None:
    root.write("d/" * 60 + "SKILL.md")
    root.write("a/SKILL.md")
    manager = root.manager()

    deep = manager.scan(walk(root.path, max_depth=2))
    assert deep.is_hidden("d/d/d/x/SKILL.md")
    assert not deep.is_hidden("d/d/SKILL.md")
    assert manager.scan(walk(root.path, max_entries=1)).is_hidden("a/SKILL.md")
    assert not manager.scan(walk(root.path, max_depth=90)).is_hidden("a/SKILL.md")


@pytest.mark.parametrize("gone", ["skills", "skills/a/SKILL.md"])
def test_what_vanishes_during_the_walk_is_hidden(root, monkeypatch, gone: str) -> None:
    root.write("skills/a/SKILL.md")
    root.write("skills/b/SKILL.md")
    root.write("other/SKILL.md")
    scandir = os.scandir

    class Gone:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.name, self.path = entry.name, entry.path
            self.is_dir, self.is_symlink = entry.is_dir, entry.is_symlink

        def stat(self, **_: bool) -> os.stat_result:
            raise FileNotFoundError

    @contextmanager
    def vanishing(location: str):
        if location.endswith(gone):
            raise FileNotFoundError
        with scandir(location) as entries:
            yield [Gone(one) if one.path.endswith(gone) else one for one in entries]

    monkeypatch.setattr(os, "scandir", vanishing)
    scan = root.manager().scan()

    assert not scan.complete
    assert scan.is_hidden("skills/a/SKILL.md")
    assert scan.is_hidden("skills/b/SKILL.md") == (gone == "skills")
    assert not scan.is_hidden("other/x/SKILL.md")


def test_a_root_that_is_gone_is_an_error_and_not_empty(tmp_path) -> None:
    collection = ArtifactManager(tmp_path / "gone")

    for call in (collection.scan, collection.list, lambda: collection.show("skill:x")):
        with pytest.raises(RootUnavailableError):
            call()


def test_nothing_is_created_or_changed(root) -> None:
    root.write_md("skills/a/SKILL.md", "a")
    root.write("collection.toml", "[collection]\nname = 'x'\nversion = '1'\n")
    for path in sorted(root.path.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = root.manager().scan().digest
    times = {path: path.stat().st_mtime_ns for path in root.path.rglob("*")}

    with root.as_nobody():
        assert [one.name for one in root.manager().list()] == ["a"]

    assert root.manager().scan().digest == before
    assert {path: path.stat().st_mtime_ns for path in root.path.rglob("*")} == times


# Configuration


def test_collections_are_configured_by_path_or_in_full(root) -> None:
    root.write("tools/x.md", "Text.")
    root.write("vendor/commands/y.md", "Text.")
    collections = CollectionManager(
        {
            "work": root.path,
            "text": str(root.path),
            "full.1_x-y": {
                "path": root.path,
                "layout": "auto",
                "types": {"tools": "command"},
                "exclude": ["vendor/*"],
            },
        }
    )

    def names(collection_id: str) -> list[str]:
        return [one.name for one in collections.artifacts(collection_id).list()]

    assert collections.ids() == ["work", "text", "full.1_x-y"]
    assert names("work") == names("text") == ["y"]
    assert names("full.1_x-y") == ["x"]
    assert collections.artifacts("work").root == root.path
    assert collections.artifacts("work").collection_id == "work"
    with pytest.raises(NotFoundError):
        collections.artifacts("none")


@pytest.mark.parametrize(
    ("collections", "word"),
    [
        ([], "mapping"),
        ({"": "/x"}, "''"),
        ({"Work": "/x"}, "'Work'"),
        ({"-x": "/x"}, "'-x'"),
        ({"a" * 65: "/x"}, "aaa"),
        ({7: "/x"}, "7"),
        ({"work\n": "/x"}, "work"),
        ({"work": None}, "'work'"),
        ({"work": 7}, "'work'"),
        ({"work": ""}, "'path'"),
        ({"work": {}}, "'path'"),
        ({"work": {"path": 7}}, "'path'"),
        ({"work": {"path": "/x", "rot": 1}}, "'rot'; its keys are path, layout, types, exclude."),
        ({"work": {"path": "/x", "layout": "plugin"}}, "'layout'"),
        ({"work": {"path": "/x", "types": ["tools"]}}, "'types'"),
        ({"work": {"path": "/x", "types": {"": "command"}}}, "'types'"),
        ({"work": {"path": "/x", "types": {"tools": "skill"}}}, "'tools'"),
        ({"work": {"path": "/x", "types": {"tools": ["command"]}}}, "'tools'"),
        ({"work": {"path": "/x", "exclude": "vendor"}}, "'exclude'"),
        ({"work": {"path": "/x", "exclude": [7]}}, "'exclude'"),
    ],
)
def test_a_wrong_setting_is_named_in_one_sentence(collections, word: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CollectionManager(collections)

    assert word in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_missing_root_is_no_wrong_setting(tmp_path) -> None:
    collections = CollectionManager({"work": tmp_path / "not-mounted-yet"})

    with pytest.raises(RootUnavailableError):
        collections.artifacts("work").list()


def test_the_file_side_knows_neither_flask_nor_sqlalchemy() -> None:
    modules = list(Path(manager.__file__).parent.glob("*.py"))

    assert len(modules) > 8
    for module in modules:
        assert not re.search(r"(?mi)^\s*(?:from|import) (?:flask|sqlalchemy)", module.read_text())


def test_the_garbage_collector_is_as_it_was_after_a_scan(root) -> None:
    root.manager().scan()
    assert gc.isenabled()
    with pytest.raises(RootUnavailableError):
        ArtifactManager(root.path / "gone").scan()
    assert gc.isenabled()


NAMES = st.sampled_from(
    [
        "skills",
        "commands",
        "agents",
        "hooks",
        "docs",
        ".claude",
        ".claude-plugin",
        "a",
        "x\n",
        "\udcff",
    ]
)
FILES = st.sampled_from(
    [
        "SKILL.md",
        "skill.md",
        "x.md",
        "b.agent.md",
        "AGENT.md",
        "README.md",
        "hooks.json",
        ".mcp.json",
        "plugin.json",
        "marketplace.json",
        "settings.json",
        "collection.toml",
        "collection.lock",
    ]
)
TEXTS = st.sampled_from(
    [
        b"",
        b"text",
        b"\x00\xff",
        b"---\nname: x\ndescription: y\nmodel: z\n---\n",
        b"---\n- x\n---\n",
        b"{",
        b"[]",
        b'{"name": "p", "agents": ["./x.md", "../x.md", "./a"], "hooks": {"Stop": [{}]}}',
        b'{"mcpServers": {"s": {"command": "c"}}, "hooks": "./hooks.json", "commands": "."}',
        b'{"plugins": [{"name": "q", "source": "./a"}, {"name": "r", "source": "."}]}',
        b'[[artifacts]]\nname = "n"\ntype = "hook"\npath = "a"\n[[mcp_servers]]\nname = "m"\n',
        b'[[artifacts]]\nname = "n"\ntype = "skill"\npath = "skills"\n',
    ]
)


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.tuples(st.lists(NAMES, max_size=4), FILES).map(
            lambda parts: "/".join([*parts[0], parts[1]])
        ),
        TEXTS,
        max_size=12,
    )
)
def test_whatever_lies_there_is_listed_once_and_can_be_stored(root, files) -> None:
    with TemporaryDirectory(dir=root.path) as folder:
        for path, text in files.items():
            target = Path(folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text)

        collection = ArtifactManager(folder)
        found = collection.list()

        assert len({(one.type, one.path) for one in found}) == len(found)
        assert len(found) == len(collection.scan().places)
        for one in found:
            assert one.type in TYPES
            assert one.name
            json.dumps(one._asdict(), ensure_ascii=False, allow_nan=False, default=asdict).encode()


def test_a_place_that_stands_alone_is_found_again_by_its_path(corpora, unpacked):
    alone = 0
    for archive in ("alirezarezvani__claude-skills", "github__awesome-copilot"):
        manager = ArtifactManager(unpacked(archive))
        for place in manager.scan().places:
            if place.stands_alone(manager.name):
                artifact = manager.read(place)
                found = manager.look(
                    place.type,
                    place.path,
                    plugin=artifact.plugin,
                    secondary=artifact.secondary,
                    namespace=artifact.namespace,
                    parent=artifact.parent,
                )
                assert found is not None, place.path
                assert found[0].digest() == place.digest()
                assert manager.read(found[0]) == artifact
                alone += 1
    assert alone > 100
