"""The commands that read files into rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from marshmallow import Schema, ValidationError

from ..errors import (
    ArtifactCacheError,
    ConfigurationError,
    InvalidRequestError,
    MassLossError,
    SchemaError,
)
from ..files.artifact import TYPES
from ..files.problems import hint
from ..refresh.report import Report
from ..service import ArtifactCacheService
from ..web.payloads import (
    TEN_YEARS_MINUTES,
    InvalidateBody,
    RefreshBody,
    SyncBody,
    selection,
)
from .group import BRAKED, FAILED, cli, exit_code, fail
from .host import the_service
from .output import as_json, echo_json, plain, problem, progress
from .target import options, target


@cli.command()
@click.argument("collections", nargs=-1, metavar="[COLLECTION]...")
@click.option("--dry-run", is_flag=True, help="Say what would change; write nothing.")
@click.option("--confirm", metavar="ID", help="Let the removals of an earlier run happen.")
@as_json
def populate(
    collections: tuple[str, ...], dry_run: bool, confirm: str | None, as_json: bool
) -> None:
    """Read every artifact of the collections, by default of all, into the cache."""
    service = the_service()
    if confirm is not None and not collections:
        collections = (service.collection_of_run(confirm),)
    chosen = collections or tuple(service.collections.ids())
    if not chosen:
        raise ConfigurationError(
            "no collection is configured; set ARTIFACT_CACHE_COLLECTIONS to a folder"
        )
    for collection_id in chosen:
        service.configured(collection_id)
    reports: list[Report] = []
    failures: list[tuple[str, ArtifactCacheError]] = []
    for collection_id in chosen:
        try:
            with progress(collection_id, hidden=as_json) as update:
                reports.append(
                    service.populate(
                        collection_id, confirm=confirm, dry_run=dry_run, progress=update
                    )
                )
        except SchemaError:
            raise  # it is the same for every collection
        except ArtifactCacheError as error:
            failures.append((collection_id, error))
    if as_json:
        echo_json(
            {
                "reports": [asdict(report) for report in reports],
                "failures": [
                    {"collection_id": one, "code": error.code, "message": str(error)}
                    for one, error in failures
                ],
            }
        )
    else:
        for report in reports:
            _echo_report(report)
            _echo_others(service, report)
        for one, failure in failures:
            root = service.configured(one).root
            click.echo(f"{one}: {failure} ({root})", err=True)
    codes = [exit_code(error) for _, error in failures]
    codes += [BRAKED for report in reports if report.withheld]
    codes += [FAILED for report in reports if report.outcome == "partial"]
    sys.exit(max(codes, default=0))


def _echo_report(report: Report) -> None:
    would = "would be " if report.dry_run else ""
    parts = [
        f"{getattr(report, name)} {name if name == 'unchanged' else would + name}"
        for name in ("created", "updated", "unchanged", "removed")
    ]
    click.echo(
        f"{report.collection_id}: {', '.join(parts)}, {report.quarantined} quarantined"
        f" ({report.duration_seconds:.2f} s)"
    )
    _echo_errors(report.errors)
    try:
        report.raise_if_withheld()
    except MassLossError as error:
        click.echo(f"  {error}", err=True)


# --- in this app or in another ---------------------------------------------------------------


@cli.command()
@click.argument("collection", required=False)
@click.option(
    "--older-than",
    "older_than_minutes",
    metavar="MINUTES",
    type=click.FloatRange(0, TEN_YEARS_MINUTES),
    help="Only what was not verified for this long.",
)
@click.option("--tag", "tags", multiple=True, help="Only with one of these tags.")
@click.option("--type", "types", type=click.Choice(TYPES), multiple=True)
@click.option("--id", "artifact_ids", metavar="ID", multiple=True, help="A uid or type:name.")
@click.option("--path", "paths", multiple=True, help="Of a file, relative to the root.")
@click.option("--force", is_flag=True, help="Read every file, changed or not.")
@click.option("--confirm", metavar="ID", help="Let the removals of an earlier run happen.")
@as_json
@options
def refresh(
    collection: str | None,
    as_json: bool,
    api_url: str | None,
    token_file: Path | None,
    **filters: Any,
) -> None:
    """Read again what has changed, in a collection or in all."""
    asked = _checked(RefreshBody(), collection_id=collection, **filters)
    cache = target(api_url, token_file, quiet=as_json)
    try:
        done = cache.refresh(selection(asked), force=asked["force"], confirm=asked.get("confirm"))
    except MassLossError as error:
        # What else the run has done; it may be closed to us.
        with suppress(ArtifactCacheError):
            _echo_refreshed(cache.run(error.refresh_id), collection, as_json)
        fail(error)
    _echo_refreshed(done, collection, as_json)
    sys.exit(FAILED if done["errors"] else 0)


@cli.command("sync-artifact")
@click.argument("artifact_id")
@click.option("--collection", help="Where to look for it; else everywhere.")
@as_json
@options
def sync_artifact(
    artifact_id: str,
    collection: str | None,
    as_json: bool,
    api_url: str | None,
    token_file: Path | None,
) -> None:
    """Read one artifact again, by uid or type:name."""
    asked = _checked(SyncBody(), artifact_id=artifact_id, collection_id=collection)
    synced = target(api_url, token_file).sync_artifact(
        asked["artifact_id"], asked.get("collection_id")
    )
    if as_json:
        echo_json(synced)
    else:
        line = f"{synced['artifact_id']} in {synced['collection_id']}: {synced['status']}"
        if synced["status"] == "updated":
            line += f" ({', '.join(synced['fields_updated'])})"
        click.echo(plain(line))
    sys.exit(FAILED if synced["status"] == "quarantined" else 0)


@cli.command()
@click.argument("artifact_ids", nargs=-1, metavar="[ID]...")
@click.option("--collection", help="Where to look for them; else everywhere.")
@click.option("--all", "everything", is_flag=True, help="All of the collection, or of all.")
@as_json
@options
def invalidate(
    artifact_ids: tuple[str, ...],
    collection: str | None,
    everything: bool,
    as_json: bool,
    api_url: str | None,
    token_file: Path | None,
) -> None:
    """Mark artifacts as stale, by uid or type:name."""
    # An ID that a script has left empty must not mean everything.
    if everything == bool(artifact_ids):
        raise click.UsageError("Say which artifacts: either their IDs, or '--all'.")
    asked = _checked(InvalidateBody(), artifact_ids=artifact_ids, collection_id=collection)
    done = target(api_url, token_file).invalidate(
        asked.get("collection_id"), asked.get("artifact_ids")
    )
    if as_json:
        echo_json(done)
    else:
        click.echo(f"{done['invalidated']} invalidated")
        for one in done["unknown"]:
            click.echo(f"  {plain(one)}: there is no such artifact", err=True)
    sys.exit(FAILED if done["unknown"] else 0)


@cli.command()
@click.argument("collection")
@as_json
def forget(collection: str, as_json: bool) -> None:
    """Remove a collection that is not configured any more from the cache; touches no file."""
    removed = the_service().forget(collection)
    if as_json:
        echo_json({"collection_id": collection, "removed": removed})
    else:
        click.echo(f"{plain(collection)}: {removed} removed")


def _checked(rules: Schema, **given: Any) -> Mapping[str, Any]:
    """What the API would take, checked as there; what was not given is left out."""
    body = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in given.items()
        if value not in (None, ())
    }
    try:
        loaded: Mapping[str, Any] = rules.load(body)
    except ValidationError as error:
        wrong = [
            (name, "; ".join(str(message).rstrip(".") for message in messages))
            for name, found in error.messages_dict.items()
            for messages in (found.values() if isinstance(found, dict) else [found])
        ]
        text = "; ".join(f"{_OPTIONS.get(name, name)}: {message}" for name, message in wrong)
        raise InvalidRequestError(text) from None
    return loaded


_OPTIONS = {
    "collection_id": "COLLECTION",
    "artifact_id": "ID",
    "artifact_ids": "ID",
    "older_than_minutes": "--older-than",
    "tags": "--tag",
    "types": "--type",
    "paths": "--path",
    "confirm": "--confirm",
}


def _echo_refreshed(done: Mapping[str, Any], collection: str | None, as_json: bool) -> None:
    if as_json:
        echo_json(done)
        return
    counts = ", ".join(
        f"{done[name]} {name}" for name in ("created", "updated", "unchanged", "removed", "skipped")
    )
    click.echo(
        f"{collection or 'all collections'}: {counts}, {len(done['errors'])} errors"
        f" ({done['duration_seconds']:.2f} s)"
    )
    _echo_errors(done["errors"])


def _echo_others(service: ArtifactCacheService, report: Report) -> None:
    """Say where to read what else is wrong with files: warnings, which no run fails for."""
    if report.dry_run:
        return
    one = report.collection_id
    with suppress(ArtifactCacheError):  # it may be that nothing can be read yet
        total = json.loads(service.problems(one, limit=1).data)["page_info"]["total_count"]
        if total > len(report.errors):
            told = f"'flask artifact-cache problems {one}' lists them"
            click.echo(f"  problems in all: {total}; {told}", err=True)


def _echo_errors(errors: Iterable[dict[str, Any]]) -> None:
    for error in errors:
        click.echo(f"  {problem(error)}", err=True)
        if mend := hint(error["code"], error["message"]):
            click.echo(f"    {mend}", err=True)
