"""A root on disk -> the files seen in it, by listing and one stat each; nothing is opened."""

from __future__ import annotations

import fnmatch
import hashlib
import os
import re
import stat
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ..errors import RootUnavailableError
from .problems import Problem

# Real collections reach 12 folders; a tree deeper than this is a mistake or an attack.
MAX_DEPTH = 50
# Files and folders together: five times the largest collection that is measured.
MAX_ENTRIES = 1_000_000

# The coarsest clock of a file system in use: FAT counts in steps of two seconds.
TICK_NS = 2_000_000_000

# Folders that hold tools and history, never artifacts of the collection itself (R0).
# Other folders with a leading dot do hold artifacts: .claude, .agents, .curated, .kiro.
SKIPPED_FOLDERS = frozenset(
    {".git", ".hg", ".svn", ".bzr", ".jj", "CVS", "node_modules", "site-packages", "__pycache__"}
    | {".venv", "venv", ".tox", ".nox", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
    | {".artifact-cache"}  # what the writer of a collection keeps for itself
)
# What editors, desktops and synchronisation programs leave behind.
is_debris = re.compile(
    r"""(?x)
    .*~ | .*\.(?:tmp|sw[opx])                       # backups and swap files
    | \.\#.* | \#.*\#                               # Emacs: lock link, autosave
    | \._.* | \.DS_Store | Thumbs\.db | desktop\.ini
    | .*\.sync-conflict-.* | .*conflicted\ copy.*   # Syncthing, Dropbox
    | \.git                                         # a file in worktrees and submodules
    """,
    re.DOTALL,
).fullmatch
# What holds the manifest of a plugin.
_PLUGIN_FOLDER = re.compile(r"\..*-plugin", re.DOTALL).fullmatch


class Evidence(NamedTuple):
    """What stat tells about a file; any difference in it means the file has changed."""

    size: int  # bytes
    mtime_ns: int
    ctime_ns: int
    inode: int


# One empty mapping serves all leaves: it saves 6 MB at 100,000 folders.
_NO_FILES: Mapping[str, Evidence] = MappingProxyType({})
_NO_FOLDERS: Mapping[str, Folder] = MappingProxyType({})


class Folder:
    """A folder with its regular files and its folders, each by its name as the system gives it.

    Names that are not valid UTF-8 carry surrogate escapes; :func:`shown` makes text of them.

    :ivar path: POSIX, relative to the root; ``""`` is the root itself.
    :ivar name: the last part of the path; empty for the root.
    """

    __slots__ = ("files", "folders", "name", "path")

    def __init__(
        self,
        path: str,
        files: Mapping[str, Evidence] = _NO_FILES,
        folders: Mapping[str, Folder] = _NO_FOLDERS,
        *,
        name: str | None = None,
    ) -> None:
        self.path = path
        self.name = path.rpartition("/")[2] if name is None else name
        self.files = files
        self.folders = folders

    def __repr__(self) -> str:
        return f"Folder({self.path!r})"

    def join(self, name: str) -> str:
        """Make the path of an entry of this folder."""
        return f"{self.path}/{name}" if self.path else name

    def walk(self) -> Iterator[Folder]:
        """Go through this folder and all below it, in no particular order."""
        stack = [self]
        while stack:
            folder = stack.pop()
            yield folder
            stack.extend(folder.folders.values())


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """A root as one walk saw it.

    :ivar complete: False when some folder or file could not be looked at.
    :ivar unlisted: folders, and links to files, below which something may lie that was not seen;
        ``""`` is everything.
    :ivar looked_at_ns: when the walk began, in ns since 1970; see :func:`settled`.
    :ivar has_links: whether there are links to files, whether or not they count.
    """

    root: Path
    top: Folder
    problems: tuple[Problem, ...]
    complete: bool
    unlisted: tuple[str, ...] = ()
    looked_at_ns: int = 0
    has_links: bool = False

    @property
    def name(self) -> str:
        """The name of the root's folder."""
        return root_name(self.root)

    def folder(self, path: str) -> Folder | None:
        """Find the folder at ``path``, if the walk saw one there."""
        folder: Folder | None = self.top
        for name in path.split("/") if path else ():
            if folder is None:
                break
            folder = folder.folders.get(name)
        return folder

    def file(self, path: str) -> Evidence | None:
        """Find the evidence of the regular file at ``path``, if the walk saw one there."""
        above, _, name = path.rpartition("/")
        folder = self.folder(above)
        return None if folder is None else folder.files.get(name)

    def hides(self, path: str) -> bool:
        """Whether something at ``path``, as :func:`shown` gives it, may be there unseen."""
        for part in map(shown, self.unlisted):
            if part in ("", path) or path.startswith((part + "/", part + "#")):
                return True
            # A marketplace lists the plugins whose folders it finds.
            listing, separator, _ = path.partition(_LISTING)
            if separator and (not listing or part.startswith(listing)):
                return True
        return False


_LISTING = ".claude-plugin/marketplace.json#"


def shown(path: str) -> str:
    r"""Write ``path`` as text for storage, JSON and logs.

    Bytes that are not UTF-8 and control characters become ``\xNN`` or ``\uNNNN``, and a
    backslash is doubled, so that two paths never look the same.
    """
    if path.isprintable() and "\\" not in path:
        return path
    return _UNPRINTABLE.sub(_escape, path)


# What could forge a line of a log or is no text at all: C0, DEL, C1, line and paragraph
# separator, surrogates; and the backslash that the escapes begin with.
_UNPRINTABLE = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if match[0] == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:  # a byte as os.fsdecode keeps it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def digest(part: Tree | Folder | Evidence) -> str:
    """Make a hexadecimal BLAKE2b of all names and all four numbers in ``part``.

    Equal digests mean that nothing has changed: no file, no name, no folder, no problem.
    """
    hasher = hashlib.blake2b(digest_size=16)
    names: list[str] = []
    numbers: list[int] = []
    if isinstance(part, Evidence):
        numbers += part
    else:
        if isinstance(part, Tree):
            names += [f"{problem.code}/{problem.path}" for problem in part.problems]
            names.append(f"complete/{part.complete}")
            names += [f"unlisted/{path}" for path in part.unlisted]
            part = part.top
        stack = [part]
        while stack:
            folder = stack.pop()
            files = folder.files
            # No name holds a slash, so paths and names cannot be taken for each other.
            names.append(folder.path + "/")
            for name in files if len(files) < 2 else sorted(files):
                names.append(name)
                numbers += files[name]
            folders = folder.folders
            if folders:
                stack += [folders[name] for name in sorted(folders)]
            if len(names) > 4096:
                # All at once would take 17 MB at 100,000 artifacts.
                _update(hasher, names, numbers)
                names.clear()
                numbers.clear()
    _update(hasher, names, numbers)
    return hasher.hexdigest()


def _update(hasher: hashlib.blake2b, names: list[str], numbers: list[int]) -> None:
    text = "\0".join(names)
    hasher.update(f"{len(names)}/{len(text)}/{text}".encode("utf-8", "surrogateescape"))
    try:
        hasher.update(array("q", numbers))
    except OverflowError:  # an inode above 2**63, or a time after 2262
        hasher.update(repr(numbers).encode("ascii"))


def described(part: Folder | Evidence) -> str:
    """As :func:`digest`, for a text that is hashed anyway: of a single file what it is made from.

    Most artifacts are one file, and two hashes of a few bytes cost more than all the rest.
    """
    if isinstance(part, Evidence):
        return " ".join(map(str, part))
    if part.folders or len(part.files) != 1:
        return digest(part)
    [(name, evidence)] = part.files.items()
    return f"{part.path}/\0{name}\0{described(evidence)}"


def settled(part: Tree | Folder | Evidence, looked_at_ns: int) -> bool:
    """Whether every file in ``part`` was last changed well before the look at it.

    A file that changes within one tick of the file system's clock may change again without any
    trace in its evidence: the racy entries of git (Documentation/technical/racy-git.txt).
    """
    latest_ns = looked_at_ns - TICK_NS
    if isinstance(part, Evidence):
        return part.mtime_ns < latest_ns and part.ctime_ns < latest_ns
    top = part.top if isinstance(part, Tree) else part
    for folder in top.walk():
        for _, mtime_ns, ctime_ns, _ in folder.files.values():
            if mtime_ns >= latest_ns or ctime_ns >= latest_ns:
                return False
    return True


def walk(
    root: str | Path,
    *,
    only: str = "",
    exclude: Sequence[str] = (),
    max_depth: int = MAX_DEPTH,
    max_entries: int = MAX_ENTRIES,
    looked_at_ns: int = 0,
) -> Tree:
    """See every regular file below ``root``; links to folders are not followed.

    A link to a file counts when its target is a regular file inside the root that is not seen
    under its own path as well (R0).

    :param only: the folder that is looked at, if not all are; the tree holds nothing else then.
    :param exclude: patterns as of :mod:`fnmatch`, against the path relative to the root; one
        without a slash is compared with every name. A folder that matches is not entered.
    :param max_depth: folders nested deeper are left out, with a problem.
    :param max_entries: files and folders looked at, before the walk ends with a problem.
    :param looked_at_ns: the time, in ns since 1970; passed on in the tree.
    :raises RootUnavailableError: if the root is missing, no folder, or unreadable.
    """
    root = Path(root)
    check(root)
    excluded = _excluded(exclude)
    top = Folder("")
    problems: list[Problem] = []
    links: list[tuple[Folder, str]] = []
    unlisted: set[str] = set()
    complete = True
    left = max_entries
    # Verdict on a name, and one string object for all files that share it: most files of a
    # collection have the same few names.
    known: dict[str, str] = {}
    new_evidence = tuple.__new__
    start = top
    parts = only.split("/") if only else []
    for part in parts:
        inner = Folder(start.join(part))
        start.folders = {part: inner}
        start = inner
    stack = [(start, os.fspath(Path(root, only)), len(parts))]
    while stack:
        folder, location, depth = stack.pop()
        path = folder.path
        prefix = path + "/" if path else ""
        files: dict[str, Evidence] = {}
        folders: dict[str, Folder] = {}
        below: list[tuple[Folder, str, int]] = []
        try:
            with os.scandir(location) as entries:
                for entry in entries:
                    name = entry.name
                    if left <= 0:
                        stack.clear()
                        below.clear()
                        problems.append(_too_many(max_entries))
                        unlisted.add("")
                        complete = False
                        break
                    left -= 1
                    if excluded is not None and excluded(prefix + name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if name in SKIPPED_FOLDERS:
                            continue
                        if depth == max_depth:
                            problems.append(_too_deep(prefix + name, max_depth))
                            unlisted.add(_affected(prefix + name))
                            complete = False
                            continue
                        # The key once more: the artifact's name will be the same object, too.
                        inner = folders[name] = Folder(prefix + name, name=name)
                        below.append((inner, entry.path, depth + 1))
                        continue
                    try:
                        kept = known[name]
                    except KeyError:
                        kept = known[name] = "" if is_debris(name) else name
                    if not kept:
                        continue
                    if entry.is_symlink():
                        links.append((folder, name))
                        continue
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        # Removed, or just being replaced: the next walk knows.
                        unlisted.add(_affected(path))
                        complete = False
                        continue
                    except OSError as error:
                        problems.append(_unreadable(prefix + name, "file", error))
                        unlisted.add(_affected(path))
                        complete = False
                        continue
                    if stat.S_ISREG(info.st_mode):
                        mtime_ns = info.st_mtime_ns
                        ctime_ns = info.st_ctime_ns
                        files[kept] = new_evidence(
                            Evidence,
                            (
                                info.st_size,
                                mtime_ns,
                                # Mostly the same number; one object saves 3 MB at 100,000.
                                mtime_ns if ctime_ns == mtime_ns else ctime_ns,
                                info.st_ino,
                            ),
                        )
        except OSError as error:
            if not depth:
                raise _unavailable(error) from error
            unlisted.add(_affected(path))
            complete = False
            if not isinstance(error, FileNotFoundError):
                problems.append(_unreadable(path, "folder", error))
        if "pyvenv.cfg" in files and depth:
            continue  # a virtual environment, whatever its name
        if files:
            folder.files = files
        if folders:
            folder.folders = folders
        stack += below
    tree = Tree(root, top, (), complete, (), looked_at_ns)
    if links:
        problems += _follow_file_links(tree, links, unlisted)
    problems.sort(key=lambda problem: problem.path)
    hidden = tuple(sorted(unlisted))
    return Tree(root, top, tuple(problems), complete, hidden, looked_at_ns, bool(links))


def root_name(root: Path) -> str:
    """The name of a root's folder."""
    return root.absolute().name or "root"


def evidence_of(root: Path, path: str) -> Evidence | None:
    """What stat tells about the regular file at ``path``; None if there is none."""
    try:
        info = Path(root, path).lstat()
    except OSError:
        return None
    if not stat.S_ISREG(info.st_mode):
        return None
    return Evidence(info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)


def is_inside(root: Path, folder: str) -> bool:
    """Whether the way from the root to a folder leads over no link."""
    return Path(root, folder).resolve() == root.resolve() / folder


def _affected(path: str) -> str:
    """Tell the folder of which something may be hidden when ``path`` cannot be listed."""
    above, _, name = path.rpartition("/")
    # The manifest in it names what lies anywhere in the plugin.
    return above if name == "claude-plugin" or _PLUGIN_FOLDER(name) else path


def _follow_file_links(
    tree: Tree, links: Sequence[tuple[Folder, str]], unlisted: set[str]
) -> list[Problem]:
    """Add the targets of the links that count; say what is wrong with the others."""
    problems = []
    real_root = os.path.realpath(tree.root)
    inside = real_root.rstrip(os.sep) + os.sep
    for folder, name in links:
        path = folder.join(name)
        location = Path(tree.root, path)
        try:
            info = location.stat()
            target = os.path.realpath(location)
        except OSError as error:
            if isinstance(error, PermissionError):
                unlisted.add(_affected(folder.path) if _PLUGIN_FOLDER(folder.name) else path)
            text = "the link leads nowhere"
            problems.append(Problem("W_SYMLINK_BROKEN", text, shown(path)))
            continue
        if not target.startswith(inside) and target != real_root:
            text = "the link leads out of the collection and is not followed"
            problems.append(Problem("W_PATH_OUTSIDE", text, shown(path)))
            continue
        if not stat.S_ISREG(info.st_mode):
            continue
        if tree.file(target[len(inside) :].replace(os.sep, "/")) is not None:
            continue  # an alias: the file is seen under its own path
        evidence = Evidence(info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)
        folder.files = {**folder.files, name: evidence}
    return problems


_MISSING = "The collection's folder does not exist; mount it, or mend its path."
_NO_FOLDER = "The collection's root is not a folder; mend its path."


def check(root: Path) -> None:
    """Whether there is a folder that can be looked at.

    :raises RootUnavailableError: if not.
    """
    try:
        mode = root.stat().st_mode
    except OSError as error:
        raise _unavailable(error) from error
    if not stat.S_ISDIR(mode):
        raise RootUnavailableError(_NO_FOLDER)


def _unavailable(error: OSError) -> RootUnavailableError:
    # The message reaches clients, who are not to learn where the collection lies.
    if isinstance(error, FileNotFoundError):
        return RootUnavailableError(_MISSING)
    if isinstance(error, NotADirectoryError):
        return RootUnavailableError(_NO_FOLDER)
    text = f"The collection's folder cannot be read: {error.strerror}"
    also = "; let the app's user read it" if isinstance(error, PermissionError) else ""
    return RootUnavailableError(f"{text}{also}.")


def _excluded(patterns: Sequence[str]) -> Callable[[str], object] | None:
    parts = []
    for pattern in patterns:
        plain = pattern.removeprefix("./").strip("/")
        if plain:
            anywhere = "" if "/" in plain else "(?:.*/)?"
            parts.append(anywhere + fnmatch.translate(plain))
    return re.compile("|".join(parts), re.DOTALL).match if parts else None


def _too_many(limit: int) -> Problem:
    return Problem("E_TOO_MANY_ENTRIES", f"there are more than {limit} files and folders")


def _too_deep(path: str, limit: int) -> Problem:
    return Problem("E_TOO_DEEP", f"the folder lies more than {limit} folders deep", shown(path))


def _unreadable(path: str, kind: str, error: OSError) -> Problem:
    return Problem("E_UNREADABLE", f"the {kind} cannot be read: {error.strerror}", shown(path))
