"""The only module that writes rows.

Every function works on the connection it is given and ends no transaction. Rows go in by
``executemany`` on plain tables (bulk.py): through ORM objects the same work costs a thousand times
as much. What members are found by is in facets.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    Connection,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    type_coerce,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.types import NullType

from .. import search
from ..freshness import CONDITIONS, GONE, INVALIDATED, OK, QUARANTINED
from ..models import (
    Artifact,
    Collection,
    CollectionArtifact,
    RefreshRun,
    SearchText,
)
from . import facets
from .bulk import batches, columns, insert_rows
from .changes import CREATED, UNCHANGED, UPDATED, Change, Stored
from .records import as_dict, facet_value, name_key
from .selection import Known


def missing(connection: Connection, collections: Sequence[str]) -> list[str]:
    """Those of the collections that have no row yet."""
    found = set(connection.scalars(select(Collection.id).where(Collection.id.in_(collections))))
    return [one for one in collections if one not in found]


def ensure_collection(connection: Connection, collection_id: str) -> None:
    """Make sure that the collection has its row; somebody else may be making it right now.

    In a transaction of its own, where there may be others: whoever finds that another one has
    just inserted the row holds a lock on it that gets in the way of the next one (InnoDB).
    """
    if connection.scalar(select(Collection.id).where(Collection.id == collection_id)) is None:
        with suppress(IntegrityError), connection.begin_nested():
            connection.execute(
                insert(Collection).values(id=collection_id, stamp=_stamp(), problems=[])
            )


@dataclass(frozen=True, slots=True)
class Head:
    """A collection's row, as far as a refresh needs it."""

    revision: int
    artifact_count: int
    gathers: bool
    verified_at: datetime | None
    evidence: str | None
    rules: str | None


def head(connection: Connection, collection_id: str) -> Head:
    """What is known of a collection; of one without a row, nothing."""
    row = connection.execute(
        select(
            Collection.revision,
            Collection.artifact_count,
            Collection.gathers,
            Collection.verified_at,
            Collection.evidence,
            Collection.rules,
        ).where(Collection.id == collection_id)
    ).first()
    return Head(0, 0, False, None, None, None) if row is None else Head(*row)


def stored(connection: Connection, uids: Sequence[str]) -> dict[str, Stored]:
    """The rows of these uids, as far as there are any."""
    rows = connection.execute(
        select(
            Artifact.id,
            Artifact.uid,
            Artifact.payload,
            Artifact.details,
            Artifact.condition,
            Artifact.evidence,
        ).where(Artifact.uid.in_(uids))
    )
    return {row.uid: Stored(*row) for row in rows}


_KNOWN = (
    Artifact.id,
    Artifact.uid,
    Artifact.path,
    Artifact.type,
    Artifact.name,
    Artifact.condition,
    Artifact.evidence,
    type_coerce(Artifact.synced_at, NullType()),
)


def known(connection: Connection, collection_id: str) -> list[Known]:
    """Every row of the collection, as far as a refresh decides about it without its file."""
    rows = connection.execute(select(*_KNOWN).where(Artifact.collection_id == collection_id))
    return [Known._make(row) for row in rows.all()]


def known_by_uid(connection: Connection, uids: Sequence[str]) -> dict[str, tuple[Known, bool]]:
    """The rows of these uids, and whether each of them stands alone."""
    rows = connection.execute(select(*_KNOWN, Artifact.alone).where(Artifact.uid.in_(uids)))
    return {row.uid: (Known(*row[:-1]), row.alone) for row in rows}


def owned(connection: Connection, collection_id: str, head: Head) -> int:
    """How many artifacts belong to the collection itself."""
    if not head.gathers:
        return head.artifact_count
    count = select(func.count()).where(Artifact.collection_id == collection_id)
    return connection.scalar(count) or 0


def uids_of(connection: Connection, collection_id: str, ids: Sequence[str]) -> dict[str, list[str]]:
    """``id -> uids`` of the collection's own artifacts that are called by each of these ids."""
    found: dict[str, list[str]] = {}
    member = CollectionArtifact.__table__
    statement = (
        select(Artifact.uid, Artifact.type, Artifact.name)
        .join(member, member.c.artifact_id == Artifact.id)
        .where(member.c.collection_id == collection_id, Artifact.collection_id == collection_id)
    )
    for batch in batches(ids):
        names = {name_key(one.partition(":")[2]) for one in batch if ":" in one}
        # Two questions: no index answers both at once, and all members would be looked through.
        rows = {tuple(row) for row in connection.execute(statement.where(Artifact.uid.in_(batch)))}
        if names:
            by_name = statement.where(member.c.name_key.in_(names))
            rows |= {tuple(row) for row in connection.execute(by_name)}
        for uid, type_, name in sorted(rows):
            for one in {uid, f"{type_}:{name}"} & set(batch):
                found.setdefault(one, []).append(uid)
    return found


