"""Where a command does its work: in the app that it runs in, or in another over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import click

from ..errors import ConfigurationError
from ..refresh.selection import Selection
from ..remote import RemoteCache, find_token
from ..service import ArtifactCacheService
from .host import the_service
from .output import progress

TRIGGER = "cli"


class Target(Protocol):
    """What both can do; every answer is as the API serves it."""

    def refresh(
        self, selection: Selection, *, force: bool = False, confirm: str | None = None
    ) -> dict[str, Any]:
        """Read again what has changed."""

    def sync_artifact(self, artifact_id: str, collection_id: str | None = None) -> dict[str, Any]:
        """Read one artifact again."""

    def invalidate(
        self, collection_id: str | None = None, artifact_ids: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Say that rows are stale."""

    def runs(self, limit: int = 20, collection_id: str | None = None) -> list[dict[str, Any]]:
        """The newest refresh runs."""

    def run(self, refresh_id: str) -> dict[str, Any]:
        """A refresh run with its errors."""

    def changes(
        self, since: str | None = None, limit: int = 200, collection_id: str | None = None
    ) -> dict[str, Any]:
        """A page of what happened to artifacts."""

    def problems(
        self, collection_id: str | None = None, limit: int = 200, after: str | None = None
    ) -> dict[str, Any]:
        """A page of what is wrong with files."""


@dataclass(frozen=True, slots=True)
class Here:
    """The cache of the app that the command runs in.

    :ivar quiet: whether no progress is shown.
    """

    service: ArtifactCacheService
    quiet: bool

    def refresh(
        self, selection: Selection, *, force: bool = False, confirm: str | None = None
    ) -> dict[str, Any]:
        """Read again what has changed, showing how far it is."""
        with progress(selection.collection_id or "refresh", hidden=self.quiet) as update:
            result = self.service.refresh(
                selection, trigger=TRIGGER, force=force, confirm=confirm, progress=update
            )
        result.raise_if_withheld()
        return result.as_dict()

    def sync_artifact(self, artifact_id: str, collection_id: str | None = None) -> dict[str, Any]:
        """Read one artifact again."""
        return self.service.sync_artifact(artifact_id, collection_id, trigger=TRIGGER).as_dict()

    def invalidate(
        self, collection_id: str | None = None, artifact_ids: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Say that rows are stale."""
        return self.service.invalidate(collection_id, artifact_ids)

    def runs(self, limit: int = 20, collection_id: str | None = None) -> list[dict[str, Any]]:
        """The newest refresh runs."""
        return self.service.runs(limit, collection_id)

    def run(self, refresh_id: str) -> dict[str, Any]:
        """A refresh run with its errors."""
        return self.service.run(refresh_id)

    def changes(
        self, since: str | None = None, limit: int = 200, collection_id: str | None = None
    ) -> dict[str, Any]:
        """A page of what happened to artifacts."""
        return self.service.changes(since, limit, collection_id)

    def problems(
        self, collection_id: str | None = None, limit: int = 200, after: str | None = None
    ) -> dict[str, Any]:
        """A page of what is wrong with files."""
        found: dict[str, Any] = json.loads(self.service.problems(collection_id, limit, after).data)
        return found


def options(function: Callable[..., None]) -> Callable[..., None]:
    """The options that :func:`target` takes."""
    for option in (
        click.option(
            "--token-file",
            metavar="FILE",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Where the token for it is; else in ARTIFACT_CACHE_TOKEN.",
        ),
        click.option("--api-url", metavar="URL", help="Ask another app, with its API's prefix."),
    ):
        function = option(function)
    return function


def target(api_url: str | None, token_file: Path | None, quiet: bool = False) -> Target:
    """Where the work is done.

    :raises ConfigurationError: if the address or the token cannot be used.
    """
    if api_url is not None:
        return RemoteCache(api_url, find_token(token_file))
    if token_file is not None:
        raise ConfigurationError("'--token-file' is for another app; give '--api-url', too")
    return Here(the_service(), quiet)
