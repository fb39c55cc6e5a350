"""A limit counts each client by itself, says truly how long to wait, and is never inert."""

from __future__ import annotations

import random
import time

import pytest
from flask import request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from limits.storage import MemoryStorage

API = "/api/v1/user-collections"
ONE, OTHER = "the-token-of-the-daemon", "the-token-of-a-person"
HEADERS = {"RATELIMIT_HEADERS_ENABLED": True}


@pytest.fixture
def now(monkeypatch):
    """The time that the storage in memory sees; a test moves it."""
    moment = [1_772_366_400.25]
    monkeypatch.setattr(time, "time", lambda: moment[0])
    return moment


@pytest.fixture
def serve(make_app, sqlite_url, sample):
    """Makes an app with limits that are easily reached."""

    def make(limit="2/minute", **options):
        options = {"ARTIFACT_CACHE_SYNC_LIMIT": limit, **options}
        return make_app(
            sqlite_url, {"work": sample.root}, ARTIFACT_CACHE_TOKENS=[ONE, OTHER], **options
        )

    return make


def ask(app, token=ONE, route="invalidate", address="192.0.2.1"):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return app.test_client().post(
        f"{API}/{route}", json={}, headers=headers, environ_base={"REMOTE_ADDR": address}
    )


def statuses(app, count, *args, **options):
    return [ask(app, *args, **options).status_code for _ in range(count)]


def limiter_of(app=None, **options):
    return Limiter(
        get_remote_address, app=app, storage_uri="memory://", **{"strategy": None, **options}
    )


def test_a_request_too_many_is_a_429(serve):
    app = serve()

    assert statuses(app, 2) == [200, 200]
    answer = ask(app)
    assert (answer.status_code, answer.json["code"]) == (429, "rate_limited")
    assert answer.mimetype == "application/problem+json"
    assert 1 <= int(answer.headers["Retry-After"]) <= 60


def test_each_token_is_counted_by_itself_wherever_it_comes_from(serve):
    app = serve()

    assert statuses(app, 3, ONE) == [200, 200, 429]
    assert statuses(app, 1, ONE, address="192.0.2.2") == [429]
    assert statuses(app, 3, OTHER) == [200, 200, 429]


def test_a_flood_without_a_token_does_not_use_up_what_a_token_may_do(serve):
    app = serve()

    assert statuses(app, 4, None) == [401, 401, 429, 429]
    assert statuses(app, 1, None, address="192.0.2.2") == [401]
    assert statuses(app, 2, ONE) == [200, 200]


def by_name(permission, collection_id):
    return request.headers.get("X-User") == "admin"


def ask_as(app, user, address="192.0.2.1"):
    headers = {"X-User": user} if user else {}
    return (
        app.test_client()
        .post(f"{API}/invalidate", json={}, headers=headers, environ_base={"REMOTE_ADDR": address})
        .status_code
    )


def test_who_is_refused_uses_up_nothing_of_who_is_allowed(serve):
    app = serve("3/minute", authorize=by_name)

    assert [ask_as(app, "guest") for _ in range(5)] == [403, 403, 403, 429, 429]
    assert [ask_as(app, "admin") for _ in range(4)] == [200, 200, 200, 429]
    assert ask_as(app, "admin", "192.0.2.2") == 200


def test_who_is_who_the_hosts_limiter_tells(serve):
    app = serve("2/minute", authorize=lambda *_: True)
    Limiter(lambda: request.headers.get("X-User", ""), app=app, storage_uri="memory://")

    assert [ask_as(app, "ada") for _ in range(3)] == [200, 200, 429]
    assert ask_as(app, "ada", "192.0.2.2") == 429
    assert [ask_as(app, "bob") for _ in range(3)] == [200, 200, 429]
    assert [ask_as(app, None) for _ in range(3)] == [200, 200, 429]
    assert ask_as(app, None, "192.0.2.2") == 200


def test_wrong_tokens_are_limited_and_keep_nobody_out(serve):
    app = serve("3/minute")

    assert statuses(app, 4, "a-wrong-token-0123") == [401, 401, 401, 429]
    assert statuses(app, 1, ONE) == [200]
    assert statuses(app, 1, ONE, address="192.0.2.2") == [200]


