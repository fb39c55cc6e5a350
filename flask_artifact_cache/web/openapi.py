"""The OpenAPI document, made from what the routes are made from."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema

from . import answers, payloads, schemas
from .routes import Route

try:
    _VERSION = version("flask-artifact-cache")
except PackageNotFoundError:  # a checkout that was not installed
    _VERSION = "0"

DESCRIPTION = """\
The metadata of the artifacts of AI assistants, cached from their files.

Reading is open unless the host application restricts it. Changing needs a bearer token, or the
host's permission. Every error is a problem details object."""

VARIABLES: Mapping[str, Mapping[str, Any]] = {
    "collection_id": {
        "description": "The id of a collection.",
        "schema": {"type": "string", "minLength": 1},
        "example": "work",
    },
    "artifact_id": {
        "description": "The `uid` of an artifact, or `type:name` if no other has it.",
        "schema": {"type": "string", "minLength": 1},
        "example": "skill:pdf",
    },
    "refresh_id": {
        "description": "The id of a refresh.",
        "schema": {"type": "string", "minLength": 32, "maxLength": 32},
        "example": answers.RUN_ID["example"],
    },
}

ERRORS: Mapping[int, str] = {
    400: "Something in the request is not valid; `errors` says what.",
    401: "No token was sent, or one that is not valid.",
    403: "The host application does not allow it.",
    404: "There is nothing of this name.",
    409: "Several artifacts have this id, or removing so many needs a confirmation.",
    410: "The cursor is too old; start again without `since`.",
    413: "The body is too long.",
    415: "The body is not JSON.",
    429: "Too many requests.",
    500: "The server failed; its log says how.",
    503: "The collection was not read yet or is being refreshed, or something that is needed for"
    " an answer is not available; of readiness, `errors` says what.",
}
READING = (400, 403, 404, 429, 500, 503)
CHANGING = (400, 401, 403, 404, 409, 413, 415, 429, 500, 503)

EXAMPLES: Mapping[type[Schema], Mapping[str, Any]] = {
    payloads.SyncBody: {"one": {"value": {"artifact_id": "skill:pdf", "collection_id": "work"}}},
    payloads.RefreshBody: {
        "everything": {"value": {}},
        "files": {"value": {"collection_id": "work", "paths": ["skills/pdf/SKILL.md"]}},
        "old": {"value": {"older_than_minutes": 30, "types": ["skill", "command"]}},
    },
    payloads.InvalidateBody: {"one": {"value": {"artifact_ids": ["skill:pdf"]}}},
}

_INTEGER = {"schema": {"type": "integer", "minimum": 1}}
_TEXT = {"schema": {"type": "string"}}
HEADERS: Mapping[str, Mapping[str, Any]] = {
    "Retry-After": {"description": "Seconds after which to ask again.", **_INTEGER},
    "ETag": {"description": "Weak; for `If-None-Match`.", **_TEXT},
    "Link": {"description": 'The next page, as `rel="next"`; absent on the last one.', **_TEXT},
    "WWW-Authenticate": {"description": "As RFC 6750 has it.", **_TEXT},
    "Location": {"description": "The address of the refresh.", **_TEXT},
    "Preference-Applied": {"description": "`respond-async`.", **_TEXT},
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The document, but for ``servers``, which depend on where the app is mounted."""
    plugin = MarshmallowPlugin(schema_name_resolver=_name)
    spec = APISpec(
        title="Artifact cache",
        version=_VERSION,
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}},
    )
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    for name, header in HEADERS.items():
        spec.components.header(name, dict(header))
    for status, meaning in ERRORS.items():
        spec.components.response(str(status), _error(status, meaning))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one schema is used with other options, too
        for route in routes:
            spec.path(path=_path(route), operations={route.method.lower(): _operation(route)})
    made: dict[str, Any] = spec.to_dict()
    return made


def _operation(route: Route) -> dict[str, Any]:
    words = (route.view.__doc__ or "").strip()
    made: dict[str, Any] = {
        "operationId": _camel(route.view.__name__),
        "summary": words.partition("\n")[0].rstrip("."),
        "tags": ["changing" if route.body else "reading"],
        "parameters": _parameters(route),
        "responses": {**_successes(route), **_failures(route)},
        "security": [],
    }
    if route.body is not None:
        made["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {"schema": route.body, "examples": EXAMPLES[route.body]}
            },
        }
        made["security"] = [{"bearer": []}]
    elif route.token_opens:
        made["security"] = [{}, {"bearer": []}]
    return made


def _parameters(route: Route) -> list[Any]:
    found: list[Any] = [
        {"in": "path", "name": name, "required": True, **VARIABLES[name]}
        for name in re.findall(r"<(?:[^<>]*:)?(\w+)>", route.rule)
    ]
    query = schemas.QUERIES[route.query]
    if query.fields:
        found.append({"in": "query", "schema": type(query)})
    if route.body is None and route.tagged:
        text = "The `ETag` of what the client has."
        found.append({"in": "header", "name": "If-None-Match", "description": text, **_TEXT})
    if route.deferrable:
        text = "`respond-async`: do not wait for the result."
        found.append({"in": "header", "name": "Prefer", "description": text, **_TEXT})
    return found


def _successes(route: Route) -> dict[str, Any]:
    is_json = route.media == "application/json"
    schema: Any = route.answer or {"type": "object" if is_json else "string"}
    made: dict[str, Any] = {"description": "Done." if route.body else "Found."}
    made["content"] = {route.media: {"schema": schema}}
    found = {"200": made}
    if route.body is None and route.tagged:
        made["headers"] = _headers("ETag", *(("Link",) if route.answer is answers.Page else ()))
        found["304"] = {"description": "The client has it.", "headers": _headers("ETag")}
    if route.deferrable:
        found["202"] = {
            "description": "Begun, as `Prefer: respond-async` asked for.",
            "content": {"application/json": {"schema": answers.Started}},
            "headers": _headers("Location", "Preference-Applied", "Retry-After"),
        }
    return found


def _failures(route: Route) -> dict[str, Any]:
    statuses = CHANGING if route.body is not None else READING
    if route.token_opens:
        statuses = (*statuses, 401)
    if route.answer is answers.ArtifactDetail:
        statuses = (*statuses, 409)
    if route.answer is answers.Changes:
        statuses = (*statuses, 410)
    return {str(status): str(status) for status in statuses}


def _error(status: int, meaning: str) -> dict[str, Any]:
    made: dict[str, Any] = {
        "description": meaning,
        "content": {"application/problem+json": {"schema": answers.ProblemDetails}},
    }
    if status == 401:
        made["headers"] = _headers("WWW-Authenticate")
    if status in (429, 503):
        made["headers"] = _headers("Retry-After")
    return made


def _headers(*names: str) -> dict[str, Any]:
    return {name: name for name in names}


def _path(route: Route) -> str:
    return re.sub(r"<(?:[^<>]*:)?(\w+)>", r"{\1}", route.rule)


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def _name(schema: Any) -> str:
    made = schema if isinstance(schema, type) else type(schema)
    return str(made.__name__)
