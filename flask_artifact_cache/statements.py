"""The select statements of a listing, one for each shape; the values are parameters.

Putting a statement together costs SQLAlchemy three times what running it costs SQLite, so it is
done once for a shape: which facets are filtered by, how it is sorted, whether it goes on after a
cursor. That leaves few shapes, and their statements are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Dialect,
    Executable,
    FromClause,
    Integer,
    Select,
    String,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.types import NullType

from . import freshness, search
from .models import Artifact, Collection, CollectionArtifact, Facet, FacetValue, UtcDateTime
from .refresh.records import value_id

if TYPE_CHECKING:
    from sqlalchemy.sql import ClauseElement
    from sqlalchemy.sql.compiler import SQLCompiler

NAME, UPDATED, RELEVANCE = SORTS = ("name", "-updated_at", "relevance")


@dataclass(frozen=True, slots=True)
class Shape:
    """All of a listing that its statement depends on.

    :ivar walked: the facet whose one value's range is walked, instead of all members.
    :ivar probed: the other facets that are filtered by.
    :ivar words: how many words are searched for.
    :ivar searched: how the database searches, where there are words; see ``search.indexed_by``.
    :ivar gathers: whether a page has artifacts of several collections, and says whose they are.
    :ivar apart: how many of those collections have a TTL of their own, where states are told.
    """

    sort: str = NAME
    walked: str | None = None
    probed: tuple[str, ...] = ()
    states: bool = False
    words: int = 0
    searched: str = ""
    after: bool = False
    gathers: bool = False
    apart: int = 0


def raw(column: Any) -> ColumnElement[Any]:
    """A value as the driver gives it: bytes as bytes; of a time ``models.utc`` makes one.

    Most rows of a page share their times. Converting each took a third of the page's time.
    """
    return type_coerce(column, NullType())


def position_types(shape: Shape) -> list[type]:
    """The types of the values that a listing is sorted by."""
    return {UPDATED: [datetime, int], RELEVANCE: [int, str, int]}.get(shape.sort, [str, int])


@lru_cache(maxsize=512)
def page(shape: Shape) -> Executable:
    """Payload, condition, owner, times and sort keys of a page's rows.

    Parameters: those of :func:`parameters`, ``limit``, and ``key_0`` … of the position after
    which the page begins.
    """
    source, conditions = _narrowed(shape)
    keys = _sort_keys(source, shape)
    if shape.after:
        conditions.append(_beyond(keys))
    limit = bindparam("limit", type_=Integer)
    if shape.words and not shape.states and not (shape.sort == UPDATED and shape.walked):
        # The best of thousands are sorted out before a payload is touched.
        named = [key.label(f"sort_{number}") for number, (key, _) in enumerate(keys)]
        found = (
            select(source.c.artifact_id, *named)
            .where(*conditions)
            .order_by(*_order(keys))
            .limit(limit)
            .subquery("found")
        )
        source, conditions = found, []
        keys = [(found.c[one.name], key[1]) for one, key in zip(named, keys, strict=True)]
    return (
        select(
            raw(Artifact.payload),
            Artifact.condition,
            # Every value of 51 rows costs the page, but an empty one next to nothing.
            Artifact.collection_id if shape.gathers else null(),
            raw(Artifact.synced_at),
            raw(Artifact.updated_at),
            *(key for key, _ in keys),
        )
        .select_from(source)
        .join(Artifact, Artifact.id == source.c.artifact_id)
        .where(*conditions)
        .order_by(*_order(keys))
        .limit(limit)
    )


@lru_cache(maxsize=512)
def page_text(shape: Shape, dialect: Dialect) -> tuple[str, tuple[str, ...], dict[str, Any]] | None:
    """:func:`page` as text for the driver: the order of its parameters, and their own values.

    None for a shape whose parameters SQLAlchemy has to convert: lists and times.
    """
    if shape.probed or shape.states or shape.sort == UPDATED:
        return None
    statement = cast("ClauseElement", page(shape))
    compiled = cast("SQLCompiler", statement.compile(dialect=dialect))
    fixed = {name: value for name, value in compiled.params.items() if value is not None}
    return str(compiled), tuple(compiled.positiontup or ()), fixed


@lru_cache(maxsize=512)
def count(shape: Shape) -> Executable:
    """How many rows a listing has."""
    return _ids(shape).with_only_columns(func.count())


def _label(of: FromClause) -> ColumnElement[str]:
    """A folded value as written; where that differs, as the first member by name has it."""
    first = (
        select(Facet.label)
        .where(Facet.value_id == of.c.id)
        .order_by(Facet.name_key, Facet.artifact_id)
        .limit(1)
        .scalar_subquery()
    )
    return func.coalesce(first, of.c.value)


_KEPT = FacetValue.__table__
# How many members have one value.
MEMBERS_WITH = select(_KEPT.c.members).where(_KEPT.c.id == bindparam("value_id"))
# As :func:`facets`, of one facet and all members: the ``limit`` most frequent values.
MOST_FREQUENT = (
    select(_KEPT.c.facet, _KEPT.c.value, _label(_KEPT), _KEPT.c.members)
    .where(_KEPT.c.collection_id == bindparam("collection_id"), _KEPT.c.facet == bindparam("facet"))
    .order_by(_KEPT.c.members.desc(), _KEPT.c.value)
    .limit(bindparam("limit", type_=Integer))
)


@lru_cache(maxsize=512)
def facets(shape: Shape) -> Executable:
    """``facet, folded value, value as written, count`` among the rows of a listing."""
    found = (
        select(Facet.value_id, func.count().label("members"))
        .where(Facet.artifact_id.in_(_ids(shape)))
        .group_by(Facet.value_id)
        .subquery("found")
    )
    return (
        select(_KEPT.c.facet, _KEPT.c.value, _label(_KEPT), found.c.members)
        .join(found, found.c.value_id == _KEPT.c.id)
        .where(_KEPT.c.collection_id == bindparam("collection_id"))
    )


@lru_cache(maxsize=512)
def states(shape: Shape) -> Executable:
    """``state, count`` among the rows of a listing."""
    source, conditions = _narrowed(replace(shape, states=True))
    *conditions, chosen = conditions
    owner = Collection.__table__.alias("of")
    state = state_of(owner.c.verified_at, apart=shape.apart)
    return (
        select(state, func.count())
        .select_from(source)
        .join(Artifact, Artifact.id == source.c.artifact_id)
        .join(owner, owner.c.id == Artifact.collection_id)
        .where(*conditions, *([chosen] if shape.states else ()))
        .group_by(state)
    )


@lru_cache(maxsize=64)
def drifting(kinds: int) -> Executable:
    """The uid of each of ``uids``, and for each of so many kinds of drift whether it has that.

    Asked of each row by whole keys: in a join, all that drifts or all members would be walked.
    """
    collection_id = bindparam("collection_id", type_=String)
    name_key = (
        select(CollectionArtifact.name_key)
        .where(
            CollectionArtifact.collection_id == collection_id,
            CollectionArtifact.artifact_id == Artifact.id,
        )
        .correlate(Artifact)
        .scalar_subquery()
    )
    drifts = [
        exists().where(
            Facet.value_id == bindparam(f"kind_{number}", type_=BigInteger),
            Facet.name_key == name_key,
            Facet.artifact_id == Artifact.id,
        )
        for number in range(kinds)
    ]
    return select(Artifact.uid, *drifts).where(Artifact.uid.in_(bindparam("uids", expanding=True)))


def parameters(
    collection_id: str,
    facet_values: Sequence[tuple[str, tuple[str, ...]]],
    state_values: Sequence[str],
    words: tuple[str, ...],
    searched: str,
) -> dict[str, Any]:
    """The values of the parameters that narrow a listing."""
    values: dict[str, Any] = {"collection_id": collection_id}
    for facet, wanted in facet_values:
        ids = [value_id(collection_id, facet, value) for value in wanted]
        values[f"{facet}_values"] = ids
        values[f"{facet}_value"] = ids[0]
    if state_values:
        values["states"] = list(state_values)
    if words:
        values |= search.parameters(words, searched)
    return values


def state_of(
    verified_at: ColumnElement[Any],
    bounds: Mapping[str, datetime] | None = None,
    apart: int = 0,
) -> ColumnElement[str]:
    """:func:`freshness.state` in SQL.

    :param bounds: ``oldest`` and ``latest`` bound a good time; parameters of these names, if None.
    :param apart: of how many collections ``oldest_0`` … does, which are called ``apart_0`` …
    """
    oldest: ColumnElement[Any]
    latest: ColumnElement[Any]
    oldest, latest = (
        bindparam(name, type_=UtcDateTime) if bounds is None else literal(bounds[name], UtcDateTime)
        for name in ("oldest", "latest")
    )
    if apart:
        own = [
            (
                Artifact.collection_id == bindparam(f"apart_{number}", type_=String),
                bindparam(f"oldest_{number}", type_=UtcDateTime),
            )
            for number in range(apart)
        ]
        oldest = case(*own, else_=oldest)
    synced_at = Artifact.__table__.c.synced_at

    def holds(time: ColumnElement[Any]) -> ColumnElement[bool]:
        return and_(time > oldest, time <= latest)

    # As in freshness.verified: the later time counts, and one that lies in the future spoils it.
    fresh = or_(
        and_(holds(synced_at), or_(verified_at.is_(None), verified_at <= latest)),
        and_(holds(verified_at), or_(synced_at.is_(None), synced_at <= latest)),
    )
    return case(
        (Artifact.condition.in_(freshness.GONE), freshness.MISSING),
        (Artifact.condition == freshness.QUARANTINED, freshness.QUARANTINED),
        (and_(Artifact.condition == freshness.OK, fresh), "fresh"),
        else_="stale",
    )


def _ids(shape: Shape) -> Select[Any]:
    source, conditions = _narrowed(shape)
    statement: Select[Any] = select(source.c.artifact_id).where(*conditions)
    if shape.states:
        statement = statement.join(Artifact, Artifact.id == source.c.artifact_id)
    return statement


def _narrowed(shape: Shape) -> tuple[FromClause, list[ColumnElement[bool]]]:
    """The index to walk, and what its rows must fulfil; the condition on states comes last."""
    collection_id = bindparam("collection_id", type_=String)
    conditions: list[ColumnElement[bool]] = []
    if shape.walked is None:
        source: FromClause = CollectionArtifact.__table__.alias("source")
        first: ColumnElement[Any] = source.c.collection_id
        meant: Any = collection_id
    else:
        source = Facet.__table__.alias("source")
        first = source.c.value_id
        meant = bindparam(f"{shape.walked}_value", type_=BigInteger)
    if shape.searched == "fts5":
        # Not by the index of all members: SQLite would ask of each of them whether it was found.
        first = literal_column(f"+source.{first.key}", first.type)
    conditions.append(first == meant)
    for facet in shape.probed:
        probe = Facet.__table__.alias(f"with_{facet}")
        conditions.append(
            exists().where(
                probe.c.value_id.in_(bindparam(f"{facet}_values", expanding=True)),
                probe.c.name_key == source.c.name_key,
                probe.c.artifact_id == source.c.artifact_id,
            )
        )
    if shape.words:
        found = search.matching(shape.words, len(search.TIERS) - 1, shape.searched)
        conditions.append(source.c.artifact_id.in_(found))
    if shape.states:
        owner = Collection.__table__.alias("owner")
        verified_at = (
            select(owner.c.verified_at)
            .where(owner.c.id == Artifact.collection_id)
            .scalar_subquery()
        )
        state = state_of(verified_at, apart=shape.apart)
        conditions.append(state.in_(bindparam("states", expanding=True)))
    return source, conditions


SortKey = tuple[ColumnElement[Any], bool]


def _sort_keys(source: FromClause, shape: Shape) -> list[SortKey]:
    """The expressions that a listing is sorted by, and whether each descends."""
    by_name: list[SortKey] = [(source.c.name_key, False), (source.c.artifact_id, False)]
    if shape.sort == UPDATED:
        # The facets do not know the time; sorting by it goes through the artifacts then.
        updated_at: ColumnElement[Any] = (
            source.c.updated_at if shape.walked is None else Artifact.__table__.c.updated_at
        )
        return [(updated_at, True), (source.c.artifact_id, True)]
    if shape.sort == RELEVANCE:
        last = len(search.TIERS) - 1
        found_in = [
            (source.c.artifact_id.in_(search.matching(shape.words, tier, shape.searched)), tier)
            for tier in range(last)
        ]
        rank: ColumnElement[int] = case(*found_in, else_=last)
        return [(rank.label("rank"), False), *by_name]
    return by_name


def _order(keys: list[SortKey]) -> list[ColumnElement[Any]]:
    return [key.desc() if descends else key for key, descends in keys]


def _beyond(keys: list[SortKey]) -> ColumnElement[bool]:
    """The rows after a position.

    Spelt out, because MariaDB reads the whole index for a comparison of row values; the first
    condition alone gives every database its range.
    """
    position = [bindparam(f"key_{number}", type_=key.type) for number, (key, _) in enumerate(keys)]
    (first, descending), *_ = keys
    alternatives = []
    for number, (key, descends) in enumerate(keys):
        equal = [keys[i][0] == position[i] for i in range(number)]
        further = key < position[number] if descends else key > position[number]
        alternatives.append(and_(*equal, further))
    return and_(first <= position[0] if descending else first >= position[0], or_(*alternatives))
