"""What the main thread sees to: time, reloads, signs of life."""

from __future__ import annotations

import logging
import signal
import threading
import time

import pytest

from artifact_cache_daemon import loop as module
from artifact_cache_daemon.collection import IDLE, LOOKING, TELLING, Status
from artifact_cache_daemon.loop import Loop
from artifact_cache_daemon.settings import ConfigurationError
from artifact_cache_daemon.signals import Signals


class Manager:
    """Hears what a service manager would hear."""

    def __init__(self, watchdog_s=None):
        self.watchdog_s = watchdog_s
        self.heard = []

    def __getattr__(self, name):
        return lambda *_: self.heard.append(name)


@pytest.fixture
def running(settings, folder, eventually):
    """Makes loops that run in threads, without the system's signals."""
    made = []

    def start(*arguments, manager=None, load=None, store=None, url="http://127.0.0.1:9"):
        given = settings("--api-url", url, "--interval", "0.1", *arguments)
        manager = manager or Manager()
        loop = Loop(given, store, load=load or (lambda: given), manager=manager)
        thread = threading.Thread(target=loop.run)
        thread.start()
        made.append((loop, thread))
        eventually(lambda: "ready" in manager.heard)
        return loop, manager

    yield start
    for loop, thread in made:
        loop.signals.send(signal.SIGTERM)
        thread.join(10)
        assert not thread.is_alive()
        loop.signals.close()


@pytest.fixture
def reload(eventually):
    """Has a loop read its configuration again."""

    def run(loop, manager):
        before = manager.heard.count("ready")
        loop.signals.send(signal.SIGHUP)
        eventually(lambda: manager.heard.count("ready") > before)

    return run


@pytest.fixture
def work(folder):
    """The collection that most tests watch."""
    folder.write("a.md")
    return "--collection", f"work={folder.root}"


@pytest.fixture
def standing(settings):
    """A loop that does not run."""
    made = []

    def make(manager=None, *arguments):
        made.append(Loop(settings(*arguments), None, load=settings, manager=manager or Manager()))
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


def test_an_invalid_configuration_leaves_the_old_one(running, work, reload, caplog):
    def load():
        raise ConfigurationError("interval must be something else")

    logging.getLogger(module.LOGGER).propagate = True
    loop, manager = running(*work, load=load)
    worker = loop._workers["work"]
    reload(loop, manager)

    assert loop._workers["work"] is worker
    assert worker.is_alive()
    assert "the old configuration stays" in caplog.text


def test_a_collection_that_stays_as_it_is_outlives_a_reload(
    running, settings, work, folder, server, reload, eventually
):
    """And so does what the app has asked it for: to be left alone for an hour."""
    one = server(lambda handler: handler.answer(429, b"{}", Retry_After="3600"))
    (folder.root.parent / "other").mkdir()

    def load():
        other = f"other={folder.root.parent / 'other'}"
        return settings("--api-url", one.url, "--interval", "0.1", *work, "--collection", other)

    loop, manager = running(*work, url=one.url, load=load)
    eventually(lambda: loop._workers["work"].collection.status.failures)
    worker = loop._workers["work"]
    reload(loop, manager)
    eventually(lambda: "other" in loop._workers)

    assert loop._workers["work"] is worker
    assert [b"work" in body for _, _, body in one.asked].count(True) == 1


def test_a_successor_waits_as_long_as_the_app_has_asked_for(
    running, settings, work, server, reload, eventually
):
    one = server(lambda handler: handler.answer(429, b"{}", Retry_After="3600"))
    loop, manager = running(
        *work, url=one.url, load=lambda: settings("--api-url", one.url, *work, "--settle", "0.5")
    )
    eventually(lambda: loop._workers["work"].collection.status.failures)
    before = loop._workers["work"]
    reload(loop, manager)
    after = eventually(lambda: (now := loop._workers.get("work")) is not before and now)
    eventually(lambda: after.collection.beats and after.collection.phase == IDLE)

    assert after.collection.backoff.wait_s > 3000
    assert len(one.asked) == 1


def test_a_reload_during_a_slow_request_waits_for_its_end(
    running, settings, work, folder, server, reload, store, eventually
):
    """Two of one collection would ask at the same time, and one undo what the other has saved."""
    released, asked = threading.Event(), threading.Event()
    at_once = []

    def act(handler):
        at_once.append(handler)
        most.append(len(at_once))
        if b"b.md" in one.asked[-1][2]:
            asked.set()
            released.wait(30)
        at_once.remove(handler)
        handler.answer()

    most = []
    one = server(act)
    changed = iter(range(1, 100))
    options = ("--api-url", one.url, "--interval", "0.1", "--settle", "0.1", *work)
    loop, manager = running(
        *options,
        load=lambda: settings(*options, "--max-settle", str(next(changed))),
        store=store,
    )
    first = loop._workers["work"]
    eventually(lambda: first.collection.is_done)
    folder.write("b.md")
    assert asked.wait(10)
    for _ in range(3):
        reload(loop, manager)
    assert loop._workers["work"] is first
    assert first.is_stopped
    assert first.is_alive()

    released.set()
    second = eventually(lambda: (now := loop._workers.get("work")) is not first and now)
    assert second.settings.max_settle == 3
    folder.write("c.md")
    eventually(lambda: b"c.md" in one.asked[-1][2] and second.collection.is_done)
    # It went on from where the first had ended.
    assert [body for _, _, body in one.asked].count(b'{"collection_id": "work"}') == 1
    assert max(most) == 1


