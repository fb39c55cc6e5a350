"""The commands that show what the cache holds, and what is wrong with files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click

from .. import freshness
from ..files.artifact import TYPES
from ..files.manager import ArtifactManager
from ..files.problems import Problem
from ..queries import Filters, Listing
from ..statements import SORTS
from .group import FAILED, cli
from .host import only_collection, the_service
from .output import as_json, echo_json, plain, problem
from .target import options, target


def _filters(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--type", "type", type=click.Choice(TYPES), multiple=True),
        click.option("--tag", multiple=True),
        click.option("--author", multiple=True),
        click.option("--license", multiple=True),
        click.option("--origin", multiple=True),
        click.option("--state", type=click.Choice(freshness.STATES), multiple=True),
        click.option("-q", "--query", "q", default="", help="Words to search for."),
    ):
        function = option(function)
    return function


@cli.command("list")
@click.argument("collection", required=False)
@_filters
@click.option("--sort", type=click.Choice(SORTS), default="name", show_default=True)
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@click.option("--after", metavar="CURSOR", help="Go on where the last page ended.")
@as_json
def list_artifacts(
    collection: str | None,
    q: str,
    sort: str,
    limit: int,
    after: str | None,
    as_json: bool,
    **filters: tuple[str, ...],
) -> None:
    """List the artifacts of a collection."""
    service = the_service()
    listing = Listing(Filters.of(filters, q), sort, limit, after)
    found = service.listing(only_collection(service, collection), listing)
    page = json.loads(found.data)
    if as_json:
        echo_json(page)
        return
    for item in page["items"]:
        summary = (item["description"] or "").split("\n", 1)[0]
        line = f"{item['uid']}  {item['state']:<11} {item['id']}"
        click.echo(plain(f"{line}  {summary}"[:200]))
    info = page["page_info"]
    click.echo(f"{len(page['items'])} of {info['total_count']} artifacts", err=True)
    if info["has_next_page"]:
        click.echo(f"next page: --after {info['end_cursor']}", err=True)


@cli.command()
@click.argument("artifact_id")
@click.option("--collection", help="The collection; needed if there are several.")
@as_json
def show(artifact_id: str, collection: str | None, as_json: bool) -> None:
    """Show one artifact, by uid or type:name."""
    service = the_service()
    found = service.get(only_collection(service, collection), artifact_id)
    if as_json:
        echo_json(found)
        return
    for name, value in found.items():
        if name in ("warnings", "error") or value in (None, [], {}):
            continue
        click.echo(f"{name}: {_text(value)}")
    for one in (*found["warnings"], *([found["error"]] if found["error"] else ())):
        click.echo(f"problem: {problem(one)}")


@cli.command()
@as_json
def status(as_json: bool) -> None:
    """Show every collection with its counts."""
    collections = the_service().status()
    if as_json:
        echo_json({"collections": collections})
        return
    for one in collections:
        states = ", ".join(f"{count} {state}" for state, count in one["states"].items())
        click.echo(
            f"{one['id']}: {one['artifact_count']} artifacts"
            f" ({states or 'nothing read yet'}), last refreshed"
            f" {one['last_refreshed_at'] or 'never'}"
            + (f", daemon last heard of {one['daemon_seen_at']}" if one["daemon_seen_at"] else "")
            + ("" if one["path_available"] else ", FOLDER UNAVAILABLE")
        )
        for found in one["problems"]:
            click.echo(f"  {problem(found)}")


@cli.command()
@click.argument("refresh_id", required=False, metavar="[ID]")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--collection", help="Only those of this collection.")
@as_json
@options
def runs(
    refresh_id: str | None,
    limit: int,
    collection: str | None,
    as_json: bool,
    api_url: str | None,
    token_file: Path | None,
) -> None:
    """List the last refreshes, the newest first, or show one with its errors."""
    cache = target(api_url, token_file)
    if refresh_id is not None:
        found = cache.run(refresh_id)
        if as_json:
            echo_json(found)
            return
        for name, value in found.items():
            if name != "errors" and value not in (None, [], {}):
                click.echo(f"{name}: {_text(value)}")
        for error in found["errors"]:
            click.echo(f"error: {problem(error)}")
        return
    listed = cache.runs(limit, collection)
    if as_json:
        echo_json({"refreshes": listed})
        return
    for one in listed:
        counts = ", ".join(
            f"{one[name]} {name}"
            for name in ("created", "updated", "unchanged", "removed", "quarantined")
        )
        click.echo(
            plain(
                f"{one['refresh_id']}  {one['started_at']}  {one['outcome']:<18}"
                f"  {one['trigger']:<8}  {one['collection_id'] or 'several'}: {counts}"
            )
        )


@cli.command(with_appcontext=False)
@click.argument("path", type=click.Path(path_type=Path))
@as_json
def lint(path: Path, as_json: bool) -> None:
    """Check the artifact files below PATH; needs no database. Exits with 1 on errors."""
    manager = ArtifactManager(path)
    scan = manager.scan()
    problems: list[Problem] = list(scan.problems)
    for artifact in manager.list():
        problems += artifact.warnings
        if artifact.error is not None:
            problems.append(artifact.error)
    problems.sort(key=lambda problem: (problem.path, problem.line or 0, problem.code))
    errors = sum(1 for problem in problems if problem.code.startswith("E_"))
    if as_json:
        echo_json(
            {
                "artifacts": len(scan.places),
                "errors": errors,
                "problems": [{**asdict(one), "hint": one.hint} for one in problems],
            }
        )
    else:
        for one in problems:
            click.echo(f"{plain(str(one))}\n    {one.hint}")
        click.echo(
            f"{len(scan.places)} artifacts, {errors} errors, {len(problems) - errors} warnings",
            err=True,
        )
    sys.exit(FAILED if errors else 0)


def _text(value: object) -> str:
    """A value of a field on one line."""
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
