"""A good guest: a host answers byte for byte as it did before it mounted the extension."""

from __future__ import annotations

import gc
import weakref
from decimal import Decimal

import flask
import pytest
import sqlalchemy as sa
from flask import Flask, abort, jsonify, redirect, render_template, request
from flask.cli import routes_command
from flask.json.provider import DefaultJSONProvider
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column
from werkzeug.exceptions import HTTPException

from flask_artifact_cache import ArtifactCache, ArtifactManager, populate_artifact_metadata
from flask_artifact_cache.errors import NotFoundError
from flask_artifact_cache.models import Artifact

PREFIX = "/api/v1/user-collections"
PAGE = "/collection"
OURS = ("artifact_cache", "artifact_cache_page")
LIST = f"{PREFIX}/work/artifacts"


class Provider(DefaultJSONProvider):
    """The host's idea of JSON."""

    sort_keys = False
    compact = False
    ensure_ascii = False

    @staticmethod
    def default(value):
        return f"<{value}>" if isinstance(value, Decimal) else DefaultJSONProvider.default(value)


def serve(app):
    """The host's own routes."""

    @app.before_request
    def first():
        flask.g.order = ["before"]

    for name in ("one", "two"):

        @app.after_request
        def note(response, name=name):
            flask.g.order.append(name)
            response.headers["X-Order"] = " ".join(flask.g.order)
            return response

    @app.context_processor
    def everywhere():
        return {"motto": "ad astra"}

    @app.get("/")
    def index():
        return render_template("index.html")

    @app.get("/json")
    def json():
        return jsonify(zebra=Decimal("1.50"), ape="éclair")

    @app.get("/crash")
    def crash():
        raise ZeroDivisionError

    @app.get("/our-error")
    def our_error():
        raise NotFoundError("raised by a view of the host")

    @app.get("/bad")
    def bad():
        abort(400)

    @app.get("/missing/<name>")
    def missing(name):
        abort(404, f"no {name} here")

    @app.post("/upload")
    def upload():
        return {"size": len(request.get_data())}

    @app.get("/old")
    def old():
        response = redirect("/json", 308)
        response.set_cookie("seen", "1")
        return response

    @app.get("/folder/")
    def folder():
        return "with a slash"

    own = flask.Blueprint("own", "own", url_prefix=f"{PREFIX}X")

    @own.get("/")
    @own.get("/work/artifacts")
    def neighbour():
        return "the neighbour's"

    @own.errorhandler(404)
    def own_not_found(error):
        return "nothing of the neighbour's", 404

    @own.get("/none")
    def none():
        abort(404)

    app.register_blueprint(own)

    @app.get("/api/v1/<path:rest>")
    def everything_else(rest):
        return f"the host's {rest}"


def handle_errors(app):
    """The host's own error pages."""

    @app.errorhandler(404)
    def not_found(error):
        return render_template("404.html"), 404

    @app.errorhandler(HTTPException)
    def http(error):
        return {"host_says": error.name}, error.code, {"X-Host": "yes"}

    @app.errorhandler(ZeroDivisionError)
    def division(error):
        return "the host divides by zero", 500


REQUESTS = [
    ("GET", "/", {}),
    ("GET", "/?a=1&a=2", {}),
    ("HEAD", "/", {}),
    ("OPTIONS", "/", {}),
    ("GET", "/json", {}),
    ("GET", "/nowhere", {}),
    ("GET", "/nowhere", {"headers": {"Accept": "application/json"}}),
    ("GET", "/missing/page", {}),
    ("POST", "/json", {}),
    ("DELETE", "/upload", {}),
    ("TRACE", "/json", {}),
    ("PROPFIND", "/json", {}),
    ("PROPFIND", "/nowhere", {}),
    ("PROPFIND", f"{PREFIX}X/work/artifacts", {}),
    ("PROPFIND", f"{PAGE}s", {}),
    ("GET", "/crash", {}),
    ("GET", "/our-error", {}),
    ("GET", "/bad", {}),
    ("POST", "/upload", {"data": b"x" * 100}),
    ("POST", "/upload", {"data": b"x" * 2000}),
    ("GET", "/old", {}),
    ("GET", "/folder", {}),
    ("GET", "/folder/", {}),
    ("GET", "/static/style.css", {}),
    ("GET", "/static/style.css", {"headers": {"Range": "bytes=0-3"}}),
    ("GET", "/static/../secret", {}),
    ("GET", "/static/none.css", {}),
    ("GET", f"{PREFIX}X", {}),
    ("GET", f"{PREFIX}X/", {}),
    ("GET", f"{PREFIX}X/work/artifacts", {}),
    ("GET", f"{PREFIX}X/none", {}),
    ("GET", f"{PREFIX}X/nowhere", {}),
    ("POST", f"{PREFIX}X/work/artifacts", {}),
    ("GET", f"{PREFIX}.json", {}),
    ("GET", f"{PAGE}s", {}),
    ("GET", f"{PAGE}s/work", {}),
    ("GET", f"{PAGE}.json", {}),
    ("GET", "/api/v1/user-collection", {}),
    ("GET", "/api/v1/", {}),
    ("GET", "/api/v1//user-collections", {}),
    ("PUT", "/api/v1/other", {}),
    ("GET", "/API/V1/USER-COLLECTIONS", {}),
    ("GET", "/artifact_cache/base.html", {}),
]


