"""The JSON bodies that may come in; what is wrong with one is said field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flask import request
from marshmallow import RAISE, Schema, ValidationError, fields, validate
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.http import parse_list_header

from ..errors import InvalidRequestError
from ..files.artifact import TYPES
from ..files.manager import COLLECTION_ID
from ..refresh.selection import Selection

MAX_ID_LENGTH = 1000
MAX_PATH_LENGTH = 4096
MAX_IDS = 1000
MAX_PATHS = 10_000
MAX_ERRORS = 100
TEN_YEARS_MINUTES = 5_256_000

# A part of a path as an item's ``path`` shows it: a backslash begins the escape of what cannot
# be shown, so no part of it is a separator anywhere.
_PART = r"(?:[^/\\\u0000]|\\(?:\\|x[0-9a-f]{2}|u[0-9a-f]{4}))+"
PATH = (
    r"^(?![A-Za-z]:)"  # no drive
    r"(?!(?:[\s\S]*[/\\])?\.\.?(?:[/\\]|$))"  # no '.' and no '..', whatever separates
    rf"{_PART}(?:/{_PART})*$"
)
TEXT = r"^[^\u0000]*$"


class _Matches(validate.Validator):
    """A text as the pattern has it, which a client can read in the OpenAPI document.

    Half of a surrogate pair is refused, too: JSON can hold one, UTF-8 and databases cannot.
    """

    def __init__(self, pattern: str, message: str) -> None:
        # '$' alone would let a line break pass.
        self.regex = re.compile(pattern.replace("$", r"\Z"))
        self.message = message

    def __call__(self, value: str) -> str:
        if not self.regex.search(value) or _SURROGATE.search(value):
            raise ValidationError(self.message)
        return value


_SURROGATE = re.compile("[\ud800-\udfff]")


class _Minutes(fields.Float):
    """A number, and not a text of one."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.make_error("invalid", input=value)
        number: float = super()._deserialize(value, *args, **kwargs)
        return number


