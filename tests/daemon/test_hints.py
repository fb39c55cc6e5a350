"""What the system tells of changes, by its own events."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("watchfiles", reason="the extra 'watch' is not installed")

from artifact_cache_daemon.hints import Hints


@pytest.fixture
def hinted(eventually):
    """Writes into a folder until a hint of a root comes."""

    def until(heard, root, folder):
        numbers = iter(range(10_000))

        def write():
            (folder / f"{next(numbers)}.md").touch()
            return heard[root].wait(0.05)

        heard[root].clear()
        eventually(write)

    return until


@pytest.fixture
def listening():
    made = []

    def start(*roots):
        heard = {str(root): threading.Event() for root in roots}
        hints = Hints(list(heard), lambda root: heard[root].set(), retry_s=0.05)
        hints.start()
        made.append(hints)
        return heard

    yield start
    for one in made:
        one.stop()
        one.join(10)
        assert not one.is_alive()


def test_a_root_that_is_missing_keeps_nobody_from_the_hints_of_the_others(
    tmp_path, listening, hinted
):
    there, missing = tmp_path / "there", tmp_path / "there-not"
    there.mkdir()
    heard = listening(there, missing)
    hinted(heard, str(there), there)

    missing.mkdir()
    hinted(heard, str(missing), missing)
    missing.rename(tmp_path / "aside")
    missing.mkdir()
    hinted(heard, str(missing), missing)


def test_a_hint_is_of_the_root_that_it_lies_in(tmp_path, listening, hinted):
    short, long = tmp_path / "a", tmp_path / "ab"
    short.mkdir()
    long.mkdir()
    heard = listening(short, long)
    hinted(heard, str(short), short)
    heard[str(short)].clear()
    hinted(heard, str(long), long)

    assert not heard[str(short)].is_set()
