"""What follows each answer, as recorded from GitHub and from what others were told by it."""

from __future__ import annotations

import pytest

from flask_artifact_cache.upstream.decide import (
    Answer,
    DeferUntil,
    Done,
    Fail,
    NoAnswer,
    RetryAfter,
    decide,
)

NOW = 1_790_000_000.0
DATE = "Mon, 21 Sep 2026 14:13:20 GMT"
PRIMARY = "API rate limit exceeded for user ID 1."
SECONDARY = "You have exceeded a secondary rate limit. Please wait a few minutes."
ABUSE = "You have triggered an abuse detection mechanism."


def answer(status, message="", **headers):
    return Answer(
        status, {name.replace("_", "-"): value for name, value in headers.items()}, message
    )


def spent(reset, **headers):
    return answer(
        403, PRIMARY, x_ratelimit_remaining="0", x_ratelimit_reset=str(int(reset)), **headers
    )


CASES = [
    (answer(200), 1, Done()),
    (answer(201), 1, Done()),
    (answer(200, x_ratelimit_remaining="0"), 1, Done()),
    (answer(304), 1, Done("not_modified")),
    (answer(301), 1, Done("redirect")),
    (answer(302), 1, Done("redirect")),
    (answer(307), 1, Done("redirect")),
    (answer(308), 1, Done("redirect")),
    (answer(300), 1, "invalid"),
    (answer(400), 1, "invalid"),
    (answer(401, "Bad credentials"), 1, "unauthorized"),
    (answer(403, "Resource not accessible by personal access token"), 1, "forbidden"),
    (answer(403, "Resource protected by organization SAML enforcement."), 1, "forbidden"),
    (answer(403, "Repository access blocked"), 1, "forbidden"),
    (answer(404, "Not Found"), 1, "not_found"),
    (answer(404, x_ratelimit_remaining="0"), 1, "not_found"),
    (answer(409, "Git Repository is empty."), 1, "not_found"),
    (answer(410), 1, "not_found"),
    (answer(422, "No commit found for SHA: v9"), 1, "not_found"),
    (answer(451, "Repository access blocked"), 1, "legal"),
    (answer(418), 1, "invalid"),
    # The primary limit: until the reset, by GitHub's clock.
    (spent(NOW + 900), 1, DeferUntil(NOW + 901, "")),
    (spent(NOW + 2), 1, RetryAfter(3.0)),
    (spent(NOW + 4), 1, RetryAfter(5.0)),
    (spent(NOW + 5), 1, DeferUntil(NOW + 6, "")),
    (spent(NOW - 30), 1, RetryAfter(1.0)),
    (spent(NOW + 900, date=DATE), 1, DeferUntil(NOW + 901, "")),
    # GitHub's clock is an hour ahead of ours, or behind; the difference counts.
    (spent(NOW + 3600 + 60, date="Mon, 21 Sep 2026 15:13:20 GMT"), 1, DeferUntil(NOW + 61, "")),
    (spent(NOW - 3600 + 60, date="Mon, 21 Sep 2026 13:13:20 GMT"), 1, DeferUntil(NOW + 61, "")),
    (spent(NOW + 1e6), 1, DeferUntil(NOW + 3600, "")),
    (answer(403, PRIMARY, x_ratelimit_remaining="0"), 1, DeferUntil(NOW + 60, "")),
    (
        answer(403, PRIMARY, x_ratelimit_remaining="0", x_ratelimit_reset="soon"),
        1,
        DeferUntil(NOW + 60, ""),
    ),
    (answer(403, PRIMARY), 1, DeferUntil(NOW + 60, "")),
    # The secondary limit: as long as it says, or a minute and then longer.
    (answer(403, SECONDARY, retry_after="3"), 1, RetryAfter(3.0)),
    (answer(403, SECONDARY, retry_after="0"), 1, RetryAfter(0.0)),
    (answer(403, SECONDARY, retry_after="60"), 1, DeferUntil(NOW + 60, "")),
    (answer(403, SECONDARY, retry_after="99999999"), 1, DeferUntil(NOW + 3600, "")),
    (answer(403, SECONDARY), 1, DeferUntil(NOW + 60, "")),
    (answer(403, SECONDARY), 3, DeferUntil(NOW + 240, "")),
    (answer(403, ABUSE), 1, DeferUntil(NOW + 60, "")),
    (answer(403, SECONDARY, x_ratelimit_remaining="4000"), 1, DeferUntil(NOW + 60, "")),
    (answer(403, SECONDARY, retry_after="-5"), 1, DeferUntil(NOW + 60, "")),
    (answer(403, SECONDARY, retry_after="never"), 1, DeferUntil(NOW + 60, "")),
    (answer(403, SECONDARY, retry_after="3"), 5, DeferUntil(NOW + 3, "")),
    (
        answer(403, SECONDARY, retry_after="Mon, 21 Sep 2026 14:13:24 GMT", date=DATE),
        1,
        RetryAfter(4.0),
    ),
    (answer(429), 1, DeferUntil(NOW + 60, "")),
    (answer(429, retry_after="2"), 1, RetryAfter(2.0)),
    (
        answer(429, x_ratelimit_remaining="0", x_ratelimit_reset=f"{NOW + 1:.0f}"),
        1,
        RetryAfter(2.0),
    ),
    # Trouble: backoff with full jitter, which is half of the window here.
    (answer(500), 1, RetryAfter(0.25)),
    (answer(502), 2, RetryAfter(0.5)),
    (answer(503), 3, RetryAfter(1.0)),
    (answer(504), 4, RetryAfter(2.0)),
    (answer(502), 5, "unavailable"),
    (answer(503, retry_after="2"), 1, RetryAfter(2.0)),
    (answer(503, retry_after="3600"), 1, DeferUntil(NOW + 3600, "")),
    (NoAnswer("timeout"), 1, RetryAfter(0.25)),
    (NoAnswer("timeout"), 5, "unavailable"),
    (NoAnswer("connection"), 2, RetryAfter(0.5)),
    (NoAnswer("connection"), 5, "unavailable"),
    (NoAnswer("truncated"), 1, RetryAfter(0.25)),
    (NoAnswer("truncated"), 5, "unavailable"),
    (NoAnswer("certificate"), 1, "refused"),
    (NoAnswer("overrun"), 1, "slow"),
    (NoAnswer("silent"), 1, "silent"),
]


@pytest.mark.parametrize(("given", "attempt", "expected"), CASES)
def test_every_answer_has_its_consequence(given, attempt, expected):
    found = decide(given, attempt, NOW, 5.0, 0.5)

    if isinstance(expected, str):
        assert isinstance(found, Fail)
        assert found.reason == expected
    elif isinstance(expected, DeferUntil):
        assert isinstance(found, DeferUntil)
        assert found.at == expected.at
    else:
        assert found == expected


@pytest.mark.parametrize(("given", "attempt", "expected"), CASES)
def test_nobody_waits_without_a_budget(given, attempt, expected):
    found = decide(given, attempt, NOW, 0.0, 0.5)

    assert not isinstance(found, RetryAfter) or found.seconds == 0
