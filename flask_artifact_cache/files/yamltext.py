"""YAML text -> plain values: every scalar as it was written, nothing built, everything bounded."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.loader import BaseLoader

from . import flatyaml
from .problems import ASTERISK, BAD_ESCAPE, WIKI_LINK

try:
    from ruamel.yaml import cyaml
except ImportError:  # the C extension is optional; the values are the same without it
    CParser: Callable[[str], Any] | None = None
else:
    # By name: the module has had several, and none of them is typed.
    CParser = getattr(cyaml, "CParser")  # noqa: B009

Value: TypeAlias = "str | list[Value] | dict[str, Value] | None"

DEPTH_LIMIT = 16  # collections inside each other
NODE_LIMIT = 5_000  # scalars and collections, aliases counted as what they stand for
ALIAS_LIMIT = 20
BRACKET_LIMIT = 64  # brackets open at once, wherever they stand

_CORE = "tag:yaml.org,2002:"
_TAGS = frozenset(
    ("!", *(_CORE + kind for kind in ("str", "int", "float", "bool", "null", "map", "seq")))
)
_BRACKET = re.compile(r"[\[\]{}]")
_WIKI_LINK = re.compile(r"[:-][ ]+\[\[")
_BLANKS_ALONE = re.compile(r"\n +\n")
# What YAML cannot hold or no field should: controls, byte order marks, non-characters, surrogates.
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff\ud800-\udfff]")


class YamlError(Exception):
    """Text that is not YAML (``E_YAML``), or YAML that goes beyond a bound.

    :ivar code: an ``E_YAML`` code.
    :ivar index: of the character where it was noticed, from 0.
    """

    def __init__(self, code: str, message: str, index: int) -> None:
        super().__init__(message)
        self.code = code
        self.index = index


class Parsed(NamedTuple):
    """One YAML document.

    :ivar nodes: how many scalars and collections it has.
    :ivar repeated: index of every key that its mapping already had; the first one counts.
    """

    value: Value
    nodes: int
    repeated: tuple[int, ...]


Parse: TypeAlias = Callable[[str], Parsed]


def parse(text: str) -> Parsed:
    """Read ``text``: line by line, else with ruamel's C parser where that is installed.

    Both are short cuts, not second opinions: what they read without a doubt, the Python parser
    reads the same way; everything else (about 3 % of real files) is left to the latter.

    :raises YamlError: see there.
    """
    return parse_flat(text) or parse_with_events(text)


def parse_flat(text: str) -> Parsed | None:
    """Read ``text`` if it has one field a line, and stays within the bounds."""
    if text.count("[") + text.count("{") > BRACKET_LIMIT:
        return None
    found = flatyaml.read(text)
    return Parsed(*found, ()) if found is not None and found[1] <= NODE_LIMIT else None


def parse_with_events(text: str) -> Parsed:
    """Read ``text`` with ruamel's C parser where that is installed and certain.

    :raises YamlError: as :func:`parse_in_python`.
    """
    if CParser is not None and _is_ordinary(text):
        try:
            parsed = _build(_certain(CParser(text).get_event, text))
        except (YAMLError, YamlError, _DoubtError):
            pass
        else:
            if type(parsed.value) is dict or parsed.value is None:
                return parsed
    return parse_in_python(text)


def parse_in_python(text: str) -> Parsed:
    """Read ``text`` with ruamel's Python parser.

    :raises YamlError: see there.
    """
    _check_brackets(text)
    if text.startswith("%") or "\n%" in text:
        index = 0 if text.startswith("%") else text.index("\n%") + 1
        raise YamlError("E_YAML", "a YAML directive has no place in front matter", index)
    try:
        return _build(BaseLoader(text, version=(1, 2)).get_event)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        index = min(mark.index, len(text)) if mark is not None else 0
        raise YamlError("E_YAML", _reason(error.problem, text, index), index) from error
    except (YAMLError, ValueError, OverflowError) as error:
        # Of the latter two, an escape beyond the last character of Unicode is the cause.
        raise YamlError("E_YAML", "not valid YAML", 0) from error


def attempt(parse: Parse, text: str, start: int = 0) -> Parsed | YamlError:
    """Parse ``text``; return, not raise, the error that something can be done about (E_YAML).

    :param start: index of ``text`` in the text that an error's index shall refer to.
    :raises YamlError: beyond a bound.
    """
    try:
        return parse(text)
    except YamlError as error:
        error.index += start
        if error.code != "E_YAML":
            raise
        return error


class _DoubtError(Exception):
    """The two parsers may differ about this text."""


def _is_ordinary(text: str) -> bool:
    """Whether nothing in ``text`` is known to be read in two ways.

    The parsers differ about tabs, Unicode's line separators, directives, document marks in
    mid-text, and lines of nothing but blanks. This and ``_certain`` come from comparing them on
    some million random texts, with libyaml 0.1.7 and 0.2.5.
    """
    return not (
        "\t" in text
        or "\n%" in text
        or "\n---" in text
        or "\n..." in text
        or text[:1] in ("%", "-", ".")
        or (not text.isascii() and ("\x85" in text or "\u2028" in text or "\u2029" in text))
        or (" \n" in text and _BLANKS_ALONE.search(text) is not None)
        or text.count("[") + text.count("{") > BRACKET_LIMIT
    )


def _certain(get_event: Callable[[], Any], text: str) -> Callable[[], Any]:
    """Pass on the C parser's events, unless the Python parser may have others."""

    def next_event() -> Any:
        event = get_event()
        kind = type(event)
        if kind is ScalarEvent:
            doubtful = event.style in ("|", ">") and _has_odd_header(event, text)
        elif kind is MappingStartEvent:
            # The '[key: value]' of a list has no braces.
            doubtful = event.flow_style and text[event.start_mark.index] != "{"
        elif kind is SequenceStartEvent:
            doubtful = False
        elif kind is AliasEvent or (kind is DocumentStartEvent and event.explicit):
            raise _DoubtError
        else:
            return event
        if doubtful or event.anchor is not None or event.tag is not None:
            raise _DoubtError
        return event

    return next_event


