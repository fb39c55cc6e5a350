"""Commands are sentences, with exit codes that a script can use."""

from __future__ import annotations

import json
import shutil

import pytest

from flask_artifact_cache import ArtifactManager
from flask_artifact_cache.cli import cli


@pytest.fixture
def run(make_app, sqlite_url, sample):
    app = make_app(sqlite_url, {"work": sample.root})

    def run(*arguments):
        return app.test_cli_runner().invoke(args=["artifact-cache", *arguments])

    return run


def test_populate_says_what_it_did(run):
    first = run("populate")
    assert first.exit_code == 0
    assert first.stdout.startswith(
        "work: 6 created, 0 updated, 0 unchanged, 0 removed, 0 quarantined"
    )

    assert run("populate", "work").stdout.startswith("work: 0 created, 0 updated, 6 unchanged")


def test_populate_as_json(run):
    document = json.loads(run("populate", "--json").stdout)

    [report] = document["reports"]
    assert (report["created"], report["outcome"]) == (6, "succeeded")
    assert document["failures"] == []


def test_a_dry_run_says_what_would_change(run):
    assert "6 would be created" in run("populate", "--dry-run").stdout
    assert "6 would be created" in run("populate", "--dry-run").stdout


def test_a_broken_file_is_named_and_the_exit_code_is_1(run, sample):
    sample.write("skills/bad/SKILL.md", "---\n- a\n- b\n---\n")

    result = run("populate")

    assert result.exit_code == 1
    assert "1 quarantined" in result.stdout
    assert "skills/bad/SKILL.md:2" in result.stderr
    assert "E_NOT_A_MAPPING" in result.stderr


def test_a_missing_root_is_one_sentence(run, sample):
    shutil.rmtree(sample.root)

    result = run("populate")

    assert result.exit_code == 1
    assert result.stderr == f"work: The collection's folder does not exist. ({sample.root})\n"


def test_the_brake_stops_with_3_and_says_the_way_out(make_app, sqlite_url, collection):
    for number in range(50):
        collection.skill(f"skill-{number}")
    runner = make_app(sqlite_url, {"work": collection.root}).test_cli_runner()
    runner.invoke(args=["artifact-cache", "populate"])
    for number in range(20):
        shutil.rmtree(collection.root / f"skills/skill-{number}")

    result = runner.invoke(args=["artifact-cache", "populate", "--json"])
    assert result.exit_code == 3
    [report] = json.loads(result.stdout)["reports"]
    assert report["withheld"] == 20

    confirmed = runner.invoke(
        args=["artifact-cache", "populate", "--confirm", report["refresh_id"]]
    )
    assert confirmed.exit_code == 0
    assert "20 removed" in confirmed.stdout


def test_a_confirmation_finds_its_collection(make_app, sqlite_url, sample, tmp_path):
    collection = type(sample)(tmp_path / "big")
    for number in range(50):
        collection.skill(f"skill-{number}")
    collections = {"big": collection.root, "work": sample.root}
    runner = make_app(sqlite_url, collections).test_cli_runner()
    runner.invoke(args=["artifact-cache", "populate"])
    shutil.rmtree(collection.root / "skills")
    collection.skill("left")

    stopped = runner.invoke(args=["artifact-cache", "populate"])
    assert stopped.exit_code == 3
    assert "work: 0 created, 0 updated, 6 unchanged" in stopped.stdout
    run_id = stopped.stderr.split("the id ")[1].split(".")[0]

    confirmed = runner.invoke(args=["artifact-cache", "populate", "--confirm", run_id])
    assert (confirmed.exit_code, "50 removed" in confirmed.stdout) == (0, True)


def test_names_are_checked_before_anything_is_done(run):
    result = run("populate", "work", "typo")

    assert result.exit_code == 2
    assert "typo" in result.stderr
    assert "0 artifacts" in run("status").stdout


def test_with_several_collections_one_has_to_be_named(make_app, sqlite_url, sample):
    app = make_app(sqlite_url, {"a": sample.root, "b": sample.root})

    result = app.test_cli_runner().invoke(args=["artifact-cache", "list"])

    assert (result.exit_code, result.stderr) == (2, "Error: say which collection: a, b\n")


