"""Where manifest, lock and disk disagree, each difference by its name; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .walk import shown

if TYPE_CHECKING:
    from .artifact import Artifact
    from .manifest import Entry

# The content differs from what was put there.
MODIFIED = "modified"
# The manifest lists it, and there is no such file.
MISSING_ON_DISK = "missing_on_disk"
# It lies where artifacts of the collection lie, and the manifest does not list it.
NOT_IN_MANIFEST = "not_in_manifest"
# The manifest lists it, and the lock does not know what was put there.
NOT_IN_LOCK = "not_in_lock"
# The lock knows it, and the manifest does not list it.
LOCK_ONLY = "lock_only"
# What it comes from has moved on.
UPSTREAM_AHEAD = "upstream_ahead"
# What it comes from does not have it any more.
UPSTREAM_GONE = "upstream_gone"

# What the lock says of one that is no longer where it comes from.
GONE = "gone"

KINDS = (
    *(MODIFIED, MISSING_ON_DISK, NOT_IN_MANIFEST, NOT_IN_LOCK, LOCK_ONLY),
    *(UPSTREAM_AHEAD, UPSTREAM_GONE),
)
# What can be added, and so can lack an entry.
ADDABLE = ("skill", "command", "agent")


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which an artifact is not what the collection's files say it is.

    :ivar path: of the metadata file, or as the manifest has it; empty if only the lock knows it.
    """

    kind: str
    type: str
    name: str
    path: str


def of_entry(entry: Entry, content_hash: str | None) -> tuple[str, ...]:
    """The kinds of drift of an artifact that the manifest lists and that is on disk."""
    if entry.locked_hash is None:
        return (NOT_IN_LOCK,)
    if content_hash is not None and content_hash != entry.locked_hash:
        return (MODIFIED,)
    return ()


def upstream(entry: Entry) -> tuple[str, ...]:
    """The kinds of drift from where it comes from, as the last sync has left it."""
    if entry.upstream_at == GONE:
        return (UPSTREAM_GONE,)
    return () if entry.upstream_at in (None, entry.resolved_sha) else (UPSTREAM_AHEAD,)


def by_place(found: Iterable[Artifact]) -> dict[tuple[str, str], Artifact]:
    """Artifacts by type and by what a manifest can call their place: the file, or its folder."""
    places: dict[tuple[str, str], Artifact] = {}
    for one in found:
        if "#" not in one.path:
            places.setdefault((one.type, one.path.rpartition("/")[0]), one)
            places[one.type, one.path] = one
    return places


def compare(
    entries: Iterable[Entry], locked: Iterable[str], found: Iterable[Artifact], root: str = ""
) -> tuple[Difference, ...]:
    """Name each difference.

    :param entries: of the manifest, with what the lock says of each.
    :param locked: the keys of the lock.
    :param found: what is on disk.
    :param root: of the collection, which an entry may begin its path with.
    """
    found = list(found)
    places = by_place(found)
    differences = []
    listed: set[str] = set()
    known: set[str] = set()
    for entry in entries:
        known.add(f"{entry.name}::{entry.type}")
        artifact = places.get((entry.type, place(entry.path, root)))
        if artifact is None:
            one = Difference(MISSING_ON_DISK, entry.type, entry.name, entry.path)
            differences.append(one)
            continue
        listed.add(artifact.path)
        differences += [
            Difference(kind, entry.type, entry.name, artifact.path)
            for kind in of_entry(entry, artifact.content_hash)
        ]
    differences += [
        Difference(NOT_IN_MANIFEST, one.type, one.name, one.path)
        for one in found
        if one.path not in listed
        and one.type in ADDABLE
        and not (one.secondary or one.plugin or one.parent)
        # Another manifest may list it, further down.
        and "drift" not in one.details
        and "#" not in one.path
    ]
    for key in locked:
        if key not in known:
            name, _, type_ = key.partition("::")
            differences.append(Difference(LOCK_ONLY, type_, name, ""))
    return tuple(sorted(differences, key=lambda one: (one.type, one.name, one.kind, one.path)))


def counts(differences: Iterable[Difference]) -> Mapping[str, int]:
    """How many there are of each kind; kinds without any are left out."""
    kinds = [one.kind for one in differences]
    return {kind: kinds.count(kind) for kind in KINDS if kind in kinds}


def place(path: str, root: str = "") -> str:
    """The path of an entry as artifacts have it."""
    inner = path.removeprefix(root.rstrip("/") + "/") if root else path
    return shown(inner.removeprefix("./").rstrip("/"))
