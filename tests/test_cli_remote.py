"""The commands that change something, in the app itself and over HTTP: one behaviour."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
import socket
import sys
import threading
import time
import types
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from flask.cli import ScriptInfo
from werkzeug.serving import WSGIRequestHandler, make_server

from flask_artifact_cache import remote, service
from flask_artifact_cache.cli import cli, output
from flask_artifact_cache.errors import BusyError
from flask_artifact_cache.models import FeedState
from flask_artifact_cache.refresh.requests import Refresher
from flask_artifact_cache.refresh.selection import Selection

PREFIX = "/api/v1/user-collections"
TOKEN = "a-token-for-these-tests-0123"
BROKEN = "---\n- a\n- b\n---\n"


class Quiet(WSGIRequestHandler):
    def log(self, *args):
        pass


@contextmanager
def serving(app):
    """Serves a WSGI app from a thread; gives its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv("ARTIFACT_CACHE_TOKEN", raising=False)


@pytest.fixture
def stranger(make_app):
    """An app that has commands, but no database that it could reach."""
    return make_app("sqlite:////there/is/no/such/folder/host.db", create=False)


def invoke(app, *arguments):
    info = ScriptInfo(create_app=lambda: app)
    result = CliRunner().invoke(cli, [str(one) for one in arguments], obj=info)
    assert "Traceback" not in result.output
    assert TOKEN not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(params=["here", "over HTTP"])
def run(request, make_app, sqlite_url, sample, stranger, monkeypatch):
    """Runs a command in the app, or in another one that asks the app."""
    app = make_app(sqlite_url, {"work": sample.root}, ARTIFACT_CACHE_TOKENS=[TOKEN])
    if request.param == "here":
        yield lambda *arguments: invoke(app, *arguments)
        return
    monkeypatch.setenv("ARTIFACT_CACHE_TOKEN", TOKEN)
    with serving(app) as address:
        url = address + PREFIX
        yield lambda command, *arguments: invoke(stranger, command, "--api-url", url, *arguments)


def document(result):
    assert result.stderr == ""
    return json.loads(result.stdout)


# --- refresh --------------------------------------------------------------------------------------


def test_refresh_says_what_it_did(run, sample):
    first = run("refresh")
    sample.skill("pdf", "Reads and writes PDF files.")
    sample.skill("new")
    sample.remove("agents/reviewer.md")
    second = run("refresh", "work")
    third = document(run("refresh", "--json"))

    assert (first.exit_code, first.stderr) == (0, "")
    assert first.stdout.startswith(
        "all collections: 6 created, 0 updated, 0 unchanged, 0 removed, 0 skipped, 0 errors ("
    )
    assert second.stdout.startswith("work: 1 created, 1 updated, 4 unchanged, 1 removed, 0 skipped")
    assert set(third) == {
        "refresh_id", "artifacts_refreshed", "created", "updated", "unchanged", "removed",
        "skipped", "errors", "duration_seconds",
    }  # fmt: skip
    assert (third["artifacts_refreshed"], third["unchanged"], third["errors"]) == (6, 6, [])


def test_each_filter_narrows_a_refresh(run):
    run("refresh")
    pdf = document(run("sync-artifact", "skill:pdf", "--json"))["artifact_id"]

    def refreshed(*arguments):
        done = document(run("refresh", "--json", *arguments))
        assert done["artifacts_refreshed"] + done["skipped"] == 6
        return done["artifacts_refreshed"]

    assert refreshed("--type", "skill", "--type", "agent") == 4
    assert refreshed("--tag", "data") == 2
    assert refreshed("--tag", "documents", "--tag", "data") == 3
    assert refreshed("--id", pdf, "--id", "command:tidy") == 2
    assert refreshed("--path", "skills/csv/notes.txt") == 1
    assert refreshed("--older-than", "30") == 0
    assert refreshed("--older-than", "0", "--type", "mcp", "--force") == 1


def test_a_broken_file_is_named_and_the_exit_code_is_1(run, sample):
    sample.write("skills/bad/SKILL.md", BROKEN)

    result = run("refresh")

    assert result.exit_code == 1
    assert "7 created" in result.stdout
    assert "1 errors" in result.stdout
    assert "skills/bad/SKILL.md:2:1: E_NOT_A_MAPPING" in result.stderr
    assert run("refresh", "--json").exit_code == 1


