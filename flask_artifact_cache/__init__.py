"""A database cache of the metadata of artifact files, for any Flask application."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .extension import ArtifactCache
    from .files.manager import ArtifactManager, CollectionManager
    from .population import migrate_artifacts_to_default_collection, populate_artifact_metadata
    from .service import ArtifactCacheService
else:
    # The file side is of use without Flask and SQLAlchemy, so each name brings its own module.
    _HOMES = {
        "ArtifactCache": ".extension",
        "ArtifactCacheService": ".service",
        "ArtifactManager": ".files.manager",
        "CollectionManager": ".files.manager",
        "migrate_artifacts_to_default_collection": ".population",
        "populate_artifact_metadata": ".population",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name], __name__), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})


__all__ = [
    "ArtifactCache",
    "ArtifactCacheService",
    "ArtifactManager",
    "CollectionManager",
    "migrate_artifacts_to_default_collection",
    "populate_artifact_metadata",
]
