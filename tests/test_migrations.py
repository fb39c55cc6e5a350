"""Our tables and the host's live in one database, and neither side's migrations see the other."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column, relationship

import flask_artifact_cache
from flask_artifact_cache import ArtifactCache, database
from flask_artifact_cache.doctor import examine, gather
from flask_artifact_cache.models import TABLE_PREFIX, Artifact, Base

from .cached import hurry

OURS = set(Base.metadata.tables)
HEAD = database.head()
AT_HEAD = f"The tables are at {HEAD}; the newest is {HEAD}.\n"
LIST = "/api/v1/user-collections/work/artifacts"
SENTENCE = (
    "The tables of the artifact cache are not there yet. Run 'flask artifact-cache db upgrade'."
)
# Without "ix": Alembic has stumbled over that.
CONVENTION = {
    "uq": "host_uq_%(table_name)s_%(column_0_name)s",
    "fk": "host_fk_%(table_name)s_%(column_0_name)s",
    "pk": "host_pk_%(table_name)s",
    "ck": "host_ck_%(table_name)s_%(constraint_name)s",
}


def notes(db):
    class Note(db.Model):
        id: Mapped[int] = mapped_column(primary_key=True)
        text: Mapped[str] = mapped_column(sa.String(200))

    return Note


def notes_with_stars(db):
    class Note(db.Model):
        id: Mapped[int] = mapped_column(primary_key=True)
        text: Mapped[str] = mapped_column(sa.String(200))
        starred: Mapped[bool | None]

    return Note


def bookmarks(db):
    # "album" sorts before "artifact_cache_artifact": a name must not decide the order.
    class Album(db.Model):
        id: Mapped[int] = mapped_column(primary_key=True)
        artifact_id: Mapped[int] = mapped_column(
            sa.ForeignKey(Artifact.id, name="fk_album_artifact")
        )
        artifact: Mapped[Artifact] = relationship(Artifact)

    return Album


class Host:
    """A release of an application that has a ``db`` and a history of migrations of its own."""

    def __init__(
        self,
        folder,
        url,
        models=notes,
        *,
        mount=True,
        migrate="first",
        collections=None,
        convention=None,
        binds=None,
        **arguments,
    ):
        self.folder = folder / "migrations"
        self.app = Flask("host")
        self.app.config.update(
            SQLALCHEMY_DATABASE_URI=url,
            SQLALCHEMY_BINDS=binds or {},
            ARTIFACT_CACHE_COLLECTIONS=collections or {},
            ARTIFACT_CACHE_POPULATE_ON_STARTUP=False,
            **{name: arguments.pop(name) for name in list(arguments) if name.isupper()},
        )
        self.db = SQLAlchemy(metadata=sa.MetaData(naming_convention=convention))
        self.model = models(self.db)
        self.db.init_app(self.app)
        with self.app.app_context():
            for engine in self.db.engines.values():
                if engine.dialect.name == "sqlite":
                    hurry(engine)
        migration = Migrate(db=self.db, directory=self.folder, **arguments)
        if migrate == "first":
            migration.init_app(self.app)
        if mount:
            ArtifactCache(self.app, self.db)
        if migrate == "last":
            migration.init_app(self.app)

    def flask(self, *arguments, exit_code=0):
        """Run a command; give what it printed."""
        result = self.app.test_cli_runner().invoke(args=arguments)
        assert result.exit_code == exit_code, (result.output, result.exc_info)
        return result.output

    def init(self, *options):
        self.flask("db", "init", *options)

    def migrate(self):
        """Let the host's autogenerate propose a revision; its text, or None if it has none."""
        before = set(self.folder.glob("versions/*.py"))
        self.flask("db", "migrate")
        new = set(self.folder.glob("versions/*.py")) - before
        return new.pop().read_text() if new else None

    def change(self):
        """Migrate the host's own tables; the text of the revision."""
        revision = self.migrate()
        assert revision is not None
        self.flask("db", "upgrade")
        return revision

    def upgrade_ours(self):
        return self.flask("artifact-cache", "db", "upgrade")

    def tables(self, bind_key=None):
        with self.app.app_context():
            return set(sa.inspect(self.db.engines[bind_key]).get_table_names())

    def ours(self, bind_key=None):
        return {name for name in self.tables(bind_key) if name.startswith(TABLE_PREFIX)}

    def execute(self, statement):
        with self.app.app_context():
            result = self.db.session.execute(sa.text(statement))
            rows = result.all() if result.returns_rows else None
            self.db.session.commit()
            return rows

    def create_all(self):
        with self.app.app_context():
            self.db.create_all()

    def drop_all(self):
        with self.app.app_context():
            self.db.drop_all()

    def close(self):
        with self.app.app_context():
            self.db.session.remove()
            for engine in self.db.engines.values():
                engine.dispose()


