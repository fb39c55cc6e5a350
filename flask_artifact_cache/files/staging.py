"""A source -> a copy beside the collection's files, put in place or taken away by one rename."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConflictError, RefusedError
from .carrying import carry, is_left_behind
from .contained import check_part, folded, kind, opened, parts_of, reason
from .lockfile import FOLDER
from .walk import shown

CHUNK_BYTES = 1 << 20
_PREFIX = "stage-"
_OLD, _NOTE = ".old", ".target"  # beside a staged artifact; no name of one
_READ = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC")
)
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)


@dataclass(frozen=True, slots=True)
class Limits:
    """How large an artifact may be that is put into a collection."""

    files: int = 10_000  # and folders
    bytes: int = 256 << 20
    depth: int = 40


@dataclass(frozen=True, slots=True)
class Staged:
    """What lies ready to be put in its place.

    In a stage each artifact has a folder that is called by a number, and in that one for its shelf.

    :ivar there: the hash of what is in the place; None: nothing, empty: it cannot be told.
    :ivar unknown: why not.
    :ivar stage: where it lies, below the writer's folder.
    :ivar parts: of the place, below the root.
    """

    content_hash: str
    there: str | None
    stage: tuple[str, ...]
    parts: tuple[str, ...]
    unknown: str = ""


# Two open folders, each followed by the name of an entry: what exchanges the entries.
Exchange = Callable[[int, str, int, str], object]


@contextmanager
def stage(root: Path, folder: int, limits: Limits) -> Iterator[str]:
    """Make a folder in the writer's one; at the end :func:`mend` does with it as with any."""
    name = _PREFIX + uuid.uuid4().hex
    os.mkdir(name, 0o700, dir_fd=folder)
    try:
        yield name
    finally:
        _end(root, folder, name, limits)


def discard(folder: int, name: str) -> None:
    """Delete a stage with all that is in it; rmtree by descriptor follows no link.

    What cannot be deleted is left, for whoever mends next.
    """
    with suppress(OSError):
        for *_, inner in os.fwalk(name, dir_fd=folder):
            os.fchmod(inner, 0o700)  # an artifact may have folders that are read-only
    shutil.rmtree(name, dir_fd=folder, ignore_errors=True)


def copy(source: Path, target: int, name: str, limits: Limits) -> str:
    """Copy a file or folder to ``name`` in an open folder, and give its SkillMeat hash.

    What editors and tools leave behind is not copied, as no walk sees it either.

    :raises RefusedError: if it holds a link, a device, a name that cannot be one everywhere, two
        names that are one where case does not count, too much, or what cannot be read.
    """
    return _taken(source, target, name, _Copier(limits, "the source"))


def hash_of(place: Path, limits: Limits) -> str:
    """The SkillMeat hash of a file or folder that lies in a collection.

    Links and devices in it are passed over, as by a walk.

    :raises RefusedError: if it cannot be told, for any other reason that :func:`copy` has.
    """
    return _taken(place, None, "", _Copier(limits, "what is there"))


def _taken(source: Path, target: int | None, name: str, copier: _Copier) -> str:
    what = copier.what
    try:
        info = source.lstat()
        if stat.S_ISDIR(info.st_mode):
            handle = os.open(source, _READ | os.O_DIRECTORY)
            try:
                copier.folder(handle, target, name, (), 0)
            finally:
                os.close(handle)
        elif stat.S_ISREG(info.st_mode):
            copier.file(os.open(source, _READ), target, name, ())
        else:
            raise RefusedError(f"{what} is a link or a device, not a file or folder")
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise RefusedError(f"{what} holds a link, which is not followed") from None
        if isinstance(error, FileNotFoundError):
            raise RefusedError(f"{what} is not there") from None
        if target is None or isinstance(error, PermissionError):
            raise RefusedError(f"{what} cannot be read: {reason(error)}") from error
        raise
    return copier.hasher.hexdigest()


