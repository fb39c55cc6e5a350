"""A real daemon process beside a real gunicorn, and what signals and managers do to it."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

TOKEN = "a-token-for-tests-0123456789"
PREFIX = "/api/v1/user-collections"
# The whole proof is two hundred.
EDITS = int(os.environ.get("ARTIFACT_CACHE_TEST_EDITS", "30"))
INTERVAL_S, SETTLE_S = 0.2, 0.1
QUICK = ("--interval", INTERVAL_S, "--settle", SETTLE_S)
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
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, "-m", "gunicorn", "--threads", "4", "--log-level", "error"]
        server = subprocess.Popen(
            [*command, "-b", f"fd://{listener.fileno()}", "host:app"],
            cwd=tmp_path,
            pass_fds=[listener.fileno()],
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

    ask.url = f"http://127.0.0.1:{port}"
    ask.refreshes = lambda: ask("/refreshes?limit=100")["refreshes"]
    try:
        eventually(lambda: ask("/"), 30)
        yield ask
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def watched(served, folder, daemon, token_file, eventually):
    """The daemon that watches the app's collection of two skills."""
    skill(folder, "pdf", "Reads.")
    skill(folder, "csv", "Tables.")
    served.daemon = daemon(
        *("--api-url", served.url, "--token-file", token_file),
        *("--collection", f"work={folder.root}", *QUICK),
    )
    eventually(lambda: listed(served) == {"pdf": "Reads.", "csv": "Tables."}, 20)
    return served


def skill(folder, name, description, parent="skills"):
    file = folder.root / parent / name / "SKILL.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"---\nname: {name}\ndescription: {description}\n---\n")
    return file


def listed(served):
    items = served("/work/artifacts?limit=200").get("items", [])
    return {item["name"]: item["description"] for item in items}


def test_everything_that_happens_to_a_file_is_served(watched, folder, eventually):
    def served_as(**expected):
        eventually(lambda: listed(watched) == expected, 5)

    skill(folder, "new", "Created.")
    served_as(pdf="Reads.", csv="Tables.", new="Created.")
    skill(folder, "new", "Edited..")  # of the same size
    served_as(pdf="Reads.", csv="Tables.", new="Edited..")
    other = folder.root / "skills/new/.SKILL.md.123.tmp"
    other.write_text("---\nname: new\ndescription: Replaced.\n---\n")
    other.replace(folder.root / "skills/new/SKILL.md")
    served_as(pdf="Reads.", csv="Tables.", new="Replaced.")
    (folder.root / "skills/new").rename(folder.root / "skills/renamed")
    eventually(
        lambda: watched("/work/artifacts/skill:new").get("path") == "skills/renamed/SKILL.md", 5
    )
    (folder.root / "more/skills").mkdir(parents=True)
    shutil.move(folder.root / "skills/renamed", folder.root / "more/skills/moved")
    eventually(
        lambda: watched("/work/artifacts/skill:new").get("path") == "more/skills/moved/SKILL.md", 5
    )
    before = watched("/work/artifacts/skill:pdf")
    (folder.root / "skills/pdf/helper.py").write_text("print()")
    after = eventually(
        lambda: (found := watched("/work/artifacts/skill:pdf")) != before and found, 5
    )
    assert after["file_count"] == before["file_count"] + 1
    shutil.rmtree(folder.root / "more")
    served_as(pdf="Reads.", csv="Tables.")
    assert watched.daemon.stop()[0] == 0


def test_a_disk_that_goes_and_comes_back_changes_no_row(watched, folder, eventually):
    before, asked = watched("/work/artifacts"), len(watched.refreshes())
    aside = folder.root.with_name("aside")
    folder.root.rename(aside)
    eventually(lambda: "unavailable" in watched.daemon.text)
    folder.root.mkdir()  # the mount point
    eventually(lambda: "all of its files are gone" in watched.daemon.text)
    assert watched("/work/artifacts") == before
    assert len(watched.refreshes()) == asked

    folder.root.rmdir()
    aside.rename(folder.root)
    skill(folder, "pdf", "Back.")
    eventually(lambda: listed(watched) == {"pdf": "Back.", "csv": "Tables."}, 5)


