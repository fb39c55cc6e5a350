"""The read side: pages, facets and single artifacts, and nothing that looks at a file.

A page is one range of one index. Its cursor names the last row by what the listing is sorted by
and the row's id, so rows that come and go elsewhere move nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, func, literal, select, union_all
from sqlalchemy.exc import DBAPIError

from . import cursors, freshness, search, statements
from .errors import AmbiguousIdError, Candidate, NotFoundError
from .models import Artifact, Collection, CollectionArtifact, FacetValue, utc
from .readers import STAMP, row_of
from .refresh.records import DRIFT, facet_value, name_key, value_id
from .statements import NAME, RELEVANCE, Shape

# SQLite takes 500 parts of a compound select.
MOST_PARTS = 400
_NEVER = datetime.min.replace(tzinfo=timezone.utc)
FACETS = ("type", "tag", "author", "license", "origin", DRIFT)


class Filters(NamedTuple):
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


class Listing(NamedTuple):
    """A page that is asked for.

    :ivar after: the cursor of the page before, as it was served.
    """

    filters: Filters = Filters()
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


@dataclass(slots=True)
class Tally:
    """The artifacts that a collection owns.

    :ivar states: how many are in which state, as far as any is.
    :ivar oldest_at: when the one was verified that waits longest for it.
    """

    states: dict[str, int] = field(default_factory=dict)
    oldest_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing.

    :ivar parts: JSON objects with commas between them, to be joined.
    :ivar end_cursor: of the last item; None where the page is empty.
    :ivar expires_at: when the state of an item on it changes by time alone; None: never.
    :ivar stale: whether an item on it is stale.
    """

    parts: list[bytes]
    count: int
    end_cursor: str | None
    has_next_page: bool
    expires_at: datetime | None
    stale: bool


@dataclass(frozen=True, slots=True)
class Moment:
    """The time a read happens at, and what it means for freshness."""

    now: datetime
    ttl_of: Callable[[str], timedelta]
    verified_at: Mapping[str, datetime | None]  # collection id -> when all of it was verified

    def state(self, condition: str, collection_id: str, synced_at: datetime | None) -> str:
        """The state of a row."""
        verified_at = freshness.verified(synced_at, self.verified_at.get(collection_id))
        return freshness.state(condition, verified_at, self.now, self.ttl_of(collection_id))

    def bounds(self, collection_id: str) -> dict[str, datetime]:
        """Between which times a row was verified if it is fresh; for ``statements.state_of``."""
        return {
            "oldest": self.now - self.ttl_of(collection_id),
            "latest": self.now + freshness.CLOCK_TOLERANCE,
        }

    def apart(self, one: Head) -> list[str]:
        """The owners of a collection's members that have another TTL than itself."""
        ttl = self.ttl_of(one.id)
        return [owner for owner in self.verified_at if self.ttl_of(owner) != ttl]

    def all_bounds(self, one: Head) -> dict[str, Any]:
        """As :meth:`bounds`, of all of the owners, for ``statements.state_of``."""
        bounds: dict[str, Any] = self.bounds(one.id)
        for number, owner in enumerate(self.apart(one)):
            bounds |= {
                f"apart_{number}": owner,
                f"oldest_{number}": self.now - self.ttl_of(owner),
            }
        return bounds

    def whole(self, one: Head) -> datetime | None:
        """When all members of a collection were verified at last; None: some never were.

        What one gathers is as old as the oldest of those that it comes from.
        """
        if not one.gathers:
            return one.verified_at
        owners = [time for owner, time in self.verified_at.items() if owner != one.id or time]
        times = [time for time in owners if time is not None]
        return min(times) if times and len(times) == len(owners) else None

    def changes_at(self, collection_id: str, verified_at: datetime | None) -> datetime | None:
        """When the state of a row that was verified then changes by time alone; None: never."""
        if verified_at is None:
            return None
        if verified_at > self.now + freshness.CLOCK_TOLERANCE:
            return verified_at - freshness.CLOCK_TOLERANCE
        end = verified_at + self.ttl_of(collection_id)
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


