"""What is wrong with the files of collections, problem by problem, as the rows tell it.

First what is wrong with a collection as a whole, then why artifacts cannot be read, then what
others are warned of. Each of these is a range of an index, or few, and so is a page of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, or_, select

from . import cursors, freshness, queries
from .files.problems import hint
from .models import Artifact, Facet
from .queries import Head
from .refresh.records import PROBLEM, WARNING, value_id

WHOLE, ERROR, WARNED = range(3)
_OF_ARTIFACT = (Artifact.id, Artifact.collection_id, Artifact.uid, Artifact.type, Artifact.name)


class Scope(NamedTuple):
    """Which problems are meant.

    :ivar asked: the collection; None: all that were read.
    :ivar whole: what is wrong with which collection.
    :ivar owners: the collections that own the artifacts.
    :ivar lists: the collections whose members they are, each of them once.
    """

    asked: str | None
    whole: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]
    owners: Sequence[str]
    lists: Sequence[str]


class Position(NamedTuple):
    """Where a problem is in the list, which is in the order of these.

    :ivar section: ``WHOLE``, ``ERROR`` or ``WARNED``.
    :ivar number: among those of the same artifact, or of the same collection.
    """

    section: int
    collection_id: str = ""
    name_key: str = ""
    artifact: int = 0
    number: int = 0


Found = tuple[Position, dict[str, Any]]


def scope(connection: Connection, one: Head | None) -> Scope:
    """The problems of a collection, and of what it gathers; or of all collections."""
    known = {
        id_: (head, problems)
        for id_, (head, problems) in queries.heads_and_problems(connection).items()
        if head.revision
    }
    asked = list(known) if one is None else [one.id]
    gathering = [id_ for id_ in asked if id_ in known and known[id_][0].gathers]
    return Scope(
        asked=None if one is None else one.id,
        whole=[(id_, known[id_][1]) for id_ in sorted(asked) if id_ in known],
        owners=list(known) if gathering else asked,
        lists=gathering[:1] or sorted(asked),
    )


def count(connection: Connection, meant: Scope) -> int:
    """How many problems there are on all pages."""
    kept = queries.kept_counts(connection, meant.lists, (PROBLEM,))
    return (
        sum(len(problems) for _, problems in meant.whole)
        + queries.quarantined(connection, meant.owners)
        + sum(sum(facets[PROBLEM].values()) for facets in kept.values())
    )


def page(
    connection: Connection, meant: Scope, limit: int, after: str | None = None
) -> tuple[list[Found], str | None]:
    """A page of problems, and the cursor of the next one, where there is one.

    :raises InvalidRequestError: if the cursor is not one of this list.
    """
    purpose = ("problems", meant.asked)
    start = Position(-1)
    if after is not None:
        start = Position(*cursors.read(after, purpose, [int, str, str, int, int]))
    behind = (one for one in _from(connection, meant, start, limit + 1) if one[0] > start)
    found = list(islice(behind, limit + 1))
    more = len(found) > limit
    return found[:limit], cursors.write(found[limit - 1][0], purpose) if more else None


def _from(connection: Connection, meant: Scope, start: Position, most: int) -> Iterator[Found]:
    """The problems from a position on, or from somewhat before it; ``most`` of each kind."""
    if start.section <= WHOLE:
        for id_, problems in meant.whole:
            for number, problem in enumerate(problems):
                yield Position(WHOLE, id_, number=number), _told(problem, id_)
    if start.section <= ERROR:
        statement = (
            select(*_OF_ARTIFACT, Artifact.error)
            .where(
                Artifact.collection_id.in_(meant.owners),
                Artifact.condition == freshness.QUARANTINED,
                Artifact.id > (start.artifact if start.section == ERROR else 0),
            )
            .order_by(Artifact.id)
            .limit(most)
        )
        for key, *artifact, error in connection.execute(statement).all():
            yield Position(ERROR, artifact=key), _told(error, *artifact)
    for id_ in meant.lists:
        if start.section < WARNED or id_ >= start.collection_id:
            yield from _warned(connection, id_, start, most)


def _warned(connection: Connection, id_: str, start: Position, most: int) -> Iterator[Found]:
    """The warnings of a collection's members, by name."""
    conditions = [Facet.value_id == value_id(id_, PROBLEM, WARNING)]
    if (start.section, start.collection_id) == (WARNED, id_):
        # Spelt out as in 'statements'; the artifact itself may have more.
        same = and_(Facet.name_key == start.name_key, Facet.artifact_id >= start.artifact)
        conditions += [
            Facet.name_key >= start.name_key,
            or_(Facet.name_key > start.name_key, same),
        ]
    statement = (
        select(Facet.name_key, *_OF_ARTIFACT, Artifact.warnings)
        .join(Artifact, Artifact.id == Facet.artifact_id)
        .where(*conditions)
        .order_by(Facet.name_key, Facet.artifact_id)
        .limit(most + 1)  # all of the first may be told already
    )
    for name_key, key, *artifact, warnings in connection.execute(statement).all():
        for number, problem in enumerate(warnings):
            yield Position(WARNED, id_, name_key, key, number), _told(problem, *artifact)


def _told(
    problem: Mapping[str, Any],
    collection_id: str,
    uid: str | None = None,
    type_: str | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """A problem as it is served."""
    return {
        "collection_id": collection_id,
        "uid": uid,
        "artifact_id": None if uid is None else f"{type_}:{name}",
        **problem,
        "hint": hint(problem["code"], problem["message"]),
    }
