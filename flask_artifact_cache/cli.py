"""``flask artifact-cache``: each command calls what a program would call, and prints it.

Exit codes: 0 ok, 1 some artifacts failed, 2 usage, 3 stopped by the mass-loss brake, 4 busy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from alembic import command
from alembic.util import CommandError
from flask import current_app
from flask.cli import AppGroup, ScriptInfo
from sqlalchemy.exc import SQLAlchemyError

from . import database, freshness
from .database import schema_error
from .errors import (
    ArtifactCacheError,
    BusyError,
    ConfigurationError,
    InvalidRequestError,
    MassLossError,
    NotPopulatedError,
)
from .files.artifact import TYPES
from .files.manager import ArtifactManager
from .files.problems import Problem
from .queries import Filters, Listing
from .refresh.report import Report
from .refresh.run import Progress
from .service import DEFAULT, ArtifactCacheService
from .statements import SORTS

FAILED, USAGE, BRAKED, BUSY = 1, 2, 3, 4


class Group(AppGroup):
    """A group whose commands end with one sentence and an exit code, not with a traceback."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except SQLAlchemyError as error:
            # The application context of the command has ended with it.
            with context.ensure_object(ScriptInfo).load_app().app_context():
                known = schema_error(error)
            if known is None:
                raise
            _fail(known)
        except (ArtifactCacheError, CommandError) as error:
            _fail(error)


def _fail(error: Exception) -> None:
    click.echo(f"Error: {error}", err=True)
    for uid, path in getattr(error, "candidates", ()):
        click.echo(f"  {uid}  {_plain(path)}", err=True)
    sys.exit(_exit_code(error))


def _exit_code(error: Exception) -> int:
    if isinstance(error, BusyError) and not isinstance(error, NotPopulatedError):
        return BUSY
    if isinstance(error, MassLossError):
        return BRAKED
    if isinstance(error, (ConfigurationError, InvalidRequestError)):
        return USAGE
    return FAILED


@click.group("artifact-cache", cls=Group)
def cli() -> None:
    """Keep the metadata of artifact files in the database."""


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


# --- migrations --------------------------------------------------------------------------------


@cli.group("db")
def db_group() -> None:
    """Create and change the tables of the cache."""


@contextmanager
def _alembic(write: bool) -> Iterator[Any]:
    """An Alembic configuration on a connection of the host's engine."""
    mounted = _mounted()
    if mounted.settings.migrations == "host":
        raise ConfigurationError(
            "ARTIFACT_CACHE_MIGRATIONS is 'host': the app's own migrations own the tables;"
            " run 'flask db migrate' and 'flask db upgrade'"
        )
    engine = database.engine_of(mounted.db)
    with database.migrating(engine) if write else engine.connect() as connection:
        yield database.alembic_config(connection)


@db_group.command()
@click.argument("revision", default="head")
def upgrade(revision: str) -> None:
    """Bring the tables to REVISION, by default the newest."""
    with _alembic(write=True) as config:
        command.upgrade(config, revision)
        _echo_current(config)


@db_group.command()
@click.argument("revision")
def downgrade(revision: str) -> None:
    """Take the tables back to REVISION; 'base' drops them."""
    with _alembic(write=True) as config:
        command.downgrade(config, revision)
        _echo_current(config)


@db_group.command()
def current() -> None:
    """Print the revision of the tables, and the newest one."""
    with _alembic(write=False) as config:
        _echo_current(config)


@db_group.command()
def check() -> None:
    """Fail unless the tables are what this version expects."""
    with _alembic(write=False) as config:
        found = database.current(config.attributes["connection"])
        if found != database.head():
            raise ConfigurationError(
                f"the tables are at {found or 'no revision'}, not at {database.head()};"
                f" {database.UPGRADE}"
            )
        command.check(config)


def _echo_current(config: Any) -> None:
    found = database.current(config.attributes["connection"])
    click.echo(f"The tables are at {found or 'no revision'}; the newest is {database.head()}.")


# --- files to rows -----------------------------------------------------------------------------


