"""Rows go stale on time, say so, and are refreshed by whoever finds them so, once."""

from __future__ import annotations

import re
import shutil
from datetime import datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from flask_artifact_cache import (
    ArtifactManager,
    freshness,
    migrate_artifacts_to_default_collection,
)
from flask_artifact_cache.errors import AmbiguousIdError, NotFoundError
from flask_artifact_cache.models import Artifact, Collection, RefreshRun
from flask_artifact_cache.refresh.run import utc_now
from flask_artifact_cache.refresh.selection import Selection
from flask_artifact_cache.tasks import Task

from .conftest import CollectionFolder

API = "/api/v1/user-collections"
LIST = f"{API}/work/artifacts"
NOON = datetime(2026, 3, 29, 1, 30, tzinfo=timezone.utc)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def serving(make_app, sqlite_url, sample, clock, populate):
    """An app with threads, a TTL of a minute and its collection read."""
    app = make_app(
        sqlite_url,
        {"work": {"path": sample.root, "ttl_minutes": 1}},
        clock=clock,
        ARTIFACT_CACHE_BACKGROUND="thread",
    )
    populate(app)
    return app


def service_of(app):
    return app.extensions["artifact_cache"].service


def triggers(app):
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        return sorted(session.scalars(sa.select(RefreshRun.trigger)))


def gauge(client, name):
    """A gauge without labels, as Prometheus is told."""
    text = client.get(f"{API}/metrics").text
    return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])


def on_page(client, collection_id):
    """How many are stale, as the page of a collection tells."""
    text = client.get(f"/collection/{collection_id}").text
    return int(re.search(r"<dt>Stale</dt><dd[^>]*>(\d+)</dd>", text)[1])


def states(client, collection_id="work"):
    items = client.get(f"{API}/{collection_id}/artifacts?limit=200").json["items"]
    return {item["id"]: item["state"] for item in items}


# --- when a row is stale -------------------------------------------------------------------------


@given(st.timedeltas(timedelta(days=-2), timedelta(days=2)), st.integers(-14, 14))
def test_freshness_depends_on_the_moment_and_not_on_the_zone(age, hours):
    """The noon of the test lies in the hour that half of Europe skips."""
    there = timezone(timedelta(hours=hours))
    state = freshness.state(freshness.OK, (NOON - age).astimezone(there), NOON, 30 * MINUTE)

    expected = "fresh" if -5 * MINUTE <= age < 30 * MINUTE else "stale"
    assert state == expected


def test_every_database_and_every_question_agree(make_app, database_url, tmp_path, clock):
    """Two owners with TTLs of their own, a collection that gathers them, and all states."""
    folders = {name: CollectionFolder(tmp_path / name) for name in ("quick", "slow")}
    for name, folder in folders.items():
        for number in range(4):
            folder.skill(f"{name}-{number}")
    app = make_app(
        database_url,
        {
            "quick": {"path": folders["quick"].root, "ttl_minutes": 1},
            "slow": {"path": folders["slow"].root, "ttl_minutes": 120},
        },
        clock=clock,
    )
    client = app.test_client()
    # The migration has no clock but the system's.
    clock.now = utc_now()
    with app.app_context():
        service = service_of(app)
        session = app.extensions["sqlalchemy"].session
        manager = ArtifactManager(folders["quick"].root)
        migrate_artifacts_to_default_collection(session(), manager, service.collections)
        session.commit()
    for passed, stale in ((0.5, 0), (1.0, 4), (60.0, 4), (70.0, 8), (-5000.0, 8)):
        clock.pass_(minutes=passed)
        with app.app_context():
            assert service.stale_count() == stale
            found = service.find_stale()
            assert len(found) == stale
            for one in found:
                assert service.is_stale(one["uid"])
                assert service.is_stale(one["artifact_id"], collection_id=one["collection_id"])
            assert service.stale_count("default") == stale
        told = {one["id"]: one["stale_count"] for one in client.get(f"{API}/").json["collections"]}
        assert told["quick"] + told["slow"] == told["default"] == stale
        listed = states(client, "default")
        assert sum(state == "stale" for state in listed.values()) == stale
        stats = client.get(f"{API}/cache-stats").json
        assert stats["stale_count"] == stale
        assert gauge(client, "artifact_cache_stale_artifacts") == stale
        for one in stats["collections"]:
            assert on_page(client, one["id"]) == one["stale_count"] == told[one["id"]]
        narrowed = client.get(f"{API}/default/artifacts?state=stale&limit=1").json
        assert narrowed["page_info"]["total_count"] == stale
        for query in ("", "?type=skill"):
            facet = client.get(f"{API}/default/facets{query}").json["facets"]["state"]
            assert {one["value"]: one["count"] for one in facet}.get("stale", 0) == stale


