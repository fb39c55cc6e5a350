"""The metrics are those of the contract, cost nothing at import, and agree with everything else."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import flask_artifact_cache
from flask_artifact_cache import (
    ArtifactManager,
    CollectionManager,
    migrate_artifacts_to_default_collection,
)
from flask_artifact_cache.errors import BusyError, ConfigurationError, RootUnavailableError
from flask_artifact_cache.metrics import (
    CODES,
    CONTENT_TYPE,
    GUARDS,
    OTHER,
    OUTCOMES,
    SCOPES,
    TRIGGERS,
    UPSTREAM_OUTCOMES,
    Counters,
)
from flask_artifact_cache.models import Artifact, Collection
from flask_artifact_cache.refresh.report import Report
from flask_artifact_cache.refresh.run import Order
from flask_artifact_cache.refresh.selection import Selection

from .monitoring import promtool

API = "/api/v1/user-collections"
LIST = f"{API}/work/artifacts"

# Dashboards and alerts of others depend on these: a change here is a breaking one.
SNAPSHOT = {
    "artifact_cache_artifacts": ("gauge", {"collection", "state"}),
    "artifact_cache_guard_trips": ("counter", {"guard"}),
    "artifact_cache_hits": ("counter", set()),
    "artifact_cache_last_refresh_timestamp_seconds": ("gauge", {"collection"}),
    "artifact_cache_misses": ("counter", set()),
    "artifact_cache_oldest_sync_age_seconds": ("gauge", set()),
    "artifact_cache_problems": ("gauge", {"collection", "severity"}),
    "artifact_cache_refresh_duration_seconds": ("histogram", {"scope"}),
    "artifact_cache_refreshes": ("counter", {"trigger", "outcome"}),
    "artifact_cache_stale_artifacts": ("gauge", set()),
    "artifact_cache_sync_errors": ("counter", {"code"}),
    "artifact_cache_up": ("gauge", set()),
    "artifact_cache_upstream_requests": ("counter", {"outcome"}),
}
# How many series there are beside those of collections, if every one of them is there.
MOST_SERIES = (
    len(["stale", "oldest", "up", "hits", "misses"])
    + len(GUARDS)
    + len(UPSTREAM_OUTCOMES) + 1
    + (len(TRIGGERS) + 1) * (len(OUTCOMES) + 1)
    + len(CODES) + 1
    + len(SCOPES) * 15
)  # fmt: skip


def service_of(app):
    return app.extensions["artifact_cache"].service


def parsed(text):
    return list(text_string_to_metric_families(text))


def values(text):
    """``name -> value``, and ``(name, label values, sorted by label) -> value``."""
    found = {}
    for family in parsed(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found[(sample.name, *labels) if labels else sample.name] = sample.value
    return found


def scrape(client):
    response = client.get(f"{API}/metrics")
    assert response.status_code == 200
    return values(response.text)


def moved(client, act):
    """What ``act`` changes in the counters, without times."""
    before = scrape(client)
    act()
    after = scrape(client)
    return {
        key: after[key] - before.get(key, 0)
        for key in after
        if after[key] != before.get(key, 0)
        and re.search("_(total|count)$", key if isinstance(key, str) else key[0])
    }


# --- what there is -------------------------------------------------------------------------------


def test_the_names_types_and_labels_are_frozen(app, client, sample, populate):
    sample.write("skills/broken/SKILL.md", "---\n- a\n- b\n---\n")
    populate(app)

    families = parsed(client.get(f"{API}/metrics").text)

    def labels(family):
        return {label for one in family.samples for label in one.labels} - {"le"}

    assert {one.name: (one.type, labels(one)) for one in families} == SNAPSHOT


def test_promtool_finds_nothing_to_say(app, client):
    client.get(LIST)
    text = client.get(f"{API}/metrics").text

    done = promtool("check", "metrics", input=text)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_is_of_the_type_that_prometheus_asks_for(client):
    response = client.get(f"{API}/metrics", headers={"Accept": "application/openmetrics-text"})

    assert response.content_type == CONTENT_TYPE
    assert response.headers["Cache-Control"] == "no-store"
    assert "ETag" not in response.headers


def test_no_host_has_metrics_at_its_root_unasked(app, client):
    assert client.get("/metrics").status_code == 404
    assert [one.rule for one in app.url_map.iter_rules() if "metrics" in one.rule] == [
        f"{API}/metrics"
    ]


def test_a_host_may_close_them(make_app, sqlite_url, sample):
    asked = []

    def authorize(permission, collection_id):
        asked.append((permission, collection_id))
        return False

    client = make_app(sqlite_url, {"work": sample.root}, authorize=authorize).test_client()

    assert client.get(f"{API}/metrics").status_code == 403
    assert client.get(f"{API}/cache-stats").status_code == 403
    assert asked == [("read", None)] * 2
    # A load balancer has no session.
    assert client.get(f"{API}/healthz").json["code"] == "not_ready"


# --- hits and misses -----------------------------------------------------------------------------


def test_what_is_served_from_the_cache_is_a_hit(client):
    def act():
        tag = client.get(LIST).headers["ETag"]
        client.get(LIST)
        assert client.get(LIST, headers={"If-None-Match": tag}).status_code == 304
        client.get(f"{LIST}/skill:pdf")
        client.get(f"{API}/work/facets")

    assert moved(client, act) == {"artifact_cache_hits_total": 5}


def test_what_is_not_in_the_cache_is_a_miss(app, client, make_app, tmp_path, sample):
    def act():
        assert client.get(f"{LIST}/skill:nope").status_code == 404

    assert moved(client, act) == {"artifact_cache_misses_total": 1}

    other = make_app(f"sqlite:///{tmp_path}/other.db", {"work": sample.root}).test_client()

    def early():
        assert other.get(LIST).status_code == 503

    assert moved(other, early) == {"artifact_cache_misses_total": 1}


def test_a_mistake_of_who_asks_is_neither(client):
    def act():
        assert client.get(f"{API}/nope/artifacts").status_code == 404
        assert client.get(f"{LIST}?limit=x").status_code == 400
        assert client.get(f"{LIST}?after=x").status_code == 400

    assert moved(client, act) == {}


def test_the_hit_rate_is_of_these(client):
    assert client.get(f"{API}/cache-stats").json["hit_rate"] is None
    for _ in range(3):
        client.get(LIST)
    client.get(f"{LIST}/skill:nope")

    told = client.get(f"{API}/cache-stats").json

    assert (told["hits"], told["misses"], told["hit_rate"]) == (3, 1, 0.75)
    assert told["counted_in"] == "this process"


# --- refreshes -----------------------------------------------------------------------------------


def refreshed(trigger, outcome, scope="collection", number=1):
    # Labels sorted by name: outcome, trigger.
    return {
        ("artifact_cache_refreshes_total", outcome, trigger): number,
        ("artifact_cache_refresh_duration_seconds_count", scope): number,
    }


def test_each_refresh_is_counted_once_by_what_started_it(app, client, sample):
    with app.app_context():
        service = service_of(app)
        assert moved(client, lambda: service.populate("work")) == refreshed("populate", "succeeded")
        assert moved(client, service.refresh) == refreshed("refresh", "succeeded")
        assert moved(client, lambda: service.sync_artifact("skill:pdf", trigger="api")) == (
            refreshed("api", "succeeded", "artifacts")
        )
        paths = Selection("work", paths=("skills/pdf/SKILL.md",))
        assert moved(client, lambda: service.refresh(paths, trigger="daemon")) == (
            refreshed("daemon", "succeeded", "paths")
        )
        assert moved(client, lambda: service.refresh(dry_run=True)) == {}


def test_a_refresh_in_the_background_is_counted_where_it_is_done(
    make_app, sqlite_url, sample, idle
):
    app = make_app(sqlite_url, {"work": sample.root}, ARTIFACT_CACHE_BACKGROUND="thread")
    client = app.test_client()
    with app.app_context():
        refresh_id = service_of(app).start_refresh()
    idle(app)
    assert scrape(client)[("artifact_cache_refreshes_total", "succeeded", "refresh")] == 1
    assert client.get(f"{API}/refreshes/{refresh_id}").json["outcome"] == "succeeded"


def test_errors_are_counted_by_their_codes(app, client, sample, populate):
    sample.write("skills/broken/SKILL.md", "---\n- a\n- b\n---\n")
    sample.write("skills/broken-too/SKILL.md", "---\n- a\n- b\n---\n")

    assert moved(client, lambda: populate(app)) == {
        **refreshed("populate", "partial"),
        ("artifact_cache_sync_errors_total", "E_NOT_A_MAPPING"): 2,
    }


def test_a_root_that_is_gone_is_a_failure_and_a_guard_that_tripped(app, client, sample, populate):
    shutil.rmtree(sample.root)

    def act():
        with pytest.raises(RootUnavailableError):
            populate(app)

    assert moved(client, act) == {
        **refreshed("populate", "failed"),
        ("artifact_cache_sync_errors_total", "root_unavailable"): 1,
        ("artifact_cache_guard_trips_total", "root_unavailable"): 1,
    }


def test_the_brake_is_a_guard_that_tripped(app, client, collection, populate):
    for number in range(30):
        collection.skill(f"skill-{number}")
    populate(app)
    shutil.rmtree(collection.root / "skills")

    assert moved(client, lambda: populate(app)) == {
        **refreshed("populate", "needs_confirmation"),
        ("artifact_cache_guard_trips_total", "mass_loss"): 1,
    }


def test_who_gives_way_has_refreshed_nothing(app, client, populate):
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        session.execute(sa.update(Collection).values(lease_holder="somebody", lease_until_ms=2**52))
        session.commit()

    def act():
        with pytest.raises(BusyError):
            populate(app)

    assert moved(client, act) == {}


def test_a_refresh_that_the_database_ends_has_failed(app, client, sample, populate):
    sample.skill("new")
    with app.app_context():
        engine = app.extensions["sqlalchemy"].engine

    def refuse(connection, cursor, statement, *_):
        if statement.startswith("INSERT INTO artifact_cache_artifact"):
            raise sa.exc.OperationalError(statement, {}, Exception("the disk is full"))

    def act():
        sa.event.listen(engine, "before_cursor_execute", refuse)
        with pytest.raises(sa.exc.OperationalError):
            populate(app)
        sa.event.remove(engine, "before_cursor_execute", refuse)

    assert moved(client, act) == {
        **refreshed("populate", "failed"),
        ("artifact_cache_sync_errors_total", "internal_error"): 1,
    }


def test_every_trigger_of_ours_is_known():
    package = Path(flask_artifact_cache.__file__).parent
    named = {
        name
        for file in package.rglob("*.py")
        for name in re.findall(
            r'\b(?:trigger|TRIGGER|DAEMON)(?:: str)? ?= ?"(\w+)"', file.read_text(encoding="utf-8")
        )
    }

    assert {"daemon", "cli", "populate", "startup"} <= named <= set(TRIGGERS)


def test_labels_take_no_value_from_outside():
    counters = Counters()
    for name in ("x" * 16, "; DROP TABLE", "../../etc"):
        report = Report("", "work", errors=[{"code": name}], outcome=name)
        counters.refreshed(Order(trigger=name), report)
        counters.asked_upstream(name)

    text = generate_latest(counters.registry).decode()

    assert "DROP" not in text
    assert values(text)[("artifact_cache_sync_errors_total", OTHER)] == 3
    assert values(text)[("artifact_cache_upstream_requests_total", OTHER)] == 3
    assert values(text)[("artifact_cache_refreshes_total", OTHER, OTHER)] == 3


# --- gauges --------------------------------------------------------------------------------------


@pytest.fixture
def two(make_app, tables_url, sample, tmp_path, clock, populate):
    """An app with two collections of all states, and another that was not read."""
    big = type(sample)(tmp_path / "big")
    for number in range(20):
        big.skill(f"skill-{number}")
    collections = {"big": big.root, "later": tmp_path / "later", "work": sample.root}
    app = make_app(tables_url, collections, clock=clock)
    populate(app, "big")
    sample.write("skills/broken/SKILL.md", "---\n- a\n- b\n---\n")
    populate(app)
    for number in range(15):
        shutil.rmtree(big.root / f"skills/skill-{number}")
    populate(app, "big")
    clock.pass_(minutes=20)
    with app.app_context():
        service_of(app).sync_artifact("skill:pdf")
        service_of(app).invalidate("work", ["skill:csv"])
    return app


def test_all_who_tell_the_numbers_tell_the_same(two, clock):
    client = two.test_client()
    for minutes in (0, 15):
        clock.pass_(minutes=minutes)
        stats = client.get(f"{API}/cache-stats").json
        gauges = scrape(client)
        status = two.test_cli_runner().invoke(args=["artifact-cache", "status", "--json"])

        assert gauges["artifact_cache_up"] == 1
        assert gauges["artifact_cache_stale_artifacts"] == stats["stale_count"]
        assert (
            gauges["artifact_cache_oldest_sync_age_seconds"]
            == (stats["oldest_sync_age_seconds"])
            == (20 + minutes) * 60
        )
        for state in ("fresh", "stale", "missing", "quarantined"):
            told = {
                key[1]: value
                for key, value in gauges.items()
                if key[0] == "artifact_cache_artifacts" and key[2] == state
            }
            assert sum(told.values()) == stats[f"{state}_count"]
            for one in stats["collections"]:
                assert told[one["id"]] == one["states"].get(state, 0)
            listed = sum(
                client.get(f"{API}/{one}/artifacts?state={state}").json["page_info"]["total_count"]
                for one in ("big", "work")
            )
            assert listed == stats[f"{state}_count"]
        told = json.loads(status.stdout)
        assert {**told, "collections": 0, "counted_in": 0} == {
            **stats,
            "collections": 0,
            "counted_in": 0,
        }
        for one, shown in zip(told["collections"], stats["collections"], strict=True):
            assert one.pop("problems") == []
            assert one == shown
    assert (stats["fresh_count"], stats["stale_count"]) == (1, 10)
    assert (stats["missing_count"], stats["quarantined_count"]) == (15, 1)


def test_a_collection_that_gathers_others_counts_no_artifact_twice(two):
    with two.app_context():
        session = two.extensions["sqlalchemy"].session
        manager = ArtifactManager(service_of(two).collections.artifacts("work").root)
        some = CollectionManager({"work": manager.root})
        migrate_artifacts_to_default_collection(session, manager, some)
        session.commit()
    client = two.test_client()
    stats = client.get(f"{API}/cache-stats").json

    assert stats["artifact_count"] == 27
    [gathering] = [one for one in stats["collections"] if one["id"] == "default"]
    assert gathering["artifact_count"] == 27
    total = sum(v for k, v in scrape(client).items() if k[0] == "artifact_cache_artifacts")
    assert total == 27


def statements(app, act):
    seen = []
    with app.app_context():
        engine = app.extensions["sqlalchemy"].engine

    def note(connection, cursor, statement, *_):
        seen.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    act()
    sa.event.remove(engine, "before_cursor_execute", note)
    return seen


def test_a_scrape_takes_four_statements_however_many_collections_there_are(two):
    client = two.test_client()
    client.get(f"{API}/metrics")

    assert len(statements(two, lambda: client.get(f"{API}/metrics"))) <= 4


def test_ten_thousand_artifacts_are_no_more_series(app, client):
    before = scrape(client)
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        table = Artifact.__table__
        row = dict(session.execute(sa.select(table).limit(1)).mappings().one())
        session.execute(
            sa.insert(table),
            [{**row, "id": 1000 + n, "uid": f"uid-{n}", "name": f"n-{n}"} for n in range(10_000)],
        )
        session.commit()

    after = scrape(client)

    assert after[("artifact_cache_artifacts", "work", "fresh")] == 10_006
    assert after.keys() == before.keys()
    assert len(after) <= MOST_SERIES + 4 + 2 + 1


def test_a_clock_that_is_ahead_gives_no_negative_age(app, client, clock):
    clock.pass_(hours=-1)

    assert scrape(client)["artifact_cache_oldest_sync_age_seconds"] == 0
    # What was verified in the future was verified by a clock that was wrong.
    assert scrape(client)["artifact_cache_stale_artifacts"] == 6


@pytest.mark.parametrize("raised", [sa.exc.OperationalError("", {}, Exception()), ValueError("x")])
def test_a_database_that_is_down_is_told_and_counters_still_are(app, client, raised, caplog):
    client.get(LIST)
    with app.app_context():
        engine = app.extensions["sqlalchemy"].engine

    def refuse(*_):
        raise raised

    sa.event.listen(engine, "before_cursor_execute", refuse)
    told = scrape(client)
    assert told["artifact_cache_up"] == 0
    assert told["artifact_cache_hits_total"] == 1
    assert "artifact_cache_stale_artifacts" not in told
    assert "the state of the cache cannot be told" in caplog.text
    sa.event.remove(engine, "before_cursor_execute", refuse)
    assert scrape(client)["artifact_cache_up"] == 1


def test_tables_that_are_missing_are_told(make_app, sqlite_url, sample):
    client = make_app(sqlite_url, {"work": sample.root}, create=False).test_client()

    assert scrape(client)["artifact_cache_up"] == 0


# --- readiness -----------------------------------------------------------------------------------


def test_an_app_that_can_serve_is_ready(client):
    response = client.get(f"{API}/healthz")

    assert (response.status_code, response.json) == (200, {"status": "ok", "collections": 1})


def not_ready(client):
    response = client.get(f"{API}/healthz")
    assert (response.status_code, response.json["code"]) == (503, "not_ready")
    assert int(response.headers["Retry-After"]) > 0
    [error] = response.json["errors"]
    return error["field"], error["message"]


def test_readiness_says_what_is_missing(make_app, sqlite_url, sample, populate):
    app = make_app(sqlite_url, {"work": sample.root}, create=False)
    client = app.test_client()

    part, message = not_ready(client)
    assert (part, "flask artifact-cache db upgrade" in message) == ("tables", True)
    with app.app_context():
        db = app.extensions["sqlalchemy"]
        db.create_all()
        assert not_ready(client) == ("collections", "no collection has been read yet")
        populate(app)
        assert client.get(f"{API}/healthz").status_code == 200
        update = sa.text("UPDATE artifact_cache_alembic_version SET version_num = '0000'")
        db.session.execute(update)
        db.session.commit()
    part, message = not_ready(client)
    assert (part, "at 0000, not at" in message) == ("tables", True)


def test_an_app_without_a_database_is_not_ready(make_app, sample):
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    url = "postgresql+psycopg://nobody@127.0.0.1:1/nowhere"
    client = make_app(url, {"work": sample.root}, create=False).test_client()

    assert not_ready(client) == ("database", "the database does not answer")


# --- registries ----------------------------------------------------------------------------------


def test_nothing_is_registered_at_import():
    code = (
        "import prometheus_client as p\n"
        "before = set(p.REGISTRY._names_to_collectors)\n"
        "import flask_artifact_cache.extension\n"
        "assert set(p.REGISTRY._names_to_collectors) == before\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    assert (
        subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
    )


def test_fifty_apps_in_one_process_each_have_their_own(make_app, tmp_path, sample, populate):
    apps = [
        make_app(f"sqlite:///{tmp_path}/{number}.db", {"work": sample.root}) for number in range(50)
    ]
    populate(apps[7])
    for _ in range(3):
        apps[7].test_client().get(LIST)

    told = [scrape(app.test_client()) for app in apps]

    assert [one["artifact_cache_hits_total"] for one in told] == [0] * 7 + [3] + [0] * 42
    assert {one[("artifact_cache_artifacts", "work", "fresh")] for one in (told[7],)} == {6}


def test_a_registry_of_the_hosts_tells_ours_and_keeps_its_own(
    make_app, sqlite_url, sample, populate
):
    registry = CollectorRegistry()
    requests = Counter("host_requests", "Its own.", registry=registry)
    requests.inc()
    app = make_app(sqlite_url, {"work": sample.root}, registry=registry)
    populate(app)
    client = app.test_client()
    client.get(LIST)

    # In no application context: a registry may be served by a thread of its own.
    told = values(generate_latest(registry).decode())
    assert told["host_requests_total"] == 1
    assert told["artifact_cache_hits_total"] == 1
    assert told[("artifact_cache_artifacts", "work", "fresh")] == 6
    # Ours is open to everybody, and tells nothing that is the host's.
    assert "host_requests_total" not in scrape(client)


def test_two_apps_cannot_share_a_registry(make_app, tmp_path):
    registry = CollectorRegistry()
    make_app(f"sqlite:///{tmp_path}/one.db", registry=registry)

    with pytest.raises(ConfigurationError, match="CollectorRegistry of its own"):
        make_app(f"sqlite:///{tmp_path}/two.db", registry=registry)


# --- workers -------------------------------------------------------------------------------------

HOST = """
import os
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_artifact_cache import ArtifactCache

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["HOST_DATABASE"]
app.config["ARTIFACT_CACHE_COLLECTIONS"] = {"work": os.environ["HOST_COLLECTION"]}
app.config["ARTIFACT_CACHE_TOKENS"] = ["a-token-that-is-long-enough"]
app.config["ARTIFACT_CACHE_POPULATE_ON_STARTUP"] = False
app.config["ARTIFACT_CACHE_BACKGROUND"] = "none"
app.config["ARTIFACT_CACHE_REFRESH_LIMIT"] = None
db = SQLAlchemy(app)
ArtifactCache(app, db)

