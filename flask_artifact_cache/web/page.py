"""The HTML page: a catalogue of a collection, complete without a script.

What is shown of a collection is rendered once and kept as the JSON bodies are, until the collection
changes or the minute ends. It is the same for everybody. What depends on who asks (the host's
layout, its menu, the tokens of forms) is rendered around it for every request.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from flask import Blueprint, Response, current_app, redirect, request
from flask.sansio.blueprints import BlueprintSetupState
from flask.typing import ResponseReturnValue
from jinja2 import Environment
from markupsafe import Markup
from sqlalchemy import Connection
from werkzeug.exceptions import NotFound

from .. import freshness, notices, queries
from ..bodies import Body
from ..errors import ForbiddenError, MassLossError, NotFoundError, NotPopulatedError
from ..files.problems import hint
from ..queries import FACETS, Filters, Head, Listing, Moment
from ..reading import Made
from ..refresh import runs
from ..refresh.records import as_json
from ..refresh.selection import Selection
from ..service import ArtifactCacheService
from . import problems, schemas, shown
from .api import ENDPOINT, Rest, own_everything
from .guard import Guard
from .words import Translate, ages, escaped, in_query, plain, size, web_address

PAGE = "artifact_cache_page"
LIMIT = 50
# What a page may load: our own files, and nothing that artifacts or other hosts bring.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STATIC = Path(__file__).parent.parent / "static"
TEMPLATES = Path(__file__).parent.parent / "templates"
# How many pages' surroundings are kept.
MAX_AROUND = 256
# What a row of a listing shows, in the order in which its template takes it.
_ROW = itemgetter(
    *("uid", "name", "type", "version", "state", "description", "error", "tags", "author"),
    *("license", "origin", "secondary", "warnings", "synced_at", "updated_at", "path"),
)
_CONTENT = "\ue000content\ue000"
SORTS = ("relevance", "name", "-updated_at")


# --- views -----------------------------------------------------------------------------------


def collections() -> ResponseReturnValue:
    """Every collection that the client may read; the only one at once."""
    guard = _guard()
    readable = [
        one
        for one in _service().status()
        if guard.authorize is None or guard.authorize("read", one["id"])
    ]
    if guard.authorize is not None and not readable:
        raise ForbiddenError("you may not read any collection")
    if len(readable) == 1:
        return redirect(_base(readable[0]["id"]))
    page = _Page()
    return page.send(
        page.render("collections.html", collections=readable), title=page._("Artifacts")
    )


def catalogue(collection_id: str) -> ResponseReturnValue:
    """What is in a collection, searched, narrowed and sorted as the address says."""
    listing, chosen, more = _asked(request.query_string)
    service, page = _service(), _Page(collection_id)

    given = shown.given(service, collection_id)

    def make(connection: Connection, one: Head, at: Moment) -> Made:
        return _catalogue(page, connection, one, at, listing, chosen, more, given)

    key = ("page", page.variant, page.offers_refresh, request.query_string, given)
    title = chosen.get("q", [""])[0]
    return page.send(
        page.kept(key, make),
        title=f"{plain(title, 60)} · {collection_id}" if title else collection_id,
    )


def artifact(collection_id: str, artifact_id: str) -> ResponseReturnValue:
    """Everything that is known of one artifact."""
    service, page = _service(), _Page(collection_id)
    item = service.get(collection_id, artifact_id)
    content = page.render(
        "artifact.html",
        item=item,
        details={
            name: value
            for name, value in item["details"].items()
            if value not in (None, [], {}, "") and name != "drift"
        },
        drift=item["details"].get("drift") or (),
        problems=[shown.hinted(one) for one in (item["error"], *item["warnings"]) if one],
        source=web_address(item["source"]),
        origin_source=web_address(item["origin_source"]),
        history=service.history(collection_id, item["uid"]),
        ttl_minutes=service.settings.ttl.total_seconds() / 60,
    )
    return page.send(content, title=f"{plain(item['name'], 60)} · {collection_id}")


def problem_list(collection_id: str) -> ResponseReturnValue:
    """Every file that cannot be used, or only with a warning."""
    service, page = _service(), _Page(collection_id)
    after = schemas.query("problems page", request.query_string, lenient=True).get("after")

    def make(connection: Connection, one: Head, at: Moment) -> Made:
        health = shown.health(service, connection, one, at)
        found = shown.problems(connection, one, after)
        content = page.render("problems.html", at=at, health=health, first=after is None, **found)
        return Made(content.encode("utf-8", "replace"), page.until(at), None, stale=False)

    key = ("problems", page.variant, after)
    return page.send(page.kept(key, make), title=f"{page._('Problems')} · {collection_id}")


def refresh_form(collection_id: str) -> ResponseReturnValue:
    """How a collection is, and what reads it again."""
    page = _Page(collection_id)
    return page.send(
        _refresh_form(page), title=f"{page._('Refresh')} · {collection_id}", kept=False
    )


def refresh(collection_id: str) -> ResponseReturnValue:
    """Begin a refresh, and show how far it is."""
    service, form = _service(), request.form
    _guard().admit_form("refresh", "refresh", collection_id, form.get("token", "").strip())
    selection = Selection(collection_id)
    confirm = form.get("confirm") or None
    refresh_id = service.start_refresh(selection, trigger="page", confirm=confirm)
    if refresh_id is None:
        refresh_id = service.refresh(selection, trigger="page", confirm=confirm).refresh_id
    return redirect(_base(collection_id, f"/refreshes/{refresh_id}"), 303)


def run(collection_id: str, refresh_id: str) -> ResponseReturnValue:
    """One refresh: how far it is, what came of it, and what waits for a confirmation."""
    service, page = _service(), _Page(collection_id)
    found, one = service.run(refresh_id), shown.head(service, collection_id)
    # What gathers the others shows what came of any of them.
    if found["collection_id"] != collection_id and not (one and one.gathers):
        if found["collection_id"] is not None:
            raise NotFoundError(f"there is no refresh '{refresh_id}' of '{collection_id}'")
        _guard().ask("read", None)
    missing: list[dict[str, Any]] = []
    if found["outcome"] == "needs_confirmation":
        listing = Listing(Filters(states=(freshness.MISSING,)), limit=20)
        missing = json.loads(service.listing(collection_id, listing).data)["items"]
    errors = [
        {**error, "hint": hint(error["code"], error["message"])} for error in found["errors"][:100]
    ]
    content = page.render(
        "run.html",
        run=found,
        errors=errors,
        missing=missing,
        form=page.form(collection_id, configured=one is None or service.has_files(one)),
    )
    return page.send(content, title=f"{page._('Refresh')} · {collection_id}", kept=False)


def static(name: str) -> ResponseReturnValue:
    """One of our files; under its name with its digest it never changes."""
    files = _files()
    if name not in files:
        raise NotFound("There is nothing at this address.")
    data, media_type, digest = files[name]
    response = Response(data, content_type=media_type)
    response.set_etag(digest)
    lasts = request.args.get("v") == digest
    response.headers["Cache-Control"] = (
        "public, max-age=31536000, immutable" if lasts else "no-cache"
    )
    return response.make_conditional(request)


def failed(error: Exception) -> Response:
    """Any error as a page; what the server should keep to itself stays in its log."""
    answer = problems.respond(error)
    if answer.status_code < 400:
        return answer
    told = json.loads(answer.get_data())
    collection_id = (request.view_args or {}).get("collection_id")
    readable = collection_id is not None and told["code"] not in ("not_found", "forbidden")
    page = _Page(collection_id if readable else None, careful=True)
    content = page.render(
        "error.html",
        problem=told,
        withheld=isinstance(error, MassLossError),
        unread=isinstance(error, NotPopulatedError),
        # Flask-WTF's token of the form was missing or too old.
        outdated=told["code"] == "bad_request" and request.method == "POST",
        home_opens=told["code"] != "forbidden" or bool(page.others()),
    )
    response = page.send(content, title=told["title"], kept=False)
    response.status_code = answer.status_code
    for name in ("Allow", "Retry-After"):
        if name in answer.headers:
            response.headers[name] = answer.headers[name]
    return response


RULES: tuple[tuple[str, Callable[..., ResponseReturnValue], str], ...] = (
    ("/", collections, "GET"),
    ("/<collection_id>", catalogue, "GET"),
    ("/<collection_id>/artifacts/<artifact_cache_rest:artifact_id>", artifact, "GET"),
    ("/<collection_id>/problems", problem_list, "GET"),
    ("/<collection_id>/refresh", refresh_form, "GET"),
    ("/<collection_id>/refresh", refresh, "POST"),
    ("/<collection_id>/refreshes/<string(length=32):refresh_id>", run, "GET"),
    # No collection is called so.
    ("/-/<name>", static, "GET"),
)
# Neither belongs to a collection that somebody may or may not read.
_OPEN = (collections, static, refresh)


def blueprint(prefix: str, guard: Guard) -> Blueprint:
    """The pages, and a catch-all that keeps every answer under the prefix our own."""
    bp = Blueprint(PAGE, __name__, url_prefix=prefix, template_folder="../templates")

    def register(state: BlueprintSetupState) -> None:
        state.app.url_map.converters["artifact_cache_rest"] = Rest

    bp.record_once(register)
    for rule, view, method in RULES:
        bp.add_url_rule(
            rule,
            endpoint=view.__name__,
            view_func=view if view in _OPEN else _guarded(view, guard),
            methods=[method],
            strict_slashes=False,
            provide_automatic_options=False,
        )
    own_everything(bp, [(rule, method) for rule, _, method in RULES], failed)
    bp.after_request(_protect)
    return bp


def _guarded(
    view: Callable[..., ResponseReturnValue], guard: Guard
) -> Callable[..., ResponseReturnValue]:
    if guard.authorize is None:
        return view

    def read(**values: str) -> ResponseReturnValue:
        guard.ask("read", values["collection_id"])
        return view(**values)

    return read


def _protect(response: Response) -> Response:
    """Say what browsers may do with a page, unless the host has said it."""
    headers = response.headers
    headers.setdefault("Content-Security-Policy", POLICY)
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Referrer-Policy", "same-origin")
    return response


# --- what is shown ---------------------------------------------------------------------------


class _Page:
    """A page that is being made for one request.

    :param careful: nothing is asked that might fail; for what is shown of an error.
    """

    def __init__(self, collection_id: str | None = None, *, careful: bool = False) -> None:
        self.collection_id = collection_id
        self.careful = careful
        self.templates = _templates()
        self._ = self.templates.translate
        self.home = _home()
        self.base = "" if collection_id is None else _base(collection_id)
        guard = _guard()
        self.offers_refresh = (
            collection_id is not None
            and not careful
            and (guard.takes_tokens or guard.allows("refresh", collection_id))
        )

    @property
    def variant(self) -> Hashable:
        """What else the same page depends on: where it is mounted, and the language."""
        return request.script_root, self._language()

    def _language(self) -> str | None:
        if self._.is_identity:
            return ""
        if "babel" in current_app.extensions:
            from flask_babel import get_locale  # type: ignore[import-untyped, import-not-found, unused-ignore]

            return str(get_locale())
        return None

    def kept(self, key: Hashable, make: Callable[[Connection, Head, Moment], Made]) -> Body:
        """What is shown of the collection, the same for all who ask, kept while it holds."""
        assert self.collection_id is not None
        return _service().kept(self.collection_id, key, make)

    def until(self, at: Moment, *times: datetime | None) -> datetime | None:
        """Until when something holds that is made now: as long as its ages, and what it is of.

        Where nobody can tell whose language it is in, it holds for nobody else.
        """
        if self._language() is None:
            return at.now
        return shown.soonest(*times, shown.next_minute(at.now))

    def render(self, template: str, *, at: Moment | None = None, **values: Any) -> str:
        """A part of a page that no one but us puts anything into."""
        now = _service().now() if at is None else at.now
        return self.templates.environment.get_template(f"artifact_cache/{template}").render(
            {
                "_": self._,
                "many": self._.many,
                "age": ages(self._, now),
                "base": self.base,
                "home": self.home,
                "collection_id": self.collection_id,
                "offers_refresh": self.offers_refresh,
                **values,
            }
        )

    def form(self, collection_id: str, *, configured: bool) -> dict[str, Any]:
        """What a form that changes something needs, for this request alone.

        :param configured: whether there are files to refresh from.
        """
        guard = _guard()
        csrf_token: Any = self.templates.environment.globals.get("csrf_token")
        return {
            "offered": self.offers_refresh and configured,
            "configured": configured,
            "asks_token": not guard.allows("refresh", collection_id),
            "csrf_field": current_app.config.get("WTF_CSRF_FIELD_NAME", "csrf_token"),
            # Flask-WTF's, where the host has it: it looks at every form of the app.
            "csrf_token": None if csrf_token is None else csrf_token(),
        }

    def send(self, content: str | Body, *, title: str, kept: bool = True) -> Response:
        """The page around the content, or 304 if the client has it."""
        before, after = self._around(title)
        if isinstance(content, Body):
            middle, tag = content.data, content.etag.encode()
        else:
            middle = tag = content.encode("utf-8", "replace")
        headers = {"Cache-Control": "private, no-cache" if kept else "no-store"}
        if kept:
            digest = hashlib.blake2b(before + b"\0" + after + b"\0" + tag, digest_size=12)
            etag = digest.hexdigest()
            headers["ETag"] = f'W/"{etag}"'
            known = request.environ.get("HTTP_IF_NONE_MATCH")
            if known is not None and (etag in known or known.strip() == "*"):
                return Response(status=304, headers=headers, content_type="text/html")
        return Response(
            b"".join((before, middle, after)),
            headers=headers,
            content_type="text/html; charset=utf-8",
        )

    def _around(self, title: str) -> tuple[bytes, bytes]:
        """The layout before and after the content; the host's is rendered for every request."""
        others = self.others()
        language = self._language()
        if not self.templates.are_ours or language is None:
            return self._layout(title, others)
        key = (self.home, language, title, self.collection_id, others)
        known = self.templates.around.get(key)
        if known is None:
            if len(self.templates.around) >= MAX_AROUND:
                self.templates.around.clear()
            known = self.templates.around[key] = self._layout(title, others)
        return known

    def _layout(self, title: str, others: tuple[str, ...]) -> tuple[bytes, bytes]:
        context: dict[str, Any] = {
            "title": title,
            "content": Markup(_CONTENT),  # noqa: S704
            "collection_id": self.collection_id,
            "collections": [(one, _base(one)) for one in others],
            "home": self.home,
            "_": self._,
            "static": {
                name: f"{self.home}-/{name}?v={digest}" for name, (_, _, digest) in _files().items()
            },
        }
        current_app.update_template_context(context)
        template = self.templates.environment.get_template("artifact_cache/layout.html")
        before, _, after = template.render(context).partition(_CONTENT)
        return before.encode("utf-8", "replace"), after.encode("utf-8", "replace")

    def others(self) -> tuple[str, ...]:
        """The collections that the client may read: configured, or gathering those that are."""
        authorize, ids = _guard().authorize, _service().collections.ids()
        gathering = [one for one in self._gathering() if one not in ids]
        return tuple(
            one for one in (*gathering, *ids) if authorize is None or authorize("read", one)
        )

    def _gathering(self) -> tuple[str, ...]:
        """The collections that gather others, as they were this minute: few, and seldom others."""
        until = shown.next_minute(_service().now())
        known_until, found = self.templates.gathering
        if known_until != until and not self.careful:
            with _service().reading() as connection:
                found = tuple(one.id for one in queries.heads(connection) if one.gathers)
            self.templates.gathering = until, found
        return found


