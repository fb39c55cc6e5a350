"""Pages, filters, search and cursors of the reading routes."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from datetime import datetime, timedelta, timezone
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_artifact_cache import (
    ArtifactCache,
    ArtifactManager,
    bodies,
    cursors,
    freshness,
    populate_artifact_metadata,
    queries,
    search,
)
from flask_artifact_cache.errors import InvalidRequestError
from flask_artifact_cache.files.artifact import uid
from flask_artifact_cache.models import Artifact, Collection
from flask_artifact_cache.refresh import store
from flask_artifact_cache.refresh.bulk import BATCH
from flask_artifact_cache.refresh.changes import compare
from flask_artifact_cache.refresh.records import record
from flask_artifact_cache.refresh.run import utc_now
from flask_artifact_cache.refresh.transactions import on_engine

API = "/api/v1/user-collections"
LIST = f"{API}/work/artifacts"


@pytest.fixture
def everywhere(make_app, tables_url, sample, clock, populate):
    """A client of a host with the sample populated, on every database."""
    app = make_app(tables_url, {"work": sample.root}, clock=clock)
    populate(app)
    return app.test_client()


def names(response):
    assert response.status_code == 200, response.text
    return [item["name"] for item in response.json["items"]]


def test_a_listing_is_sorted_by_name_and_says_how_many_there_are(everywhere):
    response = everywhere.get(LIST)

    assert names(response) == ["charts", "csv", "pdf", "reviewer", "search", "tidy"]
    assert response.json["page_info"] == {
        "has_next_page": False,
        "end_cursor": response.json["page_info"]["end_cursor"],
        "total_count": 6,
    }
    assert response.content_type == "application/json"


def test_an_item_has_every_field_of_the_contract(everywhere, clock):
    [item] = everywhere.get(f"{LIST}?type=agent").json["items"]

    assert list(item) == [
        "uid", "id", "collection_id", "type", "name", "description", "author", "license",
        "version", "tags", "tools", "model", "source", "origin", "origin_source",
        "version_spec", "resolved_sha", "resolved_version", "path", "plugin", "secondary",
        "content_hash", "file_count", "total_size", "warnings", "error", "state", "synced_at",
        "updated_at",
    ]  # fmt: skip
    assert item["id"] == "agent:reviewer"
    assert item["tools"] == ["Read", "Grep"]
    assert item["state"] == "fresh"
    assert item["synced_at"] == item["updated_at"] == "2026-03-01T12:00:00.000Z"
    assert len(item["uid"]) == 16


def test_pages_follow_each_other_by_link(everywhere):
    url, seen = f"{LIST}?limit=4", []
    while url:
        response = everywhere.get(url)
        seen += names(response)
        link = response.headers.get("Link")
        url = link and link.split(">")[0][1:]
        assert (link is not None) == response.json["page_info"]["has_next_page"]

    assert seen == ["charts", "csv", "pdf", "reviewer", "search", "tidy"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("type=skill", ["charts", "csv", "pdf"]),
        ("type=skill&type=agent", ["charts", "csv", "pdf", "reviewer"]),
        ("tag=data", ["charts", "csv"]),
        ("tag=DOCUMENTS", ["csv", "pdf"]),
        ("tag=data&tag=reading", ["charts", "csv", "pdf"]),
        ("tag=data&tag=reading&type=skill&author=ada example", ["csv"]),
        ("license=mit", ["pdf"]),
        ("origin=local&type=mcp", ["search"]),
        ("author=nobody", []),
        ("state=fresh&type=skill", ["charts", "csv", "pdf"]),
        ("state=stale", []),
        ("q=tables", ["charts", "csv"]),
        ("q=table draw", ["charts"]),
        ("q=READS pdf", ["pdf"]),
        ("q=%25", ["charts", "csv", "pdf", "reviewer", "search", "tidy"]),
        ("q=eads", []),
        ("q=data&type=skill", ["charts", "csv"]),
        ("sort=-updated_at&type=skill", ["charts", "csv", "pdf"]),
    ],
)
def test_filters_and_search(everywhere, query, expected):
    response = everywhere.get(f"{LIST}?{query}")

    assert sorted(names(response)) == expected
    assert response.json["page_info"]["total_count"] == len(expected)


def test_names_rank_before_tags_before_descriptions(make_app, tables_url, collection, populate):
    collection.skill("a-description", "Speaks of invoices.")
    collection.skill("b-tag", "Other things.", tags="[invoices]")
    collection.skill("invoices", "Other things.")
    collection.skill("c-both", "Other invoices.", tags="[invoices]")
    app = make_app(tables_url, {"work": collection.root})
    populate(app)

    found = app.test_client().get(f"{LIST}?q=invoice")

    assert names(found) == ["invoices", "b-tag", "c-both", "a-description"]


def test_search_takes_no_notice_of_accents_case_or_punctuation(
    make_app, tables_url, collection, populate
):
    collection.skill("resume", "Écrit un RÉSUMÉ, en français; naïve Straße 日本語.")
    app = make_app(tables_url, {"work": collection.root})
    populate(app)
    client = app.test_client()

    for query in ("résumé", "ecrit francais", "strasse", "NAÏVE!", "日本", "un -- en"):
        assert names(client.get(LIST, query_string={"q": query})) == ["resume"], query
    for query in ("esume", "francais anglais", "'; DROP TABLE x; --"):
        assert names(client.get(LIST, query_string={"q": query})) == [], query


def test_facets_count_what_the_filters_leave(everywhere):
    all_of_them = everywhere.get(f"{API}/work/facets").json["facets"]
    assert all_of_them["type"][0] == {"value": "skill", "count": 3}
    assert {one["value"]: one["count"] for one in all_of_them["tag"]} == {
        "documents": 2,
        "data": 2,
        "Reading": 1,
    }
    assert all_of_them["state"] == [{"value": "fresh", "count": 6}]

    some = everywhere.get(f"{API}/work/facets?tag=documents&q=tables&state=fresh").json["facets"]
    assert some["type"] == [{"value": "skill", "count": 1}]
    assert some["author"] == [{"value": "Ada Example", "count": 1}]
    assert some["license"] == []
    assert some["state"] == [{"value": "fresh", "count": 1}]

    few = everywhere.get(f"{API}/work/facets?limit=1").json["facets"]
    assert len(few["tag"]) == 1


def test_one_artifact_by_id_and_by_uid(everywhere):
    by_id = everywhere.get(f"{LIST}/command:tidy")
    by_uid = everywhere.get(f"{LIST}/{by_id.json['uid']}")

    assert by_id.status_code == 200
    assert by_id.json == by_uid.json
    assert by_id.json["details"]["namespace"] == "git"


def test_a_shared_id_answers_with_the_candidates(everywhere, sample, populate):
    sample.write("commands/svn/tidy.md", "Tidy the working copy.\n")
    app = everywhere.application
    populate(app)

    response = everywhere.get(f"{LIST}/command:tidy")

    assert response.status_code == 409
    assert response.json["code"] == "ambiguous_id"
    assert [one["path"] for one in response.json["candidates"]] == [
        "commands/git/tidy.md",
        "commands/svn/tidy.md",
    ]
    for one in response.json["candidates"]:
        assert everywhere.get(f"{LIST}/{one['uid']}").json["path"] == one["path"]


@pytest.mark.parametrize("name", ["C#/.NET: a b", "über/ñ", "50%? & more", "PDF"])
def test_names_with_anything_in_them_are_found(make_app, tables_url, collection, populate, name):
    collection.write("agents/one.md", f"---\nname: '{name}'\ndescription: x\n---\n")
    collection.write("agents/two.md", f"---\nname: '{name.swapcase()}'\ndescription: x\n---\n")
    app = make_app(tables_url, {"work": collection.root})
    populate(app)

    response = app.test_client().get(f"{LIST}/{quote('agent:' + name, safe='')}")

    assert response.status_code == 200
    assert response.json["name"] == name


def test_rows_go_stale_by_time_alone_and_the_answer_says_so(app, client, clock):
    first = client.get(LIST)
    clock.pass_(minutes=29, seconds=59)
    assert client.get(LIST, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    clock.pass_(seconds=1)

    response = client.get(LIST, headers={"If-None-Match": first.headers["ETag"]})

    assert response.status_code == 200
    assert {item["state"] for item in response.json["items"]} == {"stale"}
    assert client.get(f"{LIST}?state=stale").json["page_info"]["total_count"] == 6
    assert client.get(f"{API}/").json["collections"][0]["stale_count"] == 6


def test_a_populate_makes_stale_rows_fresh_without_touching_them(app, client, clock, populate):
    clock.pass_(hours=1)
    populate(app)

    items = client.get(LIST).json["items"]

    assert {item["state"] for item in items} == {"fresh"}
    assert {item["synced_at"] for item in items} == {"2026-03-01T13:00:00.000Z"}
    assert {item["updated_at"] for item in items} == {"2026-03-01T12:00:00.000Z"}


def test_a_time_in_the_future_proves_nothing(app, client, clock):
    clock.pass_(minutes=-6)
    assert {item["state"] for item in client.get(LIST).json["items"]} == {"stale"}
    assert client.get(f"{LIST}?state=stale").json["page_info"]["total_count"] == 6


def test_an_edit_changes_the_tag(app, client, sample, populate):
    first = client.get(LIST)
    assert first.headers["ETag"].startswith('W/"')
    assert first.headers["Cache-Control"] == "private, no-cache"
    assert client.get(LIST, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304

    sample.skill("pdf", "Reads and writes PDF files.")
    populate(app)

    response = client.get(LIST, headers={"If-None-Match": first.headers["ETag"]})
    assert response.status_code == 200
    assert response.headers["ETag"] != first.headers["ETag"]


@pytest.mark.parametrize("suffix", ["", "-gzip", ":br"])
def test_a_tag_that_a_proxy_changed_is_still_known(client, suffix):
    tag = client.get(LIST).headers["ETag"]
    for known in (tag[:-1] + suffix + '"', tag[2:-1] + suffix + '"', f'"other", {tag}', "*"):
        assert client.get(LIST, headers={"If-None-Match": known}).status_code == 304
    assert client.get(LIST, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_database_that_was_made_anew_is_not_mistaken_for_the_old_one(
    app, client, sample, populate
):
    first = client.get(LIST)
    assert client.get(f"{API}/work/facets").status_code == 200
    with app.app_context():
        app.extensions["sqlalchemy"].drop_all()
        app.extensions["sqlalchemy"].create_all()
    sample.remove("skills/pdf/SKILL.md")
    populate(app)  # at the same time by the clock, with the same revision

    response = client.get(LIST, headers={"If-None-Match": first.headers["ETag"]})

    assert response.status_code == 200
    assert names(response) == ["charts", "csv", "reviewer", "search", "tidy"]
    assert response.json["page_info"]["total_count"] == 5


def test_a_transaction_that_was_rolled_back_leaves_nothing_in_the_answers(make_app, sample):
    app = make_app("sqlite://")
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        for description in ("One.", "Two."):
            sample.skill("pdf", description)
            populate_artifact_metadata(session, ArtifactManager(sample.root), "work")
            [item] = app.test_client().get(f"{LIST}?q=pdf").json["items"]
            assert item["description"] == description
            session.rollback()


def test_a_clock_that_is_set_back_makes_rows_younger_again(app, client, clock):
    clock.pass_(hours=1)
    assert {item["state"] for item in client.get(LIST).json["items"]} == {"stale"}
    clock.pass_(minutes=-45)
    assert {item["state"] for item in client.get(LIST).json["items"]} == {"fresh"}


def test_facets_of_a_stale_collection_are_still_conditional(app, client, clock):
    clock.pass_(hours=1)
    first = client.get(f"{API}/work/facets")
    assert first.json["facets"]["state"] == [{"value": "stale", "count": 6}]
    clock.pass_(hours=1)
    known = {"If-None-Match": first.headers["ETag"]}
    assert client.get(f"{API}/work/facets", headers=known).status_code == 304
    assert client.get(f"{LIST}?state=stale").json["page_info"]["total_count"] == 6


def test_ids_are_compared_exactly(everywhere):
    for collection in ("work ", "WORK", "work\t", "%", "w_rk"):
        assert everywhere.get(f"{API}/{quote(collection)}/artifacts").status_code == 404
    for artifact in ("SKILL:pdf", "skill:PDF", "skill :pdf", "skill:pdf ", "skill:pdf\0", "\0"):
        assert everywhere.get(f"{LIST}/{quote(artifact)}").status_code == 404, artifact
    uid = everywhere.get(f"{LIST}/skill:pdf").json["uid"]
    for other in (uid.upper(), uid + " ", uid[:-1]):
        found = everywhere.get(f"{LIST}/{quote(other)}")
        assert found.status_code == (200 if other == uid else 404)


@pytest.mark.parametrize("path", [LIST, f"{LIST}?limit=2"], ids=["kept", "new"])
def test_a_connection_that_was_lost_in_the_pool_is_replaced(app, client, path):
    kept = client.get(LIST).headers["ETag"]
    with app.app_context():
        raw = app.extensions["sqlalchemy"].engine.raw_connection()
        driver = raw.dbapi_connection
        raw.close()
    driver.close()

    response = client.get(path)

    assert response.status_code == 200
    assert (response.headers["ETag"] == kept) == (path == LIST)


def test_kept_answers_are_bounded_keys_included():
    kept = bodies.Bodies(max_bytes=100_000)
    now = datetime(2026, 3, 1, tzinfo=timezone.utc)
    for number in range(1000):
        kept.put(("x" * 5000, number), bodies.Body(b"{}", "etag"), "stamp", now, key_bytes=5000)

    assert len(kept._entries) < 20
    assert kept._bytes <= 100_000
    assert kept._bytes == sum(entry.size for entry in kept._entries.values())


def test_a_collection_that_was_not_read_yet_is_not_an_empty_one(make_app, sqlite_url, sample):
    client = make_app(sqlite_url, {"work": sample.root}).test_client()

    response = client.get(LIST)

    assert response.status_code == 503
    assert response.json["code"] == "not_populated"
    assert int(response.headers["Retry-After"]) > 0
    assert client.get(f"{API}/").json["collections"] == [
        {
            "id": "work",
            "path_available": True,
            "artifact_count": 0,
            "stale_count": 0,
            "revision": 0,
            "last_refreshed_at": None,
        }
    ]


def test_nobody_sees_half_of_a_first_populate(make_app, sqlite_url, collection, populate):
    total = BATCH + 200
    for number in range(total):
        collection.skill(f"skill-{number}")
    app = make_app(sqlite_url, {"work": collection.root})
    client = app.test_client()
    seen = []

    populate(app, progress=lambda *_: seen.append(client.get(LIST).status_code))

    assert seen == [503, 503]
    assert client.get(LIST).json["page_info"]["total_count"] == total


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=ten", "limit"),
        ("limit=1&limit=2", "limit"),
        ("sort=size", "sort"),
        ("type=spaceship", "type"),
        ("state=rotten", "state"),
        ("after=", "after"),
        ("after=!!!", "after"),
        ("after=AAAAAAAAAAAA", "after"),
        ("page=2", "page"),
        ("tag=a%00b", "tag"),
        ("%61fter=x", "after"),
        ("q=" + "x" * 501, "q"),
        ("&".join(["tag=x"] * 51), "tag"),
    ],
)
def test_a_wrong_query_is_refused_and_the_field_named(client, query, field):
    response = client.get(f"{LIST}?{query}")

    assert response.status_code == 400, response.text
    assert response.content_type == "application/problem+json"
    assert response.json["code"] == "invalid_request"
    assert [error["field"] for error in response.json["errors"]] == [field]


def test_a_cursor_is_good_for_its_own_listing_alone(client):
    cursor = client.get(f"{LIST}?limit=2").json["page_info"]["end_cursor"]

    assert client.get(f"{LIST}?limit=3&after={cursor}").status_code == 200
    for other in ("sort=-updated_at", "type=skill", "q=pdf"):
        assert client.get(f"{LIST}?{other}&after={cursor}").status_code == 400
    for damaged in (cursor[:-2], cursor[1:], cursor.swapcase(), cursor + "A", cursor * 2):
        assert client.get(f"{LIST}?after={damaged}").status_code == 400


@given(text=st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
def test_no_text_is_mistaken_for_a_cursor(text):
    with pytest.raises(InvalidRequestError):
        cursors.read(text, "work", [str, int])


@given(
    position=st.one_of(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
            st.integers(0, 2**63 - 1),
        ),
        st.tuples(st.datetimes(timezones=st.just(timezone.utc)), st.integers(-5, 5)),
    )
)
def test_a_cursor_gives_its_position_back(position):
    types = [type(value) for value in position]
    assert cursors.read(cursors.write(position, "work"), "work", types) == list(position)


@given(st.text())
def test_folding_is_idempotent_and_leaves_words_alone(text):
    folded = search.fold(text)
    assert search.fold(folded) == folded
    assert all(word.isalnum() for word in folded.split())


@given(st.text(max_size=40))
@settings(max_examples=60)
def test_no_query_is_an_error(client, text):
    response = client.get(LIST, query_string={"q": text.replace("\0", "")})
    assert response.status_code == 200


@pytest.fixture(scope="module")
def ten_thousand(tmp_path_factory):
    """A populated database of 10,000 skills, and their folder."""
    folder = tmp_path_factory.mktemp("many")
    random_ = random.Random(1)
    for number in range(10_000):
        skill = folder / "skills" / f"skill-{random_.randrange(10**6)}-{number}"
        skill.mkdir(parents=True)
        words = random_.choice(["Reads tables.", "Draws tables.", "Other."])
        (skill / "SKILL.md").write_text(f"---\nname: {skill.name}\ndescription: {words}\n---\n")
    app = Flask("host")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{folder / 'host.db'}"
    db = SQLAlchemy(app)
    ArtifactCache(app, db)
    with app.app_context():
        db.create_all()
        populate_artifact_metadata(db.session, ArtifactManager(folder), "work")
        db.session.commit()
        db.engine.dispose()
    return folder


@pytest.mark.parametrize("sort", ["name", "-updated_at", "relevance"])
def test_paging_neither_skips_nor_repeats_while_rows_come_and_go(
    make_app, ten_thousand, tmp_path, sort
):
    shutil.copy(ten_thousand / "host.db", tmp_path)
    app = make_app(f"sqlite:///{tmp_path / 'host.db'}", create=False)
    client = app.test_client()
    random_ = random.Random(sort)
    query = "&q=table" if sort == "relevance" else ""
    everything = walk(client, f"{LIST}?limit=200&sort={sort}{query}")
    throughout = {item["uid"] for item in everything}
    assert len(throughout) == 10_000 or query
    folders = sorted(path for path in (ten_thousand / "skills").iterdir())
    manager = ArtifactManager(ten_thousand)
    [template] = [manager.read(place) for place in manager.scan().places[:1]]

    def disturb(page):
        with app.app_context():
            engine = app.extensions["sqlalchemy"].engine
        with on_engine(engine).write() as connection:
            gone = [folders.pop(random_.randrange(len(folders))) for _ in range(20)]
            uids = [uid("work", "skill", f"skills/{one.name}/SKILL.md") for one in gone]
            throughout.difference_update(uids)
            store.remove(connection, [row.id for row in store.stored(connection, uids).values()])
            new = [
                template._replace(name=name, path=f"skills/{name}/SKILL.md")
                for name in (f"skill-{random_.randrange(10**6)}-new" for _ in range(20))
            ]
            changes = [compare(record("work", one), None) for one in new]
            store.apply(connection, ["work"], changes, utc_now())
            store.publish(connection, "work")

    pages = walk(client, f"{LIST}?limit=200&sort={sort}{query}", disturb)
    seen = [item["uid"] for item in pages]

    assert len(seen) == len(set(seen))
    assert throughout <= set(seen)
    assert len(throughout) > 5_000


def walk(client, url, between=lambda page: None):
    """Every item of a listing, page by page."""
    while url:
        response = client.get(url)
        page = response.json
        yield from page["items"]
        between(page)
        link = response.headers.get("Link")
        url = link and link.split(">")[0][1:]


@pytest.mark.parametrize("sort", ["name", "-updated_at", "relevance"])
@pytest.mark.parametrize("query", ["", "&tag=data", "&type=skill&type=agent", "&state=fresh"])
def test_pages_of_any_size_make_the_same_listing(everywhere, sort, query):
    whole = list(walk(everywhere, f"{LIST}?sort={sort}{query}&q=s"))
    for limit in (1, 2, 5):
        assert list(walk(everywhere, f"{LIST}?sort={sort}{query}&q=s&limit={limit}")) == whole


def test_the_body_is_the_same_from_a_cold_and_a_warm_cache(app, client):
    cold = client.get(LIST).data
    assert client.get(LIST).data == cold
    app.extensions["artifact_cache"].service._bodies.__init__()
    assert client.get(LIST).data == cold
    assert json.loads(cold)["page_info"]["total_count"] == 6


def test_a_page_is_of_one_revision_though_a_refresh_comes_between_its_statements(
    make_app, tables_url, sample, populate, monkeypatch
):
    """The refresh happens after the look at the collection, where another process's may."""
    app = make_app(tables_url, {"work": sample.root})
    with app.app_context(), app.extensions["sqlalchemy"].engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            # Without it, writers wait for a page that is being read.
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    populate(app)
    before = app.test_client().get(f"{LIST}?limit=200").json
    page_of = queries.page
    added = iter(range(2))

    def late(*arguments):
        for number in added:
            sample.skill(f"late-{number}")
            populate(app)
            break
        return page_of(*arguments)

    monkeypatch.setattr(queries, "page", late)
    page = app.test_client().get(f"{LIST}?limit=2").json
    monkeypatch.undo()

    after = app.test_client().get(f"{LIST}?limit=200").json
    whole = before if page["page_info"]["total_count"] == 6 else after
    assert page["page_info"]["total_count"] == whole["page_info"]["total_count"]
    assert page["items"] == whole["items"][:2]


