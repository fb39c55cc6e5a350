"""The cache of another app, over HTTP: what the service does, asked of its API."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from .errors import (
    AmbiguousIdError,
    ArtifactCacheError,
    BusyError,
    Candidate,
    ConfigurationError,
    CursorExpiredError,
    ForbiddenError,
    InvalidRequestError,
    MassLossError,
    NotFoundError,
    NotPopulatedError,
    RateLimitedError,
    RemoteError,
    RootUnavailableError,
    SchemaError,
    UnauthorizedError,
)
from .refresh.selection import Selection
from .version import VERSION

if TYPE_CHECKING:
    from types import ModuleType

    from urllib3 import BaseHTTPResponse

TOKEN_VARIABLE = "ARTIFACT_CACHE_TOKEN"  # noqa: S105 - the name of the variable
CONNECT_S = 5.0
# A refresh is answered when it is done.
ANSWER_S = 300.0
# Ten thousand errors of a refresh are some 3 MB.
MAX_BYTES = 16 * 1024 * 1024
_MAX_SENTENCE = 1000
_MAX_TOKEN = 8192

_ADDRESS = re.compile(r"https?://[!-~]+", re.IGNORECASE)
# What can stand in an Authorization header (RFC 6750, section 2.1).
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_JSON = {"application/json", "application/problem+json"}

# What an answer has to hold to be one: texts, numbers, lists of these, objects.
_NUMBER = (int, float)
_FAILURES = [{"code": str, "message": str}]
_COUNTS = {
    "refresh_id": str,
    "artifacts_refreshed": int,
    "created": int,
    "updated": int,
    "unchanged": int,
    "removed": int,
    "skipped": int,
    "duration_seconds": _NUMBER,
}
_SUMMARY = {
    **_COUNTS,
    "collection_id": (str, type(None)),
    "trigger": str,
    "filters": dict,
    "outcome": str,
    "started_at": str,
    "progress": {"done": int, "total": int},
    "quarantined": int,
    "withheld": int,
}
_REFRESHED = {**_COUNTS, "errors": _FAILURES}
_REFRESHES = {"refreshes": [_SUMMARY]}
_REFRESH = {**_SUMMARY, "errors": _FAILURES}
_SYNCED = {"artifact_id": str, "collection_id": str, "status": str, "fields_updated": [str]}
_INVALIDATED = {"invalidated": int, "unknown": [str]}
_CHANGES = {
    "changes": [{"at": str, "kind": str, "uid": str, "artifact_id": str, "fields": [str]}],
    "next": str,
    "has_more": bool,
}
_PROBLEMS = {
    "problems": [{"collection_id": str, "path": str, "code": str, "message": str, "hint": str}],
    "page_info": {"total_count": int, "has_next_page": bool, "end_cursor": (str, type(None))},
}
_PROBLEM = {"code": str, "detail": str}


def find_token(file: Path | None) -> str | None:
    """The token of a file, or else of the environment; no message shows it.

    :raises ConfigurationError: if the file cannot be read, or what there is cannot be a token.
    """
    if file is None:
        source, text = TOKEN_VARIABLE, os.environ.get(TOKEN_VARIABLE, "")
        if not text.strip():
            return None
    else:
        source = f"'{file}'"
        try:
            with file.open("rb") as opened:
                text = opened.read(_MAX_TOKEN + 1).decode("latin-1")
        except OSError as error:
            message = f"the token cannot be read from {source}: {error.strerror}"
            raise ConfigurationError(message) from None
    token = text.strip()
    if len(text) > _MAX_TOKEN or not _TOKEN.fullmatch(token):
        raise ConfigurationError(
            f"{source} does not hold a token alone, which consists of A-Z, a-z, 0-9 and -._~+/"
        )
    return token


class RemoteCache:
    """An artifact cache that is asked over HTTP; every answer is as its API serves it.

    Redirects are not followed, and no more of an answer is read than one of ours can be long.

    :param api_url: where the API is mounted, with the prefix.
    :param answer_s: how long to wait for an answer, in seconds.
    :raises ConfigurationError: if the address is none, or urllib3 is not installed.
    """

    def __init__(self, api_url: str, token: str | None = None, answer_s: float = ANSWER_S) -> None:
        self.url = _checked(api_url)
        self._token = token
        self._answer_s = answer_s
        self._urllib3 = _urllib3()

    def refresh(
        self, selection: Selection, *, force: bool = False, confirm: str | None = None
    ) -> dict[str, Any]:
        """Read again what has changed.

        :raises MassLossError: with the id that confirms the removals.
        :raises BusyError: if another refresh takes too long.
        """
        body: dict[str, Any] = selection.filters()
        if selection.collection_id is not None:
            body["collection_id"] = selection.collection_id
        if force:
            body["force"] = True
        if confirm is not None:
            body["confirm"] = confirm
        return self._ask("POST", "/refresh-metadata", _REFRESHED, body)

    def sync_artifact(self, artifact_id: str, collection_id: str | None = None) -> dict[str, Any]:
        """Read one artifact again, by ``uid`` or ``type:name``."""
        body = {"artifact_id": artifact_id}
        if collection_id is not None:
            body["collection_id"] = collection_id
        return self._ask("POST", "/sync-artifact", _SYNCED, body)

    def invalidate(
        self, collection_id: str | None = None, artifact_ids: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Say that rows are stale; None means all."""
        body: dict[str, Any] = {}
        if collection_id is not None:
            body["collection_id"] = collection_id
        if artifact_ids is not None:
            body["artifact_ids"] = list(artifact_ids)
        return self._ask("POST", "/invalidate", _INVALIDATED, body)

    def runs(self, limit: int = 20, collection_id: str | None = None) -> list[dict[str, Any]]:
        """The newest refresh runs, each without its errors."""
        query = {"limit": str(limit)}
        if collection_id is not None:
            query["collection_id"] = collection_id
        answer = self._ask("GET", f"/refreshes?{urlencode(query)}", _REFRESHES)
        found: list[dict[str, Any]] = answer["refreshes"]
        return found

    def run(self, refresh_id: str) -> dict[str, Any]:
        """A refresh run with its progress, its counts and its errors."""
        if not _RUN_ID.fullmatch(refresh_id):
            raise NotFoundError(f"there is no refresh '{refresh_id}'")
        return self._ask("GET", f"/refreshes/{refresh_id}", _REFRESH)

    def changes(
        self, since: str | None = None, limit: int = 200, collection_id: str | None = None
    ) -> dict[str, Any]:
        """What happened to artifacts, in order: ``changes``, a cursor ``next``, ``has_more``.

        :raises CursorExpiredError: if what follows the cursor is not kept any more.
        """
        asked = {"since": since, "limit": str(limit), "collection_id": collection_id}
        query = {name: value for name, value in asked.items() if value is not None}
        return self._ask("GET", f"/changes?{urlencode(query)}", _CHANGES)

    def problems(
        self, collection_id: str | None = None, limit: int = 200, after: str | None = None
    ) -> dict[str, Any]:
        """A page of what is wrong with files."""
        query = {"limit": str(limit)}
        if collection_id is not None:
            query["collection_id"] = collection_id
        if after is not None:
            query["after"] = after
        return self._ask("GET", f"/problems?{urlencode(query)}", _PROBLEMS)

    # --- parts -------------------------------------------------------------------------------

    def _ask(
        self, method: str, path: str, shape: Mapping[str, Any], body: Any = None
    ) -> dict[str, Any]:
        """The answer to a request.

        :raises ArtifactCacheError: the one that the other app has answered, or RemoteError.
        """
        headers = {
            "Accept": "application/json, application/problem+json",
            "Accept-Encoding": "identity",
            "User-Agent": f"flask-artifact-cache/{VERSION}",
        }
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = json.dumps(body).encode()
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        errors = self._urllib3.exceptions
        timeout = self._urllib3.Timeout(connect=CONNECT_S, read=self._answer_s)
        try:
            with self._urllib3.PoolManager(timeout=timeout) as pool:
                # A redirect would take the token to an address that nobody has chosen.
                response: BaseHTTPResponse = pool.request(
                    method,
                    self.url + path,
                    body=data,
                    headers=headers,
                    redirect=False,
                    retries=False,
                    preload_content=False,
                )
                try:
                    return self._answer(response, shape)
                finally:
                    response.close()
        except errors.ReadTimeoutError:
            raise RemoteError(
                f"{self.url} has not answered for {self._answer_s:g} s; what was asked for may"
                " still go on there"
            ) from None
        except (errors.NewConnectionError, errors.SSLError) as error:
            raise RemoteError(f"cannot reach {self.url}: {_reason(error)}") from None
        except errors.ConnectTimeoutError:
            message = f"cannot reach {self.url}: no connection within {CONNECT_S:g} s"
            raise RemoteError(message) from None
        except errors.LocationValueError:
            raise ConfigurationError(f"{self.url} is not an address") from None
        except errors.HTTPError:
            raise RemoteError(f"{self.url} has broken off the connection") from None

    def _answer(self, response: BaseHTTPResponse, shape: Mapping[str, Any]) -> dict[str, Any]:
        status = response.status
        if 300 <= status < 400:
            to = self._shown(response.headers.get("Location", "nowhere"))
            message = f"{self.url} redirects to {to}, which is not followed: give the right address"
            raise ConfigurationError(message)
        found = self._json(response)
        if status == 200:
            if not _fits(found, shape):
                raise RemoteError(
                    f"{self.url} does not answer as an artifact cache does; is the address right?"
                )
            assert isinstance(found, dict)
            return found
        raise self._error(response, found if _fits(found, _PROBLEM) else None)

    def _json(self, response: BaseHTTPResponse) -> Any:
        """What was answered; None if that is not JSON."""
        media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if media_type not in _JSON or encoding != "identity":
            return None
        data = b""
        # Until there is nothing: only then urllib3 tells that something is missing.
        while chunk := response.read(MAX_BYTES + 1 - len(data), decode_content=False):
            data += chunk
            if len(data) > MAX_BYTES:
                raise RemoteError(f"the answer of {self.url} is longer than {MAX_BYTES} bytes")
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            return None

    def _error(
        self, response: BaseHTTPResponse, problem: dict[str, Any] | None
    ) -> ArtifactCacheError:
        """What was answered, as the error that the service would have raised."""
        status = response.status
        code = problem["code"] if problem else ""
        detail = self._shown(problem["detail"]) if problem else ""
        said = detail or f"{self.url} answers {status}"
        retry_after = _seconds(response.headers.get("Retry-After"))
        later = said
        if retry_after is not None:
            later = f"{said.rstrip('.')}; try again in {retry_after} s"
        if status == 401:
            return UnauthorizedError(
                f"{self.url} needs a token: give '--token-file', or set {TOKEN_VARIABLE}"
                if self._token is None
                else f"{self.url} does not accept the token"
            )
        if status == 403:
            return ForbiddenError(f"{self.url} refuses: {detail or 'forbidden'}")
        if problem is not None and code in _MADE_OF:
            return _MADE_OF[code](said, problem)
        if status == 404:
            return ConfigurationError(
                f"there is no artifact cache at {self.url}; its address has the prefix in it, too,"
                " as in http://localhost:5000/api/v1/user-collections"
            )
        if status == 429:
            return RateLimitedError(later, retry_after or 0)
        if code == NotPopulatedError.code:
            return NotPopulatedError(later, retry_after or 0)
        if status == 503 or code == BusyError.code:
            return BusyError(later, retry_after or 0)
        if status == 504:
            said += "; what was asked for may still go on there"
        elif problem is None:
            said += ", and not as an artifact cache does"
        return RemoteError(said)

    def _shown(self, text: str) -> str:
        """Text of the other side, which might repeat what it was sent."""
        if self._token is not None:
            text = text.replace(self._token, "…")
        return text if len(text) <= _MAX_SENTENCE else f"{text[:_MAX_SENTENCE]}…"


