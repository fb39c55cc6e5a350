"""An artifact of GitHub is added by a command: files, manifest, lock, database."""

from __future__ import annotations

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_artifact_cache import ArtifactCache

from .fakegithub import Repository, status

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def app(fake, tmp_path):
    fake.repos["octo/tools"] = Repository(
        {"skills/pdf/SKILL.md": b"---\nname: pdf\ndescription: Reads PDFs\n---\n"}
    )
    (tmp_path / "work").mkdir()
    app = Flask("host")
    app.config.update(
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path / 'host.db'}",
        ARTIFACT_CACHE_COLLECTIONS={"work": str(tmp_path / "work")},
        ARTIFACT_CACHE_GITHUB_API_URL=fake.url,
        ARTIFACT_CACHE_GITHUB_STATE_FOLDER=str(tmp_path / "state"),
    )
    db = SQLAlchemy(app)
    ArtifactCache(app, db)
    with app.app_context():
        db.create_all()
    return app


def run(app, *arguments):
    return app.test_cli_runner().invoke(args=["artifact-cache", *arguments])


def test_a_skill_of_github_is_added(app, fake, tmp_path):
    run(app, "populate")

    result = run(app, "add", "octo/tools/skills/pdf@main")

    assert result.exit_code == 0, result.output
    assert (tmp_path / "work/skills/pdf/SKILL.md").is_file()
    manifest = (tmp_path / "work/collection.toml").read_text()
    sha = fake.repos["octo/tools"].refs["main"]
    assert f"{fake.url}/octo/tools/tree/{sha}/skills/pdf" in manifest
    assert sha in (tmp_path / "work/collection.lock").read_text()
    shown = run(app, "show", "skill:pdf", "--json").output
    assert "Reads PDFs" in shown
    assert sha in shown


def test_what_was_said_of_a_repository_is_not_asked_again(app, fake, tmp_path):
    assert run(app, "add", "octo/tools/skills/pdf@main").exit_code == 0

    assert run(app, "add", "octo/tools/skills/pdf@main", "--replace").exit_code == 0

    assert (fake.calls["head"], fake.calls["304"]) == (1, 1)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_trouble_changes_no_file(app, fake, tmp_path):
    for failure, sentence in (
        (status(404), "gone, private"),
        (status(403, "secondary rate limit"), "upstream limited until"),
    ):
        fake.fail(failure)

        result = run(app, "add", "octo/tools/skills/pdf")

        assert result.exit_code not in (0, None)
        assert sentence in result.output
        assert list((tmp_path / "work").iterdir()) == []
