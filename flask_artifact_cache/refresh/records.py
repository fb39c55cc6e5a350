"""One artifact as the rows that stand for it; pure.

The JSON of a listing is made here, when the row is written, because the cache is read far more
often than it changes. What depends on the time or on the row's history is left out of it.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

from ..files.artifact import HASH_LIMIT, Artifact, uid
from ..files.problems import Problem
from ..models import FACET_VALUE_LENGTH, NAME_KEY_LENGTH
from ..search import fold

# The fields of an item that come from the files, in the order in which they are served.
FIELDS = (
    "type",
    "name",
    "description",
    "author",
    "license",
    "version",
    "tags",
    "tools",
    "model",
    "source",
    "origin",
    "origin_source",
    "version_spec",
    "resolved_sha",
    "resolved_version",
    "path",
    "plugin",
    "secondary",
    "content_hash",
    "file_count",
    "total_size",
)


_VALUES = attrgetter(*FIELDS)

# The facet of what has warnings, and the value of the first of them.
PROBLEM, WARNING = "problem", "warning"
DRIFT = "drift"


class Record(NamedTuple):
    """What the database keeps of one artifact.

    :ivar columns: of the artifact's row, but for times and condition.
    :ivar facets: ``(facet, folded value, value as written)``.
    :ivar search: name, tags and description, folded.
    """

    uid: str
    name_key: str
    columns: dict[str, Any]
    facets: tuple[tuple[str, str, str], ...]
    search: tuple[str, str, str]
    error: Problem | None

    @property
    def is_passing(self) -> bool:
        """Whether what is wrong may pass although no file changes.

        A file that cannot be opened is none that says nothing: a process may be short of
        handles, or a disk away.
        """
        if self.error is not None and self.error.code == "E_UNREADABLE":
            return True
        columns = self.columns
        return columns["content_hash"] is None and any(
            warning["code"] == "W_NOT_HASHED" and columns["total_size"] <= HASH_LIMIT
            for warning in columns["warnings"]
        )

    @property
    def artifact_id(self) -> str:
        """``type:name``, which several may share."""
        return f"{self.columns['type']}:{self.columns['name']}"


def record(collection_id: str, artifact: Artifact) -> Record:
    """The rows of an artifact of a collection."""
    identity = uid(collection_id, artifact.type, artifact.path)
    item = {
        "uid": identity,
        "id": artifact.id,
        "collection_id": collection_id,
        **dict(zip(FIELDS, _VALUES(artifact), strict=True)),
        "warnings": [as_dict(problem) for problem in artifact.warnings],
        "error": None if artifact.error is None else as_dict(artifact.error),
    }
    item["tags"] = list(artifact.tags)
    item["tools"] = None if artifact.tools is None else list(artifact.tools)
    details = {
        **artifact.details,
        "title": artifact.title,
        "namespace": artifact.namespace,
        "parent": artifact.parent,
        "argument_hint": artifact.argument_hint,
    }
    # From here on they are columns: what is encoded is not copied.
    columns = item
    columns["payload"], columns["details"] = as_json(item), as_json(details)
    del columns["id"]  # the row's own is a number
    return Record(
        uid=identity,
        name_key=name_key(artifact.name),
        columns=columns,
        facets=_facets(columns, artifact.details.get("drift", ())),
        search=(
            fold(artifact.name),
            fold(" ".join(artifact.tags)),
            fold(artifact.description or ""),
        ),
        error=artifact.error,
    )


def last_good(payload: bytes, error: Problem) -> bytes:
    """The payload of a row whose file has become unreadable: as it was, and the error."""
    return as_json({**json.loads(payload), "error": as_dict(error)})


def name_key(name: str) -> str:
    """What names are sorted by: their code points, without case, to the key's length."""
    return folded(name)[:NAME_KEY_LENGTH]


def facet_value(value: str) -> str:
    """What values of a facet are compared by; long ones keep their difference.

    Without case, and without blanks around it, which only MariaDB would ignore.
    """
    key = folded(value).strip()
    if len(key) <= FACET_VALUE_LENGTH:
        return key
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return f"{key[: FACET_VALUE_LENGTH - 17]}~{digest}"


@lru_cache(maxsize=4096)
def value_id(collection_id: str, facet: str, value: str) -> int:
    """What a folded value of a facet is stored under: 63 bits, the same everywhere, as a uid is."""
    text = f"{collection_id}\0{facet}\0{value}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def folded(value: str) -> str:
    """A text in NFC and without case."""
    if value.isascii():
        return value.lower()
    return unicodedata.normalize("NFC", value).casefold()


def as_dict(problem: Problem) -> dict[str, Any]:
    """A problem as it is served."""
    return {
        "code": problem.code,
        "message": problem.message,
        "path": problem.path,
        "line": problem.line,
        "column": problem.column,
    }


# What is encoded was copied with bounds, so it holds no circle to look for.
_ENCODE = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), default=str, check_circular=False
).encode


def as_json(value: object) -> bytes:
    """Compact UTF-8."""
    return _ENCODE(value).encode()


def _facets(columns: Mapping[str, Any], drift: Any) -> tuple[tuple[str, str, str], ...]:
    found = [
        (facet, key, value)
        for facet in ("type", "author", "license", "origin")
        if (value := columns[facet]) and (key := facet_value(value))
    ]
    # No facet to choose by, but so that the files with warnings are one range of an index. Each
    # further warning has a value of its own, so that the kept counts add up to all of them.
    for number in range(1, len(columns["warnings"]) + 1):
        value = WARNING if number == 1 else f"{WARNING} {number}"
        found.append((PROBLEM, value, value))
    found += [(DRIFT, kind, kind) for kind in drift]
    # Two tags that differ in case alone are one value.
    tags = {key: tag for tag in reversed(columns["tags"]) if (key := facet_value(tag))}
    found += [("tag", value, label) for value, label in tags.items()]
    return tuple(found)
