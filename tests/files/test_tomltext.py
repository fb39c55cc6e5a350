"""One table of a document says something else, and the bytes of all others stay."""

from __future__ import annotations

import copy
import os
import sys

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_artifact_cache.files import tomltext
from flask_artifact_cache.files.tomltext import CannotEditError, by_block, rewritten

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

lawful = settings(max_examples=int(os.environ.get("EXAMPLES", "100")))

# What an entry may hold beside its name and type, each on lines of its own.
LINES = (
    'path = "skills/x"',
    "# a comment\ncommented = 1.5",
    "",
    "odd = { a = 1, b = [1, 2] } # odd",
    "tags = [\n    'a', # why\n    \"b\",\n]",
    "matrix = [\n    [1, 2],\n    [3],\n]",
    'description = """\nof two\nlines\n"""',
    "when = 2026-01-01T00:00:00Z",
)
# What looks like a header and is none.
TRAPS = (
    'text = """\n[[artifacts]]\nname = "n0"\n"""',
    "text = '''\n[collection]\n'''",
    "list = [\n[1],\n]",
)
PARTS = (
    "",
    '[artifacts.metadata]\ntitle = "T" # said\n',
    '[artifacts.metadata]\n\n[artifacts.metadata.extra]\nname = "x"\n',
    "[[artifacts.metadata.linked]]\na = 1\n[[artifacts.metadata.linked]]\na = 2\n\n",
)
OTHERS = (
    '[[groups]]\nname = "g"\n\n',
    "# of servers\n[[mcp_servers]]\nname = 's'\n[mcp_servers.env_vars]\nA = 'b'\n",
    "[odd.table] # so\n x = 1\n",
)


@st.composite
def entries(draw, number, lines):
    comment = draw(st.sampled_from(("", "# above\n")))
    # No key twice.
    body = draw(st.lists(st.sampled_from(lines), unique_by=lambda line: line.split(" ")[0] or line))
    text = "".join(f"{line}\n" for line in body)
    end = draw(st.sampled_from(("", "\n", "# below\n\n")))
    part = draw(st.sampled_from(PARTS))
    return f'{comment}[[artifacts]]\nname = "n{number}"\ntype = "skill"\n{text}{part}{end}'


@st.composite
def documents(draw, lines=LINES):
    """The blocks of a document: the head, the entries, and what follows."""
    top = draw(st.sampled_from(("", "# mine\n", "future = 1\n\n")))
    head = top + '[collection]\nname = "c"\nupdated = "old" # then\n\n'
    count = draw(st.integers(1, 4))
    listed = [draw(entries(number, lines)) for number in range(count)]
    return head, listed, draw(st.lists(st.sampled_from(OTHERS), unique=True))


values = st.one_of(st.text(max_size=8), st.lists(st.text(max_size=3)), st.integers())


@st.composite
def edits(draw, count):
    """For each entry whether it stays (None), goes (False), or what is put into it."""
    fields = st.dictionaries(st.sampled_from(("path", "tags", "new")), values, min_size=1)
    each = [draw(st.one_of(st.none(), st.just(False), fields)) for _ in range(count)]
    added = draw(st.lists(fields, max_size=2))
    return each, added, draw(st.booleans())


def edited(before, each, added, touched):
    after = copy.deepcopy(before)
    for entry, edit in zip(after["artifacts"], each, strict=True):
        if edit:
            entry.update(edit)
            entry.setdefault("metadata", {}).update(version="2")
    after["artifacts"] = [
        entry for entry, edit in zip(after["artifacts"], each, strict=True) if edit is not False
    ]
    after["artifacts"] += [
        {"name": f"a{number}", "type": "skill", **fields, "metadata": {"title": "New"}}
        for number, fields in enumerate(added)
    ]
    if touched:
        after["collection"]["updated"] = "now"
    return after


@lawful
@given(st.data())
def test_by_block_is_as_a_whole_and_other_blocks_keep_their_bytes(data):
    head, listed, others = data.draw(documents())
    each, added, touched = data.draw(edits(len(listed)))
    text = "".join((head, *listed, *others))
    before = tomllib.loads(text)
    after = edited(before, each, added, touched)
    if not after["artifacts"]:
        with pytest.raises(CannotEditError):
            by_block(text, before, after)
        assert tomllib.loads(rewritten(text, before, after)) == after
        return

    written = by_block(text, before, after)

    assert tomllib.loads(written) == after
    assert rewritten(text, before, after) == written
    kept = [head.replace('"old"', '"now"') if touched else head]
    kept += [block for block, edit in zip(listed, each, strict=True) if edit is None]
    place = 0
    for block in (*kept, *others):
        # Lines right above a header are about what follows, so they go with that.
        body = block.rstrip("\n").removeprefix("# above\n")
        found = written.find(body, place)
        assert found >= place, (body, written)
        place = found + len(body)


