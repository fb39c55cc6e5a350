"""The text of a TOML document -> the same text, saying something else; all else stays; pure.

A document is made of blocks: a header such as ``[collection]`` or ``[[artifacts]]``, and all up to
the next that does not continue it. Where the blocks that have to change can be told, only these are
parsed and written by tomlkit, which knows of comments and takes many seconds for thousands of
blocks. Where they cannot be told, or the outcome does not say what is meant, it gets all of them.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Array, InlineTable, SingleKey, Table

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Values = Mapping[str, Any]  # as tomllib gives them
Splice = tuple[int, int, str]  # begin and end in the text, and what comes there

# A line that can be a header. It begins with a text, so that the search for it is quick.
_HEADER = re.compile(r"\n(\[.*\])")


class CannotEditError(Exception):
    """The document is written in a way that cannot be edited safely."""


def rewritten(text: str, before: Values, after: Values) -> str:
    """Make ``text`` say ``after``.

    :param before: what it says.
    :raises CannotEditError: if no text was found that says exactly ``after``.
    """
    for way in (by_block, as_a_whole):
        try:
            found = way(text, before, after)
            if tomllib.loads(found) == after:
                return found
        except (CannotEditError, TOMLKitError, tomllib.TOMLDecodeError, RecursionError):
            continue
    raise CannotEditError


def by_block(text: str, before: Values, after: Values) -> str:
    """Make ``text`` say ``after``, and look at nothing but the blocks that have to change.

    :raises CannotEditError: if these cannot be told.
    """
    parts, done = [], 0
    for begin, end, new in sorted(_splices(_Blocks(text), (), before, after)):
        if begin < done:
            raise CannotEditError
        parts += [text[done:begin], new]
        done = end
    return "".join((*parts, text[done:]))


def as_a_whole(text: str, before: Values, after: Values) -> str:
    """Make ``text`` say ``after``, as far as tomlkit can."""
    document = tomlkit.parse(text)
    _merge(document, before, after)
    written = tomlkit.dumps(document)
    emptied = [key for key, value in after.items() if value == [] and key not in document]
    # An empty list is a value, and has to stand above the first header.
    return "".join(f"{SingleKey(key).as_string()} = []\n\n" for key in emptied) + (
        written.lstrip("\n") if emptied else written
    )


def paired(before: Sequence[Any], after: Sequence[Any]) -> list[tuple[int, int]]:
    """Tell which tables of an array stand for which of another, as pairs of indices.

    What is equal at both ends is the same; of what is between, tables with the same name and type.
    """
    first, last = 0, 0
    most = min(len(before), len(after))
    while first < most and before[first] == after[first]:
        first += 1
    while last < most - first and before[-1 - last] == after[-1 - last]:
        last += 1
    pairs = [(index, index) for index in range(first)]
    new = first
    for old in range(first, len(before) - last):
        if new < len(after) - last and _identity(before[old]) == _identity(after[new]):
            pairs.append((old, new))
            new += 1
    shift = len(after) - len(before)
    pairs += [(index, index + shift) for index in range(len(before) - last, len(before))]
    return pairs


def _identity(table: Any) -> tuple[Any, Any]:
    return (table.get("name"), table.get("type"))


# --- block by block -------------------------------------------------------------------------------


class _Blocks:
    """The blocks of a text; what looks like a header and is none only makes them unusable."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.begins: list[int] = []
        self.headers: dict[str, list[int]] = {}
        for match in _HEADER.finditer("\n" + text):
            self.begins.append(match.start())
            self.headers.setdefault(match[1], []).append(match.start())

    def tables(self, key: str, values: list[Any]) -> list[int]:
        """Where the tables of a list begin."""
        begins = self.headers.get(f"[[{_dotted((key,))}]]", [])
        if len(begins) != len(values):
            raise CannotEditError  # some are written in another way, or one within a text
        return begins

    def table(self, path: tuple[str, ...]) -> int:
        """Where the table at ``path`` begins."""
        begins = self.headers.get(f"[{_dotted(path)}]", [])
        if len(begins) != 1:
            raise CannotEditError
        return begins[0]

    def last(self, path: tuple[str, ...]) -> int:
        """Where the last block begins that is about the table at ``path``."""
        headers = (f"[{_dotted(path)}]", f"[{_dotted(path)}.")
        for begin in reversed(self.begins):
            if self.text.startswith(headers, begin):
                return begin
        raise CannotEditError

    def span(self, begin: int, path: tuple[str, ...], says: Any) -> tuple[int, int]:
        """Where the block is that begins there, and says this of what is at ``path``."""
        end = self.end(begin, path)
        if tomllib.loads(self.text[begin:end]) != _nested(path, says):
            raise CannotEditError
        return begin, end

    def end(self, begin: int, path: tuple[str, ...]) -> int:
        """Where the block ends: above the next header, and the comments on that."""
        dotted = _dotted(path)
        for index in range(bisect_right(self.begins, begin), len(self.begins)):
            following = self.begins[index]
            if not self.text.startswith((f"[{dotted}.", f"[[{dotted}."), following):
                return self.above(following, begin)
        return len(self.text)

    def above(self, begin: int, after: int = 0) -> int:
        """Where the comments begin that stand right above a header, below ``after``, if any do.

        Those at the very top are about the whole text.
        """
        start = begin
        while start > after:
            line = max(self.text.rfind("\n", after, start - 1) + 1, after)
            if self.text[line] != "#":
                return start
            start = line
        return begin


