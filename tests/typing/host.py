"""A host's module; ``tox -e types`` checks it as strictly as mypy can."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ForeignKey, Select, select
from sqlalchemy.orm import (
    DeclarativeBase,
    InstrumentedAttribute,
    Mapped,
    mapped_column,
    relationship,
)
from typing_extensions import assert_type

import flask_artifact_cache
from flask_artifact_cache import (
    ArtifactCache,
    ArtifactCacheService,
    ArtifactManager,
    CollectionManager,
    migrate_artifacts_to_default_collection,
    populate_artifact_metadata,
)
from flask_artifact_cache.models import Artifact, Collection, CollectionArtifact, RefreshRun


class HostBase(DeclarativeBase):
    """The host's models, typed as Flask-SQLAlchemy's documentation has it."""


db = SQLAlchemy(model_class=HostBase)


class Bookmark(HostBase):
    """A table of the host that refers to one of ours."""

    __tablename__ = "bookmark"

    id: Mapped[int] = mapped_column(primary_key=True)
    artifact_id: Mapped[int] = mapped_column(ForeignKey(Artifact.id))
    artifact: Mapped[Artifact] = relationship(Artifact)


def may(permission: str, collection_id: str | None) -> bool:
    """Say who may do what."""
    return permission == "read" or collection_id == "mine"


def create_app(root: Path) -> tuple[Flask, ArtifactCache]:
    """Mount the cache."""
    app = Flask(__name__)
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    app.config["ARTIFACT_CACHE_COLLECTIONS"] = {"work": root}
    db.init_app(app)
    cache = ArtifactCache(db=db, authorize=may)
    cache.init_app(app)
    return app, cache


def columns(artifact: Artifact, collection: Collection, member: CollectionArtifact) -> None:
    """Know the type of a column, on the class and on an object."""
    assert_type(Artifact.name, InstrumentedAttribute[str])
    assert_type(artifact.id, int)
    assert_type(artifact.name, str)
    assert_type(artifact.description, str | None)
    assert_type(artifact.tags, list[str])
    assert_type(artifact.tools, list[str] | None)
    assert_type(artifact.secondary, bool)
    assert_type(artifact.total_size, int)
    assert_type(artifact.synced_at, datetime | None)
    assert_type(artifact.updated_at, datetime)
    assert_type(artifact.warnings, list[dict[str, Any]])
    assert_type(artifact.artifact_id, str)
    assert_type(collection.artifacts, list[Artifact])
    assert_type(collection.verified_at, datetime | None)
    assert_type(member.collection_id, str)
    assert_type(member.artifact_id, int)


def queries() -> int:
    """Ask through the host's session."""
    assert_type(select(Artifact), Select[Artifact])
    found = db.session.scalars(select(Artifact).where(Artifact.name == "pdf")).all()
    assert_type(found, Sequence[Artifact])
    assert_type(db.get_or_404(Artifact, found[0].id), Artifact)
    assert_type(db.session.get(Collection, "work"), Collection | None)
    assert_type(db.session.scalars(select(RefreshRun.outcome)).all(), Sequence[str])
    members = select(Artifact).join(CollectionArtifact).join(Collection)
    assert_type(db.session.scalars(members.where(Collection.id == "work")).first(), Artifact | None)
    bookmark = db.session.scalars(select(Bookmark)).one()
    assert_type(bookmark.artifact, Artifact)
    return len(found)


def services(cache: ArtifactCache, root: Path) -> int:
    """Fill the cache."""
    assert_type(cache.service, ArtifactCacheService)
    manager = ArtifactManager(root)
    report = populate_artifact_metadata(db.session(), manager, "work")
    assert_type(report.created, int)
    migrate_artifacts_to_default_collection(
        db.session(), manager, CollectionManager({"work": root})
    )
    return report.created


def mistakes(artifact: Artifact) -> None:
    """Be told of a slip; an 'ignore' that ignores nothing is an error itself."""
    _ = artifact.nmae  # type: ignore[attr-defined]
    _ = Artifact.nmae  # type: ignore[attr-defined]
    _ = flask_artifact_cache.Artefact  # type: ignore[attr-defined]
    artifact.name = None  # type: ignore[assignment]
