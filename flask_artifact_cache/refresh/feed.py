"""The change feed: what every refresh has done to which artifact, in the order of the commits.

Readers (feed.py beside this package) must never miss a position that commits after a greater one.
So positions come from one row that a writer locks last, after collections, runs and artifacts,
and keeps to the end of its transaction.

The first populate of a collection logs one entry for all of it: its rows say the rest, and a log of
each would cost as much as they do.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from ..freshness import GONE, MISSING, QUARANTINED
from ..models import Artifact, FeedState, LoggedChange
from . import store
from .bulk import batches, insert_rows
from .changes import CREATED, UPDATED, Change

REMOVED, RESTORED = "removed", "restored"
# A whole collection can be seen from now on.
POPULATED = "populated"
# How long a change can be read, and how many at most.
KEPT = timedelta(days=7)
KEPT_CHANGES = 1_000_000
# Old ones are looked for once in so many changes.
PRUNE_EVERY = 256

_ONLY = 1


class Entry(NamedTuple):
    """A change of one artifact; of a whole collection where ``uid`` is empty.

    :ivar fields: the names of those that have another value now.
    """

    kind: str
    uid: str = ""
    artifact_id: str = ""
    path: str = ""
    fields: Sequence[str] = ()


@dataclass(slots=True)
class Log:
    """What one transaction does to a collection, gathered until it is written at its end."""

    collection_id: str
    entries: list[Entry] = field(default_factory=list)

    def changed(self, changes: Iterable[Change]) -> None:
        """Take in what a comparison has found; a row that was only stale has not changed."""
        for change in changes:
            restored = change.was in GONE and change.condition not in GONE
            if change.kind == CREATED:
                kind = CREATED
            elif restored:
                kind = RESTORED
            elif change.kind == UPDATED:
                kind = UPDATED
            else:
                continue
            fields = change.fields_updated if change.kind == UPDATED else []
            if (change.was == QUARANTINED) != (change.condition == QUARANTINED) and fields:
                fields.append("state")
            record = change.record
            artifact_id = record.artifact_id
            if change.keeps_last_good:
                # A file that cannot be read does not say its name.
                artifact_id = json.loads(change.payload)["id"]
            path = record.columns["path"]
            self.entries.append(Entry(kind, record.uid, artifact_id, path, fields))

    def missing(self, connection: Connection, ids: Sequence[int]) -> None:
        """Take in rows that are about to be said to be missing, and were not before."""
        self.entries += _gone(connection, MISSING, ids, Artifact.condition.not_in(GONE)).values()

    def populated(self) -> None:
        """Say that the collection can be seen as a whole from now on."""
        self.entries = [Entry(POPULATED)]

    def write(self, connection: Connection, now: datetime) -> None:
        """Write it down; nothing may be locked in this transaction after that."""
        if not self.entries:
            return
        last = _advance(connection, len(self.entries))
        first = last - len(self.entries) + 1
        insert_rows(
            connection,
            store.table_of(LoggedChange),
            [
                (first + number, self.collection_id, *entry[1:4], entry.kind, [*entry.fields], now)
                for number, entry in enumerate(self.entries)
            ],
        )
        if last // PRUNE_EVERY != (first - 1) // PRUNE_EVERY:
            _prune(connection, last, now)


def removed(connection: Connection, ids: Sequence[int]) -> dict[int, Entry]:
    """What to log of each of these rows once it is removed."""
    return _gone(connection, REMOVED, ids)


def _gone(
    connection: Connection, kind: str, ids: Sequence[int], *only: ColumnElement[bool]
) -> dict[int, Entry]:
    columns = (Artifact.id, Artifact.uid, Artifact.type, Artifact.name, Artifact.path)
    found = {}
    for batch in batches(ids):
        statement = select(*columns).where(Artifact.id.in_(batch), *only).order_by(Artifact.id)
        for row in connection.execute(statement):
            found[row.id] = Entry(kind, row.uid, f"{row.type}:{row.name}", row.path)
    return found


def ensure(connection: Connection) -> None:
    """Make sure that there is the row that positions come from; see store.ensure_collection."""
    if connection.scalar(select(FeedState.id).where(FeedState.id == _ONLY)) is None:
        with suppress(IntegrityError), connection.begin_nested():
            connection.execute(
                insert(FeedState).values(id=_ONLY, epoch=secrets.token_hex(8), position=0, pruned=0)
            )


def _advance(connection: Connection, number: int) -> int:
    """Take the next positions, and let nobody else have any before this transaction ends."""
    move = (
        update(FeedState).where(FeedState.id == _ONLY).values(position=FeedState.position + number)
    )
    if not connection.execute(move).rowcount:
        ensure(connection)
        connection.execute(move)
    last: int = connection.execute(
        select(FeedState.position).where(FeedState.id == _ONLY)
    ).scalar_one()
    return last


def _prune(connection: Connection, last: int, now: datetime) -> None:
    """Forget what is older than is kept. Nobody else writes here meanwhile."""
    position = LoggedChange.position
    kept = connection.scalar(
        select(position).where(LoggedChange.at >= now - KEPT).order_by(position).limit(1)
    )
    upto = max(last - KEPT_CHANGES, (last if kept is None else kept) - 1)
    if connection.execute(delete(LoggedChange).where(position <= upto)).rowcount:
        connection.execute(update(FeedState).where(FeedState.id == _ONLY).values(pruned=upto))
