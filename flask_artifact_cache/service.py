"""What the routes, the commands and hosts call."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from typing import Any

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from . import freshness, queries
from .bodies import Bodies, Body, etag
from .database import engine_of, schema_error
from .errors import (
    AmbiguousIdError,
    ArtifactCacheError,
    BusyError,
    ConfigurationError,
    InvalidRequestError,
    NotFoundError,
    NotPopulatedError,
    RootUnavailableError,
)
from .files.manager import COLLECTION_ID, ArtifactManager, CollectionManager
from .models import Artifact
from .queries import Filters, Head, Listing, Moment
from .refresh import runs, store
from .refresh.changes import UNCHANGED, Change
from .refresh.records import as_json
from .refresh.report import Report, Result, Synced
from .refresh.requests import Refresher
from .refresh.run import Order, Progress, ignore, utc_now
from .refresh.selection import Known, Selection
from .refresh.transactions import Transactions, in_session, on_engine
from .settings import DEFAULTS, Settings

log = logging.getLogger("flask_artifact_cache")

DEFAULT = "default"
# What a run that the daemon asked for is triggered by.
DAEMON = "daemon"
# Less than the lease: a run that waits is known to be alive.
BACKGROUND_WAIT_S = 50.0
# How often an answer is put together at most while refreshes come between.
MAX_LOOKS = 3
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

    def collection_list(self, *, with_paths: bool = False) -> list[dict[str, Any]]:
        """Every collection, configured or with rows, with its counts.

        :param with_paths: tell where the configured ones lie, too.
        """
        shown = ("id", "path_available", "artifact_count", "stale_count", "revision")
        listed = [
            {**{name: one[name] for name in shown}, "last_refreshed_at": one["last_refreshed_at"]}
            for one in self.status()
        ]
        for one in listed if with_paths else ():
            if one["id"] in self.collections.ids():
                one["path"] = str(self.collections.artifacts(one["id"]).root.absolute())
        return listed

    def status(self) -> list[dict[str, Any]]:
        """As :meth:`collection_list`, with the count of each state and all problems.

        ``daemon_seen_at`` is when the daemon last asked for a refresh of the collection.
        """
        with self._read() as connection:
            heads = {one.id: one for one in queries.heads(connection)}
            at = Moment(
                self._clock(),
                self.settings.ttl,
                {one.id: one.verified_at for one in heads.values() if one.revision},
            )
            counts = queries.state_counts(connection, at)
            problems = queries.problems(connection)
            daemon = runs.last(connection, DAEMON)
        for collection_id in self.collections.ids():
            heads.setdefault(collection_id, Head(collection_id, 0, 0, False, None, True, ""))
        return [
            {
                "id": one.id,
                "path_available": one.path_available,
                "artifact_count": one.artifact_count if one.revision else 0,
                "stale_count": states.get("stale", 0),
                "revision": one.revision,
                "last_refreshed_at": one.verified_at and freshness.isoformat(one.verified_at),
                "states": states,
                "problems": problems.get(one.id, []),
                "daemon_seen_at": daemon.get(one.id) and freshness.isoformat(daemon[one.id]),
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
                total = page.count
            else:
                total = self._count(connection, one, listing.filters, at)
            info = {
                "has_next_page": page.has_next_page,
                "end_cursor": page.end_cursor,
                "total_count": total,
            }
            data = b"".join((b'{"items":[', *page.parts, b'],"page_info":', as_json(info), b"}"))
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
        force: bool = True,
        confirm: str | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
        unless_since: datetime | None = None,
    ) -> Report:
        """Read every artifact of a configured collection into the cache.

        :param force: open every file, not only those whose evidence has changed.
        :param confirm: the id of a run whose removals were held back, to let them happen.
        :param unless_since: do nothing if all of it was verified since then.
        :raises ConfigurationError: if the collection is not configured.
        :raises BusyError: if another process is at it.
        :raises RootUnavailableError: if the folder cannot be read.
        """
        order = self._order(Selection(collection_id), trigger, force, confirm, dry_run)
        order = replace(order, unless_since=unless_since)
        managers = {collection_id: self.configured(collection_id)}
        with self._transactions() as transactions:
            refresher = Refresher(
                transactions,
                managers,
                self._clock,
                wait_s=0,
                joins=False,
                progress=progress or ignore,
            )
            return refresher.refresh(order).reports[0]

    def refresh(
        self,
        selection: Selection | None = None,
        *,
        trigger: str = "refresh",
        force: bool = False,
        confirm: str | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> Result:
        """Verify the rows that are meant against their files, and read what has changed.

        Waits for an identical refresh that is running, and tells its result.

        :param force: open every file that is meant, whatever its evidence says.
        :param confirm: the id of a run whose removals were held back, to let them happen.
        :raises NotFoundError: if there is no such collection.
        :raises BusyError: if another refresh of the collection takes too long.
        :raises RootUnavailableError: if the folder of the only collection cannot be read.
        :raises InvalidRequestError: if there is no such run to confirm.
        """
        selection = selection or Selection()
        order = self._order(selection, trigger, force, confirm, dry_run)
        with self._transactions() as transactions:
            refresher = Refresher(
                transactions,
                self._managers(selection.collection_id),
                self._clock,
                progress=progress or ignore,
            )
            return refresher.refresh(order)

    def start_refresh(
        self,
        selection: Selection | None = None,
        *,
        trigger: str = "refresh",
        force: bool = False,
        confirm: str | None = None,
    ) -> str | None:
        """As :meth:`refresh`, in the background; the id of the run, see :meth:`run`.

        None, and nothing is done, where this app has no background.
        """
        if self.settings.background == "none" or self.in_memory:
            return None
        selection = selection or Selection()
        order = self._order(selection, trigger, force, confirm, dry_run=False)
        with self._transactions() as transactions:
            refresher = Refresher(
                transactions,
                self._managers(selection.collection_id),
                self._clock,
                wait_s=BACKGROUND_WAIT_S,
                known=True,
            )
        refresh_id, joined = refresher.queue(order)
        if not joined:
            threading.Thread(
                target=_work,
                args=(refresher, refresh_id, order),
                name=f"artifact-cache-{refresh_id[:8]}",
                daemon=True,
            ).start()
        return refresh_id

    def sync_artifact(
        self, artifact_id: str, collection_id: str | None = None, *, trigger: str = "sync"
    ) -> Synced:
        """Read one artifact again, by ``uid`` or ``type:name``, whatever its evidence says.

        :param collection_id: None looks in every configured collection.
        :raises NotFoundError: if there is neither a row nor a file, or no such collection.
        :raises AmbiguousIdError: if several share the id.
        :raises MassLossError: if it is gone together with unbelievably many others.
        :raises BusyError: if a refresh of the collection takes too long.
        """
        managers = self._managers(collection_id)
        with self._read() as connection:
            uids = {
                uid: one
                for one in managers
                for uid in store.uids_of(connection, one, [artifact_id]).get(artifact_id, ())
            }
            known = [row for row, _ in store.known_by_uid(connection, list(uids)).values()]
        if len(known) > 1:
            raise _ambiguous(artifact_id, [(row.uid, row.path) for row in known])
        if not known:
            return self._sync_new(managers, artifact_id, trigger)
        row = known[0]
        collection_id = uids[row.uid]
        manager = managers[collection_id]
        synced = self._sync(collection_id, manager, artifact_id, row, trigger)
        if synced is None:
            # It vanished while we looked, or another refresh has just removed its row.
            raise BusyError(f"the file of '{artifact_id}' is just being replaced", retry_after=1)
        if synced.status == "removed" and ":" in artifact_id:
            # It may have moved: another file may be called so now.
            return self._sync(collection_id, manager, artifact_id, None, trigger) or synced
        return synced

    def _sync_new(
        self, managers: Mapping[str, ArtifactManager], artifact_id: str, trigger: str
    ) -> Synced:
        """Read an artifact that has no row yet, or is called otherwise in its row."""
        found: list[Synced] = []
        failures: list[ArtifactCacheError] = []
        for collection_id, manager in managers.items():
            try:
                synced = self._sync(collection_id, manager, artifact_id, None, trigger)
            except (RootUnavailableError, BusyError) as error:
                failures.append(error)
                continue
            if synced is not None:
                found.append(synced)
        if len(found) > 1:
            with self._read() as connection:
                uids = [
                    uid
                    for one in found
                    for uid in store.uids_of(connection, one.collection_id, [artifact_id])[
                        artifact_id
                    ]
                ]
                rows = [row for row, _ in store.known_by_uid(connection, uids).values()]
            raise _ambiguous(artifact_id, [(row.uid, row.path) for row in rows])
        if found:
            return found[0]
        if failures:
            raise failures[0]
        raise NotFoundError(f"there is no artifact '{artifact_id}'")

    def _sync(
        self,
        collection_id: str,
        manager: ArtifactManager,
        artifact_id: str,
        row: Known | None,
        trigger: str,
    ) -> Synced | None:
        wanted = artifact_id if row is None else row.uid
        changes: list[Change] = []

        def observe(change: Change) -> None:
            if wanted in (change.record.uid, change.record.artifact_id):
                changes.append(change)

        orders = [self._order(Selection(collection_id, artifact_ids=(wanted,)), trigger, True)]
        if row is None:
            # A row that is called otherwise so far is among what has changed.
            orders.append(self._order(Selection(collection_id), trigger, False))
        for order in orders:
            with self._transactions() as transactions:
                managers = {collection_id: manager}
                [report] = (
                    Refresher(transactions, managers, self._clock, joins=False, observe=observe)
                    .refresh(order)
                    .reports
                )
            if changes:
                break
        if row is not None:
            report.raise_if_withheld()
        synced_at = freshness.isoformat(self._clock())
        if not changes and report.removed and row is not None:
            return Synced(row.artifact_id, collection_id, synced_at, (), "removed")
        if len(changes) > 1:
            candidates = [(one.record.uid, one.record.columns["path"]) for one in changes]
            raise _ambiguous(wanted, candidates)
        if not changes:
            return None
        [change] = changes
        quarantined = change.condition == freshness.QUARANTINED
        return Synced(
            change.record.artifact_id,
            collection_id,
            synced_at,
            () if change.kind == UNCHANGED else change.fields_updated,
            freshness.QUARANTINED if quarantined else change.kind,
        )

    def invalidate(
        self, collection_id: str | None = None, artifact_ids: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Say that rows are stale, until a refresh has read their files again.

        :param collection_id: None means every configured collection.
        :param artifact_ids: uids, or ``type:name`` for all that are called so; None means all.
        :returns: ``invalidated``, how many rows that has changed, and ``unknown``, the ids that
            nothing is called by.
        :raises NotFoundError: if there is no such collection.
        """
        invalidated = 0
        unknown = set(artifact_ids or ())
        with self._transactions() as transactions:
            for one in self._managers(collection_id):
                with transactions.write() as connection:
                    store.lock(connection, one)
                    uids: list[str] | None = None
                    if artifact_ids is not None:
                        found = store.uids_of(connection, one, artifact_ids)
                        unknown -= found.keys()
                        uids = sorted({uid for uids_ in found.values() for uid in uids_})
                    changed = store.invalidate(connection, one, uids)
                    if changed:
                        store.publish(connection, one, recount=False, evidence=None)
                    invalidated += changed
        return {"invalidated": invalidated, "unknown": sorted(unknown)}

    def runs(self, limit: int = 50, collection_id: str | None = None) -> list[dict[str, Any]]:
        """The newest refresh runs, each without its errors."""
        with self._read() as connection:
            return runs.recent(connection, limit, collection_id)

    def run(self, refresh_id: str) -> dict[str, Any]:
        """A refresh run with its progress, its counts and its errors.

        :raises NotFoundError: if there is none, or it was too long ago.
        """
        with self._read() as connection:
            found = runs.one(connection, refresh_id)
        if found is None:
            raise NotFoundError(f"there is no refresh '{refresh_id}'")
        return found

    def collection_of_run(self, refresh_id: str) -> str:
        """The collection whose removals a run has held back.

        :raises InvalidRequestError: if there is no such run.
        """
        with self._read() as connection:
            found = runs.withheld_in(connection, refresh_id)
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

    def _order(
        self,
        selection: Selection,
        trigger: str,
        force: bool,
        confirm: str | None = None,
        dry_run: bool = False,
    ) -> Order:
        percent = self.settings.mass_loss_percent
        return Order(selection, trigger, force, confirm, percent, dry_run)

    def _managers(self, collection_id: str | None) -> dict[str, ArtifactManager]:
        """The file side of a collection; of all, where None is asked for or it gathers them."""
        ids = self.collections.ids()
        if collection_id is not None:
            with self._read() as connection:
                gathers = store.head(connection, collection_id).gathers
            if not gathers:
                ids = [collection_id]
            if collection_id not in self.collections.ids() and not gathers:
                raise NotFoundError(f"there is no collection '{collection_id}'")
        if not ids:
            raise NotFoundError("no collection is configured")
        return {one: self.collections.artifacts(one) for one in ids}

    def _body(
        self,
        collection_id: str,
        key: Hashable,
        make: Callable[[Connection, Head, Moment], Made],
    ) -> Body:
        """What ``make`` gives as data, end of validity and next cursor; kept while it holds."""
        now = self._clock()
        engine = self._engine()
        place = (collection_id, key)
        kept = self._bodies.get(place)
        if kept is not None and engine is not None:
            stamp = queries.quick_stamp(engine, collection_id)
            if stamp is not None and kept.holds(stamp, now):
                return kept.body
        if not COLLECTION_ID.fullmatch(collection_id):
            # MariaDB would find 'work' by 'work ', and the host's 'authorize' was asked for that.
            self._populated(collection_id, None)
        look = queries.head if engine is None else queries.first_head
        with self._read() as connection:
            one = self._populated(collection_id, look(connection, collection_id))
            if kept is not None and kept.holds(one.stamp, now):
                return kept.body
            for again in reversed(range(MAX_LOOKS)):
                at = queries.moment(connection, one, now, self.settings.ttl)
                data, expires_at, next_cursor = make(connection, one, at)
                # It takes several statements, and a refresh may have come between two of them.
                if not (again and queries.has_moved(connection, one)):
                    break
                one = self._populated(collection_id, look(connection, collection_id))
        spelt = repr(place)
        body = Body(data, etag(spelt, one.stamp, expires_at), expires_at, next_cursor)
        self._bodies.put(place, body, one.stamp, now, len(spelt))
        return body

    def _count(self, connection: Connection, one: Head, filters: Filters, at: Moment) -> int:
        if filters == Filters():
            return one.artifact_count
        place = (one.id, filters)
        kept = self._bodies.get(place)
        if kept is not None and kept.holds(one.stamp, at.now):
            return int(kept.body.data)
        counted = queries.count(connection, one, filters, at)
        expires_at = queries.next_change(connection, at) if filters.states else None
        body = Body(str(counted).encode(), "", expires_at)
        self._bodies.put(place, body, one.stamp, at.now, len(repr(place)))
        return counted

    def _populated(self, collection_id: str, one: Head | None) -> Head:
        """The collection, if it was read.

        :raises NotFoundError: if there is no such collection.
        :raises NotPopulatedError: if it has not been read yet.
        """
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
        try:
            yield in_session(session())
        except ArtifactCacheError:
            # What is known of the failure is kept.
            if ours:
                session.commit()
            raise
        except BaseException:
            if ours:
                session.rollback()
            raise
        if ours:
            session.commit()

    def _read(self) -> AbstractContextManager[Connection]:
        engine = self._engine()
        if engine is None:
            session = self._db.session
            return nullcontext(session.connection(bind_arguments={"mapper": Artifact.__mapper__}))
        # 30 us less than by way of the session, a tenth of a whole answer.
        return engine.connect()

    def _engine(self) -> Engine | None:
        """The host's engine; None where only its session may be used.

        That is a test's connection in place of the engine, or a database in memory, which is a
        single connection: closing it would roll back what the host has not committed.
        """
        engine = engine_of(self._db)
        # The pool tells, as in 'in_memory'; every read comes by here, so it is not asked twice.
        shared = not isinstance(engine, Engine) or isinstance(engine.pool, StaticPool)
        return None if shared else engine


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
    order = Order(Selection(collection_id), "populate", True, confirm, mass_loss_percent)
    return _in_session(session, {collection_id: artifact_mgr}, order)[0]


