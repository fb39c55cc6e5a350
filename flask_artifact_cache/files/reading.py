"""Opening files of a collection: read-only, regular files only, never outside the root."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Protocol

from ..errors import VanishedError
from .frontmatter import READ_LIMIT
from .problems import Problem, UnreadableError
from .walk import Evidence, shown

CHUNK_BYTES = 1 << 20
REMEMBERED_BYTES = 4 << 20
# O_NONBLOCK: a FIFO that took the place of a file must not hang the reader. The others do not
# exist on every system.
_FLAGS = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_NOCTTY")
)
# What O_NOFOLLOW answers to a link differs between systems; EINVAL is readlink's word for what
# is no link any more.
_LINK_ERRORS = {errno.ELOOP, errno.EMLINK, getattr(errno, "EFTYPE", errno.ELOOP), errno.EINVAL}


class Reader(Protocol):
    """Reads the beginning of a file: what discovery gets as an argument."""

    def __call__(self, path: str, limit: int = READ_LIMIT, /) -> bytes:
        """Read at most ``limit`` bytes of the file at ``path``, relative to the root."""


class Files:
    """The files below one root.

    All paths are relative to it, as :mod:`walk` gives them.
    """

    def __init__(self, root: str | Path) -> None:
        self._prefix = os.fspath(root).rstrip(os.sep) + os.sep

    def read(self, path: str, limit: int = READ_LIMIT, evidence: Evidence | None = None) -> bytes:
        """Read at most ``limit`` bytes from the beginning of the file.

        :raises VanishedError: if there is no such file any more.
        :raises UnreadableError: if it may not or cannot be read.
        """
        data = b""
        with closing(self.chunks(path, evidence, limit)) as parts:
            for part in parts:
                data += part
                if len(data) >= limit:
                    break
        return data[:limit]

    def chunks(
        self, path: str, evidence: Evidence | None = None, size: int = CHUNK_BYTES
    ) -> Generator[bytes, None, None]:
        """Read the whole file, at most ``size`` bytes at a time.

        :param evidence: what the walk saw; the same inode needs no second look at where it is.
        :raises VanishedError: if there is no such file any more.
        :raises UnreadableError: if it may not or cannot be read.
        """
        try:
            handle, in_file = self._open(path, evidence)
            try:
                # To make room for a whole chunk costs more than to read a small file.
                wanted = min(size, in_file + 1)
                while part := os.read(handle, wanted):
                    yield part
                    if len(part) < wanted:
                        break  # of a regular file, that was the end
            finally:
                os.close(handle)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise VanishedError(f"{shown(path)} is no longer there.") from error
        except OSError as error:
            if error.errno in _LINK_ERRORS:
                # It was no link a moment ago: somebody is exchanging it just now.
                raise VanishedError(f"{shown(path)} is no longer there.") from error
            text = f"the file cannot be read: {error.strerror}"
            raise UnreadableError(Problem("E_UNREADABLE", text, shown(path))) from error

    def _open(self, path: str, evidence: Evidence | None) -> tuple[int, int]:
        location = self._prefix + path
        try:
            handle = os.open(location, _FLAGS)
        except OSError:
            if not Path(location).is_symlink():
                raise
            location = self._inside(location)
            handle = os.open(location, _FLAGS)
        try:
            info = os.fstat(handle)
            _check_regular(info)
            if evidence is None or info.st_ino != evidence.inode:
                # A folder above may have been exchanged for a link since the walk.
                self._inside(location)
        except BaseException:
            os.close(handle)
            raise
        return handle, info.st_size

    def _inside(self, location: str) -> str:
        """Resolve all links of ``location``, which must then lie inside the root."""
        target = os.path.realpath(location)
        if not target.startswith(os.path.realpath(self._prefix).rstrip(os.sep) + os.sep):
            raise FileNotFoundError(location)
        return target


class Remembered:
    """The beginnings of files as they were read before, bounded by their bytes.

    What is in doubt is not remembered: the caller says by which evidence a file is known.
    """

    def __init__(self, max_bytes: int = REMEMBERED_BYTES) -> None:
        self._kept: OrderedDict[tuple[str, int], tuple[Evidence, bytes]] = OrderedDict()
        self._left = max_bytes
        self._lock = threading.Lock()

    def get(
        self, path: str, limit: int, evidence: Evidence | None, read: Callable[[], bytes]
    ) -> bytes:
        """What ``read`` gave for the same evidence, or gives now.

        :param evidence: None if it proves nothing.
        """
        key = (path, limit)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None and kept[0] == evidence:
                self._kept.move_to_end(key)
                return kept[1]
        data = read()
        with self._lock:
            before = self._kept.pop(key, None)
            self._left += len(before[1]) if before is not None else 0
            if evidence is not None:
                self._kept[key] = (evidence, data)
                self._left -= len(data)
            while self._left < 0:
                self._left += len(self._kept.popitem(last=False)[1][1])
        return data


def _check_regular(info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise FileNotFoundError("a folder or device took the place of the file")
