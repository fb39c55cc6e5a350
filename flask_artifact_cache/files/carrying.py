"""What lies in an artifact's folder and is none of its content: told apart, and moved over."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import RefusedError
from .contained import kind, opened
from .walk import SKIPPED_FOLDERS, is_debris


def is_left_behind(folder: int, name: str, *, is_folder: bool) -> bool:
    """Whether tools or editors have left an entry of an open folder, which no walk sees."""
    if not is_folder:
        return is_debris(name) is not None
    # A virtual environment may have any name.
    return name in SKIPPED_FOLDERS or kind(folder, f"{name}/pyvenv.cfg") == "file"


def carry(root: Path, source: tuple[str, ...], target: tuple[str, ...]) -> list[str]:
    """Move what no walk sees of one folder to the same places in another, both below ``root``.

    That is what tools have left behind, links and devices; with a folder goes all that is in it.
    Each is renamed: a copy of a virtual environment takes minutes, and may end half-way. Nothing
    is followed, and nothing is written over.

    :returns: what could not be moved: paths below ``source``.
    :raises OSError: if a folder of the source cannot be listed; nothing was moved then.
    :raises RefusedError: if a link leads there; nothing was moved then.
    """
    left = []
    for path in _beside(root, source):
        try:
            with (
                opened(root, (*source, *path[:-1])) as before,
                opened(root, (*target, *path[:-1]), create=True) as after,
            ):
                if kind(after, path[-1]) is None:
                    os.rename(path[-1], path[-1], src_dir_fd=before, dst_dir_fd=after)
                    continue
        except (OSError, RefusedError):
            pass
        left.append("/".join(path))
    return left


def _beside(root: Path, top: tuple[str, ...]) -> list[tuple[str, ...]]:
    """What in a folder is none of its content: paths below it."""
    with opened(root, top[:-1]) as above:
        if kind(above, top[-1]) != "folder":
            return []
    found = []
    stack: list[tuple[str, ...]] = [()]
    while stack:
        path = stack.pop()
        with opened(root, (*top, *path)) as folder:
            for name in sorted(os.listdir(folder)):
                what = kind(folder, name)
                is_folder = what == "folder"
                if what == "other" or is_left_behind(folder, name, is_folder=is_folder):
                    found.append((*path, name))
                elif is_folder:
                    stack.append((*path, name))
    return found
