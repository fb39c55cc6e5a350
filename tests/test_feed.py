"""The change feed: in order, complete, and enough to make a copy of the cache by."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import current_app

from flask_artifact_cache import migrate_artifacts_to_default_collection
from flask_artifact_cache.errors import CursorExpiredError
from flask_artifact_cache.models import Artifact, FeedState, LoggedChange
from flask_artifact_cache.queries import Listing
from flask_artifact_cache.refresh import feed
from flask_artifact_cache.refresh.bulk import BATCH
from flask_artifact_cache.refresh.selection import Selection

CHANGES = "/api/v1/user-collections/changes"
OPERATIONS = int(os.environ.get("ARTIFACT_CACHE_TEST_OPERATIONS", "60"))
BROKEN = "---\n- a\n- list\n---\n"
PATIENCE_S = 120


def service_of(app):
    return app.extensions["artifact_cache"].service


def engine_of(app):
    return app.extensions["sqlalchemy"].engine


def timeless(item):
    """An item without what being verified, or time alone, changes."""
    known = {name: value for name, value in item.items() if name not in ("state", "synced_at")}
    return known | {"state": item["state"].replace("stale", "fresh")}


def table(service, collection_ids=("work",)):
    """Every row as it is served, by uid."""
    found = {}
    for one in collection_ids:
        after = None
        while True:
            page = json.loads(service.listing(one, Listing(limit=200, after=after)).data)
            found |= {item["uid"]: timeless(item) for item in page["items"]}
            after = page["page_info"]["end_cursor"]
            if not page["page_info"]["has_next_page"]:
                break
    return found


class Consumer:
    """Keeps a table by the feed alone."""

    def __init__(self, service, collection_id=None):
        self.service, self.collection_id = service, collection_id
        self.since, self.table, self.seen = None, {}, []

    def page(self, limit=200):
        got = self.service.changes(self.since, limit, self.collection_id)
        assert len(got["changes"]) <= limit
        for one in got["changes"]:
            self.seen.append(one)
            if one["kind"] == "removed":
                self.table.pop(one["uid"], None)
            elif one["artifact"] is not None:
                self.table[one["uid"]] = timeless(one["artifact"])
        self.since = got["next"]
        return got["has_more"]

    def follow(self, limit=lambda: 200):
        while self.page(limit()):
            pass
        return self

    def news(self):
        """What is new, as ``kind, path, fields``."""
        before = len(self.seen)
        self.follow()
        return [(one["kind"], one["path"], set(one["fields"])) for one in self.seen[before:]]


@pytest.fixture
def host(make_app, tables_url, collection, clock):
    """A host on each database with an empty collection; its context."""
    app = make_app(tables_url, {"work": collection.root}, clock=clock)
    with app.app_context():
        yield service_of(app)


def test_it_says_what_happened_in_order(host, collection):
    for name in ("one", "two", "three"):
        collection.skill(name)
    host.populate("work")
    consumer = Consumer(host)

    assert {kind for kind, _, _ in consumer.news()} == {"created"}
    collection.skill("four")
    collection.skill("two", "Does other things.")
    (collection.root / "skills/one/SKILL.md").unlink()
    host.refresh()
    assert sorted((kind, path) for kind, path, _ in consumer.news()) == [
        ("created", "skills/four/SKILL.md"),
        ("removed", "skills/one/SKILL.md"),
        ("updated", "skills/two/SKILL.md"),
    ]
    [updated] = [one for one in consumer.seen if one["kind"] == "updated"]
    assert {"description", "content_hash"} <= set(updated["fields"])
    assert consumer.news() == []
    host.invalidate()
    host.refresh(force=True)
    assert consumer.news() == []  # nobody's metadata has changed
    assert consumer.table == table(host)


def test_a_broken_file_is_an_update_and_so_is_its_mending(host, collection):
    path = collection.skill("one", "As it was.").relative_to(collection.root).as_posix()
    collection.skill("two")
    host.populate("work")
    consumer = Consumer(host).follow()
    good = (collection.root / path).read_text()

    collection.write(path, BROKEN)
    host.refresh()
    assert consumer.news() == [("updated", path, {"error", "state"})]
    assert consumer.seen[-1]["artifact_id"] == "skill:one"
    assert consumer.seen[-1]["artifact"]["state"] == "quarantined"
    collection.write(path, good)
    host.refresh()
    assert consumer.news() == [("updated", path, {"error", "state"})]
    assert consumer.table == table(host)


def test_what_is_missing_is_told_once_and_so_is_that_it_is_back(host, collection):
    for number in range(30):
        collection.skill(f"s{number}")
    host.populate("work")
    consumer = Consumer(host).follow()
    kept = collection.root.parent / "kept"
    kept.mkdir()
    for number in range(20):
        shutil.move(collection.root / f"skills/s{number}", kept / f"s{number}")

    host.refresh()
    host.refresh()
    assert [kind for kind, _, _ in consumer.news()] == ["missing"] * 20
    assert {one["artifact"]["state"] for one in consumer.seen[-20:]} == {"missing"}
    assert consumer.table == table(host)
    for number in range(20):
        shutil.move(kept / f"s{number}", collection.root / f"skills/s{number}")
    host.refresh()
    assert [kind for kind, _, _ in consumer.news()] == ["restored"] * 20
    assert consumer.table == table(host)


def test_a_collection_that_is_populated_later_reaches_whoever_is_past_the_start(
    make_app, database_url, tmp_path, collection, clock
):
    other = type(collection)(tmp_path / "other")
    roots = {"work": collection.root, "other": other.root}
    app = make_app(database_url, roots, clock=clock)
    with app.app_context():
        service = service_of(app)
        collection.skill("one")
        service.populate("work")
        consumer, work = Consumer(service).follow(), Consumer(service, "work").follow()
        for number in range(12):
            other.skill(f"o{number}")
        service.populate("other")
        other.skill("o3", "Edited between two pages.")
        assert consumer.page(5)
        service.refresh()
        consumer.follow(lambda: 5)

        assert consumer.table == table(service, roots)
        assert Consumer(service).follow(lambda: 4).table == consumer.table
        assert work.follow().table == table(service)
        assert {one["collection_id"] for one in work.seen} == {"work"}


def test_a_populate_that_was_killed_is_not_seen_and_the_next_one_whole(host, collection):
    for number in range(BATCH + 500):
        collection.skill(f"s{number}")
    consumer = Consumer(host)

    def die(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        host.populate("work", progress=die)
    with engine_of(current_app).connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(Artifact)) == BATCH
    assert consumer.news() == []
    shutil.rmtree(collection.root / "skills/s0")
    host.populate("work")
    consumer.follow()

    assert len(consumer.table) == BATCH + 499
    assert {one["kind"] for one in consumer.seen} == {"created"}


def test_who_asks_too_late_is_told_to_start_again(make_app, sqlite_url, collection, clock):
    app = make_app(sqlite_url, {"work": collection.root}, clock=clock)
    collection.skill("one")
    with app.app_context():
        service = service_of(app)
        service.populate("work")
        consumer = Consumer(service).follow()
        for number in range(feed.PRUNE_EVERY):
            collection.skill(f"s{number}")
        service.refresh()
        clock.pass_(days=8)
        assert service.changes(consumer.since)["changes"]  # nothing has been forgotten
        for number in range(feed.PRUNE_EVERY):
            collection.skill(f"s{number}", "Edited.")
        service.refresh()
        recent = Consumer(service).follow()
        with pytest.raises(CursorExpiredError):
            service.changes(consumer.since)
        assert recent.news() == []
        with engine_of(app).connect() as connection:
            ats = connection.scalars(sa.select(LoggedChange.at).distinct()).all()
        assert min(ats) > clock() - timedelta(days=7)
    answer = app.test_client().get(f"{CHANGES}?since={consumer.since}")

    assert answer.status_code == 410
    assert answer.json["code"] == "cursor_expired"
    assert "start again without 'since'" in answer.json["detail"]


def test_no_more_are_kept_than_is_said(make_app, sqlite_url, collection, monkeypatch):
    monkeypatch.setattr(feed, "KEPT_CHANGES", 100)
    app = make_app(sqlite_url, {"work": collection.root})
    with app.app_context():
        service = service_of(app)
        service.populate("work")
        for number in range(feed.PRUNE_EVERY):
            collection.skill(f"s{number}")
        service.refresh()
        with engine_of(app).connect() as connection:
            assert connection.scalar(sa.select(sa.func.count(LoggedChange.position))) == 100
            pruned = connection.scalar(sa.select(FeedState.pruned))
            assert connection.scalar(sa.select(sa.func.min(LoggedChange.position))) == pruned + 1


def test_a_database_that_was_made_anew_knows_no_cursor_of_the_old_one(app):
    service = service_of(app)
    with app.app_context():
        since = service.changes()["next"]
        with engine_of(app).begin() as connection:
            connection.execute(sa.update(FeedState).values(epoch="0123456789abcdef"))
        with pytest.raises(CursorExpiredError):
            service.changes(since)


def test_the_route(client, sample):
    first = client.get(f"{CHANGES}?limit=2")
    assert len(first.json["changes"]) == 2
    assert first.json["has_more"] is True
    assert first.headers["Cache-Control"] == "private, no-cache"
    tag = {"If-None-Match": first.headers["ETag"]}
    assert client.get(f"{CHANGES}?limit=2", headers=tag).status_code == 304
    cursor = first.json["next"]
    for wrong in (
        f"since={cursor[:-2]}",
        f"since={cursor}&collection_id=work",
        "since=",
        "limit=0",
    ):
        answer = client.get(f"{CHANGES}?{wrong}")
        assert answer.status_code == 400, wrong
        assert answer.json["errors"][0]["field"] in ("since", "limit")
    assert client.get(f"{CHANGES}?collection_id=nowhere").status_code == 404
    assert client.get(f"{CHANGES}?collection_id=work").json["changes"]


def test_the_command(app, sample):
    runner = app.test_cli_runner()
    whole = json.loads(runner.invoke(args=["artifact-cache", "changes", "--json"]).stdout)
    assert len(whole["changes"]) == 6
    sample.skill("pdf", "Edited.")
    runner.invoke(args=["artifact-cache", "refresh"])
    told = runner.invoke(args=["artifact-cache", "changes", "--since", whole["next"]])

    assert told.exit_code == 0
    assert "updated" in told.stdout
    assert "skill:pdf  description" in told.stdout


def test_the_history_of_one_artifact(app, sample):
    service = service_of(app)
    with app.app_context():
        uid = service.get("work", "skill:pdf")["uid"]
        assert service.history("work", "skill:pdf") == []
        sample.skill("pdf", "Edited.")
        service.refresh()
        shutil.rmtree(sample.root / "skills/pdf")
        assert [one["kind"] for one in service.history("work", "skill:pdf")] == ["updated"]
        service.refresh()

        assert [one["kind"] for one in service.history("work", uid)] == ["removed", "updated"]


def test_a_collection_that_gathers_is_fed_by_all(app, sample):
    service = service_of(app)
    with app.app_context():
        db = app.extensions["sqlalchemy"]
        manager = service.collections.artifacts("work")
        migrate_artifacts_to_default_collection(db.session, manager, service.collections)
        db.session.commit()
        consumer = Consumer(service, "default").follow()
        sample.skill("pdf", "Edited.")
        service.refresh()

        assert [kind for kind, _, _ in consumer.news()] == ["updated"]
        assert consumer.table == table(service, ["default"])


# --- all of it, at random ------------------------------------------------------------------------


class World:
    """A collection that things happen to, each followed by some refresh."""

    def __init__(self, service, collection, dice):
        self.service, self.collection, self.dice = service, collection, dice
        self.away = collection.root.parent / "away"
        self.number = 0

    def files(self):
        return sorted((self.collection.root / "skills").glob("*/SKILL.md"))

    def some(self):
        return self.dice.choice(self.files())

    def step(self):
        names = ["create", "edit", "delete", "break", "invalidate", "unmount", "lose", "sync"]
        getattr(self, self.dice.choices(names, [25, 25, 15, 12, 6, 3, 7, 7])[0] + "_")()

    def refresh(self, *files):
        root = self.collection.root
        paths = tuple(file.relative_to(root).as_posix() for file in files)
        if self.dice.random() < 0.7 and paths:
            self.service.refresh(Selection("work", paths=paths))
        else:
            self.service.refresh(Selection("work"), force=self.dice.random() < 0.2)

    def create_(self):
        self.number += 1
        self.refresh(self.collection.skill(f"s{self.number}", f"Number {self.dice.random()}."))

    def edit_(self):
        if self.files():
            name = self.some().parent.name
            self.refresh(self.collection.skill(name, f"Edited {self.dice.random()}."))

    def delete_(self):
        if len(self.files()) > 25:
            file = self.some()
            shutil.rmtree(file.parent)
            self.refresh(file)

    def break_(self):
        if self.files():
            file = self.some()
            file.write_text(BROKEN)
            self.refresh(file)

    def invalidate_(self):
        self.service.invalidate("work")
        self.refresh()

    def sync_(self):
        if self.files():
            file = self.collection.skill(self.some().parent.name, f"Synced {self.dice.random()}.")
            self.service.refresh(Selection("work", paths=(f"skills/{file.parent.name}/SKILL.md",)))

    def unmount_(self):
        """All are gone at once; then they are back, or some of them."""
        skills = self.collection.root / "skills"
        shutil.move(skills, self.away)
        skills.mkdir()
        self.service.refresh(Selection("work"))
        skills.rmdir()
        shutil.move(self.away, skills)
        self.refresh()

    def lose_(self):
        """Too many are gone to be believed, until somebody confirms it."""
        lost = self.files()[: len(self.files()) // 2]
        self.away.mkdir()
        for file in lost:
            shutil.move(file.parent, self.away / file.parent.name)
        result = self.service.refresh(Selection("work"))
        if result.reports[0].withheld and self.dice.random() < 0.5:
            self.service.refresh(Selection("work"), confirm=result.refresh_id)
        elif self.dice.random() < 0.8:
            for one in self.away.iterdir():
                shutil.move(one, self.collection.root / "skills" / one.name)
        shutil.rmtree(self.away)
        self.refresh()


def test_a_table_made_by_the_feed_is_the_table(host, collection):
    dice = random.Random(20260301)
    for number in range(30):
        collection.skill(f"first{number}")
    host.populate("work")
    world, consumer = World(host, collection, dice), Consumer(host)
    for _ in range(OPERATIONS):
        world.step()
        if dice.random() < 0.3:
            consumer.page(dice.randint(1, 20))
    consumer.follow(lambda: dice.randint(1, 20))
    late = Consumer(host).follow(lambda: dice.randint(1, 20))

    rows = table(host)
    assert consumer.table == rows
    assert late.table == rows
    if OPERATIONS > 50:
        kinds = {one["kind"] for one in consumer.seen}
        assert kinds == {"created", "updated", "missing", "restored", "removed"}


# --- several at once -----------------------------------------------------------------------------

WRITER = """
import sys, time
from pathlib import Path
import sqlalchemy as sa
sys.path.insert(0, {root!r})
from flask_artifact_cache.refresh.selection import Selection
from tests.cached import Cache

