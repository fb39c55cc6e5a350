"""Answers that were made before, kept as long as nothing they show has changed."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

MAX_BYTES = 16 * 1024 * 1024
# What an entry takes besides its body and its key, generously.
ENTRY_BYTES = 1000

try:
    _VERSION = version("flask-artifact-cache")
except PackageNotFoundError:  # a checkout that was not installed
    _VERSION = "checkout"


@dataclass(frozen=True, slots=True)
class Body:
    """The body of an answer.

    :ivar etag: a weak entity tag, the same in every worker. It is made from everything that
        the body depends on, which takes a tenth of the time of hashing the body.
    :ivar expires_at: when time alone changes it; None: never.
    :ivar next_cursor: where the next page begins; None: there is none.
    """

    data: bytes
    etag: str
    expires_at: datetime | None = None
    next_cursor: str | None = None


def etag(*depends_on: object) -> str:
    """The tag of a body: the same for the same arguments in every process of this version."""
    return hashlib.blake2b(repr((_VERSION, depends_on)).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class _Entry:
    stamp: str
    made_at: datetime
    body: Body
    size: int


class Bodies:
    """A least-recently-used cache of bodies, bounded by their bytes; one a process.

    Every entry is checked against the collection's stamp on every use, so the cache can make
    an answer quick but never stale.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._bytes = 0
        self._max_bytes = max_bytes
        self._lock = threading.Lock()

    def get(self, key: Hashable, stamp: str, now: datetime, make: Callable[[], Body]) -> Body:
        """The body under ``key`` if it still holds, else a new one."""
        entry = self._entries.get(key)
        # A clock that was set back makes states younger again.
        if entry is not None and entry.stamp == stamp and entry.made_at <= now:
            kept = entry.body
            if kept.expires_at is None or now < kept.expires_at:
                with self._lock:
                    if key in self._entries:
                        self._entries.move_to_end(key)
                return kept
        made = make()
        self._put(key, _Entry(stamp, now, made, len(made.data) + len(repr(key)) + ENTRY_BYTES))
        return made

    def _put(self, key: Hashable, entry: _Entry) -> None:
        with self._lock:
            before = self._entries.pop(key, None)
            if before is not None:
                self._bytes -= before.size
            self._entries[key] = entry
            self._bytes += entry.size
            while self._bytes > self._max_bytes:
                _, dropped = self._entries.popitem(last=False)
                self._bytes -= dropped.size
