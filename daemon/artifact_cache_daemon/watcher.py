"""What changed since it was acknowledged, once it has settled; pure but for the time it is given.

A change is a path with its evidence now, or with None if the file is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from .evidence import COARSE_S, WIDTH, Evidence, Files, Known, as_mapping, is_coarse

Changes = dict[str, "Evidence | None"]

# While more files keep changing, those that have settled wait this long for the others: five
# thousand edits in a row are a few refreshes.
LINGER_S = 5.0
# How often the same is told again because the disk moved while the app looked.
MOST_REPEATS = 5
# What no file can have: it differs from everything.
DOUBTFUL: Evidence = (-1, -1, -1, -1)


@dataclass(slots=True)
class _Moving:
    """A change that was not acknowledged yet.

    :ivar since: when its evidence was seen first; until then it was different.
    :ivar first: when it was first seen to be changed at all.
    :ivar hidden: whether the last look could not see it; neither may the app then.
    """

    evidence: Evidence | None
    since: float
    first: float
    hidden: bool = False


class Watcher:
    """Decides from one look after the other what the app has to be told.

    :param settle_s: a file is told of once two looks at least this far apart saw it the same.
    :param max_settle_s: or once it has been changing for this long.
    :ivar acknowledged: what the app has been told, and said that it has taken in.
    """

    def __init__(self, acknowledged: Known, settle_s: float, max_settle_s: float) -> None:
        self.acknowledged = acknowledged
        self.settle_s = settle_s
        self.max_settle_s = max_settle_s
        # To be told once more, with whatever is told next; or everything is.
        self.again: set[str] = set()
        self.everything_again = False
        self._moving: dict[str, _Moving] = {}
        self._unconfirmed: set[str] = set()
        self._everything_unconfirmed = False
        self._times: int | None = None
        self._repeats = 0

    @property
    def pending(self) -> int:
        """How many changes the app has not acknowledged yet."""
        return len(self._moving)

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing that the app would have to be told."""
        return not (self._moving or self.unsure or self.everything_unsure)

    @property
    def unsure(self) -> set[str]:
        """What was acknowledged, but has to be told again after a restart."""
        return self.again | self._unconfirmed

    @property
    def everything_unsure(self) -> bool:
        """Whether :attr:`unsure` is everything."""
        return self.everything_again or self._everything_unconfirmed

    def observe(
        self,
        differences: Changes,
        now: float,
        hides: Callable[[str], bool] = lambda _: False,
        times: int = 0,
    ) -> None:
        """Take in a look at the root.

        :param differences: everything that differs from what is acknowledged.
        :param hides: whether nothing can be said of a path; it stays as it was seen before.
        :param times: another one if anything was created or deleted, even if it is gone again.
        """
        before, self._moving = self._moving, {}
        moved = self._times != times
        self._times = times
        for path, evidence in differences.items():
            known = before.pop(path, None)
            if known is None:
                self._moving[path] = _Moving(evidence, now, now)
                # Of a doubtful file nobody knows whether it has changed.
                moved = moved or self.acknowledged.get(path) != DOUBTFUL
            else:
                if known.evidence != evidence or known.hidden:
                    known.evidence, known.since, known.hidden = evidence, now, False
                    moved = True
                self._moving[path] = known
        for path, known in before.items():
            if hides(path):
                known.hidden = True
                self._moving[path] = known
            else:
                moved = True
        if moved and self._repeats < MOST_REPEATS:
            # The app's own walk may have met a file that was just going, and then it says nothing
            # of what is gone beside it; or it has read one that was there only for a moment. So
            # what it acknowledged is told once more.
            self.again |= self._unconfirmed
            self.everything_again |= self._everything_unconfirmed
        elif not self.again:
            self._repeats = 0
        self._unconfirmed = set()
        self._everything_unconfirmed = False

    def ready(self, now: float) -> Changes | None:
        """What the app is to be told now, if anything."""
        waits = False
        oldest_s = 0.0
        found: Changes = {}
        for path, change in self._moving.items():
            if change.hidden:
                continue
            settled_s = now - change.since - self._settle_s(change)
            if settled_s >= 0:
                found[path] = change.evidence
                oldest_s = max(oldest_s, settled_s)
            elif now - change.first >= self.max_settle_s:
                # It is in the middle of something: the app gets what is there, and once more when
                # it is done.
                found[path] = DOUBTFUL
            elif now - change.first < LINGER_S:
                waits = True
        if waits and oldest_s < LINGER_S:
            return None
        busy = any(not change.hidden for change in self._moving.values())
        if not found and (busy or not (self.everything_again or self.again)):
            return None
        for path in self.again:
            found.setdefault(path, self.acknowledged.get(path))
        return found

    def next_look_s(self, now: float) -> float | None:
        """In how many seconds something may have settled; None if nothing will."""
        return min(
            (
                left_s
                for one in self._moving.values()
                if not one.hidden and (left_s := one.since + self._settle_s(one) - now) > 0
            ),
            default=None,
        )

    def acknowledge(
        self, told: Mapping[str, Evidence | None], now: float, *, everything: bool = False
    ) -> None:
        """Move the baseline: the app has taken these changes in, as they were when it was told.

        :param everything: whether it looked at all the other files, too.
        """
        if self.again or self.everything_again:
            self._repeats += 1
        self._unconfirmed |= told.keys()
        self.again -= told.keys()
        if everything:
            self.again = set()
            self.everything_again = False
            self._everything_unconfirmed = True
        self.acknowledged.update(told)
        for path, evidence in told.items():
            change = self._moving.get(path)
            if change is None:
                continue
            if evidence == DOUBTFUL:
                change.first = now
            elif change.evidence == evidence:
                del self._moving[path]

    def adopt(self, everything: Known, times: int = 0) -> None:
        """Take all of a root as acknowledged."""
        self.acknowledged = everything
        self._times = times
        self._moving = {}
        self.again = set()
        self._unconfirmed = set()
        self.everything_again = False
        self._everything_unconfirmed = True

    def maybe_heard(self, told: Iterable[str], *, everything: bool = False) -> None:
        """The app may have taken these in, or may not: it has not said so.

        If such a file goes back to what was acknowledged, the app has to be told of that, too.
        """
        self.again |= set(told)
        self.everything_again |= everything

    def asked_for_more(self) -> None:
        """The app has looked at more than it was told of."""
        self._everything_unconfirmed = True

    def _settle_s(self, change: _Moving) -> float:
        # On a clock that shows whole seconds, a file has to be seen unchanged for a whole step.
        if change.evidence is not None and is_coarse(change.evidence):
            return max(self.settle_s, COARSE_S)
        return self.settle_s


