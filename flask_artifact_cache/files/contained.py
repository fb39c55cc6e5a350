"""A path that somebody else wrote -> its parts, or a refusal; and folders reached over no link."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import RefusedError
from .walk import shown

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 1024

# Names that mean a device on Windows, with any ending.
_DEVICE = re.compile(
    r"(?i)(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3])(?:\..*)?"
)
# What parts a path on some system; what steers a terminal or the direction of text; surrogates.
_FORBIDDEN = re.compile(
    r'[\\/:*?"<>|\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]'
)
_FOLDER_FLAGS = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC")
)


def check_part(name: str, what: str = "the name") -> str:
    """Give ``name`` back if it can be one part of a path on every system.

    :raises RefusedError: says what is wrong with it.
    """
    said = shown(name[:100])
    if not name or name in (".", ".."):
        raise RefusedError(f"{what} '{said}' is no name of a file")
    if _FORBIDDEN.search(name):
        raise RefusedError(f"{what} '{said}' holds a character that a file's name cannot hold")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise RefusedError(f"{what} '{said}' has more than {MAX_NAME_BYTES} bytes")
    if name[-1] in ". " or name[0] == " ":
        raise RefusedError(f"{what} '{said}' begins or ends with a space, or ends with a dot")
    if _DEVICE.fullmatch(name):
        raise RefusedError(f"{what} '{said}' is the name of a device on Windows")
    return name


def check_name(name: str) -> str:
    """Give the name of an artifact back if it can stand in a manifest and on disk.

    :raises RefusedError: says what is wrong with it.
    """
    check_part(name)
    # SkillMeat splits the keys of the lock at the first '::', which no part of a path holds.
    if name.startswith((".", "-", "~")):
        raise RefusedError(f"the name '{shown(name[:100])}' begins with '{name[0]}'")
    # For the sake of one such name SkillMeat reads nothing of a manifest.
    if ".." in name:
        raise RefusedError(f"the name '{shown(name[:100])}' holds '..'")
    return name


def parts_of(path: str, what: str = "the path") -> tuple[str, ...]:
    """Split a POSIX path that is relative to some folder, and stays below it.

    :raises RefusedError: if it is absolute, leads out, or has a part that is no name.
    """
    said = shown(path[:200])
    if not path or path.startswith(("/", "\\", "~")) or re.match("[A-Za-z]:", path):
        raise RefusedError(f"{what} '{said}' is not relative to the collection")
    if len(path.encode(errors="replace")) > MAX_PATH_BYTES:
        raise RefusedError(f"{what} '{said}' has more than {MAX_PATH_BYTES} bytes")
    parts = tuple(path.rstrip("/").split("/"))
    for part in parts:
        if part == "..":
            raise RefusedError(f"{what} '{said}' leads out of the collection")
        check_part(part, f"in {what} '{said}',")
    return parts


def folded(name: str) -> str:
    """Equal for names that are one on a file system that knows no case, or composes accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def reason(error: OSError) -> str:
    """What the system says, without where the collection lies."""
    path = error.filename
    if not isinstance(path, (str, bytes)):
        return error.strerror or str(error)
    name = os.fsdecode(path)
    return f"{error.strerror}: '{shown(Path(name).name if Path(name).is_absolute() else name)}'"


@contextmanager
def opened(root: Path, parts: Sequence[str] = (), *, create: bool = False) -> Iterator[int]:
    """Open the folder below ``root``, one part after the other, so that no link leads elsewhere.

    What is done relative to the descriptor happens in that very folder, even if somebody puts a
    link in its place meanwhile.

    :param create: whether to make what is missing.
    :raises RefusedError: if a part is a link or a file.
    :raises FileNotFoundError: if there is no such folder.
    """
    # The root itself is the operator's choice, who may well have made it a link.
    handle = os.open(root, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        for part in parts:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=handle)
            try:
                inner = os.open(part, _FOLDER_FLAGS, dir_fd=handle)
            except FileNotFoundError:
                raise
            except OSError:
                text = f"'{shown('/'.join(parts))}' leads over a link, or over what is no folder"
                raise RefusedError(text) from None
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


def kind(folder: int, name: str) -> str | None:
    """What is at ``name`` in an open folder: ``file``, ``folder``, ``other``, or None."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"
