"""Processes that write at once, or are killed at it, and readers that look all the while."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from flask_artifact_cache import ArtifactManager
from flask_artifact_cache.files.drift import UPSTREAM_AHEAD, upstream
from flask_artifact_cache.files.manifest import Manifests
from flask_artifact_cache.files.reading import Files
from flask_artifact_cache.files.sources import Fetched

PROCESSES = 4
# Adds, removes and updates together; 1,000 take minutes.
CHANGES = int(os.environ.get("ARTIFACT_CACHE_TEST_CHANGES", "80"))
KILLS = int(os.environ.get("ARTIFACT_CACHE_TEST_KILLS", "12"))
# What tools have left in a skill, and no source brings.
BESIDE = {".git/HEAD": "ref", "scripts/__pycache__/run.pyc": "pyc", "notes~": "mine"}


def work(root, sources, number, changes):
    """Add artifacts, remove most of them again and update the others, under names of its own."""
    manager = ArtifactManager(root, wait_s=300)
    source = sources / f"{number}.md"
    for step in range(changes):
        name = f"w{number}-{step // 2:04}"
        if step % 2 and not is_kept(step):
            manager.remove(f"command:{name}")
        else:
            text = f"---\ndescription: Of {number}, {step}.\n---\n"
            source.write_text(text, encoding="utf-8")
            manager.update(Fetched(source, name, "command"))


def is_kept(step):
    """Whether what was added just before is updated instead of removed."""
    return step // 2 % 5 == 4


def test_four_writers_lose_nothing_and_readers_see_whole_pairs(tmp_path):
    root = tmp_path / "collection"
    ArtifactManager(root).create("c")
    each = CHANGES // PROCESSES
    writers = [
        subprocess.Popen(
            [sys.executable, __file__, root, tmp_path, str(number), str(each)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for number in range(PROCESSES)
    ]
    looks = 0
    seen = set()
    files, manifests = Files(root), Manifests()
    while any(writer.poll() is None for writer in writers):
        manifest = manifests.read(files.read)
        assert manifest.problems == ()
        for entry in manifest.entries:
            assert entry.locked_hash, f"{entry.name} is in the manifest alone"
        looks += 1
        seen.add(len(manifest.entries))

    assert [writer.returncode for writer in writers] == [0] * PROCESSES
    wanted = {
        f"w{number}-{step // 2:04}": f"Of {number}, {step}."
        for number in range(PROCESSES)
        for step in range(each)
        if is_kept(step) or (step % 2 == 0 and step + 1 == each)
    }
    manager = ArtifactManager(root)
    assert {
        one.name: one.metadata.description for one in manifests.read(files.read).entries
    } == wanted
    assert {one.name: one.description for one in manager.list()} == wanted
    assert manager.drift() == ()
    assert looks > 10
    assert len(seen) > 3
    assert {one.stem for one in Path(root, "commands").iterdir()} == set(wanted)


def sha(step):
    """The commit that a source has at a step; that of the step before is what it has then."""
    return f"{step:040x}"


def fetched(sources, name, step):
    """A skill as GitHub has it at a step; a file of the step comes, that of the last one goes."""
    folder = sources / f"{name}-{step}"
    folder.mkdir(exist_ok=True)
    text = f"---\nname: {name}\ndescription: Step {step}.\n---\n"
    (folder / "SKILL.md").write_text(text, encoding="utf-8")
    (folder / f"{step}.txt").write_text(str(step), encoding="utf-8")
    at = sha(step)
    url = f"https://github.com/o/r/tree/{at}/{name}"
    return Fetched(folder, name, "skill", "github", url, "latest", at)


def put_file(path, text):
    """Write a file as an editor does that leaves no half one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    other = path.with_name(path.name + ".tmp")
    other.write_text(text, encoding="utf-8")
    other.replace(path)


def begin(root, sources, number):
    """A skill from GitHub that somebody has worked in, and a command of this machine."""
    manager = ArtifactManager(root, wait_s=300)
    manager.add(fetched(sources, f"g{number}", 0))
    for path, text in BESIDE.items():
        put_file(root / f"skills/g{number}" / path, text)
    source = sources / f"l{number}.md"
    source.write_text("---\ndescription: Step 0.\n---\n", encoding="utf-8")
    manager.add(Fetched(source, f"l{number}", "command"))


