"""The app that a command runs in."""

from __future__ import annotations

from typing import Any

from flask import current_app

from ..errors import ConfigurationError
from ..population import DEFAULT
from ..service import ArtifactCacheService


def mounted() -> Any:
    """What belongs to the app."""
    found = current_app.extensions.get("artifact_cache")
    if found is None:
        raise ConfigurationError("this app has no artifact cache: call ArtifactCache(app, db)")
    return found


def the_service() -> ArtifactCacheService:
    """The cache of the app."""
    service: ArtifactCacheService = mounted().service
    return service


def only_collection(service: ArtifactCacheService, given: str | None) -> str:
    """The collection that is meant: the one given, the only one, or ``default``."""
    if given is not None:
        return given
    listed = service.status()
    ids = sorted(one["id"] for one in listed if one["configured"]) or [one["id"] for one in listed]
    if len(ids) != 1 and DEFAULT not in ids:
        raise ConfigurationError(f"say which collection: {', '.join(ids) or 'none is configured'}")
    return ids[0] if len(ids) == 1 else DEFAULT
