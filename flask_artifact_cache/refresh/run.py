"""The whole way from files to rows, for one collection: look, compare, read, judge, write."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection

from ..errors import NotFoundError, ReferencedError, VanishedError
from ..files.artifact import uid
from ..files.garbage import uncollected
from ..files.layouts import Place
from ..files.manager import ArtifactManager, Scan
from ..files.walk import digest
from ..freshness import INVALIDATED, MISSING, QUARANTINED, REFERENCED
from ..version import VERSION
from . import feed, runs, store
from .bulk import batches
from .changes import CREATED, UNCHANGED, UPDATED, Change, Plan, Stored, compare, plan
from .guard import losses
from .records import FIELDS, as_dict, record
from .report import NEEDS_CONFIRMATION, PARTIAL, Changed, Report
from .selection import Chosen, Known, Selection, lone_owners
from .transactions import Transactions

# How often a long refresh says how far it is, which prolongs its lease, too.
RENEW_S = 2.0
# More paths than this are looked for in all of the collection.
MAX_LONE_PATHS = 100

_VALUES = itemgetter(*FIELDS)
VERSIONS = frozenset({"version", "resolved_version", "resolved_sha"})

Progress = Callable[[int, int], None]
Observe = Callable[[Change], None]


def ignore(*_: object) -> None:
    """Tell nobody: a progress, an observer or an end that nobody waits for."""


def utc_now() -> datetime:
    """The clock that is used unless another one is passed in."""
    return datetime.now(timezone.utc)


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked of a refresh.

    :ivar trigger: who asks, for the record.
    :ivar force: open every file, whatever its evidence says.
    :ivar confirm: the id of an earlier run whose removals were held back.
    :ivar mass_loss_percent: of the known artifacts; losing more at once needs a confirmation.
    :ivar dry_run: say what would change, and write nothing.
    :ivar unless_since: do nothing if all of the collection was verified since then.
    """

    selection: Selection = field(default_factory=Selection)
    trigger: str = "refresh"
    force: bool = False
    confirm: str | None = None
    mass_loss_percent: float = 20
    dry_run: bool = False
    unless_since: datetime | None = None


@dataclass(slots=True)
class _Found:
    """What there is to write.

    :ivar empty: whether the collection has no row at all.
    :ivar uncertain: how many artifacts a manifest may say more about that cannot be read.
    :ivar passing: how many artifacts have something wrong that may pass without a trace.
    :ivar vanished: how many files were gone when they were to be opened.
    :ivar verified: the ids of the rows that agree with their files.
    :ivar settled: whether all of the collection's rows will agree with their files then.
    :ivar columns: of the collection's own row.
    """

    first: bool = False
    empty: bool = False
    uncertain: int = 0
    vanished: int = 0
    passing: int = 0
    waiting: list[Change] = field(default_factory=list)
    verified: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    referenced: list[int] = field(default_factory=list)
    settled: bool = False
    columns: dict[str, Any] = field(default_factory=lambda: {"path_available": True})

    def add(self, change: Change) -> None:
        """Sort what was found out about an artifact that was opened."""
        self.uncertain += change.uncertain
        self.passing += change.record.is_passing
        if change.kind != UNCHANGED or change.was != change.condition or change.moved:
            self.waiting.append(change)
        if change.kind == UNCHANGED and change.stored is not None and not change.uncertain:
            self.verified.append(change.stored.id)


