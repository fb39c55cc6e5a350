"""JSON files -> plain values that any database and any answer can hold."""

from __future__ import annotations

import codecs
import json
import re
from functools import lru_cache
from typing import Any

from .problems import Problem, UnreadableError

JSON_LIMIT = 4 << 20  # bytes of one manifest; the largest real one has 0.3 MB

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@lru_cache(maxsize=2)
def load(data: bytes) -> tuple[Any, tuple[Problem, ...]]:
    """Parse a JSON text; tell its value, and what was odd about it.

    Remembers the last ones: every server of a file is read by itself. Nobody may change them.

    :raises UnreadableError: with the line and column, if it is no JSON.
    """
    problems: tuple[Problem, ...] = ()
    if data.startswith(codecs.BOM_UTF8):
        problems = (Problem("W_BOM", "the file starts with a byte order mark"),)
    if len(data) > JSON_LIMIT:
        raise UnreadableError(Problem("E_TOO_LARGE", f"the file has over {JSON_LIMIT} bytes"))
    try:
        # NaN and Infinity are no JSON, and no database takes them.
        value = json.loads(data, parse_constant=str)
    except json.JSONDecodeError as error:
        text = f"the file is not valid JSON: {error.msg}"
        raise UnreadableError(Problem("E_JSON", text, "", error.lineno, error.colno)) from error
    except (ValueError, RecursionError) as error:
        text = "the file is not valid JSON: wrong encoding, huge number or too deep"
        raise UnreadableError(Problem("E_JSON", text)) from error
    # Only an escape can bring in what is no text.
    return (storable(value) if b"\\u" in data else value), problems


def storable(value: Any) -> Any:
    """Copy ``value`` without NUL and lone surrogates, which PostgreSQL or UTF-8 refuse."""
    if isinstance(value, str):
        return _UNSTORABLE.sub("", value)
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        return {storable(key): storable(item) for key, item in value.items()}
    return value


def canonical(value: Any) -> bytes:
    """Write ``value`` in the one way: sorted keys, no blanks, UTF-8."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")
