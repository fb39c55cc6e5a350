"""The HTML page as a client without a browser sees it."""

from __future__ import annotations

import json
import re
from html import unescape
from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin, urlsplit

import pytest
import sqlalchemy as sa
from flask import abort, redirect, request, session
from flask_wtf import CSRFProtect
from jinja2 import DictLoader
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from flask_artifact_cache import ArtifactManager, migrate_artifacts_to_default_collection
from flask_artifact_cache.errors import RootUnavailableError
from flask_artifact_cache.files.drift import KINDS
from flask_artifact_cache.files.problems import hint
from flask_artifact_cache.models import Artifact, Collection
from flask_artifact_cache.notices import Notice
from flask_artifact_cache.refresh.run import utc_now
from flask_artifact_cache.refresh.selection import Selection
from flask_artifact_cache.web import words

from .cached import opened

API = "/api/v1/user-collections"
PAGE = "/collection/work"
OWN = {"Sec-Fetch-Site": "same-origin"}
TOKEN = "a-token-for-the-tests"


class Elements(HTMLParser):
    """The start tags of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self._within = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.text += " " if tag in ("dt", "dd", "li", "p", "td", "h2") else ""
        self._within.append(tag)

    def handle_endtag(self, tag):
        while self._within and self._within.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self._within):
            self.text += data

    def links(self):
        return [
            one[name] for _, one in self.tags for name in ("href", "src", "action") if one.get(name)
        ]


def text_of(response):
    return " ".join(Elements(response.text).text.split())


def names(response):
    found = re.findall(r'<h3><a href="[^"]*" dir="auto">([^<]*)</a></h3>', response.text)
    return [unescape(name) for name in found]


def facet_link(response, facet, value):
    group = response.text.split(f'id="filter-{facet}"')[1].split("</details>")[0]
    for link, label in re.findall(r'<a href="([^"]*)"[^>]*><bdi>([^<]*)</bdi>', group):
        if label == value:
            return unescape(link)
    raise AssertionError(f"no {facet} {value} in {group}")


def service_of(app):
    return app.extensions["artifact_cache"].service


# --- what is shown -------------------------------------------------------------------------------


def test_a_collection_is_a_list_of_its_artifacts(client):
    response = client.get(PAGE)

    assert response.status_code == 200
    assert response.content_type == "text/html; charset=utf-8"
    assert names(response) == ["charts", "csv", "pdf", "reviewer", "search", "tidy"]
    assert "6 artifacts" in text_of(response)
    assert "checked just now" in text_of(response)


def test_words_facets_and_order_are_in_the_address_and_narrow_as_the_api_does(client):
    for query in (
        "q=tables",
        "type=skill",
        "tag=documents&type=skill",
        "tag=DOCUMENTS&q=reads",
        "author=Ada+Example",
        "license=MIT",
        "origin=local&sort=name",
        "state=fresh&state=stale",
        "state=stale",
        "sort=-updated_at",
        "q=nothing-is-called-so",
    ):
        found = client.get(f"{API}/work/artifacts?{query}").json["items"]
        assert names(client.get(f"{PAGE}?{query}")) == [one["name"] for one in found], query


def test_a_facet_is_a_link_that_chooses_a_value_and_takes_it_back(client):
    chosen = client.get(facet_link(client.get(PAGE), "tag", "data"))

    assert names(chosen) == ["charts", "csv"]
    narrower = client.get(facet_link(chosen, "author", "Ada Example"))
    assert names(narrower) == ["csv"]
    wider = client.get(facet_link(narrower, "tag", "data"))
    assert names(wider) == ["csv"]
    assert client.get(facet_link(wider, "author", "Ada Example")).text.count("aria-current") == 0


def test_pages_follow_each_other_to_the_last_artifact(app, client, sample, populate):
    for number in range(120):
        sample.skill(f"more-{number:03d}")
    populate(app)

    address, found, pages = f"{PAGE}?type=skill&sort=name", [], 0
    while address:
        response = client.get(address)
        assert "123 artifacts" in text_of(response)
        found += names(response)
        following = re.search(r'rel="next" href="([^"]*)"', response.text)
        address = following and unescape(following[1])
        pages += 1
    assert pages == 3
    assert (
        found
        == sorted({*found})
        == ["charts", "csv", *(f"more-{n:03d}" for n in range(120)), "pdf"]
    )
    assert "First page" in response.text


def test_the_rest_of_a_long_facet_is_a_link_away(app, client, sample, populate):
    tags = [f"tag-{number:02d}" for number in range(20)]
    sample.skill("many", tags=f"[{', '.join(tags)}]")
    populate(app)

    few = client.get(f"{PAGE}?q=many")
    more = re.search(r'class="ac-more" href="([^"]*)"', few.text)
    many = client.get(unescape(more[1]).partition("#")[0])

    assert "tag-19" not in few.text.split("ac-filters")[1]
    assert all(f"<bdi>{tag}</bdi>" in many.text for tag in tags)


def test_what_a_page_does_not_know_is_overlooked_and_what_is_wrong_is_named(client):
    assert client.get(f"{PAGE}?utm_source=mail&type=&q=").status_code == 200
    wrong = client.get(f"{PAGE}?state=rotten&after=nonsense")

    assert wrong.status_code == 400
    assert wrong.content_type.startswith("text/html")
    assert "state" in text_of(wrong)
    assert "cursor" in text_of(client.get(f"{PAGE}?after=nonsense"))


def test_an_artifact_shows_everything_that_is_known_of_it(app, client, sample, populate):
    sample.skill(
        "linked",
        "Has a source.",
        source="https://example.org/skills?a=1&b=2",
        version="1.4.2",
        allowed_tools="Read, Grep",
        license="MIT",
    )
    populate(app)
    item = client.get(f"{API}/work/artifacts/skill:linked").json

    shown = client.get(f"{PAGE}/artifacts/{item['uid']}")

    text = text_of(shown)
    for value in ("linked", "Has a source.", "1.4.2", "MIT", "Read", "Grep", item["path"]):
        assert value in text
    assert item["uid"] in text
    assert item["content_hash"] in text
    assert "1 file" in text
    assert client.get(f"{PAGE}/artifacts/skill:linked").status_code == 200
    if item["source"] == "https://example.org/skills?a=1&b=2":
        tags = Elements(shown.text).tags
        [link] = [one for tag, one in tags if one.get("href") == item["source"]]
        assert link["rel"] == "noopener nofollow ugc"


def test_an_id_that_several_share_shows_which(app, client, sample, populate):
    sample.write("other/skills/pdf/SKILL.md", "---\nname: pdf\ndescription: Another.\n---\n")
    populate(app)

    response = client.get(f"{PAGE}/artifacts/skill:pdf")

    assert response.status_code == 409
    candidates = re.findall(r'href="(/collection/work/artifacts/\w{16})"', response.text)
    assert len(candidates) == 2
    assert all(client.get(one).status_code == 200 for one in candidates)


def test_the_history_of_an_artifact_is_shown(app, client, sample, populate, clock):
    clock.pass_(minutes=5)
    sample.skill("pdf", "Reads and writes PDF files.", tags="[documents]")
    populate(app)
    clock.pass_(minutes=2)

    text = text_of(client.get(f"{PAGE}/artifacts/skill:pdf"))

    told = text.partition("History")[2]
    assert "2 minutes ago updated" in told
    assert "description" in told
    assert "tags" in told


@pytest.mark.parametrize("kind", KINDS)
def test_drift_is_shown_with_what_to_do_about_it(app, client, kind):
    def drift(*kinds):
        with app.app_context():
            session = app.extensions["sqlalchemy"].session
            pdf = sa.select(Artifact).where(Artifact.name == "pdf")
            row = session.execute(pdf).scalar_one()
            row.details = json.dumps({**json.loads(row.details), "drift": kinds}).encode()
            session.execute(sa.update(Collection).values(stamp=f"of-{len(kinds)}"))
            session.commit()
        return client.get(f"{PAGE}/artifacts/skill:pdf")

    assert "ac-notice-drift" not in drift().text
    shown = drift(kind, "something-newer")

    told = re.findall(r'ac-notice-drift"><strong>(.*?)</strong>(<p>.{40,}?</p>)?', shown.text)
    assert len(told) == 2
    assert told[0][1]
    assert told[0][0].endswith(".")
    assert told[1] == ("something-newer", "")


def test_a_filter_leads_to_what_drifts(app, client, sample, populate):
    sample.write(
        "collection.toml",
        '[collection]\nname = "work"\n\n[[artifacts]]\nname = "pdf"\ntype = "skill"\n'
        'path = "skills/pdf/"\norigin = "local"\nadded = "2026-01-01T00:00:00"\n',
    )
    populate(app)

    found = client.get(facet_link(client.get(PAGE), "drift", "not in lock"))

    assert names(found) == ["pdf"]
    shown = client.get(PAGE)
    _, *rows = shown.text.split('<li class="ac-item')
    marked = ["not in lock" in row.partition("</li>")[0] for row in rows]
    assert marked == [name == "pdf" for name in names(shown)]
    assert "collection.lock does not say" in text_of(client.get(f"{PAGE}/artifacts/skill:pdf"))


def test_every_problem_has_its_place_its_cause_and_the_hint_that_lint_gives(
    app, client, sample, populate
):
    sample.write("skills/warned/SKILL.md", "---\nname: warned\ndescription: a: b\n---\n")
    sample.write("skills/broken/SKILL.md", "---\nname: [\n---\n")
    sample.write("skills/pdf/SKILL.md", "---\n!!python/object:os.system {a: b}\n---\n")
    populate(app)
    items = client.get(f"{API}/work/artifacts?limit=200").json["items"]
    problems = [one for item in items for one in (item["error"], *item["warnings"]) if one]

    text = text_of(client.get(f"{PAGE}/problems"))

    assert {one["code"][0] for one in problems} == {"E", "W"}
    for problem in problems:
        place = ":".join(str(part) for part in (problem["path"], problem["line"]) if part)
        assert place in text
        assert problem["message"] in text
        assert hint(problem["code"], problem["message"]) in text


def test_many_problems_have_pages(app, client, sample, populate):
    for number in range(70):
        sample.write(f"skills/w{number:02d}/SKILL.md", f"---\nname: w{number:02d}\n---\n")
    populate(app)

    first = client.get(f"{PAGE}/problems")
    following = unescape(re.search(r'rel="next" href="([^"]*)"', first.text)[1])
    second = client.get(following)

    assert len(names(first)) == 50
    assert not set(names(first)) & set(names(second))
    assert {f"w{number:02d}" for number in range(70)} <= {*names(first), *names(second)}


# --- states --------------------------------------------------------------------------------------


def test_what_is_stale_says_so_and_what_to_do(client, clock):
    assert "may be out of date" not in client.get(PAGE).text
    clock.pass_(minutes=31)

    text = text_of(client.get(PAGE))

    assert "6 artifacts may be out of date. The files were last compared 31 minutes ago" in text
    assert "not compared with its file lately" in text


def test_ages_are_told_anew_with_every_minute(client, clock):
    assert "checked just now" in text_of(client.get(PAGE))
    first = client.get(PAGE).headers["ETag"]
    clock.pass_(minutes=3)

    again = client.get(PAGE)

    assert "checked 3 minutes ago" in text_of(again)
    assert again.headers["ETag"] != first


def test_an_empty_collection_and_a_search_without_a_match_say_what_to_do(
    make_app, sqlite_url, tmp_path, populate, client
):
    assert "Nothing matches." in text_of(client.get(f"{PAGE}?q=zzz"))
    empty = tmp_path / "empty"
    empty.mkdir()
    app = make_app(f"{sqlite_url}2", {"work": empty})
    populate(app)

    text = text_of(app.test_client().get(PAGE))

    assert "There is nothing here yet." in text
    assert "then refresh" in text


def test_a_collection_that_was_not_read_is_no_empty_one(make_app, sqlite_url, sample):
    app = make_app(sqlite_url, {"work": sample.root})

    response = app.test_client().get(PAGE)

    assert response.status_code == 503
    assert response.headers["Retry-After"] == "2"
    assert "has not been read yet" in text_of(response)
    assert "populate" in text_of(response)


def test_what_cannot_be_read_is_quarantined_and_says_where_the_hints_are(
    app, client, sample, populate
):
    sample.write("skills/pdf/SKILL.md", "---\n!!python/object:os.system {a: b}\n---\n")
    populate(app)

    response = client.get(PAGE)

    assert "1 artifact cannot be read." in text_of(response)
    assert names(client.get(f"{PAGE}?state=quarantined")) == ["pdf"]


def many_are_gone(app, sample, populate):
    for number in range(40):
        sample.skill(f"gone-{number}")
    populate(app)
    for number in range(40):
        sample.remove(f"skills/gone-{number}/SKILL.md")
    return populate(app)


def test_the_brake_shows_what_would_go_and_how_to_confirm(
    make_app, sqlite_url, sample, populate, clock
):
    app = make_app(
        sqlite_url,
        {"work": sample.root},
        clock=clock,
        authorize=lambda *_: True,
        ARTIFACT_CACHE_BACKGROUND="none",
    )
    report = many_are_gone(app, sample, populate)
    client = app.test_client()

    text = text_of(client.get(PAGE))
    run = client.get(f"{PAGE}/refreshes/{report.refresh_id}")

    assert "A refresh would remove 40 artifacts, and has stopped." in text
    assert "Stopped: many artifacts would be removed" in text_of(run)
    assert "skills/gone-0/SKILL.md" in text_of(run)
    assert len(names(client.get(f"{PAGE}?state=missing"))) == 40
    confirmed = client.post(
        f"{PAGE}/refresh", data={"confirm": report.refresh_id}, headers=OWN, follow_redirects=True
    )
    assert "Removed 40" in text_of(confirmed)
    assert "6 artifacts" in text_of(client.get(PAGE))


def test_a_folder_that_is_not_there_keeps_what_was_read(app, client, sample, tmp_path):
    sample.root.rename(tmp_path / "elsewhere")
    with app.app_context(), pytest.raises(RootUnavailableError):
        service_of(app).refresh()

    text = text_of(client.get(PAGE))

    assert "The folder is not there." in text
    assert "6 artifacts" in text


def test_a_notice_of_another_part_of_the_program_is_shown(app, client):
    assert "GitHub" not in client.get(PAGE).text
    limited = Notice("upstream", at="2026-03-01T13:00:00.000Z")
    service_of(app).notices.append(
        lambda collection_id: [limited] if collection_id == "work" else []
    )

    text = text_of(client.get(PAGE))

    assert "GitHub lets us ask no more for now." in text
    assert "Asked again after: 2026-03-01 13:00 UTC" in text
    assert "your own files are not affected" in text
    shown = Elements(client.get(PAGE).text).tags
    at = limited.at
    assert ("time", {"datetime": at, "title": at}) in shown
    assert any("ac-notice-upstream" in one.get("class", "") for _, one in shown)
    assert "GitHub lets us" in text_of(client.get(f"{PAGE}/refresh"))


# --- several collections -------------------------------------------------------------------------


@pytest.fixture
def two(make_app, sqlite_url, sample, tmp_path, populate):
    """Makes a host with the collections 'work' and 'team'."""
    other = tmp_path / "team/skills/theirs"
    other.mkdir(parents=True)
    (other / "SKILL.md").write_text("---\nname: theirs\ndescription: Theirs.\n---\n")

    def make(**options):
        app = make_app(sqlite_url, {"work": sample.root, "team": tmp_path / "team"}, **options)
        populate(app)
        populate(app, "team")
        return app

    return make


def test_several_collections_are_a_list_and_a_single_one_is_shown_at_once(client, two):
    assert client.get("/collection/").headers["Location"] == "/collection/work"
    several = two().test_client().get("/collection")

    assert several.status_code == 200
    assert "work 6 artifacts" in text_of(several)
    assert "team 1 artifact" in text_of(several)
    assert '<a href="/collection/team">' in several.text


def test_only_those_may_read_whom_the_host_lets(two):
    asked = []

    def authorize(permission, collection_id):
        asked.append((permission, collection_id))
        return permission == "read" and collection_id == "team"

    client = two(authorize=authorize).test_client()

    for address in ("", "/artifacts/skill:pdf", "/problems", "/refresh", f"/refreshes/{'0' * 32}"):
        refused = client.get(f"{PAGE}{address}")
        assert refused.status_code == 403
        assert "All collections" in text_of(refused)
        assert "Not allowed" in text_of(refused)
        assert "pdf" not in refused.text
    assert names(client.get("/collection/team")) == ["theirs"]
    assert "/collection/work" not in client.get("/collection/team").text
    assert client.get("/collection/").headers["Location"] == "/collection/team"
    assert {permission for permission, _ in asked} == {"read", "refresh"}


def test_whoever_may_read_nothing_sees_no_collection(two):
    response = two(authorize=lambda *_: False).test_client().get("/collection/")

    assert response.status_code == 403
    assert "team" not in response.text
    # Which would be refused, too.
    assert "All collections" not in text_of(response)


def test_who_has_to_log_in_first_is_sent_to_where_that_is(two):
    def authorize(permission, collection_id):
        if "user" not in session:
            if request.blueprint == "artifact_cache_page":
                abort(redirect(f"/login?{urlencode({'next': request.full_path})}"))
            return False
        return permission == "read"

    client = two(authorize=authorize, SECRET_KEY="x" * 32).test_client()

    for address in ("/collection/", PAGE, f"{PAGE}/artifacts/skill:pdf"):
        sent = client.get(address)
        assert sent.status_code == 302
        assert sent.headers["Location"].startswith("/login?next=%2Fcollection%2F")
    assert client.get("/api/v1/user-collections/work/artifacts").status_code == 403
    with client.session_transaction() as cookie:
        cookie["user"] = "ada"
    assert "pdf" in names(client.get(PAGE))


# --- a collection that gathers others, and one that is configured no more -----------------------

GATHERING = "/collection/default"


def gather(app, sample, clock):
    """Have 'default' gather what is configured."""
    session = app.extensions["sqlalchemy"].session
    manager = service_of(app).collections
    migrate_artifacts_to_default_collection(session(), ArtifactManager(sample.root), manager)
    session.commit()
    # The migration has no clock but the system's.
    clock.now = utc_now()
    clock.pass_(minutes=1)


@pytest.fixture
def gathering(make_app, sqlite_url, sample, clock):
    """A host whose collection 'default' gathers 'work', the only one that is configured."""
    app = make_app(sqlite_url, {"work": sample.root}, clock=clock, authorize=lambda *_: True)
    with app.app_context():
        gather(app, sample, clock)
        service_of(app).populate("work")
    return app


def test_a_refresh_of_what_gathers_others_ends_at_its_run(gathering, sample):
    client = gathering.test_client()
    sample.skill("new")

    done = client.post(f"{GATHERING}/refresh", headers=OWN, follow_redirects=True)

    assert done.status_code == 200
    assert "Done: everything is up to date" in text_of(done)
    assert done.request.path.startswith(f"{GATHERING}/refreshes/")
    assert "new" in names(client.get(GATHERING))
    run = done.request.path.rpartition("/")[2]
    assert f"{GATHERING}/refreshes/{run}" in client.get(f"{GATHERING}/refresh").text
    listed = client.get(f"{API}/refreshes?collection_id=default").json["refreshes"]
    assert run in [one["refresh_id"] for one in listed]
    # On the page of one that gathers nothing, it is still another's.
    assert client.get(f"/collection/other/refreshes/{run}").status_code == 404


def test_what_gathers_others_tells_of_the_daemon_and_of_what_its_owners_need(
    gathering, sample, populate, clock, tmp_path
):
    client = gathering.test_client()
    assert "Daemon not seen" in text_of(client.get(GATHERING))
    with gathering.app_context():
        service_of(gathering).refresh(Selection("work"), trigger="daemon")
    clock.pass_(minutes=1)
    assert "Daemon 1 minute ago" in text_of(client.get(GATHERING))

    sample.write("skills/pdf/SKILL.md", "---\n!!python/object:x {a: b}\n---\n")
    broken = populate(gathering)
    clock.pass_(minutes=1)
    assert f'href="{GATHERING}/refreshes/{broken.refresh_id}"' in client.get(GATHERING).text
    sample.skill("pdf")
    clock.pass_(minutes=1)
    stopped = many_are_gone(gathering, sample, populate)
    assert "A refresh would remove 40 artifacts, and has stopped." in text_of(client.get(GATHERING))
    confirmed = client.post(
        f"{GATHERING}/refresh",
        data={"confirm": stopped.refresh_id},
        headers=OWN,
        follow_redirects=True,
    )
    assert "Removed 40" in text_of(confirmed)

    sample.root.rename(tmp_path / "elsewhere")
    with gathering.app_context(), pytest.raises(RootUnavailableError):
        service_of(gathering).refresh()
    text = text_of(client.get(GATHERING))
    assert "The folder is not there. work" in text
    told = client.get(f"{API}/cache-stats").json["collections"]
    assert [one["path_available"] for one in told if one["id"] == "default"] == [False]


def test_what_gathers_others_is_in_the_navigation(gathering):
    def tabs(address):
        text = gathering.test_client().get(address).text
        return re.findall(r'<li><a href="(/collection/[^"/]*)"', text.partition("</nav>")[0])

    assert tabs(GATHERING) == tabs(PAGE) == [GATHERING, PAGE]


def test_a_failure_of_one_owner_is_told_until_that_one_was_refreshed(two, sample, populate, clock):
    app = two(clock=clock, authorize=lambda *_: True)
    client = app.test_client()
    with app.app_context():
        gather(app, sample, clock)
    sample.write("skills/pdf/SKILL.md", "---\n!!python/object:x {a: b}\n---\n")
    broken = populate(app)
    for _ in range(12):
        clock.pass_(minutes=1)
        populate(app, "team")

    assert f"{GATHERING}/refreshes/{broken.refresh_id}" in client.get(GATHERING).text
    sample.skill("pdf")
    clock.pass_(minutes=1)
    populate(app)
    assert "ac-notice-partial" not in client.get(GATHERING).text


def test_a_collection_that_is_configured_no_more_says_so_and_offers_no_refresh(
    two, make_app, sqlite_url, sample, clock
):
    two(clock=clock)
    clock.pass_(hours=1)
    app = make_app(
        sqlite_url, {"work": sample.root}, create=False, clock=clock, authorize=lambda *_: True
    )
    client = app.test_client()

    for address in ("/collection/team", "/collection/team/refresh"):
        response = client.get(address)
        text = text_of(response)
        assert "The collection is in the settings no more." in text
        assert "flask artifact-cache forget team" in text
        # Nothing that a refresh would help against.
        assert re.findall(r"ac-notice-(\w+)", response.text) == ["unconfigured"]
        assert "Refresh …" not in response.text
        assert 'method="post"' not in response.text
        assert "You may not start one here" not in text
    assert "in the settings no more" in text_of(client.get("/collection/"))
    assert "in the settings no more" not in text_of(client.get(PAGE))
    assert "Refresh …" in client.get(PAGE).text


def test_what_gathers_one_that_is_configured_no_more_names_it(
    two, make_app, sqlite_url, sample, clock
):
    app = two(clock=clock)
    with app.app_context():
        gather(app, sample, clock)
    options = {"clock": clock, "authorize": lambda *_: True}
    app = make_app(sqlite_url, {"work": sample.root}, create=False, **options)

    response = app.test_client().get(GATHERING)

    assert "1 of the collections that are gathered here is in the settings no more." in text_of(
        response
    )
    assert "flask artifact-cache forget team" in text_of(response)
    assert "The folder is not there." not in text_of(response)
    assert "Refresh …" in response.text


# --- refreshing ----------------------------------------------------------------------------------


def refreshing(make_app, sqlite_url, sample, populate, **options):
    options = {"ARTIFACT_CACHE_BACKGROUND": "none", **options}
    app = make_app(sqlite_url, {"work": sample.root}, **options)
    populate(app)
    sample.skill("new")
    return app


def test_without_a_token_and_without_authorize_nothing_offers_a_refresh(client, sample):
    sample.skill("new")

    assert f"{PAGE}/refresh" not in client.get(PAGE).text
    assert "<form" not in client.get(f"{PAGE}/refresh").text
    refused = client.post(f"{PAGE}/refresh", headers=OWN)
    assert refused.status_code == 403
    assert "no token is configured" in text_of(refused)
    assert "new" not in names(client.get(PAGE))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, 303),
        ({"Sec-Fetch-Site": "none"}, 303),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://sub.localhost"}, 403),
        ({"Origin": "http://localhost"}, 303),
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Referer": "http://localhost/collection/work/refresh"}, 303),
        ({"Referer": "http://elsewhere.example/"}, 403),
        ({}, 403),
    ],
)
@pytest.mark.parametrize("wtf", [False, True])
def test_a_form_of_another_site_refreshes_nothing(
    make_app, sqlite_url, sample, populate, headers, status, wtf
):
    app = refreshing(
        make_app, sqlite_url, sample, populate, authorize=lambda *_: True, SECRET_KEY="x" * 32
    )
    if wtf:
        CSRFProtect(app)
    client = app.test_client()
    form = client.get(f"{PAGE}/refresh").text
    fields = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]+)"', form))
    assert bool(fields) == wtf

    response = client.post(f"{PAGE}/refresh", data=fields, headers=headers)

    assert response.status_code == status
    assert ("new" in names(client.get(PAGE))) == (status == 303)


def test_with_flask_wtf_a_form_without_its_token_is_refused(make_app, sqlite_url, sample, populate):
    app = refreshing(
        make_app, sqlite_url, sample, populate, authorize=lambda *_: True, SECRET_KEY="x" * 32
    )
    CSRFProtect(app)

    response = app.test_client().post(f"{PAGE}/refresh", headers=OWN)

    assert response.status_code == 400
    assert "CSRF" in text_of(response)
    assert "Load the form again and send it once more." in text_of(response)
    assert f'href="{PAGE}/refresh"' in response.text
    assert "new" not in names(app.test_client().get(PAGE))


def test_where_only_tokens_open_the_form_asks_for_one(make_app, sqlite_url, sample, populate):
    app = refreshing(make_app, sqlite_url, sample, populate, ARTIFACT_CACHE_TOKENS=[TOKEN])
    client = app.test_client()

    assert f"{PAGE}/refresh" in client.get(PAGE).text
    assert 'name="token" type="password"' in client.get(f"{PAGE}/refresh").text
    assert client.post(f"{PAGE}/refresh", headers=OWN).status_code == 401
    assert client.post(f"{PAGE}/refresh", data={"token": "w" * 20}, headers=OWN).status_code == 401
    assert "new" not in names(client.get(PAGE))
    # Nobody else knows it, wherever the form is.
    done = client.post(f"{PAGE}/refresh", data={"token": TOKEN}, follow_redirects=True)
    assert "Done: everything is up to date" in text_of(done)
    assert TOKEN not in done.text
    assert "new" in names(client.get(PAGE))


def test_a_refresh_is_limited_as_those_of_the_api(make_app, sqlite_url, sample, populate):
    app = refreshing(
        make_app,
        sqlite_url,
        sample,
        populate,
        authorize=lambda *_: True,
        ARTIFACT_CACHE_REFRESH_LIMIT="1/minute",
    )
    client = app.test_client()

    assert client.post(f"{PAGE}/refresh", headers=OWN).status_code == 303
    refused = client.post(f"{PAGE}/refresh", headers=OWN)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) > 0
    assert "Wait a moment" in text_of(refused)


def test_a_run_of_another_collection_is_not_shown(two):
    app = two(authorize=lambda permission, one: one == "team")
    with app.app_context():
        [run] = service_of(app).runs(1, "work")

    response = app.test_client().get(f"/collection/team/refreshes/{run['refresh_id']}")

    assert response.status_code == 404


# --- guests --------------------------------------------------------------------------------------


def test_errors_below_the_prefix_are_pages_and_elsewhere_the_hosts(app, client):
    @app.errorhandler(404)
    def gone(error):
        return "the host's own", 404

    for address in ("/collection/nope", "/collection/work/nope", f"{PAGE}/artifacts/skill:nope"):
        response = client.get(address)
        assert response.status_code == 404
        assert response.content_type.startswith("text/html")
        assert "the host's own" not in response.text
    assert client.get("/collections").text == "the host's own"
    assert client.get("/nope").text == "the host's own"
    for method in ("DELETE", "PROPFIND", "FOO", "--"):
        wrong = client.open(PAGE, method=method)
        assert wrong.status_code == 405
        assert wrong.headers["Allow"] == "GET, HEAD, OPTIONS"
        assert "Content-Security-Policy" in wrong.headers
        assert client.open(f"{PAGE}/nope", method=method).status_code == 404
        assert client.open("/nope", method=method).text == "the host's own"


def test_a_failure_says_nothing_that_the_server_should_keep(app, client, caplog):
    with app.app_context():
        app.extensions["sqlalchemy"].drop_all()
        app.extensions["artifact_cache"].service._bodies._entries.clear()
        with app.extensions["sqlalchemy"].engine.begin() as connection:
            for table in sa.inspect(connection).get_table_names():
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")

    response = client.get(PAGE)

    assert response.status_code == 503
    assert "SELECT" not in response.text
    assert "Traceback" not in response.text


def test_the_page_can_be_left_out_or_be_elsewhere(make_app, sqlite_url, sample, populate):
    without = make_app(sqlite_url, {"work": sample.root}, ARTIFACT_CACHE_PAGE_PREFIX=None)
    populate(without)
    elsewhere = make_app(
        sqlite_url, {"work": sample.root}, ARTIFACT_CACHE_PAGE_PREFIX="/team/skills"
    )

    assert without.test_client().get(PAGE).status_code == 404
    assert without.test_client().get(f"{API}/").status_code == 200
    response = elsewhere.test_client().get("/team/skills/work")
    assert names(response)
    assert all(
        link.startswith(("/team/skills/", "#")) or link == "/team/skills/work"
        for link in Elements(response.text).links()
    )


def test_browsers_are_told_to_load_nothing_but_our_own_files(client):
    for address in ("/collection/", PAGE, f"{PAGE}/problems", "/collection/nope"):
        headers = client.get(address).headers
        assert headers["Content-Security-Policy"] == (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
            " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_host_may_say_it_otherwise(make_app, sqlite_url, sample, populate):
    app = make_app(sqlite_url, {"work": sample.root})
    populate(app)

    @app.after_request
    def mine(response):
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        return response

    response = app.test_client().get(PAGE)

    assert response.headers["Content-Security-Policy"] == "default-src 'self'"


def test_no_page_has_a_script_or_a_style_of_its_own(client):
    for address in (PAGE, f"{PAGE}/artifacts/skill:pdf", f"{PAGE}/problems", f"{PAGE}/refresh"):
        for tag, attributes in Elements(client.get(address).text).tags:
            assert tag != "style"
            assert tag != "script" or attributes.get("src")
            assert "style" not in attributes
            assert not any(name.startswith("on") for name in attributes)


def test_all_our_files_together_are_small_and_never_change_under_their_address(client):
    links = [link for link in Elements(client.get(PAGE).text).links() if "/-/" in link]

    assert len(links) == 3
    sizes = []
    for link in links:
        response = client.get(link)
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        sizes.append(len(response.data))
        bare = link.partition("?")[0]
        assert client.get(bare).headers["Cache-Control"] == "no-cache"
        known = {"If-None-Match": response.headers["ETag"]}
        assert client.get(bare, headers=known).status_code == 304
    assert sum(sizes) < 30_000
    assert client.get("/collection/-/../page.py").status_code == 404


BASE = """<!doctype html><html lang="en">
<head><title>{% block title %}The host{% endblock %}</title>
{% block head %}{% endblock %}</head><body><nav><a href="{{ url_for('hello') }}">Host</a>
{{ user }}</nav>{% block body %}{% endblock %}</body></html>"""
LAYOUT = """{% extends "base.html" %}
{% block title %}{{ title }}{% endblock %}
{% block head %}{{ super() }}{% include "artifact_cache/head.html" %}{% endblock %}
{% block body %}<main>{{ content }}</main>{% endblock %}"""


def with_templates(app, **templates):
    loader = DictLoader({name.replace("__", "/"): text for name, text in templates.items()})
    app.jinja_loader = loader


def test_the_layout_may_be_the_hosts_and_is_made_for_each_who_asks(app, client):
    with_templates(app, **{"base.html": BASE, "artifact_cache/layout.html": LAYOUT})

    @app.get("/hello")
    def hello():
        return "hello"

    @app.context_processor
    def who():
        return {"user": f"Signed in as {request.headers.get('X-User')}"}

    ada = client.get(PAGE, headers={"X-User": "Ada"})
    bob = client.get(PAGE, headers={"X-User": "Bob"})

    assert "Signed in as Ada" in ada.text
    assert "Signed in as Ada" not in bob.text
    assert names(ada) == names(bob) != []
    assert "/collection/-/page.css" in ada.text
    assert ada.headers["ETag"] != bob.headers["ETag"]
    known = {"If-None-Match": ada.headers["ETag"]}
    assert client.get(PAGE, headers={"X-User": "Ada", **known}).status_code == 304
    assert client.get(PAGE, headers={"X-User": "Bob", **known}).status_code == 200


def test_any_block_may_be_the_hosts(app, client):
    with_templates(
        app,
        **{
            "artifact_cache/catalogue.html": '{% extends "artifact_cache/base/catalogue.html" %}'
            "{% block heading %}<h1>Our skills</h1>{% endblock %}",
            "artifact_cache/item.html": '{% extends "artifact_cache/base/item.html" %}'
            "{% block items %}{% for item in items %}<i>{{ item.name|text(80) }}</i>{% endfor %}"
            "{% endblock %}",
        },
    )

    shown = client.get(PAGE).text

    assert "<h1>Our skills</h1>" in shown
    assert "<i>charts</i><i>csv</i><i>pdf</i>" in shown
    assert "Filters" in shown


@pytest.mark.parametrize("newstyle", [True, False])
def test_every_text_goes_through_the_hosts_gettext(app, client, newstyle):
    def shout(text):
        return re.sub(
            r"%\(\w+\)s|\w+", lambda one: one[0] if "%" in one[0] else one[0].upper(), text
        )

    app.jinja_env.add_extension("jinja2.ext.i18n")
    app.jinja_env.install_gettext_callables(
        shout, lambda one, several, n: shout(one if n == 1 else several), newstyle=newstyle
    )

    shown = client.get(f"{PAGE}?q=tables")

    text = Elements(shown.text.partition('tabindex="-1">')[2]).text
    assert "2 ARTIFACTS" in text
    assert "CHECKED JUST NOW" in text
    # What is left is of the artifacts, and the unit of a time.
    rest = {word for word in re.findall(r"[A-Za-z]{3,}", text) if word != word.upper()}
    assert rest <= {
        *(
            "work",
            "charts",
            "csv",
            "Draws",
            "Reads",
            "charts",
            "tables",
            "skill",
            "skills",
            "SKILL",
        ),
        *("data", "documents", "local", "Ada", "Example", "main"),
    }


def test_nothing_of_the_hosts_templates_is_changed(app, client):
    before = set(app.jinja_env.filters), set(app.jinja_env.globals), set(app.jinja_env.tests)

    client.get(PAGE)

    assert (
        set(app.jinja_env.filters),
        set(app.jinja_env.globals),
        set(app.jinja_env.tests),
    ) == before


# --- where it is mounted -------------------------------------------------------------------------


def crawl(client, start, host=""):
    """Follow every link of every page; the addresses and what they answered."""
    seen, waiting = {}, [start]
    while waiting:
        address = waiting.pop().partition("#")[0]
        # Two filters at once lead where each leads by itself.
        if address in seen or "&" in address:
            continue
        response = client.get(address)
        seen[address] = response.status_code
        location = response.headers.get("Location")
        links = [location] if location else []
        if response.content_type.startswith("text/html"):
            links += Elements(response.text).links()
        for link in links:
            target = urlsplit(urljoin(f"http://localhost{address}", link))
            assert target.netloc == "localhost", link
            waiting.append(target.path + (f"?{target.query}" if target.query else ""))
    return seen


@pytest.mark.parametrize("mount", ["", "/x", "/x/y"])
@pytest.mark.parametrize("layout", ["ours", "the host's"])
def test_every_link_works_wherever_the_app_is_mounted(two, mount, layout):
    app = two(authorize=lambda *_: True)
    if layout != "ours":
        with_templates(app, **{"base.html": BASE, "artifact_cache/layout.html": LAYOUT})
        app.add_url_rule("/hello", "hello", lambda: "hello")

    def nothing(environ, start_response):
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"outside"]

    client = Client(DispatcherMiddleware(nothing, {mount: app}) if mount else app)

    seen = crawl(client, f"{mount}/collection/")

    assert len(seen) > 25
    assert {address: status for address, status in seen.items() if status not in (200, 302)} == {}
    assert all(address.startswith(mount) for address in seen)


def test_behind_a_proxy_that_strips_a_prefix_every_link_has_it(two):
    inner = two()

    def proxied(environ, start_response):
        # As a proxy that passes '/tools/collection' on as '/collection' and says so.
        assert environ["PATH_INFO"].startswith("/tools")
        environ["SCRIPT_NAME"] = "/tools"
        environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix("/tools")
        return inner(environ, start_response)

    seen = crawl(Client(proxied), "/tools/collection/")

    assert len(seen) > 25
    assert set(seen.values()) <= {200, 302}


# --- text is only text ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("naïve 日本語 हिन्दी 👩‍💻", "naïve 日本語 हिन्दी 👩‍💻"),
        ("a\u202eb", "a\ufffdb"),
        ("\u2066x\u2069\u200e\u200f\u061c", "\ufffdx\ufffd\ufffd\ufffd\ufffd"),
        ("a\x00b\x07c\x1bd\x7f\x9f", "a\ufffdb\ufffdc\ufffdd\ufffd\ufffd"),
        ("\u200b\u2028\u2029\ufeff\U000e0041", "\ufffd" * 5),
        ("lone \ud800 half", "lone \ufffd half"),
        ("z" + "\u0301" * 50, "z" + "\u0301" * 4),
        ("lines\nand\ttabs", "lines\nand\ttabs"),
        ("x" * 500, "x" * 299 + "…"),
        (7, "7"),
    ],
)
def test_what_moves_or_hides_other_text_is_neutralised(text, shown):
    assert words.plain(text) == shown
    assert words.escaped(text) == shown


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        ("https://example.org/a?b=c#d", True),
        ("http://[::1]:8000/", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("JaVaScRiPt:alert(1)", False),
        ("//example.org", False),
        ("https://user:secret@example.org", False),
        ("https://", False),
        ("https://exa\u202emple.org", False),
        ("https://example.org/a b", False),
        ("http://[", False),
        ("vbscript:x", False),
        (" https://example.org", False),
        ("https://example.org/" + "x" * 3000, False),
        (None, False),
    ],
)
def test_only_addresses_of_the_web_are_links(value, is_one):
    assert words.web_address(value) == (value if is_one else None)


PAYLOADS = (
    "<script>boom()</script>",
    '"><img src=x onerror=boom()>',
    "'><svg/onload=boom()>",
    "</title><script>boom()</script>",
    "{{ 7*7 }}{% raw %}",
    "&lt;script&gt;",
    "\ue000content\ue000",
)


def test_text_of_artifacts_is_never_markup(app, client, sample, populate):
    for number, payload in enumerate(PAYLOADS):
        quoted = json.dumps(payload)
        sample.write(
            f"skills/p{number}/SKILL.md",
            f"---\nname: {quoted}\ndescription: {quoted}\nauthor: {quoted}\nlicense: {quoted}\n"
            f"version: {quoted}\ntags: [{quoted}]\nsource: {quoted}\nmodel: {quoted}\n---\n",
        )
    populate(app)
    addresses = [PAGE, f"{PAGE}?q=boom", f"{PAGE}/problems", "/collection/"]
    items = client.get(f"{API}/work/artifacts?limit=200").json["items"]
    addresses += [f"{PAGE}/artifacts/{one['uid']}" for one in items]
    addresses += [f"{PAGE}/artifacts/<script>boom()</script>", f"{PAGE}?q=%3Cscript%3Eboom()"]
    addresses += [f"{PAGE}?tag=%22%3E%3Cscript%3Eboom()&sort=%3Cscript%3E", "/collection/<script>"]

    for address in addresses:
        found = client.get(address)
        for tag, attributes in Elements(found.text).tags:
            assert tag not in ("img", "iframe", "object", "embed"), address
            assert tag != "script" or attributes == {"src": attributes["src"], "defer": None}
            assert not any(name.startswith("on") for name in attributes), address
            assert not attributes.get("href", "").startswith("javascript:")
    shown = names(client.get(PAGE))
    assert {one["name"] for one in items if "boom" in one["name"]} <= set(shown)


def test_a_long_text_is_cut(app, client, sample, populate):
    sample.skill("long", "word " * 5000)
    populate(app)

    response = client.get(f"{PAGE}?q=long")

    assert len(response.data) < 20_000
    assert "…" in response.text


# --- what it costs -------------------------------------------------------------------------------


@pytest.fixture
def statements(app):
    """What is asked of the database, however it is asked."""
    seen = []
    with app.app_context():
        engine = app.extensions["sqlalchemy"].engine

    def trace(connection, _):
        connection.set_trace_callback(seen.append)

    sa.event.listen(engine, "connect", trace)
    engine.dispose()
    yield seen
    sa.event.remove(engine, "connect", trace)


def test_the_number_of_statements_is_small_and_does_not_grow(app, sample, populate, statements):
    counted = {}
    for size in (60, 150):
        for number in range(size):
            sample.skill(f"n{number:03d}", "Words.", tags=f"[t{number}, common]")
        populate(app)
        for address in (PAGE, f"{PAGE}?q=words&type=skill", f"{PAGE}/problems"):
            client = app.test_client()
            del statements[:]
            assert client.get(address).status_code == 200
            first = len([one for one in statements if one.startswith("SELECT")])
            del statements[:]
            client.get(address)
            again = len([one for one in statements if one.startswith("SELECT")])
            counted.setdefault(address, []).append((first, again))

    for address, found in counted.items():
        # A body that has ceased to hold costs a look at the stamp more than none.
        assert found[1][0] - found[0][0] in (0, 1), (address, found)
        assert found[0][0] <= 20, (address, found)
        assert found[0][1] <= 1, (address, found)


def test_no_page_opens_a_file_of_the_collection(app, client, sample):
    uid = client.get(f"{API}/work/artifacts/skill:pdf").json["uid"]
    with opened(sample.root) as files:
        for address in (
            "/collection/",
            PAGE,
            f"{PAGE}?q=pdf&type=skill",
            f"{PAGE}/artifacts/{uid}",
            f"{PAGE}/artifacts/skill:nope",
            f"{PAGE}/problems",
            f"{PAGE}/refresh",
        ):
            client.get(address)

    assert files == []


def test_a_page_that_has_not_changed_is_not_sent_again(app, client, sample, populate, clock):
    first = client.get(PAGE)
    known = {"If-None-Match": first.headers["ETag"]}

    unchanged = client.get(PAGE, headers=known)
    assert unchanged.status_code == 304
    assert unchanged.data == b""
    assert unchanged.headers["Content-Security-Policy"]
    assert app.test_client().get(PAGE).data == first.data
    sample.skill("new")
    populate(app)
    changed = client.get(PAGE, headers=known)
    assert changed.status_code == 200
    assert "new" in names(changed)


def test_a_row_is_shown_as_stale_the_moment_that_it_is(client, clock):
    clock.pass_(minutes=29, seconds=59)
    assert "may be out of date" not in client.get(PAGE).text
    clock.pass_(seconds=1)

    assert "6 artifacts may be out of date" in text_of(client.get(PAGE))
