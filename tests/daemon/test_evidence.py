"""What a look at a root sees, and that the app's own walk sees the same."""

from __future__ import annotations

import os
import socket

import pytest

from artifact_cache_daemon.evidence import (
    Known,
    RootUnavailableError,
    Walk,
    as_mapping,
    is_coarse,
    shown,
)
from flask_artifact_cache.files import walk as apps


def files(walk):
    return {
        f"{folder}/{name}" if folder else name: evidence
        for folder, found in walk
        for name, evidence in as_mapping(found).items()
    }


def look(root, **options):
    walk = Walk(str(root), **options)
    return files(walk), walk


def apps_files(root):
    return {
        folder.join(name): tuple(evidence)
        for folder in apps.walk(root).top.walk()
        for name, evidence in folder.files.items()
    }


@pytest.fixture
def mixed(folder):
    """Everything that a collection has, and everything that is no part of one."""
    for path in (
        "SKILL.md",
        "skills/pdf/SKILL.md",
        "skills/pdf/scripts/run.py",
        ".claude/agents/a.md",
        "skills/\udcff\udcfe/SKILL.md",
        "commands/a\nb.md",
        # No part of it:
        "skills/pdf/SKILL.md~",
        "skills/pdf/.SKILL.md.swp",
        "skills/pdf/.#SKILL.md",
        "x.tmp",
        ".DS_Store",
        "a.sync-conflict-20260101.md",
        ".git/config",
        "node_modules/a/SKILL.md",
        "env/pyvenv.cfg",
        "env/lib/SKILL.md",
    ):
        folder.write(path)
    return folder


def test_the_daemon_sees_what_the_app_sees(mixed, tmp_path):
    (mixed.root / "loop").symlink_to(mixed.root)
    (mixed.root / "broken.md").symlink_to("nowhere.md")
    (tmp_path / "outside.md").write_text("x")
    (mixed.root / "outside.md").symlink_to(tmp_path / "outside.md")
    hidden = mixed.write("node_modules/b.md")
    (mixed.root / "inside.md").symlink_to(hidden)
    os.mkfifo(mixed.root / "pipe.md")

    found, walk = look(mixed.root)

    assert found == apps_files(mixed.root)
    assert len(found) == 7
    assert "inside.md" in found
    assert walk.unseen == walk.problems == []


def test_sockets_are_no_files(folder, monkeypatch):
    monkeypatch.chdir(folder.root)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.md")
        assert look(folder.root)[0] == {}


@pytest.mark.parametrize(
    "path", ["plain/a.md", "a\\b.md", "a\nb.md", "\u2028.md", "\udcff.md", "ä ö/😀.md", "\x7f\x85"]
)
def test_paths_are_written_as_the_app_wants_them(path):
    assert shown(path) == apps.shown(path)


def test_the_same_names_are_passed_over_as_by_the_app():
    from artifact_cache_daemon import evidence

    assert evidence.SKIPPED_FOLDERS == apps.SKIPPED_FOLDERS
    assert evidence._DEBRIS.__self__.pattern == apps.is_debris.__self__.pattern
    assert (evidence.MAX_DEPTH, evidence.MAX_ENTRIES) == (apps.MAX_DEPTH, apps.MAX_ENTRIES)


def test_too_many_files_hide_all_others(folder):
    for number in range(20):
        folder.write(f"{number}.md")

    found, walk = look(folder.root, max_entries=10)

    assert len(found) == 10
    assert walk.hides("anything")
    assert "more than 10 files" in walk.problems[0]


def test_a_tree_that_is_too_deep_ends(folder):
    deep = "/".join(["d"] * 60)
    folder.write(f"{deep}/SKILL.md")
    folder.write("a.md")

    found, walk = look(folder.root)

    assert list(found) == ["a.md"]
    assert walk.hides(f"{deep}/SKILL.md")
    assert not walk.hides("b.md")


def test_an_unreadable_folder_hides_what_is_below(folder, monkeypatch):
    folder.write("skills/pdf/SKILL.md")
    folder.write("skills/csv/SKILL.md")
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("/pdf"):
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found, walk = look(folder.root)

    assert list(found) == ["skills/csv/SKILL.md"]
    assert walk.hides("skills/pdf/SKILL.md")
    assert walk.hides("skills/pdf/deep/x")
    assert not walk.hides("skills/pdfs/x")
    assert walk.problems == ["'skills/pdf' cannot be read: Permission denied"]


def test_a_root_that_is_not_one(folder, tmp_path):
    with pytest.raises(RootUnavailableError, match="does not exist"):
        Walk(str(tmp_path / "missing"))
    with pytest.raises(RootUnavailableError, match="not a folder"):
        Walk(str(folder.write("file.md")))
    with pytest.raises(RootUnavailableError, match="not a folder"):
        Walk(str(folder.root / "file.md" / "x"))


def test_a_root_that_is_replaced_meanwhile_is_not_believed(folder):
    folder.write("a/a.md")
    walk = Walk(str(folder.root))

    def go():
        for _ in walk:
            folder.root.rename(folder.root.with_name("moved"))
            folder.root.mkdir()

    with pytest.raises(RootUnavailableError, match="replaced"):
        go()


def test_what_is_known_is_kept_by_file():
    known = Known()
    known.update({"a/b.md": (1, 2, 3, 4), "a/c.md": (5, 6, 7, 8), "d.md": (9, 9, 9, 9)})
    known.update({"a/c.md": None, "nothing.md": None})

    assert known.get("a/b.md") == (1, 2, 3, 4)
    assert known.get("a/c.md") is None
    assert len(known) == 2
    known.update({"a/b.md": None, "d.md": None})
    assert known.folders == {}


def test_a_clock_of_whole_seconds_is_told_from_a_fine_one():
    assert is_coarse((1, 5_000_000_000, 6_000_000_000, 1))
    assert not is_coarse((1, 5_000_000_000, 6_000_000_001, 1))