def test_the_limits_of_syncing_and_refreshing_are_two(serve):
    app = serve("1/minute", ARTIFACT_CACHE_REFRESH_LIMIT="1/minute")

    assert statuses(app, 2) == [200, 429]
    assert statuses(app, 1, route="sync-artifact") == [429]
    assert statuses(app, 2, route="refresh-metadata") == [200, 429]


@pytest.mark.parametrize("off", [None, ""])
def test_a_limit_can_be_switched_off(serve, off):
    assert statuses(serve(off), 9) == [200] * 9


def test_the_host_may_switch_all_limits_off(serve):
    assert statuses(serve(RATELIMIT_ENABLED=False), 9) == [200] * 9
    app = serve(RATELIMIT_ENABLED=False)
    limiter_of(app)
    assert statuses(app, 9) == [200] * 9


def test_reading_is_not_counted(serve):
    app = serve("1/minute", ARTIFACT_CACHE_REFRESH_LIMIT="1/minute")
    for _ in range(5):
        assert app.test_client().get(f"{API}/").status_code == 200


# --- how long to wait ----------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["fixed-window", "moving-window", "sliding-window-counter"])
@pytest.mark.parametrize("limit", ["1/second", "2/5 seconds", "3/minute", "2/second; 4/minute"])
@pytest.mark.parametrize("host", ["limiter", "headers", "none"])
def test_waiting_as_long_as_was_said_is_enough(serve, now, strategy, limit, host):
    options = HEADERS if host == "headers" else {}
    app = serve(limit, RATELIMIT_STRATEGY=strategy, **options)
    if host != "none":
        limiter_of(app, default_limits=["1000/hour"])
    chance = random.Random(20260301)

    for _ in range(12):
        for _ in range(30):
            answer = ask(app)
            if answer.status_code == 429:
                break
            now[0] += chance.choice([0, 0.001, 0.3, 0.5])
        assert answer.status_code == 429
        retry_after = answer.headers["Retry-After"]
        assert 1 <= int(retry_after) <= 60
        assert str(int(retry_after)) == retry_after
        now[0] += int(retry_after) + 0.001  # asking and answering take a moment, too
        assert ask(app).status_code == 200
        now[0] += chance.choice([0, 0.4, 0.9])


@pytest.mark.parametrize("strategy", ["fixed-window", "moving-window"])
def test_waiting_is_enough_by_a_real_clock(serve, strategy):
    app = serve("2/second", RATELIMIT_STRATEGY=strategy)
    while ask(app).status_code != 429:
        pass

    time.sleep(int(ask(app).headers["Retry-After"]))

    assert ask(app).status_code == 200


def test_a_refused_request_is_not_counted(serve, now):
    app = serve("1/second; 3/minute")

    assert statuses(app, 9) == [200] + [429] * 8
    for expected in (200, 200, 429):
        now[0] += 1.1
        assert ask(app).status_code == expected


def test_a_refresh_in_the_background_is_asked_after_soon(serve, now):
    app = serve(**HEADERS, ARTIFACT_CACHE_BACKGROUND="thread")
    limiter_of(app, default_limits=["1000/hour"])
    headers = {"Authorization": f"Bearer {ONE}", "Prefer": "respond-async"}

    answer = app.test_client().post(f"{API}/refresh-metadata", json={}, headers=headers)

    assert (answer.status_code, answer.headers["Retry-After"]) == (202, "1")


# --- the host's Limiter --------------------------------------------------------------------------


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("early", [True, False])
def test_the_hosts_limiter_does_the_counting(serve, given, early):
    limiter = limiter_of(strategy="moving-window", key_prefix="host")
    app = serve(**({"limiter": limiter} if given else {}))
    limiter.init_app(app)

    assert statuses(app, 3) == [200, 200, 429]
    keys = list(limiter.storage.events)
    assert len(keys) == 1
    assert keys[0].startswith("LIMITER/host/artifact-cache/sync/token/")
    assert ONE not in keys[0]


def test_the_hosts_own_limits_count_each_request_once(serve):
    app = serve()
    limiter = limiter_of()

    @app.get("/own")
    @limiter.limit("4/minute")
    def own():
        return "own"

    limiter.init_app(app)
    client = app.test_client()
    assert statuses(app, 3) == [200, 200, 429]

    assert [client.get("/own").status_code for _ in range(5)] == [200] * 4 + [429]