def heads(connection: Connection) -> list[Head]:
    """Every collection that has a row, by id."""
    rows = connection.execute(select(*_HEAD).order_by(Collection.id))
    return [Head(*row) for row in rows]


def head(connection: Connection, collection_id: str) -> Head | None:
    """One collection, or None."""
    row = connection.execute(_ONE_HEAD, {"collection_id": collection_id}).first()
    return None if row is None else Head(*row)


def first_head(connection: Connection, collection_id: str) -> tuple[Head | None, bool]:
    """As :func:`head`, on a connection that ran no statement yet, in a fifth of its time.

    :returns: also whether what is read next is of the same moment.
    """
    try:
        one_moment = _begin(connection)
        row = row_of(connection.connection, connection.dialect, _ONE_HEAD, collection_id)
    except connection.dialect.loaded_dbapi.Error:
        # A missing table, a connection that was lost: SQLAlchemy knows what to make of it.
        connection.invalidate()  # the next statement takes another one
        connection.rollback()
        return head(connection, collection_id), False
    if row is None:
        return None, one_moment
    id_, revision, artifact_count, gathers, verified_at, available, stamp = row
    verified_at = None if verified_at is None else utc(verified_at)
    found = Head(id_, revision, artifact_count, bool(gathers), verified_at, bool(available), stamp)
    return found, one_moment


def _begin(connection: Connection) -> bool:
    """Begin a transaction where it makes all reads one, and cheaper; whether it does.

    SQLite would otherwise look at the file's locks for each statement.
    """
    if connection.dialect.name != "sqlite":
        return False
    connection.begin()
    raw = connection.connection
    # A host may have begun in an event handler of its own.
    if not getattr(raw.dbapi_connection, "in_transaction", True):
        raw.cursor().execute("BEGIN")
    return True


def has_moved(connection: Connection, one: Head) -> bool:
    """Whether a collection was written to since it was looked at."""
    return connection.scalar(STAMP, {"collection_id": one.id}) != one.stamp


def moment(
    connection: Connection, one: Head, now: datetime, ttl_of: Callable[[str], timedelta]
) -> Moment:
    """What freshness of a collection's members depends on."""
    owners = [own for own in heads(connection) if own.revision] if one.gathers else [one]
    return Moment(now, ttl_of, {owner.id: owner.verified_at for owner in owners})


def stale_owners(connection: Connection, one: Head, at: Moment) -> dict[str, datetime | None]:
    """The owners of a collection's stale members, and when each was verified last.

    :param one: a collection that has some.
    """
    if not one.gathers:
        return {one.id: one.verified_at}
    found: dict[str, datetime | None] = {}
    for owner, verified_at in at.verified_at.items():
        if at.state(freshness.OK, owner, None) == freshness.STALE:
            state = statements.state_of(literal(verified_at, Collection.verified_at.type))
            stale = state == freshness.STALE
        else:
            # The rest is as fresh as all of it, and not to be looked through.
            stale = Artifact.condition == freshness.INVALIDATED
        any_ = select(Artifact.id).where(Artifact.collection_id == owner, stale).limit(1)
        if connection.scalar(any_, at.bounds(owner)) is not None:
            found[owner] = verified_at
    return found


def state_counts(connection: Connection, at: Moment) -> dict[str, dict[str, int]]:
    """``collection id -> state -> artifacts`` of every collection with an entry in ``at``.

    Counted by owner: a collection that gathers others counts its own artifacts alone.
    """
    counts: dict[str, dict[str, int]] = {}
    for collection_id, verified_at in at.verified_at.items():
        owned = Artifact.collection_id == collection_id
        state = statements.state_of(literal(verified_at, Collection.verified_at.type))
        rows = connection.execute(
            select(state, func.count()).where(owned).group_by(state), at.bounds(collection_id)
        )
        counts[collection_id] = {row[0]: row[1] for row in rows}
    return counts


