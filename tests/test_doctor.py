"""What is wrong with an installation is said in sentences, and so is what to do."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from flask_artifact_cache import ArtifactManager, doctor
from flask_artifact_cache.background import check_when_serving
from flask_artifact_cache.cli import cli
from flask_artifact_cache.doctor import CHECKS, ERROR, OK, WARNING, Facts, examine
from flask_artifact_cache.files.editing import Editor
from flask_artifact_cache.files.sources import local
from flask_artifact_cache.files.staging import exchange
from flask_artifact_cache.models import Artifact, Collection
from flask_artifact_cache.stats import CollectionStats, Lookups, Stats

API = "/api/v1/user-collections"
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)
TOKEN = "a-token-that-is-long-enough"

WORK = CollectionStats(
    id="work",
    path_available=True,
    artifact_count=100,
    revision=3,
    states={"fresh": 100},
    owned={"fresh": 100},
    verified_at=NOW,
    oldest_at=NOW,
    daemon_seen_at=NOW,
    problems=[],
)
TORN = {"code": "E_TOML", "message": "torn", "path": "collection.toml", "line": 3, "column": None}
WELL = Facts(
    roots={"work": ""},
    tokens=1,
    may_change=False,
    background="thread",
    limiter="shared",
    workers=None,
    answers=True,
    revision="0001",
    wanted="0001",
    journal_mode="wal",
    file_system="ext4",
    stats=Stats(NOW, timedelta(minutes=30), [WORK], Lookups(0, 0, of_all=False)),
    latest_sync=NOW,
    leases_ms={"work": 30_000},
    long_runs={},
)


def with_work(**changes):
    return replace(WELL, stats=replace(WELL.stats, collections=[replace(WORK, **changes)]))


def findings(facts):
    return {one.check: (one.severity, one.message) for one in examine(facts) if one.severity != OK}


def test_a_good_installation_is_said_to_be_well():
    found = examine(WELL)

    assert [one.check for one in found] == list(CHECKS)
    assert {one.severity for one in found} == {OK}


@pytest.mark.parametrize(
    ("facts", "check", "severity", "words"),
    [
        (replace(WELL, roots={}), "configuration", ERROR, "ARTIFACT_CACHE_COLLECTIONS"),
        (replace(WELL, roots={"work": "missing"}), "roots", ERROR, "mount it"),
        (replace(WELL, roots={"work": "unreadable"}), "roots", ERROR, "cannot be read"),
        (replace(WELL, roots={"work": "empty"}), "roots", WARNING, "is empty"),
        (
            replace(WELL, left={"work": [".artifact-cache/stage-1"]}),
            "left",
            WARNING,
            "'.artifact-cache/stage-1' of 'work'",
        ),
        (replace(WELL, answers=False, stats=None), "database", ERROR, "does not answer"),
        (replace(WELL, revision=None, stats=None), "database", ERROR, "artifact-cache db upgrade"),
        (replace(WELL, revision="0000"), "database", ERROR, "at 0000, not at 0001"),
        (replace(WELL, wanted=None, stats=None), "database", ERROR, "flask db upgrade"),
        (replace(WELL, journal_mode="delete"), "journal", WARNING, "PRAGMA journal_mode=WAL"),
        (replace(WELL, journal_mode="memory"), "journal", WARNING, "in memory"),
        (replace(WELL, file_system="nfs4"), "journal", ERROR, "move it to a local disk"),
        (replace(WELL, file_system="cifs"), "journal", ERROR, "(cifs) in WAL mode"),
        (replace(WELL, file_system="fuse.sshfs"), "journal", ERROR, "network file system"),
        (
            replace(WELL, file_system="nfs", journal_mode="delete"),
            "journal",
            WARNING,
            "locks are not to be relied on",
        ),
        (replace(WELL, limiter="memory"), "limiter", WARNING, "with several workers"),
        (replace(WELL, limiter="memory", workers=4), "limiter", WARNING, "and 4 workers"),
        (replace(WELL, limiter="off"), "limiter", WARNING, "ARTIFACT_CACHE_REFRESH_LIMIT"),
        (replace(WELL, limiter="down"), "limiter", ERROR, "RATELIMIT_STORAGE_URI"),
        (replace(WELL, limiter="call 'limiter.init_app'"), "limiter", ERROR, "limiter.init_app"),
        (replace(WELL, tokens=0), "tokens", WARNING, "ARTIFACT_CACHE_TOKENS"),
        (replace(WELL, tokens=11), "tokens", WARNING, "11 tokens"),
        (replace(WELL, background="none"), "background", WARNING, "'none'"),
        (replace(WELL, background="celery"), "background", ERROR, "app.extensions has no 'celery'"),
        (with_work(revision=0), "populated", WARNING, "populate work"),
        (with_work(daemon_seen_at=None), "daemon", WARNING, "start artifact-cache-daemon"),
        (
            with_work(daemon_seen_at=NOW - timedelta(minutes=36)),
            "daemon",
            WARNING,
            "2026-03-01T11:24:00.000Z",
        ),
        (
            with_work(verified_at=NOW + timedelta(minutes=6)),
            "clocks",
            ERROR,
            "2026-03-01T12:06:00.000Z",
        ),
        (replace(WELL, latest_sync=NOW + timedelta(days=1)), "clocks", ERROR, "2026-03-02"),
        (replace(WELL, clock_ahead_s=-400.0), "clocks", WARNING, "400 s apart"),
        (replace(WELL, leases_ms={"work": 3_600_000}), "leases", ERROR, "3600 s"),
        (replace(WELL, long_runs={"work": NOW}), "leases", WARNING, "going on since"),
        (with_work(owned={"fresh": 95, "quarantined": 5}), "files", WARNING, "5 artifacts"),
        (with_work(problems=[TORN]), "files", WARNING, "work:collection.toml:3: E_TOML torn; Mend"),
        (with_work(owned={"fresh": 80, "missing": 20}), "files", WARNING, "20 artifacts are gone"),
        (with_work(owned={"fresh": 80, "missing": 1}), "files", WARNING, "a table of the app"),
        (with_work(owned={"fresh": 80, "stale": 20}), "stale", WARNING, "20 of 100"),
        (
            replace(WELL, stats=replace(WELL.stats, limited_until=NOW)),
            "upstream",
            WARNING,
            "until 2026-03-01T12:00:00.000Z",
        ),
    ],
)
def test_what_is_wrong_is_found_and_nothing_else(facts, check, severity, words):
    [(found, (how_bad, message))] = findings(facts).items()

    assert (found, how_bad) == (check, severity)
    assert words in message
    assert message.endswith((".", "?")) or check == "limiter"


@pytest.mark.parametrize(
    "facts",
    [
        replace(WELL, limiter="memory", workers=1),
        replace(WELL, tokens=0, may_change=True),
        replace(WELL, journal_mode=None, file_system="nfs"),
        replace(WELL, file_system=None),
        with_work(daemon_seen_at=NOW - timedelta(minutes=34)),
        with_work(verified_at=NOW + timedelta(minutes=4)),
        with_work(owned={"fresh": 91, "stale": 9}),
        replace(WELL, leases_ms={"work": -5}),
    ],
)
def test_what_is_well_is_not_complained_about(facts):
    assert findings(facts) == {}


def test_nothing_is_said_of_rows_that_nobody_has_seen():
    said = {one.check for one in examine(replace(WELL, answers=False, stats=None))}

    unseen = {"populated", "daemon", "clocks", "leases", "files", "stale", "upstream"}
    assert said == set(CHECKS) - unseen


# --- facts ---------------------------------------------------------------------------------------

MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/ada/local\\040disk xfs rw 0 0
tmpfs /run tmpfs rw 0 0
//server/share /run cifs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/app.db", "ext4"),
        ("/home/ada/app.db", "nfs4"),
        ("/homes/app.db", "ext4"),
        ("/home/ada/local disk/app.db", "xfs"),
        ("/run/app.db", "cifs"),
    ],
)
def test_the_file_system_is_that_of_the_nearest_mount(path, kind):
    assert doctor.file_system(Path(path), MOUNTS) == kind
    assert doctor.file_system(Path(path), "") is None
    assert doctor.file_system(Path(path), "garbage\n\n") is None


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({}, None),
        ({"WEB_CONCURRENCY": "3"}, 3),
        ({"GUNICORN_CMD_ARGS": "--bind :80 --workers=4", "WEB_CONCURRENCY": "3"}, 4),
        ({"GUNICORN_CMD_ARGS": "-w 2"}, 2),
        ({"WEB_CONCURRENCY": "many"}, None),
    ],
)
def test_the_environment_may_tell_the_workers(environment, number):
    assert doctor.workers(environment) == number


def gather(app, **options):
    with app.app_context():
        return doctor.gather(app, **options)


def test_the_facts_are_those_of_the_app(app, sample):
    facts = gather(app, mounts="server:/ / nfs4 rw 0 0\n", environment={"WEB_CONCURRENCY": "2"})

    assert facts.roots == {"work": ""}
    assert (facts.answers, facts.revision) == (True, facts.wanted)
    assert (facts.journal_mode, facts.file_system) == ("delete", "nfs4")
    assert (facts.limiter, facts.workers, facts.tokens) == ("memory", 2, 0)
    assert facts.stats.states["fresh"] == 6
    assert facts.latest_sync == facts.stats.now
    # The clock of the test stands still in another year than the database's.
    assert facts.clock_ahead_s < -3600
    assert facts.leases_ms == {}
    assert facts.long_runs == {}


def test_a_manifest_that_cannot_be_read_is_told_of(app, sample, populate):
    sample.write("collection.toml", "[collection\n")
    populate(app)

    severity, message = findings(gather(app))["files"]

    assert severity == WARNING
    assert message.startswith("work:collection.toml:1")
    assert "E_TOML" in message


def test_a_celery_that_the_app_has_not_is_told_of(make_app, sqlite_url, sample):
    pytest.importorskip("celery", reason="the extra 'celery' is not installed")
    app = make_app(sqlite_url, {"work": sample.root}, ARTIFACT_CACHE_BACKGROUND="celery")

    assert findings(gather(app))["background"][0] == ERROR
    app.extensions["celery"] = object()
    assert "background" not in findings(gather(app))


def test_folders_are_looked_at(make_app, sqlite_url, sample, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "closed").mkdir(mode=0)
    names = ("empty", "file", "closed", "gone")
    app = make_app(sqlite_url, {name: tmp_path / name for name in names})

    found = gather(app).roots

    closed = "empty" if os.geteuid() == 0 else "unreadable"  # root may read everything
    assert found == {"empty": "empty", "file": "missing", "gone": "missing", "closed": closed}


def test_what_a_change_could_not_put_back_is_named(make_app, sqlite_url, tmp_path):
    folder = tmp_path / "work"
    source = tmp_path / "pdf"
    for one in (folder, source):
        one.mkdir()
    (source / "SKILL.md").write_text("---\nname: pdf\ndescription: Reads.\n---\n")
    app = make_app(sqlite_url, {"work": folder, "gone": tmp_path / "gone"})
    manager = ArtifactManager(folder)
    manager.add(local(str(source)))
    assert gather(app).left == {"work": [], "gone": []}

    (folder / "skills/pdf/a~").write_text("before")
    (source / "SKILL.md").write_text("---\nname: pdf\ndescription: Reads more.\n---\n")

    def at_the_exchange(*given):
        (folder / "skills/pdf/a~").write_text("meanwhile")
        exchange(*given)

    Editor(manager, exchange=at_the_exchange).add(local(str(source)), replace=True)

    [stage] = gather(app).left["work"]
    assert (folder / stage / "0/skills/pdf/a~").read_text() == "meanwhile"
    assert f"'{stage}' of 'work'" in findings(gather(app))["left"][1]


def test_a_lease_that_outlives_every_refresh_is_found_in_every_database(
    make_app, database_url, sample, populate
):
    app = make_app(database_url, {"work": sample.root})
    populate(app)
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        session.execute(sa.update(Collection).values(lease_holder="x", lease_until_ms=2**52))
        session.execute(
            sa.update(Artifact).values(synced_at=datetime(2126, 1, 1, tzinfo=timezone.utc))
        )
        session.commit()

    facts = gather(app)
    found = findings(facts)

    assert abs(facts.clock_ahead_s) < 60
    assert found["leases"][0] == ERROR
    assert found["clocks"][0] == ERROR
    assert (facts.journal_mode is None) == ("sqlite" not in database_url)


def test_a_database_that_is_down_and_one_without_tables_are_told_apart(make_app, sample, tmp_path):
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    down = make_app("postgresql+psycopg://nobody@127.0.0.1:1/nowhere", create=False)
    bare = make_app(f"sqlite:///{tmp_path}/bare.db", {"work": sample.root}, create=False)

    assert "does not answer" in findings(gather(down))["database"][1]
    assert "tables are missing" in findings(gather(bare))["database"][1]


def test_tables_that_are_not_what_they_should_be_have_their_advice():
    def advice(**changes):
        return findings(replace(WELL, **changes))["database"][1]

    assert "Run 'flask artifact-cache db upgrade'" in advice(revision=None)
    assert "install that one" in advice(revision="0099")
    assert "missing: artifact_cache_facet. Restore" in advice(missing=["artifact_cache_facet"])


def test_where_limits_are_counted_is_asked_of_the_limiter(make_app, tmp_path):
    def limiter_of(**options):
        number = len(list(tmp_path.iterdir()))
        app = make_app(f"sqlite:///{tmp_path}/{number}.db", **options)
        return gather(app).limiter

    foreign = Limiter(get_remote_address, storage_uri="memory://")
    foreign.init_app(Flask("another"))

    assert limiter_of() == "memory"
    assert limiter_of(RATELIMIT_ENABLED=False) == "off"
    assert limiter_of(ARTIFACT_CACHE_SYNC_LIMIT="", ARTIFACT_CACHE_REFRESH_LIMIT=None) == "off"
    assert "limiter.init_app(app)" in limiter_of(limiter=foreign)
    assert limiter_of(RATELIMIT_STORAGE_URI="redis://127.0.0.1:1") == "down"
    assert "cannot be used" in limiter_of(RATELIMIT_STORAGE_URI="nonsense://x")


# --- the command ---------------------------------------------------------------------------------


def run(app, *arguments):
    return app.test_cli_runner().invoke(args=["artifact-cache", "doctor", *arguments])


def test_it_prints_a_line_for_each_finding_and_ends_with_0_without_an_error(
    make_app, sqlite_url, sample, populate
):
    app = make_app(sqlite_url, {"work": sample.root}, ARTIFACT_CACHE_TOKENS=[TOKEN])
    populate(app)

    result = run(app)

    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[1].rstrip(":") for line in lines] == list(CHECKS)
    assert "warning  daemon: The daemon has not asked for 'work' in the last week" in result.stdout
    assert TOKEN not in result.output


def test_an_error_ends_it_with_1(make_app, sqlite_url, tmp_path):
    result = run(make_app(sqlite_url, {"work": tmp_path / "gone"}))

    assert result.exit_code == 1
    assert "error    roots: The folder of 'work' is not there" in result.stdout


def test_as_json_it_tells_the_numbers_that_the_api_tells(app):
    result = run(app, "--json")

    document = json.loads(result.stdout)
    told = app.test_client().get(f"{API}/cache-stats").json
    assert document["stats"] == told
    assert {one["check"] for one in document["findings"]} == set(CHECKS)


def test_the_daemon_is_heard_of_when_it_has_asked(make_app, sqlite_url, sample, populate):
    app = make_app(sqlite_url, {"work": sample.root}, ARTIFACT_CACHE_TOKENS=[TOKEN])
    populate(app)
    headers = {"Authorization": f"Bearer {TOKEN}", "User-Agent": "artifact-cache-daemon/1"}
    asked = app.test_client().post(f"{API}/refresh-metadata", json={}, headers=headers)

    assert asked.status_code == 200
    assert "daemon" not in findings(gather(app))
    assert app.test_client().get(f"{API}/cache-stats").json["collections"][0]["daemon_seen_at"]


def test_an_app_without_the_cache_is_told_so():
    result = Flask("bare").test_cli_runner().invoke(cli, ["doctor"])

    assert result.exit_code == 2
    assert "this app has no artifact cache" in result.stderr


# --- several workers -----------------------------------------------------------------------------


def test_several_workers_that_count_in_memory_are_warned_of_once(
    make_app, sqlite_url, sample, caplog
):
    app = make_app(sqlite_url, {"work": sample.root}, ARTIFACT_CACHE_TOKENS=[TOKEN])
    client = app.test_client()
    headers = {"Authorization": f"Bearer {TOKEN}"}

    def ask(multiprocess):
        client.post(
            f"{API}/invalidate",
            json={},
            headers=headers,
            environ_overrides={"wsgi.multiprocess": multiprocess},
        )

    ask(False)
    assert "counted in memory" not in caplog.text
    ask(True)
    ask(True)
    assert caplog.text.count("counted in memory") == 1


# --- when the app begins to serve ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("journal_mode", "kind", "warned"),
    [
        ("wal", "nfs4", True),
        ("wal", "cifs", True),
        ("wal", "fuse.sshfs", True),
        ("wal", "virtiofs", True),
        ("wal", "ext4", False),
        ("wal", "overlay", False),
        ("delete", "nfs4", False),
    ],
)
def test_write_ahead_logging_on_a_network_file_system_is_warned_of_once(
    make_app, sqlite_url, sample, caplog, journal_mode, kind, warned
):
    app = make_app(sqlite_url, {"work": sample.root})
    with app.app_context(), app.extensions["sqlalchemy"].engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA journal_mode={journal_mode}")
    service = app.extensions["artifact_cache"].service
    check_when_serving(app, service, mounts=f"server:/data / {kind} rw 0 0\n")
    client = app.test_client()
    assert "network file system" not in caplog.text

    for _ in range(2):
        assert client.get(f"{API}/").status_code == 200

    said = f"SQLite's file is on a network file system ({kind}) in WAL mode"
    assert caplog.text.count(said) == warned
    with app.app_context(), app.extensions["sqlalchemy"].engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == journal_mode


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:////no/such/file.db", "postgresql+psycopg://nowhere/wal"]
)
def test_a_database_without_a_file_is_not_warned_of(url):
    mounts = "server:/ / nfs4 rw 0 0\n"

    assert doctor.wal_on_network(sa.make_url(url), mounts) is None
