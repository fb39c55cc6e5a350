"""Work that no request waits for."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta
from weakref import WeakKeyDictionary

from flask import Flask, request_started
from sqlalchemy.exc import SQLAlchemyError

from .database import schema_error
from .errors import ArtifactCacheError, BusyError
from .service import ArtifactCacheService

log = logging.getLogger("flask_artifact_cache")

# The workers of a server start within moments of each other: what one of them has just checked
# the next one does not check again.
SAME_START = timedelta(seconds=30)

# The apps that have not served a request yet, and when each was set up.
_waiting: WeakKeyDictionary[Flask, datetime] = WeakKeyDictionary()


def populate_when_serving(app: Flask, service: ArtifactCacheService) -> None:
    """Check every collection against its files once the app serves its first request.

    A command never serves one, so commands do not trigger it; nor does the master process of
    a pre-forking server, whose threads its workers would not have. Of several workers the one
    that gets the lease does the work; the others find it done, or under way.
    """
    settings = service.settings
    if not settings.populate_on_startup or settings.background == "none":
        return
    _waiting[app] = service.now()
    request_started.connect(_start, app)


# A function of the module: a closure would keep the application alive for ever.
def _start(app: Flask, **_: object) -> None:
    request_started.disconnect(_start, app)
    started_at = _waiting.pop(app, None)
    if started_at is not None:
        threading.Thread(
            target=_work, args=(app, started_at), name="artifact-cache-startup", daemon=True
        ).start()


def _work(app: Flask, started_at: datetime) -> None:
    service: ArtifactCacheService = app.extensions["artifact_cache"].service
    with app.app_context():
        if service.in_memory:
            log.info("a database in memory has one connection, which is the app's: nothing checked")
            return
        for collection_id in service.collections.ids():
            _check(service, collection_id, started_at)


def _check(service: ArtifactCacheService, collection_id: str, started_at: datetime) -> None:
    try:
        since = started_at - SAME_START
        if not service.verified_since(collection_id, since):
            service.populate(collection_id, trigger="startup", force=False, unless_since=since)
    except BusyError:
        log.info("collection '%s' is being checked by another process", collection_id)
    except ArtifactCacheError as error:
        log.error("collection '%s' was not checked: %s", collection_id, error)
    except SQLAlchemyError as error:
        log.error(
            "collection '%s' was not checked: %s", collection_id, schema_error(error) or error
        )
