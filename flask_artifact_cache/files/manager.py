"""The configured collections: scan, list and show what is in their files, and change it."""

from __future__ import annotations

import builtins
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import signals
from ..errors import (
    AmbiguousIdError,
    Candidate,
    ConfigurationError,
    NotFoundError,
    VanishedError,
)
from ..signals import announce
from . import artifact, layouts
from .artifact import TYPES, Artifact
from .frontmatter import READ_LIMIT
from .garbage import uncollected
from .layouts import Discovery, Place
from .lockfile import WAIT_S
from .manifest import Entry, Manifests
from .problems import Problem
from .reading import Files, Remembered
from .sources import Fetched
from .staging import Limits
from .walk import (
    Evidence,
    Folder,
    Tree,
    check,
    digest,
    evidence_of,
    is_inside,
    root_name,
    settled,
    shown,
    walk,
)

if TYPE_CHECKING:
    from .drift import Difference
    from .editing import Change, Editor, Followed, Synced

LAYOUTS = ("auto",)
KEYS = ("path", "layout", "types", "exclude")
CONTAINER_TYPES = ("command", "agent")

COLLECTION_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What one walk and one discovery found in a collection.

    :ivar complete: False when some folder or file could not be looked at, or was gone then.
    """

    places: list[Place]
    problems: tuple[Problem, ...]
    complete: bool
    tree: Tree
    discovery: Discovery

    def is_hidden(self, path: str) -> bool:
        """Whether nothing follows from the absence of the artifact at ``path``.

        It lies where the walk could not look, or an unreadable manifest may name it.
        """
        return self.tree.hides(path) or self.discovery.is_uncertain(path)

    def is_uncertain(self, path: str) -> bool:
        """Whether the artifact at ``path``, which was seen, may lack what a manifest says."""
        return self.discovery.is_uncertain(path)

    @property
    def is_empty(self) -> bool:
        """Whether there is no file at all, as in a folder on which nothing is mounted."""
        return not any(folder.files for folder in self.tree.top.walk())

    @property
    def digest(self) -> str:
        """Equal to that of another scan if nothing in the root has changed."""
        return digest(self.tree)

    @property
    def settled(self) -> bool:
        """Whether the digest can be relied on: see :func:`walk.settled`."""
        return settled(self.tree, self.tree.looked_at_ns)


class ArtifactManager:
    """The artifacts in the files of one collection.

    Only :meth:`create`, :meth:`add`, :meth:`update`, :meth:`remove`, :meth:`follow`, :meth:`note`
    and :meth:`sync` change files.

    :param layout: how the folders are arranged; ``auto`` finds out, folder by folder.
    :param types: more containers: a folder's name or path to ``command`` or ``agent``.
    :param exclude: patterns of paths that are left out, as of :mod:`fnmatch`.
    :param collection_id: part of the uids in error messages.
    :param clock_ns: tells the time by which files are dated, in ns since 1970.
    :param limits: how large an artifact may be that is added.
    :param wait_s: how long a change waits for another writer, in seconds.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        layout: str = "auto",
        types: Mapping[str, str] | None = None,
        exclude: Sequence[str] = (),
        collection_id: str = "default",
        clock_ns: Callable[[], int] = time.time_ns,
        limits: Limits | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        if layout not in LAYOUTS:
            raise ConfigurationError(f"'layout' is {layout!r}; it can only be 'auto'.")
        _check_types({} if types is None else types)
        _check_patterns(exclude)
        self.root = Path(root)
        self.collection_id = collection_id
        self._types = dict(types or {})
        self._exclude = tuple(exclude)
        self._files = Files(self.root)
        self._manifests = Manifests()
        self._remembered = Remembered()
        self.clock_ns = clock_ns
        self._limits = limits
        self._wait_s = wait_s

    @property
    def rules(self) -> str:
        """What decides, beside the files, what is found in them."""
        # The root's name is that of a skill in it.
        return repr((self.name, sorted(self._types.items()), self._exclude))

    def walk(self) -> Tree:
        """See the files by stat alone; the digest of it tells whether to look closer.

        :raises RootUnavailableError: if the root cannot be read now.
        """
        with uncollected():
            return walk(self.root, exclude=self._exclude, looked_at_ns=self.clock_ns())

    def scan(self, tree: Tree | None = None) -> Scan:
        """Find where the artifacts are.

        :param tree: what :meth:`walk` gave just now, to save a second walk.
        :raises RootUnavailableError: if the root cannot be read now.
        """
        seen = tree or self.walk()
        vanished: set[str] = set()

        def read(path: str, limit: int = READ_LIMIT) -> bytes:
            # What the walk saw saves a look at where the file is.
            evidence = seen.file(path)
            sure = evidence is not None and settled(evidence, seen.looked_at_ns)
            try:
                return self._remembered.get(
                    path,
                    limit,
                    evidence if sure else None,
                    lambda: self._files.read(path, limit, evidence),
                )
            except VanishedError:
                if evidence is not None:
                    # It may be on its way back, so nothing follows from what it does not say.
                    vanished.add(shown(path))
                raise

        with uncollected():
            found = layouts.discover(seen, read, types=self._types, manifests=self._manifests)
        problems = (*seen.problems, *found.problems)
        if vanished:
            found = replace(found, uncertain=found.uncertain | vanished)
        return Scan(found.places, problems, seen.complete and not vanished, seen, found)

    def look(
        self,
        type_: str,
        path: str,
        *,
        plugin: str | None,
        secondary: bool,
        namespace: str | None,
        parent: str | None,
    ) -> tuple[Place, int] | None:
        """Find an artifact that stood alone again, and tell when it was looked at.

        Looks at nothing but its own files. None says that a scan has to tell: it is gone, or
        there is something about it that only the files around it explain.
        """
        above = path.rpartition("/")[0]
        looked_at_ns = self.clock_ns()
        seen: Folder | Evidence | None
        if type_ == "skill":
            if not above:
                return None  # all of the collection
            tree = walk(self.root, only=above, exclude=self._exclude, looked_at_ns=looked_at_ns)
            # Whether a link counts depends on what the rest of the collection holds.
            seen = tree.folder(above) if tree.complete and not tree.problems else None
            if tree.has_links:
                return None
        else:
            seen = evidence_of(self.root, path)
        if seen is None or not is_inside(self.root, above):
            return None
        place = layouts.place_again(
            type_,
            path,
            seen,
            self.name,
            plugin=plugin,
            secondary=secondary,
            namespace=namespace,
            parent=parent,
        )
        if place is None or not place.stands_alone(self.name):
            return None
        return place, looked_at_ns

    @property
    def name(self) -> str:
        """The name of the root's folder."""
        return root_name(self.root)

    def read(self, place: Place) -> Artifact:
        """Read the artifact at ``place``; a file that cannot be used makes one with an error.

        :raises VanishedError: if it is gone since the scan.
        """
        return artifact.read(place, self._files)

    def list(self) -> builtins.list[Artifact]:
        """Read all artifacts; they come by type, name and path.

        :raises RootUnavailableError: if the root cannot be read now.
        """
        found = self._read_all(self.scan().places)
        return sorted(found, key=lambda item: (item.type, item.name, item.path))

    def at(self, type_: str, path: str) -> builtins.list[Artifact]:
        """Read the artifacts of a type whose metadata file is at ``path``, or right in that folder.

        :raises RootUnavailableError: if the root cannot be read now.
        """
        return self._read_all(
            place
            for place in self.scan().places
            if place.type == type_ and path in (place.path, place.path.rpartition("/")[0])
        )

    def show(self, artifact_id: str) -> Artifact:
        """Read one artifact, by ``type:name``, path or uid.

        :raises NotFoundError: if there is none.
        :raises AmbiguousIdError: if several share the id or path.
        :raises RootUnavailableError: if the root cannot be read now.
        """
        places = self.scan().places
        found = self._read_all(
            place
            for place in places
            if artifact_id in (place.path, artifact.uid(self.collection_id, place.type, place.path))
        )
        type_, separator, name = artifact_id.partition(":")
        if not found and separator and type_ in TYPES:
            candidates = self._read_all(place for place in places if place.type == type_)
            found = [item for item in candidates if item.name == name]
        if not found:
            raise NotFoundError(f"There is no artifact {artifact_id!r}.")
        if len(found) > 1:
            raise AmbiguousIdError(
                f"{len(found)} artifacts are called {artifact_id!r}.",
                [
                    Candidate(
                        artifact.uid(self.collection_id, item.type, item.path),
                        item.path,
                        self.collection_id,
                    )
                    for item in found
                ],
            )
        return found[0]

    # --- what changes files; see editing for what each raises ------------------------------------

    def create(self, name: str | None = None) -> bool:
        """Make the folder with an empty manifest and lock; False if there is a manifest."""
        return self._editor().create(name)

    def add(self, fetched: Fetched, *, tags: Sequence[str] = ()) -> Change:
        """Put a new artifact into the collection, and into its manifest and lock."""
        return self._editor().add(fetched, tags=tuple(tags))

    def update(self, fetched: Fetched, *, tags: Sequence[str] = ()) -> Change:
        """Replace the artifact of the same name and type, or add it."""
        return self._editor().add(fetched, tags=tuple(tags), replace=True)

    def remove(self, artifact_id: str) -> Change:
        """Take an artifact out of the collection, by ``type:name``, path or uid."""
        return self._editor().remove(artifact_id)

    def follow(
        self, fetched: Sequence[Fetched], asked: Iterable[Entry] = (), *, replace: bool = False
    ) -> Followed:
        """Replace artifacts that the manifest lists by what their source has now."""
        return self._editor().follow(fetched, asked, replace=replace)

    def note(
        self, upstream_at: Mapping[tuple[str, str], str | None], asked: Iterable[Entry] = ()
    ) -> bool:
        """Write down what a sync has seen at the source of artifacts, and did not put in place."""
        return self._editor().note(upstream_at, asked)

    def sync(
        self, progress: Callable[[int, int], None] | None = None, *, adopt: bool = False
    ) -> Synced:
        """Bring lock and manifest in line with the local artifacts on disk."""
        return self._editor().sync(progress, adopt=adopt)

    def drift(self) -> tuple[Difference, ...]:
        """Where manifest, lock and disk disagree; changes nothing."""
        return self._editor().drift()

    def compare(self) -> Synced:
        """The drift, and what the manifest lists; changes nothing."""
        return self._editor().compare()

    def summary(self) -> dict[str, object]:
        """The name that the manifest gives, and how many artifacts it lists; None without one.

        :raises RootUnavailableError: if the root cannot be read now.
        :raises UnreadableError: if the manifest cannot be read.
        """
        check(self.root)
        try:
            found = self._manifests.read(self._files.read)
        except VanishedError:
            found = None
        if found is None:
            return {"manifest": None, "listed": None}
        return {"manifest": found.name, "listed": len(found.entries)}

    def _editor(self) -> Editor:
        # It reads what it has staged as a collection of its own.
        from .editing import Editor

        return Editor(self, self._limits, self._wait_s)

    def _read_all(self, places: Iterable[Place]) -> builtins.list[Artifact]:
        found = []
        for place in places:
            with suppress(VanishedError):
                found.append(self.read(place))
        return found


