"""Errors as problem details (RFC 9457), under our own prefix and nowhere else."""

from __future__ import annotations

import json
import logging
from typing import Any

from flask import Response, request
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

from ..database import DOWN, schema_error
from ..errors import (
    AmbiguousIdError,
    ArtifactCacheError,
    BusyError,
    InvalidRequestError,
    MassLossError,
    NotReadyError,
    RateLimitedError,
    UnauthorizedError,
)
from . import rates

log = logging.getLogger("flask_artifact_cache")

MEDIA_TYPE = "application/problem+json"


def respond(error: Exception) -> Response:
    """Any error as an answer; what the server should keep to itself stays in its log."""
    response = _response(error)
    if "Retry-After" in response.headers:
        rates.keep_retry_after()
    return response


def _response(error: Exception) -> Response:
    if isinstance(error, SQLAlchemyError):
        error = schema_error(error) or error
    if isinstance(error, ArtifactCacheError):
        return _known(error)
    if isinstance(error, HTTPException):
        return _http(error)
    if isinstance(error, DOWN):
        log.error("%s %r: no database: %s", request.method, request.path, type(error).__name__)
        response = problem(
            503, "database_unavailable", "The database is not available", "Try again later."
        )
        response.headers["Retry-After"] = "5"
        return response
    # Quoted, since a path may hold line breaks.
    log.error("%s %r failed", request.method, request.path, exc_info=error)
    return problem(500, "internal_error", ArtifactCacheError.title, "See the server's log.")


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    errors: list[dict[str, Any]] | None = None,
    **members: Any,
) -> Response:
    """A problem details object as a response."""
    body = {
        "type": f"urn:artifact-cache:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        "errors": errors or [],
        **members,
    }
    response = Response(json.dumps(body), status=status, content_type=MEDIA_TYPE)
    response.headers["Cache-Control"] = "no-store"
    return response


def _known(error: ArtifactCacheError) -> Response:
    if error.status >= 500 and not isinstance(error, BusyError):
        log.error("%s %r: %s", request.method, request.path, error)
    errors: list[dict[str, Any]] = []
    members: dict[str, Any] = {}
    if isinstance(error, (InvalidRequestError, NotReadyError)):
        errors = [{"field": field, "message": message} for field, message in error.errors]
    elif isinstance(error, AmbiguousIdError):
        members["candidates"] = [one._asdict() for one in error.candidates]
    elif isinstance(error, MassLossError):
        members["refresh_id"] = error.refresh_id
    response = problem(error.status, error.code, error.title, str(error), errors, **members)
    if isinstance(error, UnauthorizedError):
        response.headers["WWW-Authenticate"] = _challenge(error)
    if isinstance(error, (BusyError, RateLimitedError)):
        response.headers["Retry-After"] = str(error.retry_after)
    elif error.status == 503:
        response.headers["Retry-After"] = "30"
    return response


def _challenge(error: UnauthorizedError) -> str:
    """What to send, and what was wrong with what was sent (RFC 6750, section 3)."""
    challenge = 'Bearer realm="artifact-cache"'
    if error.error:
        challenge += f', error="{error.error}", error_description="{error}"'
    return challenge


def _http(error: HTTPException) -> Response:
    original = error.get_response()
    if error.code is None or error.code < 400:
        redirect: Response = Response.force_type(original)  # type: ignore[assignment]
        return redirect
    response = problem(
        error.code,
        error.name.lower().replace(" ", "_"),
        error.name,
        error.description or error.name,
    )
    for name in ("Allow", "Retry-After", "WWW-Authenticate"):
        if name in original.headers:
            response.headers[name] = original.headers[name]
    if error.code == 429 and "Retry-After" not in response.headers:
        response.headers["Retry-After"] = str(rates.of_hosts() or 60)
    return response
