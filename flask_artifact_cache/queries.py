"""The read side: pages, facets and single artifacts, and nothing that looks at a file.

A page is one range of one index. Its cursor names the last row by what the listing is sorted by
and the row's id, so rows that come and go elsewhere move nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, bindparam, func, literal, select
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql import ClauseElement

from . import cursors, freshness, search, statements
from .errors import AmbiguousIdError, NotFoundError
from .models import Artifact, Collection, CollectionArtifact, utc
from .refresh.records import facet_value, name_key
from .statements import NAME, RELEVANCE, Shape

FACETS = ("type", "tag", "author", "license", "origin")


@dataclass(frozen=True, slots=True)
class Filters:
    """What a listing is narrowed to: within a field any value will do, all fields must agree.

    :ivar facets: ``(facet, folded values)``.
    :ivar states: of :data:`freshness.STATES`.
    :ivar words: folded words of a search.
    """

    facets: tuple[tuple[str, tuple[str, ...]], ...] = ()
    states: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Sequence[str]], q: str = "") -> Filters:
        """The filters of a request's values."""
        facets = tuple(
            (facet, tuple(sorted({facet_value(value) for value in values[facet]})))
            for facet in FACETS
            if values.get(facet)
        )
        return cls(facets, tuple(sorted(set(values.get("state", ())))), search.terms(q))


@dataclass(frozen=True, slots=True)
class Listing:
    """A page that is asked for.

    :ivar after: the cursor of the page before, as it was served.
    """

    filters: Filters = field(default_factory=Filters)
    sort: str = NAME
    limit: int = 50
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """A collection as far as every read needs it."""

    id: str
    revision: int
    artifact_count: int
    gathers: bool
    verified_at: datetime | None
    path_available: bool
    stamp: str


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing.

    :ivar parts: JSON objects with commas between them, to be joined.
    :ivar end_cursor: of the last item; None where the page is empty.
    :ivar expires_at: when the state of an item on it changes by time alone; None: never.
    """

    parts: list[bytes]
    count: int
    end_cursor: str | None
    has_next_page: bool
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Moment:
    """The time a read happens at, and what it means for freshness."""

    now: datetime
    ttl: timedelta
    verified_at: Mapping[str, datetime | None]  # collection id -> when all of it was verified

    def state(self, condition: str, collection_id: str, synced_at: datetime | None) -> str:
        """The state of a row."""
        verified_at = freshness.verified(synced_at, self.verified_at.get(collection_id))
        return freshness.state(condition, verified_at, self.now, self.ttl)

    def bounds(self) -> dict[str, datetime]:
        """Between which times a row was verified if it is fresh; for ``statements.state_of``."""
        return {"oldest": self.now - self.ttl, "latest": self.now + freshness.CLOCK_TOLERANCE}

    def changes_at(self, verified_at: datetime | None) -> datetime | None:
        """When the state of a row that was verified then changes by time alone; None: never."""
        if verified_at is None:
            return None
        if verified_at > self.now + freshness.CLOCK_TOLERANCE:
            return verified_at - freshness.CLOCK_TOLERANCE
        end = verified_at + self.ttl
        return end if end > self.now else None


# --- collections -----------------------------------------------------------------------------

_HEAD = (
    Collection.id,
    Collection.revision,
    Collection.artifact_count,
    Collection.gathers,
    Collection.verified_at,
    Collection.path_available,
    Collection.stamp,
)
_ONE_HEAD = select(*_HEAD).where(Collection.id == bindparam("collection_id"))
_ONE_STAMP = select(Collection.stamp).where(Collection.id == bindparam("collection_id"))


def heads(connection: Connection) -> list[Head]:
    """Every collection that has a row, by id."""
    rows = connection.execute(select(*_HEAD).order_by(Collection.id))
    return [Head(*row) for row in rows]


def head(connection: Connection, collection_id: str) -> Head | None:
    """One collection, or None."""
    row = connection.execute(_ONE_HEAD, {"collection_id": collection_id}).first()
    return None if row is None else Head(*row)


def first_head(connection: Connection, collection_id: str) -> Head | None:
    """As :func:`head`, on a connection of our own that was not used yet, and a fifth of its time.

    SQLAlchemy's own way costs as much as a third of the page that follows.
    """
    try:
        row = _look(connection.connection, connection.dialect, _ONE_HEAD, collection_id)
    except connection.dialect.loaded_dbapi.Error:
        # A missing table, a connection that was lost: SQLAlchemy knows what to make of it.
        connection.invalidate()  # the next statement takes another one
        return head(connection, collection_id)
    if row is None:
        return None
    id_, revision, artifact_count, gathers, verified_at, available, stamp = row
    verified_at = None if verified_at is None else utc(verified_at)
    return Head(id_, revision, artifact_count, bool(gathers), verified_at, bool(available), stamp)


def has_moved(connection: Connection, one: Head) -> bool:
    """Whether a collection was written to since it was looked at."""
    row = _look(connection.connection, connection.dialect, _ONE_STAMP, one.id)
    return row is None or row[0] != one.stamp


def quick_stamp(engine: Engine, collection_id: str) -> str | None:
    """The stamp of a collection; None if there is none, or if :func:`first_head` has to tell.

    All that is asked of the database for an answer that was given before: 12 us, of which 6 are
    the pool's.
    """
    try:
        raw = engine.raw_connection()
        try:
            row = _look(raw, engine.dialect, _ONE_STAMP, collection_id)
        finally:
            raw.close()
    except engine.dialect.loaded_dbapi.Error:
        return None
    return None if row is None else row[0]


def _look(
    raw: PoolProxiedConnection, dialect: Dialect, statement: ClauseElement, collection_id: str
) -> Sequence[Any] | None:
    """The row of a collection, on the driver's own cursor."""
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


