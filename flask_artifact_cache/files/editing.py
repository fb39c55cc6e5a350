"""What changes a collection's files: add, update, remove, sync.

Each is done by one writer at a time. An artifact's files come before what is said of them, and go
after it; so a process that dies leaves a collection that can be read, and the next one tidies up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import (
    AmbiguousIdError,
    ArtifactCacheError,
    Candidate,
    ConflictError,
    NotFoundError,
    RefusedError,
)
from . import drift
from .artifact import Artifact, uid
from .contained import check_name, folded, kind, opened, parts_of, reason
from .drift import Difference
from .ledger import Ledger, stamp
from .lockfile import FOLDER, WAIT_S, one_writer
from .manager import ArtifactManager
from .manifest import Entry, Manifest
from .sources import ORIGINS, Fetched
from .staging import Exchange, Limits, Staged, copy, exchange, hash_of, mend, put, stage, take
from .walk import check, shown

ADDED, UPDATED, REMOVED, UNCHANGED = "added", "updated", "removed", "unchanged"
_SHELVES = {"skill": "skills", "command": "commands", "agent": "agents"}
# What SkillMeat knows as tools; other names are not kept in a manifest.
_TOOLS = frozenset(
    {"Read", "Write", "Edit", "MultiEdit", "Glob", "Grep", "NotebookEdit", "Bash", "KillShell"}
    | {"AskUserQuestion", "TodoWrite", "WebFetch", "WebSearch", "Task", "TaskOutput", "Skill"}
    | {"EnterPlanMode", "ExitPlanMode"}
)


@dataclass(frozen=True, slots=True)
class Change:
    """What has become of one artifact in a collection's files.

    :ivar change: ``added``, ``updated``, ``removed`` or ``unchanged``.
    :ivar id: ``type:name``, as the cache will know it.
    :ivar path: of the metadata file, relative to the root.
    :ivar new_version: whether its version is another one than before.
    """

    change: str
    id: str
    type: str
    name: str
    path: str
    content_hash: str | None = None
    new_version: bool = False


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync has written, and what it could not bring in line.

    :ivar entries: of the manifest, with what the lock says of each.
    """

    changes: tuple[Change, ...] = ()
    left: tuple[Difference, ...] = ()
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class Followed:
    """What has become of artifacts whose source has moved on.

    :ivar kept: type and name of those that were left, since they are not as they were put there,
        or did not stay so until they were replaced.
    :ivar failed: type and name of those that could not be put in place, and why.
    """

    changes: tuple[Change, ...]
    kept: tuple[tuple[str, str], ...]
    failed: Mapping[tuple[str, str], str]


