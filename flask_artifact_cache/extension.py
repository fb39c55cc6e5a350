"""``ArtifactCache``: the wiring, nothing else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy

from . import background, database, events, metrics, settings
from .cli import cli
from .errors import ConfigurationError
from .files.manager import CollectionManager
from .refresh.run import utc_now
from .service import ArtifactCacheService
from .tasks import Background
from .web import api, page
from .web.guard import Authorize, Guard
from .web.rates import Rates

if TYPE_CHECKING:
    from flask_limiter import Limiter
    from prometheus_client import CollectorRegistry

log = logging.getLogger("flask_artifact_cache")


@dataclass(frozen=True, slots=True)
class Mounted:
    """What belongs to one application; ``app.extensions["artifact_cache"]``."""

    db: SQLAlchemy
    settings: settings.Settings
    service: ArtifactCacheService
    guard: Guard
    state: metrics.State
    # What the page has made of the app's templates, once there was a request for it.
    templates: dict[str, Any] = field(default_factory=dict)


class ArtifactCache:
    """Mounts the artifact cache on an application that already has a ``db``.

    :param app: if given, :meth:`init_app` is called with it.
    :param db: the host's ``SQLAlchemy``; found on the application if it is left out.
    :param limiter: the host's ``flask_limiter.Limiter``, whose storage and strategy our limits
        use; found on the application if it is left out.
    :param authorize: asked as ``authorize(permission, collection_id)`` before every request
        that no token allows; the permission is ``"read"`` or ``"refresh"``, and an id of None
        means all collections. False answers 403; only True lets something be changed.
    :param registry: a registry of the host's, which tells our metrics, too; without one they are
        at our own address alone.
    :param clock: tells the time as an aware datetime.
    :param monotonic: seconds that nobody sets, for how long GitHub takes.
    """

    def __init__(
        self,
        app: Flask | None = None,
        db: SQLAlchemy | None = None,
        *,
        limiter: Limiter | None = None,
        authorize: Authorize | None = None,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._limiter = limiter
        self._authorize = authorize
        self._registry = registry
        self._clock, self._monotonic = clock, monotonic
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Register with ``app``; call it after ``db.init_app(app)``.

        :raises RuntimeError: if Flask-SQLAlchemy is not set up on ``app`` yet, or the cache is.
        :raises ConfigurationError: naming the setting that is wrong.
        """
        db = app.extensions.get("sqlalchemy")
        if db is None:
            raise RuntimeError(
                "This app has no Flask-SQLAlchemy yet. Make 'db = SQLAlchemy(app)', or call"
                " 'db.init_app(app)', before the artifact cache is mounted on it."
            )
        if self._db not in (None, db):
            raise RuntimeError("The 'db' given to ArtifactCache is not the one of this app.")
        if api.ENDPOINT in app.extensions:
            raise RuntimeError("The artifact cache is already mounted on this app.")

        checked = settings.load(app.config, app.instance_path, app.root_path)
        collections = _collections(checked)
        counters = metrics.Counters()
        service = ArtifactCacheService(
            db, checked, collections, self._clock, counters, self._monotonic
        )
        state = metrics.State(app, service.stats)
        if self._registry is not None:
            metrics.register(self._registry, counters, state)
        guard = Guard(checked, Rates(self._limiter, checked.limits), self._authorize)
        app.extensions[api.ENDPOINT] = Mounted(db, checked, service, guard, state)

        if checked.migrations == "host":
            database.hand_over(database.host_metadata(db))
        else:
            database.follow_create_all(database.host_metadata(db))
        database.hide_from_autogenerate(app, db)
        app.register_blueprint(api.blueprint(checked.api_prefix, guard))
        if checked.page_prefix is not None:
            app.register_blueprint(page.blueprint(checked.page_prefix, guard))
        app.cli.add_command(cli)
        service.background = _background(app, checked.background)
        background.check_when_serving(app, service)
        events.listen(app)

    @property
    def service(self) -> ArtifactCacheService:
        """The cache of the current application."""
        mounted: Mounted = current_app.extensions[api.ENDPOINT]
        return mounted.service

    @property
    def collector(self) -> metrics.State:
        """The gauges of the current application, for a registry beside a multiprocess collector."""
        mounted: Mounted = current_app.extensions[api.ENDPOINT]
        return mounted.state


def _collections(checked: settings.Settings) -> CollectionManager:
    """The file side, which knows of no settings, so that a host may make one by itself."""
    try:
        return CollectionManager(checked.collections)
    except ConfigurationError as error:
        raise ConfigurationError(f"ARTIFACT_CACHE_COLLECTIONS is not right: {error}") from error


def _background(app: Flask, kind: str) -> Background | None:
    """Where the refreshes are done that no request waits for."""
    if kind == "none":
        return None
    if kind == "thread":
        return background.threads(app)
    try:
        from .celery_tasks import Celery
    except ImportError:
        raise ConfigurationError(
            "ARTIFACT_CACHE_BACKGROUND is 'celery': pip install 'flask-artifact-cache[celery]'"
        ) from None
    return Celery(app)
