"""Artifacts are fetched and compared with few requests, and trouble never says that one is gone."""

from __future__ import annotations

import io
import random
import shutil
import tarfile
import threading

import pytest

from flask_artifact_cache.errors import (
    ConfigurationError,
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    UpstreamError,
    UpstreamLimitedError,
)
from flask_artifact_cache.upstream.client import MAX_CONNECTIONS, SILENCES, SILENT_S, WHOLE_S
from flask_artifact_cache.upstream.github import GitHub, Held, Wanted
from flask_artifact_cache.upstream.sources import parse
from flask_artifact_cache.upstream.trees import Limits
from flask_artifact_cache.upstream.validators import fingerprint

from .fakegithub import (
    NOW,
    TOKEN,
    FakeGitHub,
    Repository,
    answering,
    dripping,
    dropped,
    redirect,
    slow,
    status,
    truncated,
)

SKILL = b"---\nname: pdf\ndescription: Reads PDFs\n---\n"


def held(sha, *sources):
    return [Held(one, parse(one), sha) for one in sources]


def states(standings):
    return [one.state for one in standings]


@pytest.fixture
def repo(fake):
    fake.repos["octo/tools"] = Repository(
        {
            "README.md": b"Tools",
            "skills/pdf/SKILL.md": SKILL,
            "skills/pdf/scripts/run.sh": ("100755", b"#!/bin/sh\n"),
            "skills/csv/SKILL.md": b"---\nname: csv\n---\n",
            "commands/tidy.md": b"Tidy up",
        }
    )
    return fake.repos["octo/tools"]


# --- fetching ------------------------------------------------------------------------------------


def test_a_skill_is_fetched_with_all_of_its_files(github, fake, repo, staging):
    fetched = github().fetch("octo/tools/skills/pdf", staging)

    sha = repo.refs["main"]
    assert (fetched.name, fetched.type, fetched.origin) == ("pdf", "skill", "github")
    assert fetched.version_spec == "latest"
    assert fetched.resolved_sha == sha
    assert fetched.upstream == f"{fake.url}/octo/tools/tree/{sha}/skills/pdf"
    assert (fetched.path / "SKILL.md").read_bytes() == SKILL
    assert (fetched.path / "scripts/run.sh").stat().st_mode & 0o111
    assert sorted(one.name for one in fetched.path.iterdir()) == ["SKILL.md", "scripts"]
    assert fake.calls == {"head": 1, "tree": 1, "blob": 2}


def test_a_command_is_one_file(github, repo, staging):
    repo.commit({"commands/tidy.md": b"Tidy"}, "v1.2")

    fetched = github().fetch("octo/tools/commands/tidy@v1.2", staging)

    assert (fetched.name, fetched.type) == ("tidy", "command")
    assert fetched.path.name == "tidy.md"
    assert fetched.path.read_bytes() == b"Tidy"
    assert fetched.resolved_version == "v1.2"


def test_a_link_with_slashes_in_its_ref_is_understood(github, fake, repo, staging):
    sha = repo.commit({"skills/pdf/SKILL.md": b"new"}, "feature/x")

    fetched = github().fetch(f"{fake.url}/octo/tools/tree/feature/x/skills/pdf", staging)

    assert (fetched.version_spec, fetched.resolved_sha) == ("feature/x", sha)


def test_what_is_not_there_is_named(github, repo, staging):
    with pytest.raises(NotFoundError, match="did you mean skills/pdf"):
        github().fetch("octo/tools/pdf", staging)
    with pytest.raises(InvalidRequestError, match="say with '--type'"):
        github().fetch("octo/tools/README.md", staging)
    with pytest.raises(UpstreamError, match="knows no such branch"):
        github().fetch("octo/tools/skills/pdf@nope", staging)
    assert list(staging.iterdir()) == []


def test_only_new_blobs_are_downloaded(github, fake, repo, staging, tmp_path):
    client = github()
    first = client.fetch("octo/tools/skills/pdf", staging)
    repo.commit({"skills/pdf/SKILL.md": SKILL, "skills/pdf/more.md": b"More"})
    fake.forget()
    second = tmp_path / "second"
    second.mkdir()

    fetched = client.fetch("octo/tools/skills/pdf", second, present=first.path)

    assert fake.calls == {"head": 1, "tree": 1, "blob": 1}
    assert (fetched.path / "SKILL.md").read_bytes() == SKILL
    assert not (fetched.path / "scripts").exists()


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_a_listing_that_is_cut_is_walked(github, fake, repo, staging, limit):
    fake.truncate = limit

    fetched = github().fetch("octo/tools/skills/pdf", staging)

    assert (fetched.path / "scripts/run.sh").read_bytes() == b"#!/bin/sh\n"
    assert states(github().check(held("0" * 40, "octo/tools/skills/csv", "octo/tools/x"))) == [
        "changed",
        "gone",
    ]