def tallies(connection: Connection, at: Moment) -> dict[str, Tally]:
    """As :func:`state_counts`, in one statement, and which row waits longest."""
    found = {collection_id: Tally() for collection_id in at.verified_at}
    parts = []
    for collection_id, verified_at in at.verified_at.items():
        owned = Artifact.collection_id == collection_id
        verified = literal(verified_at, Collection.verified_at.type)
        state = statements.state_of(verified, at.bounds(collection_id))
        columns = (literal(collection_id), state, func.count(), func.min(Artifact.synced_at))
        parts.append(select(*columns).where(owned).group_by(state))
    for batch in (parts[start : start + MOST_PARTS] for start in range(0, len(parts), MOST_PARTS)):
        statement = union_all(*batch) if len(batch) > 1 else batch[0]
        for collection_id, state_, number, synced_at in connection.execute(statement):
            one = found[collection_id]
            one.states[state_] = number
            verified_at = freshness.verified(synced_at, at.verified_at[collection_id])
            if verified_at is not None and (one.oldest_at is None or verified_at < one.oldest_at):
                one.oldest_at = verified_at
    return found


def heads_and_problems(connection: Connection) -> dict[str, tuple[Head, list[dict[str, Any]]]]:
    """Every collection that has a row, with its problems as its last scan found them, by id."""
    rows = connection.execute(select(*_HEAD, Collection.problems).order_by(Collection.id))
    return {row[0]: (Head(*row[:-1]), row[-1]) for row in rows}


def stale(connection: Connection, at: Moment, limit: int) -> list[dict[str, Any]]:
    """The stale artifacts of the collections in ``at``, the longest not verified first."""
    found: list[tuple[datetime, dict[str, Any]]] = []
    for collection_id, verified_at in at.verified_at.items():
        state = statements.state_of(literal(verified_at, Collection.verified_at.type))
        rows = connection.execute(
            select(Artifact.uid, Artifact.type, Artifact.name, Artifact.path, Artifact.synced_at)
            .where(Artifact.collection_id == collection_id, state == freshness.STALE)
            .order_by(Artifact.synced_at, Artifact.id)
            .limit(limit),
            at.bounds(collection_id),
        )
        for row in rows:
            time = freshness.verified(row.synced_at, verified_at)
            told = {
                "uid": row.uid,
                "artifact_id": f"{row.type}:{row.name}",
                "collection_id": collection_id,
                "path": row.path,
                "synced_at": time and freshness.isoformat(time),
            }
            found.append((time or _NEVER, told))
    found.sort(key=lambda one: (one[0], one[1]["uid"]))
    return [told for _, told in found[:limit]]


def member_states(connection: Connection, one: Head, at: Moment) -> dict[str, int]:
    """How many members of a collection are in which state.

    As :func:`state_counts`, but of a collection's own artifacts only those are counted, in the
    index, that are not like most of them; counting 100,000 took a hundred times the page.
    """
    if one.gathers:
        return totals(state_counts(connection, at).values())
    owned = Artifact.collection_id == one.id
    apart = [condition for condition in freshness.CONDITIONS if condition != freshness.OK]
    found = connection.execute(
        select(Artifact.condition, func.count())
        .where(owned, Artifact.condition.in_(apart))
        .group_by(Artifact.condition)
    )
    conditions: dict[str, int] = {row[0]: row[1] for row in found}
    oldest, latest = at.bounds(one.id).values()
    synced_at, verified_at = Artifact.synced_at, one.verified_at
    counted = select(func.count()).where(owned, Artifact.condition == freshness.OK)
    good = one.artifact_count - sum(conditions.values())
    if verified_at is None or verified_at <= oldest:
        fresh = connection.scalar(counted.where(synced_at > oldest, synced_at <= latest)) or 0
    elif verified_at <= latest:
        fresh = good - (connection.scalar(counted.where(synced_at > latest)) or 0)
    else:
        fresh = 0
    counts = {
        "fresh": fresh,
        "stale": good - fresh + conditions.get(freshness.INVALIDATED, 0),
        freshness.MISSING: sum(conditions.get(one, 0) for one in freshness.GONE),
        freshness.QUARANTINED: conditions.get(freshness.QUARANTINED, 0),
    }
    return {state: number for state, number in counts.items() if number}


