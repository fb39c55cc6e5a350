"""A body is taken as its schema has it; of any other, everything that is wrong is said at once."""

from __future__ import annotations

import io
import json
import re

import pytest

from flask_artifact_cache.errors import InvalidRequestError
from flask_artifact_cache.refresh.selection import Selection
from flask_artifact_cache.web import payloads

API = "/api/v1/user-collections"
TOKEN = {"Authorization": "Bearer a-token-for-the-bodies"}


@pytest.fixture
def client(make_app, sqlite_url, sample, populate):
    app = make_app(
        sqlite_url,
        {"work": sample.root},
        ARTIFACT_CACHE_TOKENS=["a-token-for-the-bodies"],
        ARTIFACT_CACHE_REFRESH_LIMIT=None,
        ARTIFACT_CACHE_SYNC_LIMIT=None,
        ARTIFACT_CACHE_MAX_BODY_BYTES=5000,
    )
    populate(app)
    return app.test_client()


def send(client, data, route="refresh-metadata", **options):
    options = {"content_type": "application/json", "headers": TOKEN, **options}
    return client.post(f"{API}/{route}", data=data, **options)


def fields(answer):
    return [error["field"] for error in answer.json["errors"]]


# --- fields --------------------------------------------------------------------------------------

WRONG = [
    ("sync-artifact", {}, "artifact_id"),
    ("sync-artifact", {"artifact_id": ""}, "artifact_id"),
    ("sync-artifact", {"artifact_id": 3}, "artifact_id"),
    ("sync-artifact", {"artifact_id": None}, "artifact_id"),
    ("sync-artifact", {"artifact_id": "skill:\0"}, "artifact_id"),
    ("sync-artifact", {"artifact_id": "skill:\ud800"}, "artifact_id"),
    ("sync-artifact", {"artifact_id": "x" * 1001}, "artifact_id"),
    ("sync-artifact", {"artifact_id": "x", "collection_id": "Work"}, "collection_id"),
    ("sync-artifact", {"artifact_id": "x", "collection_id": "work\n"}, "collection_id"),
    ("sync-artifact", {"artifact_id": "x", "force": True}, "force"),
    ("refresh-metadata", {"collection_id": None}, "collection_id"),
    ("refresh-metadata", {"collection_id": "../work"}, "collection_id"),
    ("refresh-metadata", {"older_than_minutes": "5"}, "older_than_minutes"),
    ("refresh-metadata", {"older_than_minutes": True}, "older_than_minutes"),
    ("refresh-metadata", {"older_than_minutes": -1}, "older_than_minutes"),
    ("refresh-metadata", {"older_than_minutes": 1e300}, "older_than_minutes"),
    ("refresh-metadata", {"older_than_minutes": 10**400}, "older_than_minutes"),
    ("refresh-metadata", {"tags": []}, "tags"),
    ("refresh-metadata", {"tags": "data"}, "tags"),
    ("refresh-metadata", {"tags": ["a", "b", 3]}, "tags[2]"),
    ("refresh-metadata", {"tags": ["a", None]}, "tags[1]"),
    ("refresh-metadata", {"tags": ["x" * 501]}, "tags[0]"),
    ("refresh-metadata", {"tags": ["a"] * 101}, "tags"),
    ("refresh-metadata", {"types": ["skill", "spell"]}, "types[1]"),
    ("refresh-metadata", {"artifact_ids": []}, "artifact_ids"),
    ("refresh-metadata", {"artifact_ids": [["a"]]}, "artifact_ids[0]"),
    ("refresh-metadata", {"paths": []}, "paths"),
    ("refresh-metadata", {"force": 1}, "force"),
    ("refresh-metadata", {"force": "true"}, "force"),
    ("refresh-metadata", {"confirm": "x"}, "confirm"),
    ("refresh-metadata", {"path": "a"}, "path"),
    ("refresh-metadata", {"": 1}, ""),
    ("invalidate", {"artifact_ids": []}, "artifact_ids"),
    ("invalidate", {"tags": ["a"]}, "tags"),
]


@pytest.mark.parametrize(("route", "body", "field"), WRONG)
def test_a_wrong_field_is_named(client, route, body, field):
    answer = send(client, json.dumps(body), route)

    assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")
    assert fields(answer) == [field]


def test_everything_that_is_wrong_is_said_at_once(client):
    body = {
        "colour": "red",
        "tags": ["a", "", "b", 4],
        "types": ["spell"],
        "paths": ["ok", "../x"],
        "older_than_minutes": "x",
    }

    answer = send(client, json.dumps(body))

    assert sorted(fields(answer)) == [
        "colour", "older_than_minutes", "paths[1]", "tags[1]", "tags[3]", "types[0]",
    ]  # fmt: skip
    known = {error["field"]: error["message"] for error in answer.json["errors"]}
    assert "older_than_minutes" in known["colour"]


