"""A collection over time: an app that comes and goes, a disk that does, and nothing is lost."""

from __future__ import annotations

import itertools
import logging
import os
import random
import shutil
import sys

import pytest

from artifact_cache_daemon.collection import LOOKING
from artifact_cache_daemon.delivery import MAX_PATHS

LOGGER = "artifact_cache_daemon"


@pytest.fixture
def known(folder, collection, poll, app):
    """A collection of three files that the app knows."""
    for name in "abc":
        folder.write(f"skills/{name}/SKILL.md")
    made = collection()
    poll(made, 2)
    assert made.is_done
    app.asked.clear()
    return made


def test_without_a_state_the_app_looks_at_everything(folder, collection, poll, app):
    folder.write("a.md")
    made = collection()
    poll(made, 3)

    assert app.asked == [{"collection_id": "work"}]
    assert made.status.files == 1


def test_an_edit_is_told_of_once_it_has_settled(folder, known, poll, app):
    folder.write("skills/a/SKILL.md", "other")
    poll(known)
    assert app.asked == []
    poll(known, 3)

    assert app.asked == [{"collection_id": "work", "paths": ["skills/a/SKILL.md"]}]


def test_a_move_is_told_of_with_both_its_ends(folder, known, poll, app):
    (folder.root / "skills/a").rename(folder.root / "skills/z")
    poll(known, 3)

    assert app.paths == [["skills/a/SKILL.md", "skills/z/SKILL.md"]]


def test_paths_are_written_as_in_the_api(folder, known, poll, app):
    folder.write("commands/a\nb\\c.md")
    poll(known, 3)

    assert app.paths == [["commands/a\\x0ab\\\\c.md"]]


def test_while_the_app_is_down_changes_are_kept_and_told_in_one(folder, known, poll, app, answers):
    app.answers = [answers.unreachable()] * 4
    folder.write("skills/a/SKILL.md", "1")
    poll(known, 4)
    folder.write("skills/b/SKILL.md", "2")
    folder.remove("skills/c/SKILL.md")
    poll(known, 30)

    assert known.is_done
    assert set(app.asked[-1]["paths"]) == {f"skills/{name}/SKILL.md" for name in "abc"}
    assert len(app.asked) <= 6


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "internal_error"), (503, "busy"), (404, "not_found"), (403, "forbidden"), (409, "busy"),
     (202, "x"), (302, "x"), (204, "x")],
)  # fmt: skip
def test_no_other_answer_moves_the_baseline(folder, known, poll, app, answers, status, code):
    app.answers = [answers.problem(status, code)] * 3
    folder.write("skills/a/SKILL.md", "other")
    poll(known, 20)

    assert len(app.asked) == 4
    assert known.is_done


@pytest.mark.parametrize("body", [None, {}, {"refresh_id": "x"}, {"artifacts_refreshed": 1}])
def test_a_200_of_somebody_else_is_no_acknowledgement(folder, known, poll, app, body):
    from artifact_cache_daemon.delivery import Answer

    app.answers = [Answer(200, body)]
    folder.write("skills/a/SKILL.md", "other")
    poll(known, 2)
    assert known.watcher.pending == 1
    assert "is the URL right" in known.status.last_error
    poll(known, 3)
    assert known.is_done


def test_a_day_without_the_app(folder, known, poll, app, answers, clock):
    """One request a minute at most, and no restart."""
    folder.write("skills/a/SKILL.md", "other")
    known.backoff._chance = random.Random(1).random
    asked_at = []
    app.answers = [lambda body: asked_at.append(clock()) or answers.unreachable()] * 100_000
    started = clock()
    while clock() < started + 86_400:  # as its thread does it
        wait_s = known.turn()
        clock.pass_(5.0 if wait_s is None else min(wait_s, 5.0))

    late = [at for at in asked_at if at > started + 3600]
    assert len(late) <= 23 * 60
    assert min(after - at for at, after in itertools.pairwise(late)) >= 60
    # Nor is it given up.
    assert max(after - at for at, after in itertools.pairwise(late)) <= 120
    app.answers = []
    poll(known, 30)
    assert known.is_done


def test_the_wait_grows_to_two_minutes_and_no_further(known):
    waits = [known.backoff.failed() for _ in range(2000)]

    assert waits[:8] == [1, 2, 4, 8, 16, 32, 64, 120]
    assert max(waits) == 120


