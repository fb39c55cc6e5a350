from __future__ import annotations

import hashlib
import json
import os
import string
import threading
import time
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_artifact_cache.errors import VanishedError
from flask_artifact_cache.files import artifact, servers
from flask_artifact_cache.files.artifact import uid
from flask_artifact_cache.files.problems import UnreadableError
from flask_artifact_cache.files.reading import Files
from flask_artifact_cache.files.walk import Evidence


def codes(one) -> list[str]:
    return [problem.code for problem in one.warnings]


def skillmeat_hash(folder) -> str:
    """The hash as the format's description puts it."""
    hasher = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        hasher.update(os.fsencode(path.relative_to(folder)))
        hasher.update(path.read_bytes())
    return hasher.hexdigest()


# Identity


def test_the_identity_never_changes() -> None:
    assert uid("default", "skill", "skills/pdf/SKILL.md") == "cdd1881d3e808810"
    text = "default\0skill\0skills/pdf/SKILL.md"
    assert uid(*text.split("\0")) == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert uid("a", "b", "c") != uid("a", "bc", "")


# Text


def test_a_skill_is_read(root) -> None:
    root.write_md(
        "skills/pdf/SKILL.md",
        "pdf",
        "Reads PDFs.",
        license="MIT",
        author="Ann",
        version="1.10",
        tags="[docs, pdf]",
        model="opus",
    )
    root.write("skills/pdf/scripts/run.py", "print()")

    one = root.artifacts()["skills/pdf/SKILL.md"]

    assert (one.id, one.type, one.name) == ("skill:pdf", "skill", "pdf")
    assert (one.description, one.license, one.author, one.version) == (
        "Reads PDFs.",
        "MIT",
        "Ann",
        "1.10",
    )
    assert (one.tags, one.tools, one.model) == (("docs", "pdf"), None, "opus")
    assert (one.origin, one.source, one.plugin, one.secondary) == ("local", None, None, False)
    assert (one.file_count, one.error, one.warnings) == (2, None, ())
    assert one.total_size == sum(
        file.stat().st_size for file in (root.path / "skills/pdf").rglob("*") if file.is_file()
    )
    assert one.details["front_matter"]["license"] == "MIT"


def test_a_warning_says_where(root) -> None:
    root.write("skills/a/skill.md", "---\nname: a\ndescription: x: y\n---\n")

    one = root.artifacts()["skills/a/skill.md"]

    assert codes(one) == ["W_YAML_REPAIRED", "W_FILE_NAME_CASE"]
    assert {problem.path for problem in one.warnings} == {"skills/a/skill.md"}
    assert one.warnings[0].line == 3


def test_a_file_that_cannot_be_used_is_an_error_with_the_paths_name(root) -> None:
    root.write("skills/a/SKILL.md", "---\n- a list\n---\n")
    root.write("skills/a/other.txt", "other")
    root.write("commands/x/empty.md", "")

    found = root.artifacts()

    broken = found["skills/a/SKILL.md"]
    assert (broken.error.code, broken.error.path) == ("E_NOT_A_MAPPING", "skills/a/SKILL.md")
    assert (broken.name, broken.description, broken.tags) == ("a", None, ())
    assert broken.content_hash == skillmeat_hash(root.path / "skills/a")
    assert broken.warnings == ()
    empty = found["commands/x/empty.md"]
    assert (empty.error.code, empty.name, empty.namespace) == ("E_EMPTY", "empty", "x")


def test_a_file_that_may_not_be_read_is_an_error(root) -> None:
    root.write_md("skills/a/SKILL.md", "a").chmod(0)
    root.write("skills/a/x.txt", "four")
    root.write_json(".mcp.json", {"x": {"command": "x"}})
    root.write_json("p/.claude-plugin/plugin.json", {"name": "kit"}).chmod(0)

    with root.as_nobody():
        found = root.artifacts()

    assert found["skills/a/SKILL.md"].error.code == "E_UNREADABLE"
    assert found["skills/a/SKILL.md"].content_hash is None
    assert found["skills/a/SKILL.md"].file_count == 2
    plugin = found["p/.claude-plugin/plugin.json"]
    assert (plugin.error.code, plugin.name) == ("E_UNREADABLE", "p")


def test_front_matter_in_details_is_bounded_and_holds_no_secrets(root) -> None:
    numbers = ", ".join(map(str, range(500)))
    root.write(
        "agents/a.md",
        f"""---
name: a
description: {"x" * 9_000}
env: {{TOKEN: s3cret}}
mcpServers:
  db: {{command: db, env: {{PASSWORD: s3cret}}, headers: [s3cret, "Any: s3cret"]}}
hooks:
  Stop: [{{hooks: [{{type: command, command: "x --token s3cret", env: {{A: s3cret}}}}]}}]
list: [{numbers}]
---
""",
    )

    one = root.artifacts()["agents/a.md"]

    assert len(one.description) == 9_000
    kept = one.details["front_matter"]
    assert "s3cret" not in repr(kept)
    assert kept["env"] == ["TOKEN"]
    assert kept["mcpServers"]["db"]["env"] == ["PASSWORD"]
    assert kept["mcpServers"]["db"]["headers"] == ["Any"]
    assert len(kept["description"]) == artifact.TEXT_LIMIT
    assert len(kept["list"]) == artifact.ITEM_LIMIT