@pytest.fixture
def make_host(tmp_path, sqlite_url, sample):
    """Makes the same host, with and without the extension."""
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "base.html").write_text("<title>{{ motto }}</title>{% block main %}{% endblock %}")
    (templates / "index.html").write_text(
        '{% extends "base.html" %}{% block main %}{{ url_for("json") }} {{ "<" }}{% endblock %}'
    )
    (templates / "404.html").write_text(
        '{% extends "base.html" %}{% block main %}not here{% endblock %}'
    )
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "style.css").write_text("body { color: teal }")
    made = []

    def make(mount=None, handlers=False):
        app = Flask("host", root_path=str(tmp_path))
        app.json = Provider(app)
        app.config.update(
            SQLALCHEMY_DATABASE_URI=sqlite_url,
            MAX_CONTENT_LENGTH=1000,
            ARTIFACT_CACHE_COLLECTIONS={"work": sample.root},
            ARTIFACT_CACHE_POPULATE_ON_STARTUP=False,
        )
        db = SQLAlchemy(app)
        if mount == "first":
            ArtifactCache(app, db)
        serve(app)
        if handlers:
            handle_errors(app)
        if mount == "last":
            ArtifactCache(app, db)
        made.append((app, db))
        return app

    yield make
    for app, db in made:
        with app.app_context():
            db.engine.dispose()


def answer(client, method, path, options):
    response = client.open(path, method=method, buffered=True, **options)
    headers = [(name, value) for name, value in response.headers if name != "Date"]
    return response.status, headers, response.get_data()


@pytest.mark.parametrize("mount", ["first", "last"])
@pytest.mark.parametrize("handlers", [False, True], ids=["plain", "handlers"])
def test_every_answer_of_the_host_is_what_it_was(make_host, populate, mount, handlers):
    before = make_host(handlers=handlers).test_client()
    app = make_host(mount, handlers)
    with app.app_context():
        app.extensions["sqlalchemy"].create_all()
    populate(app)
    after = app.test_client()

    for _ in range(2):
        for request_ in REQUESTS:
            assert answer(after, *request_) == answer(before, *request_), request_
        # Once more after ours have been asked.
        assert after.post(f"{PREFIX}/refresh-metadata", json={}).status_code == 403
        assert after.get(LIST).json["page_info"]["total_count"] == 6
        assert after.get(f"{PREFIX}/none").status_code == 404


def test_the_requests_of_this_test_meet_what_they_are_meant_to(make_host):
    client = make_host().test_client()

    statuses = {answer(client, *request_)[0][:3] for request_ in REQUESTS}

    assert statuses == {"200", "206", "308", "400", "404", "405", "413", "500"}


@pytest.mark.parametrize("mount", ["first", "last"])
def test_below_the_prefix_the_hosts_handlers_and_hooks_still_run(make_host, mount):
    client = make_host(mount, handlers=True).test_client()

    response = client.get(f"{PREFIX}/work/nothing/here")

    assert response.mimetype == "application/problem+json"
    assert response.headers["X-Order"] == "before two one"


def rules(app):
    return [
        (rule.rule, rule.endpoint, rule.methods, rule.strict_slashes, rule.defaults, rule.host)
        for rule in app.url_map.iter_rules()
        if rule.endpoint.partition(".")[0] not in OURS
    ]


