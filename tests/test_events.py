"""What is said to have changed is stale, and is read again; what has changed is said."""

from __future__ import annotations

import json
import logging
import threading

import pytest
import sqlalchemy as sa

from flask_artifact_cache import signals
from flask_artifact_cache.models import Artifact, RefreshRun
from flask_artifact_cache.refresh import lease as leases
from flask_artifact_cache.refresh.transactions import on_engine

API = "/api/v1/user-collections"
MANIFEST = """
[collection]
name = "work"
version = "1.0.0"
created = "2026-01-01T00:00:00"
updated = "2026-01-01T00:00:00"

[[artifacts]]
name = "pdf"
type = "skill"
path = "skills/pdf"
origin = "github"
added = "2026-01-01T00:00:00"
resolved_sha = "{sha}"

[[artifacts]]
name = "csv"
type = "skill"
path = "skills/csv"
origin = "local"
added = "2026-01-01T00:00:00"
tags = [{tags}]
"""

LOCK = """
[lock]
version = "1.0.0"

[lock.entries."pdf::skill"]
content_hash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
fetched = "2026-01-01T00:00:00"
resolved_version = "{version}"
"""


@pytest.fixture
def serving(make_app, sqlite_url, sample, clock, populate):
    app = make_app(
        sqlite_url, {"work": sample.root}, clock=clock, ARTIFACT_CACHE_BACKGROUND="thread"
    )
    populate(app)
    return app


@pytest.fixture
def heard():
    """Everything that the signals tell."""
    told = []
    receivers = []

    def listen(name):
        def receive(sender, **data):
            told.append((name, sender, data))

        receivers.append(receive)
        getattr(signals, name).connect(receive)

    for name in (
        *("artifact_added", "artifact_updated", "artifact_removed", "version_changed"),
        "refresh_finished",
    ):
        listen(name)
    yield told
    receivers.clear()


def rows(app, *columns):
    with app.app_context():
        return app.extensions["sqlalchemy"].session.execute(sa.select(*columns)).all()


def synced(app):
    return dict(rows(app, Artifact.path, Artifact.synced_at))


def triggers(app):
    return sorted(row[0] for row in rows(app, RefreshRun.trigger))


def says(app, signal, **data):
    with app.app_context():
        signals.announce(signal, object(), collection_id="work", **data)


@pytest.mark.parametrize(
    "signal",
    [signals.artifact_added, signals.artifact_updated, signals.version_changed],
    ids=lambda signal: signal.name,
)
@pytest.mark.parametrize("by", [{"path": "skills/pdf/SKILL.md"}, {"artifact_id": "skill:pdf"}])
def test_what_is_said_of_an_artifact_refreshes_that_one(serving, sample, clock, idle, signal, by):
    before = synced(serving)
    sample.skill("pdf", "Edited.")
    clock.pass_(seconds=10)

    says(serving, signal, **by)
    idle(serving)

    after = synced(serving)
    assert {path for path in after if after[path] != before[path]} == {"skills/pdf/SKILL.md"}
    told = serving.test_client().get(f"{API}/work/artifacts/skill:pdf").json
    assert (told["description"], told["state"]) == ("Edited.", "fresh")
    assert triggers(serving) == ["event", "populate"]


def test_a_new_artifact_and_one_that_has_gone_are_followed(serving, sample, idle):
    sample.skill("late")
    says(serving, signals.artifact_added, path="skills/late/SKILL.md", artifact_id="skill:late")
    idle(serving)
    sample.remove("skills/csv/SKILL.md")
    says(serving, signals.artifact_removed, path="skills/csv/SKILL.md")
    idle(serving)

    client = serving.test_client()
    assert client.get(f"{API}/work/artifacts/skill:late").status_code == 200
    assert client.get(f"{API}/work/artifacts/skill:csv").status_code == 404


def updated_anywhere(sample):
    sample.skill("pdf", "Edited.")
    return signals.collection_updated, {}, {"skills/pdf/SKILL.md"}


def artifact_added(sample):
    path = "skills/late/SKILL.md"
    sample.skill("late")
    return signals.artifact_added, {"path": path, "artifact_id": "skill:late"}, {path}


def version_changed_in_the_lock(sample):
    sample.write("collection.lock", LOCK.format(version="2.0.0"))
    return signals.collection_updated, {"paths": ["collection.lock"]}, {"skills/pdf/SKILL.md"}


def version_changed_by_name(sample):
    sample.write("collection.lock", LOCK.format(version="2.0.0"))
    return signals.version_changed, {"artifact_id": "skill:pdf"}, {"skills/pdf/SKILL.md"}


def manifest_edited(sample):
    sample.write("collection.toml", MANIFEST.format(sha="b" * 40, tags='"old"'))
    return signals.collection_updated, {"paths": ["collection.toml"]}, {"skills/pdf/SKILL.md"}