# Content


@pytest.mark.parametrize(
    "paths",
    [
        ["SKILL.md"],
        ["SKILL.md", "a.txt", "a/b.txt", "a/b/c.txt", "a-b.txt", "a.d/x", "B.txt", "b/SKILL.md"],
        ["SKILL.md", "ä.txt", "日本.txt", "z.txt", "Z/a", ".hidden"],
    ],
)
def test_the_content_hash_is_skillmeats(root, paths: list[str]) -> None:
    for number, path in enumerate(paths):
        root.write_md(f"skills/s/{path}", f"n{number}")

    one = root.artifacts()["skills/s/SKILL.md"]

    assert one.content_hash == skillmeat_hash(root.path / "skills/s")
    assert one.file_count == len(paths)


def test_the_content_hash_of_a_file_is_that_of_its_bytes(root) -> None:
    file = root.write_md("commands/x.md")

    one = root.artifacts()["commands/x.md"]

    assert one.content_hash == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (one.file_count, one.total_size) == (1, file.stat().st_size)


def test_undecodable_names_are_hashed_as_their_bytes(root) -> None:
    root.write_md("skills/s/SKILL.md", "s")
    root.write(b"skills/s/\xff.txt", "x")

    assert root.artifacts()["skills/s/SKILL.md"].content_hash == skillmeat_hash(
        root.path / "skills/s"
    )


def test_what_cannot_be_hashed_is_told(root, monkeypatch) -> None:
    root.write_md("skills/a/SKILL.md", "a")
    root.write("skills/a/locked.bin").chmod(0)
    root.write_md("skills/b/SKILL.md", "b")
    root.write("skills/b/large.bin", "x" * 2_000)
    monkeypatch.setattr(artifact, "HASH_LIMIT", 1_000)

    with root.as_nobody():
        found = root.artifacts()

    for path in ("skills/a/SKILL.md", "skills/b/SKILL.md"):
        assert found[path].content_hash is None
        assert found[path].error is None
        assert found[path].description == "Does it."
        assert codes(found[path]) == ["W_NOT_HASHED"]
    assert found["skills/b/SKILL.md"].file_count == 2


def test_a_file_larger_than_a_chunk_is_hashed_whole(root) -> None:
    file = root.write("commands/big.md", "---\ndescription: Big.\n---\n" + "line\n" * 600_000)

    one = root.artifacts()["commands/big.md"]

    assert one.description == "Big."
    assert one.content_hash == hashlib.sha256(file.read_bytes()).hexdigest()
    assert one.total_size == file.stat().st_size


# Races


def test_a_file_that_is_exchanged_for_a_link_is_not_followed(root) -> None:
    outside = root.path.parent / "outside"
    outside.mkdir()
    (outside / "x.md").write_text("---\ndescription: Secret.\n---\n")
    file = root.write_md("commands/x.md")
    folder = root.write_md("more/commands/x.md").parent
    manager = root.manager()
    places = {place.path: place for place in manager.scan().places}

    file.unlink()
    file.symlink_to(outside / "x.md")
    folder.rename(root.path / "elsewhere")
    folder.symlink_to(outside)

    for path in ("commands/x.md", "more/commands/x.md"):
        with pytest.raises(VanishedError):
            manager.read(places[path])


def test_a_file_that_is_exchanged_for_something_else_is_gone(root) -> None:
    manager = root.manager()
    for name in ("fifo", "folder"):
        root.write_md(f"commands/{name}.md")
    places = {place.name: place for place in manager.scan().places}
    for name in ("fifo", "folder"):
        (root.path / f"commands/{name}.md").unlink()
    os.mkfifo(root.path / "commands/fifo.md")
    (root.path / "commands/folder.md").mkdir()

    for name in ("fifo", "folder"):
        with pytest.raises(VanishedError):
            manager.read(places[name])


def test_an_atomic_replacement_is_read(root) -> None:
    file = root.write_md("commands/x.md", description="Old.")
    manager = root.manager()
    (place,) = manager.scan().places
    new = root.write_md("commands/.new", description="New.")
    new.replace(file)

    assert manager.read(place).description == "New."


def test_while_links_and_files_take_turns_nothing_outside_is_read(root) -> None:
    outside = root.path.parent / "outside.md"
    outside.write_text("---\ndescription: Secret.\n---\n")
    file = root.write_md("commands/x.md", description="Mine.")
    manager = root.manager()
    (place,) = manager.scan().places
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            root.write_md("commands/.new", description="Mine.").replace(file)
            root.link("commands/.link", str(outside))
            (root.path / "commands/.link").replace(file)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(2_000):
            try:
                assert manager.read(place).description == "Mine."
            except VanishedError:
                continue
    finally:
        stop.set()
        thread.join()


