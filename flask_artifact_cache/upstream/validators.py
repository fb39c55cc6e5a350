"""What earlier answers leave behind: validators, limits, and which object a path was."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from .decide import LONGEST_S

log = logging.getLogger("flask_artifact_cache")

FILE = "upstream.sqlite3"
KEPT_BYTES = 65_536
# Objects, of all repositories. A commit of which one is forgotten is listed once more.
KEPT_OBJECTS = 100_000
# How long another process may keep the file to itself.
WAIT_S = 10.0
# Written into the file, so that another program's is never taken for ours: "faca".
_OURS = 0x66616361
# What changed so lately may change again within one tick of the file system's clock.
_SETTLED_NS = 2_000_000_000

_TABLES = (
    """CREATE TABLE IF NOT EXISTS validator (
        url TEXT, accept TEXT, credential TEXT NOT NULL, etag TEXT NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (url, accept)
    )""",
    """CREATE TABLE IF NOT EXISTS waiting (
        host TEXT, credential TEXT, until REAL NOT NULL,
        PRIMARY KEY (host, credential)
    )""",
    """CREATE TABLE IF NOT EXISTS object (
        repository TEXT, sha TEXT, path TEXT, object TEXT NOT NULL,
        PRIMARY KEY (repository, sha, path)
    )""",
)
_WAIT = """
    INSERT INTO waiting VALUES (?, ?, ?) ON CONFLICT (host, credential) DO UPDATE
    SET until = excluded.until WHERE waiting.until < excluded.until OR waiting.until > ?
