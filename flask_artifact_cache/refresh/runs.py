"""The rows of refresh runs: who asked for what, how far it is, and what came of it.

A run begins with a row for each of its collections, so that whoever asks for the same finds it
and waits for the result. A request that comes while the files are being looked at may know of a
later edit: a run that was joined looks a second time before it ends (run.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    and_,
    case,
    delete,
    desc,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from ..freshness import isoformat
from ..models import Collection, RefreshRun
from .bulk import batches
from .lease import LEASE_MS, now_ms
from .report import COUNTS, FAILED, NEEDS_CONFIRMATION, PARTIAL, SUCCEEDED, Report, all_errors
from .selection import Selection

QUEUED, RUNNING = "queued", "running"
# How long a run may wait in the background until somebody is at it: nobody prolongs it meanwhile.
QUEUED_MS = 3_600_000
# What was held back then has been confirmed or has come back since.
SUPERSEDED = "superseded"
# How many errors and paths of a run are kept; all are counted.
KEPT_ERRORS = 1_000
KEPT_PATHS = 20
# How long what came of a run can be looked up.
KEPT = timedelta(days=7)

_RUN = RefreshRun.__table__


def request_key(selection: Selection, **options: object) -> str:
    """Equal for requests that ask for the same."""
    parts = (selection.collection_id, sorted(selection.filters().items()), sorted(options.items()))
    return hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=16).hexdigest()


def join(connection: Connection, request: str) -> str | None:
    """Wait from now on for the run that does the same already; its id, or None if there is none.

    The collections are locked by the caller, so no run begins or ends meanwhile. One that has
    waited in the background for the length of a lease is not relied on: its task may be lost.
    """
    alive_until_ms = RefreshRun.alive_until_ms
    now = now_ms(connection)
    long_queued = and_(
        RefreshRun.outcome == QUEUED,
        alive_until_ms > now + LEASE_MS,
        alive_until_ms <= now + QUEUED_MS - LEASE_MS,
    )
    found: str | None = connection.scalar(
        select(RefreshRun.id)
        .where(RefreshRun.request == request)
        .group_by(RefreshRun.id)
        .having(
            and_(
                func.count(case((RefreshRun.closed.is_(True), 1))) == 0,
                func.count(case((long_queued, 1))) == 0,
                func.min(alive_until_ms) > now,
            )
        )
        .limit(1)
    )
    if found is not None:
        connection.execute(
            update(RefreshRun).where(RefreshRun.id == found).values(joins=RefreshRun.joins + 1)
        )
    return found


def lock(connection: Connection, collections: Sequence[str]) -> None:
    """Let nobody else at the collections."""
    connection.execute(
        select(Collection.id)
        .where(Collection.id.in_(collections))
        .order_by(Collection.id)
        .with_for_update()
    )


def queue(
    connection: Connection,
    refresh_id: str,
    collections: Sequence[str],
    *,
    request: str,
    trigger: str,
    filters: dict[str, Any],
    now: datetime,
    joinable: bool,
    alive_ms: int = LEASE_MS,
) -> None:
    """Write down that a run is to begin, and forget those of long ago.

    :param alive_ms: how long it is known to be alive if it is not heard of.
    """
    # Looked for first: to delete a range locks the gaps in it, and two that insert into each
    # other's gaps wait for each other (InnoDB).
    old = connection.scalars(
        select(RefreshRun.id).where(
            RefreshRun.collection_id.in_(collections), RefreshRun.started_at < now - KEPT
        )
    ).all()
    for batch in batches(old):
        connection.execute(
            delete(RefreshRun).where(
                RefreshRun.id.in_(batch), RefreshRun.collection_id.in_(collections)
            )
        )
    alive_until_ms = connection.scalar(select(now_ms(connection) + alive_ms))
    connection.execute(
        insert(RefreshRun),
        [
            {
                "id": refresh_id,
                "collection_id": one,
                "request": request,
                "trigger": trigger,
                "filters": _bounded(filters),
                "outcome": QUEUED,
                "closed": not joinable,
                "alive_until_ms": alive_until_ms,
                "started_at": now,
            }
            for one in collections
        ],
    )


def _bounded(filters: dict[str, Any]) -> dict[str, Any]:
    return {
        name: f"{len(value)} of them"
        if isinstance(value, list) and len(value) > KEPT_PATHS
        else value
        for name, value in filters.items()
    }


def start(connection: Connection, refresh_id: str, collection_id: str) -> None:
    """Write down that the run is at one of its collections now."""
    connection.execute(
        update(RefreshRun)
        .where(RefreshRun.id == refresh_id, RefreshRun.collection_id == collection_id)
        .values(outcome=RUNNING, alive_until_ms=now_ms(connection) + LEASE_MS)
    )


def forget(connection: Connection, refresh_id: str, collection_id: str) -> None:
    """Take back what :func:`queue` has written down."""
    connection.execute(
        delete(RefreshRun).where(
            RefreshRun.id == refresh_id, RefreshRun.collection_id == collection_id
        )
    )


def go_on(
    connection: Connection, refresh_id: str, collection_id: str, done: int = 0, total: int = 0
) -> None:
    """Say that the run is alive, and how many artifacts of the collection are done."""
    here = RefreshRun.collection_id == collection_id
    connection.execute(
        update(RefreshRun)
        .where(RefreshRun.id == refresh_id, RefreshRun.finished_at.is_(None))
        .values(
            alive_until_ms=now_ms(connection) + LEASE_MS,
            done=case((here, done), else_=RefreshRun.done),
            total=case((here, total), else_=RefreshRun.total),
        )
    )


def live_on(connection: Connection, refresh_id: str) -> None:
    """Say that the run is alive."""
    connection.execute(
        update(RefreshRun)
        .where(RefreshRun.id == refresh_id, RefreshRun.finished_at.is_(None))
        .values(alive_until_ms=now_ms(connection) + LEASE_MS)
    )


def close(connection: Connection, refresh_id: str, collection_id: str) -> bool:
    """Let nobody join any more; whether somebody has."""
    mine = and_(RefreshRun.id == refresh_id, RefreshRun.collection_id == collection_id)
    connection.execute(update(RefreshRun).where(mine).values(closed=True))
    return bool(connection.scalar(select(RefreshRun.joins).where(mine)))


def finish(connection: Connection, report: Report, now: datetime) -> None:
    """Write down what came of a run."""
    counts = {name: getattr(report, name) for name in COUNTS}
    total = report.created + report.updated + report.unchanged
    connection.execute(
        update(RefreshRun)
        .where(RefreshRun.id == report.refresh_id, RefreshRun.collection_id == report.collection_id)
        .values(
            outcome=report.outcome,
            closed=True,
            finished_at=now,
            duration_ms=round(report.duration_seconds * 1000),
            done=total,
            total=total,
            errors=report.errors[:KEPT_ERRORS],
            error_count=len(report.errors),
            **counts,
        )
    )


def reports(connection: Connection, refresh_id: str) -> list[Report] | None:
    """What came of a run; None while it goes on.

    A run whose process has died is believed to have failed once it has not been heard of for the
    length of a lease, or, while it waits in the background, of :data:`QUEUED_MS`.
    """
    found = []
    alive = (RefreshRun.alive_until_ms > now_ms(connection)).label("alive")
    rows = connection.execute(
        select(*_RUN.columns, alive)
        .where(RefreshRun.id == refresh_id)
        .order_by(_RUN.c.collection_id)
    )
    for row in rows:
        if row.finished_at is None and row.alive:
            return None
        report = Report(row.id, row.collection_id, duration_seconds=row.duration_ms / 1000)
        for name in COUNTS:
            setattr(report, name, getattr(row, name))
        report.errors = list(row.errors)
        report.outcome = row.outcome if row.finished_at is not None else FAILED
        found.append(report)
    return found


def is_finished(connection: Connection, refresh_id: str) -> bool:
    """Whether a run has ended in all of its collections."""
    left = select(RefreshRun.id).where(
        RefreshRun.id == refresh_id, RefreshRun.finished_at.is_(None)
    )
    return connection.scalar(left.limit(1)) is None


def supersede(connection: Connection, collection_id: str) -> None:
    """Let nobody confirm any more what earlier runs have held back: it is settled."""
    # Looked for first: to update by a search locks all that is searched, runs of others that are
    # at work included (InnoDB).
    held = connection.scalars(
        select(RefreshRun.id).where(
            RefreshRun.collection_id == collection_id, RefreshRun.outcome == NEEDS_CONFIRMATION
        )
    ).all()
    for one in held:
        mine = and_(RefreshRun.id == one, RefreshRun.collection_id == collection_id)
        connection.execute(update(RefreshRun).where(mine).values(outcome=SUPERSEDED))


def withheld(connection: Connection, refresh_id: str, collection_id: str) -> int | None:
    """How many removals of a collection wait for a confirmation by this id; None if it has none."""
    return connection.scalar(
        select(RefreshRun.withheld).where(
            RefreshRun.id == refresh_id,
            RefreshRun.collection_id == collection_id,
            RefreshRun.outcome == NEEDS_CONFIRMATION,
        )
    )


def last(connection: Connection, trigger: str) -> dict[str, datetime]:
    """``collection id -> when`` something last asked for a refresh, as far as runs are kept."""
    rows = connection.execute(
        select(RefreshRun.collection_id, func.max(RefreshRun.started_at))
        .where(RefreshRun.trigger == trigger)
        .group_by(RefreshRun.collection_id)
    )
    return {row[0]: row[1] for row in rows}


def withheld_in(connection: Connection, refresh_id: str) -> str | None:
    """The collection of which a run has held removals back; else any of its collections."""
    return connection.scalar(
        select(RefreshRun.collection_id)
        .where(RefreshRun.id == refresh_id)
        .order_by(RefreshRun.withheld.desc())
        .limit(1)
    )


def recent(
    connection: Connection, limit: int, collection_id: str | None = None
) -> list[dict[str, Any]]:
    """The newest runs, each without its errors."""
    statement = select(RefreshRun.id, func.max(RefreshRun.started_at).label("at"))
    if collection_id is not None:
        statement = statement.where(RefreshRun.collection_id == collection_id)
    statement = statement.group_by(RefreshRun.id).order_by(desc("at"), RefreshRun.id).limit(limit)
    ids = [row[0] for row in connection.execute(statement)]
    found = _described(connection, ids, with_errors=False)
    return [{name: value for name, value in found[one].items() if name != "errors"} for one in ids]


def standing(connection: Connection, collections: Sequence[str]) -> dict[str, Any]:
    """What is still to be said of how the last runs of some collections have ended.

    :returns: ``waiting``, the newest run that waits for a confirmation, and ``failing``, the newest
        that left something undone and was the last of its collection to end; each as
        ``refresh_id, outcome, error_count, started_at`` or None.
    """
    ended = or_(
        RefreshRun.finished_at.is_not(None), RefreshRun.alive_until_ms <= now_ms(connection)
    )
    mine = RefreshRun.collection_id.in_(collections)
    newest = (
        select(RefreshRun.collection_id, func.max(RefreshRun.started_at).label("at"))
        .where(ended, mine)
        .group_by(RefreshRun.collection_id)
        .subquery()
    )
    is_newest = RefreshRun.started_at == newest.c.at
    waits = RefreshRun.outcome == NEEDS_CONFIRMATION
    rows = connection.execute(
        select(
            RefreshRun.id,
            RefreshRun.collection_id,
            case((RefreshRun.finished_at.is_(None), FAILED), else_=RefreshRun.outcome),
            RefreshRun.error_count,
            RefreshRun.started_at,
            is_newest,
        )
        .join(newest, newest.c.collection_id == RefreshRun.collection_id)
        .where(ended, mine, or_(is_newest, waits))
        # Of those that began at once, the one that was heard of last.
        .order_by(RefreshRun.started_at.desc(), RefreshRun.alive_until_ms.desc())
    )
    found: dict[str, Any] = {"waiting": None, "failing": None}
    last_of: set[str] = set()
    for refresh_id, owner, outcome, error_count, started_at, newest_of_its in rows:
        told = {
            "refresh_id": refresh_id,
            "outcome": outcome,
            "error_count": error_count,
            "started_at": isoformat(started_at),
        }
        if outcome == NEEDS_CONFIRMATION:
            found["waiting"] = found["waiting"] or told
        if newest_of_its and owner not in last_of:
            last_of.add(owner)
            if outcome in (PARTIAL, FAILED):
                found["failing"] = found["failing"] or told
    return found


def one(connection: Connection, refresh_id: str) -> dict[str, Any] | None:
    """A run with its progress, counts and errors; None if there is none."""
    return _described(connection, [refresh_id], with_errors=True).get(refresh_id)


# Of a run of several collections, what stands first here is said of the whole.
_OUTCOMES = (RUNNING, QUEUED, FAILED, NEEDS_CONFIRMATION, SUPERSEDED, PARTIAL, SUCCEEDED)


def _described(
    connection: Connection, ids: Sequence[str], *, with_errors: bool
) -> dict[str, dict[str, Any]]:
    alive = (RefreshRun.alive_until_ms > now_ms(connection)).label("alive")
    columns = [one for one in _RUN.columns if with_errors or one.name != "errors"]
    if not with_errors:
        columns.append(literal([], _RUN.c.errors.type).label("errors"))
    statement = select(*columns, alive).where(RefreshRun.id.in_(ids))
    by_id: dict[str, list[Any]] = {}
    for row in connection.execute(statement.order_by(RefreshRun.collection_id)):
        by_id.setdefault(row.id, []).append(row)
    return {refresh_id: _description(rows) for refresh_id, rows in by_id.items()}


def _description(rows: Sequence[Any]) -> dict[str, Any]:
    first = rows[0]
    several = len(rows) > 1

    def total(name: str) -> Any:
        return sum(getattr(row, name) for row in rows)

    outcomes = {row.outcome if row.finished_at is not None or row.alive else FAILED for row in rows}
    ended = [row.finished_at for row in rows]
    return {
        "refresh_id": first.id,
        "collection_id": None if several else first.collection_id,
        "trigger": first.trigger,
        "filters": first.filters,
        "outcome": next(one for one in _OUTCOMES if one in outcomes),
        "started_at": isoformat(first.started_at),
        "finished_at": None if None in ended else isoformat(max(ended)),
        "progress": {"done": total("done"), "total": total("total")},
        "artifacts_refreshed": total("created")
        + total("updated")
        + total("unchanged")
        - total("quarantined"),
        **{name: total(name) for name in COUNTS},
        "error_count": total("error_count"),
        "errors": all_errors([(row.collection_id, row.errors) for row in rows]),
        "duration_seconds": total("duration_ms") / 1000,
    }
