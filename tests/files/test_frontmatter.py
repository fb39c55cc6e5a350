"""Front matter: finding the block, reading it strictly, recovering what is not YAML."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flask_artifact_cache.files.frontmatter import (
    BLOCK_LIMIT,
    READ_LIMIT,
    REPORT_LIMIT,
    FrontMatter,
    read,
)
from flask_artifact_cache.files.problems import Problem, UnreadableError
from flask_artifact_cache.files.recovery import unquoted
from flask_artifact_cache.files.yamltext import (
    CParser,
    Parse,
    Parsed,
    Value,
    YamlError,
    parse,
    parse_flat,
    parse_in_python,
    parse_with_events,
)


def block(*lines: str, body: str = "Body.\n") -> bytes:
    return "\n".join(["---", *lines, "---", body]).encode()


def codes(found: FrontMatter) -> list[str]:
    return [problem.code for problem in found.problems]


def places(found: FrontMatter) -> list[tuple[str, int | None, int | None]]:
    return [(problem.code, problem.line, problem.column) for problem in found.problems]


def rejected(data: bytes) -> Problem:
    with pytest.raises(UnreadableError) as caught:
        read(data)
    return caught.value.problem


# The ordinary file


def test_fields_and_body_are_read() -> None:
    found = read(block("name: pdf", "description: Reads PDF files."))
    assert found == FrontMatter({"name": "pdf", "description": "Reads PDF files."}, "Body.\n", ())


def test_scalars_stay_as_they_were_written() -> None:
    found = read(block("a: 1.10", "b: no", "c: 0777", "d: 2024-01-15", "e: 12:30", "f: ON"))
    assert list(found.fields.values()) == ["1.10", "no", "0777", "2024-01-15", "12:30", "ON"]


def test_only_a_plain_null_is_null() -> None:
    found = read(block("a: ~", "b:", "c: null", "d: 'null'", "e: !!str null", "f: nULL"))
    assert list(found.fields.values()) == [None, None, None, "null", "null", "nULL"]


def test_merge_keys_give_way_to_the_mapping_s_own() -> None:
    found = read(block("base: &base {a: 1, b: 2}", "own:", "  <<: *base", "  b: 3"))
    assert found.fields["own"] == {"a": "1", "b": "3"}
    assert codes(found) == []


def test_the_first_of_two_equal_keys_counts() -> None:
    found = read(block("name: a", "name: b", "nested: {x: 1, x: 2}"))
    assert found.fields == {"name": "a", "nested": {"x": "1"}}
    assert places(found) == [("W_DUPLICATE_KEY", 3, 1), ("W_DUPLICATE_KEY", 4, 16)]


def test_dashes_inside_a_line_do_not_close() -> None:
    found = read(block("description: a --- b", "text: |", "  ---", "  ...", "name: x"))
    assert found.fields == {"description": "a --- b", "text": "---\n...\n", "name": "x"}


# Bytes into text


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_newlines_are_normalised(newline: str) -> None:
    found = read(block("name: x", "text: |", "  a", "  b").replace(b"\n", newline.encode()))
    assert found.fields == {"name": "x", "text": "a\nb\n"}
    assert (found.body, found.problems) == ("Body.\n", ())


def test_a_byte_order_mark_is_told() -> None:
    assert places(read(b"\xef\xbb\xbf" + block("name: x"))) == [("W_BOM", 1, None)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_read_where_it_has_a_mark(encoding: str) -> None:
    mark = "" if encoding == "utf-16" else "\ufeff"
    found = read((mark + block("name: é").decode()).encode(encoding))
    assert (found.fields, codes(found)) == ({"name": "é"}, ["W_ENCODING"])


def test_bytes_that_are_no_utf_8_are_windows_text() -> None:
    found = read(b"---\nname: caf\xe9 \x96\n---\n")
    assert (found.fields, places(found)) == ({"name": "café –"}, [("W_ENCODING", 2, None)])


@pytest.mark.parametrize("left", [1, 2, 3])
def test_a_character_that_the_limit_cuts_is_no_fault(left: int) -> None:
    start = block("name: x", body="")
    data = start + b"e" * (READ_LIMIT - len(start) - left) + "🚀".encode()[:left]
    assert len(data) == READ_LIMIT
    assert codes(read(data)) == []
    assert codes(read(start + "🚀".encode()[:left])) == ["W_ENCODING"]


def test_control_characters_are_left_out() -> None:
    found = read(b"---\nname: a\0b\x07c\n---\n\x1bBody")
    assert (found.fields, found.body) == ({"name": "abc"}, "Body")
    assert places(found) == [("W_CONTROL_CHARS", 2, 8)]


def test_control_characters_do_not_come_back_through_escapes() -> None:
    found = read(block(r'a: "x\0\a\r\ny\u0085\u202e"', r'b: "\ud83d\ude00 \ud83d"'))
    assert found.fields == {"a": "x\ny\u202e", "b": "😀 "}


def test_what_is_not_text_is_refused() -> None:
    assert rejected(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").code == "E_BINARY"
    assert rejected("name".encode("utf-16-le") * 20).code == "E_BINARY"
    assert rejected(b"\xff\xfe" + b"\0\0" * 20).code == "E_BINARY"


@pytest.mark.parametrize("data", [b"", b"\n \n\t", b"\xef\xbb\xbf", b"\x07"])
def test_an_empty_file_is_refused(data: bytes) -> None:
    assert rejected(data).code == "E_EMPTY"


# Finding the block


def test_the_block_is_found_behind_blank_lines_a_comment_and_a_fence() -> None:
    found = read(b"\n<!-- a\n b -->\n\n```yaml\n" + block("name: x"))
    assert found.fields == {"name": "x"}
    assert places(found) == [
        ("W_LEADING_BLANK", 1, None),
        ("W_LEADING_COMMENT", 2, None),
        ("W_CODE_FENCED", 5, None),
    ]


def test_an_indented_block_keeps_its_place_in_the_file() -> None:
    found = read(b"  ---\n  name: x\n  description: a: b\n  ---\nBody.")
    assert found.fields == {"name": "x", "description": "a: b"}
    assert places(found) == [("W_INDENTED_BLOCK", 1, None), ("W_YAML_REPAIRED", 3, 17)]


def test_dots_close_too() -> None:
    found = read(b"---\nname: x\n...\nBody\n---\n")
    assert (found.fields, found.body, codes(found)) == ({"name": "x"}, "Body\n---\n", [])


@pytest.mark.parametrize("line", ["--", "-----", "====", "  ---"])
def test_an_odd_closing_line_closes_where_there_is_no_other(line: str) -> None:
    found = read(f"---\nname: x\n{line}\nBody\n".encode())
    assert (found.fields, found.body) == ({"name": "x"}, "Body\n")
    assert places(found) == [("W_ODD_CLOSE", 3, None)]


def test_without_a_closing_line_the_fields_end_where_prose_begins() -> None:
    found = read(b"---\nname: x\ntags:\n- a\n\nlicense: MIT\n\nNote: text\n\nMore: text")
    assert found.fields == {"name": "x", "tags": ["a"], "license": "MIT"}
    assert codes(found) == ["W_UNCLOSED"]
    assert found.body.strip() == "Note: text\n\nMore: text"


def test_a_rule_in_the_body_does_not_close_what_was_left_open() -> None:
    found = read(b"---\nname: x\ndescription: y\n\n# Title\n\nText: of the body\nmore\n\n---\n")
    assert found.fields == {"name": "x", "description": "y"}
    assert codes(found) == ["W_UNCLOSED"]
    assert found.body.lstrip().startswith("# Title")


def test_a_comment_in_the_block_is_no_heading() -> None:
    found = read(block("name: x", "", "# the rest", "license: MIT"))
    assert (found.fields, codes(found)) == ({"name": "x", "license": "MIT"}, [])


def test_a_rule_above_prose_opens_nothing() -> None:
    found = read(b"---\n- a point\n- another\n")
    assert (found.fields, codes(found)) == ({}, ["W_NO_FRONTMATTER"])


def test_known_keys_down_to_a_closing_line_need_no_opening_line() -> None:
    found = read(b"name: x\ndescription: y\n---\nBody\n")
    assert found.fields == {"name": "x", "description": "y"}
    assert (found.body, places(found)) == ("Body\n", [("W_NO_OPEN_FENCE", 1, None)])


def test_one_known_key_is_not_enough() -> None:
    assert read(b"name: x\n---\nBody\n").problems[0].code == "W_INLINE_META"
    assert read(b"Some: text\nmore: text\n---\nBody\n").problems[0].code == "W_NO_FRONTMATTER"


def test_a_plain_line_near_the_top_counts_without_a_block() -> None:
    found = read(b"# Title\n\ndescription: It: works\n\n## Steps\n")
    assert (found.fields, places(found)) == (
        {"description": "It: works"},
        [("W_INLINE_META", 3, None)],
    )
    assert found.body == "# Title\n\n\n## Steps\n"


def test_name_and_description_may_stand_in_one_line() -> None:
    found = read(b"A page\n\nname: pdf-readerdescription: Use it for PDF files.\n")
    assert found.fields == {"name": "pdf-reader", "description": "Use it for PDF files."}


def test_a_plain_line_in_a_code_fence_is_an_example() -> None:
    assert read(b"Text\n```\nname: x\n```\n").fields == {}


def test_without_a_block_all_is_body() -> None:
    found = read(b"Write the change log.\n")
    assert found == FrontMatter(
        {},
        "Write the change log.\n",
        (Problem("W_NO_FRONTMATTER", "the file has no front matter", line=1),),
    )


@pytest.mark.parametrize("lines", [[], ["# a comment"], ["~"], ["{}"]])
def test_an_empty_block_is_told(lines: list[str]) -> None:
    assert codes(read(block(*lines))) == ["W_EMPTY_FRONTMATTER"]


@pytest.mark.parametrize("line", ["- a", "text", "'text'", "[a, b]"])
def test_a_block_that_is_no_mapping_is_refused(line: str) -> None:
    problem = rejected(block(line))
    assert (problem.code, problem.line, problem.column) == ("E_NOT_A_MAPPING", 2, 1)


# Bounds


def test_a_block_is_bounded_in_bytes() -> None:
    filler = "é" * (BLOCK_LIMIT // 2 - 20)
    assert read(block("name: x", f"pad: {filler}")).fields["name"] == "x"
    assert rejected(block("name: x", f"pad: {filler}{filler[:20]}")).code == (
        "E_FRONTMATTER_TOO_LARGE"
    )


def test_a_block_that_never_ends_is_refused() -> None:
    data = (b"---\nname: huge\npad: " + b"a" * (10 << 20))[:READ_LIMIT]
    assert rejected(data).code == "E_FRONTMATTER_TOO_LARGE"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x: " + "[" * 17 + "]" * 17, "E_YAML_TOO_DEEP"),
        ("x: " + "[" * 5_000, "E_YAML_TOO_DEEP"),
        ("x:\n  " + "- " * 5_000, "E_YAML_TOO_DEEP"),
        ("".join(f"k{i}: {'[' * 900}`\n" for i in range(60)), "E_YAML_TOO_DEEP"),
        ("x: [" + "a," * 5_001 + "]", "E_YAML_TOO_MANY_NODES"),
        ("".join(f"k{i}: a: b\n" for i in range(5_000)), "E_YAML_TOO_MANY_NODES"),
        ("a: &a x\nb: [" + "*a," * 21 + "]", "E_YAML_ALIASES"),
        (
            "a: &a [" + "x," * 1_000 + "]\nb: [" + "*a," * 6 + "]",
            "E_YAML_ALIASES",
        ),
        (
            "a: &a " + "[" * 10 + "]" * 10 + "\nb: " + "[" * 8 + "*a" + "]" * 8,
            "E_YAML_TOO_DEEP",
        ),
        ("x: !!python/object/apply:os.system [a]", "E_YAML_TAG"),
        ("x: !include /etc/passwd", "E_YAML_TAG"),
        ("description: a: b\nx: !include /etc/passwd", "E_YAML_TAG"),
    ],
)
def test_what_goes_beyond_a_bound_gives_no_fields(text: str, code: str) -> None:
    data = block("name: x", *text.splitlines())
    for parser in (parse, parse_in_python):
        with pytest.raises(UnreadableError) as caught:
            read(data, parser)
        assert caught.value.problem.code == code


def test_the_bounds_leave_room() -> None:
    found = read(block("x: " + "[" * 14 + "a" + "]" * 14, "a: &a x", "b: [" + "*a," * 20 + "]"))
    assert found.fields["b"] == ["x"] * 20


def test_no_more_than_a_page_of_problems_is_told() -> None:
    found = read(block(*(f"k{number}: a: b" for number in range(200))))
    assert len(found.fields) == 200
    assert len(found.problems) == REPORT_LIMIT


# Recovery


def test_a_colon_in_a_value_is_kept_and_told_with_its_place() -> None:
    found = read(block("name: x", "description: Use when: asked. Note: rarely.", "license: MIT"))
    assert found.fields == {
        "name": "x",
        "description": "Use when: asked. Note: rarely.",
        "license": "MIT",
    }
    assert places(found) == [("W_YAML_REPAIRED", 3, 22)]


def test_an_example_is_text_whatever_its_lines_look_like() -> None:
    found = read(
        block(
            "description: Reviews. Examples:",
            "<example>",
            "user: do it",
            "name: not this",
            "</example>",
            "Context: more",
            "name: this",
        )
    )
    assert found.fields["name"] == "this"
    assert str(found.fields["description"]).endswith("</example>\nContext: more")


def test_an_example_that_is_never_closed_swallows_nothing() -> None:
    found = read(block("description: a: b", "<example>", "name: x", "tools: Read"))
    assert (found.fields["name"], found.fields["tools"]) == ("x", "Read")


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        (["x: [a] | b"], "[a] | b"),
        (["x: [a] [b]"], "[a] [b]"),
        (["x: *"], "*"),
        (["x: @home"], "@home"),
        (["x: `run` it"], "`run` it"),
        (['x: "never closed'], "never closed"),
        (['x: "Quoted" and more'], '"Quoted" and more'),
        (['x: "A" and "B"'], '"A" and "B"'),
        (['x: "say "hello" to it"'], 'say "hello" to it'),
        (["x: 'it''s: a' b"], "'it''s: a' b"),
        (["x: - Read"], ["Read"]),
        (["x: - Read", "  - Write: all"], ["Read", "Write: all"]),
        (["x:", "- a: b: c", '- "d" e', "  f"], ["a: b: c", '"d" e f']),
        (["x: a: b", "  c", "", "  d"], "a: b c\nd"),
        (["x: a: b", "flush left", "  c"], "a: b\nflush left\n  c"),
        (["x: |", "   a: b", "  c"], "a: b\n  c"),
        (["x: >-", "   a", "   b", "  c", "", "   d"], "a b c\nd"),
    ],
)
def test_a_value_that_is_not_yaml_is_read_as_it_was_meant(lines: list[str], value: Value) -> None:
    found = read(block("name: n", *lines, "license: MIT"))
    assert found.fields == {"name": "n", "x": value, "license": "MIT"}
    assert codes(found) == ["W_YAML_REPAIRED"]


def test_each_usual_cause_has_a_hint_of_its_own() -> None:
    told = {
        cause: [(problem.line, problem.hint) for problem in read(text).problems]
        for cause, text in {
            "Windows path": block("name: n", r'description: "Opens C:\Users\me"'),
            "asterisk title": block("name: n", "title: *Important* things"),
            "wiki link": block("name: n", "related: [[Home]] and [[Other]]"),
            "leading rule": b"---\n\n# A title\n\nText.\n",
            "anything else": block("name: n", "description: Use when: asked"),
        }.items()
    }

    assert [[line for line, _ in found] for found in told.values()] == [[3], [3], [3], [1], [3]]
    assert "single quotes" in told["Windows path"][0][1]
    assert "asterisk" in told["asterisk title"][0][1]
    assert "bracket" in told["wiki link"][0][1]
    assert "above the rule" in told["leading rule"][0][1]
    assert len({hint for [(_, hint)] in told.values()}) == len(told)


def test_metadata_is_recovered_field_by_field() -> None:
    found = read(block("metadata:", "  author: Ann: Example", "  version: 1", "name: x"))
    assert found.fields == {"metadata": {"author": "Ann: Example", "version": "1"}, "name": "x"}
    assert places(found) == [("W_YAML_REPAIRED", 3, 14)]


def test_metadata_may_be_json_that_is_not_indented() -> None:
    found = read(block("name: x", "metadata:", "{", '"a": {"b": 1}', "}"))
    assert found.fields == {"name": "x", "metadata": {"a": {"b": "1"}}}
    assert codes(found) == ["W_YAML_REPAIRED"]


def test_tabs_are_blanks_if_that_helps() -> None:
    found = read(block("metadata:", "\tauthor: A\tB", "\ttags:", "\t\t- x", "name: n"))
    assert found.fields == {"metadata": {"author": "A B", "tags": ["x"]}, "name": "n"}
    assert places(found) == [("W_TABS", 3, 1)]


def test_of_keys_that_are_repaired_the_first_counts_too() -> None:
    found = read(block("name: a: b", "name: c"))
    assert found.fields == {"name": "a: b"}
    assert places(found) == [("W_YAML_REPAIRED", 2, 8), ("W_DUPLICATE_KEY", 3, 1)]


def test_what_has_no_key_at_all_is_refused() -> None:
    problem = rejected(block("[ never closed", "text"))
    assert (problem.code, problem.line) == ("E_YAML", 3)


def test_messages_never_repeat_the_file() -> None:
    secret = "hunter2hunter2"
    for line in (
        f"{secret}: a: b",
        f"x: [{secret}",
        f"x: !{secret} y",
        f"x: *{secret}",
        "- " + secret,
    ):
        try:
            problems = read(block(line)).problems
        except UnreadableError as error:
            problems = (error.problem,)
        assert problems
        assert all(secret not in str(problem) for problem in problems)


@pytest.mark.parametrize("text", ["", "'", '"', "''", "'''", '"a', 'a"', "'a' b 'c'"])
def test_unquoting_never_fails(text: str) -> None:
    assert unquoted(text) in text or unquoted(text).replace("'", "") in text


# Laws

_PIECES = [
    *("name: ", "description: ", "tags: ", "metadata:\n  ", "tools: [", "k: v\n", "a", "b c", "1"),
    *(
        ": ",
        ":",
        "- ",
        "? ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        ",",
        "'",
        '"',
        "#",
        " #c",
        "|",
        ">",
        "|-\n ",
    ),
    *(
        "&x ",
        "*x",
        "<<: *x",
        "!t ",
        "!!str ",
        "!",
        "~",
        "null",
        "%",
        "@",
        "`",
        "\\",
        "\\n",
        "\\x07",
    ),
    *("\\ud83d", "\\U00110000", " ", "  ", "\n", "\n  ", "\n- ", "\n\n", "---", "...", "\n---\n"),
    *("é", "日本", "🚀", "\u00a0", "\u2028", "\t", "http://x?q", "it's", "<example>", "</example>"),
    *("user: ", "# H\n", "\n\n# H\n\ntext\n", "<!--", "-->", "```\n", "    ---\n", "\n-----\n"),
]
_TEXTS = st.lists(st.sampled_from(_PIECES), max_size=25).map("".join)
_FILES = st.one_of(
    st.binary(max_size=200),
    _TEXTS.map(str.encode),
    _TEXTS.map(lambda text: f"---\n{text}\n---\n# Body\n".encode()),
    _TEXTS.map(lambda text: f"---\na: {text}\n---\n".encode("utf-16")),
    st.builds(
        lambda text, rest: b"---\r\nname: x\r\n" + text.encode() + rest,
        _TEXTS,
        st.binary(max_size=9),
    ),
)
_lawful = settings(max_examples=400)


def outcome(data: bytes, parser: Parse = parse) -> FrontMatter | Problem:
    try:
        return read(data, parser)
    except UnreadableError as error:
        return error.problem


def texts(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif value is not None:
        assert isinstance(value, str)
        yield value


@_lawful
@given(_FILES)
@example(b"\x01\x02")
@example(b"---\n'\n---\n")
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    found = outcome(data)
    lines = data.count(b"\n") + data.count(b"\r") + 1
    for problem in found.problems if isinstance(found, FrontMatter) else [found]:
        assert problem.hint
        assert problem.line is None or 1 <= problem.line <= lines
        assert problem.column is None or 1 <= problem.column <= len(data) + 1


@_lawful
@given(_FILES)
def test_no_control_character_comes_through(data: bytes) -> None:
    found = outcome(data)
    if isinstance(found, FrontMatter):
        for text in (found.body, *texts(found.fields)):
            assert not any(ord(character) < 32 and character not in "\t\n" for character in text)
            text.encode()


@_lawful
@given(st.text(), st.text())
def test_a_file_that_is_written_as_json_strings_is_read_back(name: str, text: str) -> None:
    clean = str.maketrans(dict.fromkeys([*range(32), *range(127, 160), 0xFEFF, 0xFFFE, 0xFFFF]))
    name, text = name.translate(clean), text.translate(clean)
    quoted = [part.replace("\\", "\\\\").replace('"', '\\"') for part in (name, text)]
    if any("\u2028" in part or "\u2029" in part for part in quoted):
        return  # line breaks to YAML 1.1, which a quoted scalar folds
    found = read(block(f'name: "{quoted[0]}"', f'description: "{quoted[1]}"'))
    assert found.fields == {"name": name, "description": text}


@_lawful
@given(_FILES)
def test_the_short_cuts_give_the_same_result(data: bytes) -> None:
    assert outcome(data) == outcome(data, parse_in_python)


@_lawful
@given(_FILES)
@example(b"name: a\n\n# Heading\n\nText.\n---\nBody.\n")
def test_a_blank_behind_the_opening_line_changes_nothing(rest: bytes) -> None:
    # It leads past the short cut for usual blocks.
    plain, blank = outcome(b"---\n" + rest), outcome(b"--- \n" + rest)
    if isinstance(blank, FrontMatter) and blank.body.startswith("--- \n"):
        blank = blank._replace(body=blank.body.replace(" ", "", 1))  # it opened nothing
    assert plain == blank


@pytest.mark.skipif(CParser is None, reason="ruamel.yaml's C parser is not installed")
@_lawful
@given(_FILES)
def test_both_parsers_give_the_same_result(data: bytes) -> None:
    assert outcome(data, parse_with_events) == outcome(data, parse_in_python)


_MARKS = [*"a-?:,[]{}#&*!|>'\"%@` .=<~\\", "é", "日本", "\u0301", "\u200d", "null", "''", '""']
_WORDS = ["a", "b c", "a:b", "C# is", "it's", "it’s", "1.0", "~", "null", "", "'a, b'", '"c: d"']
_SCALARS = st.one_of(
    st.sampled_from(_WORDS), st.lists(st.sampled_from(_MARKS), max_size=5).map("".join)
)
_VALUES = st.one_of(
    _SCALARS,
    st.lists(_SCALARS, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    st.lists(_SCALARS, max_size=3).map(lambda items: "".join(f"\n  - {item}" for item in items)),
    st.builds("\n- {}\n{}- {}".format, _SCALARS, st.sampled_from(["", " "]), _SCALARS),
    st.builds("\n  x: {}\n{}y: {}".format, _SCALARS, st.sampled_from(["", " ", "  "]), _SCALARS),
)
_LINES = st.builds(
    "{}:{}{}{}\n".format,
    st.sampled_from(["name", "tags", "a", "b", "<<", "x y", "- a", ""]),
    st.sampled_from([" ", " ", " ", "", "  "]),
    _VALUES,
    st.sampled_from(["", "", " ", " # c", "\n", "\n  more"]),
)


@_lawful
@given(st.lists(_LINES, max_size=4).map("".join))
def test_what_is_read_line_by_line_a_parser_reads_the_same_way(text: str) -> None:
    found = parse_flat(text)
    assert found is None or found == parse_with_events(text) == parse_in_python(text)


def test_the_usual_front_matter_is_read_line_by_line() -> None:
    found = parse_flat(
        "name: pdf-tools\n"
        "description: Reads PDFs, and C# (see https://example.org/#top); don't ask – it's “fast”\n"
        "version: '1.0'\n"
        'title: "PDF: tools" \n'
        "license:\n"
        "author: null\n"
        "tags: [pdf, 'a, b', \"c: d\", ~]\n"
        "keywords: []\n"
        "tools:\n"
        "  - Read\n"
        "  - Bash(git:*)\n"
        "models:\n"
        "- opus\n"
        "metadata:\n"
        "  author: ada\n"
        "  version: '2.0'\n"
    )
    assert found is not None
    assert found.value == {
        "name": "pdf-tools",
        "description": "Reads PDFs, and C# (see https://example.org/#top); don't ask – it's “fast”",
        "version": "1.0",
        "title": "PDF: tools",
        "license": None,
        "author": None,
        "tags": ["pdf", "a, b", "c: d", None],
        "keywords": [],
        "tools": ["Read", "Bash(git:*)"],
        "models": ["opus"],
        "metadata": {"author": "ada", "version": "2.0"},
    }
    assert found.nodes == 34


@pytest.mark.parametrize(
    "text",
    [
        "k: a" + " " * 60_000 + ": b\n",
        "k: [a" + " " * 60_000 + "?]\n",
        "k: 'a'" + " " * 60_000 + "?\n",
        "k:" + " " * 60_000 + "?\n",
        "k:\n- a" + " " * 60_000 + ": b\n",
        "k:\n a: b" + " " * 60_000 + ": c\n",
        "k:\n" + " a: b\n" * 10_000 + "  c",
        "k: [" + "a, " * 20_000 + "?]\n",
        "k:\n" + "- a\n" * 15_000 + " ?\n",
    ],
)
def test_long_lines_are_given_up_at_once(text: str) -> None:
    start = time.process_time()
    assert parse_flat(text) is None
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "text",
    [
        "a: b\tc",
        "a: [b, c:d, http://x]",
        "a: ['q':]",
        "a: [x?]",
        "a: |#c\n  x",
        "a: >-\n \n  x",
        "a: x\u2028y: z",
        "a: &b c\nd: *b",
        "a: &🚀 b",
        "%YAML 1.2",
        "a: x\n--- y",
        "a: x\n... # y",
        "|\n\n# x",
        'a: "\\ud800"',
        'a: "\\UFFFFFFFF"',
        "a: '" + "[" * 70 + "'",
        "? [a]\n: b",
    ],
)
def test_where_the_parsers_differ_the_one_in_python_counts(text: str) -> None:
    def result(parser: Parse) -> Parsed | tuple[str, int]:
        try:
            return parser(text)
        except YamlError as error:
            return error.code, error.index

    assert result(parse) == result(parse_in_python)
    assert result(parse_with_events) == result(parse_in_python)
