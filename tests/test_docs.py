"""What the documents say is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from flask_artifact_cache.cli import cli
from flask_artifact_cache.files.problems import HINTS
from flask_artifact_cache.settings import COLLECTION_KEYS, DEFAULTS
from flask_artifact_cache.web.api import ROUTES

ROOT = Path(__file__).parent.parent


def test_every_setting_is_documented_with_its_default():
    text = (ROOT / "docs/configuration.md").read_text()
    rows = dict(re.findall(r"^\| `(ARTIFACT_CACHE_\w+)` \| `(.*?)` \|", text, re.MULTILINE))

    assert rows == {name: repr(default) for name, default in DEFAULTS.items()}


def test_every_key_of_a_collection_is_documented():
    text = (ROOT / "docs/configuration.md").read_text()
    section = text.partition("## Collections\n")[2].partition("\n## ")[0]

    assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == COLLECTION_KEYS


def test_every_problem_is_documented():
    text = (ROOT / "docs/files.md").read_text()

    assert set(re.findall(r"^\| `([EW]_\w+)` \|", text, re.MULTILINE)) == set(HINTS)


def test_every_route_and_field_is_documented():
    text = (ROOT / "docs/api.md").read_text()
    table = set(re.findall(r"`((?:GET|POST) /[^`?]*)`", text))

    for route in ROUTES:
        assert f"{route.method} {re.sub('<[^<>]*:', '<', route.rule)}" in table
        for field in route.body().fields if route.body else ():
            assert f"| `{field}` |" in text or f'"{field}"' in text


def leaves(group, path=()):
    """Every command below a group, by the words that it is called by."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def test_every_command_is_documented_with_its_options_and_nothing_else():
    text = (ROOT / "docs/commands.md").read_text()
    _, *sections = re.split(r"^##+ ", text, flags=re.MULTILINE)
    documented = {
        match.group(1): {
            option
            for row in re.findall(r"^\| (`-.*?) \|", section, re.MULTILINE)
            for option in re.findall(r"`(--?[a-z-]+)", row)
        }
        for section in sections
        if (match := re.match(r"`(.+)`\n", section))
    }
    known = {
        name: {option for one in command.params for option in one.opts if option.startswith("-")}
        for name, command in leaves(cli)
    }

    assert documented == known
    assert set(re.findall(r"--[a-z][a-z-]*", text)) <= set().union(*known.values())
    for name, command in leaves(cli):
        for one in command.params:
            if one.param_type_name == "argument":
                assert one.human_readable_name.strip("[].") in text, name


def test_the_readme_tells_of_every_route_and_command_and_of_nothing_else():
    text = (ROOT / "README.md").read_text()
    cells = "\n".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE))
    routes = {(route.method, re.sub(r"<[^<>]*>", "<>", route.rule)) for route in ROUTES}

    assert {
        (method, re.sub(r"<[^<>]*>", "<>", rule))
        for method, rule in re.findall(r"`(GET|POST) (\S+)`", cells)
    } == routes
    assert {re.split(r" (?=[A-Z[])", one)[0] for one in re.findall(r"`([a-z][^`]*)`", cells)} == {
        name for name, _ in leaves(cli)
    }


def test_the_readme_leads_to_every_document():
    text = (ROOT / "README.md").read_text()

    for document in sorted((ROOT / "docs").rglob("*.md")):
        assert f"]({document.relative_to(ROOT)})" in text, document.name


def test_the_python_of_the_readme_runs(tmp_path):
    text = (ROOT / "README.md").read_text()
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    collection = tmp_path / "artifacts"
    (collection / "skills" / "invoice-reader").mkdir(parents=True)
    (collection / "skills" / "invoice-reader" / "SKILL.md").write_text(
        "---\nname: invoice-reader\ndescription: Reads invoices.\n---\n"
    )
    (tmp_path / "app.py").write_text(block.replace("/srv/artifacts", str(collection)))
    commands = re.findall(r"^flask (artifact-cache .*?) *(?:#.*)?$", text, re.MULTILINE)
    assert commands == ["artifact-cache db upgrade", "artifact-cache populate"]
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "flask", *command.split()],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
        )
        assert done.returncode == 0, done.stderr
    url = re.search(r"curl 'localhost:5000(.*?)'", text).group(1)
    show = f"import app; print(app.app.test_client().get({url!r}).json['items'][0]['uid'])"
    done = subprocess.run(
        [sys.executable, "-c", show],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": ""},
    )
    assert f'"uid": "{done.stdout.strip()}"' in text


def test_every_link_between_documents_leads_somewhere():
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"
