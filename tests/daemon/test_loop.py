"""What the main thread sees to: time, reloads, signs of life."""

from __future__ import annotations

import logging
import signal
import threading
import time

import pytest

from artifact_cache_daemon import loop as module
from artifact_cache_daemon.collection import IDLE, LOOKING, TELLING
from artifact_cache_daemon.loop import Loop, Signals
from artifact_cache_daemon.settings import ConfigurationError


class Manager:
    """Hears what a service manager would hear."""

    def __init__(self, watchdog_s=None):
        self.watchdog_s = watchdog_s
        self.heard = []

    def __getattr__(self, name):
        return lambda *_: self.heard.append(name)


@pytest.fixture
def running(settings, folder, tmp_path):
    """Makes loops that run in threads, without the system's signals."""
    made = []

    def start(*arguments, manager=None, load=None):
        given = settings(
            *("--api-url", "http://127.0.0.1:9", "--collection", f"work={folder.root}"),
            *("--interval", "0.1", *arguments),
        )
        manager = manager or Manager()
        loop = Loop(given, None, load=load or (lambda: given), manager=manager)
        thread = threading.Thread(target=loop.run)
        thread.start()
        made.append((loop, thread))
        return loop, manager

    yield start
    for loop, thread in made:
        loop.signals.send(signal.SIGTERM)
        thread.join(10)
        assert not thread.is_alive()
        loop.signals.close()


@pytest.fixture
def standing(settings):
    """A loop that does not run."""
    made = []

    def make(manager):
        made.append(Loop(settings(), None, load=settings, manager=manager))
        return made[-1]

    yield make
    for loop in made:
        loop.signals.close()


@pytest.mark.parametrize("jump_s", [-3600.0, 3600.0, 86_400.0 * 365])
def test_a_wall_clock_that_is_set_moves_no_poll(standing, monkeypatch, jump_s):
    """Not even when summer time ends."""
    loop = standing(Manager())
    job = loop._every(5.0).do(lambda: None)
    loop._follow_the_clock()
    due = job.next_run
    real = module._local_now
    monkeypatch.setattr(module, "_local_now", lambda: real() + jump_s)
    loop._follow_the_clock()
    assert (job.next_run - due).total_seconds() == pytest.approx(jump_s, abs=0.5)
    loop._follow_the_clock()
    assert (job.next_run - due).total_seconds() == pytest.approx(jump_s, abs=0.5)


def test_an_invalid_configuration_leaves_the_old_one(running, eventually, caplog):
    def load():
        raise ConfigurationError("interval must be something else")

    logging.getLogger(module.LOGGER).propagate = True
    loop, manager = running(load=load)
    eventually(lambda: "ready" in manager.heard)
    worker = loop._workers["work"]
    loop.signals.send(signal.SIGHUP)
    eventually(lambda: manager.heard.count("ready") == 2)

    assert loop._workers["work"] is worker
    assert worker.is_alive()
    assert "the old configuration stays" in caplog.text


@pytest.mark.parametrize(
    ("phase", "beats", "busy_for_s", "pings"),
    [
        (IDLE, False, 0, True),
        (LOOKING, True, 10_000, True),
        (LOOKING, False, 1, False),
        (TELLING, False, 60, True),
        (TELLING, False, 10_000, False),
    ],
)
def test_signs_of_life_come_from_progress(standing, phase, beats, busy_for_s, pings):
    manager = Manager(watchdog_s=0.001)
    loop = standing(manager)

    class Worker:
        busy_since = time.monotonic() - busy_for_s
        collection = type("Collection", (), {"beats": 1, "phase": phase})()
        is_alive = staticmethod(lambda: True)

    loop._workers = {"work": Worker()}
    loop._ping()
    manager.heard.clear()
    time.sleep(0.001)
    Worker.collection.beats += beats
    loop._ping()

    assert manager.heard == ["watchdog"] * pings


def test_a_thread_that_died_stops_the_signs_of_life(standing):
    manager = Manager(watchdog_s=0.001)
    loop = standing(manager)
    worker = threading.Thread(target=lambda: None)
    worker.collection = type("Collection", (), {"beats": 1, "phase": IDLE})()
    worker.busy_since = 0.0
    loop._workers = {"work": worker}
    loop._ping()

    assert manager.heard == []


def test_a_storm_of_signals_is_taken_one_by_one():
    signals = Signals()
    for _ in range(100_000):
        signals.send(signal.SIGUSR1)
    signals.send(signal.SIGTERM)

    assert signals.wait(10) == {signal.SIGUSR1, signal.SIGTERM}
    started = time.monotonic()
    assert signals.wait(0.05) == set()
    assert time.monotonic() - started < 1
    signals.close()