def test_usage_errors_exit_with_2(run):
    assert run("list").exit_code == 1  # nothing was read yet
    run("populate")
    for arguments in (
        ("populate", "nope"),
        ("populate", "--confirm", "nothing"),
        ("list", "--type", "spaceship"),
        ("list", "--after", "nonsense"),
        ("frobnicate",),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, arguments
        assert "Traceback" not in result.output


def test_list_and_its_pages(run):
    run("populate")

    first = run("list", "--limit", "4")
    cursor = first.stderr.split("--after ")[1].strip()
    second = run("list", "--limit", "4", "--after", cursor)

    assert [line.split()[2] for line in (first.stdout + second.stdout).splitlines()] == [
        "skill:charts", "skill:csv", "skill:pdf", "agent:reviewer", "mcp:search", "command:tidy",
    ]  # fmt: skip
    assert "4 of 6 artifacts" in first.stderr
    assert len(run("list", "--tag", "data", "-q", "draw").stdout.splitlines()) == 1
    assert json.loads(run("list", "--json").stdout)["page_info"]["total_count"] == 6


def test_show_by_id_and_by_uid(run):
    run("populate")
    found = json.loads(run("show", "skill:pdf", "--json").stdout)

    assert found["description"] == "Reads PDF files."
    assert "description: Reads PDF files." in run("show", found["uid"]).stdout
    missing = run("show", "skill:nope")
    assert (missing.exit_code, missing.stderr) == (
        1,
        "Error: there is no artifact 'skill:nope' in 'work'\n",
    )


def test_show_of_a_shared_id_lists_the_candidates(run, sample):
    sample.write("commands/svn/tidy.md", "Tidy.\n")
    run("populate")

    result = run("show", "command:tidy")

    assert result.exit_code == 1
    assert "commands/git/tidy.md" in result.stderr
    assert "commands/svn/tidy.md" in result.stderr


def test_status_tells_the_counts(run):
    assert "work: 0 artifacts (nothing read yet), last refreshed never" in run("status").stdout
    run("populate")
    assert "work: 6 artifacts (6 fresh), last refreshed 20" in run("status").stdout
    [one] = json.loads(run("status", "--json").stdout)["collections"]
    assert (one["states"], one["stale_count"], one["problems"]) == ({"fresh": 6}, 0, [])


def test_text_of_a_file_cannot_steer_the_terminal(run, sample):
    sample.write("agents/evil.md", '---\nname: evil\ndescription: "a\\e[31mred\\u202e"\n---\n')
    run("populate")

    for arguments in (("list",), ("show", "agent:evil"), ("lint", str(sample.root))):
        output = run(*arguments).output
        assert "\x1b" not in output
        assert "\u202e" not in output


def test_lint_needs_no_application(sample):
    from click.testing import CliRunner

    sample.write("skills/bad/SKILL.md", "---\n- a\n- b\n---\n")

    result = CliRunner().invoke(cli, ["lint", str(sample.root)])

    assert result.exit_code == 1
    assert "skills/bad/SKILL.md:2" in result.stdout
    assert "Write the front matter as 'key: value' lines." in result.stdout
    assert "7 artifacts, 1 errors" in result.stderr
    document = json.loads(CliRunner().invoke(cli, ["lint", "--json", str(sample.root)]).stdout)
    assert document["errors"] == 1
    assert document["artifacts"] == len(ArtifactManager(sample.root).list())


def test_lint_of_a_clean_folder_exits_with_0(collection):
    from click.testing import CliRunner

    collection.skill("fine", "Does one thing well.")

    assert CliRunner().invoke(cli, ["lint", str(collection.root)]).exit_code == 0
    assert CliRunner().invoke(cli, ["lint", str(collection.root / "nope")]).exit_code == 1


def test_without_any_collection_populate_says_what_to_set(make_app, sqlite_url):
    result = make_app(sqlite_url).test_cli_runner().invoke(args=["artifact-cache", "populate"])

    assert result.exit_code == 2
    assert "ARTIFACT_CACHE_COLLECTIONS" in result.stderr
