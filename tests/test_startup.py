"""An app that serves checks its collections by itself; a command does not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import sqlalchemy as sa

from flask_artifact_cache.models import Artifact, RefreshRun

LIST = "/api/v1/user-collections/work/artifacts"
SERVING = {"ARTIFACT_CACHE_POPULATE_ON_STARTUP": True, "ARTIFACT_CACHE_BACKGROUND": "thread"}


def runs(app, *which):
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        return session.scalars(sa.select(RefreshRun.trigger).where(*which)).all()


def test_the_first_request_starts_the_check_and_does_not_wait_for_it(
    make_app, sqlite_url, sample, idle
):
    app = make_app(sqlite_url, {"work": sample.root}, **SERVING)
    client = app.test_client()

    assert client.get(LIST).status_code in (200, 503)
    idle(app)

    assert client.get(LIST).json["page_info"]["total_count"] == 6
    assert len(runs(app)) == 1


def test_a_missing_root_stops_neither_the_app_nor_the_other_collections(
    make_app, sqlite_url, sample, tmp_path, caplog, idle
):
    collections = {"gone": tmp_path / "gone", "work": sample.root}
    app = make_app(sqlite_url, collections, **SERVING)
    client = app.test_client()
    client.get(LIST)
    idle(app)

    assert client.get(LIST).status_code == 200
    assert "the refresh of 'gone' (startup) failed" in caplog.text


def test_missing_tables_are_said_in_the_log(make_app, sqlite_url, sample, caplog, idle):
    app = make_app(sqlite_url, {"work": sample.root}, create=False, **SERVING)
    response = app.test_client().get(LIST)
    idle(app)

    assert response.status_code == 503
    assert "flask artifact-cache db upgrade" in response.json["detail"]
    assert "flask artifact-cache db upgrade" in caplog.text


@pytest.mark.parametrize("setting", ["POPULATE_ON_STARTUP", "BACKGROUND"])
def test_it_can_be_switched_off(make_app, sqlite_url, sample, setting, idle):
    options = dict(SERVING)
    options[f"ARTIFACT_CACHE_{setting}"] = "none" if setting == "BACKGROUND" else False
    app = make_app(sqlite_url, {"work": sample.root}, **options)

    app.test_client().get("/")
    if setting != "BACKGROUND":
        idle(app)

    assert runs(app) == []


def test_a_command_does_not_start_it(make_app, sqlite_url, sample, idle):
    app = make_app(sqlite_url, {"work": sample.root}, **SERVING)

    assert app.test_cli_runner().invoke(args=["artifact-cache", "status"]).exit_code == 0
    idle(app)

    assert runs(app) == []


HOST = """
import os
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_artifact_cache import ArtifactCache

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["HOST_DATABASE"]
app.config["ARTIFACT_CACHE_COLLECTIONS"] = {"work": os.environ["HOST_COLLECTION"]}
db = SQLAlchemy(app)
ArtifactCache(app, db)

@app.get("/pid")
def pid():
    return str(os.getpid())
"""


def test_of_four_workers_one_does_it_while_requests_are_served(
    make_app, database_url, collection, tmp_path
):
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    for number in range(1500):
        collection.skill(f"skill-{number}")
    app = make_app(database_url, {"work": collection.root})
    (tmp_path / "host.py").write_text(HOST)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "HOST_DATABASE": database_url,
        "HOST_COLLECTION": str(collection.root),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "gunicorn", "-w", "4", "-b", f"127.0.0.1:{port}"]
    server = subprocess.Popen(
        [*command, "--log-level", "warning", "host:app"], cwd=tmp_path, env=environment
    )
    try:
        pids = set()
        deadline = time.monotonic() + 30
        statuses = set()
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{base}/pid") as response:
                    pids.add(response.read())
                with urllib.request.urlopen(base + LIST) as response:
                    page = json.load(response)
                if len(pids) == 4:
                    break
            except urllib.error.HTTPError as error:
                statuses.add(error.code)
                error.close()
            except urllib.error.URLError:
                pass
        assert page["page_info"]["total_count"] == 1500
        assert statuses <= {503}
        assert len(pids) == 4
        # Who finds another one at it takes back what he has written down of his own run.
        while len(runs(app)) != 1 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        server.terminate()
        server.wait(20)
    # The last worker to answer may have been ended before it could take it back.
    assert runs(app, RefreshRun.finished_at.is_not(None)) in (["startup"], ["cold"])
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        assert session.scalar(sa.select(sa.func.count()).select_from(Artifact)) == 1500