def kept_counts(
    connection: Connection, collection_ids: Sequence[str], facets: Sequence[str]
) -> dict[str, dict[str, dict[str, int]]]:
    """``collection id -> facet -> folded value -> members``, as whoever writes has counted them."""
    counts: dict[str, dict[str, dict[str, int]]] = {
        one: {facet: {} for facet in facets} for one in collection_ids
    }
    rows = connection.execute(
        select(FacetValue.collection_id, FacetValue.facet, FacetValue.value, FacetValue.members)
        .where(FacetValue.collection_id.in_(collection_ids), FacetValue.facet.in_(facets))
        .order_by(FacetValue.collection_id, FacetValue.facet, FacetValue.value)
    )
    for collection_id, facet, value, members in rows:
        counts[collection_id][facet][value] = members
    return counts


def quarantined(connection: Connection, owners: Sequence[str]) -> int:
    """How many artifacts of some collections have a file that cannot be used."""
    found = connection.scalar(
        select(func.count()).where(
            Artifact.collection_id.in_(owners), Artifact.condition == freshness.QUARANTINED
        )
    )
    return found or 0


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
    parts, expires_at, stale = _parts(shown, at, one.id)
    return Page(
        parts=parts,
        count=len(shown),
        end_cursor=cursors.write(shown[-1][5:], purpose) if shown else None,
        has_next_page=len(rows) > listing.limit,
        expires_at=expires_at,
        stale=stale,
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
    try:
        cursor.execute(statement, [given[name] for name in order] if order else given)
        rows: Sequence[Sequence[Any]] = cursor.fetchall()
    except connection.dialect.loaded_dbapi.Error as error:
        raise _translated(connection, statement, error) from error
    cursor.close()
    return rows


def _translated(connection: Connection, statement: str, error: Exception) -> Exception:
    """The error of a driver's own cursor as SQLAlchemy would have raised it."""
    dialect = connection.dialect
    raw = connection.connection.dbapi_connection
    lost = dialect.is_disconnect(error, raw, None)  # type: ignore[arg-type]
    translated = DBAPIError.instance(
        statement,
        None,
        error,
        dialect.loaded_dbapi.Error,
        connection_invalidated=lost,
        dialect=dialect,
    )
    if lost:
        connection.invalidate(error)
    return translated


def next_change(connection: Connection, at: Moment) -> datetime | None:
    """When time alone changes the state of some row; None: never.

    While all of a collection is fresh, its rows change together; after that, each for itself.
    """
    changes = []
    for collection_id, verified_at in at.verified_at.items():
        change = at.changes_at(collection_id, verified_at)
        if change is None:
            earliest = connection.scalar(
                select(func.min(Artifact.synced_at)).where(
                    Artifact.collection_id == collection_id,
                    Artifact.condition == freshness.OK,
                    Artifact.synced_at > at.now - at.ttl_of(collection_id),
                )
            )
            change = at.changes_at(collection_id, earliest)
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
            key = {"value_id": value_id(one.id, facet, wanted[0])}
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
        counts = member_states(connection, one, at)
    else:
        shape, values = _shape(connection, one, filters, at)
        rows = list(connection.execute(statements.facets(shape), values))
        rows.sort(key=lambda row: (-row[3], row[1]))
        by_state = connection.execute(statements.states(shape), values | at.all_bounds(one))
        counts = {row[0]: row[1] for row in by_state}
    found: dict[str, list[dict[str, Any]]] = {facet: [] for facet in FACETS}
    for facet, _, label, number in rows:
        if facet in found and len(found[facet]) < limit:
            found[facet].append({"value": label, "count": number})
    found["state"] = [
        {"value": state, "count": counts[state]} for state in freshness.STATES if state in counts
    ]
    return found


def drifting(
    connection: Connection, one: Head, kinds: Sequence[str], uids: Sequence[str]
) -> dict[str, list[str]]:
    """``uid -> kinds of drift`` of some members; of ``kinds`` only."""
    values: dict[str, Any] = {"collection_id": one.id, "uids": list(uids)}
    for number, kind in enumerate(kinds):
        values[f"kind_{number}"] = value_id(one.id, DRIFT, kind)
    rows = connection.execute(statements.drifting(len(kinds)), values)
    return {
        uid: [kind for kind, has_it in zip(kinds, found, strict=True) if has_it]
        for uid, *found in rows
    }


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
            [Candidate(row[1], row[2], row[3]) for row in rows],
        )
    key: int = rows[0][0]
    return key


