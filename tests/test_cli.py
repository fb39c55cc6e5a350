"""Commands are sentences, with exit codes that a script can use."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from flask_artifact_cache import ArtifactManager
from flask_artifact_cache.cli import cli

from .conftest import CollectionFolder


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


def test_the_log_is_not_between_what_a_command_says(run, sample, monkeypatch):
    sample.write("skills/bad/SKILL.md", "---\n- a\n- b\n---\n")
    monkeypatch.setattr(logging.root, "handlers", [])  # those of pytest

    result = run("populate")

    line, mend = result.stderr.splitlines()
    assert line.strip().startswith("skills/bad/SKILL.md:2")
    assert mend.strip().startswith("Write the front matter as 'key: value' lines")
    told = []
    handler = logging.Handler()
    handler.emit = lambda record: told.append(record.getMessage())
    logging.root.addHandler(handler)
    run("populate")
    assert told[-1].startswith("refresh of collection 'work' partial (populate): synced=6")
    assert logging.getLogger("flask_artifact_cache.refreshes").handlers == []


def test_a_missing_root_is_one_sentence(run, sample):
    shutil.rmtree(sample.root)

    result = run("populate")

    assert result.exit_code == 1
    said = "The collection's folder does not exist; mount it, or mend its path."
    assert result.stderr == f"work: {said} ({sample.root})\n"


def test_populate_says_where_its_warnings_are(run, sample):
    assert run("populate").stderr == ""
    sample.skill("PDF")

    for _ in range(2):  # the second time nothing is read
        said = run("populate")
        assert (said.exit_code, said.stderr) == (
            0,
            "  problems in all: 1; 'flask artifact-cache problems work' lists them\n",
        )
    assert "W_NAME_INVALID" in run("problems", "work").stdout
    assert run("populate", "--dry-run").stderr == ""


@pytest.mark.parametrize("command", ["list", "populate", "status", "db upgrade", "db check"])
def test_a_database_that_cannot_be_used_is_one_sentence(make_app, sample, tmp_path, command):
    (tmp_path / "no.db").write_text("This is a letter, and no database at all. " * 100)
    for path in ("no.db", "nowhere/host.db"):
        app = make_app(f"sqlite:///{tmp_path / path}", {"work": sample.root}, create=False)

        result = app.test_cli_runner().invoke(args=["artifact-cache", *command.split()])

        assert (result.exit_code, result.stdout) == (1, "")
        [line] = result.stderr.splitlines()
        assert re.fullmatch(
            r"Error: The database does not answer as it should: (file is not a database|unable to"
            r" open database file)\. Run 'flask artifact-cache doctor'\.",
            line,
        )


def test_a_database_that_is_locked_is_4(make_app, sample, tmp_path):
    file = tmp_path / "host.db"
    options = {"connect_args": {"timeout": 0}}
    app = make_app(f"sqlite:///{file}", SQLALCHEMY_ENGINE_OPTIONS=options)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")

        result = app.test_cli_runner().invoke(args=["artifact-cache", "runs"])

    assert (result.exit_code, result.stdout) == (4, "")
    assert result.stderr == "Error: The database is locked by another process; try again.\n"


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


def test_show_tells_that_no_tool_is_allowed(run, sample):
    sample.skill("none", allowed_tools="[]")
    run("populate")

    assert "tools: []" in run("show", "skill:none").stdout.splitlines()
    assert "tools" not in run("show", "skill:pdf").stdout


def test_a_search_sorts_as_the_api_does(run, sample):
    sample.skill("alpha", "Is about reports.")
    sample.skill("reports")
    run("populate")

    def ids(*options):
        page = json.loads(run("list", "-q", "reports", "--json", *options).stdout)
        return [item["name"] for item in page["items"]]

    assert ids() == ids("--sort", "relevance") == ["reports", "alpha"]
    assert ids("--sort", "name") == ["alpha", "reports"]


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


APP = """
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_artifact_cache import ArtifactCache

