from __future__ import annotations

import json

import pytest

from flask_artifact_cache.errors import VanishedError
from flask_artifact_cache.files.layouts import LOOSE_LIMIT, discover
from flask_artifact_cache.files.reading import Files
from flask_artifact_cache.files.walk import walk


class CountingReader:
    """Reads files and remembers which."""

    def __init__(self, root) -> None:
        self.files = Files(root.path)
        self.opened: list[str] = []

    def __call__(self, path: str, limit: int = 1024) -> bytes:
        self.opened.append(path)
        return self.files.read(path, limit)


def places(root, **settings):
    return {place.path: place for place in root.manager(**settings).scan().places}


# Skills


def test_a_folder_with_a_skill_file_is_a_skill_wherever_it_is(root) -> None:
    root.write("skills/a/SKILL.md")
    root.write("deep/down/there/b/SKILL.md")
    root.write(".curated/c/Skill.md")
    root.write("d/skill.md")
    root.write("skills/e/SKILLS.md")
    root.write("skills/e/skills.md")

    found = places(root)

    assert set(found) == {
        "skills/a/SKILL.md",
        "deep/down/there/b/SKILL.md",
        ".curated/c/Skill.md",
        "d/skill.md",
    }
    assert {place.type for place in found.values()} == {"skill"}
    assert found["skills/a/SKILL.md"].name == "a"
    assert found["skills/a/SKILL.md"].folder.path == "skills/a"


def test_one_folder_is_one_skill(root) -> None:
    root.write("skills/a/SKILL.md")
    root.write("skills/a/skill.md")
    root.write("skills/b/Skill.md")
    root.write("skills/b/skill.md")

    assert root.found() == {"skills/a/SKILL.md": "skill", "skills/b/Skill.md": "skill"}


def test_a_command_may_be_called_skill(root) -> None:
    root.write("commands/skill.md")
    root.write("commands/other.md")
    root.write("agents/skill.md")
    root.write("x/agents/SKILL.md")

    assert root.found() == {
        "commands/skill.md": "command",
        "commands/other.md": "command",
        "agents/skill.md": "agent",
        "x/agents/SKILL.md": "skill",
    }


def test_inside_a_skill_only_deeper_skills_are_found(root) -> None:
    root.write("skills/a/SKILL.md")
    root.write_md("skills/a/agents/helper.md", "helper", model="opus")
    root.write("skills/a/references/commands/x.md")
    root.write("skills/a/hooks/hooks.json", "{}")
    root.write_json("skills/a/.mcp.json", {"x": {"command": "x"}})
    root.write("skills/a/templates/.claude-plugin/plugin.json", "{}")
    root.write("skills/a/parts/b/SKILL.md")
    root.write("skills/a/parts/b/c/SKILL.md")

    found = places(root)

    assert {path: place.parent for path, place in found.items()} == {
        "skills/a/SKILL.md": None,
        "skills/a/parts/b/SKILL.md": "skills/a",
        "skills/a/parts/b/c/SKILL.md": "skills/a/parts/b",
    }


def test_a_skill_that_is_also_a_plugin_is_searched(root) -> None:
    root.write("kit/SKILL.md")
    root.write_json("kit/.claude-plugin/plugin.json", {"name": "kit"})
    root.write("kit/agents/a.md")
    root.write("kit/skills/b/SKILL.md")

    found = places(root)

    assert {path: place.plugin for path, place in found.items()} == {
        "kit/.claude-plugin/plugin.json": None,
        "kit/SKILL.md": "kit",
        "kit/agents/a.md": "kit",
        "kit/skills/b/SKILL.md": "kit",
    }
    assert found["kit/skills/b/SKILL.md"].parent == "kit"


def test_the_root_itself_may_be_a_skill(root) -> None:
    root.write("SKILL.md")
    root.write("scripts/x.py")
    root.write("inner/SKILL.md")

    found = places(root)

    assert found["SKILL.md"].name == root.path.name
    assert found["SKILL.md"].folder.path == ""
    assert found["inner/SKILL.md"].parent == "."


