"""Refreshes that no request waits for: what is to be done, and the threads that do it."""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from .errors import BusyError
from .refresh.selection import Selection

log = logging.getLogger("flask_artifact_cache")

THREADS = 2
MAX_WAITING = 100
# After a refresh that a reader's request has started, none is started by another one for so long.
COOL_S, FAILED_COOL_S = 5.0, 60.0
# More ids and paths than this, and all of the collection is looked at.
MAX_GATHERED = 1000


@dataclass(frozen=True, slots=True)
class Task:
    """A refresh to be done in the background.

    :ivar run: the id of a run that was written down for it already.
    :ivar unless_since: nothing is done for a collection that was verified as a whole since then.
    :ivar patient: wait while the collection is being refreshed; what has just changed may be what
        that refresh has passed by.
    :ivar invalidates: say first that the artifacts that are meant are stale.
    """

    selection: Selection
    trigger: str
    force: bool = False
    confirm: str | None = None
    run: str | None = None
    unless_since: datetime | None = None
    patient: bool = False
    invalidates: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As a message to another process."""
        since = self.unless_since
        return {**asdict(self), "unless_since": None if since is None else since.isoformat()}

    @classmethod
    def from_dict(cls, message: Mapping[str, Any]) -> Task:
        """The task of a message."""
        selection: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in message["selection"].items()
        }
        since = message["unless_since"]
        return cls(
            **{
                **message,
                "selection": Selection(**selection),
                "unless_since": None if since is None else datetime.fromisoformat(since),
            }
        )


Make = Callable[[], Task | None]


class Background(Protocol):
    """Where tasks are done."""

    def submit(self, make: Make, *, gather: str | None = None) -> None:
        """Have a task done.

        :param make: makes the task, as late as can be: what has come by then is in it. None means
            that there is nothing left to do.
        :param gather: the collection of which more may come in a moment, if that is to be waited
            for.
        :raises BusyError: if too many are waiting.
        """


class Threads:
    """A few threads of this process, started when there is something to do.

    What is gathered for a collection is made and done by one of them at a time: all that comes
    while one task is done makes the next. After a fork the child starts its own.

    :param work: does a task; what it raises is logged.
    """

    def __init__(
        self, work: Callable[[Task], None], threads: int = THREADS, most: int = MAX_WAITING
    ) -> None:
        self._work = work
        self._most = threads
        self._lock = threading.Lock()
        self._size = most
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._started = self._idle = 0
        self._waiting: queue.Queue[tuple[Make, str | None]] = queue.Queue()
        # Of each collection that is gathered and done, what has to wait for that.
        self._put_off: dict[str, list[Make]] = {}

    def submit(self, make: Make, *, gather: str | None = None) -> None:
        """As of :class:`Background`; nothing is waited for but the task that is being done."""
        with self._lock:
            if self._process != os.getpid():
                self._begin()
            if self._waiting.qsize() >= self._size:
                message = f"{self._size} refreshes are waiting for their turn in this process"
                raise BusyError(message, retry_after=5)
            self._waiting.put((make, gather))
            if self._idle < self._waiting.qsize() and self._started < self._most:
                self._started += 1
                name = f"artifact-cache-{self._started}"
                threading.Thread(target=self._run, name=name, daemon=True).start()

    def join(self) -> None:
        """Wait until nothing is left to do in this process."""
        self._waiting.join()

    def _run(self) -> None:
        waiting = self._waiting
        while True:
            with self._lock:
                self._idle += 1
            make, gather = waiting.get()
            with self._lock:
                self._idle -= 1
                if gather is not None:
                    if gather in self._put_off:
                        self._put_off[gather].append(make)
                        continue
                    self._put_off[gather] = []
            try:
                task = make()
                if task is not None:
                    self._work(task)
            except Exception:
                # The thread is one of few: with each that ends, less is ever done again.
                log.exception("a refresh in the background failed unexpectedly")
            finally:
                self._go_on(gather)
                waiting.task_done()

    def _go_on(self, gather: str | None) -> None:
        """Let what was put off have its turn."""
        if gather is None:
            return
        with self._lock:
            for make in self._put_off.pop(gather):
                self._waiting.put((make, gather))
                # It was counted when it came first.
                self._waiting.task_done()


class Gathered:
    """What is said to have changed, by collection, until somebody takes it all at once.

    After a fork the child gathers anew: what came before, the parent takes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._changed: dict[str, tuple[set[str], set[str]] | None] = {}

    def add(self, collection_id: str, ids: Iterable[str] = (), paths: Iterable[str] = ()) -> bool:
        """Add what has changed; without ids and paths it may be anything.

        :returns: whether it is the first since the last :meth:`take`.
        """
        more_ids, more_paths = set(ids), set(paths)
        with self._lock:
            if self._process != os.getpid():
                self._process, self._changed = os.getpid(), {}
            first = collection_id not in self._changed
            known = (set[str](), set[str]()) if first else self._changed[collection_id]
            if known is not None:
                known[0].update(more_ids)
                known[1].update(more_paths)
                if not (more_ids or more_paths) or sum(map(len, known)) > MAX_GATHERED:
                    known = None
            self._changed[collection_id] = known
        return first

    def take(self, collection_id: str) -> Selection | None:
        """All that has changed in the collection, as what is to be read again; None: nothing.

        Ids and paths in one selection would have to agree, so with both it is the collection.
        """
        with self._lock:
            if collection_id not in self._changed:
                return None
            known = self._changed.pop(collection_id)
        ids, paths = known or (set(), set())
        if ids and paths:
            return Selection(collection_id)
        return Selection(collection_id, artifact_ids=tuple(sorted(ids)), paths=tuple(sorted(paths)))


class _Begun(NamedTuple):
    """When the next one may begin.

    :ivar succeeded_s: if this one succeeds; ``failed_s``: if it does not.
    :ivar seen: the success before it, as far as its beginner knew.
    """

    succeeded_s: float
    failed_s: float
    seen: datetime | None


@dataclass(slots=True)
class CoolDown:
    """Lets one begin, and then nobody for a while: longer after a failure, by chance.

    :ivar clock: seconds that never go back.
    :ivar chance: from 0 to 1, so that processes do not try again together.
    """

    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    _begun: dict[str, _Begun] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, key: str, seen: datetime | None = None) -> bool:
        """Whether the caller may begin.

        What begins is taken to fail until :meth:`succeed` says otherwise, or somebody has seen
        that it did: it may be done by another process.

        :param seen: the last success that the caller knows of.
        """
        now = self.clock()
        if not self._may_begin(key, now, seen):
            return False
        with self._lock:
            if not self._may_begin(key, now, seen):
                return False
            failed_s = now + FAILED_COOL_S * (0.5 + self.chance())
            self._begun[key] = _Begun(now + COOL_S, failed_s, seen)
        return True

    def _may_begin(self, key: str, now: float, seen: datetime | None) -> bool:
        last = self._begun.get(key)
        if last is None:
            return True
        succeeded = seen is not None and last.seen is not None and seen > last.seen
        return now >= (last.succeeded_s if succeeded else last.failed_s)

    def succeed(self, key: str) -> None:
        """Let the next one begin sooner."""
        then = self.clock() + COOL_S
        self._begun[key] = _Begun(then, then, None)