app = Flask(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = {url!r}
app.config["ARTIFACT_CACHE_COLLECTIONS"] = {root!r}
db = SQLAlchemy(app)
ArtifactCache(app, db)
"""


@pytest.mark.parametrize("columns", [60, 30])
def test_a_list_fits_into_the_terminal(
    make_app, populate, sqlite_url, sample, tmp_path, columns, monkeypatch
):
    sample.skill("long", "Does " + "very " * 100 + "much.")
    populate(make_app(sqlite_url, str(sample.root)), "default")
    (tmp_path / "app.py").write_text(APP.format(url=sqlite_url, root=str(sample.root)))
    command = [sys.executable, "-m", "flask", "artifact-cache", "list"]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))

    piped = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    terminal, end = os.openpty()
    monkeypatch.setenv("COLUMNS", str(columns))
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        subprocess.run(command, cwd=tmp_path, stdout=end, stderr=subprocess.DEVNULL, check=True)
        shown = screen.read(65536).decode().splitlines()
        os.close(end)

    lines = piped.stdout.splitlines()
    assert len(lines) == len(shown) == 7
    assert max(map(len, lines)) > 500
    assert max(map(len, shown)) == columns
    assert [line for line in shown if line.endswith("…")]
    for line, cut in zip(lines, shown, strict=True):
        assert line.startswith(cut.removesuffix("…"))
    described = [line for line in lines if "Reads" in line or "Does" in line]
    assert len({max(line.find("Reads"), line.find("Does")) for line in described}) == 1


def test_lint_needs_no_application(sample):
    from click.testing import CliRunner

    sample.write("skills/bad/SKILL.md", "---\n- a\n- b\n---\n")

    result = CliRunner().invoke(cli, ["lint", str(sample.root)])

    assert result.exit_code == 1
    assert "skills/bad/SKILL.md:2" in result.stdout
    assert "Write the front matter as 'key: value' lines" in result.stdout
    assert "7 artifacts, 1 errors" in result.stderr
    document = json.loads(CliRunner().invoke(cli, ["lint", "--json", str(sample.root)]).stdout)
    assert document["errors"] == 1
    assert document["artifacts"] == len(ArtifactManager(sample.root).list())


def test_lint_of_a_clean_folder_exits_with_0(collection):
    from click.testing import CliRunner

    collection.skill("fine", "Does one thing well.")

    assert CliRunner().invoke(cli, ["lint", str(collection.root)]).exit_code == 0
    missing = CliRunner().invoke(cli, ["lint", str(collection.root / "nope")])
    assert (missing.exit_code, "does not exist" in missing.stderr) == (2, True)


BAD = "---\n- a\n- b\n---\n"


@pytest.mark.parametrize("here", [".", "skills", "skills/bad", "commands"])
def test_lint_looks_at_the_files_that_it_is_given_and_at_no_other(sample, monkeypatch, here):
    from click.testing import CliRunner

    bad = sample.write("skills/bad/SKILL.md", BAD)
    sample.write("skills/worse/SKILL.md", BAD)
    fine = sample.root / "skills/pdf/SKILL.md"
    monkeypatch.chdir(sample.root / here)
    # Below where one is, a path is told from there.
    told = bad if here == "commands" else os.path.relpath(bad)

    both = CliRunner().invoke(cli, ["lint", str(bad), str(fine)])
    one = CliRunner().invoke(cli, ["lint", str(fine)])

    assert both.exit_code == 1
    assert both.stdout.startswith(f"{told}:2:1: E_NOT_A_MAPPING")
    assert both.stdout.count("E_") == 1
    assert "2 artifacts, 1 errors, 0 warnings" in both.stderr
    assert (one.exit_code, one.stderr) == (0, "1 artifacts, 0 errors, 0 warnings\n")


@pytest.mark.parametrize(
    ("path", "text", "code"),
    [
        ("commands/git/bad.md", BAD, "E_NOT_A_MAPPING"),
        ("agents/bad.md", BAD, "E_NOT_A_MAPPING"),
        (".mcp.json", "{", "E_JSON"),
        (".claude-plugin/plugin.json", "{", "E_JSON"),
        (".claude/commands/bad.md", BAD, "E_NOT_A_MAPPING"),
        ("collection.toml", "[collection", "E_TOML"),
        ("notes/no-artifact.md", BAD, None),
    ],
)
def test_lint_knows_what_a_file_is_by_where_it_is(sample, monkeypatch, path, text, code):
    from click.testing import CliRunner

    sample.write(path, text)
    monkeypatch.chdir(sample.root)

    result = CliRunner().invoke(cli, ["lint", "--json", path])

    document = json.loads(result.stdout)
    assert [(one["path"], one["code"]) for one in document["problems"]] == (
        [(path, code)] if code else []
    )
    assert result.exit_code == (1 if code else 0)


def test_without_any_collection_populate_says_what_to_set(make_app, sqlite_url):
    result = make_app(sqlite_url).test_cli_runner().invoke(args=["artifact-cache", "populate"])

    assert result.exit_code == 2
    assert "ARTIFACT_CACHE_COLLECTIONS" in result.stderr


# --- several collections, and one that is configured no more --------------------------------------


@pytest.fixture
def two(make_app, sqlite_url, sample, tmp_path):
    """The commands of an app with the collections that are asked for."""
    other = CollectionFolder(tmp_path / "other")
    other.skill("pdf", "Another one.")
    other.skill("zip", "Packs.")
    roots = {"work": sample.root, "old": other.root}

    def run(*arguments, of=("work", "old")):
        app = make_app(sqlite_url, {one: roots[one] for one in of})
        return app.test_cli_runner().invoke(args=["artifact-cache", *arguments])

    assert run("populate").exit_code == 0
    return run


def test_show_searches_all_collections(two):
    assert "description: Packs." in two("show", "skill:zip").stdout
    shared = two("show", "skill:pdf")
    assert shared.exit_code == 1
    assert "skills/pdf/SKILL.md  in 'work'" in shared.stderr
    assert "skills/pdf/SKILL.md  in 'old'" in shared.stderr
    uid = shared.stderr.splitlines()[1].split()[0]
    assert two("show", uid).exit_code == 0
    assert "description: Another one." in two("show", "skill:pdf", "--collection", "old").stdout


def test_what_is_configured_no_more_is_named_and_can_be_forgotten(two):
    def alone(*arguments):
        return two(*arguments, of=("work",))

    assert "old: 2 artifacts" in alone("status").stdout
    assert "NOT CONFIGURED any more; 'forget old' removes it" in alone("status").stdout
    doctor = json.loads(alone("doctor", "--json").stdout)["findings"]
    assert any("'flask artifact-cache forget old'" in one["message"] for one in doctor)
    assert alone("list").stdout.count("\n") == 6  # of the one that is configured
    start = json.loads(alone("changes", "--json").stdout)["next"]

    refused = two("forget", "old")
    assert (refused.exit_code, "take it out of there first" in refused.stderr) == (2, True)
    assert alone("forget", "old").stdout == "old: 2 removed\n"

    assert "old:" not in alone("status").stdout
    assert alone("list", "old").exit_code == 1
    told = json.loads(alone("changes", "--since", start, "--json").stdout)["changes"]
    assert [(one["kind"], one["collection_id"]) for one in told] == [("removed", "old")] * 2
    assert alone("forget", "old").exit_code == 1
    assert two("populate", "old").stdout.startswith("old: 2 created")