def moment(connection: Connection, one: Head, now: datetime, ttl: timedelta) -> Moment:
    """What freshness of a collection's members depends on."""
    owners = heads(connection) if one.gathers else [one]
    return Moment(now, ttl, {owner.id: owner.verified_at for owner in owners})


def state_counts(connection: Connection, at: Moment) -> dict[str, dict[str, int]]:
    """``collection id -> state -> artifacts`` of every collection with an entry in ``at``.

    Counted by owner: a collection that gathers others counts its own artifacts alone.
    """
    counts: dict[str, dict[str, int]] = {}
    for collection_id, verified_at in at.verified_at.items():
        owned = Artifact.collection_id == collection_id
        state = statements.state_of(literal(verified_at, Collection.verified_at.type))
        rows = connection.execute(
            select(state, func.count()).where(owned).group_by(state), at.bounds()
        )
        counts[collection_id] = {row[0]: row[1] for row in rows}
    return counts


def problems(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """The problems of each collection as a whole, as its last scan found them."""
    rows = connection.execute(select(Collection.id, Collection.problems))
    return {row[0]: row[1] for row in rows}


# --- listings --------------------------------------------------------------------------------


def page(connection: Connection, one: Head, listing: Listing, at: Moment) -> Page:
    """A page of a collection's members.

    :raises InvalidRequestError: if the cursor is malformed or belongs to another listing.
    """
    # Without words, nothing is more relevant than anything else.
    sort = NAME if listing.sort == RELEVANCE and not listing.filters.words else listing.sort
    after = listing.after is not None
    shape, values = _shape(connection, one, listing.filters, at, sort, after, one.gathers)
    purpose = (one.id, sort, listing.filters)
    if listing.after is not None:
        position = cursors.read(listing.after, purpose, statements.position_types(shape))
        values |= {f"key_{number}": value for number, value in enumerate(position)}
    values["limit"] = listing.limit + 1
    rows = _rows(connection, shape, values)
    shown = rows[: listing.limit]
    parts, expires_at = _parts(shown, at, one.id)
    return Page(
        parts=parts,
        count=len(shown),
        end_cursor=cursors.write(shown[-1][5:], purpose) if shown else None,
        has_next_page=len(rows) > listing.limit,
        expires_at=expires_at,
    )


def _rows(connection: Connection, shape: Shape, values: dict[str, Any]) -> Sequence[Sequence[Any]]:
    """The rows of a page; on the driver's own cursor, where that gives the same.

    None of their values needs a conversion, and looking at each of them takes SQLAlchemy a
    fifth of the whole page's time.
    """
    known = statements.page_text(shape, connection.dialect)
    if known is None:
        return connection.execute(statements.page(shape), values).all()
    statement, order, fixed = known
    given = {**fixed, **values}
    cursor = connection.connection.cursor()
    cursor.execute(statement, [given[name] for name in order] if order else given)
    rows: Sequence[Sequence[Any]] = cursor.fetchall()
    cursor.close()
    return rows


def next_change(connection: Connection, at: Moment) -> datetime | None:
    """When time alone changes the state of some row; None: never.

    While all of a collection is fresh, its rows change together; after that, each for itself.
    """
    changes = []
    for collection_id, verified_at in at.verified_at.items():
        change = at.changes_at(verified_at)
        if change is None:
            earliest = connection.scalar(
                select(func.min(Artifact.synced_at)).where(
                    Artifact.collection_id == collection_id,
                    Artifact.condition == freshness.OK,
                    Artifact.synced_at > at.now - at.ttl,
                )
            )
            change = at.changes_at(earliest)
        if change is not None:
            changes.append(change)
    return min(changes, default=None)


def count(connection: Connection, one: Head, filters: Filters, at: Moment) -> int:
    """How many members the filters leave."""
    if filters == Filters():
        return one.artifact_count
    if filters == Filters(filters.facets) and len(filters.facets) == 1:
        [(facet, wanted)] = filters.facets
        if len(wanted) == 1:
            key = {"collection_id": one.id, "facet": facet, "value": wanted[0]}
            return connection.scalar(statements.MEMBERS_WITH, key) or 0
    shape, values = _shape(connection, one, filters, at)
    return connection.scalar(statements.count(shape), values) or 0


def facets(
    connection: Connection, one: Head, filters: Filters, at: Moment, limit: int
) -> dict[str, list[dict[str, Any]]]:
    """For each facet, how many of the members that the filters leave have which value.

    At most ``limit`` values a facet, the most frequent first. ``state`` is a facet, too.
    """
    if filters == Filters():
        rows = [
            row
            for facet in FACETS
            for row in connection.execute(
                statements.MOST_FREQUENT,
                {"collection_id": one.id, "facet": facet, "limit": limit},
            )
        ]
        counts = totals(state_counts(connection, at).values())
    else:
        shape, values = _shape(connection, one, filters, at)
        rows = list(connection.execute(statements.facets(shape), values))
        rows.sort(key=lambda row: (-row[3], row[1]))
        by_state = connection.execute(statements.states(shape), values | at.bounds())
        counts = {row[0]: row[1] for row in by_state}
    found: dict[str, list[dict[str, Any]]] = {facet: [] for facet in FACETS}
    for facet, _, label, number in rows:
        if len(found[facet]) < limit:
            found[facet].append({"value": label, "count": number})
    found["state"] = [
        {"value": state, "count": counts[state]} for state in freshness.STATES if state in counts
    ]
    return found


def totals(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """How many artifacts of several collections are in which state, as far as any is."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


def find(connection: Connection, one: Head, artifact_id: str) -> int:
    """The key of the member that a uid or a ``type:name`` means.

    :raises NotFoundError: if there is none.
    :raises AmbiguousIdError: if several share the id.
    """
    member = CollectionArtifact.__table__
    statement = (
        select(Artifact.id, Artifact.uid, Artifact.path, Artifact.collection_id)
        .join(member, member.c.artifact_id == Artifact.id)
        .where(member.c.collection_id == one.id)
        .order_by(Artifact.collection_id, Artifact.path)
    )
    type_, colon, name = artifact_id.partition(":")
    if "\0" in artifact_id:  # PostgreSQL refuses it
        rows = []
    elif colon:
        # The index knows folded names, and MariaDB pads with blanks: compared exactly here.
        found = connection.execute(
            statement.add_columns(Artifact.type, Artifact.name).where(
                member.c.name_key == name_key(name), Artifact.type == type_
            )
        )
        rows = [row for row in found if row[4:] == (type_, name)]
    else:
        found = connection.execute(statement.where(Artifact.uid == artifact_id))
        rows = [row for row in found if row[1] == artifact_id]
    if not rows:
        raise NotFoundError(f"there is no artifact '{artifact_id}' in '{one.id}'")
    if len(rows) > 1:
        raise AmbiguousIdError(
            f"{len(rows)} artifacts of '{one.id}' are called '{artifact_id}'; ask by uid",
            [(row[1], row[2]) for row in rows],
        )
    key: int = rows[0][0]
    return key


def detail(connection: Connection, key: int, at: Moment) -> tuple[bytes, datetime | None]:
    """One artifact with its details, and when its state changes by time alone."""
    row = connection.execute(
        select(
            Artifact.payload,
            Artifact.condition,
            Artifact.collection_id,
            statements.raw(Artifact.synced_at),
            statements.raw(Artifact.updated_at),
            Artifact.details,
        ).where(Artifact.id == key)
    ).one()
    parts, expires_at = _parts([row], at, row[2])
    return b"".join(parts)[:-1] + b',"details":' + row[5] + b"}", expires_at


# --- parts -----------------------------------------------------------------------------------


def _shape(
    connection: Connection,
    one: Head,
    filters: Filters,
    at: Moment,
    sort: str = NAME,
    after: bool = False,
    gathers: bool = False,
) -> tuple[Shape, dict[str, Any]]:
    """The statement that filters call for, and the values of its parameters."""
    searched = search.indexed_by(connection) if filters.words else ""
    shape = _shape_of(filters, searched, sort, after, gathers)
    values = statements.parameters(one.id, filters.facets, filters.states, filters.words, searched)
    return shape, values | at.bounds() if filters.states else values


@lru_cache(maxsize=512)
def _shape_of(filters: Filters, searched: str, sort: str, after: bool, gathers: bool) -> Shape:
    """The shape of a listing.

    A filter for one value of one facet is walked along itself, a tag before a type since it is
    likely to be rarer; all others are looked up row by row.
    """
    single = [facet for facet, wanted in filters.facets if len(wanted) == 1]
    walked = min(single, key=lambda facet: (facet != "tag", facet == "type"), default=None)
    return Shape(
        sort=sort,
        walked=walked,
        probed=tuple(facet for facet, _ in filters.facets if facet != walked),
        states=bool(filters.states),
        words=len(filters.words),
        searched=searched,
        after=after,
        gathers=gathers,
    )


def _parts(
    rows: Iterable[Sequence[Any]], at: Moment, owner: str
) -> tuple[list[bytes], datetime | None]:
    """Stored objects, with what depends on the time added at their ends and commas between.

    The times of the rows are as the driver gives them. Neighbours share theirs, mostly.

    :param owner: the collection of the rows that name none.
    """
    parts: list[bytes] = []
    expires_at: datetime | None = None
    known, tail = None, b""
    for row in rows:
        key = row[1:5]
        if key != known:
            known = key
            condition, collection_id, synced_at, updated_at = key
            synced_at = None if synced_at is None else utc(synced_at)
            collection_id = collection_id or owner
            tail, expires = _tail(at, condition, collection_id, synced_at, utc(updated_at))
            if expires is not None and (expires_at is None or expires < expires_at):
                expires_at = expires
        parts += (row[0][:-1], tail, b",")
    return parts[:-1], expires_at


def _tail(
    at: Moment,
    condition: str,
    collection_id: str,
    synced_at: datetime | None,
    updated_at: datetime,
) -> tuple[bytes, datetime | None]:
    state = at.state(condition, collection_id, synced_at)
    verified_at = freshness.verified(synced_at, at.verified_at.get(collection_id))
    shown = "null" if verified_at is None else f'"{freshness.isoformat(verified_at)}"'
    tail = (
        f',"state":"{state}","synced_at":{shown},"updated_at":"{freshness.isoformat(updated_at)}"}}'
    )
    return tail.encode(), at.changes_at(verified_at) if condition == freshness.OK else None
