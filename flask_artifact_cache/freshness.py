"""When a row is fresh; pure, on aware times that are passed in.

A row's *condition* is what the files said last: ``ok``, ``invalidated`` (told to be stale),
``missing`` (gone, and the removal waits for a confirmation), ``referenced`` (gone, and a table of
the host refers to the row) or ``quarantined`` (its file cannot be read; the last good data is
kept). Its *state* adds the time: an ``ok`` row is fresh until the TTL has passed since it was
verified, by itself or with its whole collection; what is gone is ``missing`` either way.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import lru_cache

OK, INVALIDATED, MISSING, REFERENCED, QUARANTINED = CONDITIONS = (
    "ok",
    "invalidated",
    "missing",
    "referenced",
    "quarantined",
)
# The conditions of what is not there any more.
GONE = (MISSING, REFERENCED)
FRESH, STALE = "fresh", "stale"
STATES = (FRESH, STALE, MISSING, QUARANTINED)

# A time further ahead than this was written by a clock that was wrong, so it proves nothing.
CLOCK_TOLERANCE = timedelta(minutes=5)


def verified(
    synced_at: datetime | None, collection_verified_at: datetime | None
) -> datetime | None:
    """When a row was last verified: alone, or with all of its collection."""
    if synced_at is None or collection_verified_at is None:
        return synced_at or collection_verified_at
    return max(synced_at, collection_verified_at)


def state(condition: str, verified_at: datetime | None, now: datetime, ttl: timedelta) -> str:
    """The state of a row at ``now``: one of :data:`STATES`."""
    if condition in GONE:
        return MISSING
    if condition == QUARANTINED:
        return condition
    if condition == INVALIDATED or verified_at is None:
        return STALE
    fresh = now - ttl < verified_at <= now + CLOCK_TOLERANCE
    return FRESH if fresh else STALE


@lru_cache(maxsize=256)
def isoformat(time: datetime) -> str:
    """RFC 3339 in UTC, to the millisecond: how a time is served."""
    return time.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
