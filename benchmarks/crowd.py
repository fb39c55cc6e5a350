"""Many readers at once, while all that they read expires and a refresh runs.

The floor is the median of the same readers in the same rounds, before it. A reader alone is a floor
only for readers who seldom meet: of 500 whose questions are all open at once each waits for 500
answers, whatever the server does. Both kinds are measured. An answer that is not 200 ends the run.
"""

from __future__ import annotations

import heapq
import os
import random
import re
import selectors
import socket
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from itertools import cycle, islice

from flask_artifact_cache.tasks import COOL_S

from .app import COLLECTION
from .measure import Row, duration, percentile
from .reading import addresses
from .refreshing import edit
from .server import serving
from .workspace import Workspace

# How long a reader thinks before the next question, on average: people, and all at once.
SELDOM_S, AT_ONCE_S = 2.0, 0.0
PAGES = 100
BUDGET = 20
PATIENCE_S = 120
# How often it is looked whether the refresh has ended.
LOOK_S = 0.02
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def crowd(workspace: Workspace) -> list[Row]:
    """Readers who seldom meet, and readers who always do."""
    scale = workspace.scale
    size = scale.middle
    root = workspace.collection(size)
    database = workspace.copy(size)
    rows = []
    with (
        closing(sqlite3.connect(database, isolation_level=None)) as connection,
        serving(database, root) as client,
    ):
        expiry = _Expiry(connection)
        pages = list(islice(cycle(addresses(client, PAGES)), scale.readers))
        alone = statistics.median(client.get(page).seconds for page in pages)
        readers = _Readers(client.port, pages)
        chance = random.Random(size)
        files = sorted(root.glob("skills/*/SKILL.md"))
        for pause_s, each in ((SELDOM_S, f"one question in {SELDOM_S:g} s"), (AT_ONCE_S, "always")):
            workspace.say(f"{scale.readers} readers, {each}")
            quiet: list[float] = []
            during: list[float] = []
            for number in range(scale.crowd_rounds):
                for file in chance.sample(files, max(1, size // 100)):
                    edit(file, time.time_ns())
                os.sync()
                expiry.grow_old()
                # Nothing is stale yet; and a refresh may begin so long after the last one.
                before = readers.read(pause_s, _after(COOL_S + 1), chance)
                expiry.expire()
                since = readers.read(pause_s, expiry.ended(), chance)
                if number or scale.crowd_rounds == 1:  # the first one warms up
                    quiet += before
                    during += since
            # A refresh is short, so that one of them is no sample for a percentile.
            floor, late = statistics.median(quiet), percentile(during, 99)
            rows.append(
                Row(
                    f"{scale.readers} readers, {each}: p99 while all of {size:,} expires and 1 % is"
                    " refreshed, to their median before",
                    late / floor,
                    BUDGET,
                    detail=f"{duration(late)} of {len(during):,} answers, floor {duration(floor)};"
                    f" median {duration(statistics.median(during))}, longest"
                    f" {duration(max(during))}; a reader alone {duration(alone)}",
                )
            )
        readers.close()
    workspace.discard(database)
    return rows


class _Expiry:
    """Lets the collection grow old, by its rows: the server's clock is the real one."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._refreshes = 0

    def grow_old(self) -> None:
        """From now on the time of the collection as a whole decides."""
        self._database.execute("UPDATE artifact_cache_artifact SET synced_at = ?", (_hours_ago(2),))
        self._verified(_hours_ago(0))

    def expire(self) -> None:
        """Make all of it stale."""
        self._refreshes = self._done()
        self._verified(_hours_ago(1))

    def ended(self) -> Callable[[], bool]:
        """Whether the refresh has ended that must have begun then.

        :raises RuntimeError: if it does not.
        """
        started = looked = time.monotonic()

        def ended() -> bool:
            nonlocal looked
            now = time.monotonic()
            if now - looked < LOOK_S:
                return False
            looked = now
            if now - started > PATIENCE_S:
                raise RuntimeError("the refresh does not end")
            return self._done() > self._refreshes

        return ended

    def _verified(self, at: str) -> None:
        self._database.execute(
            "UPDATE artifact_cache_collection"
            " SET verified_at = ?, stamp = lower(hex(randomblob(8))) WHERE id = ?",
            (at, COLLECTION),
        )

    def _done(self) -> int:
        [count] = self._database.execute(
            "SELECT count(*) FROM artifact_cache_refresh_run WHERE outcome = 'succeeded'"
        ).fetchone()
        return int(count)


def _hours_ago(hours: int) -> str:
    return (datetime.now(timezone.utc) - timedelta(hours=hours)).strftime("%Y-%m-%d %H:%M:%S.%f")


def _after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


class _Readers:
    """Readers with a connection and a page each, in one thread."""

    def __init__(self, port: int, pages: list[str]) -> None:
        self._readers = [_Reader(port, page) for page in pages]
        self._selector = selectors.DefaultSelector()
        for number, reader in enumerate(self._readers):
            self._selector.register(reader.socket, selectors.EVENT_READ, number)

    def read(self, pause_s: float, ended: Callable[[], bool], chance: random.Random) -> list[float]:
        """How long every answer took that was asked for before it ended, in seconds.

        :param pause_s: between an answer and the next question, on average.
        :raises RuntimeError: if a status is not 200.
        """
        seconds: list[float] = []
        now = time.perf_counter()
        due = [(now + chance.random() * pause_s, number) for number in range(len(self._readers))]
        heapq.heapify(due)
        waiting = 0
        over = False
        while waiting or not over:
            over = over or ended()
            now = time.perf_counter()
            while due and due[0][0] <= now and not over:
                self._readers[heapq.heappop(due)[1]].ask()
                waiting += 1
            next_s = max(0.0, due[0][0] - now) if due and not over else LOOK_S
            for key, _ in self._selector.select(min(next_s, LOOK_S)):
                took = self._readers[key.data].receive()
                if took is None:
                    continue
                seconds.append(took)
                waiting -= 1
                pause = chance.expovariate(1 / pause_s) if pause_s else 0.0
                heapq.heappush(due, (time.perf_counter() + pause, key.data))
        return seconds

    def close(self) -> None:
        """End all connections."""
        self._selector.close()
        for reader in self._readers:
            reader.socket.close()


class _Reader:
    """One who asks for the same page again and again."""

    def __init__(self, port: int, page: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._question = f"GET {page} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        self._answer = bytearray()
        self._asked = 0.0

    def ask(self) -> None:
        """Send the question."""
        self._answer.clear()
        self._asked = time.perf_counter()
        self.socket.sendall(self._question)

    def receive(self) -> float | None:
        """Take in what has come; how long the answer took, once it is whole."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server has closed the connection")
        self._answer += data
        end = self._answer.find(b"\r\n\r\n")
        found = _LENGTH.search(self._answer, 0, end) if end >= 0 else None
        if found is None or len(self._answer) < end + 4 + int(found[1]):
            return None
        if self._answer[9:12] != b"200":
            raise RuntimeError(f"answered {bytes(self._answer[:500])!r}")
        return time.perf_counter() - self._asked