def test_an_id_that_nothing_has_is_named(run):
    result = run("refresh", "--id", "skill:nope")

    assert result.exit_code == 1
    assert "skill:nope: not_found there is no such artifact" in result.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_the_brake_stops_with_3_and_says_the_way_out(run, sample, as_json):
    for number in range(50):
        sample.skill(f"skill-{number}")
    run("refresh")
    for number in range(20):
        shutil.rmtree(sample.root / f"skills/skill-{number}")

    stopped = run("refresh", *(["--json"] if as_json else []))

    assert stopped.exit_code == 3
    run_id = stopped.stderr.split("the id ")[1].split(".")[0]
    if as_json:
        done = json.loads(stopped.stdout)
        assert (done["refresh_id"], done["withheld"]) == (run_id, 20)
        assert done["outcome"] == "needs_confirmation"
    else:
        assert "36 unchanged, 0 removed" in stopped.stdout
        assert stopped.stderr.startswith("Error: 20 artifacts of 'work' are gone from the disk")
    confirmed = run("refresh", "--confirm", run_id)
    assert (confirmed.exit_code, "20 removed" in confirmed.stdout) == (0, True)
    again = run("refresh", "--confirm", "0" * 32)
    assert (again.exit_code, again.stderr) == (
        2,
        "Error: no run waits for a confirmation by this id\n",
    )


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["refresh", "--type", "spaceship"], "spaceship"),
        (["refresh", "--older-than", "-1"], "--older-than"),
        (["refresh", "--older-than", "nan"], "--older-than"),
        (["refresh", "--tag", ""], "--tag: Length must be between 1 and 500"),
        (["refresh", "--path", "../x"], "--path: must be relative to the root"),
        (["refresh", "--path", "/etc"], "--path: must be relative to the root"),
        (["refresh", "--confirm", "x"], "--confirm: must be the id of a refresh"),
        (["refresh", "Work"], "COLLECTION: must be 1 to 64 of a-z"),
        (["refresh", "work", "more"], "more"),
        (["sync-artifact"], "ARTIFACT_ID"),
        (["sync-artifact", ""], "ID: "),
        (["invalidate"], "Say which artifacts: either their IDs, or '--all'."),
        (["invalidate", "--collection", "work"], "either their IDs, or '--all'"),
        (["invalidate", "--all", "skill:pdf"], "either their IDs, or '--all'"),
        (["runs", "--limit", "0"], "--limit"),
    ],
)
def test_usage_errors_exit_with_2(run, command, said):
    result = run(*command)

    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["refresh", "nope"], "there is no collection 'nope'"),
        (["sync-artifact", "skill:nope"], "there is no artifact 'skill:nope'"),
        (["sync-artifact", "x", "--collection", "nope"], "there is no collection 'nope'"),
        (["invalidate", "--all", "--collection", "nope"], "there is no collection 'nope'"),
        (["runs", "nope"], "there is no refresh 'nope'"),
        (["runs", "0" * 32], f"there is no refresh '{'0' * 32}'"),
    ],
)
def test_what_is_not_there_is_one_sentence(run, command, said):
    result = run(*command)

    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: {said}\n")


