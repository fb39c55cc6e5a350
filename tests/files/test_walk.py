from __future__ import annotations

import os
import socket
import threading

import pytest

from flask_artifact_cache.errors import RootUnavailableError
from flask_artifact_cache.files.walk import Evidence, Folder, Tree, digest, shown, walk


def paths(tree: Tree) -> set[str]:
    return {folder.join(name) for folder in tree.top.walk() for name in folder.files}


def codes(tree: Tree) -> list[tuple[str, str]]:
    return [(problem.code, problem.path) for problem in tree.problems]


def test_every_regular_file_is_seen_with_its_evidence(root) -> None:
    file = root.write("skills/pdf/SKILL.md", "text")
    os.utime(file, ns=(1_000_000_007, 1_600_000_000_000_000_001))

    tree = walk(root.path)

    info = file.stat()
    assert tree.file("skills/pdf/SKILL.md") == Evidence(
        4, 1_600_000_000_000_000_001, info.st_ctime_ns, info.st_ino
    )
    assert tree.complete
    assert tree.folder("skills/pdf") is not None
    assert tree.folder("") is tree.top
    assert tree.file("skills/none/SKILL.md") is None


def test_tools_history_and_debris_are_left_out(root) -> None:
    for path in (
        ".git/HEAD",
        "node_modules/x/SKILL.md",
        "a/.venv/b.md",
        "my-env/pyvenv.cfg",
        "my-env/lib/SKILL.md",
        "lib/site-packages/SKILL.md",
        "__pycache__/x.pyc",
        "a/SKILL.md~",
        "a/.SKILL.md.swp",
        "a/SKILL.md.tmp",
        "a/._SKILL.md",
        "a/.DS_Store",
        "a/.#SKILL.md",
        "a/SKILL.sync-conflict-20260101-000000-ABCDEF.md",
        "a/SKILL (Ann's conflicted copy 2026-01-01).md",
    ):
        root.write(path)
    for path in ("a/SKILL.md", ".claude/agents/x.md", ".curated/y/SKILL.md"):
        root.write(path)

    assert paths(walk(root.path)) == {"a/SKILL.md", ".claude/agents/x.md", ".curated/y/SKILL.md"}


def test_patterns_exclude_files_and_whole_folders(root) -> None:
    for path in ("vendor/a/SKILL.md", "x/vendor/SKILL.md", "x/draft-1.md", "y/keep.md", "drafts/a"):
        root.write(path)

    assert paths(walk(root.path, exclude=["vendor/*", "draft-*"])) == {
        "x/vendor/SKILL.md",
        "y/keep.md",
        "drafts/a",
    }
    assert paths(walk(root.path, exclude=["vendor/", "./drafts"])) == {"x/draft-1.md", "y/keep.md"}
    assert paths(walk(root.path, exclude=["x"])) == {"vendor/a/SKILL.md", "y/keep.md", "drafts/a"}


def test_links_are_aliases_unless_they_are_the_only_way_to_a_file(root, tmp_path) -> None:
    root.write("skills/a/SKILL.md")
    root.write("node_modules/pkg/SKILL.md", "linked")
    (tmp_path / "outside.md").write_text("secret")
    (tmp_path / "folder").mkdir()
    root.link("alias/SKILL.md", "../skills/a/SKILL.md")
    root.link("folder-alias", "skills/a")
    root.link("only/SKILL.md", "../node_modules/pkg/SKILL.md")
    root.link("gone/SKILL.md", "../nowhere/SKILL.md")
    root.link("self", "self")
    root.link("out/SKILL.md", str(tmp_path / "outside.md"))
    root.link("out/folder", str(tmp_path / "folder"))
    root.link("up", "..")
    root.link("skills/loop", "../skills")

    tree = walk(root.path)

    assert paths(tree) == {"skills/a/SKILL.md", "only/SKILL.md"}
    assert tree.file("only/SKILL.md").size == len("linked")
    assert codes(tree) == [
        ("W_SYMLINK_BROKEN", "gone/SKILL.md"),
        ("W_PATH_OUTSIDE", "out/SKILL.md"),
        ("W_PATH_OUTSIDE", "out/folder"),
        ("W_SYMLINK_BROKEN", "self"),
        ("W_PATH_OUTSIDE", "up"),
    ]
    assert tree.complete


def test_a_root_that_is_itself_a_link_is_followed(root, tmp_path) -> None:
    root.write("a/SKILL.md")
    root.link("b/SKILL.md", "../a/SKILL.md")
    (tmp_path / "current").symlink_to(root.path)

    tree = walk(tmp_path / "current")

    assert paths(tree) == {"a/SKILL.md"}
    assert not tree.problems


def test_what_is_no_regular_file_is_never_opened(root) -> None:
    root.write("skills/a/SKILL.md")
    os.mkfifo(root.path / "skills/a/pipe.md")
    (root.path / "skills/b/SKILL.md").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as server:
        # The path of a socket may have 107 bytes only.
        server.bind(os.path.relpath(root.path / "skills/a/socket.md"))

    assert paths(walk(root.path)) == {"skills/a/SKILL.md"}


def test_the_depth_is_bounded(root) -> None:
    root.write("d/" * 60 + "SKILL.md")
    root.write("a/SKILL.md")

    tree = walk(root.path)

    assert paths(tree) == {"a/SKILL.md"}
    assert codes(tree) == [("E_TOO_DEEP", "/".join(["d"] * 51))]
    assert not tree.complete
    assert "d/d/SKILL.md" not in paths(walk(root.path, max_depth=1))


