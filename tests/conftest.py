"""A host application, its databases, a collection on disk, and a clock that stands still."""

from __future__ import annotations

import os
import shutil
import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy
from hypothesis import HealthCheck, settings

from flask_artifact_cache import ArtifactCache, ArtifactCacheService
from flask_artifact_cache.models import Base
from flask_artifact_cache.refresh.report import Report
from flask_artifact_cache.tasks import Threads

from .cached import Cache, empty, hurry
from .upstream.fakegithub import FakeGitHub

# Real collections, which are no part of this repository.
CORPORA = Path(
    os.environ.get("ARTIFACT_CACHE_CORPORA")
    or Path(__file__).resolve().parents[2] / "shared" / "corpora"
)
CI = os.environ.get("CI") == "true"
# What ArtifactCache itself takes; everything else is a setting.
KEYWORDS = ("clock", "monotonic", "authorize", "limiter", "registry")
SERVERS = {
    "postgresql": os.environ.get(
        "ARTIFACT_CACHE_TEST_POSTGRESQL",
        "postgresql+psycopg://postgres@127.0.0.1:5432/postgres?connect_timeout=2",
    ),
    "mariadb": os.environ.get(
        "ARTIFACT_CACHE_TEST_MARIADB", "mysql+pymysql://root@127.0.0.1:3306/test?connect_timeout=2"
    ),
}

# No test is about how fast this machine is now, and those that share a fixture know it.
settings.register_profile(
    "untimed",
    settings.default,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest, so that no process is left alone with it in the end."""
    items.sort(key=lambda item: "test_schemathesis" not in item.nodeid)


class Clock:
    """The time that the application sees; a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, 0, tzinfo=timezone.utc)

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **duration: float) -> None:
        self.now += timedelta(**duration)


class CollectionFolder:
    """A collection on disk that a test writes to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    def skill(self, name: str, description: str = "Does things.", **fields: Any) -> Path:
        lines = [f"name: {name}", f"description: {description}"]
        lines += [f"{key.replace('_', '-')}: {value}" for key, value in fields.items()]
        block = "\n".join(lines)
        return self.write(f"skills/{name}/SKILL.md", f"---\n{block}\n---\n\n# {name}\n")

    def remove(self, path: str) -> None:
        (self.root / path).unlink()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def collection(tmp_path: Path) -> CollectionFolder:
    return CollectionFolder(tmp_path / "collection")


@pytest.fixture
def sample(collection: CollectionFolder) -> CollectionFolder:
    """Three skills, an agent, a command and an MCP server."""
    collection.skill("pdf", "Reads PDF files.", tags="[documents, Reading]", license="MIT")
    collection.skill("csv", "Reads tables.", tags="[documents, data]", author="Ada Example")
    collection.skill("charts", "Draws charts of tables.", tags="[data]", version="2.10")
    collection.write(
        "agents/reviewer.md",
        "---\nname: reviewer\ndescription: Reviews code.\ntools: Read, Grep\n---\nReview.\n",
    )
    collection.write("commands/git/tidy.md", "Tidy the branch.\n")
    collection.write(".mcp.json", '{"mcpServers": {"search": {"command": "search-server"}}}')
    return collection


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'host.db'}"


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind that the machine has; under CI it has to have them all."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'host.db'}"
        return
    with temporary_database(request.param) as url:
        yield url


@pytest.fixture(scope="session")
def kept_database() -> Iterator[Callable[[str], sa.Engine]]:
    """Finds the database with our tables that a server keeps for the tests of this process."""
    made: dict[str, sa.Engine] = {}
    with ExitStack() as stack:

        def find(kind: str) -> sa.Engine:
            if kind not in made:
                url = stack.enter_context(temporary_database(kind))
                made[kind] = sa.create_engine(url, poolclass=sa.NullPool)
                Base.metadata.create_all(made[kind])
            return made[kind]

        yield find


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def tables_url(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    kept_database: Callable[[str], sa.Engine],
) -> str:
    """A database of each kind for tests that leave our tables as they are, and are given none else.

    On a server it is the same one for many tests, and emptied for each: to make and to drop nine
    tables takes longer than most tests do.
    """
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'host.db'}"
    engine = kept_database(request.param)
    empty(engine)
    return engine.url.render_as_string(hide_password=False)


@pytest.fixture
def make_app() -> Iterator[Callable[..., Flask]]:
    """Makes host applications, and closes their connections in the end."""
    made: list[tuple[Flask, SQLAlchemy]] = []

    def make(url: str, collections: Any = None, *, create: bool = True, **options: Any) -> Flask:
        arguments = {name: options.pop(name) for name in KEYWORDS if name in options}
        app = Flask("host")
        app.config["SQLALCHEMY_DATABASE_URI"] = url
        app.config["ARTIFACT_CACHE_POPULATE_ON_STARTUP"] = False
        # Nothing happens but what a test asks for.
        app.config["ARTIFACT_CACHE_BACKGROUND"] = "none"
        app.config["ARTIFACT_CACHE_COLLECTIONS"] = collections or {}
        app.config.update(options)
        db = SQLAlchemy(app)
        ArtifactCache(app, db, **arguments)
        made.append((app, db))
        with app.app_context():
            for engine in db.engines.values():
                if engine.dialect.name == "sqlite":
                    hurry(engine)
            if create:
                db.create_all()
        return app

    yield make
    for app, db in made:
        with app.app_context():
            db.session.remove()
            for engine in db.engines.values():
                engine.dispose()


@pytest.fixture
def populate() -> Callable[..., Report]:
    """Reads a collection of an app's configuration into its cache."""

    def run(app: Flask, collection_id: str = "work", **options: Any) -> Report:
        with app.app_context():
            service: ArtifactCacheService = app.extensions["artifact_cache"].service
            return service.populate(collection_id, **options)

    return run