class Editor:
    """Changes the files of one collection.

    :param limits: how large an artifact may be.
    :param wait_s: how long to wait for another writer, in seconds.
    :param exchange: exchanges what is new with what is in its place.
    :raises BusyError: from every method, if another writer does not end in time.
    :raises UnreadableError: from every method, if the manifest or the lock cannot be read; nothing
        is changed then.
    :raises RootUnavailableError: from every method but ``create``, if there is no such folder.
    :raises RefusedError: from every method, if a name, a path or a source could do harm.
    :raises OSError: from every method, if the system does not let it read or write something.
    """

    def __init__(
        self,
        manager: ArtifactManager,
        limits: Limits | None = None,
        wait_s: float = WAIT_S,
        exchange: Exchange = exchange,
    ) -> None:
        self._manager = manager
        self._root = manager.root
        self._limits = limits or Limits()
        self._wait_s = wait_s
        self._exchange = exchange

    def create(self, name: str | None = None) -> bool:
        """Make the folder with an empty manifest and lock; False if there is a manifest."""
        name = check_name(name or self._manager.name)
        self._root.mkdir(parents=True, exist_ok=True)
        with self._writing() as (ledger, stage_name):
            if ledger.exists:
                return False
            ledger.create(name, self._now())
            with opened(self._root) as root:
                for shelf in _SHELVES.values():
                    if kind(root, shelf) is None:
                        with opened(self._root, (shelf,), create=True):
                            pass
            return ledger.save((FOLDER, stage_name))

    def add(self, fetched: Fetched, *, tags: tuple[str, ...] = (), replace: bool = False) -> Change:
        """Put an artifact into the collection.

        :param tags: for the manifest, beside those of the front matter.
        :param replace: whether one of the same name and type may be replaced.
        :raises ConflictError: if there is one, or one that differs by case alone.
        """
        type_, name = fetched.type, check_name(fetched.name)
        if type_ not in _SHELVES:
            raise _unshelved(type_)
        with self._writing() as (ledger, stage_name):
            manifest = ledger.manifest
            entry = _entry(manifest, type_, name)
            if entry is None:
                leaf = name if type_ == "skill" else f"{name}.md"
                parts: tuple[str, ...] = (_SHELVES[type_], leaf)
                self._check_case(manifest, type_, name, parts)
            elif replace:
                parts = self._parts(entry)
            else:
                raise ConflictError(f"there is a {type_} '{name}' in the collection already")
            own = self._inside(fetched)
            if own not in (None, "/".join(parts)) and self._is_unlisted(ledger, str(own)):
                text = f"'{shown(str(own))}' is in the collection already; 'sync --adopt' lists it"
                raise ConflictError(text)
            artifact, staged = self._stage(fetched, (stage_name, "0"), parts)
            if entry is None and not replace and staged.there not in (None, staged.content_hash):
                text = f"there is something else at '{shown('/'.join(parts))}' already"
                raise ConflictError(text)
            change = self._put(ledger, fetched, entry, artifact, staged, tags=tags, replace=replace)
            ledger.save((FOLDER, stage_name))
            return change

    def follow(
        self, fetched: Sequence[Fetched], asked: Iterable[Entry] = (), *, replace: bool = False
    ) -> Followed:
        """Put what has changed at its source in the place of what the manifest lists.

        One that is refused, by us or by the system, does not fail the others.

        :param asked: the entries as they were when their source was asked: one that somebody has
            changed since then is left.
        :param replace: whether to replace those, too, that were changed here or are gone.
        """
        changes: list[Change] = []
        kept: list[tuple[str, str]] = []
        failed: dict[tuple[str, str], str] = {}
        with self._writing() as (ledger, stage_name):
            entries = {(one.type, one.name): one for one in ledger.manifest.entries}
            changed = _changed(entries, asked)
            try:
                for number, one in enumerate(fetched):
                    key = (one.type, one.name)
                    entry = entries.get(key)
                    if entry is None:
                        continue  # somebody has removed it meanwhile
                    if key in changed:
                        kept.append(key)
                        continue
                    try:
                        stage = (stage_name, str(number))
                        changes.append(self._follow(ledger, one, entry, stage, replace=replace))
                    except ConflictError:
                        kept.append(key)
                    except ArtifactCacheError as error:
                        failed[key] = str(error)
                    except OSError as error:
                        failed[key] = reason(error)
            finally:
                # Whatever ends it: what is in place already was not put there by hand.
                ledger.save((FOLDER, stage_name))
        return Followed(tuple(changes), tuple(kept), failed)

    def note(
        self, upstream_at: Mapping[tuple[str, str], str | None], asked: Iterable[Entry] = ()
    ) -> bool:
        """Write down what a sync has seen at the source of artifacts, and did not put in place.

        :param asked: as of :meth:`follow`.
        :param upstream_at: by type and name, a commit or ``drift.GONE``; None: nothing else.
        :returns: whether the lock says something else now.
        """
        with self._writing() as (ledger, stage_name):
            entries = {(one.type, one.name): one for one in ledger.manifest.entries}
            changed = _changed(entries, asked)
            ledger.note({key: at for key, at in upstream_at.items() if key not in changed})
            return ledger.save((FOLDER, stage_name))

    def remove(self, artifact_id: str) -> Change:
        """Take an artifact out of the collection, by ``type:name``, path or uid.

        :raises NotFoundError: if there is none.
        :raises AmbiguousIdError: if several are called so.
        """
        with self._writing() as (ledger, stage_name):
            manifest = ledger.manifest
            entry, artifact = self._find(manifest, artifact_id)
            if entry is not None:
                parts = self._parts(entry)
                type_, name = entry.type, entry.name
            else:
                assert artifact is not None
                type_, name = artifact.type, artifact.name
                parts = self._own(artifact)
            path = "/".join(parts)
            if artifact is not None:
                path = artifact.path
                if type_ == "skill" and artifact.file_count > 1:
                    self._check_nothing_else("/".join(parts), path)
            # Before anything is said of it: whether the files can be taken away.
            try:
                with opened(self._root, parts[:-1]) as folder:
                    if kind(folder, parts[-1]) == "other":
                        raise RefusedError(f"'{shown('/'.join(parts))}' is a link or a device")
            except FileNotFoundError:
                pass
            if ledger.drop(name, type_, self._now()):
                ledger.save((FOLDER, stage_name))
            take(self._root, parts, (stage_name, "removed"))
            id_ = artifact.id if artifact is not None else f"{type_}:{name}"
            return Change(REMOVED, id_, type_, name, path)

    def drift(self) -> tuple[Difference, ...]:
        """Compare manifest, lock and disk; changes nothing. Without a manifest there is none."""
        return self.compare().left

    def compare(self) -> Synced:
        """As :meth:`sync` without a change: the drift, and what the manifest lists."""
        check(self._root)
        ledger = Ledger(self._root)
        if not ledger.exists:
            return Synced()
        return Synced((), self._drift(ledger, self._manager.list()), ledger.manifest.entries)

    def sync(
        self, progress: Callable[[int, int], None] | None = None, *, adopt: bool = False
    ) -> Synced:
        """Bring lock and manifest in line with the local artifacts on disk.

        What comes from elsewhere and was changed here, or may have been since the lock does not
        know it, is left, as is what is missing or was never added: only the user knows what is
        right then.

        :param adopt: whether to list what lies in the collection and was never added.
        """
        check(self._root)
        if not (adopt or Ledger(self._root).exists):
            return Synced()
        with self._writing() as (ledger, stage_name):
            found = self._manager.list()
            places = drift.by_place(found)
            entries = ledger.manifest.entries
            changes = []
            for number, entry in enumerate(entries, 1):
                artifact = places.get((entry.type, drift.place(entry.path, self._prefix)))
                if artifact is not None and artifact.content_hash is not None:
                    changes += self._settle(ledger, entry, artifact)
                if progress is not None:
                    progress(number, len(entries))
            if adopt:
                changes += self._adopt(ledger, found)
            ledger.save((FOLDER, stage_name))
            left = self._drift(ledger, found)
            return Synced(tuple(changes), left, ledger.manifest.entries)

    # --- parts -------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[tuple[Ledger, str]]:
        """Be the only writer, on files that nothing half-done is left in."""
        check(self._root)
        with one_writer(self._root, self._wait_s) as folder:
            mend(self._root, folder, self._limits)
            ledger = Ledger(self._root)
            ledger.check()
            with stage(self._root, folder, self._limits) as name:
                if ledger.exists and ledger.tidy():
                    ledger.save((FOLDER, name))
                yield ledger, name

    def _stage(
        self, fetched: Fetched, stage: tuple[str, ...], parts: tuple[str, ...]
    ) -> tuple[Artifact, Staged]:
        """Copy what was fetched into a stage, read it, and look at what is in its place.

        :param parts: of the place.
        """
        type_ = fetched.type
        if type_ not in _SHELVES:
            raise _unshelved(type_)
        if fetched.origin not in ORIGINS:
            known = ", ".join(sorted(ORIGINS))
            raise RefusedError(f"the origin '{shown(fetched.origin)}' is none of {known}")
        shelf, leaf = _SHELVES[type_], parts[-1]
        with opened(self._root, (FOLDER, *stage, shelf), create=True) as inner:
            content_hash = copy(fetched.path, inner, leaf, self._limits)
        artifact = self._staged(Path(self._root, FOLDER, *stage), (shelf,), leaf, type_)
        there, unknown = self._there(parts)
        return artifact, Staged(content_hash, there, (*stage, shelf, leaf), parts, unknown)

    def _follow(
        self,
        ledger: Ledger,
        fetched: Fetched,
        entry: Entry,
        stage: tuple[str, ...],
        *,
        replace: bool,
    ) -> Change:
        """Put what was fetched in the place of an entry.

        :raises ConflictError: if that was changed here or is gone.
        """
        artifact, staged = self._stage(fetched, stage, self._parts(entry))
        # As it was put there; or it is there already, of a process that has died before it could
        # say so.
        is_ours = staged.there in (entry.locked_hash or "-", staged.content_hash)
        if not (is_ours or replace):
            if staged.unknown:
                raise RefusedError(staged.unknown)
            raise ConflictError(f"'{shown(entry.path)}' is not as it was put there")
        return self._put(ledger, fetched, entry, artifact, staged, replace=replace)

    def _put(
        self,
        ledger: Ledger,
        fetched: Fetched,
        entry: Entry | None,
        artifact: Artifact,
        staged: Staged,
        *,
        tags: tuple[str, ...] = (),
        replace: bool,
    ) -> Change:
        """Put what was staged in its place, and into the ledger, which is not saved yet."""
        content_hash = staged.content_hash
        same = (
            entry is not None
            and entry.locked_hash == content_hash == staged.there
            and entry.resolved_sha == fetched.resolved_sha
            and entry.version_spec == fetched.version_spec
            and {*tags} <= {*entry.tags}
        )
        place = "/".join(staged.parts)
        path = place
        if fetched.type == "skill":
            path += "/" + artifact.path.rpartition("/")[2]
        change = Change(
            UNCHANGED if same else ADDED if entry is None else UPDATED,
            f"{fetched.type}:{artifact.name}",
            fetched.type,
            fetched.name,
            path,
            content_hash,
            entry is not None
            and (entry.resolved_sha, entry.resolved_version, entry.metadata.version)
            != (fetched.resolved_sha, fetched.resolved_version, artifact.version),
        )
        if same:
            return change
        if staged.there != staged.content_hash:
            put(self._root, staged, self._limits, self._exchange, replace=replace)
        if not ledger.exists:
            ledger.create(self._manager.name, self._now())
        values, lock = self._values(fetched, artifact, place, entry, tags)
        lock["content_hash"] = content_hash
        ledger.put(values, lock, self._now(), metadata=_metadata(artifact))
        return change

    def _settle(self, ledger: Ledger, entry: Entry, artifact: Artifact) -> list[Change]:
        kinds = drift.of_entry(entry, artifact.content_hash)
        # Where it comes from alone can tell whether what is here was edited.
        if not kinds or entry.origin != "local":
            return []
        now = self._now()
        lock = {"content_hash": artifact.content_hash, "fetched": stamp(now)}
        values = {"name": entry.name, "type": entry.type}
        if drift.MODIFIED in kinds:
            values["last_updated"] = stamp(now)
        metadata = _metadata(artifact) if artifact.error is None else None
        ledger.put(values, lock, now, metadata=metadata)
        new = artifact.version != entry.metadata.version
        path, hash_ = artifact.path, artifact.content_hash
        return [Change(UPDATED, artifact.id, entry.type, entry.name, path, hash_, new)]

    def _adopt(self, ledger: Ledger, found: list[Artifact]) -> list[Change]:
        """List what the manifest does not; but nothing that could not be removed again."""
        known = {(one.type, one.name) for one in ledger.manifest.entries}
        unlisted = {
            one.path for one in self._drift(ledger, found) if one.kind == drift.NOT_IN_MANIFEST
        }
        changes = []
        for artifact in found:
            path = artifact.path
            if path not in unlisted or artifact.content_hash is None or artifact.error is not None:
                continue
            place = path.rpartition("/")[0] if artifact.type == "skill" else path
            name = Path(place).name if artifact.type == "skill" else Path(place).stem
            try:
                self._parts(Entry(check_name(name), artifact.type, place))
            except RefusedError:
                continue
            if (artifact.type, name) in known:
                continue  # a manifest tells artifacts apart by these two
            known.add((artifact.type, name))
            if not ledger.exists:
                ledger.create(self._manager.name, self._now())
            fetched = Fetched(Path(self._root, place), name, artifact.type)
            values, lock = self._values(fetched, artifact, place, None, ())
            lock["content_hash"] = artifact.content_hash
            ledger.put(values, lock, self._now(), metadata=_metadata(artifact))
            id_, hash_ = artifact.id, artifact.content_hash
            changes.append(Change(ADDED, id_, artifact.type, name, path, hash_))
        return changes

    def _is_unlisted(self, ledger: Ledger, place: str) -> bool:
        """Whether what lies there is one that :meth:`_adopt` may list."""
        return any(
            one.kind == drift.NOT_IN_MANIFEST and place in (one.path, one.path.rpartition("/")[0])
            for one in self._drift(ledger, self._manager.list())
        )

    def _inside(self, fetched: Fetched) -> str | None:
        """Where in the collection a source lies, if it does."""
        if fetched.origin != "local":
            return None
        path, root = fetched.path.resolve(), self._root.resolve()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else None

    def _drift(self, ledger: Ledger, found: list[Artifact]) -> tuple[Difference, ...]:
        return drift.compare(ledger.manifest.entries, ledger.locked, found, self._prefix)

    @property
    def _prefix(self) -> str:
        return self._root.as_posix()

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._manager.clock_ns() / 1e9, timezone.utc)

    def _parts(self, entry: Entry) -> tuple[str, ...]:
        """Where an entry's files are; what it says is not believed."""
        path = entry.path.removeprefix(self._prefix.rstrip("/") + "/")
        what = f"the path of {entry.type} '{shown(entry.name)}'"
        parts = parts_of(path.removeprefix("./"), what)
        if len(parts) < 2 or parts[0].startswith("."):
            raise RefusedError(f"{what}, '{shown(entry.path)}', is in no folder for artifacts")
        return parts

    def _own(self, artifact: Artifact) -> tuple[str, ...]:
        """The files of an artifact that no manifest lists."""
        if artifact.type not in _SHELVES or "#" in artifact.path:
            file = artifact.path.partition("#")[0]
            raise RefusedError(f"{artifact.id} is a part of '{file}': edit that file")
        parts = parts_of(artifact.path)
        if artifact.type == "skill":
            parts = parts[:-1]
            if not parts:
                raise RefusedError("the skill is the collection itself")
        return parts

    def _find(self, manifest: Manifest, artifact_id: str) -> tuple[Entry | None, Artifact | None]:
        """What an id means, in the manifest and on disk."""
        type_, _, name = artifact_id.partition(":")
        entry = _entry(manifest, type_, name)
        if entry is not None:
            listed = self._of(entry)
            if listed is None or listed.id != artifact_id:
                # Its file calls it otherwise, and so does the cache.
                self._check_alone(artifact_id, entry, listed)
            return entry, listed
        try:
            artifact = self._manager.show(artifact_id)
        except AmbiguousIdError:
            raise
        except NotFoundError:
            wanted = drift.place(artifact_id)
            for one in manifest.entries:
                where = drift.place(one.path, self._prefix)
                if where == wanted:
                    return one, self._of(one)
            raise
        above = artifact.path.rpartition("/")[0]
        for one in manifest.entries:
            where = drift.place(one.path, self._prefix)
            if one.type == artifact.type and where in (artifact.path, above):
                return one, artifact
        return None, artifact

    def _check_alone(self, artifact_id: str, entry: Entry, listed: Artifact | None) -> None:
        """Raise an error if something else on disk has the id that the manifest gives an entry."""
        try:
            other = self._manager.show(artifact_id)
        except NotFoundError:
            return
        place = drift.place(entry.path, self._prefix)
        if place in (other.path, other.path.rpartition("/")[0]):
            return  # it is there again
        id_ = self._manager.collection_id
        paths = (listed.path if listed else place, other.path)
        raise AmbiguousIdError(
            f"the manifest and a file call different artifacts '{artifact_id}'",
            [Candidate(uid(id_, entry.type, path), path, id_) for path in paths],
        )

    def _check_nothing_else(self, place: str, own: str) -> None:
        """Raise an error if artifacts of their own lie in a skill's folder."""
        others = [
            one.path
            for one in self._manager.scan().places
            if one.path.startswith(f"{place}/") and one.path != own and one.type in drift.ADDABLE
        ]
        if others:
            raise RefusedError(
                f"in '{shown(place)}' lies what is an artifact of its own: {', '.join(others[:5])};"
                " remove or move that first"
            )

    def _of(self, entry: Entry) -> Artifact | None:
        """What is on disk of an entry."""
        key = (entry.type, drift.place(entry.path, self._prefix))
        return drift.by_place(self._manager.at(*key)).get(key)

    def _check_case(
        self, manifest: Manifest, type_: str, name: str, parts: tuple[str, ...]
    ) -> None:
        for one in manifest.entries:
            if one.type == type_ and folded(one.name) == folded(name):
                text = f"there is a {type_} '{shown(one.name)}', which differs by case alone"
                raise ConflictError(text)
        folder = Path(self._root, *parts[:-1])
        if folder.is_dir():
            for there in folder.iterdir():
                if there.name != parts[-1] and folded(there.name) == folded(parts[-1]):
                    text = f"there is '{shown(there.name)}', which differs by case alone"
                    raise ConflictError(text)

    def _staged(self, root: Path, shelf: tuple[str, ...], leaf: str, type_: str) -> Artifact:
        """Read what was copied, as it will be read when it is in place."""
        expected = "/".join((*shelf, leaf))
        for one in ArtifactManager(root).list():
            if one.type == type_ and expected in (one.path, one.path.rpartition("/")[0]):
                return one
        missing = "no SKILL.md" if type_ == "skill" else "no Markdown file"
        raise RefusedError(f"the source is no {type_}: there is {missing} in it")

    def _there(self, parts: tuple[str, ...]) -> tuple[str | None, str]:
        """The hash of what is in the place already, or why it cannot be told."""
        try:
            with opened(self._root, parts[:-1]) as above:
                found = kind(above, parts[-1])
        except FileNotFoundError:
            return None, ""
        if found is None:
            return None, ""
        try:
            return hash_of(Path(self._root, *parts), self._limits), ""
        except RefusedError as error:
            return "", str(error)

    def _values(
        self,
        fetched: Fetched,
        artifact: Artifact,
        path: str,
        entry: Entry | None,
        tags: tuple[str, ...],
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        now = stamp(self._now())
        before = entry.tags if entry is not None else ()
        values: dict[str, Any] = {
            "name": fetched.name,
            "type": fetched.type,
            "path": path if entry is None else entry.path,
            "origin": fetched.origin,
        }
        values |= {"added": now} if entry is None else {"last_updated": now}
        if entry is not None and entry.origin != fetched.origin:
            # They belong to the old one; beside another SkillMeat cannot read the manifest.
            values |= {"origin_source": None, "import_id": None}
        upstream = {
            "upstream": fetched.upstream,
            "resolved_sha": fetched.resolved_sha,
            "resolved_version": fetched.resolved_version,
        }
        values |= {**upstream, "version_spec": fetched.version_spec}
        values["tags"] = list(dict.fromkeys((*before, *artifact.tags, *tags)))
        return values, {"content_hash": "", "fetched": now, **upstream, "upstream_at": None}


def _changed(
    entries: Mapping[tuple[str, str], Entry], asked: Iterable[Entry]
) -> set[tuple[str, str]]:
    """Type and name of those that come from elsewhere now than when they were asked for."""

    def source(one: Entry) -> tuple[str | None, ...]:
        return one.origin, one.upstream, one.version_spec, one.resolved_sha

    found = set()
    for one in asked:
        key = (one.type, one.name)
        now = entries.get(key)
        if now is not None and source(now) != source(one):
            found.add(key)
    return found


def _entry(manifest: Manifest, type_: str, name: str) -> Entry | None:
    for one in manifest.entries:
        if (one.type, one.name) == (type_, name):
            return one
    return None


def _unshelved(type_: str) -> RefusedError:
    return RefusedError(f"a {shown(type_)} cannot be added; a skill, command or agent can")


def _metadata(artifact: Artifact) -> dict[str, Any]:
    """The copy of the front matter that a manifest keeps."""
    return {
        "title": artifact.title,
        "description": artifact.description,
        "author": artifact.author,
        "license": artifact.license,
        "version": artifact.version,
        "tools": [one for one in artifact.tools or () if one in _TOOLS],
    }
