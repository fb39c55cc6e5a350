"""What a glance takes for unchanged, a walk would find unchanged."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifact_cache_daemon.evidence import COARSE_S, Known, Walk, stamp
from artifact_cache_daemon.glance import WHOLE_S, Glance
from artifact_cache_daemon.watcher import compare

from .conftest import Clock, Folder


class Looker:
    """Walks and glances as the daemon does; what is known is what the last walk has seen."""

    def __init__(self, root, clock, **options):
        self.root = str(root)
        self.clock = clock
        self.options = options
        self.beats = 0
        self.glance = Glance(self.root, clock=clock, beat=self.beat)
        self.known = Known()

    def beat(self):
        self.beats += 1

    def walk(self):
        """How many files differ from what was known."""
        began = self.clock()
        walk = Walk(self.root, **self.options)
        changes, _ = compare(self.known, walk, walk.hides)
        self.known.update(changes)
        self.glance.remember(walk, began, agrees=not changes)
        return len(changes)

    def be_sure(self):
        """Walk until a glance does."""
        for _ in range(3):
            self.walk()
            self.clock.pass_(COARSE_S)
        assert self.agrees

    @property
    def agrees(self):
        return self.glance.agrees(self.known)


@pytest.fixture
def looker(folder, clock):
    folder.write("skills/pdf/SKILL.md")
    folder.write("skills/pdf/scripts/run.py")
    folder.write("commands/a.md")
    folder.write("node_modules/x/SKILL.md")
    folder.write("env/pyvenv.cfg")
    folder.write("env/SKILL.md")
    for path in ("agents", "hooks/empty"):
        (folder.root / path).mkdir(parents=True)
    (folder.root / "link.md").symlink_to("commands/a.md")
    (folder.root / "dangling.md").symlink_to("node_modules/y/SKILL.md")
    (folder.root / "folder").symlink_to("skills")
    looker = Looker(folder.root, clock)
    looker.be_sure()
    folder.tick()
    return looker


def rewrite(root):
    """The same size and the same mtime as before."""
    file = root / "commands/a.md"
    before = file.stat()
    file.write_text("TEXT")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def swap(root):
    """The same folder in another place, and a link to it where it was."""
    (root / "skills").rename(root.parent / "elsewhere")
    (root / "skills").symlink_to(root.parent / "elsewhere")


def restore(root):
    """Another folder with the same times."""
    before = (root / "skills/pdf").stat()
    shutil.copytree(root / "skills/pdf", root.parent / "copy")
    (root.parent / "copy/new.md").write_text("new")
    shutil.rmtree(root / "skills/pdf")
    (root.parent / "copy").rename(root / "skills/pdf")
    os.utime(root / "skills/pdf", ns=(before.st_atime_ns, before.st_mtime_ns))


EDITS = {
    "edit": lambda root: (root / "skills/pdf/scripts/run.py").write_text("longer than it was"),
    "rewrite": rewrite,
    "truncate": lambda root: (root / "commands/a.md").write_text(""),
    "touch": lambda root: os.utime(root / "commands/a.md"),
    "forbid": lambda root: (root / "commands/a.md").chmod(0o600),
    "create": lambda root: (root / "commands/b.md").write_text("text"),
    "create in an empty folder": lambda root: (root / "agents/b.md").write_text("text"),
    "create a folder": lambda root: (root / "hooks/empty/b").mkdir(),
    "delete": lambda root: (root / "commands/a.md").unlink(),
    "delete a folder": lambda root: shutil.rmtree(root / "skills/pdf"),
    "delete an empty folder": lambda root: (root / "hooks/empty").rmdir(),
    "rename": lambda root: (root / "commands/a.md").rename(root / "commands/b.md"),
    "replace": lambda root: (root / "skills/pdf/SKILL.md").rename(root / "commands/a.md"),
    "a file for a folder": lambda root: ((root / "agents").rmdir(), (root / "agents").touch()),
    "the root": lambda root: (root.rename(root.parent / "other"), root.mkdir()),
    "no root": lambda root: root.rename(root.parent / "other"),
    "a link for a folder": swap,
    "another folder": restore,
    "what a link leads to": lambda root: (root / "commands/a.md").write_text("more"),
    "where a link leads": lambda root: (
        (root / "link.md").unlink(),
        (root / "link.md").symlink_to("skills/pdf/SKILL.md"),
    ),
    "a link that leads somewhere now": lambda root: (
        (root / "node_modules/y").mkdir(),
        (root / "node_modules/y/SKILL.md").write_text("text"),
    ),
    "no environment any more": lambda root: (root / "env/pyvenv.cfg").unlink(),
}


@pytest.mark.parametrize("edit", EDITS)
def test_it_does_not_pass_over(edit, looker, folder):
    EDITS[edit](folder.root)

    assert not looker.agrees


def test_it_passes_over_what_a_walk_passes_over(looker, folder):
    folder.write("node_modules/x/SKILL.md", "other")
    folder.write("env/SKILL.md", "other")

    assert looker.agrees
    assert looker.walk() == 0


def test_it_needs_a_list_of_each_folder_that_was_made_a_step_after_its_times_were_seen(
    folder, clock
):
    folder.write("a.md")
    looker = Looker(folder.root, clock)
    assert not looker.agrees
    looker.walk()
    assert not looker.agrees
    clock.pass_(COARSE_S - 0.1)
    looker.walk()
    assert not looker.agrees
    clock.pass_(0.2)
    assert not looker.agrees
    looker.walk()
    assert looker.agrees


def test_a_link_that_stops_counting_is_no_reason_to_list_for_ever(folder, clock):
    folder.write("node_modules/x/a.md")
    (folder.root / "links").mkdir()
    (folder.root / "links/a.md").symlink_to("../node_modules/x/a.md")
    looker = Looker(folder.root, clock)
    looker.be_sure()
    folder.remove("node_modules/x/a.md")
    assert not looker.agrees
    looker.be_sure()


def test_it_is_not_relied_on_for_long(looker, clock):
    clock.pass_(WHOLE_S - COARSE_S - 0.1)
    assert looker.agrees
    clock.pass_(0.1)
    assert not looker.agrees
    looker.walk()
    assert looker.agrees


def test_after_a_walk_that_found_something_it_is_sure_only_of_the_next(looker, folder, clock):
    folder.write("commands/a.md", "edited in place")
    assert looker.walk() == 2
    assert not looker.agrees
    clock.pass_(COARSE_S)
    looker.walk()
    assert looker.agrees


def test_it_is_not_sure_where_a_walk_did_not_see_everything(folder, clock):
    folder.write("a/b/c.md")
    looker = Looker(folder.root, clock, max_depth=1)
    for _ in range(3):
        looker.walk()
        clock.pass_(COARSE_S)
        assert not looker.agrees


def test_it_beats_for_each_folder_and_link(looker):
    looker.beats = 0
    assert looker.agrees
    # The root, skills, pdf and scripts, commands, agents, hooks and empty, env; two links.
    assert looker.beats == 11


@pytest.mark.parametrize("field", ["st_ino", "st_dev", "st_mtime_ns", "st_ctime_ns"])
def test_a_folder_that_differs_in_anything_has_another_stamp(field):
    before = {"st_ino": 1, "st_dev": 2, "st_mtime_ns": 3, "st_ctime_ns": 4}
    after = before | {field: 5}

    assert stamp("a", SimpleNamespace(**before)) == stamp("a", SimpleNamespace(**before))
    assert stamp("a", SimpleNamespace(**before)) != stamp("a", SimpleNamespace(**after))
    assert stamp("a", SimpleNamespace(**before)) != stamp("b", SimpleNamespace(**before))


NAMES = st.sampled_from(("a", "b", "b.md", "c.md", "node_modules", "pyvenv.cfg", "x~"))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
OPERATIONS = st.one_of(
    st.tuples(st.just("write"), PATHS),
    st.tuples(st.just("delete"), PATHS),
    st.tuples(st.just("move"), PATHS, PATHS),
    st.tuples(st.just("link"), PATHS, PATHS),
    st.tuples(st.just("wait"), st.sampled_from((0.5, COARSE_S, 5.0))),
)


def operate(root, clock, kind, first, second=None):
    place = root / str(first)
    try:
        if kind == "wait":
            clock.pass_(first)
        elif kind == "write":
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("text")
        elif kind == "delete":
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
        elif kind == "move":
            place.rename(root / second)
        else:
            place.symlink_to(root / second)
    except OSError:
        pass  # such a file or folder is there already, or is not there


@settings(max_examples=100)
@given(st.lists(OPERATIONS, max_size=8), st.lists(OPERATIONS, min_size=1, max_size=12))
def test_whatever_happens_it_agrees_only_if_a_walk_does(tmp_path_factory, before, after):
    folder = Folder(tmp_path_factory.mktemp("glance") / "root")
    clock = Clock()
    for operation in before:
        operate(folder.root, clock, *operation)
    looker = Looker(folder.root, clock)
    looker.be_sure()
    for operation in after:
        folder.tick()
        operate(folder.root, clock, *operation)
        agrees = looker.agrees
        differ = looker.walk()
        assert not (agrees and differ)
        if differ:
            looker.be_sure()
