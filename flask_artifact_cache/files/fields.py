"""Front matter and manifest entries -> normalised metadata, the same for every source."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from .problems import Problem
from .yamltext import cleaned

NAME_LIMIT = 64  # characters; with the form below, the Agent Skills specification's rule
DESCRIPTION_LIMIT = 1_024  # characters; the same specification's

_KEPT_TEXT = 200  # characters
_INT_BITS = 256  # a longer number is no version, and long to write out
_HINT_DEPTH = 4  # brackets inside each other in an argument hint
_PLAIN_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_TAG_BREAK = re.compile(r"[,;\n]")
_TOOL_BREAK = re.compile(r"[,\n]")
_BRACKET = re.compile(r"[()\[\]{}]")
_TOOL_MARK = re.compile(r"[()\[\]{}, \t\n]")
_OUTLINE_LINES = 200  # lines of a body in which title and description are looked for
_RULE = re.compile(r"([-=*_])[ \t]*(?:\1[ \t]*)+")
_ITEM = re.compile(r"(?:[-*+>]|\d{1,3}[.)])[ \t]+")
_HEADINGS = tuple("#" * level + " " for level in range(1, 7))
_NOT_PROSE = ("#", "|", "![", "[![", "<")
_FENCES = ("```", "~~~")


class Fields(NamedTuple):
    """What every kind of artifact may say about itself.

    :ivar name: as declared, else from the path.
    :ivar description: as declared, else the first paragraph of the body.
    :ivar tools: None where nothing is declared, empty where none is allowed.
    :ivar problems: warnings, without a path.
    :ivar keys: of each warning, the key at the top that it is about, in the form in which keys are
        compared; empty where there is none.
    """

    name: str
    title: str | None
    description: str | None
    author: str | None
    license: str | None
    version: str | None
    tags: tuple[str, ...]
    tools: tuple[str, ...] | None
    model: str | None
    argument_hint: str | None
    problems: tuple[Problem, ...]
    keys: tuple[str, ...]


def normalise(
    type_: str, values: Mapping[str, object], *, fallback_name: str, body: str = ""
) -> Fields:
    """Read the fields of one artifact from front matter, ``plugin.json`` or ``collection.toml``.

    Keys are compared in lower case with ``_`` as ``-``; what is missing at the top is looked for
    under ``metadata``.

    :param type_: skill, command, agent, ...; the rules for names and descriptions depend on it.
    :param fallback_name: of the folder or file, for an artifact without a usable name.
    :param body: the text below the front matter; title and description fall back on it.
    """
    source = _Source(values)
    title = source.text("title")
    description = source.text("description")
    if type_ == "skill" and description is not None and len(description) > DESCRIPTION_LIMIT:
        message = f"the description is longer than {DESCRIPTION_LIMIT:,} characters"
        source.warn("W_DESCRIPTION_TOO_LONG", message, "description")
    if title is None or description is None:
        heading, paragraph = _outline(body, paragraph=description is None)
        title = title or heading
        if description is None and type_ in ("skill", "agent"):
            source.warn("W_MISSING_DESCRIPTION", "no description is declared")
        description = description or paragraph
    tool_keys = ("tools", "allowed-tools") if type_ == "agent" else ("allowed-tools", "tools")
    return Fields(
        name=_name(type_, source, fallback_name),
        title=title,
        description=description,
        author=_author(source),
        license=source.text("license"),
        version=source.text("version"),
        tags=_tags(source),
        tools=_tools(source, *tool_keys, "allowedtools"),
        model=_model(source),
        argument_hint=_argument_hint(source),
        problems=tuple(source.problems),
        keys=tuple(source.keys),
    )


def written(values: Mapping[str, object], key: str) -> str | None:
    """The key of ``values`` that counts as ``key``, one of :attr:`Fields.keys`."""
    return next(
        (one for one, value in values.items() if value is not None and _fold(one) == key), None
    )


class _Source:
    """Values under normalised keys, and what was wrong with them."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self.problems: list[Problem] = []
        self.keys: list[str] = []  # of each problem
        self.values = _folded(values)
        self.levels = [self.values]
        metadata = self.values.get("metadata")
        if isinstance(metadata, Mapping):
            self.levels.append(_folded(metadata))

    def first(self, *keys: str) -> tuple[str, object]:
        """Find the first of ``keys`` that is there, at the top before under ``metadata``."""
        for values in self.levels:
            for key in keys:
                if key in values:
                    return key, values[key]
        return keys[0], None

    def text(self, key: str) -> str | None:
        """Read what should be text; None where it is missing, empty or no scalar."""
        value = self.values.get(key)
        if value is None:
            _, value = self.first(key)
        return self.as_text(key, value)

    def as_text(self, key: str, value: object) -> str | None:
        """Read ``value`` as :meth:`text` does."""
        if value is None:
            return None
        if isinstance(value, str):
            return _printable(value) or None
        self.wrong_type(key)
        return _scalar(value)

    def wrong_type(self, key: str) -> None:
        self.warn("W_TYPE", f"the value of '{key}' is not of the usual kind", key)

    def warn(self, code: str, message: str, key: str = "") -> None:
        self.problems.append(Problem(code, message))
        self.keys.append(key if key in self.values else "")


