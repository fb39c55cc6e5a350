"""``ArtifactCache``: the wiring, nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from flask import Flask, current_app
from flask_sqlalchemy import SQLAlchemy

from . import background, database, settings
from .cli import cli
from .files.manager import CollectionManager
from .refresh.run import utc_now
from .service import ArtifactCacheService
from .web import api
from .web.guard import Authorize, Guard
from .web.rates import Rates

if TYPE_CHECKING:
    from flask_limiter import Limiter

log = logging.getLogger("flask_artifact_cache")


@dataclass(frozen=True, slots=True)
class Mounted:
    """What belongs to one application; ``app.extensions["artifact_cache"]``."""

    db: SQLAlchemy
    settings: settings.Settings
    service: ArtifactCacheService
    guard: Guard


class ArtifactCache:
    """Mounts the artifact cache on an application that already has a ``db``.

    :param app: if given, :meth:`init_app` is called with it.
    :param db: the host's ``SQLAlchemy``; found on the application if it is left out.
    :param limiter: the host's ``flask_limiter.Limiter``, whose storage and strategy our limits
        use; found on the application if it is left out.
    :param authorize: asked as ``authorize(permission, collection_id)`` before every request
        that no token allows; the permission is ``"read"`` or ``"refresh"``, and an id of None
        means all collections. False answers 403; only True lets something be changed.
    :param clock: tells the time as an aware datetime.
    """

    def __init__(
        self,
        app: Flask | None = None,
        db: SQLAlchemy | None = None,
        *,
        limiter: Limiter | None = None,
        authorize: Authorize | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._db = db
        self._limiter = limiter
        self._authorize = authorize
        self._clock = clock
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Register with ``app``; call it after ``db.init_app(app)``.

        :raises RuntimeError: if Flask-SQLAlchemy is not set up on ``app`` yet, or the cache is.
        :raises ConfigurationError: naming the setting that is wrong.
        """
        db = app.extensions.get("sqlalchemy")
        if db is None:
            raise RuntimeError("Call 'db.init_app(app)' before 'ArtifactCache.init_app(app)'.")
        if self._db not in (None, db):
            raise RuntimeError("The 'db' given to ArtifactCache is not the one of this app.")
        if api.ENDPOINT in app.extensions:
            raise RuntimeError("The artifact cache is already mounted on this app.")

        checked = settings.load(app.config)
        collections = CollectionManager(checked.collections)
        service = ArtifactCacheService(db, checked, collections, self._clock)
        guard = Guard(checked, Rates(self._limiter, checked.limits), self._authorize)
        app.extensions[api.ENDPOINT] = Mounted(db, checked, service, guard)

        if checked.migrations == "host":
            database.hand_over(database.host_metadata(db))
        else:
            database.follow_create_all(database.host_metadata(db))
        database.hide_from_autogenerate(app, db)
        app.register_blueprint(api.blueprint(checked.api_prefix, guard))
        app.cli.add_command(cli)
        background.populate_when_serving(app, service)

    @property
    def service(self) -> ArtifactCacheService:
        """The cache of the current application."""
        mounted: Mounted = current_app.extensions[api.ENDPOINT]
        return mounted.service
