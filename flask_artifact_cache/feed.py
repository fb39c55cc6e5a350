"""Reading the change feed: all that is there first, then what has changed since.

A reader that starts from nothing pages through the rows by their ids, having noted where the log
ended before the first of them, and then goes on with the log from there. What changes meanwhile it
may see twice, never not at all: changes are to be applied as upserts. The log says of a collection
that was populated for the first time only that; its rows are paged through in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from . import cursors, queries, statements
from .errors import CursorExpiredError
from .freshness import isoformat
from .models import Artifact, Collection, FeedState, LoggedChange, utc
from .queries import Moment
from .refresh.changes import CREATED
from .refresh.feed import POPULATED, REMOVED

_IN_LOG = -1
_EXPIRED = "what has changed since this cursor is not kept any more; start again without 'since'"
_TYPES = (str, int, str, int)


@dataclass(slots=True)
class _Place:
    """How far a reader is.

    :ivar position: of the last change that it has read of the log.
    :ivar collection_id: of which it reads the rows now; empty: of all.
    :ivar row: the id of the last row that it has read; -1 while it reads the log.
    """

    epoch: str
    position: int
    collection_id: str = ""
    row: int = 0

    def follow(self, position: int | None = None) -> None:
        """Go on with the log."""
        self.position = self.position if position is None else position
        self.collection_id, self.row = "", _IN_LOG


def page(
    connection: Connection,
    at: Moment,
    since: str | None,
    limit: int,
    *,
    asked: str | None,
    only: str | None,
) -> dict[str, Any]:
    """The changes after a cursor; from the start, where there is none.

    :param asked: the collection that is asked for, which the cursor is good for.
    :param only: the owner of the artifacts; None: all.
    :returns: ``changes``, the cursor ``next``, and ``has_more``.
    :raises InvalidRequestError: if the cursor is not one of these.
    :raises CursorExpiredError: if what follows it is not kept any more.
    """
    state = connection.execute(
        select(FeedState.epoch, FeedState.position, FeedState.pruned)
    ).first()
    epoch, end, pruned = ("", 0, 0) if state is None else state
    purpose = ("changes", asked)
    begin = end
    # A collection that gathers others now has members that its log has never told of.
    epoch += "*" if asked is not None and only is None else ""
    if since is None:
        place = _Place(epoch, end)
    else:
        place = _Place(*cursors.read(since, purpose, _TYPES, field="since"))
        begin = place.position
        nothing_yet = not place.epoch and begin == 0
        if begin < pruned or not (nothing_yet or place.epoch == epoch):
            raise CursorExpiredError(_EXPIRED)
        place.epoch = epoch
    changes: list[dict[str, Any]] = []
    while len(changes) < limit:
        room = limit - len(changes)
        if place.row != _IN_LOG:
            _read_rows(connection, at, place, room, only, changes)
        elif not _read_log(connection, at, place, room, only, changes):
            place.follow(max(place.position, end))
            break
    more = place.row != _IN_LOG or bool(_log(connection, place, 1, only))
    if begin < (connection.scalar(select(FeedState.pruned)) or 0):
        # Something was forgotten while it was to be read.
        raise CursorExpiredError(_EXPIRED)
    values = (place.epoch, place.position, place.collection_id, place.row)
    return {"changes": changes, "next": cursors.write(values, purpose), "has_more": more}


def history(connection: Connection, uid: str, limit: int) -> list[dict[str, Any]]:
    """What has happened to an artifact as far as it is kept, the newest first."""
    rows = connection.execute(
        select(*_LOGGED)
        .where(LoggedChange.uid == uid)
        .order_by(LoggedChange.position.desc())
        .limit(limit)
    )
    return [_told(row) for row in rows]


def _read_rows(
    connection: Connection,
    at: Moment,
    place: _Place,
    room: int,
    only: str | None,
    changes: list[dict[str, Any]],
) -> None:
    """The next rows, as if each was created now."""
    visible = select(Collection.id).where(Collection.revision > 0)
    statement = select(Artifact.id, *_ITEM).where(
        Artifact.id > place.row, Artifact.collection_id.in_(visible)
    )
    owner = place.collection_id or only
    if owner:
        statement = statement.where(Artifact.collection_id == owner)
    rows = connection.execute(statement.order_by(Artifact.id).limit(room)).all()
    for row in rows:
        item = _item(row[1:], at)
        changes.append(
            _change(
                CREATED,
                utc(row.updated_at),
                item["collection_id"],
                item["uid"],
                item["id"],
                item["path"],
            )
            | {"artifact": item}
        )
    if len(rows) < room:
        place.follow()
    else:
        place.row = rows[-1].id


def _read_log(
    connection: Connection,
    at: Moment,
    place: _Place,
    room: int,
    only: str | None,
    changes: list[dict[str, Any]],
) -> bool:
    """The next changes of the log; False where it ends."""
    rows = _log(connection, place, room, only)
    uids = {row.uid for row in rows if row.kind != REMOVED}
    found = connection.execute(
        select(Artifact.uid.label("uid"), *_ITEM).where(Artifact.uid.in_(uids))
    )
    items = {row.uid: _item(row[1:], at) for row in found} if uids else {}
    for row in rows:
        place.position = row.position
        if row.kind == POPULATED:
            place.collection_id, place.row = row.collection_id, 0
            return True
        artifact = None if row.kind == REMOVED else items.get(row.uid)
        changes.append(_told(row) | {"artifact": artifact})
    return bool(rows)


def _log(connection: Connection, place: _Place, limit: int, only: str | None) -> Sequence[Any]:
    statement = select(*_LOGGED).where(LoggedChange.position > place.position)
    if only is not None:
        statement = statement.where(LoggedChange.collection_id == only)
    return connection.execute(statement.order_by(LoggedChange.position).limit(limit)).all()


_LOGGED = (
    LoggedChange.position,
    LoggedChange.collection_id,
    LoggedChange.uid,
    LoggedChange.artifact_id,
    LoggedChange.path,
    LoggedChange.kind,
    LoggedChange.fields,
    LoggedChange.at,
)
# As queries.page has them.
_ITEM = (
    statements.raw(Artifact.payload),
    Artifact.condition,
    Artifact.collection_id,
    statements.raw(Artifact.synced_at),
    statements.raw(Artifact.updated_at),
)


def _item(row: Sequence[Any], at: Moment) -> dict[str, Any]:
    item: dict[str, Any] = json.loads(queries.item(row, at))
    return item


def _told(row: Any) -> dict[str, Any]:
    return _change(
        row.kind, row.at, row.collection_id, row.uid, row.artifact_id, row.path, row.fields
    )


def _change(
    kind: str,
    at: datetime,
    collection_id: str,
    uid: str,
    artifact_id: str,
    path: str,
    fields: Sequence[str] = (),
) -> dict[str, Any]:
    return {
        "kind": kind,
        "at": isoformat(at),
        "collection_id": collection_id,
        "uid": uid,
        "artifact_id": artifact_id,
        "path": path,
        "fields": list(fields),
    }