@dataclass(slots=True)
class Run:
    """One refresh of one collection, whose lease is held.

    :ivar renew: called in a transaction of ours with the artifacts done and of all.
    :ivar observe: called with what was found out about each artifact that was opened.
    :ivar lists: whether the report has a list of what has changed.
    """

    transactions: Transactions
    manager: ArtifactManager
    order: Order
    report: Report
    now: datetime
    renew: Callable[[Connection, int, int], None]
    progress: Progress
    observe: Observe
    lists: bool = False

    def execute(self, end: Callable[[Connection], None]) -> None:
        """Bring the rows in line with the files.

        :param end: called in the transaction that makes the result visible.
        :raises RootUnavailableError: if the folder cannot be read; no row changes.
        """
        if not self._pass(self.order.force, end):
            # Somebody joined who may know of an edit that came after our look at its file.
            before = self.report
            self.report = Report(before.refresh_id, before.collection_id)
            self._pass(False, end, before)

    def _pass(
        self, force: bool, end: Callable[[Connection], None], before: Report | None = None
    ) -> bool:
        """Look, read and write once; False if a second time is called for."""
        found = self._look(force)
        if self.order.dry_run:
            return True
        with self.transactions.write() as connection:
            self._write(connection, found)
            if before is None and runs.close(
                connection, self.report.refresh_id, self.report.collection_id
            ):
                return False
            if before is not None:
                self._add(before)
            end(connection)
        return True

    # --- look ------------------------------------------------------------------------------------

    def _look(self, force: bool) -> _Found:
        """Find out what to write. No file is open while a transaction of ours is."""
        with self.transactions.read() as connection:
            head = store.head(connection, self.report.collection_id)
            doubtful = store.has_doubtful(connection, self.report.collection_id)
            confirmed = self._confirmed(connection)
        selection = self.order.selection
        few = (selection.paths or selection.artifact_ids) and not confirmed
        if few and head.revision and head.rules == self._rules:
            found = self._look_at_few(head, force)
            if found is not None:
                return found
        tree = self.manager.walk()
        trusted = not (force or doubtful or confirmed) and head.rules == self._rules
        if trusted and head.evidence is not None and head.evidence == digest(tree):
            return self._unchanged(head)
        scan = self.manager.scan(tree)
        return self._compared(scan, head, force or head.rules != self._rules, confirmed)

    def _look_at_few(self, head: store.Head, force: bool) -> _Found | None:
        """Look at nothing but the files of the artifacts that are meant.

        None if what they are depends on more than their own files, or one of them is gone.
        """
        collection_id = self.report.collection_id
        with self.transactions.read() as connection:
            rows = self._lone(connection)
            if rows is None:
                return None
            stored = store.stored(connection, [row.uid for row in rows])
            members = store.owned(connection, collection_id, head)
            chosen = self._chosen(connection, head)
        meant = list(filter(chosen.row, rows))
        seen: dict[str, Place] = {}
        looked_at_ns: list[int] = []
        for row in meant:
            look = self.manager.look(row.type, row.path, **stored[row.uid].surroundings)
            if look is None:
                return None
            seen[row.uid] = look[0]
            looked_at_ns.append(look[1])
        made = plan(
            seen,
            meant,
            digest=Place.digest,
            chosen=chosen.row,
            may_be_chosen=chosen.place,
            force=force,
        )
        found = _Found()
        self._read(made.read, found, chosen, min(looked_at_ns, default=0), lambda _: False)
        if found.vanished:
            # Just being replaced, perhaps: a look at all of it tells.
            self.report = Report(self.report.refresh_id, collection_id)
            return None
        self._agree(made.agree, found)
        self.report.skipped = members - len(made.read) - len(made.agree)
        self._judge(complete=True)
        return found

    def _lone(self, connection: Connection) -> list[Known] | None:
        """The rows that own the paths, or have the ids, that are asked for.

        None if that takes a look at the whole collection.
        """
        collection_id, selection = self.report.collection_id, self.order.selection
        if len(selection.paths) > MAX_LONE_PATHS or len(selection.artifact_ids) > MAX_LONE_PATHS:
            return None
        wanted: set[str] = set()
        owners: list[tuple[set[str], set[str]]] = []
        for path in selection.paths:
            candidates, exact = lone_owners(path)
            uids = {uid(collection_id, *one) for one in candidates}
            own = {uid(collection_id, *one) for one in candidates if one[1] == path}
            owners.append((uids, own if exact else uids))
            wanted |= uids
        if selection.artifact_ids:
            by_id = store.uids_of(connection, collection_id, selection.artifact_ids)
            for one in selection.artifact_ids:
                if one not in by_id:
                    return None
                wanted |= set(by_id[one])
        rows = store.known_by_uid(connection, sorted(wanted))
        if not all(alone for _, alone in rows.values()):
            return None
        if not all(needed & rows.keys() for _, needed in owners):
            return None
        return [row for row, _ in rows.values()]

    def _unchanged(self, head: store.Head) -> _Found:
        """Every file is as it was when its row was last compared with it."""
        collection_id, report = self.report.collection_id, self.report
        found = _Found()
        with self.transactions.read() as connection:
            if self.order.selection.is_everything:
                report.unchanged = store.owned(connection, collection_id, head)
                errors = store.errors(connection, collection_id)
                known = []
                found.settled = True
            else:
                chosen = self._chosen(connection, head)
                with uncollected():
                    known = store.known(connection, collection_id)
                rows = list(filter(chosen.row, known))
                report.skipped = len(known) - len(rows)
                report.unchanged = len(rows)
                found.verified = [row.id for row in rows]
                errors = store.errors(connection, collection_id, found.verified)
            problems = store.problems(connection, collection_id)
        report.quarantined = len(errors)
        report.errors += [one for one in problems if one["code"].startswith("E_")] + errors
        self._judge(complete=True)
        self._not_found(known, ())
        return found

    def _compared(self, scan: Scan, head: store.Head, force: bool, confirmed: int) -> _Found:
        """Hold all that was seen against all that is known, and open what differs."""
        collection_id, report = self.report.collection_id, self.report
        with uncollected(), self.transactions.read() as connection:
            known = store.known(connection, collection_id)
            chosen = self._chosen(connection, head)
        found = _Found(first=not head.revision, empty=not known)
        made: Plan[Place]
        if known or not found.first:
            with uncollected():
                made = plan(
                    {uid(collection_id, place.type, place.path): place for place in scan.places},
                    known,
                    digest=Place.digest,
                    chosen=chosen.row,
                    may_be_chosen=chosen.place,
                    force=force,
                )
        else:
            made = Plan(read=scan.places)
        report.errors += [as_dict(one) for one in scan.problems if one.code.startswith("E_")]
        report.skipped += made.skipped
        opened = self._read(made.read, found, chosen, scan.tree.looked_at_ns, scan.is_uncertain)
        self._agree(made.agree, found)
        lost = losses(
            made.absent,
            len(known),
            is_hidden=scan.is_hidden,
            is_empty=scan.is_empty,
            percent=self.order.mass_loss_percent,
            confirmed=confirmed,
            chosen=chosen.row,
        )
        complete = scan.complete and not found.vanished
        gone = [row.id for row in lost.gone]
        report.skipped += lost.others
        report.withheld = lost.withheld
        if complete and not lost.withheld:
            found.removed = gone
        elif not lost.emptied:
            # Out of sight, but nothing is removed on the word of a look that was not whole.
            found.missing = [row.id for row in lost.gone if row.condition != REFERENCED]
        report.removed = len(found.removed)
        if self.lists and found.removed:
            report.changes += [Changed("removed", row.artifact_id, row.path) for row in lost.gone]
        found.settled = complete and not (
            found.uncertain or lost.hidden or lost.emptied or report.skipped
        )
        self._judge(complete)
        self._not_found(known, opened)
        found.columns = {
            "path_available": not lost.emptied,
            "problems": [as_dict(problem) for problem in scan.problems],
        }
        if not report.skipped:
            sure = found.settled and scan.settled and not (lost.withheld or found.passing)
            found.columns |= {"evidence": scan.digest if sure else None, "rules": self._rules}
        return found

    # --- read ------------------------------------------------------------------------------------

    def _read(
        self,
        places: Sequence[Place],
        found: _Found,
        chosen: Chosen,
        looked_at_ns: int,
        is_uncertain: Callable[[str], bool],
    ) -> set[str]:
        """Open what has to be opened; write it at once if nobody can see it yet.

        :returns: uids and ids of the artifacts that were meant.
        """
        opened: set[str] = set()
        renewed = float("-inf")
        done = 0
        for batch in batches(places):
            with uncollected():
                changes = self._compare(batch, found, chosen, looked_at_ns, is_uncertain)
                done += len(batch)
                if self.order.selection.artifact_ids:
                    opened |= {change.record.uid for change in changes}
                    opened |= {change.record.artifact_id for change in changes}
                if found.first and not self.order.dry_run:
                    with self.transactions.write() as connection:
                        self.renew(connection, done, len(places))
                        # Collections that gather this one are visible already.
                        store.apply(connection, [self.report.collection_id], changes, self.now)
                    found.waiting.clear()
                elif (
                    done < len(places)
                    and time.monotonic() - renewed > RENEW_S
                    and not self.order.dry_run
                ):
                    with self.transactions.write() as connection:
                        self.renew(connection, done, len(places))
                    renewed = time.monotonic()
                del changes
            self.progress(done, len(places))
        return opened

    def _compare(
        self,
        places: Sequence[Place],
        found: _Found,
        chosen: Chosen,
        looked_at_ns: int,
        is_uncertain: Callable[[str], bool],
    ) -> list[Change]:
        """Read a batch of artifacts and hold them against their rows."""
        collection_id, report = self.report.collection_id, self.report
        rows: dict[str, Stored] = {}
        if not found.empty:
            # Before the files: a row that is invalidated from now on is to be looked at again.
            uids = [uid(collection_id, place.type, place.path) for place in places]
            with self.transactions.read() as connection:
                rows = store.stored(connection, uids)
        changes = []
        root_name = self.manager.name
        for place in places:
            try:
                one = record(collection_id, self.manager.read(place))
            except VanishedError:
                found.vanished += 1
                continue
            stored = rows.get(one.uid)
            if stored is None and not chosen.record(one):
                report.skipped += 1
                continue
            change = compare(
                one,
                stored,
                is_uncertain(place.path),
                place.digest() if place.settled(looked_at_ns) else None,
                place.stands_alone(root_name),
            )
            changes.append(change)
            found.add(change)
            self._count(change)
            self.observe(change)
        return changes

    def _count(self, change: Change) -> None:
        report = self.report
        report.created += change.kind == CREATED
        report.updated += change.kind == UPDATED
        report.unchanged += change.kind == UNCHANGED
        if self.lists and change.kind != UNCHANGED:
            artifact_id, path = change.record.artifact_id, change.record.columns["path"]
            other = change.kind == UPDATED and not VERSIONS.isdisjoint(change.fields_updated)
            report.changes.append(Changed(change.kind, artifact_id, path, other))
        columns = change.record.columns
        values = _VALUES(columns)
        empty = (not columns["tags"]) + (columns["tools"] == [])
        report.fields_populated += len(values) - values.count(None) - empty
        if change.record.error is not None:
            report.quarantined += 1
            report.errors.append(as_dict(change.record.error))

    def _agree(self, rows: Sequence[Known], found: _Found) -> None:
        """Take in the rows that agree with their files by evidence."""
        self.report.unchanged += len(rows)
        found.verified += [row.id for row in rows]
        broken = [row.id for row in rows if row.condition == QUARANTINED]
        if broken:
            with self.transactions.read() as connection:
                errors = store.errors(connection, self.report.collection_id, broken)
            self.report.quarantined += len(errors)
            self.report.errors += errors

    def _not_found(self, rows: Iterable[Known], opened: Collection[str]) -> None:
        """Report the ids that were asked for and that nothing is called by.

        That is a mistake of who asks: it does not make the refresh a partial one.
        """
        asked = self.order.selection.artifact_ids
        if not asked:
            return
        known = {name for row in rows for name in (row.uid, row.artifact_id)}
        self.report.errors += [
            {"artifact_id": one, "code": NotFoundError.code, "message": "there is no such artifact"}
            for one in asked
            if one not in known and one not in opened
        ]

    # --- judge -----------------------------------------------------------------------------------

    def _judge(self, complete: bool) -> None:
        report = self.report
        if report.withheld:
            report.outcome = NEEDS_CONFIRMATION
        elif report.errors or not complete:
            report.outcome = PARTIAL

    def _confirmed(self, connection: Connection) -> int:
        """How many removals the caller has seen and agreed to."""
        confirm, collection_id = self.order.confirm, self.report.collection_id
        if confirm is None:
            return 0
        return runs.withheld(connection, confirm, collection_id) or 0

    def _chosen(self, connection: Connection, head: store.Head) -> Chosen:
        selection = self.order.selection
        if not head.revision:
            # Nobody may see a part of a collection that was never read completely.
            return Chosen(Selection(), self.now)
        tags = selection.tags
        tagged = store.tagged(connection, self.report.collection_id, tags) if tags else set()
        return Chosen(selection, self.now, head.verified_at, tagged)

    @property
    def _rules(self) -> str:
        """What beside the files decides what is read from them."""
        text = f"{VERSION}\0{self.manager.rules}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    # --- write -----------------------------------------------------------------------------------

    def _write(self, connection: Connection, found: _Found) -> None:
        """Bring the rows in line, all at once for those who read them."""
        collection_id = self.report.collection_id
        gathering = store.lock(connection, collection_id)
        self.renew(connection, self.report.unchanged, self.report.unchanged)
        told_since = store.invalidated(connection, collection_id) - {
            change.stored.id
            for change in found.waiting
            if change.stored is not None and change.was == INVALIDATED
        }
        store.apply(connection, [collection_id, *gathering], found.waiting, self.now)
        # Whoever said that they are stale may know of an edit after our look.
        store.mark(connection, sorted(told_since), INVALIDATED)
        if found.first:
            for one in gathering:
                store.gather(connection, one, [collection_id])
        log = feed.Log(collection_id)
        if found.first:
            self._remove(connection, found, log)
            log.populated()
        else:
            log.changed(found.waiting)
            self._remove(connection, found, log)
            log.missing(connection, found.missing + found.referenced)
        if not found.settled:
            store.verify(connection, found.verified, self.now)
        store.mark(connection, found.missing, MISSING)
        store.mark(connection, found.referenced, REFERENCED)
        if found.waiting or found.removed or found.missing or found.referenced:
            # The whole was seen with other rows than these: files that go back to what they
            # were would be taken for unchanged.
            found.columns.setdefault("evidence", None)
        # One timestamp of the collection verifies all of its rows, if all were.
        verified = {"verified_at": self.now} if found.settled else {}
        if found.settled and not self.report.withheld:
            runs.supersede(connection, collection_id)
        recount = bool(found.first or self.report.created or self.report.removed)
        store.publish(connection, collection_id, recount=recount, **verified, **found.columns)
        log.write(connection, self.now)

    def _remove(self, connection: Connection, found: _Found, log: feed.Log) -> None:
        """Remove what is gone; what a table of the host refers to is said to be missing."""
        report = self.report
        leaving = feed.removed(connection, found.removed)
        referenced = store.remove(connection, found.removed)
        for row_id in referenced:
            entry = leaving.pop(row_id)
            told = {"artifact_id": entry.artifact_id, "path": entry.path}
            message = (
                "the file is gone, and a table of the app refers to the artifact,"
                " so its row stays, as missing"
            )
            report.errors.append({**told, "code": ReferencedError.code, "message": message})
            report.changes = [one for one in report.changes if one.path != entry.path]
        found.removed = list(leaving)
        found.referenced = referenced
        report.removed -= len(referenced)
        if referenced:
            self._judge(complete=True)
        log.entries += leaving.values()

    def _add(self, before: Report) -> None:
        """Tell what came of two looks as one."""
        report = self.report
        verified = report.created + report.updated + report.unchanged
        report.changes = before.changes + report.changes
        for name in ("created", "updated", "removed", "fields_populated"):
            setattr(report, name, getattr(report, name) + getattr(before, name))
        report.unchanged = max(0, verified - report.created - report.updated)