@pytest.mark.parametrize("verified", [None, -31, -30, -1, 0, 4, 6])
def test_states_are_counted_from_a_few_rows_as_from_all(app, clock, verified):
    """Whenever the collection and its rows were verified, in minutes from now."""
    times = (None, -40, -30, -29, 0, 5, 6)
    with app.app_context():
        service = app.extensions["artifact_cache"].service
        engine = app.extensions["sqlalchemy"].engine
        with engine.begin() as connection:
            rows = connection.scalars(sa.select(Artifact.id).order_by(Artifact.id)).all()
            for number, condition in itertools.product(range(len(times)), freshness.CONDITIONS):
                several = {
                    row: (times[(number + place) % len(times)], place)
                    for place, row in enumerate(rows)
                }
                for row, (minutes, place) in several.items():
                    connection.execute(
                        sa.update(Artifact)
                        .where(Artifact.id == row)
                        .values(
                            condition=condition if place % 2 else "ok",
                            synced_at=None
                            if minutes is None
                            else clock.now + timedelta(minutes=minutes),
                        )
                    )
                at_verified = None if verified is None else clock.now + timedelta(minutes=verified)
                connection.execute(sa.update(Collection).values(verified_at=at_verified))
                one = queries.head(connection, "work")
                at = queries.moment(connection, one, clock.now, service.settings.ttl_of)

                assert queries.member_states(connection, one, at) == queries.totals(
                    queries.state_counts(connection, at).values()
                )
