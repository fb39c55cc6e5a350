"""What may come in; unknown names are refused, with the known ones listed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from .. import freshness, queries, statements
from ..errors import InvalidRequestError
from ..files.artifact import TYPES
from ..files.drift import KINDS
from ..files.manager import COLLECTION_ID

MAX_VALUES = 50
MAX_LENGTH = 500
MAX_PARAMETERS = 200


def _no_nul(value: str) -> None:
    if "\0" in value:
        raise ValidationError("must not contain a NUL character")


_TEXT: list[Callable[[Any], Any]] = [validate.Length(max=MAX_LENGTH), _no_nul]


_NO_NUL = {"pattern": "^[^\\u0000]*$"}  # _no_nul for those who read the OpenAPI document


_ID_PATTERN = f"^{COLLECTION_ID.pattern}$"


def _many(*allowed: str, description: str = "Any of these.") -> fields.List[str]:
    one = fields.String(validate=validate.OneOf(allowed))
    if not allowed:
        one = fields.String(validate=_TEXT, metadata=_NO_NUL)
    return fields.List(
        one,
        validate=validate.Length(max=MAX_VALUES),
        metadata={"description": description},
    )


def _text(description: str, **options: Any) -> fields.String:
    return fields.String(
        validate=_TEXT, metadata={"description": description, **_NO_NUL}, **options
    )


def _collection_id(description: str) -> fields.String:
    return fields.String(
        validate=validate.Regexp(
            rf"^{COLLECTION_ID.pattern}\Z", error="must be the id of a collection"
        ),
        metadata={"description": description, "pattern": _ID_PATTERN},
    )


class FilterArgs(Schema):
    """What a listing can be narrowed to; each may be given several times, but ``q``."""

    type = _many(*TYPES)
    tag = _many(description="Any of these, without case.")
    author = _many()
    license = _many()
    origin = _many()
    drift = _many(*KINDS, description="With any of these differences from manifest and lock.")
    state = _many(*freshness.STATES)
    q = _text("Words; each begins a word of name, tags or description.", load_default="")


class ListingArgs(FilterArgs):
    """The query of a listing."""

    limit = fields.Integer(validate=validate.Range(1, 200), load_default=50)
    after = fields.String(
        metadata={"description": "The `end_cursor` of the page before, of the same listing."}
    )
    sort = fields.String(
        validate=validate.OneOf(statements.SORTS),
        metadata={"description": "`relevance` where there is a `q`, else `name`."},
    )


class PageArgs(ListingArgs):
    """The query of the HTML page."""

    more = fields.String(validate=validate.OneOf(queries.FACETS))


class ProblemsPageArgs(Schema):
    """The query of the HTML page of problems."""

    after = fields.String()


class FacetArgs(FilterArgs):
    """The query of the facets."""

    limit = fields.Integer(validate=validate.Range(1, 1000), load_default=100)


class RefreshesArgs(Schema):
    """The query of the list of refreshes."""

    limit = fields.Integer(validate=validate.Range(1, 100), load_default=20)
    collection_id = _collection_id("Only those of this collection.")


class ChangesArgs(Schema):
    """The query of the change feed."""

    since = fields.String(
        validate=_TEXT,
        metadata={"description": "The `next` of the page before; without it, all.", **_NO_NUL},
    )
    limit = fields.Integer(validate=validate.Range(1, 1000), load_default=200)
    collection_id = _collection_id("Only its artifacts.")


class ProblemsArgs(Schema):
    """The query of the list of problems."""

    limit = fields.Integer(validate=validate.Range(1, 1000), load_default=200)
    after = fields.String(
        metadata={"description": "The `end_cursor` of the page before, of the same list."}
    )
    collection_id = _collection_id("Only those of this collection.")


class NoArgs(Schema):
    """A route without a query."""


QUERIES: Mapping[str, Schema] = {
    "listing": ListingArgs(),
    "facets": FacetArgs(),
    "refreshes": RefreshesArgs(),
    "changes": ChangesArgs(),
    "page": PageArgs(),
    "problems": ProblemsArgs(),
    "problems page": ProblemsPageArgs(),
    "none": NoArgs(),
}


def query(schema: str, query_string: bytes, *, lenient: bool = False) -> Mapping[str, Any]:
    """The checked values of a query string.

    :param lenient: overlook names that are not known and fields that are empty, as an address has
        them that was passed on, or that a form has made.
    :raises InvalidRequestError: naming every parameter that is wrong.
    """
    rules = QUERIES[schema]
    text = query_string.decode("utf-8", "replace")
    values: dict[str, list[str]] = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        message = f"at most {MAX_PARAMETERS} parameters are taken"
        raise InvalidRequestError(message) from None
    for name, value in pairs:
        if not lenient or (value and name in rules.fields):
            values.setdefault(name, []).append(value)
    errors = [
        (name, f"is not a parameter here; known: {', '.join(sorted(rules.fields)) or 'none'}")
        for name in values
        if name not in rules.fields
    ]
    given: dict[str, Any] = {}
    for name, found in values.items():
        if isinstance(rules.fields.get(name), fields.List):
            given[name] = found
        elif len(found) > 1:
            errors.append((name, "may be given once"))
        else:
            given[name] = found[0]
    try:
        loaded: Mapping[str, Any] = rules.load(given, unknown=EXCLUDE)
    except ValidationError as error:
        errors += [(name, "; ".join(_flat(found))) for name, found in error.messages_dict.items()]
    if errors:
        names = ", ".join(f"'{name}'" for name, _ in errors)
        raise InvalidRequestError(f"wrong in the query: {names}", errors)
    return loaded


@lru_cache(maxsize=1024)
def listing(query_string: bytes) -> queries.Listing:
    """The page that a query string asks for.

    :raises InvalidRequestError: naming every parameter that is wrong.
    """
    parts = _AFTER.split(query_string)
    first, cursors = _first_page(b"".join(parts[::2])), parts[1::2]
    if not cursors:
        return first
    if len(cursors) > 1:
        raise InvalidRequestError("'after' may be given once", [("after", "may be given once")])
    after = unquote(cursors[0].decode("ascii", "replace"))
    return queries.Listing(first.filters, first.sort, first.limit, after)


def next_page(query_string: bytes, cursor: str) -> str:
    """The query string of the page after, safe within the angle brackets of a ``Link``."""
    kept = _quoted(_AFTER.sub(b"", query_string))
    return f"{kept}&after={cursor}" if kept else f"after={cursor}"


@lru_cache(maxsize=1024)
def _quoted(query_string: bytes) -> str:
    query = query_string.lstrip(b"&").decode("latin-1")
    return quote(query, safe="%/:@!$&'()*+,;=-._~?")


# Every page has another cursor, and the same of everything else.
_AFTER = re.compile(rb"(?:^|&)after=([^&]*)")


@lru_cache(maxsize=1024)
def _first_page(query_string: bytes) -> queries.Listing:
    values = query("listing", query_string)
    filters = queries.Filters.of(values, values["q"])
    sort = values.get("sort") or ("relevance" if filters.words else "name")
    return queries.Listing(filters, sort, values["limit"], values.get("after"))


def _flat(messages: Any) -> list[str]:
    """The messages of a field, whether or not they are by index."""
    if isinstance(messages, dict):
        return [text for inner in messages.values() for text in _flat(inner)]
    return [str(message).rstrip(".") for message in messages]