def test_a_missing_root_is_one_sentence(run, sample):
    run("refresh")
    shutil.rmtree(sample.root)

    for command in (["refresh"], ["sync-artifact", "skill:pdf"]):
        result = run(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        said = "The collection's folder does not exist; mount it, or mend its path."
        assert result.stderr == f"Error: {said}\n"


@pytest.mark.parametrize("command", [["refresh"], ["sync-artifact", "skill:pdf"]])
def test_a_refresh_by_somebody_else_is_4(run, monkeypatch, command):
    class Busy(Refresher):
        def refresh(self, order):
            raise BusyError("collection 'work' is being refreshed by another process", 3)

    monkeypatch.setattr(service, "Refresher", Busy)

    result = run(*command)

    assert result.exit_code == 4
    assert "Error: collection 'work' is being refreshed by another process" in result.stderr


# --- sync-artifact --------------------------------------------------------------------------------


def test_sync_says_what_reading_an_artifact_brought(run, sample):
    assert run("sync-artifact", "skill:pdf").stdout == "skill:pdf in work: created\n"
    assert run("sync-artifact", "skill:pdf").stdout == "skill:pdf in work: unchanged\n"

    sample.skill("pdf", "Reads PDFs.", tags="[documents, Reading]")
    assert run("sync-artifact", "skill:pdf", "--collection", "work").stdout.startswith(
        "skill:pdf in work: updated (description, "
    )

    sample.write("skills/pdf/SKILL.md", BROKEN)
    broken = run("sync-artifact", "skill:pdf")
    assert (broken.exit_code, broken.stdout) == (1, "skill:pdf in work: quarantined\n")

    shutil.rmtree(sample.root / "skills/pdf")
    assert run("sync-artifact", "skill:pdf").stdout.endswith(" in work: removed\n")
    assert run("sync-artifact", "skill:pdf").exit_code == 1


def test_sync_as_json(run):
    done = document(run("sync-artifact", "skill:pdf", "--json"))

    assert done.pop("synced_at").endswith("Z")
    assert done.pop("fields_updated") != 0
    assert done == {"artifact_id": "skill:pdf", "collection_id": "work", "status": "created"}


def test_sync_of_a_shared_id_lists_the_candidates(run, sample):
    sample.write("commands/svn/tidy.md", "Tidy.\n")
    run("refresh")

    shared = run("sync-artifact", "command:tidy")

    assert shared.exit_code == 1
    error, *candidates = shared.stderr.splitlines()
    assert error == "Error: 2 artifacts are called 'command:tidy'; ask by uid"
    found = dict(reversed(line.split()) for line in candidates)
    assert set(found) == {"commands/git/tidy.md", "commands/svn/tidy.md"}
    assert run("sync-artifact", found["commands/svn/tidy.md"]).exit_code == 0


# --- invalidate and runs --------------------------------------------------------------------------


def test_invalidate_says_how_many_and_what_it_does_not_know(run):
    run("refresh")

    some = run("invalidate", "skill:pdf", "skill:nope", "--collection", "work")
    assert (some.exit_code, some.stdout) == (1, "1 invalidated\n")
    assert some.stderr == "  skill:nope: there is no such artifact\n"
    assert document(run("invalidate", "skill:csv", "--json")) == {"invalidated": 1, "unknown": []}
    assert run("invalidate", "--all").stdout == "4 invalidated\n"
    assert document(run("refresh", "--older-than", "60", "--json"))["artifacts_refreshed"] == 6
    assert run("invalidate", "--all", "--collection", "work").stdout == "6 invalidated\n"


def test_runs_are_listed_and_shown(run, sample):
    assert run("runs").stdout == ""
    sample.write("skills/bad/SKILL.md", BROKEN)
    run("refresh")
    run("refresh", "--type", "agent", "--force")

    newest, first = document(run("runs", "--json"))["refreshes"]
    assert newest["filters"] == {"types": ["agent"], "force": True}
    assert {newest["trigger"], first["trigger"]} in ({"cli"}, {"api"})
    assert "errors" not in first
    [line] = run("runs", "--limit", "1", "--collection", "work").stdout.splitlines()
    assert line.startswith(newest["refresh_id"])
    assert "succeeded" in line
    assert run("runs", "--collection", "other").stdout == ""

    shown = run("runs", first["refresh_id"])
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "outcome: partial\n" in shown.stdout
    assert "error: skills/bad/SKILL.md:2:1: E_NOT_A_MAPPING" in shown.stdout
    as_json = document(run("runs", first["refresh_id"], "--json"))
    assert as_json["errors"][0]["path"] == "skills/bad/SKILL.md"


def test_changes_are_listed_and_followed(run, sample):
    run("refresh")
    whole = document(run("changes", "--json", "--collection", "work"))
    assert len(whole["changes"]) == 6
    first = run("changes", "--limit", "2")
    assert len(first.stdout.splitlines()) == 2
    assert first.stderr.startswith("more: --since ")
    sample.skill("pdf", "Edited.")
    run("refresh")

    told = run("changes", "--since", whole["next"], "--collection", "work")

    assert told.exit_code == 0
    [line] = told.stdout.splitlines()
    assert "updated" in line
    assert "skill:pdf  description" in line
    assert told.stderr.startswith("later: --since ")
    for wrong in (["--since", "nonsense"], ["--since", whole["next"]], ["--limit", "0"]):
        refused = run("changes", *wrong)
        assert (refused.exit_code, refused.stdout) == (2, "")
    missing = run("changes", "--collection", "nope")
    assert (missing.exit_code, missing.stderr) == (1, "Error: there is no collection 'nope'\n")


def test_a_cursor_that_is_too_old_is_one_sentence(run, make_app, sqlite_url):
    run("refresh")
    since = document(run("changes", "--json"))["next"]
    app = make_app(sqlite_url)
    with app.app_context(), app.extensions["sqlalchemy"].engine.begin() as connection:
        connection.execute(sa.update(FeedState).values(epoch="0123456789abcdef"))

    told = run("changes", "--since", since)

    assert (told.exit_code, told.stdout) == (1, "")
    assert told.stderr.startswith("Error: what has changed since this cursor is not kept any more")


# --- in the app itself ----------------------------------------------------------------------------


def test_problems_are_listed_with_how_to_mend_them(run, sample):
    sample.write("skills/broken/SKILL.md", BROKEN)
    sample.write("skills/warned/SKILL.md", "---\nname: warned\n---\n")
    run("refresh")

    told = run("problems", "work")
    first = document(run("problems", "--json", "--limit", "1"))
    cursor = first["page_info"]["end_cursor"]
    rest = document(run("problems", "--json", "--after", cursor))

    assert told.exit_code == 0
    assert re.match(
        r"work:skills/broken/SKILL\.md:2:1: E_NOT_A_MAPPING .*\n    Write the front matter",
        told.stdout,
    )
    total = first["page_info"]["total_count"]
    assert told.stderr == f"{total} of {total} problems\n"
    assert len(first["problems"] + rest["problems"]) == total
    assert rest["page_info"]["has_next_page"] is False
    assert run("problems", "nope").exit_code == 1
    assert run("problems", "--after", "nonsense").exit_code == 2
    assert run("problems", "--limit", "0").exit_code == 2


def test_a_terminal_sees_how_far_a_refresh_is(make_app, sqlite_url, sample, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    other = type(sample)(tmp_path / "other")
    other.skill("lone")
    app = make_app(sqlite_url, {"work": sample.root, "other": other.root})
    terminal = Terminal()
    monkeypatch.setattr(output, "sys", types.SimpleNamespace(stderr=terminal))

    assert "7 created" in invoke(app, "refresh").stdout
    assert "100%" in terminal.getvalue()
    terminal.truncate(0)
    invoke(app, "refresh", "--json")
    assert terminal.getvalue().strip("\0") == ""


def test_a_token_file_without_an_address_is_a_mistake(make_app, sqlite_url, tmp_path):
    result = invoke(make_app(sqlite_url), "runs", "--token-file", tmp_path / "token")

    assert result.exit_code == 2
    assert "--api-url" in result.stderr


# --- tokens ---------------------------------------------------------------------------------------


@pytest.fixture
def served(make_app, sqlite_url, sample):
    """The address of the API of an app that wants a token."""
    with serving(
        make_app(sqlite_url, {"work": sample.root}, ARTIFACT_CACHE_TOKENS=[TOKEN])
    ) as address:
        yield address + PREFIX


def test_the_token_comes_from_a_file_or_the_environment(served, stranger, tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")

    missing = invoke(stranger, "refresh", "--api-url", served)
    assert missing.exit_code == 2
    assert missing.stderr == (
        f"Error: {served} needs a token: give '--token-file', or set ARTIFACT_CACHE_TOKEN\n"
    )
    assert invoke(stranger, "runs", "--api-url", served).exit_code == 0  # reading is open
    of_file = invoke(stranger, "refresh", "--api-url", served, "--token-file", file)
    assert (of_file.exit_code, "6 created" in of_file.stdout) == (0, True)
    monkeypatch.setenv("ARTIFACT_CACHE_TOKEN", TOKEN)
    assert invoke(stranger, "refresh", "--api-url", f"{served}/").exit_code == 0


def test_who_starts_a_refresh_with_a_token_sees_it_though_reading_is_closed(
    make_app, sqlite_url, sample, stranger, monkeypatch
):
    app = make_app(
        sqlite_url,
        {"work": sample.root},
        ARTIFACT_CACHE_TOKENS=[TOKEN],
        authorize=lambda *_: False,
    )
    with serving(app) as address:
        options = ("--api-url", address + PREFIX, "--json")
        assert invoke(stranger, "runs", *options).exit_code == 2
        monkeypatch.setenv("ARTIFACT_CACHE_TOKEN", TOKEN)
        started = document(invoke(stranger, "refresh", *options))["refresh_id"]

        assert document(invoke(stranger, "runs", started, *options))["refresh_id"] == started
        [listed] = document(invoke(stranger, "runs", *options))["refreshes"]
        assert listed["refresh_id"] == started
        assert invoke(stranger, "problems", *options).exit_code == 2


def test_a_wrong_token_is_refused_and_never_shown(served, stranger, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    wrong = "not-the-token-of-that-app"
    monkeypatch.setenv("ARTIFACT_CACHE_TOKEN", wrong)

    result = invoke(stranger, "refresh", "--api-url", served)

    assert (result.exit_code, result.stderr) == (2, f"Error: {served} does not accept the token\n")
    assert wrong not in caplog.text
    file = tmp_path / "token"  # which comes first
    file.write_text(TOKEN)
    done = invoke(stranger, "refresh", "--api-url", served, "--token-file", file)
    assert done.exit_code == 0
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    "text", ["", "two words", "secret\nX-Evil: 1", "s\u00e9cret", "secret\0", "x" * 9000]
)
def test_what_cannot_be_a_token_is_not_sent(stranger, tmp_path, text):
    file = tmp_path / "token"
    file.write_text(text)

    result = invoke(stranger, "runs", "--api-url", "http://127.0.0.1:1", "--token-file", file)

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"Error: '{file}' does not hold a token alone")
    assert "secret" not in result.stderr
    none = tmp_path / "nothing"
    missing = invoke(stranger, "runs", "--api-url", "http://127.0.0.1:1", "--token-file", none)
    assert missing.exit_code == 2
    assert missing.stderr.endswith("No such file or directory\n")


def test_there_is_no_option_for_a_token():
    for command in cli.commands.values():
        assert "--token" not in {option for one in command.params for option in one.opts}


# --- what else may answer -------------------------------------------------------------------------


@pytest.fixture
def ask(stranger):
    """Runs a command against a server that answers the same to everything."""

    def ask(status, body=b"", headers=None, command=("refresh",)):
        asked = []

        def app(environ, start_response):
            asked.append((environ["PATH_INFO"], environ.get("HTTP_AUTHORIZATION")))
            start_response(f"{status} X", list((headers or {}).items()))
            return [body] if isinstance(body, bytes) else body

        with serving(app) as address:
            result = invoke(stranger, command[0], "--api-url", f"{address}/api", *command[1:])
        result.asked = asked
        result.said = result.stderr.replace(address, "http://server")
        return result

    return ask


def problem(status, code, detail="Something.", **members):
    body = {"status": status, "code": code, "detail": detail, **members}
    return json.dumps(body).encode()


PROBLEM = {"Content-Type": "application/problem+json"}
HTML = {"Content-Type": "text/html; charset=utf-8"}
JSON = {"Content-Type": "application/json"}
API = "http://server/api"


@pytest.mark.parametrize(
    ("status", "headers", "body", "exit_code", "said"),
    [
        (400, PROBLEM, problem(400, "invalid_request", "wrong in the body: 'x'"), 2,
         "wrong in the body: 'x'"),
        (401, HTML, b"<h1>no</h1>", 2, f"{API} needs a token"),
        (403, PROBLEM, problem(403, "forbidden", "you may not refresh this"), 2,
         f"{API} refuses: you may not refresh this"),
        (403, HTML, b"<h1>no</h1>", 2, f"{API} refuses: forbidden"),
        (404, HTML, b"<h1>no</h1>", 2, f"there is no artifact cache at {API}"),
        (404, PROBLEM, problem(404, "not_found", "There is nothing here."), 1,
         "There is nothing here."),
        (405, HTML, b"<h1>no</h1>", 1, f"{API} answers 405, and not as an artifact cache does"),
        (409, PROBLEM, problem(409, "mass_loss", "gone.", refresh_id="../x"), 3, "gone."),
        (409, PROBLEM, problem(409, "mass_loss", "gone."), 3, "gone."),
        (409, PROBLEM, problem(409, "ambiguous_id", "two", candidates="?"), 1, "two"),
        (409, PROBLEM, problem(409, "conflict", "Something else."), 1, "Something else."),
        (409, {**PROBLEM, "Retry-After": "2"}, problem(409, "busy", "At it."), 4,
         "At it; try again in 2 s"),
        (413, PROBLEM, problem(413, "too_large", "Too long."), 1, "Too long"),
        (429, {**PROBLEM, "Retry-After": "17"}, problem(429, "rate_limited", "too often"), 4,
         "too often; try again in 17 s"),
        (429, HTML, b"<h1>slow down</h1>", 4, f"{API} answers 429"),
        (500, PROBLEM, problem(500, "internal_error", "See the server's log."), 1,
         "See the server's log"),
        (502, HTML, b"<h1>bad gateway</h1>", 1, f"{API} answers 502"),
        (503, {**PROBLEM, "Retry-After": "5"}, problem(503, "busy", "at it"), 4,
         "at it; try again in 5 s"),
        (503, {**PROBLEM, "Retry-After": "30"}, problem(503, "root_unavailable", "no folder"), 1,
         "no folder"),
        (503, {**PROBLEM, "Retry-After": "2"}, problem(503, "not_populated", "not read"), 1,
         "not read; try again in 2 s"),
        (503, {**PROBLEM, "Retry-After": "30"}, problem(503, "schema_missing", "no tables"), 1,
         "no tables"),
        (503, {**HTML, "Retry-After": "9"}, b"<h1>maintenance</h1>", 4,
         f"{API} answers 503; try again in 9 s"),
        (503, {**HTML, "Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"", 4,
         f"{API} answers 503\n"),
        (504, HTML, b"", 1, "may still go on there"),
        (301, {"Location": "https://elsewhere.example/"}, b"", 2,
         f"{API} redirects to https://elsewhere.example/, which is not followed"),
        (308, {}, b"", 2, f"{API} redirects to nowhere"),
        (200, HTML, b"<h1>hello</h1>", 1, f"{API} does not answer as an artifact cache does"),
        (200, JSON, b"{", 1, "does not answer as"),
        (200, JSON, b"\xff", 1, "does not answer as"),
        (200, JSON, b"[" * 100_000, 1, "does not answer as"),
        (200, JSON, b"[]", 1, "does not answer as"),
        (200, JSON, b'{"refresh_id": "x", "created": "none"}', 1, "does not answer as"),
        (200, {**JSON, "Content-Encoding": "gzip"}, b"{}", 1, "does not answer as"),
        (202, JSON, b"{}", 1, f"{API} answers 202"),
    ],
)  # fmt: skip
def test_every_answer_is_one_sentence_and_an_exit_code(ask, status, headers, body, exit_code, said):
    result = ask(status, body, headers)

    assert result.exit_code == exit_code, result.stderr
    assert result.stdout == ""
    assert result.said.startswith("Error: ")
    assert result.said.count("\n") == 1
    assert said in result.said
    assert "<h1>" not in result.said


def test_the_brake_of_a_server_that_shows_no_runs_is_3_all_the_same(ask):
    result = ask(409, problem(409, "mass_loss", "gone.", refresh_id="0" * 32), PROBLEM)

    assert (result.exit_code, result.stdout, result.stderr) == (3, "", "Error: gone.\n")
    assert [path for path, _ in result.asked] == [
        "/api/refresh-metadata",
        f"/api/refreshes/{'0' * 32}",
    ]


def test_fields_that_the_server_refuses_are_named(ask):
    wrong = [{"field": "paths[3]", "message": "must be\x1b[31m relative"}]

    result = ask(400, problem(400, "invalid_request", "wrong: 'paths[3]'", errors=wrong), PROBLEM)

    assert result.stderr == "Error: wrong: 'paths[3]'\n  paths[3]: must be\\x1b[31m relative\n"


def test_a_redirect_gets_no_token(ask, monkeypatch):
    monkeypatch.setenv("ARTIFACT_CACHE_TOKEN", TOKEN)

    result = ask(307, headers={"Location": f"/elsewhere?{TOKEN}"})

    assert result.asked == [("/api/refresh-metadata", f"Bearer {TOKEN}")]
    assert "redirects to /elsewhere?…" in result.stderr


def test_a_server_that_repeats_the_token_does_not_have_it_shown(ask, monkeypatch):
    monkeypatch.setenv("ARTIFACT_CACHE_TOKEN", TOKEN)

    result = ask(500, problem(500, "x", f"bad: {TOKEN} " + "y" * 5000), PROBLEM)

    assert "Error: bad: … yyy" in result.stderr
    assert len(result.stderr) < 1100


def test_no_more_is_read_of_an_answer_than_ours_can_be_long(ask, monkeypatch):
    monkeypatch.setattr(remote, "MAX_BYTES", 200_000)
    sent = []

    def endless():
        yield b'{"a": "'
        while len(sent) < 10_000:
            sent.append(1)
            yield b"x" * 10_000

    result = ask(200, endless(), JSON)

    assert result.exit_code == 1
    assert "is longer than 200000 bytes" in result.stderr
    assert len(sent) < 10_000


def test_text_of_another_app_cannot_steer_the_terminal(ask):
    evil = "\x1b]0;x\x07\u202e"
    members = {"candidates": [{"uid": evil, "path": evil}]}
    answers = [
        ask(409, problem(409, "ambiguous_id", evil, **members), PROBLEM),
        ask(302, headers={"Location": "/\x1b[31m"}),
        ask(
            200,
            json.dumps(
                {"artifact_id": evil, "collection_id": evil, "status": evil, "fields_updated": []}
            ).encode(),
            JSON,
            ("sync-artifact", "skill:pdf"),
        ),
        ask(
            200,
            json.dumps({"invalidated": 0, "unknown": [evil]}).encode(),
            JSON,
            ("invalidate", "skill:pdf"),
        ),
        ask(
            200,
            json.dumps(
                {
                    "changes": [
                        {
                            "at": evil,
                            "kind": evil,
                            "uid": evil,
                            "artifact_id": evil,
                            "fields": [evil],
                        }
                    ],
                    "next": evil,
                    "has_more": True,
                }
            ).encode(),
            JSON,
            ("changes",),
        ),
    ]

    for result in answers:
        assert "\x1b" not in result.output
        assert "\u202e" not in result.output


def test_a_server_that_is_down_is_one_sentence(stranger):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/api"
        result = invoke(stranger, "refresh", "--api-url", url)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: cannot reach {url}: Connection refused\n"
    name = invoke(stranger, "refresh", "--api-url", "http://no-such-host.invalid/api")
    assert name.exit_code == 1
    assert name.stderr.startswith("Error: cannot reach http://no-such-host.invalid/api: ")


def test_a_server_that_does_not_speak_tls_is_one_sentence(served, stranger):
    result = invoke(stranger, "runs", "--api-url", served.replace("http:", "https:"))

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: cannot reach https://127.0.0.1")
    assert result.stderr.count("\n") == 1


@contextmanager
def socket_server(answer):
    """Takes one connection, sends bytes, and waits a moment where there are none."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def work():
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                if not answer:
                    time.sleep(0.3)

        thread = threading.Thread(target=work)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def test_a_server_that_does_not_answer_is_one_sentence():
    with socket_server(b"") as url:
        cache = remote.RemoteCache(url, TOKEN, answer_s=0.1)
        with pytest.raises(remote.RemoteError, match=r"has not answered for 0\.1 s"):
            cache.refresh(Selection())


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_an_answer_that_is_broken_off_is_one_sentence(stranger, answer):
    with socket_server(answer) as url:
        result = invoke(stranger, "runs", "--api-url", url)

    assert result.exit_code == 1
    assert result.stderr == f"Error: {url} has broken off the connection\n"


@pytest.mark.parametrize(
    "url",
    [
        "", "localhost:5000", "ftp://localhost/", "http://", "http:///api", "http://[::1/api",
        "http://localhost:port/", "http://localhost:99999/", "http://localhost/?a=b",
        "http://localhost/#a", "http://local host/", "http://localhost/\n", "http://h\u00e9te/",
    ],
)  # fmt: skip
def test_what_is_no_address_is_a_mistake(stranger, url):
    result = invoke(stranger, "runs", "--api-url", url)

    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "is not the address of an artifact cache" in result.stderr


def test_a_password_in_the_address_is_not_repeated(stranger):
    result = invoke(stranger, "runs", "--api-url", "http://ada:hunter2@localhost:port/api")

    assert result.exit_code == 2
    assert "hunter2" not in result.stderr


def test_without_urllib3_one_sentence_names_the_extra(stranger, monkeypatch):
    monkeypatch.setitem(sys.modules, "urllib3", None)

    result = invoke(stranger, "runs", "--api-url", "http://localhost:5000/api")

    assert result.exit_code == 2
    assert result.stderr == (
        "Error: asking another app needs urllib3: pip install 'flask-artifact-cache[daemon]'\n"
    )