class _Copier:
    """One copy, or without a target no more than its hash: counts what it takes.

    :ivar what: is copied, in a message.
    """

    def __init__(self, limits: Limits, what: str) -> None:
        self.what = what
        self.hasher = hashlib.sha256()
        self._limits = limits
        self._files = 0
        self._bytes = 0

    def folder(
        self, source: int, target: int | None, name: str, path: tuple[str, ...], depth: int
    ) -> None:
        limit, what = self._limits, self.what
        if depth > limit.depth:
            raise RefusedError(f"{what} is more than {limit.depth} folders deep")
        handle = None
        if target is not None:
            os.mkdir(name, 0o755, dir_fd=target)
            handle = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=target)
        try:
            known: dict[str, str] = {}
            # In this order SkillMeat's hash takes the files.
            for one in self._names(source):
                here = (*path, one)
                said = shown("/".join(here))
                mode = os.stat(one, dir_fd=source, follow_symlinks=False).st_mode
                if is_left_behind(source, one, is_folder=stat.S_ISDIR(mode)):
                    continue
                if handle is None and not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                    continue
                check_part(one, f"in {what}, '{said}':")
                same = known.setdefault(folded(one), one)
                if same is not one:
                    text = f"in {what}, '{said}' and '{shown(same)}' differ by case alone"
                    raise RefusedError(text)
                if stat.S_ISDIR(mode):
                    inner = os.open(one, _READ | os.O_DIRECTORY, dir_fd=source)
                    try:
                        self.folder(inner, handle, one, here, depth + 1)
                    finally:
                        os.close(inner)
                elif stat.S_ISREG(mode):
                    self.file(os.open(one, _READ, dir_fd=source), handle, one, here)
                elif stat.S_ISLNK(mode):
                    raise RefusedError(f"in {what}, '{said}' is a link, which is not followed")
                else:
                    raise RefusedError(f"in {what}, '{said}' is neither a file nor a folder")
            if handle is not None:
                os.fsync(handle)
        finally:
            if handle is not None:
                os.close(handle)

    def file(self, source: int, target: int | None, name: str, path: tuple[str, ...]) -> None:
        """Copy an open file, and close it."""
        with os.fdopen(source, "rb", buffering=0) as reader:
            self._count()
            info = os.fstat(source)
            if not stat.S_ISREG(info.st_mode):
                raise RefusedError(f"a file of {self.what} was exchanged while it was read")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            # Scripts stay executable; nothing becomes writable for others.
            mode = 0o755 if info.st_mode & stat.S_IXUSR else 0o644
            self.hasher.update("/".join(path).encode())
            with (
                nullcontext()
                if target is None
                else os.fdopen(os.open(name, flags, mode, dir_fd=target), "wb")
            ) as writer:
                while part := reader.read(CHUNK_BYTES):
                    self._bytes += len(part)
                    if self._bytes > self._limits.bytes:
                        raise RefusedError(f"{self.what} has over {self._limits.bytes} bytes")
                    self.hasher.update(part)
                    if writer is not None:
                        writer.write(part)
                if writer is not None:
                    writer.flush()
                    os.fsync(writer.fileno())

    def _names(self, source: int) -> list[str]:
        names = []
        with os.scandir(source) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    self._count()
                names.append(entry.name)
                if len(names) > self._limits.files:
                    raise self._too_many()
        return sorted(names)

    def _count(self) -> None:
        self._files += 1
        if self._files > self._limits.files:
            raise self._too_many()

    def _too_many(self) -> RefusedError:
        return RefusedError(f"{self.what} has over {self._limits.files} files and folders")


def put(
    root: Path, staged: Staged, limits: Limits, exchange: Exchange, *, replace: bool = False
) -> None:
    """Put what was staged in its place.

    What was there is in the stage afterwards, but for what is none of its content: that is in the
    new one. Readers see the old one or the new one; where the system cannot exchange the two, none
    for an instant.

    :param replace: whether to replace whatever is there by now.
    :raises ConflictError: if it is not what was there when it was staged, and so is left.
    :raises RefusedError: if the new one has something else in the place of what is to be carried
        over, or that cannot be moved.
    """
    shelf, parts = (FOLDER, *staged.stage[:-1]), staged.parts
    before, leaf = staged.stage[-1], parts[-1]
    said = shown("/".join(parts))
    with opened(root, shelf) as source, opened(root, parts[:-1], create=True) as target:
        there = kind(target, leaf)
        if there == "other":
            raise RefusedError(f"'{said}' is a link or a device")
        if there is None:
            os.rename(before, leaf, src_dir_fd=source, dst_dir_fd=target)
            os.fsync(target)
            return
        # Until the note is gone, the end of the stage or mend() puts back what was moved, and
        # throws nothing away that is not as it was staged or seen.
        known = () if replace else (staged.content_hash, staged.there or "")
        _note(source, "\n".join(("/".join(parts), *known)))
        # Before the exchange: what cannot be moved ends it while the old one is in place.
        left = carry(root, parts, (*shelf, before))
        if left:
            carry(root, (*shelf, before), parts)
            where = shown("/".join((*parts, left[0])))
            raise RefusedError(f"'{where}' cannot be kept beside what is new; move it away")
        if there == kind(source, before) == "folder":
            _keep_permissions(root, parts, (*shelf, before))
        exchange(source, before, target, leaf)
        # Only now does nobody find it any more who would change it.
        is_known = replace or _is_one_of(Path(root, *shelf, before), limits, (staged.there,))
        if not is_known:
            exchange(source, before, target, leaf)
        # What has come meanwhile, too.
        left = carry(root, (*shelf, before), parts)
        if is_known and not left:
            os.unlink(_NOTE, dir_fd=source)
        os.fsync(target)
    if not is_known:
        raise ConflictError(f"'{said}' was changed meanwhile, and is left as it is")


