"""What the app is told, and when: without a disk, without an app, and without waiting."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact_cache_daemon.evidence import Known
from artifact_cache_daemon.watcher import DOUBTFUL, LINGER_S, Watcher, compare

A, B, C = (1, 11, 11, 1), (2, 22, 22, 1), (3, 33, 33, 1)


def known(**files):
    made = Known()
    made.update({name.replace("_", "/"): evidence for name, evidence in files.items()})
    return made


@pytest.fixture
def watcher():
    return Watcher(known(a=A), settle_s=1.0, max_settle_s=30.0)


def seen(files):
    made = Known()
    made.update(files)
    return made.folders.items()


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("by", [-1, 1])
def test_any_difference_is_a_change(part, by):
    other = tuple(value + by * (place == part) for place, value in enumerate(A))

    assert compare(known(a=A), seen({"a": other}), lambda _: False) == ({"a": other}, 1)


def test_a_file_that_is_gone_is_a_change_unless_it_may_be_hidden():
    before = known(a=A, x_b=B)

    assert compare(before, seen({}), lambda _: False) == ({"a": None, "x/b": None}, 0)
    assert compare(before, seen({}), lambda path: path == "a") == ({"x/b": None}, 0)


def test_the_order_in_which_a_folder_is_listed_does_not_matter():
    forward = ("a", *A, "b", *B)
    backward = ("b", *B, "a", *A)

    assert compare(Known({"x": forward}), [("x", backward)], lambda _: False) == ({}, 2)


def test_a_change_is_told_of_when_two_looks_saw_it_the_same(watcher):
    watcher.observe({"a": B}, 10.0)
    assert watcher.ready(10.0) is None
    assert watcher.next_look_s(10.0) == 1.0
    watcher.observe({"a": B}, 11.0)

    assert watcher.ready(11.0) == {"a": B}
    assert watcher.pending == 1


def test_a_file_that_goes_on_changing_is_waited_for(watcher):
    for second in range(20):
        watcher.observe({"a": (second, second, second, 1)}, float(second))
        assert watcher.ready(float(second)) is None
    watcher.observe({"a": B}, 20.0)
    watcher.observe({"a": B}, 21.0)

    assert watcher.ready(21.0) == {"a": B}


def test_but_not_for_ever_and_then_it_is_told_of_again(watcher):
    for second in range(31):
        watcher.observe({"a": (second + 5, second, second, 1)}, float(second))
    told = watcher.ready(30.0)
    assert told == {"a": DOUBTFUL}

    watcher.acknowledge(told, 30.0)
    assert watcher.ready(30.0) is None
    watcher.observe({"a": (99, 99, 99, 1)}, 32.0)
    watcher.observe({"a": (99, 99, 99, 1)}, 33.0)
    assert watcher.ready(33.0) == {"a": (99, 99, 99, 1)}


def test_a_clock_of_whole_seconds_takes_its_longest_step(watcher):
    coarse = (1, 4_000_000_000, 4_000_000_000, 1)
    watcher.observe({"a": coarse}, 10.0)

    assert watcher.ready(11.5) is None
    assert watcher.ready(12.0) == {"a": coarse}


def test_a_file_that_is_back_as_it_was_is_no_change(watcher):
    watcher.observe({"a": None}, 10.0)
    watcher.observe({}, 10.5)

    assert watcher.is_quiet
    assert watcher.ready(20.0) is None


def test_settled_files_wait_a_while_for_the_others(watcher):
    watcher.observe({"a": B}, 0.0)
    watcher.observe({"a": B, "b": A}, 2.0)
    assert watcher.ready(2.0) is None  # b is on its way
    watcher.observe({"a": B, "b": A}, 3.0)
    assert watcher.ready(3.0) == {"a": B, "b": A}


def test_they_do_not_wait_for_a_file_that_never_rests(watcher):
    watcher.observe({"log": A}, 0.0)
    for tenth in range(1, 200):
        now = tenth / 10
        changes = {"log": (tenth, tenth, tenth, 9)} | ({"a": B} if now >= 10 else {})
        watcher.observe(changes, now)
        if now >= 10 and watcher.ready(now):
            break
    assert watcher.ready(now) == {"a": B}
    assert now == pytest.approx(11.0, abs=0.2)


def test_an_endless_stream_of_new_files_is_told_of_now_and_then(watcher):
    changes = {}
    told_at = []
    for tenth in range(300):
        now = tenth / 10
        changes[f"f{tenth}"] = A
        watcher.observe(dict(changes), now)
        ready = watcher.ready(now)
        if ready:
            told_at.append(now)
            watcher.acknowledge(ready, now)
            for path in ready:
                changes.pop(path, None)

    gaps = [later - earlier for earlier, later in itertools.pairwise(told_at)]
    assert min(gaps) >= LINGER_S
    assert len(told_at) >= 4


def test_what_cannot_be_seen_is_neither_told_of_nor_forgotten(watcher):
    watcher.observe({"x/b": B}, 0.0)
    watcher.observe({}, 5.0, lambda path: path.startswith("x/"))
    assert watcher.ready(5.0) is None
    assert watcher.pending == 1
    assert watcher.next_look_s(5.0) is None
    watcher.observe({"x/b": B}, 9.0)
    assert watcher.ready(9.0) is None
    assert watcher.ready(10.0) == {"x/b": B}


def test_what_was_told_while_the_disk_moved_is_told_once_more(watcher):
    watcher.observe({"a": None}, 0.0)
    watcher.acknowledge(watcher.ready(1.0), 1.0)
    watcher.observe({"b": B}, 1.1)  # it moved while the app looked
    told = watcher.ready(2.1)
    assert told == {"a": None, "b": B}
    assert watcher.unsure == {"a"}

    watcher.acknowledge(told, 2.1)
    watcher.observe({}, 2.2)
    assert watcher.is_quiet


def test_a_file_that_was_there_only_for_a_moment_leaves_its_trace_in_the_folder(watcher):
    watcher.observe({"a": None}, 0.0, times=1)
    watcher.observe({"a": None}, 1.0, times=1)
    watcher.acknowledge(watcher.ready(1.0), 1.0)
    watcher.observe({}, 2.0, times=2)

    assert watcher.ready(2.0) == {"a": None}


def test_a_disk_that_never_rests_is_believed_in_the_end(watcher):
    told = 0
    for number in range(100):
        watcher.observe({"a": None} if not number else {}, number * 9.0, times=number)
        ready = watcher.ready(number * 9.0 + 3)
        if ready is not None:
            told += 1
            watcher.acknowledge(ready, number * 9.0 + 3)
    assert 2 < told < 10


def test_a_quiet_disk_confirms_what_was_told(watcher):
    watcher.observe({"a": None}, 0.0)
    watcher.acknowledge(watcher.ready(1.0), 1.0)
    assert not watcher.is_quiet
    watcher.observe({}, 2.0)

    assert watcher.is_quiet
    assert watcher.ready(9.0) is None


def test_everything_is_told_once_more_if_the_disk_moved_meanwhile():
    watcher = Watcher(Known(), 1.0, 30.0)
    watcher.adopt(known(a=A))
    assert watcher.everything_unsure
    watcher.observe({"b": B}, 0.5)
    assert watcher.everything_again
    told = watcher.ready(1.5)
    assert told == {"b": B}
    watcher.acknowledge(told, 1.5, everything=True)
    assert not watcher.everything_again


def test_a_folder_that_stays_unreadable_holds_up_nothing_else(watcher):
    watcher.observe({"x/b": B}, 0.0)
    watcher.maybe_heard({"a"})
    watcher.observe({}, 5.0, lambda path: path.startswith("x/"))

    assert watcher.ready(5.0) == {"a": A}


PATHS = st.sampled_from(["a", "b", "x/c"])
# A write, a removal, a look, a look with an answer, one without, a restart.
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PATHS),
        st.tuples(st.just("remove"), PATHS),
        st.tuples(st.just("look"), st.sampled_from([0.1, 0.6, 1.0, 4.0])),
        st.tuples(st.just("hide"), PATHS),
        st.tuples(st.just("tell"), st.sampled_from(["ack", "lost", "unheard"])),
        st.tuples(st.just("restart"), st.booleans()),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(STEPS)
def test_the_baseline_is_never_ahead_of_what_the_app_was_told(steps):
    """However edits, failures and restarts follow each other."""
    disk, number, now = {"a": A}, 100, 0.0
    read = dict(disk)  # the app's copy, read from the disk when it hears of a path
    baseline = known(a=A)
    saved = [dict(baseline.folders)]
    told = set()  # as the store notes it before each request
    watcher = Watcher(baseline, 1.0, 30.0)

    def look(hides=lambda _: False):
        visible = {path: one for path, one in disk.items() if not hides(path)}
        changes, _ = compare(watcher.acknowledged, seen(visible), hides)
        watcher.observe(changes, now, hides)

    def tell(outcome):
        changes = watcher.ready(now)
        if changes is None:
            return
        if outcome != "unheard":
            for path in changes:
                if path in disk:
                    read[path] = disk[path]
                else:
                    read.pop(path, None)
        told.update(changes)
        if outcome == "lost":
            watcher.maybe_heard(changes)
        if outcome == "ack":
            watcher.acknowledge(changes, now)
            saved.append(dict(watcher.acknowledged.folders))

    for kind, what in steps:
        if kind == "write":
            number += 1
            disk[what] = (number, number, number, number)
        elif kind == "remove":
            disk.pop(what, None)
        elif kind == "look":
            now += what
            look()
        elif kind == "hide":
            now += 1.0
            look(lambda path, hidden=what: path == hidden)
        elif kind == "tell":
            tell(what)
        else:
            again = watcher.unsure | told
            old = saved[len(saved) // 2 if what else -1]
            watcher = Watcher(Known(dict(old)), 1.0, 30.0)
            watcher.again = again
        # What the baseline says of a file that has not changed since, the app has read.
        for path, evidence in disk.items():
            if watcher.acknowledged.get(path) == evidence:
                assert read.get(path) == evidence

    for _ in range(6):
        now += 6.0
        look()
        tell("ack")
    assert read == disk
    assert watcher.is_quiet
