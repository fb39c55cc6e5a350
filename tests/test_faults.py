"""What is wrong with files: one list, and everybody who tells of it tells the same."""

from __future__ import annotations

import json
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flask_artifact_cache import (
    ArtifactManager,
    CollectionManager,
    migrate_artifacts_to_default_collection,
)

from .cached import opened

API = "/api/v1/user-collections"
PROBLEMS = f"{API}/problems"


def service_of(app):
    return app.extensions["artifact_cache"].service


@pytest.fixture
def broken(sample):
    """The sample with files that are wrong in each way that there is."""
    sample.write("skills/pdf/SKILL.md", "---\n- no\n- fields\n---\n")
    sample.write("skills/first-seen/SKILL.md", "---\n!!python/object:x {a: b}\n---\n")
    sample.write("skills/twice/SKILL.md", "---\nname: TWICE\nlicense: *\ntags: a: b\n---\n")
    sample.write("skills/path/SKILL.md", '---\nname: path\ndescription: "In C:\\Users"\n---\n')
    sample.write("collection.toml", "[collection\n")
    return sample


@pytest.fixture
def app(make_app, database_url, sample, tmp_path, populate):
    """A host with two collections, on each database; nothing is wrong with either yet."""
    other = type(sample)(tmp_path / "other")
    other.write("skills/theirs/SKILL.md", "---\nname: theirs\n---\n")
    app = make_app(database_url, {"team": other.root, "work": sample.root})
    populate(app, "team")
    populate(app)
    return app


def pages(client, limit, collection_id=None):
    """All problems, page by page."""
    query = {"limit": limit, **({"collection_id": collection_id} if collection_id else {})}
    found = []
    while True:
        page = client.get(PROBLEMS, query_string=query).json
        found += page["problems"]
        assert len(page["problems"]) == min(limit, len(page["problems"]))
        if not page["page_info"]["has_next_page"]:
            assert page["page_info"]["total_count"] == len(found)
            return found
        assert len(page["problems"]) == limit
        query["after"] = page["page_info"]["end_cursor"]


def metric(client, collection_id):
    """What the metric says of a collection, by severity."""
    return {
        sample.labels["severity"]: sample.value
        for family in text_string_to_metric_families(client.get(f"{API}/metrics").text)
        for sample in family.samples
        if sample.name == "artifact_cache_problems" and sample.labels["collection"] == collection_id
    }


def on_the_page(client, collection_id):
    """What the strip above the list says, and what the page of problems lists."""
    shown = client.get(f"/collection/{collection_id}").text
    strip = re.search(r'href="[^"]*/problems">([\d,]+)</a>', shown)[1]
    listed = client.get(f"/collection/{collection_id}/problems").text
    return int(strip.replace(",", "")), len(re.findall(r'<li class="ac-is-', listed))


def test_a_problem_has_its_place_its_cause_and_its_hint(app, broken, populate):
    populate(app)

    found = app.test_client().get(f"{PROBLEMS}?collection_id=work").json["problems"]

    assert found[0]["code"] == "E_TOML"
    assert (found[0]["path"], found[0]["uid"]) == ("collection.toml", None)
    [path] = [one for one in found if one["path"] == "skills/path/SKILL.md"]
    assert path == {
        "collection_id": "work",
        "uid": path["uid"],
        "artifact_id": "skill:path",
        "code": "W_YAML_REPAIRED",
        "message": "repaired: an escape that YAML does not know",
        "path": "skills/path/SKILL.md",
        "line": 3,
        "column": path["column"],
        "hint": "Put a path with backslashes between single quotes.",
    }
    assert path["column"] > 1
    errors = [one["path"] for one in found[1:] if one["code"].startswith("E")]
    assert sorted(errors) == ["skills/first-seen/SKILL.md", "skills/pdf/SKILL.md"]
    twice = [one["code"] for one in found if one["path"] == "skills/twice/SKILL.md"]
    assert len(twice) > len(set(twice)) > 1
    assert all(one["hint"].endswith(".") for one in found)