class CollectionManager:
    """The configured collections by their ids.

    :param collections: id to root path, or to a mapping with ``path`` and any of ``layout``,
        ``types`` and ``exclude``.
    :raises ConfigurationError: names the key that is wrong.
    """

    def __init__(self, collections: Mapping[str, str | Path | Mapping[str, object]]) -> None:
        if not isinstance(collections, Mapping):
            raise ConfigurationError("The collections are not a mapping from id to path.")
        self._managers = {key: _manager(key, value) for key, value in collections.items()}

    def ids(self) -> list[str]:
        """List the ids in the order of the configuration."""
        return list(self._managers)

    def artifacts(self, collection_id: str) -> ArtifactManager:
        """Find the manager of one collection.

        :raises NotFoundError: if no collection has this id.
        """
        try:
            return self._managers[collection_id]
        except KeyError:
            raise NotFoundError(f"There is no collection {collection_id!r}.") from None

    def create(self, collection_id: str, name: str | None = None) -> bool:
        """Make a collection's folder with an empty manifest and lock; False if there is one."""
        created = self.artifacts(collection_id).create(name)
        if created:
            announce(signals.collection_updated, self, collection_id=collection_id, paths=())
        return created

    def add(self, collection_id: str, fetched: Fetched, *, tags: Sequence[str] = ()) -> Change:
        """Put a new artifact into a collection, and announce it."""
        return self._announced(collection_id, self.artifacts(collection_id).add(fetched, tags=tags))

    def update(self, collection_id: str, fetched: Fetched, *, tags: Sequence[str] = ()) -> Change:
        """Replace an artifact of a collection, and announce it."""
        return self._announced(
            collection_id, self.artifacts(collection_id).update(fetched, tags=tags)
        )

    def remove(self, collection_id: str, artifact_id: str) -> Change:
        """Take an artifact out of a collection, and announce it."""
        return self._announced(collection_id, self.artifacts(collection_id).remove(artifact_id))

    def sync(
        self,
        collection_id: str,
        progress: Callable[[int, int], None] | None = None,
        *,
        adopt: bool = False,
    ) -> Synced:
        """Bring lock and manifest of a collection in line with its files, and announce it."""
        synced = self.artifacts(collection_id).sync(progress, adopt=adopt)
        for change in synced.changes:
            self._announced(collection_id, change)
        return synced

    def follow(
        self, collection_id: str, fetched: Sequence[Fetched], *, replace: bool = False
    ) -> Followed:
        """Replace artifacts of a collection by what their source has now, and announce it."""
        followed = self.artifacts(collection_id).follow(fetched, replace=replace)
        for change in followed.changes:
            self._announced(collection_id, change)
        return followed

    def _announced(self, collection_id: str, change: Change) -> Change:
        about = {
            "collection_id": collection_id,
            "artifact_id": change.id,
            "path": change.path,
        }
        signal = _SIGNALS.get(change.change)
        if signal is not None:
            announce(signal, self, **about)
        if change.new_version:
            announce(signals.version_changed, self, **about)
        return change


