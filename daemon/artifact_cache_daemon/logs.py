"""One line for each event, as text or as JSON; the same trouble again is counted, not repeated."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import IO

from .evidence import shown

LOGGER = "artifact_cache_daemon"
REPEAT_S = 900.0
_MOST_KEPT = 200
# What a call passes as ``extra`` to say more than the sentence does.
FIELDS = ("collection", "outcome", "refresh_id", "paths", "duration_s", "repeated")
_SYSLOG = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}


class Line(logging.Formatter):
    """For people; under the journal with a level that it takes off again, else with the time."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """Make one line of it."""
        collection = getattr(record, "collection", None)
        text = f"{collection}: " if collection else ""
        text = _one_line(text + _message(record))
        if self._journal:
            return f"<{_SYSLOG.get(record.levelno, 3)}>{text}"
        return f"{_time(record)} {record.levelname.lower()}: {text}"


class JsonLine(logging.Formatter):
    """For programs."""

    def format(self, record: logging.LogRecord) -> str:
        """Make one line of it."""
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "message": _message(record),
            **{name: getattr(record, name) for name in FIELDS if hasattr(record, name)},
        }
        return json.dumps(line)


class Repeats(logging.Filter):
    """Lets the same trouble of the same collection through once in fifteen minutes.

    An hour without the app is then a few lines, and not one for each attempt.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[object, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is to be written."""
        if record.levelno < logging.WARNING:
            return True
        now = self._clock()
        key = (getattr(record, "collection", None), str(getattr(record, "reason", record.msg)))
        since, count = self._seen.get(key, (-REPEAT_S, 0))
        if now - since < REPEAT_S:
            self._seen[key] = (since, count + 1)
            return False
        if len(self._seen) >= _MOST_KEPT:
            self._seen.clear()
        self._seen[key] = (now, 0)
        if count:
            record.repeated = count
        return True


def configure(
    log_format: str, stream: IO[str] | None = None, environ: Mapping[str, str] = os.environ
) -> logging.Handler:
    """Write our log to a stream; to stderr, unless told otherwise."""
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    if log_format == "json":
        handler.setFormatter(JsonLine())
    else:
        handler.setFormatter(Line(journal=_is_journal(stream, environ)))
    handler.addFilter(Repeats())
    log = logging.getLogger(LOGGER)
    log.handlers = [handler]
    log.propagate = False
    log.setLevel(logging.INFO)
    return handler


def _is_journal(stream: IO[str], environ: Mapping[str, str]) -> bool:
    """Whether the stream is the journal's (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        info = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


def _message(record: logging.LogRecord) -> str:
    text = record.getMessage()
    repeated = getattr(record, "repeated", 0)
    if repeated:
        text += f" ({repeated} more like this since the last such line)"
    if record.exc_info and record.exc_info[1] is not None:
        lines = traceback.format_exception(record.exc_info[1])
        text += " | " + " | ".join("".join(lines).split("\n")).strip(" |")
    return text


def _one_line(text: str) -> str:
    # Paths are escaped where they are named; a backslash that is here is meant.
    return "\\".join(shown(part) for part in text.split("\\"))


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"