"""
_WAITING = "SELECT until FROM waiting WHERE host = ? AND credential = ?"
# A row that is noted again gets a new rowid, so these go by when each was noted last.
_FORGET = "DELETE FROM object WHERE rowid <= (SELECT max(rowid) FROM object) - ?"

T = TypeVar("T")


def fingerprint(token: str | None) -> str:
    """Tell one credential from another without keeping it."""
    return hashlib.sha256(b"artifact-cache:" + token.encode()).hexdigest()[:16] if token else ""


def lies_ahead(until: float, now: float) -> bool:
    """Whether a limit holds still; what is too far ahead was said by a clock that went wrong."""
    return now < until <= now + LONGEST_S


class Memory:
    """A small SQLite file in the state folder, or nothing but memory where there is no folder.

    A file that is damaged, another program's, or not to be written is left as it is: there is one
    warning, and what is learnt from then on is forgotten at the end.

    :param kept_objects: how many of them are remembered, about.
    """

    def __init__(self, folder: Path | None, kept_objects: int = KEPT_OBJECTS) -> None:
        self._kept_objects = kept_objects
        # Threads share the connection, one after the other.
        self._lock = threading.Lock()
        self._in_file = folder is not None
        try:
            self._connection = _nothing() if folder is None else _opened(folder)
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def validator(self, url: str, accept: str, credential: str) -> tuple[str, bytes] | None:
        """The ETag and body of the last answer, if the same credential was given it."""
        row = self._do(
            lambda connection: connection.execute(
                "SELECT etag, body FROM validator WHERE url = ? AND accept = ? AND credential = ?",
                (url, accept, credential),
            ).fetchone()
        )
        return (str(row[0]), bytes(row[1])) if row else None

    def keep(self, url: str, accept: str, credential: str, etag: str, body: bytes) -> None:
        """Remember an answer; what another credential was given is forgotten."""
        if len(body) <= KEPT_BYTES:
            self._write(
                "INSERT OR REPLACE INTO validator VALUES (?, ?, ?, ?, ?)",
                [(url, accept, credential, etag, body)],
            )

    def waiting(self, host: str, credential: str) -> float:
        """Until when a host is not to be asked; 0 if it may be."""
        row = self._do(
            lambda connection: connection.execute(_WAITING, (host, credential)).fetchone()
        )
        return float(row[0]) if row else 0.0

    def wait(self, host: str, credential: str, until: float, now: float) -> None:
        """Remember that a host is not to be asked before.

        A longer limit that holds still is kept: requests that were under way at once end with
        different ones, in any order.
        """
        self._write(_WAIT, [(host, credential, until, now + LONGEST_S)])

    def objects(self, repository: str, sha: str, paths: Iterable[str]) -> dict[str, str]:
        """The objects that are known to be at some paths in a commit; empty text: nothing."""
        wanted = set(paths)

        def found(connection: sqlite3.Connection) -> dict[str, str]:
            rows = connection.execute(
                "SELECT path, object FROM object WHERE repository = ? AND sha = ?",
                (repository.lower(), sha),
            )
            with closing(rows):
                return {path: one for path, one in rows if path in wanted}

        return self._do(found)

    def keep_objects(self, repository: str, sha: str, objects: dict[str, str]) -> None:
        """Remember what a listing said; what was noted long ago is forgotten."""
        name = repository.lower()
        self._write(
            "INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?)",
            [(name, sha, path, found) for path, found in objects.items()],
            (_FORGET, (self._kept_objects,)),
        )

    def _write(
        self,
        statement: str,
        rows: list[tuple[object, ...]],
        after: tuple[str, tuple[object, ...]] | None = None,
    ) -> None:
        def write(connection: sqlite3.Connection) -> None:
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                connection.executemany(statement, rows)
                if after is not None:
                    connection.execute(*after)

        self._do(write)

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                return work(self._connection)
            except sqlite3.Error as error:
                if not self._in_file:
                    raise
                self._connection.close()
                self._give_up(error)
                return work(self._connection)

    def _give_up(self, error: Exception) -> None:
        log.warning(
            "what is remembered of GitHub cannot be used (%s: %s); it is asked as for the first"
            " time. Delete or mend %s in the folder ARTIFACT_CACHE_GITHUB_STATE_FOLDER",
            type(error).__name__,
            error.strerror if isinstance(error, OSError) else error,
            FILE,
        )
        self._in_file = False
        self._connection = _nothing()


class Limited:
    """Until when a GitHub is not to be asked, as whoever asked it last has left it.

    Cheap enough for every request: one ``stat``, and a look into the file when that has changed.
    It writes nothing, and asks nobody.
    """

    def __init__(self, folder: Path | None, host: str, token: str | None) -> None:
        self._path = folder and folder / FILE
        self._key = host, fingerprint(token)
        self._known: tuple[tuple[int, int, int], float] | None = None

    def until(self, now: float) -> float | None:
        """Seconds since 1970; None if it may be asked."""
        until = self._last()
        return until if lies_ahead(until, now) else None

    def _last(self) -> float:
        if self._path is None:
            return 0.0
        try:
            info = self._path.stat()
        except OSError:
            return 0.0
        if not stat.S_ISREG(info.st_mode):
            return 0.0
        evidence = (info.st_mtime_ns, info.st_size, info.st_ino)
        known = self._known
        if known is not None and known[0] == evidence:
            return known[1]
        try:
            address = f"file:{quote(str(self._path))}?mode=ro"
            with closing(sqlite3.connect(address, uri=True, timeout=0.1)) as connection:
                row = connection.execute(_WAITING, self._key).fetchone()
        except sqlite3.Error:
            return 0.0
        until = float(row[0]) if row else 0.0
        if time.time_ns() - info.st_mtime_ns > _SETTLED_NS:
            self._known = evidence, until
        return until


def _opened(folder: Path) -> sqlite3.Connection:
    """Open the file, which nobody else may read, and make it where there is none."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / FILE
    try:
        # Before SQLite does it, which would let others read it; its journal is as private.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise sqlite3.DatabaseError("it is a link, or no file") from None
    connection = sqlite3.connect(
        path, timeout=WAIT_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            [owner] = connection.execute("PRAGMA application_id").fetchone()
            if owner != _OURS:
                if owner or connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                    raise sqlite3.DatabaseError("it is another program's")
                connection.execute(f"PRAGMA application_id = {_OURS}")
            _lay_out(connection)
        path.chmod(0o600)
    except BaseException:
        connection.close()
        raise
    return connection


def _nothing() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _lay_out(connection)
    return connection


def _lay_out(connection: sqlite3.Connection) -> None:
    for table in _TABLES:
        connection.execute(table)
