"""The whole way from files to rows: scan, read, compare, write."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Connection, select

from ..errors import (
    ArtifactCacheError,
    InvalidRequestError,
    MassLossError,
    RootUnavailableError,
    VanishedError,
)
from ..files.garbage import uncollected
from ..files.layouts import Place
from ..files.manager import ArtifactManager, Scan
from ..models import Collection, RefreshRun
from . import lease as leases
from . import store
from .changes import CREATED, UNCHANGED, UPDATED, Change, compare
from .guard import Losses, losses
from .records import FIELDS, as_dict, record
from .transactions import Transactions

log = logging.getLogger("flask_artifact_cache")

RENEW_S = 20.0  # a third of the lease


def utc_now() -> datetime:
    """The clock that is used unless another one is passed in."""
    return datetime.now(timezone.utc)


@dataclass(slots=True)
class Report:
    """What a run found and did; counts are of artifacts.

    :ivar outcome: ``succeeded``; ``partial``, if something could not be read;
        ``needs_confirmation``, if the mass-loss brake held removals back.
    :ivar withheld: how many removals wait for a confirmation.
    :ivar fields_populated: how many metadata fields of all artifacts have a value.
    :ivar errors: ``path, code, message, line, column`` of each quarantined artifact and of each
        problem of the collection as a whole that is an error.
    """

    refresh_id: str
    collection_id: str
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    quarantined: int = 0
    withheld: int = 0
    fields_populated: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    outcome: str = "succeeded"
    dry_run: bool = False
    duration_seconds: float = 0.0

    @property
    def artifacts_refreshed(self) -> int:
        """How many rows were verified against their files."""
        return self.created + self.updated + self.unchanged

    def raise_if_withheld(self) -> None:
        """Turn removals that were held back into an error.

        :raises MassLossError: with the id that confirms them.
        """
        if self.withheld:
            raise MassLossError(
                f"{self.withheld} artifacts of '{self.collection_id}' are gone from the disk at"
                " once, so none was removed. Restore the folder, or confirm the removal with"
                f" the id {self.refresh_id}.",
                self.refresh_id,
            )


Progress = Callable[[int, int], None]


def populate(
    transactions: Transactions,
    manager: ArtifactManager,
    collection_id: str,
    *,
    trigger: str = "populate",
    mass_loss_percent: float = 20,
    confirm: str | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
    clock: Callable[[], datetime] = utc_now,
) -> Report:
    """Read every artifact of a collection and bring its rows in line.

    The first populate of a collection writes in batches, which nobody sees until the last one
    is in; any later one writes what has changed in a single transaction. No file is open while
    a transaction of ours is.

    :param confirm: the id of an earlier run whose removals were held back.
    :param progress: called with the number of artifacts done and of all.
    :raises BusyError: if another process is refreshing the collection.
    :raises RootUnavailableError: if the folder cannot be read; no row changes.
    :raises InvalidRequestError: if there is no such run to confirm.
    """
    report = Report(refresh_id=secrets.token_hex(16), collection_id=collection_id, dry_run=dry_run)
    started_at, started = clock(), time.perf_counter()
    log.info(
        "%s of collection '%s' started",
        trigger,
        collection_id,
        extra={"artifact_cache": {"collection": collection_id, "run": report.refresh_id}},
    )
    with _one_at_a_time(transactions, collection_id, dry_run) as renew:
        run = _Run(transactions, manager, report, started_at, renew, mass_loss_percent)
        try:
            run.populate(confirm, progress or _silent)
        except RootUnavailableError as error:
            report.outcome = "failed"
            report.errors.append({"code": error.code, "message": str(error)})
            run.save(trigger, clock())
            _log_report(trigger, report)
            raise
        report.duration_seconds = round(time.perf_counter() - started, 3)
        run.save(trigger, clock())
    _log_report(trigger, report)
    return report


@dataclass(slots=True)
class _Found:
    """What reading the artifacts of a scan brought.

    :ivar seen: the uids of all of them.
    :ivar waiting: what has to be written.
    :ivar unchanged: the ids of rows that agree with their files.
    :ivar uncertain: how many artifacts a manifest may say more about that cannot be read.
    """

    seen: set[str] = field(default_factory=set)
    waiting: list[Change] = field(default_factory=list)
    unchanged: list[int] = field(default_factory=list)
    uncertain: int = 0

    def add(self, changes: list[Change]) -> None:
        """Sort a batch."""
        for change in changes:
            self.seen.add(change.record.uid)
            self.uncertain += change.uncertain
            if change.kind != UNCHANGED or change.was != change.condition:
                self.waiting.append(change)
            if change.kind == UNCHANGED and change.stored is not None and not change.uncertain:
                self.unchanged.append(change.stored.id)


@dataclass(slots=True)
class _Run:
    transactions: Transactions
    manager: ArtifactManager
    report: Report
    now: datetime
    renew: Callable[[Connection], None]
    mass_loss_percent: float

    def populate(self, confirm: str | None, progress: Progress) -> None:
        """Read, judge, write; in this order, so that no transaction waits for a file."""
        collection_id = self.report.collection_id
        with self.transactions.read() as connection:
            first = not connection.scalar(
                select(Collection.revision).where(Collection.id == collection_id)
            )
            known = store.known(connection, collection_id)
            confirmed = self._confirmed(connection, confirm)
        scan = self.manager.scan()
        self.report.errors += [as_dict(one) for one in scan.problems if one.code.startswith("E_")]
        found = self._read(scan, first, progress)
        lost = losses(
            known,
            found.seen,
            is_hidden=scan.is_hidden,
            is_empty=scan.is_empty,
            percent=self.mass_loss_percent,
            confirmed=confirmed,
        )
        self._judge(scan, lost)
        if not self.report.dry_run:
            self._write(scan, found, lost, first)

    def _read(self, scan: Scan, first: bool, progress: Progress) -> _Found:
        """Read every artifact; write them at once if nobody can see them yet."""
        found = _Found()
        renewed = time.monotonic()
        for places in store.batches(scan.places):
            changes = self._compare(scan, places)
            found.add(changes)
            if self.report.dry_run:
                pass
            elif first:
                with uncollected(), self.transactions.write() as connection:
                    self.renew(connection)
                    # Collections that gather this one are visible already.
                    store.apply(connection, [self.report.collection_id], changes, self.now)
                found.waiting.clear()
            elif time.monotonic() - renewed > RENEW_S:
                with self.transactions.write() as connection:
                    self.renew(connection)
                renewed = time.monotonic()
            progress(min(len(found.seen), len(scan.places)), len(scan.places))
        return found

    def _judge(self, scan: Scan, lost: Losses) -> None:
        report = self.report
        report.withheld = len(lost.gone) if lost.withheld else 0
        report.removed = 0 if lost.withheld else len(lost.gone)
        if lost.withheld:
            report.outcome = "needs_confirmation"
        elif report.errors or not scan.complete:
            report.outcome = "partial"

    def _write(self, scan: Scan, found: _Found, lost: Losses, first: bool) -> None:
        """Bring the rows in line, all at once for those who read them."""
        collection_id = self.report.collection_id
        # One timestamp of the collection verifies all of its rows, if all were.
        settled = scan.complete and not (found.uncertain or lost.hidden or lost.emptied)
        verified = {"verified_at": self.now} if settled else {}
        with self.transactions.write() as connection:
            self.renew(connection)
            gathering = store.gathering(connection, except_=collection_id)
            store.apply(connection, [collection_id, *gathering], found.waiting, self.now)
            if first:
                for one in gathering:
                    store.gather(connection, one, [collection_id])
            if not settled:
                store.verify(connection, found.unchanged, self.now)
            if not lost.withheld:
                store.remove(connection, lost.gone)
            elif not lost.emptied:
                store.mark_missing(connection, lost.gone)
            store.publish(
                connection,
                collection_id,
                path_available=not lost.emptied,
                problems=[as_dict(problem) for problem in scan.problems],
                **verified,
            )

    def save(self, trigger: str, finished_at: datetime) -> None:
        """Record the run; a folder that could not be read is recorded as unavailable."""
        report = self.report
        if report.dry_run:
            return
        with self.transactions.write() as connection:
            if report.outcome == "failed":
                store.set_unavailable(connection, report.collection_id)
            store.save_run(
                connection,
                id=report.refresh_id,
                collection_id=report.collection_id,
                trigger=trigger,
                outcome=report.outcome,
                started_at=self.now,
                finished_at=finished_at,
                created=report.created,
                updated=report.updated,
                unchanged=report.unchanged,
                removed=report.removed,
                quarantined=report.quarantined,
                withheld=report.withheld,
                errors=report.errors,
            )

    def _compare(self, scan: Scan, places: list[Place]) -> list[Change]:
        """Read a batch of artifacts and hold them against their rows."""
        collection_id = self.report.collection_id
        records = {}
        with uncollected():
            for place in places:
                with suppress(VanishedError):
                    one = record(collection_id, self.manager.read(place))
                    records[one.uid] = one
        with self.transactions.read() as connection:
            rows = store.stored(connection, list(records))
        changes = [
            compare(one, rows.get(one.uid), scan.is_uncertain(one.columns["path"]))
            for one in records.values()
        ]
        self._count(changes)
        return changes

    def _count(self, changes: list[Change]) -> None:
        report = self.report
        for change in changes:
            report.created += change.kind == CREATED
            report.updated += change.kind == UPDATED
            report.unchanged += change.kind == UNCHANGED
            columns = change.record.columns
            report.fields_populated += sum(1 for name in FIELDS if columns[name] not in (None, []))
            if change.record.error is not None:
                report.quarantined += 1
                report.errors.append(as_dict(change.record.error))

    def _confirmed(self, connection: Connection, confirm: str | None) -> int:
        """How many removals the caller has seen and agreed to."""
        if confirm is None:
            return 0
        withheld = connection.scalar(
            select(RefreshRun.withheld).where(
                RefreshRun.id == confirm,
                RefreshRun.collection_id == self.report.collection_id,
                RefreshRun.outcome == "needs_confirmation",
            )
        )
        if withheld is None:
            message = f"no run of '{self.report.collection_id}' waits for a confirmation by that id"
            raise InvalidRequestError(message, [("confirm", message)])
        return withheld


@contextmanager
def _one_at_a_time(
    transactions: Transactions, collection_id: str, dry_run: bool
) -> Iterator[Callable[[Connection], None]]:
    """Hold the collection's lease; give the function that renews it."""
    if dry_run:
        yield lambda _: None
        return
    with transactions.write() as connection:
        store.ensure_collection(connection, collection_id)
        lease = leases.acquire(connection, collection_id)
    try:
        yield lease.renew
    except BaseException as error:
        # A caller's transaction that is broken takes the lease with it when it is rolled back.
        if transactions.own or isinstance(error, ArtifactCacheError):
            with transactions.write() as connection:
                lease.release(connection)
        raise
    with transactions.write() as connection:
        lease.release(connection)


def _log_report(trigger: str, report: Report) -> None:
    figures = {
        "synced": report.artifacts_refreshed,
        "created": report.created,
        "updated": report.updated,
        "unchanged": report.unchanged,
        "removed": report.removed,
        "withheld": report.withheld,
        "quarantined": report.quarantined,
        "fields_populated": report.fields_populated,
        "errors": len(report.errors),
        "seconds": report.duration_seconds,
    }
    log.log(
        logging.INFO if report.outcome == "succeeded" else logging.WARNING,
        "%s of collection '%s' %s: %s",
        trigger,
        report.collection_id,
        report.outcome,
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


def _silent(done: int, total: int) -> None:
    """Show no progress."""
