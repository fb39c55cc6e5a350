"""plugin.json and marketplace.json -> what a plugin says it is made of; pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import servers

# The keys under which a manifest names paths, and the type of what lies there (RULES, R7).
_KEYS = {"commands": "command", "agents": "agent", "skills": "skill", "hooks": "hook"}
_LOCAL = ("local", "directory", "path")


@dataclass(frozen=True, slots=True)
class Plugin:
    """What a manifest declares beyond the usual folders.

    :ivar name: as written; None where there is none.
    :ivar paths: (type, path as written) of files and folders.
    :ivar hooks: whether hooks stand in the manifest itself.
    :ivar servers: the MCP servers that stand in the manifest itself.
    """

    name: str | None
    paths: tuple[tuple[str, str], ...] = ()
    hooks: bool = False
    servers: tuple[str, ...] = ()


def plugin(manifest: object) -> Plugin:
    """Tell what a plugin.json or an entry of a marketplace declares."""
    if not isinstance(manifest, Mapping):
        return Plugin(None)
    paths = [
        (type_, path) for key, type_ in _KEYS.items() for path in named_paths(manifest.get(key))
    ]
    inline = manifest.get("mcpServers")
    if not isinstance(inline, Mapping):
        # There are bundles and addresses too; only JSON can be read.
        paths += [("mcp", path) for path in named_paths(inline) if path.endswith(".json")]
    return Plugin(
        name=servers.text(manifest.get("name")) or None,
        paths=tuple(paths),
        hooks=bool(servers.hooks(inline_hooks(manifest))),
        servers=tuple(inline_servers(manifest)),
    )


def inline_hooks(manifest: Mapping[str, Any]) -> object:
    """Find the hooks that stand in a manifest itself, wrapped in another ``hooks`` or not."""
    value = manifest.get("hooks")
    if isinstance(value, Mapping):
        return value["hooks"] if isinstance(value.get("hooks"), (Mapping, list)) else value
    return value if isinstance(value, list) else None


def inline_servers(manifest: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Find the MCP servers that stand in a manifest itself, by name."""
    value = manifest.get("mcpServers")
    if not isinstance(value, Mapping):
        return {}
    return {name: entry for name, entry in value.items() if isinstance(entry, Mapping)}


def named_paths(value: object) -> Iterator[str]:
    """Find the paths that stand under a key of a manifest."""
    if isinstance(value, str) and "://" not in value:
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from named_paths(item)
    elif isinstance(value, Mapping):  # {"about": {"source": "./about.md"}}
        for item in value.values():
            if isinstance(item, Mapping) and isinstance(item.get("source"), str):
                yield item["source"]


def entries(marketplace: object) -> list[Mapping[str, Any]]:
    """List the plugins of a marketplace.json, each with a name."""
    listed = marketplace.get("plugins") if isinstance(marketplace, Mapping) else None
    if not isinstance(listed, list):
        return []
    return [
        entry for entry in listed if isinstance(entry, Mapping) and servers.text(entry.get("name"))
    ]


def local_source(marketplace: Mapping[str, Any], entry: Mapping[str, Any]) -> str | None:
    """Tell the folder of a listed plugin, as written; None if it would have to be fetched."""
    source = entry.get("source")
    if isinstance(source, Mapping) and source.get("source") in _LOCAL:
        source = source.get("path")
    if not isinstance(source, str) or "://" in source or source.startswith("git@"):
        return None
    metadata = marketplace.get("metadata")
    base = metadata.get("pluginRoot") if isinstance(metadata, Mapping) else None
    if isinstance(base, str) and not source.startswith((".", "/")):
        return f"{base}/{source}"
    return source


def inside(folder: str, path: str) -> str | None:
    """Make a path below ``folder`` relative to the root; None if it leads out.

    Pure text: what it names must still be found by the walk, which follows no links.
    """
    path = path.removeprefix("${CLAUDE_PLUGIN_ROOT}/")
    if path.startswith("/") or "\\" in path or "\0" in path or path[1:2] == ":":
        return None
    plain = posixpath.normpath(path)
    if plain == ".." or plain.startswith("../"):
        return None
    if plain == ".":
        return folder
    return f"{folder}/{plain}" if folder else plain