def test_the_wait_is_by_chance_and_later_at_least_a_minute(known):
    known.backoff._chance = lambda: 0.0
    waits = [known.backoff.failed() for _ in range(2000)]

    assert waits[:8] == [0, 0, 0, 0, 0, 0, 4, 60]
    assert max(waits) == 60


def test_how_long_it_tells_is_not_how_long_it_has_looked(folder, known, poll, app, clock, answers):
    """Else the signs of life would end when a slow request follows a long look."""

    def answer(body):
        asked_after_s.append(clock() - known.phase_since)
        return answers.ok()

    asked_after_s = []
    app.answers = [answer]
    known._beat = lambda: clock.pass_(1000 if known.phase == LOOKING else 0)  # a large folder
    folder.write("skills/a/SKILL.md", "other")
    poll(known, 3)

    assert asked_after_s == [0]


def test_retry_after_is_obeyed(folder, known, poll, app, answers):
    app.answers = [answers.problem(429, "rate_limited", 33.0)]
    folder.write("skills/a/SKILL.md", "other")
    poll(known, 2)
    assert len(app.asked) == 1
    poll(known, 6)  # 30 s
    known.hurry()
    assert len(app.asked) == 1
    poll(known, 2)
    assert len(app.asked) == 2


def test_a_long_list_is_a_refresh_without_one(folder, known, poll, app):
    for number in range(MAX_PATHS + 1):
        folder.write(f"commands/{number}.md")
    poll(known, 3)

    assert app.asked == [{"collection_id": "work"}]
    assert known.is_done


def test_a_batch_that_is_refused_is_split(folder, known, poll, app, answers):
    def answer(body):
        too_long = len(body.get("paths", ())) > 2
        return answers.problem(413, "request_entity_too_large") if too_long else answers.ok()

    app.answers = [answer] * 20
    for number in range(5):
        folder.write(f"commands/{number}.md")
    poll(known, 3)

    assert sorted(path for paths in app.paths if len(paths) <= 2 for path in paths) == [
        f"commands/{number}.md" for number in range(5)
    ]
    assert {} not in app.asked
    assert known.is_done


def test_a_path_that_is_refused_alone_makes_it_a_refresh_of_everything(
    folder, known, poll, app, answers, caplog
):
    def answer(body):
        bad = "commands/2.md" in body.get("paths", ())
        return answers.problem(400, "invalid_request") if bad else answers.ok()

    app.answers = [answer] * 20
    for number in range(5):
        folder.write(f"commands/{number}.md")
    logging.getLogger(LOGGER).propagate = True
    poll(known, 4)

    assert {"collection_id": "work"} in app.asked
    assert known.is_done
    assert sum("commands/2.md" in line for line in caplog.messages) == 1


@pytest.mark.parametrize("name", ["c:x.md", "a" * 200 + "/" + "b" * 250])
def test_a_path_that_the_api_cannot_take_is_covered_by_a_refresh(
    folder, known, poll, app, name, monkeypatch
):
    monkeypatch.setattr("artifact_cache_daemon.delivery._MAX_PATH_LENGTH", 400)
    folder.write(name)
    poll(known, 3)

    assert app.asked == [{"collection_id": "work"}]


def test_removals_that_are_held_back_are_reported_and_not_repeated(
    folder, known, poll, app, answers
):
    app.answers = [answers.problem(409, "mass_loss")]
    folder.remove("skills/a/SKILL.md")
    poll(known, 10)
    assert len(app.asked) == 1
    assert known.status.needs_confirmation == "0123456789abcdef" * 2

    known.refresh_due = True
    app.answers = [answers.problem(409, "mass_loss")]
    poll(known, 3)
    assert known.status.needs_confirmation
    known.refresh_due = True
    poll(known, 1)
    assert not known.status.needs_confirmation


def test_what_is_old_is_asked_for_until_it_is_done(known, poll, app, answers):
    app.answers = [answers.problem(500)]
    known.refresh_due = True
    poll(known, 3)

    # The app may have read any file meanwhile, so it is asked for all of them.
    assert app.asked == [
        {"collection_id": "work", "older_than_minutes": 30.0},
        {"collection_id": "work"},
    ]
    assert not known.refresh_due