def keep_up(root, sources, number, steps):
    """Follow a skill, note what its source has by then, and sync after each edit of a command."""
    manager = ArtifactManager(root, wait_s=300)
    name = f"g{number}"
    for step in steps:
        asked = [one for one in manager.compare().entries if one.name == name]
        followed = manager.follow([fetched(sources, name, step)], asked)
        # One that has died may have put it in place, but not what is said of it.
        assert (followed.kept, followed.failed) == ((), {}), followed
        manager.note({("skill", name): sha(step + 1)})
        put_file(root / f"commands/l{number}.md", f"---\ndescription: Step {step}.\n---\n")
        manager.sync()
        print(step, flush=True)


def start(root, sources, number, steps, **options):
    command = [sys.executable, __file__, root, sources, str(number), *map(str, steps)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(command, env=environment, **options)


def files_of(skill):
    return {
        one.relative_to(skill).as_posix(): one.read_text(encoding="utf-8")
        for one in skill.rglob("*")
        if one.is_file() and one.name != "SKILL.md"
    }


def check_is_at(root, number, step):
    """Whether all is as after a step, and all that somebody has left in the skill is there."""
    manager = ArtifactManager(root)
    assert manager.drift() == ()
    entries = {one.name: one for one in manager.compare().entries}
    followed, edited = entries[f"g{number}"], entries[f"l{number}"]
    assert (followed.resolved_sha, followed.upstream_at) == (sha(step), sha(step + 1))
    assert upstream(followed) == (UPSTREAM_AHEAD,)
    found = {one.name: one for one in manager.list()}
    for entry in (followed, edited):
        assert entry.metadata.description == f"Step {step}."
        assert found[entry.name].description == f"Step {step}."
        assert found[entry.name].content_hash == entry.locked_hash
    assert files_of(root / f"skills/g{number}") == {**BESIDE, f"{step}.txt": str(step)}
    assert not [one for one in os.listdir(root / ".artifact-cache") if "stage" in one]


def test_four_that_keep_up_with_their_sources_lose_nothing(tmp_path):
    root, sources = tmp_path / "collection", tmp_path / "sources"
    sources.mkdir()
    ArtifactManager(root).create("c")
    last = max(CHANGES // PROCESSES // 4, 3)
    for number in range(PROCESSES):
        begin(root, sources, number)
    writers = [
        start(root, sources, number, (1, last + 1), stdout=subprocess.DEVNULL)
        for number in range(PROCESSES)
    ]
    files, manifests = Files(root), Manifests()
    seen = set()
    while any(writer.poll() is None for writer in writers):
        manifest = manifests.read(files.read)
        assert manifest.problems == ()
        assert len(manifest.entries) == 2 * PROCESSES
        assert all(entry.locked_hash for entry in manifest.entries)
        if sys.platform == "linux":
            # A folder is exchanged in one step.
            texts = [(root / f"skills/g{one}/SKILL.md").read_text() for one in range(PROCESSES)]
            assert all("description: Step " in text for text in texts)
            seen.update(texts)

    assert [writer.returncode for writer in writers] == [0] * PROCESSES
    for number in range(PROCESSES):
        check_is_at(root, number, last)
    assert sys.platform != "linux" or len(seen) > PROCESSES


def test_whoever_is_killed_loses_nothing_and_the_next_one_goes_on(tmp_path):
    root, sources = tmp_path / "collection", tmp_path / "sources"
    sources.mkdir()
    ArtifactManager(root).create("c")
    begin(root, sources, 0)
    seed = random.Random(7)
    step = 1
    left_stages = 0
    for _ in range(KILLS):
        writer = start(root, sources, 0, (step, 10**6), stdout=subprocess.PIPE, text=True)
        # As soon as it is at work; then somewhere in what comes next.
        line = writer.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            writer.wait(seed.random() * 0.1)
        assert writer.poll() is None
        writer.kill()
        said = [line, *writer.stdout.read().splitlines(keepends=True)]
        writer.wait()
        writer.stdout.close()
        done = [int(one) for one in said if one.endswith("\n")]
        left_stages += any("stage" in one for one in os.listdir(root / ".artifact-cache"))
        manifest = Manifests().read(Files(root).read)
        assert manifest.problems == ()
        assert [(one.name, bool(one.locked_hash)) for one in manifest.entries] == [
            ("g0", True), ("l0", True)
        ]  # fmt: skip

        # The next one has only to do its work.
        step = done[-1] + 1
        keep_up(root, sources, 0, range(step, step + 1))

        check_is_at(root, 0, step)
        step += 1
    assert left_stages > 0


if __name__ == "__main__":
    ROOT, SOURCES, NUMBER, *STEPS = sys.argv[1:]
    if len(STEPS) == 1:
        work(Path(ROOT), Path(SOURCES), int(NUMBER), int(STEPS[0]))
    else:
        keep_up(Path(ROOT), Path(SOURCES), int(NUMBER), range(*map(int, STEPS)))
