"""A wrong setting is one clear sentence, at the start."""

from __future__ import annotations

from datetime import timedelta

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
        ("POPULATE_ON_STARTUP", "no", "must be True or False"),
        ("MASS_LOSS_PERCENT", 120, "must be a number from 0 to 100"),
        ("BACKGROUND", "threads", "must be 'thread' or 'none'"),
        ("MIGRATIONS", "mine", "must be 'package' or 'host'"),
        ("COLLECTIONS", 3, "must be a folder, or a mapping"),
        ("COLLECTIONS", {"Work": "/srv"}, "Work"),
        ("COLLECTIONS", {"work": {"paht": "/srv"}}, "paht"),
        ("COLLECTIONS", {"work": {"path": "/srv", "types": {"tools": "spaceship"}}}, "spaceship"),
        ("TTL_MINUTE", 30, "did you mean ARTIFACT_CACHE_TTL_MINUTES?"),
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

    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_defaults_are_as_documented():
    settings = load({})

    assert settings.ttl == timedelta(minutes=30)
    assert settings.api_prefix == "/api/v1/user-collections"
    assert settings.collections == {}


def test_a_bare_path_is_the_default_collection(tmp_path):
    assert load({"ARTIFACT_CACHE_COLLECTIONS": str(tmp_path)}).collections == {
        "default": str(tmp_path)
    }