def told(*collections):
    return lambda handler: handler.answer(200, {"collections": list(collections)})


@pytest.mark.parametrize("before", [(401, b"{}"), (403, b"{}"), (200, b'{"collections": []}')])
def test_an_app_that_does_not_say_what_to_watch_is_asked_again(
    running, folder, server, eventually, before
):
    one = server(lambda handler: handler.answer(*before))
    loop, _ = running(url=one.url)
    eventually(lambda: "asking again which folders" in loop._sentence())
    assert loop._workers == {}
    one.act = told({"id": "work", "path": str(folder.root)})

    eventually(lambda: "work" in loop._workers)


def test_a_collection_that_the_app_gets_later_is_watched(running, folder, server, eventually):
    """Not before the full interval, unless somebody knocks."""
    work = {"id": "work", "path": str(folder.root)}
    team = {"id": "team", "path": str(folder.root.parent)}
    one = server(told(work))
    loop, _ = running(url=one.url)
    worker = eventually(lambda: loop._workers.get("work"))
    one.act = told(work, team)
    loop.signals.send(signal.SIGUSR1)
    eventually(lambda: "team" in loop._workers)
    assert loop._workers["work"] is worker

    # One that says nothing does not say that there is nothing.
    one.act = told({"id": "work"}, {"id": "team"})
    loop.signals.send(signal.SIGUSR1)
    eventually(lambda: "does not say where" in loop._sentence())
    assert set(loop._workers) == {"work", "team"}

    one.act = told(team)
    loop.signals.send(signal.SIGUSR1)
    eventually(lambda: set(loop._workers) == {"team"})
    assert not worker.is_alive()


def test_reloads_leave_one_who_asks(running, settings, server, reload, eventually):
    released = threading.Event()
    one = server(lambda handler: (released.wait(30), handler.answer(403, b"{}")))
    timeouts = iter((60, 60, 60, 61))

    def load():
        return settings("--api-url", one.url, "--interval", "0.1", "--timeout", str(next(timeouts)))

    loop, manager = running(url=one.url, load=load)
    asker = eventually(lambda: loop._asker)
    for _ in range(3):
        reload(loop, manager)
    assert loop._asker is asker
    reload(loop, manager)
    assert loop._asker is not asker
    released.set()
    asker.join(10)
    assert not asker.is_alive()


@pytest.mark.parametrize(
    ("phase", "beats", "busy_for_s", "pings"),
    [
        (IDLE, False, 0, True),
        (LOOKING, True, 10_000, True),
        (LOOKING, False, 1, False),
        (TELLING, False, 60, True),  # however long it has looked before
        (TELLING, False, 10_000, False),
    ],
)
def test_signs_of_life_come_from_progress(standing, phase, beats, busy_for_s, pings):
    manager = Manager(watchdog_s=0.001)
    loop = standing(manager)

    class Worker:
        is_stopped = False
        is_alive = staticmethod(lambda: True)

        class collection:  # noqa: N801
            beats = 1
            phase_since = time.monotonic() - busy_for_s

    Worker.collection.phase = phase

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
    worker.is_stopped = False
    worker.collection = type("Collection", (), {"beats": 1, "phase": IDLE})()
    loop._workers = {"work": worker}
    loop._ping()

    assert manager.heard == []


def test_the_status_names_the_last_look_and_the_last_word_beside_an_error(standing, folder):
    loop = standing()
    status = Status("work", "/srv/work", files=3, failures=2, last_error="the app answers 500")
    status.last_poll = status.last_acknowledged = time.mktime((2026, 1, 2, 3, 4, 5, 0, 0, -1))

    class Worker:
        collection = type("Collection", (), {"status": status})()

    loop._workers = {"work": Worker()}
    assert loop._sentence() == (
        "work: 3 files, looked at 03:04:05, told at 03:04:05, 2 failures: the app answers 500"
    )


def test_the_status_file_is_written_when_there_is_something_new(standing, tmp_path):
    file = tmp_path / "status.json"
    loop = standing(None, "--status-file", str(file))
    status = Status("work", "/srv/work")

    class Worker:
        collection = type("Collection", (), {"status": status})()

    loop._workers = {"work": Worker()}
    loop._tell_status()
    before = file.stat().st_ino
    file.with_name("keeps its inode").hardlink_to(file)
    loop._tell_status()
    assert file.stat().st_ino == before
    status.files = 1
    loop._tell_status()
    assert file.stat().st_ino != before


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
