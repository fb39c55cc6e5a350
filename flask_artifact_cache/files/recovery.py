"""What to do when front matter is not YAML: read it key by key, and take what fails as text.

Of 18,843 public artifacts, 564 have a block that no YAML parser accepts, most often because a
description holds a colon and a blank. Their authors' assistants read them all the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .yamltext import NODE_LIMIT, Parse, Value, YamlError, attempt

Warn = Callable[[str, str, int], None]  # code, message, index

KEY_LINE = re.compile(r"([A-Za-z_][\w.-]*)[ ]*:(?=\s|$)")

# Keys that start an entry however they are written: the frequent ones of 161.
_KNOWN_KEYS = """
    activation-priority activation-triggers agent allowed-tools allowedtools argument-hint
    arguments author author-url authors capabilities category color compatibility complexity
    dependencies description difficulty disable-model-invocation disallowed-tools
    disallowedtools domain effort emoji estimated-time expertise-level homepage hooks keywords
    license mcp-servers mcpservers memory metadata model name origin permissionmode personas
    requires risk shortcut skills source subdomain subtask tags title tools triggers type
    user-invocable version vibe
"""
# What stands before a colon in the dialogues of descriptions, and starts none.
_DIALOGUE_WORDS = """
    answer assistant commentary context e.g example examples human i.e input note output
    question reason response result scenario system thinking todo use user warning when
"""
# What is below these may be secret, and must not be taken for the text of the key before.
_SECRET_KEYS = frozenset({"env", "env-vars", "envvars", "environment", "headers"})
_KNOWN = frozenset(_KNOWN_KEYS.split())
_DIALOGUE = frozenset(_DIALOGUE_WORDS.split())
_LOWER = re.compile(r"[a-z][a-z0-9_-]*")
_BLOCK_HEADER = re.compile(r"[|>][0-9+-]{0,2}[ ]*(#.*)?")
_AFTER_QUOTE = frozenset(" ,.;:")
_ITEM = re.compile(r"[ ]*-[ ]+(.*)")


def is_known(line: str) -> bool:
    """Whether ``line`` starts with one of the usual keys."""
    match = KEY_LINE.match(line)
    return match is not None and match[1].lower().replace("_", "-") in _KNOWN


def unquoted(text: str) -> str:
    """``text`` without the quotes around it, and without an opening quote that nothing closes."""
    quote = text[:1]
    if quote not in ("'", '"'):
        return text
    inner = text[1:]
    if inner.endswith(quote):
        inner = inner[:-1]
        if _closes_within(inner, quote):
            return text
    elif quote in inner:
        return text
    return inner.replace('\\"', '"') if quote == '"' else inner.replace("''", "'")


def _closes_within(inner: str, quote: str) -> bool:
    """Whether the first quote inside ends what the outer one began, as in ``"A" and "B"``."""
    before, found, after = inner.partition(quote)
    return bool(found and before) and before[-1] not in " ([{\\" and after[:1] in _AFTER_QUOTE


@dataclass(frozen=True, slots=True)
class _Entry:
    """One key with its value; the indices point into the block."""

    key: str
    start: int
    value: int  # behind the colon
    end: int


def recover(text: str, error: YamlError, parse: Parse, warn: Warn) -> dict[str, Value]:
    """Read the fields of a block that is not YAML.

    :param error: what the strict parse ended with.
    :raises YamlError: ``error``, when there is no key at all; any error about a bound.
    """
    reader = _Reader(text, parse, warn)
    fields = reader.read(_entries(text, 0, len(text), 0))
    if not fields:
        raise error
    if not reader.repaired:
        warn("W_YAML_REPAIRED", f"read key by key: {error}", error.index)
    return fields


class _Reader:
    """Reads the entries of one block, and counts what it reads.

    :ivar repaired: whether any value was not read as YAML.
    """

    def __init__(self, text: str, parse: Parse, warn: Warn) -> None:
        self.text = text
        self.parse = parse
        self.warn = warn
        self.nodes = 1
        self.repaired = False

    def read(self, entries: Iterable[_Entry], *, nested: bool = False) -> dict[str, Value]:
        fields: dict[str, Value] = {}
        for entry in entries:
            self.nodes += 2  # a key and its value
            if self.nodes > NODE_LIMIT:
                message = f"more than {NODE_LIMIT:,} values"
                raise YamlError("E_YAML_TOO_MANY_NODES", message, entry.start)
            if entry.key in fields:
                message = "the key is there already; the first one counts"
                self.warn("W_DUPLICATE_KEY", message, entry.start)
                continue
            for key, value in self._entry(entry, nested=nested).items():
                fields.setdefault(key, value)
        return fields

    def _entry(self, entry: _Entry, *, nested: bool) -> dict[str, Value]:
        """Read an entry's field; more than one where keys no entry starts with follow it."""
        parsed = attempt(self.parse, self.text[entry.start : entry.end], entry.start)
        if isinstance(parsed, YamlError):
            if entry.key.lower() == "metadata" and not nested:
                inner = self._metadata(entry)
                if inner:
                    return {entry.key: inner}
            self._repaired(str(parsed), parsed.index)
            return {entry.key: _as_text(self.text[entry.value : entry.end])}
        self.nodes += parsed.nodes - 3  # less the mapping, and what is counted already
        for repeated in parsed.repeated:
            message = "the key is there already; the first one counts"
            self.warn("W_DUPLICATE_KEY", message, entry.start + repeated)
        return parsed.value if isinstance(parsed.value, dict) else {}

    def _metadata(self, entry: _Entry) -> dict[str, Value]:
        """Read what is below ``metadata``, the only key with fields of its own; else nothing."""
        source = self.text[entry.value : entry.end]
        if source.lstrip().startswith("{"):  # JSON that is not indented is not YAML
            parsed = attempt(self.parse, source, entry.value)
            if isinstance(parsed, YamlError) or not isinstance(parsed.value, dict):
                return {}
            self.nodes += parsed.nodes
            self._repaired("not indented", entry.start)
            return parsed.value
        first, _, rest = source.partition("\n")
        indent = len(rest) - len(rest.lstrip(" "))
        if first.strip() or indent == 0:
            return {}
        start = entry.value + len(first) + 1
        return self.read(_entries(self.text, start, entry.end, indent), nested=True)

    def _repaired(self, cause: str, index: int) -> None:
        self.repaired = True
        self.warn("W_YAML_REPAIRED", f"repaired: {cause}", index)