def test_another_ttl_may_be_asked_about(serving, clock):
    clock.pass_(seconds=50)
    with serving.app_context():
        service = service_of(serving)
        assert not service.is_stale("skill:pdf")
        assert service.is_stale("skill:pdf", ttl_minutes=0.5)
        assert len(service.find_stale(ttl_minutes=0.5, limit=4)) == 4
        assert service.find_stale() == []


def test_what_is_not_there_or_not_alone_is_said(serving, sample):
    sample.write("more/skills/pdf/SKILL.md", "---\nname: pdf\ndescription: Another.\n---\n")
    with serving.app_context():
        service = service_of(serving)
        service.populate("work")
        with pytest.raises(NotFoundError):
            service.is_stale("skill:none")
        with pytest.raises(AmbiguousIdError):
            service.is_stale("skill:pdf")
        with pytest.raises(NotFoundError):
            service.stale_count("none")


def test_the_longest_not_verified_is_found_first(serving, sample, clock):
    clock.pass_(seconds=20)
    with serving.app_context():
        service = service_of(serving)
        service.sync_artifact("skill:csv")
        clock.pass_(seconds=45)
        found = service.find_stale()
    assert len(found) == 5
    assert "skill:csv" not in [one["artifact_id"] for one in found]


# --- stale while revalidate ----------------------------------------------------------------------


def test_what_is_stale_is_served_at_once_and_refreshed(serving, clock, idle):
    client = serving.test_client()
    clock.pass_(seconds=61)

    first = client.get(LIST).json
    assert {item["state"] for item in first["items"]} == {"stale"}
    idle(serving)

    assert {item["state"] for item in client.get(LIST).json["items"]} == {"fresh"}
    with serving.app_context():
        assert service_of(serving).stale_count() == 0
    assert triggers(serving) == ["populate", "stale"]


@pytest.mark.parametrize("path", [LIST, f"{LIST}/skill:pdf", f"{API}/work/facets"])
def test_every_read_that_shows_it_starts_it(serving, clock, idle, path):
    client = serving.test_client()
    client.get(path)
    idle(serving)
    assert triggers(serving) == ["populate"]

    clock.pass_(seconds=61)
    for _ in range(5):
        assert client.get(path).status_code == 200
    idle(serving)

    assert triggers(serving) == ["populate", "stale"]


def test_what_is_served_from_memory_starts_it_too(serving, clock, idle):
    """The first to see it may have been unlucky."""
    client = serving.test_client()
    service = service_of(serving)
    clock.pass_(seconds=61)
    assert service._cool_down.begin("work")  # somebody who fails
    client.get(LIST)
    idle(serving)
    assert triggers(serving) == ["populate"]

    service._cool_down.succeed("work")
    service._cool_down.clock = lambda: 10.0**9
    assert client.get(LIST).json["items"][0]["state"] == "stale"
    idle(serving)
    assert triggers(serving) == ["populate", "stale"]


def test_a_failure_cools_down(serving, sample, clock, idle, caplog):
    client = serving.test_client()
    shutil.move(sample.root, sample.root.with_name("away"))
    clock.pass_(seconds=61)

    for _ in range(10):
        assert client.get(f"{LIST}?limit=5").status_code == 200
        idle(serving)

    assert triggers(serving) == ["populate", "stale"]
    assert "the refresh of 'work' (stale) failed" in caplog.text


def test_what_settles_nothing_cools_down_as_a_failure(serving, sample, clock, idle):
    """As an empty mount point: nobody believes it, and a second look tells the same."""
    client = serving.test_client()
    cool_down = service_of(serving)._cool_down
    cool_down.clock, cool_down.chance = lambda: clock().timestamp(), lambda: 0.5
    for child in sample.root.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    clock.pass_(seconds=61)

    for _ in range(10):
        assert client.get(LIST).status_code == 200
        idle(serving)
        clock.pass_(seconds=5.9)

    assert triggers(serving) == ["populate", "stale"]


class Elsewhere:
    """A background whose tasks another process takes, sooner or later."""

    def __init__(self):
        self.tasks = []

    def submit(self, make, *, gather=None):
        self.tasks.append(Task.from_dict(make().as_dict()))


