"""How our tables live in a host's database without the two sides noticing each other.

Our metadata, version table and table prefix are our own. The sides meet in three places, and
each is handled here: autogenerate of the host's migrations, ``create_all``, and, if the host
wants it, ownership of the tables.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask, appcontext_pushed, current_app, has_app_context
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    Engine,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    event,
    inspect,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from . import search
from .errors import BusyError, ConfigurationError, SchemaError
from .models import TABLE_PREFIX, Base, SearchText, UtcDateTime

if TYPE_CHECKING:
    IncludeName = Callable[[str | None, str, Any], bool]

VERSION_TABLE = "artifact_cache_alembic_version"
# As Alembic makes it.
VERSION = Table(
    VERSION_TABLE,
    MetaData(),
    Column("version_num", String(32)),
    PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)
UPGRADE = "Run 'flask artifact-cache db upgrade'."
NEWER = "A newer flask-artifact-cache has made them: install that one, or a later one."
# Where no migration helps, because something else than ours has changed the tables.
ANEW = (
    "Restore them from a backup; or make them anew from the files by 'flask artifact-cache db"
    " downgrade base', 'db upgrade' and 'populate', which loses the history, and what 'default'"
    " gathers."
)

# What says that the database does not answer.
DOWN = (OperationalError, InterfaceError, PoolTimeoutError)

# What databases call a missing table or column: SQLSTATE of PostgreSQL and MySQL, and the
# numbers of MySQL. Their words depend on the language of the server.
_MISSING = {"42P01", "42703", "42S02", "42S22", 1146, 1054}
_OURS = re.compile("|".join(Base.metadata.tables))
_MISSING_IN_SQLITE = re.compile(r"no such (table|column)\b|has no column named")


def engine_of(db: SQLAlchemy) -> Engine:
    """The engine of the host that holds our tables; needs an application context."""
    return db.engines[Base.metadata.info.get("bind_key")]


@contextmanager
def as_schema_error() -> Iterator[None]:
    """Raise what :func:`schema_error` says of an error, whatever is done meanwhile.

    :raises SchemaError: if a table or column of ours is missing.
    """
    try:
        yield
    except SQLAlchemyError as error:
        missing = schema_error(error)
        if missing is None:
            raise
        raise missing from error


# --- our migrations ------------------------------------------------------------------------------


def migrations_directory() -> Path:
    """The packaged migrations: inside the package once installed, beside it in a checkout."""
    package = Path(__file__).parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def alembic_config(connection: Connection | None = None) -> Config:
    """An Alembic configuration made in memory, so the host's own is never read."""
    config = Config(stdout=sys.stdout)
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def head() -> str:
    """The revision that the models of this version stand for."""
    revision = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert revision is not None
    return revision


@lru_cache(maxsize=1)
def newest() -> str:
    """As :func:`head`, read from the package's files once."""
    return head()