# Commands and agents


def test_the_innermost_container_gives_the_type(root) -> None:
    root.write("commands/a.md")
    root.write("Commands/b.MD")
    root.write("x/slash-commands/team/c.md")
    root.write("agents/d.md")
    root.write("x/subagents/e.md")
    root.write("commands/agents/f.md")
    root.write("command/g.md")
    root.write("agent/h.md")
    root.write("workflows/i.md")

    assert root.found() == {
        "commands/a.md": "command",
        "Commands/b.MD": "command",
        "x/slash-commands/team/c.md": "command",
        "agents/d.md": "agent",
        "x/subagents/e.md": "agent",
        "commands/agents/f.md": "agent",
    }


def test_folders_below_the_container_are_the_namespace(root) -> None:
    root.write("commands/plan.md")
    root.write("commands/team/sprint/plan.md")
    root.write("agents/data/AGENT.md")
    root.write("agents/core/data/AGENT.md")

    found = places(root)

    assert found["commands/plan.md"].namespace is None
    assert found["commands/team/sprint/plan.md"].namespace == "team:sprint"
    assert found["agents/data/AGENT.md"].namespace is None
    assert found["agents/data/AGENT.md"].name == "data"
    assert found["agents/core/data/AGENT.md"].namespace == "core"


@pytest.mark.parametrize(
    "name",
    ["README.md", "readme.md", "Readme_zh.md", "CLAUDE.md", "WORKFLOW_EXAMPLES.md", "V2-NOTES.md"],
)
def test_documents_are_no_artifacts(root, name: str) -> None:
    root.write(f"commands/{name}")
    root.write_md(f"loose/{name}", name[:-3], model="opus")

    assert root.found() == {}


@pytest.mark.parametrize(
    "name", ["changelog.md", "contributing.md", "security.md", "index.md", "agents.md", "2024.md"]
)
def test_lower_case_document_names_are_real_commands(root, name: str) -> None:
    root.write(f"commands/{name}")

    assert root.found() == {f"commands/{name}": "command"}


def test_support_folders_hold_no_artifacts(root) -> None:
    for folder in ("references", "templates", "examples", "assets", "resources", "scripts"):
        root.write(f"commands/{folder}/x.md")
        root.write(f"{folder}/commands/y.md")
    root.write("commands/examples/commands/z.md")

    assert set(root.found()) == {
        "references/commands/y.md",
        "templates/commands/y.md",
        "examples/commands/y.md",
        "assets/commands/y.md",
        "resources/commands/y.md",
        "scripts/commands/y.md",
        "commands/examples/commands/z.md",
    }


def test_pages_of_a_documentation_site_are_no_artifacts(root) -> None:
    root.write_md("docs/commands/page.md", title="A page")
    root.write_md("docs/commands/real.md")
    root.write_md("docs/agents/unnamed.md")
    root.write_md("docs/agents/real.md", "real")
    root.write_md("docs/guide/not-loose.md", "not-loose", model="opus")

    assert root.found() == {"docs/commands/real.md": "command", "docs/agents/real.md": "agent"}


# Agents without a container


def test_agents_are_found_without_a_container(root) -> None:
    root.write("skills/a/SKILL.md")
    root.write_md("categories/web/vue.md", "vue", tools="Read")
    root.write_md("categories/web/no-model.md", "no-model")
    root.write_md("categories/web/no-name.md", tools="Read")
    root.write_md("prompts/p.md", "p", model="opus")
    root.write_md("x/workflows/w.md", "w", model="opus")
    root.write_md("at-the-root.md", "at-the-root", model="opus")
    root.write_md("anywhere/x.agent.md")

    assert root.found() == {
        "skills/a/SKILL.md": "skill",
        "categories/web/vue.md": "agent",
        "anywhere/x.agent.md": "agent",
    }
    assert places(root)["anywhere/x.agent.md"].name == "x"


