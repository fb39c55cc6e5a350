"""Tells the app, over HTTP or a Unix socket, and judges what it answers."""

from __future__ import annotations

import functools
import json
import random
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError
from urllib3.util import Retry, Timeout, parse_url

from .settings import DEFAULT_PREFIX, Token

CONNECT_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 16 * 2**20
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 120.0
# Of a wait, at most this much is chance.
JITTER_S = 60.0
# What a server may ask for at most: a wrong date must not silence us for a year.
LONGEST_RETRY_AFTER_S = 3600.0

# More than this is not worth a list: the app looks at everything as quickly.
MAX_PATHS = 1000
MAX_BODY_BYTES = 1_048_576
_MAX_PATH_LENGTH = 4096
_DRIVE = re.compile("[A-Za-z]:")

ACKNOWLEDGED = "acknowledged"
HELD_BACK = "held back"
REFUSED = "refused"
UNAUTHORIZED = "unauthorized"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    :ivar body: the JSON object, if it was one.
    :ivar retry_after_s: how long the app wants to be left alone.
    """

    status: int
    body: Mapping[str, Any] | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an answer means for what was told.

    :ivar kind: ``acknowledged``; ``held back``, taken in but for removals that a human has to
        confirm; ``refused``, as it was said; ``unauthorized``; ``failed``, try again later.
    :ivar reason: for the log; of a limited number of texts, so that repeated ones can be counted.
    :ivar heard: whether the app may have done what it was asked for.
    """

    kind: str
    reason: str = ""
    wait_s: float = 0.0
    refresh_id: str = ""
    heard: bool = True


class UnreachableError(Exception):
    """No answer.

    :ivar heard: False if there was not even a connection; else the app may have done its part.
    """

    def __init__(self, reason: str, *, heard: bool = True) -> None:
        super().__init__(reason)
        self.heard = heard


def judge(answer: Answer) -> Verdict:
    """What an answer to a refresh means."""
    status, body = answer.status, answer.body or {}
    code = body.get("code")
    said = f"{status} {code}" if isinstance(code, str) and _CODE(code) else str(status)
    refresh_id = body.get("refresh_id")
    refresh_id = refresh_id if isinstance(refresh_id, str) and _ID(refresh_id) else ""
    if status == 200:
        # Anything can say 200: the page of a proxy, another application.
        if refresh_id and isinstance(body.get("artifacts_refreshed"), int):
            return Verdict(ACKNOWLEDGED, refresh_id=refresh_id)
        return Verdict(FAILED, "the answer 200 is not one of the artifact cache; is the URL right?")
    if status == 409 and code == "mass_loss":
        return Verdict(HELD_BACK, refresh_id=refresh_id)
    if status in (400, 413):
        return Verdict(REFUSED, f"the app answers {said}", heard=False)
    if status == 401:
        reason = f"the app answers {said}: the token is missing or wrong"
        return Verdict(UNAUTHORIZED, reason, heard=False)
    wait_s = 0.0
    if status in (429, 503) and answer.retry_after_s is not None:
        wait_s = min(answer.retry_after_s, LONGEST_RETRY_AFTER_S)
    heard = status not in (403, 404, 405, 415, 429)
    return Verdict(FAILED, f"the app answers {said}", wait_s, heard=heard)


_CODE = re.compile("[a-z_]{1,64}").fullmatch
_ID = re.compile("[0-9a-f]{32}").fullmatch


def body_of(collection_id: str, paths: list[str]) -> dict[str, Any] | None:
    """The body that tells of some paths; None if it has to be a refresh without any."""
    if len(paths) > MAX_PATHS:
        return None
    if any(len(path) > _MAX_PATH_LENGTH or _DRIVE.match(path) for path in paths):
        return None
    body = {"collection_id": collection_id, "paths": paths}
    return body if len(json.dumps(body)) <= MAX_BODY_BYTES else None


