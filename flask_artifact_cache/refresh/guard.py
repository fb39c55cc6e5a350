"""When a removal is not to be believed; pure."""

from __future__ import annotations

# Below this many, people do delete on purpose.
ALWAYS_ALLOWED = 10


def is_mass_loss(gone: int, known: int, percent: float) -> bool:
    """Whether losing ``gone`` of ``known`` artifacts at once needs a confirmation.

    A moved folder, a half-finished checkout and an empty mount point all look like a deletion.
    """
    return gone > ALWAYS_ALLOWED and gone * 100 > known * percent
