"""Where our tables are missing, whatever a host calls says what to do about it, without SQL."""

from __future__ import annotations

import logging

import pytest
import sqlalchemy as sa

from flask_artifact_cache import (
    migrate_artifacts_to_default_collection,
    populate_artifact_metadata,
)
from flask_artifact_cache.background import perform
from flask_artifact_cache.database import UPGRADE
from flask_artifact_cache.errors import NotReadyError, SchemaError
from flask_artifact_cache.queries import Filters, Listing
from flask_artifact_cache.refresh.selection import Selection
from flask_artifact_cache.tasks import Task

RUN = "0" * 32
CALLS = {
    "populate": lambda service: service.populate("work"),
    "populate, dry": lambda service: service.populate("work", dry_run=True),
    "refresh": lambda service: service.refresh(),
    "refresh one": lambda service: service.refresh(Selection("work")),
    "perform": lambda service: service.perform(Task(Selection("work"), "startup")),
    "sync_artifact": lambda service: service.sync_artifact("skill:pdf"),
    "invalidate": lambda service: service.invalidate(),
    "invalidate one": lambda service: service.invalidate("work", ["skill:pdf"]),
    "changed": lambda service: service.changed("work"),
    "forget": lambda service: service.forget("old"),
    "stats": lambda service: service.stats(),
    "status": lambda service: service.status(),
    "collection_list": lambda service: service.collection_list(),
    "is_stale": lambda service: service.is_stale("skill:pdf"),
    "stale_count": lambda service: service.stale_count(),
    "find_stale": lambda service: service.find_stale("work"),
    "owner_of": lambda service: service.owner_of("skill:pdf"),
    "due": lambda service: service.due(),
    "runs": lambda service: service.runs(),
    "run": lambda service: service.run(RUN),
    "collection_of_run": lambda service: service.collection_of_run(RUN),
    "listing": lambda service: service.listing("work", Listing(Filters())),
    "facets": lambda service: service.facets("work", Filters(), 10),
    "get": lambda service: service.get("work", "skill:pdf"),
    "changes": lambda service: service.changes(),
    "problems": lambda service: service.problems(),
    "history": lambda service: service.history("work", "skill:pdf"),
}


def is_the_sentence(error):
    said = str(error)
    return UPGRADE in said and "SELECT" not in said and "artifact_cache_" not in said


@pytest.fixture
def bare(make_app, database_url, sample):
    """A host with a collection, and without our tables."""
    return make_app(database_url, {"work": sample.root}, create=False)


def test_every_function_of_the_service_says_so(bare):
    with bare.app_context():
        service = bare.extensions["artifact_cache"].service
        for _ in range(2):  # on SQLite a thread has a connection of its own from its second look on
            for name, call in CALLS.items():
                with pytest.raises(SchemaError) as caught:
                    call(service)
                assert is_the_sentence(caught.value), name
                assert isinstance(caught.value.__cause__, sa.exc.DBAPIError), name
        with pytest.raises(NotReadyError) as caught:
            service.ready()
        assert is_the_sentence(caught.value)

        bare.extensions["sqlalchemy"].create_all()

        assert service.populate("work").created == 6
        assert service.stats().as_dict()["artifact_count"] == 6


def test_the_functions_for_a_session_of_the_hosts_say_so(bare):
    db = bare.extensions["sqlalchemy"]
    with bare.app_context():
        collections = bare.extensions["artifact_cache"].service.collections
        manager = collections.artifacts("work")
        for call in (
            lambda: populate_artifact_metadata(db.session, manager, "work"),
            lambda: migrate_artifacts_to_default_collection(db.session, manager, collections),
        ):
            with pytest.raises(SchemaError) as caught:
                call()
            assert is_the_sentence(caught.value)
            assert isinstance(caught.value.__cause__, sa.exc.DBAPIError)
            db.session.rollback()
        db.create_all()

        assert populate_artifact_metadata(db.session, manager, "work").created == 6

        db.session.commit()


def test_in_memory_the_session_of_the_host_goes_on(make_app, sample):
    app = make_app("sqlite://", {"work": sample.root}, create=False)
    db = app.extensions["sqlalchemy"]
    with app.app_context():
        service = app.extensions["artifact_cache"].service
        db.session.execute(sa.text("CREATE TABLE note (id INTEGER)"))
        db.session.execute(sa.text("INSERT INTO note VALUES (1)"))
        for name, call in CALLS.items():
            with pytest.raises(SchemaError) as caught:
                call(service)
            assert is_the_sentence(caught.value), name

        assert db.session.execute(sa.text("SELECT id FROM note")).all() == [(1,)]

        db.session.commit()
        db.create_all()
        assert service.populate("work").created == 6


def test_any_other_error_of_the_database_stays_what_it_is(make_app, sample):
    app = make_app(
        "sqlite:////there/is/no/such/folder/host.db", {"work": sample.root}, create=False
    )
    db = app.extensions["sqlalchemy"]
    with app.app_context():
        service = app.extensions["artifact_cache"].service
        for call in (
            service.stats,
            lambda: service.populate("work"),
            lambda: populate_artifact_metadata(
                db.session, service.collections.artifacts("work"), "work"
            ),
        ):
            with pytest.raises(sa.exc.OperationalError, match="unable to open database file"):
                call()


def test_in_the_background_it_is_an_error_in_the_log(make_app, sqlite_url, sample, caplog):
    app = make_app(sqlite_url, {"work": sample.root}, create=False)

    with app.app_context():
        perform(app.extensions["artifact_cache"].service, Task(Selection("work"), "startup"))

    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert UPGRADE in record.getMessage()
