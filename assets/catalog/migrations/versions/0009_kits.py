"""Runs of agent kits, and the outputs of their steps."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "kit_runs",
        sa.Column("run_id", sa.String(255), primary_key=True),
        sa.Column("kit", sa.String(63), nullable=False),
        sa.Column("definition", sa.JSON(), nullable=False),
        sa.Column("inputs", sa.JSON(), nullable=False),
        sa.Column("trigger", sa.String(63), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("workflow_id", sa.Text(), nullable=True),
        sa.Column("dagster_run_id", sa.String(255), nullable=True),
        sa.Column("waiting", sa.JSON(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
    )
    op.create_index("ix_kit_runs_kit_started_at", "kit_runs", ["kit", "started_at"])
    op.create_table(
        "kit_outputs",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("run_id", sa.String(255), nullable=False),
        sa.Column("step", sa.String(63), nullable=False),
        sa.Column("item", sa.Integer(), nullable=False),
        sa.Column("ok", sa.Boolean(), nullable=False),
        sa.Column("output", sa.JSON(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.Double(), nullable=False),
        sa.Column("stored_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("run_id", "step", "item"),
    )
