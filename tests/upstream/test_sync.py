"""sync asks GitHub: what has changed comes, what was edited stays, and trouble is named."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import time
import types
from contextlib import closing
from datetime import timedelta

import pytest

from flask_artifact_cache import ArtifactManager, signals
from flask_artifact_cache.cli import output
from flask_artifact_cache.upstream import following
from flask_artifact_cache.upstream.client import MAX_CONNECTIONS, SILENCES, WHOLE_S
from flask_artifact_cache.upstream.github import GitHub
from flask_artifact_cache.upstream.validators import FILE

from .fakegithub import TOKEN, Repository, WatchedClock, dripping, redirect, status

API = "/api/v1/user-collections"
# A hundred in each repository; 'tox -e proof' has 5,000.
ARTIFACTS = int(os.environ.get("ARTIFACT_CACHE_TEST_UPSTREAM", "500"))
REPOSITORIES = ARTIFACTS // 100


def skill(name, description="Reads."):
    return f"---\nname: {name}\ndescription: {description}\n---\nText.\n".encode()


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def app(make_app, sqlite_url, fake, root, tmp_path):
    return make_app(
        sqlite_url,
        {"work": root},
        ARTIFACT_CACHE_GITHUB_API_URL=fake.url,
        ARTIFACT_CACHE_GITHUB_TOKEN=TOKEN,
        ARTIFACT_CACHE_GITHUB_STATE_FOLDER=tmp_path / "state",
    )


@pytest.fixture
def run(app):
    def run(*arguments):
        result = app.test_cli_runner().invoke(args=["artifact-cache", *map(str, arguments)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        assert TOKEN not in result.output
        return result

    return run


@pytest.fixture
def repos(fake, run):
    """Two repositories, of which three artifacts were added."""
    fake.repos["octo/tools"] = Repository(
        {"skills/pdf/SKILL.md": skill("pdf"), "skills/csv/SKILL.md": skill("csv")}
    )
    fake.repos["octo/more"] = Repository({"commands/tidy.md": b"Tidy up.\n"})
    for source in ("octo/tools/skills/pdf", "octo/tools/skills/csv", "octo/more/commands/tidy"):
        assert run("add", source).exit_code == 0
    fake.forget()
    return fake.repos


def document(run, *arguments):
    [found] = json.loads(run("sync", "--json", *arguments).stdout)["collections"]
    return found


def drift_of(run, name):
    """What the cache names of a skill: as the API and the page do."""
    return json.loads(run("show", f"skill:{name}", "--json").stdout)["details"]["drift"]


def kinds(found):
    return {(one["name"], one["kind"]) for one in found["drift"]}


def held(root, fake, skills):
    """Write a collection that holds skills of repositories as they are at their heads."""
    head = '[collection]\nname = "work"\nversion = "1.0.0"\n'
    head += 'created = "2026-01-01T00:00:00"\nupdated = "2026-01-01T00:00:00"\n'
    entries, locks = [head], ['[lock]\nversion = "1.0.0"\n']
    for repository, names in skills.items():
        sha = fake.repos[repository].refs["main"]
        for name in names:
            (root / "skills" / name).mkdir(parents=True)
            (root / "skills" / name / "SKILL.md").write_bytes(skill(name))
            link = f"{fake.url}/{repository}/tree/{sha}/skills/{name}"
            entries.append(
                f'[[artifacts]]\nname = "{name}"\ntype = "skill"\npath = "skills/{name}"\n'
                f'origin = "github"\nadded = "2026-01-01T00:00:00"\nupstream = "{link}"\n'
                f'resolved_sha = "{sha}"\n'
            )
            hash_ = hashlib.sha256(b"SKILL.md" + skill(name)).hexdigest()
            locks.append(
                f'[lock.entries."{name}::skill"]\nfetched = "2026-01-01T00:00:00"\n'
                f'content_hash = "{hash_}"\n'
            )
    (root / "collection.toml").write_text("".join(entries))
    (root / "collection.lock").write_text("".join(locks))


# --- what has changed -----------------------------------------------------------------------------


def test_what_has_changed_comes_and_the_cache_is_told_once(run, app, repos, root, fake):
    sha = repos["octo/tools"].commit(
        {"skills/pdf/SKILL.md": skill("pdf", "New."), "skills/csv/SKILL.md": skill("csv", "New.")}
    )

    done = run("sync")

    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == (
        "work: updated skill:pdf (skills/pdf/SKILL.md)\n"
        "work: updated skill:csv (skills/csv/SKILL.md)\n"
        "cache: 2 updated\n"
    )
    # One question for each repository, one listing, the two files that are new.
    assert fake.calls == {"head": 1, "304": 1, "tree": 1, "blob": 2}
    assert b"New." in (root / "skills/pdf/SKILL.md").read_bytes()
    shown = json.loads(run("show", "skill:pdf", "--json").stdout)
    assert (shown["description"], shown["resolved_sha"]) == ("New.", sha)
    assert (shown["version_spec"], shown["details"]["drift"]) == ("latest", [])
    assert f"/octo/tools/tree/{sha}/skills/pdf" in shown["source"]
    runs = json.loads(run("runs", "--json").stdout)["refreshes"]
    assert len(runs) == 4  # three were added
    again = run("sync")
    assert (again.exit_code, again.stdout) == (
        0,
        "work: manifest, lock and files agree, also with GitHub\n",
    )


def test_nobody_is_told_but_by_the_cache(run, app, repos):
    repos["octo/tools"].commit(
        {"skills/pdf/SKILL.md": skill("pdf", "New."), "skills/csv/SKILL.md": skill("csv", "New.")}
    )
    senders = []

    def hear(sender, **about):
        senders.append((type(sender).__name__, about["artifact_id"]))

    with signals.artifact_updated.connected_to(hear):
        run("sync")

    assert sorted(senders) == [
        ("ArtifactCacheService", "skill:csv"),
        ("ArtifactCacheService", "skill:pdf"),
    ]


def test_what_did_not_change_in_a_repository_that_has_is_left_alone(run, repos, root, fake):
    repos["octo/tools"].commit(
        {"skills/pdf/SKILL.md": skill("pdf", "New."), "skills/csv/SKILL.md": skill("csv")}
    )
    before = (root / "skills/csv/SKILL.md").stat()

    found = document(run)

    assert [one["artifact_id"] for one in found["changes"]] == ["skill:pdf"]
    assert (found["drift"], found["upstream"], found["error"]) == ([], [], None)
    assert (root / "skills/csv/SKILL.md").stat().st_mtime_ns == before.st_mtime_ns
    assert fake.calls["blob"] == 1


def test_a_branch_and_a_tag_are_followed_and_a_commit_never(run, fake, root):
    repo = fake.repos["o/r"] = Repository({f"skills/{n}/SKILL.md": skill(n) for n in "abc"})
    first = repo.refs["main"]
    repo.refs |= {"v1.0": first, "feature/x": first}
    for source in ("a@v1.0", f"b@{first}", "c@feature/x"):
        assert run("add", f"o/r/skills/{source}").exit_code == 0
    new = {f"skills/{n}/SKILL.md": skill(n, "New.") for n in "abc"}

    repo.commit(new)
    assert document(run)["changes"] == []
    second = repo.commit(new, "feature/x")
    assert [one["artifact_id"] for one in document(run)["changes"]] == ["skill:c"]
    repo.refs["v1.0"] = second
    assert [one["artifact_id"] for one in document(run)["changes"]] == ["skill:a"]

    lock = (root / "collection.lock").read_text()
    assert (lock.count(first), lock.count(second)) == (2, 4)
    assert 'resolved_version = "v1.0"' in lock
    fake.forget()
    assert run("sync").exit_code == 0
    assert fake.calls == {"304": 2}  # the commit is not even asked for


@pytest.mark.parametrize("count", [1, 100])
def test_many_artifacts_of_a_repository_are_one_question(run, fake, root, count):
    names = [f"s{n}" for n in range(count)]
    repo = fake.repos["o/many"] = Repository({f"skills/{n}/SKILL.md": skill(n) for n in names})
    held(root, fake, {"o/many": names})

    run("sync")
    assert fake.calls == {"head": 1}
    fake.forget()
    assert run("sync").exit_code == 0
    assert (fake.calls, fake.used) == ({"304": 1}, 0)
    repo.commit({f"skills/{n}/SKILL.md": skill(n) for n in names} | {"README.md": b"New"})
    fake.forget()

    assert run("sync").exit_code == 0

    # Nothing was known of the first commit, so that is listed, too: what is the same is current.
    assert fake.calls == {"head": 1, "tree": 2}
    fake.forget()
    run("sync")
    assert (fake.calls, fake.used) == ({"304": 1}, 0)


def test_many_artifacts_of_many_repositories_are_a_question_for_each_repository(run, fake, root):
    names = {
        f"o/r{n}": [f"s{n}-{m}" for m in range(ARTIFACTS // REPOSITORIES)]
        for n in range(REPOSITORIES)
    }
    files = {repo: {f"skills/{n}/SKILL.md": skill(n) for n in names[repo]} for repo in names}
    fake.repos |= {repo: Repository(files[repo]) for repo in names}
    fake.archive_to = fake.url
    held(root, fake, names)

    def synced(points, changed=0, **calls):
        """A sync, which asks for no more than these, of which the limit counts so many."""
        fake.forget()
        done = run("sync")
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout.count("updated skill:") == changed
        assert dict(fake.calls) == {kind.strip("_"): n for kind, n in calls.items() if n}
        assert fake.used == points

    count = REPOSITORIES
    synced(count, head=count)
    synced(0, _304=count)
    # A skill of one repository: a listing of its two commits, and the one file.
    for repo in ("o/r0", "o/r1"):
        files[repo] |= {"README.md": b"New", f"skills/{names[repo][0]}/SKILL.md": b"---\n---\nNew."}
        fake.repos[repo].commit(files[repo])
    synced(8, 2, head=2, _304=count - 2, tree=4, blob=2)
    # Every repository, but nothing that is held; what was of those two is known.
    for repo in names:
        fake.repos[repo].commit(files[repo] | {"README.md": b"Newer"})
    synced(3 * count - 2, head=count, tree=2 * count - 2)
    synced(0, _304=count)
    # Everything: one listing and one archive for each repository.
    for repo in names:
        fake.repos[repo].commit({path: data + b"More." for path, data in files[repo].items()})
    synced(3 * count, ARTIFACTS, head=count, tree=count, tarball=count, archive=count)
    synced(0, _304=count)


def test_200_repositories_with_nothing_new_cost_nothing(run, fake, root):
    lines = ['[collection]\nname = "work"\nversion = "1.0.0"\n']
    for n in range(200):
        repo = fake.repos[f"o/r{n}"] = Repository({"commands/c.md": b"%d" % n})
        (root / "commands").mkdir(exist_ok=True)
        (root / f"commands/c{n}.md").write_bytes(b"%d" % n)
        link = f"{fake.url}/o/r{n}/tree/{repo.refs['main']}/commands/c.md"
        lines.append(
            f'[[artifacts]]\nname = "c{n}"\ntype = "command"\npath = "commands/c{n}.md"\n'
            f'origin = "github"\nupstream = "{link}"\nresolved_sha = "{repo.refs["main"]}"\n'
        )
    (root / "collection.toml").write_text("".join(lines))
    assert run("sync").exit_code == 0
    fake.forget()

    # Each command makes a client of its own, which has but the state folder.
    for arguments in (("sync",), ("sync", "--check")):
        done = run(*arguments)
        assert (done.exit_code, done.stderr) == (0, "")

    assert fake.calls == {"304": 400}
    assert fake.used == 0
    assert fake.most_busy <= 4


def test_a_terminal_sees_how_far_it_is(run, repos, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def bars(*arguments):
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(output, "sys", types.SimpleNamespace(stderr=terminal))
            run("sync", *arguments)
        found = re.findall(r"(work[\w: ]*?) +\[#+\] +100%", terminal.getvalue())
        return list(dict.fromkeys(found))

    assert bars() == ["work", "work: asking GitHub"]
    repos["octo/tools"].commit({"skills/pdf/SKILL.md": skill("pdf", "New.")})
    assert bars("--json") == []
    repos["octo/tools"].commit({"skills/pdf/SKILL.md": skill("pdf", "Newer.")})
    assert bars() == ["work", "work: asking GitHub", "work: fetching"]


# --- what was changed here ------------------------------------------------------------------------


def test_what_was_edited_here_is_named_and_never_overwritten_unasked(run, repos, root):
    edited = root / "skills/pdf/SKILL.md"
    edited.write_bytes(skill("pdf", "Mine."))
    shutil.rmtree(root / "skills/csv")
    repos["octo/tools"].commit(
        {"skills/pdf/SKILL.md": skill("pdf", "New."), "skills/csv/SKILL.md": skill("csv", "New.")}
    )

    done = run("sync")

    assert done.exit_code == 1
    assert done.stderr == (
        "work: missing_on_disk skill:csv skills/csv\n"
        "work: modified skill:pdf skills/pdf/SKILL.md\n"
        "work: upstream_ahead skill:pdf skills/pdf\n"
        "work: upstream_ahead skill:csv skills/csv\n"
    )
    assert edited.read_bytes() == skill("pdf", "Mine.")
    assert not (root / "skills/csv").exists()
    assert drift_of(run, "pdf") == ["modified", "upstream_ahead"]
    lock = (root / "collection.lock").read_text()
    assert run("sync").exit_code == 1
    assert (root / "collection.lock").read_text() == lock

    assert run("sync", "--replace").exit_code == 0
    assert drift_of(run, "pdf") == drift_of(run, "csv") == []
    assert "upstream_at" not in (root / "collection.lock").read_text()

    assert edited.read_bytes() == skill("pdf", "New.")
    assert (root / "skills/csv/SKILL.md").is_file()
    assert run("sync", "--check").exit_code == 0


def test_a_lock_that_is_lost_makes_no_edit_look_like_ours(run, repos, root):
    edited = root / "skills/pdf/SKILL.md"
    edited.write_bytes(skill("pdf", "Mine."))
    (root / "collection.lock").unlink()

    found = document(run)

    # What is as GitHub has it is known again.
    assert {one["artifact_id"] for one in found["changes"]} == {"skill:csv", "command:tidy"}
    assert kinds(found) == {("pdf", "not_in_lock")}
    repos["octo/tools"].commit(
        {"skills/pdf/SKILL.md": skill("pdf", "New."), "skills/csv/SKILL.md": skill("csv")}
    )
    assert kinds(document(run)) == {("pdf", "not_in_lock"), ("pdf", "upstream_ahead")}
    assert edited.read_bytes() == skill("pdf", "Mine.")

    assert run("sync", "--replace").exit_code == 0
    assert edited.read_bytes() == skill("pdf", "New.")
    assert drift_of(run, "pdf") == []


def test_replace_restores_what_upstream_has_not_changed(run, repos, root):
    edited = root / "skills/pdf/SKILL.md"
    edited.write_bytes(skill("pdf", "Mine."))
    assert run("sync").exit_code == 1

    done = run("sync", "--replace")

    assert (done.exit_code, edited.read_bytes()) == (0, skill("pdf"))
    assert run("sync", "--replace", "--offline").exit_code == 2
    assert run("sync", "--replace", "--check").exit_code == 2


def test_what_is_gone_upstream_stays_and_is_named(run, repos, root):
    repos["octo/tools"].commit({"skills/csv/SKILL.md": skill("csv")})

    found = document(run)

    assert kinds(found) == {("pdf", "upstream_gone")}
    assert (root / "skills/pdf/SKILL.md").is_file()
    assert drift_of(run, "pdf") == ["upstream_gone"]
    assert drift_of(run, "csv") == []

    repos["octo/tools"].commit(
        {"skills/csv/SKILL.md": skill("csv"), "skills/pdf/SKILL.md": skill("pdf")}
    )
    assert run("sync").exit_code == 0
    assert drift_of(run, "pdf") == []
    assert "skills/pdf" in (root / "collection.toml").read_text()


# --- checking -------------------------------------------------------------------------------------


def test_a_check_asks_and_changes_nothing(run, repos, root, fake):
    assert run("sync", "--check").exit_code == 0
    repos["octo/tools"].commit({"skills/pdf/SKILL.md": skill("pdf", "New.")})
    before = {one: one.read_bytes() for one in root.rglob("*") if one.is_file()}

    done = run("sync", "--check")

    assert done.exit_code == 1
    assert done.stderr == (
        "work: upstream_ahead skill:pdf skills/pdf\nwork: upstream_gone skill:csv skills/csv\n"
    )
    assert {one: one.read_bytes() for one in root.rglob("*") if one.is_file()} == before
    fake.forget()
    offline = run("sync", "--check", "--offline")
    assert (offline.exit_code, offline.stdout) == (0, "work: manifest, lock and files agree\n")
    assert run("sync", "--offline").exit_code == 0
    assert fake.log == []


# --- trouble --------------------------------------------------------------------------------------


def test_one_repository_that_fails_does_not_fail_the_others(run, repos, root):
    repos["octo/tools"].commit({"skills/pdf/SKILL.md": skill("pdf", "New.")})
    del repos["octo/more"]

    done = run("sync")

    assert done.exit_code == 1
    assert "updated skill:pdf" in done.stdout
    assert "gone, private, or the token may not see it (command:tidy)" in done.stderr
    assert (root / "commands/tidy.md").is_file()
    [unknown] = document(run)["upstream"]
    assert (unknown["artifact_id"], unknown["state"]) == ("command:tidy", "unknown")


def test_one_artifact_that_is_refused_does_not_fail_the_others_of_its_repository(run, repos, root):
    repos["octo/tools"].commit(
        {
            "skills/pdf/SKILL.md": skill("pdf", "New."),
            "skills/csv/SKILL.md": skill("csv", "New."),
            "skills/csv/link": ("120000", b"../../../etc/passwd"),
        }
    )

    done = run("sync")

    assert done.exit_code == 1
    assert "updated skill:pdf" in done.stdout
    assert "is a link, which is not followed (skill:csv)" in done.stderr
    assert "upstream_ahead skill:csv" in done.stderr
    assert (root / "skills/csv/SKILL.md").read_bytes() == skill("csv")


def test_a_disk_that_fails_is_named(repos, fake, root, tmp_path):
    repos["octo/tools"].commit({"skills/pdf/SKILL.md": skill("pdf", "New.")})
    entries = ArtifactManager(root).compare().entries
    with closing(GitHub(fake.url, TOKEN, tmp_path / "state")) as github:
        asked = following.ask(github, entries)

        def put(fetched, asked):
            raise OSError(errno.ENOSPC, "No space left on device")

        brought = following.bring(github, asked, root, put)

    assert brought.changes == ()
    assert {one.id: one.standing.message for one in brought.asked if one.standing.message} == {
        "skill:pdf": "No space left on device"
    }


def test_one_artifact_that_is_refused_costs_the_others_no_request(run, fake, root):
    names = [f"s{n}" for n in range(30)]
    repo = fake.repos["o/many"] = Repository({f"skills/{n}/SKILL.md": skill(n) for n in names})
    for name in names:
        assert run("add", f"o/many/skills/{name}").exit_code == 0
    new = {f"skills/{n}/SKILL.md": skill(n, "New.") for n in names}
    repo.commit({**new, "skills/s7/link": ("120000", b"../../../etc/passwd")})
    fake.archive_to = fake.url
    fake.forget()

    done = run("sync")

    assert done.exit_code == 1
    assert done.stdout.count("updated skill:") == 29
    assert "is a link, which is not followed (skill:s7)" in done.stderr
    assert (root / "skills/s7/SKILL.md").read_bytes() == skill("s7")
    assert fake.calls == {"head": 1, "tree": 1, "tarball": 1, "archive": 1}


@pytest.fixture
def limited():
    """Makes an answer that sets a limit of ten minutes, by the real clock."""
    until = int(time.time()) + 600

    def failure(handler):
        handler.send(
            403,
            {"message": "API rate limit exceeded"},
            [
                ("X-RateLimit-Remaining", "0"),
                ("X-RateLimit-Reset", str(until)),
                ("Date", handler.date_time_string()),
            ],
        )
        return True

    return failure


def test_a_long_limit_is_deferred_shown_and_asked_once(run, app, repos, root, fake, limited):
    fake.fail(limited)

    found = document(run)

    assert {one["state"] for one in found["upstream"]} <= {"unknown"}
    assert found["upstream"][0]["until"].endswith("Z")
    calls = len(fake.log)
    assert calls <= 2  # the other repository was asked at the same moment
    done = run("sync")
    assert done.exit_code == 1
    assert "GitHub's limit is used up until " in done.stderr
    assert " UTC; sync again then for the rest (skill:pdf and 2 more)\n" in done.stderr
    assert len(fake.log) == calls
    # Nor does another command ask, and all tell until when.
    assert run("add", "octo/more/commands/tidy", "--replace").exit_code == 1
    assert len(fake.log) == calls
    assert "upstream limited until" in run("status").stdout
    assert "GitHub lets us ask no more" in app.test_client().get("/collection/work").text
    assert sorted(one.name for one in (root / "skills").iterdir()) == ["csv", "pdf"]


@pytest.fixture
def watched(clock):
    return WatchedClock(clock)


@pytest.fixture
def timed(make_app, sqlite_url, root, fake, tmp_path, clock, watched):
    """Runs a command in an app of which a test moves the clock."""
    app = make_app(
        sqlite_url,
        {"work": root},
        clock=clock,
        monotonic=watched,
        ARTIFACT_CACHE_GITHUB_API_URL=fake.url,
        ARTIFACT_CACHE_GITHUB_TOKEN=TOKEN,
        ARTIFACT_CACHE_GITHUB_STATE_FOLDER=tmp_path / "state",
    )
    return lambda *arguments: app.test_cli_runner().invoke(args=["artifact-cache", *arguments])


def test_an_answer_that_drips_ends_in_time_and_is_named(timed, repos, root, fake, clock, watched):
    repos["octo/tools"].commit({"skills/pdf/SKILL.md": skill("pdf", "New.")})
    repos["octo/more"].commit({"commands/tidy.md": b"Tidy more.\n"})
    drip = dripping(watched.tick)
    fake.fail(*[lambda one: "/octo/tools/git/blobs/" in one.path and drip(one)] * 20)
    began = clock()

    done = timed("sync")

    assert done.exit_code == 1
    assert "GitHub's answer takes too long: /repos/octo/tools/git/blobs/" in done.stderr
    assert "(skill:pdf)" in done.stderr
    assert (root / "skills/pdf/SKILL.md").read_bytes() == skill("pdf")
    # What comes from elsewhere came, and none was asked for twice.
    assert "updated command:tidy" in done.stdout
    assert sum("/octo/tools/git/blobs/" in path for _, path, _ in fake.log) == 1
    assert clock() - began >= timedelta(seconds=WHOLE_S)


def test_a_github_that_drips_ends_no_run_late(timed, run, fake, watched):
    for n in range(20):
        fake.repos[f"o/r{n}"] = Repository({f"commands/c{n}.md": b"c"})
        assert run("add", f"o/r{n}/commands/c{n}").exit_code == 0
    fake.fail(*[dripping(watched.tick)] * 50)
    fake.forget()

    done = timed("sync")

    assert done.exit_code == 1
    assert re.search("takes too long: /repos/.+/commits/HEAD", done.stderr)
    assert re.search(r"is left alone for now \(.* and 1[0-9] more\)", done.stderr)
    assert len(fake.log) <= MAX_CONNECTIONS + SILENCES


def test_a_limit_while_fetching_leaves_the_rest_for_later(run, repos, root, fake, limited):
    repos["octo/tools"].commit(
        {"skills/pdf/SKILL.md": skill("pdf", "New.")} | {"skills/csv/SKILL.md": skill("csv")}
    )
    heads_and_tree = [lambda handler: False] * 3
    fake.fail(*heads_and_tree, limited)

    done = run("sync")

    assert done.exit_code == 1
    assert "upstream_ahead skill:pdf" in done.stderr
    assert "GitHub's limit is used up until" in done.stderr
    assert (root / "skills/pdf/SKILL.md").read_bytes() == skill("pdf")


def test_a_state_file_that_is_damaged_is_a_warning(run, repos, fake, tmp_path, caplog):
    (tmp_path / "state" / FILE).write_bytes(b"no database, but long enough to be one " * 9)

    done = run("sync")

    assert done.exit_code == 0
    assert [one.levelname for one in caplog.records] == ["WARNING"]
    assert fake.calls == {"head": 2}


def test_a_manifest_that_points_elsewhere_is_not_followed(run, repos, root, fake):
    manifest = root / "collection.toml"
    text = manifest.read_text()
    for link in ("https://evil.example/octo/tools/tree/main/skills/pdf", "x", "file:///etc"):
        sha = repos["octo/tools"].refs["main"]
        good = f"{fake.url}/octo/tools/tree/{sha}/skills/pdf"
        manifest.write_text(text.replace(good, link))
        (root / "collection.lock").write_text(
            (root / "collection.lock").read_text().replace(good, link)
        )
        fake.forget()

        done = run("sync")

        assert done.exit_code == 1
        assert "does not begin with" in done.stderr
        assert len(fake.log) == 2


def test_a_renamed_repository_is_followed_and_said(run, repos, root, fake):
    fake.repos["octo/new"] = fake.repos.pop("octo/more")
    fake.renamed["octo/more"], fake.by_id["9"] = "9", "octo/new"
    assert "octo/more is called octo/new now (command:tidy)" in run("sync").stderr
    fake.repos["octo/new"].commit({"commands/tidy.md": b"Tidy more.\n"})

    done = run("sync")

    assert (done.exit_code, "updated command:tidy" in done.stdout) == (0, True)
    assert (root / "commands/tidy.md").read_bytes() == b"Tidy more.\n"
    assert "/octo/new/tree/" in (root / "collection.toml").read_text()


def test_without_urllib3_the_rest_is_done(run, repos, root, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "urllib3", None)

    done = run("sync")

    assert done.exit_code == 1
    assert "install 'flask-artifact-cache[github]' (skill:pdf and 2 more)" in done.stderr
    assert run("sync", "--offline").exit_code == 0


def test_one_collection_does_not_fail_another(make_app, sqlite_url, repos, root, tmp_path, fake):
    app = make_app(
        sqlite_url,
        {"gone": tmp_path / "gone", "work": root},
        ARTIFACT_CACHE_GITHUB_API_URL=fake.url,
        ARTIFACT_CACHE_GITHUB_STATE_FOLDER=tmp_path / "other state",
    )
    repos["octo/tools"].commit({"skills/pdf/SKILL.md": skill("pdf", "New.")})

    done = app.test_cli_runner().invoke(args=["artifact-cache", "sync", "--json"])

    assert done.exit_code == 1
    gone, work = json.loads(done.stdout)["collections"]
    assert gone["error"] is not None
    assert [one["artifact_id"] for one in work["changes"]] == ["skill:pdf"]


# --- what is counted ------------------------------------------------------------------------------


def test_every_answer_is_counted(run, app, repos, fake):
    def counted():
        text = app.test_client().get(f"{API}/metrics").text
        return {
            line.split('"')[1]: float(line.split()[-1])
            for line in text.splitlines()
            if line.startswith("artifact_cache_upstream_requests_total{")
        }

    before = counted()
    assert before["ok"] == 8  # of nine: what a repository is at, asked for once more, was the same
    fake.fail(status(500), status(401), redirect("http://evil.example/"))
    run("sync")
    run("sync")
    run("sync")
    fake.fail(status(404))
    run("sync")
    fake.fail(status(429, Retry_After="600"))
    run("sync")

    found = {one: value - before[one] for one, value in counted().items()}

    assert found["rate_limited"] == 1
    assert (found["failed"], found["not_found"], found["refused"]) == (1, 1, 2)
    assert found["not_modified"] >= 4
