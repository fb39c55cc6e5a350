"""A folder, a clock that a test moves, an app that answers as told, and a daemon in a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("schedule", reason="the extra 'daemon' is not installed")
pytest.importorskip("urllib3", reason="the extra 'daemon' is not installed")

from artifact_cache_daemon.collection import Collection
from artifact_cache_daemon.delivery import Answer, UnreachableError
from artifact_cache_daemon.settings import load, parser
from artifact_cache_daemon.state import Store

TOKEN = "a-token-for-tests-0123456789"
RUN = "0123456789abcdef" * 2
PREFIX = "/api/v1/user-collections"


class Clock:
    """Seconds, which pass when a test says so."""

    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now

    def pass_(self, seconds):
        self.now += seconds


class Folder:
    """A collection's root; every write leaves a trace in the evidence."""

    def __init__(self, root):
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._probe = root.with_name(f"{root.name}.probe")
        self._tick = 1_700_000_000_123_456_789

    def tick(self):
        """Let the system's own clock go on: what comes gets another time than what was."""
        self._probe.touch()
        before_ns = self._probe.stat().st_ctime_ns
        while self._probe.stat().st_ctime_ns == before_ns:
            self._probe.touch()

    def write(self, path, text="text"):
        self.tick()
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        # A time of its own, and one that is not young for whoever looks at it now.
        self._tick += 1_000_003
        os.utime(file, ns=(self._tick, self._tick))
        return file

    def skill(self, name, description, parent="skills"):
        file = self.root / parent / name / "SKILL.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"---\nname: {name}\ndescription: {description}\n---\n")
        return file

    def remove(self, path):
        self.tick()
        (self.root / path).unlink()


class App:
    """Answers refreshes as it is told to, and remembers what it was asked."""

    def __init__(self):
        self.asked = []
        self.answers = []

    def refresh(self, body):
        self.asked.append(body)
        answer = self.answers.pop(0) if self.answers else ok()
        if callable(answer):
            answer = answer(body)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def paths(self):
        return [sorted(body["paths"]) for body in self.asked if "paths" in body]


def ok(**more):
    return Answer(200, {"refresh_id": RUN, "artifacts_refreshed": 1, **more})


def problem(status, code="some_code", retry_after_s=None):
    return Answer(status, {"code": code, "status": status, "refresh_id": RUN}, retry_after_s)


def unreachable():
    return UnreachableError("the app cannot be reached: Connection refused")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "root")


@pytest.fixture
def app():
    return App()


@pytest.fixture
def settings(tmp_path):
    def make(*arguments, **environ):
        given = parser().parse_args(["--state-dir", str(tmp_path / "state"), *arguments])
        return load(given, environ)

    return make


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "state")
    yield store
    store.close()


@pytest.fixture
def collection(folder, app, clock, settings):
    """Makes a collection whose time is the test's; each poll is five seconds after the last."""

    def make(*arguments, store=None, chance=lambda: 1.0, wall=lambda: clock() + 2e9):
        return Collection(
            "work",
            str(folder.root),
            settings(*arguments),
            app,
            store,
            clock=clock,
            wall=wall,
            chance=chance,
        )

    return make


@pytest.fixture
def poll(clock):
    def run(collection, times=1, every=5.0):
        for _ in range(times):
            collection.turn()
            clock.pass_(every)

    return run


class NotifySocket:
    """Where a service manager listens."""

    def __init__(self, path):
        self.address = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + path[1:] if path.startswith("@") else path)
        self.socket.settimeout(10)
        self.messages = []

    def next(self):
        message = self.socket.recv(4096).decode()
        self.messages.append(message)
        return message

    def until(self, text):
        while text not in self.next():
            pass
        return self.messages[-1]

    def drain(self):
        self.socket.setblocking(False)
        try:
            while True:
                self.next()
        except BlockingIOError:
            pass
        self.socket.settimeout(10)
        return self.messages


@pytest.fixture
def notify(tmp_path):
    listener = NotifySocket(str(tmp_path / "notify"))
    yield listener
    listener.socket.close()


class Process:
    """A daemon in a process of its own."""

    def __init__(self, arguments, environ, log, run_by=()):
        kept = {name: value for name, value in os.environ.items() if "SOCKET" not in name}
        kept["PYTHONPATH"] = os.pathsep.join(sys.path)
        self.log = log
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                [*run_by, sys.executable, "-W", "error", "-m", "artifact_cache_daemon", *arguments],
                env={**kept, **environ},
                stderr=out,
                stdout=out,
            )

    def send(self, number):
        self.popen.send_signal(number)

    def stop(self):
        """End it as a service manager does; the exit code and how long that took."""
        started = time.monotonic()
        self.send(signal.SIGTERM)
        return self.popen.wait(10), time.monotonic() - started

    @property
    def text(self):
        return self.log.read_text()