def _keep_permissions(root: Path, old: tuple[str, ...], new: tuple[str, ...]) -> None:
    """Give a folder the group and permissions of another, where the system allows both."""
    with opened(root, old) as before, opened(root, new) as after:
        info = os.fstat(before)
        # In this order: no other group gets the permissions, and a new group takes some away.
        with suppress(OSError):
            os.fchown(after, -1, info.st_gid)
            os.fchmod(after, stat.S_IMODE(info.st_mode))


def _is_one_of(place: Path, limits: Limits, known: Collection[str | None]) -> bool:
    try:
        return hash_of(place, limits) in known
    except RefusedError:
        return False


def mend(root: Path, folder: int, limits: Limits) -> None:
    """Put back what a process that has died had moved, and delete what it left.

    What has no place any more stays where it is, for somebody to look at.
    """
    for name in os.listdir(folder):
        if name.startswith(_PREFIX):
            _end(root, folder, name, limits)


def left_over(root: Path) -> list[str]:
    """The stages in which is what was moved and not put back: paths below ``root``.

    That of a change that is going on just now may be one of them for an instant.
    """
    notes = Path(root, FOLDER).glob(f"{_PREFIX}*/*/*/{_NOTE}")
    return sorted({"/".join(note.relative_to(root).parts[:2]) for note in notes})


def _end(root: Path, folder: int, name: str, limits: Limits) -> None:
    try:
        shelves = [
            (FOLDER, name, inner, shelf)
            for inner in filter(str.isdecimal, _folders(root, (FOLDER, name)))
            for shelf in _folders(root, (FOLDER, name, inner))
            if not shelf.startswith(".")  # none of ours, but what anybody may have put there
        ]
    except (OSError, RefusedError):
        return
    is_done = True
    for shelf in shelves:
        try:
            is_done &= not _put_back(root, shelf, limits)
        except (OSError, RefusedError):
            is_done = False  # for this one alone
    if is_done:
        discard(folder, name)


def _folders(root: Path, parts: tuple[str, ...]) -> list[str]:
    with opened(root, parts) as folder:
        return [one for one in os.listdir(folder) if kind(folder, one) == "folder"]


def _put_back(root: Path, shelf: tuple[str, ...], limits: Limits) -> list[str]:
    """Put back what was moved from the place that the note tells; give what could not be."""
    with opened(root, shelf) as source:
        if kind(source, _NOTE) != "file":
            return []
        handle = os.open(_NOTE, _READ, dir_fd=source)
        with os.fdopen(handle, encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
        if not text:
            return []  # it died before it could move anything
        path, *known = text.split("\n")
        parts = parts_of(path)
        with opened(root, parts[:-1], create=True) as target:
            if kind(target, parts[-1]) is None and kind(source, _OLD) is not None:
                os.rename(_OLD, parts[-1], src_dir_fd=source, dst_dir_fd=target)
        inside = [one for one in os.listdir(source) if one != _NOTE]
    # Whether this is the new one or already the old one: what is no content belongs to the place.
    left = [path for one in inside for path in carry(root, (*shelf, one), parts)]
    if known:
        # An edit that came between the last look and the exchange.
        left += [one for one in inside if not _is_one_of(Path(root, *shelf, one), limits, known)]
    return left


def _note(folder: int, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(_NOTE, flags, 0o600, dir_fd=folder), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.fsync(folder)


def take(root: Path, parts: tuple[str, ...], stage_parts: tuple[str, ...]) -> bool:
    """Move what is at ``parts`` into the stage; False if nothing is there."""
    try:
        with (
            opened(root, parts[:-1]) as source,
            opened(root, (FOLDER, *stage_parts[:-1])) as target,
        ):
            os.rename(parts[-1], stage_parts[-1], src_dir_fd=source, dst_dir_fd=target)
            os.fsync(source)
    except FileNotFoundError:
        return False
    return True


def exchange(source: int, before: str, target: int, leaf: str) -> None:
    """Exchange two entries of open folders, in one step where the system can."""
    call = _renameat2()
    names = os.fsencode(before), os.fsencode(leaf)
    if call is None or call(source, names[0], target, names[1], _EXCHANGE) != 0:
        by_renames(source, before, target, leaf)


def by_renames(source: int, before: str, target: int, leaf: str) -> None:
    """Exchange two entries of open folders; for an instant the second is not there."""
    os.rename(leaf, _OLD, src_dir_fd=target, dst_dir_fd=source)
    os.rename(before, leaf, src_dir_fd=source, dst_dir_fd=target)
    os.rename(_OLD, before, src_dir_fd=source, dst_dir_fd=source)


def _renameat2() -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), "renameat2", None)
    return found
