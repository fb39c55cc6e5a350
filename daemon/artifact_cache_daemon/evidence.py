"""A root -> size, times and inode of every file in it, by listing and one stat each."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Size in bytes, mtime_ns, ctime_ns, inode: any difference means that the file has changed. A
# folder's mtime says nothing about the files in it, and a file's own can be set back.
Evidence = tuple[int, int, int, int]
# The files of one folder as name, size, mtime_ns, ctime_ns, inode, name, ... in one tuple: a third
# of the memory of a mapping, and most often compared as a whole.
Files = tuple[Any, ...]
WIDTH = 5

# As deep, as many, and the same names as in the app's own walk: what it does not read need not be
# told.
MAX_DEPTH = 50
MAX_ENTRIES = 1_000_000
SKIPPED_FOLDERS = frozenset(
    {".git", ".hg", ".svn", ".bzr", ".jj", "CVS", "node_modules", "site-packages", "__pycache__"}
    | {".venv", "venv", ".tox", ".nox", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
    | {".artifact-cache"}  # what the writer of a collection keeps for itself
)
_DEBRIS = re.compile(
    r"""(?x)
    .*~ | .*\.(?:tmp|sw[opx])                       # backups and swap files
    | \.\#.* | \#.*\#                               # Emacs: lock link, autosave
    | \._.* | \.DS_Store | Thumbs\.db | desktop\.ini
    | .*\.sync-conflict-.* | .*conflicted\ copy.*   # Syncthing, Dropbox
    | \.git                                         # a file in worktrees and submodules
    """,
    re.DOTALL,
).fullmatch
# The longest step of a file system's clock (FAT): two changes within one leave the same times.
COARSE_S = 2.0
# What could forge a line of a log or is no text at all, and the backslash that escapes begin with.
_UNPRINTABLE = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class RootUnavailableError(Exception):
    """A root of which nothing can be said now; least of all that its files are deleted."""


class Known:
    """The evidence of many files, kept by folder.

    :ivar folders: the path of a folder, POSIX and relative to the root -> its files.
    """

    __slots__ = ("folders",)

    def __init__(self, folders: dict[str, Files] | None = None) -> None:
        self.folders: dict[str, Files] = {} if folders is None else folders

    def __len__(self) -> int:
        return sum(map(len, self.folders.values())) // WIDTH

    def get(self, path: str) -> Evidence | None:
        """The evidence of one file; None if there is none."""
        folder, _, name = path.rpartition("/")
        return as_mapping(self.folders.get(folder, ())).get(name)

    def update(self, changes: Mapping[str, Evidence | None]) -> None:
        """Keep the evidence of some files; None forgets one."""
        by_folder: dict[str, dict[str, Evidence | None]] = {}
        for path, evidence in changes.items():
            folder, _, name = path.rpartition("/")
            by_folder.setdefault(folder, {})[name] = evidence
        for folder, changed in by_folder.items():
            files = as_mapping(self.folders.get(folder, ()))
            for name, evidence in changed.items():
                if evidence is None:
                    files.pop(name, None)
                else:
                    files[name] = evidence
            if files:
                self.folders[folder] = tuple(
                    part for name, kept in files.items() for part in (name, *kept)
                )
            else:
                self.folders.pop(folder, None)


def as_mapping(files: Files) -> dict[str, Evidence]:
    """The files of a folder by their names."""
    # One iterator five times over: each turn of zip takes the next five parts.
    return {
        name: (size, mtime_ns, ctime_ns, inode)
        for name, size, mtime_ns, ctime_ns, inode in zip(*[iter(files)] * WIDTH, strict=True)
    }


class Walk:
    """One look at a root; going through it yields each folder that has files, with them.

    Links to folders are not followed. A link to a file counts if it leads to a regular file inside
    the root; its evidence is the target's.

    :ivar device: of the root; mounting something over it changes that.
    :ivar unseen: the paths below which something may be that was not seen; ``""`` is everything.
    :ivar problems: what to tell people, a sentence each.
    :ivar times: a number made of the times of all folders, which change when anything in them is
        created or deleted.
    :ivar bare: the folders without files that count.
    :ivar links: the links that do not count.
    """

    def __init__(
        self,
        root: str,
        *,
        beat: Callable[[], None] = lambda: None,
        max_depth: int = MAX_DEPTH,
        max_entries: int = MAX_ENTRIES,
    ) -> None:
        """Look at the root itself.

        :param beat: called between the folders: this may take a while, but it gets on.
        :raises RootUnavailableError: if it is missing, no folder, or cannot be read.
        """
        self.root = root
        self.unseen: list[str] = []
        self.problems: list[str] = []
        self._beat = beat
        self._max_depth = max_depth
        self._max_entries = max_entries
        self.times = 0
        self.bare: list[str] = []
        self.links: list[str] = []
        self._identity = _identity(root)
        self.device = self._identity[0]

    def __iter__(self) -> Iterator[tuple[str, Files]]:
        """Go through all folders.

        :raises RootUnavailableError: if the root cannot be read, or was replaced meanwhile.
        """
        left = self._max_entries
        beat, max_depth = self._beat, self._max_depth
        # The verdict on a name, and one string for all the files that share it.
        names: dict[str, str] = {}
        stack = [("", self.root, 0)]
        while stack:
            path, location, depth = stack.pop()
            beat()
            prefix = path + "/" if path else ""
            flat: list[Any] = []
            below: list[tuple[str, str, int]] = []
            is_environment = False
            try:
                # Before the folder is listed: what comes into it later changes its time.
                self.times ^= stamp(path, os.stat(location))  # noqa: PTH116
                with os.scandir(location) as entries:
                    for entry in entries:
                        name = entry.name
                        left -= 1
                        if left < 0:
                            self.unseen.append("")
                            self.problems.append(
                                f"there are more than {self._max_entries} files and folders;"
                                " the rest is not looked at"
                            )
                            stack.clear()
                            below.clear()
                            break
                        if entry.is_dir(follow_symlinks=False):
                            if name in SKIPPED_FOLDERS:
                                continue
                            if depth == max_depth:
                                self.unseen.append(prefix + name)
                                self.problems.append(
                                    f"'{shown(prefix + name)}' lies more than {max_depth} folders"
                                    " deep and is not looked at"
                                )
                                continue
                            below.append((prefix + name, entry.path, depth + 1))
                            continue
                        try:
                            kept = names[name]
                        except KeyError:
                            kept = names[name] = "" if _DEBRIS(name) else name
                        if not kept:
                            continue
                        if name == "pyvenv.cfg" and depth:
                            is_environment = True
                            break
                        try:
                            if entry.is_symlink():
                                found = target(self.root, entry.path)
                                if found is None:
                                    self.links.append(prefix + name)
                                    continue
                                info = found
                            else:
                                info = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:
                            # Removed, or just being replaced: the next look knows.
                            self.unseen.append(prefix + name)
                            continue
                        except OSError as error:
                            self.unseen.append(prefix + name)
                            self.problems.append(_unreadable(prefix + name, error))
                            continue
                        if stat.S_ISREG(info.st_mode):
                            mtime_ns = info.st_mtime_ns
                            ctime_ns = info.st_ctime_ns
                            flat += (
                                kept,
                                info.st_size,
                                mtime_ns,
                                # Mostly the same number: one object for both.
                                mtime_ns if ctime_ns == mtime_ns else ctime_ns,
                                info.st_ino,
                            )
            except OSError as error:
                if not depth:
                    raise _unavailable(error) from error
                self.unseen.append(path)
                if not isinstance(error, FileNotFoundError):
                    self.problems.append(_unreadable(path, error))
            if is_environment:  # whatever its name
                self.bare.append(path)
                continue
            stack += below
            if flat:
                yield path, tuple(flat)
            else:
                self.bare.append(path)
        if _identity(self.root) != self._identity:
            raise RootUnavailableError("the folder was replaced while it was looked at")

    def hides(self, path: str) -> bool:
        """Whether something at ``path`` may be there although it was not seen."""
        return any(part in ("", path) or path.startswith(part + "/") for part in self.unseen)


def target(root: str, location: str) -> os.stat_result | None:
    """What stat tells about the regular file inside the root that a link leads to, if it does.

    :raises PermissionError: if that cannot be told.
    """
    try:
        info = os.stat(location)  # noqa: PTH116 - a Path would cost more than the call
    except PermissionError:
        raise
    except OSError:
        return None  # it leads nowhere, or in a circle
    if not stat.S_ISREG(info.st_mode):
        return None
    inside = os.path.realpath(root).rstrip("/") + "/"
    return info if os.path.realpath(location).startswith(inside) else None


def as_evidence(info: os.stat_result) -> Evidence:
    """What of a file is compared."""
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino


def stamp(folder: str, info: os.stat_result) -> int:
    """A number that is another one when anything was created or deleted in a folder.

    So it is when another folder has taken its place.
    """
    return hash((folder, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, info.st_dev))


def shown(path: str) -> str:
    r"""Write ``path`` as the API and a line of a log take it.

    Bytes that are not UTF-8 and control characters become ``\xNN`` or ``\uNNNN``, and a backslash
    is doubled.
    """
    if path.isprintable() and "\\" not in path:
        return path
    return _UNPRINTABLE.sub(_escape, path)


def is_coarse(evidence: Evidence) -> bool:
    """Whether the times look like those of a file system that counts in whole seconds.

    FAT counts in steps of two. Elsewhere one ctime in a thousand million is such a one.
    """
    return not evidence[1] % 1_000_000_000 and not evidence[2] % 1_000_000_000


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:  # a byte as os.fsdecode keeps it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def _identity(root: str) -> tuple[int, int]:
    try:
        info = os.stat(root)  # noqa: PTH116
    except OSError as error:
        raise _unavailable(error) from error
    if not stat.S_ISDIR(info.st_mode):
        raise RootUnavailableError("it is not a folder")
    return info.st_dev, info.st_ino


def _unavailable(error: OSError) -> RootUnavailableError:
    if isinstance(error, FileNotFoundError):
        return RootUnavailableError("it does not exist")
    if isinstance(error, NotADirectoryError):
        return RootUnavailableError("it is not a folder")
    return RootUnavailableError(f"it cannot be read: {error.strerror}")


def _unreadable(path: str, error: OSError) -> str:
    return f"'{shown(path)}' cannot be read: {error.strerror}"
