"""What can happen to a file without its looking new, and that the next refresh sees it."""

from __future__ import annotations

import os
import random
import shutil
import time

import pytest

from flask_artifact_cache import ArtifactManager
from flask_artifact_cache.files.walk import Evidence
from flask_artifact_cache.models import Artifact

from .cached import Cache, counts, opened

SECOND_NS = 1_000_000_000


@pytest.fixture
def cache(engine, collection):
    collection.skill("one", "Aaaa.")
    collection.skill("two", "Bbbb.")
    cache = Cache(engine, collection.root)
    cache.refresh()
    with opened(collection.root) as seen:
        cache.refresh()
    assert seen == []  # all of it can be relied on
    return cache


def said(cache, name="one"):
    return cache.of_each(Artifact.description)[f"skills/{name}/SKILL.md"]


class Coarse(ArtifactManager):
    """Files on a file system whose clock counts in whole ticks."""

    tick_ns = SECOND_NS

    def walk(self):
        tree = super().walk()
        for folder in tree.top.walk():
            folder.files = {
                name: Evidence(one.size, *[one.mtime_ns // self.tick_ns * self.tick_ns] * 2, 1)
                for name, one in folder.files.items()
            }
        return tree


@pytest.mark.parametrize("tick_s", [1, 2])
def test_edits_within_one_tick_that_change_no_size_are_all_seen(engine, collection, tick_s):
    seed = random.Random(tick_s)
    now_ns = 2_000_000_000 * SECOND_NS

    def write(name, text):
        os.utime(collection.skill(name, text), ns=(now_ns, now_ns))

    cache = Cache(engine, collection.root)
    cache.manager = Coarse(collection.root, collection_id="work", clock_ns=lambda: now_ns)
    cache.manager.tick_ns = tick_s * SECOND_NS
    texts = {"one": "0000", "two": "0000"}
    for name in texts:
        write(name, texts[name])
    cache.refresh()
    relied_on = 0
    for number in range(200):
        name = seed.choice(sorted(texts))
        texts[name] = f"{number:04}"
        write(name, texts[name])
        now_ns += seed.choice([0, 1, seed.randrange(SECOND_NS // 4), seed.randrange(SECOND_NS)])
        if seed.random() < 0.1:
            now_ns += seed.randrange(3 * SECOND_NS)
        if seed.random() < 0.6:
            with opened(collection.root) as seen:
                cache.refresh()
            relied_on += len(seen) < 2
            assert {one: said(cache, one) for one in texts} == texts
            now_ns += seed.choice([0, 1, SECOND_NS // 10])
    assert relied_on > 3  # or nothing was shown


def edit(collection, text="Cccc.", name="one"):
    """Another text of the same length, in the same file."""
    return collection.skill(name, text)


def restored(collection, file, before):
    edit(collection)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def older(collection, file, before):
    edit(collection)
    os.utime(file, ns=(0, before.st_mtime_ns - 3600 * SECOND_NS))


def from_the_future(collection, file, before):
    edit(collection)
    os.utime(file, ns=(0, before.st_mtime_ns + 10**6 * SECOND_NS))


def replaced(collection, file, before):
    new = file.with_name("SKILL.md.tmp")
    new.write_text(file.read_text().replace("Aaaa", "Cccc"))
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(file)


def linked_in(collection, file, before):
    # Prepared before anything was read: its times are older than the look, all of them.
    spare = collection.root.parent / "spare"
    os.utime(spare, ns=(before.st_atime_ns, before.st_mtime_ns))
    file.unlink()
    os.link(spare, file)


@pytest.mark.parametrize("way", [restored, older, from_the_future, replaced, linked_in])
@pytest.mark.parametrize("by_path", [False, True], ids=["all", "path"])
def test_an_edit_that_hides_is_seen(cache, collection, way, by_path):
    file = collection.root / "skills/one/SKILL.md"
    spare = collection.root.parent / "spare"
    spare.write_text(file.read_text().replace("Aaaa", "Cccc"))
    before = file.stat()
    way(collection, file, before)
    assert file.stat().st_size == before.st_size

    order = {"paths": ["skills/one/SKILL.md"]} if by_path else {}
    report = cache.refresh(**order)

    assert (report.updated, said(cache)) == (1, "Cccc.")
    assert cache.refresh().updated == 0


def test_a_file_from_the_future_is_never_relied_on(cache, collection):
    def write(text):
        file = edit(collection, text)
        os.utime(file, ns=(0, time.time_ns() + 10**6 * SECOND_NS))

    for text in ("Cccc.", "Dddd.", "Eeee."):
        write(text)
        cache.refresh()
        assert said(cache) == text
        with opened(collection.root) as seen:
            assert counts(cache.refresh()) == {"unchanged": 2}
        assert seen == ["skills/one/SKILL.md"]


def test_another_inode_alone_is_looked_into(cache, collection):
    file = collection.root / "skills/one/SKILL.md"
    before = file.stat()
    shutil.copy2(file, file.with_name("copy.tmp"))
    file.with_name("copy.tmp").replace(file)
    assert file.stat().st_ino != before.st_ino

    with opened(collection.root) as seen:
        assert counts(cache.refresh()) == {"unchanged": 2}

    assert seen == ["skills/one/SKILL.md"]
    with opened(collection.root) as seen:
        cache.refresh()
    assert seen == []


def test_a_clock_that_goes_backwards_hides_nothing(engine, collection):
    now_ns = 2_000_000_000 * SECOND_NS
    cache = Cache(engine, collection.root, clock_ns=lambda: now_ns)
    for number, step_s in enumerate([0, -3600, -1, 7200, -86_400, 1]):
        now_ns += step_s * SECOND_NS
        file = collection.skill("one", f"Number {number}.")
        os.utime(file, ns=(now_ns, now_ns))
        cache.refresh()
        assert said(cache) == f"Number {number}."


def test_a_file_that_is_emptied_and_then_written(cache, collection):
    file = collection.root / "skills/one/SKILL.md"
    with file.open("w") as slow:
        assert cache.refresh().quarantined == 1
        assert said(cache) == "Aaaa."
        slow.write("---\nname: one\n")
        slow.flush()
        cache.refresh()
        slow.write("description: Whole.\n---\n")
    assert cache.refresh().updated == 1
    assert (said(cache), set(cache.of_each(Artifact.condition).values())) == ("Whole.", {"ok"})


def test_swapped_folders(cache, collection):
    skills = collection.root / "skills"
    (skills / "one").rename(skills / "x")
    (skills / "two").rename(skills / "one")
    (skills / "x").rename(skills / "two")

    assert cache.refresh().updated == 2
    assert (said(cache, "one"), said(cache, "two")) == ("Bbbb.", "Aaaa.")


def test_a_forced_refresh_opens_what_nothing_points_to(cache, collection):
    with opened(collection.root) as seen:
        assert counts(cache.refresh(force=True)) == {"unchanged": 2}
    assert sorted(seen) == ["skills/one/SKILL.md", "skills/two/SKILL.md"]
