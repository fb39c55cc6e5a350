"""Tasks, the threads that do them, what is gathered for them, and when another may begin."""

from __future__ import annotations

import os
import threading
from datetime import datetime, timedelta, timezone
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_artifact_cache.errors import BusyError
from flask_artifact_cache.refresh.selection import Selection
from flask_artifact_cache.tasks import MAX_GATHERED, CoolDown, Gathered, Task, Threads

NAMES = st.lists(st.text("abc", max_size=3), max_size=4).map(tuple)


@given(
    st.builds(Selection, st.none() | st.just("work"), st.none(), NAMES, NAMES, NAMES, NAMES),
    st.booleans(),
    st.none() | st.just(datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=timezone.utc)),
)
def test_a_task_survives_the_way_to_another_process(selection, patient, since):
    task = Task(selection, "event", unless_since=since, patient=patient, run="0" * 32)

    assert Task.from_dict(task.as_dict()) == task


def test_threads_do_what_is_submitted_in_a_few_threads():
    done, names = [], set()
    met = threading.Barrier(2)

    def work(task):
        if not done:
            met.wait(10)  # two at once
        names.add(threading.current_thread().name)
        done.append(task.trigger)

    threads = Threads(work)
    for number in range(20):
        threads.submit(lambda number=number: Task(Selection("work"), str(number)))
    threads.join()

    assert sorted(done, key=int) == [str(number) for number in range(20)]
    assert names <= {"artifact-cache-1", "artifact-cache-2"}


def test_a_task_is_made_as_late_as_can_be():
    begun, go = threading.Event(), threading.Event()
    seen = []

    def work(task):
        begun.set()
        go.wait(10)
        seen.append(task.selection.paths)

    gathered = Gathered()

    def submit(path):
        if gathered.add("work", paths=[path]):
            threads.submit(lambda: Task(gathered.take("work"), "event"))

    threads = Threads(work, threads=1)
    submit("a")
    assert begun.wait(10)
    for path in "bcd":
        submit(path)
    go.set()
    threads.join()

    assert seen == [("a",), ("b", "c", "d")]


def test_what_is_gathered_is_done_by_one_at_a_time_and_keeps_nobody_else_waiting():
    begun, go = threading.Event(), threading.Event()
    done = []

    def work(task):
        if task.selection.paths == ("first",):
            begun.set()
            go.wait(10)
        done.append((task.selection.collection_id, task.selection.paths))

    threads, gathered = Threads(work), Gathered()

    def submit(collection_id, path):
        if gathered.add(collection_id, paths=[path]):
            make = partial(lambda one: Task(gathered.take(one), "event"), collection_id)
            threads.submit(make, gather=collection_id)

    submit("work", "first")
    assert begun.wait(10)
    for path in "abc":
        submit("work", path)
    for number in range(5):
        other = threading.Event()
        threads.submit(lambda number=number: Task(Selection(f"other-{number}"), "stale"))
        threads.submit(other.set)
        assert other.wait(10)
    submit("work", "d")
    assert all(one != "work" for one, _ in done)
    go.set()
    threads.join()

    assert len(done) == 7
    assert [paths for one, paths in done if one == "work"] == [("first",), ("a", "b", "c", "d")]


def test_nothing_of_a_storm_from_many_threads_is_lost():
    at_it, together, done = set(), [], []

    def work(task):
        one = task.selection.collection_id
        together.append(one in at_it)
        at_it.add(one)
        done.extend((one, path) for path in task.selection.paths)
        at_it.discard(one)

    threads, gathered = Threads(work, threads=4), Gathered()
    said = [(f"c{number % 3}", str(number)) for number in range(900)]

    def say(mine):
        for one, path in mine:
            if gathered.add(one, paths=[path]):
                make = partial(lambda one: Task(gathered.take(one), "event"), one)
                threads.submit(make, gather=one)

    sayers = [threading.Thread(target=say, args=(said[first::6],)) for first in range(6)]
    for sayer in sayers:
        sayer.start()
    for sayer in sayers:
        sayer.join()
    threads.join()

    assert sorted(done) == sorted(said)
    assert not any(together)


