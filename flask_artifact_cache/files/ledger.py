"""collection.toml and collection.lock as values that are edited, and written as a pair.

Comments, unknown keys and the order of everything that is not touched stay in the texts. Both are
prepared first and then renamed into place one right after the other, in the order that keeps one
promise at every moment: what the manifest lists is in the lock.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import RefusedError, VanishedError
from .contained import kind, opened
from .documents import storable
from .manifest import LOCK_NAME, NAME, TOML_LIMIT, Manifest, decoded, loaded, parse
from .problems import Problem, UnreadableError
from .reading import Files
from .tomltext import CannotEditError, rewritten

VERSION = "1.0.0"


class Ledger:
    """Both files of a collection while they are edited; the caller is the only writer.

    :raises UnreadableError: if one of them cannot be read, so that it is not written over.
    :raises RefusedError: if one of them is a link.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        with opened(root) as folder:
            kinds = {name: kind(folder, name) for name in (NAME, LOCK_NAME)}
        for name, found in kinds.items():
            if found not in (None, "file"):
                raise RefusedError(f"'{name}' is a link or no file, so it is not written")
        files = Files(root)
        self._texts = {name: _text(files, name) for name in (NAME, LOCK_NAME)}
        # What the texts say, and what they are to say. Both are copied when they are changed.
        self._said = {name: loaded(text or "", name) for name, text in self._texts.items()}
        self._meant = dict(self._said)
        self._manifest: Manifest | None = None
        self.exists = self._texts[NAME] is not None

    @property
    def manifest(self) -> Manifest:
        """What both say now."""
        if self._manifest is None:
            found = parse(*map(self._storable, (NAME, LOCK_NAME)))
            self._manifest = found or Manifest(None, (), (), ())
        return self._manifest

    @property
    def locked(self) -> Mapping[str, Any]:
        """The entries of the lock, by ``name::type``."""
        return _entries(self._meant[LOCK_NAME])

    def check(self) -> None:
        """Whether the files may be changed.

        :raises UnreadableError: if there is a file of the manifest's name that is no manifest.
        """
        if self.exists and parse(*map(self._storable, (NAME, LOCK_NAME))) is None:
            text = "the file is no manifest: it has neither [collection] nor [[artifacts]]"
            raise UnreadableError(Problem("E_TOML", text, NAME))

    def create(self, name: str, now: datetime) -> None:
        """Begin both, as for an empty collection."""
        if not isinstance(self._meant[NAME].get("collection"), dict):
            head = {"name": name, "version": VERSION, "created": stamp(now), "updated": stamp(now)}
            self._set(NAME, "collection", head)
        if "artifacts" not in self._meant[NAME]:
            self._set(NAME, "artifacts", [])
        self._set_locked(self.locked)

    def put(
        self,
        values: Mapping[str, Any],
        lock: Mapping[str, Any],
        now: datetime,
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Add an artifact, or change the keys of the one with this name and type; None drops one.

        :param metadata: what was read from its front matter.
        """
        listed = self._listed()
        index = self._index(values["name"], values["type"])
        entry = _merged({} if index is None else listed[index], values)
        if metadata is not None:
            entry = _merged(entry, {"metadata": _merged(_table(entry.get("metadata")), metadata)})
        self._set(NAME, "artifacts", _replaced(listed, index, entry))
        self.lock(values["name"], values["type"], lock)
        self._touch(now)

    def lock(self, name: str, type_: str, values: Mapping[str, Any]) -> None:
        """Add an entry of the lock, or change the keys of one; None drops one."""
        key = f"{name}::{type_}"
        self._set_locked({**self.locked, key: _merged(_table(self.locked.get(key)), values)})

    def note(self, upstream_at: Mapping[tuple[str, str], str | None]) -> None:
        """Write down how far the source is of what the lock knows, by type and name."""
        noted = dict(self.locked)
        for (type_, name), at in upstream_at.items():
            key = f"{name}::{type_}"
            if key in noted:
                noted[key] = _merged(_table(noted[key]), {"upstream_at": at})
        self._set_locked(noted)

    def drop(self, name: str, type_: str, now: datetime) -> bool:
        """Remove an artifact from both; False if the manifest has none of this name and type."""
        self._unlock([f"{name}::{type_}"])
        index = self._index(name, type_)
        if index is None:
            return False
        self._set(NAME, "artifacts", _replaced(self._listed(), index, None))
        self._touch(now)
        return True

    def tidy(self) -> list[str]:
        """Remove what is in the lock alone, as a process leaves it that dies; give the keys."""
        known = {f"{one.name}::{one.type}" for one in self.manifest.entries}
        alone = [key for key in self.locked if key not in known]
        self._unlock(alone)
        return alone

    def save(self, stage: tuple[str, ...]) -> bool:
        """Write what has changed; False if nothing has.

        What is listed is in the lock at every moment, so an artifact that is new comes into the
        lock first. All else comes first into the manifest: whoever dies in between leaves a lock
        that does not agree with the files, which shows, and is done again.

        :param stage: a folder below the root to prepare the files in.
        """
        texts = {}
        adds = not self.locked.keys() <= _entries(self._said[LOCK_NAME]).keys()
        for name in (LOCK_NAME, NAME) if adds else (NAME, LOCK_NAME):
            said, meant = self._said[name], self._meant[name]
            if said == meant:
                continue
            try:
                before = self._texts[name] or ""
                texts[name] = rewritten(before, said, meant)
            except CannotEditError as error:
                text = "the file is written in a way that cannot be edited safely"
                raise UnreadableError(Problem("E_TOML", text, name)) from error
            if TOML_LIMIT < len(texts[name].encode()) > len(before.encode()):
                # Nothing could be read, or removed, after that.
                text = f"the file would have over {TOML_LIMIT} bytes"
                raise UnreadableError(Problem("E_TOO_LARGE", text, name))
        if not texts:
            return False
        with opened(self._root) as root, opened(self._root, stage) as folder:
            for name, text in texts.items():
                _prepare(folder, root, name, text)
            for name in texts:
                os.rename(name, name, src_dir_fd=folder, dst_dir_fd=root)
            os.fsync(root)
        self._texts.update(texts)
        self._said = dict(self._meant)
        return True

    # --- parts -------------------------------------------------------------------------------

    def _storable(self, name: str) -> dict[str, Any]:
        value = self._meant[name]
        # Only an escape can bring in what cannot be stored.
        return storable(value) if "\\u" in (self._texts[name] or "") else value

    def _set(self, name: str, key: str, value: object) -> None:
        self._meant[name] = {**self._meant[name], key: value}
        self._manifest = None

    def _set_locked(self, entries: Mapping[str, Any]) -> None:
        lock = {"version": VERSION, **_table(self._meant[LOCK_NAME].get("lock"))}
        self._set(LOCK_NAME, "lock", {**lock, "entries": dict(entries)})

    def _unlock(self, keys: Collection[str]) -> None:
        left = {key: value for key, value in self.locked.items() if key not in keys}
        if len(left) < len(self.locked):
            self._set_locked(left)

    def _listed(self) -> Sequence[Any]:
        listed = self._meant[NAME].get("artifacts")
        return listed if isinstance(listed, list) else ()

    def _index(self, name: str, type_: str) -> int | None:
        for index, entry in enumerate(self._listed()):
            if isinstance(entry, dict) and (entry.get("name"), entry.get("type")) == (name, type_):
                return index
        return None

    def _touch(self, now: datetime) -> None:
        head = self._meant[NAME].get("collection")
        if isinstance(head, dict):
            self._set(NAME, "collection", {**head, "updated": stamp(now)})


def stamp(now: datetime) -> str:
    """A time as SkillMeat writes it: ISO 8601 of UTC, without a zone."""
    return now.replace(tzinfo=None).isoformat()


def _text(files: Files, name: str) -> str | None:
    try:
        return decoded(files.read(name, TOML_LIMIT + 1), name)
    except VanishedError:
        return None


def _entries(lock: Mapping[str, Any]) -> dict[str, Any]:
    return _table(_table(lock.get("lock")).get("entries"))


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _merged(table: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """``table`` with ``values``; what is None or empty is in neither."""
    merged = dict(table)
    for key, value in values.items():
        if value is None or (isinstance(value, (Sequence, Mapping)) and not value):
            merged.pop(key, None)
        else:
            merged[key] = list(value) if isinstance(value, tuple) else value
    return merged


def _replaced(items: Sequence[Any], index: int | None, item: object) -> list[Any]:
    """``items`` with ``item`` at ``index``, or at the end; None takes one out."""
    if index is None:
        return [*items, item]
    return [*items[:index], *(() if item is None else (item,)), *items[index + 1 :]]


def _prepare(folder: int, root: int, name: str, text: str) -> None:
    """Write a file completely, with the permissions of the one that it is to replace."""
    try:
        mode = os.stat(name, dir_fd=root, follow_symlinks=False).st_mode & 0o777
    except FileNotFoundError:
        mode = None
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o644, dir_fd=folder), "wb") as file:
        file.write(text.encode())
        if mode is not None:
            os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