def _ambiguous(said: str, problem: Mapping[str, Any]) -> AmbiguousIdError:
    found: Any = problem.get("candidates")
    names = Candidate._fields
    candidates: list[Any] = found if _fits(found, [dict.fromkeys(names, str)]) else []
    return AmbiguousIdError(said, [Candidate(*(one[name] for name in names)) for one in candidates])


def _invalid(said: str, problem: Mapping[str, Any]) -> InvalidRequestError:
    found: Any = problem.get("errors")
    errors: list[Any] = found if _fits(found, [{"field": str, "message": str}]) else []
    return InvalidRequestError(said, [(one["field"], one["message"]) for one in errors])


def _mass_loss(said: str, problem: Mapping[str, Any]) -> MassLossError:
    return MassLossError(said, str(problem.get("refresh_id")))


# The errors that an answer says everything about, by their code.
_MADE_OF: Mapping[str, Callable[[str, dict[str, Any]], ArtifactCacheError]] = {
    AmbiguousIdError.code: _ambiguous,
    CursorExpiredError.code: lambda said, _: CursorExpiredError(said),
    InvalidRequestError.code: _invalid,
    MassLossError.code: _mass_loss,
    NotFoundError.code: lambda said, _: NotFoundError(said),
    RootUnavailableError.code: lambda said, _: RootUnavailableError(said),
    SchemaError.code: lambda said, _: SchemaError(said),
}


