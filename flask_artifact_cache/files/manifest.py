"""collection.toml and collection.lock, the manifest of a SkillMeat collection, as values."""

from __future__ import annotations

import hashlib
import re
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from ..errors import VanishedError
from .documents import storable
from .problems import Problem, UnreadableError
from .reading import Reader
from .servers import names
from .walk import shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TOML_LIMIT = 32 << 20  # bytes; 10,000 artifacts make 17.6 MB
NAME = "collection.toml"
LOCK_NAME = "collection.lock"
TYPES = frozenset({"skill", "command", "agent", "hook", "mcp"})  # of entries
# Those that SkillMeat 0.74.0 has beside them, and that are no artifacts here.
OTHER_TYPES = frozenset(
    (
        *("workflow", "composite", "context_module", "template", "group", "deployment_set"),
        *("context_pack", "bundle", "reviewer_role", "council", "orchestration", "soul"),
        *("project_config", "spec_file", "rule_file", "context_file", "progress_template"),
    )
)
_REMEMBERED = 8  # manifests
_TRIES = 20  # to read both files while nobody writes

_INVALID = "the file is not valid TOML: wrong encoding, huge number or too deep"
_PLACE = re.compile(r"\(at line (\d+), column (\d+)\)")
_TYPE_LINE = re.compile(r"""^[ \t]*type[ \t]*=[ \t]*(["'])(.*?)\1""", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Metadata:
    """A copy of the front matter, made when the artifact was added; the file wins over it."""

    title: str | None = None
    description: str | None = None
    author: str | None = None
    license: str | None = None
    version: str | None = None
    tools: tuple[str, ...] | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One artifact of the manifest, with what the lock knows of it.

    :ivar upstream_at: the commit that a sync has seen at its source and did not put in place, or
        ``drift.GONE``; a key of ours.
    """

    name: str
    type: str
    path: str  # as written; relative to the manifest's folder
    origin: str = "local"
    origin_source: str | None = None
    upstream: str | None = None
    version_spec: str | None = None
    resolved_sha: str | None = None
    resolved_version: str | None = None
    tags: tuple[str, ...] = ()
    metadata: Metadata = Metadata()
    locked_hash: str | None = None
    upstream_at: str | None = None


@dataclass(frozen=True, slots=True)
class Server:
    """One MCP server of the manifest.

    :ivar env: names of variables; their values are never kept.
    """

    name: str
    repo: str | None = None
    version: str | None = None
    description: str | None = None
    status: str | None = None
    resolved_sha: str | None = None
    resolved_version: str | None = None
    env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a collection says of itself.

    :ivar problems: without a path.
    """

    name: str | None
    entries: tuple[Entry, ...]
    servers: tuple[Server, ...]
    problems: tuple[Problem, ...]


class Manifests:
    """Reads manifests, and remembers the last ones by the hash of their bytes.

    Parsing 17 MB of TOML takes seconds, and most changes of a collection are not in there.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, Manifest | None] = OrderedDict()
        self._lock = Lock()

    def read(self, read: Reader, folder: str = "", *, lock: bool = True) -> Manifest | None:
        """Read the manifest of the collection in ``folder``; None if the file is something else.

        :param lock: whether there is a lock beside it.
        :raises VanishedError: if there is no manifest.
        :raises UnreadableError: E_TOML, E_TOO_LARGE, E_UNREADABLE; the path is set.
        """
        pair = _pair(read, folder, lock)
        for _ in range(_TRIES):
            before, pair = pair, _pair(read, folder, lock)
            if pair == before:
                # There was an instant at which both were so. A writer between the two files, or
                # many of them, would have changed one of the four.
                break
        digests = (hashlib.blake2b(part, digest_size=16).digest() for part in pair)
        key = b"".join(digests)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        prefix = folder + "/" if folder else ""
        manifest = parse(parsed(pair[0], prefix + NAME), parsed(pair[1], prefix + LOCK_NAME))
        if manifest is not None and any(entry.type not in TYPES for entry in manifest.entries):
            problems = _unknown_types(manifest.entries, decoded(pair[0], prefix + NAME))
            manifest = replace(manifest, problems=(*manifest.problems, *problems))
        with self._lock:
            self._known[key] = manifest
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return manifest


def _pair(read: Reader, folder: str, lock: bool) -> tuple[bytes, bytes]:
    prefix = folder + "/" if folder else ""
    # One byte more than is allowed tells that there is more.
    first = read(prefix + NAME, TOML_LIMIT + 1)
    if not lock:
        return first, b""
    try:
        return first, read(prefix + LOCK_NAME, TOML_LIMIT + 1)
    except VanishedError:
        return first, b""


def parsed(data: bytes, path: str) -> dict[str, Any]:
    """Parse one of the two files.

    :raises UnreadableError: E_TOML, E_TOO_LARGE; ``path`` is in it.
    """
    value = loaded(decoded(data, path), path)
    return storable(value) if b"\\u" in data else value


def decoded(data: bytes, path: str) -> str:
    """The text of one of the two files; raises as :func:`parsed`."""
    if len(data) > TOML_LIMIT:
        text = f"the file has over {TOML_LIMIT} bytes"
        raise UnreadableError(Problem("E_TOO_LARGE", text, path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableError(Problem("E_TOML", _INVALID, path)) from error


def loaded(text: str, path: str) -> dict[str, Any]:
    """Exactly what a text says, with characters that cannot be stored; raises as :func:`parsed`."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # The parser's own words may repeat a key of the file.
        place = _PLACE.search(str(error))
        line, column = (int(place[1]), int(place[2])) if place else (None, None)
        problem = Problem("E_TOML", "the file is not valid TOML", path, line, column)
        raise UnreadableError(problem) from error
    except (RecursionError, ValueError) as error:
        raise UnreadableError(Problem("E_TOML", _INVALID, path)) from error


def parse(toml: Mapping[str, Any], lock: Mapping[str, Any]) -> Manifest | None:
    """Take the values of both files; None if ``toml`` is no manifest of a collection.

    Unknown keys are ignored. A value of the wrong type counts as absent, with W_TYPE, except
    that numbers and dates count as their text. An entry without name, type or path is left out.
    """
    head = toml.get("collection")
    listed = toml.get("artifacts")
    if not isinstance(head, Mapping) and not isinstance(listed, list):
        return None
    problems: list[Problem] = []
    head = _Table(head if isinstance(head, Mapping) else {}, "collection", problems)
    head.text("version")
    locked = lock.get("lock")
    locked = locked.get("entries") if isinstance(locked, Mapping) else None
    locks = locked if isinstance(locked, Mapping) else {}
    entries = []
    for number, item in enumerate(listed if isinstance(listed, list) else (), 1):
        entry = _entry(_Table(item, f"artifact {number}", problems), locks)
        if entry is not None:
            entries.append(entry)
    servers = []
    listed = toml.get("mcp_servers")
    for number, item in enumerate(listed if isinstance(listed, list) else (), 1):
        server = _server(_Table(item, f"MCP server {number}", problems))
        if server is not None:
            servers.append(server)
    return Manifest(head.text("name"), tuple(entries), tuple(servers), tuple(problems))


def _entry(table: _Table, locks: Mapping[str, Any]) -> Entry | None:
    name, type_, path = table.needed("name"), table.needed("type"), table.needed("path")
    if not (name and type_ and path):
        return None
    lock = locks.get(f"{name}::{type_}")
    locked = _Table(lock if isinstance(lock, Mapping) else {}, "lock", [])
    metadata = table.table("metadata")
    return Entry(
        name=name,
        type=type_,
        path=path,
        origin=table.text("origin") or "local",
        origin_source=table.text("origin_source"),
        upstream=table.text("upstream") or locked.text("upstream"),
        version_spec=table.text("version_spec"),
        resolved_sha=table.text("resolved_sha") or locked.text("resolved_sha"),
        resolved_version=table.text("resolved_version") or locked.text("resolved_version"),
        # Older writers put the tags into the metadata; a reader merges them.
        tags=tuple(dict.fromkeys((*(table.texts("tags") or ()), *(metadata.texts("tags") or ())))),
        metadata=Metadata(
            title=metadata.text("title"),
            description=metadata.text("description"),
            author=metadata.text("author"),
            license=metadata.text("license"),
            version=metadata.text("version"),
            tools=metadata.texts("tools"),
            model=metadata.text("model"),
        ),
        locked_hash=locked.text("content_hash"),
        upstream_at=locked.text("upstream_at"),
    )


def _unknown_types(entries: Iterable[Entry], text: str) -> Iterator[Problem]:
    """Tell which entries have a type that is not one of ``TYPES``, and where, if that is certain.

    It is if as many lines of the manifest's ``text`` give something such a type as there are
    entries that have it.
    """
    unknown: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.type not in TYPES:
            unknown.setdefault(entry.type, []).append(entry)
    lines: dict[str, list[int | None]] = {}
    line, start = 1, 0
    for match in _TYPE_LINE.finditer(text):
        line += text.count("\n", start, match.start())
        start = match.start()
        if match[2] in unknown:
            lines.setdefault(match[2], []).append(line)
    for type_, same in unknown.items():
        places = lines.get(type_, [])
        if len(places) != len(same):
            places = [None] * len(same)
        for entry, place in zip(same, places, strict=True):
            message = f"the entry '{shown(entry.name)}' has the unknown type '{shown(type_)}'"
            yield Problem("W_UNKNOWN_TYPE", message, line=place)


def _server(table: _Table) -> Server | None:
    name = table.needed("name")
    if not name:
        return None
    return Server(
        name=name,
        repo=table.text("repo"),
        version=table.text("version"),
        description=table.text("description"),
        status=table.text("status"),
        resolved_sha=table.text("resolved_sha"),
        resolved_version=table.text("resolved_version"),
        env=tuple(names(table.value.get("env_vars"))),
    )


class _Table:
    """One table of the manifest; notes what is not of the right type."""

    def __init__(self, value: object, label: str, problems: list[Problem]) -> None:
        self.value: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        self._label = label
        self._problems = problems

    def text(self, key: str) -> str | None:
        value = self.value.get(key)
        if value is None or isinstance(value, str):
            return value or None
        self._wrong(key, "text")
        return None if isinstance(value, (list, Mapping)) else str(value)

    def needed(self, key: str) -> str | None:
        value = self.text(key)
        if not value:
            self._problems.append(Problem("W_TYPE", f"{self._label} has no {key}"))
        return value

    def texts(self, key: str) -> tuple[str, ...] | None:
        value = self.value.get(key)
        if value is None:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._wrong(key, "a list of texts")
            return None
        return tuple(value)

    def table(self, key: str) -> _Table:
        value = self.value.get(key)
        if value is not None and not isinstance(value, Mapping):
            self._wrong(key, "a table")
        return _Table(value, f"{self._label}, {key}", self._problems)

    def _wrong(self, key: str, wanted: str) -> None:
        self._problems.append(Problem("W_TYPE", f"{self._label}: {key} is not {wanted}"))
