"""Real collections: every archive is discovered, read, and held against what is in it."""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

import pytest

from flask_artifact_cache.errors import VanishedError
from flask_artifact_cache.files import manifest
from flask_artifact_cache.files.manager import ArtifactManager
from flask_artifact_cache.files.reading import Files

ARCHIVES = (
    "0xfurai__claude-code-subagents",
    "EveryInc__compound-engineering-plugin",
    "SuperClaude-Org__SuperClaude_Framework",
    "VoltAgent__awesome-claude-code-subagents",
    "alirezarezvani__claude-skills",
    "anthropics__claude-plugins-official",
    "bmad-code-org__BMAD-METHOD",
    "brennercruvinel__CCPlugins",
    "ccplugins__awesome-claude-code-plugins",
    "github__awesome-copilot",
    "gsd-build__get-shit-done",
    "lst97__claude-code-sub-agents",
    "mhattingpete__claude-skills-marketplace",
    "miethe__skillmeat",
    "obra__superpowers",
    "rohitg00__awesome-claude-code-toolkit",
    "vijaythecoder__awesome-claude-agents",
    "wshobson__agents",
    "wshobson__commands",
)
# What no rule can know (RULES, R9): folders of commands that are called otherwise.
TYPES = {
    "wshobson__commands": {"tools": "command", "workflows": "command"},
    "VoltAgent__awesome-claude-code-subagents": {"tools": "command"},
}
# Plugins that only a marketplace describes, in a folder that is there.
LISTED_ONLY = {
    "anthropics__claude-plugins-official": 10,
    "bmad-code-org__BMAD-METHOD": 1,
    "ccplugins__awesome-claude-code-plugins": 1,
}
# The structure marks these; the lists of real artifacts see it the other way round.
MARKED_OTHERWISE = {
    "alirezarezvani__claude-skills": {
        "engineering/skills/skill-tester/assets/sample-skill/SKILL.md"
    },
    "bmad-code-org__BMAD-METHOD": {
        "test/fixtures/validate-skills/deprecated-shim/SKILL.md",
        "test/fixtures/validate-skills/missing-trigger/SKILL.md",
        "test/fixtures/validate-skills/with-trigger/SKILL.md",
    },
}
TEXT_TYPES = ("skill", "agent", "command")


@pytest.fixture(scope="session")
def expected(corpora) -> dict[str, Any]:
    return json.loads((corpora / "expected-artifacts.json").read_text())


def test_no_archive_is_forgotten(corpora) -> None:
    assert {path.name for path in corpora.glob("*.tar.gz")} == {
        f"{name}.tar.gz" for name in ARCHIVES
    }


@pytest.mark.parametrize("name", ARCHIVES)
def test_exactly_the_real_artifacts_are_found(unpacked, expected, name: str) -> None:
    scan = ArtifactManager(unpacked(name), types=TYPES.get(name)).scan()

    found = {place.path: place.type for place in scan.places if place.type in TEXT_TYPES}
    assert found == {path: type_ for path, (type_, _) in expected["artifacts"][name].items()}
    assert scan.complete


@pytest.mark.parametrize("name", ARCHIVES)
def test_copies_and_fixtures_are_told_from_the_rest(unpacked, expected, name: str) -> None:
    scan = ArtifactManager(unpacked(name), types=TYPES.get(name)).scan()

    known = expected["artifacts"][name]
    otherwise = {
        place.path
        for place in scan.places
        if place.type in TEXT_TYPES and place.secondary != (known[place.path][1] == "secondary")
    }
    assert otherwise == MARKED_OTHERWISE.get(name, set())