def test_where_there_is_an_agents_folder_agents_lie_in_it(root) -> None:
    root.write("team/agents/a.md")
    root.write_md("team/web/vue.md", "vue", tools="Read")
    root.write_md("other/web/react.md", "react", tools="Read")

    assert root.found() == {"team/agents/a.md": "agent", "other/web/react.md": "agent"}


def test_in_a_bare_collection_the_name_is_enough(root) -> None:
    root.write_md("vue.md", "vue")
    root.write_md("web/react.md", "react")
    root.write_md("web/guide.md", "Another name")

    assert root.found() == {"vue.md": "agent", "web/react.md": "agent"}

    root.write("skills/a/SKILL.md")

    assert root.found() == {"skills/a/SKILL.md": "skill"}


def test_nothing_is_opened_where_nothing_needs_reading(root) -> None:
    for number in range(20):
        root.write(f"skills/s{number}/SKILL.md")
        root.write(f"skills/s{number}/references/notes.md")
    root.write("commands/x.md")
    root.write("agents/x.md")
    root.write("README.md")
    root.write("guide.md")
    reader = CountingReader(root)

    found = discover(walk(root.path), reader)

    assert len(found.places) == 22
    assert reader.opened == []


def test_only_candidates_are_opened_and_only_so_many(root) -> None:
    for number in range(LOOSE_LIMIT + 5):
        root.write_md(f"categories/a{number}.md", f"a{number}", tools="Read")
    root.write("skills/s/SKILL.md")
    reader = CountingReader(root)

    found = discover(walk(root.path), reader)

    assert len(reader.opened) == LOOSE_LIMIT
    assert len(found.places) == LOOSE_LIMIT + 1
    assert [problem.code for problem in found.problems] == ["W_TOO_MANY_CANDIDATES"]
    known = {place.path for place in found.places}
    assert all(
        found.is_uncertain(f"categories/a{number}.md")
        for number in range(LOOSE_LIMIT + 5)
        if f"categories/a{number}.md" not in known
    )


def test_a_candidate_that_cannot_be_read_is_uncertain(root) -> None:
    root.write("skills/s/SKILL.md")
    root.write_md("categories/a.md", "a", tools="Read")
    root.write("categories/empty.md")
    tree = walk(root.path)

    def read(path: str, limit: int = 0) -> bytes:
        raise VanishedError(path)

    assert discover(tree, read).uncertain == frozenset()
    found = discover(tree, CountingReader(root))
    assert found.is_uncertain("categories/empty.md")
    assert not found.is_uncertain("categories/a.md")


# Configuration


def test_more_containers_can_be_configured(root) -> None:
    root.write("tools/a.md")
    root.write("Workflows/b.md")
    root.write("x/prompts/c.md")
    root.write("prompts/d.md")

    types = {"tools": "command", "workflows": "command", "x/prompts": "agent"}

    assert root.found() == {}
    assert root.found(types=types) == {
        "tools/a.md": "command",
        "Workflows/b.md": "command",
        "x/prompts/c.md": "agent",
    }


def test_copies_and_fixtures_are_marked(root) -> None:
    for path in (
        "docs/commands/a.md",
        "commands/docs/b.md",
        "tests/fixtures/skills/c/SKILL.md",
        "skills/examples/d/SKILL.md",
        "templates/e/SKILL.md",
        "skills/tests/SKILL.md",
        "archive/hooks/hooks.json",
        "dist/x.agent.md",
    ):
        root.write_md(path)

    assert {path: place.secondary for path, place in places(root).items()} == {
        "docs/commands/a.md": True,
        "commands/docs/b.md": False,
        "tests/fixtures/skills/c/SKILL.md": True,
        "skills/examples/d/SKILL.md": False,
        "templates/e/SKILL.md": True,
        "skills/tests/SKILL.md": False,
        "archive/hooks/hooks.json": True,
        "dist/x.agent.md": True,
    }


# Plugins


