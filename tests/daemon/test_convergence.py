"""Whatever happens on the way, the rows are in the end what a fresh populate would make of them."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import sqlalchemy as sa
from werkzeug.serving import WSGIRequestHandler, make_server

from artifact_cache_daemon.collection import Collection
from artifact_cache_daemon.delivery import Api
from artifact_cache_daemon.state import Store
from flask_artifact_cache.models import Artifact

TOKEN = "a-token-for-tests-0123456789"
PREFIX = "/api/v1/user-collections"
# The whole proof is two thousand; see docs/daemon.md.
SCHEDULES = int(os.environ.get("ARTIFACT_CACHE_TEST_SCHEDULES", "6"))
# A request that hangs is given up after this.
TIMEOUT_S = 0.25


class Quiet(WSGIRequestHandler):
    def log_request(self, *_):
        pass


class Proxy:
    """Stands between the daemon and the app, and does to a request what a network can do to it."""

    KINDS = ("drop request", "drop response", "429", "500", "503", "401", "hang", "half", "html")

    def __init__(self, port):
        self.trouble = []
        self.calls = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                proxy.calls += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                kind = proxy.trouble.pop(0) if proxy.trouble else "none"
                if kind == "drop request":
                    self.close_connection = True
                elif kind.isdigit():
                    self.answer(int(kind), b'{"code": "trouble"}')
                elif kind == "html":
                    self.answer(200, b"<html>Log in</html>")
                else:
                    upstream = HTTPConnection("127.0.0.1", port, timeout=30)
                    upstream.request("POST", self.path, body, dict(self.headers))
                    answer = upstream.getresponse()
                    data = answer.read()
                    upstream.close()
                    if kind == "hang":
                        time.sleep(2 * TIMEOUT_S)
                    if kind in ("hang", "drop response"):
                        self.close_connection = True
                        return
                    self.answer(answer.status, data, cut=kind == "half")

            def answer(self, status, data, cut=False):
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                if status in (429, 503):
                    self.send_header("Retry-After", "1")
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if cut else data)
                self.close_connection = self.close_connection or cut

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass  # the daemon has gone; that is the point

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def served(make_app, sqlite_url, folder):
    """The real extension behind a proxy."""
    app = make_app(
        sqlite_url,
        {"work": folder.root},
        ARTIFACT_CACHE_TOKENS=[TOKEN],
        ARTIFACT_CACHE_REFRESH_LIMIT=None,
        # Schedules delete most of a small collection at once, on purpose.
        ARTIFACT_CACHE_MASS_LOSS_PERCENT=100,
    )
    with app.app_context(), app.extensions["sqlalchemy"].engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    proxy = Proxy(server.server_port)
    yield app, proxy
    proxy.close()
    server.shutdown()
    server.server_close()
    thread.join(10)


def rows(app):
    left_out = {"id", "synced_at", "updated_at", "created_at", "evidence"}
    columns = [one for one in Artifact.__table__.columns if one.name not in left_out]
    with app.app_context():
        found = app.extensions["sqlalchemy"].session.execute(sa.select(*columns)).mappings().all()
        app.extensions["sqlalchemy"].session.remove()
    return {row["uid"]: dict(row) for row in found}


class Schedule:
    """A seeded sequence of file operations and of everything that can go wrong."""

    def __init__(self, chance, folder, number=0):
        self.chance = chance
        self.folder = folder
        self.number = number

    def path(self):
        name = self.chance.choice("abcdefgh")
        return self.chance.choice((f"skills/{name}", f"more/skills/{name}"))

    def text(self, name):
        self.number += 1
        head = f"name: {name}\ndescription: Number {self.number}."
        if self.chance.random() < 0.1:
            head = "]["  # cannot be read
        return f"---\n{head}\n---\n"

    def operate(self):
        kind = self.chance.choice(
            ("write", "write", "write", "replace", "move", "delete", "inside", "touch", "truncate")
        )
        path = self.path()
        place = self.folder.root / path
        file = place / "SKILL.md"
        if kind == "write" or not file.exists():
            self.write(file, self.text(place.name))
        elif kind == "replace":
            new = file.with_name("SKILL.md.tmp")
            self.write(new, self.text(place.name))
            new.replace(file)
        elif kind == "move":
            target = self.folder.root / self.path()
            if target != place and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                place.rename(target)
        elif kind == "delete":
            shutil.rmtree(place)
        elif kind == "inside":
            self.write(place / "scripts" / "run.py", f"print({self.number})")
        elif kind == "touch":
            os.utime(file, ns=(1_600_000_000_000_000_001, 1_600_000_000_000_000_001))
        else:
            file.write_text("")

    def mend(self):
        """Leave no file that cannot be read: of such a one the last good data stays, on purpose."""
        for file in sorted(self.folder.root.rglob("SKILL.md")):
            if "name:" not in file.read_text():
                self.write(file, f"---\nname: mended\ndescription: Of {file.parent.name}.\n---\n")

    def write(self, file, text):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_after_any_schedule_the_rows_equal_a_fresh_populate(
    seed, served, folder, clock, settings, tmp_path, make_app, populate
):
    app, proxy = served
    # What runs beside has a chance of its own: the rest is the same again with the same seed.
    chance = random.Random(seed)
    schedule = Schedule(chance, folder)
    beside = Schedule(random.Random(f"beside {seed}"), folder, 10_000)
    for _ in range(6):
        schedule.operate()
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    options = settings(
        *("--api-url", f"http://127.0.0.1:{proxy.port}{PREFIX}"),
        *("--token-file", str(tmp_path / "token"), "--timeout", str(TIMEOUT_S)),
    )
    store = Store(tmp_path / "state")

    def start():
        api = Api(options.api_url, options.token, options.timeout, "artifact-cache-daemon/test")
        made = Collection(
            "work",
            str(folder.root),
            options,
            api,
            store,
            clock=clock,
            chance=chance.random,
        )
        return made, api

    collection, api = start()
    for _ in range(25):
        for _ in range(chance.choice((0, 0, 1, 1, 2, 5))):
            schedule.operate()
        if chance.random() < 0.4:
            hangs = Proxy.KINDS.index("hang")
            kinds = [*Proxy.KINDS[:hangs], *Proxy.KINDS[hangs + 1 :]] * 4 + ["hang"]
            proxy.trouble = chance.choices(kinds, k=chance.choice((1, 2, 3)))
        if chance.random() < 0.1:
            # While it looks and while the app reads.
            mover = threading.Thread(target=lambda: [beside.operate() for _ in range(3)])
            mover.start()
        else:
            mover = None
        folder.tick()
        collection.turn()
        if mover:
            mover.join()
        clock.pass_(chance.choice((0.3, 1.0, 1.5, 5.0)))
        if chance.random() < 0.12:  # kill -9, or an orderly end
            if chance.random() < 0.3:
                collection.close()
            api.close()
            collection, api = start()
    proxy.trouble = []
    schedule.mend()
    # Its clock runs ahead of the app's, which on a busy machine may need more than that moment.
    api._timeout_s = 30
    for _ in range(40):
        collection.turn()
        clock.pass_(10.0)
        if collection.is_done:
            break
    assert collection.is_done
    api.close()
    store.close()

    fresh = make_app(f"sqlite:///{tmp_path / 'fresh.db'}", {"work": folder.root})
    with contextlib.suppress(FileNotFoundError):
        populate(fresh)
    assert rows(app) == rows(fresh)
