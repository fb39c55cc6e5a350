"""GitHub as a place where artifacts come from: fetch them, and ask what has changed."""

from __future__ import annotations

import gzip
import json
import os
import re
import stat
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, cast
from urllib.parse import quote

from ..errors import (
    ArtifactCacheError,
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    UpstreamError,
    UpstreamLimitedError,
)
from ..files.sources import Fetched
from . import trees
from .client import BUDGET_S, MAX_CONNECTIONS, Budget, Client
from .sources import LATEST, PUBLIC_API, Source, is_sha, parse, web_root

# More new files than this are taken from one archive.
ARCHIVE_FROM = 20
# Of the trees that were listed: enough to fetch from many that were compared.
_KEPT_NODES = 200_000
_SHA_TYPE = "application/vnd.github.sha"
_RAW_TYPE = "application/vnd.github.raw+json"
_VERSION = re.compile(r"v?[0-9]+(?:\.[0-9]+)*(?:[-+.][0-9A-Za-z.+-]+)?")

# Why GitHub does not hand out a file, although it may hand out another.
_OF_ONE = ("not_found", "legal", "refused", "invalid", "unavailable", "too_large")
# Remembered of a commit like what a path is, but no path begins so: that its archive is too large.
_ARCHIVE = "/archive"
# The id of what files hold that are lacking -> each of them: the place of whose it is, path, node.
_Missing = dict[str, list[tuple[int, Path, trees.Node]]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """An artifact to fetch.

    :ivar present: the folder or file of the version that is there, from which files that are the
        same are taken.
    :ivar sha: the commit that the ref is, if that is known; else it is asked.
    """

    source: Source
    type: str | None = None
    name: str | None = None
    present: Path | None = None
    sha: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """An artifact that is there, and the commit that it was taken from."""

    key: str
    source: Source
    resolved_sha: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How an artifact compares with upstream.

    :ivar state: ``current``; ``changed``, at ``sha``; ``gone``, which only a listing that lacks it
        can say; or ``unknown``, for the reason in ``message``.
    :ivar until: when asking again makes sense, in seconds since 1970.
    :ivar renamed_to: the name that the repository has now.
    """

    key: str
    state: Literal["current", "changed", "gone", "unknown"]
    sha: str | None = None
    message: str = ""
    until: float | None = None
    renamed_to: str | None = None


class GitHub:
    """One GitHub, public or Enterprise.

    :param state_folder: where validators and limits are remembered from one run to the next.
    :param options: passed on to the client.
    """

    def __init__(
        self,
        base_url: str = PUBLIC_API,
        token: str | None = None,
        state_folder: Path | None = None,
        *,
        limits: trees.Limits | None = None,
        budget_s: float = BUDGET_S,
        archive_from: int = ARCHIVE_FROM,
        **options: Any,
    ) -> None:
        self.client = Client(base_url, token, state_folder, **options)
        self.web_url = web_root(self.client.base_url)
        self._limits = limits or trees.Limits()
        self._budget_s = budget_s
        self._archive_from = archive_from
        self._trees: dict[tuple[str, str], trees.Tree] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close connections and files."""
        self.client.close()

    def parse(self, text: str) -> Source:
        """Read what a user typed; see ``sources.parse``."""
        return parse(text, self.web_url)

    # --- fetching --------------------------------------------------------------------------------

    def fetch(
        self,
        source: Source | str,
        staging: Path,
        *,
        type: str | None = None,  # noqa: A002 - as SkillMeat calls it
        name: str | None = None,
        present: Path | None = None,
    ) -> Fetched:
        """Put one artifact into the folder ``staging``.

        :raises UpstreamError: if GitHub does not answer as it should.
        :raises NotFoundError: if the repository lists no such path.
        :raises RefusedError: if it could do harm.
        """
        if isinstance(source, str):
            source = self.parse(source)
        return self.fetch_many([Wanted(source, type, name, present)], staging)[0]

    def fetch_many(
        self,
        wanted: Sequence[Wanted],
        staging: Path,
        progress: Callable[[int, int], object] | None = None,
        *,
        refused: dict[int, ArtifactCacheError] | None = None,
    ) -> list[Fetched]:
        """Put artifacts into ``staging``, with as few requests as are needed; all of them or none.

        What is raised is as for ``fetch``.

        :param refused: where it is given, what cannot be had of one artifact alone is noted here,
            by its place in ``wanted``, and is left out of what is returned.
        """
        budget = Budget(self._budget_s)
        heads: dict[tuple[str, str, str | None], tuple[Source, str]] = {}
        objects: dict[tuple[str, str], dict[str, str]] = {}
        groups: dict[
            tuple[str, str, str | None], list[tuple[int, Wanted, Source, trees.Found]]
        ] = {}
        for index, one in enumerate(wanted):
            source = self._closed(one.source, budget) if one.source.is_open else one.source
            key = (source.repository.lower(), source.ref, one.sha)
            if key not in heads:
                sha, renamed_to = (
                    self._head(source, budget, is_urgent=True)
                    if one.sha is None
                    else (one.sha, None)
                )
                owner, _, repo = (renamed_to or source.repository).partition("/")
                heads[key] = Source(owner, repo, ref=source.ref), sha
            where, sha = heads[key]
            try:
                tree = self._tree(where, sha, budget, [source.path], whole=True)
                found = trees.find(
                    tree, source.path, where.repository, self._limits, one.type, one.name
                )
            except (RefusedError, NotFoundError, InvalidRequestError) as error:
                if refused is None:
                    raise
                refused[index] = error
                continue
            # A manifest says it by the path that was found.
            objects.setdefault((where.repository, sha), {}).update(
                {path: trees.object_at(tree, path) for path in (source.path, found.path)}
            )
            groups.setdefault(key, []).append((index, one, source, found))
        fetched: dict[int, Fetched] = {}
        for key, members in groups.items():
            where, sha = heads[key]
            self._download(where, sha, members, staging, budget, refused)
            for index, _, source, found in members:
                if refused and index in refused:
                    continue
                place = quote(f"{where.repository}/tree/{sha}/{found.path}".rstrip("/"))
                leaf = "" if found.type == "skill" else next(iter(found.files))
                fetched[index] = Fetched(
                    _target(staging, index, found) / leaf,
                    found.name,
                    found.type,
                    origin="github",
                    upstream=f"{self.web_url}/{place}",
                    version_spec=source.ref,
                    resolved_sha=sha,
                    resolved_version=source.ref if _VERSION.fullmatch(source.ref) else None,
                )
                if progress is not None:
                    progress(len(fetched), len(wanted))
        for (repository, sha), known in objects.items():
            self.client.memory.keep_objects(repository, sha, known)
        return [fetched[index] for index in sorted(fetched)]

    def _download(
        self,
        where: Source,
        sha: str,
        members: Sequence[tuple[int, Wanted, Source, trees.Found]],
        staging: Path,
        budget: Budget,
        refused: dict[int, ArtifactCacheError] | None,
    ) -> None:
        """Write the files of artifacts of one commit: what is there, then new ones."""
        missing: _Missing = {}
        paths: dict[str, str] = {}
        for index, one, _, found in members:
            target = _target(staging, index, found)
            target.mkdir(parents=True)
            for inside, node in found.files.items():
                data = _present(one.present, inside, found.type, node)
                if data is not None:
                    _write(target / inside, data, node)
                    continue
                missing.setdefault(node.sha, []).append((index, target / inside, node))
                full = f"{found.path}/{inside}" if found.type == "skill" else found.path
                paths[full.lstrip("/")] = node.sha
        if len(missing) > self._archive_from:
            self._from_archive(where, sha, paths, missing, staging, budget)
            self._check_blobs(missing, refused)
        self._from_blobs(where, missing, budget, refused)

    def _check_blobs(
        self, missing: _Missing, refused: dict[int, ArtifactCacheError] | None
    ) -> None:
        """Refuse what is not to be asked for file by file: as soon as it would be too many."""
        needs: dict[int, set[str]] = {}
        for blob, files in missing.items():
            for index, _, _ in files:
                needs.setdefault(index, set()).add(blob)
        chosen: set[str] = set()
        for index, blobs in needs.items():
            if len(chosen | blobs) <= self._limits.blobs:
                chosen |= blobs
                continue
            error = UpstreamError(
                "the repository's archive is too large, too slow or not what its listing says, and"
                f" no more than {self._limits.blobs} files are asked for one by one",
                "too_large",
            )
            if refused is None:
                raise error
            refused[index] = error

    def _from_blobs(
        self,
        where: Source,
        missing: _Missing,
        budget: Budget,
        refused: dict[int, ArtifactCacheError] | None,
    ) -> None:
        """Take files one by one; what is asked for in vain is a refusal of whose it is."""
        is_trouble = False
        for blob, files in list(missing.items()):
            whose = {index for index, _, _ in files}
            if refused and whose <= refused.keys():
                continue
            try:
                data = self.client.get(
                    f"/repos/{where.repository}/git/blobs/{blob}",
                    _RAW_TYPE,
                    budget=budget,
                    max_bytes=max(files[0][2].size, 1),
                ).body
                if trees.blob_sha(data) != blob:
                    raise UpstreamError(
                        "GitHub handed out a file that is not the one asked for", "invalid"
                    )
            except UpstreamError as error:
                if refused is None or error.reason not in _OF_ONE:
                    raise
                if error.reason == "unavailable":
                    if is_trouble:
                        raise  # the second is not about the file
                    is_trouble = True
                refused |= dict.fromkeys(whose, error)
            else:
                _put(missing, blob, data)

    def _from_archive(
        self,
        where: Source,
        sha: str,
        paths: Mapping[str, str],
        missing: _Missing,
        staging: Path,
        budget: Budget,
    ) -> None:
        """Take files from an archive; what it lacks, or has otherwise, stays missing.

        So does all of them where it is too slow, or too large, which is not tried twice for a
        commit.

        No name of the archive becomes a path: a member is looked up in the listing, and its
        contents have to be those that the listing says.
        """
        memory, limit = self.client.memory, str(self._limits.archive_bytes)
        if memory.objects(where.repository, sha, [_ARCHIVE]) == {_ARCHIVE: limit}:
            return
        try:
            with tempfile.TemporaryFile(dir=staging) as file:
                self.client.get(
                    f"/repos/{where.repository}/tarball/{sha}",
                    budget=budget,
                    max_bytes=self._limits.archive_bytes,
                    sink=file,
                )
                self._unpack(file, paths, missing)
        except UpstreamError as error:
            if error.reason == "too_large":
                memory.keep_objects(where.repository, sha, {_ARCHIVE: limit})
            elif error.reason != "slow":
                raise

    def _unpack(self, file: IO[bytes], paths: Mapping[str, str], missing: _Missing) -> None:
        packed_bytes = file.tell()
        file.seek(0)
        try:
            with (
                gzip.GzipFile(fileobj=file) as unpacked,
                tarfile.open(
                    fileobj=cast(IO[bytes], _Bounded(unpacked, packed_bytes, self._limits)),
                    mode="r|",
                ) as archive,
            ):
                for count, member in enumerate(archive):
                    if count > self._limits.archive_entries:
                        raise UpstreamError("the archive has too many entries", "too_large")
                    blob = paths.get(member.name.partition("/")[2])
                    if not member.isfile() or blob not in missing:
                        continue
                    if member.size != missing[blob][0][2].size:
                        continue
                    reader = archive.extractfile(member)
                    assert reader is not None
                    data = reader.read()
                    if trees.blob_sha(data) == blob:
                        _put(missing, blob, data)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile):
            raise UpstreamError("GitHub's archive cannot be read", "invalid") from None

    # --- comparing -------------------------------------------------------------------------------

    def check(
        self,
        held: Iterable[Held],
        *,
        is_urgent: bool = False,
        progress: Callable[[int, int], object] | None = None,
    ) -> list[Standing]:
        """Ask what has changed: one question for each repository and ref.

        Trouble with one repository says nothing about another; what it concerns is ``unknown``.

        :param is_urgent: whether a user asked for it.
        """
        groups: dict[tuple[str, str], list[Held]] = {}
        for one in held:
            groups.setdefault((one.source.repository.lower(), one.source.ref), []).append(one)
        budget = Budget(self._budget_s)
        found: list[Standing] = []

        def ask(members: list[Held]) -> list[Standing]:
            try:
                return self._compare(members, budget, is_urgent)
            except UpstreamLimitedError as error:
                return [
                    Standing(one.key, "unknown", message=str(error), until=error.until)
                    for one in members
                ]
            except ArtifactCacheError as error:
                return [Standing(one.key, "unknown", message=str(error)) for one in members]

        with ThreadPoolExecutor(MAX_CONNECTIONS) as pool:
            for count, standings in enumerate(pool.map(ask, groups.values()), start=1):
                found += standings
                if progress is not None:
                    progress(count, len(groups))
        return found

    def _compare(self, members: list[Held], budget: Budget, is_urgent: bool) -> list[Standing]:
        source = members[0].source
        if source.is_open:
            raise UpstreamError("the ref of a link has to be resolved first", "invalid")
        sha, renamed_to = self._head(source, budget, is_urgent=is_urgent)
        said = f"{source.repository} is called {renamed_to} now" if renamed_to else ""
        moved = [one for one in members if one.resolved_sha != sha]
        owner, _, repo = (renamed_to or source.repository).partition("/")
        where = Source(owner, repo, ref=source.ref)

        def objects(sha: str, paths: set[str]) -> dict[str, str | RefusedError]:
            names = {where.repository, source.repository}
            return self._objects(where, sha, paths, names, budget, is_urgent)

        now = objects(sha, {one.source.path for one in moved}) if moved else {}
        then: dict[str, dict[str, str | RefusedError]] = {}
        for old, paths in _there_before(moved, now).items():
            try:
                then[old] = objects(old, paths)
            except UpstreamError as error:
                if error.reason != "not_found":
                    raise
        found = []
        for one in members:
            state: Literal["current", "changed", "gone", "unknown"] = "current"
            message = said
            if one.resolved_sha != sha:
                path = one.source.path
                is_now, was = now[path], then.get(one.resolved_sha or "", {}).get(path)
                trouble = next((it for it in (is_now, was) if isinstance(it, RefusedError)), None)
                if trouble is not None:
                    state, message = "unknown", str(trouble)
                elif not is_now:
                    state = "gone"
                elif not path or was != is_now:
                    state = "changed"
            at = None if state == "unknown" else sha
            found.append(Standing(one.key, state, at, message, renamed_to=renamed_to))
        return found

    def _objects(
        self,
        where: Source,
        sha: str,
        paths: set[str],
        names: set[str],
        budget: Budget,
        is_urgent: bool,
    ) -> dict[str, str | RefusedError]:
        """What some paths are in a commit, or why that cannot be told of one.

        :param names: by which the repository was known.
        :raises UpstreamError: if GitHub does not list the commit.
        """
        memory = self.client.memory
        known: dict[str, str] = {}
        for name in names:
            known |= memory.objects(name, sha, paths)
        refused: dict[str, RefusedError] = {}
        new = {}
        for path in sorted(paths - known.keys()):
            try:
                tree = self._tree(where, sha, budget, [path], is_urgent=is_urgent)
            except RefusedError as error:
                refused[path] = error
            else:
                new[path] = trees.object_at(tree, path)
        if new:
            memory.keep_objects(where.repository, sha, new)
        return {**known, **new, **refused}

    # --- questions -------------------------------------------------------------------------------

    def _head(self, source: Source, budget: Budget, *, is_urgent: bool) -> tuple[str, str | None]:
        """The commit that a ref is now, and the repository's new name if it has one."""
        if is_sha(source.ref):
            return source.ref, None
        ref = "HEAD" if source.ref == LATEST else quote(source.ref, safe="")
        reply = self.client.get(
            f"/repos/{source.repository}/commits/{ref}",
            _SHA_TYPE,
            budget=budget,
            is_conditional=True,
            is_urgent=is_urgent,
        )
        sha = reply.body.decode("ascii", "replace").strip()
        if not is_sha(sha):
            raise UpstreamError("GitHub does not answer with a commit", "invalid")
        return sha, self._new_name(source, budget) if reply.has_moved else None

    def _new_name(self, source: Source, budget: Budget) -> str:
        about = self._json(f"/repos/{source.repository}", budget, is_conditional=True)
        name = about.get("full_name") if isinstance(about, dict) else None
        return parse(name).repository if isinstance(name, str) else source.repository

    def _closed(self, source: Source, budget: Budget) -> Source:
        """Tell where in a link the ref ends: git allows no ref that begins as another one does."""
        first, _, _ = source.path.partition("/")
        for kind in ("heads", "tags"):
            refs = self._json(
                f"/repos/{source.repository}/git/matching-refs/{kind}/{quote(first)}", budget
            )
            for one in refs if isinstance(refs, list) else ():
                name = one.get("ref") if isinstance(one, dict) else None
                if not isinstance(name, str):
                    continue
                ref = name.removeprefix(f"refs/{kind}/")
                if source.path == ref or source.path.startswith(ref + "/"):
                    return _at(source, ref)
        return _at(source, first)

    def _tree(
        self,
        where: Source,
        sha: str,
        budget: Budget,
        paths: Iterable[str],
        *,
        whole: bool = False,
        is_urgent: bool = True,
    ) -> trees.Tree:
        """What is in a commit: all of it where one answer can hold it.

        :param paths: else only the folders on the way to these are listed.
        :param whole: whether to list all that is below them, too.
        """
        key = (where.repository.lower(), sha)
        with self._lock:
            tree = self._trees.get(key)
        if tree is None:
            nodes, is_whole = self._listing(where, sha, "", budget, is_urgent, deep=True)
            tree = trees.Tree(nodes) if is_whole else trees.Tree(unlisted={"": sha})
            with self._lock:
                tree = self._trees.setdefault(key, tree)
        with tree.lock:
            for path in paths if tree.unlisted else ():
                steps = path.split("/") if path else []
                for end in range(len(steps)):
                    self._list(where, tree, "/".join(steps[:end]), budget, is_urgent)
                while whole and (waiting := list(tree.unlisted_below(path))):
                    for folder in waiting:
                        self._list(where, tree, folder, budget, is_urgent, deep=bool(folder))
        with self._lock:
            while len(self._trees) > 1 and sum(map(len, self._trees.values())) > _KEPT_NODES:
                del self._trees[next(iter(self._trees))]
        return tree

    def _list(
        self,
        where: Source,
        tree: trees.Tree,
        folder: str,
        budget: Budget,
        is_urgent: bool,
        *,
        deep: bool = False,
    ) -> None:
        """List what is in a folder, unless it is known or there is no such folder.

        :param deep: whether to list all that is below it at once, if GitHub can.
        """
        sha = tree.unlisted.get(folder)
        if sha is None:
            return
        self._check_entries(tree)
        nodes: list[trees.Node] = []
        is_whole = False
        if sha and deep:
            nodes, is_whole = self._listing(where, sha, folder, budget, is_urgent, deep=True)
            deep = is_whole
        if sha and not is_whole:
            nodes, is_whole = self._listing(where, sha, folder, budget, is_urgent)
        if not is_whole:
            tree.unlisted[folder] = ""
            raise RefusedError("a folder is too large for GitHub to list")
        tree.add(nodes, are_whole=deep)
        del tree.unlisted[folder]
        self._check_entries(tree)

    def _check_entries(self, tree: trees.Tree) -> None:
        if len(tree) > self._limits.listing_entries:
            raise RefusedError(f"the repository has over {self._limits.listing_entries} files")

    def _listing(
        self,
        where: Source,
        sha: str,
        folder: str,
        budget: Budget,
        is_urgent: bool,
        *,
        deep: bool = False,
    ) -> tuple[list[trees.Node], bool]:
        """What is in a folder of this id, and whether that is all."""
        query = "?recursive=1" if deep else ""
        listing = self._json(f"/repos/{where.repository}/git/trees/{sha}{query}", budget, is_urgent)
        nodes = list(trees.nodes(listing, f"{folder}/" if folder else ""))
        return nodes, not listing.get("truncated")

    def _json(
        self, path: str, budget: Budget, is_urgent: bool = True, *, is_conditional: bool = False
    ) -> Any:
        body = self.client.get(
            path, budget=budget, is_urgent=is_urgent, is_conditional=is_conditional
        ).body
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise UpstreamError("GitHub does not answer with JSON", "invalid") from None