def test_a_listing_that_is_cut_is_walked_towards_what_is_held_alone(github, fake):
    many = {f"other/{n}/deep/x": b"x" for n in range(40)}
    skills = {f"skills/s{n}/{path}": b"x" for n in range(5) for path in ("SKILL.md", "a/b")}
    repo = fake.repos["o/huge"] = Repository({**many, **skills})
    old = repo.refs["main"]
    repo.commit({**many, **skills, "skills/s1/a/b": b"New", "commands/tidy.md": b"New"})
    fake.truncate = 30
    sources = ["o/huge/skills/s0", "o/huge/skills/s1/SKILL.md", "o/huge/commands/tidy"]

    found = github().check(held(old, *sources))

    assert states(found) == ["current", "changed", "changed"]
    # Of the commit of now what was cut, the root and both folders; of then there is but one.
    assert fake.calls == {"head": 1, "tree": 4 + 3}


def test_a_skill_is_whole_although_its_one_file_was_named(github, fake, staging):
    many = {f"other/{n}": b"x" for n in range(40)}
    fake.repos["o/huge"] = Repository(
        {**many, "skills/pdf/SKILL.md": SKILL, "skills/pdf/a/b": b"b"}
    )
    fake.truncate = 30

    fetched = github().fetch("o/huge/skills/pdf/SKILL.md", staging)

    assert (fetched.path / "a/b").read_bytes() == b"b"
    assert fake.calls == {"head": 1, "tree": 4, "blob": 2}


@pytest.mark.parametrize("count", [1, 100, 5000])
def test_many_artifacts_cost_no_more_than_few(github, fake, staging, count):
    fake.repos["o/many"] = Repository(
        {f"skills/s{n}/SKILL.md": f"---\nname: s{n}\n---\n".encode() for n in range(count)}
    )
    names = [f"o/many/skills/s{n}" for n in range(count)]
    client = github()

    fetched = client.fetch_many([Wanted(parse(one)) for one in names], staging)

    few = {"head": 1, "tree": 1, "blob": 1}
    assert fake.calls == (few if count == 1 else {"head": 1, "tree": 1, "tarball": 1, "archive": 1})
    assert fetched[-1].path.joinpath("SKILL.md").read_text() == f"---\nname: s{count - 1}\n---\n"
    fake.forget()
    sha = fetched[0].resolved_sha
    assert set(states(client.check(held(sha, *names)))) == {"current"}
    assert fake.calls == {"304": 1}
    assert fake.used == 0

    # One of them changes: one listing, once.
    files = {path: data for path, (_, _, data) in fake.repos["o/many"].commits[sha].items()}
    fake.repos["o/many"].commit({**files, "skills/s0/SKILL.md": b"changed"})
    fake.forget()
    found = client.check(held(sha, *names))
    assert fake.calls == {"head": 1, "tree": 1}
    assert states(found) == ["changed"] + ["current"] * (count - 1)
    client.check(held(sha, *names))
    assert fake.calls == {"head": 1, "tree": 1, "304": 1}


@pytest.mark.parametrize(
    ("spoil", "answers", "error"),
    [
        ({"skills/s7/x": ("120000", b"../../out")}, [], RefusedError),
        ({"skills/s7/SKILL.md": None}, [], NotFoundError),
        ({"skills/s7/SKILL.md": None, "skills/s7/x": b"x"}, [], InvalidRequestError),
        ({"skills/s7/x": b"x" * 3000}, [], RefusedError),
        ({"skills/s7/SKILL.md": b"lost"}, [status(404)], UpstreamError),
        ({"skills/s7/SKILL.md": b"lost"}, [status(451)], UpstreamError),
        ({"skills/s7/SKILL.md": b"lost"}, [answering(b"x" * 99)], UpstreamError),
        ({"skills/s7/SKILL.md": b"lost"}, [answering(b"LOST")], UpstreamError),
        ({"skills/s7/SKILL.md": b"lost"}, [answering(b"lost", cut=2)] * 5, UpstreamError),
    ],
)
def test_one_that_is_refused_costs_the_others_nothing(github, fake, staging, spoil, answers, error):
    files = {f"skills/s{n}/SKILL.md": b"%d" % n for n in range(100)} | spoil
    files = {path: data for path, data in files.items() if data is not None}
    repo = fake.repos["o/many"] = Repository(files)
    if answers:
        # The archive lacks it, as .gitattributes can say; then it is asked for by itself.
        repo.altered = {"skills/s7/SKILL.md": None}
        fake.fail(*[lambda handler: False] * 4, *answers)
    wanted = [Wanted(parse(f"o/many/skills/s{n}")) for n in range(100)]
    refused = {}

    fetched = github(limits=Limits(file_bytes=2000)).fetch_many(wanted, staging, refused=refused)

    assert [one.name for one in fetched] == [f"s{n}" for n in range(100) if n != 7]
    assert {key: type(one) for key, one in refused.items()} == {7: error}
    assert fake.calls == {"head": 1, "tree": 1, "tarball": 1, "archive": 1}
    assert len(fake.log) == 4 + len(answers)


