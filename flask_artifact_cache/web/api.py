"""The JSON API: requests into calls, results into responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Response, current_app, has_request_context, request
from flask.sansio.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import MethodNotAllowed, NotFound, default_exceptions
from werkzeug.routing import Map, MapAdapter, PathConverter, Rule

from ..bodies import Body, etag
from ..metrics import CONTENT_TYPE, State, exposition
from ..queries import Filters
from ..reading import DAEMON
from ..refresh.records import as_json
from ..service import ArtifactCacheService
from . import answers, openapi, payloads, problems, rates, schemas
from .guard import Guard
from .routes import Route

ENDPOINT = "artifact_cache"
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")
NOTHING_HERE = "nothing_here"


def collections() -> ResponseReturnValue:
    """Every collection with its counts; a neighbour is told where they lie, too."""
    schemas.query("none", request.query_string)
    guard: Guard = current_app.extensions[ENDPOINT].guard
    listed = _service().collection_list(with_paths=guard.is_neighbour())
    response = _send(Body(as_json({"collections": listed}), etag(listed)))
    response.vary.add("Authorization")
    return response


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


def sync_artifact(body: Mapping[str, Any]) -> ResponseReturnValue:
    """Read one artifact again."""
    synced = _service().sync_artifact(body["artifact_id"], body.get("collection_id"), trigger="api")
    return _done(synced.as_dict())


def refresh_metadata(body: Mapping[str, Any]) -> ResponseReturnValue:
    """Read many artifacts again; one bad file never keeps the others from it."""
    service, selection = _service(), payloads.selection(body)
    by_daemon = request.user_agent.string.startswith("artifact-cache-daemon/")
    options = {
        "confirm": body.get("confirm"),
        "force": body["force"],
        "trigger": DAEMON if by_daemon else "api",
    }
    if "respond-async" in payloads.preferences(request.headers.getlist("Prefer")):
        refresh_id = service.start_refresh(selection, **options)
        if refresh_id is not None:
            return _begun(refresh_id)
    result = service.refresh(selection, **options)
    result.raise_if_withheld()
    return _done(result.as_dict())


def invalidate(body: Mapping[str, Any]) -> ResponseReturnValue:
    """Mark artifacts as stale, so that they are read again."""
    return _done(_service().invalidate(body.get("collection_id"), body.get("artifact_ids")))


def refreshes() -> ResponseReturnValue:
    """The last refreshes, the newest first."""
    args = schemas.query("refreshes", request.query_string)
    listed = _service().runs(args["limit"], args.get("collection_id"))
    return _send(Body(as_json({"refreshes": listed}), etag(listed)))


def refresh(refresh_id: str) -> ResponseReturnValue:
    """One refresh with its progress and what went wrong."""
    schemas.query("none", request.query_string)
    found = _service().run(refresh_id)
    return _send(Body(as_json(found), etag(found)))


def changes() -> ResponseReturnValue:
    """What was created, updated, missing, restored and removed, in order."""
    args = schemas.query("changes", request.query_string)
    found = _service().changes(args.get("since"), args["limit"], args.get("collection_id"))
    return _send(Body(as_json(found), etag(found)))


def problem_list() -> ResponseReturnValue:
    """What is wrong with files, and how to mend it."""
    args = schemas.query("problems", request.query_string)
    return _send(_service().problems(args.get("collection_id"), args["limit"], args.get("after")))


def cache_stats() -> ResponseReturnValue:
    """How many artifacts are in which state, and how often the cache was of use."""
    schemas.query("none", request.query_string)
    return _done(_service().stats().as_dict())


def metrics() -> ResponseReturnValue:
    """The metrics of the artifact cache, for Prometheus."""
    schemas.query("none", request.query_string)
    state: State = current_app.extensions[ENDPOINT].state
    response = Response(exposition(_service().counters, state), content_type=CONTENT_TYPE)
    response.headers["Cache-Control"] = "no-store"
    return response


def healthz() -> ResponseReturnValue:
    """Whether the app can serve what it should; a 503 says what is missing."""
    schemas.query("none", request.query_string)
    return _done({"status": "ok", "collections": _service().ready()})


def openapi_document() -> ResponseReturnValue:
    """This document."""
    schemas.query("none", request.query_string)
    return _send(_document(_address("")))


class EveryMethod(set[str]):
    """Any method at all, though only the usual ones are listed.

    To Werkzeug None says the same, but a host that goes through the routes of its app expects a
    set at each.
    """

    def __contains__(self, method: object) -> bool:
        # With "--" Werkzeug asks for the methods of an address, where a route of the host may be;
        # but a request may have that method, too.
        return method != "--" or (has_request_context() and request.method == "--")


class Rest(PathConverter):
    """All that is left of a path, line breaks included: the stock converter ends before them."""

    regex = "(?s:[^/].*?)"


ROUTES = (
    Route(rule="/", view=collections, answer=answers.Collections, token_opens=True),
    Route(rule="/<collection_id>/artifacts", view=artifacts, answer=answers.Page, query="listing"),
    Route(
        rule="/<collection_id>/artifacts/<artifact_cache_rest:artifact_id>",
        view=artifact,
        answer=answers.ArtifactDetail,
    ),
    Route(rule="/<collection_id>/facets", view=facets, answer=answers.Facets, query="facets"),
    Route(
        rule="/sync-artifact",
        view=sync_artifact,
        answer=answers.Synced,
        permission="refresh",
        body=payloads.SyncBody,
        limit="sync",
    ),
    Route(
        rule="/refresh-metadata",
        view=refresh_metadata,
        answer=answers.Refreshed,
        permission="refresh",
        body=payloads.RefreshBody,
        limit="refresh",
        deferrable=True,
    ),
    Route(
        rule="/invalidate",
        view=invalidate,
        answer=answers.Invalidated,
        permission="refresh",
        body=payloads.InvalidateBody,
        limit="sync",
    ),
    Route(
        rule="/refreshes",
        view=refreshes,
        answer=answers.Refreshes,
        token_opens=True,
        collection=lambda _: request.args.get("collection_id"),
        query="refreshes",
    ),
    Route(
        # With its length, or it would take the listing of a collection called "refreshes".
        rule="/refreshes/<string(length=32):refresh_id>",
        view=refresh,
        answer=answers.Refresh,
        token_opens=True,
        collection=lambda values: _service().run(values["refresh_id"])["collection_id"],
    ),
    Route(
        rule="/changes",
        view=changes,
        answer=answers.Changes,
        collection=lambda _: request.args.get("collection_id"),
        query="changes",
    ),
    Route(
        rule="/problems",
        view=problem_list,
        answer=answers.Problems,
        collection=lambda _: request.args.get("collection_id"),
        query="problems",
    ),
    Route(
        rule="/cache-stats",
        view=cache_stats,
        answer=answers.CacheStats,
        token_opens=True,
        tagged=False,
    ),
    Route(
        rule="/metrics",
        view=metrics,
        answer=None,
        token_opens=True,
        media="text/plain",
        tagged=False,
    ),
    Route(rule="/healthz", view=healthz, answer=answers.Ready, permission=None, tagged=False),
    Route(rule="/openapi.json", view=openapi_document, answer=None, permission=None),
)


@lru_cache(maxsize=16)
def _document(address: str) -> Body:
    made = {**openapi.document(ROUTES), "servers": [{"url": address}]}
    return Body(as_json(made), etag(made))


def blueprint(prefix: str, guard: Guard) -> Blueprint:
    """The routes, and a catch-all that keeps every answer under the prefix our own."""
    bp = Blueprint(ENDPOINT, __name__, url_prefix=prefix)

    def register(state: BlueprintSetupState) -> None:
        state.app.url_map.converters["artifact_cache_rest"] = Rest

    def exempt(*_: object) -> None:
        """Let Flask-WTF ask for no token of a form: no form can send what a route here takes.

        Done in front of every request, which is before it asks whenever it was set up.
        """
        protect: Any = current_app.extensions.get("csrf")
        if protect is not None and type(protect).__module__.startswith("flask_wtf"):
            protect.exempt(bp)

    bp.record_once(register)
    bp.url_value_preprocessor(exempt)
    for route in ROUTES:
        bp.add_url_rule(
            route.rule,
            endpoint=route.view.__name__,
            view_func=_guarded(route, guard),
            methods=[route.method],
            strict_slashes=False,
            provide_automatic_options=False,
        )
    own_everything(bp, [(route.rule, route.method) for route in ROUTES], problems.respond)
    return bp


def own_everything(
    bp: Blueprint,
    rules: Sequence[tuple[str, str]],
    respond: Callable[[Exception], ResponseReturnValue],
) -> None:
    """Keep every answer below a blueprint's prefix its own.

    :param rules: what the blueprint answers, with which method.
    :param respond: answers an error.
    """

    @cache
    def known() -> MapAdapter:
        """What is asked about methods; the application's own map would count the catch-all in."""
        return Map(
            [Rule(rule, methods=[method]) for rule, method in rules],
            merge_slashes=False,
            converters={"artifact_cache_rest": Rest},
        ).bind("")

    def nothing_here(rest: str = "") -> ResponseReturnValue:
        """Whatever no route takes: an unknown path, or a known one with a wrong method."""
        allowed = known().allowed_methods("/" + rest.rstrip("/"))
        if not allowed:
            raise NotFound("There is nothing at this address.")
        allow = sorted({*allowed, "OPTIONS"})
        if request.method == "OPTIONS":
            return Response(headers={"Allow": ", ".join(allow)})
        raise MethodNotAllowed(allow, f"This address answers to {', '.join(allow)}.")

    for rule in ("/", "/<artifact_cache_rest:rest>"):
        bp.add_url_rule(
            rule,
            endpoint=NOTHING_HERE,
            view_func=nothing_here,
            methods=METHODS,
            provide_automatic_options=False,
            strict_slashes=False,
        )

    def open_to_every_method(state: BlueprintSetupState) -> None:
        # Not before, since Flask makes a set of its own of what a rule is given.
        for rule in state.app.url_map.iter_rules(f"{bp.name}.{NOTHING_HERE}"):
            rule.methods = EveryMethod(METHODS)

    bp.record_once(open_to_every_method)
    # Flask asks the application's handler of a code before the blueprint's of any exception.
    for code in default_exceptions:
        bp.register_error_handler(code, respond)
    bp.register_error_handler(Exception, respond)