@pytest.mark.parametrize("name", ARCHIVES)
def test_plugins_servers_and_hooks_are_those_of_the_manifests(
    unpacked, expected, name: str
) -> None:
    root = unpacked(name)
    kinds: dict[str, set[str]] = {}
    for path, kind in expected["manifests"][name].items():
        kinds.setdefault(kind, set()).add(path)
    places = ArtifactManager(root).scan().places

    def files(type_: str) -> Counter[str]:
        return Counter(place.path.partition("#")[0] for place in places if place.type == type_)

    plugins = files("plugin")
    assert plugins.pop(".claude-plugin/marketplace.json", 0) == LISTED_ONLY.get(name, 0)
    assert set(plugins) == kinds.get("plugin", set())
    assert set(files("mcp")) == kinds.get("mcp_file", set())
    settings = {
        path
        for path in kinds.get("settings_file", set())
        if json.loads((root / path).read_text()).get("hooks")
    }
    assert set(files("hook")) == kinds.get("hook_file", set()) | settings
    if name == "anthropics__claude-plugins-official":
        assert sum(files("mcp").values()) == 15


def test_every_archive_together_has_25_servers(unpacked) -> None:
    found = [
        place
        for name in ARCHIVES
        for place in ArtifactManager(unpacked(name)).scan().places
        if place.type == "mcp"
    ]

    assert len(found) == 25


@pytest.mark.parametrize("name", ARCHIVES)
def test_every_artifact_can_be_read_and_stored(unpacked, name: str) -> None:
    found = ArtifactManager(unpacked(name), types=TYPES.get(name)).list()

    assert found == sorted(found, key=lambda one: (one.type, one.name, one.path))
    for one in found:
        assert one.error is None, one.path
        assert one.name
        assert len(one.content_hash) == 64
        assert one.file_count >= 1
        assert all(problem.hint and problem.path for problem in one.warnings)
        text = json.dumps([one.path, one.name, one.description, one.details], ensure_ascii=False)
        assert b"\\u0000" not in text.encode()
    # The others are fixtures that hold a heading only.
    assert sum(one.description is not None for one in found) >= 0.93 * len(found)


def test_secrets_of_servers_are_not_kept(unpacked) -> None:
    for name in ARCHIVES:
        for one in ArtifactManager(unpacked(name)).list():
            if one.type == "mcp":
                text = json.dumps(one.details) + str(one.description)
                assert "Bearer" not in text
                assert "VsCode" not in text, "the value of a header"


# A collection that SkillMeat wrote


@pytest.mark.parametrize("name", ["default", "every-field", "work"])
def test_a_skillmeat_collection_is_what_its_manifest_and_lock_say(corpora, name: str) -> None:
    root = corpora / "skillmeat-collection" / "collections" / name
    told = manifest.Manifests().read(Files(root).read)
    manager = ArtifactManager(root)

    assert not manager.scan().problems
    found = {(one.type, one.name): one for one in manager.list()}
    assert len(found) == len(told.entries) + len(told.servers)
    for entry in told.entries:
        one = found[entry.type, entry.name]
        copy = entry.metadata
        assert one.path.startswith(entry.path)
        assert one.content_hash == entry.locked_hash == one.details["locked_hash"]
        assert (one.origin, one.source, one.origin_source) == (
            entry.origin,
            entry.upstream,
            entry.origin_source,
        )
        assert (one.version_spec, one.resolved_sha, one.resolved_version) == (
            entry.version_spec,
            entry.resolved_sha,
            entry.resolved_version,
        )
        assert set(entry.tags) <= set(one.tags)
        assert one.description == copy.description
        # The manifest does not look into a nested 'metadata'; the file does.
        assert copy.author in (one.author, None)
        assert copy.license in (one.license, None)
        assert copy.version in (one.version, None)
        assert copy.title in (one.title, None)
        # The manifest drops tools that it does not know, such as Bash(git *).
        assert set(copy.tools or ()) <= set(one.tools or ())
    for server in told.servers:
        one = found["mcp", server.name]
        assert one.path == f"collection.toml#{server.name}"
        assert (one.source, one.version_spec) == (server.repo, server.version)
        assert one.description == server.description
        assert "/data" not in json.dumps(one.details)


