"""The loop: ``schedule`` says what is due, a thread for each collection does it."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

import schedule

from . import watch
from .collection import IDLE, LOOKING, Collection
from .delivery import CONNECT_TIMEOUT_S, Api, Backoff, UnreachableError, user_agent
from .evidence import shown
from .logs import LOGGER
from .settings import EXIT_CONFIGURATION, ConfigurationError, Settings
from .state import Store
from .systemd import Manager

log = logging.getLogger(LOGGER)

# Of the five seconds in which a SIGTERM ends everything.
STOP_S = 3.0
STATUS_S = 1.0
# The wall clock may move by less than this without anybody minding.
JUMP_S = 1.0
LONGEST_WAIT_S = 60.0


class Worker(threading.Thread):
    """Does the turns of one collection, so that a disk or an app that hangs holds up no other."""

    def __init__(self, collection: Collection, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.collection = collection
        self.busy_since = 0.0
        self._wake = threading.Event()
        self._halt = threading.Event()

    def run(self) -> None:
        """Come when woken, or when the collection wants to."""
        collection = self.collection
        while not self._halt.is_set():
            self.busy_since = time.monotonic()
            wait_s = collection.turn()
            ended = time.monotonic()
            self._wake.wait(wait_s)
            # However often somebody knocks: a look takes a tenth of the time at most.
            self._halt.wait(max(0.0, collection.rest_s - (time.monotonic() - ended)))
            self._wake.clear()
        collection.close()

    def wake(self) -> None:
        """Have it look now."""
        self._wake.set()

    def stop(self) -> None:
        """Have it end after what it is doing."""
        self.collection.stopping = True
        self._halt.set()
        self._wake.set()


class Signals:
    """What the system has sent us, and a wait that it ends.

    A handler runs between any two steps of the main thread, so it may take no lock: it only notes
    the signal, and the interpreter writes to a socket that the wait listens to.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)

    def install(self) -> None:
        """Listen to the system; only the main thread can."""
        signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._received.append(number)

    def send(self, number: int) -> None:
        """Behave as if the system had sent a signal; from any thread."""
        self._received.append(number)
        with contextlib.suppress(OSError):  # full: it will wake up anyhow
            self._theirs.send(b"\0")

    def wait(self, seconds: float) -> set[int]:
        """Wait for a signal, at most so long; what came."""
        if not self._received:
            select.select([self._ours], [], [], max(0.0, seconds))
        with contextlib.suppress(OSError):
            while self._ours.recv(4096):
                pass
        received, self._received = self._received, []
        return set(received)

    def close(self) -> None:
        """Listen no more."""
        self._ours.close()
        self._theirs.close()


