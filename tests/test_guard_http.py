"""Who may call: every route with every credential, and no page of another site."""

from __future__ import annotations

import logging

import pytest
from flask import Response, abort
from flask_wtf import CSRFProtect

API = "/api/v1/user-collections"
OLD, NEW = "an-old-token-0123456789", "a-new-token/+~._-0123=="
CHANGES = {
    "sync-artifact": {"artifact_id": "skill:pdf"},
    "refresh-metadata": {},
    "invalidate": {},
}
CONTENTS = (
    "/work/artifacts",
    "/work/artifacts/skill:pdf",
    "/work/facets",
    "/changes",
    "/problems",
)
OPERATING = ("/", "/refreshes", "/refreshes?collection_id=work", "/cache-stats", "/metrics")
READS = CONTENTS + OPERATING


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def serve(make_app, sqlite_url, sample, populate):
    """Makes a client of an app with the sample populated."""

    def make(tokens=(OLD, NEW), **options):
        app = make_app(
            sqlite_url, {"work": sample.root}, ARTIFACT_CACHE_TOKENS=list(tokens), **options
        )
        populate(app)
        return app.test_client()

    return make


def yes(permission, collection_id):
    return True


def no(permission, collection_id):
    return False


# --- routes and credentials ----------------------------------------------------------------------

CREDENTIALS = {
    "nothing": {},
    "old": bearer(OLD),
    "new": bearer(NEW),
    "lower-case": {"Authorization": f"bearer {NEW}"},
    "wrong": bearer("not-one-of-these-tokens"),
    "beginning": bearer(OLD[:-1]),
    "empty": {"Authorization": "Bearer"},
    "two": bearer(f"{OLD}, {NEW}"),
    "not-ascii": {"Authorization": b"Bearer \xe9\xff".decode("latin-1")},
    "proxied": {**bearer(NEW), "X-Forwarded-For": "192.0.2.7"},
    "basic": {"Authorization": "Basic dXNlcjpwYXNzd29yZA=="},
}
VALID = {"old", "new", "lower-case", "proxied"}
SENT = {"wrong", "beginning", "empty", "two", "not-ascii"}


@pytest.mark.parametrize("credential", CREDENTIALS)
@pytest.mark.parametrize("route", CHANGES)
@pytest.mark.parametrize(
    ("tokens", "authorize"),
    [((OLD, NEW), None), ((OLD, NEW), no), ((OLD, NEW), yes), ((), None), ((), no), ((), yes)],
    ids=lambda value: getattr(value, "__name__", None) or f"{len(value or ())}",
)
def test_a_change_needs_a_token_or_the_hosts_word(serve, route, credential, tokens, authorize):
    client = serve(tokens, authorize=authorize)

    answer = client.post(f"{API}/{route}", json=CHANGES[route], headers=CREDENTIALS[credential])

    if authorize is yes or (tokens and credential in VALID):
        expected = 200
    elif credential in SENT | VALID:
        expected = 401
    else:
        expected = 401 if tokens and authorize is None else 403
    assert answer.status_code == expected, answer.text
    challenge = answer.headers.get("WWW-Authenticate")
    if expected == 401:
        assert challenge.startswith('Bearer realm="artifact-cache"')
        assert ('error="invalid_token"' in challenge) == (credential not in ("nothing", "basic"))
    else:
        assert challenge is None
    assert OLD not in answer.text
    assert NEW not in answer.text


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("route", CHANGES)
def test_a_change_is_a_post_and_nothing_else(serve, route, method):
    answer = serve().open(f"{API}/{route}", method=method, headers=bearer(NEW))

    assert answer.status_code == (200 if method == "OPTIONS" else 405)
    assert answer.headers["Allow"] == "OPTIONS, POST"


@pytest.mark.parametrize("credential", ["nothing", "new", "wrong"])
def test_reading_is_open(serve, credential):
    client = serve()
    for path in (*READS, "/openapi.json"):
        assert client.get(API + path, headers=CREDENTIALS[credential]).status_code == 200, path


