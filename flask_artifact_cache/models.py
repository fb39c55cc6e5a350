"""The tables, on a declarative base of our own, at home in the host's ``db.session``.

Every name starts with ``artifact_cache_``. Constraints and indexes are named in
``__table_args__``, so that they keep their names when a host copies the tables into a metadata
with another naming convention.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

TABLE_PREFIX = "artifact_cache_"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time, stored as UTC; SQLite would otherwise drop the offset unseen."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """Keep microseconds on MySQL and MariaDB, too."""
        return dialect.type_descriptor(
            mysql.DATETIME(fsp=6) if dialect.name in ("mysql", "mariadb") else DateTime()
        )

    def process_bind_param(self, value: datetime | None, _: Dialect) -> datetime | None:
        """Refuse a naive time: nobody can tell what it means."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone cannot be stored")
        return value.astimezone(timezone.utc).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _: Dialect) -> datetime | None:
        """Give the zone back."""
        return None if value is None else utc(value)


def utc(value: datetime | str) -> datetime:
    """A stored time as the driver gives it, as an aware one."""
    time = datetime.fromisoformat(value) if isinstance(value, str) else value
    return time.replace(tzinfo=timezone.utc)


def exact(length: int) -> String:
    """Text that is compared and sorted by code point on every database.

    Pages are cut by comparing these values, and 'é' is not 'e': the default collations of
    MariaDB and PostgreSQL would both disagree with SQLite.
    """
    return (
        String(length)
        .with_variant(String(length, collation="utf8mb4_bin"), "mysql", "mariadb")
        .with_variant(String(length, collation="C"), "postgresql")
    )


# TEXT and BLOB of MySQL end at 64 KiB; a description may be longer than that.
LongText = Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
ExactText = (
    Text()
    .with_variant(mysql.MEDIUMTEXT(collation="utf8mb4_bin"), "mysql", "mariadb")
    .with_variant(Text(collation="C"), "postgresql")
)
LongBinary = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
# SQLite counts up by itself only for a column of exactly INTEGER.
BigKey = BigInteger().with_variant(Integer(), "sqlite")

NAME_KEY_LENGTH = 120
FACET_VALUE_LENGTH = 190


class Base(DeclarativeBase):
    """The base of our tables; the host's ``db.Model`` never meets it."""


class Collection(Base):
    """A root folder of artifacts, and how far the cache has followed it."""

    __tablename__ = "artifact_cache_collection"

    id: Mapped[str] = mapped_column(exact(64), primary_key=True)
    # Moves with every write to what readers see; 0 until the first populate is complete.
    revision: Mapped[int] = mapped_column(BigInteger, default=0)
    # Random, and new with every revision: a database that was made anew, or a transaction that
    # was rolled back, repeats revisions, but never this.
    stamp: Mapped[str] = mapped_column(String(16), default="")
    artifact_count: Mapped[int] = mapped_column(Integer, default=0)
    # What the last scan found; reads never look at the folder.
    path_available: Mapped[bool] = mapped_column(default=True)
    # Whether the artifacts of every other collection are members of this one, too.
    gathers: Mapped[bool] = mapped_column(default=False)
    # When all of its artifacts were last verified against their files.
    verified_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # What the files and the rules were like when all of its rows last agreed with them; None where
    # that cannot be told. While both are the same, no file has to be opened.
    evidence: Mapped[str | None] = mapped_column(String(32))
    rules: Mapped[str | None] = mapped_column(String(32))
    # Problems of the collection as a whole: manifests, links, unreadable folders.
    problems: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)
    # One refresh at a time: who is at it, and until when (database clock, ms since 1970).
    lease_holder: Mapped[str | None] = mapped_column(String(64))
    lease_until_ms: Mapped[int] = mapped_column(BigInteger, default=0)

    artifacts: Mapped[list[Artifact]] = relationship(
        secondary="artifact_cache_collection_artifact", viewonly=True
    )


