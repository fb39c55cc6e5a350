"""What a page has to say about a collection as a whole, before it shows what is in it; pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import freshness


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that somebody should know, and may do something about.

    :ivar kind: ``stale``, ``partial``, ``failed``, ``quarantined``, ``braked``, ``missing``,
        ``unavailable``, ``unconfigured`` or ``upstream``; the page's template has a sentence for
        each.
    :ivar count: of the artifacts that it is about.
    :ivar at: a time as it is served, if there is one to tell.
    :ivar refresh_id: of the run that it is about.
    :ivar collections: those that it is about, where it is not about all that is shown.
    """

    kind: str
    count: int = 0
    at: str | None = None
    refresh_id: str = ""
    collections: tuple[str, ...] = ()


# Asked with a collection's id whenever one of its pages is served.
Source = Callable[[str], Iterable[Notice]]


def of_health(health: Mapping[str, Any]) -> list[Notice]:
    """What is to be said of a collection's health, the most urgent first."""
    found = []
    states, braked, ended = health["states"], health["waiting"], health["failing"]
    unavailable = tuple(health["unavailable"])
    missing = states.get(freshness.MISSING, 0)
    if health["unconfigured"]:
        found.append(Notice("unconfigured", collections=tuple(health["unconfigured"])))
    if not health["configured"]:
        # Every other notice tells to refresh, which cannot be done.
        return found
    if unavailable:
        found.append(Notice("unavailable", at=health["checked_at"], collections=unavailable))
    if braked and missing:
        found.append(Notice("braked", missing, braked["started_at"], braked["refresh_id"]))
    elif missing:
        found.append(Notice("missing", missing))
    if states.get(freshness.QUARANTINED):
        found.append(Notice("quarantined", states[freshness.QUARANTINED]))
    if ended and not unavailable:
        kind, count = ended["outcome"], ended["error_count"]
        found.append(Notice(kind, count, ended["started_at"], ended["refresh_id"]))
    if states.get("stale"):
        found.append(Notice("stale", states["stale"], health["checked_at"]))
    return found
