"""Five hundred readers, each on a connection of its own, when all that they read expires."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time

import pytest
import sqlalchemy as sa

from flask_artifact_cache.models import RefreshRun

LIST = "/api/v1/user-collections/work/artifacts?limit=20"
READERS = 500
PATIENCE_S = 180
HOST = """
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_artifact_cache import ArtifactCache

later = Path(os.environ["HOST_LATER"])

def clock():
    return datetime.now(timezone.utc) + timedelta(minutes=31 if later.exists() else 0)

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["HOST_DATABASE"]
app.config["ARTIFACT_CACHE_COLLECTIONS"] = {"work": os.environ["HOST_COLLECTION"]}
app.config["ARTIFACT_CACHE_POPULATE_ON_STARTUP"] = False
db = SQLAlchemy(app)
ArtifactCache(app, db, clock=clock)
"""


@pytest.fixture
def host(make_app, database_url, sample, tmp_path, populate):
    """Three workers of four threads with a collection that was read; expires once told so."""
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    app = make_app(database_url, {"work": sample.root})
    populate(app)
    (tmp_path / "host.py").write_text(HOST)
    log, later = tmp_path / "log", tmp_path / "later"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "-w", "3", "--threads", "4", "-b", "127.0.0.1:0"),
            *("--keep-alive", "300", "--timeout", "300", "--log-file", str(log), "host:app"),
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "HOST_DATABASE": database_url,
            "HOST_COLLECTION": str(sample.root),
            "HOST_LATER": str(later),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "Listening at: " not in (log.read_text() if log.exists() else ""):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        address = log.read_text().split("Listening at: ")[1].split(" ")[0]
        yield app, int(address.rpartition(":")[2]), later.touch
    finally:
        server.terminate()
        server.wait(30)


async def ask(reader, writer):
    """The status, and the state and description of each artifact that is served."""
    writer.write(f"GET {LIST} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.split("\r\ncontent-length: ")[1].split("\r\n")[0])
    items = json.loads(await reader.readexactly(length)).get("items", [])
    return int(head.split(" ")[1]), {one["id"]: (one["state"], one["description"]) for one in items}


async def crowd(port, expire):
    """What each reader is served before all is stale, and from then on until it is fresh."""
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(READERS)]
    before = await asyncio.gather(*(ask(*one) for one in connections))
    expire()

    async def read_on(connection):
        served = []
        while not served or {state for state, _ in served[-1][1].values()} != {"fresh"}:
            served.append(await ask(*connection))
        return served

    after = await asyncio.gather(*(read_on(one) for one in connections))
    for _, writer in connections:
        writer.close()
    return before, after


def triggers(app):
    """Of the runs that have ended; None while one goes on."""
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        session.rollback()
        runs = session.execute(sa.select(RefreshRun.trigger, RefreshRun.finished_at)).all()
    return None if any(one.finished_at is None for one in runs) else sorted(r[0] for r in runs)


def test_five_hundred_readers_at_the_moment_of_expiry_are_all_served_and_start_one_refresh(
    host, sample
):
    app, port, expire = host
    sample.skill("pdf", "Edited.")

    before, after = asyncio.run(asyncio.wait_for(crowd(port, expire), PATIENCE_S))

    answers = [answer for served in after for answer in served]
    assert {status for status, _ in before + answers} == {200}
    assert {state for _, items in before for state, _ in items.values()} == {"fresh"}
    # What says that it is fresh is; what is not says so, and all of an answer is of one time.
    told = {(state, items["skill:pdf"][1]) for _, items in answers for state, _ in items.values()}
    assert told == {("stale", "Reads PDF files."), ("fresh", "Edited.")}
    # Every worker has found it stale; who comes second finds it done, and takes his run back.
    deadline = time.monotonic() + PATIENCE_S
    while (ended := triggers(app)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert ended == ["populate", "stale"]