@pytest.mark.parametrize(
    ("limits", "truncate_folder", "trees", "message"),
    [
        (Limits(), 30, 4, "too large for GitHub to list"),
        (Limits(listing_entries=25), 100_000, 3, "over 25 files"),
    ],
)
def test_a_folder_that_cannot_be_listed_is_asked_for_once(
    github, fake, staging, limits, truncate_folder, trees, message
):
    files = {f"skills/s{n}/SKILL.md": b"%d" % n for n in range(50)}
    fake.repos["o/huge"] = Repository({**files, "commands/tidy.md": b"Tidy"})
    fake.truncate, fake.truncate_folder = 20, truncate_folder
    sources = [*(f"o/huge/skills/s{n}" for n in range(10)), "o/huge/commands/tidy"]
    refused = {}

    fetched = github(limits=limits).fetch_many(
        [Wanted(parse(one)) for one in sources], staging, refused=refused
    )

    assert {index: message in str(error) for index, error in refused.items()} == dict.fromkeys(
        range(11 - len(fetched)), True
    )
    assert fake.calls["tree"] == trees


def test_answers_that_are_too_large_use_up_no_connection(github, fake, repo, staging):
    client = github()
    for _ in range(MAX_CONNECTIONS + 1):
        fake.fail(*[lambda handler: False] * (len(client._trees) < 1), answering(b"x" * 500_000))
        wanted = Wanted(parse("octo/tools/commands/tidy"), sha=repo.refs["main"])
        with pytest.raises(UpstreamError, match="has over"):
            client.fetch_many([wanted], staging)
        shutil.rmtree(staging)
        staging.mkdir()


def test_only_a_second_trouble_is_none_of_one_file(github, fake, staging):
    repo = fake.repos["o/many"] = Repository({f"skills/s{n}/SKILL.md": b"%d" % n for n in range(9)})
    wanted = [Wanted(parse(f"o/many/skills/s{n}"), sha=repo.refs["main"]) for n in range(9)]
    trouble = [answering(b"1", cut=1)] * 5
    refused = {}
    fake.fail(lambda handler: False, *trouble, status(404), status(451))

    fetched = github().fetch_many(wanted, staging, refused=refused)

    assert len(fetched) == 6
    assert [error.reason for error in refused.values()] == ["unavailable", "not_found", "legal"]
    fake.fail(*[dropped] * 50)
    shutil.rmtree(staging)
    staging.mkdir()
    with pytest.raises(UpstreamError, match="cannot be reached"):
        github().fetch_many(wanted, staging, refused={})


def test_trouble_is_no_refusal_of_one(github, fake, staging):
    repo = fake.repos["o/many"] = Repository({f"skills/s{n}/SKILL.md": b"%d" % n for n in range(9)})
    wanted = [Wanted(parse(f"o/many/skills/s{n}"), sha=repo.refs["main"]) for n in range(9)]
    for answer in (status(500), status(401), status(403, "no"), status(429, Retry_After="600")):
        fake.forget()
        fake.fail(lambda handler: False, *[answer] * 20)
        with pytest.raises(UpstreamError):
            github().fetch_many(wanted, staging, refused={})
        assert len(fake.log) <= 1 + 5 + 5
        fake.failures.clear()
        shutil.rmtree(staging)
        staging.mkdir()


def test_the_same_content_is_current_without_a_state_folder(github, fake, repo, tmp_path):
    old = repo.refs["main"]
    files = {path: (mode, data) for path, (mode, _, data) in repo.commits[old].items()}
    new = repo.commit({**files, "README.md": b"New", "skills/csv/SKILL.md": b"New"})
    sources = ["octo/tools/skills/pdf", "octo/tools/skills/csv", "octo/tools/commands/tidy"]

    # As in CI, which has nothing but the manifest: the commit of then is listed, once for all.
    found = github().check(held(old, *sources))

    assert states(found) == ["current", "changed", "current"]
    assert found[0].sha == new
    assert fake.calls == {"head": 1, "tree": 2}
    fake.forget()
    assert states(github().check(held(old, *sources))) == ["current", "changed", "current"]
    assert fake.calls == {"304": 1}


