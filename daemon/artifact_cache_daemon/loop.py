"""The loop: ``schedule`` says what is due, a thread for each collection does it."""

from __future__ import annotations

import datetime
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import schedule

from .asking import Asker
from .collection import IDLE, LOOKING, Collection, Status
from .delivery import CONNECT_TIMEOUT_S, Api, user_agent
from .evidence import shown
from .hints import Hints
from .logs import LOGGER
from .settings import ConfigurationError, Settings
from .signals import Signals
from .state import Store
from .systemd import Manager

log = logging.getLogger(LOGGER)

# Of the five seconds in which a SIGTERM ends everything.
STOP_S = 3.0
STATUS_S = 1.0
# A status file that is older than some of these is one of a daemon that is gone.
STATUS_FILE_S = 30.0
# The wall clock may move by less than this without anybody minding.
JUMP_S = 1.0
LONGEST_WAIT_S = 60.0


class Worker(threading.Thread):
    """Does the turns of one collection, so that a disk or an app that hangs holds up no other.

    :param settings: by which the collection goes; see :func:`_of_one`.
    :param ended: called at the end.
    :ivar has_ended: whether it neither asks nor saves any more.
    """

    def __init__(
        self, collection: Collection, name: str, settings: Settings, ended: Callable[[], None]
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.collection = collection
        self.settings = settings
        self.has_ended = False
        self._ended = ended
        self._wake = threading.Event()
        self._halt = threading.Event()

    def run(self) -> None:
        """Come when woken, or when the collection wants to."""
        collection = self.collection
        try:
            while not self._halt.is_set():
                wait_s = collection.turn()
                ended = time.monotonic()
                self._wake.wait(wait_s)
                # However often somebody knocks: a look takes a tenth of the time at most.
                self._halt.wait(max(0.0, collection.rest_s - (time.monotonic() - ended)))
                self._wake.clear()
            collection.close()
        finally:
            self.has_ended = True
            self._ended()

    @property
    def is_stopped(self) -> bool:
        """Whether it was told to end; it may still be in the middle of something."""
        return self._halt.is_set()

    def wake(self) -> None:
        """Have it look now."""
        self._wake.set()

    def stop(self) -> None:
        """Have it end after what it is doing."""
        self.collection.stopping = True
        self._halt.set()
        self._wake.set()


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
        # Those that have been told to end, too, as long as they have not.
        self._workers: dict[str, Worker] = {}
        self._user_agent = user_agent()
        self._asker: Asker | None = None
        self._hints: Hints | None = None
        self._pinged: dict[str, tuple[int, str]] = {}
        self._pinged_at = 0.0
        self._status = ""
        self._status_file: tuple[list[dict[str, Any]], float] = ([], -STATUS_FILE_S)
        self._clocks = (time.monotonic(), _local_now())
        self._every(STATUS_S).do(self._tell_status)

    def run(self) -> int:
        """Run; the exit code."""
        self._take(self._settings)
        self._manager.ready(self._sentence())
        while True:
            self._follow_the_clock()
            self._jobs.run_pending()
            self._ping()
            received = self.signals.wait(self._idle_s())
            if received & {signal.SIGTERM, signal.SIGINT}:
                return self._end()
            if signal.SIGHUP in received:
                self._reload()
            if signal.SIGUSR1 in received:
                self._hurry()
            self._match()

    # --- what runs ---------------------------------------------------------------------------

    def _take(self, settings: Settings) -> None:
        """Do as these settings say from now on; nothing here waits for anything."""
        before = self._settings
        if settings.token == before.token:
            # One for all who use it, so that all know when one of them has read it again.
            settings = replace(settings, token=before.token)
        self._settings = settings
        for warning in settings.warnings:
            log.warning("%s", warning)
        asker = self._asker
        if asker is not None and (settings.collections or _of_one(before) != _of_one(settings)):
            asker.stop()
            self._asker = None
        if self._asker is None and not settings.collections:
            self._asker = Asker(
                self._api(settings), settings.token, settings.full_interval, self._knock
            )
            self._asker.start()
        self._match()

    def _match(self) -> None:
        """Have a worker for each collection that is wanted, and none for any other.

        Of a worker that is told to end the successor begins when it has ended: of one collection
        there are never two, neither to ask the app nor to save a state.
        """
        roots = self._settings.collections or (self._asker.found if self._asker else None)
        if roots is None:
            return  # until the app has said what is wanted, all goes on
        wanted = {name: _of_one(self._settings, name, root) for name, root in roots.items()}
        running = self._running()
        for name, worker in list(self._workers.items()):
            if worker.settings != wanted.get(name) and not worker.is_stopped:
                worker.stop()
                self._jobs.clear(name)
            if worker.is_stopped and worker.has_ended:
                del self._workers[name]
                if name in wanted:
                    self._start(name, wanted[name], worker)
        for name, settings in wanted.items():
            if name not in self._workers:
                self._start(name, settings)
        if self._running() != running or self._settings.watch != (self._hints is not None):
            self._listen()

    def _start(self, name: str, settings: Settings, before: Worker | None = None) -> None:
        root = settings.collections[name]
        collection = Collection(name, root, settings, self._api(settings), self._store)
        if before is not None and before.settings.api_url == settings.api_url:
            collection.follow(before.collection)
        worker = Worker(collection, f"collection-{name}", settings, self._knock)
        self._workers[name] = worker
        job = self._every(settings.interval).tag(name)
        job.do(self._poll, job, worker)
        self._every(settings.full_interval).tag(name).do(self._refresh, worker)
        worker.start()

    def _api(self, settings: Settings) -> Api:
        return Api(settings.api_url, settings.token, settings.timeout, self._user_agent)

    def _knock(self) -> None:
        """End the wait of the main thread; from any thread."""
        self.signals.send(0)

    def _running(self) -> list[Worker]:
        return [worker for worker in self._workers.values() if not worker.is_stopped]

    def _listen(self) -> None:
        """Have the system's hints wake whoever runs now."""
        if self._hints is not None:
            self._hints.stop()
            self._hints = None
        if self._settings.watch:
            workers = self._running()

            def changed(root: str) -> None:
                for worker in workers:
                    if worker.collection.status.root == root:
                        worker.collection.walk_due = True
                        worker.wake()

            roots = {worker.collection.status.root for worker in workers}
            self._hints = Hints(sorted(roots), changed)
            self._hints.start()

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

    def _hurry(self) -> None:
        if self._asker is not None:
            self._asker.hurry()
        for worker in self._workers.values():
            worker.collection.hurry()
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
            self._take(settings)
            log.info("the configuration is loaded anew")
        self._manager.ready(self._sentence())

    def _end(self) -> int:
        until = time.monotonic() + STOP_S
        self._manager.stopping()
        if self._asker is not None:
            self._asker.stop()
        if self._hints is not None:
            self._hints.stop()
        workers = list(self._workers.values())
        for worker in workers:
            worker.stop()
        for worker in workers:
            # Not for one that hangs: what it has not saved is told once more.
            worker.join(max(0.0, until - time.monotonic()))
        self._tell_status()
        return 0

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
        if self._asker is not None and not self._asker.is_alive():
            return
        seen = {
            name: (worker.collection.beats, worker.collection.phase)
            for name, worker in self._workers.items()
        }
        # An answer may take its time, but not for ever.
        patience_s = 4 * (self._settings.timeout + CONNECT_TIMEOUT_S)
        for name, worker in self._workers.items():
            if not worker.is_alive() and not worker.is_stopped:
                return
            stands = self._pinged.get(name) == seen[name]
            phase = seen[name][1]
            too_long = phase == LOOKING or now - worker.collection.phase_since > patience_s
            if stands and phase != IDLE and too_long:
                return
        self._pinged, self._pinged_at = seen, now
        self._manager.watchdog()

    def _sentence(self) -> str:
        """Everything that matters, in a line."""
        parts = [_summary(worker.collection.status) for worker in self._workers.values()]
        if self._asker is not None and self._asker.trouble:
            parts.append(f"asking again which folders to watch: {self._asker.trouble}")
        return "; ".join(parts) or "asking the app which folders to watch"

    def _tell_status(self) -> None:
        sentence = self._sentence()
        if sentence != self._status:
            self._status = sentence
            self._manager.status(sentence)
        if self._settings.status_file is not None:
            collections = [asdict(worker.collection.status) for worker in self._workers.values()]
            now = time.monotonic()
            if collections != self._status_file[0] or now - self._status_file[1] >= STATUS_FILE_S:
                self._status_file = (collections, now)
                _write_status(self._settings.status_file, collections)


def _of_one(settings: Settings, name: str = "", root: str = "") -> Settings:
    """What of the settings matters to one collection: where it differs, that begins anew."""
    return replace(
        settings,
        collections={name: root},
        state_dir=Path(),
        status_file=None,
        log_format="",
        watch=False,
        warnings=(),
    )


def _summary(status: Status) -> str:
    """How a collection is, for people."""
    parts = [f"{status.collection_id}: {status.files} files"]
    if status.unavailable:
        parts = [f"{status.collection_id}: unavailable, {status.unavailable}"]
    if status.last_poll:
        parts.append(f"looked at {_time_of_day(status.last_poll)}")
    if status.pending:
        parts.append(f"{status.pending} pending")
    if status.last_acknowledged:
        parts.append(f"told at {_time_of_day(status.last_acknowledged)}")
    if status.needs_confirmation:
        parts.append(f"removals wait for confirmation {status.needs_confirmation}")
    if status.last_error:
        parts.append(f"{status.failures} failures: {status.last_error}")
    return ", ".join(parts)


def _time_of_day(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def _local_now() -> float:
    """The wall clock as ``schedule`` reads it, in seconds: local, so it jumps with the zone."""
    return (datetime.datetime.now() - datetime.datetime(1970, 1, 1)).total_seconds()


def _write_status(file: Path, collections: list[dict[str, Any]]) -> None:
    new = file.with_name(f"{file.name}.new")
    told = [{**one, "root": shown(one["root"])} for one in collections]
    text = json.dumps({"pid": os.getpid(), "time": time.time(), "collections": told})
    try:
        new.write_text(text + "\n", encoding="utf-8")
        new.replace(file)
    except OSError as error:
        reason = f"the status file cannot be written: {error.strerror}"
        log.warning("%s", reason, extra={"reason": reason})
