"""What the system sends us, and a wait that it ends."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from types import FrameType


class Signals:
    """What the system has sent us, and a wait that it ends.

    A handler runs between any two steps of the main thread, so it may take no lock: it only notes
    the signal, and the interpreter writes to a socket that the wait listens to.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)

    def install(self) -> None:
        """Listen to the system; only the main thread can."""
        signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._received.append(number)

    def send(self, number: int) -> None:
        """Behave as if the system had sent a signal; from any thread."""
        self._received.append(number)
        with contextlib.suppress(OSError):  # full: it will wake up anyhow
            self._theirs.send(b"\0")

    def wait(self, seconds: float) -> set[int]:
        """Wait for a signal, at most so long; what came."""
        if not self._received:
            select.select([self._ours], [], [], max(0.0, seconds))
        with contextlib.suppress(OSError):
            while self._ours.recv(4096):
                pass
        received, self._received = self._received, []
        return set(received)

    def close(self) -> None:
        """Listen no more."""
        self._ours.close()
        self._theirs.close()
