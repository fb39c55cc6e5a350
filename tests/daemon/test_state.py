"""What was remembered can be relied on, or is not used at all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from artifact_cache_daemon.evidence import Known
from artifact_cache_daemon.state import LockedError, State, Store

KEY = {"api_url": "http://localhost", "root": "/srv"}
LINES = {"": ("a.md", 1, 2, 2, 3), "x/\udcff\n": ("b.md", 1, 2, 3, 2**63, "c.md", 0, -5, -5, 1)}


def state(**changes):
    return State(KEY, Known({**LINES, **changes}), 7, {"gone.md"})


def test_it_comes_back_as_it_was(store):
    store.save("work", state())
    found = store.load("work", KEY)

    assert found.acknowledged.folders == LINES
    assert (found.device, found.again) == (7, {"gone.md"})
    assert store.load("work", {**KEY, "root": "/other"}) is None
    assert store.load("other", KEY) is None


def test_truncated_anywhere_it_is_not_used(store):
    store.save("work", state())
    [file] = store.folder.glob("*.state")
    data = file.read_bytes()
    for length in range(len(data) - 1):  # but for the line break at its end
        file.write_bytes(data[:length])
        assert store.load("work", KEY) is None, length


def test_with_any_byte_changed_it_is_not_used(store):
    store.save("work", state())
    [file] = store.folder.glob("*.state")
    data = file.read_bytes()
    for place in range(len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        file.write_bytes(changed)
        found = store.load("work", KEY)
        assert found is None or found.acknowledged.folders == LINES, place


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"version": 2}', "[" * 100_000, "\0", "\xff", "1e999"]
)
def test_nonsense_is_not_used(store, text):
    (store.folder / "work.state").write_text(text + "\n", encoding="latin-1")

    assert store.load("work", KEY) is None


def test_a_newer_one_is_not_used(store):
    store.save("work", state())
    [file] = store.folder.glob("*.state")
    file.write_text(file.read_text().replace('"version": 1', '"version": 2'))

    assert store.load("work", KEY) is None


def test_a_crash_while_it_is_written_leaves_the_old_one(store, monkeypatch):
    store.save("work", state())

    def crash(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="Input/output"):
        store.save("work", state(y=("d.md", 1, 1, 1, 1)))

    assert store.load("work", KEY).acknowledged.folders == LINES


def test_a_second_daemon_is_refused_with_a_sentence(store):
    with pytest.raises(LockedError, match=rf"process {os.getpid()}.*--state-dir"):
        Store(store.folder)


def test_the_lock_of_a_daemon_that_was_killed_is_free(tmp_path):
    code = (
        "import sys, os; from pathlib import Path; from artifact_cache_daemon.state import Store;"
        "store = Store(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    path = os.pathsep.join(sys.path)
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "s"], env={"PYTHONPATH": path}, check=False
    )

    Store(tmp_path / "s").close()


def test_what_was_being_told_survives_a_kill(store):
    store.save("work", state())
    store.note("work", ["a.md", "\udcff.md"])
    store.note("work", ["b.md"])
    found = store.load("work", KEY)
    assert found.again == {"gone.md", "a.md", "\udcff.md", "b.md"}
    assert not found.everything_again
    store.note("work", None)
    assert store.load("work", KEY).everything_again

    store.save("work", state())
    assert store.load("work", KEY).again == {"gone.md"}