def test_a_new_token_is_tried_at_once(folder, collection, poll, app, answers, token_file):
    folder.write("a.md")
    made = collection("--token-file", str(token_file))
    token_file.write_text("another-token-0123456789")
    app.answers = [answers.problem(401, "unauthorized")]
    poll(made)

    assert made.trusted
    assert made._settings.token.value == "another-token-0123456789"


def unavailable(folder, how):
    root, aside = folder.root, folder.root.with_name("aside")
    root.rename(aside)
    if how == "empty mount":
        root.mkdir()
    elif how == "a file":
        root.write_text("x")
    elif how == "a link to nothing":
        root.symlink_to("nowhere")
    return aside


@pytest.mark.parametrize("how", ["missing", "empty mount", "a file", "a link to nothing"])
def test_a_root_that_is_not_there_is_not_a_deletion(folder, known, poll, app, how):
    aside = unavailable(folder, how)
    known.refresh_due = True
    poll(known, 5)
    assert app.asked == []
    assert known.status.unavailable

    if folder.root.is_dir():
        folder.root.rmdir()
    elif how != "missing":
        folder.root.unlink()
    aside.rename(folder.root)
    poll(known, 3)
    assert not known.status.unavailable
    assert app.asked == [{"collection_id": "work", "older_than_minutes": 30.0}]
    folder.write("skills/a/SKILL.md", "later")
    poll(known, 3)
    assert app.paths == [["skills/a/SKILL.md"]]


def test_permission_lost_is_not_a_deletion(folder, known, poll, app, monkeypatch):
    listed = os.scandir

    def scandir(path):
        if str(path) == str(folder.root):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        poll(known, 3)
        assert "Permission denied" in known.status.unavailable
    poll(known, 3)

    assert app.asked == []
    assert not known.status.unavailable


def test_another_device_with_other_files_is_not_a_deletion(folder, known, poll, app):
    known._device = -1
    for name in "abc":
        folder.remove(f"skills/{name}/SKILL.md")
    folder.write("other.md")
    poll(known, 4)

    assert app.asked == []
    assert "another device" in known.status.unavailable


