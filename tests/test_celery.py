"""Refreshes as tasks of a real Celery with a real broker and a real worker process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from datetime import datetime, timezone

import pytest
import sqlalchemy as sa

from flask_artifact_cache.models import Artifact, Collection, RefreshRun

celery = pytest.importorskip("celery", reason="the extra 'celery' is not installed")
pytest.importorskip("redis", reason="the extra 'redis' is not installed")

API = "/api/v1/user-collections"
TOKEN = "a-token-for-tests-0123456789"
BROKER = os.environ.get("ARTIFACT_CACHE_TEST_REDIS", "redis://127.0.0.1:6379/9")
CI = os.environ.get("CI") == "true"
HOST = """
import os
from celery import Celery, Task
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_artifact_cache import ArtifactCache

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["HOST_DATABASE"]
app.config["ARTIFACT_CACHE_COLLECTIONS"] = {
    "work": {"path": os.environ["HOST_COLLECTION"], "ttl_minutes": 1 / 60},
    "slow": os.environ["HOST_COLLECTION"],
}
app.config["ARTIFACT_CACHE_TOKENS"] = [os.environ["HOST_TOKEN"]]
app.config["ARTIFACT_CACHE_BACKGROUND"] = "celery"
app.config["ARTIFACT_CACHE_POPULATE_ON_STARTUP"] = False
db = SQLAlchemy(app)
ArtifactCache(app, db)


class FlaskTask(Task):
    def __call__(self, *args, **kwargs):
        with app.app_context():
            return self.run(*args, **kwargs)


celery_app = Celery(app.name, task_cls=FlaskTask)
celery_app.conf.update(
    broker_url=os.environ["HOST_BROKER"],
    task_ignore_result=True,
    task_default_queue=os.environ["HOST_QUEUE"],
    broker_connection_retry_on_startup=True,
)
celery_app.set_default()
app.extensions["celery"] = celery_app
"""


@pytest.fixture
def broker():
    import redis

    client = redis.Redis.from_url(BROKER, socket_connect_timeout=2)
    try:
        client.ping()
    except redis.exceptions.ConnectionError:
        (pytest.fail if CI else pytest.skip)("no redis on this machine")
    yield client
    client.close()


@pytest.fixture
def hosts(broker, make_app, database_url, sample, tmp_path, populate):
    """Four web workers and a Celery worker on one database; gives a function that asks them.

    The collection 'work' was read, and is stale after a second; 'slow' was not.
    """
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    app = make_app(database_url, {"work": sample.root})
    populate(app)
    queue = f"artifact-cache-{uuid.uuid4().hex[:8]}"
    worker = f"{queue}@localhost"
    (tmp_path / "host.py").write_text(HOST)
    environment = {
        **os.environ,
        "HOST_DATABASE": database_url,
        "HOST_COLLECTION": str(sample.root),
        "HOST_TOKEN": TOKEN,
        "HOST_BROKER": BROKER,
        "HOST_QUEUE": queue,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
    }
    address = tmp_path / "address"
    web = [sys.executable, "-m", "gunicorn", "-w", "4", "-b", "127.0.0.1:0"]
    started = [
        subprocess.Popen(
            [*web, "--log-file", str(address), "host:app"], cwd=tmp_path, env=environment
        ),
        subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", "host:celery_app", "worker"),
                *("-l", "warning", "-c", "2", "-Q", queue, "--without-gossip", "-n", worker),
            ],
            cwd=tmp_path,
            env=environment,
        ),
    ]
    deadline = time.monotonic() + 30
    while "Listening at: " not in (address.read_text() if address.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    base = address.read_text().split("Listening at: ")[1].split(" ")[0]

    def ask(path, body=None, **headers):
        data = None if body is None else json.dumps(body).encode()
        headers |= {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"{base}{API}{path}", data, headers)
        try:
            with urllib.request.urlopen(request) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    ask.app, ask.worker, ask.environment, ask.folder = app, worker, environment, tmp_path
    yield ask
    for process in started:
        process.send_signal(signal.SIGTERM)
    for process in started:
        process.wait(30)
    broker.delete(queue)


def runs(app, collection_id="work"):
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        session.rollback()
        chosen = sa.select(RefreshRun.trigger).where(RefreshRun.collection_id == collection_id)
        return list(session.scalars(chosen.where(RefreshRun.finished_at.is_not(None))))


def eventually(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_all_background_work_is_done_by_the_worker(hosts, sample):
    # Asked for before it was read, by many at once.
    statuses = {hosts("/slow/artifacts")[0] for _ in range(8)}
    assert statuses <= {200, 503}
    eventually(lambda: hosts("/slow/artifacts")[0] == 200)
    assert runs(hosts.app, "slow") == ["cold"]

    # Served stale.
    eventually(lambda: hosts("/work/artifacts")[0] == 200 and "stale" in runs(hosts.app))

    # Asked for without waiting.
    sample.skill("late")
    status, told = hosts("/refresh-metadata", {"collection_id": "slow"}, Prefer="respond-async")
    assert status == 202
    eventually(lambda: hosts(f"/refreshes/{told['refresh_id']}")[1]["outcome"] == "succeeded")
    assert hosts("/slow/artifacts/skill:late")[0] == 200


DUPLICATES = """
import sys, time
import host
from flask_artifact_cache.celery_tasks import refresh, refresh_due
from flask_artifact_cache.refresh.selection import Selection
from flask_artifact_cache.tasks import Task

