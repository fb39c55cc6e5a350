"""The read side: select statements, and nothing that looks at a file.

A page is one range of one index. Its cursor names the last row by what the listing is sorted by
and the row's id, so rows that come and go elsewhere move nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    or_,
    select,
)

from . import freshness, search
from .errors import AmbiguousIdError, InvalidRequestError, NotFoundError
from .models import Artifact, Collection, CollectionArtifact, Facet
from .refresh.records import facet_value, name_key

SORTS = ("name", "-updated_at", "relevance")
FACETS = ("type", "tag", "author", "license", "origin")
_CURSOR_VERSION = 1


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
    sort: str = "name"
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


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing.

    :ivar items: JSON objects.
    :ivar end_cursor: of the last item; None where the page is empty.
    :ivar expires_at: when the state of an item on it changes by time alone; None: never.
    """

    items: list[bytes]
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

    def settled_until(self) -> datetime:
        """Until when no count of states changes by time alone; ``now``, if nobody can tell.

        A row that was verified by itself later than its collection stays fresh longer.
        """
        ends = [time + self.ttl for time in self.verified_at.values() if time is not None]
        ahead = any(
            time is not None and time > self.now + freshness.CLOCK_TOLERANCE
            for time in self.verified_at.values()
        )
        return self.now if ahead or not ends else max(self.now, min(ends))


# --- collections -----------------------------------------------------------------------------

_HEAD = (
    Collection.id,
    Collection.revision,
    Collection.artifact_count,
    Collection.gathers,
    Collection.verified_at,
    Collection.path_available,
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
        state = _state(at, literal(verified_at, Collection.verified_at.type))
        rows = connection.execute(select(state, func.count()).where(owned).group_by(state))
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
    how = search.indexed_by(connection) if listing.filters.words else ""
    source, conditions = _narrowed(one.id, listing.filters, at, how)
    keys = _sort_keys(source, listing, how)
    if listing.after is not None:
        position = read_cursor(listing.after, one.id, listing)
        conditions.append(_beyond(keys, position))
    statement = (
        select(
            Artifact.payload,
            Artifact.condition,
            Artifact.collection_id,
            Artifact.synced_at,
            Artifact.updated_at,
            *(key for key, _ in keys),
        )
        .select_from(source)
        .join(Artifact, Artifact.id == source.c.artifact_id)
        .where(*conditions)
        .order_by(*(key.desc() if descending else key for key, descending in keys))
        .limit(listing.limit + 1)
    )
    rows = connection.execute(statement).all()
    shown = rows[: listing.limit]
    items, expires_at = _items(shown, at)
    return Page(
        items=items,
        end_cursor=write_cursor(shown[-1][5:], one.id, listing) if shown else None,
        has_next_page=len(rows) > listing.limit,
        expires_at=expires_at,
    )


def count(connection: Connection, one: Head, filters: Filters, at: Moment) -> int:
    """How many members the filters leave."""
    if filters == Filters():
        return one.artifact_count
    how = search.indexed_by(connection) if filters.words else ""
    source, conditions = _narrowed(one.id, filters, at, how)
    statement = select(func.count()).select_from(source).where(*conditions)
    if filters.states:
        statement = statement.join(Artifact, Artifact.id == source.c.artifact_id)
    return connection.scalar(statement) or 0


def facets(
    connection: Connection, one: Head, filters: Filters, at: Moment, limit: int
) -> dict[str, list[dict[str, Any]]]:
    """For each facet, how many of the members that the filters leave have which value.

    At most ``limit`` values a facet, the most frequent first. ``state`` is a facet, too.
    """
    how = search.indexed_by(connection) if filters.words else ""
    counted = func.count().label("counted")
    statement = (
        select(Facet.facet, Facet.value, func.min(Facet.label), counted)
        .where(Facet.collection_id == one.id)
        .group_by(Facet.facet, Facet.value)
    )
    source, conditions = _narrowed(one.id, filters, at, how)
    left = select(source.c.artifact_id).where(*conditions)
    if filters.states:
        left = left.join(Artifact, Artifact.id == source.c.artifact_id)
    if filters != Filters():
        statement = statement.where(Facet.artifact_id.in_(left))
    found: dict[str, list[dict[str, Any]]] = {facet: [] for facet in FACETS}
    rows = sorted(connection.execute(statement), key=lambda row: (-row[3], row[1]))
    for facet, _, label, number in rows:
        if len(found[facet]) < limit:
            found[facet].append({"value": label, "count": number})
    found["state"] = _state_facet(connection, left, at)
    return found


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
    if colon:
        # The index knows folded names; the exact comparison is made here, since the default
        # collation of MariaDB takes 'PDF' for 'pdf'.
        rows = connection.execute(
            statement.add_columns(Artifact.name).where(
                member.c.name_key == name_key(name), Artifact.type == type_
            )
        ).all()
        rows = [row for row in rows if row[4] == name]
    else:
        rows = list(connection.execute(statement.where(Artifact.uid == artifact_id)).all())
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
            Artifact.synced_at,
            Artifact.updated_at,
            Artifact.details,
        ).where(Artifact.id == key)
    ).one()
    (item,), expires_at = _items([row], at)
    details: bytes = row[5]
    return item[:-1] + b',"details":' + details + b"}", expires_at


