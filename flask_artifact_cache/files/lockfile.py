"""One writer of a collection's files at a time, across processes and threads."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import BusyError, ConfigurationError
from .contained import opened

# Everything that the writer keeps beside a manifest; no walk looks into it.
FOLDER = ".artifact-cache"
WAIT_S = 30.0
_PAUSE_S = 0.02


@contextmanager
def one_writer(
    root: Path,
    wait_s: float = WAIT_S,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[int]:
    """Be the only writer below ``root``; gives the open folder for what is being prepared.

    The system takes the lock away from a process that dies.

    :raises BusyError: if another one does not end within ``wait_s`` seconds.
    """
    try:
        import fcntl
    except ImportError:  # pragma: no cover - not on POSIX
        raise ConfigurationError("changing a collection's files needs a POSIX system") from None
    with opened(root, (FOLDER,), create=True) as folder:
        _hide(folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open("lock", flags, 0o644, dir_fd=folder)
        try:
            until = clock() + wait_s
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if clock() >= until:
                        text = "another process is changing the collection's files; try again"
                        raise BusyError(text) from None
                    # Not in step with the others that wait.
                    sleep(_PAUSE_S * (0.5 + random.random()))  # noqa: S311
            yield folder
        finally:
            os.close(handle)


def _hide(folder: int) -> None:
    """Keep the folder out of the version control that a collection may be under."""
    try:
        handle = os.open(".gitignore", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
    except FileExistsError:
        return
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write("*\n")
