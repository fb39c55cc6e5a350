"""What a manifest has from GitHub: how it stands there, and what has changed put in place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import ArtifactCacheError, UpstreamLimitedError
from ..files.contained import reason
from ..files.drift import (
    ADDABLE,
    GONE,
    MISSING_ON_DISK,
    MODIFIED,
    NOT_IN_LOCK,
    UPSTREAM_AHEAD,
    UPSTREAM_GONE,
    Difference,
)
from ..files.editing import UNCHANGED, Change, Followed
from ..files.manifest import Entry
from ..files.sources import Fetched
from .github import GitHub, Held, Standing, Wanted
from .sources import Source, of_manifest

ORIGIN = "github"

Progress = Callable[[int, int], object]
Put = Callable[[Sequence[Fetched], Sequence[Entry]], Followed]


@dataclass(frozen=True, slots=True)
class Asked:
    """An artifact of the manifest that comes from GitHub, and how it stands there.

    :ivar source: None where the manifest does not tell.
    """

    entry: Entry
    source: Source | None
    standing: Standing

    @property
    def id(self) -> str:
        """As the manifest calls it: ``type:name``."""
        return f"{self.entry.type}:{self.entry.name}"


@dataclass(frozen=True, slots=True)
class Brought:
    """What was put in place, and how everything stands after that."""

    changes: tuple[Change, ...]
    asked: tuple[Asked, ...]


def from_github(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The entries that GitHub can tell of."""
    return tuple(one for one in entries if one.origin == ORIGIN)


def ask(
    github: GitHub, entries: Iterable[Entry], progress: Progress | None = None
) -> tuple[Asked, ...]:
    """Ask how they stand, since a user wants to know; each repository and ref once.

    What fails is ``unknown``, and fails nothing else.
    """
    sources: dict[str, tuple[Entry, Source]] = {}
    found = []
    for number, entry in enumerate(entries):
        try:
            source = of_manifest(entry.upstream, entry.version_spec, github.web_url)
        except ArtifactCacheError as error:
            found.append(Asked(entry, None, _unknown(error)))
        else:
            sources[str(number)] = entry, source
    held = [Held(key, source, one.resolved_sha) for key, (one, source) in sources.items()]
    found += [
        Asked(*sources[standing.key], standing)
        for standing in github.check(held, is_urgent=True, progress=progress)
    ]
    return tuple(found)


def unknown(entries: Iterable[Entry], error: ArtifactCacheError) -> tuple[Asked, ...]:
    """How they stand where nothing can be asked at all."""
    return tuple(Asked(one, None, _unknown(error)) for one in entries)


def bring(
    github: GitHub,
    asked: Sequence[Asked],
    root: Path,
    put: Put,
    *,
    also: Iterable[tuple[str, str]] = (),
    progress: Progress | None = None,
) -> Brought:
    """Fetch what has changed, one repository after the other, and put it in place.

    :param root: of the collection: files of it that are the same are not downloaded again.
    :param put: puts what was fetched from one commit in place, unless its entry is another one than
        was asked for by now, and says what came of it.
    :param also: type and name of what is to be fetched although upstream has not changed.
    """
    also = set(also)
    groups: dict[tuple[str, str], list[Asked]] = {}
    for one in asked:
        is_wanted = one.standing.state == "changed" or (
            one.standing.state == "current" and (one.entry.type, one.entry.name) in also
        )
        if not is_wanted or one.entry.type not in ADDABLE:
            continue
        if one.source is not None and one.standing.sha is not None:
            repository = (one.standing.renamed_to or one.source.repository).lower()
            groups.setdefault((repository, one.standing.sha), []).append(one)
    total, done = sum(map(len, groups.values())), 0
    changes: list[Change] = []
    now: dict[str, Standing] = {}
    for members in groups.values():
        batch = _brought(github, members, root, put)
        now |= batch.standings
        changes += batch.changes
        done += len(members)
        if progress is not None:
            progress(done, total)
    return Brought(
        tuple(one for one in changes if one.change != UNCHANGED),
        tuple(replace(one, standing=now.get(one.id, one.standing)) for one in asked),
    )


def drift(asked: Iterable[Asked]) -> list[Difference]:
    """What differs from upstream, as it is named beside what differs on this machine."""
    kinds = {"changed": UPSTREAM_AHEAD, "gone": UPSTREAM_GONE}
    return [
        Difference(kinds[one.standing.state], one.entry.type, one.entry.name, one.entry.path)
        for one in asked
        if one.standing.state in kinds
    ]


def left_behind(asked: Iterable[Asked]) -> dict[tuple[str, str], str | None]:
    """What the lock is to say of the source of each, as far as it says something else."""
    found = {}
    for one in asked:
        at = {"changed": one.standing.sha, "gone": GONE}.get(one.standing.state)
        if one.standing.state != "unknown" and at != one.entry.upstream_at:
            found[one.entry.type, one.entry.name] = at
    return found


def untold(left: Iterable[Difference], *, replace: bool) -> list[tuple[str, str]]:
    """Type and name of what is to be compared with upstream, whether that has changed or not.

    Only upstream can tell of what the lock does not know whether it was edited.

    :param replace: whether what is known not to be as it was put there is wanted, too.
    """
    kinds = (NOT_IN_LOCK, MODIFIED, MISSING_ON_DISK) if replace else (NOT_IN_LOCK,)
    return [(one.type, one.name) for one in left if one.kind in kinds]


# --- parts ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Batch:
    standings: Mapping[str, Standing]
    changes: Sequence[Change] = ()


def _brought(github: GitHub, members: list[Asked], root: Path, put: Put) -> _Batch:
    """All of a commit at once; what is refused of one fails no other."""
    refused: dict[int, ArtifactCacheError] = {}
    standings = {}
    try:
        with tempfile.TemporaryDirectory(prefix="artifact-cache-") as staging:
            wanted = [_wanted(one, root) for one in members]
            fetched = github.fetch_many(wanted, Path(staging), refused=refused)
            had = [one for index, one in enumerate(members) if index not in refused]
            followed = put(fetched, [one.entry for one in had])
    except (ArtifactCacheError, OSError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        return _Batch({one.id: _failed(one, refused.get(n, why)) for n, one in enumerate(members)})
    for index, why in refused.items():
        standings[members[index].id] = _failed(members[index], why)
    for one in had:
        key = (one.entry.type, one.entry.name)
        if key in followed.failed:
            standings[one.id] = _failed(one, followed.failed[key])
        elif key not in followed.kept:
            standings[one.id] = replace(one.standing, state="current")
    return _Batch(standings, followed.changes)


def _wanted(one: Asked, root: Path) -> Wanted:
    source, entry = one.source, one.entry
    assert source is not None
    owner, _, repo = (one.standing.renamed_to or source.repository).partition("/")
    return Wanted(
        replace(source, owner=owner, repo=repo),
        entry.type,
        entry.name,
        # Only read, and only what has the very contents that are wanted is taken.
        root / entry.path,
        one.standing.sha,
    )


def _failed(one: Asked, error: ArtifactCacheError | str) -> Standing:
    until = error.until if isinstance(error, UpstreamLimitedError) else None
    return replace(one.standing, message=str(error), until=until)


def _unknown(error: ArtifactCacheError) -> Standing:
    return Standing("", "unknown", message=str(error))
