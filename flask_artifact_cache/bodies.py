"""Answers that were made before, kept as long as nothing they show has changed."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from .version import VERSION

MAX_BYTES = 16 * 1024 * 1024
# What an entry takes besides its body and its key, generously.
ENTRY_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Body:
    """The body of an answer.

    :ivar etag: a weak entity tag, the same in every worker. It is made from everything that
        the body depends on, which takes a tenth of the time of hashing the body.
    :ivar expires_at: when time alone changes it; None: never.
    :ivar next_cursor: where the next page begins; None: there is none.
    :ivar stale: of what shows something stale, the collections whose artifacts are, and when each
        was verified last: a refresh that came later is the one that it calls for.
    """

    data: bytes
    etag: str
    expires_at: datetime | None = None
    next_cursor: str | None = None
    stale: Mapping[str, datetime | None] = field(default_factory=dict)


def etag(*depends_on: object) -> str:
    """The tag of a body: the same for the same arguments in every process of this version."""
    return hashlib.blake2b(repr((VERSION, depends_on)).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class Kept:
    """A body, and what it was made from.

    :ivar stamp: of the collection at that time.
    :ivar size: about what it takes, in bytes.
    """

    body: Body
    stamp: str
    made_at: datetime
    size: int

    def holds(self, stamp: str, now: datetime) -> bool:
        """Whether the body would be the same if it were made now, with this stamp."""
        # A clock that was set back makes states younger again.
        if self.stamp != stamp or self.made_at > now:
            return False
        expires_at = self.body.expires_at
        return expires_at is None or now < expires_at


class Bodies:
    """A least-recently-used cache of bodies, bounded by their bytes; one a process.

    Whoever gets one asks whether it holds by the stamp that the collection has now, on every
    use, so the cache can make an answer quick but never stale.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._entries: OrderedDict[Hashable, Kept] = OrderedDict()
        self._bytes = 0
        self._max_bytes = max_bytes
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Kept | None:
        """What is under ``key``, whether or not it still holds."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
        return entry

    def put(self, key: Hashable, body: Body, stamp: str, now: datetime, key_bytes: int) -> None:
        """Keep a body that was made now, of what the collection's stamp stands for.

        :param key_bytes: about what the key takes.
        """
        entry = Kept(body, stamp, now, len(body.data) + key_bytes + ENTRY_BYTES)
        with self._lock:
            before = self._entries.pop(key, None)
            if before is not None:
                self._bytes -= before.size
            self._entries[key] = entry
            self._bytes += entry.size
            while self._bytes > self._max_bytes:
                _, dropped = self._entries.popitem(last=False)
                self._bytes -= dropped.size
