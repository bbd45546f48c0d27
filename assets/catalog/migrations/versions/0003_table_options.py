"""Pipelines keep how Silver is written, what drift does, which columns and rows are taken."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("pipelines") as pipelines:
        pipelines.add_column(sa.Column("options", sa.JSON(), nullable=False, server_default=sa.text("'{}'")))