def test_a_link_that_counts_is_read_through_its_real_path(root) -> None:
    root.write_md("node_modules/kit/SKILL.md", "kit")
    root.link("skills/kit/SKILL.md", "../../node_modules/kit/SKILL.md")

    assert root.artifacts()["skills/kit/SKILL.md"].name == "kit"


def test_files_are_read_in_bounds_and_without_a_trace(root) -> None:
    file = root.write("a.txt", "0123456789")
    before = file.stat()
    files = Files(root.path)

    assert files.read("a.txt", 4) == b"0123"
    assert files.read("a.txt") == b"0123456789"
    assert b"".join(files.chunks("a.txt", size=3)) == b"0123456789"
    assert files.read("a.txt", evidence=Evidence(0, 0, 0, 0)) == b"0123456789"
    with pytest.raises(VanishedError):
        files.read("gone.txt")
    with pytest.raises(VanishedError):
        files.read("a.txt/below")
    with pytest.raises(UnreadableError):
        files.read("x" * 300)
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert len(os.listdir("/proc/self/fd")) < 200


# The manifest's part


COLLECTION = """
[collection]
name = "work"
version = "1.0.0"

[[artifacts]]
name = "pdf"
type = "skill"
path = "skills/pdf"
origin = "github"
upstream = "https://github.com/a/b"
version_spec = "latest"
resolved_sha = "0123"
tags = ["Docs", "more"]
[artifacts.metadata]
title = "From the manifest"
description = "Stale."
author = "Ann"
license = "MIT"
version = "1.0"
tools = ["Read"]
"""


def test_the_file_wins_over_the_manifests_copy(root) -> None:
    root.write("collection.toml", COLLECTION)
    root.write_md(
        "skills/pdf/SKILL.md",
        "pdf",
        "Fresh.",
        version="2.0",
        tags="[docs]",
        **{"allowed-tools": "[]"},
    )

    one = root.artifacts()["skills/pdf/SKILL.md"]

    assert (one.description, one.version, one.tools) == ("Fresh.", "2.0", ())
    assert (one.title, one.author, one.license) == ("From the manifest", "Ann", "MIT")
    assert one.tags == ("docs", "more")
    assert (one.origin, one.source, one.version_spec, one.resolved_sha) == (
        "github",
        "https://github.com/a/b",
        "latest",
        "0123",
    )


def test_the_manifest_fills_in_what_the_file_does_not_say(root) -> None:
    root.write("collection.toml", COLLECTION)
    root.write("skills/pdf/SKILL.md", "# Heading\n\nFirst paragraph.\n")

    one = root.artifacts()["skills/pdf/SKILL.md"]

    assert (one.description, one.version, one.tools) == ("Stale.", "1.0", ("Read",))
    assert one.tags == ("Docs", "more")


def test_of_a_broken_file_the_manifest_tells_only_where_it_is_from(root) -> None:
    root.write("collection.toml", COLLECTION)
    root.write("skills/pdf/SKILL.md", "---\n- x\n---\n")

    one = root.artifacts()["skills/pdf/SKILL.md"]

    assert one.error.code == "E_NOT_A_MAPPING"
    assert (one.description, one.author, one.origin) == (None, None, "github")


def test_entries_may_be_files_folders_hooks_and_servers(root) -> None:
    entries = {
        "skill": "skills/s",
        "command": "commands/c.md",
        "agent": "agents/folder",
        "hook": "hooks/format",
        "mcp": "mcp/db.json",
    }
    text = '[collection]\nname = "x"\nversion = "1"\n'
    for type_, path in entries.items():
        text += f'[[artifacts]]\nname = "the-{type_}"\ntype = "{type_}"\npath = "{path}"\n'
    text += '[[artifacts]]\nname = "flow"\ntype = "workflow"\npath = "workflows/w"\n'
    text += '[[artifacts]]\nname = "gone"\ntype = "agent"\npath = "agents/gone.md"\n'
    text += '[[artifacts]]\nname = "out"\ntype = "agent"\npath = "../agents/out.md"\n'
    text += f'[[artifacts]]\nname = "abs"\ntype = "agent"\npath = "{root.path}/c/agents/abs.md"\n'
    root.write("c/collection.toml", text)
    root.write_md("c/skills/s/SKILL.md")
    root.write_md("c/commands/c.md")
    root.write_md("c/agents/folder/first.md")
    root.write_md("c/agents/folder/second.md")
    root.write_md("c/agents/abs.md")
    root.write_md("c/agents/not-listed.md", "found-on-disk")
    root.write_md("c/hooks/format/hook.md", description="Formats.")
    root.write_json("c/hooks/format/hooks.json", {"hooks": {}})
    root.write_json("c/hooks/unlisted/hooks.json", {"description": "Unlisted.", "hooks": {}})
    root.write_json("c/mcp/db.json", {"command": "db", "env": {"A": "s3cret"}})
    root.write("c/workflows/w/flow.md")

    found = root.artifacts()

    assert {path: one.id for path, one in found.items()} == {
        "c/skills/s/SKILL.md": "skill:the-skill",
        "c/commands/c.md": "command:the-command",
        "c/agents/folder/first.md": "agent:the-agent",
        "c/agents/abs.md": "agent:abs",
        "c/agents/not-listed.md": "agent:found-on-disk",
        "c/hooks/format/hook.md": "hook:the-hook",
        "c/hooks/unlisted/hooks.json": "hook:unlisted",
        "c/mcp/db.json": "mcp:the-mcp",
    }
    assert found["c/hooks/format/hook.md"].file_count == 2
    assert found["c/agents/folder/first.md"].content_hash == skillmeat_hash(
        root.path / "c/agents/folder"
    )
    assert found["c/mcp/db.json"].details["env"] == ["A"]
    assert root.problems() == {
        ("W_UNKNOWN_TYPE", "c/collection.toml"),
        ("W_MISSING_FILE", "c/collection.toml"),
        ("W_PATH_OUTSIDE", "c/collection.toml"),
    }


