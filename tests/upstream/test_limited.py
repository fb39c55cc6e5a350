"""Until when GitHub is not to be asked is shown, and nobody is asked for that."""

from __future__ import annotations

import json

import pytest

from flask_artifact_cache.upstream.validators import Memory

from ..conftest import Clock

API = "https://ghe.example.com/api/v3"


@pytest.fixture
def app(make_app, sqlite_url, sample, tmp_path, clock):
    app = make_app(
        sqlite_url,
        {"work": sample.root},
        clock=clock,
        ARTIFACT_CACHE_GITHUB_API_URL=API,
        ARTIFACT_CACHE_GITHUB_STATE_FOLDER=tmp_path / "state",
    )
    run(app, "populate")
    return app


def run(app, *arguments):
    return app.test_cli_runner().invoke(args=["artifact-cache", *arguments])


def limit(folder, clock: Clock, seconds):
    memory = Memory(folder)
    now = clock().timestamp()
    memory.wait(API, "", now + seconds, now)
    memory.close()


def test_commands_and_page_tell_until_when(app, tmp_path, clock):
    client = app.test_client()
    for text in (run(app, "status").output, client.get("/collection/work").text):
        assert "GitHub lets us" not in text
        assert "limited" not in text
    assert not (tmp_path / "state").exists()

    limit(tmp_path / "state", clock, 600)

    until = "2026-03-01T12:10:00.000Z"
    assert f"upstream limited until {until}" in run(app, "status").stdout
    assert json.loads(run(app, "status", "--json").stdout)["upstream_limited_until"] == until
    stats = client.get("/api/v1/user-collections/cache-stats").json
    assert stats["upstream_limited_until"] == until
    assert f"GitHub lets us ask no more until {until}" in run(app, "doctor").stdout
    for page in ("/collection/work", "/collection/work?q=pdf"):
        found = client.get(page).text
        assert "GitHub lets us ask no more for now." in found
        assert until in found
    # What is served is the same as ever.
    assert client.get("/api/v1/user-collections/work/artifacts").status_code == 200

    clock.pass_(minutes=11)

    assert "upstream limited" not in run(app, "status").stdout
    assert "GitHub lets us" not in client.get("/collection/work").text
