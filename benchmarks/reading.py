"""Reading: what an answer costs beside ready bytes of the same size from the same app."""

from __future__ import annotations

import json
import random
import sqlite3
import statistics
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from urllib.parse import urlencode

from . import collection
from .app import COLLECTION, LISTING
from .client import Answer, Client
from .measure import Ratio, Row, duration, percentile
from .server import serving
from .workspace import Workspace

PAGE = 50
REGIONS = ("first", "middle", "deep")
# Pages of each region in a round.
REPEATS = 10
WARM_UP = 200

NEW, AGAIN, UNCHANGED = "page not served before", "the same page again", "304, nothing changed"
BUDGETS = {NEW: 2.2, AGAIN: 1.6, UNCHANGED: 1.15}


@dataclass(frozen=True, slots=True)
class Host:
    """A server with a database behind it."""

    client: Client
    database: sqlite3.Connection

    def listing(self, **query: object) -> Answer:
        """A page; parameters as of the API."""
        return self.client.get(_address(**query))

    def change(self) -> None:
        """Move the collection's revision, as every refresh that changes something does."""
        self.database.execute(
            "UPDATE artifact_cache_collection SET revision = revision + 1,"
            " stamp = lower(hex(randomblob(8))) WHERE id = ?",
            (COLLECTION,),
        )

    def warm_up(self) -> None:
        """Let every thread of the worker have its connection and its caches."""
        for _ in range(WARM_UP):
            self.listing()
            self.client.get("/floor/40000")


@contextmanager
def hosting(workspace: Workspace, size: int) -> Iterator[Host]:
    """Serve the collection of ``size`` artifacts."""
    path = workspace.database(size)
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as database,
        serving(path, workspace.collection(size)) as client,
    ):
        database.execute("PRAGMA synchronous=OFF")
        host = Host(client, database)
        host.warm_up()
        yield host


def pages(workspace: Workspace) -> list[Row]:
    """Pages at every depth: new ones, the same again, and unchanged ones."""
    scale = workspace.scale
    rows: list[Row] = []
    ratios: dict[tuple[str, int], float] = {}
    for size in (scale.small, scale.middle, scale.large):
        with hosting(workspace, size) as host:
            workspace.say(f"reading pages of {size:,}")
            found, detail = _pages(host, size, scale.rounds)
        for work, budget in BUDGETS.items():
            ratio = found[work]
            ratios[work, size] = ratio.median
            more = f"; {detail}" if work == NEW else ""
            rows.append(Row(f"{work}, {size:,}", ratio.median, budget, detail=ratio.detail + more))
    rows += [
        Row(
            f"{work}: growth from {scale.small:,} to {scale.large:,}",
            ratios[work, scale.large] / ratios[work, scale.small],
            1.2,
        )
        for work in BUDGETS
    ]
    return rows


def _pages(host: Host, size: int, rounds: int) -> tuple[dict[str, Ratio], str]:
    regions = _cursors(host, size, rounds * REPEATS)
    sample = host.listing(limit=PAGE + 1)
    floor = f"/floor/{len(sample.body)}"
    times: dict[str, list[float]] = {work: [] for work in (floor, *BUDGETS, *REGIONS)}
    cursors = list(zip(*(regions[region] for region in REGIONS), strict=True))
    for start in range(0, len(cursors), REPEATS):
        once: dict[str, list[float]] = {work: [] for work in times}

        def ask(work: str, address: str, headers: str = "", expect: int = 200) -> Answer:
            # A floor in front of each: whatever is measured finds the same caches.
            once[floor].append(host.client.get(floor).seconds)  # noqa: B023
            answer = host.client.get(address, headers, expect)
            once[work].append(answer.seconds)  # noqa: B023
            return answer

        for positions in cursors[start : start + REPEATS]:
            for region, cursor in zip(REGIONS, positions, strict=True):
                address = _address(limit=PAGE, after=cursor)
                once[region].append(ask(NEW, address).seconds)
                known = f"If-None-Match: {ask(AGAIN, address).header('ETag')}\r\n"
                ask(UNCHANGED, address, known, expect=304)
        for work, seconds in once.items():
            times[work].append(statistics.median(seconds))
    floors = tuple(times[floor])
    ratios = {work: Ratio(floors, tuple(times[work])) for work in (*BUDGETS, *REGIONS)}
    by_depth = ", ".join(f"{region} {ratios[region].median:.2f} ×" for region in REGIONS)
    item_bytes = len(sample.body) / len(json.loads(sample.body)["items"])
    return ratios, f"{by_depth}; items of {item_bytes:.0f} bytes"