def test_a_plugin_names_files_outside_of_the_usual_folders(root) -> None:
    root.write_json(
        "p/.claude-plugin/plugin.json",
        {
            "name": "kit",
            "commands": ["./extra/", "${CLAUDE_PLUGIN_ROOT}/one/NOTES.md"],
            "agents": "./loose.md",
            "skills": ["./prompts/x.md", "./skills/s"],
            "hooks": "./config/my-hooks.json",
            "mcpServers": "./config/servers.json",
        },
    )
    root.write("p/extra/a.md")
    root.write("p/extra/README.md")
    root.write("p/one/NOTES.md")
    root.write("p/one/other.md")
    root.write("p/loose.md")
    root.write("p/prompts/x.md")
    root.write("p/skills/s/SKILL.md")
    root.write("p/config/my-hooks.json", "{}")
    root.write_json("p/config/servers.json", {"mcpServers": {"one": {"command": "x"}}})

    found = places(root)

    assert {path: place.type for path, place in found.items()} == {
        "p/.claude-plugin/plugin.json": "plugin",
        "p/extra/a.md": "command",
        "p/one/NOTES.md": "command",
        "p/loose.md": "agent",
        "p/prompts/x.md": "skill",
        "p/skills/s/SKILL.md": "skill",
        "p/config/my-hooks.json": "hook",
        "p/config/servers.json#one": "mcp",
    }
    assert {place.plugin for path, place in found.items() if place.type != "plugin"} == {"kit"}
    assert not found["p/.claude-plugin/plugin.json"].problems


def test_a_manifest_wins_over_the_folder(root) -> None:
    root.write_json(
        "p/.claude-plugin/plugin.json",
        {"name": "kit", "commands": ["./agents/a.md", "./skills/s/prompts"]},
    )
    root.write("p/agents/a.md")
    root.write("p/agents/b.md")
    root.write("p/skills/s/SKILL.md")
    root.write("p/skills/s/prompts/c.md")

    found = root.found()

    assert found["p/agents/a.md"] == "command"
    assert found["p/agents/b.md"] == "agent"
    assert found["p/skills/s/prompts/c.md"] == "command"


@pytest.mark.parametrize(
    "written",
    ["../other/a.md", "/etc/passwd", "x/../../other/a.md", "C:/a.md", "a\\b.md", ".."],
)
def test_a_plugin_cannot_name_what_is_outside_of_it(root, written: str) -> None:
    root.write("other/a.md")
    root.write_json("p/.claude-plugin/plugin.json", {"name": "kit", "agents": [written]})

    found = places(root)

    assert set(found) == {"p/.claude-plugin/plugin.json"}
    problems = found["p/.claude-plugin/plugin.json"].problems
    assert [(problem.code, problem.path) for problem in problems] == [
        ("W_PATH_OUTSIDE", "p/.claude-plugin/plugin.json")
    ]


def test_a_plugin_that_names_nothing_real_is_told(root) -> None:
    manifest = {
        "name": "kit",
        "agents": ["./gone.md", 7, {"x": 1}],
        "commands": {"a": {"source": 3}},
    }
    root.write_json("p/.claude-plugin/plugin.json", manifest)

    problems = places(root)["p/.claude-plugin/plugin.json"].problems

    assert [problem.code for problem in problems] == ["W_MISSING_FILE"]


def test_plugins_inside_plugins_belong_to_the_innermost(root) -> None:
    root.write_json(".claude-plugin/plugin.json", {"name": "outer"})
    root.write_json("plugins/a/.claude-plugin/plugin.json", {"name": "inner"})
    root.write("plugins/a/agents/x.md")
    root.write("agents/y.md")

    assert {path: place.plugin for path, place in places(root).items()} == {
        ".claude-plugin/plugin.json": None,
        "plugins/a/.claude-plugin/plugin.json": "outer",
        "plugins/a/agents/x.md": "inner",
        "agents/y.md": "outer",
    }