def state(app):
    """Everything of an application that an extension could have changed, but for its own."""
    names = (
        "before_request_funcs",
        "after_request_funcs",
        "teardown_request_funcs",
        "url_value_preprocessors",
        "url_default_functions",
    )
    jinja = app.jinja_env
    return {
        **{
            name: {key: len(value) for key, value in getattr(app, name).items() if key not in OURS}
            for name in names
        },
        "processors": {
            key: len(value)
            for key, value in app.template_context_processors.items()
            if key not in OURS
        },
        "handlers": {
            key: {code: list(types) for code, types in value.items()}
            for key, value in app.error_handler_spec.items()
            if key not in OURS
        },
        "teardown": len(app.teardown_appcontext_funcs),
        "shell": len(app.shell_context_processors),
        "build_errors": len(app.url_build_error_handlers),
        "config": {k: v for k, v in app.config.items() if not k.startswith("ARTIFACT_CACHE_")},
        "json": (type(app.json), vars(app.json).keys()),
        "classes": (app.response_class, app.request_class, type(app.session_interface)),
        "blueprints": [name for name in app.blueprints if name not in OURS],
        "views": [name for name in app.view_functions if name.partition(".")[0] not in OURS],
        "extensions": sorted(name for name in app.extensions if name != OURS[0]),
        "commands": sorted(name for name in app.cli.commands if name != "artifact-cache"),
        "jinja": (
            type(jinja),
            sorted(jinja.globals),
            sorted(jinja.filters),
            sorted(jinja.tests),
            sorted(jinja.extensions),
            type(jinja.loader),
            jinja.autoescape.__func__,
        ),
        "wsgi_app": app.wsgi_app.__func__,
        "logger": (app.logger.level, app.logger.handlers),
    }


@pytest.mark.parametrize("mount", ["first", "last"])
def test_nothing_else_of_the_app_is_changed(make_host, mount):
    before, after = make_host(), make_host(mount)

    assert rules(after) == rules(before)
    assert state(after) == state(before)


def test_a_route_of_the_host_below_the_prefix_tells_its_methods_as_ever(make_host):
    app = make_host("first")

    @app.get(f"{PREFIX}/export/everything")
    def export():
        return "the host's"

    client = app.test_client()

    assert client.get(f"{PREFIX}/export/everything").text == "the host's"
    assert "GET" in client.options(f"{PREFIX}/export/everything").headers["Allow"]


def test_a_host_may_list_the_methods_of_every_route(make_host):
    """As a site map does, and ``flask routes``."""
    app = make_host("last")

    listed = {rule.rule: sorted(rule.methods) for rule in app.url_map.iter_rules()}

    assert listed["/json"] == ["GET", "HEAD", "OPTIONS"]
    assert "PROPFIND" not in {method for methods in listed.values() for method in methods}
    assert app.test_cli_runner().invoke(routes_command, ["--all-methods"]).exit_code == 0


def test_the_hosts_templates_are_not_looked_for_before_it_is_set_up(make_host):
    app = make_host("first")

    # A host may still set jinja_options; from the first look on it could not.
    assert "jinja_env" not in vars(app)


def test_all_our_rules_are_below_the_prefix(make_host):
    app = make_host("last")

    ours = [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("artifact_cache")]

    assert ours
    assert {rule.endpoint.partition(".")[0] for rule in ours} == set(OURS)
    assert all(f"{rule.rule}/".startswith((f"{PREFIX}/", f"{PAGE}/")) for rule in ours)


# --- several apps --------------------------------------------------------------------------------


def listed(app):
    return [item["name"] for item in app.test_client().get(LIST).json["items"]]


def test_two_apps_of_one_process_have_their_own_collections(
    make_app, populate, collection, tmp_path
):
    apps = []
    for name in ("red", "blue"):
        folder = type(collection)(tmp_path / name)
        folder.skill(name)
        app = make_app(f"sqlite:///{tmp_path / name}.db", {"work": folder.root})
        populate(app)
        apps.append(app)

    assert [listed(app) for app in apps] == [["red"], ["blue"]]
    with apps[0].app_context(), apps[1].app_context():
        assert listed(apps[1]) == ["blue"]
        assert listed(apps[0]) == ["red"]


def test_one_extension_object_serves_several_apps(collection, tmp_path):
    db = SQLAlchemy()
    cache = ArtifactCache(db=db)
    apps = []
    for name in ("red", "blue"):
        folder = type(collection)(tmp_path / name)
        folder.skill(name)
        app = Flask(name)
        app.config.update(
            SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path / name}.db",
            ARTIFACT_CACHE_COLLECTIONS={"work": folder.root},
            ARTIFACT_CACHE_POPULATE_ON_STARTUP=False,
            ARTIFACT_CACHE_API_PREFIX=f"/{name}",
        )
        db.init_app(app)
        cache.init_app(app)
        with app.app_context():
            db.create_all()
            cache.service.populate("work")
        apps.append(app)

    for app in apps:
        found = app.test_client().get(f"/{app.name}/work/artifacts").json
        assert [item["name"] for item in found["items"]] == [app.name]
        with app.app_context():
            assert cache.service.get("work", f"skill:{app.name}")["name"] == app.name
            db.engine.dispose()