def test_what_is_on_disk_is_found_although_the_manifest_is_broken(root) -> None:
    root.write("collection.toml", "[collection\n")
    root.write_md("skills/pdf/SKILL.md", "pdf")
    root.write_md("hooks/format/hook.md", "format")

    scan = root.manager().scan()

    assert {place.path: place.type for place in scan.places} == {
        "skills/pdf/SKILL.md": "skill",
        "hooks/format/hook.md": "hook",
    }
    (problem,) = scan.problems
    assert (problem.code, problem.path, problem.line) == ("E_TOML", "collection.toml", 1)
    assert scan.is_uncertain("collection.toml#server")
    assert scan.is_uncertain("agents/listed-only.md")


def test_only_the_artifact_of_an_entry_of_an_unknown_type_is_uncertain(root) -> None:
    text = '[collection]\nname = "x"\nversion = "1"\n'
    for type_, path in (
        ("widget", "skills/pdf"),
        ("hok", "hooks/format"),
        ("widget", "skills/csv"),
        ("skill", "skills/csv"),
        ("bundle", "skills"),
        ("shelf", "skills"),
        ("composite", "skills/both"),
        ("widget", "sub/skills/inner"),
        ("workflow", "workflows/gone"),
        ("widget", "../agents"),
    ):
        text += f'[[artifacts]]\nname = "n"\ntype = "{type_}"\npath = "{path}"\n'
    root.write("c/collection.toml", text)
    for name in ("pdf", "csv", "other", "both"):
        root.write_md(f"c/skills/{name}/SKILL.md", name)
    # What a manifest further down tells of is certain.
    root.write_md("c/sub/skills/inner/SKILL.md", "inner")
    inner = '[[artifacts]]\nname = "inner"\ntype = "skill"\npath = "skills/inner"\n'
    root.write("c/sub/collection.toml", f'[collection]\nname = "y"\nversion = "1"\n{inner}')
    root.write_json("c/hooks/format/hooks.json", {"hooks": {}})

    scan = root.manager().scan()

    uncertain = {place.path for place in scan.places if scan.is_uncertain(place.path)}
    assert uncertain == {"c/skills/pdf/SKILL.md", "c/hooks/format/hooks.json"}
    assert not scan.is_hidden("c/workflows/gone")


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("---\nname: PDF\ndescription: Reads.\n---\n", 2, 1),
        ("---\ndescription: |\n  name: pdf\n  Reads.\nname: PDF\n---\n", 5, 1),
        ("---\nmetadata:\n  name: pdf\nname: PDF\ndescription: Reads.\n---\n", 4, 1),
        ("  ---\n  description: Reads.\n  name: PDF\n  ---\n", 3, 3),
        ("---\n\n# Which:\n  description: Reads.\n  name: PDF\n---\n", 5, 3),
        ("\ufeff---\ndescription: Reads.\nname: PDF\n---\n", 3, 1),
        ("---\r\ndescription: Reads.\r\nname: PDF\r\n---\r\n", 3, 1),
        ("---\rdescription: Reads.\rname: PDF\r---\r", 3, 1),
        ("---\ndescription: Reads.\nname: PDF\nname: pdf\n---\n", 3, 1),
        ("---\nname:\nName: PDF\ndescription: Reads.\n---\n", 3, 1),
        ('---\ndescription: Reads.\n"name" : PDF\n---\n', 3, 1),
        ("---\ndescription: Reads.\n'name': PDF\n---\n", 3, 1),
        ("---\ndescription: Reads.\nNAME: PDF\n---\n", 3, 1),
        ("\n<!-- a\ncomment -->\n```yaml\n---\nname: PDF\ndescription: Reads.\n---\n", 6, 1),
        ("name: PDF\ndescription: Reads.\n---\n", 1, 1),
        ("---\ndescription: Reads: all.\nname: PDF\n---\n", 3, 1),
        ("---\ndescription: Reads.\n\tSlowly.\nname: PDF\n---\n", 4, 1),
        ("---\ndescription: Reads.\nname: PDF\n", 3, 1),
        # Not in a line of its own.
        ("---\n{description: Reads., name: PDF}\n---\n", None, None),
        ("# PDF\n\nname: PDF description: Reads.\n", None, None),
    ],
)
def test_a_warning_about_a_field_names_the_place_of_its_key(root, text, line, column) -> None:
    root.write("skills/pdf/SKILL.md", text)

    [one] = root.artifacts().values()

    about = [found for found in one.warnings if found.code.startswith("W_NAME")]
    assert [(found.code, found.line, found.column) for found in about] == [
        ("W_NAME_INVALID", line, column),
        ("W_NAME_MISMATCH", line, column),
    ]


