"""What people read: text of artifacts made harmless, ages in words, and one way to translate."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from html import escape
from typing import Any
from urllib.parse import quote_plus, urlsplit

from jinja2 import Environment
from jinja2.runtime import Context
from markupsafe import Markup

# What moves or hides other text: controls, bidirectional marks and overrides, line and paragraph
# separators, invisible operators, tags, halves of surrogate pairs. The joiners that scripts and
# emoji need stay.
_NEUTRALISED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
# More accents on one letter than any script has would cover the lines above and below.
_STACKED = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]{4})"
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]+"
)
REPLACEMENT = "\ufffd"
CAP = 300


def plain(value: object, cap: int = CAP) -> str:
    """Text of an artifact as it may be shown: no longer than ``cap``, and moving nothing else.

    Escaping is the template's business; this is about what is harmful as text.
    """
    text = value if isinstance(value, str) else str(value)
    if len(text) > cap:
        text = text[: cap - 1].rstrip() + "…"
    if text.isprintable() and text.isascii():
        return text
    return _STACKED.sub(r"\1", _NEUTRALISED.sub(REPLACEMENT, text))


@lru_cache(maxsize=4096)
def escaped(value: object, cap: int = CAP) -> str:
    """:func:`plain` text as HTML, for a template that does not escape by itself.

    Most values of a listing are in it many times; escaping each took half of the page's time.
    """
    return escape(plain(value, cap), quote=True)


@lru_cache(maxsize=4096)
def in_query(value: str) -> str:
    """A value as it stands in the query of an address, safe in HTML, too."""
    return quote_plus(value, errors="replace")


def web_address(value: object) -> str | None:
    """The address if it is one of the web that a page may link to; else None."""
    if not isinstance(value, str) or len(value) > 2000 or plain(value, 2000) != value:
        return None
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    return value if is_web and not re.search(r"\s", value) else None


class Translate:
    """``_("text", name=value)``: by the host's ``gettext`` if its templates have one.

    Values are escaped when they are put in; the text itself is ours.
    """

    def __init__(self, environment: Environment) -> None:
        self._gettext: Any = environment.globals.get("gettext")
        self._ngettext: Any = environment.globals.get("ngettext")
        # New-style functions of Jinja's extension format by themselves.
        self._formats = bool(getattr(environment, "newstyle_gettext", False))
        self._context: Context = environment.from_string("").new_context()

    @property
    def is_identity(self) -> bool:
        """Whether every text stays as it is, whoever asks."""
        return self._gettext is None

    def __call__(self, text: str, **values: Any) -> Markup:
        """A text, translated, with its values put in."""
        if self._gettext is None:
            return Markup(text) % values  # noqa: S704
        if self._formats:
            return Markup(self._context.call(self._gettext, text, **values))  # noqa: S704
        return Markup(self._context.call(self._gettext, text)) % values  # noqa: S704

    def many(self, one: str, several: str, number: int, **values: Any) -> Markup:
        """One of two texts by a number, which is ``n`` in them."""
        values["n"] = f"{number:,}"
        if self._ngettext is None:
            return self(one if number == 1 else several, **values)
        if self._formats:
            # It would set 'num' by itself, and 'n' is the one with commas.
            told = self._context.call(self._ngettext, one, several, number, **values)
            return Markup(told)  # noqa: S704
        told = self._context.call(self._ngettext, one, several, number)
        return Markup(told) % values  # noqa: S704


def ages(translate: Translate, now: datetime) -> Callable[[str | None], Markup]:
    """Tells of times as they are served how long ago they were, in words; each time once."""
    known: dict[str | None, Markup] = {None: translate("never")}

    def age(time: str | None) -> Markup:
        words = known.get(time)
        if words is None:
            assert time is not None
            words = known[time] = _age(translate, now - datetime.fromisoformat(_offset(time)))
        return words

    return age


def _offset(time: str) -> str:
    # Python 3.10 does not know the Z.
    return time[:-1] + "+00:00" if time.endswith("Z") else time


def _age(translate: Translate, age: Any) -> Markup:
    minutes = int(age.total_seconds() // 60)
    if minutes < -5:
        return translate("in the future")
    if minutes < 1:
        return translate("just now")
    for size, one, several in (
        (60 * 24 * 365, "%(n)s year ago", "%(n)s years ago"),
        (60 * 24 * 30, "%(n)s month ago", "%(n)s months ago"),
        (60 * 24, "%(n)s day ago", "%(n)s days ago"),
        (60, "%(n)s hour ago", "%(n)s hours ago"),
    ):
        if minutes >= size:
            return translate.many(one, several, minutes // size)
    return translate.many("%(n)s minute ago", "%(n)s minutes ago", minutes)


def size(number: int) -> str:
    """Bytes as people read them."""
    amount = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError
