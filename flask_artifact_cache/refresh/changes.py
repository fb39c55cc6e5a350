"""What a file and its row together call for; pure."""

from __future__ import annotations

import json
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
    :ivar uncertain: a manifest that may say more about the artifact cannot be read now.
    :ivar payload: what the row serves from now on. For a file that cannot be read any more it is
        the last good data with the error added, and the record's other columns are not written.
    """

    kind: str
    record: Record
    stored: Stored | None
    condition: str
    payload: bytes
    uncertain: bool = False

    @property
    def was(self) -> str | None:
        """The condition of the row so far."""
        return None if self.stored is None else self.stored.condition

    @property
    def keeps_last_good(self) -> bool:
        """Whether the row's metadata stays although the file has none any more."""
        return self.condition == QUARANTINED and self.stored is not None


def compare(record: Record, stored: Stored | None, uncertain: bool = False) -> Change:
    """What makes the row agree with the file.

    :param uncertain: as of :class:`Change`. While the artifact's own files are the same, its row
        keeps what the manifest said when it could be read.
    """
    problem = record.error
    condition = OK if problem is None else QUARANTINED
    payload: bytes = record.columns["payload"]
    if stored is None:
        return Change(CREATED, record, None, condition, payload, uncertain)
    if problem is not None:
        payload = last_good(stored.payload, problem)
        same = payload == stored.payload
    elif uncertain and _content_hash(stored.payload) == record.columns["content_hash"]:
        payload, condition, same = stored.payload, stored.condition, True
    else:
        same = payload == stored.payload and record.columns["details"] == stored.details
    kind = UNCHANGED if same else UPDATED
    return Change(kind, record, stored, condition, payload, uncertain)


def _content_hash(payload: bytes) -> str | None:
    content_hash: str | None = json.loads(payload)["content_hash"]
    return content_hash