def test_each_warning_has_the_place_of_its_own_key(root) -> None:
    lines = [
        *("---", "Allowed_Tools:", "  - [Read]", "license: [MIT]", "authors: [{a: b}, [c]]"),
        *(f"description: {'x' * 1_025}", "metadata:", "  version: [1, 2]", "---", ""),
    ]
    root.write("skills/pdf/SKILL.md", "\n".join(lines))

    [one] = root.artifacts().values()

    assert [(found.code, found.line, found.column) for found in one.warnings] == [
        ("W_DESCRIPTION_TOO_LONG", 6, 1),
        ("W_TYPE", 5, 1),
        ("W_TYPE", 5, 1),
        ("W_TYPE", 4, 1),
        ("W_TYPE", None, None),  # below metadata
        ("W_TYPE", 2, 1),
    ]


def test_a_missing_description_stands_nowhere(root) -> None:
    root.write("skills/pdf/SKILL.md", "---\nname: pdf\n---\n")

    [one] = root.artifacts().values()

    assert [(found.code, found.line) for found in one.warnings] == [("W_MISSING_DESCRIPTION", None)]


def test_fields_of_json_have_no_lines(root) -> None:
    root.write_json("p/.claude-plugin/plugin.json", {"name": "a\u202eb", "license": ["MIT"]})

    [one] = root.artifacts().values()

    assert {(found.code, found.line) for found in one.warnings} == {
        ("W_NAME_INVALID", None),
        ("W_TYPE", None),
    }


# Plugins, servers, hooks


def test_a_plugin_is_read(root) -> None:
    root.write_json(
        "p/.claude-plugin/plugin.json",
        {
            "name": "kit",
            "description": "Tools.",
            "version": "1.0",
            "author": {"name": "Ann", "email": "ann@example.com"},
            "keywords": ["a", "b"],
            "homepage": "https://example.com",
            "mcpServers": {"db": {"command": "db", "env": {"TOKEN": "s3cret"}}},
        },
    )

    found = root.artifacts()

    one = found["p/.claude-plugin/plugin.json"]
    assert (one.id, one.description, one.author, one.tags) == (
        "plugin:kit",
        "Tools.",
        "Ann",
        ("a", "b"),
    )
    assert one.details["homepage"] == "https://example.com"
    assert found["p/.claude-plugin/plugin.json#mcp:db"].plugin == "kit"
    assert "s3cret" not in repr(found)


def test_a_listed_plugin_is_read_from_the_marketplace(root) -> None:
    entry = {"name": "kit", "source": "./kit", "description": "Tools.", "version": "3"}
    root.write_json(".claude-plugin/marketplace.json", {"plugins": [entry]})
    root.write("kit/agents/a.md", "Text.")
    manager = root.manager()
    found = root.artifacts()
    (place,) = [place for place in manager.scan().places if place.type == "plugin"]

    one = found[".claude-plugin/marketplace.json#kit"]
    assert (one.name, one.description, one.version) == ("kit", "Tools.", "3")
    assert found["kit/agents/a.md"].plugin == "kit"

    root.write_json(".claude-plugin/marketplace.json", {"plugins": []})
    with pytest.raises(VanishedError):
        manager.read(place)


def test_a_server_tells_nothing_secret(root) -> None:
    root.write_json(
        ".mcp.json",
        {
            "mcpServers": {
                "local": {
                    "command": "npx",
                    "args": ["-y", "pkg@1.2", "--api-key", "s3cret", "--token=s3cret", "${HOME}"],
                    "env": {"API_KEY": "s3cret"},
                },
                "remote": {
                    "type": "http",
                    "url": "https://user:s3cret@example.com:8443/mcp?token=s3cret#s3cret",
                    "headers": {"Authorization": "Bearer s3cret"},
                },
            }
        },
    )

    found = root.artifacts()

    local, remote = found[".mcp.json#local"], found[".mcp.json#remote"]
    assert "s3cret" not in repr(found)
    assert local.details == {
        "transport": "stdio",
        "command": "npx",
        "args": ["-y", "pkg@1.2", "--api-key", "…", "--token=…", "${HOME}"],
        "env": ["API_KEY"],
    }
    assert local.description == "stdio server, runs npx pkg@1.2"
    assert remote.details == {
        "transport": "http",
        "url": "https://example.com:8443/mcp",
        "headers": ["Authorization"],
    }
    assert remote.description == "http server at example.com:8443"
    assert len(local.content_hash) == 64
    assert local.content_hash != remote.content_hash