def test_all_who_tell_of_problems_tell_of_as_many(app, broken, populate):
    client, runner = app.test_client(), app.test_cli_runner()
    for change in (
        lambda: None,
        lambda: broken.write("skills/pdf/SKILL.md", "---\nname: pdf\n---\n"),
        lambda: broken.write("skills/twice/SKILL.md", "---\nname: twice\nlicense: *\n---\n"),
        lambda: broken.remove("skills/path/SKILL.md"),
    ):
        change()
        populate(app)
        found = pages(client, 1000, "work")
        errors = sum(one["code"].startswith("E") for one in found)

        assert len(found) > errors > 0
        assert on_the_page(client, "work") == (len(found), len(found))
        assert metric(client, "work") == {"error": errors, "warning": len(found) - errors}
        told = runner.invoke(args=["artifact-cache", "problems", "work", "--json"])
        assert json.loads(told.stdout)["page_info"]["total_count"] == len(found)
        status = json.loads(runner.invoke(args=["artifact-cache", "status", "--json"]).stdout)
        counts = {one["id"]: one["problem_count"] for one in status["collections"]}
        everywhere = pages(client, 1000)
        assert counts == {"team": len(everywhere) - len(found), "work": len(found)}
        assert status["problem_count"] == len(everywhere)
        assert client.get(f"{API}/cache-stats").json["problem_count"] == len(everywhere)


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
def test_pages_of_any_size_make_the_same_list(app, broken, populate, limit):
    populate(app)
    client = app.test_client()

    for collection_id in (None, "work", "team"):
        whole = pages(client, 1000, collection_id)
        assert pages(client, limit, collection_id) == whole
        assert len({json.dumps(one) for one in whole}) == len(whole)


def test_what_comes_and_goes_elsewhere_moves_no_page(app, broken, populate):
    populate(app)
    client = app.test_client()
    before = pages(client, 1000, "work")
    query = {"collection_id": "work", "limit": len(before) - 1}
    first = client.get(PROBLEMS, query_string=query).json
    # Sorted before what was told already.
    broken.write("skills/aaa/SKILL.md", "---\nname: aaa\n---\n")
    populate(app)

    rest = client.get(
        PROBLEMS, query_string={**query, "after": first["page_info"]["end_cursor"]}
    ).json

    assert first["problems"] + rest["problems"] == before


def test_a_collection_that_gathers_others_lists_each_once(app, broken, populate):
    populate(app)
    client = app.test_client()
    alone = [one for one in pages(client, 1000) if one["uid"]]
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        roots = {one: service_of(app).collections.artifacts(one).root for one in ("team", "work")}
        manager = ArtifactManager(roots["work"])
        migrate_artifacts_to_default_collection(session, manager, CollectionManager(roots))
        session.commit()

    def keys(found):
        return sorted((one["uid"], one["code"], one["line"] or 0) for one in found if one["uid"])

    gathered = pages(client, 2, "default")
    assert {one["collection_id"] for one in gathered} == {"team", "work"}
    assert keys(gathered) == keys(pages(client, 3)) == keys(alone)
    assert on_the_page(client, "default") == (len(gathered), len(gathered))
    assert metric(client, "default") == {"error": 0, "warning": 0}
    total = sum(sum(metric(client, one).values()) for one in ("default", "team", "work"))
    assert total == len(pages(client, 1000))


def test_what_was_mended_is_on_no_list(app, broken, populate):
    populate(app)
    assert len(pages(app.test_client(), 1000, "work")) > 5
    for name in ("pdf", "first-seen", "twice", "path"):
        broken.skill(name)
    broken.write("collection.toml", '[collection]\nname = "work"\n')
    populate(app)

    assert pages(app.test_client(), 1000, "work") == []


def test_the_command_says_where_and_how_to_mend_it(app, broken, populate):
    populate(app)
    run = app.test_cli_runner().invoke

    told = run(args=["artifact-cache", "problems", "work"])
    first = run(args=["artifact-cache", "problems", "work", "--limit", "1"])
    cursor = re.search(r"--after (\S+)", first.stderr)[1]
    second = run(args=["artifact-cache", "problems", "work", "--limit", "1", "--after", cursor])

    assert told.exit_code == 0
    assert re.search(
        r"^work:skills/path/SKILL\.md:3:\d+: W_YAML_REPAIRED .*\n    Put a path with backslashes",
        told.stdout,
        re.MULTILINE,
    )
    assert told.stdout.startswith(first.stdout + second.stdout)
    assert re.search(r"^1 of (\d+) problems$", first.stderr, re.MULTILINE)
    assert "'problems work' lists them" in run(args=["artifact-cache", "status"]).stdout
    assert run(args=["artifact-cache", "problems", "nope"]).exit_code == 1