with host.app.app_context():
    since = host.app.extensions["artifact_cache"].service.due()["slow"]
print("due", flush=True)
message = Task(Selection("slow"), "schedule", unless_since=since).as_dict()
for _ in range(6):  # six schedulers, or one message six times
    host.celery_app.tasks[refresh.name].apply_async((message,))
for _ in range(4):  # and four that look for themselves
    host.celery_app.tasks[refresh_due.name].apply_async()

# All is done once the worker has nothing twice in a row: a task that it does may send another.
worker, idle = sys.argv[1], 0
inspect = host.celery_app.control.inspect([worker], timeout=5)
for _ in range(200):
    told = [inspect.active() or {}, inspect.reserved() or {}]
    left = [one.get(worker, ["no answer"]) for one in told]
    with host.celery_app.connection_for_read() as connection:
        waiting = connection.default_channel.client.llen(host.celery_app.conf.task_default_queue)
    idle = idle + 1 if left == [[], []] and not waiting else 0
    if idle == 2:
        break
    time.sleep(0.05)
else:
    raise SystemExit(f"still at it: {left}, {waiting} waiting")
"""


def test_what_is_due_is_refreshed_once_though_it_is_delivered_twice(hosts):
    """Four web workers are asked for it, too, meanwhile."""
    eventually(lambda: hosts("/slow/artifacts")[0] == 200)
    long_ago = datetime(2026, 1, 1, tzinfo=timezone.utc)
    with hosts.app.app_context():
        session = hosts.app.extensions["sqlalchemy"].session
        session.execute(
            sa.update(Collection).where(Collection.id == "slow").values(verified_at=long_ago)
        )
        session.execute(
            sa.update(Artifact).where(Artifact.collection_id == "slow").values(synced_at=long_ago)
        )
        session.commit()
    before = len(runs(hosts.app, "slow"))

    script = subprocess.Popen(
        [sys.executable, "-c", DUPLICATES, hosts.worker],
        cwd=hosts.folder,
        env=hosts.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    with script:
        assert script.stdout.readline() == "due\n"
        while script.poll() is None:
            assert hosts("/slow/artifacts")[0] == 200
    assert script.returncode == 0

    assert len(runs(hosts.app, "slow")) == before + 1
    items = hosts("/slow/artifacts")[1]["items"]
    assert {one["state"] for one in items} == {"fresh"}


def test_a_host_without_celery_is_told_what_is_missing(make_app, sqlite_url, sample, caplog):
    app = make_app(sqlite_url, {"work": sample.root}, ARTIFACT_CACHE_BACKGROUND="celery")
    client = app.test_client()

    assert client.get(f"{API}/work/artifacts").status_code == 503
    assert "app.extensions has no 'celery'" in caplog.text


def test_a_broker_that_is_away_is_not_waited_for(make_app, sqlite_url, sample, monkeypatch):
    app = make_app(
        sqlite_url,
        {"work": sample.root},
        ARTIFACT_CACHE_BACKGROUND="celery",
        ARTIFACT_CACHE_TOKENS=[TOKEN],
    )
    app.extensions["celery"] = celery.Celery("host", broker="redis://127.0.0.1:1/0")
    client = app.test_client()
    headers = {"Authorization": f"Bearer {TOKEN}", "Prefer": "respond-async"}

    pauses = []
    monkeypatch.setattr("kombu.utils.functional.sleep", pauses.append)

    answer = client.post(f"{API}/refresh-metadata", json={}, headers=headers)

    assert pauses == []

    assert (answer.status_code, answer.json["code"]) == (503, "busy")
    assert client.get(f"{API}/refreshes", headers=headers).json["refreshes"] == []


def test_a_change_that_no_broker_takes_is_stale(make_app, sqlite_url, sample, populate):
    app = make_app(sqlite_url, {"work": sample.root}, ARTIFACT_CACHE_BACKGROUND="celery")
    populate(app)
    app.extensions["celery"] = celery.Celery("host", broker="redis://127.0.0.1:1/0")
    service = app.extensions["artifact_cache"].service

    with app.app_context():
        assert service.stale_count() == 0
        service.changed("work", paths=["skills/pdf/SKILL.md"])
        eventually(lambda: service.stale_count() == 1)
        service.changed("work")
        eventually(lambda: service.stale_count() == 6)
