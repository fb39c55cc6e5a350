"""What the files and their rows together call for; pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from ..freshness import OK, QUARANTINED
from .records import Record, last_good
from .selection import Known

CREATED, UPDATED, UNCHANGED = "created", "updated", "unchanged"

Seen = TypeVar("Seen")


@dataclass(slots=True)
class Plan(Generic[Seen]):
    """What to do about a collection before any file is opened.

    :ivar read: what has to be opened.
    :ivar agree: the rows that agree with their files by evidence.
    :ivar absent: the rows whose files were not seen, whether or not they are meant.
    :ivar skipped: how many rows and files are not meant.
    """

    read: list[Seen] = field(default_factory=list)
    agree: list[Known] = field(default_factory=list)
    absent: list[Known] = field(default_factory=list)
    skipped: int = 0


def plan(
    seen: Mapping[str, Seen],
    known: Iterable[Known],
    *,
    digest: Callable[[Seen], str],
    chosen: Callable[[Known], bool],
    may_be_chosen: Callable[[str, Seen], bool],
    force: bool = False,
) -> Plan[Seen]:
    """Decide by evidence what has to be read.

    Evidence that differs in any way, in either direction, means a change: a restored backup is
    older and still different. Rows that were invalidated, or whose files were gone, are read
    whatever the evidence says.

    :param seen: by uid, what is on the disk.
    :param chosen: whether a row is meant.
    :param may_be_chosen: whether something without a row may be meant, which its file tells.
    :param force: trust no evidence.
    """
    made: Plan[Seen] = Plan()
    left = dict(seen)
    for row in known:
        place = left.pop(row.uid, None)
        if place is None:
            made.absent.append(row)
        elif not chosen(row):
            made.skipped += 1
        elif (
            not force
            and row.evidence is not None
            and row.condition in (OK, QUARANTINED)
            and row.evidence == digest(place)
        ):
            made.agree.append(row)
        else:
            made.read.append(place)
    for uid, place in left.items():
        if may_be_chosen(uid, place):
            made.read.append(place)
        else:
            made.skipped += 1
    return made


@dataclass(frozen=True, slots=True)
class Stored:
    """An artifact's row, as far as a comparison needs it."""

    id: int
    uid: str
    payload: bytes
    details: bytes
    condition: str
    evidence: str | None = None

    @property
    def surroundings(self) -> dict[str, Any]:
        """What the folders around the artifact say about it; arguments of ``look``."""
        item, details = json.loads(self.payload), json.loads(self.details)
        return {
            "plugin": item["plugin"],
            "secondary": item["secondary"],
            "namespace": details["namespace"],
            "parent": details["parent"],
        }


class Change(NamedTuple):
    """What to do with one artifact.

    :ivar kind: ``created``, ``updated`` or ``unchanged``.
    :ivar uncertain: a manifest that may say more about the artifact cannot be read now.
    :ivar payload: what the row serves from now on. For a file that cannot be read any more it is
        the last good data with the error added, and the record's other columns are not written.
    :ivar evidence: of the files that were read; None if it cannot be relied on.
    :ivar alone: whether no other file says anything about the artifact.
    """

    kind: str
    record: Record
    stored: Stored | None
    condition: str
    payload: bytes
    uncertain: bool = False
    evidence: str | None = None
    alone: bool = False

    @property
    def fields_updated(self) -> list[str]:
        """The names of the fields that a reader finds changed, other than what follows from them.

        Of an artifact that is new, those that have a value.
        """
        after = {**json.loads(self.record.columns["details"]), **json.loads(self.payload)}
        for derived in ("uid", "id", "collection_id", "front_matter"):
            after.pop(derived, None)
        if self.stored is None:
            return [name for name, value in after.items() if value not in (None, [], {})]
        before: dict[str, Any] = {
            **json.loads(self.stored.details),
            **json.loads(self.stored.payload),
        }
        if self.keeps_last_good:
            after = {"error": after["error"]}
        return [name for name, value in after.items() if before.get(name) != value]

    @property
    def moved(self) -> bool:
        """Whether its files are other ones than those that were read before."""
        return self.stored is not None and self.evidence != self.stored.evidence

    @property
    def was(self) -> str | None:
        """The condition of the row so far."""
        return None if self.stored is None else self.stored.condition

    @property
    def keeps_last_good(self) -> bool:
        """Whether the row's metadata stays although the file has none any more."""
        return self.condition == QUARANTINED and self.stored is not None


def compare(
    record: Record,
    stored: Stored | None,
    uncertain: bool = False,
    evidence: str | None = None,
    alone: bool = False,
) -> Change:
    """What makes the row agree with the file.

    :param uncertain: as of :class:`Change`, like the others. While the artifact's own files are
        the same, its row keeps what the manifest said when it could be read.
    """
    if uncertain or record.is_passing:
        evidence = None
    if uncertain:
        alone = False
    problem = record.error
    condition = OK if problem is None else QUARANTINED
    payload: bytes = record.columns["payload"]
    if stored is None:
        return Change(CREATED, record, None, condition, payload, uncertain, evidence, alone)
    if problem is not None:
        payload = last_good(stored.payload, problem)
        same = payload == stored.payload
    elif uncertain and _content_hash(stored.payload) == record.columns["content_hash"]:
        payload, condition, same = stored.payload, stored.condition, True
    else:
        same = payload == stored.payload and record.columns["details"] == stored.details
    kind = UNCHANGED if same else UPDATED
    return Change(kind, record, stored, condition, payload, uncertain, evidence, alone)


def _content_hash(payload: bytes) -> str | None:
    content_hash: str | None = json.loads(payload)["content_hash"]
    return content_hash
