"""What is remembered of GitHub is private, ours, and never in the way."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing

import pytest

from flask_artifact_cache.upstream.validators import FILE, Limited, Memory

URL = "https://api.github.com/x"


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def memory(state):
    made = []

    def make(folder=state, **options):
        made.append(Memory(folder, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def known(memory):
    memory.keep(URL, "json", "me", '"1"', b"body")
    return memory.validator(URL, "json", "me")


def test_it_outlives_the_process_and_belongs_to_a_credential(memory):
    assert known(memory()) == ('"1"', b"body")

    again = memory()

    assert again.validator(URL, "json", "me") == ('"1"', b"body")
    assert again.validator(URL, "json", "somebody else") is None


def test_nobody_else_can_read_it(memory, state):
    mask = os.umask(0)
    try:
        known(memory())
        (state / FILE).chmod(0o644)
        memory().wait("host", "me", 5.0, 1.0)
    finally:
        os.umask(mask)

    assert state.stat().st_mode & 0o777 == 0o700
    assert {one.stat().st_mode & 0o777 for one in state.iterdir()} == {0o600}


def test_of_objects_those_that_were_noted_last_are_kept(memory, state):
    one = memory(kept_objects=20)
    one.keep_objects("o/quiet", "1", {"a": "x"})
    one.keep_objects("o/busy", "held", {"a": "x"})
    for number in range(30):
        one.keep_objects("O/Busy", f"c{number}", {"a": f"{number}", "b": "y"})
        if number == 25:
            one.keep_objects("o/busy", "held", {"a": "x"})

    assert one.objects("o/busy", "c29", "ab") == {"a": "29", "b": "y"}
    assert one.objects("o/busy", "held", "a") == {"a": "x"}
    assert one.objects("o/busy", "c10", "ab") == one.objects("o/quiet", "1", "a") == {}
    with closing(sqlite3.connect(state / FILE)) as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM object")
    assert count == 20


def foreign(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
        connection.execute("INSERT INTO theirs VALUES (1)")
        connection.commit()


def of_another_program(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA application_id = 7")
        connection.execute("VACUUM")


def broken_tables(path):
    Memory(path.parent).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE validator")
        connection.execute("CREATE TABLE validator (x)")
        connection.commit()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no database, but long enough to be one " * 9),
        lambda path: path.write_bytes(b"SQLite format 3\0" + b"\xff" * 4096),
        foreign,
        of_another_program,
        broken_tables,
        lambda path: path.mkdir(),
        lambda path: path.symlink_to(path.parent.parent / "elsewhere"),
        lambda path: os.mkfifo(path),
    ],
    ids=["text", "damaged", "foreign", "other program", "tables", "folder", "link", "fifo"],
)
def test_a_file_that_cannot_be_used_is_one_warning_and_an_empty_start(memory, state, caplog, spoil):
    state.mkdir()
    spoil(state / FILE)
    before = (state / FILE).read_bytes() if (state / FILE).is_file() else None
    files = sorted(state.parent.rglob("*"))

    one = memory()

    assert one.validator(URL, "json", "me") is None
    assert known(one) == ('"1"', b"body")
    one.wait("host", "me", 5.0, 1.0)
    assert one.waiting("host", "me") == 5.0
    [record] = caplog.records
    assert "cannot be used" in record.message
    assert str(state) not in record.message
    assert sorted(state.parent.rglob("*")) == files
    if before is not None:
        assert (state / FILE).read_bytes() == before


def test_a_folder_that_cannot_be_made_or_written_is_one_warning(memory, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert known(memory(tmp_path / "file/state")) is not None

    Memory(tmp_path / "full").close()
    two = memory(tmp_path / "full")
    two._connection.execute("PRAGMA query_only = 1")  # as on a disk that is full or read-only
    assert known(two) is not None
    assert known(two) is not None

    assert [one.levelname for one in caplog.records] == ["WARNING"] * 2


def test_several_processes_may_begin_at_once(memory, state, caplog):
    barrier = threading.Barrier(8)
    found = []

    def begin():
        barrier.wait()
        one = Memory(state)
        found.append(known(one))
        one.close()

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()

    assert found == [('"1"', b"body")] * 8
    assert caplog.records == []


# --- until when it is not to be asked -------------------------------------------------------------


def test_a_limit_is_seen_by_who_only_looks(memory, state):
    limited = Limited(state, "host", None)
    assert limited.until(1.0) is None
    assert not state.exists()

    memory().wait("host", "", 100.0, 1.0)

    assert limited.until(99.0) == 100.0
    assert limited.until(100.0) is None
    assert Limited(state, "host", "a-token").until(1.0) is None
    assert Limited(None, "host", None).until(1.0) is None
    memory().wait("host", "", 200.0, 1.0)
    assert limited.until(150.0) == 200.0
    memory().wait("host", "", 1e12, 1.0)  # of a clock that went wrong
    assert limited.until(150.0) is None


def test_a_longer_limit_is_not_cut_short(memory):
    one, two = memory(), memory()

    one.wait("host", "me", 1800.0, 1.0)
    two.wait("host", "me", 60.0, 2.0)
    assert one.waiting("host", "me") == 1800.0
    two.wait("host", "me", 2400.0, 3.0)
    assert one.waiting("host", "me") == 2400.0

    # What is over, and what a clock that went wrong has said, is nothing to keep.
    two.wait("host", "me", 2560.0, 2500.0)
    assert one.waiting("host", "me") == 2560.0
    one.wait("host", "me", 1e12, 2500.0)
    two.wait("host", "me", 2570.0, 2510.0)
    assert one.waiting("host", "me") == 2570.0


def test_what_has_not_changed_is_not_read_again(memory, state, monkeypatch):
    memory().wait("host", "", 100.0, 1.0)
    os.utime(state / FILE, (1_000_000_000, 1_000_000_000))
    limited = Limited(state, "host", None)
    assert limited.until(99.0) == 100.0

    def connect(*arguments, **keywords):
        pytest.fail("the file is read")

    monkeypatch.setattr(sqlite3, "connect", connect)

    assert limited.until(99.0) == 100.0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no database, but long enough to be one " * 9),
        lambda path: path.mkdir(),
        lambda path: os.mkfifo(path),
    ],
    ids=["text", "folder", "fifo"],
)
def test_a_damaged_file_limits_nobody(state, spoil):
    state.mkdir()
    spoil(state / FILE)

    assert Limited(state, "host", None).until(1.0) is None