@pytest.fixture
def daemon(tmp_path):
    started = []

    def start(*arguments, run_by=(), **environ):
        state = () if "--state-dir" in arguments else ("--state-dir", str(tmp_path / "state"))
        arguments = [*state, *map(str, arguments)]
        process = Process(arguments, environ, tmp_path / "daemon.log", run_by)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.wait(10)


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    return file


def eventually(condition, seconds=10.0, every=0.005):
    """The first true answer; fails if there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(every)


def read_status(file: Path):
    try:
        return json.loads(file.read_text())["collections"]
    except (FileNotFoundError, json.JSONDecodeError):
        return []


@pytest.fixture
def answers():
    """What the app can answer."""
    return SimpleNamespace(ok=ok, problem=problem, unreachable=unreachable)


@pytest.fixture(name="eventually")
def eventually_fixture():
    return eventually


@pytest.fixture
def status_of():
    return read_status


@pytest.fixture
def notify_socket():
    made = []

    def make(address):
        made.append(NotifySocket(address))
        return made[-1]

    yield make
    for one in made:
        one.socket.close()


class Handler(BaseHTTPRequestHandler):
    """Remembers what it was asked, and does as its server is told to."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        self.server.asked.append((self.path, dict(self.headers), self.rfile.read(length)))
        self.server.peers.add(self.client_address or id(self.connection))
        self.server.act(self)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_):
        pass

    def answer(self, status=200, data=None, **headers):
        if data is None:
            data = {"refresh_id": RUN, "artifacts_refreshed": 1}
        if not isinstance(data, bytes):
            data = json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a client that has lost its patience


class UnixServer(Server):
    address_family = socket.AF_UNIX

    def server_bind(self):
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = "unix", 0


@pytest.fixture
def server():
    """A server that does as told with each request, and may be told otherwise later."""
    started = []

    def start(act=Handler.answer, address=None):
        made = UnixServer(address, Handler) if address else Server(("127.0.0.1", 0), Handler)
        made.act, made.asked, made.peers = act, [], set()
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        made.url = f"http://127.0.0.1:{made.server_port}"
        started.append(made)
        return made

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


HOST = """
import os
from flask import Flask, jsonify
from flask_sqlalchemy import SQLAlchemy
from flask_artifact_cache import ArtifactCache

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["HOST_DATABASE"]
app.config["ARTIFACT_CACHE_COLLECTIONS"] = {"work": os.environ["HOST_COLLECTION"]}
app.config["ARTIFACT_CACHE_TOKENS"] = [os.environ["HOST_TOKEN"]]
app.config["ARTIFACT_CACHE_REFRESH_LIMIT"] = None
app.config["ARTIFACT_CACHE_POPULATE_ON_STARTUP"] = False
# What is refreshed is refreshed because the daemon has asked for it.
app.config["ARTIFACT_CACHE_BACKGROUND"] = "none"
db = SQLAlchemy(app)
ArtifactCache(app, db)
with app.app_context():
    with db.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    db.create_all()
"""


@pytest.fixture
def served(folder, tmp_path, eventually):
    """The app behind a gunicorn; gives a function that asks it."""
    pytest.importorskip("gunicorn", reason="gunicorn is not installed")
    (tmp_path / "host.py").write_text(HOST)
    # A short name: the address of a socket may have some hundred bytes.
    by_file = Path(tempfile.mkdtemp(prefix="served-")) / "app.sock"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as other,
    ):
        port = listener.getsockname()[1]
        other.bind(str(by_file))
        other.listen()
        command = [sys.executable, "-m", "gunicorn", "--threads", "4", "--log-level", "error"]
        server = subprocess.Popen(
            [
                *command,
                *("-b", f"fd://{listener.fileno()}", "-b", f"fd://{other.fileno()}"),
                "host:app",
            ],
            cwd=tmp_path,
            pass_fds=[listener.fileno(), other.fileno()],
            env={
                **os.environ,
                "HOST_DATABASE": f"sqlite:///{tmp_path / 'host.db'}",
                "HOST_COLLECTION": str(folder.root),
                "HOST_TOKEN": TOKEN,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )

    def ask(path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{PREFIX}{path}") as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            error.close()
            return {}

    def listed():
        items = ask("/work/artifacts?limit=200").get("items", [])
        return {item["name"]: item["description"] for item in items}

    ask.listed = listed
    ask.socket_url = f"unix:{by_file}:{PREFIX}"
    ask.url = f"http://127.0.0.1:{port}"
    ask.refreshes = lambda: ask("/refreshes?limit=100")["refreshes"]
    try:
        eventually(lambda: ask("/"), 30)
        yield ask
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(by_file.parent)