def test_the_host_may_close_reading_and_a_token_opens_no_artifact(serve):
    client = serve(authorize=no)
    for path in READS:
        answer = client.get(API + path)
        assert (answer.status_code, answer.json["code"]) == (403, "forbidden"), path
    for path in CONTENTS:
        assert client.get(API + path, headers=bearer(NEW)).status_code == 403, path
    assert client.get(f"{API}/openapi.json").status_code == 200


def test_a_token_opens_what_its_holder_needs_to_see_of_the_work(serve):
    client = serve(authorize=no)
    started = client.post(f"{API}/refresh-metadata", json={}, headers=bearer(NEW)).json

    for path in (*OPERATING, f"/refreshes/{started['refresh_id']}"):
        assert client.get(API + path, headers=bearer(NEW)).status_code == 200, path
        answer = client.get(API + path, headers=CREDENTIALS["wrong"])
        assert answer.status_code == 401, path
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    client = serve(authorize=yes)
    for path in OPERATING:
        assert client.get(API + path, headers=CREDENTIALS["wrong"]).status_code == 200, path


def test_the_host_is_asked_for_the_collection_that_a_request_names(serve):
    asked = []

    def authorize(permission, collection_id):
        asked.append((permission, collection_id))
        return True

    client = serve(authorize=authorize)
    client.post(f"{API}/refresh-metadata", json={})
    made = client.post(f"{API}/refresh-metadata", json={"collection_id": "work"}).json
    client.post(f"{API}/sync-artifact", json={"artifact_id": "skill:pdf", "collection_id": "work"})
    client.post(f"{API}/invalidate", json={"artifact_ids": ["skill:pdf"]})
    client.get(f"{API}/refreshes")
    client.get(f"{API}/refreshes?collection_id=work")
    client.get(f"{API}/refreshes/{made['refresh_id']}")

    assert asked == [
        ("refresh", None),
        ("refresh", "work"),
        ("refresh", "work"),
        ("refresh", None),
        ("read", None),
        ("read", "work"),
        ("read", "work"),
    ]


def test_a_valid_token_is_enough_and_the_host_is_not_asked(serve):
    asked = []
    client = serve(authorize=lambda *question: asked.append(question))

    assert client.post(f"{API}/invalidate", json={}, headers=bearer(NEW)).status_code == 200
    assert asked == []


@pytest.mark.parametrize("word", [None, 1, "yes", object(), {}, [True]])
def test_only_true_lets_something_be_changed(serve, word):
    client = serve(authorize=lambda *_: word)

    assert client.post(f"{API}/invalidate", json={}).status_code == 403


def test_a_callback_that_raises_denies(serve, caplog):
    def authorize(permission, collection_id):
        raise RuntimeError("the password is hunter2")

    answer = serve(authorize=authorize).post(f"{API}/invalidate", json={})

    assert (answer.status_code, answer.json["code"]) == (500, "internal_error")
    assert "hunter2" not in answer.text


def test_a_callback_may_answer_by_itself(serve):
    client = serve(authorize=lambda *_: abort(Response("log in first", 303)))
    assert client.post(f"{API}/invalidate", json={}).status_code == 303
    client = serve(authorize=lambda *_: abort(401))
    answer = client.post(f"{API}/invalidate", json={})
    assert (answer.status_code, answer.mimetype) == (401, "application/problem+json")


def test_nothing_is_read_of_a_body_whose_sender_may_not_send_it(serve):
    client = serve()

    for data in (b"{", b"x" * 2_000_000):
        answer = client.post(f"{API}/invalidate", data=data, content_type="text/plain")
        assert answer.status_code == 401


def test_no_token_is_shown(serve, make_app, sqlite_url, caplog):
    caplog.set_level(logging.DEBUG)
    client = serve()
    client.post(f"{API}/invalidate", json={}, headers=bearer(NEW))
    client.post(f"{API}/invalidate", json={}, headers=bearer(OLD + "x"))
    settings = client.application.extensions["artifact_cache"].settings

    assert settings.tokens == (OLD, NEW)
    for token in (OLD, NEW):
        assert token not in caplog.text
        assert token not in repr(settings)


