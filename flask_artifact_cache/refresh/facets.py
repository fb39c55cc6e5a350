"""The rows that members are found by, and how many members each value has.

The counts are moved by as much as the rows change, in the same transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

from ..models import Artifact, Facet, FacetCount
from .bulk import insert_rows
from .records import Record

_FACET: Table = Facet.__table__  # type: ignore[assignment]
_COUNT: Table = FacetCount.__table__  # type: ignore[assignment]
_KEY = ("collection_id", "facet", "value", "name_key", "artifact_id")

Row = tuple[str, str, str, str, int, str]
Value = tuple[str, str, str]  # collection id, facet, folded value


def add(connection: Connection, members: Sequence[str], rows: Sequence[tuple[int, Record]]) -> None:
    """Insert the facets of new artifacts, given as ``(id, record)``."""
    # In the order of the key: neighbours go into the same pages.
    added = sorted(_rows(members, rows))
    insert_rows(connection, _FACET, added)
    _move(connection, Counter(row[:3] for row in added))


def replace(
    connection: Connection, members: Sequence[str], rows: Sequence[tuple[int, Record]]
) -> None:
    """Make the facets of known artifacts what their records say; equal ones are left alone."""
    ids = [row_id for row_id, _ in rows]
    found = connection.execute(select(*_FACET.columns).where(Facet.artifact_id.in_(ids)))
    before: set[Any] = {tuple(row) for row in found}
    after = set(_rows(members, rows))
    gone, added = sorted(before - after), sorted(after - before)
    if gone:
        connection.execute(
            delete(_FACET).where(*(_FACET.c[name] == bindparam(f"of_{name}") for name in _KEY)),
            [{f"of_{name}": value for name, value in zip(_KEY, row, strict=False)} for row in gone],
        )
    insert_rows(connection, _FACET, added)
    moved = Counter(row[:3] for row in added)
    moved.subtract(row[:3] for row in gone)
    _move(connection, moved)


def remove(connection: Connection, ids: Sequence[int]) -> None:
    """Delete the facets of artifacts."""
    value = (Facet.collection_id, Facet.facet, Facet.value)
    found = connection.execute(
        select(*value, func.count()).where(Facet.artifact_id.in_(ids)).group_by(*value)
    )
    _move(connection, {(row[0], row[1], row[2]): -row[3] for row in found})
    connection.execute(delete(Facet).where(Facet.artifact_id.in_(ids)))


def gather(connection: Connection, collection_id: str, absent: ColumnElement[bool]) -> None:
    """Give a collection the facets of artifacts that are about to become its members.

    :param absent: which artifacts, as a condition on :class:`Artifact`.
    """
    facet = _FACET.alias("facet")
    owned = (
        select(
            bindparam("target", collection_id, unique=True),
            *(facet.c[name] for name in (*_KEY[1:], "label")),
        )
        .join(Artifact, Artifact.id == facet.c.artifact_id)
        .where(facet.c.collection_id == Artifact.collection_id, absent)
    )
    values = owned.with_only_columns(facet.c.facet, facet.c.value, func.count())
    found = connection.execute(values.group_by(facet.c.facet, facet.c.value))
    _move(connection, {(collection_id, row[0], row[1]): row[2] for row in found})
    connection.execute(insert(_FACET).from_select([*_KEY, "label"], owned))


def _rows(members: Sequence[str], rows: Iterable[tuple[int, Record]]) -> list[Row]:
    return [
        (member, facet, value, record.name_key, row_id, label)
        for member in members
        for row_id, record in rows
        for facet, value, label in record.facets
    ]


def _move(connection: Connection, moved: Mapping[Value, int]) -> None:
    """Change how many members have these values."""
    # In one order, so that two transactions cannot wait for each other.
    values: list[dict[str, Any]] = [
        {"collection_id": value[0], "facet": value[1], "value": value[2], "members": by}
        for value, by in sorted(moved.items())
        if by
    ]
    if not values:
        return
    connection.execute(_upsert(connection.dialect.name), values)
    fewer = [value for value in values if value["members"] < 0]
    if fewer:
        # By the whole key: a facet may have a value for every member.
        key = [_COUNT.c[name] == bindparam(f"of_{name}") for name in _KEY[:3]]
        connection.execute(
            delete(_COUNT).where(*key, _COUNT.c.members <= 0),
            [{f"of_{name}": value[name] for name in _KEY[:3]} for value in fewer],
        )


def _upsert(dialect: str) -> Executable:
    members = _COUNT.c.members
    if dialect in ("mysql", "mariadb"):
        to_mysql = mysql.insert(_COUNT)
        return to_mysql.on_duplicate_key_update(members=members + to_mysql.inserted.members)
    insert_or = postgresql.insert if dialect == "postgresql" else sqlite.insert
    to_other: postgresql.Insert | sqlite.Insert = insert_or(_COUNT)
    return to_other.on_conflict_do_update(
        index_elements=list(_COUNT.primary_key),
        set_={"members": members + to_other.excluded.members},
    )
