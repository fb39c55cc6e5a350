from __future__ import annotations

import pytest

from flask_artifact_cache.errors import VanishedError
from flask_artifact_cache.files.manifest import TOML_LIMIT, Manifests, Metadata, Server
from flask_artifact_cache.files.problems import UnreadableError
from flask_artifact_cache.files.reading import Files

HEAD = """
[collection]
name = "work"
version = "1.0.0"
created = "2026-01-01T00:00:00"
updated = "2026-01-01T00:00:00"
"""


def read(root, folder: str = "", lock: bool = True):
    return Manifests().read(Files(root.path).read, folder, lock=lock)


class Writer:
    """A reader between whose calls somebody writes."""

    def __init__(self, **versions: list[bytes]) -> None:
        self.versions = versions
        self.read: list[str] = []

    def __call__(self, path: str, limit: int = 0) -> bytes:
        self.read.append(path)
        left = self.versions[path.rpartition(".")[2]]
        return left.pop(0) if len(left) > 1 else left[0]


def test_an_entry_gives_what_the_files_do_not_know(root) -> None:
    root.write(
        "collection.toml",
        HEAD
        + """
[[artifacts]]
name = "pdf"
type = "skill"
path = "skills/pdf"
origin = "github"
added = "2026-01-01T00:00:00"
upstream = "https://github.com/a/b/tree/main/skills/pdf"
version_spec = "latest"
tags = ["Docs", "pdf"]
some_later_key = { x = 1 }

[artifacts.metadata]
title = "PDF"
description = "Reads PDFs."
tools = ["Read"]
model = "opus"
tags = ["pdf", "old"]
extra = { anything = [1, 2] }
""",
    )
    root.write(
        "collection.lock",
        """
[lock]
version = "1.0.0"
[lock.entries."pdf::skill"]
content_hash = "abc"
fetched = "2026-01-01T00:00:00"
resolved_sha = "0123"
resolved_version = "v1"
""",
    )

    found = read(root)

    (entry,) = found.entries
    assert found.name == "work"
    assert not found.problems
    assert (entry.name, entry.type, entry.path) == ("pdf", "skill", "skills/pdf")
    assert entry.origin == "github"
    assert entry.upstream == "https://github.com/a/b/tree/main/skills/pdf"
    assert (entry.version_spec, entry.resolved_sha, entry.resolved_version) == (
        "latest",
        "0123",
        "v1",
    )
    assert entry.tags == ("Docs", "pdf", "old")
    assert entry.locked_hash == "abc"
    assert entry.metadata == Metadata(
        title="PDF", description="Reads PDFs.", tools=("Read",), model="opus"
    )


def test_arrays_may_be_written_inline(root) -> None:
    root.write(
        "collection.toml", 'artifacts = [{name = "a", type = "agent", path = "x.md"}]\n' + HEAD
    )

    assert [entry.name for entry in read(root, lock=False).entries] == ["a"]


def test_values_of_the_wrong_type_are_told_and_left_out(root) -> None:
    root.write(
        "collection.toml",
        """
[collection]
name = "odd"
version = 1.0
created = 2026-01-01T00:00:00Z

[[artifacts]]
name = 7
type = "skill"
path = "skills/x"
tags = "not a list"
origin = ["github"]
metadata = "no table"

[[artifacts]]
name = "no-path"
type = "skill"
""",
    )

    found = read(root, lock=False)

    assert [(entry.name, entry.tags, entry.origin) for entry in found.entries] == [
        ("7", (), "local")
    ]
    assert [problem.message for problem in found.problems] == [
        "collection: version is not text",
        "artifact 1: name is not text",
        "artifact 1: metadata is not a table",
        "artifact 1: origin is not text",
        "artifact 1: tags is not a list of texts",
        "artifact 2 has no path",
    ]


def test_of_variables_only_the_names_are_kept(root) -> None:
    root.write(
        "collection.toml",
        HEAD
        + """
[[mcp_servers]]
name = "db"
repo = "a/b"
version = "latest"
[mcp_servers.env_vars]
TOKEN = "s3cret"
A = "b"
""",
    )

    found = read(root, lock=False)

    assert found.servers == (Server("db", repo="a/b", version="latest", env=("A", "TOKEN")),)
    assert "s3cret" not in repr(found)


def test_toml_of_somebody_else_is_nothing(root) -> None:
    root.write("collection.toml", 'title = "stamps"\n')

    assert read(root, lock=False) is None


