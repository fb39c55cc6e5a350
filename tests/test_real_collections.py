"""Real collections become rows, every artifact of them, and come back out of the API."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from flask_artifact_cache import ArtifactManager
from flask_artifact_cache.models import Artifact

API = "/api/v1/user-collections"
# Folders that no rule can know; without them 56 commands stay unfound.
CONFIGURED = {
    "wshobson__commands": {"types": {"tools": "command", "workflows": "command"}},
    "VoltAgent__awesome-claude-code-subagents": {"types": {"tools": "command"}},
}


@pytest.fixture(scope="session")
def expected(corpora):
    return json.loads((corpora / "expected-artifacts.json").read_text())["artifacts"]


def rows(app):
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        return session.scalars(sa.select(Artifact).order_by(Artifact.path)).all()


def test_every_artifact_of_every_archive_is_a_row(
    make_app, sqlite_url, corpora, unpacked, expected, populate
):
    names = sorted(expected)
    collections = {
        name.lower(): {"path": unpacked(name), **CONFIGURED.get(name, {})} for name in names
    }
    app = make_app(sqlite_url, collections)
    for name in names:
        report = populate(app, name.lower())
        on_disk = len(ArtifactManager(**named(collections[name.lower()])).list())
        assert report.created == on_disk
        assert (report.removed, report.withheld) == (0, 0)
        assert report.quarantined == 0
        assert populate(app, name.lower()).unchanged == on_disk

    stored = rows(app)
    assert all(row.synced_at is not None for row in stored)
    found = {(row.collection_id, row.type, row.path) for row in stored}
    wanted = {
        (name.lower(), type_, path) for name in names for path, (type_, _) in expected[name].items()
    }
    assert len(wanted) == 3014
    assert wanted <= found
    assert {one for one in found if one[1] in ("skill", "agent", "command")} == wanted


def named(settings):
    return {("root" if key == "path" else key): value for key, value in settings.items()}


def test_a_listing_of_a_real_collection_holds_all_of_it(
    make_app, tables_url, unpacked, expected, populate
):
    app = make_app(tables_url, {"real": unpacked("github__awesome-copilot")})
    populate(app, "real")
    client = app.test_client()

    url, paths = f"{API}/real/artifacts?limit=200&type=skill&type=agent", []
    while url:
        response = client.get(url)
        paths += [item["path"] for item in response.json["items"]]
        link = response.headers.get("Link")
        url = link and link.split(">")[0][1:]

    assert sorted(paths) == sorted(expected["github__awesome-copilot"])
    facets = client.get(f"{API}/real/facets").json["facets"]["type"]
    assert {"value": "skill", "count": 403} in facets
    for item in client.get(f"{API}/real/artifacts?limit=20").json["items"]:
        one = client.get(f"{API}/real/artifacts/{item['uid']}")
        assert one.json["path"] == item["path"]


def test_malformed_files_are_rows_and_the_run_goes_on(make_app, tables_url, corpora, populate):
    wanted = json.loads((corpora / "malformed/expectations.json").read_text())["files"]
    app = make_app(tables_url, {"bad": corpora / "malformed/collection"})

    report = populate(app, "bad")

    stored = {row.path: row for row in rows(app)}
    assert report.outcome == "partial"
    for path, expectation in wanted.items():
        if expectation["type"] in (None, "collection", "mcp"):
            assert path not in stored
            continue
        row = stored[path]
        assert row.type == expectation["type"]
        assert (row.error or {}).get("code") == expectation["error"], path
        assert (row.condition == "quarantined") == (expectation["outcome"] == "rejected"), path
        codes = {warning["code"] for warning in row.warnings}
        assert codes >= set(expectation["warnings"]), path
        for field in ("name", "description", "author", "license", "version", "tags", "tools"):
            if field in expectation["fields"]:
                assert getattr(row, field) == expectation["fields"][field], (path, field)
    rejected = [path for path, one in wanted.items() if one["outcome"] == "rejected"]
    assert {error["path"] for error in report.errors} == set(rejected)
    assert {"plugins/demo/.mcp.json#alpha", "plugins/demo/.mcp.json#beta"} <= set(stored)
    everything = b"".join(row.payload + row.details for row in stored.values())
    for secret in wanted["plugins/demo/.mcp.json"]["must_not_store"][:2]:
        assert secret.encode() not in everything


def test_a_skillmeat_collection_is_stored_field_by_field(make_app, sqlite_url, corpora, populate):
    root = corpora / "skillmeat-collection/collections/every-field"
    app = make_app(sqlite_url, {"meat": root})
    populate(app, "meat")

    [chart] = [row for row in rows(app) if row.name == "chart-maker"]
    assert (chart.origin, chart.version_spec, chart.resolved_version) == (
        "github",
        "latest",
        "v2.0.1",
    )
    assert chart.resolved_sha == "0123456789abcdef0123456789abcdef01234567"
    assert chart.source.startswith("https://github.com/example-org/artifacts/tree/")
    assert chart.tags == ["data", "charts"]
    assert chart.content_hash == (
        "b98972e8da520aae5e373705fefdfb0258a5570921ae72697fed0b2af86def7e"
    )
    [command] = [row for row in rows(app) if row.type == "command"]
    assert (command.origin, command.origin_source) == ("marketplace", "github")