def test_other_assistants_manifests_are_no_further_plugins_but_name_files(root) -> None:
    root.write_json("p/.claude-plugin/plugin.json", {"name": "kit"})
    root.write_json("p/.codex-plugin/plugin.json", {"name": "kit", "agents": "./specialists"})
    root.write_json("p/plugin.json", {"name": "kit"})
    root.write("p/specialists/a.md")

    assert root.found() == {
        "p/.claude-plugin/plugin.json": "plugin",
        "p/specialists/a.md": "agent",
    }


def test_a_marketplace_lists_plugins_without_a_manifest_of_their_own(root) -> None:
    root.write_json(
        ".claude-plugin/marketplace.json",
        {
            "name": "market",
            "metadata": {"pluginRoot": "./plugins"},
            "plugins": [
                {"name": "own", "source": "./plugins/own"},
                {"name": "listed", "source": "listed", "commands": "./extra"},
                {"name": "object", "source": {"source": "local", "path": "./plugins/object"}},
                {"name": "remote", "source": {"source": "github", "repo": "a/b"}},
                {"name": "url", "source": {"source": "url", "url": "https://example.com/x.git"}},
                {"name": "address", "source": "https://example.com/x.git"},
                {"name": "gone", "source": "./plugins/gone"},
                {"name": "outside", "source": "../elsewhere"},
                {"source": "./plugins/own"},
                "nonsense",
            ],
        },
    )
    root.write_json("plugins/own/.claude-plugin/plugin.json", {"name": "own"})
    root.write("plugins/listed/extra/c.md")
    root.write("plugins/object/agents/a.md")

    assert {path: (one.type, one.plugin) for path, one in places(root).items()} == {
        "plugins/own/.claude-plugin/plugin.json": ("plugin", None),
        ".claude-plugin/marketplace.json#listed": ("plugin", None),
        "plugins/listed/extra/c.md": ("command", "listed"),
        ".claude-plugin/marketplace.json#object": ("plugin", None),
        "plugins/object/agents/a.md": ("agent", "object"),
    }
    assert root.problems() == {
        ("W_MISSING_FILE", ".claude-plugin/marketplace.json"),
        ("W_PATH_OUTSIDE", ".claude-plugin/marketplace.json"),
    }


def test_of_plugins_that_share_a_folder_only_the_named_files_are_theirs(root) -> None:
    plugins = [
        {"name": "one", "source": "./", "skills": ["./skills/a"]},
        {"name": "two", "source": "./", "skills": ["./skills/b"]},
    ]
    root.write_json(".claude-plugin/marketplace.json", {"plugins": plugins})
    for name in "abc":
        root.write(f"skills/{name}/SKILL.md")

    found = places(root)

    assert [found[f"skills/{name}/SKILL.md"].plugin for name in "abc"] == ["one", "two", None]


def test_a_plugin_may_hold_servers_and_hooks_itself(root) -> None:
    root.write_json(
        "p/.claude-plugin/plugin.json",
        {
            "name": "kit",
            "hooks": {"hooks": {"Stop": [{"hooks": [{"type": "command", "command": "x"}]}]}},
            "mcpServers": {"db": {"command": "db"}},
        },
    )

    assert {path: one.name for path, one in places(root).items()} == {
        "p/.claude-plugin/plugin.json": "kit",
        "p/.claude-plugin/plugin.json#hooks": "kit",
        "p/.claude-plugin/plugin.json#mcp:db": "db",
    }


# Servers and hooks


@pytest.mark.parametrize(
    "value",
    [
        {"mcpServers": {"a/b": {"command": "x"}, "c d": {"url": "https://example.com"}}},
        {"servers": {"a/b": {"command": "x"}, "c d": {}}, "inputs": []},
        {"a/b": {"command": "x"}, "c d": {"url": "https://example.com"}, "$schema": "x"},
    ],
)
@pytest.mark.parametrize("file", [".mcp.json", ".vscode/mcp.json"])
def test_every_server_of_a_file_is_an_artifact(root, file: str, value) -> None:
    root.write_json(file, value)

    assert root.found() == {f"{file}#a/b": "mcp", f"{file}#c d": "mcp"}


