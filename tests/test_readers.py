"""A thread keeps a connection to SQLite: never another process's, or a disposed pool's."""

from __future__ import annotations

import gc
import os
import sqlite3
import sys
import threading

import pytest
import sqlalchemy as sa

from flask_artifact_cache.models import Collection
from flask_artifact_cache.readers import Readers


@pytest.fixture
def readers():
    return Readers()


def write(engine, stamp):
    with engine.begin() as connection:
        connection.execute(sa.delete(Collection))
        connection.execute(sa.insert(Collection).values(id="work", stamp=stamp, problems=[]))


def opened(engine):
    """The connections that the driver opens from now on, and which of them are closed."""
    seen = []
    sa.event.listen(engine, "connect", lambda connection, _: seen.append(connection))
    return seen


def is_closed(connection):
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return True
    return False


def test_a_stamp_is_what_was_committed_last(engine, readers):
    write(engine, "first")
    assert readers.stamp(engine, "work") == "first"

    write(engine, "second")
    assert readers.stamp(engine, "work") == "second"
    assert readers.stamp(engine, "other") is None


def test_a_thread_keeps_one_connection_that_the_pool_does_not_count(engine, readers):
    write(engine, "first")
    engine.dispose()
    seen = opened(engine)

    for _ in range(4):
        readers.stamp(engine, "work")
        with readers.connection(engine) as connection:
            assert connection.scalar(sa.select(Collection.stamp)) == "first"
    engine.dispose()

    # It was the pool's at the first look.
    assert [is_closed(connection) for connection in seen] == [False]


def test_a_thread_for_each_request_opens_none_of_its_own(engine, readers):
    write(engine, "first")
    engine.dispose()
    seen = opened(engine)

    for _ in range(3):
        thread = threading.Thread(target=readers.stamp, args=(engine, "work"))
        thread.start()
        thread.join()

    assert len(seen) == 1


def test_the_connection_of_a_thread_is_closed_with_it(engine, readers):
    write(engine, "first")
    engine.dispose()
    seen = opened(engine)

    def serve():
        for _ in range(3):
            readers.stamp(engine, "work")

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    gc.collect()

    assert [is_closed(connection) for connection in seen] == [True]


def test_after_a_dispose_another_connection_is_taken(engine, readers):
    write(engine, "first")
    mine = own_connection(engine, readers)

    engine.dispose()

    assert readers.stamp(engine, "work") == "first"
    assert own_connection(engine, readers) is not mine


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_does_not_use_its_parents_connection(engine, readers):
    write(engine, "first")
    mine = own_connection(engine, readers)

    child = os.fork()
    if not child:
        engine.dispose(close=False)
        told = readers.stamp(engine, "work")
        os._exit(told != "first" or own_connection(engine, readers) is mine)

    assert os.waitpid(child, 0)[1] == 0
    assert own_connection(engine, readers) is mine


def test_where_the_table_is_missing_nothing_is_told(engine, readers):
    write(engine, "first")
    own_connection(engine, readers)
    rename = "ALTER TABLE {} RENAME TO {}"
    with engine.begin() as connection:
        connection.exec_driver_sql(rename.format("artifact_cache_collection", "elsewhere"))

    assert readers.stamp(engine, "work") is None

    with engine.begin() as connection:
        connection.exec_driver_sql(rename.format("elsewhere", "artifact_cache_collection"))
    assert readers.stamp(engine, "work") == "first"


def test_a_read_inside_a_read_has_a_connection_of_its_own(engine, readers):
    write(engine, "first")
    own_connection(engine, readers)

    with readers.connection(engine) as outer:
        outer.begin()
        with readers.connection(engine) as inner:
            assert inner is not outer
            inner.begin()
        assert outer.in_transaction()


def test_what_a_read_has_begun_ends_with_it(engine, readers):
    write(engine, "first")
    mine = own_connection(engine, readers)

    with pytest.raises(sa.exc.OperationalError), readers.connection(engine) as connection:
        connection.exec_driver_sql("SELECT nothing FROM nowhere")
    with readers.connection(engine) as connection:
        connection.scalar(sa.select(Collection.stamp))
    write(engine, "second")

    assert readers.stamp(engine, "work") == "second"
    assert not mine.in_transaction()


def test_other_databases_lend_one_for_the_look(make_app, database_url, readers):
    app = make_app(database_url)
    with app.app_context():
        engine = app.extensions["sqlalchemy"].engine
        write(engine, "first")
        for _ in range(3):
            assert readers.stamp(engine, "work") == "first"
            with readers.connection(engine) as connection:
                assert connection.scalar(sa.select(Collection.stamp)) == "first"
        assert engine.pool.checkedout() == 0


def own_connection(engine, readers):
    """The connection that this thread keeps, from its second look on."""
    for _ in range(3):
        readers.stamp(engine, "work")
    return readers._threads.kept.connection


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the driver has no such mode before 3.12")
def test_where_a_transaction_is_always_open_what_was_committed_last_is_seen(tmp_path, readers):
    url = f"sqlite:///{tmp_path / 'open.db'}"
    engine = sa.create_engine(url, connect_args={"autocommit": False})
    Collection.__table__.create(engine)
    writer = sa.create_engine(url)
    with writer.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    for number in range(4):
        write(writer, f"stamp-{number}")
        assert readers.stamp(engine, "work") == f"stamp-{number}"
    engine.dispose()
    writer.dispose()
