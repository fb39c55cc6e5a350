"""A refresh reads what has changed, tells what came of it, and loses nothing."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa

from flask_artifact_cache import CollectionManager, migrate_artifacts_to_default_collection
from flask_artifact_cache.errors import (
    AmbiguousIdError,
    MassLossError,
    NotFoundError,
    ReferencedError,
    RootUnavailableError,
)
from flask_artifact_cache.models import Artifact, Collection, CollectionArtifact, RefreshRun
from flask_artifact_cache.refresh import store
from flask_artifact_cache.refresh.bulk import BATCH
from flask_artifact_cache.refresh.selection import Selection

from .cached import Cache, contents, counts, differences, opened


def engine_of(app):
    with app.app_context():
        return app.extensions["sqlalchemy"].engine


def ask(app, method, *arguments, **options):
    """What the service of an app answers."""
    with app.app_context():
        service = app.extensions["artifact_cache"].service
        return getattr(service, method)(*arguments, **options)


def row(app, path):
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        return session.scalar(sa.select(Artifact).where(Artifact.path == path))


# --- one artifact --------------------------------------------------------------------------------


@pytest.fixture
def host(make_app, tables_url, sample, clock, populate):
    app = make_app(tables_url, {"work": sample.root}, clock=clock)
    populate(app)
    return app


def test_the_life_of_an_artifact_by_sync(host, sample, clock):
    def sync(artifact_id="skill:new"):
        found = ask(host, "sync_artifact", artifact_id)
        return found.status, sorted(found.fields_updated)

    path = "skills/new/SKILL.md"
    with pytest.raises(NotFoundError, match="skill:new"):
        sync()
    assert row(host, path) is None

    sample.skill("new", "First.")
    created, fields = sync()
    assert created == "created"
    assert {"type", "name", "path", "description", "content_hash", "total_size"} <= set(fields)
    assert (row(host, path).description, row(host, path).condition) == ("First.", "ok")

    clock.pass_(minutes=1)
    assert sync() == ("unchanged", [])
    assert row(host, path).synced_at == clock.now

    sample.skill("new", "Other.", license="MIT")
    assert sync() == ("updated", ["content_hash", "description", "license", "total_size"])
    assert (row(host, path).description, row(host, path).license) == ("Other.", "MIT")

    # To the same length: nothing but the text and its hash.
    sample.skill("new", "Third.", license="MIT")
    assert sync(row(host, path).uid) == ("updated", ["content_hash", "description"])

    (sample.root / path).write_bytes(b"\x00\x01")
    assert sync() == ("quarantined", ["error"])
    assert (row(host, path).description, row(host, path).condition) == ("Third.", "quarantined")
    assert sync() == ("quarantined", [])

    sample.skill("new", "Third.", license="MIT")
    assert sync() == ("updated", ["error"])
    assert (row(host, path).condition, row(host, path).error) == ("ok", None)

    shutil.rmtree(sample.root / "skills/new")
    assert sync() == ("removed", [])
    assert row(host, path) is None
    with pytest.raises(NotFoundError):
        sync()
    assert len(contents(engine_of(host))) == 6 + 2  # nothing else came or went


def test_a_shared_id_names_those_who_share_it(host, sample):
    sample.write("more/pdf/SKILL.md", "---\nname: pdf\ndescription: Another.\n---\n")
    ask(host, "refresh")
    sample.skill("pdf", "Edited.")
    before = contents(engine_of(host))

    with pytest.raises(AmbiguousIdError) as caught:
        ask(host, "sync_artifact", "skill:pdf")

    paths = {path: uid for uid, path, _ in caught.value.candidates}
    assert set(paths) == {"more/pdf/SKILL.md", "skills/pdf/SKILL.md"}
    assert contents(engine_of(host)) == before
    assert ask(host, "sync_artifact", paths["skills/pdf/SKILL.md"]).status == "updated"
    assert row(host, "skills/pdf/SKILL.md").description == "Edited."


def test_two_new_files_that_share_an_id_are_no_match_either(host, sample):
    for folder in ("one", "other"):
        sample.write(f"{folder}/twin/SKILL.md", "---\nname: twin\ndescription: x\n---\n")

    with pytest.raises(AmbiguousIdError) as caught:
        ask(host, "sync_artifact", "skill:twin")

    assert len(caught.value.candidates) == 2


def test_what_stands_in_a_manifest_is_synced_alone(host, sample):
    sample.write(
        ".mcp.json",
        '{"mcpServers": {"search": {"command": "other"}, "more": {"command": "more"}}}',
    )

    assert ask(host, "sync_artifact", "mcp:search").status == "updated"
    assert row(host, ".mcp.json#more") is None
    assert ask(host, "sync_artifact", "mcp:more").status == "created"
    sample.write(".mcp.json", '{"mcpServers": {"more": {"command": "more"}}}')
    assert ask(host, "sync_artifact", "mcp:search").status == "removed"
    assert ask(host, "sync_artifact", "mcp:more").status == "unchanged"
    assert row(host, ".mcp.json#search") is None


def test_what_a_manifest_says_of_an_artifact_is_synced_with_it(host, sample):
    head = "\n".join(f'{key} = "2026-01-01T00:00:00"' for key in ("created", "updated"))
    text = (
        f'[collection]\nname = "default"\nversion = "1.0.0"\n{head}\n[[artifacts]]\n'
        'name = "pdf"\ntype = "skill"\npath = "skills/pdf"\norigin = "github"\n'
        'upstream = "https://github.com/example/skills/tree/main/pdf"\n'
        'added = "2026-01-01T00:00:00"\nversion_spec = "latest"\n'
    )
    sample.write("collection.toml", text)
    ask(host, "refresh")
    assert row(host, "skills/pdf/SKILL.md").origin == "github"
    sample.write("collection.toml", text.replace("latest", "v1.2.0"))

    synced = ask(host, "sync_artifact", "skill:pdf", "work")

    assert (synced.status, synced.fields_updated) == ("updated", ["version_spec"])
    assert row(host, "skills/pdf/SKILL.md").version_spec == "v1.2.0"


def test_a_sync_looks_in_every_collection_and_only_where_it_is_told(
    make_app, sqlite_url, sample, tmp_path, populate
):
    home = tmp_path / "home"
    (home / "skills/diary").mkdir(parents=True)
    diary = home / "skills/diary/SKILL.md"
    diary.write_text("---\nname: diary\ndescription: Mine.\n---\n")
    app = make_app(sqlite_url, {"work": sample.root, "home": home})
    populate(app, "work")
    populate(app, "home")
    diary.write_text("---\nname: diary\ndescription: Ours.\n---\n")

    with pytest.raises(NotFoundError):
        ask(app, "sync_artifact", "skill:diary", "work")
    synced = ask(app, "sync_artifact", "skill:diary")

    assert (synced.collection_id, synced.status) == ("home", "updated")
    with pytest.raises(NotFoundError, match="nowhere"):
        ask(app, "sync_artifact", "skill:diary", "nowhere")


def test_a_sync_before_the_first_populate_tells_of_the_artifact_that_was_meant(
    make_app, sqlite_url, sample
):
    app = make_app(sqlite_url, {"work": sample.root})

    def kill(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(app, "populate", "work", progress=kill)
    shutil.rmtree(sample.root / "skills/csv")
    sample.skill("new")

    assert ask(app, "sync_artifact", "skill:new").status == "created"
    assert row(app, "skills/csv/SKILL.md") is None


# --- many ----------------------------------------------------------------------------------------

BROKEN = {
    "binary": (b"\x00\x01\x02" * 50, "E_BINARY", None),
    "empty": (b"", "E_EMPTY", None),
    "blank": (b"\n \n", "E_EMPTY", None),
    "list": (b"---\n- a\n- b\n---\n", "E_NOT_A_MAPPING", 2),
    "tag": (b"---\nname: x\na: !!python/object:os.system x\n---\n", "E_YAML_TAG", 3),
    "large": (b"---\nname: x\n" + b"a: b\n" * 20_000 + b"---\n", "E_FRONTMATTER_TOO_LARGE", 2),
}


def test_a_thousand_artifacts_of_which_thirty_are_broken(make_app, sqlite_url, collection, clock):
    for number in range(1000):
        collection.skill(f"skill-{number:03}")
    app = make_app(sqlite_url, {"work": collection.root}, clock=clock)
    ask(app, "refresh")
    expected = []
    for number, way in zip(range(0, 990, 33), itertools.cycle(BROKEN), strict=False):
        data, code, line = BROKEN[way]
        path = f"skills/skill-{number:03}/SKILL.md"
        (collection.root / path).write_bytes(data)
        expected.append((path, code, line))
    assert len(expected) == 30

    found = ask(app, "refresh", force=True).as_dict()

    assert (found["artifacts_refreshed"], found["removed"], found["updated"]) == (970, 0, 30)
    told = [(one["path"], one["code"], one["line"]) for one in found["errors"]]
    assert sorted(told) == sorted(expected)
    assert all(one["message"] for one in found["errors"])
    cache = Cache(engine_of(app), collection.root)
    assert len(set(cache.of_each(Artifact.description))) == 1000
    assert set(cache.of_each(Artifact.description).values()) == {"Does things."}
    states = list(cache.of_each(Artifact.condition).values())
    assert (states.count("ok"), states.count("quarantined")) == (970, 30)
    # What is known to be broken is told again, without a look into it.
    again = ask(app, "refresh", Selection("work", types=("skill",))).as_dict()
    assert (again["artifacts_refreshed"], len(again["errors"])) == (970, 30)


@pytest.fixture
def varied(engine, collection, clock):
    """Forty artifacts of three types with tags, half of them verified an hour ago."""
    for number in range(20):
        tags = [tag for tag, each in (("even", 2), ("Third", 3)) if number % each == 0]
        collection.skill(f"skill-{number}", tags=f"[{', '.join(tags)}]")
    for number in range(10):
        collection.write(f"commands/c{number}.md", f"---\ntags: [even]\n---\nCommand {number}.\n")
        collection.write(
            f"agents/a{number}.md", f"---\nname: a{number}\ndescription: x\ntools: Read\n---\nA.\n"
        )
    cache = Cache(engine, collection.root, clock=clock)
    cache.refresh()
    clock.pass_(minutes=60)
    half = [path for n, path in enumerate(sorted(cache.of_each(Artifact.uid))) if n % 2]
    cache.refresh(paths=half)
    return cache


FILTERS = {
    "older_than_minutes": 30,
    "tags": ("EVEN", "third"),
    "types": ("skill", "agent"),
    "artifact_ids": ("skill:skill-3", "skill:skill-4", "agent:a1", "agent:a2", "command:c5"),
    "paths": (
        *("skills/skill-3/SKILL.md", "skills/skill-4", "skills/skill-5/new.txt"),
        *("agents/a1.md", "commands/c5.md", "commands/c6.md"),
    ),
    "force": True,
}


def meant(artifact, asked, now):
    """Whether a selection means an artifact, said as simply as it can be."""
    columns = artifact._mapping
    type_, path, tags = columns["type"], columns["path"], {t.lower() for t in columns["tags"]}
    folder = path.rpartition("/")[0]
    checks = {
        "older_than_minutes": columns["synced_at"] is None
        or columns["synced_at"] <= now - timedelta(minutes=30),
        "tags": bool(tags & {"even", "third"}),
        "types": type_ in ("skill", "agent"),
        "artifact_ids": f"{type_}:{columns['name']}" in FILTERS["artifact_ids"],
        "paths": any(
            path == one
            or path.startswith(f"{one}/")
            or (type_ == "skill" and one.startswith(f"{folder}/"))
            for one in FILTERS["paths"]
        ),
        "force": True,
    }
    return all(checks[name] for name in asked)


@pytest.mark.parametrize("edited", [False, True], ids=["as it was", "edited"])
def test_every_filter_alone_and_in_pairs(varied, collection, clock, edited):
    artifacts = varied.rows(*Artifact.__table__.columns)
    asked = [*itertools.combinations(FILTERS, 1), *itertools.combinations(FILTERS, 2)]
    for number, names in enumerate(asked):
        expected = {one.path for one in artifacts if meant(one, names, clock.now)}
        assert 0 < len(expected) <= 40
        chosen = {name: FILTERS[name] for name in names}
        if edited:
            # One in a hundred names; a refresh that is not meant for it has to leave it alone.
            collection.write("agents/a9.md", f"---\nname: a9\ndescription: {number}\n---\nA.\n")
        with opened(collection.root) as seen:
            report = varied.refresh(dry_run=True, **chosen)
        refreshed = report.created + report.updated + report.unchanged
        assert (refreshed, report.skipped) == (len(expected), 40 - len(expected)), names
        assert report.errors == [], names
        if "force" in names:
            assert set(seen) == expected, names
        else:
            assert set(seen) <= ({"agents/a9.md"} & expected if edited else set()), names


def test_an_id_that_another_filter_leaves_out_is_no_mistake(cache):
    report = cache.refresh(artifact_ids=["skill:pdf"], types=["agent"])
    assert (report.errors, report.skipped) == ([], 6)
    report = cache.refresh(artifact_ids=["skill:pdf", "skill:nothing"], types=["agent"])
    assert [one["artifact_id"] for one in report.errors] == ["skill:nothing"]
    assert report.outcome == "succeeded"


def test_filters_hold_in_a_collection_that_was_empty(engine, collection):
    cache = Cache(engine, collection.root)
    cache.refresh()
    collection.skill("one")
    collection.write("commands/two.md", "Two.\n")
    collection.write("commands/three.md", "Three.\n")

    assert counts(cache.refresh(types=["skill"])) == {"created": 1, "skipped": 2}
    assert counts(cache.refresh(paths=["commands/two.md"])) == {"created": 1, "skipped": 2}


AGENT = "---\nname: loose\ndescription: x\ntools: Read\n---\n"


def test_one_edited_file_of_ten_thousand_is_the_only_one_that_is_opened(engine, collection):
    for number in range(10_000):
        collection.skill(f"skill-{number:04}")
    for number in range(5):
        collection.write(f"p{number}/.claude-plugin/plugin.json", f'{{"name": "p{number}"}}')
        collection.write(f"p{number}/.mcp.json", '{"mcpServers": {"a": {"command": "a"}}}')
        collection.write(
            f"notes/agent-{number}.md", "---\nname: a\ndescription: x\ntools: R\n---\n"
        )
        collection.write(f"notes/text-{number}.md", "Text.\n")
    cache = Cache(engine, collection.root)
    assert cache.refresh().created == 10_015

    for order in ({}, {"types": ["skill"]}, {"paths": ["skills/skill-0001/SKILL.md"]}):
        with opened(collection.root) as seen:
            cache.refresh(**order)
        assert seen == [], order

    collection.skill("skill-1234", "Edited.")
    with opened(collection.root) as seen:
        report = cache.refresh()
    assert seen == ["skills/skill-1234/SKILL.md"]
    assert counts(report) == {"updated": 1, "unchanged": 10_014}
    with opened(collection.root) as seen:
        cache.refresh()
    assert seen == []


def test_invalidated_rows_are_read_and_no_others(make_app, sqlite_url, sample):
    cache = Cache(engine_of(app := make_app(sqlite_url, {"work": sample.root})), sample.root)
    cache.refresh()
    said = ask(app, "invalidate", "work", ["skill:pdf", "skill:nothing"])
    assert said == {"invalidated": 1, "unknown": ["skill:nothing"]}
    assert cache.of_each(Artifact.condition)["skills/pdf/SKILL.md"] == "invalidated"

    with opened(sample.root) as seen:
        assert counts(cache.refresh()) == {"unchanged": 6}

    assert seen == ["skills/pdf/SKILL.md"]
    assert set(cache.of_each(Artifact.condition).values()) == {"ok"}


# --- nothing is lost -----------------------------------------------------------------------------


@pytest.mark.parametrize("order", [{}, {"paths": ["skills/pdf/SKILL.md"]}, {"force": True}])
def test_a_folder_that_is_not_there_or_empty_loses_nothing(cache, sample, tmp_path, order):
    before = contents(cache.engine)
    sample.root.rename(tmp_path / "away")
    with pytest.raises(RootUnavailableError):
        cache.refresh(**order)
    assert contents(cache.engine) == before
    assert cache.rows(Collection.path_available)[0] == (False,)
    (tmp_path / "away").rename(sample.root)
    cache.refresh(**order)
    assert cache.rows(Collection.path_available)[0] == (True,)
    sample.root.rename(tmp_path / "away")

    sample.root.mkdir()
    assert cache.refresh(**order).outcome == "needs_confirmation"
    assert contents(cache.engine) == before

    sample.root.rmdir()
    sample.root.write_text("a file now")
    with pytest.raises(RootUnavailableError):
        cache.refresh(**order)
    sample.root.unlink()
    (tmp_path / "away").rename(sample.root)

    assert cache.refresh().unchanged == 6
    assert contents(cache.engine) == before
    assert cache.rows(Collection.path_available)[0] == (True,)


def test_a_folder_that_cannot_be_listed_lets_things_come_and_change_but_not_go(cache, sample):
    deep = sample.root
    for _ in range(60):
        deep /= "d"
    deep.mkdir(parents=True)
    sample.skill("new")
    sample.skill("csv", "Edited.")
    shutil.rmtree(sample.root / "skills/pdf")

    report = cache.refresh()

    assert (report.created, report.updated, report.removed, report.outcome) == (1, 1, 0, "partial")
    assert [one["code"] for one in report.errors] == ["E_TOO_DEEP"]
    conditions = cache.of_each(Artifact.condition)
    assert conditions.pop("skills/pdf/SKILL.md") == "missing"
    assert set(conditions.values()) == {"ok"}

    shutil.rmtree(sample.root / "d")
    assert cache.refresh().removed == 1


class Vanishing:
    """Files that are gone between the look at their folders and the look into them."""

    def __init__(self, manager, *paths):
        self.manager, self.paths = manager, paths

    def __getattr__(self, name):
        return getattr(self.manager, name)

    def walk(self):
        tree = self.manager.walk()
        self.kept = {path: path.read_bytes() for path in self.paths}
        for path in self.paths:
            path.unlink()
        return tree

    def restore(self):
        for path, data in self.kept.items():
            path.write_bytes(data)


@pytest.mark.parametrize("path", ["skills/pdf/SKILL.md", ".mcp.json", "notes/loose.md"])
def test_a_file_that_vanishes_before_it_is_read_keeps_its_row(cache, sample, path):
    sample.remove("agents/reviewer.md")  # agents lie anywhere where no folder is theirs
    (sample.root / "agents").rmdir()
    sample.write("notes/loose.md", AGENT)
    assert counts(cache.refresh()) == {"created": 1, "removed": 1, "unchanged": 5}
    before = contents(cache.engine)
    (sample.root / path).write_bytes((sample.root / path).read_bytes() + b"\n")
    whole, cache.manager = cache.manager, Vanishing(cache.manager, sample.root / path)

    report = cache.refresh(force=True)

    assert (report.removed, report.outcome) == (0, "partial")
    assert contents(cache.engine).keys() == before.keys()
    cache.manager.restore()
    cache.manager = whole
    cache.refresh()
    assert set(cache.of_each(Artifact.condition).values()) == {"ok"}
    assert contents(cache.engine).keys() == before.keys()


@pytest.fixture
def fifty(engine, collection, clock):
    for number in range(50):
        collection.skill(f"skill-{number:02}")
    cache = Cache(engine, collection.root, clock=clock)
    cache.refresh()
    return cache


def lose(collection, *numbers):
    for number in numbers:
        shutil.rmtree(collection.root / f"skills/skill-{number:02}")


def test_losses_that_are_told_one_by_one_are_as_unbelievable(fifty, collection):
    lose(collection, *range(11))

    for number in range(11):
        report = fifty.refresh(paths=[f"skills/skill-{number:02}/SKILL.md"])
        assert counts(report) == {"withheld": 1, "skipped": 49}
    fifty.refresh(types=["skill"], older_than_minutes=0)
    assert len(fifty.names()) == 50
    assert list(fifty.of_each(Artifact.condition).values()).count("missing") == 11

    report = fifty.refresh()
    assert counts(report) == {"withheld": 11, "unchanged": 39}
    assert counts(fifty.refresh(confirm=report.refresh_id)) == {"removed": 11, "unchanged": 39}


def test_what_was_withheld_of_a_part_is_confirmed_for_that_part(fifty, collection):
    lose(collection, *range(20))
    part = {"paths": ["skills/skill-00/SKILL.md", "skills/skill-01/SKILL.md"]}
    report = fifty.refresh(**part)
    assert report.withheld == 2

    assert fifty.refresh(confirm=report.refresh_id).withheld == 20
    confirmed = fifty.refresh(confirm=report.refresh_id, **part)

    assert (confirmed.removed, confirmed.withheld, confirmed.outcome) == (2, 0, "succeeded")
    assert len(fifty.names()) == 48


def test_more_losses_than_were_confirmed_need_another_confirmation(fifty, collection):
    lose(collection, *range(11))
    first = fifty.refresh()
    lose(collection, 20)

    second = fifty.refresh(confirm=first.refresh_id)

    assert (second.withheld, second.removed) == (12, 0)
    assert fifty.refresh(confirm=second.refresh_id).removed == 12


def test_a_sync_of_one_of_many_losses_is_withheld(make_app, sqlite_url, collection, populate):
    for number in range(50):
        collection.skill(f"skill-{number:02}")
    app = make_app(sqlite_url, {"work": collection.root})
    populate(app)
    lose(collection, *range(11))

    with pytest.raises(MassLossError) as caught:
        ask(app, "sync_artifact", "skill:skill-00")

    assert ask(app, "run", caught.value.refresh_id)["outcome"] == "needs_confirmation"
    assert row(app, "skills/skill-00/SKILL.md").condition == "missing"


def test_missing_rows_come_back_with_their_files(fifty, collection, tmp_path):
    before = contents(fifty.engine)
    ids = fifty.of_each(Artifact.id)
    (collection.root / "skills").rename(tmp_path / "skills")
    collection.skill("other")
    assert fifty.refresh(paths=["skills/skill-00", "skills/skill-01"]).withheld == 2
    assert fifty.refresh().withheld == 50
    shutil.rmtree(collection.root / "skills")
    (tmp_path / "skills").rename(collection.root / "skills")

    fifty.refresh()

    assert contents(fifty.engine) == before
    assert fifty.of_each(Artifact.id) == ids


def test_a_part_that_was_missing_comes_back_with_its_files(fifty, collection, tmp_path):
    before = contents(fifty.engine)
    (collection.root / "skills").rename(tmp_path / "skills")
    collection.write("notes.txt", "Not empty.")
    assert fifty.refresh(paths=["skills/skill-00"]).withheld == 1
    (collection.root / "notes.txt").unlink()
    (tmp_path / "skills").rename(collection.root / "skills")

    assert fifty.refresh().unchanged == 50
    assert contents(fifty.engine) == before


def test_a_file_that_breaks_and_is_mended_as_it_was(cache, sample):
    before = contents(cache.engine)
    file = sample.root / "skills/pdf/SKILL.md"
    whole = file.read_bytes()
    file.write_bytes(b"")
    report = cache.refresh(paths=["skills/pdf/SKILL.md"])
    assert (report.quarantined, report.outcome) == (1, "partial")
    assert cache.of_each(Artifact.description)["skills/pdf/SKILL.md"] == "Reads PDF files."
    assert cache.refresh().quarantined == 1
    file.write_bytes(whole)

    cache.refresh()

    assert differences(contents(cache.engine), before) == {}


# --- runs ----------------------------------------------------------------------------------------


def wait_for(app, refresh_id):
    app.extensions["artifact_cache"].service.background.join()
    return ask(app, "run", refresh_id)


def test_a_refresh_in_the_background_is_followed_by_its_id(make_app, sqlite_url, sample, clock):
    app = make_app(
        sqlite_url, {"work": sample.root}, clock=clock, ARTIFACT_CACHE_BACKGROUND="thread"
    )
    ask(app, "refresh")
    sample.skill("pdf", "Edited.")
    cache = Cache(engine_of(app), sample.root)
    entered, go_on = threading.Event(), threading.Event()

    def hold(done, total):
        entered.set()
        go_on.wait(20)

    holder = threading.Thread(
        target=lambda: cache.refresher(progress=hold).refresh(cache.order(force=True))
    )
    holder.start()
    assert entered.wait(20)
    try:
        refresh_id = ask(app, "start_refresh", Selection("work", types=("skill",)))
        described = ask(app, "run", refresh_id)
    finally:
        go_on.set()
        holder.join()
    assert described["outcome"] == "queued"
    assert (described["filters"], described["finished_at"]) == ({"types": ["skill"]}, None)

    described = wait_for(app, refresh_id)

    assert described["outcome"] == "succeeded"
    assert described["artifacts_refreshed"] == 3
    assert described["progress"] == {"done": 3, "total": 3}
    with pytest.raises(NotFoundError):
        ask(app, "run", "0" * 32)


def test_how_far_a_run_is_can_be_seen_while_it_runs(make_app, sqlite_url, collection, clock):
    total = 2 * BATCH + 100
    for number in range(total):
        collection.write(f"commands/c{number}.md", "C.\n")
    app = make_app(sqlite_url, {"work": collection.root}, clock=clock)
    cache = Cache(engine_of(app), collection.root)
    seen = []

    def look(done, total):
        [run] = ask(app, "runs", 1)
        seen.append((run["outcome"], run["progress"]["done"], run["progress"]["total"]))

    cache.refresher(progress=look).refresh(cache.order())

    assert seen == [("running", done, total) for done in (BATCH, 2 * BATCH, total)]
    seen.clear()
    cache.refresher(progress=look).refresh(cache.order(force=True))
    assert seen[0] == ("running", BATCH, total)
    assert ask(app, "runs", 1)[0]["progress"] == {"done": total, "total": total}


def test_runs_come_newest_first_and_are_kept_for_a_week(make_app, sqlite_url, sample, clock):
    app = make_app(sqlite_url, {"work": sample.root}, clock=clock)
    made = []
    for _ in range(3):
        made.append(ask(app, "refresh").refresh_id)
        clock.pass_(days=3)

    assert [run["refresh_id"] for run in ask(app, "runs")] == made[::-1]
    assert [run["refresh_id"] for run in ask(app, "runs", 2)] == made[:0:-1]
    last = ask(app, "refresh").refresh_id
    assert [run["refresh_id"] for run in ask(app, "runs")] == [last, *made[:0:-1]]
    assert ask(app, "runs", collection_id="nowhere") == []


# --- a collection that gathers all others --------------------------------------------------------


def test_a_refresh_of_the_gathering_collection_refreshes_all(
    make_app, tables_url, sample, tmp_path
):
    home = tmp_path / "home"
    (home / "skills/diary").mkdir(parents=True)
    diary = home / "skills/diary/SKILL.md"
    diary.write_text("---\nname: diary\ndescription: Mine.\ntags: [data]\n---\n")
    collections = {"work": sample.root, "home": home}
    app = make_app(tables_url, collections)
    with app.app_context():
        manager = CollectionManager(collections)
        session = app.extensions["sqlalchemy"].session
        migrate_artifacts_to_default_collection(session, manager.artifacts("work"), manager)
        session.commit()

    def members(collection_id):
        with app.app_context():
            session = app.extensions["sqlalchemy"].session
            listed = session.scalars(
                sa.select(Artifact.name)
                .join(CollectionArtifact, CollectionArtifact.artifact_id == Artifact.id)
                .where(CollectionArtifact.collection_id == collection_id)
            ).all()
            counted = session.get(Collection, collection_id).artifact_count
        client = app.test_client()
        url = f"/api/v1/user-collections/{collection_id}"
        page = client.get(f"{url}/artifacts?tag=data").json
        facets = client.get(f"{url}/facets").json["facets"]["tag"]
        tagged = {one["value"]: one["count"] for one in facets}
        assert counted == len(listed)
        assert tagged.get("data", 0) == page["page_info"]["total_count"]
        return len(listed), tagged.get("data", 0)

    assert (members("default"), members("work"), members("home")) == ((7, 3), (6, 2), (1, 1))
    sample.skill("more", tags="[data]")
    shutil.rmtree(sample.root / "skills/csv")
    diary.write_text("---\nname: diary\ndescription: Ours.\n---\n")

    found = ask(app, "refresh", Selection("default")).as_dict()

    assert [found[name] for name in ("created", "updated", "removed")] == [1, 1, 1]
    assert (members("default"), members("work"), members("home")) == ((7, 2), (6, 2), (1, 0))
    (home / "skills/second").mkdir()
    (home / "skills/second/SKILL.md").write_text("---\nname: second\ntags: [data]\n---\n")
    assert ask(app, "refresh", Selection("home")).as_dict()["created"] == 1
    assert (members("default"), members("work"), members("home")) == ((8, 3), (6, 2), (2, 1))
    assert ask(app, "sync_artifact", "skill:second", "default").status == "unchanged"
    shutil.rmtree(home / "skills/second")
    assert ask(app, "sync_artifact", "skill:second", "default").status == "removed"
    assert (members("default"), members("home")) == ((7, 2), (1, 0))
    assert {run["outcome"] for run in ask(app, "runs")} == {"succeeded"}
    assert rows_of_runs(app) == {"work", "home"}


def rows_of_runs(app):
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        return set(session.scalars(sa.select(RefreshRun.collection_id)))


def test_an_unreadable_collection_does_not_stop_the_others(make_app, sqlite_url, sample, tmp_path):
    app = make_app(sqlite_url, {"gone": tmp_path / "gone", "work": sample.root})

    found = ask(app, "refresh").as_dict()

    assert found["created"] == 6
    [error] = found["errors"]
    assert (error["collection_id"], error["code"]) == ("gone", "root_unavailable")
    assert os.fspath(tmp_path) not in error["message"]
    assert ask(app, "run", found["refresh_id"])["outcome"] == "failed"


def test_a_sync_finds_an_artifact_where_it_has_moved(make_app, sqlite_url, sample, populate):
    app = make_app(sqlite_url, {"work": sample.root})
    populate(app)
    (sample.root / "skills/pdf").rename(sample.root / "skills/moved")

    with app.app_context():
        service = app.extensions["artifact_cache"].service
        synced = service.sync_artifact("skill:pdf")
        found = service.get("work", "skill:pdf")

    assert (synced.artifact_id, synced.status) == ("skill:pdf", "created")
    assert found["path"] == "skills/moved/SKILL.md"


def test_an_artifact_is_found_by_a_name_that_its_row_does_not_have_yet(
    make_app, sqlite_url, sample, populate
):
    app = make_app(sqlite_url, {"work": sample.root})
    populate(app)
    sample.write("skills/pdf/SKILL.md", "---\nname: pdf2\ndescription: Renamed.\n---\n")

    with app.app_context():
        synced = app.extensions["artifact_cache"].service.sync_artifact("skill:pdf2")

    assert (synced.artifact_id, synced.status) == ("skill:pdf2", "updated")


def test_a_new_artifact_is_found_although_another_folder_is_away(
    make_app, sqlite_url, sample, populate, tmp_path
):
    app = make_app(sqlite_url, {"gone": tmp_path / "gone", "work": sample.root})
    populate(app)
    sample.skill("new")

    with app.app_context():
        service = app.extensions["artifact_cache"].service
        assert service.sync_artifact("skill:new").status == "created"
        with pytest.raises(RootUnavailableError):
            service.sync_artifact("skill:unknown")


def test_a_new_id_in_two_collections_is_ambiguous(make_app, sqlite_url, sample, populate, tmp_path):
    other = tmp_path / "other"
    (other / "skills/new").mkdir(parents=True)
    app = make_app(sqlite_url, {"other": other, "work": sample.root})
    populate(app)
    populate(app, "other")
    (other / "skills/new/SKILL.md").write_text("---\nname: new\n---\n")
    sample.skill("new")

    with app.app_context():
        service = app.extensions["artifact_cache"].service
        with pytest.raises(AmbiguousIdError) as raised:
            service.sync_artifact("skill:new")

    assert len(raised.value.candidates) == 2


def test_a_file_that_could_not_be_opened_is_tried_again(app_on_old_files, sample, monkeypatch):
    cache = app_on_old_files
    cache.refresh()
    monkeypatch.setattr(os, "open", _refusing(os.open, "skills/pdf"))
    assert cache.refresh(force=True).quarantined == 1
    assert cache.refresh().quarantined == 1
    monkeypatch.undo()

    report = cache.refresh()

    assert (report.quarantined, report.outcome) == (0, "succeeded")


def test_an_invalidation_during_a_refresh_is_not_lost(app, sample):
    cache = Cache(engine_of(app), sample.root)

    def invalidate(change):
        with cache.engine.begin() as connection:
            store.invalidate(connection, "work", [change.record.uid])

    cache.refresher(observe=invalidate).refresh(cache.order(force=True))

    assert {tuple(row) for row in cache.rows(Artifact.condition)} == {("invalidated",)}
    cache.refresh()
    assert {tuple(row) for row in cache.rows(Artifact.condition)} == {("ok",)}


@pytest.fixture
def app_on_old_files(make_app, sqlite_url, sample):
    return Cache(engine_of(make_app(sqlite_url)), sample.root)


def _refusing(open_, part):
    def refuse(path, *arguments, **options):
        if part in str(path):
            raise OSError(errno.EMFILE, "Too many open files")
        return open_(path, *arguments, **options)

    return refuse


@contextmanager
def favourites(app):
    """A table of the host that refers to artifacts, on a database that minds it."""
    engine = engine_of(app)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys=ON"))
        engine.dispose()
    column = sa.Column("artifact_id", sa.ForeignKey(Artifact.__table__.c.id), nullable=False)
    favourite = sa.Table("favourite", sa.MetaData(), column)
    favourite.create(engine)
    try:
        yield favourite
    finally:
        favourite.drop(engine)


def test_what_a_table_of_the_host_refers_to_stays_and_nothing_else_waits_for_it(
    make_app, database_url, sample, clock
):
    options = {"ARTIFACT_CACHE_MASS_LOSS_PERCENT": 50.0}
    app = make_app(database_url, {"work": sample.root}, clock=clock, **options)
    service = app.extensions["artifact_cache"].service
    with app.app_context(), favourites(app) as favourite:
        engine = engine_of(app)
        service.populate("work")
        with engine.begin() as connection:
            pdf = sa.select(Artifact.id).where(Artifact.name == "pdf")
            connection.execute(favourite.insert().from_select(["artifact_id"], pdf))
        for name in ("pdf", "charts"):
            sample.remove(f"skills/{name}/SKILL.md")
        sample.skill("csv", "Changed.")
        start = service.changes()["next"]

        [report] = service.refresh().reports

        assert (report.outcome, report.removed, report.updated) == ("partial", 1, 1)
        [error] = report.errors
        assert error["code"] == "referenced"
        assert error["path"] == "skills/pdf/SKILL.md"
        assert service.get("work", "skill:pdf")["state"] == "missing"
        client = app.test_client()
        for address in ("/collection/work", "/collection/work/artifacts/skill:pdf"):
            told = client.get(address).text
            assert "a table of the app refers to" in told
            assert "waits for a confirmation" not in told
        assert service.get("work", "skill:csv")["description"] == "Changed."
        with pytest.raises(NotFoundError):
            service.get("work", "skill:charts")
        told = [(one["kind"], one["artifact_id"]) for one in service.changes(start)["changes"]]
        assert sorted(told) == [
            ("missing", "skill:pdf"),
            ("removed", "skill:charts"),
            ("updated", "skill:csv"),
        ]
        with pytest.raises(ReferencedError, match="'skill:pdf'"):
            service.sync_artifact("skill:pdf")

        with engine.begin() as connection:
            connection.execute(favourite.delete())
        assert service.sync_artifact("skill:pdf").status == "removed"


def test_what_is_kept_for_the_host_is_confirmed_once_and_for_all(
    make_app, database_url, collection
):
    for number in range(40):
        collection.skill(f"s{number}")
    app = make_app(database_url, {"work": collection.root})
    service = app.extensions["artifact_cache"].service
    with app.app_context(), favourites(app) as favourite:
        service.populate("work")
        with engine_of(app).begin() as connection:
            first = sa.select(Artifact.id).order_by(Artifact.id).limit(12)
            rows = sa.select(Artifact.name).order_by(Artifact.id).limit(12)
            names = list(connection.scalars(rows))
            connection.execute(favourite.insert().from_select(["artifact_id"], first))
        for name in names:
            shutil.rmtree(collection.root / f"skills/{name}")
        [report] = service.refresh().reports
        assert (report.withheld, report.outcome) == (12, "needs_confirmation")
        [report] = service.refresh(confirm=report.refresh_id).reports
        assert (report.withheld, report.removed, len(report.errors)) == (0, 0, 12)

        left = next(one for one in collection.root.glob("skills/*"))
        shutil.rmtree(left)
        [report] = service.refresh().reports
        assert (report.withheld, report.removed, report.outcome) == (0, 1, "partial")
        assert service.stats().states["missing"] == 12

        for name in names[:6]:
            collection.skill(name)
        [report] = service.refresh().reports
        assert (report.withheld, report.unchanged) == (0, 27 + 6)
        assert service.stats().states["missing"] == 6
        with pytest.raises(ReferencedError):
            service.sync_artifact(f"skill:{names[-1]}")


def test_a_collection_that_the_host_refers_to_is_not_forgotten_in_part(
    make_app, database_url, sample
):
    app = make_app(database_url, {"work": sample.root})
    with app.app_context():
        app.extensions["artifact_cache"].service.populate("work")
    app = make_app(database_url, {}, create=False)
    service = app.extensions["artifact_cache"].service
    before = contents(engine_of(app))
    with app.app_context(), favourites(app) as favourite:
        with engine_of(app).begin() as connection:
            pdf = sa.select(Artifact.id).where(Artifact.name == "pdf")
            connection.execute(favourite.insert().from_select(["artifact_id"], pdf))

        with pytest.raises(ReferencedError, match="nothing is removed"):
            service.forget("work")

        assert contents(engine_of(app)) == before
        with engine_of(app).begin() as connection:
            connection.execute(favourite.delete())
        assert service.forget("work") == 6
