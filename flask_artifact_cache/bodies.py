"""Answers that were made before, kept as long as nothing they show has changed."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from datetime import datetime

MAX_BYTES = 16 * 1024 * 1024


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
    """The tag of a body: the same for the same arguments, in every process."""
    return hashlib.blake2b(repr(depends_on).encode(), digest_size=12).hexdigest()


class Bodies:
    """A least-recently-used cache of bodies, bounded by their bytes; one a process.

    Every entry is checked against the collection's revision on every use, so the cache can
    make an answer quick but never stale.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._entries: OrderedDict[Hashable, tuple[int, Body]] = OrderedDict()
        self._bytes = 0
        self._max_bytes = max_bytes
        self._lock = threading.Lock()

    def get(self, key: Hashable, revision: int, now: datetime, make: Callable[[], Body]) -> Body:
        """The body under ``key`` if it still holds, else a new one."""
        entry = self._entries.get(key)
        if entry is not None and entry[0] == revision:
            kept = entry[1]
            if kept.expires_at is None or now < kept.expires_at:
                with self._lock:
                    if key in self._entries:
                        self._entries.move_to_end(key)
                return kept
        made = make()
        self._put(key, revision, made)
        return made

    def _put(self, key: Hashable, revision: int, made: Body) -> None:
        with self._lock:
            before = self._entries.pop(key, None)
            if before is not None:
                self._bytes -= len(before[1].data)
            self._entries[key] = (revision, made)
            self._bytes += len(made.data)
            while self._bytes > self._max_bytes:
                _, (_, dropped) = self._entries.popitem(last=False)
                self._bytes -= len(dropped.data)
