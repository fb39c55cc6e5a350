"""The only module that writes rows.

Every function works on the connection it is given and ends no transaction. Rows go in by
``executemany`` on plain tables: through ORM objects the same work costs a thousand times as much.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from .. import search
from ..freshness import CONDITIONS, MISSING
from ..models import Artifact, Collection, CollectionArtifact, Facet, RefreshRun, SearchText
from .changes import CREATED, UNCHANGED, UPDATED, Change, Stored
from .guard import Known
from .records import as_dict

# Rows per statement: a list of ids stays far below every database's limit of parameters.
BATCH = 1000

T = TypeVar("T")


def batches(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """The items in lists of at most ``size``."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def ensure_collection(connection: Connection, collection_id: str) -> None:
    """Make sure that the collection has its row; somebody else may be making it right now."""
    if connection.scalar(select(Collection.id).where(Collection.id == collection_id)) is None:
        with suppress(IntegrityError), connection.begin_nested():
            connection.execute(
                insert(Collection).values(id=collection_id, stamp=_stamp(), problems=[])
            )


def stored(connection: Connection, uids: Sequence[str]) -> dict[str, Stored]:
    """The rows of these uids, as far as there are any."""
    rows = connection.execute(
        select(
            Artifact.id, Artifact.uid, Artifact.payload, Artifact.details, Artifact.condition
        ).where(Artifact.uid.in_(uids))
    )
    return {row.uid: Stored(*row) for row in rows}


def known(connection: Connection, collection_id: str) -> list[Known]:
    """Every row of the collection, as far as its absence from the disk is judged."""
    rows = connection.execute(
        select(Artifact.id, Artifact.uid, Artifact.path).where(
            Artifact.collection_id == collection_id
        )
    )
    return [Known(*row) for row in rows]


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


def verify(
    connection: Connection, ids: Sequence[int], now: datetime, condition: str | None = None
) -> None:
    """Note in each of these rows that it was compared with its file."""
    values = {"synced_at": now} if condition is None else {"synced_at": now, "condition": condition}
    for batch in batches(ids):
        connection.execute(update(Artifact).where(Artifact.id.in_(batch)).values(**values))


def gathering(connection: Connection, except_: str) -> list[str]:
    """The collections whose members are the artifacts of all others, too.

    Their rows are locked in one order: refreshes of two others would both write to them.
    """
    return list(
        connection.scalars(
            select(Collection.id)
            .where(Collection.gathers.is_(True), Collection.id != except_)
            .order_by(Collection.id)
            .with_for_update()
        )
    )


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
    facet = Facet.__table__.alias("facet")
    connection.execute(
        insert(Facet).from_select(
            ["collection_id", "facet", "value", "name_key", "artifact_id", "label"],
            select(
                bindparam("target", collection_id, unique=True),
                facet.c.facet,
                facet.c.value,
                facet.c.name_key,
                facet.c.artifact_id,
                facet.c.label,
            )
            .join(Artifact, Artifact.id == facet.c.artifact_id)
            .where(facet.c.collection_id == Artifact.collection_id, absent),
        )
    )
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


def remove(connection: Connection, ids: Sequence[int]) -> None:
    """Delete artifacts and everything that refers to them."""
    for batch in batches(ids):
        for table, column in (
            (Facet, Facet.artifact_id),
            (SearchText, SearchText.artifact_id),
            (CollectionArtifact, CollectionArtifact.artifact_id),
            (Artifact, Artifact.id),
        ):
            connection.execute(delete(table).where(column.in_(batch)))


def mark_missing(connection: Connection, ids: Sequence[int]) -> None:
    """Keep the rows, and say that their files are gone."""
    for batch in batches(ids):
        connection.execute(update(Artifact).where(Artifact.id.in_(batch)).values(condition=MISSING))


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


def publish(connection: Connection, collection_id: str, **columns: Any) -> None:
    """Let readers see what was written: move the revision of every collection concerned.

    ``columns`` are set on the collection itself.
    """
    for one in (collection_id, *gathering(connection, except_=collection_id)):
        count = select(func.count()).where(CollectionArtifact.collection_id == one)
        connection.execute(
            update(Collection)
            .where(Collection.id == one)
            .values(
                revision=Collection.revision + 1,
                stamp=_stamp(),
                artifact_count=count.scalar_subquery(),
                **(columns if one == collection_id else {}),
            )
        )