def test_the_hash_of_a_server_is_its_own(root) -> None:
    first = {"a": {"command": "a"}, "b": {"command": "b"}}
    root.write_json(".mcp.json", first)
    before = root.artifacts()
    root.write_json(".mcp.json", {"b": {"command": "changed"}, "a": {"command": "a"}})
    after = root.artifacts()

    assert before[".mcp.json#a"].content_hash == after[".mcp.json#a"].content_hash
    assert before[".mcp.json#b"].content_hash != after[".mcp.json#b"].content_hash


def test_hooks_are_described_by_their_events(root) -> None:
    handler = {"matcher": "Write", "hooks": [{"type": "command", "command": "run --token s3cret"}]}
    root.write_json("a/hooks.json", {"hooks": {"PreToolUse": [handler], "Stop": []}})
    root.write_json("b/hooks.json", {"description": "Logs.", "hooks": {"Stop": [handler]}})
    root.write_json("c/hooks.json", {"hooks": [{"type": "PreToolUse", "command": "x"}]})
    root.write_json("d/hooks.json", [{"event": "Stop", "command": "x"}])
    root.write_json("e/hooks.json", "text")

    found = root.artifacts()

    assert found["a/hooks.json"].description == "PreToolUse, Stop"
    assert found["a/hooks.json"].details["events"] == ["PreToolUse", "Stop"]
    assert found["b/hooks.json"].description == "Logs."
    assert found["c/hooks.json"].description == "PreToolUse"
    assert found["d/hooks.json"].description == "Stop"
    assert found["e/hooks.json"].error.code == "E_NOT_A_MAPPING"
    assert "s3cret" not in repr(found)


def test_json_brings_in_nothing_that_cannot_be_stored(root) -> None:
    root.write(
        ".mcp.json",
        r'{"a\u0000\ud800": {"command": "x", "description": "\ud83d\ude00 \udc00", "big": NaN}}',
    )

    (one,) = root.artifacts().values()

    assert (one.name, one.path) == ("a", ".mcp.json#a")
    assert one.description == "\U0001f600"
    assert json.dumps(one._asdict(), ensure_ascii=False, allow_nan=False, default=asdict).encode()


@pytest.mark.parametrize(
    "text", [b"{", b"\xff\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5_000 + b"}", b""]
)
def test_broken_json_is_an_error_with_a_line(root, text: bytes) -> None:
    root.write("p/.claude-plugin/plugin.json", text)

    (one,) = root.artifacts().values()

    assert (one.error.code, one.name) == ("E_JSON", "p")


def test_json_that_is_too_large_is_an_error(root) -> None:
    root.write("p/.claude-plugin/plugin.json", b'{"name": "x"' + b" " * (5 << 20) + b"}")

    (one,) = root.artifacts().values()

    assert one.error.code == "E_TOO_LARGE"


SECRET = "s3cr3tS3cr3tS3cr3tS3cr3t"


@pytest.mark.parametrize(
    "line",
    [
        f"run --api-key {SECRET}",
        f"run --api-key={SECRET}",
        f"run -e TOKEN={SECRET}",
        f"run -H 'Authorization: Bearer {SECRET}'",
        f'run -H "X-Any: {SECRET}"',
        f"run -u ann:{SECRET}",
        f"TOKEN={SECRET} run",
        f"curl https://ann:{SECRET}@example.com/x?key={SECRET}",
        f"psql postgresql://ann:{SECRET}@db/x",
        f"run {SECRET}",
        f"run sk-{SECRET}",
        f"sh -c 'run --token {SECRET}'",
        f"run 'never ends {SECRET}",
        f"run $(echo {SECRET})",
        f"run ann:{SECRET}@db:5432",
        f"run --token -{SECRET}",
    ],
)
def test_a_command_shows_no_secret(line: str) -> None:
    assert SECRET not in servers.command_line(line)
    assert SECRET not in repr(servers.arguments(line.split(" ")[1:]))


def test_hostile_commands_and_hooks_take_no_time() -> None:
    lines = ("-" + "key" * 10**6 + "\n", "'" + "x " * 10**6, "a" * 10**6, "=" * 10**6)
    handler = {"command": "x" * 5_000, "type": "y" * 5_000}
    started = time.process_time()

    for line in lines:
        assert len(servers.command_line(line)) <= servers.TEXT_LIMIT
        assert len(servers.arguments([line])[0]) <= servers.TEXT_LIMIT
    kept = servers.hooks({f"e{n}": [{"hooks": [handler] * 50}] * 50 for n in range(50)})

    assert sum(map(len, kept.values())) == servers.ITEM_LIMIT
    assert time.process_time() - started < 2