def _catalogue(
    page: _Page,
    connection: Connection,
    one: Head,
    at: Moment,
    listing: Listing,
    chosen: Mapping[str, Sequence[str]],
    more: str | None,
    given: Sequence[notices.Notice],
) -> Made:
    service = _service()
    found = queries.page(connection, one, listing, at)
    total = (
        found.count
        if listing.after is None and not found.has_next_page
        else service.count(connection, one, listing.filters, at)
    )
    health = shown.health(service, connection, one, at)

    def aside() -> tuple[bytes, Any]:
        values, expires_at = shown.facets(
            service, connection, one, at, listing.filters, shown.MANY if more else shown.FEW + 1
        )
        content = page.render(
            "filters.html", at=at, groups=_groups(values, page.base, chosen, more)
        )
        return content.encode("utf-8", "replace"), page.until(at, expires_at)

    # The same beside every page of a listing.
    key = ("aside", page.variant, tuple((k, tuple(v)) for k, v in chosen.items()), more)
    filters, filters_expire = service.part(one, at, key, aside)
    items = shown.items(found.parts)
    drift: Mapping[str, Sequence[str]] = {}
    if health["drift"]:
        kinds, uids = list(health["drift"]), [item["uid"] for item in items]
        drift = queries.drifting(connection, one, kinds, uids)
    # By itself: what it gives need not pass through the templates around it, piece by piece.
    age = ages(page._, at.now)
    rows = page.render(
        "item.html",
        at=at,
        items=items,
        rows=[
            (
                *_ROW(item),
                age(item["synced_at"]),
                age(item["updated_at"]),
                drift.get(item["uid"], ()),
            )
            for item in items
        ],
        drift=drift,
    )
    following = found.end_cursor if found.has_next_page else None
    content = page.render(
        "catalogue.html",
        at=at,
        items=items,
        rows=Markup(rows),  # noqa: S704
        total=total,
        everything=one.artifact_count,
        q=chosen.get("q", [""])[0],
        sort=listing.sort if "sort" in chosen else "relevance",
        sorts=SORTS,
        hidden=[
            (name, value)
            for name, values in chosen.items()
            for value in values
            if name not in ("q", "sort")
        ],
        chips=_chips(page.base, chosen),
        following=following and f"{page.base}?{_query(chosen, after=following)}",
        first=None if listing.after is None else _link(page.base, chosen),
        health=health,
        notices=[*notices.of_health(health), *given],
        filters=Markup(filters.decode()),  # noqa: S704
    )
    expires_at = page.until(at, found.expires_at, filters_expire)
    return Made(content.encode("utf-8", "replace"), expires_at, following, found.stale)