def tagged(connection: Connection, collection_id: str, tags: Sequence[str]) -> set[int]:
    """The ids of the artifacts that have one of these tags."""
    return facets.having(connection, collection_id, "tag", [facet_value(tag) for tag in tags])


def errors(
    connection: Connection, collection_id: str, ids: Sequence[int] | None = None
) -> list[Any]:
    """Why quarantined artifacts of the collection cannot be used; of these rows, or of all."""
    statement = select(Artifact.error).where(
        Artifact.collection_id == collection_id, Artifact.condition == QUARANTINED
    )
    if ids is None:
        return list(connection.scalars(statement))
    return [
        error
        for batch in batches(ids)
        for error in connection.scalars(statement.where(Artifact.id.in_(batch)))
    ]


def problems(connection: Connection, collection_id: str) -> list[Any]:
    """The problems of the collection as a whole, as they were found last."""
    found = connection.scalar(select(Collection.problems).where(Collection.id == collection_id))
    return found or []


def has_doubtful(connection: Connection, collection_id: str) -> bool:
    """Whether some row of the collection needs a look whatever the evidence says."""
    statement = select(Artifact.id).where(
        Artifact.collection_id == collection_id, Artifact.condition.in_((INVALIDATED, *GONE))
    )
    return connection.scalar(statement.limit(1)) is not None


def invalidate(connection: Connection, collection_id: str, uids: Sequence[str] | None) -> int:
    """Say of artifacts that they are stale, and how many that has changed.

    :param uids: None means all of the collection.
    """
    changed = 0
    for batch in [None] if uids is None else batches(uids):
        meant = [Artifact.collection_id == collection_id]
        if batch is not None:
            meant.append(Artifact.uid.in_(batch))
        fine = update(Artifact).where(*meant, Artifact.condition == OK)
        changed += connection.execute(fine.values(condition=INVALIDATED)).rowcount
        # These are stale as it is; but their files are to be read again, too.
        broken = update(Artifact).where(
            *meant, Artifact.condition == QUARANTINED, Artifact.evidence.is_not(None)
        )
        changed += connection.execute(broken.values(evidence=None)).rowcount
    return changed


def apply(
    connection: Connection, members: Sequence[str], changes: Iterable[Change], now: datetime
) -> None:
    """Write what has changed.

    Rows that have not are left alone, but for a condition that no longer holds.

    :param members: the collections that a new artifact becomes a member of.
    """
    for batch in batches(changes):
        _create(connection, members, [c for c in batch if c.kind == CREATED], now)
        _update(connection, members, [c for c in batch if c.kind == UPDATED], now)
        for condition in CONDITIONS:
            back = [
                _id(c) for c in batch if c.kind == UNCHANGED and c.condition == condition != c.was
            ]
            verify(connection, back, now, condition)
        _note_evidence(connection, [c for c in batch if c.kind == UNCHANGED])


def _note_evidence(connection: Connection, changes: list[Change]) -> None:
    """Remember what files are like whose contents have not changed."""
    moved = [
        {"row_id": change.stored.id, "now": change.evidence, "is_alone": change.alone}
        for change in changes
        if change.stored is not None and change.moved
    ]
    if moved:
        table = table_of(Artifact)
        connection.execute(
            update(table)
            .where(table.c.id == bindparam("row_id"))
            .values(evidence=bindparam("now"), alone=bindparam("is_alone")),
            moved,
        )


def verify(
    connection: Connection, ids: Sequence[int], now: datetime, condition: str | None = None
) -> None:
    """Note in each of these rows that it was compared with its file."""
    values = {"synced_at": now} if condition is None else {"synced_at": now, "condition": condition}
    for batch in batches(ids):
        connection.execute(update(Artifact).where(Artifact.id.in_(batch)).values(**values))


