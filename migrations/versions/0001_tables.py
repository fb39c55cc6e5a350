"""Create the tables.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flask_artifact_cache import search
from flask_artifact_cache.models import (
    BigKey,
    ExactText,
    LongBinary,
    LongText,
    UtcDateTime,
    exact,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "artifact_cache_collection",
        sa.Column("id", exact(64), primary_key=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("stamp", sa.String(16), nullable=False),
        sa.Column("artifact_count", sa.Integer(), nullable=False),
        sa.Column("path_available", sa.Boolean(), nullable=False),
        sa.Column("gathers", sa.Boolean(), nullable=False),
        sa.Column("verified_at", UtcDateTime(), nullable=True),
        sa.Column("evidence", sa.String(32), nullable=True),
        sa.Column("rules", sa.String(32), nullable=True),
        sa.Column("problems", sa.JSON(), nullable=False),
        sa.Column("lease_holder", sa.String(64), nullable=True),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "artifact_cache_artifact",
        sa.Column("id", BigKey, primary_key=True),
        sa.Column("uid", exact(16), nullable=False),
        sa.Column("collection_id", exact(64), nullable=False),
        sa.Column("type", exact(16), nullable=False),
        sa.Column("name", LongText, nullable=False),
        sa.Column("path", LongText, nullable=False),
        sa.Column("description", LongText, nullable=True),
        sa.Column("author", LongText, nullable=True),
        sa.Column("license", LongText, nullable=True),
        sa.Column("version", LongText, nullable=True),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("tools", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("model", LongText, nullable=True),
        sa.Column("source", LongText, nullable=True),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("origin_source", LongText, nullable=True),
        sa.Column("version_spec", LongText, nullable=True),
        sa.Column("resolved_sha", LongText, nullable=True),
        sa.Column("resolved_version", LongText, nullable=True),
        sa.Column("plugin", LongText, nullable=True),
        sa.Column("secondary", sa.Boolean(), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=True),
        sa.Column("file_count", sa.Integer(), nullable=False),
        sa.Column("total_size", sa.BigInteger(), nullable=False),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("error", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("condition", sa.String(12), nullable=False),
        sa.Column("evidence", sa.String(32), nullable=True),
        sa.Column("alone", sa.Boolean(), nullable=False),
        sa.Column("synced_at", UtcDateTime(), nullable=True),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("payload", LongBinary, nullable=False),
        sa.Column("details", LongBinary, nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["artifact_cache_collection.id"],
            name="fk_artifact_cache_artifact_collection_id",
        ),
        sa.UniqueConstraint("uid", name="uq_artifact_cache_artifact_uid"),
    )
    op.create_index(
        "ix_artifact_cache_artifact_condition",
        "artifact_cache_artifact",
        ["collection_id", "condition", "synced_at"],
    )
    op.create_table(
        "artifact_cache_collection_artifact",
        sa.Column("artifact_id", BigKey, primary_key=True),
        sa.Column("collection_id", exact(64), primary_key=True),
        sa.Column("name_key", exact(120), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["artifact_cache_collection.id"],
            name="fk_artifact_cache_member_collection_id",
        ),
        sa.ForeignKeyConstraint(
            ["artifact_id"],
            ["artifact_cache_artifact.id"],
            name="fk_artifact_cache_member_artifact_id",
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_artifact_cache_member_name",
        "artifact_cache_collection_artifact",
        ["collection_id", "name_key", "artifact_id"],
    )
    op.create_index(
        "ix_artifact_cache_member_updated",
        "artifact_cache_collection_artifact",
        ["collection_id", "updated_at", "artifact_id"],
    )
    op.create_table(
        "artifact_cache_facet_value",
        sa.Column("id", BigKey, primary_key=True, autoincrement=False),
        sa.Column("collection_id", exact(64), nullable=False),
        sa.Column("facet", exact(8), nullable=False),
        sa.Column("value", exact(190), nullable=False),
        sa.Column("members", sa.Integer(), nullable=False),
    )
    op.create_index(
        "ix_artifact_cache_facet_value",
        "artifact_cache_facet_value",
        ["collection_id", "facet", "value"],
    )
    op.create_table(
        "artifact_cache_facet",
        sa.Column("value_id", BigKey, primary_key=True, autoincrement=False),
        sa.Column("name_key", exact(120), primary_key=True),
        sa.Column("artifact_id", BigKey, primary_key=True, autoincrement=False),
        sa.Column("label", LongText, nullable=True),
        sa.ForeignKeyConstraint(
            ["value_id"],
            ["artifact_cache_facet_value.id"],
            name="fk_artifact_cache_facet_value_id",
        ),
        sa.ForeignKeyConstraint(
            ["artifact_id"],
            ["artifact_cache_artifact.id"],
            name="fk_artifact_cache_facet_artifact_id",
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_artifact_cache_facet_artifact", "artifact_cache_facet", ["artifact_id"])
    op.create_table(
        "artifact_cache_search",
        sa.Column("artifact_id", BigKey, primary_key=True, autoincrement=False),
        sa.Column("name", ExactText, nullable=False),
        sa.Column("tags", ExactText, nullable=False),
        sa.Column("description", ExactText, nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"],
            ["artifact_cache_artifact.id"],
            name="fk_artifact_cache_search_artifact_id",
        ),
    )
    op.create_table(
        "artifact_cache_refresh_run",
        sa.Column("id", exact(32), primary_key=True),
        sa.Column("collection_id", exact(64), primary_key=True),
        sa.Column("request", sa.String(32), nullable=False),
        sa.Column("trigger", sa.String(16), nullable=False),
        sa.Column("filters", sa.JSON(), nullable=False),
        sa.Column("outcome", sa.String(20), nullable=False),
        sa.Column("joins", sa.Integer(), nullable=False),
        sa.Column("closed", sa.Boolean(), nullable=False),
        sa.Column("alive_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=False),
        sa.Column("created", sa.Integer(), nullable=False),
        sa.Column("updated", sa.Integer(), nullable=False),
        sa.Column("unchanged", sa.Integer(), nullable=False),
        sa.Column("removed", sa.Integer(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.Column("quarantined", sa.Integer(), nullable=False),
        sa.Column("withheld", sa.Integer(), nullable=False),
        sa.Column("error_count", sa.Integer(), nullable=False),
        sa.Column("errors", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["collection_id"],
            ["artifact_cache_collection.id"],
            name="fk_artifact_cache_run_collection_id",
        ),
    )
    op.create_index(
        "ix_artifact_cache_run_collection",
        "artifact_cache_refresh_run",
        ["collection_id", "started_at"],
    )
    op.create_index("ix_artifact_cache_run_request", "artifact_cache_refresh_run", ["request"])
    op.create_table(
        "artifact_cache_feed",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("epoch", sa.String(16), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("pruned", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "artifact_cache_change",
        sa.Column("position", BigKey, primary_key=True, autoincrement=False),
        sa.Column("collection_id", exact(64), nullable=False),
        sa.Column("uid", exact(16), nullable=False),
        sa.Column("artifact_id", LongText, nullable=False),
        sa.Column("path", LongText, nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
    )
    op.create_index(
        "ix_artifact_cache_change_collection",
        "artifact_cache_change",
        ["collection_id", "position"],
    )
    op.create_index(
        "ix_artifact_cache_change_artifact", "artifact_cache_change", ["uid", "position"]
    )
    for statement in search.index_statements(op.get_context().dialect.name):
        op.execute(statement)


def downgrade() -> None:
    for statement in search.drop_statements(op.get_context().dialect.name):
        op.execute(statement)
    for table in (
        "artifact_cache_change",
        "artifact_cache_feed",
        "artifact_cache_refresh_run",
        "artifact_cache_search",
        "artifact_cache_facet",
        "artifact_cache_facet_value",
        "artifact_cache_collection_artifact",
        "artifact_cache_artifact",
        "artifact_cache_collection",
    ):
        # One may be missing; then this is how to get it back.
        op.execute(f"DROP TABLE IF EXISTS {table}")