def test_an_answer_stays_short_however_much_is_wrong(client):
    answer = send(client, json.dumps({"tags": [0] * 900, "x" * 1000: 1}))

    assert len(answer.data) < 20_000
    assert len(answer.json["errors"]) <= 100


@pytest.mark.parametrize(
    "path",
    ["a", "skills/pdf/SKILL.md", ".mcp.json#github", ".claude/skills/a b/ü.md", "...", "..a", "a..",
     ".a", "a\\\\b", "caf\\xe9/SKILL.md", "a\\u2028b", "ab:c", "-", "~/x", "a\nb", "a/..."],
)  # fmt: skip
def test_a_path_below_the_root_is_taken(path):
    assert payloads.RefreshBody().load({"paths": [path]})["paths"] == [path]


@pytest.mark.parametrize(
    "path",
    ["", "/", "/etc/passwd", "..", "../x", "a/..", "a/../b", ".", "./a", "a/.", "a//b", "a/", "//a",
     "C:/x", "c:x", "c:", "C:\\x", "\\\\server\\share", "..\\x", "a\\..\\b", "a\\..",
     "a\\b", "\\x41/..", "a\0", "\0", "a\udcff", "x" * 4097,
     "..\\\\x", "a/..\\\\x", "a\\\\..\\\\b"],
)  # fmt: skip
def test_any_other_path_is_refused(path):
    with pytest.raises(payloads.ValidationError):
        payloads.RefreshBody().load({"paths": [path]})


def test_a_path_of_many_parts_is_checked_quickly():
    paths = ["a/" * 2000 + "..", "\\\\" * 2000 + "\\", "." * 4000 + "/", "../" * 1300]

    with pytest.raises(payloads.ValidationError) as caught:
        payloads.RefreshBody().load({"paths": paths * 100})

    assert len(caught.value.messages_dict["paths"]) == 400


def test_as_many_paths_as_a_busy_folder_has_are_taken():
    paths = [f"skills/skill-{number}/SKILL.md" for number in range(10_000)]

    assert payloads.RefreshBody().load({"paths": paths})["paths"] == paths
    with pytest.raises(payloads.ValidationError):
        payloads.RefreshBody().load({"paths": [*paths, "one/more"]})


def test_a_body_becomes_a_selection():
    body = payloads.RefreshBody().load(
        {"collection_id": "work", "older_than_minutes": 0.5, "tags": ["b", "a", "b"]}
    )

    assert payloads.selection(body) == Selection("work", 0.5, ("b", "a"))
    assert payloads.selection(payloads.RefreshBody().load({})) == Selection()


# --- JSON ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b'"text"', b"3", b"{}{}", b"{'a': 1}", b'{"a": 01}', b"\xff", b"\0",
     b'{"force": NaN}', b'{"older_than_minutes": NaN}', b'{"older_than_minutes": Infinity}',
     b'{"older_than_minutes": -Infinity}', b'{"older_than_minutes": 1e999}', b"\xef\xbb\xbf{}",
     b'{"force": true, "force": false}', b'{"tags": [{"a": 1, "a": 2}]}', b"[" * 4000,
     b'{"a":' * 900, b'{"older_than_minutes": ' + b"9" * 4900 + b"}", "{}".encode("utf-16")],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(client, data):
    answer = send(client, data)

    assert (answer.status_code, answer.json["code"]) == (400, "invalid_request")


def test_a_key_that_is_there_twice_is_named():
    with pytest.raises(InvalidRequestError) as caught:
        payloads.parse(b'{"force": true, "tags": ["a"], "force": false}')

    assert caught.value.errors == (("force", "must not be there twice"),)


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("APPLICATION/JSON", 200),
        ("application/problem+json", 415),
        ("text/json", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/json, text/plain", 415),
        ("", 415),
        (None, 415),
    ],
)
def test_only_json_is_taken(client, content_type, status):
    assert send(client, b"{}", content_type=content_type).status_code == status


@pytest.mark.parametrize(("encoding", "status"), [("identity", 200), ("gzip", 415), ("br", 415)])
def test_a_compressed_body_is_refused(client, encoding, status):
    answer = send(client, b"{}", headers={**TOKEN, "Content-Encoding": encoding})

    assert answer.status_code == status


def test_a_query_is_refused_where_there_is_none(client):
    answer = client.post(f"{API}/invalidate?collection_id=work", json={}, headers=TOKEN)

    assert (answer.status_code, fields(answer)) == (400, ["collection_id"])


