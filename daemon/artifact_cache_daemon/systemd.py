"""Tells the service manager how we are (sd_notify(3)); without one, nothing happens."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Manager:
    """Who started us, if that is a service manager.

    :ivar watchdog_s: it takes us for dead without a sign of life in this time; None: it does not.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ, pid: int | None = None) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self.watchdog_s: float | None = None
        meant = environ.get("WATCHDOG_PID", "")
        if not meant or meant == str(pid or os.getpid()):
            with contextlib.suppress(ValueError):
                microseconds = int(environ.get("WATCHDOG_USEC", ""))
                if microseconds > 0 and self._address:
                    self.watchdog_s = microseconds / 1e6

    def ready(self, status: str) -> None:
        """We do our work, after the start or a reload."""
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def reloading(self) -> None:
        """We read the configuration again; both lines have to come in one datagram."""
        self._send(
            f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
        )

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows."""
        self._send(f"STATUS={_line(text)}")

    def watchdog(self) -> None:
        """We are alive."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """We end."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        address = self._address
        if not address.startswith(("/", "@")):
            return
        if address.startswith("@"):  # an abstract one
            address = "\0" + address[1:]
        # Whoever listens must not be able to stop us, not even by not listening.
        with (
            contextlib.suppress(OSError, ValueError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
        ):
            out.settimeout(0.2)
            out.sendto(message.encode("utf-8", "replace"), address)


def _line(text: str) -> str:
    return " ".join(text.split())