class Artifact(Base):
    """One artifact as it was when the cache last read it."""

    __tablename__ = "artifact_cache_artifact"
    __table_args__ = (
        UniqueConstraint("uid", name="uq_artifact_cache_artifact_uid"),
        Index("ix_artifact_cache_artifact_condition", "collection_id", "condition", "synced_at"),
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    uid: Mapped[str] = mapped_column(exact(16))
    collection_id: Mapped[str] = mapped_column(
        exact(64),
        ForeignKey(Collection.id, name="fk_artifact_cache_artifact_collection_id"),
    )
    type: Mapped[str] = mapped_column(exact(16))
    name: Mapped[str] = mapped_column(LongText)  # as declared: spaces, colons, slashes occur
    path: Mapped[str] = mapped_column(LongText)  # POSIX, relative to the root
    description: Mapped[str | None] = mapped_column(LongText)
    author: Mapped[str | None] = mapped_column(LongText)
    license: Mapped[str | None] = mapped_column(LongText)
    version: Mapped[str | None] = mapped_column(LongText)
    tags: Mapped[list[str]] = mapped_column(JSON)
    tools: Mapped[list[str] | None] = mapped_column(JSON(none_as_null=True))
    model: Mapped[str | None] = mapped_column(LongText)
    source: Mapped[str | None] = mapped_column(LongText)
    origin: Mapped[str] = mapped_column(String(16))
    origin_source: Mapped[str | None] = mapped_column(LongText)
    version_spec: Mapped[str | None] = mapped_column(LongText)
    resolved_sha: Mapped[str | None] = mapped_column(LongText)
    resolved_version: Mapped[str | None] = mapped_column(LongText)
    plugin: Mapped[str | None] = mapped_column(LongText)
    secondary: Mapped[bool] = mapped_column(default=False)
    content_hash: Mapped[str | None] = mapped_column(String(64))
    file_count: Mapped[int] = mapped_column(Integer)
    total_size: Mapped[int] = mapped_column(BigInteger)  # bytes
    warnings: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    # The part of the state that does not depend on the time; see freshness.py.
    condition: Mapped[str] = mapped_column(String(12), default="ok")
    # What its files were like when they were read; None where they may have changed since then
    # without a trace.
    evidence: Mapped[str | None] = mapped_column(String(32))
    # Whether its path alone makes it this artifact, and no other file says anything about it.
    alone: Mapped[bool] = mapped_column(default=False)
    # When this row was last compared with its file; Collection.verified_at may be later.
    synced_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # The JSON object of a listing without what depends on the time, and what only the
    # detail view adds. Made when the row is written, so that reading is copying.
    payload: Mapped[bytes] = mapped_column(LongBinary)
    details: Mapped[bytes] = mapped_column(LongBinary)

    @property
    def artifact_id(self) -> str:
        """``type:name``, which several artifacts may share."""
        return f"{self.type}:{self.name}"


class CollectionArtifact(Base):
    """An artifact is a member of a collection; the keys that a listing is sorted by."""

    __tablename__ = "artifact_cache_collection_artifact"
    __table_args__ = (
        Index("ix_artifact_cache_member_name", "collection_id", "name_key", "artifact_id"),
        Index("ix_artifact_cache_member_updated", "collection_id", "updated_at", "artifact_id"),
        {"sqlite_with_rowid": False},
    )

    artifact_id: Mapped[int] = mapped_column(
        BigKey,
        ForeignKey(Artifact.id, name="fk_artifact_cache_member_artifact_id"),
        primary_key=True,
    )
    collection_id: Mapped[str] = mapped_column(
        exact(64),
        ForeignKey(Collection.id, name="fk_artifact_cache_member_collection_id"),
        primary_key=True,
    )
    name_key: Mapped[str] = mapped_column(exact(NAME_KEY_LENGTH))
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)


class FacetValue(Base):
    """A value that members of a collection can be found by: a tag, a type, an author.

    How many have it is kept by those who write, because whoever reads would have to count up to
    all members.
    """

    __tablename__ = "artifact_cache_facet_value"
    __table_args__ = (Index("ix_artifact_cache_facet_value", "collection_id", "facet", "value"),)

    # Made from the other three (records.value_id), so that nobody has to ask for it.
    id: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    collection_id: Mapped[str] = mapped_column(exact(64))
    facet: Mapped[str] = mapped_column(exact(8))
    value: Mapped[str] = mapped_column(exact(FACET_VALUE_LENGTH))  # folded and cut
    members: Mapped[int] = mapped_column(Integer)


