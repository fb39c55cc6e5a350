"""How the commands show things: as one JSON document, or as lines that cannot steer a terminal."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import click

from ..refresh.run import Progress

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def echo_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, ensure_ascii=True, indent=2, default=str))


def plain(text: str) -> str:
    """Text of a file on one line, without what could steer a terminal."""
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)


def lines(text: str) -> str:
    """As :func:`plain`, but line breaks stay."""
    return "\n".join(plain(one) for one in text.split("\n"))


def echo_cut(line: str) -> None:
    """Print a line; on a terminal, only as much of it as fits."""
    if sys.stdout.isatty():
        columns = shutil.get_terminal_size().columns
        line = line if len(line) <= columns else line[: columns - 1] + "…"
    click.echo(line)


def problem(found: dict[str, Any]) -> str:
    """What is wrong with a file or an artifact, and where, as a line."""
    place = (
        found.get("collection_id"),
        found.get("path") or found.get("artifact_id"),
        found.get("line"),
        found.get("column"),
    )
    where = ":".join(str(part) for part in place if part)
    return plain(f"{where}{': ' if where else ''}{found['code']} {found['message']}")


@contextmanager
def progress(label: str, hidden: bool) -> Iterator[Progress | None]:
    """A progress bar on a terminal, once there is progress; nothing elsewhere."""
    if hidden or not sys.stderr.isatty():
        yield None
        return
    with ExitStack() as stack:

        @cache
        def bar() -> Any:
            return stack.enter_context(click.progressbar(length=1, label=label, file=sys.stderr))

        def update(done: int, total: int) -> None:
            bar().length = total
            bar().update(done - bar().pos)

        yield update
