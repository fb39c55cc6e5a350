"""What to do after an answer of GitHub, or after none; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Literal

MAX_ATTEMPTS = 5
BACKOFF_S, BACKOFF_CAP_S = 0.5, 4.0
# GitHub: "wait for at least one minute", and longer each time, where no header says how long.
SECONDARY_S = 60.0
# A window of the primary limit is an hour; what says more is a clock that goes wrong.
LONGEST_S = 3600.0

Lack = Literal["timeout", "connection", "truncated", "certificate", "overrun", "silent"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: ``headers`` by lower-case name, ``message`` as the body says it."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """Nothing came back, or not all of it.

    :ivar kind: ``overrun``: it came, and did not end; ``silent``: it was not asked at all, since it
        did not answer before.
    """

    kind: Lack


@dataclass(frozen=True, slots=True)
class Done:
    """The answer can be used."""

    kind: Literal["ok", "not_modified", "redirect"] = "ok"


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Ask again after ``seconds``, which the caller can wait for."""

    seconds: float


@dataclass(frozen=True, slots=True)
class DeferUntil:
    """Ask again at ``at``, in seconds since 1970: too late to wait for."""

    at: float
    why: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Asking again would not help. Nothing is known of what is there."""

    reason: str
    message: str


Decision = Done | RetryAfter | DeferUntil | Fail

_REFUSALS = {
    400: ("invalid", "does not understand the request"),
    401: ("unauthorized", "does not accept the token; it may have expired"),
    403: ("forbidden", "does not allow this"),
    404: ("not_found", "shows no such thing: it is gone, private, or the token may not see it"),
    409: ("not_found", "says that the repository is empty"),
    410: ("not_found", "says that it is gone"),
    422: ("not_found", "knows no such branch, tag or commit"),
    451: ("legal", "may not show this for legal reasons"),
}
_SECONDARY = re.compile(r"secondary rate|abuse detection|too many requests", re.IGNORECASE)
_PRIMARY = re.compile(r"rate limit exceeded", re.IGNORECASE)


def decide(
    answer: Answer | NoAnswer, attempt: int, now: float, budget_s: float, luck: float
) -> Decision:
    """Decide what follows.

    :param attempt: the one that ended so, from 1.
    :param now: seconds since 1970, by our clock.
    :param budget_s: how long the caller may still wait.
    :param luck: from 0 to 1; full jitter makes many clients spread.
    """
    if isinstance(answer, NoAnswer):
        if answer.kind == "certificate":
            return Fail("refused", "GitHub's certificate is not one that this machine trusts")
        if answer.kind == "overrun":
            return Fail("slow", "GitHub's answer takes too long")
        if answer.kind == "silent":
            return Fail("silent", "GitHub did not answer in time, and is left alone for now")
        return _again(f"{_SAID[answer.kind]}", attempt, budget_s, luck)
    status = answer.status
    if status == 304:
        return Done("not_modified")
    if status in (301, 302, 307, 308):
        return Done("redirect")
    if status == 429 or (status == 403 and _is_limit(answer)):
        return _limited(answer, attempt, now, budget_s)
    if status >= 500:
        wait_s = _retry_after(answer, now)
        if wait_s is None:
            return _again(f"GitHub answers {status}", attempt, budget_s, luck)
        return _wait(wait_s, f"GitHub answers {status}", attempt, now, budget_s)
    if 200 <= status < 300:
        return Done()
    reason, text = _REFUSALS.get(status, ("invalid", f"answers {status}"))
    return Fail(reason, f"GitHub {text}")


_SAID = {
    "timeout": "GitHub did not answer in time",
    "connection": "GitHub cannot be reached",
    "truncated": "GitHub's answer broke off",
}


def _is_limit(answer: Answer) -> bool:
    return (
        "retry-after" in answer.headers
        or answer.headers.get("x-ratelimit-remaining", "").strip() == "0"
        or bool(_SECONDARY.search(answer.message) or _PRIMARY.search(answer.message))
    )


def _limited(answer: Answer, attempt: int, now: float, budget_s: float) -> Decision:
    """A limit: as long as the headers say, by GitHub's own clock."""
    wait_s = _retry_after(answer, now)
    if wait_s is None and answer.headers.get("x-ratelimit-remaining", "").strip() == "0":
        reset = _number(answer.headers.get("x-ratelimit-reset"))
        if reset is not None:
            # A second more: the window ends within that second, not at its start.
            wait_s = max(reset - (_date(answer.headers.get("date")) or now), 0.0) + 1.0
    if wait_s is None:
        wait_s = SECONDARY_S * 2.0 ** (attempt - 1)
    return _wait(wait_s, "GitHub limits how often it may be asked", attempt, now, budget_s)


def _wait(wait_s: float, why: str, attempt: int, now: float, budget_s: float) -> Decision:
    wait_s = min(wait_s, LONGEST_S)
    if wait_s <= budget_s and attempt < MAX_ATTEMPTS:
        return RetryAfter(wait_s)
    return DeferUntil(now + wait_s, why)


def _again(why: str, attempt: int, budget_s: float, luck: float) -> Decision:
    """Trouble without a hint: exponential backoff with full jitter."""
    wait_s = luck * min(BACKOFF_CAP_S, BACKOFF_S * 2.0 ** (attempt - 1))
    if attempt >= MAX_ATTEMPTS or wait_s > budget_s:
        return Fail("unavailable", f"{why}, after {attempt} attempts")
    return RetryAfter(wait_s)


def _retry_after(answer: Answer, now: float) -> float | None:
    """Seconds, or a date that is compared with GitHub's own clock."""
    text = answer.headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None:
        return seconds
    date = _date(text)
    if date is None:
        return None
    return max(0.0, date - (_date(answer.headers.get("date")) or now))


def _number(text: str | None) -> float | None:
    """A whole number that is not negative."""
    return float(text) if text and re.fullmatch(r"\s*[0-9]{1,12}\s*", text, re.ASCII) else None


def _date(text: str | None) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError):
        return None
