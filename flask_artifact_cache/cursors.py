"""Where a page ended, as an opaque text; pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Hashable, Sequence
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

from .errors import InvalidRequestError

_VERSION = 1
_SEAL_BYTES = 6
_EPOCH = datetime.fromtimestamp(0, timezone.utc)
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def write(position: Sequence[Any], listing: Hashable) -> str:
    """The cursor of a position: text, whole numbers and times.

    :param listing: what the cursor is good for; anything whose ``repr`` tells one from another.
    """
    values = [
        [(value - _EPOCH) // timedelta(microseconds=1)] if isinstance(value, datetime) else value
        for value in position
    ]
    body = _ENCODE([_VERSION, *values]).encode()
    return base64.urlsafe_b64encode(_seal(body, listing) + body).decode().rstrip("=")


def read(cursor: str, listing: Hashable, types: Sequence[type], field: str = "after") -> list[Any]:
    """The position that a cursor stands for.

    :param types: of the position's values.
    :param field: what the request calls the cursor.
    :raises InvalidRequestError: if it was not made by :func:`write` for this listing.
    """
    try:
        sealed = base64.b64decode(
            cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True
        )
        body = sealed[_SEAL_BYTES:]
        if sealed[:_SEAL_BYTES] != _seal(body, listing):
            raise ValueError
        values: list[Any] = json.loads(body.decode())
        version, *position = values
        if version != _VERSION or len(position) != len(types):
            raise ValueError
        return [_checked(value, type_) for value, type_ in zip(position, types, strict=True)]
    except (ValueError, TypeError, OverflowError, binascii.Error):
        message = "is not a cursor of this listing; start again without it"
        raise InvalidRequestError(f"'{field}' {message}", [(field, message)]) from None


def _checked(value: Any, type_: type) -> Any:
    """A value that nobody but us should have made, and that a database will take."""
    if type_ is datetime:
        [microseconds] = value
        return _EPOCH + timedelta(microseconds=microseconds)
    if isinstance(value, str) and type_ is str and "\0" not in value:
        value.encode()  # no lone surrogates
        return value
    if type(value) is int and type_ is int and -(2**63) <= value < 2**63:
        return value
    raise ValueError


def _seal(body: bytes, listing: Hashable) -> bytes:
    """Tells a damaged cursor, and one of another listing, from a good one; it is no secret."""
    return hashlib.blake2b(body + _context(listing), digest_size=_SEAL_BYTES).digest()


@lru_cache(maxsize=256)
def _context(listing: Hashable) -> bytes:
    return b"\0" + repr(listing).encode()
