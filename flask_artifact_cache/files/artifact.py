"""One place on disk -> one Artifact value."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

from ..errors import VanishedError
from . import documents, drift, fields, frontmatter, plugins, servers
from .layouts import Place
from .manifest import Entry, Server
from .problems import Problem, UnreadableError
from .reading import Files
from .walk import Evidence, Folder

TYPES = ("skill", "command", "agent", "hook", "mcp", "plugin")

# Bytes of an artifact that are hashed; the largest real skill has 14 MB.
HASH_LIMIT = 256 << 20
_TEXT_SUFFIXES = (".md", ".mdc", ".markdown", ".txt")

# The detail view's copy of the front matter: characters, items and depth.
TEXT_LIMIT = 2_000
ITEM_LIMIT = 100
DEPTH_LIMIT = 6
_KEY_LIMIT = 100


class Artifact(NamedTuple):
    """One artifact as its files show it.

    :ivar path: as :func:`shown` gives it, with ``#fragment`` where one file holds several.
    :ivar tools: None where nothing is declared, empty where none is allowed.
    :ivar source: where it comes from upstream.
    :ivar plugin: the enclosing plugin's name.
    :ivar secondary: whether it lies among fixtures, backups or generated copies.
    :ivar content_hash: SHA-256 as SkillMeat computes it; None where it is not known.
    :ivar total_size: bytes of the ``file_count`` files that it owns.
    :ivar error: why no field could be taken from the file; the fields are the path's then.
    :ivar parent: the outer skill's folder.
    :ivar details: what only a detail view shows, bounded and without secrets.
    """

    type: str
    name: str
    path: str
    description: str | None
    author: str | None
    license: str | None
    version: str | None
    tags: tuple[str, ...]
    tools: tuple[str, ...] | None
    model: str | None
    source: str | None
    origin: str
    origin_source: str | None
    version_spec: str | None
    resolved_sha: str | None
    resolved_version: str | None
    plugin: str | None
    secondary: bool
    content_hash: str | None
    file_count: int
    total_size: int
    warnings: tuple[Problem, ...]
    error: Problem | None
    title: str | None
    namespace: str | None
    parent: str | None
    argument_hint: str | None
    details: Mapping[str, object]

    @property
    def id(self) -> str:
        """Type and name; several artifacts may share it."""
        return f"{self.type}:{self.name}"


def uid(collection_id: str, type_: str, path: str) -> str:
    """Make the identity of an artifact: 16 hexadecimal digits, the same for ever and everywhere."""
    return hashlib.sha256(f"{collection_id}\0{type_}\0{path}".encode()).hexdigest()[:16]


def read(place: Place, files: Files) -> Artifact:
    """Read the artifact at ``place``; opens each of its files once.

    A file that cannot be used makes an artifact with an ``error``, never an exception.

    :raises VanishedError: if the metadata is no longer there.
    """
    content: _Content | None = None
    try:
        if isinstance(place.entry, Server):
            return _from_manifest(place, place.entry)
        if place.fragment is not None:
            data = files.read(place.file, documents.JSON_LIMIT + 1, place.evidence)
            return _from_part(place, _mapping(data)[0])
        head, content = _load(place, files)
        if not place.file.endswith(".json"):
            return _from_text(place, head, content)
        if place.type == "plugin":
            value, warnings = _mapping(head)
            return _from_plugin(place, value, content, warnings)
        return _from_json(place, *documents.load(head), content)
    except UnreadableError as error:
        values = fields.normalise(place.type, {}, fallback_name=place.name)
        # Nothing was read, so nothing is missing: only the error counts.
        values = values._replace(problems=())
        return _build(place, values, content or _unread(place), error=error.problem.at(place.path))


# Bytes


class _Content(NamedTuple):
    """What is known of the bytes that an artifact owns."""

    hash: str | None
    file_count: int
    total_size: int
    warnings: tuple[Problem, ...] = ()


def _load(place: Place, files: Files) -> tuple[bytes, _Content]:
    """Read the beginning of the metadata file, and what is known of all files."""
    folder = place.folder
    if folder is None:
        owned = [(place.file, place.evidence)]
        prefix = None
    else:
        owned = _files(folder)
        prefix = len(folder.path) + 1 if folder.path else 0
    total = sum(evidence.size for _, evidence in owned)
    limit = documents.JSON_LIMIT + 1 if place.file.endswith(".json") else frontmatter.READ_LIMIT
    if total > HASH_LIMIT:
        text = f"the artifact has over {HASH_LIMIT >> 20} MB and is not hashed"
        problem = Problem("W_NOT_HASHED", text, place.path)
        head = files.read(place.file, limit, place.evidence)
        return head, _Content(None, len(owned), total, (problem,))
    # SkillMeat's hash: of a file its bytes; of a folder, for each file in the order of its
    # path's parts, the path below the folder and the bytes, with nothing in between.
    hasher = hashlib.sha256()
    head = b""
    size = count = 0
    warnings: tuple[Problem, ...] = ()
    for path, evidence in owned:
        if prefix is not None:
            hasher.update(path[prefix:].encode("utf-8", "surrogateescape"))
        try:
            for part in files.chunks(path, evidence):
                hasher.update(part)
                size += len(part)
                if path == place.file and len(head) < limit:
                    head += part[: limit - len(head)]
            count += 1
        except VanishedError:
            if path == place.file:
                raise
        except UnreadableError as error:
            if path == place.file:
                raise
            text = "a file of the artifact cannot be read, so there is no content hash"
            warnings = (Problem("W_NOT_HASHED", text, error.problem.path),)
    return head, _Content(None if warnings else hasher.hexdigest(), count, size, warnings)


def _files(folder: Folder) -> list[tuple[str, Evidence]]:
    """List all files of a folder in the order of their paths' parts."""
    if not folder.folders and len(folder.files) == 1:
        return [(folder.join(name), evidence) for name, evidence in folder.files.items()]
    found: list[tuple[str, Evidence]] = []
    for name in sorted((*folder.files, *folder.folders)):
        if name in folder.files:
            found.append((folder.join(name), folder.files[name]))
        else:
            found += _files(folder.folders[name])
    return found


