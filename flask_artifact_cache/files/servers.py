"""MCP servers and hooks: what may be told of them.

Variables, headers, arguments and addresses of these files hold secrets. Whatever leaves this
module holds names of variables and headers, and no value of theirs.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

TEXT_LIMIT = 500  # characters of one argument or command
ITEM_LIMIT = 100  # arguments, variables, handlers

HIDDEN = "…"
_RUNNERS = frozenset({"npx", "bunx", "pnpx", "uvx", "pipx", "node", "python", "python3"})
URL_KEYS = ("url", "httpUrl", "serverUrl")

# Options after which a secret may come; hiding a harmless value now and then costs little.
_SECRET_OPTION = re.compile(
    r"(?i)-{1,2}(?:.*(?:key|token|secret|pass|pwd|auth|cred|bearer|cookie|session|header).*"
    r"|e|env|h|u|user|p)"
)
# What may be shown: words, paths, packages, variables. Nothing with blanks, quotes or markup.
_PLAIN = re.compile(r"[\w@.,/:+~${}\[\]%-]+")
_VARIABLE = re.compile(r"\$\{[^}]*\}|\$[A-Za-z_]\w*")
_USER = re.compile(":[^/]*@")  # user:password@host
_NAME = re.compile(r"[A-Z][A-Z_]*")
_URL = re.compile(r"(?i)[a-z][a-z0-9+.\-]*://")
# Keys by their look: a known beginning, or a long run of letters and digits that is no path.
_KEY = re.compile(
    r"(?:sk|pk|rk|ghp|gho|ghs|github_pat|glpat|xox[abp]|AKIA|eyJ)[-_A-Za-z0-9]{8,}"
    r"|(?=[^0-9]*[0-9])[A-Za-z0-9+_\-]{24,}={0,2}"
)


def servers(document: object) -> dict[str, Mapping[str, Any]]:
    """Find the servers of an ``.mcp.json`` by name, in their order.

    They stand under ``mcpServers`` or ``servers``, or are the whole document (R8).
    """
    if not isinstance(document, Mapping):
        return {}
    for key in ("mcpServers", "servers"):
        inner = document.get(key)
        if isinstance(inner, Mapping):
            return {name: entry for name, entry in inner.items() if isinstance(entry, Mapping)}
    if "mcpServers" in document or "servers" in document:
        return {}
    return {name: entry for name, entry in document.items() if _is_server(entry)}


def _is_server(entry: object) -> bool:
    return isinstance(entry, Mapping) and any(
        isinstance(entry.get(key), str) for key in ("command", *URL_KEYS)
    )


def server(entry: Mapping[str, Any]) -> dict[str, object]:
    """Keep what may be kept of one server."""
    url = next((entry[key] for key in URL_KEYS if text(entry.get(key))), None)
    command = text(entry.get("command"))
    declared = text(entry.get("type")) or text(entry.get("transport"))
    kept: dict[str, object] = {
        "transport": declared[:TEXT_LIMIT] or ("stdio" if command else "http" if url else None)
    }
    if command:
        kept["command"] = command_line(command)
        kept["args"] = arguments(entry.get("args"))
    if url:
        kept["url"] = address(url)
    for key in ("env", "headers"):
        if entry.get(key):
            kept[key] = names(entry[key])
    for key in ("description", "cwd"):
        if text(entry.get(key)):
            kept[key] = entry[key][:TEXT_LIMIT]
    tools = entry.get("tools")
    if isinstance(tools, list):
        texts = (tool for tool in tools[:ITEM_LIMIT] if isinstance(tool, str))
        kept["tools"] = [tool[:TEXT_LIMIT] for tool in texts]
    return kept


def summary(kept: Mapping[str, object]) -> str | None:
    """Describe a server in one line that tells it from others."""
    transport = kept.get("transport") or "MCP"
    command, url = kept.get("command"), kept.get("url")
    if isinstance(command, str) and command:
        program = posixpath.basename(command.split(" ")[0])
        arguments = kept.get("args")
        if program in _RUNNERS and isinstance(arguments, list):
            # What it runs tells more: the first argument that is no option.
            named = (one for one in arguments if one[:1] not in ("-", HIDDEN))
            program = next((f"{program} {one}" for one in named), program)
        return f"{transport} server, runs {program}"
    if isinstance(url, str) and url:
        return f"{transport} server at {url.partition('//')[2].partition('/')[0] or url}"
    return None


def hooks(value: object) -> dict[str, list[dict[str, object]]]:
    """Keep what may be kept of a ``hooks`` value: for each event its handlers.

    The value is a map from event to groups of handlers, a map from event to handlers, or a list
    of handlers that name their event (R8).
    """
    found: dict[str, list[dict[str, object]]] = {}
    room = ITEM_LIMIT
    for event, groups in _events(value):
        handlers = found.setdefault(event[:TEXT_LIMIT], [])
        for group in groups:
            if room and isinstance(group, Mapping):
                more = _handlers(group)[:room]
                handlers += more
                room -= len(more)
    return found


def _events(value: object) -> Iterator[tuple[str, list[Any]]]:
    if isinstance(value, Mapping):
        for event, groups in list(value.items())[:ITEM_LIMIT]:
            if isinstance(groups, (list, Mapping)):
                yield event, groups if isinstance(groups, list) else [groups]
    elif isinstance(value, list):
        for group in value[:ITEM_LIMIT]:
            event = isinstance(group, Mapping) and (group.get("event") or group.get("type"))
            if isinstance(event, str):
                yield event, [group]


def _handlers(group: Mapping[str, Any]) -> list[dict[str, object]]:
    inner = group.get("hooks")
    handlers = inner[:ITEM_LIMIT] if isinstance(inner, list) else [group]
    matcher = text(group.get("matcher"))
    found = []
    for handler in handlers:
        if not isinstance(handler, Mapping):
            continue
        kept: dict[str, object] = {"matcher": matcher[:TEXT_LIMIT]} if matcher else {}
        for key in ("type", "description"):
            if text(handler.get(key)):
                kept[key] = handler[key][:TEXT_LIMIT]
        for key in ("command", "bash", "powershell"):
            if text(handler.get(key)):
                kept[key] = command_line(handler[key])
        found.append(kept)
    return found


def address(url: str) -> str | None:
    """Copy ``url`` without user, password, query and fragment."""
    try:
        parts = urlsplit(url[: 4 * TEXT_LIMIT])
        if "@" in parts.path and not parts.netloc:
            return None  # a slash is missing, and what is before the sign may be a password
        host = parts.netloc.rpartition("@")[2]
        return SplitResult(parts.scheme, host, parts.path, "", "").geturl()[:TEXT_LIMIT]
    except ValueError:
        return None


def names(value: object) -> list[str]:
    """Name variables or headers: the keys of a map, or what stands before ``=`` or ``:``."""
    if isinstance(value, Mapping):
        found: Iterable[str] = (key for key in value if isinstance(key, str))
    elif isinstance(value, list):
        texts = (item for item in value if isinstance(item, str))
        pairs = (re.split("([=:])", item, maxsplit=1) for item in texts)
        # Without a value it may be a name, or the value itself; only one looks like a name.
        found = (pair[0] for pair in pairs if len(pair) > 1 or _NAME.fullmatch(pair[0]))
    else:
        found = ()
    return sorted({name.strip()[:TEXT_LIMIT] for name in found})[:ITEM_LIMIT]


def arguments(value: object) -> list[str]:
    """Copy the arguments of a command, with everything hidden that may be a secret."""
    if not isinstance(value, list):
        return []
    return _redacted(
        [str(item) for item in value[:ITEM_LIMIT] if isinstance(item, (str, int, float))]
    )


def command_line(line: str) -> str:
    """Copy a command with its arguments, with everything hidden that may be a secret."""
    try:
        # The splitter is slow, and the beginning tells what is run.
        parts = shlex.split(line[: 4 * TEXT_LIMIT], posix=False)
    except ValueError:  # a quote that never ends
        parts = [*line.split(maxsplit=1)[:1], HIDDEN]
    return " ".join(_redacted(parts[:ITEM_LIMIT]))[:TEXT_LIMIT]


def _redacted(parts: list[str]) -> list[str]:
    kept = []
    hide = False
    # Cut before any pattern sees it: some take the square of the length.
    for part in (part.strip("\"'")[:TEXT_LIMIT] for part in parts):
        is_option = part.startswith("-")
        if _VARIABLE.fullmatch(part):
            kept.append(part)
        else:
            kept.append(HIDDEN if hide else _redact(part))
        hide = is_option and _SECRET_OPTION.fullmatch(part) is not None
    return kept


def _redact(part: str) -> str:
    """Copy one argument without what may be a secret in it."""
    if _URL.match(part):
        return address(part) or HIDDEN
    name, separator, value = part.partition("=")
    if not _PLAIN.fullmatch(name) or _USER.search(name):
        return HIDDEN
    if "/" not in name and _KEY.fullmatch(name):
        return HIDDEN
    if separator and not _VARIABLE.fullmatch(value.strip("\"'")):
        value = HIDDEN
    return name + separator + value


def text(value: object) -> str:
    """Strip ``value`` if it is text; else there is none."""
    return value.strip() if isinstance(value, str) else ""
