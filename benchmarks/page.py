"""The HTML page: what it costs beside ready bytes of the same size from the same app."""

from __future__ import annotations

import random
import statistics
from urllib.parse import urlencode

from .app import COLLECTION
from .client import Answer
from .measure import Ratio, Row
from .reading import PAGE, REPEATS, Host, hosting
from .workspace import Workspace

ADDRESS = f"/collection/{COLLECTION}"
NEW, AGAIN, UNCHANGED, CHANGED = (
    "HTML page not served before",
    "the same HTML page again",
    "HTML page, 304",
    "HTML page after a change, counts and all",
)
BUDGETS = {NEW: 6.0, AGAIN: 1.7, UNCHANGED: None, CHANGED: None}


def html(workspace: Workspace) -> list[Row]:
    """Pages of 50, at each size: new ones, the same again, unchanged ones, and after a change."""
    scale = workspace.scale
    rows: list[Row] = []
    ratios: dict[tuple[str, int], float] = {}
    sizes = (PAGE, scale.middle, scale.large)
    for size in sizes:
        with hosting(workspace, size) as host:
            workspace.say(f"reading HTML pages of {size:,}")
            found = _pages(host, size, scale.rounds)
        for work, ratio in found.items():
            ratios[work, size] = ratio.median
            rows.append(Row(f"{work}, {size:,}", ratio.median, BUDGETS[work], detail=ratio.detail))
    rows += [
        Row(
            f"{work}: growth from {scale.middle:,} to {scale.large:,}",
            ratios[work, scale.large] / ratios[work, scale.middle],
            1.2,
        )
        for work in (NEW, AGAIN)
    ]
    return rows


def _pages(host: Host, size: int, rounds: int) -> dict[str, Ratio]:
    addresses = _addresses(host, size, rounds * REPEATS)
    floor = f"/floor/{len(host.client.get(ADDRESS).body)}"
    times: dict[str, list[float]] = {work: [] for work in (floor, *BUDGETS)}
    for _ in range(rounds):
        once: dict[str, list[float]] = {work: [] for work in times}

        def ask(work: str, address: str, headers: str = "", expect: int = 200) -> Answer:
            once[floor].append(host.client.get(floor).seconds)  # noqa: B023
            answer = host.client.get(address, headers, expect)
            once[work].append(answer.seconds)  # noqa: B023
            return answer

        for _ in range(REPEATS):
            host.change()
            ask(CHANGED, ADDRESS)
            address = f"{ADDRESS}?{urlencode(addresses.pop())}"
            ask(NEW, address)
            known = f"If-None-Match: {ask(AGAIN, address).header('ETag')}\r\n"
            ask(UNCHANGED, address, known, expect=304)
        for work, seconds in once.items():
            times[work].append(statistics.median(seconds))
    floors = tuple(times[floor])
    return {work: Ratio(floors, tuple(times[work])) for work in BUDGETS}


def _addresses(host: Host, size: int, wanted: int) -> list[dict[str, str]]:
    """Queries of pages that nobody has asked for, from all over the collection."""
    if size <= PAGE:
        # There is one page, but what is kept of it is kept by the whole address.
        return [{"asked": str(number)} for number in range(wanted)]
    found: list[str] = []
    cursor: dict[str, object] = {}
    stride = max(1, min(PAGE - 3, (size - PAGE - 3) // wanted))
    while len(found) < wanted:
        end = host.listing(limit=stride, **cursor).body.rpartition(b'"end_cursor":"')[2]
        found.append(end.partition(b'"')[0].decode())
        cursor = {"after": found[-1]}
    random.Random(size).shuffle(found)
    return [{"after": one} for one in found]