class Backoff:
    """When the app may be asked again: exponentially later, at random, and never given up.

    The wait is drawn from all of the range ("full jitter"), so that many who lost the same server
    do not come back at the same moment. In a long outage it is drawn from the second minute: a
    minute is enough to spread them, and no two attempts are less than one apart.
    """

    def __init__(
        self, clock: Callable[[], float], chance: Callable[[], float] = random.random
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._asked_until = 0.0
        self.failures = 0
        self.not_before = 0.0

    def failed(self, at_least_s: float = 0.0) -> float:
        """Count a failure; how long to wait now."""
        # Bounded, since 2.0 ** 1100 is an error.
        longest_s: float = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(self.failures, 10))
        self.failures += 1
        least_s = max(0.0, longest_s - JITTER_S)
        wait_s: float = max(at_least_s, least_s + self._chance() * (longest_s - least_s))
        now = self._clock()
        self._asked_until = now + at_least_s if at_least_s else 0.0
        self.not_before = now + wait_s
        return wait_s

    def succeeded(self) -> None:
        """Forget the failures."""
        self.failures = 0
        self.not_before = self._asked_until = 0.0

    def hurry(self) -> None:
        """Wait no longer than the app has asked for."""
        self.not_before = self._asked_until

    @property
    def wait_s(self) -> float:
        """How long to wait from now on."""
        return max(0.0, self.not_before - self._clock())


class Api:
    """The app's JSON API, over one kept connection.

    :param url: ``http:``, ``https:``, or ``unix:/run/app.sock:/prefix``.
    :param timeout_s: without a byte from the app; a refresh of a large collection takes a while.
    """

    def __init__(self, url: str, token: Token, timeout_s: float, user_agent: str) -> None:
        self._token = token
        self._timeout_s = timeout_s
        self._user_agent = user_agent
        self._pool, self._prefix = _pool(url)

    def refresh(self, body: Mapping[str, Any]) -> Answer:
        """Ask for a refresh.

        :raises UnreachableError: if there is no answer.
        """
        return self._ask("POST", "/refresh-metadata", json.dumps(body).encode())

    def collections(self) -> Answer:
        """Ask which collections there are.

        :raises UnreachableError: if there is no answer.
        """
        return self._ask("GET", "/", None)

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()

    def _ask(self, method: str, path: str, body: bytes | None) -> Answer:
        headers = {"Accept": "application/json", "User-Agent": self._user_agent}
        if body is not None:
            headers["Content-Type"] = "application/json"
        token = self._token.value
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            response = self._pool.urlopen(
                method,
                self._prefix + path,
                body=body,
                headers=headers,
                # What comes in by a redirect would be the app's word, and the token would go out.
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=Timeout(connect=CONNECT_TIMEOUT_S, read=self._timeout_s),
            )
            try:
                return self._answer(response)
            finally:
                response.release_conn()
        except (HTTPError, OSError) as error:
            unheard = isinstance(error, (NewConnectionError, ConnectTimeoutError))
            raise UnreachableError(_reason(error), heard=not unheard) from None

    def _answer(self, response: Any) -> Answer:
        deadline = time.monotonic() + self._timeout_s
        data = bytearray()
        while chunk := response.read1(65536):
            data += chunk
            if len(data) > MAX_ANSWER_BYTES or time.monotonic() > deadline:
                response.close()
                raise UnreachableError("the answer does not end")
        body = None
        try:
            parsed = json.loads(data)
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, dict):
            body = parsed
        return Answer(response.status, body, _retry_after_s(response.headers.get("Retry-After")))


def _retry_after_s(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return Retry().parse_retry_after(text)
    except (HTTPError, ValueError, OverflowError):
        return None


def _pool(url: str) -> tuple[urllib3.HTTPConnectionPool, str]:
    if url.startswith("unix:"):
        socket_path, _, prefix = url.removeprefix("unix:").partition(":")
        pool = urllib3.HTTPConnectionPool("localhost", maxsize=1)
        pool.ConnectionCls = functools.partial(  # type: ignore[assignment]
            _UnixConnection, socket_path=socket_path
        )
    else:
        prefix = parse_url(url).path or ""
        pool = urllib3.connection_from_url(url, maxsize=1)
    return pool, prefix.rstrip("/") or DEFAULT_PREFIX


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, *args: Any, socket_path: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._socket_path = socket_path

    def _new_conn(self) -> socket.socket:
        path = self._socket_path
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect("\0" + path[1:] if path.startswith("@") else path)
        except OSError as error:
            connection.close()
            raise NewConnectionError(self, f"Failed to connect: {error}") from error
        return connection


def _reason(error: BaseException) -> str:
    """Why there is no answer, without addresses, ports of ours and other noise."""
    if isinstance(error, HTTPTimeoutError) and not isinstance(error, NewConnectionError):
        return "the app does not answer in time"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return f"the app cannot be reached: {cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
    return f"the app cannot be reached: {name}"


def user_agent() -> str:
    """The name and version of this daemon."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"artifact-cache-daemon/{version('flask-artifact-cache')}"
    except PackageNotFoundError:
        return "artifact-cache-daemon/checkout"
