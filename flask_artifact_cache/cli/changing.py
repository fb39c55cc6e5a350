"""The commands that read files into rows."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from ..errors import ArtifactCacheError, ConfigurationError, MassLossError
from ..refresh.report import Report
from .group import BRAKED, FAILED, cli, exit_code
from .host import the_service
from .output import as_json, echo_json, problem, progress


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
    for error in report.errors:
        click.echo(f"  {problem(error)}", err=True)
    try:
        report.raise_if_withheld()
    except MassLossError as error:
        click.echo(f"  {error}", err=True)