def _unread(place: Place) -> _Content:
    """Take the content as the walk saw it."""
    owned = _files(place.folder) if place.folder else [(place.file, place.evidence)]
    return _Content(None, len(owned), sum(evidence.size for _, evidence in owned))


def _part(value: object) -> _Content:
    """Take the content of an artifact that is a part of a file."""
    data = documents.canonical(value)
    return _Content(hashlib.sha256(data).hexdigest(), 1, len(data))


# Kinds of files


def _from_text(place: Place, head: bytes, content: _Content) -> Artifact:
    if not place.file.lower().endswith(_TEXT_SUFFIXES):
        # A script that a manifest calls an artifact: what it says is not prose.
        return _build(place, fields.normalise(place.type, {}, fallback_name=place.name), content)
    found = frontmatter.read(head)
    entry = place.entry
    described = isinstance(entry, Entry) and entry.metadata.description
    values = fields.normalise(
        place.type,
        found.fields,
        fallback_name=place.name,
        # The manifest's description is better than the first paragraph.
        body="" if described else found.body,
    )
    if any(values.keys):
        values = values._replace(problems=_placed(values, found.fields, head))
    warnings = found.problems
    if warnings and place.type == "command":
        # Four in ten commands have none, and none is asked for.
        warnings = tuple(one for one in warnings if one.code != "W_NO_FRONTMATTER")
    if place.type == "skill" and not place.file.endswith("SKILL.md"):
        problem = Problem("W_FILE_NAME_CASE", "the file is not called SKILL.md")
        warnings = (*warnings, problem)
    repaired = bool(found.problems) and any(one.code == "W_YAML_REPAIRED" for one in found.problems)
    details = {"front_matter": _bounded(found.fields, cut=repaired)}
    return _build(place, values, content, warnings, details)