@pytest.fixture
def app(
    make_app: Callable[..., Flask],
    sqlite_url: str,
    sample: CollectionFolder,
    clock: Clock,
    populate: Callable[..., Report],
) -> Flask:
    """A host with the sample populated, on SQLite."""
    app = make_app(sqlite_url, {"work": sample.root}, clock=clock)
    populate(app)
    return app


@pytest.fixture
def engine(make_app: Callable[..., Flask], sqlite_url: str) -> sa.Engine:
    """A host's engine with our empty tables."""
    app = make_app(sqlite_url)
    with app.app_context():
        engine: sa.Engine = app.extensions["sqlalchemy"].engine
        return engine


@pytest.fixture
def cache(engine: sa.Engine, sample: CollectionFolder, clock: Clock) -> Cache:
    """The rows of the sample, without a host around them."""
    cache = Cache(engine, sample.root, clock=clock)
    cache.refresh()
    return cache


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def idle() -> Callable[[Flask], None]:
    """Waits until the threads of an app have nothing left to do."""

    def wait(app: Flask) -> None:
        background = app.extensions["artifact_cache"].service.background
        assert isinstance(background, Threads)
        background.join()

    return wait


@contextmanager
def temporary_database(kind: str) -> Iterator[str]:
    """A new database on a server of this machine, dropped in the end."""
    url = sa.make_url(SERVERS[kind])
    name = f"artifact_cache_{uuid.uuid4().hex[:12]}"
    try:
        server = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with server.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
    except (sa.exc.OperationalError, ImportError) as error:
        message = f"no {kind} on this machine: {type(error).__name__}"
        if CI:
            pytest.fail(message)
        pytest.skip(message)
    yield url.set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        force = " WITH (FORCE)" if kind == "postgresql" else ""
        connection.exec_driver_sql(f"DROP DATABASE {name}{force}")
    server.dispose()


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder with the archives of real collections."""
    if not CORPORA.is_dir():
        text = f"There are no collections to test with in {CORPORA}."
        if CI:
            pytest.fail(text)
        pytest.skip(text)
    return CORPORA


@pytest.fixture(scope="session")
def unpacked(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpacks an archive once and tells its folder."""
    folder = tmp_path_factory.mktemp("corpora")

    def unpack(name: str) -> Path:
        if not (folder / name).exists():
            with tarfile.open(corpora / f"{name}.tar.gz") as archive:
                archive.extractall(folder, filter="data")
        return folder / name

    return unpack


@pytest.fixture
def bound_by_permissions() -> tuple[str, ...]:
    """What runs a command so that it is, even by root."""
    if os.geteuid():
        return ()
    if shutil.which("setpriv") is None:
        message = "root can read everything, and there is no setpriv to change that"
        if CI:
            pytest.fail(message)
        pytest.skip(message)
    lost = "-dac_override,-dac_read_search"
    return ("setpriv", f"--inh-caps={lost}", f"--bounding-set={lost}")


@pytest.fixture
def fake() -> Iterator[FakeGitHub]:
    """A GitHub of our own, which has no repository yet."""
    server = FakeGitHub()
    yield server
    server.close()