def _has_odd_header(event: Any, text: str) -> bool:
    """Whether a block scalar has a comment beside its indicator."""
    start = event.start_mark.index
    end = text.find("\n", start)
    return text.find("#", start, end if end >= 0 else len(text)) >= 0


def _check_brackets(text: str) -> None:
    """Refuse what would keep the Python parser busy: its cost grows with the brackets squared.

    :raises YamlError: E_YAML_TOO_DEEP.
    """
    if text.count("[") + text.count("{") <= BRACKET_LIMIT:
        return
    depth = 0
    for match in _BRACKET.finditer(text):
        depth = depth + 1 if match[0] in "[{" else max(depth - 1, 0)
        if depth > BRACKET_LIMIT:
            raise _too_deep(match.start())


def _build(get_event: Callable[[], Any]) -> Parsed:
    """Turn events into a value; with a stack of our own, so that depth costs no recursion."""
    root: list[Value] = []
    # What is open: a list or a mapping, the key that waits for its value, merged mappings, anchor.
    stack: list[tuple[Any, str | None, list[Any], str | None]] = []
    container: Any = root
    key: str | None = None
    merged: list[Any] = []
    anchor: str | None = None
    anchors: dict[str, tuple[Value, int, int]] = {}
    repeated: list[int] = []
    nodes = aliases = 0
    value: Value

    while True:
        event = get_event()
        kind = type(event)
        is_key = key is None and type(container) is dict

        if kind is ScalarEvent:
            nodes += 1
            value = _scalar(event, is_key=is_key)
            if event.anchor is not None:
                anchors[event.anchor] = (value, 1, 0)

        elif kind is MappingStartEvent or kind is SequenceStartEvent:
            nodes += 1
            _check_tag(event)
            if is_key:
                raise _at(event, "E_YAML", "a key must be text")
            if len(stack) >= DEPTH_LIMIT:
                raise _too_deep(event.start_mark.index)
            if nodes > NODE_LIMIT:
                raise _too_many(event)
            stack.append((container, key, merged, anchor))
            container = {} if kind is MappingStartEvent else []
            key, merged, anchor = None, [], event.anchor
            continue

        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            value = container
            for source in merged:
                for name, inherited in source.items():
                    container.setdefault(name, inherited)
            if anchor is not None:
                anchors[anchor] = (value, *_measure(value))
            container, key, merged, anchor = stack.pop()
            is_key = False

        elif kind is AliasEvent:
            aliases += 1
            if aliases > ALIAS_LIMIT:
                raise _at(event, "E_YAML_ALIASES", "too many aliases")
            if event.anchor not in anchors:
                raise _at(event, "E_YAML", ASTERISK)
            value, size, height = anchors[event.anchor]
            nodes += size
            if nodes > NODE_LIMIT:
                raise _at(event, "E_YAML_ALIASES", "aliases that expand too far")
            if len(stack) + height > DEPTH_LIMIT:
                raise _too_deep(event.start_mark.index)
            if is_key and type(value) is not str:
                raise _at(event, "E_YAML", "a key must be text")

        elif kind is StreamEndEvent:
            return Parsed(root[0] if root else None, nodes, tuple(repeated))

        elif kind is DocumentStartEvent and (event.explicit or root):
            raise _at(event, "E_YAML", "a second YAML document")

        else:
            continue

        if nodes > NODE_LIMIT:
            raise _too_many(event)
        if is_key:
            key = value  # type: ignore[assignment]  # a key is a scalar, and never made None
            if key in container:
                repeated.append(event.start_mark.index)
        elif type(container) is list:
            container.append(value)
        else:
            if key == "<<" and _is_mergeable(value):
                merged.extend(value if type(value) is list else [value])
            else:
                container.setdefault(key, value)
            key = None


