"""Front matter with one field a line -> plain values, without a parser of YAML.

Nine of ten real files hold nothing but ``key: value``, ``key: [a, b]``, lists of ``- value``, and
mappings of ``key: value`` below a key such as ``metadata``.
What is read here, every parser of YAML reads the same way; in doubt nothing is read here.
"""

from __future__ import annotations

import re
from typing import Any

NULLS = frozenset(("", "~", "null", "Null", "NULL"))

# Blanks behind a value have one place to match in, or a long row of them would take for ever.
_NO_INDICATOR = r"""[^ \n?:,\[\]{}#&*!|>'"%@`-]"""
_QUOTED = r"""(?: "[^"\\\n]*" | '[^'\n]*' ) [ ]*"""
# No colon before a blank, and no number sign behind one.
_PLAIN = rf"{_NO_INDICATOR} [^\n:#]* (?: (?: :(?![ \n]) | (?<![ ])\# ) [^\n:#]* )*"
# Between brackets more marks have a meaning; those are not looked at here.
_FLOW_ITEM = rf"""(?: {_QUOTED} | {_NO_INDICATOR} [^\n?:,\[\]{{}}#'"]* )"""
_FLOW = rf"\[[ ]* (?: {_FLOW_ITEM} (?: ,[ ]*{_FLOW_ITEM} )* )? \] [ ]*"
_KEY = r"[A-Za-z_][\w.-]{0,99}"
_ITEM = rf"-[ ]+ (?: {_QUOTED} | {_PLAIN} )"
_PAIR = rf"{_KEY}:[ ]+ (?: {_QUOTED} | {_PLAIN} )"

_FIELD = re.compile(
    rf"""(?ax)
    ( {_KEY} ):
    (?:
        [ ]+ ( {_QUOTED} | {_FLOW} | {_PLAIN} )
    |   [ ]* (
            \n(?P<items>[ ]*){_ITEM} (?: \n(?P=items){_ITEM} )*
        |   \n(?P<pairs>[ ]+){_PAIR} (?: \n(?P=pairs){_PAIR} )*
        )?
    ) \n
    | ( [\s\S]+ )  # what is not read here
    """
)
_FLOW_ITEMS = re.compile(f"(?x){_FLOW_ITEM}")


def read(text: str) -> tuple[dict[str, Any], int] | None:
    """Read a mapping that is at most two levels deep; tell how many nodes it has.

    :returns: None where a parser has to look.
    """
    # Tabs, controls and all of Unicode's ways to end a line are not printable.
    if not text.replace("\n", "").isprintable():
        return None
    fields: dict[str, Any] = {}
    nodes = 1
    for key, value, block, _, _, doubt in _FIELD.findall(text):
        if doubt or key in fields:
            return None
        nodes += 2
        if block:
            lines = [line.lstrip(" ") for line in block.split("\n")[1:]]
            if lines[0][0] == "-":
                fields[key] = [_scalar(line[1:]) for line in lines]
                nodes += len(lines)
            else:
                pairs = [line.partition(":") for line in lines]
                fields[key] = {inner: _scalar(item) for inner, _, item in pairs}
                nodes += 2 * len(lines)
                if len(fields[key]) < len(lines):
                    return None
        elif value[:1] == "[":
            fields[key] = [_scalar(item) for item in _FLOW_ITEMS.findall(value)]
            nodes += len(fields[key])
        else:
            fields[key] = _scalar(value)
    return (fields, nodes) if fields else None


def _scalar(text: str) -> str | None:
    text = text.strip(" ")
    if text[:1] in ("'", '"'):
        return text[1:-1]
    return None if text in NULLS else text
