"""Fields: one set of rules for front matter, plugin.json and collection.toml."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_artifact_cache.files.fields import DESCRIPTION_LIMIT, Fields, normalise


def skill(values: Mapping[str, object] | None = None, body: str = "", **more: object) -> Fields:
    values = {"name": "pdf", "description": "Reads PDF files.", **(values or {}), **more}
    return normalise("skill", values, fallback_name="pdf", body=body)


def command(body: str = "", **values: object) -> Fields:
    return normalise("command", values, fallback_name="run", body=body)


def codes(fields: Fields) -> list[str]:
    return [problem.code for problem in fields.problems]


# Keys


def test_keys_are_compared_without_case_and_with_hyphens() -> None:
    fields = command(Name="x", ALLOWED_TOOLS="Read", Argument_Hint="file")
    assert (fields.name, fields.tools, fields.argument_hint) == ("x", ("Read",), "file")


def test_a_null_declares_nothing() -> None:
    fields = skill(license=None, tools=None, tags=None, model=None, author=None)
    assert (fields.license, fields.tools, fields.tags, fields.author) == (None, None, (), None)
    assert codes(fields) == []


def test_of_keys_that_become_equal_the_first_with_a_value_counts() -> None:
    assert skill({"License": None, "license": "MIT", "LICENSE": "BSD"}).license == "MIT"


# Names


@pytest.mark.parametrize("name", ["pdf", " pdf ", "ｐｄｆ"])
def test_a_skill_is_called_like_its_folder(name: str) -> None:
    assert codes(normalise("skill", {"name": name, "description": "x"}, fallback_name="pdf")) == []


@pytest.mark.parametrize("name", ["PDF", "pdf--x", "-pdf", "pdf tools", "p_df", "x" * 65, "a/b"])
def test_a_skill_s_odd_name_is_kept_and_told(name: str) -> None:
    fields = skill(name=name)
    assert (fields.name, codes(fields)) == (name, ["W_NAME_INVALID", "W_NAME_MISMATCH"])


def test_letters_of_every_script_are_letters() -> None:
    fields = normalise("skill", {"name": "日本-é", "description": "x"}, fallback_name="日本-é")
    assert codes(fields) == []


@pytest.mark.parametrize("name", ["C#/.NET Helper: CI/CD", "gsd:add-tests", "Ünicode 🚀", "a..b"])
def test_other_artifacts_are_called_as_they_like(name: str) -> None:
    fields = command(name=name)
    assert (fields.name, codes(fields)) == (name, [])


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "a/..", "..", "a\\..\\b", "a\nb", "a\u202eb", "a\u200bb", "a\u2028b"],
)
@pytest.mark.parametrize("type_", ["skill", "agent", "command", "plugin"])
def test_an_unsafe_name_gives_way_to_the_path_s(type_: str, name: str) -> None:
    fields = normalise(type_, {"name": name, "description": "x"}, fallback_name="safe")
    assert (fields.name, codes(fields)) == ("safe", ["W_NAME_INVALID"])


@pytest.mark.parametrize("name", [["TODO"], {"a": "b"}])
def test_a_name_that_is_no_text_gives_way_to_the_path_s(name: object) -> None:
    fields = skill(name=name)
    assert (fields.name, codes(fields)) == ("pdf", ["W_NAME_INVALID"])


@pytest.mark.parametrize("name", [None, "", "  "])
def test_a_missing_name_is_the_path_s(name: object) -> None:
    assert skill(name=name).name == "pdf"


# Descriptions and titles


def test_a_description_is_stored_as_written() -> None:
    assert skill(description=" a\\n\n<example>\tb</example>\n").description == (
        "a\\n\n<example>\tb</example>"
    )


def test_a_long_description_is_kept_and_told_of_a_skill() -> None:
    text = "x" * (DESCRIPTION_LIMIT + 1)
    assert codes(skill(description=text)) == ["W_DESCRIPTION_TOO_LONG"]
    assert codes(normalise("agent", {"description": text}, fallback_name="a")) == []
    assert skill(description=text).description == text


@pytest.mark.parametrize(
    ("type_", "expected"),
    [("skill", ["W_MISSING_DESCRIPTION"]), ("agent", ["W_MISSING_DESCRIPTION"]), ("command", [])],
)
def test_a_missing_description_comes_from_the_first_paragraph(
    type_: str, expected: list[str]
) -> None:
    fields = normalise(type_, {}, fallback_name="x", body="# Title\n\nIt says\nwhat.\n\nMore.\n")
    assert (fields.title, fields.description) == ("Title", "It says what.")
    assert codes(fields) == expected


@pytest.mark.parametrize(
    ("body", "title", "description"),
    [
        ("", None, None),
        ("# Only a heading", "Only a heading", None),
        ("## C# and F# ##\ntext", "C# and F#", "text"),
        ("# C#\n", "C#", None),
        ("Title\n=====\n\ntext", "Title", "text"),
        ("Title\n---\ntext\n\n# Later", "Title", "text"),
        ("---\n\n***\ntext", None, "text"),
        ("```sh\n# comment\nrun\n```\ntext", None, "text"),
        ("~~~\n```\n~~~\ntext", None, "text"),
        ("| a | b |\n|---|---|\ntext", None, "text"),
        ("![x](y)\n[![b](c)](d)\ntext", None, "text"),
        ("<div>\ntext\n</div>", None, "text"),
        ("<!-- a\nb\n-->\ntext", None, "text"),
        ("text\n# Title\nmore", "Title", "text"),
        ("- first\n- second", None, "first"),
        ("1. first\n2. second", None, "first"),
        ("> quoted\n> more", None, "quoted"),
        ("text\n- item", None, "text"),
        ("#hashtag\ntext", None, "text"),
    ],
)
def test_title_and_description_from_markdown(
    body: str, title: str | None, description: str | None
) -> None:
    fields = command(body=body)
    assert (fields.title, fields.description) == (title, description)


def test_a_paragraph_of_a_book_s_length_is_cut() -> None:
    assert len(command(body="x" * 100_000).description or "") == DESCRIPTION_LIMIT


def test_a_declared_title_counts_more_than_a_heading() -> None:
    assert skill(title="Declared", body="# Heading").title == "Declared"
    assert skill(body="text\n\n# Heading").title == "Heading"


# Tags


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        ([], ()),
        ("", ()),
        ("alpha, beta,, alpha ; gamma\ndelta", ("alpha", "beta", "gamma", "delta")),
        (["#pdf", "c#", " x "], ("pdf", "c#", "x")),
        (["yes", "NO", "no"], ("yes", "NO", "no")),
        (["caf\u00e9", "cafe\u0301"], ("caf\u00e9",)),
        (["a, b", "c"], ("a", "b", "c")),
        ([2024, 1.5, True], ("2024", "1.5", "true")),
        ("['a', \"b\"", ("a", "b")),
    ],
)
def test_tags_are_split_and_told_once(value: object, tags: tuple[str, ...]) -> None:
    assert skill(tags=value).tags == tags


def test_a_tag_that_is_no_scalar_is_left_out() -> None:
    fields = skill(tags=["a", {"b": "c"}])
    assert (fields.tags, codes(fields)) == (("a",), ["W_TYPE"])


@pytest.mark.parametrize(
    ("values", "tags"),
    [
        ({"tags": ["a"], "keywords": ["b"]}, ("a",)),
        ({"keywords": ["b"], "metadata": {"tags": "c"}}, ("b",)),
        ({"metadata": {"tags": "c", "keywords": "d"}}, ("c",)),
        ({"metadata": {"keywords": "d"}}, ("d",)),
        ({"tags": None, "metadata": {"keywords": "d"}}, ("d",)),
        ({"metadata": "text"}, ()),
    ],
)
def test_where_tags_are_looked_for(values: dict[str, object], tags: tuple[str, ...]) -> None:
    assert skill(values).tags == tags


# Tools


@pytest.mark.parametrize(
    ("value", "tools"),
    [
        (None, None),
        ([], ()),
        ("", ()),
        ("*", ("*",)),
        ("Read", ("Read",)),
        ("Read, Write,Edit", ("Read", "Write", "Edit")),
        ("Read Write", ("Read", "Write")),
        ("Bash(git add:*, git commit:*), Edit", ("Bash(git add:*, git commit:*)", "Edit")),
        ("Bash(git:*) Bash(jq -r:*) Read", ("Bash(git:*)", "Bash(jq -r:*)", "Read")),
        ("Bash(a b:*)", ("Bash(a b:*)",)),
        ("Read\nBash(a, b) \n Edit", ("Read", "Bash(a, b)", "Edit")),
        ("Bash(never closed, Read", ("Bash(never closed, Read",)),
        ("a), b", ("a)", "b")),
        (["Read", "Bash(a, b)"], ("Read", "Bash(a, b)")),
        ("['Read', \"Write\"", ("Read", "Write")),
    ],
)
def test_tools_are_split_outside_of_brackets(value: object, tools: tuple[str, ...] | None) -> None:
    assert skill({"allowed-tools": value}).tools == tools


@pytest.mark.parametrize("key", ["tools", "allowed-tools", "allowed_tools", "allowedTools"])
def test_tools_have_several_names(key: str) -> None:
    assert skill({key: "Read"}).tools == ("Read",)


def test_agents_call_them_tools_and_others_allowed_tools() -> None:
    values = {"tools": "Read", "allowed-tools": "Write", "description": "x"}
    assert normalise("agent", values, fallback_name="a").tools == ("Read",)
    assert normalise("command", values, fallback_name="a").tools == ("Write",)


@pytest.mark.parametrize("value", [{"Read": True}, ["Read", {"a": "b"}]])
def test_tools_of_another_kind_are_told(value: object) -> None:
    fields = skill(tools=value)
    assert fields.tools == (("Read",) if isinstance(value, list) else None)
    assert codes(fields) == ["W_TYPE"]


# The rest


@pytest.mark.parametrize(
    ("values", "author"),
    [
        ({"author": " Ann "}, "Ann"),
        ({"author": "Ann <ann@example.com>"}, "Ann <ann@example.com>"),
        ({"author": {"name": "Ann", "email": "a@example.com"}}, "Ann"),
        ({"author": {"email": "a@example.com", "url": "x"}}, "a@example.com"),
        ({"author": [{"name": "Ann"}, "Bob"]}, "Ann, Bob"),
        ({"authors": ["Ann", "Bob"]}, "Ann, Bob"),
        ({"metadata": {"author": "Ann"}}, "Ann"),
        ({"author": None, "metadata": {"author": "Ann"}}, "Ann"),
    ],
)
def test_authors_have_many_forms(values: dict[str, object], author: str) -> None:
    fields = skill(values)
    assert (fields.author, codes(fields)) == (author, [])


@pytest.mark.parametrize("author", [{"url": "x"}, [["Ann"]], {"name": ["Ann"]}])
def test_an_author_of_another_kind_is_told(author: object) -> None:
    fields = skill(author=author)
    assert (fields.author, codes(fields)) == (None, ["W_TYPE"])


@pytest.mark.parametrize(
    ("version", "text"),
    [
        (1, "1"),
        (1.0, "1.0"),
        (True, "true"),
        (date(2025, 1, 15), "2025-01-15"),
        (datetime(2025, 1, 15, 10, 30, tzinfo=timezone.utc), "2025-01-15T10:30:00+00:00"),
        (["1"], None),
        ({"a": "1"}, None),
    ],
)
def test_native_values_become_text_and_are_told(version: object, text: str | None) -> None:
    fields = skill(version=version)
    assert (fields.version, codes(fields)) == (text, ["W_TYPE"])


def test_a_number_without_end_is_no_version() -> None:
    assert skill(version=1 << 20_000).version is None


def test_metadata_stands_in_for_what_is_missing_above() -> None:
    fields = skill(
        metadata={"version": "2.0", "license": "MIT", "title": "PDF", "description": "no"}
    )
    assert (fields.version, fields.license, fields.title) == ("2.0", "MIT", "PDF")
    assert fields.description == "Reads PDF files."


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("[a] | --b", "[a] | --b"),
        (["file name"], "[file name]"),
        (["a", "b"], "[a, b]"),
        ([["a"], "b"], "[[a], b]"),
        ([{"TODO": "x"}], "[TODO: x]"),
        (None, None),
    ],
)
def test_a_bracketed_hint_is_written_back(value: object, hint: str | None) -> None:
    assert command(argument_hint=value).argument_hint == hint


def test_a_model_is_text_as_written() -> None:
    assert skill(model="sonnet").model == "sonnet"
    assert skill(model=["opus", "sonnet"]).model == "opus, sonnet"


def test_a_value_that_is_a_map_is_told_by_its_key() -> None:
    fields = skill(license={"type": "MIT"})
    assert fields.license is None
    assert "'license'" in fields.problems[0].message


# Laws

_SCALARS = (
    st.none() | st.text(max_size=30) | st.integers() | st.floats() | st.booleans() | st.dates()
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    [
        *("name", "Title", "description", "author", "authors", "license", "version", "tags"),
        *("keywords", "tools", "allowed_tools", "allowedTools", "model", "argument-hint"),
        "metadata",
    ]
)
_MAPPINGS = st.dictionaries(
    _KEYS, _VALUES | st.dictionaries(_KEYS, _VALUES, max_size=4), max_size=6
)


@settings(max_examples=400)
@given(st.sampled_from(["skill", "agent", "command", "plugin", "mcp"]), _MAPPINGS, st.text())
def test_any_mapping_has_fields(type_: str, values: dict[str, object], body: str) -> None:
    fields = normalise(type_, values, fallback_name="safe", body=body.replace("\r", "\n"))
    assert fields.name
    texts = (fields.name, fields.author, fields.license, fields.version, fields.model)
    for text in (*texts, fields.argument_hint, *fields.tags, *(fields.tools or ())):
        assert text is None or text == text.strip() != ""
        assert text is None or not any(
            ord(character) < 32 and character not in "\t\n" for character in text
        )
    assert len(set(fields.tags)) == len(fields.tags)
    assert all(problem.hint for problem in fields.problems)


@given(_MAPPINGS)
def test_normalising_what_was_normalised_changes_nothing(values: dict[str, object]) -> None:
    once = normalise("agent", values, fallback_name="safe")
    again = {
        name: getattr(once, name)
        for name in ("name", "title", "description", "author", "license", "version", "model")
    }
    again |= {"tags": list(once.tags), "argument-hint": once.argument_hint}
    again["tools"] = None if once.tools is None else list(once.tools)
    twice = normalise("agent", again, fallback_name="safe")
    for name in ("name", "title", "description", "license", "version", "tools", "argument_hint"):
        assert getattr(twice, name) == getattr(once, name)