def _scalar(event: Any, *, is_key: bool) -> str | None:
    """The text as it was written; None for a plain null that is no key."""
    text: str = event.value
    tag = event.tag
    if tag is not None:
        _check_tag(event)
    style = event.style
    if not style:
        is_null = text in flatyaml.NULLS and not is_key and (tag is None or tag == _CORE + "null")
        return None if is_null else text
    return cleaned(text) if style == '"' and not text.isprintable() else text


def _check_tag(event: Any) -> None:
    if event.tag is not None and event.tag not in _TAGS:
        raise _at(event, "E_YAML_TAG", "a tag outside YAML's core schema")


def _is_mergeable(value: Value) -> bool:
    if type(value) is list:
        return all(type(item) is dict for item in value)
    return type(value) is dict


def _measure(value: Value) -> tuple[int, int]:
    """How many nodes ``value`` has, and how many collections are inside each other."""
    if type(value) is dict:
        inner = [_measure(item) for item in value.values()]
        return 1 + sum(size + 1 for size, _ in inner), 1 + max((h for _, h in inner), default=0)
    if type(value) is list:
        inner = [_measure(item) for item in value]
        return 1 + sum(size for size, _ in inner), 1 + max((h for _, h in inner), default=0)
    return 1, 0


def cleaned(text: str) -> str:
    """Leave out what an escape may have brought in: controls, half a surrogate pair."""
    if FORBIDDEN.search(text) is None:
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # Two halves of a pair, each escaped by itself as JSON does it, make one character.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
    return FORBIDDEN.sub("", text)


def _at(event: Any, code: str, message: str) -> YamlError:
    return YamlError(code, message, event.start_mark.index)


def _too_many(event: Any) -> YamlError:
    return _at(event, "E_YAML_TOO_MANY_NODES", f"more than {NODE_LIMIT:,} values")


def _too_deep(index: int) -> YamlError:
    return YamlError("E_YAML_TOO_DEEP", f"more than {DEPTH_LIMIT} levels", index)


def _reason(problem: str | None, text: str, index: int) -> str:
    """Tell the parser's complaint without what it quotes of the file."""
    problem = problem or ""
    if problem.startswith("mapping values are not allowed"):
        return "a colon and a blank inside an unquoted value"
    if "escape character" in problem or "escape sequence" in problem:
        return BAD_ESCAPE
    if _WIKI_LINK.search(text, text.rfind("\n", 0, index) + 1, index):
        return WIKI_LINK
    return "not valid YAML"
