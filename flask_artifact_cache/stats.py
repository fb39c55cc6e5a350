"""How the cache is doing, as numbers; whoever tells of it tells these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from .freshness import QUARANTINED, STATES, isoformat


@dataclass(frozen=True, slots=True)
class Lookups:
    """How often something was asked of the cache, since the processes began.

    :ivar misses: nothing of that id, or a collection that was not read yet.
    :ivar of_all: of all processes, as prometheus_client's multiprocess mode counts; else of this
        one alone.
    """

    hits: int
    misses: int
    of_all: bool

    @property
    def rate(self) -> float | None:
        """The share of hits; None where nothing was asked."""
        asked = self.hits + self.misses
        return round(self.hits / asked, 4) if asked else None


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """One collection.

    :ivar configured: whether its rows can be compared with files; else nobody keeps them true.
    :ivar artifact_count: of its members.
    :ivar states: of its members, as far as any is in a state.
    :ivar owned: as ``states``, without what it only gathers from other collections.
    :ivar verified_at: when all of it was last compared with its files.
    :ivar oldest_at: when the one of its own artifacts was compared that waits longest for it.
    :ivar daemon_seen_at: when the daemon last asked for a refresh of it.
    :ivar problems: of the collection as a whole, as its last scan found them.
    :ivar warnings: of its members.
    :ivar owned_warnings: as ``warnings``, without what it only gathers.
    :ivar drift: of its members, by kind, as far as there is any.
    """

    id: str
    path_available: bool
    artifact_count: int
    revision: int
    states: Mapping[str, int]
    owned: Mapping[str, int]
    verified_at: datetime | None
    oldest_at: datetime | None
    daemon_seen_at: datetime | None
    problems: Sequence[Mapping[str, Any]]
    warnings: int = 0
    owned_warnings: int = 0
    drift: Mapping[str, int] = field(default_factory=dict)
    configured: bool = True

    @property
    def problem_count(self) -> int:
        """How many things are wrong: with its members, and with it as a whole."""
        return len(self.problems) + self.states.get(QUARANTINED, 0) + self.warnings

    @property
    def owned_problems(self) -> dict[str, int]:
        """How many ``errors`` and ``warnings`` there are, without what it only gathers."""
        whole = sum(1 for one in self.problems if one["code"].startswith("E"))
        return {
            "error": whole + self.owned.get(QUARANTINED, 0),
            "warning": len(self.problems) - whole + self.owned_warnings,
        }

    @property
    def stale_count(self) -> int:
        """How many of its members are stale."""
        return self.states.get("stale", 0)


@dataclass(frozen=True, slots=True)
class Stats:
    """All collections, by id, at one moment.

    :ivar limited_until: until when GitHub is not to be asked; None: it may be.
    """

    now: datetime
    ttl: timedelta
    collections: Sequence[CollectionStats]
    lookups: Lookups
    limited_until: datetime | None = None

    @property
    def states(self) -> dict[str, int]:
        """How many artifacts are in which state; each counts once, whoever gathers it."""
        total: Counter[str] = Counter()
        for one in self.collections:
            total.update(one.owned)
        return {state: total[state] for state in STATES}

    @property
    def oldest_age_s(self) -> float | None:
        """How long ago the artifact was verified that waits longest for it; None: there is none.

        A time in the future counts as now.
        """
        times = [one.oldest_at for one in self.collections if one.oldest_at is not None]
        return max(0.0, (self.now - min(times)).total_seconds()) if times else None

    def as_dict(self, *, with_problems: bool = False) -> dict[str, Any]:
        """As it is served."""
        states, age_s = self.states, self.oldest_age_s
        return {
            "artifact_count": sum(states.values()),
            **{f"{state}_count": states[state] for state in STATES},
            "problem_count": sum(sum(one.owned_problems.values()) for one in self.collections),
            "oldest_sync_age_seconds": None if age_s is None else round(age_s, 3),
            "ttl_minutes": self.ttl.total_seconds() / 60,
            "hits": self.lookups.hits,
            "misses": self.lookups.misses,
            "hit_rate": self.lookups.rate,
            "counted_in": "all processes" if self.lookups.of_all else "this process",
            "upstream_limited_until": self.limited_until and isoformat(self.limited_until),
            "collections": [
                _described(one) | ({"problems": list(one.problems)} if with_problems else {})
                for one in self.collections
            ],
        }


def _described(one: CollectionStats) -> dict[str, Any]:
    return {
        "id": one.id,
        "configured": one.configured,
        "path_available": one.path_available,
        "artifact_count": one.artifact_count,
        "stale_count": one.stale_count,
        "revision": one.revision,
        "last_refreshed_at": one.verified_at and isoformat(one.verified_at),
        "states": dict(one.states),
        "problem_count": one.problem_count,
        "drift": dict(one.drift),
        "oldest_synced_at": one.oldest_at and isoformat(one.oldest_at),
        "daemon_seen_at": one.daemon_seen_at and isoformat(one.daemon_seen_at),
    }
