"""Work that no request waits for, done in threads of the process."""

from __future__ import annotations

import logging
from datetime import timedelta
from weakref import WeakKeyDictionary, ref

from flask import Flask, request_started
from sqlalchemy.exc import SQLAlchemyError

from . import doctor
from .database import engine_of
from .errors import ArtifactCacheError, BusyError, SchemaError
from .refresh.selection import Selection
from .service import ArtifactCacheService
from .tasks import Background, Task, Threads

log = logging.getLogger("flask_artifact_cache")

# The workers of a server start within moments of each other: what one of them has just checked
# the next one does not check again.
SAME_START = timedelta(seconds=30)

# The apps that have not served a request yet, their checks, and what is mounted where.
_waiting: WeakKeyDictionary[Flask, tuple[list[Task], str | None]] = WeakKeyDictionary()


def threads(app: Flask) -> Background:
    """Threads that do the tasks of an application."""
    # A task that waits must not keep the application alive.
    app_of = ref(app)

    def work(task: Task) -> None:
        alive = app_of()
        if alive is not None:
            with alive.app_context():
                perform(alive.extensions["artifact_cache"].service, task)

    return Threads(work)


def perform(service: ArtifactCacheService, task: Task) -> None:
    """Do a task; what goes wrong is a line in the log and in the record of the run."""
    what = task.selection.collection_id or "all collections"
    try:
        try:
            service.perform(task)
        except BusyError as error:
            log.info("'%s' is being refreshed by another process: %s", what, error)
            if task.trigger == "event":
                # The other one may have looked before the change.
                service.change_again(task)
    except (SchemaError, SQLAlchemyError) as error:
        log.error("the refresh of '%s' (%s) failed: %s", what, task.trigger, error)
    except ArtifactCacheError as error:
        log.warning("the refresh of '%s' (%s) failed: %s", what, task.trigger, error)


def check_when_serving(
    app: Flask, service: ArtifactCacheService, mounts: str | None = None
) -> None:
    """Check every collection against its files once the app serves its first request.

    A command never serves one, so commands do not trigger it; nor does the master process of
    a pre-forking server, whose threads its workers would not have. Of several workers the one
    that gets the lease does the work; the others find it done, or under way.

    A database that would lose data where it lies is warned of then, too.

    :param mounts: as of :func:`.doctor.gather`.
    """
    tasks = []
    if service.settings.populate_on_startup and service.background is not None:
        since = service.now() - SAME_START
        tasks = [
            Task(Selection(one), trigger="startup", unless_since=since)
            for one in service.collections.ids()
        ]
    _waiting[app] = tasks, mounts
    request_started.connect(_start, app)


# A function of the module: a closure would keep the application alive for ever.
def _start(app: Flask, **_: object) -> None:
    request_started.disconnect(_start, app)
    tasks, mounts = _waiting.pop(app, ([], None))
    mounted = app.extensions["artifact_cache"]
    warning = doctor.wal_on_network(engine_of(mounted.db).engine.url, mounts)
    if warning is not None:
        log.warning(warning)
    service: ArtifactCacheService = mounted.service
    if tasks and service.in_memory:
        log.info("a database in memory has one connection, which is the app's: nothing checked")
        return
    for task in tasks:
        service.submit(task)