def _refresh_form(page: _Page) -> str:
    assert page.collection_id is not None
    service, collection_id = _service(), page.collection_id

    def make(connection: Connection, one: Head, at: Moment) -> Made:
        health = shown.health(service, connection, one, at)
        return Made(as_json(health), shown.next_minute(at.now), None, stale=False)

    try:
        health = json.loads(service.kept(collection_id, "page health", make).data)
    except NotPopulatedError:
        health = None
    if health is not None:
        with service.reading() as connection:
            health |= runs.standing(connection, health["owners"])
    return page.render(
        "refresh.html",
        health=health,
        runs=service.runs(shown.RUNS, collection_id),
        form=page.form(collection_id, configured=health is None or health["configured"]),
        notices=[*notices.of_health(health), *shown.given(service, collection_id)]
        if health
        else (),
    )


def _groups(
    values: Mapping[str, Sequence[Mapping[str, Any]]],
    base: str,
    chosen: Mapping[str, Sequence[str]],
    more: str | None,
) -> list[dict[str, Any]]:
    """The facets with an address for each value, which chooses it or takes it back."""
    groups = []
    for facet in ("type", "state", *FACETS[1:]):
        selected = {value.casefold(): value for value in chosen.get(facet, ())}
        limit = shown.MANY if more == facet else shown.FEW
        offered = [
            (one["value"], one["count"], one["value"].casefold() in selected)
            for one in values[facet][:limit]
        ]
        there = {value.casefold() for value, _, _ in offered}
        offered += [(value, None, True) for fold, value in selected.items() if fold not in there]
        if not offered:
            continue
        groups.append(
            {
                "facet": facet,
                "values": [
                    (value, count, on, _link(base, _toggled(chosen, facet, value)))
                    for value, count, on in offered
                ],
                "more": f"{base}?{_query(chosen, more=facet)}#filter-{facet}"
                if len(values[facet]) > limit
                else None,
                "open": facet in ("type", "state", "tag") or bool(selected) or more == facet,
            }
        )
    return groups


