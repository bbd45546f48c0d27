"""Table runs keep the options they ran with, so that a run can be done again as it was asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("table_runs") as table_runs:
        table_runs.add_column(sa.Column("options", sa.JSON(), nullable=True))