@pytest.mark.parametrize(
    ("file", "text", "place"),
    [
        ("collection.toml", b'[collection]\nname = "half\n', (2, 13)),
        ("collection.lock", b"[lock\n", (1, 6)),
        ("collection.toml", b"[collection]\nname = '\xff'\n", (None, None)),
        ("collection.toml", b"x = " + b"[" * 100_000, (None, None)),
    ],
)
def test_broken_toml_has_a_place_and_none_of_the_text(root, file, text, place) -> None:
    root.write("c/collection.toml", HEAD)
    root.write("c/collection.lock", "")
    root.write(f"c/{file}", text)

    with pytest.raises(UnreadableError) as caught:
        read(root, "c")

    problem = caught.value.problem
    assert (problem.code, problem.path) == ("E_TOML", f"c/{file}")
    assert (problem.line, problem.column) == place
    assert "half" not in problem.message


def test_a_manifest_that_is_too_large_is_refused() -> None:
    reader = Writer(toml=[b"#" * (TOML_LIMIT + 1)], lock=[b""])

    with pytest.raises(UnreadableError) as caught:
        Manifests().read(reader)

    assert caught.value.problem.code == "E_TOO_LARGE"


def test_a_missing_lock_is_an_empty_one(root) -> None:
    root.write("collection.toml", HEAD)

    assert read(root).entries == ()
    with pytest.raises(VanishedError):
        read(root, "elsewhere")


def test_both_files_are_read_again_if_one_changed_meanwhile() -> None:
    def toml(sha: str) -> bytes:
        entry = f'[[artifacts]]\nname = "a"\ntype = "skill"\npath = "a"\nresolved_sha = "{sha}"\n'
        return (HEAD + entry).encode()

    def lock(sha: str) -> bytes:
        return f'[lock.entries."a::skill"]\ncontent_hash = "{sha}"\n'.encode()

    reader = Writer(toml=[toml("old"), toml("new")], lock=[lock("old"), lock("new")])

    (entry,) = Manifests().read(reader).entries

    assert (entry.resolved_sha, entry.locked_hash) == ("new", "new")
    assert reader.read == ["collection.toml", "collection.lock"] * 3


def test_equal_bytes_are_parsed_once() -> None:
    reader = Writer(toml=[HEAD.encode()], lock=[b""])
    manifests = Manifests()

    first = manifests.read(reader, "a")

    assert manifests.read(reader, "a") is first
    for number in range(20):
        manifests.read(Writer(toml=[HEAD.replace("work", str(number)).encode()], lock=[b""]))
    assert manifests.read(reader, "a") == first


ENTRY = '[[artifacts]]\nname = "{name}"\ntype = "{type}"\npath = "{name}"\n'


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (ENTRY.format(name="a", type="widget"), [9]),
        (ENTRY.format(name="a", type="widget").replace("\n", "\r\n"), [9]),
        ("\ufeff" + ENTRY.format(name="a", type="widget"), [9]),
        (ENTRY.format(name="a", type="widget").replace('"', "'"), [9]),
        (ENTRY.format(name="a", type="skill") + ENTRY.format(name="b", type="widget"), [13]),
        (ENTRY.format(name="a", type="widget") + ENTRY.format(name="b", type="widget"), [9, 13]),
        # As many lines as entries are asked for: these could be any one's.
        (ENTRY.format(name="a", type="widget") + '[extra]\ntype = "widget"\n', [None]),
        ('artifacts = [{ name = "a", type = "widget", path = "a" }]\n', [None]),
        (ENTRY.format(name="a", type="w\\u0069dget"), [None]),
    ],
)
def test_an_unknown_type_is_told_of_with_its_line_where_that_is_certain(root, text, lines) -> None:
    if text.startswith("artifacts"):
        root.write("collection.toml", text + HEAD)
    else:
        mark = "\ufeff" if text.startswith("\ufeff") else ""
        root.write("collection.toml", mark + HEAD + text.removeprefix(mark))

    found = [(one.code, one.line) for one in read(root).problems]

    assert found == [("W_UNKNOWN_TYPE", line) for line in lines]


def test_what_an_unknown_type_is_told_with_cannot_forge_a_line_of_a_log(root) -> None:
    root.write("collection.toml", HEAD + ENTRY.format(name="a\\nb", type="x\\u001b[2J"))

    [problem] = read(root).problems

    assert problem.message == r"the entry 'a\x0ab' has the unknown type 'x\x1b[2J'"