def _chips(base: str, chosen: Mapping[str, Sequence[str]]) -> list[tuple[str, str, str]]:
    """What a listing is narrowed to, each with the address of the listing without it."""
    return [
        (name, value, _link(base, _toggled(chosen, name, value)))
        for name, values in chosen.items()
        if name not in ("q", "sort")
        for value in values
    ]


def _toggled(
    chosen: Mapping[str, Sequence[str]], facet: str, value: str
) -> dict[str, Sequence[str]]:
    fold = value.casefold()
    before = chosen.get(facet, ())
    after = [one for one in before if one.casefold() != fold]
    if len(after) == len(before):
        after.append(value)
    return {**chosen, facet: after}


def _link(base: str, chosen: Mapping[str, Sequence[str]]) -> str:
    query = _query(chosen)
    return f"{base}?{query}" if query else base


def _query(chosen: Mapping[str, Sequence[str]], **more: str) -> str:
    pairs = [(name, value) for name, values in chosen.items() for value in values]
    return urlencode([*pairs, *more.items()])


@lru_cache(maxsize=1024)
def _asked(query_string: bytes) -> tuple[Listing, dict[str, list[str]], str | None]:
    """The page that a query string asks for, what it names, and the facet to show all of.

    :raises InvalidRequestError: naming every parameter that is wrong.
    """
    values = schemas.query("page", query_string, lenient=True)
    filters = Filters.of(values, values["q"])
    sort = values.get("sort", "relevance")
    listing = Listing(filters, sort, LIMIT, values.get("after"))
    named = ("q", *FACETS, "state", "sort")
    chosen = {
        name: [values[name]] if isinstance(values[name], str) else list(values[name])
        for name in named
        if values.get(name)
    }
    return listing, chosen, values.get("more")


