"""The OpenAPI document is valid, and says what the routes do."""

from __future__ import annotations

import json
import re

import pytest

from flask_artifact_cache.web import answers, openapi, schemas
from flask_artifact_cache.web.api import ROUTES

API = "/api/v1/user-collections"
TOKEN = {"Authorization": "Bearer a-token-for-the-document"}
OPERATIONS = {route.view.__name__: route for route in ROUTES}


@pytest.fixture
def document(client):
    return client.get(f"{API}/openapi.json").json


def operations(document):
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_it_is_valid(document):
    validator = pytest.importorskip(
        "openapi_spec_validator", reason="openapi-spec-validator is not installed"
    )

    assert document["openapi"].startswith("3.1.")
    validator.validate(document)


def test_every_route_is_in_it_and_nothing_else(app, document):
    rules = {
        (re.sub(r"<(?:[^<>]*:)?(\w+)>", r"{\1}", rule.rule.removeprefix(API)), method.lower())
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("artifact_cache.")
        and not rule.endpoint.endswith("nothing_here")
        for method in rule.methods - {"HEAD"}
    }

    assert {(path, method) for path, method, _ in operations(document)} == rules
    assert len({operation["operationId"] for _, _, operation in operations(document)}) == len(rules)


def test_every_operation_is_described(document):
    for path, method, operation in operations(document):
        assert operation["summary"], path
        assert ("requestBody" in operation) == (method == "post")
        assert operation["security"] in (
            [[{"bearer": []}]] if method == "post" else [[], [{}, {"bearer": []}]]
        )
        names = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert names == set(re.findall(r"{(\w+)}", path))
        for one in operation["parameters"]:
            assert "schema" in one
        for status in {"400", "403", "404", "429", "500", "503"}:
            assert operation["responses"][status] == {"$ref": f"#/components/responses/{status}"}
        assert ("401" in operation["responses"]) == ({"bearer": []} in operation["security"])


def test_every_parameter_of_a_query_is_in_it(document):
    for route in ROUTES:
        operation = document["paths"][openapi._path(route)][route.method.lower()]
        queries = {one["name"] for one in operation["parameters"] if one["in"] == "query"}
        assert queries == set(schemas.QUERIES[route.query].fields)


def test_its_server_is_where_the_app_is_mounted(client):
    for root in ("", "/x", "/x/y z"):
        found = client.get(f"{API}/openapi.json", base_url=f"http://localhost{root}/").json
        assert found["servers"] == [{"url": f"{root.replace(' ', '%20')}{API}"}]


def test_a_client_that_has_it_gets_it_once(client):
    first = client.get(f"{API}/openapi.json")
    again = client.get(f"{API}/openapi.json", headers={"If-None-Match": first.headers["ETag"]})

    assert (first.status_code, again.status_code, again.data) == (200, 304, b"")


def test_no_path_of_the_server_is_in_it(document, sample):
    assert str(sample.root) not in json.dumps(document)


def test_a_problem_is_as_the_schema_says(client):
    for answer in (
        client.get(f"{API}/nothing/here"),
        client.get(f"{API}/work/artifacts?limit=x"),
        client.post(f"{API}/invalidate", json={}),
    ):
        assert not answers.ProblemDetails().validate(answer.json)


def test_answers_have_exactly_the_fields_of_their_schemas(make_app, sqlite_url, sample, populate):
    app = make_app(
        sqlite_url, {"work": sample.root}, ARTIFACT_CACHE_TOKENS=["a-token-for-the-document"]
    )
    populate(app)
    client = app.test_client()
    made = client.post(f"{API}/refresh-metadata", json={}, headers=TOKEN)
    sync = {"artifact_id": "skill:pdf"}
    found = {
        "refresh_metadata": made,
        "sync_artifact": client.post(f"{API}/sync-artifact", json=sync, headers=TOKEN),
        "invalidate": client.post(
            f"{API}/invalidate", json={"artifact_ids": ["skill:no"]}, headers=TOKEN
        ),
        "collections": client.get(f"{API}/"),
        "artifacts": client.get(f"{API}/work/artifacts"),
        "artifact": client.get(f"{API}/work/artifacts/skill:pdf"),
        "facets": client.get(f"{API}/work/facets"),
        "refreshes": client.get(f"{API}/refreshes"),
        "refresh": client.get(f"{API}/refreshes/{made.json['refresh_id']}"),
        "changes": client.get(f"{API}/changes"),
        "problem_list": client.get(f"{API}/problems"),
        "cache_stats": client.get(f"{API}/cache-stats"),
        "healthz": client.get(f"{API}/healthz"),
    }
    assert {*found, "openapi_document", "metrics"} == set(OPERATIONS)
    for name, answer in found.items():
        assert answer.status_code == 200, name
        # Strict, where the document leaves room for fields to come.
        schema = OPERATIONS[name].answer(unknown="raise")
        assert schema.validate(answer.json) == {}, name


def test_a_collection_may_be_called_refreshes(make_app, sqlite_url, sample, populate):
    app = make_app(sqlite_url, {"refreshes": sample.root})
    populate(app, "refreshes")
    client = app.test_client()

    assert client.get(f"{API}/refreshes/artifacts").json["page_info"]["total_count"] == 6
    assert client.get(f"{API}/refreshes/facets").status_code == 200
    assert client.get(f"{API}/refreshes/artifacts/skill:pdf").json["name"] == "pdf"
    assert client.get(f"{API}/refreshes/{'0' * 32}").status_code == 404
