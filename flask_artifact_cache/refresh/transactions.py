"""Where reads and writes of a refresh happen: in short transactions of its own, or the caller's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from ..models import Collection


@dataclass(frozen=True, slots=True)
class Transactions:
    """Two ways into the database: ``read()`` and ``write()`` give a connection each time.

    :ivar own: whether leaving ``write()`` commits. In a caller's session nothing is committed
        before the caller does it, so a batch is not visible to anybody else.
    :ivar concurrent: whether another thread may use them meanwhile.
    """

    read: Callable[[], AbstractContextManager[Connection]]
    write: Callable[[], AbstractContextManager[Connection]]
    own: bool
    concurrent: bool = False


def on_engine(engine: Engine | Connection) -> Transactions:
    """Short transactions of our own, committed one by one.

    A host's test may have put a connection in the engine's place, to roll back what happens on it.
    """
    if isinstance(engine, Connection):
        given = nullcontext(engine)
        return Transactions(read=lambda: given, write=lambda: given, own=True)

    @contextmanager
    def write() -> Iterator[Connection]:
        with engine.connect() as connection, connection.begin():
            _begin_immediate(connection)
            yield connection

    return Transactions(read=engine.connect, write=write, own=True, concurrent=True)


def in_session(session: Session) -> Transactions:
    """The caller's transaction, which only the caller ends."""

    @contextmanager
    def use() -> Iterator[Connection]:
        session.flush()
        connection = session.connection(bind_arguments={"mapper": Collection.__mapper__})
        _begin_immediate(connection)
        yield connection
        # What was written went past the identity map.
        session.expire_all()

    return Transactions(read=use, write=use, own=False)


def _begin_immediate(connection: Connection) -> None:
    """Take SQLite's write lock at once.

    A transaction that reads first and writes later fails with "database is locked" without
    waiting when another one wrote in between (sqlite.org/isolation.html).
    """
    if connection.dialect.name != "sqlite":
        return
    # A host may already have begun in an event handler of its own.
    if not getattr(connection.connection.dbapi_connection, "in_transaction", False):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
