"""One refresh of a collection at a time, across threads, processes and machines.

The lease is two columns of the collection's row, taken by a conditional UPDATE that counts on
the database's clock alone. Every write of a refresh proves in the same transaction that it is
still the holder: whoever took the lease after it ran out has put another name there, so a process
that slept can write nothing when it wakes.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from sqlalchemy import BigInteger, ColumnElement, Connection, literal_column, select, update

from ..errors import BusyError
from ..models import Collection

LEASE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write one collection's rows."""

    collection_id: str
    holder: str

    def renew(self, connection: Connection) -> None:
        """Prove that nobody has taken the lease, and prolong it.

        A lease that ran out and that nobody wanted is still ours: a slow disk is no reason to
        give up.

        :raises BusyError: if another refresh has begun since.
        """
        if not self._update(connection, until=now_ms(connection) + LEASE_MS):
            raise BusyError(f"another process has taken over the refresh of '{self.collection_id}'")

    def release(self, connection: Connection) -> None:
        """Let the next one in; without effect if the lease was lost."""
        # Without a holder nobody can prolong it any more, not even we.
        self._update(connection, until=literal_column("0"), lease_holder=None)

    def _update(self, connection: Connection, until: ColumnElement[int], **values: None) -> bool:
        statement = (
            update(Collection)
            .where(Collection.id == self.collection_id, Collection.lease_holder == self.holder)
            .values(lease_until_ms=until, **values)
        )
        return connection.execute(statement).rowcount == 1


def acquire(connection: Connection, collection_id: str) -> Lease:
    """Take the lease of a collection whose row exists.

    :raises BusyError: if somebody else holds it; says after how many seconds it runs out at last.
    """
    now = now_ms(connection)
    holder = secrets.token_hex(16)
    taken = connection.execute(
        update(Collection)
        .where(Collection.id == collection_id, Collection.lease_until_ms <= now)
        .values(
            lease_holder=holder,
            lease_until_ms=now + LEASE_MS,
        )
    )
    if taken.rowcount != 1:
        left_ms = connection.scalar(
            select(Collection.lease_until_ms - now).where(Collection.id == collection_id)
        )
        raise BusyError(
            f"another process is refreshing '{collection_id}'",
            retry_after=max(1, -(-(left_ms or 0) // 1000)),
        )
    return Lease(collection_id, holder)


_CLOCKS = {
    # julianday() has a resolution of about 0.1 ms; strftime('%s') would have one of a second.
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)",
    "mysql": "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000 AS SIGNED)",
    "mariadb": "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000 AS SIGNED)",
}


def now_ms(connection: Connection) -> ColumnElement[int]:
    """The time by the database's clock, in ms since 1970."""
    return literal_column(_CLOCKS[connection.dialect.name], BigInteger())