def save_run(connection: Connection, **columns: Any) -> None:
    """Write the row of a run, replacing it if it is there."""
    connection.execute(delete(RefreshRun).where(RefreshRun.id == columns["id"]))
    connection.execute(insert(RefreshRun).values(**columns))


def _stamp() -> str:
    return secrets.token_hex(8)


def _create(
    connection: Connection, members: Sequence[str], changes: list[Change], now: datetime
) -> None:
    if not changes:
        return
    connection.execute(
        insert(_table(Artifact)),
        [
            {
                **change.record.columns,
                "condition": change.condition,
                "synced_at": now,
                "updated_at": now,
            }
            for change in changes
        ],
    )
    inserted = connection.execute(
        select(Artifact.uid, Artifact.id).where(
            Artifact.uid.in_([change.record.uid for change in changes])
        )
    )
    ids = {row[0]: row[1] for row in inserted}
    rows = [(ids[change.record.uid], change) for change in changes]
    connection.execute(
        insert(_table(CollectionArtifact)),
        [
            {
                "collection_id": member,
                "artifact_id": artifact_id,
                "name_key": change.record.name_key,
                "updated_at": now,
            }
            for member in members
            for artifact_id, change in rows
        ],
    )
    _insert_facets(connection, members, rows)
    _insert_plain(
        connection,
        _table(SearchText),
        [(row_id, *change.record.search) for row_id, change in rows],
    )
    search.added(connection, [row_id for row_id, _ in rows])


def _update(
    connection: Connection, members: Sequence[str], changes: list[Change], now: datetime
) -> None:
    kept = [change for change in changes if change.keeps_last_good]
    if kept:
        connection.execute(
            update(_table(Artifact)).where(_table(Artifact).c.id == bindparam("row_id")),
            [
                {
                    "row_id": _id(change),
                    "payload": change.payload,
                    "error": change.record.error and as_dict(change.record.error),
                    "condition": change.condition,
                    "synced_at": now,
                }
                for change in kept
            ],
        )
    read = [change for change in changes if not change.keeps_last_good]
    if not read:
        return
    connection.execute(
        update(_table(Artifact)).where(_table(Artifact).c.id == bindparam("row_id")),
        [
            {
                "row_id": _id(change),
                **change.record.columns,
                "condition": change.condition,
                "synced_at": now,
                "updated_at": now,
            }
            for change in read
        ],
    )
    rows = [(_id(change), change) for change in read]
    member = _table(CollectionArtifact)
    connection.execute(
        update(member).where(member.c.artifact_id == bindparam("row_id")),
        [
            {"row_id": row_id, "name_key": change.record.name_key, "updated_at": now}
            for row_id, change in rows
        ],
    )
    connection.execute(delete(Facet).where(Facet.artifact_id.in_([row_id for row_id, _ in rows])))
    _insert_facets(connection, members, rows)
    text = _table(SearchText)
    connection.execute(
        update(text).where(text.c.artifact_id == bindparam("row_id")),
        [
            {
                "row_id": row_id,
                **dict(zip(("name", "tags", "description"), change.record.search, strict=True)),
            }
            for row_id, change in rows
        ],
    )


def _insert_facets(
    connection: Connection, members: Sequence[str], rows: list[tuple[int, Change]]
) -> None:
    _insert_plain(
        connection,
        _table(Facet),
        [
            (member, facet, value, change.record.name_key, row_id, label)
            for member in members
            for row_id, change in rows
            for facet, value, label in change.record.facets
        ],
    )


def _insert_plain(connection: Connection, table: Table, rows: list[tuple[Any, ...]]) -> None:
    """Insert whole rows of text and whole numbers, which every driver takes as they are.

    There are ten such rows an artifact; looking at each value of each, as SQLAlchemy has to,
    would take a tenth of a populate.
    """
    if not rows:
        return
    statement = str(insert(table).compile(dialect=connection.dialect))
    if connection.dialect.positional:
        connection.exec_driver_sql(statement, rows)
    else:
        names = table.columns.keys()
        connection.exec_driver_sql(statement, [dict(zip(names, row, strict=True)) for row in rows])


def _id(change: Change) -> int:
    assert change.stored is not None
    return change.stored.id


def _table(model: type[Any]) -> Table:
    table: Table = model.__table__
    return table
