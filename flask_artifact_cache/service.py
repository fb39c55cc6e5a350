"""What the routes, the commands and hosts call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.exc import IntegrityError

from . import freshness, notices, queries
from .database import as_schema_error, engine_of
from .errors import (
    ArtifactCacheError,
    BusyError,
    Candidate,
    ConfigurationError,
    InvalidRequestError,
    NotFoundError,
    ReferencedError,
    RootUnavailableError,
)
from .files.artifact import uid
from .files.manager import ArtifactManager, CollectionManager
from .metrics import Counters
from .models import Artifact
from .reading import Reading, ambiguous
from .refresh import feed, runs, store
from .refresh.changes import CREATED, UNCHANGED, UPDATED, Change
from .refresh.report import SUCCEEDED, Report, Result, Synced
from .refresh.requests import Refresher
from .refresh.run import Order, Progress, ignore, utc_now
from .refresh.selection import Known, Owners, Selection, lone_owners
from .refresh.transactions import Transactions, in_session, on_engine
from .settings import Settings
from .signals import (
    announce,
    artifact_added,
    artifact_removed,
    artifact_updated,
    is_heard,
    refresh_finished,
    version_changed,
)
from .tasks import Background, CoolDown, Gathered, Task

log = logging.getLogger("flask_artifact_cache")

# Less than the lease: a run that waits is known to be alive.
BACKGROUND_WAIT_S = 50.0
# Of so many manifests and the like it is looked up whom they concern.
_FEW_PATHS = 20
_BY_KIND = {CREATED: artifact_added, UPDATED: artifact_updated, "removed": artifact_removed}
_EPOCH = datetime.fromtimestamp(0, timezone.utc)
_MOMENT = timedelta(microseconds=1)


class ArtifactCacheService(Reading):
    """The cache of one application; its methods need an application context.

    Writes, as reads, run in short transactions of their own, on the host's engine, and raise
    :exc:`.SchemaError` if our tables are missing.
    """

    def __init__(
        self,
        db: SQLAlchemy,
        settings: Settings,
        collections: CollectionManager,
        clock: Callable[[], datetime] = utc_now,
        counters: Counters | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(db, settings, collections, clock, counters)
        self.monotonic = monotonic
        self.background: Background | None = None
        # Who has something to say on the pages of a collection.
        self.notices: list[notices.Source] = [self._of_upstream]
        self._gathered = Gathered()
        self._cool_down = CoolDown()

    def _of_upstream(self, _: str) -> list[notices.Notice]:
        """Whoever waits for something new of GitHub is told, in whatever collection."""
        until = self.upstream_limited_until()
        return [notices.Notice("upstream", at=freshness.isoformat(until))] if until else []

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
                **self._told(),
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
                **self._told(),
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
        background = self.background
        if background is None or self.in_memory:
            return None
        selection = selection or Selection()
        order = self._order(selection, trigger, force, confirm, dry_run=False)
        managers = self._managers(selection.collection_id)
        with self._transactions() as transactions:
            refresher = Refresher(transactions, managers, self._clock)
            refresh_id, joined = refresher.queue(order, runs.QUEUED_MS)
            if joined:
                return refresh_id
            task = Task(selection, trigger, force, confirm, run=refresh_id)
            try:
                background.submit(lambda: task)
            except ArtifactCacheError:
                with transactions.write() as connection:
                    for one in managers:
                        runs.forget(connection, refresh_id, one)
                raise
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
            raise ambiguous(
                artifact_id, [Candidate(row.uid, row.path, uids[row.uid]) for row in known]
            )
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
                owners = {
                    uid: one.collection_id
                    for one in found
                    for uid in store.uids_of(connection, one.collection_id, [artifact_id])[
                        artifact_id
                    ]
                }
                rows = [row for row, _ in store.known_by_uid(connection, list(owners)).values()]
            raise ambiguous(
                artifact_id, [Candidate(row.uid, row.path, owners[row.uid]) for row in rows]
            )
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
                refresher = Refresher(
                    transactions,
                    managers,
                    self._clock,
                    joins=False,
                    observe=observe,
                    **self._told(),
                )
                [report] = refresher.refresh(order).reports
            if changes:
                break
        if row is not None:
            report.raise_if_withheld()
            for error in report.errors:
                if error["code"] == ReferencedError.code and not changes:
                    raise ReferencedError(f"'{row.artifact_id}': {error['message']}")
        synced_at = freshness.isoformat(self._clock())
        if not changes and report.removed and row is not None:
            return Synced(row.artifact_id, collection_id, synced_at, (), "removed")
        if len(changes) > 1:
            candidates = [
                Candidate(one.record.uid, one.record.columns["path"], collection_id)
                for one in changes
            ]
            raise ambiguous(wanted, candidates)
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

    def forget(self, collection_id: str) -> int:
        """Remove a collection that is not configured any more, and how many artifacts it had.

        No file is touched. An app that still has it in its settings reads it again.

        :raises ConfigurationError: if it is configured.
        :raises NotFoundError: if there is no such collection.
        :raises ReferencedError: if a table of the app refers to one of its artifacts.
        """
        if collection_id in self.collections.ids():
            raise ConfigurationError(
                f"'{collection_id}' is in ARTIFACT_CACHE_COLLECTIONS; take it out of there first"
            )
        with self._transactions() as transactions, transactions.write() as connection:
            if collection_id not in {one.id for one in queries.heads(connection)}:
                raise NotFoundError(f"there is no collection '{collection_id}'")
            store.lock(connection, collection_id)
            leaving = feed.removed(connection, store.own_ids(connection, collection_id))
            try:
                # All or nothing, also in a transaction that goes on.
                with connection.begin_nested():
                    store.delete_all(connection, list(leaving))
                    store.publish(connection, collection_id)
                    store.forget(connection, collection_id)
            except IntegrityError as error:
                raise ReferencedError(
                    f"a table of the app refers to '{collection_id}' or what is in it;"
                    " nothing is removed"
                ) from error
            feed.Log(collection_id, list(leaving.values())).write(connection, self._clock())
        return len(leaving)

    def runs(self, limit: int = 50, collection_id: str | None = None) -> list[dict[str, Any]]:
        """The newest refresh runs, each without its errors.

        :param collection_id: None means those of all; one that gathers others, too.
        """
        with self._read() as connection:
            one = None if collection_id is None else queries.head(connection, collection_id)
            # MariaDB finds 'default' by 'default ', too.
            of_all = one is not None and one.gathers and one.id == collection_id
            return runs.recent(connection, limit, None if of_all else collection_id)

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

    # --- in the background -------------------------------------------------------------------

    def submit(self, task: Task) -> None:
        """Have a refresh done in the background, if there is one and it has room for it."""
        if self.background is None or self.in_memory:
            return
        try:
            self.background.submit(lambda: task)
        except ArtifactCacheError as error:
            log.warning("'%s' is not refreshed now: %s", task.selection.collection_id, error)

    def perform(self, task: Task) -> None:
        """Do a task now; errors as of :meth:`refresh`.

        A task that is delivered twice does no harm: it is done by then, or under way.
        """
        selection = task.selection
        order = self._order(selection, task.trigger, task.force, task.confirm)
        order = replace(order, unless_since=task.unless_since)
        managers = self._managers(selection.collection_id)
        if task.invalidates:
            self._invalidate_lone(selection)
        with self._transactions() as transactions:
            refresher = Refresher(
                transactions,
                managers,
                self._clock,
                wait_s=BACKGROUND_WAIT_S if task.patient or task.run else 0,
                joins=task.patient,
                known=task.run is not None,
                **self._told(),
            )
            if task.run is None:
                result = refresher.refresh(order)
            else:
                with transactions.read() as connection:
                    done = runs.is_finished(connection, task.run)
                if done:
                    return
                # From now on it is heard of as any other that is at work.
                with transactions.write() as connection:
                    runs.live_on(connection, task.run)
                result = refresher.work(task.run, order)
        # What settles less, as an empty folder, shows in what was verified if it is a success.
        if (
            selection.is_everything
            and selection.collection_id is not None
            and all(report.outcome == SUCCEEDED for report in result.reports)
        ):
            self._cool_down.succeed(selection.collection_id)

    def changed(
        self, collection_id: str, ids: Sequence[str] = (), paths: Sequence[str] = ()
    ) -> None:
        """Take it that files have changed: what they make is stale, and is read again.

        In the background, where there is one; what comes meanwhile is done together.

        :param ids: uids or ``type:name`` of the artifacts.
        :param paths: of files, relative to the root; without either, any may have changed.
        :raises NotFoundError: if there is no such collection.
        """
        if self.background is None or self.in_memory:
            self._invalidate_meant(
                Selection(collection_id, artifact_ids=tuple(ids), paths=tuple(paths))
            )
            return
        if not self._gathered.add(collection_id, ids, paths):
            return

        def make() -> Task | None:
            selection = self._gathered.take(collection_id)
            if selection is None:
                return None
            return Task(selection, trigger="event", patient=True, invalidates=True)

        try:
            self.background.submit(make, gather=collection_id)
        except ArtifactCacheError:
            selection = self._gathered.take(collection_id)
            if selection is not None:
                self._invalidate_meant(selection)
            raise

    def change_again(self, task: Task) -> None:
        """Gather once more what a task that gave way was to read; errors as of :meth:`changed`."""
        selection = task.selection
        assert selection.collection_id is not None
        self.changed(selection.collection_id, selection.artifact_ids, selection.paths)

    def give_up(self, task: Task) -> None:
        """Take it that what a task was to read is stale: nobody does it, until somebody asks."""
        self._invalidate_meant(task.selection)

    def due(self) -> dict[str, datetime]:
        """The configured collections that were not verified within their TTL.

        :returns: of each, since when it would have had to be.
        """
        now = self._clock()
        with self._read() as connection:
            heads = {one.id: one.verified_at for one in queries.heads(connection)}
        return {
            one: now - self.settings.ttl_of(one)
            for one in self.collections.ids()
            if freshness.state(freshness.OK, heads.get(one), now, self.settings.ttl_of(one))
            == freshness.STALE
        }

    def _revalidate(self, collection_id: str, seen: datetime | None, trigger: str) -> None:
        """Start a refresh of what was served stale, or not at all, if none has just begun.

        Without a folder there is nothing to compare it with.

        :param seen: when the collection was verified, as far as was seen; if it was again since
            then, somebody else has done it.
        """
        seen = seen or _EPOCH
        if self.background is None or collection_id not in self.collections.ids():
            return
        if trigger == "miss":
            # Who asks for what is not there gets no second look so soon, whatever the first brings.
            begins = self._cool_down.begin(f"{collection_id}\0{trigger}")
        else:
            begins = self._cool_down.begin(collection_id, seen)
        if begins:
            self.submit(Task(Selection(collection_id), trigger, unless_since=seen + _MOMENT))

    def _told(self) -> dict[str, Any]:
        """What a refresher has to tell, and whom."""
        heard = any(is_heard(signal, self) for signal in (*_BY_KIND.values(), version_changed))
        return {"ended": self._ended, "lists": heard}

    def _ended(self, order: Order, report: Report) -> None:
        """Count a refresh of a collection that has ended, and tell the world."""
        self.counters.refreshed(order, report)
        for change in report.changes:
            told = {
                "collection_id": report.collection_id,
                "artifact_id": change.artifact_id,
                "path": change.path,
            }
            announce(_BY_KIND[change.kind], self, **told)
            if change.other_version:
                announce(version_changed, self, **told)
        announce(refresh_finished, self, report=report)

    def _invalidate_lone(self, selection: Selection) -> None:
        """Say that the artifacts that ids and paths mean by themselves are stale."""
        assert selection.collection_id is not None
        ids = set(selection.artifact_ids)
        for path in selection.paths:
            owners, _ = lone_owners(path)
            ids |= {uid(selection.collection_id, *owner) for owner in owners}
        if ids:
            self.invalidate(selection.collection_id, sorted(ids))

    def _invalidate_meant(self, selection: Selection) -> None:
        """Say that all is stale that may be affected: all of the collection, if nobody knows."""
        collection_id = selection.collection_id
        assert collection_id is not None
        shared = [path for path in selection.paths if not lone_owners(path)[0]]
        found: list[set[str]] = []
        if 0 < len(shared) <= _FEW_PATHS:
            with self._read() as connection:
                rows = store.known(connection, collection_id)
            owners = [Owners([path]) for path in shared]
            found = [{row.uid for row in rows if one.row(row.type, row.path)} for one in owners]
        named = bool(selection.artifact_ids or selection.paths)
        if not named or len(found) < len(shared) or not all(found):
            self.invalidate(collection_id)
            return
        self._invalidate_lone(selection)
        if found:
            self.invalidate(collection_id, sorted(set[str]().union(*found)))

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

    @contextmanager
    def _transactions(self) -> Iterator[Transactions]:
        """Transactions of our own; in a database in memory, where there is only one, the host's."""
        with as_schema_error():
            given = (
                self._transaction_of_host()
                if self.in_memory
                else nullcontext(on_engine(engine_of(self._db)))
            )
            with given as transactions:
                yield transactions

    @contextmanager
    def _transaction_of_host(self) -> Iterator[Transactions]:
        """The host's, which is ended here only if the host had nothing in it."""
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