@pytest.mark.parametrize("value", [[], "x", {"mcpServers": []}, {"a": 1}, {}, {"x": {"y": 1}}])
def test_a_file_without_servers_is_nothing(root, value) -> None:
    root.write_json(".mcp.json", value)

    assert root.found() == {}


def test_hooks_are_named_after_what_they_belong_to(root) -> None:
    root.write("hooks/hooks.json")
    root.write("hooks/logger/hooks.json")
    root.write("x/.claude/hooks/hooks.json")
    root.write_json("p/.claude-plugin/plugin.json", {"name": "kit"})
    root.write("p/hooks/hooks.json")
    root.write("custom/hooks.json")
    root.write_json("x/.claude/settings.json", {"hooks": {"Stop": [{"hooks": []}]}})
    root.write_json("y/.claude/settings.json", {"permissions": {}})
    root.write_json("z/settings.json", {"hooks": {"Stop": [{"hooks": []}]}})

    found = places(root)

    assert {path: one.name for path, one in found.items() if one.type == "hook"} == {
        "hooks/hooks.json": root.path.name,
        "hooks/logger/hooks.json": "logger",
        "x/.claude/hooks/hooks.json": "x",
        "p/hooks/hooks.json": "kit",
        "custom/hooks.json": "custom",
        "x/.claude/settings.json#hooks": "x",
    }
    assert found["hooks/logger/hooks.json"].folder.path == "hooks/logger"
    assert found["hooks/hooks.json"].folder is None


def test_of_a_broken_manifest_nothing_is_concluded(root) -> None:
    root.write("a/.mcp.json", "{")
    root.write("b/.claude-plugin/plugin.json", "{")
    root.write("b/agents/x.md")
    root.write("c/.claude/settings.json", "[")
    root.write("d/skills/x/SKILL.md")

    scan = root.manager().scan()

    assert {(problem.code, problem.path) for problem in scan.problems} == {
        ("E_JSON", "a/.mcp.json"),
        ("E_JSON", "c/.claude/settings.json"),
    }
    assert scan.complete
    assert scan.is_uncertain("a/.mcp.json#github")
    assert scan.is_uncertain("b/extra/declared.md")
    assert scan.is_uncertain("c/.claude/settings.json#hooks")
    assert not scan.is_uncertain("d/skills/y/SKILL.md")
    assert {place.path for place in scan.places} == {
        "b/.claude-plugin/plugin.json",
        "b/agents/x.md",
        "d/skills/x/SKILL.md",
    }
    assert next(one.plugin for one in scan.places if one.type == "agent") == "b"


def test_paths_are_never_twice(root) -> None:
    root.write_json(
        ".claude-plugin/plugin.json",
        {"name": "kit", "agents": ["./agents", "./agents/a.md"], "hooks": "./hooks/hooks.json"},
    )
    root.write("agents/a.md")
    root.write("hooks/hooks.json", json.dumps({}))

    scan = root.manager().scan()

    assert sorted(place.path for place in scan.places) == [
        ".claude-plugin/plugin.json",
        "agents/a.md",
        "hooks/hooks.json",
    ]


def test_what_a_place_is_read_from_has_a_digest(root) -> None:
    root.write("skills/a/SKILL.md")
    root.write("skills/b/SKILL.md")
    root.write_json(".claude-plugin/plugin.json", {"name": "kit"})
    before = places(root)
    root.write("skills/a/notes.txt", "new")
    touched = places(root)
    root.write_json(".claude-plugin/plugin.json", {"name": "renamed"})
    renamed = places(root)

    def same(path: str, one, other) -> bool:
        return one[path].digest() == other[path].digest()

    assert not same("skills/a/SKILL.md", before, touched)
    assert same("skills/b/SKILL.md", before, touched)
    assert not same("skills/b/SKILL.md", touched, renamed)