def _splices(
    blocks: _Blocks, path: tuple[str, ...], before: Values, after: Values
) -> Iterator[Splice]:
    """Where the text has to change, so that the table at ``path`` says ``after``."""
    both = ((key, before.get(key), after.get(key)) for key in {**before, **after})
    changed: list[tuple[str, Any, Any]] = [one for one in both if one[1] != one[2]]
    if path and not all(_is_table(old) and _is_table(new) for _, old, new in changed):
        span = blocks.span(blocks.table(path), path, before)
        yield _edited(blocks.text, span, path, before, after)
        return
    for key, old, new in changed:
        inner = (*path, key)
        if not path and _are_tables(old) and _are_tables(new):
            yield from _listed(blocks, key, old, new)
        elif not path and not (isinstance(old, dict) and isinstance(new, dict)):
            raise CannotEditError  # a value above the first header
        elif new is None:
            if not any(isinstance(value, dict) for value in after.values()):
                raise CannotEditError  # the table above might be gone with it
            begin, end = blocks.span(blocks.table(inner), inner, old)
            yield blocks.above(begin), end, ""
        elif old is None:
            yield _added(blocks.text, blocks.end(blocks.last(path), path), _nested(inner, new))
        else:
            yield from _splices(blocks, inner, old, new)


def _listed(blocks: _Blocks, key: str, before: list[Any], after: list[Any]) -> Iterator[Splice]:
    """Where the text has to change, so that the tables of a list say ``after``."""
    begins = blocks.tables(key, before)
    pairs = dict(paired(before, after))
    for index, old in enumerate(before):
        new = after[pairs[index]] if index in pairs else None
        if old == new:
            continue
        span = blocks.span(begins[index], (key,), [old])
        if new is None:
            yield blocks.above(span[0]), span[1], ""
        else:
            yield _edited(blocks.text, span, (key,), [old], [new])
    kept = set(pairs.values())
    added = [table for index, table in enumerate(after) if index not in kept]
    if added:
        yield _added(blocks.text, blocks.end(begins[-1], (key,)), {key: added})


def _edited(text: str, span: tuple[int, int], path: tuple[str, ...], old: Any, new: Any) -> Splice:
    begin, end = span
    document = tomlkit.parse(text[begin:end])
    _merge(document, _nested(path, old), _nested(path, new))
    return begin, end, tomlkit.dumps(document)


def _added(text: str, at: int, values: Values) -> Splice:
    """Write ``values`` as blocks of their own, with a blank line above and below."""
    new = tomlkit.dumps(values).strip("\n") + "\n"
    above = text[max(at - 2, 0) : at]
    gap = "" if above in ("\n\n", "") else "\n" if above.endswith("\n") else "\n\n"
    return at, at, gap + new + ("\n" if at < len(text) else "")


def _nested(path: tuple[str, ...], values: Any) -> dict[str, Any]:
    for key in reversed(path):
        values = {key: values}
    found: dict[str, Any] = values
    return found


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(SingleKey(key).as_string() for key in path)


def _is_table(value: Any) -> bool:
    """Whether it is a table, or nothing."""
    return value is None or isinstance(value, dict)


def _are_tables(value: Any) -> bool:
    """Whether it is a list of tables, and so may be written as blocks."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


# --- with tomlkit ---------------------------------------------------------------------------------


def _merge(table: Any, before: Values, after: Values) -> None:
    """Make a table of tomlkit say ``after``, and touch nothing that it says already."""
    for key in before:
        if key not in after:
            del table[key]
    for key, new in after.items():
        old: Any = before.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict) and new:
            _merge(table[key], old, new)
        elif _are_tables(old) and _are_tables(new):
            _merge_list(table[key], old, new)
        elif new == [] and isinstance(table, tomlkit.TOMLDocument):
            table.pop(key, None)  # and is written above all
        elif _are_tables(new) and isinstance(table, tomlkit.TOMLDocument):
            # Below all values of the document.
            table.pop(key, None)
            tables = tomlkit.aot()
            for one in new:
                tables.append(_table(one))
            table.append(key, tables)
        elif isinstance(new, dict) and isinstance(table, InlineTable):
            inline = tomlkit.inline_table()
            inline.update(new)
            table[key] = inline
        elif isinstance(new, dict) and not new:
            # Has to be written although nothing is in it.
            table.pop(key, None)
            table[key] = tomlkit.table()
        else:
            table[key] = new


def _merge_list(listed: Any, before: list[Any], after: list[Any]) -> None:
    if not isinstance(listed, (AoT, Array)):
        raise CannotEditError
    pairs = dict(paired(before, after))
    for index in reversed(range(len(before))):
        if index not in pairs:
            del listed[index]
        elif before[index] != after[pairs[index]]:
            _merge(listed[index], before[index], after[pairs[index]])
    kept = set(pairs.values())
    for index, table in enumerate(after):
        if index not in kept:
            if isinstance(listed, AoT):
                listed.append(_table(table))
            else:
                inline = tomlkit.inline_table()
                inline.update(table)
                listed.append(inline)


def _table(values: Values) -> Any:
    """A table of a list, with a blank line below."""
    table: Any = tomlkit.item(values)
    inner = table
    while inner and isinstance(last := list(inner.values())[-1], Table):
        inner = last
    inner.add(tomlkit.nl())
    return table