def current(connection: Connection) -> str | None:
    """The revision that the database is at, or None."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def advice(revision: str | None) -> str:
    """What to do where the tables are at another revision than this version expects."""
    if revision is None or revision in _revisions():
        return UPGRADE
    return NEWER


@lru_cache(maxsize=1)
def _revisions() -> frozenset[str]:
    script = ScriptDirectory.from_config(alembic_config())
    return frozenset(one.revision for one in script.walk_revisions())


def missing(connection: Connection) -> list[str]:
    """Those of our tables, and of their columns, that are not in the database: ``table.column``."""
    known = inspect(connection)
    tables = set(known.get_table_names())
    found = []
    for name, table in sorted(Base.metadata.tables.items()):
        if name not in tables:
            found.append(name)
            continue
        columns = {column["name"] for column in known.get_columns(name)}
        found += [f"{name}.{one.name}" for one in table.columns if one.name not in columns]
    return found


@contextmanager
def migrating(engine: Engine, wait_s: int = 60) -> Iterator[Connection]:
    """A transaction that changes our tables, while every other process that would waits.

    Two that began together would both find no tables, and the slower one would fail.

    :param wait_s: how long to wait on MySQL; the other databases have a limit of their own.
    :raises BusyError: if that was not enough.
    """
    with engine.connect() as connection, _named_lock(connection, wait_s), connection.begin():
        _lock(connection)
        yield connection


def schema_error(error: SQLAlchemyError) -> SchemaError | None:
    """What to do about a table or column of ours that is missing, if that is the matter."""
    if not isinstance(error, DBAPIError) or not _OURS.search(str(error)):
        return None
    said = error.orig.args[0] if error.orig and error.orig.args else None
    code = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or said
    if code in _MISSING or (isinstance(said, str) and _MISSING_IN_SQLITE.search(said)):
        return SchemaError(f"The tables of the artifact cache are not there yet. {_remedy()}")
    return None


def _remedy() -> str:
    mounted = current_app.extensions.get("artifact_cache") if has_app_context() else None
    if mounted is not None and mounted.settings.migrations == "host":
        return "Run 'flask db migrate' and 'flask db upgrade'."
    return UPGRADE


def _lock(connection: Connection) -> None:
    """Keep the other processes waiting until this transaction ends, where it can."""
    if connection.dialect.name == "postgresql":
        take = text("SELECT pg_advisory_xact_lock(hashtext(:name))")
        connection.execute(take, {"name": VERSION_TABLE})
    elif connection.dialect.name == "sqlite":
        driver = connection.connection.dbapi_connection
        # A host may already have begun in an event handler of its own.
        if not getattr(driver, "in_transaction", False):
            connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def _named_lock(connection: Connection, wait_s: int) -> Iterator[None]:
    """The lock of MySQL, whose transactions end with every CREATE TABLE."""
    if connection.dialect.name not in ("mysql", "mariadb"):
        yield
        return
    # Names are known to the whole server.
    name = {"name": f"{VERSION_TABLE} {connection.engine.url.database}"[:64]}
    take = text("SELECT GET_LOCK(:name, :wait_s)")
    if connection.scalar(take, {**name, "wait_s": wait_s}) != 1:
        raise BusyError("another process is changing the tables of the artifact cache")
    connection.commit()
    try:
        yield
    finally:
        connection.execute(text("SELECT RELEASE_LOCK(:name)"), name)


# --- autogenerate of the host's migrations -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Filter:
    """See :func:`host_include_name`."""

    db: SQLAlchemy
    otherwise: IncludeName | None

    def __call__(self, name: str | None, type_: str, parent_names: Any) -> bool:
        if name is not None and (
            (type_ == "table" and name.startswith(TABLE_PREFIX) and not self._is_the_hosts(name))
            or (type_ == "index" and name == search.GIN_INDEX)
        ):
            return False
        return self.otherwise is None or self.otherwise(name, type_, parent_names)

    def _is_the_hosts(self, name: str) -> bool:
        # A table that was handed over is, what search.py adds to it is not.
        return any(name in metadata.tables for metadata in self.db.metadatas.values())


def host_include_name(db: SQLAlchemy, otherwise: IncludeName | None = None) -> IncludeName:
    """A filter for the host's autogenerate that hides our tables from it.

    ``init_app`` installs it by itself where Flask-Migrate's ``env.py`` is used; a hand-written
    one passes ``include_name=host_include_name(db)`` to ``context.configure``.

    :param otherwise: the host's own filter, asked about everything that is not ours.
    """
    return _Filter(db, otherwise)


def hide_from_autogenerate(app: Flask, db: SQLAlchemy) -> None:
    """Add the filter to what Flask-Migrate hands to the host's ``env.py``.

    Flask-Migrate may be set up after us, so the look at it is repeated when an application
    context is pushed, which every command does before it runs. It does not if the host's module
    has pushed one for good; then the look is repeated when ``env.py`` connects.
    """
    appcontext_pushed.connect(_hide, app)
    _hide(app)
    if has_app_context() and current_app == app:
        event.listen(engine_of(db), "engine_connect", _hide_from_current)


# Functions of the module: a closure would keep the application alive for ever.
def _hide(app: Flask, **_: Any) -> None:
    migrate = app.extensions.get("migrate")
    if migrate is not None:
        appcontext_pushed.disconnect(_hide, app)
        arguments = migrate.configure_args
        known = arguments.get("include_name")
        if not isinstance(known, _Filter):
            arguments["include_name"] = host_include_name(app.extensions["sqlalchemy"], known)


def _hide_from_current(_: Connection) -> None:
    if has_app_context():
        _hide(current_app)


# --- create_all and ownership --------------------------------------------------------------------


def host_metadata(db: SQLAlchemy) -> MetaData:
    """The metadata of the host's tables in the database that holds ours."""
    key = Base.metadata.info.get("bind_key")
    if key not in db.metadatas:
        raise ConfigurationError(f"SQLALCHEMY_BINDS has no entry {key!r} for the artifact cache")
    return db.metadatas[key]


def follow_create_all(metadata: MetaData) -> None:
    """Let the host's ``create_all`` and ``drop_all`` cover our tables, on the same connection."""
    if not event.contains(metadata, "before_create", _create):
        event.listen(metadata, "before_create", _create)
        event.listen(metadata, "after_drop", _drop)


def hand_over(metadata: MetaData) -> None:
    """Copy our tables into the host's metadata, whose migrations own them from then on."""
    for table in Base.metadata.tables.values():
        if table.name not in metadata.tables:
            for column in table.to_metadata(metadata).columns:
                if isinstance(column.type, UtcDateTime):
                    # The host's revisions then need no import of ours.
                    column.type = DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def _create(_: MetaData, connection: Connection, **arguments: Any) -> None:
    if not _covers_us(arguments) or current(connection) is not None:
        return
    _lock(connection)
    if current(connection) is not None:
        return  # another process was faster
    Base.metadata.create_all(connection)
    VERSION.create(connection, checkfirst=True)
    connection.execute(VERSION.insert().values(version_num=head()))


def _drop(_: MetaData, connection: Connection, **arguments: Any) -> None:
    if _covers_us(arguments):
        Base.metadata.drop_all(connection)
        VERSION.drop(connection, checkfirst=True)


def _covers_us(arguments: dict[str, Any]) -> bool:
    """Whether all tables are meant, not some picked ones, and those of an app that mounts us.

    Several applications may share one ``db``.
    """
    if has_app_context() and "artifact_cache" not in current_app.extensions:
        return False
    return getattr(arguments.get("_ddl_runner"), "tables", None) is None


def _create_index(_: Table, connection: Connection, **__: Any) -> None:
    for statement in search.index_statements(connection.dialect.name):
        connection.exec_driver_sql(statement)


def _drop_index(_: Table, connection: Connection, **__: Any) -> None:
    for statement in search.drop_statements(connection.dialect.name):
        connection.exec_driver_sql(statement)


# A copy that is handed over takes them along.
event.listen(SearchText.__table__, "after_create", _create_index, propagate=True)
event.listen(SearchText.__table__, "before_drop", _drop_index, propagate=True)