def test_a_commit_that_is_no_longer_there_is_another_content(github, fake, repo):
    lost, no_commit = "1" * 40, "../../../../user"

    found = github().check(
        [*held(lost, "octo/tools/skills/pdf"), *held(no_commit, "octo/tools/skills/csv")]
    )

    assert states(found) == ["changed", "changed"]
    assert not [path for _, path, _ in fake.log if "user" in path]
    # Where it could not be asked, nothing is concluded.
    fake.fail(lambda handler: False, status(403, "no"))
    assert states(github().check(held(lost, "octo/tools/skills/pdf"))) == ["unknown"]


def test_200_repositories_with_nothing_new_cost_nothing(github, fake):
    for n in range(200):
        fake.repos[f"o/r{n}"] = Repository({"skills/a/SKILL.md": b"%d" % n})
    all_held = [
        Held(f"{n}", parse(f"o/r{n}/skills/a"), fake.repos[f"o/r{n}"].refs["main"])
        for n in range(200)
    ]
    assert set(states(github().check(all_held))) == {"current"}
    fake.forget()

    # As another process does, which has but the state folder.
    assert set(states(github().check(all_held))) == {"current"}

    assert fake.calls == {"304": 200}
    assert fake.used == 0
    assert fake.most_busy <= 4


def test_another_token_makes_one_full_round(github, fake, repo):
    sha = repo.refs["main"]
    fake.tokens.add("github_pat_rotated")
    github().check(held(sha, "octo/tools/skills/pdf"))
    fake.forget()

    for _ in range(3):
        github("github_pat_rotated").check(held(sha, "octo/tools/skills/pdf"))

    assert fake.calls == {"head": 1, "304": 2}


def test_an_enterprise_server_has_another_base(github, staging):
    fake = FakeGitHub("/api/v3")
    fake.repos["o/r"] = Repository({"skills/a/SKILL.md": b"x"})
    try:
        fetched = github(url=fake.url).fetch("o/r/skills/a", staging)
        assert fetched.upstream.startswith(f"http://{fake.host}/o/r/tree/")
    finally:
        fake.close()


# --- a repository that is larger than its archive may be ------------------------------------------


@pytest.fixture
def huge(fake):
    """Ten skills of five files, in a repository of which the archive has some 16 KB in 90."""
    noise = random.Random(7)
    fake.repos["o/huge"] = Repository(
        {f"s/{n}/{path}": noise.randbytes(200) for n in range(10) for path in FIVE}
        | {"big/SKILL.md": SKILL}
        | {f"big/{n}": noise.randbytes(200) for n in range(30)}
    )
    return fake.repos["o/huge"]


FIVE = ("SKILL.md", "a", "b", "c", "d")
ARCHIVE = {"tarball": 1, "archive": 1}


@pytest.mark.parametrize("archive_bytes", [10_000, 40_000], ids=["as it comes", "unpacked"])
def test_a_skill_of_a_huge_repository_comes_file_by_file(
    github, fake, huge, staging, tmp_path, archive_bytes
):
    limits = Limits(archive_bytes=archive_bytes)

    fetched = github(limits=limits).fetch("o/huge/big", staging)

    assert len(list(fetched.path.iterdir())) == 31
    assert fake.calls["blob"] <= 31
    assert fake.calls.items() >= ARCHIVE.items()
    # Another process knows that of the commit; of the next one, it has to try.
    fake.forget()
    again = tmp_path / "again"
    again.mkdir()
    github(limits=limits).fetch("o/huge/big", again)
    assert fake.calls == {"304": 1, "tree": 1, "blob": 31}
    files = {path: data for path, (_, _, data) in huge.commits[huge.refs["main"]].items()}
    huge.commit({**files, "README.md": b"New"})
    fake.forget()
    third = tmp_path / "third"
    third.mkdir()
    github(limits=limits).fetch("o/huge/big", third)
    assert fake.calls.items() >= ARCHIVE.items()


def test_so_many_requests_are_refused_before_the_first(github, fake, huge, staging):
    limits = Limits(archive_bytes=10_000, blobs=30)
    for calls in ({"head": 1, "tree": 1, **ARCHIVE}, {"304": 1, "tree": 1}):
        fake.forget()
        with pytest.raises(UpstreamError, match="no more than 30 files") as caught:
            github(limits=limits).fetch("o/huge/big", staging)
        assert caught.value.reason == "too_large"
        assert fake.calls == calls
        shutil.rmtree(staging)
        staging.mkdir()


def test_of_many_artifacts_of_a_huge_repository_as_many_come_as_may(github, fake, huge, staging):
    wanted = [Wanted(parse(f"o/huge/s/{n}")) for n in range(10)]
    refused = {}

    fetched = github(limits=Limits(archive_bytes=10_000, blobs=33)).fetch_many(
        wanted, staging, refused=refused
    )

    assert [one.name for one in fetched] == [str(n) for n in range(6)]
    assert {index: error.reason for index, error in refused.items()} == dict.fromkeys(
        range(6, 10), "too_large"
    )
    assert fake.calls["blob"] == 30