def test_several_collections_may_lie_in_one_root(corpora) -> None:
    root = corpora / "skillmeat-collection"
    found = {one.path: one for one in ArtifactManager(root).list()}

    assert len(found) == 11
    assert found["collections/every-field/skills/chart-maker/SKILL.md"].origin == "github"
    hook = found["collections/every-field/hooks/format-on-save/hook.md"]
    assert (hook.type, hook.name, hook.file_count) == ("hook", "format-on-save", 1)
    nested = found["collections/default/skills/release-notes/SKILL.md"]
    assert (nested.author, nested.version, nested.tags) == (
        "Sam Example",
        "0.4.0",
        ("git", "writing"),
    )
    assert nested.file_count == 2


# Written cases


@pytest.fixture(scope="session")
def expectations(corpora) -> dict[str, Any]:
    return json.loads((corpora / "malformed" / "expectations.json").read_text())


@pytest.fixture(scope="session")
def malformed(corpora) -> ArtifactManager:
    return ArtifactManager(corpora / "malformed" / "collection")


def test_the_written_cases_have_the_wanted_outcomes(malformed, expectations) -> None:
    found = {one.path: one for one in malformed.list()}

    for path, wanted in expectations["files"].items():
        if wanted["type"] in TEXT_TYPES or wanted["type"] == "plugin":
            one = found.pop(path)
            assert one.type == wanted["type"], path
            assert (one.error.code if one.error else None) == wanted["error"], path
            codes = {problem.code for problem in one.warnings}
            assert codes >= set(wanted["warnings"]), path
            for field, value in wanted["fields"].items():
                _check(one, field, value)
        elif wanted["type"] == "mcp":
            servers = [found.pop(f"{path}#{name}") for name in wanted["fields"]["servers"]]
            for word in wanted["must_not_store"]:
                assert word not in repr(servers)
    assert found == {}


def _check(one, field: str, value: Any) -> None:
    if field == "description_prefix":
        assert one.description.startswith(value), one.path
    elif field == "description_contains":
        assert value in one.description, one.path
    elif field == "description_length":
        assert len(one.description) == value, one.path
    else:
        actual = getattr(one, field)
        assert (list(actual) if isinstance(actual, tuple) else actual) == value, (one.path, field)


def test_the_written_collections_have_the_wanted_outcomes(malformed, expectations) -> None:
    problems: dict[str, set[str]] = {}
    for problem in malformed.scan().problems:
        problems.setdefault(problem.path, set()).add(problem.code)

    for path, wanted in expectations["files"].items():
        if wanted["type"] != "collection":
            continue
        told = problems.pop(path, set())
        if wanted["error"]:
            assert told == {wanted["error"]}
            continue
        assert told >= set(wanted["warnings"])
        folder = os.path.dirname(path)  # noqa: PTH120
        collection = manifest.Manifests().read(Files(malformed.root).read, folder, lock=False)
        assert collection.name == wanted["fields"]["name"]
        for entry, fields in zip(
            collection.entries, wanted["fields"].get("artifacts", ()), strict=False
        ):
            for field in ("name", "type"):
                assert getattr(entry, field) == fields[field]
            for field in ("version", "author", "license"):
                assert getattr(entry.metadata, field) == fields[field]
            assert list(entry.tags) == fields["tags"]
    assert problems == {}


# Cases that a test has to make. Each returns the paths that may become artifacts.


def _huge_frontmatter(root) -> None:
    pad = "a" * (10 << 20)
    root.write("skills/huge/SKILL.md", f"---\nname: huge\ndescription: x\npad: {pad}\n---\n")


def _huge_body(root) -> None:
    root.write_md("skills/huge/SKILL.md", "huge")
    with (root.path / "skills/huge/SKILL.md").open("ab") as file:
        file.write(b"Some line of text.\n" * (50 << 20 >> 4))


def _symlink_loop(root) -> None:
    root.link("skills/loop", "../skills")


def _symlink_broken(root) -> None:
    root.link("skills/gone/SKILL.md", "../../nowhere/SKILL.md")


def _symlink_alias(root) -> None:
    root.write_md("skills/a/SKILL.md", "a")
    root.link(".codex/skills/a", "../../skills/a")