def test_an_app_that_nobody_needs_any_more_is_freed():
    """Test suites make thousands; a receiver of a signal must not hold on to them."""

    def make():
        app = Flask("host")
        app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
        ArtifactCache(app, SQLAlchemy(app))
        return weakref.ref(app)

    app = make()
    gc.collect()

    assert app() is None


# --- mistakes ------------------------------------------------------------------------------------


def test_mounting_twice_is_refused(app):
    with pytest.raises(RuntimeError, match="already mounted on this app"):
        ArtifactCache(app)


def test_mounting_before_the_db_says_what_to_do():
    cache = ArtifactCache()

    with pytest.raises(RuntimeError, match=r"Make 'db = SQLAlchemy\(app\)', or call"):
        cache.init_app(Flask("host"))


def test_the_db_of_another_app_is_refused(app):
    other = Flask("other")
    other.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    SQLAlchemy(other)

    with pytest.raises(RuntimeError, match="not the one of this app"):
        ArtifactCache(other, app.extensions["sqlalchemy"])


# --- a host's tests and sessions -----------------------------------------------------------------


@pytest.fixture
def rolled_back(database_url, make_app, sample):
    """An app whose tests share one outer transaction that is rolled back, as hosts have it.

    See pallets-eco/flask-sqlalchemy, issue 1167.
    """
    app = make_app(database_url, {"work": sample.root})
    with app.app_context():
        engines = app.extensions["sqlalchemy"].engines
    engine = engines[None]
    with engine.connect() as connection:
        transaction = connection.begin()
        engines[None] = connection
        yield app
        engines[None] = engine
        transaction.rollback()
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(Artifact)) == 0


def test_a_listing_sees_what_a_test_has_written_and_will_roll_back(rolled_back, sample):
    client = rolled_back.test_client()
    with rolled_back.app_context():
        session = rolled_back.extensions["sqlalchemy"].session
        populate_artifact_metadata(session, ArtifactManager(sample.root), "work")
        session.commit()

    for _ in range(2):
        assert client.get(LIST).json["page_info"]["total_count"] == 6
    assert client.get(f"{LIST}/skill:pdf").json["name"] == "pdf"
    assert client.get(f"{PREFIX}/work/facets").status_code == 200
    assert client.get(PREFIX).json["collections"][0]["artifact_count"] == 6


def test_a_populate_in_a_test_is_rolled_back_too(rolled_back, populate):
    assert populate(rolled_back).created == 6
    assert populate(rolled_back).unchanged == 6

    assert rolled_back.test_client().get(LIST).json["page_info"]["total_count"] == 6


@pytest.fixture
def in_memory(sample):
    """A host on SQLite in memory, where all sessions share one connection."""
    app = Flask("host")
    app.config.update(
        SQLALCHEMY_DATABASE_URI="sqlite://",
        ARTIFACT_CACHE_COLLECTIONS={"work": sample.root},
        ARTIFACT_CACHE_POPULATE_ON_STARTUP=False,
    )
    db = SQLAlchemy(app)

    class Note(db.Model):
        id: Mapped[int] = mapped_column(primary_key=True)

    ArtifactCache(app, db)
    app.note = Note
    with app.app_context():
        db.create_all()
        app.extensions["artifact_cache"].service.populate("work")
        yield app
        db.session.remove()
        db.engine.dispose()


def test_reading_loses_no_uncommitted_row_of_a_host_in_memory(in_memory):
    session = in_memory.extensions["sqlalchemy"].session
    session.add(in_memory.note(id=1))
    session.flush()

    found = in_memory.test_client().get(LIST)
    in_memory.extensions["artifact_cache"].service.status()

    assert found.json["page_info"]["total_count"] == 6
    assert session.scalar(sa.select(in_memory.note.id)) == 1
    session.rollback()
    assert session.scalar(sa.select(in_memory.note.id)) is None


def test_reading_neither_begins_nor_ends_a_transaction_of_the_hosts_session(app):
    with app.app_context():
        session = app.extensions["sqlalchemy"].session
        app.extensions["artifact_cache"].service.status()
        assert not session().in_transaction()

        session.execute(
            sa.text(
                "INSERT INTO artifact_cache_collection (id, revision, stamp, artifact_count,"
                " path_available, gathers, problems, lease_until_ms)"
                " VALUES ('other', 0, '', 0, 1, 0, '[]', 0)"
            )
        )
        before = session().get_transaction()
        app.test_client().get(LIST)
        assert session().get_transaction() is before
