"""The rows that members are found by, and how many members each value has.

The counts are moved by as much as the rows change, in the same transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
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

from ..models import Artifact, Facet, FacetValue
from .bulk import batches, insert_rows
from .records import Record, value_id

_FACET: Table = Facet.__table__  # type: ignore[assignment]
_VALUE: Table = FacetValue.__table__  # type: ignore[assignment]
_KEY = ("value_id", "name_key", "artifact_id")
_NAMES = ("collection_id", "facet", "value")

Value = tuple[str, str, str]  # collection id, facet, folded value
Member = tuple[str, int, str | None]  # name key, artifact id, the value as written


def add(connection: Connection, members: Sequence[str], rows: Sequence[tuple[int, Record]]) -> None:
    """Insert the facets of new artifacts, given as ``(id, record)``."""
    added = _by_value(members, rows)
    _move(connection, {value: len(found) for value, found in added.items()})
    _insert(connection, added)


def replace(
    connection: Connection, members: Sequence[str], rows: Sequence[tuple[int, Record]]
) -> None:
    """Make the facets of known artifacts what their records say; equal ones are left alone."""
    ids = [row_id for row_id, _ in rows]
    found = connection.execute(
        select(*(_VALUE.c[name] for name in _NAMES), *_FACET.c)
        .join(_VALUE, _VALUE.c.id == _FACET.c.value_id)
        .where(_FACET.c.artifact_id.in_(ids))
    )
    before: dict[tuple[Value, Member], Any] = {
        (tuple(row[:3]), tuple(row[4:])): row[3:6] for row in found
    }
    after = {(value, one) for value, found in _by_value(members, rows).items() for one in found}
    gone = before.keys() - after
    added: dict[Value, list[Member]] = {}
    moved: Counter[Value] = Counter()
    for value, member in after - before.keys():
        added.setdefault(value, []).append(member)
        moved[value] += 1
    for value, _ in gone:
        moved[value] -= 1
    if gone:
        connection.execute(
            delete(_FACET).where(*(_FACET.c[name] == bindparam(f"of_{name}") for name in _KEY)),
            [
                {f"of_{name}": part for name, part in zip(_KEY, key, strict=True)}
                for key in sorted(before[one] for one in gone)
            ],
        )
    _move(connection, moved)
    _insert(connection, added)


def remove(connection: Connection, ids: Sequence[int]) -> None:
    """Delete the facets of artifacts."""
    value = [_VALUE.c[name] for name in _NAMES]
    found = connection.execute(
        select(*value, func.count())
        .join(_FACET, _FACET.c.value_id == _VALUE.c.id)
        .where(_FACET.c.artifact_id.in_(ids))
        .group_by(*value)
    ).all()
    connection.execute(delete(_FACET).where(_FACET.c.artifact_id.in_(ids)))
    _move(connection, {(row[0], row[1], row[2]): -row[3] for row in found})


def forget(connection: Connection, collection_id: str) -> None:
    """Delete all facets of a collection."""
    ids = connection.scalars(select(_VALUE.c.id).where(_VALUE.c.collection_id == collection_id))
    for batch in batches(ids.all()):
        connection.execute(delete(_FACET).where(_FACET.c.value_id.in_(batch)))
        connection.execute(delete(_VALUE).where(_VALUE.c.id.in_(batch)))


def having(
    connection: Connection, collection_id: str, facet: str, values: Sequence[str]
) -> set[int]:
    """The ids of the members that have one of these folded values."""
    ids = [value_id(collection_id, facet, value) for value in values]
    return set(connection.scalars(select(_FACET.c.artifact_id).where(_FACET.c.value_id.in_(ids))))


def gather(connection: Connection, collection_id: str, absent: ColumnElement[bool]) -> None:
    """Give a collection the facets of artifacts that are about to become its members.

    :param absent: which artifacts, as a condition on :class:`Artifact`.
    """
    facet, value, same = _FACET.alias("facet"), _VALUE.alias("value"), _VALUE.alias("same")
    owned = (
        select(value.c.facet, value.c.value, func.count())
        .join(facet, facet.c.value_id == value.c.id)
        .join(Artifact, Artifact.id == facet.c.artifact_id)
        .where(value.c.collection_id == Artifact.collection_id, absent)
    )
    found = connection.execute(owned.group_by(value.c.facet, value.c.value))
    _move(connection, {(collection_id, row[0], row[1]): row[2] for row in found})
    rows = owned.with_only_columns(
        same.c.id, facet.c.name_key, facet.c.artifact_id, facet.c.label
    ).join(
        same,
        (same.c.collection_id == bindparam("target", collection_id, unique=True))
        & (same.c.facet == value.c.facet)
        & (same.c.value == value.c.value),
    )
    connection.execute(insert(_FACET).from_select([*_KEY, "label"], rows))


def _by_value(
    members: Sequence[str], rows: Iterable[tuple[int, Record]]
) -> dict[Value, list[Member]]:
    found: dict[Value, list[Member]] = {}
    for row_id, record in rows:
        for facet, value, label in record.facets:
            one = (record.name_key, row_id, None if label == value else label)
            for member in members:
                found.setdefault((member, facet, value), []).append(one)
    return found


def _insert(connection: Connection, added: Mapping[Value, list[Member]]) -> None:
    bare: list[tuple[Any, ...]] = []
    labelled: list[tuple[Any, ...]] = []
    # In the order of the key: neighbours go into the same pages.
    for id_, members in sorted((value_id(*value), members) for value, members in added.items()):
        for name_key, artifact_id, label in sorted(members):
            if label is None:
                bare.append((id_, name_key, artifact_id))
            else:
                labelled.append((id_, name_key, artifact_id, label))
    # To bind nothing costs a driver as much as to bind something.
    insert_rows(connection, _FACET, bare, _KEY)
    insert_rows(connection, _FACET, labelled)


def _move(connection: Connection, moved: Mapping[Value, int]) -> None:
    """Change how many members have these values."""
    # In one order, so that two transactions cannot wait for each other.
    values: list[dict[str, Any]] = sorted(
        (
            {"id": value_id(*value), **dict(zip(_NAMES, value, strict=True)), "members": by}
            for value, by in moved.items()
            if by
        ),
        key=itemgetter("id"),
    )
    if not values:
        return
    connection.execute(_upsert(connection.dialect.name), values)
    fewer = [{"of_id": value["id"]} for value in values if value["members"] < 0]
    if fewer:
        # One by one: a facet may have a value for every member.
        empty = delete(_VALUE).where(_VALUE.c.id == bindparam("of_id"), _VALUE.c.members <= 0)
        connection.execute(empty, fewer)


def _upsert(dialect: str) -> Executable:
    members = _VALUE.c.members
    if dialect in ("mysql", "mariadb"):
        to_mysql = mysql.insert(_VALUE)
        return to_mysql.on_duplicate_key_update(members=members + to_mysql.inserted.members)
    insert_or = postgresql.insert if dialect == "postgresql" else sqlite.insert
    to_other: postgresql.Insert | sqlite.Insert = insert_or(_VALUE)
    return to_other.on_conflict_do_update(
        index_elements=[_VALUE.c.id],
        set_={"members": members + to_other.excluded.members},
    )