def test_of_very_many_servers_in_a_file_only_the_first_are_looked_at(root) -> None:
    root.write_json(".mcp.json", {f"s{number}": {"command": "x"} for number in range(1_500)})

    scan = root.manager().scan()

    assert len(scan.places) == 1_000
    assert [problem.code for problem in scan.problems] == ["W_TOO_MANY_PARTS"]
    assert scan.is_uncertain(".mcp.json#s1400")
    assert len(root.artifacts()) == 1_000


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["hooks", "Stop", "type", "command", "env", "url", "args", "servers"]),
            inner,
            max_size=4,
        )
    ),
)


@given(JSON_VALUES)
def test_any_json_can_be_looked_at(value) -> None:
    servers.hooks(value)
    servers.names(value)
    for entry in servers.servers(value).values():
        kept = servers.server(entry)
        servers.summary(kept)
        json.dumps(kept)


# Whatever may hold a secret

# Letters of both kinds and digits, as keys have them.
TOKENS = st.text(string.ascii_letters + string.digits, min_size=12, max_size=40).filter(
    lambda text: (
        any(map(str.isdigit, text)) and any(map(str.isupper, text)) and any(map(str.islower, text))
    )
)
COMMANDS = (
    "run {}",
    "run --x {}",
    "run --x={}",
    "run -x {}",
    "run -x{}",
    "run --{}",
    "run {}=x",
    "run A={}",
    "A={} run",
    "run a:{}",
    "run /a:{}",
    "run {}/{}",
    "run a/{}.py",
    "run 'a {}'",
    'run x="a | {}"',
    "run -H 'Authorization: Bearer {}'",
    "run ${{A:-{}}}",
    "run && {}",
    "run https://{}@x.io",
    "npx {}",
    "npx -y @a/{}",
    "npx -p {} x",
    "npx a@{}",
    "npx --token {} {}",
    "docker run -e A={} x",
    "python -m {}",
)
URLS = (
    "https://x.io/{}/mcp",
    "https://x.io/a;{}",
    "https://x.io/a-{}",
    "https://a:{}@x.io/a",
    "https://{}@x.io",
    "https://x.io/?a={}",
    "https://x.io#{}",
    "https://{}.x.io",
    "https://x.io:{}/a",
    "{}",
    "a:{}@x.io",
    "${{A:-{}}}/a",
    "${{A}}/{}",
)


def told(one) -> str:
    return json.dumps([one.details, one.description])


@given(TOKENS, st.sampled_from(COMMANDS))
def test_no_command_shows_a_token(token: str, form: str) -> None:
    line = form.format(*[token] * 2)
    program, *args = line.split(" ")
    kept = [
        servers.command_line(line),
        servers.arguments(args),
        servers.server({"command": line}),
        servers.server({"command": program, "args": args}),
        servers.server({"command": "npx", "args": [line.partition(" ")[2]]}),
        servers.hooks({"Stop": [{"hooks": [{"type": "command", "command": line}]}]}),
        servers.hooks([{"event": "Stop", "bash": line, "matcher": token}, {"event": token}]),
    ]
    assert token not in json.dumps(kept)
    assert all(token not in str(servers.summary(one)) for one in kept[2:5])


@given(TOKENS, st.sampled_from(URLS))
def test_no_address_shows_a_token(token: str, form: str) -> None:
    kept = servers.server({"url": form.format(token)})
    assert token.lower() not in (json.dumps(kept) + str(servers.summary(kept))).lower()
    assert token not in json.dumps(servers.arguments([form.format(token)]))


@given(TOKENS)
def test_no_variable_or_header_shows_a_token(token: str) -> None:
    for value in (
        {"A": token},
        {"A": {"B": token}},
        {token: "x"},
        [token],
        [f"A={token}"],
        [f"{token}=="],
        [f"Bearer {token}="],
        [f"Authorization: Bearer {token}"],
        token,
    ):
        assert token not in json.dumps(servers.server({"env": value, "headers": value}))


SPECIAL = ("mcpServers", "mcp-servers", "MCP_SERVERS", "hooks", "env", "env_vars", "envVars", "ENV")
FRONT_MATTER = (
    "{key}:\n  gh:\n    description: Use: this\n    env:\n      A: {token}\n",
    "{key}:\n  - Use: this: {token}\n",
    "{key}: {token}\n",
    "{key}: [{token}, [{token}]]\n",
    "{key}: |\n  A={token}\n",
    "{key}:\n  a: {{args: [{token}], headers: {{A: {token}}}}}\n",
    "a: b: c\n{key}:\n  A: {token}\n",
    "a: b: c\n{key}: A: {token}\n",
    "metadata:\n  {key}: A: {token}\n",
    "metadata:\n  {key}: {token}\n",
    "other:\n  a: b: c\n  {key}:\n    A: {token}\n",
    "other:\n  - a: b: c\n    {key}:\n      A: {token}\n",
    "other:\n  - deep:\n      {key}: {token}\n",
    "other:\n  - command: x\n    args: [{token}]\n",
    "api_key: {token}\n",
    "config:\n  apiKey: [{token}]\n",
)


