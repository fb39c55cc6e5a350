"""What goes over the wire, against real servers."""

from __future__ import annotations

import json
import os
import tempfile
import time

import pytest

from artifact_cache_daemon import delivery
from artifact_cache_daemon.delivery import Api, UnreachableError
from artifact_cache_daemon.settings import Token
from artifact_cache_daemon.systemd import Manager

RUN = "0123456789abcdef" * 2
BODY = {"collection_id": "work"}


@pytest.fixture
def api():
    made = []

    def make(url, timeout_s=2.0):
        token = Token(lambda: None, value="the-token")
        made.append(Api(url, token, timeout_s, "artifact-cache-daemon/9"))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_refresh_is_a_post_with_a_token_over_one_connection(server, api):
    one = server()
    client = api(one.url)
    for _ in range(3):
        verdict = delivery.judge(client.refresh(BODY))

    assert (verdict.kind, verdict.refresh_id) == ("acknowledged", RUN)
    path, headers, body = one.asked[0]
    assert path == "/api/v1/user-collections/refresh-metadata"
    assert headers["Authorization"] == "Bearer the-token"
    assert headers["User-Agent"] == "artifact-cache-daemon/9"
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == BODY
    assert len(one.peers) == 1


@pytest.mark.parametrize("abstract", [False, True])
@pytest.mark.parametrize(("suffix", "prefix"), [("", "/api/v1/user-collections"), (":/x", "/x")])
def test_a_unix_socket_will_do(server, api, abstract, suffix, prefix):
    with tempfile.TemporaryDirectory(prefix="ac") as short:  # a socket's path has to be
        path = f"{short}/app.sock"
        one = server(address=f"\0{path}" if abstract else path)
        answer = api(f"unix:{'@' if abstract else ''}{path}{suffix}").refresh(BODY)

    assert answer.status == 200
    assert one.asked[0][0] == f"{prefix}/refresh-metadata"


def test_a_redirect_is_not_followed(server, api):
    other = server()
    one = server(lambda handler: handler.answer(307, b"", Location=other.url))

    assert delivery.judge(api(one.url).refresh(BODY)).kind == "failed"
    assert other.asked == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9", "Connection refused"),
        ("unix:/nowhere.sock", "No such file"),
    ],
)
def test_why_there_is_no_answer_is_said_in_a_few_words(api, url, said):
    with pytest.raises(UnreachableError, match=said) as caught:
        api(url).refresh(BODY)

    assert "0x" not in str(caught.value)
    assert "token" not in str(caught.value)


def test_silence_and_an_answer_that_drips_end(server, api):
    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(400):
            handler.wfile.write(b" ")
            time.sleep(0.05)
        handler.close_connection = True

    def silent(handler):
        handler.connection.recv(1)  # until who asks has gone
        handler.close_connection = True

    for act in (drip, silent):
        started = time.monotonic()
        with pytest.raises(UnreachableError):
            api(server(act).url, timeout_s=0.3).refresh(BODY)
        assert time.monotonic() - started < 1.2


def test_an_endless_answer_is_not_kept(server, api, monkeypatch):
    monkeypatch.setattr(delivery, "MAX_ANSWER_BYTES", 1000)
    with pytest.raises(UnreachableError, match="does not end"):
        api(server(lambda handler: handler.answer(200, b"x" * 70_000)).url).refresh(BODY)


@pytest.mark.parametrize(
    ("status", "header", "wait_s"),
    [
        (429, "7", 7),
        (503, "7", 7),
        (500, "7", 0),
        (429, "1e9", 0),
        (429, "-5", 0),
        (429, "99999999", 3600),
        (503, "Wed, 21 Oct 2015 07:28:00 GMT", 0),
        (503, "soon", 0),
    ],
)
def test_how_long_to_wait_is_read_with_care(server, api, status, header, wait_s):
    one = server(lambda handler: handler.answer(status, b"{}", Retry_After=header))

    assert delivery.judge(api(one.url).refresh(BODY)).wait_s == wait_s


def test_an_untrue_code_does_not_get_into_the_log():
    answer = delivery.Answer(500, {"code": "a\nb" * 1000})

    assert delivery.judge(answer).reason == "the app answers 500"


@pytest.mark.parametrize("abstract", [False, True])
def test_a_manager_hears_of_us_in_datagrams(notify_socket, tmp_path, abstract):
    address = f"@artifact-cache-{os.getpid()}" if abstract else str(tmp_path / "n")
    listener = notify_socket(address)
    manager = Manager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"})
    manager.ready("two\nlines")
    manager.reloading()
    manager.watchdog()
    manager.stopping()

    assert listener.next() == "READY=1\nSTATUS=two lines"
    assert listener.next().startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert [listener.next(), listener.next()] == ["WATCHDOG=1", "STOPPING=1"]
    assert manager.watchdog_s == 3


def test_a_manager_that_is_not_there_is_no_trouble(tmp_path):
    for address in ("", "relative", str(tmp_path / "gone"), "/" + "x" * 500, "@", "vsock:1:2"):
        manager = Manager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "x"})
        manager.ready("x" * 100_000)
        manager.stopping()
        assert manager.watchdog_s is None


def test_the_watchdog_of_another_process_is_not_ours(tmp_path):
    environ = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "3000000"}

    assert Manager({**environ, "WATCHDOG_PID": "1"}).watchdog_s is None
    assert Manager({**environ, "WATCHDOG_PID": str(os.getpid())}).watchdog_s == 3