def uid_of(connection: Connection, key: int) -> str:
    """The uid of a row."""
    found: str = connection.execute(select(Artifact.uid).where(Artifact.id == key)).scalar_one()
    return found


def detail(connection: Connection, key: int, at: Moment) -> tuple[bytes, datetime | None, bool]:
    """One artifact with its details, when its state changes by time alone, and if it is stale."""
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
    parts, expires_at, stale = _parts([row], at, row[2])
    return b"".join(parts)[:-1] + b',"details":' + row[5] + b"}", expires_at, stale


def item(row: Sequence[Any], at: Moment) -> bytes:
    """A row of payload, condition, owner, and raw times as a listing serves it."""
    return b"".join(_parts([row], at, row[2])[0])


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
    shape = _shape_of(filters, searched, sort, after, gathers, len(at.apart(one)))
    values = statements.parameters(one.id, filters.facets, filters.states, filters.words, searched)
    return shape, values | at.all_bounds(one) if filters.states else values


@lru_cache(maxsize=512)
def _shape_of(
    filters: Filters, searched: str, sort: str, after: bool, gathers: bool, apart: int
) -> Shape:
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
        apart=apart,
    )


def _parts(
    rows: Iterable[Sequence[Any]], at: Moment, owner: str
) -> tuple[list[bytes], datetime | None, bool]:
    """Stored objects, with what depends on the time added at their ends and commas between.

    Also when that changes by time alone, and whether one of them is stale.

    The times of the rows are as the driver gives them. Neighbours share theirs, mostly.

    :param owner: the collection of the rows that name none.
    """
    parts: list[bytes] = []
    expires_at: datetime | None = None
    known, tail, stale = None, b"", False
    for row in rows:
        key = row[1:5]
        if key != known:
            known = key
            condition, collection_id, synced_at, updated_at = key
            synced_at = None if synced_at is None else utc(synced_at)
            collection_id = collection_id or owner
            state = at.state(condition, collection_id, synced_at)
            stale = stale or state == freshness.STALE
            verified_at = freshness.verified(synced_at, at.verified_at.get(collection_id))
            tail = _tail(state, verified_at, utc(updated_at))
            timeless = condition != freshness.OK
            expires = None if timeless else at.changes_at(collection_id, verified_at)
            if expires is not None and (expires_at is None or expires < expires_at):
                expires_at = expires
        parts += (row[0][:-1], tail, b",")
    return parts[:-1], expires_at, stale


def _tail(state: str, verified_at: datetime | None, updated_at: datetime) -> bytes:
    shown = "null" if verified_at is None else f'"{freshness.isoformat(verified_at)}"'
    tail = (
        f',"state":"{state}","synced_at":{shown},"updated_at":"{freshness.isoformat(updated_at)}"}}'
    )
    return tail.encode()