def test_what_cannot_be_seen_on_another_device_is_not_a_deletion(
    folder, known, poll, app, monkeypatch
):
    known._device = -1
    listed = os.scandir
    folder.write("other.md")

    def scandir(path):
        if str(path).endswith("skills"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    poll(known, 4)
    assert app.paths == [["other.md"]]
    assert known.watcher.acknowledged.get("skills/a/SKILL.md")


def test_files_that_are_really_gone_are_told_of_on_another_device(folder, known, poll, app):
    """A share that was mounted anew, by the file that is there as it was."""
    known._device = -1
    folder.remove("skills/a/SKILL.md")
    folder.remove("skills/b/SKILL.md")
    poll(known, 4)

    assert app.paths == [["skills/a/SKILL.md", "skills/b/SKILL.md"]]
    assert known._device == folder.root.stat().st_dev


def test_a_copy_with_other_inodes_is_believed_on_another_device(folder, known, poll, app):
    known._device = -1
    folder.remove("skills/a/SKILL.md")
    folder.remove("skills/b/SKILL.md")
    kept = folder.root / "skills/c/SKILL.md"
    shutil.copy2(kept, kept.with_name("copy"))
    kept.with_name("copy").replace(kept)
    poll(known, 4)

    assert app.paths == [[f"skills/{name}/SKILL.md" for name in "abc"]]


def test_other_files_at_the_same_paths_are_not_a_deletion(folder, known, poll, app):
    known._device = -1
    folder.remove("skills/a/SKILL.md")
    folder.remove("skills/b/SKILL.md")
    folder.write("skills/c/SKILL.md", "of another collection")
    poll(known, 4)

    assert app.asked == []
    assert "another device" in known.status.unavailable


def test_another_device_with_the_same_files_is_a_restart(folder, known, poll, app):
    known._device = -1
    poll(known, 2)

    assert not known.status.unavailable
    assert known._device == folder.root.stat().st_dev


def test_it_goes_on_where_it_was(folder, collection, poll, app, store):
    folder.write("a.md")
    made = collection(store=store)
    poll(made, 3)
    made.close()
    folder.write("b.md")
    app.asked.clear()
    again = collection(store=store)
    poll(again, 3)

    assert app.asked == [{"collection_id": "work", "paths": ["b.md"]}]


def test_a_crash_before_the_state_is_saved_only_repeats(folder, collection, poll, app, store):
    folder.write("a.md")
    made = collection(store=store)
    poll(made, 3)
    folder.write("b.md")
    folder.remove("a.md")
    poll(made, 2, every=1.0)
    app.asked.clear()
    again = collection(store=store)  # nobody called close()
    poll(again, 3)

    assert app.paths in ([], [["a.md", "b.md"]])
    assert again.is_done


def test_another_app_is_told_everything(folder, collection, poll, app, store):
    folder.write("a.md")
    made = collection(store=store)
    poll(made, 3)
    made.close()
    app.asked.clear()
    poll(collection("--api-url", "http://other:5000", store=store), 3)

    assert app.asked == [{"collection_id": "work"}]


def test_a_file_that_was_young_at_the_start_is_told_of_once_more(folder, collection, poll, app):
    file = folder.write("a.md")
    written = file.stat().st_ctime
    made = collection(wall=lambda: written)
    poll(made, 4)

    assert app.asked == [{"collection_id": "work"}, {"collection_id": "work", "paths": ["a.md"]}]
    assert made.is_done


def test_something_unexpected_ends_one_turn_and_not_the_collection(folder, known, poll, app):
    app.answers = [RuntimeError("a bug")]
    folder.write("skills/a/SKILL.md", "other")
    poll(known, 6)

    assert known.is_done
    assert len(app.asked) == 2


class Listings:
    """The folders that are listed while somebody wants to know."""

    found = None

    @classmethod
    def note(cls, event, args):
        if cls.found is not None and event == "os.scandir":
            cls.found.append(args[0])


sys.addaudithook(Listings.note)


@pytest.fixture
def listed(folder, poll):
    """Polls once; which of two folders were listed."""

    def run(collection):
        Listings.found = []
        poll(collection)
        found, Listings.found = Listings.found, None
        return [one for one in found if one in (str(folder.root), str(folder.root / "skills"))]

    return run


def test_while_nothing_changes_folders_are_listed_once_a_minute(folder, known, poll, app, listed):
    poll(known, 4)
    whole = [str(folder.root), str(folder.root / "skills")]
    looks = [listed(known) for _ in range(13)]
    assert sorted(looks) == [*[[]] * 12, whole]

    folder.write("skills/d/SKILL.md")
    poll(known, 3)
    assert app.paths == [["skills/d/SKILL.md"]]


def test_whoever_is_in_a_hurry_gets_a_look_at_every_folder(known, poll, listed):
    poll(known, 4)
    assert not listed(known)
    known.hurry()
    assert listed(known)
    assert not listed(known)


def test_after_a_full_check_everything_is_listed_once_more(known, poll, app, listed):
    poll(known, 4)
    known.refresh_due = True
    poll(known)
    assert app.asked
    assert not known.is_done
    assert listed(known)
    assert known.is_done


def test_a_root_that_comes_back_as_it_was_is_available_at_the_next_look(folder, known, poll):
    poll(known, 4)
    above = folder.root.parent
    elsewhere = above.rename(above.with_name("elsewhere"))
    poll(known)
    assert known.status.unavailable
    elsewhere.rename(above)
    poll(known)
    assert not known.status.unavailable


def test_a_look_that_takes_long_makes_the_interval_longer(known):
    assert known.interval_s == 5.0
    known._look_s = 3.0
    assert known.interval_s == 30.0
    assert known.rest_s == 27.0


def test_a_full_disk_is_survived(folder, collection, poll, store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    folder.write("a.md")
    monkeypatch.setattr("os.fsync", full)
    made = collection(store=store)
    poll(made, 5)
    made.close()

    assert made.is_done
    assert list(store.folder.glob("*.new")) == []


@pytest.mark.parametrize("killed", [False, True])
def test_a_file_that_the_app_heard_of_and_that_is_gone_again_is_told_of(
    folder, collection, poll, app, store, answers, killed
):
    """The app took it in, but its answer was lost; then the file went."""
    folder.write("a.md")
    made = collection(store=store)
    poll(made, 3)
    made.close()
    folder.write("b.md")
    app.answers = [answers.problem(500)]
    poll(made, 2)
    folder.remove("b.md")
    app.asked.clear()
    made = collection(store=store) if killed else made
    poll(made, 4)

    assert app.paths == [["b.md"]]
    assert made.is_done