def _urllib3() -> ModuleType:
    try:
        import urllib3
    except ImportError:
        raise ConfigurationError(
            "asking another app needs urllib3: pip install 'flask-artifact-cache[daemon]'"
        ) from None
    return urllib3


def _checked(api_url: str) -> str:
    """The address without a slash at its end; a password in it is not repeated."""
    if "@" in api_url:
        raise ConfigurationError("the address of an artifact cache holds no user and no password")
    try:
        parts = urlsplit(api_url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if not host or parts.query or parts.fragment or not _ADDRESS.fullmatch(api_url):
        raise ConfigurationError(
            f"{api_url!r} is not the address of an artifact cache, such as"
            " http://localhost:5000/api/v1/user-collections"
        )
    return api_url.rstrip("/")


def _fits(value: object, shape: Any) -> bool:
    """Whether a value has at least what an answer of its kind has."""
    if isinstance(shape, Mapping):
        return isinstance(value, dict) and all(
            name in value and _fits(value[name], one) for name, one in shape.items()
        )
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(one, shape[0]) for one in value)
    return isinstance(value, shape)


def _seconds(retry_after: str | None) -> int | None:
    """How long to wait; a date is not what our API sends."""
    if retry_after is None or not re.fullmatch("[0-9]{1,6}", retry_after.strip()):
        return None
    return int(retry_after)


def _reason(error: BaseException) -> str:
    """What the system says about a connection that was not made."""
    cause = error.__cause__ or error.__context__ or error
    return str(getattr(cause, "strerror", None) or cause).partition(" (_ssl")[0]
