"""What lies in a skill's folder beside its content, while the content is exchanged."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_artifact_cache import ArtifactManager
from flask_artifact_cache.errors import RefusedError
from flask_artifact_cache.files import carrying, staging
from flask_artifact_cache.files.editing import Editor
from flask_artifact_cache.files.sources import Fetched
from flask_artifact_cache.files.staging import by_renames, exchange

HEAD = "---\nname: pdf\ndescription: Reads PDF files.\n---\n"
FOLDERS = ("", "scripts/", "scripts/inner/", "data/")
# No name of one is a name of another, so that what is new never stands in the way.
CONTENT = ("a.md", "b.py", ".keep", "lib/x.txt")
BESIDE = (
    *(".git/config", ".git/objects/ab/cd", "node_modules/x/index.js", "__pycache__/b.pyc"),
    *(".venv/bin/python", "own-env/pyvenv.cfg", "own-env/lib/x.txt", "a.md~", ".DS_Store"),
    *("a.sync-conflict-1.md", "a (Ada's conflicted copy).md", ".a.md.swp"),
)
LINKS = ("@SKILL.md", "@../../..", "@nowhere", "@/etc/passwd")


def whole_environments(tree):
    """Only its configuration makes a folder of any name a virtual environment."""
    tops = [path.partition("own-env/")[0] for path in tree if "own-env/" in path]
    return {**tree, **{f"{top}own-env/pyvenv.cfg": "home = /usr" for top in tops}}


content = st.dictionaries(
    st.builds("{}{}".format, st.sampled_from(FOLDERS), st.sampled_from(CONTENT)),
    st.text("xyz", max_size=3),
    max_size=6,
)
beside = st.dictionaries(
    st.builds("{}{}".format, st.sampled_from(FOLDERS), st.sampled_from(BESIDE)),
    st.text("xyz", max_size=3),
    max_size=8,
).map(whole_environments)
links = st.dictionaries(
    st.builds("{}{}".format, st.sampled_from(FOLDERS), st.sampled_from(("link", ".#a", "venv"))),
    st.sampled_from(LINKS),
    max_size=3,
)


def write(folder, tree):
    """Make files, and links where the text begins with an @."""
    for path, text in tree.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("@"):
            (folder / path).symlink_to(text[1:])
        else:
            (folder / path).write_text(text, encoding="utf-8")
    return folder


def read(folder):
    """As :func:`write` takes it; folders with nothing in them are not told."""
    tree = {}
    for path, _, names in os.walk(folder):
        for name in (*names, *(one for one in os.listdir(path) if Path(path, one).is_symlink())):
            file = Path(path, name)
            said = file.relative_to(folder).as_posix()
            tree[said] = f"@{file.readlink()}" if file.is_symlink() else file.read_text("utf-8")
    return tree


def upstream(folder, sha, tree):
    url = f"https://github.com/o/r/tree/{sha}/pdf"
    return Fetched(write(folder, tree), "pdf", "skill", "github", url, "latest", sha)


class World:
    """A collection with one skill from GitHub, in which somebody has worked."""

    def __init__(self, top, old, worked):
        self.top = Path(top)
        self.root = self.top / "collection"
        self.root.mkdir()
        self.skill = self.root / "skills/pdf"
        self.manager = ArtifactManager(self.root)
        self.manager.add(upstream(self.top / "old", "1" * 40, old))
        write(self.skill, worked)

    def new(self, tree):
        return upstream(self.top / "new", "2" * 40, tree)

    def editor(self, exchange):
        """One that exchanges things in another way."""
        return Editor(self.manager, exchange=exchange)

    def stages(self):
        return [one for one in os.listdir(self.root / ".artifact-cache") if "stage" in one]


@pytest.fixture
def world(tmp_path):
    return lambda old, worked: World(tmp_path, {"SKILL.md": HEAD, **old}, worked)


ways = pytest.mark.parametrize("exchange", [exchange, by_renames])


@settings(max_examples=60)
@given(old=content, worked=beside, linked=links, new=content, left=beside, whole=st.booleans())
def test_content_becomes_that_of_upstream_and_all_else_stays(old, worked, linked, new, left, whole):
    new = {"SKILL.md": HEAD + "New.", **new}
    kept = {**worked, **linked}
    with tempfile.TemporaryDirectory() as top:
        world = World(top, {"SKILL.md": HEAD, **old}, kept)
        editor = world.editor(exchange if whole else by_renames)
        before = world.manager.drift()

        # What tools have left behind in the source is not content either.
        [change] = editor.follow([world.new({**left, **new})]).changes

        assert change.change == "updated"
        assert read(world.skill) == {**new, **kept}
        assert before == world.manager.drift() == ()
        assert world.stages() == []


@pytest.mark.parametrize("act", ["follow", "update"])
def test_what_is_carried_over_is_moved_not_copied(world, act):
    made = world({"scripts/run.py": "1"}, {".git/HEAD": "ref", "scripts/__pycache__/run.pyc": "1"})
    inodes = [(made.skill / one).stat().st_ino for one in (".git/HEAD", "scripts/__pycache__")]
    new = made.new({"SKILL.md": HEAD + "New."})

    made.manager.follow([new]) if act == "follow" else made.manager.update(new)

    assert [
        (made.skill / one).stat().st_ino for one in (".git/HEAD", "scripts/__pycache__")
    ] == inodes
    assert not (made.skill / "scripts/run.py").exists()


@ways
@pytest.mark.parametrize("mode", [0o2775, 0o700])
def test_the_folder_keeps_its_group_and_permissions(world, exchange, mode):
    made = world({}, {"scripts/a~": "a"})
    group = 12_345 if os.geteuid() == 0 else os.getegid()
    os.chown(made.skill, -1, group)
    made.skill.chmod(mode)

    made.editor(exchange).follow([made.new({"SKILL.md": HEAD + "New."})])

    assert read(made.skill)["SKILL.md"] == HEAD + "New."
    info = made.skill.stat()
    assert (stat.S_IMODE(info.st_mode), info.st_gid) == (mode, group)


def test_links_are_carried_as_links_and_lead_nowhere_else(world, tmp_path):
    outside = write(tmp_path / "outside", {"__pycache__/x": "x", ".git/HEAD": "ref", "a~": "a"})
    made = world({}, {"far": f"@{outside}", "scripts/far": f"@{outside}"})
    before = read(outside)

    made.manager.update(made.new({"SKILL.md": HEAD + "New."}))

    for link in (made.skill / "far", made.skill / "scripts/far"):
        assert link.readlink() == outside
    assert read(outside) == before


@pytest.mark.parametrize(
    ("worked", "new"),
    [
        ({"scripts/__pycache__/x.pyc": "x"}, {"scripts": "A file now."}),
        ({"node_modules/x.js": "x"}, {"node_modules": "A file now."}),
        ({"a~": "x"}, {"a~/b.md": "A folder now."}),
        ({"link.md": "@SKILL.md"}, {"link.md": "A file now."}),
    ],
)
def test_what_has_no_place_in_the_new_one_is_not_lost(world, worked, new):
    made = world({"b.md": "b"}, {".git/HEAD": "ref", **worked})
    before = read(made.skill)
    fetched = made.new({"SKILL.md": HEAD + "New.", **new})

    followed = made.manager.follow([fetched])

    [said] = followed.failed.values()
    assert "cannot be kept beside what is new" in said
    assert read(made.skill) == before
    with pytest.raises(RefusedError, match="move it away"):
        made.manager.update(fetched)
    assert read(made.skill) == before
    assert made.manager.drift() == ()
    assert made.stages() == []


def test_a_virtual_environment_of_any_name_is_no_content(world, tmp_path):
    made = world({}, {})
    env = {"env/pyvenv.cfg": "home = /usr", "env/bin/python": "@/usr/bin/python"}

    made.manager.update(made.new({"SKILL.md": HEAD + "New.", **env}))

    assert read(made.skill) == {"SKILL.md": HEAD + "New."}


# --- what somebody does meanwhile -----------------------------------------------------------------


def around(exchange, before=None, after=None):
    """Let somebody work just before or after the first exchange."""
    done = []

    def exchanged(*given):
        if before and not done:
            before()
        exchange(*given)
        if after and not done:
            after()
        done.append(given)

    return exchanged


edits = pytest.mark.parametrize(
    "edit",
    [
        lambda skill: write(skill, {"SKILL.md": HEAD + "Mine."}),
        lambda skill: write(skill, {"mine.md": "Mine."}),
        lambda skill: (skill / "b.md").unlink(),
        lambda skill: (skill / "b.md").rename(skill / "c.md"),
    ],
    ids=["changed", "new", "gone", "renamed"],
)


@edits
@ways
def test_an_edit_that_comes_just_before_the_exchange_is_kept(world, edit, exchange):
    made = world({"b.md": "b"}, {".git/HEAD": "ref", "a~": "a"})
    edited = []

    def work():
        edit(made.skill)
        edited.append(read(made.skill))

    editor = made.editor(around(exchange, work))

    followed = editor.follow([made.new({"SKILL.md": HEAD + "New.", "b.md": "b"})])

    assert (followed.changes, followed.kept, followed.failed) == ((), (("skill", "pdf"),), {})
    # For the instant of the exchange, what is no content is not in the old one.
    assert read(made.skill) == {**edited[0], ".git/HEAD": "ref", "a~": "a"}
    assert [one.kind for one in made.manager.drift()] == ["modified"]
    assert made.stages() == []


@ways
def test_an_edit_of_a_command_is_kept_as_well(tmp_path, exchange):
    manager = ArtifactManager(tmp_path / "collection")
    source, place = tmp_path / "tidy.md", tmp_path / "collection/commands/tidy.md"
    source.write_text("Old.", encoding="utf-8")
    (tmp_path / "collection").mkdir()
    fetched = Fetched(source, "tidy", "command", "github", "https://github.com/o/r", "latest", "1")
    manager.add(fetched)
    source.write_text("New.", encoding="utf-8")
    editor = Editor(manager, exchange=around(exchange, lambda: place.write_text("Mine.")))

    assert editor.follow([fetched]).kept == (("command", "tidy"),)
    assert place.read_text("utf-8") == "Mine."
    assert editor.follow([fetched], replace=True).kept == ()
    assert place.read_text("utf-8") == "New."


def test_what_comes_before_and_after_the_exchange_is_lost_neither(world):
    made = world({}, {})

    def save(text):
        return lambda: write(made.skill, {"SKILL.md": HEAD + text})

    made.editor(around(exchange, save("First."), save("Second."))).follow(
        [made.new({"SKILL.md": HEAD + "New."})]
    )

    assert read(made.skill) == {"SKILL.md": HEAD + "First."}
    made.manager.note({})
    [stage] = made.stages()
    aside = made.root / f".artifact-cache/{stage}/0/skills/pdf/SKILL.md"
    assert aside.read_text("utf-8") == HEAD + "Second."


@ways
def test_what_tools_leave_just_before_the_exchange_is_carried_over(world, exchange):
    made = world({}, {".git/HEAD": "ref"})
    late = {".SKILL.md.swp": "x", "scripts/__pycache__/run.pyc": "x", "link": "@SKILL.md"}
    editor = made.editor(around(exchange, lambda: write(made.skill, late)))

    assert len(editor.follow([made.new({"SKILL.md": HEAD + "New."})]).changes) == 1

    assert read(made.skill) == {"SKILL.md": HEAD + "New.", ".git/HEAD": "ref", **late}
    assert made.stages() == []


def test_what_tools_make_anew_meanwhile_stays_aside(world):
    made = world({}, {".git/HEAD": "ref"})
    anew = {".git/HEAD": "anew"}
    editor = made.editor(around(exchange, lambda: write(made.skill, anew)))

    assert len(editor.follow([made.new({"SKILL.md": HEAD + "New."})]).changes) == 1

    assert read(made.skill) == {"SKILL.md": HEAD + "New.", ".git/HEAD": "ref"}
    [stage] = made.stages()
    assert read(made.root / f".artifact-cache/{stage}/0/skills/pdf/.git") == {"HEAD": "anew"}


def test_an_edit_outlives_one_that_is_killed_before_it_has_looked(world):
    made = world({}, {})

    def killed():
        raise Died

    def edit():
        write(made.skill, {"SKILL.md": HEAD + "Mine."})

    new = made.new({"SKILL.md": HEAD + "New."})
    with pytest.raises(Died):
        made.editor(around(exchange, edit, killed)).follow([new])

    made.manager.follow([new])

    assert read(made.skill) == {"SKILL.md": HEAD + "New."}
    assert made.manager.drift() == ()
    [stage] = made.stages()
    aside = made.root / f".artifact-cache/{stage}/0/skills/pdf/SKILL.md"
    assert aside.read_text("utf-8") == HEAD + "Mine."


# --- what dies ------------------------------------------------------------------------------------


class Died(BaseException):
    """Stands for a process that is killed: nothing of ours catches it."""


def die_at(step, patch, exchange=exchange):
    """Let the process die at a rename; from then on it does nothing any more.

    :returns: how it exchanges things until then.
    """
    left = step

    def counted(act):
        def acted(*arguments, **keywords):
            nonlocal left
            if left <= 0:
                raise Died
            left -= 1
            return act(*arguments, **keywords)

        return acted

    for name in ("rename", "unlink"):
        patch.setattr(os, name, counted(getattr(os, name)))
    # A process that is killed cleans nothing up.
    patch.setattr(staging, "discard", lambda folder, name: None)
    return counted(exchange)


@settings(max_examples=60)
@given(
    old=content,
    worked=beside,
    new=content,
    step=st.integers(0, 16),
    again=st.integers(0, 16),
    whole=st.booleans(),
)
def test_whenever_it_dies_the_next_change_makes_it_whole(old, worked, new, step, again, whole):
    old, new = {"SKILL.md": HEAD, **old}, {"SKILL.md": HEAD + "New.", **new}
    with tempfile.TemporaryDirectory() as top:
        world = World(top, old, worked)
        fetched = world.new(new)
        # Whoever mends may die, too.
        acts = ((step, lambda editor: editor.follow([fetched])), (again, lambda one: one.note({})))
        for steps, act in acts:
            with pytest.MonkeyPatch.context() as dying, suppress(Died):
                act(world.editor(die_at(steps, dying, exchange if whole else by_renames)))

        world.manager.note({})

        assert read(world.skill) in ({**old, **worked}, {**new, **worked})
        assert world.stages() == []
        world.manager.follow([fetched])
        assert read(world.skill) == {**new, **worked}
        assert world.manager.drift() == ()


def test_what_somebody_has_made_meanwhile_is_not_written_over(world, monkeypatch):
    made = world({}, {".git/HEAD": "old", "a~": "a"})
    fetched = made.new({"SKILL.md": HEAD + "New."})
    with monkeypatch.context() as dying, suppress(Died):
        made.editor(die_at(2, dying)).follow([fetched])
    assert read(made.skill) == {"SKILL.md": HEAD}
    write(made.skill, {".git/HEAD": "made anew"})

    for _ in range(2):
        made.manager.note({})

    assert read(made.skill) == {"SKILL.md": HEAD, ".git/HEAD": "made anew", "a~": "a"}
    # Nothing of it is lost; whoever moves it away is rid of it.
    [stage] = made.stages()
    aside = made.root / f".artifact-cache/{stage}/0/skills/pdf/.git"
    assert (aside / "HEAD").read_text("utf-8") == "old"
    shutil.rmtree(aside)
    made.manager.note({})
    assert made.stages() == []


def test_no_copy_tells_what_to_put_back(world):
    """What a skill brings is not taken for what its writer has noted."""
    made = world({}, {})
    hidden = {".target": "skills/evil", ".old/SKILL.md": HEAD}
    stage = made.root / ".artifact-cache/stage-of-one-that-died/0"
    write(stage / ".seen", hidden)

    made.manager.note({})

    assert sorted(os.listdir(made.root / "skills")) == ["pdf"]
    assert made.stages() == []


@pytest.mark.parametrize("note", [b"\xff\xfe", b"skills/\xff", b"../evil", b"/etc", b"skills/\x00"])
def test_a_note_that_says_nothing_fails_nothing(world, note):
    made = world({}, {})
    stage = made.root / ".artifact-cache/stage-of-one-that-died"
    for number in "02":
        shelf = write(stage / number / "skills", {"pdf/a~": "a"})
        (shelf / ".target").write_bytes(note)
    write(stage / "1/skills", {".old/SKILL.md": "Moved aside.", ".target": "skills/other"})

    assert len(made.manager.follow([made.new({"SKILL.md": HEAD + "New."})]).changes) == 1

    assert read(shelf / "pdf") == {"a~": "a"}
    assert read(made.root / "skills/other") == {"SKILL.md": "Moved aside."}


def test_what_cannot_be_listed_moves_nothing(tmp_path):
    write(tmp_path, {"from/x": "x"})
    (tmp_path / "link").symlink_to(tmp_path / "from")

    with pytest.raises(RefusedError):
        carrying.carry(tmp_path, ("link", "x"), ("to",))
    assert carrying.carry(tmp_path, ("from", "x"), ("to",)) == []
    assert not (tmp_path / "to").exists()
