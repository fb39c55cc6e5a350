"""The commands for our tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from alembic import command

from .. import database
from ..errors import ConfigurationError
from .group import cli
from .host import mounted


@cli.group("db")
def db_group() -> None:
    """Create and change the tables of the cache."""


@contextmanager
def _alembic(write: bool) -> Iterator[Any]:
    """An Alembic configuration on a connection of the host's engine."""
    host = mounted()
    if host.settings.migrations == "host":
        raise ConfigurationError(
            "ARTIFACT_CACHE_MIGRATIONS is 'host': the app's own migrations own the tables;"
            " run 'flask db migrate' and 'flask db upgrade'"
        )
    engine = database.engine_of(host.db)
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
                f"the tables are at {found or 'no revision'}, not at {database.head()}."
                f" {database.UPGRADE}"
            )
        command.check(config)


def _echo_current(config: Any) -> None:
    found = database.current(config.attributes["connection"])
    click.echo(f"The tables are at {found or 'no revision'}; the newest is {database.head()}.")