# --- parts -----------------------------------------------------------------------------------


def _service() -> ArtifactCacheService:
    service: ArtifactCacheService = current_app.extensions[ENDPOINT].service
    return service


def _guard() -> Guard:
    guard: Guard = current_app.extensions[ENDPOINT].guard
    return guard


def _home() -> str:
    """The address of the list of collections, as the client sees it, with a slash at its end."""
    prefix: str = current_app.extensions[ENDPOINT].settings.page_prefix
    return _quoted(f"{request.script_root}{prefix}/")


def _base(collection_id: str, below: str = "") -> str:
    """The address of a collection's pages, as the client sees it."""
    return f"{_home()}{quote(collection_id, safe='')}{below}"


@dataclass(slots=True)
class Templates:
    """The host's templates with what only ours need: nothing of the host's own changes.

    :ivar are_ours: whether the layout is the one that we bring.
    :ivar around: what our layout has before and after the content of pages.
    :ivar gathering: until when which collections are known to gather others.
    """

    environment: Environment
    translate: Translate
    are_ours: bool
    around: dict[Hashable, tuple[bytes, bytes]] = field(default_factory=dict)
    gathering: tuple[datetime | None, tuple[str, ...]] = (None, ())


def _templates() -> Templates:
    """Those of this app; they are not looked for before the first request."""
    kept: dict[str, Templates] = current_app.extensions[ENDPOINT].templates
    made = kept.get(PAGE)
    if made is None:
        environment = current_app.jinja_env.overlay()
        environment.filters = {
            **environment.filters,
            "text": plain,
            "escaped": escaped,
            "in_query": in_query,
            "size": size,
            "json": _json,
        }
        files = [
            environment.get_template(f"artifact_cache/{name}.html").filename or ""
            for name in ("layout", "base/layout", "head", "base/head")
        ]
        are_ours = all(Path(file).is_relative_to(TEMPLATES) for file in files)
        made = kept[PAGE] = Templates(environment, Translate(environment), are_ours)
    return made


@lru_cache(maxsize=256)
def _quoted(path: str) -> str:
    return quote(path, safe="/:@!$&'()*+,;=-._~")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@lru_cache(maxsize=1)
def _files() -> dict[str, tuple[bytes, str, str]]:
    """Our files by name: what is in them, of which type, and its digest."""
    return {
        file.name: (
            data := file.read_bytes(),
            _MEDIA_TYPES[file.suffix],
            hashlib.blake2b(data, digest_size=8).hexdigest(),
        )
        for file in sorted(STATIC.iterdir())
        if file.suffix in _MEDIA_TYPES
    }
