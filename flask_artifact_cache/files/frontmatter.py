"""The bytes of a file -> its front matter, or an error with a line.

Real files are read as they are: see ``recovery`` for what happens when the block is not YAML.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .problems import LEADING_RULE, Problem, UnreadableError
from .recovery import KEY_LINE, is_known, recover, unquoted
from .yamltext import FORBIDDEN, Parse, Value, YamlError, attempt, parse

READ_LIMIT = 256 * 1024  # bytes of a file that are looked at
BLOCK_LIMIT = 64 * 1024  # bytes of front matter that are parsed
REPORT_LIMIT = 20  # problems told about one file

# A block with nothing odd about it, in a third of the time: no line of it could be one of its ends,
# or part a heading from its fields.
_USUAL = re.compile(r"---\n((?:[^-.\n].*\n)+)---\n")
# The indentation of the first line of a block that has a key.
_TOP = re.compile(r"^([ \t]*)[^\s#]", re.MULTILINE)
_INLINE_LINES = 12  # lines in which a plain 'description:' counts without a block
_NULS_TOLERATED = 8  # or one in a hundred bytes; more make the file binary
_WITHOUT_CONTROLS = bytes(
    32 if (byte < 32 and byte not in (9, 10)) or byte == 127 else byte for byte in range(256)
)


class FrontMatter(NamedTuple):
    """What the top of a file declares.

    :ivar fields: keys as written; of equal keys the first.
    :ivar body: the text after the block, as far as it was read; newlines are LF.
    :ivar problems: warnings, without a path.
    """

    fields: dict[str, Value]
    body: str
    problems: tuple[Problem, ...]


class _Block(NamedTuple):
    """The front matter and where it stands in the file.

    :ivar text: its lines, without the indentation of the opening line.
    :ivar source: its lines as they are in the file.
    :ivar line: of its first line, from 1.
    """

    text: str
    source: str
    line: int

    def place(self, index: int) -> tuple[int, int]:
        """Line and column in the file, both from 1, of a character of ``text``."""
        text = self.text
        index = min(index, len(text) - 1 if text.endswith("\n") else len(text))
        above = text.count("\n", 0, index)
        column = index - text.rfind("\n", 0, index)
        if self.source != text:
            column += len(self.source.split("\n")[above]) - len(text.split("\n")[above])
        return self.line + above, column


def read(data: bytes, parse: Parse = parse) -> FrontMatter:
    """Read the front matter of a file that starts with ``data``, at most ``READ_LIMIT`` bytes.

    :param parse: reads YAML; ``yamltext.parse_in_python`` does it without the C parser.
    :raises UnreadableError: E_EMPTY, E_BINARY, E_NOT_A_MAPPING, E_FRONTMATTER_TOO_LARGE, E_YAML_*
    """
    problems: list[Problem] = []
    text = _decode(data, problems)
    found = _find(text, problems)
    if found is None:
        return _without_block(text, problems)
    block, body = found
    if len(block.text) * 4 > BLOCK_LIMIT and len(block.text.encode()) > BLOCK_LIMIT:
        message = f"the front matter is larger than {BLOCK_LIMIT // 1024} KiB"
        raise UnreadableError(Problem("E_FRONTMATTER_TOO_LARGE", message, line=block.line))

    try:
        fields = _fields(block, problems, parse)
    except YamlError as error:
        line, column = block.place(error.index)
        problem = Problem(error.code, str(error), line=line, column=column)
        raise UnreadableError(problem) from error
    if not fields:
        message = "the front matter is empty"
        problems.append(Problem("W_EMPTY_FRONTMATTER", message, line=block.line))
    return FrontMatter(fields, body, tuple(problems[:REPORT_LIMIT]))


def places(data: bytes, keys: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Find where fields of a file that :func:`read` can read begin.

    :param keys: as they are written, at the top of the front matter.
    :returns: key -> line and column, both from 1; of equal keys the first. One that does not begin
        a line is left out, and so are all where there is no block.
    """
    found = _find(_decode(data, []), [])
    top = _TOP.search(found[0].text) if found is not None else None
    if found is None or top is None:
        return {}
    block, placed = found[0], {}
    for key in keys:
        name = re.escape(key)
        line = rf"""^{top[1]}({name}|"{name}"|'{name}')[ \t]*:(?=\s|$)"""
        match = re.search(line, block.text, re.MULTILINE)
        if match is not None:
            placed[key] = block.place(match.start(1))
    return placed


