"""What the cache says: reading, and nothing but reading, from the tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import StaticPool

from . import faults, feed, freshness, queries
from .bodies import Bodies, Body, etag
from .database import advice, current, engine_of, newest, schema_error
from .errors import (
    AmbiguousIdError,
    Candidate,
    NotFoundError,
    NotPopulatedError,
    NotReadyError,
    SchemaError,
)
from .files.manager import COLLECTION_ID, CollectionManager
from .metrics import Counters
from .models import Artifact, utc
from .queries import Filters, Head, Listing, Moment
from .readers import Readers
from .refresh import runs, store
from .refresh.records import DRIFT, PROBLEM, as_json
from .refresh.run import utc_now
from .refresh.selection import Known
from .settings import Settings
from .stats import CollectionStats, Stats
from .upstream.validators import Limited

# What a run that the daemon asked for is triggered by.
DAEMON = "daemon"
# How often an answer is put together at most while refreshes come between.
MAX_LOOKS = 3


class Made(NamedTuple):
    """What a body is made of; see :class:`.bodies.Body`."""

    data: bytes
    expires_at: datetime | None
    next_cursor: str | None
    stale: bool


class Reading:
    """What the cache of one application says; its methods need an application context.

    Reads run in short transactions of their own, on the host's engine. Each raises
    :exc:`.SchemaError` if our tables are missing.
    """

    def __init__(
        self,
        db: SQLAlchemy,
        settings: Settings,
        collections: CollectionManager,
        clock: Callable[[], datetime] = utc_now,
        counters: Counters | None = None,
    ) -> None:
        self.settings = settings
        self.collections = collections
        self.counters = counters or Counters()
        self._db = db
        self._clock = clock
        self._bodies = Bodies()
        self._readers = Readers()
        self._limited = Limited(
            settings.github_state_folder, settings.github_api_url, settings.github_token
        )

    def now(self) -> datetime:
        """The time by the clock that the application gave."""
        return self._clock()

    def upstream_limited_until(self) -> datetime | None:
        """Until when GitHub is not to be asked; None if it may be.

        Some command was told so, and has left it in the state folder: nobody is asked for this.
        """
        until = self._limited.until(self._clock().timestamp())
        return None if until is None else datetime.fromtimestamp(until, timezone.utc)

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
        """Every collection as :meth:`stats` tells of it, with all of its problems."""
        listed: list[dict[str, Any]] = self.stats().as_dict(with_problems=True)["collections"]
        return listed

    def stats(self) -> Stats:
        """How many artifacts are in which state, and how old what the cache says may be.

        Four statements, whatever the number of artifacts.
        """
        with self._read() as connection:
            known = queries.heads_and_problems(connection)
            at = Moment(
                self._clock(),
                self.settings.ttl_of,
                {one.id: one.verified_at for one, _ in known.values() if one.revision},
            )
            tallies = queries.tallies(connection, at)
            daemon = runs.last(connection, DAEMON)
            kept = queries.kept_counts(connection, list(at.verified_at), (PROBLEM, DRIFT))
        warnings = {one: sum(facets[PROBLEM].values()) for one, facets in kept.items()}
        gathered = sum(warnings.get(one.id, 0) for one, _ in known.values() if not one.gathers)
        for collection_id in self.collections.ids():
            known.setdefault(collection_id, (Head(collection_id, 0, 0, False, None, True, ""), []))
        counts = {one: tally.states for one, tally in tallies.items()}
        return Stats(
            at.now,
            self.settings.ttl,
            [
                CollectionStats(
                    id=one.id,
                    path_available=all(
                        own.path_available and self.has_files(own)
                        for own, _ in (known.values() if one.gathers else ((one, ()),))
                    ),
                    configured=self.has_files(one),
                    artifact_count=one.artifact_count if one.revision else 0,
                    revision=one.revision,
                    states=_states(one, counts),
                    owned=counts.get(one.id, {}),
                    verified_at=at.whole(one),
                    oldest_at=tallies[one.id].oldest_at if one.id in tallies else None,
                    daemon_seen_at=daemon.get(one.id),
                    problems=problems,
                    warnings=warnings.get(one.id, 0),
                    owned_warnings=warnings.get(one.id, 0) - (gathered if one.gathers else 0),
                    drift=kept[one.id][DRIFT] if one.id in kept else {},
                )
                for one, problems in sorted(known.values(), key=lambda found: found[0].id)
            ],
            self.counters.lookups(),
            self.upstream_limited_until(),
        )

    def has_files(self, one: Head) -> bool:
        """Whether the rows of a collection can be compared with files."""
        return one.gathers or one.id in self.collections.ids()

    def reading(self) -> AbstractContextManager[Connection]:
        """A connection to look at our tables."""
        return self._read()

    def ready(self) -> int:
        """How many collections there are to serve from.

        :raises NotReadyError: if the database does not answer, its tables are not those of this
            version, or no collection was read yet.
        """
        try:
            with self._read() as connection:
                heads = queries.heads(connection)
                at = None if self.settings.migrations == "host" else current(connection)
        except SchemaError as error:
            raise NotReadyError([("tables", str(error))]) from error
        except SQLAlchemyError as error:
            raise NotReadyError([("database", "the database does not answer")]) from error
        if self.settings.migrations != "host" and at != newest():
            message = f"the tables are at {at or 'no revision'}, not at {newest()}. {advice(at)}"
            raise NotReadyError([("tables", message)])
        read = sum(1 for one in heads if one.revision)
        if not read:
            raise NotReadyError([("collections", "no collection has been read yet")])
        return read

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
                total = self.count(connection, one, listing.filters, at)
            info = {
                "has_next_page": page.has_next_page,
                "end_cursor": page.end_cursor,
                "total_count": total,
            }
            data = b"".join((b'{"items":[', *page.parts, b'],"page_info":', as_json(info), b"}"))
            expires_at = page.expires_at
            if listing.filters.states:
                expires_at = queries.next_change(connection, at)
            next_cursor = page.end_cursor if page.has_next_page else None
            return Made(data, expires_at, next_cursor, page.stale)

        return self.kept(collection_id, listing, make)

    def facets(self, collection_id: str, filters: Filters, limit: int) -> Body:
        """How often each value of each facet occurs among the artifacts that the filters leave."""

        def make(connection: Connection, one: Head, at: Moment) -> Made:
            found = queries.facets(connection, one, filters, at, limit)
            stale = any(one["value"] == freshness.STALE for one in found["state"])
            return Made(
                as_json({"facets": found}), queries.next_change(connection, at), None, stale
            )

        return self.kept(collection_id, ("facets", filters, limit), make)

    def detail(self, collection_id: str, artifact_id: str) -> Body:
        """One artifact, by ``uid`` or ``type:name``, with its details, as JSON.

        :raises NotFoundError: if there is no such artifact.
        :raises AmbiguousIdError: if several share the id.
        """

        def make(connection: Connection, one: Head, at: Moment) -> Made:
            try:
                key = queries.find(connection, one, artifact_id)
            except NotFoundError:
                self.counters.miss()
                for owner, verified_at in at.verified_at.items():
                    self._revalidate(owner, verified_at, trigger="miss")
                raise
            data, expires_at, stale = queries.detail(connection, key, at)
            return Made(data, expires_at, None, stale)

        return self.kept(collection_id, ("detail", artifact_id), make)

    def get(self, collection_id: str, artifact_id: str) -> dict[str, Any]:
        """One artifact as :meth:`detail` serves it."""
        found: dict[str, Any] = json.loads(self.detail(collection_id, artifact_id).data)
        return found

    def changes(
        self, since: str | None = None, limit: int = 200, collection_id: str | None = None
    ) -> dict[str, Any]:
        """What happened to artifacts, in order: ``changes``, a cursor ``next``, ``has_more``.

        :param since: the ``next`` of the page before; None: all that there is, as ``created``.
        :param collection_id: None means all that can be read; one that gathers others, too.
        :raises NotFoundError: if there is no such collection.
        :raises NotPopulatedError: if it has not been read yet.
        :raises InvalidRequestError: if the cursor is not one of this feed.
        :raises CursorExpiredError: if what follows it is not kept any more.
        """
        with self._read() as connection:
            only = collection_id
            if collection_id is not None:
                one = self._head(connection, collection_id)
                only = None if one.gathers else collection_id
            at = self._moment_of(connection, None)
            return feed.page(connection, at, since, limit, asked=collection_id, only=only)

    def problems(
        self, collection_id: str | None = None, limit: int = 200, after: str | None = None
    ) -> Body:
        """A page of all that is wrong with files, as JSON.

        :param collection_id: None means all that can be read; one that gathers others, too.
        :raises NotFoundError: if there is no such collection.
        :raises NotPopulatedError: if it has not been read yet.
        :raises InvalidRequestError: if the cursor is not one of this list.
        """
        with self._read() as connection:
            one = None if collection_id is None else self._head(connection, collection_id)
            meant = faults.scope(connection, one)
            found, following = faults.page(connection, meant, limit, after)
            total = faults.count(connection, meant)
        info = {
            "has_next_page": following is not None,
            "end_cursor": following,
            "total_count": total,
        }
        data = as_json({"problems": [problem for _, problem in found], "page_info": info})
        return Body(data, etag(data), next_cursor=following)

    def history(
        self, collection_id: str, artifact_id: str, limit: int = 50
    ) -> list[dict[str, Any]]:
        """What happened to an artifact, as far as it is kept, the newest first.

        :param artifact_id: its uid, or its ``type:name``; of one that is gone, its uid.
        :raises NotFoundError: if there is no such collection, or nothing is known of it.
        :raises AmbiguousIdError: if several share the id.
        """
        with self._read() as connection:
            one = self._head(connection, collection_id)
            try:
                uid_ = queries.uid_of(connection, queries.find(connection, one, artifact_id))
            except NotFoundError:
                told = [] if "\0" in artifact_id else feed.history(connection, artifact_id, limit)
                told = [
                    change
                    for change in told
                    if change["uid"] == artifact_id != ""
                    and (one.gathers or change["collection_id"] == collection_id)
                ]
                if not told:
                    raise
                return told
            return feed.history(connection, uid_, limit)

    # --- freshness ---------------------------------------------------------------------------

    def is_stale(
        self,
        artifact_id: str,
        ttl_minutes: float | None = None,
        collection_id: str | None = None,
    ) -> bool:
        """Whether an artifact was not verified against its file in time, or was invalidated.

        :param artifact_id: its uid, or its ``type:name``.
        :param ttl_minutes: None means the collection's own, which is 30 by default.
        :param collection_id: None looks in every configured collection.
        :raises NotFoundError: if there is no such artifact.
        :raises AmbiguousIdError: if several share the id.
        """
        with self._read() as connection:
            row, owned_by = self._owned(connection, artifact_id, collection_id)
            owner = queries.head(connection, owned_by)
        at = self._moment({owned_by: owner.verified_at if owner else None}, ttl_minutes)
        synced_at = None if row.synced_at is None else utc(row.synced_at)
        return at.state(row.condition, owned_by, synced_at) == freshness.STALE

    def owner_of(self, artifact_id: str) -> str:
        """The configured collection that an artifact belongs to.

        :param artifact_id: its uid, or its ``type:name``.
        :raises NotFoundError: if there is no such artifact.
        :raises AmbiguousIdError: if several share the id.
        """
        with self._read() as connection:
            return self._owned(connection, artifact_id, None)[1]

    def _owned(
        self, connection: Connection, artifact_id: str, collection_id: str | None
    ) -> tuple[Known, str]:
        """The row that an id means, and whose it is."""
        found = {
            uid: one
            for one in ([collection_id] if collection_id else self.collections.ids())
            for uid in store.uids_of(connection, one, [artifact_id]).get(artifact_id, ())
        }
        rows = [row for row, _ in store.known_by_uid(connection, list(found)).values()]
        if not rows:
            raise NotFoundError(f"there is no artifact '{artifact_id}'")
        if len(rows) > 1:
            candidates = [Candidate(row.uid, row.path, found[row.uid]) for row in rows]
            raise ambiguous(artifact_id, candidates)
        return rows[0], found[rows[0].uid]

    def stale_count(self, collection_id: str | None = None) -> int:
        """How many artifacts are stale, in a collection or in all; each counts once."""
        with self._read() as connection:
            counts = queries.state_counts(connection, self._moment_of(connection, collection_id))
        return sum(states.get(freshness.STALE, 0) for states in counts.values())

    def find_stale(
        self,
        collection_id: str | None = None,
        ttl_minutes: float | None = None,
        limit: int = 1000,
    ) -> list[dict[str, Any]]:
        """The stale artifacts, the longest not verified first.

        :returns: ``uid, artifact_id, collection_id, path, synced_at`` of each, as they are served.
        """
        with self._read() as connection:
            at = self._moment_of(connection, collection_id, ttl_minutes)
            return queries.stale(connection, at, limit)

    def _moment_of(
        self, connection: Connection, collection_id: str | None, ttl_minutes: float | None = None
    ) -> Moment:
        heads = queries.heads(connection)
        if collection_id is not None:
            heads = [self._populated(collection_id, queries.head(connection, collection_id))]
            if heads[0].gathers:
                heads = queries.heads(connection)
        verified_at = {one.id: one.verified_at for one in heads if one.revision}
        return self._moment(verified_at, ttl_minutes)

    def _moment(
        self, verified_at: Mapping[str, datetime | None], ttl_minutes: float | None
    ) -> Moment:
        ttl_of = self.settings.ttl_of
        if ttl_minutes is not None:
            ttl = timedelta(minutes=ttl_minutes)
            return Moment(self._clock(), lambda _: ttl, verified_at)
        return Moment(self._clock(), ttl_of, verified_at)

    # --- parts -------------------------------------------------------------------------------

    def _head(self, connection: Connection, collection_id: str) -> Head:
        if not COLLECTION_ID.fullmatch(collection_id):
            # MariaDB would find 'work' by 'work '.
            return self._populated(collection_id, None)
        return self._populated(collection_id, queries.head(connection, collection_id))

    def kept(
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
            stamp = self._readers.stamp(engine, collection_id)
            if stamp is not None and kept.holds(stamp, now):
                return self._served(kept.body)
        if not COLLECTION_ID.fullmatch(collection_id):
            # MariaDB would find 'work' by 'work ', and the host's 'authorize' was asked for that.
            self._populated(collection_id, None)
        with self._read() as connection:
            if engine is None:
                found, one_moment = queries.head(connection, collection_id), False
            else:
                found, one_moment = queries.first_head(connection, collection_id)
            one = self._populated(collection_id, found)
            if kept is not None and kept.holds(one.stamp, now):
                return self._served(kept.body)
            for again in reversed(range(MAX_LOOKS)):
                at = queries.moment(connection, one, now, self.settings.ttl_of)
                made = make(connection, one, at)
                # It takes several statements, and a refresh may have come between two of them.
                if one_moment or not (again and queries.has_moved(connection, one)):
                    break
                one = self._populated(collection_id, queries.head(connection, collection_id))
            stale = queries.stale_owners(connection, one, at) if made.stale else {}
        spelt = repr(place)
        tag = etag(spelt, one.stamp, made.expires_at)
        body = Body(made.data, tag, made.expires_at, made.next_cursor, stale)
        self._bodies.put(place, body, one.stamp, now, len(spelt))
        return self._served(body)

    def _served(self, body: Body) -> Body:
        """A body on its way out: stale while it is revalidated."""
        self.counters.hit()
        for owner, verified_at in body.stale.items():
            self._revalidate(owner, verified_at, trigger="stale")
        return body

    def part(
        self,
        one: Head,
        at: Moment,
        key: Hashable,
        make: Callable[[], tuple[bytes, datetime | None]],
    ) -> tuple[bytes, datetime | None]:
        """What several bodies have in common, kept like one of them: data and end of validity."""
        place = (one.id, "part", key)
        kept = self._bodies.get(place)
        if kept is None or not kept.holds(one.stamp, at.now):
            data, expires_at = make()
            body = Body(data, "", expires_at)
            self._bodies.put(place, body, one.stamp, at.now, len(repr(place)))
            return body.data, body.expires_at
        return kept.body.data, kept.body.expires_at

    def count(self, connection: Connection, one: Head, filters: Filters, at: Moment) -> int:
        """How many members of a collection the filters leave."""
        if filters == Filters():
            return one.artifact_count

        def make() -> tuple[bytes, datetime | None]:
            counted = queries.count(connection, one, filters, at)
            expires_at = queries.next_change(connection, at) if filters.states else None
            return str(counted).encode(), expires_at

        return int(self.part(one, at, ("count", filters), make)[0])

    def _populated(self, collection_id: str, one: Head | None) -> Head:
        """The collection, if it was read.

        :raises NotFoundError: if there is no such collection.
        :raises NotPopulatedError: if it has not been read yet.
        """
        if one is not None and one.revision:
            return one
        if one is None and collection_id not in self.collections.ids():
            raise NotFoundError(f"there is no collection '{collection_id}'")
        self.counters.miss()
        self._revalidate(collection_id, None, trigger="cold")
        raise NotPopulatedError(
            f"'{collection_id}' has not been read yet; 'flask artifact-cache populate' reads it",
            retry_after=2,
        )

    def _revalidate(self, collection_id: str, seen: datetime | None, trigger: str) -> None:
        """Hear what was served stale, or not at all; who only reads does nothing about it.

        :param seen: when the collection was verified, as far as was seen.
        """

    @property
    def in_memory(self) -> bool:
        """Whether the database is a single connection, which the host uses, too."""
        return isinstance(getattr(engine_of(self._db), "pool", None), StaticPool)

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        engine = self._engine()
        try:
            if engine is None:
                yield self._db.session.connection(bind_arguments={"mapper": Artifact.__mapper__})
                return
            # 30 us less than by way of the session, a tenth of a whole answer.
            with self._readers.connection(engine) as connection:
                yield connection
        except SQLAlchemyError as error:
            # As as_schema_error, whose own context each page would pay for.
            missing = schema_error(error)
            if missing is None:
                raise
            raise missing from error

    def _engine(self) -> Engine | None:
        """The host's engine; None where only its session may be used.

        That is a test's connection in place of the engine, or a database in memory, which is a
        single connection: closing it would roll back what the host has not committed.
        """
        engine = engine_of(self._db)
        # The pool tells, as in 'in_memory'; every read comes by here, so it is not asked twice.
        shared = not isinstance(engine, Engine) or isinstance(engine.pool, StaticPool)
        return None if shared else engine


def ambiguous(artifact_id: str, candidates: Sequence[Candidate]) -> AmbiguousIdError:
    """The error of an id that several artifacts share."""
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
