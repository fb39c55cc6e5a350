"""A look that ends by itself: what it waits for, and what it says."""

from __future__ import annotations

import logging
import time

import pytest

from artifact_cache_daemon.once import once


@pytest.fixture
def options(folder):
    folder.write("a.md")
    return "--settle", "0.05", "--collection", f"work={folder.root}"


@pytest.fixture
def said(caplog):
    logging.getLogger("artifact_cache_daemon").propagate = True
    return caplog


def test_an_app_that_takes_long_takes_nothing_from_what_has_to_settle(
    server, settings, options, clock
):
    def slow(handler):
        clock.pass_(10_000)
        handler.answer()

    one = server(slow)
    given = settings("--api-url", one.url, *options, "--max-settle", "30")

    assert once(given, None, clock=lambda: clock() + time.monotonic()) == 0


def test_what_does_not_settle_is_said(server, settings, options, folder, clock, said):
    one = server()

    def busy():
        folder.write("a.md")
        clock.pass_(0.01)
        return clock()

    given = settings("--api-url", one.url, *options, "--max-settle", "0.1")
    assert once(given, None, clock=busy) == 1
    assert "not everything could be told: the files have not settled in 0.2 s" in said.text


def test_a_folder_that_is_not_there_is_said(server, settings, said):
    given = settings("--api-url", server().url, "--collection", "work=/nowhere")

    assert once(given, None) == 1
    assert "the folder is unavailable: it does not exist" in said.text


@pytest.mark.parametrize(
    ("status", "data", "code"),
    [(401, b"{}", 78), (200, b'{"collections": []}', 78), (500, b"{}", 1)],
)
def test_an_app_that_does_not_say_what_to_watch_is_asked_once(
    server, settings, said, status, data, code
):
    one = server(lambda handler: handler.answer(status, data))

    assert once(settings("--api-url", one.url), None) == code
    assert len(one.asked) == 1