def compare(
    known: Known, seen: Iterable[tuple[str, Files]], hides: Callable[[str], bool]
) -> tuple[Changes, int]:
    """What differs from what is known, and how many files were seen.

    Goes through ``seen`` once and keeps nothing of a folder that has not changed.

    :param hides: asked at the end, whether the absence of a path means nothing.
    """
    folders = known.folders
    visited: set[str] = set()
    changes: Changes = {}
    count = met = 0
    for folder, files in seen:
        visited.add(folder)
        count += len(files)
        before = folders.get(folder)
        if before is not None:
            met += 1
        if before != files:
            changes.update(_of_folder(folder, before or (), files))
    if met < len(folders):
        for folder, before in folders.items():
            if folder not in visited:
                changes.update(_of_folder(folder, before, ()))
    gone = [path for path, evidence in changes.items() if evidence is None and hides(path)]
    for path in gone:
        del changes[path]
    return changes, count // WIDTH


def _of_folder(folder: str, before: Files, files: Files) -> Iterator[tuple[str, Evidence | None]]:
    prefix = f"{folder}/" if folder else ""
    old, new = as_mapping(before), as_mapping(files)
    for name, evidence in new.items():
        if old.pop(name, None) != evidence:
            yield prefix + name, evidence
    for name in old:
        yield prefix + name, None