@cli.command()
@click.argument("collections", nargs=-1, metavar="[COLLECTION]...")
@click.option("--dry-run", is_flag=True, help="Say what would change; write nothing.")
@click.option("--confirm", metavar="ID", help="Let the removals of an earlier run happen.")
@as_json
def populate(
    collections: tuple[str, ...], dry_run: bool, confirm: str | None, as_json: bool
) -> None:
    """Read every artifact of the collections, by default of all, into the cache."""
    service = _service()
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
            with _progress(collection_id, hidden=as_json) as progress:
                reports.append(
                    service.populate(
                        collection_id, confirm=confirm, dry_run=dry_run, progress=progress
                    )
                )
        except ArtifactCacheError as error:
            failures.append((collection_id, error))
    if as_json:
        _echo_json(
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
    codes = [_exit_code(error) for _, error in failures]
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
        click.echo(f"  {_problem(error)}", err=True)
    try:
        report.raise_if_withheld()
    except MassLossError as error:
        click.echo(f"  {error}", err=True)


@contextmanager
def _progress(collection_id: str, hidden: bool) -> Iterator[Progress | None]:
    """A progress bar on a terminal; nothing elsewhere."""
    if hidden or not sys.stderr.isatty():
        yield None
        return
    with click.progressbar(length=1, label=collection_id, file=sys.stderr) as bar:

        def progress(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield progress


# --- reading -----------------------------------------------------------------------------------


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
    service = _service()
    listing = Listing(Filters.of(filters, q), sort, limit, after)
    found = service.listing(_collection(service, collection), listing)
    page = json.loads(found.data)
    if as_json:
        _echo_json(page)
        return
    for item in page["items"]:
        summary = (item["description"] or "").split("\n", 1)[0]
        line = f"{item['uid']}  {item['state']:<11} {item['id']}"
        click.echo(_plain(f"{line}  {summary}"[:200]))
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
    service = _service()
    found = service.get(_collection(service, collection), artifact_id)
    if as_json:
        _echo_json(found)
        return
    for name, value in found.items():
        if name in ("warnings", "error") or value in (None, [], {}):
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        click.echo(f"{name}: {_plain(text)}")
    for problem in (*found["warnings"], *([found["error"]] if found["error"] else ())):
        click.echo(f"problem: {_problem(problem)}")


@cli.command()
@as_json
def status(as_json: bool) -> None:
    """Show every collection with its counts."""
    collections = _service().status()
    if as_json:
        _echo_json({"collections": collections})
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
        for problem in one["problems"]:
            click.echo(f"  {_problem(problem)}")


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
        _echo_json(
            {
                "artifacts": len(scan.places),
                "errors": errors,
                "problems": [{**asdict(one), "hint": one.hint} for one in problems],
            }
        )
    else:
        for problem in problems:
            click.echo(f"{_plain(str(problem))}\n    {problem.hint}")
        click.echo(
            f"{len(scan.places)} artifacts, {errors} errors, {len(problems) - errors} warnings",
            err=True,
        )
    sys.exit(FAILED if errors else 0)


# --- parts -------------------------------------------------------------------------------------


def _mounted() -> Any:
    mounted = current_app.extensions.get("artifact_cache")
    if mounted is None:
        raise ConfigurationError("this app has no artifact cache: call ArtifactCache(app, db)")
    return mounted


def _service() -> ArtifactCacheService:
    service: ArtifactCacheService = _mounted().service
    return service


def _collection(service: ArtifactCacheService, given: str | None) -> str:
    """The collection that is meant: the one given, the only one, or ``default``."""
    if given is not None:
        return given
    ids = sorted(one["id"] for one in service.collection_list())
    if len(ids) != 1 and DEFAULT not in ids:
        raise ConfigurationError(f"say which collection: {', '.join(ids) or 'none is configured'}")
    return ids[0] if len(ids) == 1 else DEFAULT


def _echo_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=True, indent=2, default=str))


def _plain(text: str) -> str:
    """Text of a file on one line, without what could steer a terminal."""
    return "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)


def _problem(problem: dict[str, Any]) -> str:
    place = (problem.get("path"), problem.get("line"), problem.get("column"))
    where = ":".join(str(part) for part in place if part)
    return _plain(f"{where}: {problem['code']} {problem['message']}")