def test_an_edit_is_served_about_one_interval_later(watched, folder, eventually):
    took_s = []
    for number in range(EDITS):
        skill(folder, "pdf", f"Edit {number}.")
        started = time.monotonic()
        eventually(lambda n=number: listed(watched).get("pdf") == f"Edit {n}.", 10)
        took_s.append(time.monotonic() - started)

    worst = sorted(took_s)[-(-len(took_s) * 99 // 100) - 1]
    assert worst <= INTERVAL_S + SETTLE_S + 0.5, sorted(took_s)[-5:]


def test_five_thousand_edits_in_ten_seconds_are_at_most_three_refreshes(
    watched, folder, eventually
):
    before = len(watched.refreshes())
    started = time.monotonic()
    for number in range(5000):
        (folder.root / "skills/pdf/data.txt").write_text(str(number))
        skill(folder, f"s{number % 40}", f"Edit {number}.")
        if number % 50 == 0:
            time.sleep(max(0.0, started + number / 500 - time.monotonic()))
    last = {f"s{number % 40}": f"Edit {number}." for number in range(4960, 5000)}
    eventually(lambda: last.items() <= listed(watched).items(), 10)

    assert len(watched.refreshes()) - before <= 3


class Silent(BaseHTTPRequestHandler):
    """Takes a request and never answers."""

    def do_POST(self):
        self.server.asked.set()
        self.server.released.wait(30)

    def log_message(self, *_):
        pass


@pytest.fixture
def silent():
    server = HTTPServer(("127.0.0.1", 0), Silent)
    server.asked, server.released = threading.Event(), threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()


def test_a_sigterm_ends_it_in_five_seconds_while_the_app_is_silent(silent, folder, daemon):
    folder.write("a.md")
    process = daemon(
        *("--api-url", f"http://127.0.0.1:{silent.server_port}"),
        *("--collection", f"work={folder.root}", *QUICK),
    )
    assert silent.asked.wait(10)
    for number in (signal.SIGUSR1, signal.SIGHUP) * 5:
        process.send(number)
    code, took_s = process.stop()

    assert code == 0
    assert took_s < 5


DOWN = ("--api-url", "http://127.0.0.1:9")  # nobody is there


def test_a_manager_hears_of_everything_in_its_order(notify, folder, daemon, tmp_path):
    folder.write("a.md")
    config = tmp_path / "daemon.toml"
    config.write_text(f'interval = 0.2\n[collections]\nwork = "{folder.root}"\n')
    process = daemon(
        *("--config", config, *DOWN),
        NOTIFY_SOCKET=notify.address,
        WATCHDOG_USEC="500000",
    )
    assert notify.next().startswith("READY=1\nSTATUS=work: ")
    notify.until("WATCHDOG=1")
    assert "Connection refused" in notify.until("failures")
    process.send(signal.SIGHUP)
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", notify.until("RELOADING"))
    notify.until("READY=1")
    times = []
    while len(times) < 8:
        notify.until("WATCHDOG=1")
        times.append(time.monotonic())
    assert max(b - a for a, b in itertools.pairwise(times)) < 0.45
    config.write_text("interval = soon")
    process.send(signal.SIGHUP)
    notify.until("READY=1")
    code, _ = process.stop()
    messages = notify.drain()

    assert code == 0
    assert "the old configuration stays" in process.text
    assert [text for text in messages if text == "STOPPING=1"] == ["STOPPING=1"]
    assert messages.index("STOPPING=1") >= len(messages) - 2  # but for a last STATUS


def test_a_look_that_hangs_stops_the_pings(notify, folder, daemon, tmp_path):
    folder.write("a.md")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\nlisted = os.scandir\n"
        "def scandir(path):\n"
        "    while str(path).endswith('/root') and os.path.exists(os.environ['HANGS']):\n"
        "        time.sleep(0.01)\n"
        "    return listed(path)\n"
        "os.scandir = scandir\n"
    )
    hangs = tmp_path / "hangs"
    process = daemon(
        *("--collection", f"work={folder.root}", *QUICK, *DOWN),
        NOTIFY_SOCKET=notify.address,
        WATCHDOG_USEC="400000",
        HANGS=str(hangs),
        PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]),
    )
    notify.until("WATCHDOG=1")
    hangs.touch()
    # With nobody at the other end it looks at the folder only once an attempt is due.
    process.send(signal.SIGUSR1)
    deadline = time.monotonic() + 15
    heard = time.monotonic()
    while time.monotonic() - heard < 1.0 and time.monotonic() < deadline:
        if "WATCHDOG=1" in notify.drain()[-1:]:
            heard = time.monotonic()
        notify.messages.append("")
        time.sleep(0.02)
        process.send(signal.SIGUSR1)
    assert time.monotonic() < deadline, "the pings went on"
    hangs.unlink()
    notify.until("WATCHDOG=1")
    assert process.stop()[0] == 0