def _there_before(
    moved: Iterable[Held], now: Mapping[str, str | RefusedError]
) -> dict[str, set[str]]:
    """The paths of what is there still, by the commit that it was taken from."""
    paths: dict[str, set[str]] = {}
    for one in moved:
        # The commit is what a manifest says, and would become a part of an address.
        old, path = one.resolved_sha, one.source.path
        if old and is_sha(old) and path and isinstance(now[path], str) and now[path]:
            paths.setdefault(old, set()).add(path)
    return paths


class _Bounded:
    """A stream that refuses to hand out more than it may."""

    def __init__(self, stream: gzip.GzipFile, packed_bytes: int, limits: trees.Limits) -> None:
        self._stream, self._packed_bytes, self._limits = stream, packed_bytes, limits
        self._left = limits.archive_bytes

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            limit = self._limits.archive_bytes
            said = f"the archive has over {limit} bytes when it is unpacked"
            if limit > self._packed_bytes * self._limits.archive_ratio:
                raise RefusedError(said)
            raise UpstreamError(said, "too_large")
        return data


def _at(source: Source, ref: str) -> Source:
    path = source.path[len(ref) :].lstrip("/")
    return parse(f"{source.repository}{'/' if path else ''}{path}@{ref}")


def _target(staging: Path, index: int, found: trees.Found) -> Path:
    """The folder of a skill; the folder around a file."""
    folder = staging / f"fetched-{index}"
    return folder / found.name if found.type == "skill" else folder


def _present(present: Path | None, inside: str, type_: str, node: trees.Node) -> bytes | None:
    """The contents of a file that is there already, if they are the same."""
    if present is None:
        return None
    path = present / PurePosixPath(inside) if type_ == "skill" else present
    try:
        info = os.lstat(path)
        if not stat.S_ISREG(info.st_mode) or info.st_size != node.size:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    return data if trees.blob_sha(data) == node.sha else None


def _put(missing: _Missing, blob: str, data: bytes) -> None:
    for _, path, node in missing.pop(blob):
        _write(path, data, node)


def _write(path: Path, data: bytes, node: trees.Node) -> None:
    """Write a file whose path was checked into a staging folder that is ours alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
    if node.mode == trees.EXECUTABLE:
        path.chmod(0o755)
