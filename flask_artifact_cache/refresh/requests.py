"""From a request for a refresh to its result: joined, queued, one at a time for a collection.

All coordination is in the database, so it holds between threads, processes and machines.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from ..errors import (
    ArtifactCacheError,
    BusyError,
    InvalidRequestError,
    RootUnavailableError,
)
from ..files.manager import ArtifactManager
from . import feed, runs, store
from . import lease as leases
from .report import FAILED, SUCCEEDED, Report, Result
from .run import Observe, Order, Progress, Run, ignore, utc_now
from .transactions import Transactions

log = logging.getLogger("flask_artifact_cache")
# By itself, so that a command may leave to itself what came of a refresh.
refreshes = logging.getLogger("flask_artifact_cache.refreshes")

# How long a request waits for another one on the same collection, and for one it has joined.
WAIT_S = 10.0
JOIN_S = 60.0
# A third of the lease; and who takes longer than an hour is believed to hang.
BEAT_S = leases.LEASE_MS / 3000
MAX_BEATS = 180
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.01, 0.25

Ended = Callable[[Order, Report], None]


@dataclass(frozen=True, slots=True)
class Refresher:
    """Does what is asked of the collections of one application.

    :ivar managers: the file side of each collection, by id.
    :ivar wait_s: how long to wait while a collection is being refreshed.
    :ivar joins: whether an identical request that is under way is joined.
    :ivar known: whether somebody has been told the id of the run before it begins.
    :ivar ended: told of each refresh of a collection that has ended, in whatever way; not of one
        that gave way before it began, nor of a dry run.
    :ivar lists: whether reports have a list of what has changed.
    """

    transactions: Transactions
    managers: Mapping[str, ArtifactManager]
    clock: Callable[[], datetime] = utc_now
    sleep: Callable[[float], None] = time.sleep
    wait_s: float = WAIT_S
    joins: bool = True
    known: bool = False
    progress: Progress = ignore
    observe: Observe = ignore
    ended: Ended = ignore
    lists: bool = False

    def refresh(self, order: Order) -> Result:
        """Do what is asked, or wait for an identical run that is at it already.

        :raises BusyError: if other refreshes took too long.
        :raises RootUnavailableError: if the folder of the only collection cannot be read.
        :raises InvalidRequestError: if there is no such run to confirm.
        """
        if order.dry_run:
            with self.transactions.read() as connection:
                self._check(connection, order)
            return self._dry_run(order)
        # A run that was joined may have died with its process: then it is done here.
        for _ in range(2):
            refresh_id, joined = self.queue(order)
            if not joined:
                return self.work(refresh_id, order)
            result = self._joined(refresh_id)
            if result is not None:
                return result
        raise BusyError("the same refresh was begun twice and did not end", retry_after=5)

    def queue(self, order: Order, alive_ms: int = leases.LEASE_MS) -> tuple[str, bool]:
        """Write down what is asked for; the id of the run, and whether it was there already.

        :param alive_ms: how long it may wait until :meth:`work` does it.
        :raises InvalidRequestError: if there is no such run to confirm.
        """
        request = runs.request_key(order.selection, force=order.force, confirm=order.confirm)
        with self.transactions.read() as connection:
            self._check(connection, order)
            missing = store.missing(connection, list(self.managers))
        for one in missing:
            with self.transactions.write() as connection:
                store.ensure_collection(connection, one)
        if missing:
            with self.transactions.write() as connection:
                feed.ensure(connection)
        with self.transactions.write() as connection:
            runs.lock(connection, list(self.managers))
            joined = runs.join(connection, request) if self.joins else None
            if joined is not None:
                return joined, True
            refresh_id = secrets.token_hex(16)
            runs.queue(
                connection,
                refresh_id,
                list(self.managers),
                request=request,
                trigger=order.trigger,
                filters=order.selection.filters() | ({"force": True} if order.force else {}),
                now=self.clock(),
                joinable=self.joins,
                alive_ms=alive_ms,
            )
        return refresh_id, False

    def _check(self, connection: Connection, order: Order) -> None:
        if order.confirm is not None and not any(
            runs.withheld(connection, order.confirm, one) for one in self.managers
        ):
            message = "no run waits for a confirmation by this id"
            raise InvalidRequestError(message, [("confirm", message)])

    def work(self, refresh_id: str, order: Order) -> Result:
        """Do what was written down; errors as of :meth:`refresh`."""
        reports: list[Report] = []
        failures: list[ArtifactCacheError] = []
        for collection_id in self.managers:
            report = Report(refresh_id, collection_id)
            try:
                self._one(report, order, reports)
            except ArtifactCacheError as error:
                failures.append(error)
                report.outcome = FAILED
                report.errors = [{"code": error.code, "message": str(error)}]
                reports.append(report)
        if failures and len(failures) == len(reports):
            raise failures[0]
        return Result(refresh_id, reports)

    def _one(self, report: Report, order: Order, reports: list[Report]) -> None:
        collection_id = report.collection_id
        _log_start(order.trigger, report)
        started = time.perf_counter()
        lease: leases.Lease | None = None

        def renew(connection: Connection, done: int, total: int) -> None:
            assert lease is not None
            lease.renew(connection)
            runs.go_on(connection, report.refresh_id, collection_id, done, total)

        def end(connection: Connection) -> None:
            run.report.duration_seconds = round(time.perf_counter() - started, 3)
            runs.finish(connection, run.report, self.clock())
            assert lease is not None
            lease.release(connection)

        run = Run(
            self.transactions,
            self.managers[collection_id],
            order,
            report,
            self.clock(),
            renew,
            self.progress,
            self.observe,
            self.lists,
        )
        try:
            lease = self._take(report)
            if self._is_done(collection_id, order.unless_since):
                with self.transactions.write() as connection:
                    lease.release(connection)
                    runs.forget(connection, report.refresh_id, collection_id)
                reports.append(report)
                return
            with self._heartbeat(lease, report):
                run.execute(end)
        except BaseException as error:
            if isinstance(error, BusyError) and lease is None and not self.known:
                # It never began.
                with self.transactions.write() as connection:
                    runs.forget(connection, report.refresh_id, collection_id)
                log.info("refresh of collection '%s' gave way: %s", collection_id, error)
                raise
            try:
                self._fail(run.report, error, lease, started)
            finally:
                # The database may be what failed.
                self._end(order, run.report)
            raise
        reports.append(run.report)
        self._end(order, run.report)

    def _end(self, order: Order, report: Report) -> None:
        _log_end(order.trigger, report)
        self.ended(order, report)

    def _take(self, report: Report) -> leases.Lease:
        """Wait for the lease of the collection."""
        deadline = time.monotonic() + self.wait_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                with self.transactions.write() as connection:
                    lease = leases.acquire(connection, report.collection_id)
                    runs.start(connection, report.refresh_id, report.collection_id)
            except BusyError:
                # In a caller's transaction nobody else can get on while we wait.
                if time.monotonic() >= deadline or not self.transactions.own:
                    raise
            else:
                return lease
            self.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LAST_PAUSE_S)

    def _is_done(self, collection_id: str, since: datetime | None) -> bool:
        """Whether somebody else has done it while we waited for the lease."""
        if since is None:
            return False
        with self.transactions.read() as connection:
            verified_at = store.head(connection, collection_id).verified_at
        return verified_at is not None and verified_at >= since

    @contextmanager
    def _heartbeat(self, lease: leases.Lease, report: Report) -> Iterator[None]:
        """Prolong the lease meanwhile: a look at a slow disk may take longer than it lasts."""
        if not self.transactions.concurrent:
            yield
            return
        ended = threading.Event()

        def beat() -> None:
            for _ in range(MAX_BEATS):
                if ended.wait(BEAT_S):
                    return
                try:
                    with self.transactions.write() as connection:
                        lease.renew(connection)
                        runs.live_on(connection, report.refresh_id)
                except (ArtifactCacheError, SQLAlchemyError) as error:
                    if not ended.is_set():
                        log.warning("the lease of '%s': %s", report.collection_id, error)
                    return

        thread = threading.Thread(target=beat, name="artifact-cache-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _fail(
        self,
        report: Report,
        error: BaseException,
        lease: leases.Lease | None,
        started: float,
    ) -> None:
        """Write down that a run has failed, and let the next one in."""
        known = isinstance(error, ArtifactCacheError)
        report.outcome = FAILED
        report.duration_seconds = round(time.perf_counter() - started, 3)
        report.errors = [
            {"code": error.code, "message": str(error)}
            if isinstance(error, ArtifactCacheError)
            else {"code": ArtifactCacheError.code, "message": ArtifactCacheError.title}
        ]
        # A caller's transaction that is broken takes all of it with it when it is rolled back.
        if not (self.transactions.own or known):
            return
        with self.transactions.write() as connection:
            if isinstance(error, RootUnavailableError):
                store.set_unavailable(connection, report.collection_id)
            if lease is not None:
                lease.release(connection)
            runs.finish(connection, report, self.clock())

    def _joined(self, refresh_id: str) -> Result | None:
        """Wait for a run of somebody else; None if its process has died."""
        deadline = time.monotonic() + JOIN_S
        pause_s = _FIRST_PAUSE_S
        while True:
            with self.transactions.read() as connection:
                found = runs.reports(connection, refresh_id)
            if found is not None:
                break
            if time.monotonic() >= deadline:
                raise BusyError("an identical refresh is still running", retry_after=5)
            self.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LAST_PAUSE_S)
        if not found or any(one.outcome == FAILED and not one.errors for one in found):
            return None
        if all(one.outcome == FAILED for one in found):
            _raise(found[0].errors[0])
        return Result(refresh_id, found, joined=True)

    def _dry_run(self, order: Order) -> Result:
        refresh_id = secrets.token_hex(16)
        reports = []
        for collection_id, manager in self.managers.items():
            report = Report(refresh_id, collection_id, dry_run=True)
            _log_start(order.trigger, report)
            started = time.perf_counter()
            Run(
                self.transactions,
                manager,
                order,
                report,
                self.clock(),
                ignore,
                self.progress,
                self.observe,
            ).execute(ignore)
            report.duration_seconds = round(time.perf_counter() - started, 3)
            _log_end(order.trigger, report)
            reports.append(report)
        return Result(refresh_id, reports)


def _raise(error: Mapping[str, Any]) -> None:
    """Raise what the run that was joined has failed with."""
    for kind in (RootUnavailableError, BusyError):
        if error["code"] == kind.code:
            raise kind(error["message"])
    raise ArtifactCacheError(error["message"])


def _log_start(trigger: str, report: Report) -> None:
    refreshes.info(
        "refresh of collection '%s' started (%s)",
        report.collection_id,
        trigger,
        extra={
            "artifact_cache": {"collection": report.collection_id, "run": report.refresh_id},
        },
    )


def _log_end(trigger: str, report: Report) -> None:
    figures = {
        "synced": report.artifacts_refreshed,
        "created": report.created,
        "updated": report.updated,
        "unchanged": report.unchanged,
        "removed": report.removed,
        "skipped": report.skipped,
        "withheld": report.withheld,
        "quarantined": report.quarantined,
        "fields_populated": report.fields_populated,
        "errors": len(report.errors),
        "seconds": report.duration_seconds,
    }
    refreshes.log(
        logging.INFO if report.outcome == SUCCEEDED else logging.WARNING,
        "refresh of collection '%s' %s (%s): %s",
        report.collection_id,
        report.outcome,
        trigger,
        " ".join(f"{name}={value}" for name, value in figures.items()),
        extra={
            "artifact_cache": {
                "collection": report.collection_id,
                "run": report.refresh_id,
                "outcome": report.outcome,
                **figures,
            }
        },
    )
