"""A database cache of the metadata of artifact files, for any Flask application."""

from __future__ import annotations

from .extension import ArtifactCache
from .files.manager import ArtifactManager, CollectionManager
from .service import (
    ArtifactCacheService,
    migrate_artifacts_to_default_collection,
    populate_artifact_metadata,
)

__all__ = [
    "ArtifactCache",
    "ArtifactCacheService",
    "ArtifactManager",
    "CollectionManager",
    "migrate_artifacts_to_default_collection",
    "populate_artifact_metadata",
]