def lock(connection: Connection, collection_id: str) -> list[str]:
    """Keep all others from a collection and from those that gather its artifacts; their ids.

    Whoever locks more than a collection does so in the order collections by id, artifacts, runs:
    no two transactions can then wait for each other.
    """
    gathering = connection.scalars(
        select(Collection.id).where(Collection.gathers.is_(True), Collection.id != collection_id)
    ).all()
    # Each by its key: MariaDB locks whatever a search passes, and that would be all collections.
    for one in sorted([*gathering, collection_id]):
        connection.execute(select(Collection.id).where(Collection.id == one).with_for_update())
    return sorted(gathering)


def gather(connection: Connection, collection_id: str, owners: Sequence[str]) -> None:
    """Make every artifact of the owners a member of the collection."""
    owner = CollectionArtifact.__table__.alias("owner")
    absent = Artifact.collection_id.in_(owners) & ~(
        select(CollectionArtifact.artifact_id)
        .where(
            CollectionArtifact.collection_id == collection_id,
            CollectionArtifact.artifact_id == Artifact.id,
        )
        .exists()
    )
    # The facets first: they ask who is not a member yet.
    facets.gather(connection, collection_id, absent)
    connection.execute(
        insert(CollectionArtifact).from_select(
            ["collection_id", "artifact_id", "name_key", "updated_at"],
            select(
                bindparam("target", collection_id, unique=True),
                owner.c.artifact_id,
                owner.c.name_key,
                owner.c.updated_at,
            )
            .join(Artifact, Artifact.id == owner.c.artifact_id)
            .where(owner.c.collection_id == Artifact.collection_id, absent),
        )
    )


def remove(connection: Connection, ids: Sequence[int]) -> list[int]:
    """Delete artifacts and everything of ours that refers to them.

    :returns: the ids that a table of the host refers to; their rows stay as they are.
    """
    referenced: list[int] = []
    waiting = list(batches(ids))
    while waiting:
        batch = waiting.pop()
        try:
            with connection.begin_nested():
                delete_all(connection, batch)
        except IntegrityError:
            half = len(batch) // 2
            if half:
                waiting += [batch[half:], batch[:half]]
            else:
                referenced += batch
    return referenced


def delete_all(connection: Connection, ids: Sequence[int]) -> None:
    """Delete artifacts and everything of ours that refers to them.

    :raises IntegrityError: if a table of the host refers to one of them.
    """
    for batch in batches(ids):
        facets.remove(connection, batch)
        for table, column in (
            (SearchText, SearchText.artifact_id),
            (CollectionArtifact, CollectionArtifact.artifact_id),
            (Artifact, Artifact.id),
        ):
            connection.execute(delete(table).where(column.in_(batch)))


def own_ids(connection: Connection, collection_id: str) -> list[int]:
    """The ids of the artifacts that belong to a collection."""
    own = select(Artifact.id).where(Artifact.collection_id == collection_id)
    return list(connection.scalars(own.order_by(Artifact.id)))


def forget(connection: Connection, collection_id: str) -> None:
    """Delete a collection that has no artifacts of its own any more."""
    facets.forget(connection, collection_id)
    for column in (
        CollectionArtifact.collection_id,
        RefreshRun.collection_id,
        Collection.id,
    ):
        connection.execute(delete(column.class_).where(column == collection_id))


def invalidated(connection: Connection, collection_id: str) -> set[int]:
    """The ids of the rows that were told to be stale."""
    statement = select(Artifact.id).where(
        Artifact.collection_id == collection_id, Artifact.condition == INVALIDATED
    )
    return set(connection.scalars(statement))


def mark(connection: Connection, ids: Sequence[int], condition: str) -> None:
    """Keep the rows as they are, and say this of them."""
    for batch in batches(ids):
        connection.execute(
            update(Artifact).where(Artifact.id.in_(batch)).values(condition=condition)
        )


def set_unavailable(connection: Connection, collection_id: str) -> None:
    """Say that the folder cannot be read now; what is known about it stays."""
    connection.execute(
        update(Collection).where(Collection.id == collection_id).values(path_available=False)
    )


def set_gathering(connection: Connection, collection_id: str) -> None:
    """Let the collection gather the artifacts of all others from now on."""
    connection.execute(
        update(Collection).where(Collection.id == collection_id).values(gathers=True)
    )


def complete(connection: Connection) -> list[str]:
    """The collections that readers may see: those that were read completely once."""
    return list(connection.scalars(select(Collection.id).where(Collection.revision > 0)))