def test_a_sigusr1_looks_now(folder, daemon, tmp_path, eventually, status_of, silent):
    folder.write("a.md")
    status = tmp_path / "status.json"
    process = daemon(
        *("--collection", f"work={folder.root}", "--interval", "1h", "--status-file", status),
        *DOWN,
    )
    eventually(lambda: [one for one in status_of(status) if one["failures"]])
    before = status_of(status)[0]["failures"]
    process.send(signal.SIGUSR1)
    eventually(lambda: status_of(status)[0]["failures"] > before, 5)
    assert process.stop()[0] == 0
    assert stat.S_IMODE(status.stat().st_mode) & 0o022 == 0


def test_once_looks_tells_and_ends(served, folder, daemon, token_file):
    skill(folder, "pdf", "Reads.")
    arguments = ("--api-url", served.url, "--token-file", token_file, "--once", *QUICK)
    process = daemon(*arguments, "--collection", f"work={folder.root}")
    assert process.popen.wait(20) == 0
    assert listed(served) == {"pdf": "Reads."}
    skill(folder, "csv", "Tables.")
    assert daemon(*arguments, "--collection", f"work={folder.root}").popen.wait(20) == 0
    assert len(listed(served)) == 2
    assert daemon(*DOWN, "--once", "--collection", f"work={folder.root}").popen.wait(20) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--intervall", "5"), 64, "--intervall"),
        (("--interval", "soon"), 64, "--interval must be seconds"),
        (("--config", "/nowhere.toml"), 78, "/nowhere.toml cannot be read"),
        (("--token-file", "/nowhere"), 78, "No such file"),
    ],
)
def test_what_is_wrong_is_said_and_has_its_exit_code(daemon, arguments, code, said):
    process = daemon(*arguments)

    assert process.popen.wait(10) == code
    assert said in process.text


def test_a_second_daemon_on_the_same_state_is_refused(folder, daemon, eventually):
    first = daemon("--collection", f"work={folder.root}", *DOWN)
    eventually(lambda: "failure 1" in first.text)
    second = daemon("--collection", f"work={folder.root}", *DOWN)

    assert second.popen.wait(10) == 75
    assert f"process {first.popen.pid}" in second.text
    assert first.stop()[0] == 0


def test_it_runs_as_systemd_would_start_it(served, folder, daemon, notify, tmp_path, eventually):
    """With a credential, a state directory and a socket to report to."""
    skill(folder, "pdf", "Reads.")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "token").write_text(TOKEN)
    (tmp_path / "lib").mkdir()
    process = daemon(
        *("--api-url", served.url, "--collection", f"work={folder.root}", *QUICK),
        *("--state-dir", tmp_path / "lib"),
        CREDENTIALS_DIRECTORY=str(credentials),
        NOTIFY_SOCKET=notify.address,
    )
    notify.until("READY=1")
    assert "told at" in notify.until("told at")
    assert process.stop()[0] == 0
    assert (tmp_path / "lib" / "work.state").exists()
    assert TOKEN not in process.text
    assert not any(TOKEN in message for message in notify.drain())


def test_a_hint_of_the_system_shortens_the_wait(
    served, folder, daemon, token_file, eventually, tmp_path
):
    pytest.importorskip("watchfiles", reason="the extra 'watch' is not installed")
    skill(folder, "pdf", "Reads.")
    daemon(
        *("--api-url", served.url, "--token-file", token_file, "--watch"),
        *("--collection", f"work={folder.root}", "--interval", "1h", "--settle", SETTLE_S),
    )
    eventually(lambda: listed(served) == {"pdf": "Reads."}, 20)
    time.sleep(0.5)  # until it listens
    skill(folder, "pdf", "Hinted.")
    eventually(lambda: listed(served) == {"pdf": "Hinted."}, 5)


def test_the_app_says_what_to_watch(served, folder, daemon, token_file, eventually):
    skill(folder, "pdf", "Reads.")
    process = daemon("--api-url", served.url, "--token-file", token_file, *QUICK)
    if "path" in served("/")["collections"][0]:
        pytest.fail("a path is told to somebody without a token")
    eventually(lambda: listed(served) or process.popen.poll() is not None, 20)
    if process.popen.poll() is not None:  # an app that tells nobody
        assert process.popen.returncode == 78
        assert "pass --collection ID=PATH" in process.text
