"""One refresh at a time, whoever asks, wherever they run, and whenever they are killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
import sqlalchemy as sa

from flask_artifact_cache import (
    ArtifactManager,
    CollectionManager,
    migrate_artifacts_to_default_collection,
)
from flask_artifact_cache.errors import BusyError
from flask_artifact_cache.freshness import INVALIDATED
from flask_artifact_cache.models import Artifact, Collection, RefreshRun
from flask_artifact_cache.refresh import lease as leases
from flask_artifact_cache.refresh import requests, runs
from flask_artifact_cache.refresh.selection import Selection

from .cached import Cache, contents, counts, differences, empty, hurry

LIST = "/api/v1/user-collections/work/artifacts"
PATIENCE_S = 30
# The whole proof is fifty.
KILLS = int(os.environ.get("ARTIFACT_CACHE_TEST_KILLS", "12"))


def engine_of(app):
    with app.app_context():
        return app.extensions["sqlalchemy"].engine


@pytest.fixture
def cache(make_app, tables_url, sample, clock):
    cache = Cache(engine_of(make_app(tables_url)), sample.root, clock=clock)
    cache.refresh()
    return cache


@contextmanager
def executor():
    with ThreadPoolExecutor(20) as pool:
        yield pool


class Hold:
    """Stops a refresh at its first report of progress until it is let go."""

    def __init__(self):
        self.entered, self.go_on = threading.Event(), threading.Event()

    def __call__(self, done, total):
        self.entered.set()
        assert self.go_on.wait(PATIENCE_S)


@contextmanager
def held(cache, **order):
    """A refresh in another thread that has looked at everything and written nothing yet."""
    hold = Hold()
    with executor() as pool:
        first = pool.submit(cache.refresher(progress=hold).refresh, cache.order(**order))
        try:
            assert hold.entered.wait(PATIENCE_S)
            yield first, hold, pool
        finally:
            hold.go_on.set()


def all_runs(cache):
    with cache.engine.connect() as connection:
        return connection.execute(sa.select(*RefreshRun.__table__.columns)).mappings().all()


def outcomes(cache):
    return sorted(run["outcome"] for run in all_runs(cache))


def until(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited for in vain"
        time.sleep(0.01)


def set_(cache, model, **values):
    with cache.engine.begin() as connection:
        connection.execute(sa.update(model).values(**values))


def test_a_different_refresh_waits_for_its_turn(cache, sample):
    with held(cache, force=True) as (first, hold, pool):
        sample.skill("pdf", "Edited.")
        waits = threading.Event()

        def sleep(seconds):
            waits.set()
            time.sleep(seconds)

        patient = cache.refresher(wait_s=PATIENCE_S, sleep=sleep)
        second = pool.submit(patient.refresh, cache.order(types=["skill"]))
        assert waits.wait(PATIENCE_S)
        assert not second.done()
        assert sorted(run["outcome"] for run in all_runs(cache)) == [
            "queued",
            "running",
            "succeeded",
        ]
        hold.go_on.set()

        [report] = first.result().reports
        assert counts(report) == {"unchanged": 6}
        [report] = second.result().reports
        assert counts(report) == {"updated": 1, "unchanged": 2, "skipped": 3}
        assert not second.result().joined


def test_a_row_that_is_invalidated_while_its_file_is_open_stays_so(cache, sample):
    class Slow(ArtifactManager):
        def read(self, place):
            found = super().read(place)
            set_(cache, Artifact, condition=INVALIDATED)
            return found

    cache.manager = Slow(sample.root, collection_id=cache.id, clock_ns=cache.manager.clock_ns)
    cache.refresh(force=True)

    assert set(cache.of_each(Artifact.condition).values()) == {INVALIDATED}


def test_whoever_waits_too_long_is_told_when_to_come_back(cache):
    with held(cache, force=True) as (first, hold, _):
        with pytest.raises(BusyError, match="work") as caught:
            cache.refresher(wait_s=0.1).refresh(cache.order(types=["skill"]))
        assert 1 <= caught.value.retry_after <= 60
        assert len(all_runs(cache)) == 2  # what never began is no run
        hold.go_on.set()
        assert counts(first.result().reports[0]) == {"unchanged": 6}


@pytest.mark.parametrize("force", [True, False])
def test_identical_refreshes_are_one_and_know_of_every_edit_before_them(cache, sample, force):
    sample.skill("charts", "Edited before.")
    with held(cache, force=force) as (first, hold, pool):
        # Its file was looked at already.
        sample.skill("pdf", "Edited behind its back.")
        shutil.rmtree(sample.root / "skills/csv")
        others = [pool.submit(cache.refresher().refresh, cache.order(force=force)) for _ in "1234"]
        until(lambda: max(run["joins"] for run in all_runs(cache)) == 4)
        assert not any(one.done() for one in others)
        hold.go_on.set()

        results = [first.result(), *(one.result() for one in others)]

    assert {one.refresh_id for one in results} == {results[0].refresh_id}
    assert [one.joined for one in results] == [False, True, True, True, True]
    for one in results:
        assert counts(one.reports[0]) == {"updated": 2, "removed": 1, "unchanged": 3}
    assert len(all_runs(cache)) == 2
    said = cache.of_each(Artifact.description)
    assert said["skills/pdf/SKILL.md"] == "Edited behind its back."
    assert "skills/csv/SKILL.md" not in said


def test_what_asks_for_something_else_does_not_join(cache):
    with held(cache, force=True):
        for other in ({}, {"force": True, "types": ["skill"]}, {"paths": [".mcp.json"]}):
            with pytest.raises(BusyError):
                cache.refresher().refresh(cache.order(**other))


def test_a_joined_refresh_that_fails_fails_for_all(cache):
    class BrokenError(Exception):
        pass

    hold = Hold()

    def fail(done, total):
        hold(done, total)
        raise BrokenError

    with executor() as pool:
        first = pool.submit(cache.refresher(progress=fail).refresh, cache.order(force=True))
        assert hold.entered.wait(PATIENCE_S)
        second = pool.submit(cache.refresher().refresh, cache.order(force=True))
        until(lambda: max(run["joins"] for run in all_runs(cache)) == 1)
        hold.go_on.set()
        assert isinstance(first.exception(), BrokenError)
        assert second.exception().code == "internal_error"
    assert counts(cache.refresh()) == {"unchanged": 6}


def test_a_holder_that_slept_past_its_lease_writes_nothing_when_it_wakes(cache, sample):
    sample.skill("pdf", "As the sleeper saw it.")
    with held(cache, force=True) as (first, hold, _):
        set_(cache, Collection, lease_until_ms=1)
        sample.skill("pdf", "As it is.")
        sample.skill("new")
        assert counts(cache.refresh()) == {"created": 1, "updated": 1, "unchanged": 5}
        after = contents(cache.engine)
        hold.go_on.set()
        assert isinstance(first.exception(), BusyError)

    assert contents(cache.engine) == after
    assert outcomes(cache) == ["failed", "succeeded", "succeeded"]
    assert counts(cache.refresh()) == {"unchanged": 7}


# --- other processes -----------------------------------------------------------------------------

# Refreshes in a child for every line it is sent, and says when that has ended.
FORKING = """
import os, sys, time
import sqlalchemy as sa
from flask_artifact_cache import ArtifactManager
from flask_artifact_cache.refresh.requests import Refresher
from flask_artifact_cache.refresh.run import Order
from flask_artifact_cache.refresh.selection import Selection
from flask_artifact_cache.refresh.transactions import on_engine