# --- cursors ---------------------------------------------------------------------------------


def write_cursor(position: Sequence[Any], collection_id: str, listing: Listing) -> str:
    """Where a page ended, as an opaque text that is good for the same listing alone."""
    values = [
        round(value.timestamp() * 1_000_000) if isinstance(value, datetime) else value
        for value in position
    ]
    body = json.dumps([_CURSOR_VERSION, *values], ensure_ascii=False, separators=(",", ":"))
    sealed = _seal(body.encode(), collection_id, listing) + body.encode()
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def read_cursor(cursor: str, collection_id: str, listing: Listing) -> list[Any]:
    """The position that a cursor stands for.

    :raises InvalidRequestError: if it was not made by :func:`write_cursor` for this listing.
    """
    try:
        sealed = base64.b64decode(
            cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        )
        seal, body = sealed[:_SEAL_BYTES], sealed[_SEAL_BYTES:]
        if seal != _seal(body, collection_id, listing):
            raise ValueError
        values: list[Any] = json.loads(body)
        version, *position = values
        if version != _CURSOR_VERSION or _shape(position) != _SHAPES[_sort(listing)]:
            raise ValueError
        if listing.sort == "-updated_at":
            position[0] = _EPOCH + timedelta(microseconds=position[0])
    except (ValueError, TypeError, OverflowError, binascii.Error):
        message = "is not a cursor of this listing; start again without it"
        raise InvalidRequestError(f"'after' {message}", [("after", message)]) from None
    return position


_EPOCH = datetime.fromtimestamp(0, timezone.utc)
_SHAPES = {"name": "si", "-updated_at": "ii", "relevance": "isi"}


def _sort(listing: Listing) -> str:
    """What a listing is sorted by: without words, nothing is more relevant than another."""
    return "name" if listing.sort == "relevance" and not listing.filters.words else listing.sort


def _shape(position: Sequence[Any]) -> str:
    """The types of a position's values, which nobody but us should have made."""
    shape = ""
    for value in position:
        if isinstance(value, str) and "\0" not in value:
            value.encode()
            shape += "s"
        elif type(value) is int and abs(value) < 2**63:
            shape += "i"
    return shape


_SEAL_BYTES = 6


def _seal(body: bytes, collection_id: str, listing: Listing) -> bytes:
    """Tells a damaged cursor, and one of another collection, sort or filter; it is no secret."""
    context = repr((collection_id, listing.sort, listing.filters)).encode()
    return hashlib.blake2b(body + b"\0" + context, digest_size=_SEAL_BYTES).digest()


# --- parts -----------------------------------------------------------------------------------


def _narrowed(
    collection_id: str, filters: Filters, at: Moment, how: str
) -> tuple[FromClause, list[ColumnElement[bool]]]:
    """The index to walk, and what its rows must fulfil besides.

    A filter for one value of one facet is walked along itself; all others are looked up row by
    row, each in the primary key of the facets.
    """
    wanted = sorted(filters.facets, key=lambda facet: (len(facet[1]), facet[0] != "tag"))
    conditions: list[ColumnElement[bool]] = []
    source: FromClause
    if wanted and len(wanted[0][1]) == 1:
        (facet, (value,)), *wanted = wanted
        source = Facet.__table__.alias("source")
        conditions += [source.c.facet == facet, source.c.value == value]
    else:
        source = CollectionArtifact.__table__.alias("source")
    conditions.append(source.c.collection_id == collection_id)
    for facet, values in wanted:
        probe = Facet.__table__.alias(f"with_{facet}")
        conditions.append(
            exists().where(
                probe.c.collection_id == collection_id,
                probe.c.facet == facet,
                probe.c.value.in_(values),
                probe.c.name_key == source.c.name_key,
                probe.c.artifact_id == source.c.artifact_id,
            )
        )
    if filters.words:
        matching = search.matching(filters.words, len(search.TIERS) - 1, how)
        conditions.append(source.c.artifact_id.in_(matching))
    if filters.states:
        owner = Collection.__table__.alias("owner")
        verified_at = (
            select(owner.c.verified_at)
            .where(owner.c.id == Artifact.collection_id)
            .scalar_subquery()
        )
        conditions.append(_state(at, verified_at).in_(filters.states))
    return source, conditions