url, folder, name = sys.argv[1:]
connect = {{"timeout": 120}} if url.startswith("sqlite") else {{}}
engine = sa.create_engine(url, connect_args=connect)
cache = Cache(engine, Path(folder), collection_id=name)
refresher = cache.refresher(wait_s=60)
refresher.refresh(cache.order())
print("populated", flush=True)
sys.stdin.readline()
for round in range(15):
    for number in range(5):
        file = Path(folder, "skills", f"s{{(round + number) % 8}}", "SKILL.md")
        file.parent.mkdir(parents=True, exist_ok=True)
        text = f"name: {{file.parent.name}}\\ndescription: Round {{round}}.\\n"
        file.write_text(f"---\\n{{text}}---\\n")
    refresher.refresh(cache.order())
"""


def test_a_reader_misses_nothing_while_processes_write(
    make_app, database_url, tmp_path, collection
):
    names = ["a", "b", "c"]
    folders = {name: tmp_path / "roots" / name for name in names}
    for folder in folders.values():
        (folder / "skills").mkdir(parents=True)
        type(collection)(folder).skill("s0")
    app = make_app(database_url, folders)
    code = WRITER.format(root=str(Path(__file__).parent.parent))
    with app.app_context():
        service = service_of(app)
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", code, database_url, str(folder), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name, folder in folders.items()
        ]
        try:
            for writer in writers:
                assert writer.stdout.readline() == "populated\n"
            consumer = Consumer(service).follow()
            assert len(consumer.table) == 3
            before = len(consumer.seen)
            for writer in writers:
                writer.stdin.write("go\n")
                writer.stdin.flush()
            while any(writer.poll() is None for writer in writers):
                consumer.page(7)
            assert [writer.returncode for writer in writers] == [0, 0, 0]
        finally:
            for writer in writers:
                writer.kill()
                writer.communicate()
        consumer.follow()
        assert consumer.table == table(service, names)
        with engine_of(app).connect() as connection:
            logged = connection.execute(
                sa.select(LoggedChange.uid, LoggedChange.kind)
                .where(LoggedChange.kind != feed.POPULATED)
                .order_by(LoggedChange.position)
            ).all()
        # Each once, in the order of the log: a position that came late would be missing.
        assert [(one["uid"], one["kind"]) for one in consumer.seen[before:]] == [
            *map(tuple, logged)
        ]
