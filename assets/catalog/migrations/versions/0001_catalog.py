"""Connectors, pipelines, runs and table runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "connectors",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("type", sa.String(length=63), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("last_tested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_connectors")),
    )
    op.create_table(
        "runs",
        sa.Column("run_group", sa.String(length=255), nullable=False),
        sa.Column("connector", sa.String(length=63), nullable=False),
        sa.Column("pipeline", sa.String(length=63), nullable=True),
        sa.Column("trigger", sa.String(length=63), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=True),
        sa.Column("dagster_run_id", sa.String(length=255), nullable=True),
        sa.Column("tables", sa.JSON(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_group", name=op.f("pk_runs")),
    )
    op.create_index(
        "ix_runs_open",
        "runs",
        ["started_at"],
        unique=False,
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_index("ix_runs_pipeline_started_at", "runs", ["pipeline", "started_at"], unique=False)
    op.create_table(
        "table_runs",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_group", sa.String(length=255), nullable=False),
        sa.Column("connector", sa.String(length=63), nullable=False),
        sa.Column("table_name", sa.Text(), nullable=False),
        sa.Column("mode", sa.String(length=16), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("window_low", sa.Text(), nullable=True),
        sa.Column("window_high", sa.Text(), nullable=True),
        sa.Column("rows_read", sa.BigInteger(), nullable=False),
        sa.Column("rows_bronze", sa.BigInteger(), nullable=False),
        sa.Column("rows_silver", sa.BigInteger(), nullable=False),
        sa.Column("rows_deleted", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("equal", sa.Boolean(), nullable=True),
        sa.Column("watermark_before", sa.Text(), nullable=True),
        sa.Column("watermark_after", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_type", sa.String(length=255), nullable=True),
        sa.Column("workflow_id", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_table_runs")),
        sa.UniqueConstraint(
            "run_group", "connector", "table_name", name=op.f("uq_table_runs_run_group_connector_table_name")
        ),
    )
    op.create_index(
        "ix_table_runs_connector_table_name_started_at",
        "table_runs",
        ["connector", "table_name", "started_at"],
        unique=False,
    )
    op.create_index(
        "ix_table_runs_open",
        "table_runs",
        ["started_at"],
        unique=False,
        sqlite_where=sa.text("status = 'running'"),
        postgresql_where=sa.text("status = 'running'"),
    )
    op.create_table(
        "pipelines",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("connector", sa.String(length=63), nullable=False),
        sa.Column("tables", sa.JSON(), nullable=False),
        sa.Column("all_tables", sa.Boolean(), nullable=False),
        sa.Column("mode", sa.String(length=16), nullable=False),
        sa.Column("cursor", sa.Text(), nullable=True),
        sa.Column("key", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("deletes", sa.String(length=16), nullable=False),
        sa.Column("verify", sa.String(length=16), nullable=False),
        sa.Column("schedule_kind", sa.String(length=16), nullable=False),
        sa.Column("schedule_expression", sa.String(length=255), nullable=True),
        sa.Column("timezone", sa.String(length=63), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["connector"], ["connectors.name"], name=op.f("fk_pipelines_connector_connectors")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pipelines")),
    )
    op.create_index(op.f("ix_pipelines_connector"), "pipelines", ["connector"], unique=False)