def test_mounting_sets_up_no_limiter(serve):
    app = serve()
    before = (len(app.before_request_funcs), len(app.after_request_funcs))
    ask(app)

    assert "limiter" not in app.extensions
    assert (len(app.before_request_funcs), len(app.after_request_funcs)) == before


@pytest.mark.parametrize("options", [{}, HEADERS])
def test_a_limit_of_the_hosts_on_our_routes_says_how_long_to_wait(serve, now, options):
    app = serve(**options)
    limiter_of(app, default_limits=["1/minute"])
    client = app.test_client()

    assert client.get(f"{API}/").status_code == 200
    answer = client.get(f"{API}/")

    assert (answer.status_code, answer.mimetype) == (429, "application/problem+json")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    now[0] += 0.001 + int(answer.headers["Retry-After"])
    assert client.get(f"{API}/").status_code == 200


def test_a_limiter_that_is_not_set_up_lets_nothing_through(serve, caplog):
    app = serve(limiter=limiter_of())

    answer = ask(app)

    assert (answer.status_code, answer.json["code"]) == (500, "configuration_error")
    assert "limiter.init_app(app)" in answer.json["detail"]
    assert "limiter.init_app(app)" in caplog.text


def test_of_several_limiters_one_has_to_be_named(serve):
    app = serve()
    limiters = [limiter_of(app), limiter_of(app)]

    assert "which one" in ask(app).json["detail"]
    app = serve(limiter=limiters[1])
    for limiter in limiters:
        limiter.init_app(app)
    assert statuses(app, 3) == [200, 200, 429]


def test_one_extension_object_counts_for_each_app_by_itself(serve):
    apps = serve(), serve()

    assert [statuses(app, 3) for app in apps] == [[200, 200, 429]] * 2


# --- storages ------------------------------------------------------------------------------------


class BrokenStorage(MemoryStorage):
    """A storage whose server is down."""

    STORAGE_SCHEME = ["broken"]  # noqa: RUF012 - as its base has it

    def get(self, key):
        raise ConnectionError("cannot reach redis://:hunter2@cache")

    incr = get


@pytest.mark.parametrize("host", [True, False])
def test_without_its_storage_nothing_is_let_through(serve, caplog, host):
    app = serve(RATELIMIT_STORAGE_URI="broken://")
    if host:
        Limiter(get_remote_address, app=app)

    for _ in range(3):
        answer = ask(app)
        assert (answer.status_code, answer.json["code"]) == (503, "limiter_unavailable")
        assert int(answer.headers["Retry-After"]) >= 1
    told = [one for one in caplog.records if "storage of the rate limits" in one.getMessage()]
    assert len(told) == 1
    assert "hunter2" not in caplog.text + answer.text


@pytest.mark.parametrize("configured", [True, False])
def test_the_host_may_choose_to_let_everything_through(serve, configured):
    if configured:
        app = serve(RATELIMIT_STORAGE_URI="broken://", RATELIMIT_SWALLOW_ERRORS=True)
    else:
        app = serve(RATELIMIT_STORAGE_URI="broken://")
        Limiter(get_remote_address, app=app, swallow_errors=True)

    assert statuses(app, 4) == [200] * 4


@pytest.mark.parametrize("configured", [True, False])
def test_the_host_may_choose_to_count_in_memory_meanwhile(serve, configured):
    if configured:
        app = serve(RATELIMIT_STORAGE_URI="broken://", RATELIMIT_IN_MEMORY_FALLBACK_ENABLED=True)
    else:
        app = serve(RATELIMIT_STORAGE_URI="broken://")
        Limiter(get_remote_address, app=app, in_memory_fallback_enabled=True)

    assert statuses(app, 4) == [200, 200, 429, 429]


@pytest.mark.parametrize(
    "options",
    [
        {"RATELIMIT_STORAGE_URI": "nonsense://:hunter2@cache"},
        {"RATELIMIT_STRATEGY": "hunter2"},
    ],
)
def test_a_storage_that_cannot_be_says_which_setting_is_wrong(serve, options, caplog):
    answer = ask(serve(**options))

    assert (answer.status_code, answer.json["code"]) == (500, "configuration_error")
    assert next(iter(options)) in answer.json["detail"]
    assert "hunter2" not in answer.text + caplog.text
