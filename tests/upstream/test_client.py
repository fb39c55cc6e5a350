"""A request ends as its answer says, whatever else comes with it or happens meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import socket
import ssl
import threading

import pytest

from flask_artifact_cache.errors import UpstreamError, UpstreamLimitedError
from flask_artifact_cache.upstream.client import CHUNK_BYTES, SILENCES, SILENT_S, WHOLE_S, Budget
from flask_artifact_cache.upstream.decide import MAX_ATTEMPTS

from .fakegithub import NOW, Repository, dropped, redirect, slow, status

# Of localhost, signed by itself: nobody trusts it.
IDENTITY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg1gPDAiHwFEf6xqeV
NF4DdfF6Grn3+NiAQX0PnPa5A3qhRANCAAQ56sWDUm24ctVd2OcgarEJeYSVbllx
zfJrZ5DDD+SrKg3jOuK1dY+BEP8cs76rpB0jSIeKBM0/ojzQg6H3waoi
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBljCCATugAwIBAgIUDbwWJFbPim5zMm4RaXBC0gWWERswCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNjIyMzc1M1oYDzIxMjYxMTAy
MjIzNzUzWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQ56sWDUm24ctVd2OcgarEJeYSVbllxzfJrZ5DDD+SrKg3jOuK1dY+B
EP8cs76rpB0jSIeKBM0/ojzQg6H3waoio2kwZzAdBgNVHQ4EFgQUN1REsfGCO7+U
SxWhpFwwkHC+vUUwHwYDVR0jBBgwFoAUN1REsfGCO7+USxWhpFwwkHC+vUUwDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID
SQAwRgIhAN/GfQK79sfyYyL+AaFcd9F+1yZVMhP3EE1fD7OfiZvSAiEAnAWkQYwX
8QF6v3mx3kagYWK95+55ne0OXw3SyJo5fv8=
-----END CERTIFICATE-----
"""
LONG = "x" * (CHUNK_BYTES + 1)


@pytest.fixture
def get(github, fake):
    """Ask for a repository that is there; each call is one of a new process."""
    fake.repos["o/r"] = Repository({f"s/f{n}": b"%d" % n for n in range(30)} | {"s/SKILL.md": b"S"})

    def ask(budget=None, **options):
        return github(**options).client.get("/repos/o/r", budget=budget or Budget()).body

    return ask


# --- errors that say much ------------------------------------------------------------------------


def test_a_limit_with_a_long_page_is_remembered(get, fake):
    fake.fail(status(429, LONG, Retry_After="600"))

    for _ in range(2):
        with pytest.raises(UpstreamLimitedError) as caught:
            get()
        assert caught.value.until == NOW + 600
    assert len(fake.log) == 1


def test_a_trouble_with_a_long_page_is_waited_out(get, fake, time_):
    fake.fail(status(502, LONG), status(429, LONG, Retry_After="1"))

    assert b"o/r" in get()
    assert time_.slept == [0.25, 1.0]


def test_a_long_page_in_the_place_of_an_archive_says_nothing_of_its_size(
    get, github, fake, staging
):
    fine = [lambda handler: False] * 3  # the commit, the listing, where the archive is
    fake.fail(*fine, *[status(502, LONG)] * 5)
    with pytest.raises(UpstreamError, match="GitHub answers 502, after 5 attempts"):
        github().fetch("o/r/s", staging)
    fake.forget()
    shutil.rmtree(staging)
    staging.mkdir()

    github().fetch("o/r/s", staging)

    assert (fake.calls["archive"], fake.calls["blob"]) == (1, 0)


def test_the_rest_of_a_long_page_is_not_waited_for(get, fake, time_):
    closed = threading.Event()

    def endless(handler):
        handler.close_connection = True
        handler.wfile.write(
            b"HTTP/1.1 429 No\r\nRetry-After: 1\r\nContent-Length: 99999999\r\n\r\n" + LONG.encode()
        )
        try:
            handler.connection.recv(1)  # until the client closes it
        finally:
            closed.set()
        return True

    fake.fail(endless)

    assert b"o/r" in get()
    assert closed.wait(5)
    assert time_.slept == [1.0]


