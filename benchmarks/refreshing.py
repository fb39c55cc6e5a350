"""Refreshing: what it costs to find out that nothing has changed, or that little has.

The floor is a walk of the same files with one stat each, in the same process, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

from flask_artifact_cache.files.manager import ArtifactManager, CollectionManager
from flask_artifact_cache.refresh.feed import Log
from flask_artifact_cache.refresh.selection import Selection

from . import floor
from .app import COLLECTION, create_app
from .measure import Ratio, Row, duration
from .server import FOLDER
from .workspace import Workspace

# Refreshes by path in a round; the round counts by their median.
REPEATS = 5
# Files that changed just before they were looked at are opened again by the next refresh, and
# nobody can set a ctime back. Here the manager's clock is ahead instead of the files behind.
AHEAD_NS = 10_000_000_000

FLOOR, UNCHANGED, ONE, MANY, PATHS = "floor", "unchanged", "one", "many", "paths"
UNLOGGED = "unlogged"  # MANY, without what it took to log it


def refresh(workspace: Workspace) -> list[Row]:
    """With nothing changed, one artifact, and one in a hundred."""
    scale = workspace.scale
    rows: list[Row] = []
    by_path: dict[int, float] = {}
    for size in (scale.small, scale.middle, scale.large):
        database = workspace.copy(size)
        workspace.say(f"refreshing {size:,}")
        times = _measure(workspace.collection(size), database, scale.refresh_rounds)
        workspace.discard(database)
        by_path[size] = statistics.median(times[PATHS])
        rows.append(
            Row(
                f"refresh by path, one of {size:,} changed",
                by_path[size] * 1e3,
                15,
                "ms",
                f"slowest round {duration(max(times[PATHS]))}",
            )
        )
        if size == scale.small:
            continue
        walked, unchanged = tuple(times[FLOOR]), tuple(times[UNCHANGED])
        for work, ratio, budget in (
            (f"refresh, nothing of {size:,} changed", Ratio(walked, unchanged), 2),
            (
                f"refresh, 1 % of {size:,} changed, to nothing changed",
                Ratio(unchanged, tuple(times[MANY])),
                2.5,
            ),
            (
                f"refresh, one of {size:,} changed, to nothing changed",
                Ratio(unchanged, tuple(times[ONE])),
                None,
            ),
            (
                f"refresh, 1 % of {size:,} changed, to the same without the change feed's log",
                Ratio(tuple(times[UNLOGGED]), tuple(times[MANY])),
                None,
            ),
        ):
            rows.append(Row(work, ratio.median, budget, detail=ratio.detail))
    growth = by_path[scale.large] / by_path[scale.small]
    rows.append(
        Row(f"refresh by path: growth from {scale.small:,} to {scale.large:,}", growth, 1.2)
    )
    return rows


def _measure(root: Path, database: Path, rounds: int) -> dict[str, list[float]]:
    """Measure in a new process, whose memory and caches are its own."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(root), str(database), str(rounds)],
        cwd=FOLDER,
        stdout=subprocess.PIPE,
        check=True,
    )
    times: dict[str, list[float]] = json.loads(done.stdout)
    return times


class _Ahead(CollectionManager):
    """The one collection, with a clock that makes all files old enough to be believed."""

    def __init__(self, root: Path) -> None:
        super().__init__({COLLECTION: root})
        self._ahead = ArtifactManager(
            root, collection_id=COLLECTION, clock_ns=lambda: time.time_ns() + AHEAD_NS
        )

    def artifacts(self, _: str) -> ArtifactManager:
        return self._ahead


def _rounds(root: Path, database: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of each kind of work, one number a round."""
    app, cache = create_app(database, root)
    files = [path for path, _ in floor.walk(root)]
    chance = random.Random(len(files))
    numbers = count(time.time_ns() // 1_000_000_000)  # none that an earlier run has left
    kinds = (FLOOR, UNCHANGED, ONE, MANY, UNLOGGED, PATHS)
    times: dict[str, list[float]] = {kind: [] for kind in kinds}

    def edited(wanted: int) -> list[str]:
        chosen = chance.sample(files, wanted)
        for path in chosen:
            edit(Path(path), next(numbers))
        # Or the first commit that follows would wait for the edits to reach the disk.
        os.sync()
        return chosen

    def refresh(updated: int, **selection: Any) -> float:
        started = time.perf_counter()
        result = cache.service.refresh(Selection(COLLECTION, **selection))
        seconds = time.perf_counter() - started
        [report] = result.reports
        if (report.outcome, report.updated) != ("succeeded", updated):
            raise RuntimeError(f"{updated} to be updated, but {report}")
        return seconds

    def by_path() -> float:
        [path] = edited(1)
        return refresh(1, paths=(os.path.relpath(path, root),))

    def walk() -> float:
        return _timed(lambda: sum(1 for _ in floor.walk(root)))

    with app.app_context():
        cache.service.collections = _Ahead(root)
        cache.service.refresh()  # opens what was written just before it was populated
        refresh(0)
        by_path()
        walk()
        for _ in range(rounds):
            times[FLOOR].append(walk())
            times[UNCHANGED].append(refresh(0))
            edited(1)
            times[ONE].append(refresh(1))
            few = max(1, len(files) // 100)
            edited(few)
            with _logging() as logged_s:
                times[MANY].append(refresh(few))
            times[UNLOGGED].append(times[MANY][-1] - sum(logged_s))
            times[PATHS].append(statistics.median(by_path() for _ in range(REPEATS)))
            refresh(0)  # compares all once, since paths have changed meanwhile
    return times


@contextmanager
def _logging() -> Iterator[list[float]]:
    """The seconds that refreshes spend on the log of the change feed meanwhile.

    Timed where it is made and written: a refresh without it would differ by less than one refresh
    differs from the next. What it adds to the commit is not in it.
    """
    seconds: list[float] = []

    def timed(method: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any) -> None:
            seconds.append(_timed(lambda: method(*arguments)))

        return call

    with ExitStack() as patches:
        for name in ("changed", "missing", "write"):
            patches.enter_context(patch.object(Log, name, timed(getattr(Log, name))))
        yield seconds


def edit(path: Path, number: int) -> None:
    """Give the description of an artifact another last word; the file keeps its size."""
    text = path.read_bytes()
    start = text.index(b"\ndescription: ") + 1
    end = text.index(b"\n", start)
    words = text[start:end].split(b" edit")[0]
    new = b"%s%s edit%d%s" % (text[:start], words, number, text[end:])
    path.write_bytes(new[: len(text) - 1] + b"\n")


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print the times."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("database", type=Path)
    parser.add_argument("rounds", type=int)
    arguments = parser.parse_args()
    print(json.dumps(_rounds(arguments.root, arguments.database, arguments.rounds)))


if __name__ == "__main__":
    main()