def tags_edited_in_the_manifest(sample):
    sample.write("collection.toml", MANIFEST.format(sha="a" * 40, tags='"new"'))
    return signals.collection_updated, {"paths": ["collection.toml"]}, {"skills/csv/SKILL.md"}


@pytest.mark.parametrize(
    "change",
    [
        updated_anywhere,
        artifact_added,
        version_changed_in_the_lock,
        version_changed_by_name,
        manifest_edited,
        tags_edited_in_the_manifest,
    ],
    ids=lambda change: change.__name__,
)
def test_each_trigger_refreshes_the_affected_rows_and_the_others_keep_their_time(
    serving, sample, clock, idle, populate, change
):
    sample.write("collection.toml", MANIFEST.format(sha="a" * 40, tags='"old"'))
    sample.write("collection.lock", LOCK.format(version="1.0.0"))
    populate(serving)
    was = synced(serving), dict(rows(serving, Artifact.path, Artifact.updated_at))
    clock.pass_(seconds=10)

    signal, told, affected = change(sample)
    says(serving, signal, **told)
    idle(serving)

    now = synced(serving), dict(rows(serving, Artifact.path, Artifact.updated_at))
    for before, after in zip(was, now, strict=True):
        assert {path for path in after if after[path] != before.get(path)} == affected
    assert triggers(serving) == ["event", "populate", "populate"]


def test_what_the_manifest_and_the_lock_say_now_is_served(serving, sample, idle, populate):
    sample.write("collection.toml", MANIFEST.format(sha="a" * 40, tags='"old"'))
    sample.write("collection.lock", LOCK.format(version="1.0.0"))
    populate(serving)

    for change in (version_changed_in_the_lock, tags_edited_in_the_manifest):
        signal, told, _ = change(sample)
        says(serving, signal, **told)
        idle(serving)

    client = serving.test_client()
    pdf = client.get(f"{API}/work/artifacts/skill:pdf").json
    assert (pdf["resolved_version"], pdf["state"]) == ("2.0.0", "fresh")
    assert "new" in client.get(f"{API}/work/artifacts/skill:csv").json["tags"]


def test_a_storm_becomes_one_refresh_and_one_more_for_what_comes_meanwhile(serving, sample, idle):
    begun, go = threading.Event(), threading.Event()
    service = serving.extensions["artifact_cache"].service
    perform = service.perform

    def slowly(task):
        begun.set()
        go.wait(10)
        perform(task)

    service.perform = slowly
    sample.skill("pdf", "Edited.")
    says(serving, signals.artifact_updated, path="skills/pdf/SKILL.md")
    assert begun.wait(10)
    for number in range(500):
        sample.skill(f"new-{number}")
        says(serving, signals.artifact_added, path=f"skills/new-{number}/SKILL.md")
    go.set()
    idle(serving)

    assert triggers(serving).count("event") == 2
    assert len(synced(serving)) == 506


def test_without_a_background_it_is_stale_until_somebody_refreshes(app, client, sample):
    says(app, signals.artifact_updated, path="skills/pdf/SKILL.md")

    told = {one["id"]: one["state"] for one in client.get(f"{API}/work/artifacts").json["items"]}
    assert told.pop("skill:pdf") == "stale"
    assert set(told.values()) == {"fresh"}


@pytest.mark.parametrize(
    ("signal", "told", "stale"),
    [
        (signals.collection_updated, {}, {"skill:pdf", "skill:csv", "mcp:github", "mcp:files"}),
        (
            signals.collection_updated,
            {"paths": ["collection.toml"]},
            {"skill:pdf", "skill:csv", "mcp:github", "mcp:files"},
        ),
        (
            signals.collection_updated,
            {"paths": ["unheard-of/plugin.json"]},
            {"skill:pdf", "skill:csv", "mcp:github", "mcp:files"},
        ),
        (
            signals.artifact_updated,
            {"artifact_id": "mcp:github", "path": ".mcp.json#github"},
            {"mcp:github", "mcp:files"},  # one file
        ),
        (signals.collection_updated, {"paths": ["skills/pdf/data.json"]}, {"skill:pdf"}),
        (signals.artifact_added, {"path": "skills/late/SKILL.md"}, set()),
    ],
    ids=["anything", "the manifest", "who knows", "a server", "a file of a skill", "a new one"],
)
def test_without_a_background_all_that_may_be_affected_is_stale(
    make_app, sqlite_url, collection, clock, populate, signal, told, stale
):
    collection.skill("pdf")
    collection.skill("csv")
    server = {"command": "server"}
    collection.write(".mcp.json", json.dumps({"mcpServers": {"github": server, "files": server}}))
    app = make_app(sqlite_url, {"work": collection.root}, clock=clock)
    populate(app)

    says(app, signal, **told)

    listed = app.test_client().get(f"{API}/work/artifacts").json["items"]
    assert len(listed) == 4
    assert {one["id"] for one in listed if one["state"] == "stale"} == stale