@given(TOKENS, st.sampled_from(FRONT_MATTER), st.sampled_from((*SPECIAL, "headers")))
def test_no_front_matter_shows_a_token(root, token: str, form: str, key: str) -> None:
    block = form.format(key=key, token=token)
    root.write("agents/a.md", f"---\nname: a\ndescription: Use it.\n{block}---\nText.\n")
    root.write("agents/b.md", f"---\nname: b\ndescription: Use: it.\n{block}---\nText.\n")

    a, b = root.artifacts().values()

    assert (a.error, a.description, b.error, b.description) == (None, "Use it.", None, "Use: it.")
    assert token not in told(a) + told(b)


PLUGIN_PARTS = (
    {"hooks": ["{}"]},
    {"hooks": "{}"},
    {"hooks": [{"event": "Stop", "command": "x {}"}]},
    {"hooks": {"Stop": [{"hooks": [{"command": "curl -H 'A: {}'"}]}]}},
    {"hooks": {"hooks": {"{}": [{"command": "{}"}]}}},
    {"mcpServers": ["{}", {"x": {"env": {"A": "{}"}}}]},
    {"mcpServers": {"x": {"command": "x", "env": {"A": "{}"}, "args": ["{}"]}}},
    {"env": ["A={}"]},
    {"env": {"A": "{}"}},
    {"apiKey": "{}"},
    {"userConfig": {"k": {"default": "{}"}}},
    {"author": {"name": "x", "token": "{}"}},
    {"repository": {"type": "git", "url": "https://a:{}@x.io/a?b={}"}},
    {"homepage": "https://a:{}@x.io/a?b={}#{}"},
    {
        "commands": [{"env": "{}"}],
        "agents": {"a": {"content": "{}"}},
        "skills": [["a", {"x": "{}"}]],
    },
    {"keywords": [{"a": "{}"}]},
)


@given(TOKENS, st.sampled_from(PLUGIN_PARTS))
def test_no_plugin_shows_a_token(root, token: str, parts: dict[str, object]) -> None:
    entry = json.loads(json.dumps({"name": "p", "source": "./q", **parts}).replace("{}", token))
    listed = {**entry, "name": "q"}
    root.write_json("p/.claude-plugin/plugin.json", entry)
    root.write_json(".claude-plugin/marketplace.json", {"plugins": [listed]})
    root.write("q/notes.txt")

    found = root.artifacts().values()

    assert {"plugin:p", "plugin:q"} <= {one.id for one in found}
    assert all(token not in told(one) for one in found)


def test_what_is_known_to_be_harmless_is_shown(root) -> None:
    for line in (
        "npx -y @modelcontextprotocol/server-github@1.2.3 --verbose",
        "uvx --from mcp-server-git==1.0 mcp-server-git",
        "docker run -i --rm ghcr.io/github/github-mcp-server",
        "python3 ${CLAUDE_PLUGIN_ROOT}/scripts/check_it.py --fix",
        "node dist/index.js https://mcp.example.com:8443/v1/sse",
        "bash -e ./hooks/run.sh $CLAUDE_PROJECT_DIR",
        "${CLAUDE_PLUGIN_ROOT}/hooks/run-hook.cmd",
    ):
        assert servers.command_line(line) == line
    assert servers.command_line("mysql -psecret db") == "mysql …"
    assert servers.command_line("psql /token:value KEY/with/slash") == "psql …"
    assert servers.address("https://a:b@x.io:1/api/Xy/mcp?c#d") == "https://x.io:1/api/…/mcp"
    root.write_json(
        ".claude-plugin/plugin.json",
        {
            "name": "p",
            "displayName": "P",
            "commands": {"a": {"source": "./a.md", "env": "x"}},
            "agents": ["./b.md"],
            "repository": {"type": "git", "url": "https://x.io/A/b"},
            "strict": False,
            "unknown": "x",
        },
    )
    (one,) = root.artifacts().values()
    assert one.details == {
        "name": "p",
        "displayName": "P",
        "commands": ["./a.md"],
        "agents": ["./b.md"],
        "repository": {"type": "git", "url": "https://x.io/A/b"},
        "strict": False,
    }


def test_a_password_in_the_address_of_a_source_is_not_kept(root) -> None:
    root.write_md("skills/pdf/SKILL.md", "pdf")
    root.write(
        "collection.toml",
        """
        [collection]
        name = "default"
        version = "1.0.0"
        created = "2026-01-01T00:00:00"
        updated = "2026-01-01T00:00:00"

        [[artifacts]]
        name = "pdf"
        type = "skill"
        path = "skills/pdf"
        origin = "github"
        upstream = "https://ada:hunter2@example.org/skills/tree/main/pdf"
        added = "2026-01-01T00:00:00"
        """,
    )

    [pdf] = root.artifacts().values()

    assert pdf.source == "https://example.org/skills/tree/main/pdf"