def _symlink_outside(root) -> None:
    outside = root.path.parent / "outside.md"
    outside.write_text("---\nname: out\n---\n")
    root.link("skills/out/SKILL.md", str(outside))


def _fifo(root) -> None:
    (root.path / "skills/pipe").mkdir(parents=True)
    os.mkfifo(root.path / "skills/pipe/SKILL.md")


def _unreadable(root) -> None:
    root.write_md("agents/locked.md", "locked").chmod(0)


def _undecodable_file_name(root) -> None:
    root.write_md(b"agents/\xff\xfe.md")


def _newline_in_file_name(root) -> None:
    root.write_md("agents/a\nb.md")


def _case_collision(root) -> None:
    root.write_md("agents/Reviewer.md", "one")
    root.write_md("agents/reviewer.md", "two")


def _same_name_twice(root) -> None:
    root.write_md("plugins/a/agents/code-reviewer.md", "code-reviewer")
    root.write_md("plugins/b/agents/code-reviewer.md", "code-reviewer")


def _directory_named_like_a_file(root) -> None:
    (root.path / "agents/folder.md").mkdir(parents=True)
    (root.path / "skills/x/SKILL.md").mkdir(parents=True)


GENERATED: dict[str, tuple[Any, dict[str, str | None]]] = {
    "huge-frontmatter": (_huge_frontmatter, {"skills/huge/SKILL.md": "huge"}),
    "huge-body": (_huge_body, {"skills/huge/SKILL.md": "huge"}),
    "symlink-loop": (_symlink_loop, {}),
    "symlink-broken": (_symlink_broken, {}),
    "symlink-alias": (_symlink_alias, {"skills/a/SKILL.md": "a"}),
    "symlink-outside": (_symlink_outside, {}),
    "fifo": (_fifo, {}),
    "unreadable": (_unreadable, {"agents/locked.md": "locked"}),
    "undecodable-file-name": (_undecodable_file_name, {"agents/\\xff\\xfe.md": "\\xff\\xfe"}),
    "newline-in-file-name": (_newline_in_file_name, {"agents/a\\x0ab.md": "a\\x0ab"}),
    "case-collision": (
        _case_collision,
        {"agents/Reviewer.md": "one", "agents/reviewer.md": "two"},
    ),
    "same-name-twice": (
        _same_name_twice,
        {
            "plugins/a/agents/code-reviewer.md": "code-reviewer",
            "plugins/b/agents/code-reviewer.md": "code-reviewer",
        },
    ),
    "directory-named-like-a-file": (_directory_named_like_a_file, {}),
}


def test_no_generated_case_is_forgotten(expectations) -> None:
    ids = {case["id"] for case in expectations["generated"]}

    assert ids == {*GENERATED, "vanishing-file"}


@pytest.mark.parametrize("case", GENERATED)
def test_the_generated_cases_have_the_wanted_outcomes(root, expectations, case: str) -> None:
    wanted = next(one for one in expectations["generated"] if one["id"] == case)
    make, names = GENERATED[case]
    make(root)

    with root.as_nobody():
        scan = root.manager().scan()
        found = root.artifacts()

    assert {path: one.name for path, one in found.items()} == names
    for one in found.values():
        assert (one.error.code if one.error else None) == wanted.get("error")
        assert json.dumps([one.path, one.name], ensure_ascii=False).encode()
    assert {problem.code for problem in scan.problems} == set(wanted.get("warnings", ()))
    assert (wanted["outcome"] == "not-an-artifact") == (not names) or case == "symlink-alias"


def test_a_file_that_vanishes_between_listing_and_reading_is_no_error(root) -> None:
    root.write_md("skills/a/SKILL.md", "a")
    root.write_md("skills/b/SKILL.md", "b")
    manager = root.manager()
    places = manager.scan().places
    (root.path / "skills/a/SKILL.md").unlink()

    with pytest.raises(VanishedError):
        manager.read(places[0])
    assert manager.read(places[1]).name == "b"
