"""Runs our migrations: on our tables, with our version table, in the host's database."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from flask import current_app
from sqlalchemy import Connection

from flask_artifact_cache.database import VERSION, VERSION_TABLE, engine_of, migrating
from flask_artifact_cache.models import Base, UtcDateTime
from flask_artifact_cache.search import GIN_INDEX


def include_name(name: str | None, type_: str, _: Any) -> bool:
    """Look at our tables alone; the index that search.py makes is its own affair."""
    if type_ == "table":
        return name in Base.metadata.tables
    return name != GIN_INDEX


def render_item(type_: str, item: Any, autogenerate: AutogenContext) -> str | Literal[False]:
    """Write a type of our own into a new revision together with its import."""
    if type_ == "type" and isinstance(item, UtcDateTime):
        autogenerate.imports.add("from flask_artifact_cache.models import UtcDateTime")
        return "UtcDateTime()"
    return False


def run(connection: Connection) -> None:
    """Apply what the command asks for."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        include_name=include_name,
        render_item=render_item,
        compare_type=True,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()
        if not context.get_context().get_current_heads():
            # After 'downgrade base' nothing of ours is left.
            VERSION.drop(connection, checkfirst=True)


if context.is_offline_mode():
    context.configure(
        dialect_name=engine_of(current_app.extensions["sqlalchemy"]).dialect.name,
        target_metadata=Base.metadata,
        version_table=VERSION_TABLE,
        literal_binds=True,
    )
    with context.begin_transaction():
        context.run_migrations()
elif (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    # Called by Flask-Migrate: 'flask db upgrade --directory ...'.
    with migrating(engine_of(current_app.extensions["sqlalchemy"])) as opened:
        run(opened)
