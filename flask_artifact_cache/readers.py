"""Connections for reading: of the pool, or on SQLite each thread's own.

Taking one from the pool and giving it back costs half of what a conditional request takes more
than a route that does nothing. A connection to SQLite is an open file, so a thread that serves
again and again can keep one; to a server it would be one of few.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, bindparam, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql import ClauseElement

from .models import Collection

STAMP = select(Collection.stamp).where(Collection.id == bindparam("collection_id"))


class Readers:
    """The reading connections of one application."""

    def __init__(self) -> None:
        self._threads = threading.local()

    def stamp(self, engine: Engine, collection_id: str) -> str | None:
        """The stamp of a collection; None if there is none, or if it takes another look to tell.

        All that is asked of the database for an answer that was given before.
        """
        kept = self._kept(engine)
        try:
            if kept is not None:
                raw = kept.connection.connection
                row = row_of(raw, engine.dialect, STAMP, collection_id)
            else:
                raw = engine.raw_connection()
                try:
                    row = row_of(raw, engine.dialect, STAMP, collection_id)
                finally:
                    raw.close()
        except engine.dialect.loaded_dbapi.Error:
            self._drop()
            return None
        return None if row is None else row[0]

    @contextmanager
    def connection(self, engine: Engine) -> Iterator[Connection]:
        """A connection that ran no statement yet; what was begun on it ends with the block."""
        kept = self._kept(engine)
        if kept is None:
            with engine.connect() as connection:
                yield connection
            return
        try:
            yield kept.connection
        except SQLAlchemyError:
            self._drop()
            raise
        finally:
            if kept.connection.invalidated:
                self._drop()
            else:
                kept.connection.rollback()

    def _kept(self, engine: Engine) -> _Kept | None:
        """This thread's own connection; None where it has to borrow one.

        A server may have a thread for each request, so a thread has one from its second look on.
        """
        if engine.dialect.name != "sqlite":
            return None
        mine = self._threads.__dict__
        kept: _Kept | None = mine.get("kept")
        if kept is not None and kept.process != os.getpid():
            # It is the parent's, and SQLite wants it not even closed here.
            _INHERITED.append(mine.pop("kept"))
            kept = None
        # A pool that the host has disposed of was replaced by another one.
        if kept is None or kept.pool is not engine.pool:
            if mine.get("seen") is not engine:
                mine["seen"] = engine
                return None
            kept = mine["kept"] = _Kept(engine)
        return None if kept.is_open or kept.connection.in_transaction() else kept

    def _drop(self) -> None:
        self._threads.__dict__.pop("kept", None)


class _Kept:
    """A connection that does not count in the pool it was taken from.

    :ivar is_open: whether its driver always has a transaction open (``autocommit=False``, since
        Python 3.12): it would see the database as it was at its first look.
    """

    def __init__(self, engine: Engine) -> None:
        self.process = os.getpid()
        self.pool = engine.pool
        self.connection = engine.connect()
        self.connection.detach()
        raw = self.connection.connection.dbapi_connection
        self.is_open = getattr(raw, "autocommit", None) is False

    def __del__(self) -> None:
        """Close it with the thread that it belongs to."""
        if self.process == os.getpid():
            with contextlib.suppress(Exception):
                self.connection.close()


_INHERITED: list[_Kept] = []


def row_of(
    raw: PoolProxiedConnection, dialect: Dialect, statement: ClauseElement, collection_id: str
) -> Sequence[Any] | None:
    """The row that a statement with the parameter ``collection_id`` finds.

    On the driver's own cursor: SQLAlchemy's way costs as much as a third of a page.
    """
    text, by_position = _text(dialect, statement)
    cursor = raw.cursor()
    cursor.execute(text, (collection_id,) if by_position else {"collection_id": collection_id})
    row: Sequence[Any] | None = cursor.fetchone()
    cursor.close()
    return row


@lru_cache(maxsize=16)
def _text(dialect: Dialect, statement: ClauseElement) -> tuple[str, bool]:
    """The text of a statement for a driver, and whether parameters go by position."""
    return str(statement.compile(dialect=dialect)), dialect.positional
