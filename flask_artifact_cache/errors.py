"""Every error of the package, as one tree; each carries what an answer needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class ArtifactCacheError(Exception):
    """The root of the tree.

    :cvar code: stable, machine-readable, part of every answer.
    :cvar status: the HTTP status of RFC 9457 problem details.
    :cvar title: what the code means, the same for every occurrence.
    """

    code = "internal_error"
    status = 500
    title = "The artifact cache failed"


class ConfigurationError(ArtifactCacheError):
    """A setting that cannot be used; raised while the application is set up."""

    code = "configuration_error"
    title = "The artifact cache is not configured correctly"


class SchemaError(ArtifactCacheError):
    """The tables of the cache are missing or older than this version."""

    code = "schema_missing"
    status = 503
    title = "The tables of the artifact cache are not ready"


class RootUnavailableError(ArtifactCacheError):
    """A collection's root cannot be read now; that says nothing about its artifacts."""

    code = "root_unavailable"
    status = 503
    title = "The collection's folder is not available"


class VanishedError(ArtifactCacheError):
    """A file that was there when its folder was listed and is gone now."""

    code = "vanished"
    status = 404
    title = "The artifact's file is gone"


class BusyError(ArtifactCacheError):
    """Another process is refreshing the same collection.

    :ivar retry_after: seconds after which asking again makes sense.
    """

    code = "busy"
    status = 503
    title = "The collection is being refreshed"

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotPopulatedError(BusyError):
    """A configured collection that no populate has completed yet: unknown is not empty."""

    code = "not_populated"
    title = "The collection has not been read yet"


class NotReadyError(BusyError):
    """An app that cannot serve what it should, yet or any more.

    :ivar errors: ``(part, message)`` for each part that is not ready.
    """

    code = "not_ready"
    title = "The artifact cache is not ready"

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(message for _, message in errors), retry_after=5)
        self.errors = tuple(errors)


class NotFoundError(ArtifactCacheError):
    """No such collection, artifact or refresh."""

    code = "not_found"
    status = 404
    title = "Not found"


class Candidate(NamedTuple):
    """One of several artifacts that share an id."""

    uid: str
    path: str
    collection_id: str


class AmbiguousIdError(ArtifactCacheError):
    """Several artifacts share the id; one of their uids tells which is meant."""

    code = "ambiguous_id"
    status = 409
    title = "Several artifacts have this id"

    def __init__(self, message: str, candidates: Sequence[Candidate]) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


class ConflictError(ArtifactCacheError):
    """An artifact cannot be put where another one is already."""

    code = "conflict"
    status = 409
    title = "There is such an artifact already"


class RefusedError(ArtifactCacheError):
    """A name, a path or a source that is not put into a collection, because it could do harm."""

    code = "refused"
    status = 422
    title = "The artifact is refused"


class MassLossError(ArtifactCacheError):
    """A refresh would remove more artifacts than is believable; it removed none.

    :ivar refresh_id: sent back as ``confirm``, it lets the removal happen.
    """

    code = "mass_loss"
    status = 409
    title = "Removing this many artifacts needs a confirmation"

    def __init__(self, message: str, refresh_id: str) -> None:
        super().__init__(message)
        self.refresh_id = refresh_id


class ReferencedError(ArtifactCacheError):
    """The file of an artifact is gone, and a table of the host still refers to its row."""

    code = "referenced"
    status = 409
    title = "Another table refers to the artifact"


class InvalidRequestError(ArtifactCacheError):
    """A request that cannot be understood.

    :ivar errors: ``(field, message)`` for every field that is wrong.
    """

    code = "invalid_request"
    status = 400
    title = "The request is not valid"

    def __init__(self, message: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.errors = tuple(errors)


class CursorExpiredError(ArtifactCacheError):
    """A cursor of the change feed that is older than what is kept."""

    code = "cursor_expired"
    status = 410
    title = "The cursor is too old"


class ForbiddenError(ArtifactCacheError):
    """The host's ``authorize`` callback said no."""

    code = "forbidden"
    status = 403
    title = "Not allowed"


class UnauthorizedError(ArtifactCacheError):
    """A change that was asked for without a token, or with one that is not valid.

    :ivar error: the error code of RFC 6750, section 3.1; empty where no token was sent.
    """

    code = "unauthorized"
    status = 401
    title = "A token is needed"

    def __init__(self, message: str, error: str = "") -> None:
        super().__init__(message)
        self.error = error


class RateLimitedError(ArtifactCacheError):
    """A client that asks more often than it may.

    :ivar retry_after: seconds after which the same request is let through.
    """

    code = "rate_limited"
    status = 429
    title = "Too many requests"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LimiterUnavailableError(BusyError):
    """The storage that requests are counted in does not answer; nothing is let through."""

    code = "limiter_unavailable"
    title = "Requests cannot be counted"


class RemoteError(ArtifactCacheError):
    """Another app that was asked over HTTP cannot be reached, or not understood."""

    code = "remote_failed"
    status = 502
    title = "The other app does not answer as it should"


class UpstreamError(ArtifactCacheError):
    """Upstream did not answer as it should, which says nothing about what is there.

    :ivar reason: ``unauthorized``, ``forbidden``, ``not_found``, ``legal``, ``invalid``,
        ``unavailable``, ``slow`` (an answer that did not end), ``silent`` (it did not answer
        before, and is not asked), ``too_large`` or ``refused``.
    """

    code = "upstream_failed"
    status = 502
    title = "The artifact's source does not answer as it should"

    def __init__(self, message: str, reason: str = "unavailable") -> None:
        super().__init__(message)
        self.reason = reason


class UpstreamLimitedError(UpstreamError):
    """Upstream asks to wait for longer than a caller would.

    :ivar until: when asking again makes sense, in seconds since 1970.
    """

    code = "upstream_limited"
    status = 503
    title = "The artifact's source is limited for some time"

    def __init__(self, message: str, until: float) -> None:
        super().__init__(message, "limited")
        self.until = until
