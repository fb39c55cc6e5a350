"""The least that reading a collection can cost: walk, read, libyaml, one bulk insert."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

try:
    import yaml

    # What people use; the budgets were set beside it.
    PARSER = f"PyYAML {yaml.__version__}, CSafeLoader"
    LOADER: Any = yaml.CSafeLoader
except (ImportError, AttributeError):
    PARSER = "libyaml's bare events by ruamel.yaml.clib, about half the time of PyYAML's loader"
    LOADER = None

_COLUMNS = ("path", "size", "mtime_ns", "name", "description", "fields")


def populate(root: Path, database: Path) -> int:
    """Read every ``SKILL.md`` below ``root`` into a table; how many there were."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"CREATE TABLE artifact ({', '.join(_COLUMNS)})")
        connection.execute("BEGIN IMMEDIATE")
        marks = ", ".join("?" * len(_COLUMNS))
        cursor = connection.executemany(f"INSERT INTO artifact VALUES ({marks})", _rows(root))
        connection.execute("COMMIT")
        return cursor.rowcount


def _rows(root: Path) -> Iterator[tuple[Any, ...]]:
    parse = _events if LOADER is None else _load
    for path, info in walk(root):
        handle = os.open(path, os.O_RDONLY)
        data = os.read(handle, 1 << 16)
        os.close(handle)
        fields = parse(data[4 : data.index(b"\n---\n", 4) + 1])
        yield (
            path,
            info.st_size,
            info.st_mtime_ns,
            fields["name"],
            fields["description"],
            json.dumps(fields),
        )


def walk(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every ``SKILL.md`` below ``root``, with one stat each."""
    stack = [os.fspath(root)]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                elif entry.name == "SKILL.md":
                    yield entry.path, entry.stat(follow_symlinks=False)


def _load(block: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = yaml.load(block, LOADER)
    return fields


def _events(block: bytes) -> dict[str, Any]:
    """A mapping of scalars and flat lists, which is all that the made-up files have."""
    from ruamel.yaml import cyaml, events

    next_event = vars(cyaml)["CParser"](block).get_event
    fields: dict[str, Any] = {}
    items: list[str] | None = None
    key: str | None = None
    while (kind := type(event := next_event())) is not events.StreamEndEvent:
        if kind is events.ScalarEvent:
            if items is not None:
                items.append(event.value)
            elif key is None:
                key = event.value
            else:
                fields[key] = event.value
                key = None
        elif kind is events.SequenceStartEvent:
            items = []
        elif kind is events.SequenceEndEvent and key is not None:
            fields[key] = items
            key = items = None
    return fields
