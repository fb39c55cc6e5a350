"""What a file and its row together call for; pure."""

from __future__ import annotations

from dataclasses import dataclass

from ..freshness import OK, QUARANTINED
from .records import Record, last_good

CREATED, UPDATED, UNCHANGED = "created", "updated", "unchanged"


@dataclass(frozen=True, slots=True)
class Stored:
    """An artifact's row, as far as a comparison needs it."""

    id: int
    uid: str
    payload: bytes
    details: bytes
    condition: str


@dataclass(frozen=True, slots=True)
class Change:
    """What to do with one artifact.

    :ivar kind: ``created``, ``updated`` or ``unchanged``.
    :ivar payload: what the row serves from now on. For a file that cannot be read any more it is
        the last good data with the error added, and the record's other columns are not written.
    """

    kind: str
    record: Record
    stored: Stored | None
    condition: str
    payload: bytes

    @property
    def was(self) -> str | None:
        """The condition of the row so far."""
        return None if self.stored is None else self.stored.condition

    @property
    def keeps_last_good(self) -> bool:
        """Whether the row's metadata stays although the file has none any more."""
        return self.condition == QUARANTINED and self.stored is not None


def compare(record: Record, stored: Stored | None) -> Change:
    """What makes the row agree with the file."""
    problem = record.error
    condition = OK if problem is None else QUARANTINED
    if stored is None:
        return Change(CREATED, record, None, condition, record.columns["payload"])
    if problem is not None:
        payload = last_good(stored.payload, problem)
        same = payload == stored.payload
    else:
        payload = record.columns["payload"]
        same = payload == stored.payload and record.columns["details"] == stored.details
    kind = UNCHANGED if same else UPDATED
    return Change(kind, record, stored, condition, payload)