def test_the_host_is_asked_who_may_see_it(make_app, sqlite_url, sample, populate):
    asked = []

    def authorize(permission, collection_id):
        asked.append((permission, collection_id))
        return collection_id == "work"

    app = make_app(sqlite_url, {"work": sample.root}, authorize=authorize)
    populate(app)
    client = app.test_client()

    assert client.get(PROBLEMS).status_code == 403
    assert client.get(f"{PROBLEMS}?collection_id=work").status_code == 200
    assert asked == [("read", None), ("read", "work")]


def test_what_is_asked_in_vain_or_wrongly_is_named(app):
    client = app.test_client()
    cursor = client.get(f"{PROBLEMS}?limit=1").json["page_info"]["end_cursor"]

    assert client.get(f"{PROBLEMS}?collection_id=nope").status_code == 404
    for query in ("limit=0", "limit=1001", "after=x", "collection_id=../x", "colour=red"):
        response = client.get(f"{PROBLEMS}?{query}")
        assert response.status_code == 400
        assert response.json["errors"][0]["field"] == query.partition("=")[0]
    assert cursor is None


def test_it_is_not_sent_twice_and_opens_no_file(app, broken, populate):
    populate(app)
    client = app.test_client()
    with opened(broken.root) as files:
        first = client.get(f"{PROBLEMS}?limit=1")
        known = {"If-None-Match": first.headers["ETag"]}
        again = client.get(f"{PROBLEMS}?limit=1", headers=known)

    assert again.status_code == 304
    assert files == []
    following = re.search(r'<([^>]*)>; rel="next"', first.headers["Link"])[1]
    assert client.get(following).json["problems"] != first.json["problems"]


# --- drift ---------------------------------------------------------------------------------------


def listed(sample, **entries):
    """A manifest and a lock: path and, unless None, hash of each."""
    manifest, lock = ['[collection]\nname = "work"\n'], ['[lock]\nversion = "1.0.0"\n']
    for name, hash_ in entries.items():
        manifest.append(
            f'[[artifacts]]\nname = "{name}"\ntype = "skill"\npath = "skills/{name}/"\n'
            'origin = "local"\nadded = "2026-01-01T00:00:00"\n'
        )
        if hash_ is not None:
            lock.append(
                f'[lock.entries."{name}::skill"]\nsource = "local"\ncontent_hash = "{hash_}"\n'
                'fetched = "2026-01-01T00:00:00"\n'
            )
    sample.write("collection.toml", "\n".join(manifest))
    sample.write("collection.lock", "\n".join(lock))


def test_drift_is_counted_and_found(app, sample, populate):
    client = app.test_client()
    right = client.get(f"{API}/work/artifacts/skill:charts").json["content_hash"]
    listed(sample, pdf="0" * 64, csv=None, charts=right)
    populate(app)

    def names(query):
        return [one["name"] for one in client.get(f"{API}/work/artifacts?{query}").json["items"]]

    assert names("drift=modified") == ["pdf"]
    assert names("drift=not_in_lock") == ["csv"]
    assert names("drift=modified&drift=not_in_lock&type=skill") == ["csv", "pdf"]
    assert names("drift=upstream_ahead") == []
    assert client.get(f"{API}/work/artifacts?drift=odd").status_code == 400
    assert client.get(f"{API}/work/facets").json["facets"]["drift"] == [
        {"value": "modified", "count": 1},
        {"value": "not_in_lock", "count": 1},
    ]
    stats = {
        one["id"]: one["drift"] for one in client.get(f"{API}/cache-stats").json["collections"]
    }
    assert stats == {"team": {}, "work": {"modified": 1, "not_in_lock": 1}}
    shown = client.get("/collection/work").text
    assert re.findall(r'<span class="ac-warn">([a-z ]+)</span>', shown) == [
        "not in lock",
        "modified",
    ]
    status = app.test_cli_runner().invoke(args=["artifact-cache", "status"]).stdout
    assert "drift: 1 modified, 1 not_in_lock" in status

    listed(sample, pdf="0" * 64, csv=None, charts="1" * 64)
    populate(app)
    assert names("drift=modified") == ["charts", "pdf"]
    listed(sample, charts=right)
    populate(app)
    assert client.get(f"{API}/cache-stats").json["collections"][1]["drift"] == {}
