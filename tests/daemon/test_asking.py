"""The app says what to watch; not at once, perhaps, and not always the same."""

from __future__ import annotations

import threading

import pytest

from artifact_cache_daemon import asking
from artifact_cache_daemon.asking import Asker, UntoldError, ask
from artifact_cache_daemon.delivery import Api
from artifact_cache_daemon.settings import Token


def listing(*collections):
    return lambda handler: handler.answer(200, {"collections": list(collections)})


WORK = {"id": "work", "path": "/srv/work"}
TEAM = {"id": "team", "path": "/srv/team"}


@pytest.fixture
def api(server):
    """An API that answers as told, and its server."""
    made = []

    def make(act):
        one = server(act)
        made.append(Api(one.url, Token(lambda: None), 2.0, "artifact-cache-daemon/9"))
        return made[-1], one

    yield make
    for one in made:
        one.close()


@pytest.fixture
def asker(api, eventually):
    """Starts somebody who asks; gives the server, too."""
    made = []

    def start(act, again_s=3600.0, token=None):
        client, one = api(act)
        heard = threading.Semaphore(0)
        asker = Asker(client, token or Token(lambda: None), again_s, heard.release)
        asker.heard = heard
        asker.start()
        made.append(asker)
        return asker, one

    yield start
    for one in made:
        one.stop()
        one.join(10)
        assert not one.is_alive()


def test_the_app_is_asked_for_its_collections(api):
    client, one = api(listing(WORK, {"id": "gathered"}))

    assert ask(client) == {"work": "/srv/work"}
    assert one.asked[0][0] == "/api/v1/user-collections/"


@pytest.mark.parametrize(
    "other",
    [
        {"id": "../x", "path": "/srv/x"},
        {"id": "a/b", "path": "/srv/x"},
        {"id": "", "path": "/srv/x"},
        {"id": "x" * 65, "path": "/srv/x"},
        {"id": 7, "path": "/srv/x"},
        {"path": "/srv/x"},
        {"id": "x", "path": "srv/x"},
        {"id": "x", "path": "~/x"},
        {"id": "x", "path": "/srv/\nx"},
        {"id": "x", "path": ""},
        {"id": "x", "path": ["/srv/x"]},
        "x",
    ],
)
def test_what_the_app_names_is_checked_as_flags_are(api, other):
    """An id becomes the name of a file."""
    client, _ = api(listing(other, WORK))

    assert ask(client) == {"work": "/srv/work"}


@pytest.mark.parametrize(
    ("status", "data", "said", "lasting"),
    [
        (401, b"{}", "the token is missing or wrong", True),
        (403, b"{}", "403", True),
        (500, b"{}", "500", False),
        (429, b"{}", "429", False),
        (400, b"{}", "400", False),
        (409, b'{"code": "mass_loss"}', "409", False),
        (200, b"<html>", "is the URL right", False),
        (200, b'{"collections": []}', "no collections yet", True),
        (200, b'{"collections": [{"id": "work"}]}', "does not say where", True),
    ],
)
def test_why_the_app_has_not_said_it_is_told(api, status, data, said, lasting):
    client, _ = api(lambda handler: handler.answer(status, data, Retry_After="7"))
    with pytest.raises(UntoldError, match=said) as caught:
        ask(client)

    assert caught.value.lasting == lasting
    assert caught.value.wait_s == (7 if status == 429 else 0)


def test_a_token_that_was_wrong_is_read_again(asker):
    tokens = ["the-new-token-0123456789"]
    token = Token(lambda: tokens[-1], value="the-old-token-0123456789")
    made, one = asker(lambda handler: handler.answer(401, b"{}"), token=token)
    assert made.heard.acquire(timeout=10)

    assert token.value == "the-new-token-0123456789"
    one.act = listing(WORK)
    while made.found is None:
        assert made.heard.acquire(timeout=10)
    assert made.trouble == ""


def test_it_asks_now_and_then_for_what_is_new(asker, monkeypatch):
    monkeypatch.setattr(asking, "REST_S", 0.01)
    made, one = asker(listing(WORK), again_s=0.01)
    assert made.heard.acquire(timeout=10)
    one.act = listing(WORK, TEAM)
    while made.found != {"work": "/srv/work", "team": "/srv/team"}:
        assert made.heard.acquire(timeout=10)
    # What was said is true until something else is.
    one.act = listing()
    while not made.trouble:
        assert made.heard.acquire(timeout=10)
    assert set(made.found) == {"work", "team"}


def test_whoever_knocks_shortens_the_wait_but_not_the_one_that_the_app_asks_for(asker, monkeypatch):
    monkeypatch.setattr(asking, "REST_S", 0.01)
    made, one = asker(listing(WORK))
    assert made.heard.acquire(timeout=10)
    one.act = lambda handler: handler.answer(429, b"{}", Retry_After="3600")
    made.hurry()
    assert made.heard.acquire(timeout=10)
    assert len(one.asked) == 2
    made.hurry()
    assert not made.heard.acquire(timeout=0.3)
    assert len(one.asked) == 2
