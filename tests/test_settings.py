"""A wrong setting is one clear sentence, at the start."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_artifact_cache import ArtifactCache
from flask_artifact_cache.errors import ConfigurationError
from flask_artifact_cache.settings import load


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("TTL_MINUTES", 0, "ARTIFACT_CACHE_TTL_MINUTES must be a number of minutes"),
        ("TTL_MINUTES", "30", "not '30'"),
        ("TTL_MINUTES", True, "not True"),
        ("API_PREFIX", "api", "must be a path"),
        ("API_PREFIX", "/", "must be a path"),
        ("PAGE_PREFIX", "/", "must be a path"),
        ("PAGE_PREFIX", 5, "; or None, not 5"),
        ("API_PREFIX", None, "must be a path"),
        *(
            ("API_PREFIX", f"/a{wrong}b", "must be a path")
            for wrong in ("?", "#", "<", " ", "\t", "\n", "\x00", "\x7f", "//", "/./", "/../")
        ),
        *(
            ("PAGE_PREFIX", wrong, "must be a path")
            for wrong in ("/.", "/..", "/a/..", "//a", "/a/")
        ),
        (
            "PAGE_PREFIX",
            "/api/v1/user-collections/page",
            "one below the other: the default '/api/v1/user-collections' and"
            " '/api/v1/user-collections/page'",
        ),
        ("PAGE_PREFIX", "/api", "and '/api'"),
        ("API_PREFIX", "/collection/api", "and the default '/collection'"),
        ("PAGE_PREFIX", "/api/v1/user-collections", "which is the default of ARTIFACT_CACHE_API_"),
        ("API_PREFIX", "/collection", "which is the default of ARTIFACT_CACHE_PAGE_PREFIX"),
        ("POPULATE_ON_STARTUP", "no", "must be True or False"),
        ("MASS_LOSS_PERCENT", 120, "must be a number from 0 to 100"),
        ("BACKGROUND", "threads", "must be 'thread', 'celery' or 'none'"),
        ("MIGRATIONS", "mine", "must be 'package' or 'host'"),
        ("TOKENS", "one-token-of-many", "must be a list of tokens, not a str"),
        ("TOKENS", None, "must be a list of tokens"),
        ("TOKENS", ["x" * 15], "ARTIFACT_CACHE_TOKENS[0] must have at least 16 characters"),
        ("TOKENS", ["x" * 16, "with a blank in it"], "ARTIFACT_CACHE_TOKENS[1] must be a text"),
        ("TOKENS", ["=" * 16], "that may end with ="),
        ("TOKENS", ["ünicode-is-not-for-headers"], "must be a text of A-Z"),
        ("TOKENS", ["x" * 16 + "\n"], "must be a text of A-Z"),
        ("TOKENS", [b"x" * 16], "must be a text of A-Z"),
        ("TOKENS", ["x" * 16, "y" * 16, "x" * 16], "[2] must not be there twice"),
        ("SYNC_LIMIT", "often", "must be a limit such as '30/minute'"),
        ("SYNC_LIMIT", "5/fortnight", "not '5/fortnight'"),
        ("REFRESH_LIMIT", "0/minute", "ARTIFACT_CACHE_REFRESH_LIMIT must be a limit"),
        ("REFRESH_LIMIT", 30, "or None for none, not 30"),
        ("MAX_BODY_BYTES", 10, "must be a whole number of bytes"),
        ("MAX_BODY_BYTES", 2048.5, "must be a whole number of bytes"),
        ("MAX_BODY_BYTES", True, "must be a whole number of bytes"),
        ("COLLECTIONS", 3, "must be a folder, or a mapping"),
        ("COLLECTIONS", {"Work": "/srv"}, "Work"),
        ("COLLECTIONS", {3: "/srv"}, "The collection id 3 is not 1 to 64 of"),
        ("COLLECTIONS", {"work": None}, "the value is neither a path nor a mapping"),
        ("COLLECTIONS", "", "'path' is not a path"),
        ("COLLECTIONS", {"work": {"path": "/srv", "types": ["tools"]}}, "is not a mapping from"),
        ("COLLECTIONS", {"work": {"path": "/srv", "exclude": "vendor/*"}}, "is not a list of"),
        ("COLLECTIONS", {"work": {"path": "/srv", "exclude": [3]}}, "something else than text"),
        ("COLLECTIONS", {"work": {"path": "/srv", "layout": "flat"}}, "it can only be 'auto'"),
        (
            "COLLECTIONS",
            {"work": {"path": "/srv", "ttl_minutes": 0}},
            "['ttl_minutes'] must be a number of minutes",
        ),
        (
            "COLLECTIONS",
            {"work": {"paht": "/srv"}},
            "has no key 'paht'; its keys are path, layout, types, exclude, ttl_minutes",
        ),
        ("COLLECTIONS", "~nobody-is-called-so/artifacts", "whose home is not known"),
        ("TTL", 30, "did you mean ARTIFACT_CACHE_TTL_MINUTES?"),
        ("TOKEN", "x" * 16, "did you mean ARTIFACT_CACHE_TOKENS?"),
        ("PREFIX", "/x", "did you mean ARTIFACT_CACHE_"),
        ("COLLECTIONS", {"work": {"path": "/srv", "types": {"tools": "spaceship"}}}, "spaceship"),
        ("TTL_MINUTE", 30, "did you mean ARTIFACT_CACHE_TTL_MINUTES?"),
        ("GITHUB_API_URL", "http://ghe.example.com", "ARTIFACT_CACHE_GITHUB_API_URL is not right"),
        ("GITHUB_API_URL", None, "must be like 'https://ghe.example.com/api/v3'"),
        ("GITHUB_TOKEN", "with a blank", "ARTIFACT_CACHE_GITHUB_TOKEN must be a text"),
        ("GITHUB_TOKEN", 5, "or None for none"),
        ("GITHUB_STATE_FOLDER", "state", "must be an absolute path, or None"),
        ("GITHUB_STATE_FOLDER", 5, "not 5"),
        ("COLOUR", "red", "ARTIFACT_CACHE_COLOUR is not a setting"),
    ],
)
def test_a_wrong_setting_names_its_key(name, value, expected):
    app = Flask("host")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    app.config[f"ARTIFACT_CACHE_{name}"] = value
    db = SQLAlchemy(app)

    with pytest.raises(ConfigurationError) as caught:
        ArtifactCache(app, db)

    assert f"ARTIFACT_CACHE_{name}" in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("api_prefix", "page_prefix"),
    [
        ("/artifacts", "/artifacts-page"),
        ("/team/v1.0/artifacts", "/team/v1.0/page"),
        ("/käse/.well-known/a...", "/käse/~ada"),
        ("/artifacts", None),
    ],
)
def test_prefixes_may_be_any_two_paths_beside_each_other(api_prefix, page_prefix):
    settings = load(
        {"ARTIFACT_CACHE_API_PREFIX": api_prefix, "ARTIFACT_CACHE_PAGE_PREFIX": page_prefix}
    )

    assert (settings.api_prefix, settings.page_prefix) == (api_prefix, page_prefix)


def test_one_prefix_below_the_other_is_refused():
    """The page would take ``/x/work/artifacts`` for a path of its own."""
    for one, other in (("/x", "/x/work"), ("/x/work", "/x"), ("/x", "/x/a/b")):
        with pytest.raises(ConfigurationError) as caught:
            load({"ARTIFACT_CACHE_API_PREFIX": one, "ARTIFACT_CACHE_PAGE_PREFIX": other})
        assert str(caught.value) == (
            "ARTIFACT_CACHE_API_PREFIX and ARTIFACT_CACHE_PAGE_PREFIX must be two paths, and not"
            f" one below the other: {one!r} and {other!r}"
        )


def test_a_wrong_token_is_not_shown():
    for tokens in (
        ["a-secret 0123456"],
        ["secret"],
        ["secret0123456789"] * 2,
        "secret",
        {"secret"},
    ):
        with pytest.raises(ConfigurationError) as caught:
            load({"ARTIFACT_CACHE_TOKENS": tokens})
        assert "secret" not in str(caught.value)


def test_a_token_for_github_is_not_shown():
    assert "secret" not in repr(load({"ARTIFACT_CACHE_GITHUB_TOKEN": "secret"}))
    for wrong in ("secret one", ["secret"], "secret\n"):
        with pytest.raises(ConfigurationError) as caught:
            load({"ARTIFACT_CACHE_GITHUB_TOKEN": wrong})
        assert "secret" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        load({"ARTIFACT_CACHE_GITHUB_API_URL": "https://me:secret@ghe.example.com"})
    assert "secret" not in str(caught.value)


def test_what_github_said_is_kept_in_the_instance_folder_unless_told_otherwise(tmp_path):
    told = {"ARTIFACT_CACHE_GITHUB_STATE_FOLDER": str(tmp_path)}

    assert load({}, "/srv/instance").github_state_folder == Path("/srv/instance/artifact-cache")
    assert load(told, "/srv/instance").github_state_folder == tmp_path
    assert load({}).github_state_folder is None


def test_several_limits_may_be_given_and_none():
    settings = load(
        {
            "ARTIFACT_CACHE_SYNC_LIMIT": "5/second; 100 per 2 hours",
            "ARTIFACT_CACHE_REFRESH_LIMIT": None,
        }
    )

    assert list(map(str, settings.limits["sync"])) == ["5 per 1 second", "100 per 2 hour"]
    assert settings.limits["refresh"] == ()


def test_the_defaults_are_as_documented():
    settings = load({})

    assert settings.ttl == timedelta(minutes=30)
    assert settings.api_prefix == "/api/v1/user-collections"
    assert settings.collections == {}
    assert settings.tokens == ()
    assert {name: str(*limit) for name, limit in settings.limits.items()} == {
        "sync": "120 per 1 minute",
        "refresh": "30 per 1 minute",
    }
    assert settings.max_body_bytes == 2**20


def roots(collections, **options):
    loaded = load({"ARTIFACT_CACHE_COLLECTIONS": collections}, **options).collections
    return {
        one: value["path"] if isinstance(value, dict) else value for one, value in loaded.items()
    }


def test_a_bare_path_is_the_default_collection(tmp_path):
    assert roots(str(tmp_path)) == {"default": tmp_path}


@pytest.mark.parametrize("given", ["~/artifacts", Path("~/artifacts")])
def test_a_collection_may_lie_in_the_home_of_who_runs_the_app(given, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")

    for value in (given, {"path": given}):
        assert roots({"work": value}) == {"work": Path("/home/ada/artifacts")}


def test_a_relative_path_begins_where_the_app_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in ("artifacts", {"path": Path("artifacts")}):
        assert roots({"work": value}, root="/srv/app") == {"work": Path("/srv/app/artifacts")}
    app = Flask("host", root_path=str(tmp_path / "package"))
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    app.config["ARTIFACT_CACHE_COLLECTIONS"] = "artifacts"
    db = SQLAlchemy(app)

    ArtifactCache(app, db)

    collections = app.extensions["artifact_cache"].service.collections
    assert collections.artifacts("default").root == tmp_path / "package/artifacts"
