"""Answers that have to end, however slowly they come."""

from __future__ import annotations

import io
from collections.abc import Callable
from http.client import HTTPResponse
from typing import Any


class OverrunError(Exception):
    """An answer has not ended in time."""


def paced(whole_s: float, monotonic: Callable[[], float]) -> type[HTTPResponse]:
    """Make a class of answers that raise ``OverrunError`` if they take longer, headers and all.

    The timeout of a socket is that of a single ``recv``: a byte every nine seconds never is late.

    :param monotonic: seconds that nobody sets: a time of day that is put forward would end all.
    """

    class Paced(HTTPResponse):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.fp = io.BufferedReader(_Paced(self.fp.detach(), monotonic, monotonic() + whole_s))

    return Paced


class _Paced(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, monotonic: Callable[[], float], until: float) -> None:
        self._raw, self._monotonic, self._until = raw, monotonic, until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        count = self._raw.readinto(buffer)
        if self._monotonic() > self._until:
            raise OverrunError
        return count

    def close(self) -> None:
        try:
            self._raw.close()
        finally:
            super().close()
