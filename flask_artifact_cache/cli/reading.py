"""The commands that show what the cache holds, and what is wrong with files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from flask import current_app

from .. import doctor, freshness
from ..errors import VanishedError
from ..files.artifact import TYPES
from ..files.drift import KINDS
from ..files.manager import ArtifactManager
from ..files.problems import Problem
from ..files.walk import shown, walk
from ..queries import Filters, Listing
from ..statements import SORTS
from .group import FAILED, cli
from .host import mounted, only_collection, the_service
from .output import as_json, echo_cut, echo_json, plain, problem
from .target import options, target


def _filters(function: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--type", "type", type=click.Choice(TYPES), multiple=True),
        click.option("--tag", multiple=True),
        click.option("--author", multiple=True),
        click.option("--license", multiple=True),
        click.option("--origin", multiple=True),
        click.option("--state", type=click.Choice(freshness.STATES), multiple=True),
        click.option("--drift", type=click.Choice(KINDS), multiple=True),
        click.option("-q", "--query", "q", default="", help="Words to search for."),
    ):
        function = option(function)
    return function


@cli.command("list")
@click.argument("collection", required=False)
@_filters
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default="relevance",
    show_default="relevance with -q, else name",
)
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
    width = min(max((len(plain(item["id"])) for item in page["items"]), default=0), 40)
    for item in page["items"]:
        summary = plain((item["description"] or "").split("\n", 1)[0])
        line = f"{item['uid']}  {item['state']:<11} {plain(item['id']):<{width}}  {summary}"
        echo_cut(line.rstrip())
    info = page["page_info"]
    click.echo(f"{len(page['items'])} of {info['total_count']} artifacts", err=True)
    if info["has_next_page"]:
        click.echo(f"next page: --after {info['end_cursor']}", err=True)


@cli.command()
@click.argument("artifact_id")
@click.option("--collection", help="The collection; else all are searched.")
@as_json
def show(artifact_id: str, collection: str | None, as_json: bool) -> None:
    """Show one artifact, by uid or type:name."""
    service = the_service()
    if collection is None and len(service.collections.ids()) > 1:
        collection = service.owner_of(artifact_id)
    found = service.get(only_collection(service, collection), artifact_id)
    if as_json:
        echo_json(found)
        return
    for name, value in found.items():
        if name in ("warnings", "error") or value in (None, {}):
            continue
        if value == [] and name != "tools":  # there, an empty list allows none
            continue
        click.echo(f"{name}: {_text(value)}")
    for one in (*found["warnings"], *([found["error"]] if found["error"] else ())):
        click.echo(f"problem: {problem(one)}")


@cli.command()
@as_json
def status(as_json: bool) -> None:
    """Show how the cache is doing: its counts, and those of every collection."""
    stats = the_service().stats().as_dict(with_problems=True)
    if as_json:
        echo_json(stats)
        return
    for one in stats["collections"]:
        states = ", ".join(f"{count} {state}" for state, count in one["states"].items())
        click.echo(
            f"{one['id']}: {one['artifact_count']} artifacts"
            f" ({states or 'nothing read yet'}), last refreshed"
            f" {one['last_refreshed_at'] or 'never'}"
            + (f", daemon last heard of {one['daemon_seen_at']}" if one["daemon_seen_at"] else "")
            + _trouble(one)
        )
        if one["problem_count"]:
            click.echo(f"  {one['problem_count']} problems; 'problems {one['id']}' lists them")
        if one["drift"]:
            kinds = ", ".join(f"{count} {kind}" for kind, count in one["drift"].items())
            click.echo(f"  drift: {kinds}; 'list {one['id']} --drift KIND' lists them")
        for found in one["problems"]:
            click.echo(f"  {problem(found)}")
    age_s = stats["oldest_sync_age_seconds"]
    click.echo(
        f"{stats['artifact_count']} artifacts in all, {stats['stale_count']} stale"
        f" (older than {stats['ttl_minutes']:g} minutes, or invalidated)"
        + ("" if age_s is None else f", the oldest compared {age_s:.0f} s ago")
    )
    if stats["upstream_limited_until"] is not None:
        click.echo(f"upstream limited until {stats['upstream_limited_until']}")


def _trouble(one: Mapping[str, Any]) -> str:
    if not one["configured"]:
        return f", NOT CONFIGURED any more; 'forget {one['id']}' removes it"
    return "" if one["path_available"] else ", FOLDER UNAVAILABLE"


@cli.command()
@click.argument("collection", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=200, show_default=True)
@click.option("--after", metavar="CURSOR", help="Go on where the last page ended.")
@as_json
@options
def problems(
    collection: str | None,
    limit: int,
    after: str | None,
    as_json: bool,
    api_url: str | None,
    token_file: Path | None,
) -> None:
    """List what is wrong with files, in a collection or in all, and how to mend it."""
    found = target(api_url, token_file).problems(collection, limit, after)
    if as_json:
        echo_json(found)
        return
    for one in found["problems"]:
        click.echo(f"{problem(one)}\n    {plain(one['hint'])}")
    info = found["page_info"]
    click.echo(f"{len(found['problems'])} of {info['total_count']} problems", err=True)
    if info["has_next_page"]:
        click.echo(f"next page: --after {plain(str(info['end_cursor']))}", err=True)


@cli.command("doctor")
@as_json
def examine(as_json: bool) -> None:
    """Look for what is wrong with the installation; exits with 1 if something is."""
    mounted()
    facts = doctor.gather(current_app._get_current_object())  # type: ignore[attr-defined]
    findings = doctor.examine(facts)
    if as_json:
        stats = facts.stats and facts.stats.as_dict()
        echo_json({"findings": [asdict(one) for one in findings], "stats": stats})
    else:
        for one in findings:
            click.echo(plain(f"{one.severity:<8} {one.check}: {one.message}"))
    sys.exit(FAILED if any(one.severity == doctor.ERROR for one in findings) else 0)


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


@cli.command()
@click.option("--since", metavar="CURSOR", help="Go on where the last call ended.")
@click.option("--limit", type=click.IntRange(1, 1000), default=200, show_default=True)
@click.option("--collection", help="Only the artifacts of this collection.")
@as_json
@options
def changes(
    since: str | None,
    limit: int,
    collection: str | None,
    as_json: bool,
    api_url: str | None,
    token_file: Path | None,
) -> None:
    """List what happened to artifacts, in order; from the start, all that there are."""
    found = target(api_url, token_file).changes(since, limit, collection)
    if as_json:
        echo_json(found)
        return
    for one in found["changes"]:
        line = f"{one['at']}  {one['kind']:<8}  {one['uid']}  {one['artifact_id']}"
        click.echo(plain(f"{line}  {', '.join(one['fields'])}".rstrip()))
    when = "more" if found["has_more"] else "later"
    click.echo(plain(f"{when}: --since {found['next']}"), err=True)


@cli.command(with_appcontext=False)
@click.argument(
    "path", metavar="PATH...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)
@as_json
def lint(path: tuple[Path, ...], as_json: bool) -> None:
    """Check artifact files, or those below folders; needs no database. Exits with 1 on errors."""
    artifacts = 0
    problems: list[Problem] = []
    for given in path:
        number, found = _linted(given)
        artifacts += number
        problems += found
    problems.sort(key=lambda problem: (problem.path, problem.line or 0, problem.code))
    errors = sum(1 for problem in problems if problem.code.startswith("E_"))
    if as_json:
        echo_json(
            {
                "artifacts": artifacts,
                "errors": errors,
                "problems": [{**asdict(one), "hint": one.hint} for one in problems],
            }
        )
    else:
        for one in problems:
            click.echo(f"{plain(str(one))}\n    {one.hint}")
        click.echo(
            f"{artifacts} artifacts, {errors} errors, {len(problems) - errors} warnings",
            err=True,
        )
    sys.exit(FAILED if errors else 0)


def _linted(path: Path) -> tuple[int, list[Problem]]:
    """How many artifacts a folder or file holds, and what is wrong there; paths are from here."""
    if path.is_dir():
        manager, base = ArtifactManager(path), path
        scan = manager.scan()
        places, problems = scan.places, list(scan.problems)
    else:
        # What a file is, the folders above it tell: from here on, or all of them.
        file, here = path.resolve(), Path.cwd()
        root = here if file.is_relative_to(here) else Path(file.anchor)
        manager, base = ArtifactManager(root), Path() if root == here else root
        file = file.relative_to(root)
        above = file.parent
        while above.name.startswith("."):  # a plugin is what is around its .claude-plugin
            above = above.parent
        scan = manager.scan(walk(root, only="" if above == Path() else above.as_posix()))
        places = [place for place in scan.places if place.file == file.as_posix()]
        problems = [one for one in scan.problems if one.path == shown(file.as_posix())]
    for place in places:
        with suppress(VanishedError):
            artifact = manager.read(place)
            problems += [*artifact.warnings, *([artifact.error] if artifact.error else ())]
    return len(places), [one.at((base / one.path).as_posix()) for one in problems]


def _text(value: object) -> str:
    """A value of a field on one line."""
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