def _cursors(host: Host, size: int, wanted: int) -> dict[str, list[str]]:
    """Cursors of full pages near the beginning, around the middle and near the end.

    They are collected by pages of another length, so the pages that are asked for later have
    not been served; they do not overlap where the collection has room.
    """
    room = (size - PAGE - 3) // len(REGIONS)
    stride = max(1, min(PAGE - 3, room // wanted))
    length = min(wanted, room // stride)
    starts = (0, (size - length * stride) // 2, size - PAGE - 3 - length * stride)
    chance = random.Random(size)
    regions = {}
    for region, start in zip(REGIONS, starts, strict=True):
        cursor = _skip(host, start)
        found = []
        for _ in range(length):
            cursor = _end(_after(host, cursor, stride))
            found.append(cursor)
        chance.shuffle(found)
        regions[region] = found
    return regions


def addresses(client: Client, pages: int) -> list[str]:
    """The addresses of the first pages."""
    found = [_address(limit=PAGE)]
    while len(found) < pages:
        info = json.loads(client.get(found[-1]).body)["page_info"]
        if not info["has_next_page"]:
            break
        found.append(_address(limit=PAGE, after=info["end_cursor"]))
    return found


def _skip(host: Host, rows: int) -> str | None:
    """The cursor behind so many rows."""
    cursor = None
    while rows > 0:
        cursor = _end(_after(host, cursor, min(rows, 200)))
        rows -= 200
    return cursor


def _after(host: Host, cursor: str | None, limit: int) -> Answer:
    return host.listing(limit=limit, **({} if cursor is None else {"after": cursor}))


def _end(page: Answer) -> str:
    cursor: str = json.loads(page.body)["page_info"]["end_cursor"]
    return cursor


def filters(workspace: Workspace) -> list[Row]:
    """First page and count by tag and by type, where neither has been asked for before."""
    scale = workspace.scale
    size = scale.large
    with hosting(workspace, size) as host:
        workspace.say(f"filtering {size:,}")
        tags = random.Random(size).sample(collection.TAGS, len(collection.TAGS))
        asked = iter(_address(tag=tag) for tag in tags)
        total = json.loads(host.listing(tag=collection.TAGS[0], limit=1).body)
        common = total["page_info"]["total_count"]
        repeats = len(tags) // scale.rounds
        by_tag = _beside_floor(host, lambda: next(asked), scale.rounds, repeats)

        rounds = max(3, scale.rounds // 3)
        by_type = _beside_floor(host, lambda: _address(type="skill"), rounds, 3, host.change)
        first = _beside_floor(host, _address, rounds, 3, host.change)
    return [
        Row(
            f"filter by tag, {size:,}: first page and count",
            by_tag.median,
            4,
            detail=f"{by_tag.detail}; {scale.rounds * repeats} tags, the common ones of {common:,}",
        ),
        Row(
            f"filter by type, all of {size:,}: first page and count after a change",
            by_type.median,
            4,
            detail=by_type.detail,
        ),
        Row(f"no filter, {size:,}: first page after a change", first.median, detail=first.detail),
    ]


def search(workspace: Workspace) -> list[Row]:
    """Full-text search for a word that few have, and for one that many have."""
    scale = workspace.scale
    size = scale.large
    with hosting(workspace, size) as host:
        workspace.say(f"searching {size:,}")
        words = size // collection.RARE_EACH
        repeats = min(REPEATS, words // scale.rounds)
        numbers = random.Random(size).sample(range(words), scale.rounds * repeats)
        asked = iter(_address(q=collection.rare_word(number)) for number in numbers)
        few = _beside_floor(host, lambda: next(asked), scale.rounds, repeats)

        seconds = []
        floor = f"/floor/{len(host.listing(q=collection.COMMON_WORD).body)}"
        floors = []
        for _ in range(scale.rounds * 2):
            host.change()
            floors.append(host.client.get(floor).seconds)
            seconds.append(host.listing(q=collection.COMMON_WORD).seconds)
    middle = statistics.median(seconds)
    return [
        Row(f"search, {size:,}: rare word", few.median, 3, detail=few.detail),
        Row(
            f"search, {size:,}: a word in a fifth of all, p95",
            percentile(seconds, 95) * 1e3,
            80,
            "ms",
            f"median {duration(middle)}, {middle / statistics.median(floors):.0f} × the floor;"
            " after a change each time",
        ),
    ]


def _beside_floor(
    host: Host,
    address: Callable[[], str],
    rounds: int,
    repeats: int,
    prepare: Callable[[], None] | None = None,
) -> Ratio:
    """The time of what is asked for, and of as many ready bytes, turn by turn."""
    floors, works = [], []
    for _ in range(rounds):
        once, floor_once = [], []
        for _ in range(repeats):
            if prepare is not None:
                prepare()
            answer = host.client.get(address())
            once.append(answer.seconds)
            floor = f"/floor/{len(answer.body)}"
            host.client.get(floor)  # makes the bytes
            floor_once.append(host.client.get(floor).seconds)
        works.append(statistics.median(once))
        floors.append(statistics.median(floor_once))
    return Ratio(tuple(floors), tuple(works))


def _address(**query: object) -> str:
    return f"{LISTING}?{urlencode(query)}" if query else LISTING
