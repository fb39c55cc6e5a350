"""Changing a collection's files: what one change costs among many entries of a manifest."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flask_artifact_cache import ArtifactManager
from flask_artifact_cache.files.sources import Fetched

from .measure import Ratio, Row
from .workspace import Workspace

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROUNDS = 5
NAMES = ("collection.lock", "collection.toml")
HEAD = """[collection]
name = "made-up"
version = "1.0.0"
created = "2026-03-01T12:00:00"
updated = "2026-03-01T12:00:00"

"""
ENTRY = """[[artifacts]]
name = "{name}"
type = "command"
path = "commands/{name}.md"
origin = "local"
added = "2026-03-01T12:00:00"
tags = ["one", "two"]

[artifacts.metadata]
description = "Does what has the number {number}, as often as it is asked to."

"""
LOCK = '[lock]\nversion = "1.0.0"\n\n'
LOCKED = """[lock.entries."{name}::command"]
content_hash = "{number:064x}"
fetched = "2026-03-01T12:00:00"

"""


def manifest(workspace: Workspace) -> list[Row]:
    """Add an artifact to a collection, and remove it."""
    rows = []
    for size in (workspace.scale.small, workspace.scale.middle):
        workspace.say(f"changing a manifest of {size:,} entries")
        root = workspace.folder / f"manifest-{size}"
        _write(root, size)
        source = workspace.folder / "source.md"
        source.write_text("---\ndescription: New.\n---\n")
        manager, new = ArtifactManager(root), Fetched(source, "new", "command")
        floors, adds, removes = [], [], []
        for _ in range(ROUNDS):
            floors.append(_timed(partial(_floor, root)))
            adds.append(_timed(partial(manager.add, new)))
            removes.append(_timed(partial(manager.remove, "command:new")))
        for what, times in (("add to", adds), ("remove from", removes)):
            ratio = Ratio(tuple(floors), tuple(times))
            work = f"{what} a manifest of {size:,} entries"
            rows.append(Row(work, ratio.median, detail=ratio.detail))
    return rows


def _floor(root: Path) -> None:
    """Read what both files say, write them, and check what they say then."""
    for name in NAMES:
        text = (root / name).read_text()
        tomllib.loads(text)
        with (root / f"{name}.new").open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        tomllib.loads(text)


def _timed(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


def _write(root: Path, size: int) -> None:
    (root / "commands").mkdir(parents=True)
    entries, locked = [HEAD], [LOCK]
    for number in range(size):
        name = f"command-{number:05}"
        (root / f"commands/{name}.md").write_text(f"---\ndescription: Number {number}.\n---\n")
        entries.append(ENTRY.format(name=name, number=number))
        locked.append(LOCKED.format(name=name, number=number))
    (root / "collection.toml").write_text("".join(entries))
    (root / "collection.lock").write_text("".join(locked))