def test_a_redirect_with_a_long_page_is_followed(get, fake):
    def long(handler):
        handler.send(302, LONG.encode(), [("Location", f"{fake.url}/repos/o/r")])
        return True

    fake.fail(long, redirect("/repos/o/r"))

    assert b"o/r" in get()


# --- certificates --------------------------------------------------------------------------------


@pytest.fixture
def secure(github):
    """Ask a server that welcomes each connection as a test says; the error, and how many came."""
    server = socket.create_server(("127.0.0.1", 0))
    connections = []

    def serve(welcome):
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connections.append(1)
            with connection:
                welcome(connection)

    def ask(welcome):
        threading.Thread(target=serve, args=(welcome,), daemon=True).start()
        url = f"https://localhost:{server.getsockname()[1]}"
        with pytest.raises(UpstreamError) as caught:
            github(url=url, resolve=lambda host, port: ["127.0.0.1"]).client.get(
                "/repos/o/r", budget=Budget()
            )
        return caught.value, len(connections)

    yield ask
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def test_a_certificate_that_nobody_trusts_is_refused_at_once(secure, tmp_path):
    (tmp_path / "identity.pem").write_text(IDENTITY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "identity.pem")

    def welcome(connection):
        with contextlib.suppress(OSError):
            context.wrap_socket(connection, server_side=True)

    error, count = secure(welcome)

    assert (error.reason, count) == ("refused", 1)
    assert str(error) == "GitHub's certificate is not one that this machine trusts"


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["eof", "plain"])
def test_a_handshake_that_fails_is_no_matter_of_certificates(secure, said):
    def welcome(connection):
        connection.recv(10_000)
        connection.sendall(said)

    error, count = secure(welcome)

    assert (error.reason, count) == ("unavailable", MAX_ATTEMPTS)
    assert "cannot be reached" in str(error)


# --- what happens meanwhile ----------------------------------------------------------------------


class Contended(Budget):
    """Another thread takes all that is left, just before this one takes a part."""

    def spend(self, seconds):
        super().spend(self.left_s)
        return super().spend(seconds)


@pytest.mark.parametrize("trouble", [status(500), dropped])
def test_a_trouble_is_no_limit_although_the_budget_is_spent(get, fake, trouble):
    fake.fail(trouble)

    with pytest.raises(UpstreamError, match="after 1 attempts") as caught:
        get(Contended())

    assert caught.value.reason == "unavailable"
    assert b"o/r" in get()


@pytest.mark.parametrize("number", [429, 403, 503])
def test_who_asked_to_wait_is_not_asked_although_the_budget_is_spent(get, fake, number):
    fake.fail(status(number, Retry_After="2"))

    for budget in (Contended(), Budget()):
        with pytest.raises(UpstreamLimitedError) as caught:
            get(budget)
        assert caught.value.until == NOW + 2
    assert len(fake.log) == 1


def test_a_clock_that_is_set_ends_no_answer(get):
    steps = itertools.count(float(NOW), WHOLE_S + 1)

    assert b"o/r" in get(clock=lambda: next(steps), monotonic=lambda: 0.0)


def test_a_silence_lasts_as_long_although_the_clock_is_set(github, fake, time_):
    fake.repos["o/r"] = Repository({"s/SKILL.md": b"S"})
    passed = [0.0]
    event = threading.Event()
    client = github(read_s=1.0, monotonic=lambda: passed[0]).client
    fake.fail(*[slow(event)] * SILENCES)
    try:
        for step in (0, SILENT_S + 1, -7200):
            time_.now += step
            with pytest.raises(UpstreamError) as caught:
                client.get("/repos/o/r", budget=Budget())
            assert (caught.value.reason, len(fake.log)) == ("silent", SILENCES)
    finally:
        event.set()

    passed[0] += SILENT_S
    assert b"o/r" in client.get("/repos/o/r", budget=Budget()).body