def publish(
    connection: Connection, collection_id: str, *, recount: bool = True, **changed: Any
) -> None:
    """Let readers see what was written: move the revision of every collection concerned.

    :param recount: whether artifacts may have come or gone.
    :param changed: what is set on the collection itself.
    """
    for one in (collection_id, *lock(connection, collection_id)):
        count = select(func.count()).where(CollectionArtifact.collection_id == one)
        connection.execute(
            update(Collection)
            .where(Collection.id == one)
            .values(
                revision=Collection.revision + 1,
                stamp=_stamp(),
                **({"artifact_count": count.scalar_subquery()} if recount else {}),
                **(changed if one == collection_id else {}),
            )
        )


def _stamp() -> str:
    return secrets.token_hex(8)


def _create(
    connection: Connection, members: Sequence[str], changes: list[Change], now: datetime
) -> None:
    if not changes:
        return
    # To bind nothing to a column costs as much as to bind something, and many columns are empty in
    # all of most collections.
    found = zip(
        *map(itemgetter(*_NULLABLE), (change.record.columns for change in changes)), strict=True
    )
    empty = {
        name
        for name, values in zip(_NULLABLE, found, strict=True)
        if values.count(None) == len(changes)
    }
    fields = [name for name in _FIELDS if name not in empty]
    values = itemgetter(*fields)
    insert_rows(
        connection,
        table_of(Artifact),
        (
            (
                *values(change.record.columns),
                *(change.condition, change.evidence, change.alone, now, now),
                *_SERVED(change.record.columns),
            )
            for change in changes
        ),
        [*fields, *_NOTED_COLUMNS, *_SERVED_COLUMNS],
    )
    inserted = connection.execute(
        select(Artifact.uid, Artifact.id).where(
            Artifact.uid.in_([change.record.uid for change in changes])
        )
    )
    ids = {row[0]: row[1] for row in inserted}
    rows = [(ids[change.record.uid], change.record) for change in changes]
    insert_rows(
        connection,
        table_of(CollectionArtifact),
        [(row_id, member, one.name_key, now) for row_id, one in rows for member in members],
    )
    facets.add(connection, members, rows)
    insert_rows(connection, table_of(SearchText), [(row_id, *one.search) for row_id, one in rows])
    search.added(connection, list(ids.values()))


def _update(
    connection: Connection, members: Sequence[str], changes: list[Change], now: datetime
) -> None:
    kept = [change for change in changes if change.keeps_last_good]
    if kept:
        connection.execute(
            update(table_of(Artifact)).where(table_of(Artifact).c.id == bindparam("row_id")),
            [
                {
                    "row_id": _id(change),
                    "payload": change.payload,
                    "error": change.record.error and as_dict(change.record.error),
                    "condition": change.condition,
                    "evidence": change.evidence,
                    "alone": change.alone,
                    "synced_at": now,
                }
                for change in kept
            ],
        )
    read = [change for change in changes if not change.keeps_last_good]
    if not read:
        return
    connection.execute(
        update(table_of(Artifact)).where(table_of(Artifact).c.id == bindparam("row_id")),
        [
            {
                "row_id": _id(change),
                **change.record.columns,
                "condition": change.condition,
                "evidence": change.evidence,
                "alone": change.alone,
                "synced_at": now,
                "updated_at": now,
            }
            for change in read
        ],
    )
    rows = [(_id(change), change.record) for change in read]
    member = table_of(CollectionArtifact)
    connection.execute(
        update(member).where(member.c.artifact_id == bindparam("row_id")),
        [{"row_id": row_id, "name_key": one.name_key, "updated_at": now} for row_id, one in rows],
    )
    facets.replace(connection, members, rows)
    text = table_of(SearchText)
    connection.execute(
        update(text).where(text.c.artifact_id == bindparam("row_id")),
        [
            {
                "row_id": row_id,
                **dict(zip(("name", "tags", "description"), one.search, strict=True)),
            }
            for row_id, one in rows
        ],
    )


def _id(change: Change) -> int:
    assert change.stored is not None
    return change.stored.id


def table_of(model: type[Any]) -> Table:
    """The plain table of a model."""
    table: Table = model.__table__
    return table


# An artifact's row, in its order: its fields, what the cache notes of it, and what it serves.
_NOTED_COLUMNS = ("condition", "evidence", "alone", "synced_at", "updated_at")
_SERVED_COLUMNS = ("payload", "details")
_SERVED = itemgetter(*_SERVED_COLUMNS)
_FIELDS = columns(table_of(Artifact))[: -len(_NOTED_COLUMNS + _SERVED_COLUMNS)]
_NULLABLE = [name for name in _FIELDS if table_of(Artifact).c[name].nullable]
