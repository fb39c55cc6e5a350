"""The host application that is measured: the cache mounted as in the quick start, and a floor."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from flask import Flask, Response
from flask_sqlalchemy import SQLAlchemy

from flask_artifact_cache import ArtifactCache

COLLECTION = "bench"
LISTING = f"/api/v1/user-collections/{COLLECTION}/artifacts"


def create_app(database: Path, root: Path) -> tuple[Flask, ArtifactCache]:
    """The application on a SQLite database in WAL mode, whose tables are made if need be."""
    app = Flask("benchmark")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{database}"
    app.config["ARTIFACT_CACHE_COLLECTIONS"] = {COLLECTION: root}
    app.config["ARTIFACT_CACHE_POPULATE_ON_STARTUP"] = False
    db = SQLAlchemy(app)
    cache = ArtifactCache(app, db)
    with app.app_context():
        with db.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        db.create_all()
        # A worker opens its own connections after the fork.
        db.engine.dispose()

    @app.get("/floor/<size>")
    def floor(size: str) -> Response:
        return Response(_ready(size), content_type="application/json")

    return app, cache


@lru_cache
def _ready(size: str) -> bytes:
    """As many bytes as a page has, made once."""
    return b'"' + b"x" * (int(size) - 2) + b'"'