# --- how long ------------------------------------------------------------------------------------


class Endless(io.RawIOBase):
    """A body that never ends, and counts what is read of it."""

    def __init__(self):
        self.count = 0

    def readable(self):
        return True

    def readinto(self, buffer):
        self.count += len(buffer)
        buffer[:] = b" " * len(buffer)
        return len(buffer)


def chunked(client, stream, route="refresh-metadata"):
    return client.post(
        f"{API}/{route}",
        headers={**TOKEN, "Transfer-Encoding": "chunked"},
        content_type="application/json",
        environ_overrides={"wsgi.input": stream, "wsgi.input_terminated": True},
    )


def test_a_body_may_be_as_long_as_the_setting_says(client):
    assert send(client, b"{}" + b" " * 4998).status_code == 200
    answer = send(client, b"{}" + b" " * 4999)
    assert (answer.status_code, answer.json["code"]) == (413, "request_entity_too_large")


def test_a_body_without_a_length_is_read_as_far_as_that(client):
    assert chunked(client, io.BytesIO(b"{}" + b" " * 4998)).status_code == 200
    stream = Endless()
    assert chunked(client, stream).status_code == 413
    assert stream.count == 5001


def test_a_lower_limit_of_the_host_holds_and_stays(client):
    client.application.config["MAX_CONTENT_LENGTH"] = 100

    assert send(client, b"{}" + b" " * 98).status_code == 200
    assert send(client, b"{}" + b" " * 99).status_code == 413
    assert chunked(client, io.BytesIO(b"{}" + b" " * 99)).status_code == 413
    assert client.application.config["MAX_CONTENT_LENGTH"] == 100


def test_a_higher_limit_of_the_host_does_not_lift_ours(client):
    client.application.config["MAX_CONTENT_LENGTH"] = 100_000

    assert send(client, b"{}" + b" " * 4999).status_code == 413
    assert chunked(client, io.BytesIO(b"{}" + b" " * 4999)).status_code == 413


@pytest.mark.parametrize("read", ["get_data", "get_json"])
def test_a_hook_of_the_host_may_read_the_body_first(client, read):
    from flask import request

    client.application.before_request(lambda: getattr(request, read)() and None)

    assert send(client, b'{"force": true}').status_code == 200


# --- Prefer --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        ([], set()),
        (["respond-async"], {"respond-async"}),
        (["Respond-Async, wait=10"], {"respond-async", "wait"}),
        (["wait=10", 'foo="a, respond-async"; x=1'], {"wait", "foo"}),
        (["respond-async; x=y"], {"respond-async"}),
        (["return=minimal,respond-async"], {"return", "respond-async"}),
        (["", ",,;="], {""}),
    ],
)
def test_preferences_are_read_as_rfc_7240_has_them(prefer, expected):
    assert payloads.preferences(prefer) | {""} == expected | {""}


def test_who_prefers_not_to_wait_is_told_where_to_look(make_app, tmp_path, sample):
    app = make_app(
        f"sqlite:///{tmp_path / 'thread.db'}",
        {"work": sample.root},
        ARTIFACT_CACHE_TOKENS=["a-token-for-the-bodies"],
        ARTIFACT_CACHE_BACKGROUND="thread",
    )
    client = app.test_client()
    headers = {**TOKEN, "Prefer": "respond-async"}
    answer = client.post(
        f"{API}/refresh-metadata", json={}, headers=headers, base_url="http://localhost/x/"
    )

    assert answer.status_code == 202
    assert answer.headers["Preference-Applied"] == "respond-async"
    assert int(answer.headers["Retry-After"]) >= 1
    refresh_id = answer.json["refresh_id"]
    assert answer.headers["Location"] == f"/x{API}/refreshes/{refresh_id}"
    assert re.fullmatch("[0-9a-f]{32}", refresh_id)
    found = client.get(f"{API}/refreshes/{refresh_id}")
    assert (found.status_code, found.json["refresh_id"]) == (200, refresh_id)


def test_where_there_is_no_background_the_preference_is_ignored(client, make_app, tmp_path, sample):
    app = make_app(
        f"sqlite:///{tmp_path / 'other.db'}",
        {"work": sample.root},
        ARTIFACT_CACHE_TOKENS=["a-token-for-the-bodies"],
        ARTIFACT_CACHE_BACKGROUND="none",
    )

    answer = app.test_client().post(
        f"{API}/refresh-metadata", json={}, headers={**TOKEN, "Prefer": "respond-async"}
    )

    assert answer.status_code == 200
    assert "Preference-Applied" not in answer.headers
    assert answer.json["created"] == 6