def test_the_number_of_entries_is_bounded(root) -> None:
    for number in range(20):
        root.write(f"skills/{number}/SKILL.md")

    tree = walk(root.path, max_entries=10)

    assert codes(tree) == [("E_TOO_MANY_ENTRIES", "")]
    assert not tree.complete
    assert walk(root.path, max_entries=41).complete


def test_a_folder_that_cannot_be_listed_makes_the_walk_incomplete(root) -> None:
    root.write("a/SKILL.md")
    root.write("locked/SKILL.md")
    root.write("listed-only/SKILL.md")
    (root.path / "locked").chmod(0)
    (root.path / "listed-only").chmod(0o444)

    with root.as_nobody():
        tree = walk(root.path)

    (root.path / "locked").chmod(0o755)
    (root.path / "listed-only").chmod(0o755)
    assert paths(tree) == {"a/SKILL.md"}
    assert codes(tree) == [
        ("E_UNREADABLE", "listed-only/SKILL.md"),
        ("E_UNREADABLE", "locked"),
    ]
    assert not tree.complete


@pytest.mark.parametrize("kind", ["missing", "file", "unreadable"])
def test_a_root_that_cannot_be_read_is_unavailable(root, kind: str) -> None:
    path = root.path / "root"
    if kind == "file":
        path.write_text("")
    elif kind == "unreadable":
        path.mkdir(0o000)
    with root.as_nobody(), pytest.raises(RootUnavailableError) as caught:
        walk(path)

    assert str(caught.value).startswith("The collection's")
    assert str(caught.value).count(".") == 1
    assert "/" not in str(caught.value)


def test_files_that_come_and_go_meanwhile_do_no_harm(root) -> None:
    root.write("a/SKILL.md")
    stop = threading.Event()

    def churn() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            file = root.write(f"b/{number % 7}/SKILL.md")
            file.unlink()
            file.parent.rmdir()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(200):
            assert walk(root.path).file("a/SKILL.md") is not None
    finally:
        stop.set()
        thread.join()


def test_undecodable_names_are_kept_inside_and_shown_escaped(root) -> None:
    root.write(b"agents/\xff\xfe.md")
    root.write("agents/a\nb.md")
    root.write("agents/back\\slash.md")
    root.write("agents/\u65e5\u672c.md")

    tree = walk(root.path)

    assert {shown(path) for path in paths(tree)} == {
        "agents/\\xff\\xfe.md",
        "agents/a\\x0ab.md",
        "agents/back\\\\slash.md",
        "agents/\u65e5\u672c.md",
    }
    assert all(tree.file(path) for path in paths(tree))
    digest(tree)


def test_two_paths_never_look_the_same() -> None:
    similar = [
        "\udcff",
        "\\xff",
        "\\\\xff",
        "\xff",
        "\x85",
        "\udc85",
        "\\x85",
        "\n",
        "\\n",
        "\\x0a",
    ]

    assert len({shown(path) for path in similar}) == len(similar)
    assert all(shown(path).isprintable() and shown(path).encode() for path in similar)


def test_the_digest_tells_every_difference(root) -> None:
    file = root.write("skills/pdf/SKILL.md", "one")
    root.write("other/x.md")
    seen = [digest(walk(root.path))]
    assert digest(walk(root.path)) == seen[0]

    def differs() -> bool:
        seen.append(digest(walk(root.path)))
        return len(set(seen)) == len(seen)

    info = file.stat()
    file.write_text("two")
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert differs(), "same size, restored time"
    os.utime(file, ns=(0, 1))
    assert differs(), "older"
    file.write_text("three")
    assert differs()
    file.rename(file.with_name("skill.md"))
    assert differs()
    (root.path / "agents").mkdir()
    assert differs(), "an empty folder"
    root.link("broken", "nowhere")
    assert differs(), "a problem"


def test_a_part_has_a_digest_of_its_own(root) -> None:
    root.write("a/SKILL.md", "one")
    root.write("b/SKILL.md", "one")
    first = walk(root.path)
    root.write("b/SKILL.md", "two!")
    second = walk(root.path)

    assert digest(first.folder("a")) == digest(second.folder("a"))
    assert digest(first.folder("b")) != digest(second.folder("b"))
    assert digest(first.file("a/SKILL.md")) == digest(second.file("a/SKILL.md"))
    assert digest(first.file("b/SKILL.md")) != digest(second.file("b/SKILL.md"))


def test_the_digest_does_not_depend_on_the_order_of_listing() -> None:
    one, two = Evidence(1, 2, 3, 4), Evidence(5, 6, 7, 2**64)
    there = Folder("", {"a": one, "b": two}, {"x": Folder("x"), "y": Folder("y")})
    back = Folder("", {"b": two, "a": one}, {"y": Folder("y"), "x": Folder("x")})

    assert digest(there) == digest(back)
    assert digest(there) != digest(Folder("", {"a": two, "b": one}, there.folders))


def test_the_tree_of_many_folders_is_small(root) -> None:
    tracemalloc = pytest.importorskip("tracemalloc")
    for number in range(2_000):
        root.write(f"skills/skill-{number:06}/SKILL.md")
    walk(root.path)

    tracemalloc.start()
    tree = walk(root.path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # 100,000 of them are to stay below 60 MB.
    assert held / 2_000 < 600 * 1.1, tree