class Loop:
    """Runs until it is told to end.

    :param load: reads the configuration again; may raise ConfigurationError.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store | None,
        *,
        load: Callable[[], Settings],
        manager: Manager | None = None,
        signals: Signals | None = None,
    ) -> None:
        self.signals = signals or Signals()
        self._settings = settings
        self._store = store
        self._load = load
        self._manager = manager or Manager()
        self._jobs = schedule.Scheduler()
        self._workers: dict[str, Worker] = {}
        self._user_agent = user_agent()
        self._asking: Asking | None = None
        self._watch: watch.Hints | None = None
        self._pinged: dict[str, tuple[int, str]] = {}
        self._pinged_at = 0.0
        self._status = ""
        self._clocks = (time.monotonic(), _local_now())

    def run(self) -> int:
        """Run; the exit code."""
        self._begin(self._settings)
        self._manager.ready(self._sentence())
        while True:
            self._follow_the_clock()
            self._jobs.run_pending()
            self._ping()
            received = self.signals.wait(self._idle_s())
            if received & {signal.SIGTERM, signal.SIGINT}:
                return self._end(0)
            if signal.SIGHUP in received:
                self._reload()
            if signal.SIGUSR1 in received:
                for worker in self._workers.values():
                    worker.collection.hurry()
                    worker.wake()
            if self._asking is not None and self._asking.found is not None:
                found, self._asking = self._asking.found, None
                if found:
                    self._start(replace(self._settings, collections=found))
                else:
                    log.error("%s", NOTHING_TO_WATCH)
                    if not self._workers:
                        return self._end(EXIT_CONFIGURATION)

    # --- what runs ---------------------------------------------------------------------------

    def _begin(self, settings: Settings) -> None:
        """Start whatever the settings ask for, and end whatever they do not."""
        self._settings = settings
        for warning in settings.warnings:
            log.warning("%s", warning)
        if settings.collections:
            self._asking = None
            self._start(settings)
        else:
            self._asking = Asking(settings, self._user_agent, self.signals)
            self._asking.start()

    def _start(self, settings: Settings) -> None:
        stopped = list(self._workers.values())
        for worker in stopped:
            worker.stop()
        _join(stopped)
        self._jobs.clear()
        self._workers = {}
        self._pinged = {}
        for collection_id, root in settings.collections.items():
            api = Api(settings.api_url, settings.token, settings.timeout, self._user_agent)
            collection = Collection(collection_id, root, settings, api, self._store)
            worker = Worker(collection, f"collection-{collection_id}")
            self._workers[collection_id] = worker
            job = self._every(settings.interval)
            job.do(self._poll, job, worker)
            self._every(settings.full_interval).do(self._refresh, worker)
            worker.start()
        self._every(STATUS_S).do(self._tell_status)
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        if settings.watch:
            roots = {worker.collection.status.root: worker for worker in self._workers.values()}
            self._watch = watch.Hints(list(roots), lambda root: roots[root].wake())
            self._watch.start()

    def _every(self, seconds: float) -> schedule.Job:
        # Typed as an int, but taken as it is.
        job: schedule.Job = self._jobs.every(seconds).seconds  # type: ignore[arg-type]
        return job

    def _poll(self, job: schedule.Job, worker: Worker) -> None:
        job.interval = worker.collection.interval_s  # type: ignore[assignment]
        worker.wake()

    def _refresh(self, worker: Worker) -> None:
        worker.collection.refresh_due = True
        worker.wake()

    def _reload(self) -> None:
        """Take over the configuration as it is now, or leave everything as it was."""
        self._manager.reloading()
        try:
            settings = self._load()
        except ConfigurationError as error:
            log.error("the old configuration stays: %s", error)
        else:
            if settings.state_dir != self._settings.state_dir:
                log.warning("another state_dir needs a restart")
            if settings.log_format != self._settings.log_format:
                log.warning("another log_format needs a restart")
            self._begin(settings)
            log.info("the configuration is loaded anew")
        self._manager.ready(self._sentence())

    def _end(self, code: int) -> int:
        self._manager.stopping()
        if self._watch is not None:
            self._watch.stop()
        workers = list(self._workers.values())
        for worker in workers:
            worker.stop()
        _join(workers)
        self._tell_status()
        return code

    # --- time --------------------------------------------------------------------------------

    def _idle_s(self) -> float:
        idle_s = self._jobs.idle_seconds
        wait_s = LONGEST_WAIT_S if idle_s is None else min(idle_s, LONGEST_WAIT_S)
        if self._manager.watchdog_s is not None:
            wait_s = min(wait_s, self._manager.watchdog_s / 4)
        return wait_s

    def _follow_the_clock(self) -> None:
        """Move the jobs along when the wall clock, by which ``schedule`` goes, is set.

        Without this, an hour of daylight saving would be an hour without a look.
        """
        before, self._clocks = self._clocks, (time.monotonic(), _local_now())
        passed_s, shown_s = self._clocks[0] - before[0], self._clocks[1] - before[1]
        jump = shown_s - passed_s
        if abs(jump) > JUMP_S:
            for job in self._jobs.jobs:
                if job.next_run is not None:
                    job.next_run += datetime.timedelta(seconds=jump)

    # --- how we are --------------------------------------------------------------------------

    def _ping(self) -> None:
        """Tell the service manager that we are alive, if every collection gets on."""
        watchdog_s = self._manager.watchdog_s
        now = time.monotonic()
        if watchdog_s is None or now - self._pinged_at < watchdog_s / 4:
            return
        seen = {
            name: (worker.collection.beats, worker.collection.phase)
            for name, worker in self._workers.items()
        }
        # An answer may take its time, but not for ever.
        patience_s = 4 * (self._settings.timeout + CONNECT_TIMEOUT_S)
        for name, worker in self._workers.items():
            stands = self._pinged.get(name) == seen[name]
            phase = seen[name][1]
            too_long = phase == LOOKING or now - worker.busy_since > patience_s
            if (stands and phase != IDLE and too_long) or not worker.is_alive():
                return
        self._pinged, self._pinged_at = seen, now
        self._manager.watchdog()

    def _sentence(self) -> str:
        """Everything that matters, in a line."""
        if not self._workers:
            return "asking the app which folders to watch"
        parts = []
        for worker in self._workers.values():
            status = worker.collection.status
            part = f"{status.collection_id}: {status.files} files"
            if status.unavailable:
                part = f"{status.collection_id}: unavailable, {status.unavailable}"
            if status.pending:
                part += f", {status.pending} pending"
            if status.needs_confirmation:
                part += f", removals wait for confirmation {status.needs_confirmation}"
            if status.last_error:
                part += f", {status.failures} failures: {status.last_error}"
            elif status.last_acknowledged:
                at = time.strftime("%H:%M:%S", time.localtime(status.last_acknowledged))
                part += f", told at {at}"
            parts.append(part)
        return "; ".join(parts)

    def _tell_status(self) -> None:
        sentence = self._sentence()
        if sentence != self._status:
            self._status = sentence
            self._manager.status(sentence)
        if self._settings.status_file is not None:
            _write_status(
                self._settings.status_file,
                [asdict(worker.collection.status) for worker in self._workers.values()],
            )


NOTHING_TO_WATCH = (
    "the app does not say where its collections are: pass --collection ID=PATH, or give the daemon"
    " a token and let it run on the app's machine"
)


class Asking(threading.Thread):
    """Asks the app for its collections until it answers.

    :ivar found: id -> root; empty if the app does not tell; None as long as it has not answered.
    """

    def __init__(self, settings: Settings, agent: str, signals: Signals) -> None:
        super().__init__(name="asking", daemon=True)
        self.found: dict[str, str] | None = None
        self._token = settings.token
        self._api = Api(settings.api_url, settings.token, settings.timeout, agent)
        self._signals = signals

    def run(self) -> None:
        """Ask, and ask again."""
        backoff = Backoff(time.monotonic)
        while self.found is None:
            try:
                self.found = ask(self._api)
            except UnreachableError as error:
                self._token.reload()
                wait_s = backoff.failed()
                log.warning(
                    "%s (failure %d, next attempt in %.0f s)",
                    error,
                    backoff.failures,
                    wait_s,
                    extra={"reason": str(error)},
                )
                time.sleep(wait_s)
        self._signals.send(0)


def ask(api: Api) -> dict[str, str]:
    """Which folders the app wants to have watched; none if it does not tell.

    :raises UnreachableError: if it gives no answer that could be understood.
    """
    answer = api.collections()
    listed = (answer.body or {}).get("collections")
    if answer.status in (401, 403):
        return {}
    if answer.status != 200 or not isinstance(listed, list):
        raise UnreachableError(f"the app answers {answer.status} and names no collections")
    found = {}
    for one in listed:
        if isinstance(one, dict):
            name, path = one.get("id"), one.get("path")
            if isinstance(name, str) and isinstance(path, str) and Path(path).is_absolute():
                found[name] = path
    return found


def once(settings: Settings, store: Store | None) -> int:
    """Look, wait until everything has settled, tell the app; the exit code."""
    agent = user_agent()
    roots = settings.collections
    if not roots:
        try:
            roots = ask(Api(settings.api_url, settings.token, settings.timeout, agent))
        except UnreachableError as error:
            log.error("%s", error)
            return 1
        if not roots:
            log.error("%s", NOTHING_TO_WATCH)
            return EXIT_CONFIGURATION
    failed = 0
    for collection_id, root in roots.items():
        api = Api(settings.api_url, settings.token, settings.timeout, agent)
        collection = Collection(collection_id, root, settings, api, store)
        collection.refresh_due = collection.trusted
        deadline = time.monotonic() + 2 * settings.max_settle
        while True:
            wait_s = collection.turn()
            status = collection.status
            if collection.is_done:
                break
            if status.unavailable or status.failures or time.monotonic() > deadline:
                failed = 1
                break
            time.sleep(collection.rest_s if wait_s is None else max(wait_s, collection.rest_s))
        collection.close()
    return failed


def _local_now() -> float:
    """The wall clock as ``schedule`` reads it, in seconds: local, so it jumps with the zone."""
    return (datetime.datetime.now() - datetime.datetime(1970, 1, 1)).total_seconds()


def _join(workers: list[Worker]) -> None:
    """Wait for them, but not for one that hangs: what it has not saved is told once more."""
    until = time.monotonic() + STOP_S
    for worker in workers:
        if worker.ident is not None:
            worker.join(max(0.0, until - time.monotonic()))


def _write_status(file: Path, collections: list[dict[str, Any]]) -> None:
    new = file.with_name(f"{file.name}.new")
    for one in collections:
        one["root"] = shown(one["root"])
    text = json.dumps({"pid": os.getpid(), "time": time.time(), "collections": collections})
    try:
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(file)
    except OSError as error:
        reason = f"the status file cannot be written: {error.strerror}"
        log.warning("%s", reason, extra={"reason": reason})
