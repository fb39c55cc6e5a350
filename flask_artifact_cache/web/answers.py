"""What goes out, as schemas; the OpenAPI document and the tests read them."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from ..files.artifact import TYPES
from ..files.drift import KINDS
from ..freshness import STATES

RUN_ID = {"minLength": 32, "maxLength": 32, "example": "5f0c2a9be1d44c6f8a37e2d1b0c9f846"}


def _told(description: str, **more: Any) -> dict[str, Any]:
    return {**({"description": description} if description else {}), **more}


def _text(description: str = "", **options: Any) -> fields.String:
    metadata = _told(description, **options.pop("metadata", {}))
    return fields.String(required=True, metadata=metadata, **options)


def _maybe(description: str = "") -> fields.String:
    return _text(description, allow_none=True)


def _time(description: str = "", *, nullable: bool = False) -> fields.String:
    return _text(description, allow_none=nullable, metadata={"format": "date-time"})


def _count(description: str = "") -> fields.Integer:
    return fields.Integer(
        required=True, validate=validate.Range(min=0), metadata=_told(description)
    )


def _flag(description: str = "") -> fields.Boolean:
    return fields.Boolean(required=True, metadata=_told(description))


def _texts(description: str = "", **options: Any) -> fields.List[Any]:
    return fields.List(fields.String(), required=True, metadata=_told(description), **options)


def _many(schema: type[Schema]) -> fields.List[Any]:
    return fields.List(fields.Nested(schema), required=True)


class Problem(Schema):
    """What is wrong with a file."""

    code = _text()
    message = _text()
    path = _text("Relative to the root.")
    line = fields.Integer(required=True, allow_none=True)
    column = fields.Integer(required=True, allow_none=True)


class Artifact(Schema):
    """An artifact as a listing shows it."""

    uid = _text("Short hash of collection, type and path.")
    id = _text("`type:name`, which several may share.")
    collection_id = _text("The collection that owns it.")
    type = _text(validate=validate.OneOf(TYPES))
    name = _text()
    description = _maybe()
    author = _maybe()
    license = _maybe()
    version = _maybe()
    tags = _texts()
    tools = _texts("Null: nothing is declared; empty: none is allowed.", allow_none=True)
    model = _maybe()
    source = _maybe()
    origin = _text()
    origin_source = _maybe()
    version_spec = _maybe()
    resolved_sha = _maybe()
    resolved_version = _maybe()
    path = _text("The file with its metadata, relative to the root.")
    plugin = _maybe("The enclosing plugin.")
    secondary = _flag("Whether it is a fixture, a backup or a generated copy.")
    content_hash = _maybe()
    file_count = _count()
    total_size = _count("Bytes.")
    warnings = _many(Problem)
    error = fields.Nested(Problem, required=True, allow_none=True)
    state = _text(validate=validate.OneOf(STATES))
    synced_at = _time("When it was last compared with its file.", nullable=True)
    updated_at = _time("When it last changed.")


class ArtifactDetail(Artifact):
    """An artifact with everything that is known of it."""

    details = fields.Dict(required=True, metadata={"description": "What depends on its type."})


class PageInfo(Schema):
    """Where a page is in its listing."""

    has_next_page = _flag()
    end_cursor = _maybe("The `after` of the next page.")
    total_count = _count("Of all pages.")


class Page(Schema):
    """A page of artifacts."""

    items = _many(Artifact)
    page_info = fields.Nested(PageInfo, required=True)


class Collection(Schema):
    """A collection with its counts."""

    id = _text()
    path_available = _flag("Whether its folder was there when it was last looked for.")
    artifact_count = _count()
    stale_count = _count()
    revision = _count("Moves with every change; 0: it was not read yet.")
    last_refreshed_at = _time(nullable=True)
    path = fields.String(
        metadata={"description": "Its folder, for requests with a token from the same machine."}
    )


class Collections(Schema):
    """All collections."""

    collections = _many(Collection)


class ListedProblem(Problem):
    """What is wrong with a file of a collection, and how to mend it."""

    collection_id = _text("The collection that owns the file.")
    uid = _maybe("Of the artifact; null: it is a problem of the collection as a whole.")
    artifact_id = _maybe("`type:name` of the artifact.")
    hint = _text("How to mend it.")


class Problems(Schema):
    """A page of problems."""

    problems = _many(ListedProblem)
    page_info = fields.Nested(PageInfo, required=True)


class CollectionStats(Schema):
    """How a collection is doing."""

    id = _text()
    configured = _flag("Whether it is in the settings, or gathers those that are.")
    path_available = _flag("Whether its folder was there when it was last looked for.")
    artifact_count = _count("Of its members.")
    stale_count = _count("Of its members.")
    revision = _count("Moves with every change; 0: it was not read yet.")
    last_refreshed_at = _time("When all of it was last compared with its files.", nullable=True)
    states = fields.Dict(
        keys=fields.String(validate=validate.OneOf(STATES)),
        values=_count(),
        required=True,
        metadata={"description": "How many of its members are in which state, where any is."},
    )
    problem_count = _count("As many as `GET /problems` lists of it.")
    drift = fields.Dict(
        keys=fields.String(validate=validate.OneOf(KINDS)),
        values=_count(),
        required=True,
        metadata={
            "description": "How many of its members have which kind of drift, where any has."
        },
    )
    oldest_synced_at = _time(
        "When the artifact was compared that waits longest for it.", nullable=True
    )
    daemon_seen_at = _time("When the daemon last asked for a refresh of it.", nullable=True)


class CacheStats(Schema):
    """How the cache is doing; an artifact counts once, whichever collections gather it."""

    artifact_count = _count()
    fresh_count = _count()
    stale_count = _count()
    missing_count = _count()
    quarantined_count = _count()
    problem_count = _count("As many as `GET /problems` lists.")
    oldest_sync_age_seconds = fields.Float(
        required=True,
        allow_none=True,
        metadata={"description": "Of the artifact that waits longest for being compared."},
    )
    ttl_minutes = fields.Float(required=True)
    hits = _count("Requests answered from the cache.")
    misses = _count("Requests for what is not in the cache.")
    hit_rate = fields.Float(required=True, allow_none=True, validate=validate.Range(min=0, max=1))
    counted_in = _text(
        "Whose hits and misses these are.",
        validate=validate.OneOf(("this process", "all processes")),
    )
    upstream_limited_until = _time(
        "Until when GitHub is not to be asked, if it has said so.", nullable=True
    )
    collections = _many(CollectionStats)


class Ready(Schema):
    """Whether the app can serve what it should."""

    status = _text(validate=validate.OneOf(("ok",)))
    collections = _count("How many were read.")


class FacetValue(Schema):
    """A value, and how many artifacts have it."""

    value = _text()
    count = _count()


class FacetValues(Schema):
    """The values of each facet, the most frequent first."""

    type = _many(FacetValue)
    tag = _many(FacetValue)
    author = _many(FacetValue)
    license = _many(FacetValue)
    origin = _many(FacetValue)
    drift = _many(FacetValue)
    state = _many(FacetValue)


class Facets(Schema):
    """The facets of what a query finds."""

    facets = fields.Nested(FacetValues, required=True)


class Synced(Schema):
    """What reading one artifact again brought."""

    artifact_id = _text()
    collection_id = _text()
    synced_at = _time(nullable=True)
    fields_updated = _texts("The fields that have another value now.")
    status = _text(
        validate=validate.OneOf(("created", "updated", "unchanged", "removed", "quarantined"))
    )


class Failure(Schema):
    """What kept an artifact, a file or a collection from being read."""

    collection_id = fields.String(metadata={"description": "Where several were refreshed."})
    artifact_id = fields.String(allow_none=True)
    path = fields.String(allow_none=True, metadata={"description": "Relative to the root."})
    line = fields.Integer(allow_none=True)
    column = fields.Integer(allow_none=True)
    code = _text()
    message = _text()


class _Counted(Schema):
    """What every refresh counts, in artifacts."""

    refresh_id = _text(metadata=RUN_ID)
    artifacts_refreshed = _count("Verified against their files in this run.")
    created = _count()
    updated = _count()
    unchanged = _count()
    removed = _count()
    skipped = _count("Left out by the filters.")
    duration_seconds = fields.Float(required=True, validate=validate.Range(min=0))


class Refreshed(_Counted):
    """What a refresh did; counts are of artifacts."""

    errors = _many(Failure)


class Started(Schema):
    """A refresh that goes on in the background."""

    refresh_id = _text(metadata=RUN_ID)


class Invalidated(Schema):
    """How many rows are stale now."""

    invalidated = _count()
    unknown = _texts("The ids that no artifact has.")  # type: ignore[assignment]


class Progress(Schema):
    """How far a refresh is."""

    done = _count()
    total = _count()


class RefreshSummary(_Counted):
    """A refresh, waiting, running or done; counts are of artifacts."""

    collection_id = _maybe("Null: several.")
    trigger = _text("What started it.")
    filters = fields.Dict(required=True, metadata={"description": "What it was narrowed to."})
    outcome = _text(
        validate=validate.OneOf(
            (
                *("queued", "running", "succeeded", "partial", "failed"),
                *("needs_confirmation", "superseded"),
            )
        )
    )
    started_at = _time()
    finished_at = _time(nullable=True)
    progress = fields.Nested(Progress, required=True)
    quarantined = _count("How many have a file that cannot be used.")
    withheld = _count("How many removals wait for a confirmation.")
    error_count = _count()


class Refresh(RefreshSummary):
    """A refresh with what went wrong."""

    errors = _many(Failure)


class Refreshes(Schema):
    """The last refreshes, the newest first."""

    refreshes = _many(RefreshSummary)


class Change(Schema):
    """What happened to an artifact."""

    kind = _text(validate=validate.OneOf(("created", "updated", "missing", "restored", "removed")))
    at = _time()
    collection_id = _text("The collection that owns it.")
    uid = _text()
    artifact_id = _text("`type:name`, as it was called then.")
    path = _text("Relative to the root.")
    fields_ = fields.List(
        fields.String(),
        required=True,
        data_key="fields",
        metadata={"description": "Those that have another value since then."},
    )
    artifact = fields.Nested(
        Artifact,
        required=True,
        allow_none=True,
        metadata={"description": "As it is now; null: it is gone by now."},
    )


class Changes(Schema):
    """A page of the change feed."""

    changes = _many(Change)
    next = _text("The `since` of the next page.")
    has_more = _flag("Whether there is more already.")


class FieldError(Schema):
    """One field or parameter that is wrong."""

    field = _text("`tags[2]` is the third of the tags.")
    message = _text()


class Candidate(Schema):
    """One of several artifacts that share an id."""

    uid = _text()
    path = _text()
    collection_id = _text()


class ProblemDetails(Schema):
    """An error (RFC 9457)."""

    type = _text(metadata={"example": "urn:artifact-cache:problem:not_found"})
    title = _text()
    status = fields.Integer(required=True, validate=validate.Range(400, 599))
    detail = _text()
    code = _text("Stable; for programs.")
    errors = _many(FieldError)
    refresh_id = fields.String(metadata={"description": "Send it back as `confirm` (mass_loss)."})
    candidates = fields.List(
        fields.Nested(Candidate), metadata={"description": "Who shares the id (ambiguous_id)."}
    )