def _fields(block: _Block, problems: list[Problem], parse: Parse) -> dict[str, Value]:
    """Read ``block`` as strict YAML, else with tabs made blanks, else key by key.

    :raises YamlError: when no way leads to fields.
    """

    def warn(code: str, message: str, index: int) -> None:
        if len(problems) < REPORT_LIMIT:
            line, column = block.place(index)
            problems.append(Problem(code, message, line=line, column=column))

    text = block.text
    parsed = attempt(parse, text)
    if isinstance(parsed, YamlError) and "\t" in text:
        warn("W_TABS", "a tab where YAML wants blanks", text.index("\t"))
        # One blank for one tab: every index still points to the same place.
        text = text.replace("\t", " ")
        parsed = attempt(parse, text)
    if isinstance(parsed, YamlError):
        return recover(text, parsed, parse, warn)
    for index in parsed.repeated:
        warn("W_DUPLICATE_KEY", "the key is there already; the first one counts", index)
    if parsed.value is None:
        return {}
    if not isinstance(parsed.value, dict):
        raise YamlError("E_NOT_A_MAPPING", "the front matter does not consist of fields", 0)
    return parsed.value


def _decode(data: bytes, problems: list[Problem]) -> str:
    """Make text of ``data``; of the control characters only tab and newline are left.

    :raises UnreadableError: E_EMPTY, E_BINARY
    """
    # The last character may have been cut in two by READ_LIMIT.
    whole = len(data) < READ_LIMIT
    readable = True
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = codecs.utf_16_decode(data, "replace", whole)[0]
        problems.append(Problem("W_ENCODING", "the file is UTF-16", line=1))
    else:
        try:
            text = codecs.utf_8_decode(data, "strict", whole)[0]
        except UnicodeDecodeError as error:
            readable = b"\0" not in data
            text = data.decode("cp1252", "replace")
            line = data.count(b"\n", 0, error.start) + 1
            problems.append(Problem("W_ENCODING", "the file is not UTF-8", line=line))
        if text.startswith("\ufeff"):
            text = text[1:]
            problems.append(Problem("W_BOM", "the file starts with a byte order mark", line=1))

    if not readable or ("\0" in text and text.count("\0") > max(_NULS_TOLERATED, len(text) // 100)):
        raise UnreadableError(Problem("E_BINARY", "the file is not text"))
    if not _is_clean(data):
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        control = FORBIDDEN.search(text)
        if control is not None:
            line = text.count("\n", 0, control.start()) + 1
            column = control.start() - text.rfind("\n", 0, control.start())
            message = "control characters were left out"
            problems.append(Problem("W_CONTROL_CHARS", message, line=line, column=column))
            text = FORBIDDEN.sub("", text)
    if not text or text.isspace():
        raise UnreadableError(Problem("E_EMPTY", "the file is empty"))
    return text


def _is_clean(data: bytes) -> bool:
    """Whether UTF-8 ``data`` surely holds no CR and nothing FORBIDDEN, told at bytes' speed."""
    return data.translate(_WITHOUT_CONTROLS) == data and (
        data.isascii() or not (b"\xc2" in data or b"\xef\xbb\xbf" in data or b"\xef\xbf" in data)
    )


def _find(text: str, problems: list[Problem]) -> tuple[_Block, str] | None:
    """Find the block and the text after it; None where the file has no block."""
    usual = _USUAL.match(text)
    if usual is not None:
        return _Block(usual[1], usual[1], 2), text[usual.end() :]
    start, warnings = (0, []) if text.startswith("---\n") else _skip_preamble(text)
    end = _line_end(text, start)
    opening = text[start:end]
    if opening.strip() != "---":
        return _without_opening(text, problems)

    line = text.count("\n", 0, start) + 1 if start else 1
    prefix = opening[: opening.index("-")]
    first = min(end + 1, len(text))
    closed = _closing_line(text, end, prefix)
    if closed is None or _has_prose(text[first : closed[0]]):
        closed = _run(text, first, prefix)
        if not any(map(is_known, _dedented(text[first : closed[0]], prefix))):
            return None  # a rule above prose
        warnings.append(_unclosed(text, line, *closed))
    close, after = closed
    block = source = text[first:close]
    if prefix:
        warnings.append(Problem("W_INDENTED_BLOCK", "the front matter is indented", line=line))
        block = "\n".join(_dedented(source, prefix))
    problems.extend(warnings)
    return _Block(block, source, line + 1), text[after:]


def _unclosed(text: str, line: int, close: int, after: int) -> Problem:
    if close == after:
        return Problem("W_UNCLOSED", "the front matter has no closing line", line=line)
    line = text.count("\n", 0, close) + 1
    return Problem("W_ODD_CLOSE", "the closing line is not exactly '---'", line=line)


def _line_end(text: str, start: int) -> int:
    """Where the line that holds ``start`` ends; its newline, or the end of the text."""
    end = text.find("\n", start)
    return end if end >= 0 else len(text)


def _closing_line(text: str, end: int, prefix: str) -> tuple[int, int] | None:
    """Start and end of the first ``---`` or ``...`` line after ``end``, indented by ``prefix``."""
    dashes = _marker_line(text, "\n" + prefix + "---", end, len(text))
    limit = dashes[0] if dashes is not None else len(text)
    return _marker_line(text, "\n" + prefix + "...", end, limit) or dashes


def _marker_line(text: str, marker: str, start: int, limit: int) -> tuple[int, int] | None:
    while (start := text.find(marker, start, limit)) >= 0:
        after = start + len(marker)
        end = _line_end(text, after)
        if end == after or text[after:end].isspace():
            return start + 1, min(end + 1, len(text))
        start = after
    return None


def _has_prose(block: str) -> bool:
    """Whether a heading and text follow the fields: the closing line is a rule of the body."""
    heading = block.find("\n\n#")
    return heading >= 0 and any(
        line[:1].isalpha() and not _is_field(line) for line in block[heading + 2 :].split("\n")
    )


def _dedented(block: str, prefix: str) -> Iterator[str]:
    for line in block.split("\n"):
        yield line[len(prefix) :] if line.startswith(prefix) else line.lstrip(" \t")


def _skip_preamble(text: str) -> tuple[int, list[Problem]]:
    """Find the opening line behind blank lines, a comment, a code fence; else the text's start."""
    warnings = []

    def warn(code: str, message: str) -> None:
        warnings.append(Problem(code, message, line=text.count("\n", 0, start) + 1))

    start = 0
    if first := _skip_blank(text, 0):
        warn("W_LEADING_BLANK", "blank lines above the front matter")
        start = first
    if text.startswith("<!--", start):
        warn("W_LEADING_COMMENT", "a comment above the front matter")
        end = text.find("-->", start)
        start = _skip_blank(text, end + 3) if end >= 0 else len(text)
    if text.startswith(("```", "~~~"), start):
        warn("W_CODE_FENCED", "the front matter is inside a code fence")
        start = _skip_blank(text, _line_end(text, start))
    opens = text[start : _line_end(text, start)].strip() == "---"
    return (start, warnings) if opens else (0, [])


def _skip_blank(text: str, start: int) -> int:
    """Find the first line from ``start`` on that is not blank."""
    while start < len(text):
        end = _line_end(text, start)
        if text[start:end].strip():
            return start
        start = end + 1
    return len(text)


def _run(text: str, start: int, prefix: str = "") -> tuple[int, int]:
    """Find where the lines that look like fields end, and an odd closing line after them.

    The two are equal where no such line follows. Blank lines belong to the fields when one that
    is indented, or that has a key every reader knows, comes next.
    """
    close = start
    blank = False
    while start < len(text):
        end = _line_end(text, start)
        line = text[start:end].removeprefix(prefix)
        after = min(end + 1, len(text))
        mark = line.strip()
        if not mark:
            blank = True
        elif len(mark) > 1 and set(mark) in ({"-"}, {"="}, {"."}):
            return start, after
        elif line[0] in " \t" or is_known(line) or (not blank and _is_field(line)):
            blank = False
            close = after
        else:
            break
        start = after
    return close, close


def _is_field(line: str) -> bool:
    return line.startswith("- ") or KEY_LINE.match(line) is not None


def _without_opening(text: str, problems: list[Problem]) -> tuple[_Block, str] | None:
    """Find a block that lacks its opening line: known keys from the top to a closing line."""
    start = _skip_blank(text, 0)
    if not is_known(text[start : _line_end(text, start)]):
        return None
    close, after = _run(text, start)
    known = sum(is_known(line) for line in text[start:close].split("\n"))
    if text[close:after].strip() not in ("---", "...") or known < 2:
        return None
    line = text.count("\n", 0, start) + 1
    problems.append(Problem("W_NO_OPEN_FENCE", "the opening line is missing", line=line))
    block = text[start:close]
    return _Block(block, block, line), text[after:]


def _without_block(text: str, problems: list[Problem]) -> FrontMatter:
    """Name and description from plain lines near the top; else no fields at all."""
    fields: dict[str, Value] = {}
    kept: list[str] = []
    fenced = False
    lines = text.split("\n", _INLINE_LINES)
    for number, line in enumerate(lines[:_INLINE_LINES], start=1):
        fenced ^= line.startswith(("```", "~~~"))
        found = {} if fenced else _inline_fields(line)
        if not found:
            kept.append(line)
            continue
        if not fields:
            message = "fields in the text, without a front matter block"
            problems.append(Problem("W_INLINE_META", message, line=number))
        for key, value in found.items():
            fields.setdefault(key, unquoted(value))
    if not fields:
        ruled = text.lstrip().startswith("---")
        message = LEADING_RULE if ruled else "the file has no front matter"
        problems.append(Problem("W_NO_FRONTMATTER", message, line=1))
        return FrontMatter(fields, text, tuple(problems))
    return FrontMatter(fields, "\n".join(kept + lines[_INLINE_LINES:]), tuple(problems))


def _inline_fields(line: str) -> dict[str, str]:
    """Read ``name: ...`` and ``description: ...``.

    In text that was copied from a page, both stand in one line with nothing between them.
    """
    key, _, value = line.partition(":")
    key = key.rstrip().lower()
    if key not in ("name", "description") or not value.startswith(" "):
        return {}
    found = {key: value}
    if key == "name":
        name, _, description = value.partition("description: ")
        found = {"name": name, "description": description}
    return {key: text for key, value in found.items() if (text := value.strip())}