@app.after_request
def sign(response):
    response.headers["X-Worker"] = str(os.getpid())
    return response
"""
GUNICORN = Path(__file__).parent.parent / "docs/monitoring/README.md"


def recipe(name):
    """A block of Python of the recipes, by the name of the file that it is for."""
    [found] = re.findall(rf"```python\n# {name}\n(.*?)```", GUNICORN.read_text(), re.DOTALL)
    return found


@pytest.mark.parametrize("preload", [False, True], ids=["workers load", "preloaded"])
def test_four_workers_tell_the_same(make_app, sqlite_url, sample, populate, tmp_path, preload):
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    app = make_app(sqlite_url, {"work": sample.root})
    populate(app)
    (tmp_path / "host.py").write_text(HOST)
    (tmp_path / "gunicorn.conf.py").write_text(recipe("gunicorn.conf.py"))
    (tmp_path / "shared").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = f"http://127.0.0.1:{port}{API}"
    environment = {
        **os.environ,
        "HOST_DATABASE": sqlite_url,
        "HOST_COLLECTION": str(sample.root),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "shared"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "gunicorn", "-w", "4", "-b", f"127.0.0.1:{port}"]
    command += ["--log-level", "warning", "host:app", *(["--preload"] if preload else [])]
    server = subprocess.Popen(command, cwd=tmp_path, env=environment)

    def ask(path, data=None, **headers):
        request = urllib.request.Request(base + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return response.headers["X-Worker"], response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.headers["X-Worker"], ""

    try:
        deadline = time.monotonic() + 60
        workers = set()
        while len(workers) < 4:
            try:
                workers.add(ask("/healthz")[0])
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert time.monotonic() < deadline

        def spread(least, *asked, **headers):
            # The system may give one worker many requests in a row.
            workers = []
            while len(workers) < least or len(set(workers)) < 2:
                workers.append(ask(*asked, **headers)[0])
                assert time.monotonic() < deadline
            return workers

        served = spread(60, "/work/artifacts")
        missed = spread(20, "/work/artifacts/skill:nope")
        refreshing = {
            "Authorization": "Bearer a-token-that-is-long-enough",
            "Content-Type": "application/json",
        }
        # One after the other, so none is joined.
        done = spread(20, "/refresh-metadata", b"{}", **refreshing)
        scrapes = []
        asked = set()
        while len(asked) < 4 or len(scrapes) < 50:
            worker, text = ask("/metrics")
            asked.add(worker)
            scrapes.append(values(text))
            assert time.monotonic() < deadline
        told = json.loads(ask("/cache-stats")[1])
    finally:
        server.terminate()
        server.wait(20)

    # The work was spread, so no worker alone can know of all of it.
    age = "artifact_cache_oldest_sync_age_seconds"
    ages = [one.pop(age) for one in scrapes]
    assert ages == sorted(ages)  # one clock, one time of the last refresh
    assert all(one == scrapes[0] for one in scrapes)
    assert scrapes[0]["artifact_cache_hits_total"] == len(served)
    assert scrapes[0]["artifact_cache_misses_total"] == len(missed)
    assert scrapes[0][("artifact_cache_refreshes_total", "succeeded", "api")] == len(done)
    refreshes = scrapes[0][("artifact_cache_refresh_duration_seconds_count", "collection")]
    assert refreshes == len(done)
    assert scrapes[0][("artifact_cache_artifacts", "work", "fresh")] == 6
    assert (told["hits"], told["misses"]) == (len(served), len(missed))
    assert told["counted_in"] == "all processes"
    assert {name if isinstance(name, str) else name[0] for name in scrapes[0]} | {age} == {
        f"{name}{suffix}"
        for name, (kind, _) in SNAPSHOT.items()
        if name != "artifact_cache_sync_errors"
        for suffix in {
            "counter": ["_total"],
            "gauge": [""],
            "histogram": ["_bucket", "_count", "_sum"],
        }[kind]
    }
