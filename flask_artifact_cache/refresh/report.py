"""What came of a refresh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import MassLossError

SUCCEEDED, PARTIAL, NEEDS_CONFIRMATION, FAILED = (
    "succeeded",
    "partial",
    "needs_confirmation",
    "failed",
)
COUNTS = ("created", "updated", "unchanged", "removed", "skipped", "quarantined", "withheld")


class Changed(NamedTuple):
    """An artifact that a refresh has created, updated or removed.

    :ivar other_version: whether its version, or the one it was resolved to, is another one.
    """

    kind: str
    artifact_id: str
    path: str
    other_version: bool = False


@dataclass(slots=True)
class Report:
    """What a refresh of one collection found and did; counts are of artifacts.

    :ivar outcome: ``succeeded``; ``partial``, if something could not be read;
        ``needs_confirmation``, if the mass-loss brake held removals back; ``failed``, if nothing
        could be done.
    :ivar skipped: how many the selection left out.
    :ivar quarantined: how many of the others have a file that cannot be used.
    :ivar withheld: how many removals wait for a confirmation.
    :ivar fields_populated: how many metadata fields of those that were read have a value.
    :ivar changes: what was created, updated or removed, if it was asked for.
    :ivar errors: ``path, code, message, line, column`` of each quarantined artifact and of each
        problem of the collection as a whole that is an error.
    """

    refresh_id: str
    collection_id: str
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: int = 0
    quarantined: int = 0
    withheld: int = 0
    fields_populated: int = 0
    changes: list[Changed] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    outcome: str = SUCCEEDED
    dry_run: bool = False
    duration_seconds: float = 0.0

    @property
    def artifacts_refreshed(self) -> int:
        """How many rows were verified against files that can be used."""
        return self.created + self.updated + self.unchanged - self.quarantined

    def raise_if_withheld(self) -> None:
        """Turn removals that were held back into an error.

        :raises MassLossError: with the id that confirms them.
        """
        if self.withheld:
            raise MassLossError(
                f"{self.withheld} artifacts of '{self.collection_id}' are gone from the disk at"
                " once, so none was removed. Restore the folder, or confirm the removal with"
                f" the id {self.refresh_id}.",
                self.refresh_id,
            )


def all_errors(found: Sequence[tuple[str, Sequence[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """The errors of several collections as one list, which says of which collection each is.

    An id is unknown only if none of the collections knows it.

    :param found: collection ids, and the errors of each.
    """
    if len(found) == 1:
        return list(found[0][1])
    unknown = [
        {error["artifact_id"] for error in one if "artifact_id" in error} for _, one in found
    ]
    elsewhere = set().union(*unknown).difference(set.intersection(*unknown)) if unknown else set()
    return [
        {"collection_id": collection_id, **error}
        for collection_id, errors in found
        for error in errors
        if error.get("artifact_id") not in elsewhere
    ]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a refresh that was asked for: the reports of all its collections.

    :ivar joined: whether another request had asked for the same, and this is what came of it.
    """

    refresh_id: str
    reports: Sequence[Report]
    joined: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As it is served: counts are summed up, errors say of which collection they are."""

        def total(name: str) -> int:
            return sum(getattr(report, name) for report in self.reports)

        return {
            "refresh_id": self.refresh_id,
            "artifacts_refreshed": total("artifacts_refreshed"),
            **{name: total(name) for name in ("created", "updated", "unchanged", "removed")},
            "skipped": total("skipped"),
            "errors": all_errors([(one.collection_id, one.errors) for one in self.reports]),
            "duration_seconds": round(sum(one.duration_seconds for one in self.reports), 3),
        }

    def raise_if_withheld(self) -> None:
        """Turn removals that were held back into an error.

        :raises MassLossError: with the id that confirms them.
        """
        for report in self.reports:
            report.raise_if_withheld()


@dataclass(frozen=True, slots=True)
class Synced:
    """What came of re-reading one artifact.

    :ivar status: ``created``, ``updated``, ``unchanged``, ``removed`` or ``quarantined``.
    """

    artifact_id: str
    collection_id: str
    synced_at: str
    fields_updated: Sequence[str]
    status: str

    def as_dict(self) -> dict[str, Any]:
        """As it is served."""
        return {
            "artifact_id": self.artifact_id,
            "collection_id": self.collection_id,
            "synced_at": self.synced_at,
            "fields_updated": list(self.fields_updated),
            "status": self.status,
        }
