"""A client that costs next to nothing: one kept connection, the fewest headers."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    :ivar seconds: from the first byte sent to the last byte received.
    """

    status: int
    head: bytes
    body: bytes
    seconds: float

    def header(self, name: str) -> str:
        """The value of a header that is there."""
        start = self.head.lower().index(f"\r\n{name.lower()}: ".encode()) + len(name) + 4
        return (self.head + b"\r\n")[start:].split(b"\r\n", 1)[0].decode("latin-1")


class Client:
    """A kept connection to a server of this machine.

    :ivar port: of the server.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def get(self, path: str, headers: str = "", expect: int = 200) -> Answer:
        """Ask, and read the whole answer.

        :param headers: more header lines, each with its CRLF.
        :raises RuntimeError: if the status is another than expected.
        """
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n".encode()
        started = time.perf_counter()
        self._socket.sendall(request)
        data = self._more()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        found = _LENGTH.search(data, 0, end)
        parts = [data[end + 4 :]]
        left = (int(found[1]) if found else 0) - len(parts[0])
        while left > 0:
            parts.append(self._more())
            left -= len(parts[-1])
        seconds = time.perf_counter() - started
        answer = Answer(int(data[9:12]), data[:end], b"".join(parts), seconds)
        if answer.status != expect:
            raise RuntimeError(f"{path} answered {answer.status}: {answer.body[:500]!r}")
        return answer

    def _more(self) -> bytes:
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server has closed the connection")
        return data
