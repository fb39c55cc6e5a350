"""The JSON API: requests into calls, results into responses."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from urllib.parse import quote

from flask import Blueprint, Response, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import MethodNotAllowed, NotFound, default_exceptions
from werkzeug.routing import Map, Rule

from ..bodies import Body, etag
from ..errors import ForbiddenError
from ..queries import Filters
from ..refresh.records import as_json
from ..service import ArtifactCacheService
from . import problems, schemas

ENDPOINT = "artifact_cache"
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")

Authorize = Callable[[str, "str | None"], bool]


def collections() -> ResponseReturnValue:
    """Every collection with its counts."""
    schemas.query("none", request.query_string)
    listed = _service().collection_list()
    return _send(Body(as_json({"collections": listed}), etag(listed)))


def artifacts(collection_id: str) -> ResponseReturnValue:
    """A page of artifacts."""
    listing = schemas.listing(request.query_string)
    made = _service().listing(collection_id, listing)
    return _send(made)


def artifact(collection_id: str, artifact_id: str) -> ResponseReturnValue:
    """One artifact with its details."""
    schemas.query("none", request.query_string)
    return _send(_service().detail(collection_id, artifact_id))


def facets(collection_id: str) -> ResponseReturnValue:
    """How many artifacts have which type, tag, author, license, origin and state."""
    args = schemas.query("facets", request.query_string)
    return _send(_service().facets(collection_id, Filters.of(args, args["q"]), args["limit"]))


# (rule below the prefix, methods, view, what the host's ``authorize`` is asked for)
ROUTES: tuple[tuple[str, tuple[str, ...], Callable[..., ResponseReturnValue], str], ...] = (
    ("/", ("GET",), collections, "read"),
    ("/<collection_id>/artifacts", ("GET",), artifacts, "read"),
    ("/<collection_id>/artifacts/<path:artifact_id>", ("GET",), artifact, "read"),
    ("/<collection_id>/facets", ("GET",), facets, "read"),
)

# What the catch-all asks about methods; the application's own map would count the catch-all in.
_RULES = Map(
    [Rule(rule, methods=methods) for rule, methods, _, _ in ROUTES], merge_slashes=False
).bind("")


def blueprint(prefix: str, authorize: Authorize | None) -> Blueprint:
    """The routes, and a catch-all that keeps every answer under the prefix our own.

    :param authorize: asked with the permission and the collection's id (or None) before a view.
    """
    bp = Blueprint(ENDPOINT, __name__, url_prefix=prefix)

    def guarded(
        view: Callable[..., ResponseReturnValue], permission: str
    ) -> Callable[..., ResponseReturnValue]:
        if authorize is None:
            return view

        def ask(**values: str) -> ResponseReturnValue:
            if not authorize(permission, values.get("collection_id")):
                raise ForbiddenError(f"you may not {permission} this")
            return view(**values)

        return ask

    for rule, methods, view, permission in ROUTES:
        bp.add_url_rule(
            rule,
            endpoint=view.__name__,
            view_func=guarded(view, permission),
            methods=methods,
            strict_slashes=False,
            provide_automatic_options=False,
        )
    for rule in ("/", "/<path:rest>"):
        bp.add_url_rule(
            rule,
            endpoint="nothing_here",
            view_func=nothing_here,
            methods=METHODS,
            provide_automatic_options=False,
            strict_slashes=False,
        )
    # Flask asks the application's handler of a code before the blueprint's of any exception.
    for code in default_exceptions:
        bp.register_error_handler(code, problems.respond)
    bp.register_error_handler(Exception, problems.respond)
    return bp


def nothing_here(rest: str = "") -> ResponseReturnValue:
    """Whatever no route takes: an unknown path, or a known one with a wrong method."""
    path = "/" + rest.rstrip("/")
    allowed = _RULES.allowed_methods(path)
    if not allowed:
        raise NotFound("There is nothing at this address.")
    allow = sorted({*allowed, "OPTIONS"})
    if request.method == "OPTIONS":
        return Response(headers={"Allow": ", ".join(allow)})
    raise MethodNotAllowed(allow, f"This address answers to {', '.join(allow)}.")


def _service() -> ArtifactCacheService:
    service: ArtifactCacheService = current_app.extensions[ENDPOINT].service
    return service


@lru_cache(maxsize=256)
def _quoted(path: str) -> str:
    return quote(path, safe="/:@!$&'()*+,;=-._~")


def _send(made: Body) -> Response:
    """A body as a response, or 304 if the client has it.

    The tag is compared weakly, also without the suffix that compressing proxies append.
    """
    headers = {"ETag": f'W/"{made.etag}"', "Cache-Control": "private, no-cache"}
    known = request.environ.get("HTTP_IF_NONE_MATCH")
    if known is not None and (made.etag in known or known.strip() == "*"):
        # Werkzeug takes the type out again; finding that there is none costs it more.
        return Response(status=304, headers=headers, content_type="application/json")
    if made.next_cursor is not None:
        query = schemas.next_page(request.query_string, made.next_cursor)
        headers["Link"] = f'<{_quoted(request.script_root + request.path)}?{query}>; rel="next"'
    return Response(made.data, headers=headers, content_type="application/json")