def _placed(
    values: fields.Fields, front_matter: Mapping[str, object], head: bytes
) -> tuple[Problem, ...]:
    """Give each warning about a field the place of its key, where that can be told."""
    written = {key: fields.written(front_matter, key) for key in set(values.keys) if key}
    places = frontmatter.places(head, filter(None, written.values()))
    unplaced = (None, None)
    placed = []
    for problem, key in zip(values.problems, values.keys, strict=True):
        line, column = places.get(written.get(key) or "", unplaced)
        placed.append(replace(problem, line=line, column=column))
    return tuple(placed)


def _from_plugin(
    place: Place, value: Mapping[str, Any], content: _Content, warnings: tuple[Problem, ...]
) -> Artifact:
    values = fields.normalise("plugin", value, fallback_name=place.name)
    return _build(place, values, content, warnings, _plugin_details(value))


def _from_json(
    place: Place, value: object, warnings: tuple[Problem, ...], content: _Content
) -> Artifact:
    """Make an artifact that has a JSON file of its own: hooks, or one server."""
    if place.type == "hook":
        return _from_hooks(place, value, content, warnings)
    if not isinstance(value, Mapping):
        raise UnreadableError(Problem("E_NOT_A_MAPPING", "the file holds no server"))
    server: Mapping[str, Any] = next(iter(servers.servers(value).values()), value)
    return _from_server(place, servers.server(server), content, warnings)


def _from_part(place: Place, value: Mapping[str, Any]) -> Artifact:
    """Make an artifact that is a part of a JSON file."""
    fragment = place.fragment or ""
    if place.type == "plugin":
        for entry in plugins.entries(value):
            if servers.text(entry["name"]) == fragment:
                return _from_plugin(place, entry, _part(_plugin_details(entry)), ())
    elif place.type == "hook":
        found = servers.hooks(plugins.inline_hooks(value))
        if found:
            return _from_hooks(place, {"hooks": found}, _part(found), ())
    else:
        inline = fragment.startswith("mcp:") and place.file.endswith("plugin.json")
        known = plugins.inline_servers(value) if inline else servers.servers(value)
        server = known.get(fragment.removeprefix("mcp:") if inline else fragment)
        if server is not None:
            kept = servers.server(server)
            return _from_server(place, kept, _part(kept), ())
    raise VanishedError(f"{place.path} is no longer there.")


def _from_hooks(
    place: Place, value: object, content: _Content, warnings: tuple[Problem, ...]
) -> Artifact:
    described: object = None
    events = value
    if isinstance(value, Mapping):
        described = value.get("description")
        events = value.get("hooks", value)
    elif not isinstance(value, list):
        raise UnreadableError(Problem("E_NOT_A_MAPPING", "the file holds no hooks"))
    found = servers.hooks(events)
    if isinstance(described, str):
        described = servers.prose(described)
    values = fields.normalise(
        "hook", {"description": described or ", ".join(found) or None}, fallback_name=place.name
    )
    return _build(place, values, content, warnings, {"events": list(found), "hooks": found})


def _from_server(
    place: Place, kept: Mapping[str, object], content: _Content, warnings: tuple[Problem, ...]
) -> Artifact:
    values = fields.normalise(
        "mcp",
        {"description": kept.get("description") or servers.summary(kept)},
        fallback_name=place.name,
    )
    return _build(place, values, content, warnings, kept)


def _from_manifest(place: Place, entry: Server) -> Artifact:
    """Make a server that only the manifest of a collection describes."""
    kept = {"repo": entry.repo, "version": entry.version, "description": entry.description}
    kept["resolved_sha"] = entry.resolved_sha
    kept["resolved_version"] = entry.resolved_version
    details: dict[str, object] = {"status": entry.status or "not_installed"}
    if entry.env:
        details["env"] = list(entry.env)
    values = fields.normalise("mcp", {"description": entry.description}, fallback_name=place.name)
    built = _build(place, values, _part({**kept, "env": list(entry.env)}), (), details)
    return built._replace(
        origin="github" if entry.repo else "local",
        source=entry.repo and servers.link(entry.repo),
        version_spec=entry.version,
        version=entry.resolved_version,
        resolved_sha=entry.resolved_sha,
        resolved_version=entry.resolved_version,
    )