url, root = sys.argv[1:]
manager = ArtifactManager(root, collection_id="work")

def refresh(hold):
    def wait(done, total):
        print("held", flush=True)
        time.sleep(60)

    options = {"progress": wait} if hold else {}
    refresher = Refresher(on_engine(sa.create_engine(url)), {"work": manager}, **options)
    refresher.refresh(Order(Selection("work"), force=hold))

for line in sys.stdin:
    child = os.fork()
    if not child:
        refresh(line == "hold\\n")
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@pytest.fixture
def forking(tmp_path):
    """Starts refreshes in processes that a test may kill."""
    started = []

    def start(url, root):
        script = tmp_path / "forking.py"
        script.write_text(FORKING)
        process = subprocess.Popen(
            [sys.executable, script, url, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(process)

        def refresh(word="refresh"):
            process.stdin.write(f"{word}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        return refresh, process.stdout.readline

    yield start
    for process in started:
        process.stdin.close()
        process.wait(PATIENCE_S)
        process.stdout.close()


def test_a_run_whose_process_died_is_shown_as_failed_and_nobody_waits_for_it(
    make_app, tables_url, sample, clock, forking
):
    cache = Cache(engine_of(make_app(tables_url)), sample.root, clock=clock)
    cache.refresh()
    before = contents(cache.engine)
    sample.skill("pdf", "Edited.")
    refresh, said = forking(tables_url, sample.root)
    child = refresh("hold")
    assert said() == "held\n"
    os.kill(child, signal.SIGKILL)
    assert said() == "ended\n"
    assert contents(cache.engine) == before

    [died] = [run for run in all_runs(cache) if run["outcome"] == "running"]
    with pytest.raises(BusyError):  # nobody knows yet
        cache.refresh()
    set_(cache, Collection, lease_until_ms=1)
    set_(cache, RefreshRun, alive_until_ms=1)

    with cache.engine.connect() as connection:
        assert runs.one(connection, died["id"])["outcome"] == "failed"
    [result] = [cache.refresher().refresh(cache.order(force=True))]
    assert (result.joined, result.refresh_id == died["id"]) == (False, False)
    assert counts(result.reports[0]) == {"updated": 1, "unchanged": 5}


def test_killed_at_any_moment_and_no_reader_ever_saw_a_part(
    make_app, sqlite_url, collection, forking
):
    seed = random.Random(3)
    many = 40

    def write(generation):
        for number in range(many):
            collection.skill(f"skill-{number:03}", f"Of {generation}.", tags=f"[gen-{generation}]")
        # One comes and one goes with each generation.
        shutil.rmtree(collection.root / f"skills/odd-{generation - 1}", ignore_errors=True)
        collection.skill(f"odd-{generation}", tags=f"[gen-{generation}]")

    app = make_app(sqlite_url, {"work": collection.root})
    cache = Cache(engine_of(app), collection.root, clock_ns=time.time_ns)
    hurry(cache.engine)
    with cache.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    fresh = Cache(engine_of(make_app("sqlite://")), collection.root)
    write(0)
    cache.refresh()
    stop = threading.Event()
    pages, mixed = [], []

    def read():
        client = app.test_client()
        while not stop.is_set():
            page = client.get(f"{LIST}?limit=200").json
            seen = {tag for item in page["items"] for tag in item["tags"]}
            pages.append(seen)
            if len(seen) != 1 or len(page["items"]) != many + 1:
                mixed.append((seen, len(page["items"])))
            [tag] = client.get("/api/v1/user-collections/work/facets").json["facets"]["tag"]
            if tag["count"] != many + 1:
                mixed.append(tag)
            stop.wait(0.005)

    reader = threading.Thread(target=read)
    reader.start()
    refresh, said = forking(sqlite_url, collection.root)
    try:
        took = []
        for generation in range(1, 4):
            write(generation)
            started = time.monotonic()
            refresh()
            said()
            took.append(time.monotonic() - started)
        died = 0
        for generation in range(4, 4 + KILLS):
            write(generation)
            child = refresh()
            time.sleep(seed.random() * min(took))
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            assert said() == "ended\n"
            [tags] = {tuple(one) for one in cache.of_each(Artifact.tags).values()}
            died += tags != (f"gen-{generation}",)
            set_(cache, Collection, lease_until_ms=0)
            set_(cache, RefreshRun, alive_until_ms=0)
            cache.refresh()
            empty(fresh.engine)
            fresh.refresh(force=True)
            assert differences(contents(cache.engine), contents(fresh.engine)) == {}
    finally:
        stop.set()
        reader.join()

    assert mixed == []
    assert len(pages) > KILLS
    assert died > 0


HOST = """
import json, os, sys
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_artifact_cache import ArtifactCache
from flask_artifact_cache.refresh.selection import Selection

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["HOST_DATABASE"]
app.config["ARTIFACT_CACHE_COLLECTIONS"] = {"work": os.environ["HOST_COLLECTION"]}
app.config["ARTIFACT_CACHE_TOKENS"] = ["a-token-that-is-long-enough-to-be-taken"]
app.config["ARTIFACT_CACHE_REFRESH_LIMIT"] = None
app.config["ARTIFACT_CACHE_POPULATE_ON_STARTUP"] = False
db = SQLAlchemy(app)
cache = ArtifactCache(app, db)

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    with app.app_context():
        print(json.dumps(cache.service.refresh(Selection("work"), force=True).as_dict()))
"""


def test_fifty_requests_to_four_workers_and_another_process_are_one_refresh(
    make_app, tables_url, collection, tmp_path
):
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    for number in range(200):
        collection.skill(f"skill-{number:04}")
    cache = Cache(engine_of(make_app(tables_url)), collection.root)
    cache.refresh()
    for number in range(5):
        collection.skill(f"skill-{number:04}", "Was edited.")
    # Somebody else holds the lease until all have come: on a busy machine that takes a while.
    set_(cache, Collection, lease_holder="somebody", lease_until_ms=2**52)
    (tmp_path / "host.py").write_text(HOST)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = f"http://127.0.0.1:{port}/api/v1/user-collections"
    environment = {
        **os.environ,
        "HOST_DATABASE": tables_url,
        "HOST_COLLECTION": str(collection.root),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    # Four processes that were one import.
    command = [sys.executable, "-m", "gunicorn", "-w", "4", "--preload", "--threads", "50"]
    command += ["-b", f"127.0.0.1:{port}", "--log-level", "warning", "host:app"]
    server = subprocess.Popen(command, cwd=tmp_path, env=environment)
    other = subprocess.Popen(
        [sys.executable, "host.py"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def is_up():
        try:
            with urllib.request.urlopen(f"{base}/") as response:
                return response.status == 200
        except OSError:
            return False

    together = threading.Barrier(50)

    def post(_):
        request = urllib.request.Request(
            f"{base}/refresh-metadata",
            json.dumps({"collection_id": "work", "force": True}).encode(),
            {
                "Content-Type": "application/json",
                "Authorization": "Bearer a-token-that-is-long-enough-to-be-taken",
            },
        )
        if together.wait(PATIENCE_S) == 0:
            other.stdin.write("go\n")
            other.stdin.flush()
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    try:
        until(is_up)
        assert other.stdout.readline() == "ready\n"
        with ThreadPoolExecutor(50) as pool:
            posts = [pool.submit(post, number) for number in range(50)]
            until(lambda: any(run["joins"] == 50 for run in all_runs(cache)))
            set_(cache, Collection, lease_until_ms=0)
            results = [one.result() for one in posts]
        results.append(json.loads(other.communicate(timeout=60)[0]))
    finally:
        server.terminate()
        server.wait(PATIENCE_S)
        other.kill()
        other.communicate()

    assert [one for one in results if one != results[0]] == []
    assert (results[0]["artifacts_refreshed"], results[0]["updated"]) == (200, 5)
    assert outcomes(cache) == ["succeeded", "succeeded"]
    assert max(run["joins"] for run in all_runs(cache)) == 50


def test_refreshes_of_all_and_of_one_at_once_do_not_wait_for_each_other_for_ever(
    make_app, tables_url, sample, tmp_path
):
    home, own = tmp_path / "home", tmp_path / "default"
    for root in (home, own):
        (root / "skills/one").mkdir(parents=True)
    # The collection that gathers comes first by name, and has artifacts of its own.
    collections = {"default": own, "home": home, "work": sample.root}
    app = make_app(tables_url, collections)
    with app.app_context():
        manager = CollectionManager(collections)
        session = app.extensions["sqlalchemy"].session
        migrate_artifacts_to_default_collection(session, manager.artifacts("default"), manager)
        session.commit()
        service = app.extensions["artifact_cache"].service

    def call(method, *arguments, **options):
        with app.app_context():
            return getattr(service, method)(*arguments, **options)

    for number in range(6):
        for root in (home, own, sample.root / "x"):
            file = root / "skills/one/SKILL.md"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"---\nname: one\ndescription: Number {number}.\n---\n")
        with executor() as pool:
            asked = [pool.submit(call, "refresh", Selection(one)) for one in (None, *collections)]
            asked += [pool.submit(call, "invalidate", one) for one in (None, "work")]
            for one in asked:
                assert one.exception() is None
    call("refresh")
    assert {tuple(row) for row in Cache(engine_of(app), own).rows(Artifact.condition)} == {("ok",)}


def test_a_look_that_takes_longer_than_the_lease_keeps_it(app, sample, monkeypatch):
    """The lease and its heartbeat are made quick here, instead of the disk slow."""
    monkeypatch.setattr(leases, "LEASE_MS", 600)
    monkeypatch.setattr(requests, "BEAT_S", 0.1)
    cache = Cache(engine_of(app), sample.root)
    entered, go = threading.Event(), threading.Event()

    def slow(_):
        entered.set()
        assert go.wait(PATIENCE_S)

    with executor() as pool:
        first = pool.submit(lambda: cache.refresher(observe=slow).refresh(cache.order(force=True)))
        assert entered.wait(PATIENCE_S)
        time.sleep(1.0)
        with pytest.raises(BusyError):
            cache.refresher(joins=False).refresh(cache.order())
        go.set()
        assert first.result().reports[0].outcome == "succeeded"
    with cache.engine.connect() as connection:
        assert connection.scalar(sa.select(Collection.lease_holder)) is None
