"""Is everything as it was? One stat for each folder and file tells, without listing any folder."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from typing import NamedTuple

from .evidence import COARSE_S, WIDTH, Known, Walk, as_evidence, stamp, target

# Not every file system dates its folders: once in so long, all of them are listed.
WHOLE_S = 60.0


class _Whole(NamedTuple):
    """What a glance has to find again.

    :ivar times: as of :class:`Walk`, like ``bare`` and ``links``.
    :ivar since: when the first walk ended that saw these times.
    :ivar listed: when the last one began.
    """

    times: int
    since: float
    listed: float
    bare: list[str]
    links: list[str]


class Glance:
    """Tells whether a root is as the last walk through it saw it.

    Whatever comes into a folder or leaves it changes the folder's times. So folders whose times
    are what they were hold the files that they held, if they were listed a step of the clock after
    these times were seen: a change after that listing would have left later ones. Files that are
    edited in place change no folder; each is looked at.

    :param clock: seconds that only ever grow.
    :param beat: called between the folders.
    """

    def __init__(
        self,
        root: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._root = root
        self._clock = clock
        self._beat = beat
        self._whole: _Whole | None = None
        self._is_sure = False

    def remember(self, walk: Walk, began: float, *, agrees: bool) -> None:
        """Take in a walk through all of the root, which has just ended.

        :param began: when.
        :param agrees: whether nothing differed from what is known.
        """
        before = self._whole
        if before is None or before.times != walk.times:
            self._whole = _Whole(walk.times, self._clock(), began, walk.bare, walk.links)
            self._is_sure = False
            return
        self._whole = before._replace(listed=began, bare=walk.bare, links=walk.links)
        self._is_sure = agrees and not walk.unseen and began - before.since >= COARSE_S

    def agrees(self, known: Known) -> bool:
        """Whether everything is as ``known``; False if only a walk can tell."""
        whole = self._whole
        if whole is None or not self._is_sure or self._clock() - whole.listed >= WHOLE_S:
            return False
        try:
            return self._times(known, whole) == whole.times
        except OSError:
            return False

    def _times(self, known: Known, whole: _Whole) -> int | None:
        """As :attr:`Walk.times`; None if a file differs, or a link counts that did not."""
        root, beat, lstat = self._root, self._beat, os.lstat
        times = 0
        for folder in whole.bare:
            beat()
            times ^= stamp(folder, lstat(f"{root}/{folder}"))
        for folder, files in known.folders.items():
            beat()
            # With the slash behind it, the root may be a link; nothing below it is followed.
            location = f"{root}/{folder}"
            times ^= stamp(folder, lstat(location))
            for at in range(0, len(files), WIDTH):
                info = lstat(f"{location}/{files[at]}")
                if (
                    info.st_ctime_ns == files[at + 3]
                    and info.st_mtime_ns == files[at + 2]
                    and info.st_size == files[at + 1]
                    and info.st_ino == files[at + 4]
                ):
                    continue
                if not stat.S_ISLNK(info.st_mode):
                    return None
                found = target(root, f"{location}/{files[at]}")
                if found is None or as_evidence(found) != files[at + 1 : at + WIDTH]:
                    return None
        for link in whole.links:
            beat()
            if target(root, f"{root}/{link}") is not None:
                return None
        return times