class _Flag(fields.Boolean):
    """True or false, and nothing that means it."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


def _text(pattern: str, message: str, longest: int, **options: Any) -> fields.String:
    metadata = {"pattern": pattern, **options.pop("metadata", {})}
    checks = [validate.Length(min=1, max=longest), _Matches(pattern, message)]
    return fields.String(validate=checks, metadata=metadata, **options)


def _list(of: fields.Field[Any], most: int, description: str) -> fields.List[Any]:
    # An empty list is refused: whoever computed it means nothing, and would get everything.
    return fields.List(
        of, validate=validate.Length(min=1, max=most), metadata={"description": description}
    )


def _collection_id() -> fields.String:
    return _text(
        f"^{COLLECTION_ID.pattern}$",
        "must be 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit",
        64,
        metadata={"description": "The id of a collection; without it, all of them."},
    )


def _artifact_id(**options: Any) -> fields.String:
    return _text(TEXT, "must be a text without NUL characters", MAX_ID_LENGTH, **options)


class _Body(Schema):
    """A JSON object of which every field is known."""

    class Meta:
        """Anything else is refused."""

        unknown = RAISE


class SyncBody(_Body):
    """Which artifact to read again."""

    artifact_id = _artifact_id(
        required=True, metadata={"description": "Its `uid`, or `type:name` if no other has it."}
    )
    collection_id = _collection_id()


class RefreshBody(_Body):
    """Which artifacts to read again; every field narrows it."""

    collection_id = _collection_id()
    older_than_minutes = _Minutes(
        allow_nan=False,
        validate=validate.Range(0, TEN_YEARS_MINUTES),
        metadata={"description": "Only what was not verified for this long; a new file always."},
    )
    tags = _list(
        _text(TEXT, "must be a text without NUL characters", 500), 100, "Only with one of these."
    )
    types = _list(fields.String(validate=validate.OneOf(TYPES)), len(TYPES), "Only of these types.")
    artifact_ids = _list(_artifact_id(), MAX_IDS, "Only these, each by `uid` or `type:name`.")
    paths = _list(
        _text(
            PATH,
            "must be relative to the root, with '/' between its parts, without '.' or '..',"
            " written as in the 'path' of an item",
            MAX_PATH_LENGTH,
        ),
        MAX_PATHS,
        "Only the artifacts that own these files, relative to the root.",
    )
    force = _Flag(load_default=False, metadata={"description": "Read every file, changed or not."})
    confirm = _text(
        "^[0-9a-f]{32}$",
        "must be the id of a refresh",
        32,
        metadata={"description": "The refresh whose removals were held back, to let them happen."},
    )


class InvalidateBody(_Body):
    """Which rows to mark as stale; all without any field."""

    collection_id = _collection_id()
    artifact_ids = _list(_artifact_id(), MAX_IDS, "Only these, each by `uid` or `type:name`.")


def selection(body: Mapping[str, Any]) -> Selection:
    """What a refresh is narrowed to; what is named twice counts once."""
    return Selection(
        collection_id=body.get("collection_id"),
        older_than_minutes=body.get("older_than_minutes"),
        **{
            name: tuple(dict.fromkeys(body.get(name, ())))
            for name in ("tags", "types", "artifact_ids", "paths")
        },
    )


def preferences(headers: Iterable[str]) -> set[str]:
    """The names in ``Prefer`` headers (RFC 7240, section 2), without values and parameters."""
    listed = parse_list_header(",".join(headers))
    return {one.partition(";")[0].partition("=")[0].strip().lower() for one in listed}


def load(rules: Schema, max_bytes: int) -> Mapping[str, Any]:
    """The checked body of the current request.

    :raises InvalidRequestError: naming every field that is wrong.
    :raises UnsupportedMediaType: if it is not JSON.
    :raises RequestEntityTooLarge: if it is too long.
    """
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("Send a JSON object as 'Content-Type: application/json'.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Send the body as it is, without a 'Content-Encoding'.")
    given = parse(_read(max_bytes))
    try:
        loaded: Mapping[str, Any] = rules.load(given)
    except ValidationError as error:
        errors = list(_named(error.messages_dict, sorted(rules.fields)))
        shown = ", ".join(f"'{name}'" for name, _ in errors[:5])
        more = f" and {len(errors) - 5} more" if len(errors) > 5 else ""
        message = f"wrong in the body: {shown}{more}"
        raise InvalidRequestError(message, errors[:MAX_ERRORS]) from None
    return loaded


def parse(data: bytes) -> dict[str, Any]:
    """The object of a JSON text.

    :raises InvalidRequestError: if it is not JSON, holds a key twice, or is no object.
    """
    try:
        given = json.loads(
            data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant
        )
    except InvalidRequestError:
        raise
    except json.JSONDecodeError as error:
        message = f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise InvalidRequestError(message) from None
    except UnicodeDecodeError as error:
        message = f"the body is not JSON: byte {error.start} is not UTF-8"
        raise InvalidRequestError(message) from None
    except (ValueError, RecursionError):  # a number of thousands of digits; nested too deeply
        raise InvalidRequestError("the body is not JSON that can be read") from None
    if not isinstance(given, dict):
        raise InvalidRequestError("the body must be a JSON object")
    return given


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            # Two readers would disagree on which one counts.
            errors = [(_short(name), "must not be there twice")]
            raise InvalidRequestError(f"wrong in the body: '{_short(name)}' is there twice", errors)
        found[name] = value
    return found


def _no_constant(name: str) -> None:
    raise InvalidRequestError(f"the body is not JSON: {name} is no number there")


def _read(max_bytes: int) -> bytes:
    """The body; of one that is too long, no more than shows that it is.

    Chunked bodies have no length that could be looked at. ``request.max_content_length`` would
    do, but can be set from Flask 3.1 on only, and would lift a lower limit of the host.
    """
    message = f"A body may have {max_bytes} bytes."
    if (request.content_length or 0) > max_bytes:
        raise RequestEntityTooLarge(message)
    data = b""
    while chunk := request.stream.read(max_bytes + 1 - len(data)):
        data += chunk
        if len(data) > max_bytes:
            raise RequestEntityTooLarge(message)
    return data or request.get_data()  # which is kept if a hook of the host has read it before


def _named(messages: Mapping[Any, Any], known: list[str]) -> Iterator[tuple[str, str]]:
    """Every wrong field with what is wrong; ``tags[2]`` is the third of the tags."""
    for name, found in messages.items():
        if isinstance(found, Mapping):
            for index, inner in found.items():
                yield f"{name}[{index}]", _sentence(inner)
        elif name not in known:
            yield _short(str(name)), f"is not a field here; known: {', '.join(known)}"
        else:
            yield name, _sentence(found)


def _sentence(messages: list[str]) -> str:
    return "; ".join(str(message).rstrip(".") for message in messages)


def _short(name: str) -> str:
    return name if len(name) <= 100 else f"{name[:100]}…"
