"""A refresh by path reads the owners of the paths, and never leaves the rows untrue."""

from __future__ import annotations

import os

import pytest

from flask_artifact_cache.files.walk import shown
from flask_artifact_cache.models import Artifact

from .cached import Cache, contents, counts, hurry, opened


@pytest.fixture
def engine(make_app, sqlite_url):
    app = make_app(sqlite_url, create=False)
    with app.app_context():
        db = app.extensions["sqlalchemy"]
        hurry(db.engine)
        db.create_all()
        return db.engine


@pytest.fixture
def cache(engine, sample, clock):
    cache = Cache(engine, sample.root, clock=clock)
    cache.refresh()
    return cache


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