# --- trouble -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "slept"),
    [
        ([status(500)], [0.25]),
        ([status(502), status(503), status(504)], [0.25, 0.5, 1.0]),
        ([truncated], [0.25]),
        ([dropped], [0.25]),
        ([status(403, "secondary rate limit", Retry_After="2")], [2.0]),
        ([status(429, Retry_After="1")], [1.0]),
        ([status(403, X_RateLimit_Remaining="0", X_RateLimit_Reset=str(NOW + 1))], [2.0]),
    ],
)
def test_short_trouble_is_waited_out(github, fake, repo, staging, time_, failures, slept):
    fake.fail(*failures)

    assert github().fetch("octo/tools/skills/pdf", staging).name == "pdf"

    assert time_.slept == slept


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (status(401, "Bad credentials"), "does not accept the token"),
        (status(403, "Resource not accessible"), "does not allow"),
        (status(404), "gone, private, or the token may not see it"),
        (status(409), "empty"),
        (status(451), "legal reasons"),
        (status(500), "GitHub answers 500"),
        (status(403, "secondary rate limit"), "upstream limited until"),
        (status(403, "x", X_RateLimit_Remaining="0"), "upstream limited until 2026-09-21 14:43:21"),
        (status(429, Retry_After="600"), "upstream limited until 2026-09-21 14:23:20 UTC"),
        (truncated, "broke off"),
        (dropped, "cannot be reached"),
        (redirect("https://evil.example/x"), "not one of its own"),
    ],
)
def test_trouble_leaves_artifacts_unknown_and_is_never_slept_through(
    github, fake, repo, time_, failure, message
):
    fake.fail(*[failure] * 5)

    [found] = github().check(held(repo.refs["main"], "octo/tools/skills/pdf"))

    assert found.state == "unknown"
    assert message in found.message
    assert sum(time_.slept) <= 5.0
    assert len(fake.log) <= 5


def test_a_trouble_of_the_listing_does_not_say_gone_either(github, fake, repo):
    for failure in (status(404), status(403, "no"), status(451), status(401)):
        fake.fail(lambda handler: False, failure)
        assert states(github().check(held("0" * 40, "octo/tools/skills/none"))) == ["unknown"]

    assert states(github().check(held("0" * 40, "octo/tools/skills/none"))) == ["gone"]


def test_a_repository_that_is_refused_fails_no_other(github, fake, repo):
    fake.repos["o/huge"] = Repository({f"f{n}/x": b"x" for n in range(30)} | {"a/SKILL.md": SKILL})
    fake.truncate = 20
    client = github(limits=Limits(listing_entries=25))

    huge, tools = client.check(
        [*held("0" * 40, "o/huge/a"), *held("0" * 40, "octo/tools/skills/pdf")]
    )

    assert (huge.state, huge.message) == ("unknown", "the repository has over 25 files")
    assert tools.state == "changed"


def test_a_limit_of_an_hour_is_asked_once(github, fake, repo, time_, staging):
    fake.used = fake.limit
    client = github()
    sha = repo.refs["main"]

    [found] = client.check(held(sha, "octo/tools/skills/pdf"))

    assert found.until == NOW + 1801
    # Nor does another process ask again.
    for _ in range(10):
        with pytest.raises(UpstreamLimitedError) as caught:
            github().fetch("octo/tools/skills/pdf", staging)
        assert caught.value.until == NOW + 1801
    assert len(fake.log) == 1
    assert time_.slept == []
    fake.used = 0
    time_.now = NOW + 1802.0
    assert states(client.check(held(sha, "octo/tools/skills/pdf"))) == ["current"]


def test_a_limit_of_a_clock_that_went_wrong_is_none(github, fake, repo):
    client = github()
    client.client.memory.wait(client.client.base_url, fingerprint(TOKEN), NOW + 1e9, NOW)

    assert states(client.check(held(repo.refs["main"], "octo/tools/x"))) == ["current"]


def test_the_rest_of_the_quota_is_for_users(github, fake, repo, staging):
    client = github()
    fake.used = 4600
    client.check(held("0" * 40, "octo/tools/skills/pdf"))
    fake.forget()

    [found] = client.check(held("1" * 40, "octo/tools/skills/csv"))

    assert "kept for what users ask for" in found.message
    assert fake.log == []
    assert client.fetch("octo/tools/skills/pdf", staging).name == "pdf"
    assert states(client.check(held("1" * 40, "octo/tools/skills/csv"), is_urgent=True)) == [
        "changed"
    ]


