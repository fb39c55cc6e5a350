"""When a removal is not to be believed; pure.

A moved folder, a half-finished checkout, an empty mount point and a broken manifest all look
like a deletion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..freshness import REFERENCED
from .selection import Known

# Below this many, people do delete on purpose.
ALWAYS_ALLOWED = 10


@dataclass(frozen=True, slots=True)
class Losses:
    """What is no longer on the disk.

    :ivar gone: the rows that are meant and whose artifacts are not there any more.
    :ivar others: how many are gone as well, and not meant.
    :ivar hidden: how many rows nothing can be said of.
    :ivar withheld: how many removals wait for a confirmation.
    :ivar emptied: whether the folder is empty all of a sudden, which is more likely a missing
        mount than a deletion of everything.
    """

    gone: list[Known]
    others: int
    hidden: int
    withheld: int
    emptied: bool


def losses(
    absent: Sequence[Known],
    known: int,
    *,
    is_hidden: Callable[[str], bool],
    is_empty: bool,
    percent: float,
    confirmed: int,
    chosen: Callable[[Known], bool] = lambda _: True,
) -> Losses:
    """Judge what was known and is not seen any more.

    :param absent: all of these rows, whether or not a refresh is about them: whoever asks for a
        few at a time loses no less.
    :param known: how many rows there are.
    :param is_hidden: whether nothing follows from the absence of a path.
    :param is_empty: whether the folder holds no file at all.
    :param percent: of the known artifacts; losing more at once needs a confirmation.
    :param confirmed: how many removals somebody has seen and agreed to.
    :param chosen: whether a refresh is about a row; what is confirmed are removals of these.
    """
    lost = [row for row in absent if not is_hidden(row.path)]
    gone = [row for row in lost if chosen(row)]
    # What is only kept for the host's sake has been believed already.
    news = [row for row in lost if row.condition != REFERENCED]
    asked = sum(1 for row in gone if row.condition != REFERENCED)
    emptied = is_empty and bool(news)
    unbelievable = emptied or is_mass_loss(len(news), known, percent)
    return Losses(
        gone=gone,
        others=len(lost) - len(gone),
        hidden=len(absent) - len(lost),
        withheld=asked if unbelievable and asked > confirmed else 0,
        emptied=emptied and len(news) > confirmed,
    )


def is_mass_loss(gone: int, known: int, percent: float) -> bool:
    """Whether losing ``gone`` of ``known`` artifacts at once needs a confirmation."""
    return gone > ALWAYS_ALLOWED and gone * 100 > known * percent