@pytest.mark.parametrize("gather", [None, "work"])
def test_what_nobody_has_expected_ends_no_thread(caplog, gather):
    done = []

    def work(task):
        if task.trigger == "broken":
            raise LookupError("unexpected")
        done.append(task.trigger)

    threads = Threads(work, threads=2)

    def unmakeable():
        raise LookupError("cannot be made")

    for _ in range(3):
        threads.submit(lambda: Task(Selection("work"), "broken"), gather=gather)
        threads.submit(unmakeable, gather=gather)
    threads.submit(lambda: Task(Selection("work"), "fine"), gather=gather)
    finished = threading.Event()
    threads.submit(finished.set)

    assert finished.wait(10)
    threads.join()
    assert done == ["fine"]
    assert [one.exc_info[0] for one in caplog.records] == [LookupError] * 6


def test_too_many_are_refused():
    go = threading.Event()
    threads = Threads(lambda _: go.wait(10), threads=1, most=2)

    def submit(number):
        for _ in range(number):
            threads.submit(lambda: Task(Selection("work"), "stale"))

    with pytest.raises(BusyError, match="2 refreshes are waiting"):
        submit(4)
    go.set()
    threads.join()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own():
    done = []
    threads = Threads(done.append)
    threads.submit(lambda: Task(Selection("work"), "stale"))
    threads.join()

    child = os.fork()
    if not child:
        threads.submit(lambda: Task(Selection("work"), "stale"))
        threads.join()
        os._exit(len(done) != 2)
    assert os.waitpid(child, 0)[1] == 0


def test_what_is_gathered_is_taken_once():
    gathered = Gathered()
    assert gathered.take("work") is None

    assert gathered.add("work", ids=["skill:pdf"])
    assert not gathered.add("work", ids=["skill:csv"])

    assert gathered.take("work") == Selection("work", artifact_ids=("skill:csv", "skill:pdf"))
    assert gathered.take("work") is None


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_was_gathered_before_a_fork_keeps_nothing_back_in_the_child():
    gathered = Gathered()
    gathered.add("work", paths=["a"])

    child = os.fork()
    if not child:
        first = gathered.add("work", paths=["b"])
        os._exit(not (first and gathered.take("work") == Selection("work", paths=("b",))))
    assert os.waitpid(child, 0)[1] == 0
    assert gathered.take("work") == Selection("work", paths=("a",))


@pytest.mark.parametrize(
    "changes",
    [
        [{"paths": ["a"]}, {}],
        [{"ids": ["skill:a"]}, {"paths": ["a"]}],
        [{"paths": [str(number) for number in range(MAX_GATHERED + 1)]}],
    ],
    ids=["anything", "ids and paths", "too many"],
)
def test_what_no_list_can_say_is_all_of_the_collection(changes):
    gathered = Gathered()
    for change in changes:
        gathered.add("work", **change)

    assert gathered.take("work") == Selection("work")


def test_after_one_has_begun_nobody_does_for_a_while():
    now = [1000.0]
    cool_down = CoolDown(lambda: now[0], lambda: 0.5)

    def begins_after(seconds):
        now[0] += seconds
        return cool_down.begin("work")

    assert cool_down.begin("work")
    assert not begins_after(59)  # it has failed, as far as anybody knows
    assert cool_down.begin("other")
    assert begins_after(1)
    cool_down.succeed("work")
    assert not begins_after(4.9)
    assert begins_after(0.1)


def test_who_sees_that_it_has_succeeded_elsewhere_waits_no_longer_than_after_a_success():
    now = [1000.0]
    cool_down = CoolDown(lambda: now[0], lambda: 0.5)
    verified = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    later = verified + timedelta(seconds=1)

    assert cool_down.begin("work", verified)
    now[0] += 4.9
    assert not cool_down.begin("work", later)
    now[0] += 0.1
    assert not cool_down.begin("work", verified)  # nobody has seen anything
    assert not cool_down.begin("work")
    assert cool_down.begin("work", later)
    now[0] += 59
    assert not cool_down.begin("work", later)  # that was the success of the one before
    assert cool_down.begin("work", later + timedelta(seconds=1))


def test_processes_do_not_try_again_together():
    waits = set()
    for chance in (0.0, 0.3, 1.0):
        now = [0.0]
        cool_down = CoolDown(lambda now=now: now[0], lambda chance=chance: chance)
        cool_down.begin("work")
        while not cool_down.begin("work"):
            now[0] += 1
        waits.add(now[0])
    assert waits == {30, 48, 90}


def test_of_many_who_ask_at_once_one_begins():
    cool_down = CoolDown()
    together = threading.Barrier(8)
    begun = []

    def ask():
        together.wait(10)
        begun.append(cool_down.begin("work"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(begun) == 1