def test_what_another_process_has_refreshed_cools_down_as_after_a_success(
    make_app, sqlite_url, sample, clock, populate
):
    """With a TTL of ten seconds, half a minute of waiting would be three times that."""
    roots = {"work": {"path": sample.root, "ttl_minutes": 1 / 6}}
    web, worker = (make_app(sqlite_url, roots, clock=clock) for _ in range(2))
    service = service_of(web)
    service.background = elsewhere = Elsewhere()
    service._cool_down.clock, service._cool_down.chance = lambda: clock().timestamp(), lambda: 0.5
    populate(web)
    client = web.test_client()

    def begun_after(seconds):
        clock.pass_(seconds=seconds)
        assert client.get(LIST).status_code == 200
        begun, elsewhere.tasks = elsewhere.tasks, []
        return begun

    def do(tasks):
        with worker.app_context():
            for task in tasks:
                service_of(worker).perform(task)

    for _ in range(3):
        begun = begun_after(11)
        assert len(begun) == 1
        do(begun)
        assert set(states(client).values()) == {"fresh"}
    begun = begun_after(11)
    assert len(begun) == 1  # which nobody does, so it is waited for
    assert [begun_after(15) for _ in range(3)] == [[], [], []]
    assert len(begun_after(15)) == 1
    assert triggers(web) == ["populate", "stale", "stale", "stale"]


@pytest.fixture
def gathering(make_app, sqlite_url, tmp_path, clock, populate):
    """Collections 'work' and 'other', which 'default' gathers, with a TTL of a minute.

    'default' has no folder of its own, and 'gone' is not configured any more.
    """
    folders = {one: CollectionFolder(tmp_path / one) for one in ("work", "other", "gone")}
    for one, folder in folders.items():
        folder.skill(f"of-{one}")
    roots = {one: folder.root for one, folder in folders.items()}
    before = make_app(sqlite_url, roots, clock=clock)
    for one in roots:
        populate(before, one)
    del roots["gone"]
    app = make_app(
        sqlite_url,
        roots,
        clock=clock,
        create=False,
        ARTIFACT_CACHE_BACKGROUND="thread",
        ARTIFACT_CACHE_TTL_MINUTES=1,
    )
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        collections = service_of(app).collections
        migrate_artifacts_to_default_collection(
            session(), collections.artifacts("work"), collections
        )
        session.execute(sa.update(Collection).values(verified_at=clock()))
        session.execute(
            sa.update(Collection).where(Collection.id == "default").values(verified_at=None)
        )
        session.execute(sa.update(Artifact).values(synced_at=clock()))
        session.execute(sa.delete(RefreshRun))
        session.commit()
    cool_down = service_of(app)._cool_down
    cool_down.clock, cool_down.chance = lambda: clock().timestamp(), lambda: 0.5
    app.folders = folders
    return app


def test_what_is_gathered_and_stale_is_refreshed_where_it_comes_from(
    gathering, clock, idle, caplog
):
    """Again and again, though one of the collections never is."""
    client = gathering.test_client()
    for number in range(1, 4):
        clock.pass_(seconds=61)
        assert set(states(client, "default").values()) == {"stale"}
        idle(gathering)

        told = states(client, "default")
        idle(gathering)
        assert told == {
            "skill:of-work": "fresh",
            "skill:of-other": "fresh",
            "skill:of-gone": "stale",
        }
        assert triggers(gathering) == ["stale"] * 2 * number
    assert [one.message for one in caplog.records if one.levelname == "WARNING"] == []


def test_a_folder_that_is_away_keeps_no_other_one_stale(gathering, clock, idle):
    client = gathering.test_client()
    shutil.move(gathering.folders["other"].root, gathering.folders["other"].root.with_name("away"))
    for _ in range(3):
        clock.pass_(seconds=61)
        states(client, "default")
        idle(gathering)
        told = states(client, "default")
        assert (told["skill:of-work"], told["skill:of-other"]) == ("fresh", "stale")


def test_a_miss_where_others_are_gathered_looks_at_each_of_them(gathering, clock, idle):
    client = gathering.test_client()
    clock.pass_(seconds=10)
    gathering.folders["other"].skill("late")

    assert client.get(f"{API}/default/artifacts/skill:late").status_code == 404
    idle(gathering)

    assert client.get(f"{API}/default/artifacts/skill:late").status_code == 200
    assert triggers(gathering) == ["miss", "miss"]


def test_of_what_is_gathered_only_what_was_invalidated_is_looked_at(gathering, clock, idle):
    client = gathering.test_client()
    clock.pass_(seconds=10)
    with gathering.app_context():
        service_of(gathering).invalidate("work")

    assert states(client, "default")["skill:of-work"] == "stale"
    idle(gathering)

    assert set(states(client, "default").values()) == {"fresh"}
    assert triggers(gathering) == ["stale"]


