"""MCP servers and hooks: what may be told of them.

Variables, headers, arguments and addresses of these files hold secrets, which nothing tells from
other values. So what is shown is what is known to be harmless: names of programs, options,
variables and headers, packages and scripts; never a value.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

TEXT_LIMIT = 500  # characters of one argument or command
ITEM_LIMIT = 100  # arguments, variables, handlers

HIDDEN = "…"
URL_KEYS = ("url", "httpUrl", "serverUrl")
_TRANSPORTS = frozenset(
    {"stdio", "http", "sse", "ws", "websocket", "streamable-http", "streamablehttp", "local"}
    | {"streamable_http", "remote"}
)

# Programs whose first argument, behind one of the words if there are any, is what they run.
_RUNNERS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("npx", "bunx", "pnpx", "uvx"), frozenset[str]()),
    **dict.fromkeys(("npm", "pnpm", "yarn", "bun"), frozenset({"run", "exec", "x", "dlx"})),
    **dict.fromkeys(("pipx", "uv", "docker", "podman", "deno"), frozenset({"run"})),
}
_INTERPRETERS = frozenset({"node", "python", "python3", "bash", "sh", "zsh"})
# Their options that no value follows; whatever follows another option is hidden.
_FLAGS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(("npx", "bunx", "pnpx", "npm", "pnpm", "yarn"), frozenset({"-y", "--yes"})),
    **dict.fromkeys(("docker", "podman"), frozenset({"-i", "-t", "--rm", "--init"})),
    **dict.fromkeys(("python", "python3"), frozenset({"-u", "-B", "-E", "-s", "-I"})),
    **dict.fromkeys(("bash", "sh", "zsh"), frozenset({"-e", "-u", "-x", "-l"})),
}
# Their options that a package or module follows.
_NAMING: Mapping[str, frozenset[str]] = {
    "npx": frozenset({"-p", "--package"}),
    "uvx": frozenset({"--from", "--with"}),
    **dict.fromkeys(("python", "python3"), frozenset({"-m"})),
}

# A word that says something; a run of twelve characters or more with a digit in it is none.
_WORD = r"(?:[a-z]{1,20}|[a-z]{1,8}[0-9]{1,2}|[0-9]{1,3})"
_NAME_WORD = rf"(?:{_WORD}|[A-Z]?[a-z]{{1,12}}(?:[A-Z][a-z]{{2,12}}){{0,3}})"
_SEGMENT = re.compile(rf"{_WORD}(?:[-_.]{_WORD}){{0,7}}")
_FILE = re.compile(rf"[-_.]?{_NAME_WORD}(?:[-_.]{{1,2}}{_NAME_WORD}){{0,7}}|\.{{1,2}}|~|[A-Z]:|")
_VERSION = r"(?:[0-9]{1,3}(?:\.[0-9]{1,3}){0,2}|latest|next|beta|alpha|canary)"
_PACKAGE = re.compile(
    rf"(?:@{_SEGMENT.pattern}/)?{_SEGMENT.pattern}(?:/{_SEGMENT.pattern}){{0,3}}"
    rf"(?:(?:@|==|:)\^?{_VERSION})?"
)
_OPTION = re.compile(
    r"-[A-Za-z]|--[a-z]{1,20}[0-9]?(?:[-_][a-z]{1,20}[0-9]?){0,5}|--[a-z]{2,12}(?:[A-Z][a-z]{2,12}){1,3}"
)
_SCRIPT = re.compile(
    r"(?i).+\.(?:py|[cm]?[jt]s|[jt]sx|sh|bash|zsh|ps1|bat|cmd|rb|php|pl|lua|jar|exe"
    r"|json|toml|ya?ml|md)"
)
_VARIABLE = re.compile(
    r"\$\{(?:(?:env|input|config|secrets?)[:.])?(?P<name>[A-Za-z_][\w-]{0,63})\}|\$[A-Z][A-Z_]{0,63}"
)
_DEFAULT = re.compile(r"(\$\{[A-Za-z_]\w{0,63}):?[-=?+][^}]*\}")  # ${NAME:-value}
_ASSIGNMENT = re.compile(r"([A-Z_][A-Z0-9_]{0,63})=.*", re.DOTALL)
_URL = re.compile(r"(?i)[a-z][a-z0-9+.\-]*://")
_SCHEME = re.compile(r"[a-z][a-z0-9+.\-]{0,11}")
_HOST = re.compile(r"[\w.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")
_EVENT = re.compile(r"[A-Za-z]{1,32}(?:[-_.: ][A-Za-z]{1,32}){0,5}")
_NAME = re.compile(r"[A-Z][A-Z_]*")
# What may stand before the sign in a list of variables or headers; a part of a key may, too.
_LISTED_NAME = re.compile(
    r"(?:[A-Z][A-Z0-9]{0,11}|[A-Z]?[a-z]{1,15}[0-9]?)"
    r"(?:[-_](?:[A-Z0-9]{1,11}|[A-Z]?[a-z]{1,15}[0-9]?)){0,9}"
)
# Keys by their look: a known beginning, or a long run of letters and digits.
_KEY = re.compile(
    r"\b(?:sk|pk|rk|ghp|gho|ghs|github_pat|glpat|xox[abp]|eyJ)[-_][-_A-Za-z0-9]{8,}"
    r"|(?<![A-Za-z0-9])(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{12,}"
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
    return {name: entry for name, entry in document.items() if is_server(entry)}


def is_server(entry: object) -> bool:
    """Whether ``entry`` looks like the description of a server."""
    return isinstance(entry, Mapping) and any(
        isinstance(entry.get(key), str) for key in ("command", *URL_KEYS)
    )


def server(entry: Mapping[str, Any]) -> dict[str, object]:
    """Keep what may be kept of one server."""
    url = next((entry[key] for key in URL_KEYS if text(entry.get(key))), None)
    command = text(entry.get("command"))
    declared = text(entry.get("type")) or text(entry.get("transport"))
    if declared.lower() not in _TRANSPORTS:
        declared = ""
    kept: dict[str, object] = {
        "transport": declared or ("stdio" if command else "http" if url else None)
    }
    if command:
        # Some write the arguments behind the command.
        parts = _split(command)
        shown = _redacted([*parts, *_texts(entry.get("args"))])
        kept["command"] = _joined(shown[: len(parts)])
        kept["args"] = shown[len(parts) :]
    if url:
        kept["url"] = address(url.strip())
    for key in ("env", "headers"):
        if entry.get(key):
            kept[key] = names(entry[key])
    if text(entry.get("description")):
        kept["description"] = prose(entry["description"])
    if text(entry.get("cwd")):
        kept["cwd"] = _path(text(entry["cwd"])[:TEXT_LIMIT])
    tools = entry.get("tools")
    if isinstance(tools, list):
        texts = (tool for tool in tools[:ITEM_LIMIT] if isinstance(tool, str))
        kept["tools"] = [prose(tool) for tool in texts]
    return kept


def summary(kept: Mapping[str, object]) -> str | None:
    """Describe a server in one line that tells it from others."""
    transport = kept.get("transport") or "MCP"
    command, url = kept.get("command"), kept.get("url")
    if isinstance(command, str) and command:
        program = posixpath.basename(command.split(" ")[0])
        arguments = kept.get("args")
        if (program in _RUNNERS or program in _INTERPRETERS) and isinstance(arguments, list):
            # What it runs tells more: the first argument that is no option.
            words = _RUNNERS.get(program, ())
            named = (one for one in arguments if one[:1] not in ("-", HIDDEN) and one not in words)
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
        handlers = found.setdefault(event if _EVENT.fullmatch(event) else HIDDEN, [])
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
        kept: dict[str, object] = {"matcher": prose(matcher)} if matcher else {}
        if _EVENT.fullmatch(text(handler.get("type"))):
            kept["type"] = text(handler["type"])
        if text(handler.get("description")):
            kept["description"] = prose(handler["description"])
        for key in ("command", "bash", "powershell"):
            if text(handler.get(key)):
                kept[key] = command_line(handler[key])
        found.append(kept)
    return found


def address(url: str) -> str | None:
    """Copy of ``url`` scheme, host, port, and what of the path is made of short words."""
    url = _DEFAULT.sub(r"\1}", url[: 4 * TEXT_LIMIT])
    variable = _VARIABLE.match(url)
    if variable is not None and url[variable.end() :][:1] in ("", "/", "?"):
        path = url[variable.end() :].partition("?")[0].partition("#")[0]
        return (_variable(variable) + _segments(path))[:TEXT_LIMIT]
    try:
        parts = urlsplit(url)
        host, port = parts.netloc.rpartition("@")[2], ""
        inner = host.rpartition("]")[2] if host.startswith("[") else host
        if ":" in inner:
            host, _, port = host.rpartition(":")
    except ValueError:
        return None
    if _SCHEME.fullmatch(parts.scheme) is None or not host:
        return None
    if _VARIABLE.fullmatch(host) is None and _HOST.fullmatch(host) is None:
        return None
    if port and not (port.isdecimal() and len(port) <= 5) and not _VARIABLE.fullmatch(port):
        return None
    host = prose(host) + (f":{port}" if port else "")
    return f"{parts.scheme}://{host}{_segments(parts.path)}"[:TEXT_LIMIT]


def _segments(path: str) -> str:
    return "/".join(
        part
        if not part or (len(part) <= 40 and _SEGMENT.fullmatch(part))
        else _shown_variable(part)
        for part in path.split("/")
    )


def _variable(match: re.Match[str]) -> str:
    return HIDDEN if _KEY.search(match[0]) else match[0]


def _shown_variable(part: str) -> str:
    match = _VARIABLE.fullmatch(_DEFAULT.sub(r"\1}", part))
    return HIDDEN if match is None else _variable(match)


def link(written: str) -> str:
    """Copy the address of a public page without user, password, query and fragment."""
    if not _URL.match(written):
        return written
    try:
        parts = urlsplit(written)
    except ValueError:
        return HIDDEN
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def prose(written: str) -> str:
    """Copy a text for people, less what looks like a key."""
    return _KEY.sub(HIDDEN, written[:TEXT_LIMIT])


def names(value: object) -> list[str]:
    """Name variables or headers: the keys of a map, or what stands before ``=`` or ``:``."""
    if isinstance(value, Mapping):
        found: Iterable[str] = (prose(key) for key in value if isinstance(key, str))
    elif isinstance(value, list):
        texts = (item[:TEXT_LIMIT] for item in value if isinstance(item, str))
        pairs = (re.split("([=:])", item, maxsplit=1) for item in texts)
        # Without a value it may be a name, or the value itself; only one looks like a name.
        found = (
            pair[0]
            for pair in pairs
            if (_LISTED_NAME if len(pair) > 1 else _NAME).fullmatch(pair[0].strip())
        )
    else:
        found = ()
    return sorted({name.strip()[:TEXT_LIMIT] for name in found})[:ITEM_LIMIT]


def arguments(value: object) -> list[str]:
    """Copy the arguments of an unknown command, with everything hidden that may be a secret."""
    return _redacted(["", *_texts(value)])[1:]


def _texts(value: object) -> list[str]:
    if not isinstance(value, list):
        return []
    return [str(item) for item in value[:ITEM_LIMIT] if isinstance(item, (str, int, float))]


def command_line(line: str) -> str:
    """Copy a command with its arguments, with everything hidden that may be a secret."""
    return _joined(_redacted(_split(line)))


def _split(line: str) -> list[str]:
    try:
        # The splitter is slow, and the beginning tells what is run.
        parts = shlex.split(line[: 4 * TEXT_LIMIT], posix=False)
    except ValueError:  # a quote that never ends
        parts = [*line[: 4 * TEXT_LIMIT].split(maxsplit=1)[:1], HIDDEN]
    return parts[:ITEM_LIMIT]


def _joined(parts: list[str]) -> str:
    """Join what is shown of a command; what is hidden in a row is hidden once."""
    shown = [part for n, part in enumerate(parts) if part != HIDDEN or parts[n - 1 : n] != [part]]
    return " ".join(shown)[:TEXT_LIMIT]


def _redacted(parts: list[str]) -> list[str]:
    """Copy a command's words: assignments, the program, and its arguments."""
    kept: list[str] = []
    program: str | None = None
    before = ""  # the option that this word may be the value of
    wanted = False  # whether the next word is what a runner runs
    # Cut before any pattern sees it: some take the square of the length.
    for part in (part.strip("\"'")[:TEXT_LIMIT] for part in parts):
        if program is None:
            assigned = _ASSIGNMENT.fullmatch(part)
            if assigned is not None:
                kept.append(f"{prose(assigned[1])}={HIDDEN}")
                continue
            kept.append(_path(part))
            program = posixpath.basename(kept[-1]).removesuffix(".exe")
            wanted = not _RUNNERS.get(program, True)
            continue
        option, before = before, ""
        if part.startswith("-"):
            name, separator, _ = part.partition("=")
            if part == "--" or _OPTION.fullmatch(name) is None:
                kept.append(part if part == "--" else HIDDEN)
                continue
            kept.append(name + (separator and separator + HIDDEN))
            if not separator and name not in _FLAGS.get(program, ()):
                before = name
        elif option:
            is_name = option in _NAMING.get(program, ()) and _PACKAGE.fullmatch(part)
            kept.append(part if is_name else _shown_variable(part))
        elif _URL.match(part):
            kept.append(address(part) or HIDDEN)
            wanted = False
        elif wanted and _PACKAGE.fullmatch(part):
            kept.append(part)
            wanted = False
        elif part in _RUNNERS.get(program, ()):
            kept.append(part)
            wanted = True
        else:
            kept.append(_path(part) if _SCRIPT.fullmatch(part) else _shown_variable(part))
            wanted = False
    return kept


def _path(path: str) -> str:
    """Copy a path, with everything hidden in it that is no name made of words."""
    parts = path.replace("\\", "/").split("/")
    return "/".join(part if _FILE.fullmatch(part) else _shown_variable(part) for part in parts)


def text(value: object) -> str:
    """Strip ``value`` if it is text; else there is none."""
    return value.strip() if isinstance(value, str) else ""