def _remembered(split: Callable[[str], tuple[str, ...]]) -> Callable[[str], tuple[str, ...]]:
    """Split equal texts once: the tags and tools of a collection are the same few, again and again.

    Only short ones are kept, so that no file can fill the memory with them.
    """
    kept = lru_cache(maxsize=1024)(split)
    return lambda text: kept(text) if len(text) <= _KEPT_TEXT else split(text)


def _folded(values: Mapping[str, object]) -> dict[str, object]:
    folded: dict[str, object] = {}
    for key, value in values.items():
        if value is not None:
            folded.setdefault(_folded_key(key) if len(key) <= _KEPT_TEXT else _fold(key), value)
    return folded


def _fold(key: str) -> str:
    return key.lower().replace("_", "-")


_folded_key = lru_cache(maxsize=1024)(_fold)


def _scalar(value: object) -> str | None:
    """Write a scalar of YAML, JSON or TOML as text; None for anything else."""
    if isinstance(value, str):
        return _printable(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= _INT_BITS):
        return str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return None


def _printable(text: str) -> str:
    text = text.strip()
    return text if text.isprintable() else cleaned(text).strip()


def _name(type_: str, source: _Source, fallback: str) -> str:
    value = source.values.get("name")
    if value is None:
        return fallback
    name = _scalar(value)
    if name is None:
        source.warn("W_NAME_INVALID", "the name is not text; the path's name is used", "name")
        return fallback
    if not name:
        return fallback
    if _PLAIN_NAME.fullmatch(name) is None or len(name) > NAME_LIMIT:
        if _is_unsafe(name):
            message = "the name holds control characters or '..'; the path's name is used"
            source.warn("W_NAME_INVALID", message, "name")
            return fallback
        if type_ == "skill" and not _is_skill_name(name):
            message = "the name has not the form of a skill's name"
            source.warn("W_NAME_INVALID", message, "name")
    if type_ == "skill" and name != fallback and _nfkc(name) != _nfkc(fallback):
        source.warn("W_NAME_MISMATCH", "the name is not the folder's", "name")
    return name


def _is_unsafe(name: str) -> bool:
    """Whether a name could pass for a path upwards, or show as something it is not."""
    if ".." in name and ".." in name.replace("\\", "/").split("/"):
        return True
    return not name.isprintable() and any(
        unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in name
    )


def _is_skill_name(name: str) -> bool:
    return (
        len(name) <= NAME_LIMIT
        and name == name.lower()
        and all(part.isalnum() for part in name.split("-"))
    )


def _nfkc(name: str) -> str:
    return unicodedata.normalize("NFKC", name)


def _author(source: _Source) -> str | None:
    key, value = source.first("author", "authors")
    if value is None or isinstance(value, str):
        return source.as_text(key, value)
    people = value if isinstance(value, list | tuple) else [value]
    names = []
    for person in people:
        if isinstance(person, Mapping):
            person = person.get("name") or person.get("email")
        name = _scalar(person)
        if name is None or not isinstance(person, str):
            source.wrong_type(key)
        if name:
            names.append(name)
    return ", ".join(names) or None


def _model(source: _Source) -> str | None:
    key, value = source.first("model")
    if isinstance(value, list | tuple):
        return ", ".join(filter(None, map(_scalar, value))) or None
    return source.as_text(key, value)


def _tags(source: _Source) -> tuple[str, ...]:
    key, value = source.first("tags", "keywords")
    if value is None:
        return ()
    tags: dict[str, None] = {}  # in order; 'no' and 'NO' are two
    for item in value if isinstance(value, list | tuple) else [value]:
        text = _scalar(item)
        if text is None:
            source.wrong_type(key)
            continue
        for tag in _split_tags(text):
            tags[tag] = None
    return tuple(tags)


