"""Front matter with one field a line -> plain values, without a parser of YAML.

Five of six real files hold nothing but ``key: value``, ``key: [a, b]`` and lists of ``- value``.
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
_ITEM = rf"-[ ]+ (?: {_QUOTED} | {_PLAIN} )"

_FIELD = re.compile(
    rf"""(?ax)
    ( [A-Za-z_][\w.-]{{0,99}} ):
    (?:
        [ ]+ ( {_QUOTED} | {_FLOW} | {_PLAIN} )
    |   [ ]* ( \n(?P<indent>[ ]*){_ITEM} (?: \n(?P=indent){_ITEM} )* )?
    ) \n
    | ( [\s\S]+ )  # what is not read here
    """
)
_FLOW_ITEMS = re.compile(f"(?x){_FLOW_ITEM}")


def read(text: str) -> tuple[dict[str, Any], int] | None:
    """Read a mapping of scalars and of lists of scalars; tell how many of all these there are.

    :returns: None where a parser has to look.
    """
    # Tabs, controls and all of Unicode's ways to end a line are not printable.
    if not text.replace("\n", "").isprintable():
        return None
    fields: dict[str, Any] = {}
    nodes = 1
    for key, value, items, _, doubt in _FIELD.findall(text):
        if doubt or key in fields:
            return None
        nodes += 2
        if items:
            fields[key] = [_scalar(item.lstrip(" ")[1:]) for item in items.split("\n")[1:]]
            nodes += len(fields[key])
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