# Values


def _build(
    place: Place,
    values: fields.Fields,
    content: _Content,
    warnings: tuple[Problem, ...] = (),
    details: Mapping[str, object] | None = None,
    error: Problem | None = None,
) -> Artifact:
    entry = place.entry if isinstance(place.entry, Entry) else _NO_ENTRY
    copy = entry.metadata if error is None else _NO_ENTRY.metadata
    problems = (*place.problems, *warnings, *values.problems, *content.warnings)
    if entry.locked_hash:
        # Another hash than the content's: changed since it was added.
        details = {**(details or {}), "locked_hash": entry.locked_hash}
    if entry is not _NO_ENTRY:
        kinds = drift.of_entry(entry, content.hash) + drift.upstream(entry)
        details = {**(details or {}), "drift": list(kinds)}
    return Artifact(
        type=place.type,
        name=values.name,
        path=place.path,
        description=values.description or copy.description,
        author=values.author or copy.author,
        license=values.license or copy.license,
        version=values.version or copy.version,
        tags=_union(values.tags, entry.tags) if entry.tags else values.tags,
        tools=copy.tools if values.tools is None else values.tools,
        model=values.model or copy.model,
        source=entry.upstream and servers.link(entry.upstream),
        origin=entry.origin,
        origin_source=entry.origin_source,
        version_spec=entry.version_spec,
        resolved_sha=entry.resolved_sha,
        resolved_version=entry.resolved_version,
        plugin=place.plugin,
        secondary=place.secondary,
        content_hash=content.hash,
        file_count=content.file_count,
        total_size=content.total_size,
        warnings=tuple(p if p.path else p.at(place.path) for p in problems) if problems else (),
        error=error,
        title=values.title or copy.title,
        namespace=place.namespace,
        parent=place.parent,
        argument_hint=values.argument_hint,
        details=details or {},
    )


_NO_ENTRY = Entry("", "", "")


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    """Join the file's tags and those that only the manifest has; compared without case."""
    known = {tag.casefold() for tag in first}
    return (*first, *(tag for tag in second if tag.casefold() not in known))


def _mapping(data: bytes) -> tuple[Mapping[str, Any], tuple[Problem, ...]]:
    value, problems = documents.load(data)
    if not isinstance(value, Mapping):
        raise UnreadableError(Problem("E_NOT_A_MAPPING", "the file holds no JSON object"))
    return value, problems


def _plugin_details(value: Mapping[str, Any]) -> dict[str, object]:
    """Keep what the documentation of manifests names, and nothing that configures a program."""
    kept: dict[str, object] = {}
    for key, item in value.items():
        if key in _PLUGIN_PATHS:
            kept[key] = [_bounded(path) for path in islice(plugins.named_paths(item), ITEM_LIMIT)]
        elif key in _PLUGIN_TEXTS:
            if isinstance(item, (bool, int, float)):
                kept[key] = item
            elif isinstance(item, list):
                texts = (one for one in item[:ITEM_LIMIT] if isinstance(one, str))
                kept[key] = [_plain(one) for one in texts]
            elif isinstance(item, str):
                kept[key] = _plain(item)
        elif key in _PLUGIN_PARTS:
            kept[key] = _parts(item, _PLUGIN_PARTS[key])
    return kept


_PLUGIN_PATHS = frozenset({"commands", "agents", "skills"})
_PLUGIN_TEXTS = frozenset(
    {"name", "displayName", "description", "version", "homepage", "license", "keywords", "tags"}
    | {"category", "strict"}
)
_PERSON = frozenset({"name", "email", "url"})
_ORIGIN = frozenset({"type", "source", "url", "repo", "path", "directory", "package", "ref", "sha"})
_PLUGIN_PARTS = {"author": _PERSON, "owner": _PERSON, "repository": _ORIGIN, "source": _ORIGIN}


