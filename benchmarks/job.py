"""One timed job in a process of its own, so that its memory and its caches are its own."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .server import FOLDER


@dataclass(frozen=True, slots=True)
class Job:
    """What a job took.

    :ivar seconds: of the work itself: no imports, no creation of tables.
    :ivar peak_mb: the most memory that the process ever held.
    """

    count: int
    seconds: float
    peak_mb: float


def run(kind: str, root: Path, database: Path) -> Job:
    """Do ``floor`` or ``populate`` in a new process."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, kind, str(root), str(database)],
        cwd=FOLDER,
        stdout=subprocess.PIPE,
        check=True,
    )
    return Job(**json.loads(done.stdout))


def _floor(root: Path, database: Path) -> tuple[int, float]:
    from . import floor

    started = time.perf_counter()
    count = floor.populate(root, database)
    return count, time.perf_counter() - started


def _populate(root: Path, database: Path) -> tuple[int, float]:
    from .app import COLLECTION, create_app

    app, cache = create_app(database, root)
    with app.app_context():
        started = time.perf_counter()
        report = cache.service.populate(COLLECTION)
        seconds = time.perf_counter() - started
    if report.outcome != "succeeded":
        raise RuntimeError(f"populate: {report}")
    return report.artifacts_refreshed, seconds


def main() -> None:
    """Do the job and print what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("floor", "populate"))
    parser.add_argument("root", type=Path)
    parser.add_argument("database", type=Path)
    arguments = parser.parse_args()
    do = {"floor": _floor, "populate": _populate}[arguments.kind]
    count, seconds = do(arguments.root, arguments.database)
    peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps(asdict(Job(count, seconds, peak_kb / 1024))))


if __name__ == "__main__":
    main()
