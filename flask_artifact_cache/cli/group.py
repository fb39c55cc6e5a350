"""The group of the commands: what goes wrong is one sentence and an exit code.

Exit codes: 0 ok, 1 some artifacts failed, 2 usage, 3 stopped by the mass-loss brake, 4 busy. 2 to 4
mean that no file was changed.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click
from alembic.util import CommandError
from flask.cli import AppGroup, ScriptInfo
from sqlalchemy.exc import DatabaseError, DBAPIError, SQLAlchemyError

from ..database import DOWN, schema_error
from ..errors import (
    AmbiguousIdError,
    ArtifactCacheError,
    BusyError,
    ConfigurationError,
    ForbiddenError,
    InvalidRequestError,
    MassLossError,
    NotPopulatedError,
    RateLimitedError,
    UnauthorizedError,
)
from .output import lines, plain

FAILED, USAGE, BRAKED, BUSY = 1, 2, 3, 4
_USAGE = (ConfigurationError, InvalidRequestError, UnauthorizedError, ForbiddenError)


class Group(AppGroup):
    """A group whose commands end with one sentence and an exit code, not with a traceback."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            with _said_once():
                return super().invoke(context)
        except SQLAlchemyError as error:
            # The application context of the command has ended with it.
            with context.ensure_object(ScriptInfo).load_app().app_context():
                known = schema_error(error)
            if known is not None:
                fail(known)
            # Anything else is a mistake of ours, and its traceback a help. SQLite says the plain
            # error of a file that is no database.
            if type(error) is not DatabaseError and not isinstance(error, DOWN):
                raise
            fail(_no_database(error))
        except (ArtifactCacheError, CommandError) as error:
            fail(error)


def _no_database(error: SQLAlchemyError) -> ArtifactCacheError:
    """What a database says, without the statement."""
    said: object = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        # The last of the arguments: PyMySQL has a number before it.
        said = error.orig.args[-1] if error.orig.args else error.orig
    first = (str(said).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    if "database is locked" in first:
        return BusyError("The database is locked by another process; try again.")
    text = f"The database does not answer as it should: {first}."
    return ArtifactCacheError(f"{text} Run 'flask artifact-cache doctor'.")


@contextmanager
def _said_once() -> Iterator[None]:
    """Keep the log's line of a refresh from between what the command says of it.

    Without any logging set up, Python prints a warning that finds no handler; this one takes it and
    does nothing. What handlers the host has set up are told as always.
    """
    refreshes, silent = logging.getLogger("flask_artifact_cache.refreshes"), logging.NullHandler()
    refreshes.addHandler(silent)
    try:
        yield
    finally:
        refreshes.removeHandler(silent)


def fail(error: Exception) -> NoReturn:
    """Say what is wrong, and end with the exit code of it."""
    text = str(error)
    # Another app may have said it.
    click.echo(f"Error: {lines(text)}", err=True)
    if isinstance(error, AmbiguousIdError):
        several = len({one.collection_id for one in error.candidates}) > 1
        for one in error.candidates:
            where = f"  in '{plain(one.collection_id)}'" if several else ""
            click.echo(f"  {plain(one.uid)}  {plain(one.path)}{where}", err=True)
    if isinstance(error, InvalidRequestError):
        for field, message in error.errors:
            if message != text:
                click.echo(f"  {plain(field)}: {plain(message)}", err=True)
    sys.exit(exit_code(error))


def exit_code(error: Exception) -> int:
    """What a command ends with after an error."""
    if isinstance(error, NotPopulatedError):
        return FAILED
    if isinstance(error, (BusyError, RateLimitedError)):
        return BUSY
    if isinstance(error, MassLossError):
        return BRAKED
    if isinstance(error, _USAGE):
        return USAGE
    return FAILED


@click.group("artifact-cache", cls=Group)
def cli() -> None:
    """Keep the metadata of artifact files in the database."""