def test_a_slow_answer_is_given_up(github, fake, repo, time_):
    event = threading.Event()
    fake.fail(*[slow(event)] * 5)
    try:
        [found] = github(read_s=0.05).check(held("0" * 40, "octo/tools/skills/pdf"))
    finally:
        event.set()

    assert (found.state, "in time" in found.message) == ("unknown", True)


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Slow: "],
    ids=["body", "headers"],
)
def test_an_answer_that_drips_is_given_up_at_once(github, fake, repo, time_, head):
    seen = []
    # Every nine seconds a byte: no single read is ever late.
    fake.fail(dripping(lambda: time_.sleep(9), head))

    [found] = github(observe=seen.append).check(
        held(repo.refs["main"], "octo/tools/skills/pdf"), is_urgent=True
    )

    assert found.state == "unknown"
    assert found.message == "GitHub's answer takes too long: /repos/octo/tools/commits/HEAD"
    assert (len(fake.log), seen) == (1, ["failed"])
    assert time_.now >= NOW + WHOLE_S


def test_a_host_that_keeps_silent_is_left_alone(github, fake, time_):
    for n in range(50):
        fake.repos[f"o/r{n}"] = Repository({"skills/a/SKILL.md": b"%d" % n})
    names = [f"o/r{n}/skills/a" for n in range(50)]
    event = threading.Event()
    client = github(read_s=1.0)
    fake.fail(*[slow(event)] * 99)
    try:
        found = client.check(held("0" * 40, *names))
    finally:
        event.set()

    assert set(states(found)) == {"unknown"}
    assert len(fake.log) <= MAX_CONNECTIONS + SILENCES
    assert "did not answer in time, and is left alone for now" in found[-1].message
    fake.failures.clear()
    fake.forget()
    assert set(states(client.check(held("0" * 40, *names)))) == {"unknown"}
    assert len(fake.log) == 0
    # Another run asks, and so does this one in the end.
    assert set(states(github().check(held("0" * 40, names[0])))) == {"changed"}
    time_.now += SILENT_S
    assert set(states(client.check(held("0" * 40, *names)))) == {"changed"}


def test_one_answer_ends_a_silence(github, fake, repo, time_):
    client = github()
    for _ in range(4):
        fake.fail(*[dripping(lambda: time_.sleep(9))] * (SILENCES - 1))
        for state in [*["unknown"] * (SILENCES - 1), "current"]:
            assert states(client.check(held(repo.refs["main"], "octo/tools/x"))) == [state]


def test_a_name_that_is_looked_up_in_vain_for_long_is_a_silence(github, fake, repo, time_):
    asked = []

    def resolve(host, port):
        asked.append(host)
        time_.now += 20
        raise OSError

    found = github(resolve=resolve).check(
        held("0" * 40, *(f"octo/r{n}/skills/pdf" for n in range(20)))
    )

    assert set(states(found)) == {"unknown"}
    assert len(asked) <= MAX_CONNECTIONS + SILENCES


def test_a_server_that_is_not_there_is_trouble(github, fake, repo):
    fake.close()

    [found] = github().check(held("0" * 40, "octo/tools/skills/pdf"))

    assert found.message == "GitHub cannot be reached, after 5 attempts"


def test_a_renamed_repository_is_followed_and_told(github, fake, repo, staging):
    fake.renamed["octo/old"] = "7"
    fake.by_id["7"] = "octo/tools"
    client = github()

    fetched = client.fetch("octo/old/skills/pdf", staging)
    [found] = client.check(held(fetched.resolved_sha, "octo/old/skills/pdf"))

    assert "/octo/tools/tree/" in fetched.upstream
    assert (found.state, found.renamed_to) == ("current", "octo/tools")
    assert found.message == "octo/old is called octo/tools now"


def test_every_attempt_is_observed(github, fake, repo, staging):
    seen = []
    client = github(observe=seen.append)
    fake.fail(status(500), dropped, status(429, Retry_After="1"))
    client.fetch("octo/tools/commands/tidy.md", staging)
    client.check(held(repo.refs["main"], "octo/tools/commands/tidy.md", "octo/none/x"))
    fake.fail(status(401))
    client.check(held("0" * 40, "octo/tools/x"))

    assert seen[:6] == ["failed", "failed", "rate_limited", "ok", "ok", "ok"]
    assert sorted(seen[6:]) == ["not_found", "not_modified", "refused"]
    del seen[:]
    fake.fail(redirect("http://evil.example/"), status(404, "x" * 100_000))
    client.check(held("0" * 40, "octo/tools/x"))
    client.check(held("0" * 40, "octo/tools/x"))
    assert seen == ["refused", "not_found"]


