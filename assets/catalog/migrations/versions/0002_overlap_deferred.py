"""Pipelines choose what overlaps do, and whether Dagster waits for their work."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("pipelines") as pipelines:
        pipelines.add_column(sa.Column("overlap", sa.String(length=16), nullable=False, server_default="skip"))
        pipelines.add_column(sa.Column("deferred", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("deferred", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index("ix_table_runs_completed_at", "table_runs", ["completed_at"])
