"""A fake GitHub, a client with a clock that stands still, and a guard against any other host."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("urllib3")

from flask_artifact_cache.upstream.github import GitHub

from .fakegithub import NOW, TOKEN


class Time:
    """Nothing sleeps: it is noted, and the clock moves."""

    def __init__(self):
        self.now, self.slept = float(NOW), []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch):
    connect = socket.socket.connect

    def guarded(self, address):
        host = address[0] if isinstance(address, tuple) else "127.0.0.1"
        if not (host.startswith("127.") or host in ("::1", "localhost")):
            pytest.fail(f"a test connects to {host}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def time_():
    return Time()


@pytest.fixture
def github(fake, time_, tmp_path):
    """Make clients of the fake; all are closed at the end."""
    made = []

    def make(token=TOKEN, url=None, **options):
        options = {
            "sleep": time_.sleep,
            "clock": time_,
            "monotonic": time_,
            "luck": lambda: 0.5,
            "archive_hosts": [fake.archive_host],
            **options,
        }
        made.append(GitHub(url or fake.url, token, tmp_path / "state", **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def staging(tmp_path):
    folder = tmp_path / "staging"
    folder.mkdir()
    return folder
