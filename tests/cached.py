"""A cache on a database, without a host: what the tests of the refresh work on."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from contextlib import contextmanager

import sqlalchemy as sa

from flask_artifact_cache import ArtifactManager, search
from flask_artifact_cache.models import (
    Artifact,
    Base,
    Collection,
    CollectionArtifact,
    Facet,
    FacetValue,
    SearchText,
)
from flask_artifact_cache.refresh.requests import Refresher
from flask_artifact_cache.refresh.run import Order, utc_now
from flask_artifact_cache.refresh.selection import Selection
from flask_artifact_cache.refresh.transactions import on_engine


def later() -> int:
    """A time at which nothing that was written before now is in doubt any more."""
    return time.time_ns() + 10_000_000_000


class Cache:
    """The rows of one collection, kept true by refreshes.

    :param clock_ns: by which files are dated. As a rule every file is old enough to be relied on.
    """

    def __init__(self, engine, root, *, clock=utc_now, clock_ns=later, collection_id="work"):
        self.engine = engine
        self.clock = clock
        self.id = collection_id
        self.manager = ArtifactManager(root, collection_id=collection_id, clock_ns=clock_ns)

    def refresher(self, **options):
        options = {"clock": self.clock, "wait_s": 0.0, **options}
        return Refresher(on_engine(self.engine), {self.id: self.manager}, **options)

    def order(self, *, force=False, confirm=None, mass_loss_percent=20.0, dry_run=False, **chosen):
        chosen = {
            name: tuple(value) if isinstance(value, (list, set)) else value
            for name, value in chosen.items()
        }
        selection = Selection(self.id, **chosen)
        return Order(selection, "refresh", force, confirm, mass_loss_percent, dry_run)

    def refresh(self, **order):
        """Refresh what the order says; the report."""
        [report] = self.refresher().refresh(self.order(**order)).reports
        return report

    def rows(self, *columns):
        with self.engine.connect() as connection:
            return connection.execute(sa.select(*columns)).all()

    def of_each(self, column):
        """What a column says of each artifact, by path."""
        return dict(self.rows(Artifact.path, column))

    def names(self):
        return sorted(row[0] for row in self.rows(Artifact.name))


def counts(report):
    """What a report says, without the zeros."""
    named = ("created", "updated", "unchanged", "removed", "skipped", "quarantined", "withheld")
    return {name: getattr(report, name) for name in named if getattr(report, name)}


# What depends on when and how often a row was written.
_HISTORY = {"id", "value_id", "synced_at", "updated_at", "evidence"}


def contents(engine):
    """All that readers can be told, by uid, and the counts; without ids and times."""
    found = defaultdict(dict)
    with engine.connect() as connection:
        uids = dict(connection.execute(sa.select(Artifact.id, Artifact.uid)).all())
        for row in connection.execute(sa.select(*Artifact.__table__.columns)):
            values = {name: row._mapping[name] for name in row._mapping if name not in _HISTORY}
            values["payload"] = json.loads(values["payload"])
            values["details"] = json.loads(values["details"])
            found[row.uid]["row"] = values
        kept, facet = FacetValue.__table__.c, Facet.__table__.c
        value = (kept.collection_id, kept.facet, kept.value)
        for name, columns, joined in (
            ("facets", (*value, *facet), Facet.__table__.join(FacetValue)),
            ("member", CollectionArtifact.__table__.c, CollectionArtifact),
        ):
            columns = [c for c in columns if c.name not in _HISTORY]
            for row in connection.execute(sa.select(*columns).select_from(joined)):
                of = uids.get(row.artifact_id, f"of nobody: {row.artifact_id}")
                values = [value for key, value in row._mapping.items() if key != "artifact_id"]
                found[of].setdefault(name, set()).add(tuple(values))
        for row in connection.execute(sa.select(*SearchText.__table__.columns)):
            found[uids.get(row[0], "of nobody")]["search"] = row[1:]
        counted = {tuple(row) for row in connection.execute(sa.select(*value, kept.members))}
        collections = {
            row.id: row.artifact_count
            for row in connection.execute(sa.select(Collection.id, Collection.artifact_count))
        }
        if connection.dialect.name == "sqlite":
            # Fails if the index does not say what the table says.
            connection.exec_driver_sql(
                f"INSERT INTO {search.FTS_TABLE}({search.FTS_TABLE}, rank)"
                " VALUES ('integrity-check', 1)"
            )
    return {**found, "facet counts": counted, "artifact counts": collections}


def differences(one, other):
    """What two results of :func:`contents` do not share."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {
            key: differences(one.get(key), other.get(key))
            for key in one.keys() | other.keys()
            if one.get(key) != other.get(key)
        }
    return one, other


def hurry(engine):
    """Let SQLite not wait for the disk: no test here cuts the power."""

    @sa.event.listens_for(engine, "connect")
    def set_(connection, _):
        connection.execute("PRAGMA synchronous=OFF")

    engine.dispose()


def empty(engine):
    """Delete everything."""
    with engine.begin() as connection:
        for table in reversed(Base.metadata.sorted_tables):
            connection.execute(sa.delete(table))


# --- who opens what ------------------------------------------------------------------------------

_WATCHED: list[tuple[str, list[str]]] = []


def _hook(event, args):
    if event == "open" and _WATCHED and isinstance(args[0], (str, bytes)):
        path = os.fsdecode(args[0])
        for root, seen in _WATCHED:
            if path.startswith(root):
                seen.append(path[len(root) :])


sys.addaudithook(_hook)


@contextmanager
def opened(root):
    """The files below a folder that are opened meanwhile."""
    entry = (f"{root}{os.sep}", [])
    _WATCHED.append(entry)
    try:
        yield entry[1]
    finally:
        _WATCHED.remove(entry)