@_remembered
def _split_tags(text: str) -> tuple[str, ...]:
    tags = []
    for part in _TAG_BREAK.split(_without_brackets(text)):
        tag = part.strip(" \t\"'").lstrip("#").strip()
        if tag and not tag.isascii():
            tag = unicodedata.normalize("NFC", tag)
        if tag:
            tags.append(tag)
    return tuple(tags)


def _tools(source: _Source, *keys: str) -> tuple[str, ...] | None:
    key, value = source.first(*keys)
    if value is None:
        return None
    if isinstance(value, list | tuple):
        tools = [_scalar(item) for item in value]
        if None in tools:
            source.wrong_type(key)
        return tuple(filter(None, tools))
    text = _scalar(value)
    if text is None:
        source.wrong_type(key)
        return None
    return _split_tools(text)


def _without_brackets(text: str) -> str:
    """Take the brackets off what was meant as a list but is not valid YAML."""
    return text[1:].removesuffix("]") if text.startswith("[") else text


@_remembered
def _split_tools(text: str) -> tuple[str, ...]:
    """Split at commas and newlines, else at blanks; ``Bash(git add:*, git commit:*)`` is one."""
    text = _without_brackets(text)
    pieces = _split_outside_brackets(text, ",\n")
    if len(pieces) == 1:
        pieces = _split_outside_brackets(text, " \t")
    return tuple(pieces)


def _split_outside_brackets(text: str, breaks: str) -> list[str]:
    pieces: list[str] = []
    if _BRACKET.search(text) is None:
        pieces = _TOOL_BREAK.split(text) if breaks == ",\n" else text.split()
    else:
        depth = start = 0
        for match in _TOOL_MARK.finditer(text):
            mark = match[0]
            if mark in "([{":
                depth += 1
            elif mark in ")]}":
                depth = max(0, depth - 1)
            elif depth == 0 and mark in breaks:
                pieces.append(text[start : match.start()])
                start = match.end()
        pieces.append(text[start:])
    return [piece for piece in (piece.strip(" \t\"'") for piece in pieces) if piece]


def _argument_hint(source: _Source) -> str | None:
    key, value = source.first("argument-hint", "argumenthint")
    # '[file name]' is a list to YAML and a hint to its author.
    return _bracketed(value) if isinstance(value, list | tuple) else source.as_text(key, value)


def _bracketed(value: object, depth: int = _HINT_DEPTH) -> str:
    """Write a flow list back as it stood on its line."""
    if depth and isinstance(value, list | tuple):
        return f"[{', '.join(_bracketed(item, depth - 1) for item in value)}]"
    if depth and isinstance(value, Mapping):
        pairs = (f"{_bracketed(key)}: {_bracketed(item, depth - 1)}" for key, item in value.items())
        return ", ".join(pairs)
    return _scalar(value) or ""


def _lines(text: str) -> Iterator[str]:
    """Yield one stripped line after the other; a body is long, and its first lines are enough."""
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = end if end >= 0 else len(text)
        yield text[start:end].strip()
        start = end + 1


def _heading(line: str) -> str | None:
    """The text of ``## C# ##``; the marks behind it count as such after a blank only."""
    text = line.lstrip("#").strip()
    bare = text.rstrip("#")
    return (bare.rstrip() if bare.endswith(" ") else text) or None


def _outline(body: str, *, paragraph: bool) -> tuple[str | None, str | None]:
    """Find the first heading and, if ``paragraph``, the first paragraph of Markdown text."""
    if not paragraph and not body.startswith("#") and "\n#" not in body:
        return None, None
    heading: str | None = None
    found: str | None = None
    lines: list[str] = []  # of the paragraph being read
    fence = ""
    comment = False
    for line in islice(_lines(body), _OUTLINE_LINES):
        if fence or comment:
            fence = "" if fence and line.startswith(fence) else fence
            comment = comment and "-->" not in line
            continue
        is_rule = len(line) > 1 and _RULE.fullmatch(line) is not None
        if is_rule and lines and line[0] in "-=":
            heading = heading or " ".join(lines)  # it was underlined
            lines = []
        elif line.startswith(_FENCES):
            fence = line[:3]
        elif line.startswith("<!--"):
            comment = "-->" not in line
        elif line.startswith(_HEADINGS):
            heading = heading or _heading(line)
        elif line and not is_rule and not line.startswith(_NOT_PROSE):
            item = _ITEM.match(line)
            if item is None:
                lines.append(line)
                continue
            found = found or " ".join(lines) or line[item.end() :]
            lines = []
        found = found or " ".join(lines) or None
        lines = []
        if heading is not None and (found is not None or not paragraph):
            break
    found = found or " ".join(lines) or None
    return heading, found[:DESCRIPTION_LIMIT] if found is not None else None
