"""Requests to one GitHub: few, conditional, bounded, and the token only where it belongs."""

from __future__ import annotations

import json
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import SplitResult, urljoin, urlsplit

from ..errors import ConfigurationError, UpstreamError, UpstreamLimitedError
from ..version import VERSION
from . import addresses
from .decide import Answer, Done, Fail, Lack, NoAnswer, RetryAfter, decide
from .pace import OverrunError, paced
from .sources import PUBLIC_API, api_root
from .validators import Memory, fingerprint, lies_ahead

if TYPE_CHECKING:
    from types import ModuleType

    from urllib3 import BaseHTTPResponse

# How long a caller is kept waiting by limits and trouble, in all.
BUDGET_S = 5.0
# For a connection, for each piece of an answer, and for all of it.
CONNECT_S, READ_S, WHOLE_S = 5.0, 10.0, 300.0
# A host that has not answered so often in a row, in time, is left alone for so long: longer than
# any answer that is under way then.
SILENCES, SILENT_S = 3, 2 * WHOLE_S
MAX_REDIRECTS = 3
MAX_BYTES = 32 << 20
MAX_CONNECTIONS = 4
# The share of the quota that is left to what a user asks for.
FLOOR = 0.1
CHUNK_BYTES = 65_536
_DEFAULT_PORTS = {"https": 443, "http": 80}


class Budget:
    """What one call may still wait, in seconds, shared by its threads."""

    def __init__(self, seconds: float = BUDGET_S) -> None:
        self._lock = threading.Lock()
        self.left_s = seconds

    def spend(self, seconds: float) -> bool:
        """Take a part; False if there is not so much left."""
        with self._lock:
            if seconds > self.left_s:
                return False
            self.left_s -= seconds
            return True


@dataclass(frozen=True, slots=True)
class Reply:
    """The body of an answer, and whether it came over a permanent redirect."""

    body: bytes
    has_moved: bool = False