_SIGNALS = {
    "added": signals.artifact_added,
    "updated": signals.artifact_updated,
    "removed": signals.artifact_removed,
}


def _manager(collection_id: object, settings: object) -> ArtifactManager:
    if not isinstance(collection_id, str) or not COLLECTION_ID.fullmatch(collection_id):
        raise ConfigurationError(
            f"The collection id {collection_id!r} is not 1 to 64 of a-z, 0-9, '.', '_' and '-',"
            " starting with a letter or digit."
        )
    where = f"Collection {collection_id!r}"
    if isinstance(settings, (str, Path)):
        settings = {"path": settings}
    if not isinstance(settings, Mapping):
        raise ConfigurationError(f"{where}: the value is neither a path nor a mapping.")
    unknown = sorted(set(map(str, settings)).difference(KEYS))
    if unknown:
        raise ConfigurationError(
            f"{where} has no key {unknown[0]!r}; its keys are {', '.join(KEYS)}."
        )
    path = settings.get("path")
    if not isinstance(path, (str, Path)) or not str(path).strip():
        raise ConfigurationError(f"{where}: 'path' is not a path.")
    options = {key: value for key, value in settings.items() if key != "path"}
    try:
        return ArtifactManager(path, collection_id=collection_id, **options)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def _check_types(types: object) -> None:
    if not isinstance(types, Mapping) or not all(isinstance(key, str) and key for key in types):
        raise ConfigurationError("'types' is not a mapping from folder to type.")
    for folder, type_ in types.items():
        if type_ not in CONTAINER_TYPES:
            raise ConfigurationError(
                f"'types' makes {folder!r} {type_!r}; it can be 'command' or 'agent'."
            )


def _check_patterns(patterns: object) -> None:
    if isinstance(patterns, str) or not isinstance(patterns, Sequence):
        raise ConfigurationError("'exclude' is not a list of patterns.")
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ConfigurationError("'exclude' holds something else than text.")