# --- the token -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "to",
    [
        "http://{other}/x",
        "https://{host}/x",
        "http://localhost:1/x",
        "http://user@{host}/x",
        "http://{host}@{other}/x",
        "http://{host}\\@{other}/x",
        "http://[::1]:1/x",
        "http://[::ffff:127.0.0.1]:1/x",
        "http://2130706433:1/x",
        "http://0177.0.0.1:1/x",
        "http://169.254.169.254/latest/meta-data",
        "//{other}/x",
        "https://api.github.com.evil.example/x",
        "https://api.github.com/x",
        "file:///etc/passwd",
        "",
        "http://[",
    ],
)
def test_nothing_is_sent_to_a_foreign_host(github, fake, repo, staging, to):
    other = FakeGitHub()
    try:
        for number in (301, 302, 307, 308):
            fake.fail(redirect(to.format(host=fake.host, other=other.host), number))
            fake.fail(*[redirect("http://evil.example/")] * 3 if not to else [])
            with pytest.raises(UpstreamError) as caught:
                github().fetch("octo/tools/skills/pdf", staging)
            assert caught.value.reason == "refused"
            fake.failures.clear()
        assert other.log == []
    finally:
        other.close()


def test_redirects_end_after_three(github, fake, repo, staging):
    fake.fail(*[redirect(f"{fake.url}/x")] * 9)

    with pytest.raises(UpstreamError, match="more than 3 times"):
        github().fetch("octo/tools/skills/pdf", staging)
    assert len(fake.log) == 4


def test_the_archive_of_a_private_repository_comes_with_the_token(github, fake, staging):
    fake.repos["o/p"] = Repository({f"s/SKILL.md{n or ''}": b"%d" % n for n in range(30)})
    fake.repos["o/p"].is_private = True

    github().fetch("o/p/s", staging)

    assert ("archive", f"Bearer {TOKEN}") in [(kind, token) for kind, _, token in fake.log]
    with pytest.raises(UpstreamError, match="private"):
        github(token=None).fetch("o/p/s", staging)
    with pytest.raises(UpstreamError, match="not one of its own"):
        github(archive_hosts=[]).fetch("o/p/s", staging.parent)


def test_the_token_is_shown_nowhere(github, fake, repo, staging, tmp_path, caplog):
    caplog.set_level("DEBUG")
    client = github()
    client.fetch("octo/tools/skills/pdf", staging)
    fake.fail(status(401, f"Bad credentials {TOKEN}"))
    [found] = client.check(held("0" * 40, "octo/tools/x"))

    kept = b"".join(file.read_bytes() for file in (tmp_path / "state").iterdir())
    assert TOKEN not in f"{client!r} {client.client!r} {found} {caplog.text}"
    assert TOKEN.encode() not in kept
    with pytest.raises(ConfigurationError) as caught:
        github("sec\nret")
    assert "sec" not in str(caught.value).replace("second", "")


# --- hostile repositories ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"s/../../out": b"x"}, "leads out"),
        ({"s//etc/x": b"x"}, "not relative"),
        ({"s/C:/x": b"x"}, "not relative"),
        ({"s/a/C:x": b"x"}, "cannot hold"),
        ({"s/a\\b": b"x"}, "cannot hold"),
        ({"s/a\x00b": b"x"}, "cannot hold"),
        ({"s/a\nb": b"x"}, "cannot hold"),
        ({"s/a\u202eb": b"x"}, "cannot hold"),
        ({"s/aux.txt": b"x"}, "device"),
        ({"s/.git/config": b"x"}, "folder of git"),
        ({"s/.GIT/hooks/x": b"x"}, "folder of git"),
        ({"s/link": ("120000", b"../../out")}, "is a link"),
        ({"s/sub": ("160000", b"")}, "submodule"),
        ({"s/odd": ("777777", b"")}, "neither"),
        ({"s/a.md": b"x", "s/A.md": b"y"}, "case alone"),
        ({"s/a/x": b"x", "s/A/y": b"y"}, "case alone"),
        ({"s/caf\u00e9": b"x", "s/cafe\u0301": b"y"}, "case alone"),
        ({f"s/{n}": b"x" for n in range(60)}, "over 50 files"),
        ({"s/" + "d/" * 12 + "x": b"x"}, "folders deep"),
        ({"s/big": b"x" * 2001}, "over 2000 bytes"),
        ({f"s/{n}": b"x" * 1900 for n in range(6)}, "over 10000 bytes"),
        ({"s/" + "x" * 300: b"x"}, "bytes"),
    ],
)
def test_a_hostile_tree_is_refused(github, fake, staging, tmp_path, files, message):
    fake.repos["o/evil"] = Repository({"s/SKILL.md": SKILL, **files})
    limits = Limits(files=50, bytes=10_000, file_bytes=2000, depth=10)

    with pytest.raises(RefusedError, match=message):
        github(limits=limits).fetch("o/evil/s", staging)

    assert list(staging.iterdir()) == []
    assert sorted(one.name for one in tmp_path.iterdir()) == ["staging", "state"]


def hostile(name, kind=tarfile.REGTYPE, to="", size=1):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, to, size if kind == tarfile.REGTYPE else 0
    return info, b"x" * info.size


