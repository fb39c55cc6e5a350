"""Which artifacts a refresh is about; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from ..files.layouts import Place
from ..files.walk import shown
from ..freshness import CLOCK_TOLERANCE, INVALIDATED, OK, verified
from ..models import utc
from .records import Record, facet_value


@dataclass(frozen=True, slots=True)
class Selection:
    """What a refresh is asked to verify; within a field any value will do, all fields must agree.

    :ivar collection_id: None means every configured collection.
    :ivar older_than_minutes: since a row was last verified.
    :ivar artifact_ids: uids, or ``type:name`` for every artifact that is called so.
    :ivar paths: of files that have changed, relative to the root and as :func:`walk.shown` writes
        them; stands for the artifacts that own them.
    """

    collection_id: str | None = None
    older_than_minutes: float | None = None
    tags: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    artifact_ids: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    @property
    def is_everything(self) -> bool:
        """Whether it leaves nothing out."""
        return not self.filters()

    def filters(self) -> dict[str, Any]:
        """What it is narrowed by, as it was asked for."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        del found["collection_id"]
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in found.items()
            if value not in (None, ())
        }


class Known(NamedTuple):
    """A row of a collection, as far as a refresh decides about it without its file.

    :ivar synced_at: as the driver gives it: to convert all of them would take longer than to
        compare all rows, and few refreshes ask for it. See :func:`models.utc`.
    """

    id: int
    uid: str
    path: str
    type: str = "skill"
    name: str = ""
    condition: str = OK
    evidence: str | None = None
    synced_at: datetime | str | None = None

    @property
    def artifact_id(self) -> str:
        """``type:name``, which several may share."""
        return f"{self.type}:{self.name}"


class Chosen:
    """Says of rows and files whether a selection means them.

    A row is known by what the cache holds of it; a file that has none, by what it says.

    :param tagged: the ids of the rows that have one of the selection's tags.
    :param verified_at: when all of the collection was verified.
    """

    def __init__(
        self,
        selection: Selection,
        now: datetime,
        verified_at: datetime | None = None,
        tagged: Collection[int] = (),
    ) -> None:
        self.selection = selection
        self._tags = {facet_value(tag) for tag in selection.tags}
        self._ids = frozenset(selection.artifact_ids)
        self._owners = Owners(selection.paths)
        self._tagged = tagged
        self._now = now
        self._verified_at = verified_at

    def row(self, row: Known) -> bool:
        """Whether a row is meant."""
        asked = self.selection
        if asked.types and row.type not in asked.types:
            return False
        if self._ids and not {row.uid, row.artifact_id} & self._ids:
            return False
        if asked.tags and row.id not in self._tagged:
            return False
        if asked.paths and not self._owners.row(row.type, row.path):
            return False
        return asked.older_than_minutes is None or self._is_old(row, asked.older_than_minutes)

    def place(self, uid: str, place: Place) -> bool:
        """Whether a file without a row may be meant; it counts as infinitely old."""
        asked = self.selection
        if asked.types and place.type not in asked.types:
            return False
        if self._ids and uid not in self._ids:
            named = f"{place.type}:"
            if not any(one.startswith(named) for one in self._ids):
                return False
        return not asked.paths or self._owners.place(place)

    def record(self, record: Record) -> bool:
        """Whether a file without a row, for which :meth:`place` is true, is meant."""
        columns = record.columns
        if self._ids and not {record.uid, f"{columns['type']}:{columns['name']}"} & self._ids:
            return False
        return not self._tags or any(facet_value(tag) in self._tags for tag in columns["tags"])

    def _is_old(self, row: Known, minutes: float) -> bool:
        if row.condition == INVALIDATED:
            return True
        synced_at = None if row.synced_at is None else utc(row.synced_at)
        at = verified(synced_at, self._verified_at)
        if at is None or at > self._now + CLOCK_TOLERANCE:
            return True
        return at <= self._now - timedelta(minutes=minutes)


# What says something about the other files of its folder.
_MANIFESTS = frozenset({"collection.toml", "collection.lock"})
_PLUGIN_SUFFIX = "-plugin"


class Owners:
    """Which artifacts own some of the given paths.

    An artifact owns its file, and a skill all of its folder. What a manifest says belongs to
    every artifact in the manifest's folder. A path may also be that of a folder.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = {path.rstrip("/") for path in paths}
        self._above = {above for path in self._paths for above in parents(path)}
        self._bases = {base for path in self._paths for base in _described(path)}

    def row(self, type_: str, path: str) -> bool:
        """Whether the artifact of a row owns one of the paths."""
        file = path.partition("#")[0]
        return self._owns(path, file, file.rpartition("/")[0] if type_ == "skill" else None)

    def place(self, place: Place) -> bool:
        """Whether an artifact on the disk owns one of the paths."""
        folder = None if place.folder is None else shown(place.folder.path)
        return self._owns(place.path, shown(place.file), folder)

    def _owns(self, path: str, file: str, folder: str | None) -> bool:
        if path in self._paths or file in self._paths:
            return True
        if folder is not None and (folder in self._above or folder == ""):
            return bool(self._paths)
        return any(above in self._paths or above in self._bases for above in parents(file))


def parents(path: str) -> Iterator[str]:
    """The folders above a path, from the innermost to the root, which is ``""``."""
    while path:
        path = path.rpartition("/")[0]
        yield path


def _described(path: str) -> Iterator[str]:
    """The folders about whose artifacts a file says something, beside its own artifact."""
    above, _, name = path.rpartition("/")
    # The last two decide what is an artifact in their folder at all.
    if name in _MANIFESTS or name.lower() in ("skill.md", "pyvenv.cfg"):
        yield above
    folder = above.rpartition("/")
    if folder[2].endswith(_PLUGIN_SUFFIX):
        yield folder[0]


def lone_owners(path: str) -> tuple[list[tuple[str, str]], bool]:
    """The ``(type, path)`` of each artifact that can own a file or folder by its path alone.

    Empty where it may have a say about what is an artifact at all.

    :returns: also whether one of them has to have this very path.
    """
    name = path.rpartition("/")[2].lower()
    if name.endswith((".json", ".toml", ".lock", ".cfg")) or f"{_PLUGIN_SUFFIX}/" in path:
        return [], False
    owners = [(type_, path) for type_ in ("skill", "command", "agent")]
    owners += [
        ("skill", f"{folder}/{file}" if folder else file)
        for folder in (path, *parents(path))
        for file in ("SKILL.md", "skill.md", "Skill.md")
        if f"{folder}/{file}" != path
    ]
    return owners, name == "skill.md"