class Client:
    """Asks one GitHub.

    :param archive_hosts: ``host[:port]`` of where archives are redirected to; by default
        ``codeload.`` beside the API.
    :param observe: told the outcome of every attempt: ``ok``, ``not_modified``, ``not_found``,
        ``rate_limited``, ``refused`` or ``failed``.
    :param clock: the time of day in seconds since 1970, for limits that GitHub names.
    :param monotonic: seconds that nobody sets, for how long an answer or a silence lasts.
    :param resolve: a host and a port -> its addresses; asked for every connection.
    """

    def __init__(
        self,
        base_url: str = PUBLIC_API,
        token: str | None = None,
        state_folder: Path | None = None,
        *,
        archive_hosts: Iterable[str] | None = None,
        observe: Callable[[str], object] = str,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        luck: Callable[[], float] = random.random,
        read_s: float = READ_S,
        resolve: addresses.Resolve = addresses.resolve,
    ) -> None:
        self.base_url = api_root(base_url)
        base = urlsplit(self.base_url)
        self._scheme, self._host = base.scheme, _host_of(base)
        if archive_hosts is None:
            archive_hosts = ["codeload." + base.netloc.removeprefix("api.")]
        self._hosts = {self._host} | {
            _host_of(urlsplit(f"{self._scheme}://{one}")) for one in archive_hosts
        }
        if token is not None and not (token.isascii() and token.isprintable() and token.strip()):
            raise ConfigurationError("the GitHub token holds what no token holds")
        self._token = token
        self._credential = fingerprint(token)
        self.memory = Memory(state_folder)
        self._observe, self._sleep, self._luck = observe, sleep, luck
        self._clock, self._monotonic = clock, monotonic
        self._gate = threading.BoundedSemaphore(MAX_CONNECTIONS)
        # By host: how often it was silent, and when it was last.
        self._silent: dict[tuple[str, int], tuple[int, float]] = {}
        # limit, remaining, reset of the last answer that said so
        self._quota: tuple[float, float, float] | None = None
        self._urllib3 = _urllib3()
        self._pool = addresses.pool_manager(
            addresses.scope_of(self._host[0]),
            resolve,
            paced(WHOLE_S, monotonic),
            maxsize=MAX_CONNECTIONS,
            block=True,
            retries=False,
            timeout=self._urllib3.Timeout(connect=CONNECT_S, read=read_s),
        )

    def __repr__(self) -> str:
        return f"<Client of {self.base_url}>"

    def close(self) -> None:
        """Close all connections and the file of validators."""
        self._pool.clear()
        self.memory.close()

    def get(
        self,
        path: str,
        accept: str = "application/vnd.github+json",
        *,
        budget: Budget,
        is_conditional: bool = False,
        is_urgent: bool = True,
        max_bytes: int = MAX_BYTES,
        sink: BinaryIO | None = None,
    ) -> Reply:
        """Get what is at ``path`` below the API's root.

        :param is_urgent: whether a user waits for it; what nobody waits for leaves a part of the
            quota alone.
        :param sink: where the body is put, instead of into the reply.
        :raises UpstreamLimitedError: if it is not to be asked now.
        :raises UpstreamError: if there is no answer that can be used.
        """
        url = self.base_url + path
        known = self.memory.validator(url, accept, self._credential) if is_conditional else None
        attempt = 0
        while True:
            attempt += 1
            self._check_limits(is_urgent)
            try:
                answer, body, moved = self._follow(
                    url, accept, known[0] if known else None, max_bytes, sink
                )
            except UpstreamError:
                self._observe("refused")
                raise
            now, luck = self._clock(), self._luck()
            decision = decide(answer, attempt, now, budget.left_s, luck)
            if isinstance(decision, RetryAfter) and not budget.spend(decision.seconds):
                # Another thread has used up the budget meanwhile.
                decision = decide(answer, attempt, now, 0.0, luck)
            self._note(answer, decision)
            if isinstance(decision, Done):
                assert isinstance(answer, Answer)
                if decision.kind == "not_modified":
                    if known is None:
                        raise UpstreamError("GitHub says that nothing changed, unasked", "invalid")
                    return Reply(known[1], moved)
                etag = answer.headers.get("etag")
                if is_conditional and etag:
                    self.memory.keep(url, accept, self._credential, etag, body)
                return Reply(body, moved)
            if isinstance(decision, Fail):
                # Of what came so slowly one wants to know what it was.
                what = f": {path}" if decision.reason == "slow" else ""
                raise UpstreamError(decision.message + what, decision.reason)
            if isinstance(decision, RetryAfter):
                self._sleep(decision.seconds)
                continue
            self.memory.wait(self.base_url, self._credential, decision.at, self._clock())
            raise _limited(decision.why, decision.at)

    def _check_limits(self, is_urgent: bool) -> None:
        now = self._clock()
        until = self.memory.waiting(self.base_url, self._credential)
        if lies_ahead(until, now):
            raise _limited("GitHub limits how often it may be asked", until)
        if not is_urgent and self._quota is not None:
            limit, remaining, reset = self._quota
            if remaining < limit * FLOOR and reset > now:
                raise _limited("the rest of GitHub's quota is kept for what users ask for", reset)

    def _note(self, answer: Answer | NoAnswer, decision: object) -> None:
        if isinstance(answer, NoAnswer):
            if answer.kind != "silent":
                self._observe("failed")
            return
        if isinstance(decision, Done):
            self._observe(decision.kind)
        elif answer.status in (403, 429) and not isinstance(decision, Fail):
            self._observe("rate_limited")
        elif answer.status >= 500:
            self._observe("failed")
        else:
            is_missing = isinstance(decision, Fail) and decision.reason == "not_found"
            self._observe("not_found" if is_missing else "refused")
        try:
            quota = [
                float(answer.headers[f"x-ratelimit-{name}"])
                for name in ("limit", "remaining", "reset")
            ]
        except (KeyError, ValueError):
            return
        self._quota = (quota[0], quota[1], quota[2])

    def _follow(
        self, url: str, accept: str, etag: str | None, max_bytes: int, sink: BinaryIO | None
    ) -> tuple[Answer | NoAnswer, bytes, bool]:
        """One attempt, over at most three redirects."""
        moved = False
        for _ in range(MAX_REDIRECTS + 1):
            answer, body = self._ask(url, accept, etag, max_bytes, sink)
            if not isinstance(answer, Answer) or answer.status not in (301, 302, 307, 308):
                return answer, body, moved
            moved = moved or answer.status in (301, 308)
            try:
                url = urljoin(url, answer.headers.get("location", ""))
            except ValueError:
                raise UpstreamError("GitHub redirects to no address", "refused") from None
        raise UpstreamError(f"GitHub redirects more than {MAX_REDIRECTS} times", "refused")

    def _ask(
        self, url: str, accept: str, etag: str | None, max_bytes: int, sink: BinaryIO | None
    ) -> tuple[Answer | NoAnswer, bytes]:
        headers = {
            "Accept": accept,
            "Accept-Encoding": "identity",
            "User-Agent": f"flask-artifact-cache/{VERSION}",
            "X-GitHub-Api-Version": "2022-11-28",
        }
        # Decided anew for each hop: only hosts that were configured are asked at all.
        self._check_hop(url)
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if etag:
            headers["If-None-Match"] = etag
        host = _host_of(urlsplit(url))
        with self._gate:
            count, at = self._silent.get(host, (0, 0.0))
            began = self._monotonic()
            if count >= SILENCES and began < at + SILENT_S:
                return NoAnswer("silent"), b""
            response = None
            try:
                response = self._pool.request(
                    "GET", url, headers=headers, redirect=False, preload_content=False
                )
                body, message = b"", ""
                if response.status < 300:
                    body = self._body(response, max_bytes, sink)
                else:
                    message = self._message(response)
                response.release_conn()
            except BaseException as error:
                if response is not None:
                    response.close()
                    response.release_conn()  # else the pool waits for it for ever
                kind = self._lack(error, self._monotonic() - began, has_begun=response is not None)
                if kind is None:
                    raise
                if kind in ("timeout", "overrun"):
                    count, _ = self._silent.get(host, (0, 0.0))  # others ask meanwhile
                    self._silent[host] = count + 1, self._monotonic()
                return NoAnswer(kind), b""
            self._silent.pop(host, None)
        found = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status, found, message), body

    def _lack(self, error: BaseException, took_s: float, *, has_begun: bool) -> Lack | None:
        """What an error of a connection says of the answer; None if it is of something else."""
        errors = self._urllib3.exceptions
        if isinstance(error, OverrunError):
            return "overrun"
        # It counts as a timeout in some versions; it is one where the system was asked in vain.
        if isinstance(error, errors.NewConnectionError):
            return "connection" if took_s < CONNECT_S else "timeout"
        if isinstance(error, errors.TimeoutError):
            return "timeout"
        if not isinstance(error, errors.HTTPError):
            return None
        if has_begun:
            return "truncated"
        return "certificate" if _is_of_certificate(error) else "connection"

    def _body(self, response: BaseHTTPResponse, max_bytes: int, sink: BinaryIO | None) -> bytes:
        if sink is not None:
            sink.seek(0)
            sink.truncate()
        parts, size = [], 0
        # Until there is nothing: only then urllib3 tells that something is missing.
        while part := response.read(CHUNK_BYTES, decode_content=False):
            size += len(part)
            if size > max_bytes:
                raise UpstreamError(f"GitHub's answer has over {max_bytes} bytes", "too_large")
            if sink is None:
                parts.append(part)
            else:
                sink.write(part)
        return b"".join(parts)

    def _message(self, response: BaseHTTPResponse) -> str:
        """What GitHub says in the body of an error; empty if it says nothing, or far too much.

        The status and the headers hold whatever the body is: a proxy's page may be long.
        """
        try:
            # A chunk is over the bound: a second one would be waited for.
            found = json.loads(self._body(response, CHUNK_BYTES - 1, None))
        except UpstreamError:
            response.close()  # the rest is not read, so the connection is of no more use
            return ""
        except (ValueError, RecursionError):
            return ""
        message = found.get("message") if isinstance(found, dict) else None
        return message[:1000] if isinstance(message, str) else ""

    def _check_hop(self, url: str) -> None:
        """Refuse every address that is not one of the configured ones.

        :raises UpstreamError: before anything is connected to.
        """
        try:
            parts = urlsplit(url)
            fine = (
                parts.scheme == self._scheme
                and "@" not in parts.netloc
                and "\\" not in url
                and url.isascii()
                and url.isprintable()
                and _host_of(parts) in self._hosts
            )
        except ValueError:
            fine = False
        if not fine:
            raise UpstreamError("GitHub redirects to a host that is not one of its own", "refused")


def _host_of(parts: SplitResult) -> tuple[str, int]:
    """Host and port, as they are compared."""
    return (parts.hostname or "").lower(), parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


def _is_of_certificate(error: BaseException | None) -> bool:
    """Tell a certificate that is not trusted from a handshake that broke off."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _limited(why: str, until: float) -> UpstreamLimitedError:
    at = datetime.fromtimestamp(until, timezone.utc)
    return UpstreamLimitedError(f"{why}; upstream limited until {at:%Y-%m-%d %H:%M:%S} UTC", until)


def _urllib3() -> ModuleType:
    try:
        import urllib3
    except ImportError:
        raise ConfigurationError(
            "GitHub needs urllib3; install 'flask-artifact-cache[github]'"
        ) from None
    return urllib3