def test_a_hostile_archive_writes_nothing_but_what_was_listed(github, fake, staging, tmp_path):
    repo = fake.repos["o/evil"] = Repository(
        {"s/SKILL.md": SKILL, **{f"s/{n}": b"%d" % n for n in range(30)}}
    )
    # Altered, and left out, as .gitattributes can make it: these are asked for one by one.
    repo.altered = {"s/3": b"evil", "s/4": None}
    repo.hostile = [
        hostile("../out"),
        hostile("/tmp/out-of-the-tests"),
        hostile("r/../../out"),
        hostile("r/s/link", tarfile.SYMTYPE, "/etc/passwd"),
        hostile("r/s/hard", tarfile.LNKTYPE, "../out"),
        hostile("r/s/fifo", tarfile.FIFOTYPE),
        hostile("r/s/not-listed"),
    ]

    fetched = github().fetch("o/evil/s", staging)

    assert sorted(one.name for one in fetched.path.iterdir()) == sorted(
        ["SKILL.md", *map(str, range(30))]
    )
    assert (fetched.path / "3").read_bytes() == b"3"
    assert fake.calls["blob"] == 2
    assert sorted(one.name for one in tmp_path.iterdir()) == ["staging", "state"]


def test_an_archive_that_is_a_bomb_or_broken_is_refused(github, fake, staging):
    repo = fake.repos["o/evil"] = Repository({f"s/SKILL.md{n or ''}": b"%d" % n for n in range(30)})
    repo.hostile = [hostile("r/bomb", size=3_000_000)]

    with pytest.raises(RefusedError, match="when it is unpacked"):
        github(limits=Limits(archive_bytes=1_000_000)).fetch("o/evil/s", staging)

    def broken(handler):
        handler.send(200, io.BytesIO(b"\x1f\x8b" + b"x" * 100).getvalue())
        return True

    fake.fail(*[lambda handler: False] * 3, broken)
    with pytest.raises(UpstreamError, match="cannot be read"):
        github().fetch("o/evil/s", staging.parent / "state")


def test_an_answer_without_end_is_cut(github, fake, repo, staging):
    def endless(handler):
        handler.send(200, b"x" * 200)
        return True

    fake.fail(lambda handler: False, lambda handler: False, endless)
    with pytest.raises(UpstreamError, match="has over"):
        github().fetch("octo/tools/commands/tidy.md", staging)


def test_a_file_that_is_another_one_is_not_taken(github, fake, repo, staging):
    def other(handler):
        handler.send(200, b"Tidy UP")
        return True

    fake.fail(lambda handler: False, lambda handler: False, other)
    with pytest.raises(UpstreamError, match="not the one asked for"):
        github().fetch("octo/tools/commands/tidy.md", staging)


def test_without_urllib3_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "urllib3", None)

    with pytest.raises(ConfigurationError, match=r"install 'flask-artifact-cache\[github\]'"):
        GitHub()


def test_an_archive_that_is_too_slow_is_done_without(github, fake, staging, time_):
    fake.repos["o/r"] = Repository(
        {f"s/SKILL.md{number or ''}": b"%d" % number for number in range(30)}
    )
    fake.fail(*[lambda _: False] * 3, dripping(lambda: time_.sleep(9)))

    fetched = github().fetch("o/r/s", staging)

    assert len(list(fetched.path.iterdir())) == 30
    assert fake.calls["blob"] == 30


def test_a_folder_that_cannot_be_listed_says_nothing_of_the_others(github, fake):
    files = {f"data/s{number}/SKILL.md": b"%d" % number for number in range(50)}
    repo = fake.repos["o/huge"] = Repository({**files, "commands/tidy.md": b"Tidy"})
    old = repo.refs["main"]
    repo.commit({**files, "commands/tidy.md": b"Tidier"})
    fake.truncate, fake.truncate_folder = 20, 30
    held = [Held(path, parse(f"o/huge/{path}"), old) for path in ("data/s1", "commands/tidy.md")]

    refused, moved = github().check(held)

    assert (refused.state, moved.state) == ("unknown", "changed")
    assert "a folder is too large for GitHub to list" in refused.message


def test_artifacts_of_many_commits_cost_nothing_while_nothing_is_new(github, fake):
    files = {}
    repo = fake.repos["o/many"] = Repository({"README.md": b"Many."})
    found = []
    for number in range(100):
        files[f"skills/s{number}/SKILL.md"] = b"%d" % number
        source = f"o/many/skills/s{number}"
        found += held(repo.commit(dict(files)), source)

    assert set(states(github().check(found))) == {"current"}
    for _ in range(2):
        fake.forget()
        assert set(states(github().check(found))) == {"current"}
        assert (fake.calls, fake.used) == ({"304": 1}, 0)