# --- pages of other sites ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://app.example"}, 403),
        ({"Sec-Fetch-Site": "something-new"}, 403),
        ({"Origin": "http://app.example"}, 200),
        ({"Origin": "https://app.example"}, 200),  # behind a proxy that ends TLS
        ({"Origin": "http://app.example:80"}, 200),
        ({"Origin": "http://APP.example"}, 200),
        ({"Origin": "http://app.example:8080"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://sub.app.example"}, 403),
        ({"Origin": "http://app.example.evil.example"}, 403),
        ({"Origin": "http://app.example@evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://app.example:port"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://evil.example", "Authorization": "Basic dTpw"}, 403),
    ],
)
def test_a_page_of_another_site_cannot_use_the_users_cookies(serve, headers, status):
    client = serve(authorize=yes)

    answer = client.post(
        f"{API}/refresh-metadata", json={}, headers=headers, base_url="http://app.example"
    )

    assert answer.status_code == status
    assert answer.mimetype == ("application/json" if status == 200 else "application/problem+json")


@pytest.mark.parametrize("token", [OLD, "the-hosts-own-token-of-another-kind"])
def test_a_request_with_a_token_may_come_from_anywhere(serve, token):
    headers = {**bearer(token), "Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"}

    answer = serve(authorize=yes).post(f"{API}/invalidate", json={}, headers=headers)

    assert answer.status_code == 200


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None],
)
def test_a_form_cannot_ask(serve, content_type):
    client = serve(authorize=yes)

    answer = client.post(f"{API}/refresh-metadata", data=b"{}", content_type=content_type)

    assert (answer.status_code, answer.json["code"]) == (415, "unsupported_media_type")


# --- neighbours ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("credential", "address", "told"),
    [
        ("new", "127.0.0.1", True),
        ("new", "::1", True),
        ("new", "", True),
        ("new", "192.0.2.7", False),
        ("proxied", "127.0.0.1", False),
        ("wrong", "127.0.0.1", False),
        ("nothing", "127.0.0.1", False),
    ],
)
def test_only_a_neighbour_with_a_token_is_told_where_a_collection_lies(
    serve, sample, credential, address, told
):
    answer = serve().get(
        f"{API}/", headers=CREDENTIALS[credential], environ_base={"REMOTE_ADDR": address}
    )

    [collection] = answer.json["collections"]
    assert collection.get("path") == (str(sample.root) if told else None)
    assert "Authorization" in answer.headers["Vary"]


def test_reading_with_a_token_uses_up_no_limit(serve):
    client = serve(ARTIFACT_CACHE_SYNC_LIMIT="3/minute")

    for _ in range(5):
        answer = client.get(f"{API}/", headers=CREDENTIALS["wrong"])
        assert "path" not in answer.json["collections"][0]
        [collection] = client.get(f"{API}/", headers=CREDENTIALS["new"]).json["collections"]
        assert "path" in collection

    assert client.post(f"{API}/invalidate", json={}, headers=bearer(NEW)).status_code == 200


def test_a_request_of_the_daemon_is_noted_as_its(serve):
    client = serve()
    agent = {"User-Agent": "artifact-cache-daemon/0.1.0"}

    client.post(f"{API}/refresh-metadata", json={}, headers=bearer(NEW) | agent)

    [newest, *_] = client.get(f"{API}/refreshes").json["refreshes"]
    assert newest["trigger"] == "daemon"
    with client.application.app_context():
        [one] = client.application.extensions["artifact_cache"].service.status()
    assert one["daemon_seen_at"] == newest["started_at"]


# --- with Flask-WTF ------------------------------------------------------------------------------


@pytest.mark.parametrize("authorize", [None, yes])
def test_flask_wtf_in_the_app_asks_for_no_token_of_a_form_here(serve, authorize):
    client = serve(authorize=authorize, SECRET_KEY="x" * 32)
    app = client.application
    app.add_url_rule("/own", "own", lambda: "own", methods=["POST"])
    CSRFProtect(app)

    for path, body in CHANGES.items():
        assert client.post(f"{API}/{path}", json=body, headers=bearer(NEW)).status_code == 200
    without_token = client.post(f"{API}/invalidate", json={})
    assert without_token.status_code == (401 if authorize is None else 200)
    foreign = client.post(f"{API}/invalidate", json={}, headers={"Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code in (401, 403)
    assert client.post("/own").status_code == 400