@pytest.fixture
def make_host(tmp_path, database_url):
    """Makes releases of one host, on one database and one folder of migrations."""
    made = []

    def make(*arguments, url=database_url, **options):
        host = Host(tmp_path, url, *arguments, **options)
        made.append(host)
        return host

    yield make
    for host in made:
        host.close()


# The template of Flask-Migrate asks Flask-SQLAlchemy for it.
pytestmark = pytest.mark.filterwarnings("ignore:'get_engine' is deprecated:DeprecationWarning")
only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
transactional = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def _loggers_as_they_were():
    """Flask-Migrate's ``env.py`` configures logging for the whole process."""
    manager = logging.Logger.manager
    known = [
        manager.root,
        *(one for one in manager.loggerDict.values() if type(one) is logging.Logger),
    ]
    before = [(one, one.level, one.disabled, one.handlers[:]) for one in known]
    yield
    for one, level, disabled, handlers in before:
        one.setLevel(level)
        one.disabled, one.handlers[:] = disabled, handlers


def definition(host):
    """Everything that the database itself knows about our tables."""
    with host.app.app_context(), host.db.engine.connect() as connection:
        names = sorted(host.ours())
        if connection.dialect.name == "sqlite":
            rows = connection.execute(
                sa.text("SELECT type, name, sql FROM sqlite_master WHERE name LIKE '%artifact%'")
            )
            # In which order a table declares its constraints makes no difference.
            return sorted((*row[:2], sorted(re.split(r"[,()\s]+", row[2] or ""))) for row in rows)
        if connection.dialect.name in ("mysql", "mariadb"):
            shown = [connection.exec_driver_sql(f"SHOW CREATE TABLE {name}") for name in names]
            return [sorted(one.one()[1].replace(",\n", "\n").splitlines()) for one in shown]
        statements = (
            "SELECT table_name, column_name, ordinal_position, data_type, is_nullable,"
            " character_maximum_length, column_default, collation_name, is_identity"
            " FROM information_schema.columns WHERE table_schema = 'public'",
            "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
            " FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
            "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        )
        rows = [row for one in statements for row in connection.execute(sa.text(one))]
        return sorted(tuple(map(str, row)) for row in rows if row[0] in names)


# --- our migrations by themselves ----------------------------------------------------------------


def test_an_upgrade_makes_what_the_models_say(make_host):
    host = make_host()

    assert host.upgrade_ours() == AT_HEAD

    assert host.ours() >= OURS
    assert "No new upgrade operations" in host.flask("artifact-cache", "db", "check")
    assert host.flask("artifact-cache", "db", "current") == AT_HEAD


def test_the_migrations_go_down_and_up_again(make_host, sample, populate):
    host = make_host(collections={"work": sample.root})
    host.upgrade_ours()
    populate(host.app)

    host.flask("artifact-cache", "db", "downgrade", "base")
    assert host.ours() == set()
    host.flask("artifact-cache", "db", "downgrade", "base")

    assert "no revision" in host.flask("artifact-cache", "db", "current")
    host.upgrade_ours()
    host.flask("artifact-cache", "db", "check")
    assert populate(host.app).created == 6


def test_create_all_makes_the_same_tables_as_the_migrations(make_host):
    host = make_host()
    host.upgrade_ours()
    migrated = definition(host)
    host.flask("artifact-cache", "db", "downgrade", "base")

    host.create_all()

    assert definition(host) == migrated
    host.flask("artifact-cache", "db", "check")


def test_a_difference_to_the_models_is_found(make_host):
    host = make_host()
    assert ". Run 'flask artifact-cache db upgrade'" in host.flask(
        "artifact-cache", "db", "check", exit_code=2
    )
    host.upgrade_ours()
    host.execute("ALTER TABLE artifact_cache_refresh_run ADD COLUMN surplus INTEGER")

    said = host.flask("artifact-cache", "db", "check", exit_code=2)
    assert "not as it made them: remove_column artifact_cache_refresh_run surplus. Noth" in said

    of_table = host.app.config["SQLALCHEMY_DATABASE_URI"].startswith("mysql")
    on = " ON artifact_cache_refresh_run" if of_table else ""
    host.execute(f"DROP INDEX ix_artifact_cache_run_request{on}")
    said = host.flask("artifact-cache", "db", "check", exit_code=2)
    assert "add_index artifact_cache_refresh_run ix_artifact_cache_run_request" in said
    assert "Restore them" in said


def test_a_table_that_was_dropped_is_made_anew(make_host):
    host = make_host()
    host.upgrade_ours()
    host.execute("DROP TABLE artifact_cache_facet")

    for command in ("upgrade", "check"):
        said = host.flask("artifact-cache", "db", command, exit_code=2)
        assert "at 0001, but these are missing: artifact_cache_facet. Restore them" in said
    with host.app.app_context():
        [finding] = [one for one in examine(gather(host.app)) if one.check == "database"]
    assert "missing: artifact_cache_facet. Restore them from a backup; or make" in finding.message

    host.flask("artifact-cache", "db", "downgrade", "base")
    assert host.ours() == set()
    host.upgrade_ours()
    host.flask("artifact-cache", "db", "check")


def test_tables_of_a_later_version_are_said_to_be(make_host):
    host = make_host()
    host.upgrade_ours()
    host.execute("UPDATE artifact_cache_alembic_version SET version_num = '0099'")

    for command in (["upgrade"], ["check"], ["downgrade", "base"]):
        said = host.flask("artifact-cache", "db", *command, exit_code=2)
        assert "at 0099" in said
        assert "install that one" in said
    assert "at 0099" in host.flask("artifact-cache", "db", "current")


@transactional
def test_an_upgrade_that_fails_leaves_nothing_behind(make_host):
    host = make_host()
    host.execute("CREATE TABLE artifact_cache_refresh_run (id INTEGER)")

    host.flask("artifact-cache", "db", "upgrade", exit_code=1)

    assert host.ours() == {"artifact_cache_refresh_run"}
    host.execute("DROP TABLE artifact_cache_refresh_run")
    host.upgrade_ours()
    host.flask("artifact-cache", "db", "check")


APP = """
import os, sys
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_migrate import Migrate
from flask_artifact_cache import ArtifactCache

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["HOST_DATABASE"]
app.config["ARTIFACT_CACHE_POPULATE_ON_STARTUP"] = False
db = SQLAlchemy(app)

class Note(db.Model):
    id = db.Column(db.Integer, primary_key=True)

app.app_context().push()  # as many tutorials have it
ArtifactCache(app, db)
Migrate(app, db)
"""
WAIT = """
print("ready", flush=True)
sys.stdin.readline()
"""


def flask_process(folder, url, *arguments, app=APP):
    """A ``flask`` command in a process of its own."""
    (folder / "host_app.py").write_text(app)
    package = Path(flask_artifact_cache.__file__).parent.parent
    warnings = ("-W", "error", "-W", "ignore:'get_engine' is deprecated:DeprecationWarning")
    return subprocess.Popen(
        [sys.executable, *warnings, "-m", "flask", "--app", "host_app", *arguments],
        cwd=folder,
        env={**os.environ, "HOST_DATABASE": url, "PYTHONPATH": str(package)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_processes_that_upgrade_at_once_wait_for_each_other(make_host, tmp_path, database_url):
    upgrade = ("artifact-cache", "db", "upgrade")
    processes = [flask_process(tmp_path, database_url, *upgrade, app=APP + WAIT) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"

    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()

    ends = [(process.communicate(timeout=30)[0], process.returncode) for process in processes]
    assert ends == [(AT_HEAD, 0)] * 2
    make_host().flask("artifact-cache", "db", "check")


@transactional
def test_workers_that_create_all_at_once_wait_for_each_other(make_host, tmp_path, database_url):
    make_host(mount=False).create_all()
    start = APP + WAIT + "db.create_all()\n"
    current = ("artifact-cache", "db", "current")
    processes = [flask_process(tmp_path, database_url, *current, app=start) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"

    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()

    ends = [(process.communicate(timeout=30)[0], process.returncode) for process in processes]
    assert ends == [(AT_HEAD, 0)] * 2


@pytest.mark.parametrize("database_url", ["mariadb"], indirect=True)
def test_who_cannot_wait_longer_is_told_so(make_host):
    host = make_host()
    with host.app.app_context():
        engine = host.db.engine
        with (
            database.migrating(engine),
            pytest.raises(database.BusyError, match="another process"),
            database.migrating(engine, wait_s=0),
        ):
            pass

        with database.migrating(engine, wait_s=0):
            pass


def enforce_foreign_keys(engine):
    sa.event.listen(engine, "connect", lambda driver, _: driver.execute("PRAGMA foreign_keys=ON"))


def begin_explicitly(engine):
    """SQLAlchemy's recipe for savepoints on SQLite."""
    sa.event.listen(engine, "connect", lambda driver, _: setattr(driver, "isolation_level", None))
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))


@only_sqlite
@pytest.mark.parametrize(
    ("prepare", "options"),
    [
        (enforce_foreign_keys, {}),
        (begin_explicitly, {}),
        (lambda engine: None, {"isolation_level": "AUTOCOMMIT"}),
    ],
    ids=["foreign keys", "explicit begin", "autocommit"],
)
def test_a_host_may_use_sqlite_in_its_own_way(make_host, sample, populate, prepare, options):
    host = make_host(collections={"work": sample.root}, SQLALCHEMY_ENGINE_OPTIONS=options)
    with host.app.app_context():
        prepare(host.db.engine)

    for _ in range(2):
        host.upgrade_ours()
        host.flask("artifact-cache", "db", "check")
        assert populate(host.app).created == 6
        host.flask("artifact-cache", "db", "downgrade", "base")
        host.create_all()
        assert populate(host.app).created == 6
        host.drop_all()
        assert host.tables() == set()


@only_sqlite
def test_a_new_revision_of_ours_is_written_by_flask_migrate(make_host, tmp_path):
    ours = tmp_path / "ours"
    shutil.copytree(database.migrations_directory(), ours)
    host = make_host()
    host.upgrade_ours()
    host.execute("ALTER TABLE artifact_cache_artifact DROP COLUMN updated_at")

    options = ("-d", str(ours), "-m", "put it back", "--rev-id", "9999")
    host.flask("db", "migrate", *options)

    text = (ours / "versions" / "9999_put_it_back.py").read_text()
    assert "from flask_artifact_cache.models import UtcDateTime\n" in text
    assert "batch_op.add_column(sa.Column('updated_at', UtcDateTime(), nullable=False))" in text
    assert "fts" not in text
    host.flask("db", "upgrade", "-d", str(ours))
    assert host.execute("SELECT * FROM artifact_cache_alembic_version") == [("9999",)]


# --- create_all ----------------------------------------------------------------------------------


def test_create_all_then_upgrade(make_host, sample, populate):
    host = make_host(collections={"work": sample.root})
    host.create_all()
    populate(host.app)

    host.upgrade_ours()

    host.flask("artifact-cache", "db", "check")
    assert host.execute("SELECT count(*) FROM artifact_cache_artifact") == [(6,)]


def test_upgrade_then_create_all(make_host, sample, populate):
    host = make_host(collections={"work": sample.root})
    host.upgrade_ours()
    populate(host.app)

    host.create_all()
    host.create_all()

    assert "note" in host.tables()
    assert host.execute("SELECT count(*) FROM artifact_cache_artifact") == [(6,)]
    assert host.execute("SELECT * FROM artifact_cache_alembic_version") == [(HEAD,)]


@only_sqlite
def test_create_all_goes_on_where_an_upgrade_was_interrupted(make_host):
    host = make_host()
    host.execute("CREATE TABLE artifact_cache_alembic_version (version_num VARCHAR(32))")

    host.create_all()

    assert host.upgrade_ours() == AT_HEAD
    assert host.ours() >= OURS


@only_sqlite
def test_create_all_leaves_an_older_revision_to_the_upgrade(make_host):
    host = make_host()
    host.create_all()
    host.execute("UPDATE artifact_cache_alembic_version SET version_num = '0000'")
    host.execute("DROP TABLE artifact_cache_facet")

    host.create_all()

    assert "artifact_cache_facet" not in host.tables()


def test_drop_all_leaves_nothing_of_ours(make_host, sample, populate):
    host = make_host(collections={"work": sample.root})
    host.create_all()
    populate(host.app)

    host.drop_all()

    assert host.tables() == set()
    host.create_all()
    assert populate(host.app).created == 6


@only_sqlite
def test_creating_or_dropping_one_table_of_the_host_does_not_concern_us(make_host):
    host = make_host()
    note = [host.db.metadata.tables["note"]]
    with host.app.app_context():
        host.db.metadata.create_all(host.db.engine, tables=note)
        assert host.ours() == set()
        host.db.create_all()
        host.db.metadata.drop_all(host.db.engine, tables=note)

    assert "note" not in host.tables()
    assert host.ours() >= OURS


@only_sqlite
def test_of_two_apps_that_share_a_db_only_the_one_that_mounts_us_gets_tables(make_host, tmp_path):
    host = make_host()
    other = Flask("other")
    other.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / 'other.db'}"
    host.db.init_app(other)

    host.create_all()
    with other.app_context():
        host.db.create_all()
        tables = sa.inspect(host.db.engine).get_table_names()
        host.db.engine.dispose()

    assert host.ours() >= OURS
    assert tables == ["note"]


@only_sqlite
def test_create_all_without_an_app_context_covers_us(make_host):
    host = make_host()
    with host.app.app_context():
        engine = host.db.engine

    host.db.metadata.create_all(engine)
    assert host.ours() >= OURS
    host.db.metadata.drop_all(engine)
    assert host.tables() == set()


def test_create_all_covers_host_tables_that_refer_to_ours(make_host, sample, populate):
    host = make_host(bookmarks, collections={"work": sample.root})
    host.create_all()
    populate(host.app)
    host.execute("INSERT INTO album (id, artifact_id) SELECT id, id FROM artifact_cache_artifact")

    with host.app.app_context():
        albums = host.db.session.scalars(sa.select(host.model))
        names = [album.artifact.name for album in albums]
    assert len(names) == 6

    host.drop_all()
    assert host.tables() == set()


# --- beside the host's migrations ----------------------------------------------------------------


@pytest.mark.parametrize("migrate", ["first", "last"])
def test_host_first_then_cache(make_host, migrate):
    before = make_host(mount=False)
    before.init()
    before.change()
    before.execute("INSERT INTO note VALUES (1, 'kept')")

    host = make_host(migrate=migrate)
    host.upgrade_ours()

    assert host.migrate() is None
    host.flask("db", "upgrade")
    host.flask("artifact-cache", "db", "check")
    assert host.execute("SELECT text FROM note") == [("kept",)]


@pytest.mark.parametrize("migrate", ["first", "last"])
def test_cache_first_then_host(make_host, migrate):
    host = make_host(migrate=migrate)
    host.upgrade_ours()

    host.init()
    revision = host.change()

    assert "create_table('note'" in revision
    assert TABLE_PREFIX not in revision
    assert host.migrate() is None
    host.flask("artifact-cache", "db", "check")


def test_the_host_keeps_changing_its_own_models(make_host):
    old = make_host()
    old.init()
    old.change()
    old.upgrade_ours()

    new = make_host(notes_with_stars)
    revision = new.change()

    assert "starred" in revision
    assert TABLE_PREFIX not in revision
    assert new.migrate() is None


def test_each_side_goes_down_alone(make_host):
    host = make_host()
    host.init()
    host.change()
    host.upgrade_ours()

    host.flask("artifact-cache", "db", "downgrade", "base")
    assert host.tables() == {"note", "alembic_version"}

    host.upgrade_ours()
    host.flask("db", "downgrade", "base")
    assert host.tables() - host.ours() == {"alembic_version"}
    host.flask("artifact-cache", "db", "check")


@only_sqlite
@pytest.mark.parametrize("migrate", ["first", "last"])
def test_the_hosts_own_filter_still_counts(make_host, migrate):
    asked = []

    def include_name(name, type_, parent_names):
        asked.append((type_, name))
        return name != "legacy"

    host = make_host(migrate=migrate, include_name=include_name)
    host.upgrade_ours()
    host.execute("CREATE TABLE legacy (id INTEGER)")
    host.execute("CREATE TABLE abandoned (id INTEGER)")
    host.init()

    revision = host.change()

    assert "drop_table('abandoned')" in revision
    assert "legacy" not in revision
    assert TABLE_PREFIX not in revision
    assert ("table", "legacy") in asked
    assert not [name for _, name in asked if name and name.startswith(TABLE_PREFIX)]


@only_sqlite
def test_a_host_with_an_env_py_of_its_own_passes_our_filter(make_host):
    host = make_host()
    host.upgrade_ours()
    host.init()
    env = host.folder / "env.py"
    arguments = "include_name=host_include_name(target_db)"
    own = env.read_text().replace("**conf_args", arguments)
    line = "from alembic import context\n"
    ours = "from flask_artifact_cache.database import host_include_name\n"
    env.write_text(own.replace(line, line + ours))

    assert TABLE_PREFIX not in host.change()


@only_sqlite
def test_a_context_pushed_before_everything_does_not_matter(make_host, tmp_path, database_url):
    make_host().upgrade_ours()
    for command in (("db", "init"), ("db", "migrate")):
        process = flask_process(tmp_path, database_url, *command)
        output = process.communicate(timeout=30)[0]
        assert process.returncode == 0, output

    [revision] = (tmp_path / "migrations" / "versions").glob("*.py")
    assert "create_table('note'" in revision.read_text()
    assert TABLE_PREFIX not in revision.read_text()


@only_sqlite
def test_the_filter_is_added_once(make_host):
    host = make_host(mount=False, migrate=None)

    filters = []
    with host.app.app_context():
        ArtifactCache(host.app, host.db)
        Migrate(host.app, host.db)
        for _ in range(2):
            with host.db.engine.connect():
                filters.append(host.app.extensions["migrate"].configure_args["include_name"])

    assert filters[0] is filters[1]


def test_a_host_table_refers_to_ours_by_column(make_host):
    host = make_host(bookmarks)
    host.upgrade_ours()
    host.init()

    revision = host.change()

    assert "['artifact_id'], ['artifact_cache_artifact.id']" in revision
    assert "create_table('artifact_cache" not in revision
    assert host.migrate() is None
    host.flask("artifact-cache", "db", "check")


@only_sqlite
def test_a_host_with_several_databases(make_host, tmp_path):
    def models(db):
        notes(db)

        class Visit(db.Model):
            __bind_key__ = "statistics"
            id: Mapped[int] = mapped_column(primary_key=True)

    host = make_host(models, binds={"statistics": f"sqlite:///{tmp_path / 'statistics.db'}"})
    host.upgrade_ours()
    host.init("--multidb")

    revision = host.change()

    assert "create_table('note'" in revision
    assert "create_table('visit'" in revision
    assert TABLE_PREFIX not in revision
    assert host.migrate() is None
    assert host.tables("statistics") == {"visit", "alembic_version"}
    host.drop_all()
    assert host.ours() == set()


@only_sqlite
def test_the_cache_in_a_database_of_its_own(make_host, tmp_path, monkeypatch, sample, populate):
    monkeypatch.setitem(Base.metadata.info, "bind_key", "cache")
    host = make_host(
        binds={"cache": f"sqlite:///{tmp_path / 'cache.db'}"}, collections={"work": sample.root}
    )
    host.upgrade_ours()
    populate(host.app)

    assert host.tables() == set()
    assert host.ours("cache") >= OURS
    assert host.app.test_client().get(LIST).json["page_info"]["total_count"] == 6
    host.create_all()
    assert host.tables() == {"note"}
    host.init("--multidb")
    assert host.migrate() is None
    host.drop_all()
    assert host.tables("cache") == {"alembic_version"}


@only_sqlite
def test_a_database_of_its_own_that_is_not_configured_is_named(make_host, monkeypatch):
    monkeypatch.setitem(Base.metadata.info, "bind_key", "cache")

    with pytest.raises(database.ConfigurationError, match="SQLALCHEMY_BINDS has no entry 'cache'"):
        make_host()


def test_flask_migrate_can_apply_ours(make_host):
    host = make_host()
    ours = ("-d", str(database.migrations_directory()))

    host.flask("db", "upgrade", *ours)

    host.flask("artifact-cache", "db", "check")
    assert "alembic_version" not in host.tables()
    host.flask("db", "downgrade", *ours, "base")
    assert host.tables() == set()


def test_the_statements_can_be_had_without_a_database(make_host):
    host = make_host()

    ours = ("-d", str(database.migrations_directory()))
    statements = host.flask("db", "upgrade", *ours, "--sql")

    for table in OURS:
        assert f"CREATE TABLE {table} (" in statements
    assert "INSERT INTO artifact_cache_alembic_version" in statements
    assert host.tables() == set()


@only_sqlite
def test_a_host_without_flask_migrate(make_host):
    host = make_host(migrate=None)

    host.upgrade_ours()

    host.flask("artifact-cache", "db", "check")


@only_sqlite
def test_the_hosts_loggers_survive_our_migrations(make_host, caplog):
    host = make_host()
    log = logging.getLogger("host.of_this_test")
    handlers = logging.getLogger().handlers[:]

    host.upgrade_ours()
    host.flask("artifact-cache", "db", "downgrade", "base")
    host.flask("db", "upgrade", "-d", str(database.migrations_directory()))
    host.flask("artifact-cache", "db", "check")

    assert not log.disabled
    assert logging.getLogger().handlers == handlers
    log.error("still here")
    assert "still here" in caplog.text


def test_uninstalling_leaves_the_host_alone(make_host):
    host = make_host()
    host.init()
    host.change()
    host.upgrade_ours()

    host.flask("artifact-cache", "db", "downgrade", "base")

    after = make_host(mount=False)
    assert after.migrate() is None
    assert after.tables() == {"note", "alembic_version"}


# --- the host owns the tables --------------------------------------------------------------------


@pytest.mark.parametrize("convention", [None, CONVENTION], ids=["plain", "convention"])
def test_the_host_may_own_the_tables(make_host, sample, populate, convention):
    host = make_host(
        ARTIFACT_CACHE_MIGRATIONS="host", collections={"work": sample.root}, convention=convention
    )
    host.init()

    revision = host.change()

    assert all(f"create_table('{table}'" in revision for table in OURS)
    assert "flask_artifact_cache" not in revision
    assert host.tables() == {*OURS, "note", "alembic_version"}
    assert host.migrate() is None
    populate(host.app)
    found = host.app.test_client().get(f"{LIST}?q=pdf").json
    assert [item["name"] for item in found["items"]] == ["pdf"]


@pytest.mark.parametrize("convention", [None, CONVENTION], ids=["plain", "convention"])
def test_from_packaged_to_owner_there_is_no_difference(make_host, sample, populate, convention):
    packaged = make_host(convention=convention)
    packaged.init()
    packaged.change()
    packaged.upgrade_ours()

    owner = make_host(
        convention=convention,
        collections={"work": sample.root},
        ARTIFACT_CACHE_MIGRATIONS="host",
    )

    assert owner.migrate() is None
    assert populate(owner.app).created == 6


@only_sqlite
@pytest.mark.parametrize("command", [("upgrade",), ("downgrade", "base"), ("current",), ("check",)])
def test_our_commands_refuse_what_the_host_owns(make_host, command):
    host = make_host(ARTIFACT_CACHE_MIGRATIONS="host")

    said = host.flask("artifact-cache", "db", *command, exit_code=2)

    assert said == (
        "Error: ARTIFACT_CACHE_MIGRATIONS is 'host': the app's own migrations own the tables;"
        " run 'flask db migrate' and 'flask db upgrade'\n"
    )
    assert host.tables() == set()


def test_create_all_of_the_owner_makes_everything_too(make_host, sample, populate):
    host = make_host(ARTIFACT_CACHE_MIGRATIONS="host", collections={"work": sample.root})
    packaged = make_host()
    packaged.create_all()
    expected = packaged.tables() - {database.VERSION_TABLE}
    packaged.drop_all()

    host.create_all()

    assert host.tables() == expected
    assert populate(host.app).created == 6
    host.drop_all()
    assert host.tables() == set()


def test_a_table_of_the_owner_refers_to_ours_by_name(make_host):
    def models(db):
        class Album(db.Model):
            id: Mapped[int] = mapped_column(primary_key=True)
            artifact_id: Mapped[int] = mapped_column(
                sa.ForeignKey("artifact_cache_artifact.id", name="fk_album_artifact")
            )

    host = make_host(models, ARTIFACT_CACHE_MIGRATIONS="host")
    host.create_all()
    assert "album" in host.tables()
    host.drop_all()

    host.init()
    host.change()
    assert host.migrate() is None


# --- tables that are missing ---------------------------------------------------------------------


def test_populate_says_what_to_run_when_a_table_is_missing(make_host, sample):
    host = make_host(collections={"work": sample.root})
    host.execute("CREATE TABLE visit (id INTEGER)")
    host.execute("INSERT INTO visit VALUES (1)")

    assert host.flask("artifact-cache", "populate", exit_code=1) == f"Error: {SENTENCE}\n"

    assert host.execute("SELECT * FROM visit") == [(1,)]


def test_the_listing_says_what_to_run_when_a_table_is_missing(make_host, sample, populate):
    host = make_host(collections={"work": sample.root})

    for path in (LIST, "/api/v1/user-collections/"):
        response = host.app.test_client().get(path)

        assert (response.status_code, response.mimetype) == (503, "application/problem+json")
        assert response.json["code"] == "schema_missing"
        assert response.json["detail"] == SENTENCE
        assert int(response.headers["Retry-After"]) > 0


def test_a_missing_column_is_a_missing_upgrade_too(make_host, sample, populate):
    host = make_host(collections={"work": sample.root})
    host.upgrade_ours()
    populate(host.app)
    host.execute("ALTER TABLE artifact_cache_collection DROP COLUMN gathers")

    assert host.app.test_client().get(LIST).json["detail"] == SENTENCE
    # Something else than a migration has done that, and no upgrade helps.
    said = host.flask("artifact-cache", "db", "upgrade", exit_code=2)
    assert "these are missing: artifact_cache_collection.gathers. Restore them" in said


def test_a_missing_table_of_the_owner_names_the_hosts_command(make_host, sample):
    host = make_host(ARTIFACT_CACHE_MIGRATIONS="host", collections={"work": sample.root})

    said = host.flask("artifact-cache", "populate", exit_code=1)

    assert "Run 'flask db migrate' and 'flask db upgrade'." in said
    assert "artifact-cache db" not in said


def test_other_errors_of_the_database_are_not_taken_for_a_missing_table(make_host):
    host = make_host()
    host.create_all()
    for statement in (
        "SELECT * FROM nowhere",
        "SELECT nothing_of_the_kind(1) FROM artifact_cache_artifact",
        "INSERT INTO artifact_cache_collection (id) VALUES (NULL)",
    ):
        with pytest.raises(sa.exc.DBAPIError) as caught, host.app.app_context():
            host.db.session.execute(sa.text(statement))

        with host.app.app_context():
            assert database.schema_error(caught.value) is None
