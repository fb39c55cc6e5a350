"""What is said to have changed in the files makes rows stale, and has them read again.

The file side says so, and so may hosts, by the signals of :mod:`.signals`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from weakref import WeakSet

from flask import Flask, current_app, has_app_context

from . import signals
from .errors import ArtifactCacheError
from .service import ArtifactCacheService

log = logging.getLogger("flask_artifact_cache")

# The applications of this process that listen.
_apps: WeakSet[Flask] = WeakSet()


def listen(app: Flask) -> None:
    """Let an application hear of what changes in the files of its collections."""
    _apps.add(app)
    for signal in (
        signals.artifact_added,
        signals.artifact_updated,
        signals.artifact_removed,
        signals.version_changed,
    ):
        signal.connect(_artifact)
    signals.collection_updated.connect(_collection)


# Functions of the module: connected once however many applications there are.
def _artifact(
    sender: object,
    *,
    collection_id: str,
    artifact_id: str | None = None,
    path: str | None = None,
    **_: object,
) -> None:
    """One artifact was added, updated or removed, or has another version."""
    _changed(
        sender,
        collection_id,
        ids=() if path is not None or artifact_id is None else (artifact_id,),
        paths=() if path is None else (path,),
    )


def _collection(
    sender: object, *, collection_id: str, paths: Iterable[str] = (), **_: object
) -> None:
    """Some files of a collection, or any, were changed."""
    _changed(sender, collection_id, paths=paths)


def _changed(
    sender: object, collection_id: str, ids: Iterable[str] = (), paths: Iterable[str] = ()
) -> None:
    if isinstance(sender, ArtifactCacheService):
        return  # it tells of rows that it has just written
    ids, paths = tuple(ids), tuple(path.partition("#")[0] for path in paths)
    for app in _meant(collection_id):
        service: ArtifactCacheService = app.extensions["artifact_cache"].service
        with app.app_context():
            try:
                service.changed(collection_id, ids, paths)
            except ArtifactCacheError as error:
                log.warning("a change of '%s' is not followed up: %s", collection_id, error)


def _meant(collection_id: str) -> Iterator[Flask]:
    """The application that the signal was sent in; elsewhere all that have the collection."""
    # The proxy stands for the application, and is as good here.
    apps: list[Flask] = [current_app] if has_app_context() else list(_apps)
    for app in apps:
        mounted = app.extensions.get("artifact_cache")
        if mounted is not None and collection_id in mounted.service.collections.ids():
            yield app