@lawful
@given(st.data())
def test_what_looks_like_a_header_leads_nowhere(data):
    head, listed, others = data.draw(documents(LINES + TRAPS))
    each, added, touched = data.draw(edits(len(listed)))
    text = "".join((head, *listed, *others))
    before = tomllib.loads(text)
    after = edited(before, each, added, touched)

    assert tomllib.loads(rewritten(text, before, after)) == after


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_entry_that_goes_leaves_the_text_as_if_it_had_not_been(end):
    head = "# mine\n\n[collection]\nname = 'c'\n\n"
    first = "# the first\n[[artifacts]]\nname = 'a'\n\n"
    second = (
        "# the second,\n# in two lines\n[[artifacts]]\nname = 'b'\n[artifacts.metadata]\nx = 1\n\n"
    )
    third = "# the third\n[[artifacts]]\nname = 'c'\n# done\n"
    blocks = [block.replace("\n", end) for block in (head, first, second, third)]
    before = tomllib.loads("".join(blocks))

    for index in (1, 2, 3):
        after = copy.deepcopy(before)
        del after["artifacts"][index - 1]
        left = "".join(blocks[:index] + blocks[index + 1 :])
        assert by_block("".join(blocks), before, after) == left


def test_a_comment_at_the_top_is_about_all(tmp_path):
    text = "# of the team,\n# kept by hand\n[[artifacts]]\nname = 'a'\n[[artifacts]]\nname = 'b'\n"
    before = tomllib.loads(text)

    written = by_block(text, before, {"artifacts": [{"name": "b"}]})

    assert written == "# of the team,\n# kept by hand\n[[artifacts]]\nname = 'b'\n"


@pytest.mark.parametrize(
    "text",
    [
        'artifacts = [{name = "n", type = "skill"}, {name = "m"}]\n[collection]\nname = "c"\n',
        '[[ artifacts ]]\nname = "n"\ntype = "skill"\n[["artifacts"]]\nname = "m"\n[collection]\n',
        '  [[artifacts]]\n  name = "n"\n  type = "skill"\n  [[artifacts]]\n  name = "m"\n',
        'collection.name = "c"\n[[artifacts]]\nname = "n"\ntype = "skill"\n[[artifacts]]\na = 1\n',
    ],
    ids=["inline", "spaced and quoted", "indented", "dotted"],
)
def test_what_is_written_in_an_unusual_way_is_edited_as_a_whole(text):
    before = tomllib.loads(text)
    after = copy.deepcopy(before)
    after["artifacts"][0]["tags"] = ["a"]
    after["artifacts"].append({"name": "o", "type": "agent"})
    after["collection"] = {**after.get("collection", {}), "updated": "now"}

    with pytest.raises(CannotEditError):
        by_block(text, before, after)
    assert tomllib.loads(rewritten(text, before, after)) == after


def test_a_lock_is_edited_by_its_entries():
    text = (
        '[lock]\nversion = "1"\n\n[lock.entries."a::skill"] # kept\nhash = "1"\n\n'
        '[lock.entries."b::skill"]\nhash = "2"\n\n[more]\nx = 1\n'
    )
    before = tomllib.loads(text)
    after = copy.deepcopy(before)
    entries = after["lock"]["entries"]
    del entries["b::skill"]
    entries["c::skill"] = {"hash": "3"}
    entries["a::skill"]["hash"] = "4"

    assert by_block(text, before, after) == (
        '[lock]\nversion = "1"\n\n[lock.entries."a::skill"] # kept\nhash = "4"\n\n'
        '[lock.entries."c::skill"]\nhash = "3"\n\n[more]\nx = 1\n'
    )


def test_tables_with_the_same_name_are_told_apart_by_where_they_are():
    one, other, new = {"name": "a", "x": 1}, {"name": "a", "x": 2}, {"name": "b"}

    assert tomltext.paired([one, other, new], [other, new]) == [(1, 0), (2, 1)]
    assert tomltext.paired([one, other, new], [one, new]) == [(0, 0), (2, 1)]
    assert tomltext.paired([one, new], [other, new]) == [(0, 0), (1, 1)]
    assert tomltext.paired([one, new], [new, other]) == [(1, 0)]


def test_tomlkit_sees_nothing_but_what_changes(monkeypatch):
    given_ = []
    parse = tomlkit.parse
    monkeypatch.setattr(tomltext.tomlkit, "parse", lambda text: given_.append(text) or parse(text))
    text = '[collection]\nupdated = "then"\n\n' + "".join(
        f'[[artifacts]]\nname = "n{number}"\n[artifacts.metadata]\nx = 1\n\n'
        for number in range(500)
    )
    before = tomllib.loads(text)
    after = copy.deepcopy(before)
    after["collection"]["updated"] = "now"
    after["artifacts"][250]["path"] = "x"
    del after["artifacts"][100]
    after["artifacts"].append({"name": "new"})

    assert tomllib.loads(rewritten(text, before, after)) == after
    assert [one.split("\n")[0] for one in given_] == ["[collection]", "[[artifacts]]"]
    assert all(len(one) < 100 for one in given_)