def _parts(value: object, keys: Iterable[str]) -> object:
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in sorted(keys) if isinstance(value.get(key), str)}
    return None


def _plain(text: str) -> object:
    return _bounded(servers.link(text))


def _bounded(value: object, depth: int = 0, *, cut: bool = False) -> object:
    """Copy with bounds in every direction, and names only where there may be secrets.

    :param cut: whether a text may hold what should have been parsed; it ends there.
    """
    if isinstance(value, str):
        if cut:
            match = _SPECIAL_TEXT.search(value)
            value = value if match is None else value[: match.start()] + servers.HIDDEN
        return value if len(value) <= TEXT_LIMIT else value[: TEXT_LIMIT - 1] + "…"
    if isinstance(value, list):
        if depth == DEPTH_LIMIT:
            return "…"
        return [_bounded(item, depth + 1, cut=cut) for item in value[:ITEM_LIMIT]]
    if isinstance(value, Mapping):
        if depth == DEPTH_LIMIT:
            return "…"
        if depth and servers.is_server(value):
            return servers.server(value)
        return {
            key: _bounded_item(key, item, depth, cut=cut)
            for key, item in list(value.items())[:ITEM_LIMIT]
        }
    return value


def _bounded_item(key: str, item: object, depth: int, *, cut: bool) -> object:
    folded, special, is_secret = _key(key)
    if special is not None:
        return special(item)
    if is_secret and item is not None and not isinstance(item, bool):
        return servers.HIDDEN
    if not cut and isinstance(item, str) and len(item) <= TEXT_LIMIT:
        return item
    # What these say is told as the artifact's own anyway.
    cut = cut and not (depth == 0 and folded in ("name", "title", "description"))
    return _bounded(item, depth + 1, cut=cut)


class _Key(NamedTuple):
    """How a key is compared, and what its value may hold."""

    folded: str
    special: Callable[[object], object] | None
    is_secret: bool


def _key(key: str) -> _Key:
    # The same few in every file; a long one is not worth the memory.
    return _known_key(key) if len(key) <= _KEY_LIMIT else _known_key.__wrapped__(key)


@lru_cache(maxsize=1024)
def _known_key(key: str) -> _Key:
    folded = key.lower().replace("_", "").replace("-", "")
    is_secret = folded.endswith(_SECRET_ENDS) and _SECRET_KEY.fullmatch(folded) is not None
    return _Key(folded, _SPECIAL.get(folded), is_secret)


def _bounded_servers(value: object) -> object:
    """Keep of servers what may be kept; of anything else nothing."""
    if isinstance(value, Mapping):
        if servers.is_server(value):
            return servers.server(value)
        return {
            servers.prose(name): servers.server(entry) if isinstance(entry, Mapping) else None
            for name, entry in list(value.items())[:ITEM_LIMIT]
        }
    if isinstance(value, list):
        kept = value[:ITEM_LIMIT]
        return [_bounded_servers(item) for item in kept if isinstance(item, Mapping)]
    return None


# An agent may define servers and hooks in its front matter, with all that they hold. Keys are in
# lower case, without what joins their words.
_SPECIAL: dict[str, Callable[[object], object]] = {
    "env": servers.names,
    "envvars": servers.names,
    "environment": servers.names,
    "headers": servers.names,
    "mcpservers": _bounded_servers,
    "hooks": servers.hooks,
}
# The same in a text that could not be parsed.
_SPECIAL_TEXT = re.compile(
    r"(?i)(?<![\w-])(?:env|env[-_]?vars|environment|headers|mcp[-_]?servers|hooks)[\"']?\s*:"
)
# The pattern below takes its time, and most keys end otherwise.
_SECRET_ENDS = (
    *("key", "token", "password", "passwd", "secret"),
    *("credential", "credentials", "authorization"),
)
_SECRET_KEY = re.compile(
    r".*(?:apikey|secretkey|privatekey|accesskey|password|passwd|secret|credentials?)|authorization"
    r"|.*(?:access|auth|api|bearer|bot|refresh)token|token"
)
