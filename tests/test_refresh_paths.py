"""A refresh by path reads the owners of the paths, and never leaves the rows untrue."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from flask_artifact_cache.files.walk import shown
from flask_artifact_cache.models import Artifact

from .cached import Cache, contents, counts, differences, empty, opened


@pytest.fixture
def fresh(make_app):
    """What a populate into an empty database gives."""
    app = make_app("sqlite://")
    with app.app_context():
        engine = app.extensions["sqlalchemy"].engine

    def populate(root):
        empty(engine)
        Cache(engine, root).refresh(force=True)
        return contents(engine)

    return populate


def test_an_edited_file_is_read_and_another_edited_one_is_not(cache, sample):
    sample.skill("pdf", "Edited.")
    sample.skill("csv", "Edited, too.")

    with opened(sample.root) as seen:
        report = cache.refresh(paths=["skills/pdf/SKILL.md"])

    assert counts(report) == {"updated": 1, "skipped": 5}
    assert seen == ["skills/pdf/SKILL.md"]
    said = cache.of_each(Artifact.description)
    assert said["skills/pdf/SKILL.md"] == "Edited."
    assert said["skills/csv/SKILL.md"] == "Reads tables."
    assert counts(cache.refresh()) == {"updated": 1, "unchanged": 5}


@pytest.mark.parametrize(
    "path", ["skills/pdf/references/deep/er.md", "skills/pdf/run.sh", "skills/pdf/references"]
)
def test_a_file_inside_a_skill_belongs_to_the_skill(cache, sample, path):
    sample.write(path if "." in path else f"{path}/more.md", "More.")

    report = cache.refresh(paths=[path])

    assert counts(report) == {"updated": 1, "skipped": 5}
    assert cache.of_each(Artifact.file_count)["skills/pdf/SKILL.md"] == 2
    with opened(sample.root) as seen:
        assert counts(cache.refresh()) == {"unchanged": 6}
    assert seen == []


def test_a_new_a_removed_and_a_renamed_file(cache, sample):
    sample.write("commands/new.md", "New.\n")
    sample.skill("other")
    assert counts(cache.refresh(paths=["commands/new.md"])) == {"created": 1, "skipped": 7}

    sample.remove("agents/reviewer.md")
    assert counts(cache.refresh(paths=["agents/reviewer.md"])) == {"removed": 1, "skipped": 7}

    (sample.root / "commands/new.md").rename(sample.root / "commands/newer.md")
    paths = ["commands/new.md", "commands/newer.md"]
    assert counts(cache.refresh(paths=paths)) == {"created": 1, "removed": 1, "skipped": 6}
    assert "newer" in cache.names()
    assert "other" not in cache.names()


@pytest.mark.parametrize("whole", [True, False])
def test_a_moved_folder(cache, sample, whole):
    (sample.root / "skills/pdf").rename(sample.root / "skills/papers")
    files = ["skills/pdf/SKILL.md", "skills/papers/SKILL.md"]

    report = cache.refresh(paths=["skills/pdf", "skills/papers"] if whole else files)

    assert counts(report) == {"created": 1, "removed": 1, "skipped": 5}
    assert "skills/papers/SKILL.md" in cache.of_each(Artifact.name)


def test_a_manifest_owns_its_entries(cache, sample):
    sample.write(
        ".mcp.json", '{"mcpServers": {"search": {"command": "other"}, "more": {"command": "x"}}}'
    )
    assert counts(cache.refresh(paths=[".mcp.json"])) == {
        "created": 1,
        "updated": 1,
        "skipped": 5,
    }
    sample.write(".mcp.json", '{"mcpServers": {"more": {"command": "x"}}}')
    report = cache.refresh(paths=[".mcp.json"])
    assert (report.removed, report.skipped) == (1, 5)
    assert "search" not in cache.names()


TOML = """
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
upstream = "https://github.com/example/skills/tree/main/pdf"
added = "2026-01-01T00:00:00"
"""


def test_what_a_collection_says_of_a_skill_comes_and_goes_with_its_manifest(cache, sample):
    sample.write("collection.toml", TOML)
    assert cache.refresh(paths=["collection.toml"]).updated == 1
    assert cache.of_each(Artifact.origin)["skills/pdf/SKILL.md"] == "github"

    sample.skill("pdf", "Edited.")
    assert counts(cache.refresh(paths=["skills/pdf/SKILL.md"])) == {"updated": 1, "skipped": 5}
    assert cache.of_each(Artifact.origin)["skills/pdf/SKILL.md"] == "github"

    sample.remove("collection.toml")
    assert cache.refresh(paths=["collection.toml"]).updated == 1
    assert cache.of_each(Artifact.origin)["skills/pdf/SKILL.md"] == "local"


@pytest.mark.parametrize("edited", [True, False])
def test_once_an_unknown_type_is_mended_the_rows_are_what_a_populate_makes_them(
    cache, sample, fresh, edited
):
    sample.write("collection.toml", TOML)
    cache.refresh()
    sample.write("collection.toml", TOML.replace('"skill"', '"widget"'))
    for paths in ((), ("collection.toml",), ("skills/pdf/SKILL.md",), ()):
        assert counts(cache.refresh(paths=paths)).keys() <= {"unchanged", "skipped"}
    assert cache.of_each(Artifact.origin)["skills/pdf/SKILL.md"] == "github"
    if edited:
        sample.skill("pdf", "Edited.")
        cache.refresh()

    sample.write("collection.toml", TOML)
    cache.refresh(paths=["collection.toml"])

    assert differences(contents(cache.engine), fresh(sample.root)) == {}
    assert cache.of_each(Artifact.origin)["skills/pdf/SKILL.md"] == "github"
    cache.refresh()
    with opened(sample.root) as seen:
        cache.refresh()
    assert seen == []


@pytest.mark.parametrize(
    "path", ["skills/pdf/forms/SKILL.md", "skills/pdf/forms", "skills/pdf/forms/notes.md"]
)
def test_a_skill_inside_a_known_skill_is_found_and_goes_again(cache, sample, path):
    sample.write("skills/pdf/forms/SKILL.md", "---\nname: forms\ndescription: Fills forms.\n---\n")
    sample.write("skills/pdf/forms/notes.md", "Notes.\n")

    report = cache.refresh(paths=[path])

    assert (report.created, report.updated) == (1, 1)
    assert "forms" in cache.names()

    shutil.rmtree(sample.root / "skills/pdf/forms")
    report = cache.refresh(paths=["skills/pdf/forms"])
    assert (report.removed, report.updated) == (1, 1)


def test_a_command_inside_a_skill_that_is_a_plugin_is_found(cache, sample):
    sample.write("skills/pdf/.claude-plugin/plugin.json", '{"name": "pdf"}')
    sample.write("skills/pdf/commands/old.md", "Old.\n")
    cache.refresh()
    sample.write("skills/pdf/commands/print.md", "Print it.\n")

    cache.refresh(paths=["skills/pdf/commands/print.md"])

    assert "print" in cache.names()
    shutil.rmtree(sample.root / "skills/pdf/commands")
    assert cache.refresh(paths=["skills/pdf/commands"]).removed == 2


def test_a_path_that_belongs_to_nothing_changes_nothing(cache, sample):
    before = contents(cache.engine)
    sample.write("notes.txt", "Notes.")

    report = cache.refresh(paths=["notes.txt", "was/never/there.md"])

    assert counts(report) == {"skipped": 6}
    assert report.errors == []
    assert contents(cache.engine) == before


ODD = ["tab\there", "back\\slash", "line\nbreak", "quote'\"", "ünï cödé", "#hash", "c:olon", " "]


@pytest.mark.parametrize("name", [*ODD, os.fsdecode(b"no-utf8-\xff")])
def test_paths_with_odd_characters_are_known_as_they_are_shown(cache, sample, name):
    path = f"commands/{name}/x.md"
    try:
        sample.write(path, "One.\n")
    except OSError:
        pytest.skip("this file system takes no such name")
    assert counts(cache.refresh(paths=[shown(path)])) == {"created": 1, "skipped": 6}
    sample.write(path, "Another one.\n")
    assert counts(cache.refresh(paths=[shown(path)])) == {"updated": 1, "skipped": 6}
    sample.remove(path)
    assert counts(cache.refresh(paths=[shown(path)])) == {"removed": 1, "skipped": 6}


def test_more_paths_than_are_looked_for_one_by_one(engine, collection):
    for number in range(150):
        collection.skill(f"s-{number:03}")
    cache = Cache(engine, collection.root)
    cache.refresh()
    for number in range(150):
        collection.skill(f"s-{number:03}", "Edited.")

    report = cache.refresh(paths=[f"skills/s-{number:03}/SKILL.md" for number in range(120)])

    assert counts(report) == {"updated": 120, "skipped": 30}


# --- a part of the rows, then all ----------------------------------------------------------------


def test_folders_that_are_swapped_and_swapped_back(cache, sample):
    def swap():
        skills = sample.root / "skills"
        (skills / "pdf").rename(skills / "other")
        (skills / "csv").rename(skills / "pdf")
        (skills / "other").rename(skills / "csv")

    before = contents(cache.engine)
    swap()
    assert cache.refresh(paths=["skills/pdf/SKILL.md"]).updated == 1
    swap()

    cache.refresh()

    assert contents(cache.engine) == before


def test_a_folder_that_was_away_for_a_refresh_by_path_comes_back(cache, sample, tmp_path):
    before = contents(cache.engine)
    (sample.root / "skills/pdf").rename(tmp_path / "pdf")
    assert cache.refresh(paths=["skills/pdf/SKILL.md"]).removed == 1
    (tmp_path / "pdf").rename(sample.root / "skills/pdf")

    assert cache.refresh().created == 1
    assert contents(cache.engine) == before


# --- the law -------------------------------------------------------------------------------------

NAMES = ["a", "b", "c"]
FOLDERS = ["skills/a", "skills/b", "skills/a/skills/c", "commands", "commands/a", "agents", "p", ""]


class Law(RuleBasedStateMachine):
    """Whatever is done to the files, one refresh makes the rows what a populate would make them."""

    cache: Cache
    fresh: object
    root: object

    @initialize()
    def begin(self):
        shutil.rmtree(self.root)
        self.root.mkdir()
        empty(self.cache.engine)
        self.changed = set()
        self.size = 0
        self.put("skills/a/SKILL.md", "---\nname: a\ndescription: x\ntags: [one]\n---\n")
        self.put("commands/a.md", "A.\n")
        self.cache.refresh()
        self.changed.clear()

    def put(self, path, text):
        file = self.root / path
        if file.is_dir() or any(above.is_file() for above in file.parents):
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        self.size += 1
        # No two files have one size: what was written within a tick is told apart.
        file.write_text(text + "\n" * self.size)
        self.changed.add(path)

    def files_of(self, folder):
        return {one.relative_to(self.root).as_posix() for one in folder.rglob("*") if one.is_file()}

    @rule(
        folder=st.sampled_from(FOLDERS),
        file=st.sampled_from(["SKILL.md", "skill.md", "a.md", "b.md", "run.sh", "README.md"]),
        name=st.sampled_from(NAMES),
        tag=st.sampled_from(["one", "Two", "three"]),
        agent=st.booleans(),
    )
    def write(self, folder, file, name, tag, agent):
        tools = "tools: Read\n" if agent else ""
        text = f"---\nname: {name}\ndescription: Of {tag}.\n{tools}tags: [{tag}]\n---\n"
        self.put(f"{folder}/{file}".strip("/"), text)

    @rule(servers=st.sets(st.sampled_from(NAMES)), folder=st.sampled_from(["", "p", "skills/a"]))
    def write_servers(self, servers, folder):
        text = ",".join(f'"{name}": {{"command": "{name}"}}' for name in sorted(servers))
        self.put(f"{folder}/.mcp.json".strip("/"), f'{{"mcpServers": {{{text}}}}}')

    @rule(folder=st.sampled_from(["", "p", "skills/a"]), name=st.sampled_from(NAMES))
    def write_plugin(self, folder, name):
        path = f"{folder}/.claude-plugin/plugin.json".strip("/")
        self.put(path, f'{{"name": "{name}", "commands": "./cmds"}}')
        self.put(f"{folder}/cmds/{name}.md".strip("/"), "Do.\n")

    @rule(of=st.sampled_from(["skills/a", "skills/b", "commands/a.md"]))
    def write_manifest(self, of):
        type_ = "skill" if of.startswith("skills") else "command"
        self.put(
            "collection.toml",
            TOML.replace('"skills/pdf"', f'"{of}"').replace('"skill"', f'"{type_}"'),
        )

    @rule(data=st.data())
    def remove(self, data):
        files = sorted(self.files_of(self.root))
        if files:
            path = data.draw(st.sampled_from(files))
            (self.root / path).unlink()
            self.changed.add(path)

    @rule(data=st.data(), to=st.sampled_from(FOLDERS[:-1]), by_folder=st.booleans())
    def move(self, data, to, by_folder):
        folders = sorted(one for one in self.root.rglob("*") if one.is_dir())
        if not folders:
            return
        source, target = data.draw(st.sampled_from(folders)), self.root / to
        if target.exists() or source in target.parents:
            return
        if any(above.is_file() for above in target.parents):
            return
        gone = self.files_of(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.rename(target)
        if by_folder:
            self.changed |= {source.relative_to(self.root).as_posix(), to}
        else:
            self.changed |= gone | self.files_of(target)

    @precondition(lambda self: self.changed)
    @rule()
    def refresh_what_changed(self):
        self.cache.refresh(paths=sorted(self.changed), mass_loss_percent=100)
        self.changed.clear()

    @precondition(lambda self: self.changed)
    @rule(data=st.data())
    def refresh_some(self, data):
        path = data.draw(st.sampled_from(sorted(self.changed)))
        self.cache.refresh(paths=[path], mass_loss_percent=100)

    @rule()
    def refresh(self):
        report = self.cache.refresh(mass_loss_percent=100)
        if not report.withheld:
            assert differences(self.told(), self.fresh(self.root)) == {}
            self.changed.clear()

    def told(self):
        return contents(self.cache.engine)

    def teardown(self):
        if hasattr(self, "changed"):
            report = self.cache.refresh(mass_loss_percent=100)
            if report.withheld:  # everything is gone
                self.cache.refresh(confirm=report.refresh_id)
            assert differences(self.told(), self.fresh(self.root)) == {}
            with opened(self.root) as seen:
                self.cache.refresh()
            assert seen == []


def test_one_refresh_makes_the_rows_what_a_populate_would_make_them(engine, collection, fresh):
    class Here(Law):
        cache = Cache(engine, collection.root)
        root = collection.root

    Here.fresh = staticmethod(fresh)
    run_machine(
        Here,
        settings=settings(
            max_examples=int(os.environ.get("EXAMPLES", "25")),
            stateful_step_count=15,
            suppress_health_check=list(HealthCheck),
        ),
    )
