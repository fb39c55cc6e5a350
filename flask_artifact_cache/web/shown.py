"""What the HTML page shows of a collection, gathered within one look at it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection

from .. import faults, freshness, notices, queries
from ..files.problems import hint
from ..queries import Filters, Head, Moment
from ..reading import DAEMON
from ..refresh import runs
from ..refresh.records import DRIFT, as_json
from ..service import ArtifactCacheService

# How many values of a facet are shown, and how many if somebody wants more.
FEW, MANY = 8, 200
# How many of the last runs are looked at.
RUNS = 10
# How many problems a page of them shows.
PROBLEMS = 50


def next_minute(now: datetime) -> datetime:
    """When ages in words have to be told anew, the same for every worker."""
    return now.replace(second=0, microsecond=0) + timedelta(minutes=1)


def soonest(*times: datetime | None) -> datetime | None:
    """The first of some times; None stands for never."""
    return min((time for time in times if time is not None), default=None)


def health(
    service: ArtifactCacheService, connection: Connection, one: Head, at: Moment
) -> dict[str, Any]:
    """How a collection is: when it was checked, by whom, and what is wrong with it.

    What it says of runs is a minute old at most, everything else is as the rows are.
    """

    def make() -> tuple[bytes, datetime | None]:
        counts = queries.member_states(connection, one, at)
        owners = queries.heads(connection) if one.gathers else [one]
        seen = runs.last(connection, DAEMON)
        daemon = max((seen[own.id] for own in owners if own.id in seen), default=None)
        with_files = [own for own in owners if service.has_files(own)]
        checked_at = at.whole(one)
        ends = [time + at.ttl_of(owner) for owner, time in at.verified_at.items() if time]
        found = {
            "configured": service.has_files(one),
            "unconfigured": [own.id for own in owners if own not in with_files],
            "unavailable": [own.id for own in with_files if not own.path_available],
            "checked_at": checked_at and freshness.isoformat(checked_at),
            "fresh_until": checked_at and freshness.isoformat(min(ends)),
            "states": counts,
            "problems": faults.count(connection, faults.scope(connection, one)),
            "drift": queries.kept_counts(connection, [one.id], [DRIFT])[one.id][DRIFT],
            "daemon_seen_at": daemon and freshness.isoformat(daemon),
            "owners": [own.id for own in owners],
            **runs.standing(connection, [own.id for own in owners]),
        }
        return as_json(found), soonest(queries.next_change(connection, at), next_minute(at.now))

    found: dict[str, Any] = json.loads(service.part(one, at, "health", make)[0])
    return found


def head(service: ArtifactCacheService, collection_id: str) -> Head | None:
    """The row of a collection, whether or not it was read; None if it has none."""
    with service.reading() as connection:
        one = queries.head(connection, collection_id)
    # MariaDB finds 'work' by 'work ', too.
    return one if one is not None and one.id == collection_id else None


def given(service: ArtifactCacheService, collection_id: str) -> tuple[notices.Notice, ...]:
    """What other parts of the program have to say."""
    return tuple(notice for source in service.notices for notice in source(collection_id))


def facets(
    service: ArtifactCacheService,
    connection: Connection,
    one: Head,
    at: Moment,
    filters: Filters,
    limit: int,
) -> tuple[dict[str, list[dict[str, Any]]], datetime | None]:
    """The most frequent values of each facet among what the filters leave."""

    def make() -> tuple[bytes, datetime | None]:
        found = queries.facets(connection, one, filters, at, limit)
        return as_json(found), queries.next_change(connection, at)

    data, expires_at = service.part(one, at, ("facets", filters, limit), make)
    return json.loads(data), expires_at


def items(parts: Sequence[bytes]) -> list[dict[str, Any]]:
    """Rows as they are served, as values."""
    found: list[dict[str, Any]] = json.loads(b"".join((b"[", *parts, b"]")))
    return found


def problems(connection: Connection, one: Head, after: str | None) -> dict[str, Any]:
    """A page of what is wrong with files: each section by artifact, what keeps them out first."""
    found, following = faults.page(connection, faults.scope(connection, one), PROBLEMS, after)
    sections: dict[int, dict[str | None, list[dict[str, Any]]]] = {}
    for position, problem in found:
        sections.setdefault(position.section, {}).setdefault(problem["uid"], []).append(problem)
    return {
        "whole": sections.get(faults.WHOLE, {}).get(None, []),
        "unusable": list(sections.get(faults.ERROR, {}).values()),
        "warned": list(sections.get(faults.WARNED, {}).values()),
        "next": following,
    }


def hinted(problem: Mapping[str, Any]) -> dict[str, Any]:
    """A problem with how to mend it, as ``flask artifact-cache lint`` prints it."""
    return {**problem, "hint": hint(problem["code"], problem["message"])}
