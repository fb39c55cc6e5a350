"""What the routes, the commands and hosts call."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from . import freshness, queries
from .bodies import Bodies, Body, etag
from .database import engine_of
from .errors import ConfigurationError, InvalidRequestError, NotFoundError, NotPopulatedError
from .files.manager import COLLECTION_ID, ArtifactManager, CollectionManager
from .models import Artifact
from .queries import Filters, Head, Listing, Moment
from .refresh import store
from .refresh.records import as_json
from .refresh.run import Progress, Report, populate, utc_now
from .refresh.transactions import Transactions, in_session, on_engine
from .settings import DEFAULTS, Settings

DEFAULT = "default"
Made = tuple[bytes, "datetime | None", "str | None"]


class ArtifactCacheService:
    """The cache of one application; its methods need an application context.

    Reads and writes run in short transactions of their own, on the host's engine.
    """

    def __init__(
        self,
        db: SQLAlchemy,
        settings: Settings,
        collections: CollectionManager,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.settings = settings
        self.collections = collections
        self._db = db
        self._clock = clock
        self._bodies = Bodies()

    def now(self) -> datetime:
        """The time by the clock that the application gave."""
        return self._clock()

    # --- reading -----------------------------------------------------------------------------

    def verified_since(self, collection_id: str, time: datetime) -> bool:
        """Whether all of a collection was verified against its files after ``time``."""
        with self._read() as connection:
            one = queries.head(connection, collection_id)
        return one is not None and one.verified_at is not None and one.verified_at >= time

    def collection_list(self) -> list[dict[str, Any]]:
        """Every collection, configured or with rows, with its counts."""
        shown = ("id", "path_available", "artifact_count", "stale_count", "revision")
        return [
            {**{name: one[name] for name in shown}, "last_refreshed_at": one["last_refreshed_at"]}
            for one in self.status()
        ]

    def status(self) -> list[dict[str, Any]]:
        """As :meth:`collection_list`, with the count of each state and all problems."""
        with self._read() as connection:
            heads = {one.id: one for one in queries.heads(connection)}
            at = Moment(
                self._clock(),
                self.settings.ttl,
                {one.id: one.verified_at for one in heads.values() if one.revision},
            )
            counts = queries.state_counts(connection, at)
            problems = queries.problems(connection)
        for collection_id in self.collections.ids():
            heads.setdefault(collection_id, Head(collection_id, 0, 0, False, None, True, ""))
        return [
            {
                "id": one.id,
                "path_available": one.path_available,
                "artifact_count": one.artifact_count if one.revision else 0,
                "stale_count": states.get("stale", 0),
                "revision": one.revision,
                "last_refreshed_at": one.verified_at and queries.isoformat(one.verified_at),
                "states": states,
                "problems": problems.get(one.id, []),
            }
            for one in sorted(heads.values(), key=lambda one: one.id)
            for states in (_states(one, counts),)
        ]

    def listing(self, collection_id: str, listing: Listing) -> Body:
        """A page of artifacts as JSON; its ``next_cursor`` leads to the page after it.

        :raises NotFoundError: if there is no such collection.
        :raises NotPopulatedError: if it has not been read yet.
        :raises InvalidRequestError: if the cursor is not one of this listing.
        """

        def make(connection: Connection, one: Head, at: Moment) -> Made:
            page = queries.page(connection, one, listing, at)
            if listing.after is None and not page.has_next_page:
                total = len(page.items)
            else:
                total = self._count(connection, one, listing.filters, at)
            info = {
                "has_next_page": page.has_next_page,
                "end_cursor": page.end_cursor,
                "total_count": total,
            }
            listed = b",".join(page.items)
            data = b"".join((b'{"items":[', listed, b'],"page_info":', as_json(info), b"}"))
            expires_at = page.expires_at
            if listing.filters.states:
                expires_at = queries.next_change(connection, at)
            return data, expires_at, page.end_cursor if page.has_next_page else None

        return self._body(collection_id, listing, make)

    def facets(self, collection_id: str, filters: Filters, limit: int) -> Body:
        """How often each value of each facet occurs among the artifacts that the filters leave."""

        def make(connection: Connection, one: Head, at: Moment) -> Made:
            found = queries.facets(connection, one, filters, at, limit)
            return as_json({"facets": found}), queries.next_change(connection, at), None

        return self._body(collection_id, ("facets", filters, limit), make)

    def detail(self, collection_id: str, artifact_id: str) -> Body:
        """One artifact, by ``uid`` or ``type:name``, with its details, as JSON.

        :raises NotFoundError: if there is no such artifact.
        :raises AmbiguousIdError: if several share the id.
        """

        def make(connection: Connection, one: Head, at: Moment) -> Made:
            key = queries.find(connection, one, artifact_id)
            return *queries.detail(connection, key, at), None

        return self._body(collection_id, ("detail", artifact_id), make)

    def get(self, collection_id: str, artifact_id: str) -> dict[str, Any]:
        """One artifact as :meth:`detail` serves it."""
        found: dict[str, Any] = json.loads(self.detail(collection_id, artifact_id).data)
        return found

    # --- writing -----------------------------------------------------------------------------

    def populate(
        self,
        collection_id: str,
        *,
        trigger: str = "populate",
        confirm: str | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Report:
        """Read every artifact of a configured collection into the cache.

        :param confirm: the id of a run whose removals were held back, to let them happen.
        :raises ConfigurationError: if the collection is not configured.
        :raises BusyError: if another process is at it.
        :raises RootUnavailableError: if the folder cannot be read.
        """
        manager = self.configured(collection_id)
        with self._transactions() as transactions:
            return populate(
                transactions,
                manager,
                collection_id,
                trigger=trigger,
                mass_loss_percent=self.settings.mass_loss_percent,
                confirm=confirm,
                dry_run=dry_run,
                progress=progress,
                clock=self._clock,
            )

    def collection_of_run(self, refresh_id: str) -> str:
        """The collection that a run was about.

        :raises InvalidRequestError: if there is no such run.
        """
        with self._read() as connection:
            found = queries.collection_of_run(connection, refresh_id)
        if found is None:
            raise InvalidRequestError(f"there is no run '{refresh_id}'")
        return found

    def configured(self, collection_id: str) -> ArtifactManager:
        """The file side of a collection.

        :raises ConfigurationError: if it is not configured.
        """
        if collection_id not in self.collections.ids():
            known = ", ".join(self.collections.ids()) or "none"
            raise ConfigurationError(
                f"'{collection_id}' is not in ARTIFACT_CACHE_COLLECTIONS (configured: {known})"
            )
        return self.collections.artifacts(collection_id)

    # --- parts -------------------------------------------------------------------------------

    def _body(
        self,
        collection_id: str,
        key: Hashable,
        make: Callable[[Connection, Head, Moment], Made],
    ) -> Body:
        """What ``make`` gives as data, end of validity and next cursor; kept while it holds."""
        now = self._clock()
        one = self._head(collection_id)

        def fresh() -> Body:
            with self._read() as connection:
                at = queries.moment(connection, one, now, self.settings.ttl)
                data, expires_at, next_cursor = make(connection, one, at)
            tag = etag(collection_id, key, one.stamp, expires_at)
            return Body(data, tag, expires_at, next_cursor)

        return self._bodies.get((collection_id, key), one.stamp, now, fresh)

    def _count(self, connection: Connection, one: Head, filters: Filters, at: Moment) -> int:
        def make() -> Body:
            counted = str(queries.count(connection, one, filters, at)).encode()
            expires_at = queries.next_change(connection, at) if filters.states else None
            return Body(counted, "", expires_at)

        return int(self._bodies.get((one.id, filters), one.stamp, at.now, make).data)

    def _head(self, collection_id: str) -> Head:
        engine = self._engine()
        if not COLLECTION_ID.fullmatch(collection_id):
            # MariaDB would find 'work' by 'work ', and the host's 'authorize' was asked for that.
            one = None
        elif engine is not None:
            one = queries.quick_head(engine, collection_id)
        else:
            with self._read() as connection:
                one = queries.head(connection, collection_id)
        if one is not None and one.revision:
            return one
        if one is None and collection_id not in self.collections.ids():
            raise NotFoundError(f"there is no collection '{collection_id}'")
        raise NotPopulatedError(
            f"'{collection_id}' has not been read yet; 'flask artifact-cache populate' reads it",
            retry_after=2,
        )

    @property
    def in_memory(self) -> bool:
        """Whether the database is a single connection, which the host uses, too."""
        return isinstance(getattr(engine_of(self._db), "pool", None), StaticPool)

    @contextmanager
    def _transactions(self) -> Iterator[Transactions]:
        """Transactions of our own; in a database in memory, where there is only one, the host's.

        That one is ended here only if the host had nothing in it.
        """
        if not self.in_memory:
            yield on_engine(engine_of(self._db))
            return
        session = self._db.session
        connection = session.connection(bind_arguments={"mapper": Artifact.__mapper__})
        raw = connection.connection.dbapi_connection
        ours = not (
            session.new or session.dirty or session.deleted or getattr(raw, "in_transaction", True)
        )
        yield in_session(session())
        if ours:
            session.commit()

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        engine = self._engine()
        if engine is None:
            yield self._db.session.connection(bind_arguments={"mapper": Artifact.__mapper__})
            return
        # 30 us less than by way of the session, a tenth of a whole answer.
        with engine.connect() as connection:
            yield connection

    def _engine(self) -> Engine | None:
        """The host's engine; None where only its session may be used.

        That is a test's connection in place of the engine, or a database in memory, which is a
        single connection: closing it would roll back what the host has not committed.
        """
        engine = engine_of(self._db)
        return engine if isinstance(engine, Engine) and not self.in_memory else None


def populate_artifact_metadata(
    session: Session,
    artifact_mgr: ArtifactManager,
    collection_id: str,
    *,
    mass_loss_percent: float = DEFAULTS["ARTIFACT_CACHE_MASS_LOSS_PERCENT"],
    confirm: str | None = None,
) -> Report:
    """Read every artifact of a collection and upsert its row, in the caller's transaction.

    Nothing is committed: what the session does with it is the caller's decision.

    :param confirm: the id of a run whose removals were held back, to let them happen.
    :raises ConfigurationError: if the id is none.
    """
    if not COLLECTION_ID.fullmatch(collection_id):
        raise ConfigurationError(
            f"{collection_id!r} is no id of a collection, which is {COLLECTION_ID.pattern}"
        )
    return populate(
        in_session(session),
        artifact_mgr,
        collection_id,
        mass_loss_percent=mass_loss_percent,
        confirm=confirm,
    )


def migrate_artifacts_to_default_collection(
    session: Session, artifact_mgr: ArtifactManager, collection_mgr: CollectionManager
) -> list[Report]:
    """Make every artifact of every configured collection a member of ``default``.

    Each collection is populated, then the collection ``default`` gathers them all, now and
    after every later refresh. One transaction, the caller's; nothing is committed.

    :param artifact_mgr: a root that belongs to ``default`` itself, if no collection has it.
    """
    transactions = in_session(session)
    managers = {one: collection_mgr.artifacts(one) for one in collection_mgr.ids()}
    if artifact_mgr.root not in {manager.root for manager in managers.values()}:
        managers.setdefault(DEFAULT, artifact_mgr)
    reports = [
        populate(transactions, manager, collection_id, trigger="migrate")
        for collection_id, manager in managers.items()
    ]
    with transactions.write() as connection:
        store.ensure_collection(connection, DEFAULT)
        store.set_gathering(connection, DEFAULT)
        store.gather(connection, DEFAULT, store.complete(connection))
        store.publish(connection, DEFAULT)
    return reports


def _states(one: Head, counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """How many members of a collection are in which state."""
    if not one.revision:
        return {}
    owners = counts if one.gathers else (one.id,)
    total = queries.totals(counts.get(owner, {}) for owner in owners)
    return {state: total[state] for state in freshness.STATES if state in total}