def test_a_run_that_waits_long_for_its_turn_is_not_taken_for_dead(make_app, database_url, sample):
    app = make_app(database_url, {"work": sample.root})
    service = service_of(app)
    service.background = elsewhere = Elsewhere()

    def wait(minutes):
        earlier = RefreshRun.alive_until_ms - minutes * 60_000
        session = app.extensions["sqlalchemy"].session
        session.execute(sa.update(RefreshRun).values(alive_until_ms=earlier))
        session.commit()

    with app.app_context():
        first = service.start_refresh()
        assert service.start_refresh() == first
        wait(minutes=5)
        assert service.run(first)["outcome"] == "queued"

        # Whoever took its task may have died, so nobody else relies on it.
        second = service.start_refresh()
        assert second != first
        for task in elsewhere.tasks:
            service.perform(task)
        assert [service.run(one)["outcome"] for one in (first, second)] == ["succeeded"] * 2

        third = service.start_refresh()
        wait(minutes=61)
        assert service.run(third)["outcome"] == "failed"


def test_a_miss_starts_one_refresh_whoever_asks_for_what(serving, sample, idle):
    client = serving.test_client()
    sample.skill("late")

    assert client.get(f"{LIST}/skill:late").status_code == 404
    idle(serving)
    assert client.get(f"{LIST}/skill:late").status_code == 200
    for number in range(20):
        assert client.get(f"{LIST}/skill:none-{number}").status_code == 404
    idle(serving)

    assert triggers(serving) == ["miss", "populate"]


def test_what_was_not_read_yet_is_read_when_it_is_asked_for(
    make_app, sqlite_url, sample, clock, idle
):
    app = make_app(
        sqlite_url, {"work": sample.root}, clock=clock, ARTIFACT_CACHE_BACKGROUND="thread"
    )
    client = app.test_client()

    answer = client.get(LIST)
    assert (answer.status_code, answer.json["code"]) == (503, "not_populated")
    idle(app)

    assert client.get(LIST).json["page_info"]["total_count"] == 6
    assert triggers(app) == ["cold"]


def test_without_a_background_nothing_is_started(app, client, clock):
    clock.pass_(minutes=31)
    client.get(LIST)
    client.get(f"{LIST}/skill:none")

    assert set(states(client).values()) == {"stale"}
    assert triggers(app) == ["populate"]


def ages(client, clock):
    """How old each artifact is, and what is said of it."""
    for item in client.get(LIST).json["items"]:
        synced_at = datetime.fromisoformat(item["synced_at"].replace("Z", "+00:00"))
        yield clock() - synced_at, item["state"]


def test_staleness_is_bounded_and_said_without_daemon_and_events(serving, clock, idle):
    """Whoever reads: what is older than the TTL says so, and is fresh for who reads after that."""
    client = serving.test_client()
    service_of(serving)._cool_down.clock = lambda: clock().timestamp()
    was_stale = 0
    for _ in range(20):
        clock.pass_(seconds=17)
        told = list(ages(client, clock))
        assert {state for _, state in told} in ({"fresh"}, {"stale"})
        assert all((state == "fresh") == (age < MINUTE) for age, state in told)
        was_stale += told[0][1] == "stale"
        idle(serving)
        assert all((state, age < MINUTE) == ("fresh", True) for age, state in ages(client, clock))
    assert was_stale == 20 * 17 // 68  # each time that a minute had passed


def test_no_row_is_older_than_the_ttl_and_an_interval_of_who_refreshes_what_is_due(
    serving, clock, idle
):
    """As Celery's beat has it, though nobody reads."""
    interval = timedelta(seconds=25)
    service = service_of(serving)
    oldest = timedelta(0)
    for _ in range(20):
        clock.pass_(seconds=interval.total_seconds())
        with serving.app_context():
            age = timedelta(seconds=service.stats().as_dict()["oldest_sync_age_seconds"])
            assert age < MINUTE + interval
            oldest = max(oldest, age)
            for one, since in service.due().items():
                service.submit(Task(Selection(one), "schedule", unless_since=since))
            idle(serving)
            assert service.stale_count() == 0
    assert oldest > MINUTE


def test_what_is_due_is_known(serving, clock):
    with serving.app_context():
        service = service_of(serving)
        assert service.due() == {}
        clock.pass_(seconds=60)
        assert service.due() == {"work": clock() - MINUTE}


def test_unaffected_rows_keep_their_time(serving, sample, clock):
    with serving.app_context():
        service = service_of(serving)
        session = app_session(serving)
        before = dict(session.execute(sa.select(Artifact.path, Artifact.synced_at)).all())
        clock.pass_(seconds=10)
        sample.skill("pdf", "Edited.")
        service.sync_artifact("skill:pdf")
        after = dict(session.execute(sa.select(Artifact.path, Artifact.synced_at)).all())
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {"skills/pdf/SKILL.md"}


def app_session(app):
    return app.extensions["sqlalchemy"].session