def _guarded(route: Route, guard: Guard) -> Callable[..., ResponseReturnValue]:
    """The view behind the guard; where that has nothing to ask, the view itself."""
    permission = route.permission
    if permission is None or (route.body is None and guard.authorize is None):
        return route.view
    if route.body is None:

        def read(**values: str) -> ResponseReturnValue:
            guard.ask(permission, route.collection(values), token_opens=route.token_opens)
            return route.view(**values)

        return read
    rules = route.body()

    def load() -> Mapping[str, Any]:
        schemas.query(route.query, request.query_string)
        return payloads.load(rules, guard.max_body_bytes)

    def change() -> ResponseReturnValue:
        return route.view(guard.admit(permission, route.limit, load))

    return change


def _service() -> ArtifactCacheService:
    service: ArtifactCacheService = current_app.extensions[ENDPOINT].service
    return service


@lru_cache(maxsize=256)
def _quoted(path: str) -> str:
    return quote(path, safe="/:@!$&'()*+,;=-._~")


def _done(result: Mapping[str, Any]) -> Response:
    response = Response(as_json(result), content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def _begun(refresh_id: str) -> Response:
    """Where to look how a refresh in the background is getting on (RFC 7240, section 4.1)."""
    response = _done({"refresh_id": refresh_id})
    response.status_code = 202
    response.headers["Location"] = _address(f"/refreshes/{refresh_id}")
    response.headers["Preference-Applied"] = "respond-async"
    response.headers["Retry-After"] = "1"
    rates.keep_retry_after()
    return response


def _address(path: str) -> str:
    """An address below the prefix, as the client sees it."""
    prefix: str = current_app.extensions[ENDPOINT].settings.api_prefix
    return _quoted(f"{request.script_root}{prefix}{path}")


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
