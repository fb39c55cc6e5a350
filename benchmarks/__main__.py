"""Run the benchmarks and print one table.

python -m benchmarks [--quick] [--only NAME]
"""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import flask_artifact_cache

from . import crowd, daemon, files, floor, manifest, page, reading, refreshing
from .measure import Row, table
from .workspace import FULL, QUICK, Workspace

BENCHMARKS: dict[str, Callable[[Workspace], list[Row]]] = {
    "populate": files.populate,
    "growth": files.growth,
    "refresh": refreshing.refresh,
    "pages": reading.pages,
    "filters": reading.filters,
    "search": reading.search,
    "html": page.html,
    "crowd": crowd.crowd,
    "daemon": daemon.daemon,
    "manifest": manifest.manifest,
}


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it all run?")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, metavar="NAME")
    arguments = parser.parse_args()
    chosen = arguments.only or list(BENCHMARKS)
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:4.0f} s] {text}", file=sys.stderr, flush=True)

    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="artifact-cache-bench-") as folder:
        workspace = Workspace(Path(folder), QUICK if arguments.quick else FULL, say)
        for name in chosen:
            rows += BENCHMARKS[name](workspace)
    print(table(rows))
    print()
    print(facts())
    if arguments.quick:
        print("- a quick run: too small and too short to judge a budget by")


def facts() -> str:
    """The machine and the versions, as Markdown."""
    versions = ", ".join(
        f"{name} {metadata.version(name)}"
        for name in ("Flask", "SQLAlchemy", "gunicorn", "ruamel.yaml")
    )
    load = ", ".join(f"{number:.1f}" for number in os.getloadavg())
    return "\n".join(
        (
            f"- {os.cpu_count()} cores, {platform.system()} {platform.machine()}, load {load}",
            f"- Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {versions}",
            f"- ruamel's C parser: {'there' if _has_c_parser() else 'not there'};"
            f" the floor parses by {floor.PARSER}",
            f"- measured: {Path(flask_artifact_cache.__file__).parent}",
        )
    )


def _has_c_parser() -> bool:
    from flask_artifact_cache.files import yamltext

    return yamltext.CParser is not None


if __name__ == "__main__":
    main()
