"""Refreshes as tasks of the host's Celery: one for a collection, harmless when delivered twice.

The host's Celery application is the one that Flask's documentation has a factory put into
``app.extensions["celery"]``, whose tasks run in the application's context.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any
from weakref import ref

from celery import shared_task
from flask import Flask, current_app
from kombu.exceptions import OperationalError

from .background import perform
from .errors import ArtifactCacheError, BusyError, ConfigurationError
from .refresh.selection import Selection
from .service import ArtifactCacheService
from .tasks import Make, Task

log = logging.getLogger("flask_artifact_cache")

# What changes in so many seconds is one task.
GATHER_S = 0.5


class Celery:
    """Sends tasks to the host's Celery."""

    def __init__(self, app: Flask) -> None:
        # A change that waits must not keep the application alive.
        self._app_of = ref(app)
        self._extensions = app.extensions

    def submit(self, make: Make, *, gather: str | None = None) -> None:
        """As of :class:`.tasks.Background`.

        :raises ConfigurationError: if the host has no Celery.
        :raises BusyError: if the broker does not answer.
        """
        if gather is not None:
            timer = threading.Timer(GATHER_S, self._send_late, (make,))
            timer.daemon = True
            timer.start()
        else:
            task = make()
            if task is not None:
                self._send(task)

    def _send(self, task: Task) -> None:
        celery = self._extensions.get("celery")
        if celery is None:
            raise ConfigurationError(
                "ARTIFACT_CACHE_BACKGROUND is 'celery', but app.extensions has no 'celery': see"
                " 'Background Tasks with Celery' in Flask's documentation"
            )
        try:
            with celery.connection_for_write() as connection:
                # Each broker once: a pooled connection would try for seconds to connect again,
                # whatever 'retry' says, and a reader may be waiting.
                connection.transport_options["max_retries"] = max(0, len(connection.alt) - 1)
                celery.tasks[refresh.name].apply_async(
                    (task.as_dict(),), retry=False, connection=connection
                )
        except OperationalError as error:
            message = f"Celery's broker does not answer: {type(error).__name__}"
            raise BusyError(message, retry_after=5) from None

    def _send_late(self, make: Make) -> None:
        task = make()
        if task is None:
            return
        try:
            self._send(task)
        except ArtifactCacheError as error:
            what = task.selection.collection_id
            log.warning("a change of '%s' is not followed up, but stale: %s", what, error)
            app = self._app_of()
            if app is not None:
                with app.app_context():
                    _service().give_up(task)


@shared_task(name="artifact_cache.refresh", ignore_result=True)  # type: ignore[untyped-decorator]
def refresh(message: Mapping[str, Any]) -> None:
    """Do a task that a web process has sent."""
    perform(_service(), Task.from_dict(message))


@shared_task(name="artifact_cache.refresh_due", ignore_result=True)  # type: ignore[untyped-decorator]
def refresh_due() -> int:
    """Send a task for each collection that was not verified within its TTL; for beat.

    :returns: how many.
    """
    service = _service()
    due = service.due()
    for collection_id, since in due.items():
        service.submit(Task(Selection(collection_id), trigger="schedule", unless_since=since))
    return len(due)


def _service() -> ArtifactCacheService:
    service: ArtifactCacheService = current_app.extensions["artifact_cache"].service
    return service
