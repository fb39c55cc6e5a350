"""Everything under the prefix answers in our words; reads touch no file; nothing leaks."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from flask import abort

from .conftest import temporary_database

API = "/api/v1/user-collections"
LIST = f"{API}/work/artifacts"

WATCHED: list[tuple[str, list[str]]] = []
EVENTS = ("open", "os.scandir", "os.listdir", "os.stat", "os.chmod", "os.rename", "os.remove")


def _hook(event, args):
    for root, seen in WATCHED:
        if event in EVENTS and args and str(args[0]).startswith(root):
            seen.append(f"{event} {args[0]}")


sys.addaudithook(_hook)


@contextmanager
def no_file_touched(root, monkeypatch):
    """Fail on any open or listing below ``root``, and on any stat, which is no audit event."""
    seen: list[str] = []

    def watch(function):
        def watched(path, *args, **kwargs):
            if str(path).startswith(str(root)):
                seen.append(f"{function.__name__} {path}")
            return function(path, *args, **kwargs)

        return watched

    entry = (str(root), seen)
    WATCHED.append(entry)
    with monkeypatch.context() as patch:
        for name in ("stat", "lstat", "access"):
            patch.setattr(os, name, watch(getattr(os, name)))
        yield seen
    WATCHED.remove(entry)
    assert seen == []


def test_the_watch_sees_what_it_watches_for(sample, monkeypatch):
    with pytest.raises(AssertionError), no_file_touched(sample.root, monkeypatch):
        (sample.root / ".mcp.json").read_bytes()
    with pytest.raises(AssertionError), no_file_touched(sample.root, monkeypatch):
        os.scandir(sample.root).close()
    with pytest.raises(AssertionError), no_file_touched(sample.root, monkeypatch):
        os.path.exists(sample.root / ".mcp.json")  # noqa: PTH110 - Path kept os.stat until 3.11


def test_reads_touch_no_artifact_file(app, client, sample, monkeypatch):
    client.get(LIST)
    with no_file_touched(sample.root, monkeypatch):
        for url in (
            f"{API}/",
            LIST,
            f"{LIST}?limit=2&sort=-updated_at",
            f"{LIST}?q=tables&tag=data",
            f"{LIST}/skill:pdf",
            f"{LIST}/skill:nothing",
            f"{API}/work/facets",
        ):
            assert client.get(url).status_code in (200, 404)


def test_reads_work_while_the_folder_is_gone(app, client, sample, tmp_path):
    sample.root.rename(tmp_path / "gone")

    assert client.get(LIST).json["page_info"]["total_count"] == 6


@pytest.mark.parametrize(
    "method",
    ["GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "REPORT", "LINK",
     "FOO", "--"],
)  # fmt: skip
@pytest.mark.parametrize(
    "path",
    ["", "/", "/work", "/work/", "/nope/artifacts", "/work/artifacts", "/work/artifacts/",
     "/work/artifacts/skill:nope", "/a%0Ab", "/work/artifacts/a%0Ab", "/work/facets",
     "/work/facets/x", "/a/b/c/d", "/../x",
     "/work/artifacts/%00", "/%00/artifacts", "/work/artifacts/%ff", "//", "/work//artifacts"],
)  # fmt: skip
def test_every_answer_below_the_prefix_is_ours(client, method, path):
    response = client.open(API + path, method=method)

    if response.status_code == 308:  # doubled slashes are merged by the host's router
        assert "//" in path
        assert response.headers["Location"].startswith(f"http://localhost{API}/")
        return
    assert response.status_code in (200, 400, 404, 405), response.text
    if response.status_code >= 400:
        assert response.content_type == "application/problem+json"
        assert set(response.json) >= {"type", "title", "status", "detail", "code", "errors"}
        assert response.json["status"] == response.status_code
    if response.status_code == 405:
        assert response.headers["Allow"] == "GET, HEAD, OPTIONS"
    for secret in ("Traceback", "SELECT", "sqlite", "<html"):
        assert secret not in response.text


@pytest.mark.parametrize("method", ["PROPFIND", "FOO", "DELETE"])
def test_a_method_that_no_route_takes_is_told_what_the_path_really_has(client, method):
    for path, allow in (
        (LIST, "GET, HEAD, OPTIONS"),
        (API, "GET, HEAD, OPTIONS"),
        (f"{API}/sync-artifact", "OPTIONS, POST"),
    ):
        answer = client.open(path, method=method)
        assert (answer.status_code, answer.json["code"]) == (405, "method_not_allowed")
        assert answer.headers["Allow"] == allow
        assert answer.json["detail"] == f"This address answers to {allow}."
    unknown = client.open(f"{API}/a/b/c/d", method=method)
    assert (unknown.status_code, unknown.json["code"]) == (404, "not_found")
    assert "Allow" not in unknown.headers


def test_options_and_head(client):
    for path in (LIST, f"{API}/", f"{LIST}/skill:pdf"):
        assert client.options(path).headers["Allow"] == "GET, HEAD, OPTIONS"
    assert client.options(f"{API}/a/b/c/d").status_code == 404
    assert client.get(f"{API}/work//facets").status_code == 404
    head = client.head(LIST)
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["ETag"] == client.get(LIST).headers["ETag"]


def test_no_path_of_the_server_is_served(app, client, sample, tmp_path, populate):
    sample.write("skills/broken/SKILL.md", "---\n- a\n- b\n---\n")
    populate(app)
    for url in (f"{API}/", LIST, f"{LIST}/skill:broken", f"{API}/work/facets"):
        text = client.get(url).text
        assert str(tmp_path) not in text
        assert str(sample.root) not in text


def test_an_unexpected_failure_is_logged_and_not_told(make_app, sqlite_url, sample, caplog):
    def authorize(permission, collection_id):
        raise RuntimeError("the password is hunter2")

    client = make_app(sqlite_url, {"work": sample.root}, authorize=authorize).test_client()

    response = client.get(LIST)

    assert response.status_code == 500
    assert response.json["code"] == "internal_error"
    assert "hunter2" not in response.text
    assert "hunter2" in caplog.text


def test_too_many_parameters_are_refused(client):
    response = client.get(f"{LIST}?" + "&".join(["tag=x"] * 300))

    assert (response.status_code, response.json["code"]) == (400, "invalid_request")


def test_a_path_cannot_forge_a_line_of_the_log(make_app, sqlite_url, caplog):
    def authorize(permission, collection_id):
        raise RuntimeError

    client = make_app(sqlite_url, authorize=authorize).test_client()
    client.get(f"{API}/a%0aERROR%20forged/artifacts")

    assert "\nERROR forged" not in caplog.records[0].getMessage()


def test_a_database_that_is_down_is_a_503(make_app, sample):
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    url = "postgresql+psycopg://nobody@127.0.0.1:1/nowhere"
    client = make_app(url, {"work": sample.root}, create=False).test_client()

    response = client.get(LIST)

    assert (response.status_code, response.json["code"]) == (503, "database_unavailable")
    assert int(response.headers["Retry-After"]) > 0


def test_the_host_may_close_the_reading_routes(make_app, sqlite_url, sample, populate):
    asked = []

    def authorize(permission, collection_id):
        asked.append((permission, collection_id))
        return collection_id is None

    app = make_app(sqlite_url, {"work": sample.root}, authorize=authorize)
    populate(app)
    client = app.test_client()

    assert client.get(f"{API}/").status_code == 200
    response = client.get(LIST)
    assert (response.status_code, response.json["code"]) == (403, "forbidden")
    assert asked == [("read", None), ("read", "work")]


def test_an_abort_of_the_host_before_our_view_is_answered_in_our_words(app):
    app.before_request(lambda: abort(401))

    response = app.test_client().get(LIST)

    assert response.status_code == 401
    assert response.content_type == "application/problem+json"


def test_a_prefix_of_the_hosts_choice(make_app, sqlite_url, sample, populate):
    app = make_app(
        sqlite_url,
        {"work": sample.root},
        ARTIFACT_CACHE_API_PREFIX="/artifacts",
        APPLICATION_ROOT="/x",
    )
    populate(app)
    client = app.test_client()

    response = client.get("/artifacts/work/artifacts?limit=2", base_url="http://localhost/x/")

    link = response.headers["Link"]
    assert link.startswith("</x/artifacts/work/artifacts?limit=2&after=")
    assert client.get(API).status_code == 404


def test_an_id_may_be_asked_for_by_many_at_once(app):
    statuses = []

    def ask():
        statuses.append(app.test_client().get(LIST).status_code)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 16


def test_a_database_that_fails_in_the_midst_of_an_answer_is_said_to_be(app, client):
    """The rows of a page are read past SQLAlchemy, which would have told what an error means."""
    with app.app_context():
        engine = app.extensions["sqlalchemy"].engine
    armed, interrupted = [], []

    @sa.event.listens_for(engine, "connect")
    def hinder(connection, _):
        def notice(action, table, *_):
            if action == sqlite3.SQLITE_READ and table == "artifact_cache_artifact":
                armed.append(table)
            return sqlite3.SQLITE_OK

        def interrupt():
            if interrupted or not armed:
                return False
            interrupted.append(True)
            return True

        connection.set_authorizer(notice)
        connection.set_progress_handler(interrupt, 1)

    engine.dispose()

    answer = client.get(f"{LIST}?limit=3")

    assert interrupted
    assert (answer.status_code, answer.json["code"]) == (503, "database_unavailable")


@pytest.mark.parametrize(
    ("database", "whoami", "kill"),
    [
        ("postgresql", "SELECT pg_backend_pid()", "SELECT pg_terminate_backend({}, 5000)"),
        ("mariadb", "SELECT CONNECTION_ID()", "KILL {}"),
    ],
)
def test_a_connection_that_is_lost_in_the_midst_of_an_answer_is_said_to_be(
    database, whoami, kill, make_app, sample, populate
):
    """Where a page takes several statements, the last one asks whether its collection has moved."""
    with temporary_database(database) as url:
        app = make_app(url, {"work": sample.root})
        populate(app)
        with app.app_context():
            engine = app.extensions["sqlalchemy"].engine
        killed = []

        @sa.event.listens_for(engine, "after_cursor_execute")
        def lose(connection, _, statement, *__):
            if "payload" in statement and not killed:
                cursor = connection.connection.cursor()
                cursor.execute(whoami)
                killed.append(cursor.fetchone()[0])
                with sa.create_engine(url, poolclass=sa.NullPool).begin() as another:
                    another.exec_driver_sql(kill.format(killed[0]))

        lost = app.test_client().get(f"{LIST}?sort=-updated_at")
        again = app.test_client().get(f"{LIST}?sort=-updated_at")

    assert killed
    assert (lost.status_code, lost.json["code"]) == (503, "database_unavailable")
    assert again.status_code == 200