SortKey = tuple[ColumnElement[Any], bool]


def _sort_keys(source: FromClause, listing: Listing, how: str) -> list[SortKey]:
    """The expressions that a listing is sorted by, and whether each descends."""
    by_name: list[SortKey] = [(source.c.name_key, False), (source.c.artifact_id, False)]
    if _sort(listing) == "-updated_at":
        # The facets do not know the time; sorting by it goes through the artifacts then.
        updated_at: ColumnElement[Any] = (
            source.c.updated_at if "updated_at" in source.c else Artifact.__table__.c.updated_at
        )
        return [(updated_at, True), (source.c.artifact_id, True)]
    if _sort(listing) == "relevance":
        found_in = [
            (source.c.artifact_id.in_(search.matching(listing.filters.words, tier, how)), tier)
            for tier in range(len(search.TIERS) - 1)
        ]
        rank: ColumnElement[int] = case(*found_in, else_=len(search.TIERS) - 1)
        return [(rank.label("rank"), False), *by_name]
    return by_name


def _beyond(keys: list[SortKey], position: Sequence[Any]) -> ColumnElement[bool]:
    """The rows after a position.

    Spelt out, because MariaDB reads the whole index for a comparison of row values; the first
    condition alone gives every database its range.
    """
    (first, descending), *_ = keys
    at_least = first <= position[0] if descending else first >= position[0]
    alternatives = []
    for number, (key, descends) in enumerate(keys):
        equal = [keys[i][0] == position[i] for i in range(number)]
        further = key < position[number] if descends else key > position[number]
        alternatives.append(and_(*equal, further))
    return and_(at_least, or_(*alternatives))


def _state(at: Moment, verified_at: ColumnElement[Any]) -> ColumnElement[str]:
    """:func:`freshness.state` in SQL."""
    oldest, latest = at.now - at.ttl, at.now + freshness.CLOCK_TOLERANCE

    def holds(time: ColumnElement[Any]) -> ColumnElement[bool]:
        return and_(time > oldest, time <= latest)

    # As in freshness.verified: the later time counts, and one that lies in the future spoils it.
    synced_at = Artifact.__table__.c.synced_at
    fresh = or_(
        and_(holds(synced_at), or_(verified_at.is_(None), verified_at <= latest)),
        and_(holds(verified_at), or_(synced_at.is_(None), synced_at <= latest)),
    )
    return case(
        (Artifact.condition == freshness.MISSING, freshness.MISSING),
        (Artifact.condition == freshness.QUARANTINED, freshness.QUARANTINED),
        (and_(Artifact.condition == freshness.OK, fresh), "fresh"),
        else_="stale",
    )


def _state_facet(connection: Connection, left: Select[Any], at: Moment) -> list[dict[str, Any]]:
    owner = Collection.__table__.alias("state_owner")
    state = _state(at, owner.c.verified_at)
    rows = connection.execute(
        select(state, func.count())
        .select_from(Artifact)
        .join(owner, owner.c.id == Artifact.collection_id)
        .where(Artifact.id.in_(left))
        .group_by(state)
    )
    counts = {row[0]: row[1] for row in rows}
    return [{"value": name, "count": counts[name]} for name in freshness.STATES if name in counts]


def _items(rows: Iterable[Sequence[Any]], at: Moment) -> tuple[list[bytes], datetime | None]:
    """Stored objects with what depends on the time added at their end."""
    items: list[bytes] = []
    expires_at: datetime | None = None
    tails: dict[tuple[Any, ...], tuple[bytes, datetime | None]] = {}
    for payload, condition, collection_id, synced_at, updated_at, *_ in rows:
        key = (condition, collection_id, synced_at, updated_at)
        if key not in tails:
            tails[key] = _tail(at, *key)
        tail, expires = tails[key]
        items.append(payload[:-1] + tail)
        if expires is not None and (expires_at is None or expires < expires_at):
            expires_at = expires
    return items, expires_at


def _tail(
    at: Moment,
    condition: str,
    collection_id: str,
    synced_at: datetime | None,
    updated_at: datetime,
) -> tuple[bytes, datetime | None]:
    state = at.state(condition, collection_id, synced_at)
    verified_at = freshness.verified(synced_at, at.verified_at.get(collection_id))
    shown = "null" if verified_at is None else f'"{isoformat(verified_at)}"'
    tail = f',"state":"{state}","synced_at":{shown},"updated_at":"{isoformat(updated_at)}"}}'
    expires = verified_at + at.ttl if state == "fresh" and verified_at is not None else None
    return tail.encode(), expires


def isoformat(time: datetime) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return time.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