class Facet(Base):
    """A member of a collection has a value.

    The primary key begins with what a filter fixes and ends with what a listing is sorted by,
    so a filtered page is one range of one index.
    """

    __tablename__ = "artifact_cache_facet"
    __table_args__ = (
        Index("ix_artifact_cache_facet_artifact", "artifact_id"),
        {"sqlite_with_rowid": False},
    )

    value_id: Mapped[int] = mapped_column(
        BigKey,
        ForeignKey(FacetValue.id, name="fk_artifact_cache_facet_value_id"),
        primary_key=True,
        autoincrement=False,
    )
    name_key: Mapped[str] = mapped_column(exact(NAME_KEY_LENGTH), primary_key=True)
    artifact_id: Mapped[int] = mapped_column(
        BigKey,
        ForeignKey(Artifact.id, name="fk_artifact_cache_facet_artifact_id"),
        primary_key=True,
        autoincrement=False,
    )
    # The value as written; None where that is the folded one.
    label: Mapped[str | None] = mapped_column(LongText)


class SearchText(Base):
    """What full-text search looks at: folded words, separated by single blanks.

    The table is the same on every database; each indexes it in its own way (search.py).
    """

    __tablename__ = "artifact_cache_search"

    artifact_id: Mapped[int] = mapped_column(
        BigKey,
        ForeignKey(Artifact.id, name="fk_artifact_cache_search_artifact_id"),
        primary_key=True,
        autoincrement=False,
    )
    name: Mapped[str] = mapped_column(ExactText)
    tags: Mapped[str] = mapped_column(ExactText)
    description: Mapped[str] = mapped_column(ExactText)


class RefreshRun(Base):
    """One refresh of a collection: what started it and what came of it.

    A request for several collections has a row for each, all with the same id.
    """

    __tablename__ = "artifact_cache_refresh_run"
    __table_args__ = (
        Index("ix_artifact_cache_run_collection", "collection_id", "started_at"),
        Index("ix_artifact_cache_run_request", "request"),
    )

    id: Mapped[str] = mapped_column(exact(32), primary_key=True)
    collection_id: Mapped[str] = mapped_column(
        exact(64),
        ForeignKey(Collection.id, name="fk_artifact_cache_run_collection_id"),
        primary_key=True,
    )
    # The same for requests that ask for the same.
    request: Mapped[str] = mapped_column(String(32))
    trigger: Mapped[str] = mapped_column(String(16))
    filters: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    # queued, running, succeeded, partial, needs_confirmation or failed
    outcome: Mapped[str] = mapped_column(String(20))
    # How many other requests wait for its result, and whether more may.
    joins: Mapped[int] = mapped_column(default=0)
    closed: Mapped[bool] = mapped_column(default=False)
    # Until when a run that has not finished is believed to go on (database clock, ms since 1970).
    alive_until_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    duration_ms: Mapped[int] = mapped_column(default=0)
    created: Mapped[int] = mapped_column(default=0)
    updated: Mapped[int] = mapped_column(default=0)
    unchanged: Mapped[int] = mapped_column(default=0)
    removed: Mapped[int] = mapped_column(default=0)
    skipped: Mapped[int] = mapped_column(default=0)
    quarantined: Mapped[int] = mapped_column(default=0)
    # How many artifacts wait for a confirmation before they are removed.
    withheld: Mapped[int] = mapped_column(default=0)
    error_count: Mapped[int] = mapped_column(default=0)
    # The first of them.
    errors: Mapped[list[dict[str, Any]]] = mapped_column(JSON, default=list)


class FeedState(Base):
    """The one row that the positions of the change feed come from."""

    __tablename__ = "artifact_cache_feed"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    # Random: a database that was made anew repeats positions, but never this.
    epoch: Mapped[str] = mapped_column(String(16))
    # Of the last change, and of the last one that is not kept any more.
    position: Mapped[int] = mapped_column(BigInteger)
    pruned: Mapped[int] = mapped_column(BigInteger)


class LoggedChange(Base):
    """What a refresh has done to an artifact; or that a collection was first populated."""

    __tablename__ = "artifact_cache_change"
    __table_args__ = (
        Index("ix_artifact_cache_change_collection", "collection_id", "position"),
        Index("ix_artifact_cache_change_artifact", "uid", "position"),
    )

    position: Mapped[int] = mapped_column(BigKey, primary_key=True, autoincrement=False)
    collection_id: Mapped[str] = mapped_column(exact(64))
    uid: Mapped[str] = mapped_column(exact(16))
    artifact_id: Mapped[str] = mapped_column(LongText)
    path: Mapped[str] = mapped_column(LongText)
    # created, updated, missing, restored, removed; populated: a collection, without a uid
    kind: Mapped[str] = mapped_column(String(12))
    # The names of the fields that have another value since then.
    fields: Mapped[list[str]] = mapped_column(JSON)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