def migrate_artifacts_to_default_collection(
    session: Session, artifact_mgr: ArtifactManager, collection_mgr: CollectionManager
) -> list[Report]:
    """Make every artifact of every configured collection a member of ``default``.

    Each collection is populated, then the collection ``default`` gathers them all, now and
    after every later refresh. One transaction, the caller's; nothing is committed.

    :param artifact_mgr: a root that belongs to ``default`` itself, if no collection has it.
    """
    managers = {one: collection_mgr.artifacts(one) for one in collection_mgr.ids()}
    if artifact_mgr.root not in {manager.root for manager in managers.values()}:
        managers.setdefault(DEFAULT, artifact_mgr)
    reports = [
        report
        for one, manager in managers.items()
        for report in _in_session(
            session, {one: manager}, Order(Selection(one), "migrate", force=True)
        )
    ]
    with in_session(session).write() as connection:
        store.ensure_collection(connection, DEFAULT)
        store.set_gathering(connection, DEFAULT)
        store.gather(connection, DEFAULT, store.complete(connection))
        store.publish(connection, DEFAULT)
    return reports


def _in_session(
    session: Session, managers: Mapping[str, ArtifactManager], order: Order
) -> Sequence[Report]:
    refresher = Refresher(in_session(session), managers, wait_s=0, joins=False)
    return refresher.refresh(order).reports


def _work(refresher: Refresher, refresh_id: str, order: Order) -> None:
    """Do a refresh that nobody waits for; its row tells what came of it."""
    try:
        refresher.work(refresh_id, order)
    except ArtifactCacheError as error:
        log.warning("refresh %s failed: %s", refresh_id, error)
    except SQLAlchemyError as error:
        log.error("refresh %s failed: %s", refresh_id, schema_error(error) or error)


def _ambiguous(artifact_id: str, candidates: Sequence[tuple[str, str]]) -> AmbiguousIdError:
    return AmbiguousIdError(
        f"{len(candidates)} artifacts are called '{artifact_id}'; ask by uid", candidates
    )


def _states(one: Head, counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """How many members of a collection are in which state."""
    if not one.revision:
        return {}
    owners = counts if one.gathers else (one.id,)
    total = queries.totals(counts.get(owner, {}) for owner in owners)
    return {state: total[state] for state in freshness.STATES if state in total}
