"""What to read, whom a path belongs to and when a loss is believed: decided by values alone."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import example, given
from hypothesis import strategies as st

from flask_artifact_cache.freshness import CONDITIONS, OK, QUARANTINED, REFERENCED
from flask_artifact_cache.refresh.changes import plan
from flask_artifact_cache.refresh.guard import ALWAYS_ALLOWED, is_mass_loss, losses
from flask_artifact_cache.refresh.selection import (
    Chosen,
    Known,
    Owners,
    Selection,
    lone_owners,
    parents,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
uids = st.sampled_from("abcdefgh")
digests = st.sampled_from(["1", "2", "3"])

known_rows = st.lists(
    st.builds(
        Known,
        id=st.integers(1, 99),
        uid=uids,
        path=st.just("x"),
        condition=st.sampled_from(CONDITIONS),
        evidence=st.none() | digests,
    ),
    unique_by=(lambda row: row.uid, lambda row: row.id),
)


@given(
    seen=st.dictionaries(uids, digests),
    known=known_rows,
    meant=st.sets(uids),
    force=st.booleans(),
)
def test_everything_is_read_trusted_absent_or_skipped_and_exactly_one_of_them(
    seen, known, meant, force
):
    made = plan(
        {uid: (uid, digest) for uid, digest in seen.items()},
        known,
        digest=lambda place: place[1],
        chosen=lambda row: row.uid in meant,
        may_be_chosen=lambda uid, _: uid in meant,
        force=force,
    )

    rows = {row.uid: row for row in known}
    assert {row.uid for row in made.absent} == rows.keys() - seen.keys()
    read, trusted = [uid for uid, _ in made.read], [row.uid for row in made.agree]
    assert len({*read, *trusted}) == len(read) + len(trusted)
    assert {*read, *trusted} == seen.keys() & meant
    assert made.skipped == len(seen.keys() - meant)
    for uid in trusted:
        # Only what says the same in every digit, of a row that nobody doubts.
        assert not force
        assert rows[uid].evidence == seen[uid]
        assert rows[uid].condition in (OK, QUARANTINED)
    for uid in read:
        row = rows.get(uid)
        doubt = row is None or row.condition not in (OK, QUARANTINED) or row.evidence != seen[uid]
        assert doubt or force


names = st.sampled_from(["a", "b", "skills", "SKILL.md", "skill.md", "x.md", "y.txt"])
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
types = st.sampled_from(["skill", "command", "agent"])


def owns(type_, artifact, path):
    """Whether an artifact owns a path, but for what manifests say."""
    folder = artifact.rpartition("/")[0]
    inside = path.startswith(f"{folder}/") or not folder
    return path == artifact or artifact.startswith(f"{path}/") or (type_ == "skill" and inside)


def is_told_of(artifact, path):
    """Whether a file decides what else is an artifact in the folder that holds both."""
    above, _, name = path.rpartition("/")
    return name.lower() == "skill.md" and (not above or artifact.startswith(f"{above}/"))


@given(type_=types, artifact=paths, changed=st.lists(paths, max_size=3))
@example(type_="skill", artifact="SKILL.md", changed=["a/b/x.md"])
@example(type_="skill", artifact="a/SKILL.md", changed=["a"])
@example(type_="command", artifact="a/x.md", changed=["a/y.txt"])
def test_an_artifact_owns_its_file_and_a_skill_its_folder(type_, artifact, changed):
    expected = any(owns(type_, artifact, path) or is_told_of(artifact, path) for path in changed)
    assert Owners(changed).row(type_, artifact) == expected
    assert Owners(f"{path}/" for path in changed).row(type_, artifact) == expected


@given(folder=paths, artifact=paths, of=st.sampled_from(["collection.toml", "collection.lock"]))
def test_what_a_manifest_says_belongs_to_all_in_its_folder(folder, artifact, of):
    assert Owners([f"{folder}/{of}"]).row("command", f"{folder}/{artifact}")
    assert Owners([of]).row("command", artifact)
    assert Owners([f"{folder}/.claude-plugin/plugin.json"]).row("agent", f"{folder}/{artifact}")
    assert not Owners([f"{folder}/{of}"]).row("command", "elsewhere.md")
    assert Owners([".mcp.json"]).row("mcp", ".mcp.json#search")


@given(path=paths)
def test_the_folders_above_a_path_end_with_the_root(path):
    found = list(parents(path))
    assert found[-1] == ""
    assert all(path.startswith(f"{one}/") for one in found[:-1])
    assert len(found) == path.count("/") + 1


@given(type_=types, artifact=paths, path=paths)
def test_whoever_owns_a_file_is_among_those_who_are_asked(type_, artifact, path):
    """Else a refresh by path would take another one for the only owner."""
    candidates, exact = lone_owners(path)
    name = artifact.rpartition("/")[2]
    can_be = name in ("SKILL.md", "skill.md") if type_ == "skill" else name.endswith(".md")
    # Whoever lies below a path that is a folder is found by a look at everything.
    below = artifact.startswith(f"{path}/") and artifact.count("/") > path.count("/") + 1
    below = below or (artifact.startswith(f"{path}/") and type_ != "skill")
    if can_be and not below and owns(type_, artifact, path):
        assert (type_, artifact) in candidates
    assert exact == (path.rpartition("/")[2].lower() == "skill.md")


@given(
    path=st.lists(names, max_size=3).map(lambda parts: "".join(f"{part}/" for part in parts)),
    file=st.sampled_from([".mcp.json", "collection.toml", "collection.lock", "pyvenv.cfg"]),
)
def test_a_file_that_says_what_others_are_has_no_lone_owner(path, file):
    assert lone_owners(path + file)[0] == []
    assert lone_owners(f"{path}.claude-plugin/x.md")[0] == []


ages = st.none() | st.integers(-60, 120).map(lambda minutes: NOW - timedelta(minutes=minutes))
rows = st.builds(
    Known,
    id=st.integers(1, 5),
    uid=uids,
    path=paths,
    type=types,
    name=st.sampled_from("xyz"),
    condition=st.sampled_from(CONDITIONS),
    synced_at=ages,
)
selections = st.fixed_dictionaries(
    {},
    optional={
        "older_than_minutes": st.integers(0, 90),
        "tags": st.just(("one",)),
        "types": st.lists(types, min_size=1).map(tuple),
        "artifact_ids": st.lists(uids | st.sampled_from(["skill:x"]), min_size=1).map(tuple),
        "paths": st.lists(paths, min_size=1).map(tuple),
    },
)


@given(asked=selections, row=rows, verified_at=ages, tagged=st.sets(st.integers(1, 5)))
def test_filters_are_the_and_of_each_alone(asked, row, verified_at, tagged):
    def meant(**filters):
        return Chosen(Selection(**filters), NOW, verified_at, tagged).row(row)

    assert meant(**asked) == all(meant(**{name: value}) for name, value in asked.items())
    assert Selection(**asked).is_everything == (not asked)


@given(row=rows, verified_at=ages, minutes=st.integers(0, 90))
def test_a_row_is_old_by_the_later_of_its_times_and_a_time_ahead_proves_nothing(
    row, verified_at, minutes
):
    old = Chosen(Selection(older_than_minutes=minutes), NOW, verified_at).row(row)
    times = [time for time in (row.synced_at, verified_at) if time is not None]
    if row.condition == "invalidated" or not times or max(times) > NOW + timedelta(minutes=5):
        assert old
    else:
        assert old == (NOW - max(times) >= timedelta(minutes=minutes))


@given(
    gone=st.integers(0, 60),
    hidden=st.integers(0, 20),
    others=st.integers(0, 60),
    referenced=st.integers(0, 60),
    kept=st.integers(0, 200),
    percent=st.integers(1, 100),
    confirmed=st.integers(0, 120),
    is_empty=st.booleans(),
)
def test_a_loss_is_believed_or_confirmed_or_withheld(
    gone, hidden, others, referenced, kept, percent, confirmed, is_empty
):
    absent = [Known(number, str(number), "seen") for number in range(gone)]
    absent += [Known(number, str(number), "other") for number in range(others)]
    absent += [Known(number, str(number), "hidden") for number in range(hidden)]
    # Confirmed long ago, and kept for the host's sake.
    absent += [Known(n, str(n), "seen", condition=REFERENCED) for n in range(referenced)]
    known = len(absent) + kept

    found = losses(
        absent,
        known,
        is_hidden=lambda path: path == "hidden",
        is_empty=is_empty,
        percent=percent,
        confirmed=confirmed,
        chosen=lambda row: row.path == "seen",
    )

    assert (len(found.gone), found.others, found.hidden) == (gone + referenced, others, hidden)
    lost = gone + others
    # However few of them are asked for, all that is lost is weighed.
    unbelievable = is_mass_loss(lost, known, percent) or (is_empty and lost > 0)
    assert found.withheld == (gone if unbelievable and gone > confirmed else 0)
    assert found.emptied == (is_empty and lost > confirmed)


@given(gone=st.integers(0, 300), known=st.integers(0, 300), percent=st.integers(1, 100))
@example(gone=19, known=100, percent=20)
@example(gone=20, known=100, percent=20)
@example(gone=21, known=100, percent=20)
@example(gone=10, known=10, percent=20)
@example(gone=11, known=11, percent=20)
def test_a_mass_is_more_than_ten_and_more_than_the_percentage(gone, known, percent):
    expected = gone > ALWAYS_ALLOWED and gone / max(known, 1) > percent / 100
    if known:
        assert is_mass_loss(gone, known, percent) == expected
    assert not is_mass_loss(min(gone, ALWAYS_ALLOWED), known, percent)