@pytest.mark.parametrize("path", ["skills/pdf/SKILL.md", "collection.toml"])
def test_what_gave_way_to_another_refresh_is_tried_again(
    serving, sample, idle, monkeypatch, caplog, path
):
    """The other one may have looked before the change, and hold the lease longer than is waited."""
    monkeypatch.setattr("flask_artifact_cache.service.BACKGROUND_WAIT_S", 0.05)
    gave_way = threading.Event()

    class Watch(logging.Handler):
        def emit(self, record):
            if "is being refreshed by another process" in record.getMessage():
                gave_way.set()

    watch = Watch()
    logger = logging.getLogger("flask_artifact_cache")
    caplog.set_level(logging.INFO, logger.name)
    logger.addHandler(watch)
    with serving.app_context():
        transactions = on_engine(serving.extensions["sqlalchemy"].engine)
    with transactions.write() as connection:
        lease = leases.acquire(connection, "work")
    try:
        sample.skill("pdf", "Edited.")
        says(serving, signals.collection_updated, paths=[path])
        assert gave_way.wait(10)
    finally:
        with transactions.write() as connection:
            lease.release(connection)
        logger.removeHandler(watch)
    idle(serving)

    told = serving.test_client().get(f"{API}/work/artifacts/skill:pdf").json
    assert (told["description"], told["state"]) == ("Edited.", "fresh")


def test_a_signal_is_for_the_app_it_is_sent_in(make_app, sample, tmp_path, clock, populate, idle):
    apps = []
    for number in range(2):
        url = f"sqlite:///{tmp_path / str(number)}.db"
        apps.append(
            make_app(url, {"work": sample.root}, clock=clock, ARTIFACT_CACHE_BACKGROUND="thread")
        )
        populate(apps[-1])

    says(apps[0], signals.artifact_updated, path="skills/pdf/SKILL.md")
    for app in apps:
        idle(app)
    assert [triggers(app) for app in apps] == [["event", "populate"], ["populate"]]

    # Outside of any, it is for all that have the collection.
    path = "skills/csv/SKILL.md"
    signals.announce(signals.artifact_updated, object(), collection_id="work", path=path)
    signals.announce(signals.artifact_updated, object(), collection_id="other", path=path)
    for app in apps:
        idle(app)
    assert [len(triggers(app)) for app in apps] == [3, 2]


def test_a_refresh_tells_what_it_has_changed(serving, sample, heard, populate):
    service = serving.extensions["artifact_cache"].service
    sample.skill("late")
    sample.skill("pdf", "Edited.")
    sample.skill("charts", "Draws charts of tables.", tags="[data]", version="3.0")
    sample.remove("skills/csv/SKILL.md")
    populate(serving, force=False)

    assert {sender for _, sender, _ in heard} == {service}
    told = {(name, data["artifact_id"]) for name, _, data in heard if "artifact_id" in data}
    assert told == {
        ("artifact_added", "skill:late"),
        ("artifact_updated", "skill:pdf"),
        ("artifact_updated", "skill:charts"),
        ("version_changed", "skill:charts"),
        ("artifact_removed", "skill:csv"),
    }
    assert {data["path"] for _, _, data in heard if data.get("artifact_id") == "skill:late"} == {
        "skills/late/SKILL.md"
    }
    [finished] = [data["report"] for name, _, data in heard if name == "refresh_finished"]
    assert (finished.created, finished.updated, finished.removed) == (1, 2, 1)
    # And does not take its own word for news.
    assert triggers(serving) == ["populate", "populate"]


def test_nothing_is_listed_for_nobody(serving, sample, populate):
    sample.skill("late")

    assert populate(serving).changes == []


@pytest.mark.parametrize(
    "name", ["artifact_added", "artifact_updated", "artifact_removed", "refresh_finished"]
)
def test_a_receiver_that_raises_breaks_nothing(serving, sample, populate, caplog, name):
    def fail(sender, **data):
        raise RuntimeError("of the host")

    getattr(signals, name).connect(fail)
    sample.skill("late")
    sample.skill("pdf", "Edited.")
    sample.remove("skills/csv/SKILL.md")
    report = populate(serving)

    assert (report.outcome, report.created, report.updated, report.removed) == (
        *("succeeded", 1, 1),
        1,
    )
    assert "of the host" in caplog.text
    assert len(synced(serving)) == 6


def test_a_signal_from_a_receiver_of_ours_leaves_the_hosts_session_alone(serving, sample, idle):
    with serving.app_context():
        session = serving.extensions["sqlalchemy"].session()
        session.execute(sa.text("CREATE TABLE host (id INTEGER)"))
        session.rollback()
        session.execute(sa.select(Artifact.id)).all()
        signals.announce(
            signals.artifact_updated, object(), collection_id="work", path="skills/pdf/SKILL.md"
        )
        assert session.in_transaction()
    idle(serving)