def _entries(text: str, start: int, end: int, indent: int) -> Iterator[_Entry]:
    """Cut out the entries whose key stands ``indent`` blanks from the left.

    A line inside an ``<example>`` that is closed later starts none.
    """
    last_close = text.rfind("</example>", start, end)
    depth = 0
    key: tuple[str, int, int] | None = None
    line_start = start
    while line_start < end:
        line_end = text.find("\n", line_start, end)
        line_end = line_end if line_end >= 0 else end
        line = text[line_start:line_end]
        if depth == 0 or line_start > last_close:
            match = KEY_LINE.match(line, indent)
            if match is not None and not line[:indent].strip() and _is_key(match[1]):
                if key is not None:
                    yield _Entry(*key, line_start)
                key = match[1], line_start + indent, line_start + match.end()
        depth = max(0, depth + line.count("<example>") - line.count("</example>"))
        line_start = line_end + 1
    if key is not None:
        yield _Entry(*key, end)


def _is_key(word: str) -> bool:
    folded = word.lower().replace("_", "-")
    return folded in _KNOWN | _SECRET_KEYS or (
        _LOWER.fullmatch(word) is not None and folded not in _DIALOGUE
    )


def _as_text(source: str) -> Value:
    """Read a value that is not YAML as its author most likely meant it.

    :param source: from the colon to the line before the next key.
    """
    first, *lines = source.rstrip().split("\n")
    first = first.strip()
    if lines and _BLOCK_HEADER.fullmatch(first):
        return _block_scalar(first[0], lines)
    if not first and lines:
        first, *lines = (lines[0].strip(), *lines[1:])
    if _ITEM.fullmatch(first):
        return _items([first, *lines])
    if all(not line or line[0].isspace() for line in lines):
        return unquoted(_folded([first, *lines]))  # as YAML folds a plain value
    return unquoted("\n".join([first, *lines]))


def _block_scalar(style: str, lines: list[str]) -> str:
    """Read the text below ``|`` or ``>``, less the indentation of its first line."""
    shown = next(line for line in lines if line.strip())
    indent = len(shown) - len(shown.lstrip(" "))
    lines = [line[indent:] if not line[:indent].strip() else line for line in lines]
    if style == ">":
        return _folded(lines)
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def _folded(lines: list[str]) -> str:
    """Lines joined by blanks, paragraphs by newlines."""
    text = ""
    breaks = 0
    for line in (line.strip() for line in lines):
        if not line:
            breaks += 1
            continue
        if text:
            text += "\n" * breaks or " "
        text += line
        breaks = 0
    return text


def _items(lines: list[str]) -> list[Value]:
    """Read the items of a list, each on one line or more."""
    items: list[list[str]] = []
    for line in lines:
        match = _ITEM.fullmatch(line)
        if match is not None:
            items.append([match[1]])
        elif line.strip():
            items[-1].append(line)
    return [unquoted(_folded(item)) for item in items]
